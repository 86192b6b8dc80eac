"""How does work over everything leave the event loop to others? In slices of a few milliseconds."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from time import perf_counter
from typing import Final

__all__ = ["Slices", "in_slices"]

SLICE_SECONDS: Final = 0.001


class Slices:
    """Measures the current slice; made, and its methods called, in one task."""

    __slots__ = ("_end",)

    def __init__(self) -> None:
        self._end = perf_counter() + SLICE_SECONDS

    async def pause(self) -> None:
        """Let others run when the slice is over; else return at once."""
        if perf_counter() >= self._end:
            await asyncio.sleep(0)
            self._end = perf_counter() + SLICE_SECONDS


async def in_slices(steps: Iterator[None]) -> None:
    """Take all `steps`, each of which must leave everything in order."""
    slices = Slices()
    for _ in steps:
        await slices.pause()
