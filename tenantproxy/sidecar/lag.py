"""How late is the event loop? A task that asks to be woken and looks at the clock."""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from typing import Final

__all__ = ["LoopLag"]

_PERIOD: Final = 0.5
_KEPT: Final = 20  # ten seconds: two scrapes rarely miss the same stall


class LoopLag:
    """The worst delay of the last ten seconds. Only its own task writes it."""

    def __init__(self) -> None:
        self._seen: deque[float] = deque(maxlen=_KEPT)
        self._task: asyncio.Task[None] | None = None

    @property
    def worst(self) -> float:
        """Seconds; 0 before the first measurement."""
        return max(self._seen, default=0.0)

    def open(self) -> None:
        """Begin to measure in the running loop."""
        self._task = asyncio.get_running_loop().create_task(self._measure(), context=contextvars.Context())

    async def close(self) -> None:
        """End the task."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _measure(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + _PERIOD
            await asyncio.sleep(_PERIOD)
            self._seen.append(max(0.0, loop.time() - due))
