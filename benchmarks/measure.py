"""How is a subject measured? Throughput, CPU and latency of one kind of call, in short turns with its peers."""

from __future__ import annotations

import asyncio
import gc
import itertools
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, Self

__all__ = ["Latency", "Pace", "Spread", "Subject", "latency", "percentile", "throughput"]

WARM_CALLS: Final = 200


class Subject(Protocol):
    """One way of getting a connection and running the select with it."""

    @property
    def name(self) -> str:
        """As the table calls it."""
        ...

    @property
    def tasks(self) -> int:
        """How many tasks use it at once when throughput is measured."""
        ...

    async def open(self, size: int) -> None:
        """Open exactly `size` connections and keep them."""
        ...

    async def call(self, task: int, number: int) -> object:
        """Lease, select, give back. `number` counts the calls of all tasks."""
        ...

    async def close(self) -> None:
        """Close everything."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Calls per second, and microseconds of this process's CPU for each."""

    per_second: float
    cpu_us: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Of single calls one after another, in microseconds."""

    p50_us: float
    p99_us: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """The median of some rounds, and the quarter of them below and above."""

    median: float
    p25: float
    p75: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Self:
        """Of at least one value."""
        values = sorted(values)
        if len(values) == 1:
            return cls(median=values[0], p25=values[0], p75=values[0])
        low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median=middle, p25=low, p75=high)


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that `percent` of `values` do not exceed; sorts a copy."""
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, int(len(ranked) * percent / 100))]


async def throughput(subject: Subject, *, seconds: float) -> Pace:
    """All tasks of the subject call it in a closed loop for `seconds`."""
    numbers = itertools.count()
    await _calm(subject, numbers)
    calls = 0
    cpu, start = time.process_time(), time.perf_counter()
    until = start + seconds

    async def client(task: int) -> None:
        nonlocal calls
        while time.perf_counter() < until:
            await subject.call(task, next(numbers))
            calls += 1

    async with asyncio.TaskGroup() as group:
        for task in range(subject.tasks):
            group.create_task(client(task))
    spent = time.perf_counter() - start
    return Pace(per_second=calls / spent, cpu_us=(time.process_time() - cpu) / calls * 1e6)


async def latency(subject: Subject, *, seconds: float, clock: Callable[[], float] = time.perf_counter) -> Latency:
    """One task calls the subject again and again for `seconds`; each call is timed."""
    numbers = itertools.count()
    await _calm(subject, numbers)
    taken: list[float] = []
    before = clock()
    until = before + seconds
    while before < until:
        await subject.call(0, next(numbers))
        after = clock()
        taken.append(after - before)
        before = after
    return Latency(p50_us=percentile(taken, 50) * 1e6, p99_us=percentile(taken, 99) * 1e6)


async def _calm(subject: Subject, numbers: itertools.count[int]) -> None:
    """What the others left behind (garbage, cold caches, a reset under way) must not be charged to this one."""
    gc.collect()
    for _ in range(WARM_CALLS):
        await subject.call(0, next(numbers))
