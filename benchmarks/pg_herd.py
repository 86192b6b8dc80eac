"""What do clients at work notice of a thousand connections that ask for TLS and shake hands, all at once?

The load is a pace and not a loop: a transaction that would begin while another one is late counts from when it was due.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from benchmarks.measure import Spread, percentile
from benchmarks.part import Options, Part
from benchmarks.pg_process import cpu_seconds
from benchmarks.pg_rounds import unmeasured
from benchmarks.pg_targets import OURS, PGBOUNCER, Target, open_targets
from benchmarks.pg_tls import system_pgbench
from benchmarks.pg_world import DATABASE, PgWorld
from benchmarks.table import Verdict, figure, render, spread

__all__ = ["p99_between", "run"]

_HERD: Final = 1000
_CLIENTS: Final = 8
_PACE: Final = 1000  # transactions a second of all of them
_LONG: Final = 60  # seconds: pgbench is ended when the herd is gone
_PATIENCE: Final = 60.0
_QUIET: Final = 1.0  # seconds before the herd, whose p99 is compared


@dataclass(frozen=True, slots=True, kw_only=True)
class _Herd:
    """One round: the p99 of those at work before and during the herd, in milliseconds, and how long it took."""

    before_ms: float
    during_ms: float
    seconds: float
    cpu_us: float  # of the proxy, for each handshake, with what it did for those at work


async def run(world: PgWorld, options: Options) -> Part:
    """Each proxy in each round. Raises RuntimeError where a handshake or a transaction fails."""
    program = system_pgbench()
    async with open_targets(world, tls=True) as targets:
        series: dict[str, list[_Herd]] = {each.name: [] for each in targets.proxies}
        for number in range(options.rounds):
            for target in targets.proxies if number % 2 == 0 else reversed(targets.proxies):
                series[target.name].append(await _round(program, target))
    head = ("", "p99 of those at work before, ms", "during, ms", "the herd took, s", "CPU us for each of it")
    rows = [
        (name, *(spread(Spread.of(getattr(one, key) for one in found)) for key in _Herd.__slots__))
        for name, found in series.items()
    ]
    return Part(
        title=f"{_HERD:,} connections that shake hands at once (TLS 1.3, P-256), {_CLIENTS} clients at work",
        text=render(head, rows),
        data={name: [asdict(one) for one in found] for name, found in series.items()},
        verdicts=tuple(_verdicts(series)),
    )


def _verdicts(series: dict[str, list[_Herd]]) -> Iterator[Verdict]:
    target = f"p99 of those at work during {_HERD:,} handshakes against PgBouncer's"
    if PGBOUNCER not in series:
        yield unmeasured(target, "<= 1x")
        return
    ours, peer = (Spread.of(one.during_ms for one in series[name]) for name in (OURS, PGBOUNCER))
    yield Verdict(
        target=target,
        wanted=f"<= 1x = {figure(peer.median)} ms",
        measured=f"{spread(ours)} ms",
        met=ours.median <= peer.median,
    )


async def _round(program: Path, target: Target) -> _Herd:
    with tempfile.TemporaryDirectory(prefix="tenantproxy-bench-") as folder:
        command = [str(program), "--no-vacuum", "--select-only", f"--client={_CLIENTS}", f"--rate={_PACE}"]
        command += [f"--time={_LONG}", "--log", f"--log-prefix={folder}/log"]
        work = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE, env={**os.environ, **target.environment(DATABASE)},
        )  # fmt: skip
        try:
            await _working(work, folder)
            await asyncio.sleep(2 * _QUIET)
            begun, herd, cpu = await _herd(target)
            ended = begun + herd["seconds"]
            await _logged(folder, ended)
        finally:
            if work.returncode is None:
                work.terminate()
                await work.wait()
        lines = _log(folder)
    return _Herd(
        before_ms=p99_between(lines, begun - _QUIET, begun),
        during_ms=p99_between(lines, begun, ended),
        seconds=herd["seconds"],
        cpu_us=cpu / herd["done"] * 1e6,
    )


async def _working(work: asyncio.subprocess.Process, folder: str) -> None:
    """Returns when it has logged a transaction. Raises RuntimeError with what pgbench said."""
    until = time.monotonic() + _PATIENCE
    while not any(entry.stat().st_size for entry in os.scandir(folder)):
        if work.returncode is not None or time.monotonic() > until:
            said = await work.stderr.read() if work.stderr is not None and work.returncode is not None else b""
            raise RuntimeError(f"pgbench does nothing: {said.decode(errors='replace')[-1000:]}")
        await asyncio.sleep(0.05)


def _log(folder: str) -> list[str]:
    (found,) = Path(folder).iterdir()  # of one thread
    return found.read_text().splitlines()


async def _logged(folder: str, moment: float) -> None:
    """Returns when the log, which is written in blocks, goes on beyond `moment`."""
    async with asyncio.timeout(_PATIENCE):
        while _ended_at(_log(folder)[-2]) <= moment:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


def _ended_at(line: str) -> float:
    fields = line.split()
    return int(fields[4]) + int(fields[5]) / 1e6


async def _herd(target: Target) -> tuple[float, dict[str, float], float]:
    """When it began, what it says of itself, and the CPU that the proxy used meanwhile."""
    given = json.dumps({"port": target.port, "resumes": False, "seconds": 0, "at": _HERD})
    before = 0.0 if target.pid is None else cpu_seconds(target.pid)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.pg_tls_client", given,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(_PATIENCE):
        out, err = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"a handshake failed at {target.name}: {err.decode(errors='replace')[-1000:]}")
    said = json.loads(out)
    return said["begun_at"], said, (0.0 if target.pid is None else cpu_seconds(target.pid) - before)


def p99_between(lines: list[str], begun: float, ended: float) -> float:
    """Of the transactions in pgbench's log that ended between two moments of the wall clock, in milliseconds.

    Their lag behind when they were due is part of their time. Raises ValueError for none.
    """
    complete = lines[:-1]  # the last one may be cut off
    taken = [int(line.split()[2]) / 1e3 for line in complete if begun <= _ended_at(line) <= ended]
    if not taken:
        raise ValueError("no transaction ended between these moments")
    return percentile(taken, 99)
