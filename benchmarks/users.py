"""How is it as users run it? No process is bound to a processor, tasks outnumber connections, and tasks may think.

Busy: sixteen tasks share ten connections in a closed loop, so that six of them always wait for one. Thinking: the same
with a pause between two calls of a task, so that connections lie idle. What the scheduler makes of two processes on a
few processors is part of it: the CPU of client and server together tells what a call costs wherever it runs.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from math import isnan
from pathlib import Path
from typing import Final

from benchmarks.measure import WARM_CALLS, Spread, Subject, percentile
from benchmarks.ours import OursInTransactions, database_subject
from benchmarks.part import Options, Part
from benchmarks.peers import PlainPool, TransactionsOfPool
from benchmarks.table import Verdict, at_least, at_most, figure, ratio, render, spread
from benchmarks.world import SIZE, World

__all__ = ["Run", "run", "run_for"]

_THINK: Final = 0.004  # seconds; a few thousand calls a second, which leaves processors idle
_CASES: Final = {"busy": 0.0, "thinking": _THINK}
_TITLES: Final = {"busy": "In a closed loop", "thinking": f"{_THINK * 1e3:g} ms between two calls of a task"}
_SINGLE: Final[dict[str, Callable[[World], Subject]]] = {
    "pool": PlainPool,
    "always": lambda world: database_subject(world, "always"),
    "kept": lambda world: database_subject(world, "on_tenant_change"),
}
_BLOCKS: Final[dict[str, Callable[[World], Subject]]] = {
    "pool, transactions": TransactionsOfPool,
    "always, transactions": lambda world: OursInTransactions(world, "always"),
    "kept, transactions": lambda world: OursInTransactions(world, "on_tenant_change"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One subject for some time. `server_us` is nan where the server's CPU cannot be read."""

    per_second: float
    p50_us: float
    p99_us: float
    client_us: float  # CPU for each call
    server_us: float


async def run(world: World, options: Options) -> Part:
    """All subjects in turn, round after round, alternating forwards and backwards; the medians are judged."""
    makers = {**_SINGLE, **_BLOCKS}
    measured: dict[str, dict[str, list[Run]]] = {case: {key: [] for key in makers} for case in _CASES}
    async with AsyncExitStack() as stack:
        subjects = {key: make(world) for key, make in makers.items()}
        for subject in subjects.values():
            stack.push_async_callback(subject.close)
            await subject.open(SIZE)
        for number in range(options.rounds):
            for case, think in _CASES.items():
                for key in subjects if number % 2 == 0 else reversed(subjects):
                    measured[case][key].append(await run_for(world, subjects[key], options.seconds, think))
    names = {key: subject.name for key, subject in subjects.items()}
    return Part(
        title=f"As users run it: {SIZE} connections, 16 tasks, no process bound to a processor",
        text="\n\n".join(_report(case, names, runs) for case, runs in measured.items()),
        data={
            case: {key: [asdict(one) for one in all_] for key, all_ in runs.items()} for case, runs in measured.items()
        },
        verdicts=tuple(one for case, runs in measured.items() for one in _verdicts(case, runs)),
    )


async def run_for(world: World, subject: Subject, seconds: float, think: float = 0.0) -> Run:
    """All tasks of the subject call it for `seconds`, with a pause of `think` seconds between two calls of a task."""
    numbers = itertools.count()
    for _ in range(WARM_CALLS):
        await subject.call(0, next(numbers))
    taken: list[float] = []
    server, client, start = _server_cpu(world), time.process_time(), time.perf_counter()
    until = start + seconds

    async def task(index: int) -> None:
        await asyncio.sleep(think * index / subject.tasks)
        while (before := time.perf_counter()) < until:
            await subject.call(index, next(numbers))
            taken.append(time.perf_counter() - before)
            if think:
                await asyncio.sleep(think)

    async with asyncio.TaskGroup() as group:
        for index in range(subject.tasks):
            group.create_task(task(index))
    spent, calls = time.perf_counter() - start, len(taken)
    return Run(
        per_second=calls / spent,
        p50_us=percentile(taken, 50) * 1e6,
        p99_us=percentile(taken, 99) * 1e6,
        client_us=(time.process_time() - client) / calls * 1e6,
        server_us=(_server_cpu(world) - server) / calls * 1e6,
    )


def _server_cpu(world: World) -> float:
    """Seconds of CPU that the backends have used so far, those that ended aside; nan where it cannot be read."""
    if sys.platform != "linux":
        return float("nan")
    postmaster = world.server.postmaster_pid
    children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
    try:
        return sum(int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) for pid in children) / 1e9
    except OSError:  # one ended meanwhile, or the kernel does not tell
        return float("nan")


def _base(key: str) -> str:
    return "pool" if key in _SINGLE else "pool, transactions"


def _against(runs: dict[str, list[Run]], key: str, what: Callable[[Run], float]) -> Spread:
    """Each round's own ratio: what slows the machine for a while slows both."""
    pairs = zip(runs[key], runs[_base(key)], strict=True)
    return _known(what(ours) / what(theirs) for ours, theirs in pairs)


def _known(values: Iterable[float]) -> Spread:
    """Of the rounds whose value is known: in some the server's CPU cannot be read."""
    values = list(values)
    return Spread.of([value for value in values if not isnan(value)] or values)


def _median(runs: list[Run], what: Callable[[Run], float]) -> str:
    return figure(_known(map(what, runs)).median)


def _report(case: str, names: dict[str, str], runs: dict[str, list[Run]]) -> str:
    head = ("subject", "calls/s", "x pool", "p50 us", "x pool", "p99 us", "client us", "server us", "CPU x pool")
    rows = [
        (
            names[key],
            spread(Spread.of(one.per_second for one in all_)),
            ratio(_against(runs, key, lambda one: one.per_second)),
            _median(all_, lambda one: one.p50_us),
            ratio(_against(runs, key, lambda one: one.p50_us)),
            _median(all_, lambda one: one.p99_us),
            _median(all_, lambda one: one.client_us),
            _median(all_, lambda one: one.server_us),
            ratio(_against(runs, key, lambda one: one.client_us + one.server_us)),
        )
        for key, all_ in runs.items()
    ]
    return f"### {_TITLES[case]}\n\n{render(head, rows)}"


def _verdicts(case: str, runs: dict[str, list[Run]]) -> Iterator[Verdict]:
    where = "unpinned, database, reset always"
    if case == "busy":
        yield at_least(
            f"{where}: throughput of asyncpg.Pool", 1.0, _against(runs, "always", lambda one: one.per_second)
        )
    else:
        slower = _against(runs, "always", lambda one: one.p50_us)
        yield at_most(f"{where}: p50 with think time", 0.65, slower, "x", kind="ratio")
