"""What does pgbench measure of a target? Transactions per second, and the CPU that a proxy takes for each.

The first second is not counted: in it pgbench connects (sixteen times SCRAM), and servers prepare and fill caches.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.pg_process import cpu_seconds
from benchmarks.pg_targets import Target

__all__ = ["CLIENTS", "Bench", "Report", "read_report"]

CLIENTS: Final = 16
_WARM_SECONDS: Final = 1
_PATIENCE: Final = 60.0  # beyond what it was told to take

_TOTAL: Final = re.compile(r"number of transactions actually processed: (\d+)")
_FAILED: Final = re.compile(r"number of failed transactions: (\d+)")
_TPS: Final = re.compile(r"^tps = ([\d.]+) \(", re.MULTILINE)
_LATENCY: Final = re.compile(r"latency average = ([\d.]+) ms")
_PROGRESS: Final = re.compile(r"progress: ([\d.]+) s, ([\d.]+) tps")


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What pgbench printed at its end."""

    transactions: int
    failed: int
    per_second: float
    latency_ms: float

    @property
    def seconds(self) -> float:
        """How long it took, without connecting where connections stay."""
        return self.transactions / self.per_second


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Of the seconds that count. `cpu_us`: of the proxy, for each transaction; 0 without a proxy."""

    per_second: float
    cpu_us: float
    latency_ms: float


def read_report(text: str) -> Report:
    """Raises ValueError for a text that is no report of a run in which something was done."""
    total, tps, latency = _TOTAL.search(text), _TPS.search(text), _LATENCY.search(text)
    if total is None or tps is None or latency is None or not int(total[1]):
        raise ValueError(f"this is no report of pgbench: {text[-500:]!r}")
    failed = _FAILED.search(text)
    return Report(
        transactions=int(total[1]),
        failed=int(failed[1]) if failed is not None else 0,
        per_second=float(tps[1]),
        latency_ms=float(latency[1]),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """One way to run pgbench: `arguments` say what it does. Raises RuntimeError when it or a transaction fails."""

    program: Path
    arguments: Sequence[str]
    seconds: int
    threads: int = 1
    clients: int = CLIENTS

    async def run(self, target: Target, database: str) -> Figures:
        """All clients in a closed loop against `database` of `target`."""
        command = [str(self.program), "--no-vacuum", f"--client={self.clients}", f"--jobs={self.threads}"]
        command += [f"--time={self.seconds + _WARM_SECONDS}", f"--progress={_WARM_SECONDS}", *self.arguments]
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, **target.environment(database)},
        )
        try:
            async with asyncio.timeout(self.seconds + _WARM_SECONDS + _PATIENCE):
                return await _follow(process, target)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


async def _follow(process: asyncio.subprocess.Process, target: Target) -> Figures:
    assert process.stdout is not None
    assert process.stderr is not None
    said: list[str] = []
    warm: tuple[float, float] | None = None  # what was done in the first second, and how long that was
    cpu_warm = 0.0
    while line := (await process.stderr.readline()).decode(errors="replace"):
        progress = _PROGRESS.match(line)
        if progress is None:
            said.append(line)
        elif warm is None:
            cpu_warm = _cpu(target)
            warm = float(progress[1]) * float(progress[2]), float(progress[1])
    cpu = _cpu(target) - cpu_warm
    text = (await process.stdout.read()).decode(errors="replace")
    if await process.wait() != 0 or warm is None:
        raise RuntimeError(f"pgbench failed at {target.name}: {''.join(said)[-1000:].strip() or text[-500:]}")
    report = read_report(text)
    if report.failed:
        raise RuntimeError(f"{report.failed} transactions failed at {target.name}: {''.join(said)[-1000:].strip()}")
    done = report.transactions - warm[0]
    if done < 1:
        raise RuntimeError(f"{target.name} did nothing in the seconds that count")
    return Figures(per_second=done / (report.seconds - warm[1]), cpu_us=cpu / done * 1e6, latency_ms=report.latency_ms)


def _cpu(target: Target) -> float:
    return 0.0 if target.pid is None else cpu_seconds(target.pid)
