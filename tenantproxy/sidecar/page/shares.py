"""Who has how much of each server's budget, of all processes of a fleet? Asked in the background, while one looks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from typing import Final

from tenantproxy.fleet.stats import FleetProcess

__all__ = ["FleetShares"]

_SECONDS: Final = 2.0


class FleetShares:
    """What `ask` answered last, which is asked again when that is older than two seconds and someone wants to know."""

    def __init__(
        self, ask: Callable[[], Awaitable[Sequence[FleetProcess]]], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._ask = ask
        self._clock = clock
        self._known: Sequence[FleetProcess] = ()
        self._asked_at = -_SECONDS
        self._task: asyncio.Task[None] | None = None

    def latest(self) -> Sequence[FleetProcess]:
        """As far as is known; never waits. Needs the running loop."""
        if self._task is None and self._clock() - self._asked_at >= _SECONDS:
            self._asked_at = self._clock()
            self._task = asyncio.get_running_loop().create_task(
                self._renew(), name="tenantproxy fleet shares", context=Context()
            )
        return self._known

    async def _renew(self) -> None:
        try:
            self._known = await self._ask()
        finally:
            self._task = None

    async def close(self) -> None:
        """End what is under way."""
        if (task := self._task) is not None:
            task.cancel()
            await asyncio.wait([task])
