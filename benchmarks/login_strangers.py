"""Can a stranger tell by the clock whether an address has an account?

Three kinds of attempts, at random among each other: addresses without an account, wrong passwords of accounts, and
addresses without an account once more. The first and the last are the same thing, so the difference of their medians is
what chance alone does: the control.

They come steadily, each as soon as one of 32 has its answer, or in bursts of 32 that start together. A burst shows in
which order the work is done, and not only how much of it there is: who queues first for the processor is done first.
"""

from __future__ import annotations

import asyncio
import gc
import random
import statistics
import sys
import time
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Final

from benchmarks.login_world import LoginWorld, known
from benchmarks.part import Options, Part
from benchmarks.table import Verdict, figure, render, trust
from tenantproxy import Router
from tenantproxy.errors import InvalidCredentials

__all__ = ["ATTEMPTS", "run"]

ATTEMPTS: Final = 1000  # of each kind
AT_ONCE: Final = 32
LIMIT_PERCENT: Final = 5.0

_MAIN: Final = "strangers_main"
_WRONG: Final = "not the password of any user"
_PAD_SECONDS: Final = 0.25  # the default
_PATIENCE_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Mode:
    """How login is configured, and how attempts arrive."""

    fan_out: bool
    pad_to: float
    in_bursts: bool

    @property
    def name(self) -> str:
        """As the table calls it."""
        search = "with fan-out" if self.fan_out else "directory alone"
        padding = "on" if self.pad_to else "off"
        return f"{search}, padding {padding}, {'in bursts' if self.in_bursts else 'steady'}"


MODES: Final = tuple(
    Mode(fan_out=fan_out, pad_to=pad_to, in_bursts=in_bursts)
    for fan_out in (False, True)
    for pad_to in (0.0, _PAD_SECONDS)
    for in_bursts in (False, True)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """Seconds of each attempt, by kind."""

    unknown: Sequence[float]
    wrong: Sequence[float]
    control: Sequence[float]


async def run(world: LoginWorld, options: Options) -> Part:
    """Each mode by itself. Every attempt is another address, so none profits from an earlier one."""
    await world.add_main(_MAIN, world.databases)
    count = min(max(100, round(ATTEMPTS * options.scale)), world.people * len(world.databases))
    rows: list[tuple[str, ...]] = []
    verdicts: list[Verdict] = []
    data: dict[str, object] = {}
    for mode in MODES:
        print(f"{mode.name} ...", file=sys.stderr, flush=True)  # each takes minutes
        times = await _attempts(world, mode, count)
        off, noise = _apart(times.unknown, times.wrong), _apart(times.unknown, times.control)
        told = told_apart(times.unknown, times.wrong)
        medians = {kind: statistics.median(getattr(times, kind)) * 1e3 for kind in ("unknown", "wrong", "control")}
        rows.append(
            (mode.name, *map(figure, medians.values()), f"{off:.2f} %", f"{noise:.2f} %", f"{100 * told:.1f} %")
        )
        data[mode.name] = {"median_ms": medians, "apart_percent": off, "control_percent": noise, "told_apart": told}
        verdicts += _verdicts(mode, off, noise)
    head = (
        f"median of {count}, ms", "unknown", "wrong password", "unknown again", "apart", "by chance", "guessed right",
    )  # fmt: skip
    return Part(
        title=f"Unknown address against wrong password, {AT_ONCE} at a time, {len(world.databases)} databases",
        text=f"{render(head, rows)}\n\nGuessed right: how often the slower of a pair, one of each kind, is the same"
        " kind; 50 % is a coin.",
        data={"attempts": count, "modes": data},
        verdicts=tuple(verdicts),
    )


def _verdicts(mode: Mode, off: float, noise: float) -> tuple[Verdict, ...]:
    def verdict(target: str, measured: float, *, control: bool) -> Verdict:
        return Verdict(
            target=f"{mode.name}: {target}",
            wanted=f"<= {LIMIT_PERCENT:g} %",
            measured=f"{measured:.2f} %",
            met=measured <= LIMIT_PERCENT,
            control=control,
        )

    return trust(
        (
            verdict("medians of unknown address and wrong password", off, control=False),
            verdict("medians of unknown address twice", noise, control=True),
        )
    )


async def _attempts(world: LoginWorld, mode: Mode, count: int) -> Times:
    router = world.router(_MAIN, fan_out=mode.fan_out, pad_to=mode.pad_to, fan_out_timeout=_PATIENCE_SECONDS)
    async with router:
        warm = 2 * len(world.databases)
        await _all(router, [("warm", known(tenant, 0).email) for tenant in world.databases] * 2)
        accounts = [known(tenant, number).email for number in range(world.people) for tenant in world.databases]
        asked = [("wrong", email) for email in accounts[:count]]
        asked += [("unknown", f"unknown-{number}@nowhere.example") for number in range(count)]
        asked += [("control", f"control-{number}@nowhere.example") for number in range(count)]
        random.shuffle(asked)
        gc.collect()
        taken = await _all(router, asked, in_bursts=mode.in_bursts)
        _check(router, len(asked) + warm, mode, len(world.databases))
    return Times(unknown=taken["unknown"], wrong=taken["wrong"], control=taken["control"])


async def _all(router: Router, asked: Sequence[tuple[str, str]], *, in_bursts: bool = False) -> dict[str, list[float]]:
    """Seconds of all these attempts, by kind."""
    taken: dict[str, list[float]] = {}

    async def client(attempts: Iterable[tuple[int, tuple[str, str]]]) -> None:
        for number, (kind, email) in attempts:
            address = f"10.0.{number // 250 % 250}.{number % 250}"
            taken.setdefault(kind, []).append(await _refused(router, email, address))

    left = enumerate(asked)
    while batch := list(islice(left, AT_ONCE)):
        # In bursts each has one attempt of a batch; steadily, all take theirs from what is left.
        shares = [[attempt] if in_bursts else chain([attempt], left) for attempt in batch]
        async with asyncio.TaskGroup() as group:
            for share in shares:
                group.create_task(client(share))
    return taken


async def _refused(router: Router, email: str, address: str) -> float:
    start = time.perf_counter()
    try:
        await router.login(email, _WRONG, address=address)
    except InvalidCredentials:
        return time.perf_counter() - start
    raise AssertionError(f"{email} logged in with a wrong password")


def _check(router: Router, attempts: int, mode: Mode, databases: int) -> None:
    counts = router.login_counts
    refused = 0 if counts is None else counts.results["refused"]
    if counts is None or refused != attempts:
        raise AssertionError(f"{refused} of {attempts} were refused: this measures something else")
    if bool(counts.searched.total) != (mode.fan_out and databases > 1):
        raise AssertionError(f"{counts.searched.total:.0f} databases were searched {mode.name}")


def _apart(one: Sequence[float], other: Sequence[float]) -> float:
    """Percent by which the medians differ."""
    return abs(statistics.median(one) / statistics.median(other) - 1) * 100


def told_apart(one: Sequence[float], other: Sequence[float]) -> float:
    """How often a pair of both is told apart by which took longer, from 0.5, a coin, to 1."""
    ranked = sorted(other)
    slower = sum((bisect_left(ranked, value) + bisect_right(ranked, value)) / 2 for value in one)
    share = slower / (len(one) * len(other))
    return max(share, 1 - share)
