"""Runs blocking work in a few threads, with a bounded queue in which those who are known wait less than strangers.

State: how much runs and who waits. Changed by `run` alone.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from tenantproxy.auth.trust import Trust
from tenantproxy.errors import TooManyAttempts

__all__ = ["WorkQueue"]

_RETRY_SECONDS: Final = 1.0
# In turns, so that a crowd of known accounts cannot stop strangers: of seven places strangers have one.
_TURNS: Final = (
    Trust.PROVEN, Trust.PROVEN, Trust.FAMILIAR, Trust.PROVEN, Trust.PROVEN, Trust.FAMILIAR, Trust.STRANGER,
)  # fmt: skip
_SHARES: Final = {Trust.PROVEN: 1.0, Trust.FAMILIAR: 0.75, Trust.STRANGER: 0.5}  # of the places in the queue

T = TypeVar("T")


class WorkQueue:
    """`threads` at once and `max_waiting` behind them: half of the places for anyone, a quarter more for each trust."""

    def __init__(self, *, threads: int, max_waiting: int, name: str) -> None:
        self._threads = threads
        self._limits = {trust: threads + round(max_waiting * share) for trust, share in _SHARES.items()}
        self._running = 0  # at most `threads`
        self._waiting: dict[Trust, deque[asyncio.Future[None]]] = {trust: deque() for trust in Trust}
        self._turn = 0
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=name)

    @property
    def under_way(self) -> int:
        """How much runs or waits."""
        return self._running + sum(map(len, self._waiting.values()))

    def check_room(self, trust: Trust) -> None:
        """Raises TooManyAttempts when one more with that trust would be refused now."""
        if self.under_way >= self._limits[trust]:
            raise TooManyAttempts(
                "too many logins at once",
                detail=f"{self.under_way} passwords are being checked or wait for it",
                hint="try again",
                retry_after=_RETRY_SECONDS,
            )

    async def run(self, work: Callable[[], T], trust: Trust) -> T:
        """Run `work` in a thread. Raises TooManyAttempts. Cancelled while it waits, it leaves the queue."""
        self.check_room(trust)
        loop = asyncio.get_running_loop()
        if self._running < self._threads:
            self._running += 1
        else:
            await self._wait(loop.create_future(), trust)
        try:
            return await loop.run_in_executor(self._executor, work)
        finally:
            self._finished()

    async def _wait(self, turn: asyncio.Future[None], trust: Trust) -> None:
        self._waiting[trust].append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._finished()  # it had been given the thread already
            elif turn in self._waiting[trust]:
                self._waiting[trust].remove(turn)
            raise

    def _finished(self) -> None:
        """Give the thread to the next that waits."""
        while (turn := self._next()) is not None:
            if not turn.done():
                turn.set_result(None)
                return
        self._running -= 1

    def _next(self) -> asyncio.Future[None] | None:
        for step in range(len(_TURNS)):
            trust = _TURNS[(self._turn + step) % len(_TURNS)]
            if self._waiting[trust]:
                self._turn = (self._turn + step + 1) % len(_TURNS)
                return self._waiting[trust].popleft()
        return None

    def close(self) -> None:
        """Let the threads end; what waits is dropped."""
        for waiting in self._waiting.values():
            while waiting:
                waiting.popleft().cancel()
        self._executor.shutdown(wait=False, cancel_futures=True)
