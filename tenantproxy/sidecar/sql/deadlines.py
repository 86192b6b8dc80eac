"""Which requests take too long? One timer for all of them, for each may take the same time.

State: what runs, in the order in which it began.
"""

from __future__ import annotations

import asyncio
from contextvars import Context
from typing import Final, Protocol

__all__ = ["Deadlines"]


class Timed(Protocol):
    """What may take a while."""

    def late(self) -> None:
        """It has taken as long as it may. Called from the loop, once; also if it has ended in the same turn."""
        ...


class Deadlines:
    """`seconds`: that each may take."""

    __slots__ = ("_loop", "_timer", "_until", "seconds")

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._until: dict[Timed, float] = {}  # by the loop's clock; the first is the next
        self._timer: asyncio.TimerHandle | None = None  # not later than the first is due

    def add(self, timed: Timed) -> None:
        """It begins."""
        self._until[timed] = until = self._loop.time() + self.seconds
        if self._timer is None:
            self._timer = self._loop.call_at(until, self._look, context=_NO_CONTEXT)

    def discard(self, timed: Timed) -> None:
        """It has ended, or has another deadline. Safe to call again."""
        self._until.pop(timed, None)

    def close(self) -> None:
        """No one is told any more."""
        self._until.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        now = self._loop.time()
        while self._until:
            timed, until = next(iter(self._until.items()))
            if until > now:
                self._timer = self._loop.call_at(until, self._look, context=_NO_CONTEXT)
                return
            del self._until[timed]
            self._loop.call_soon(timed.late, context=_NO_CONTEXT)


_NO_CONTEXT: Final = Context()
