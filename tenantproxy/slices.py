"""How does work over everything leave the event loop to others? In slices of half a millisecond.

Work that is cut by time must have small steps: a slice lasts as long as `SLICE_SECONDS` and one more step.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Iterator
from time import perf_counter
from typing import Final, TypeVar

__all__ = ["SLICE_SECONDS", "Slices", "found_in_slices", "in_slices", "is_over", "slice_end"]

T = TypeVar("T")

SLICE_SECONDS: Final = 0.0005  # several may run in one turn of the event loop, and must not hold it for 5 ms together


def slice_end() -> float:
    """When a slice that begins now is over, for `is_over`."""
    return perf_counter() + SLICE_SECONDS


def is_over(end: float) -> bool:
    """Whether the slice that ends at `end` is over."""
    return perf_counter() >= end


class Slices:
    """Measures the current slice; made, and its methods called, in one task."""

    __slots__ = ("_end",)

    def __init__(self) -> None:
        self._end = slice_end()

    async def pause(self) -> None:
        """Let others run when the slice is over; else return at once."""
        if is_over(self._end):
            await asyncio.sleep(0)
            self._end = slice_end()


async def in_slices(steps: Iterator[None]) -> None:
    """Take all `steps`, each of which must leave everything in order."""
    slices = Slices()
    for _ in steps:
        await slices.pause()


async def found_in_slices(steps: Generator[None, None, T]) -> T:
    """The same; what they have found at the end."""
    slices = Slices()
    while True:
        try:
            next(steps)
        except StopIteration as end:
            found: T = end.value
            return found
        await slices.pause()
