"""How much is done in one turn of the event loop? Counted, not timed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tenantproxy.slices import SLICE_SECONDS

__all__ = ["SliceClock", "Turns", "counting_turns"]


class SliceClock:
    """The clock that slices are measured with. `work` passes the time of a part of a slice."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        patch.setattr("tenantproxy.slices.perf_counter", lambda: self.now)

    def work(self, slices: float = 1.0) -> None:
        """Something was done that takes so many slices."""
        self.now += slices * SLICE_SECONDS


class Turns:
    """What `done` rose by in each turn."""

    def __init__(self, done: Callable[[], int]) -> None:
        self._done = done
        self._before = done()
        self.steps: list[int] = []
        self.is_over = False

    def turn(self) -> None:
        """The event loop calls this in each turn."""
        now = self._done()
        self.steps.append(now - self._before)
        self._before = now
        if not self.is_over:
            asyncio.get_running_loop().call_soon(self.turn)

    @property
    def most(self) -> int:
        """What was done in the longest turn."""
        return max(self.steps)


@contextmanager
def counting_turns(done: Callable[[], int]) -> Iterator[Turns]:
    """Look at `done`, a count of what is done, in each turn of the event loop during the block."""
    turns = Turns(done)
    turns.turn()
    try:
        yield turns
    finally:
        turns.is_over = True
        turns.turn()
