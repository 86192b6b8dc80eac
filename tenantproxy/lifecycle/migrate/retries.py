"""What is tried again while a lock is not to be had? In between, the queue behind it goes on."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import asyncpg

__all__ = ["PASSING", "again"]

PASSING: Final = (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError, asyncpg.SerializationError)
_PAUSE: Final = 0.2  # seconds before it is tried again, doubled each time
_LONGEST: Final = 5.0
T = TypeVar("T")


async def again(retries: int, work: Callable[[], Awaitable[T]]) -> T:
    """What `work` returns, tried up to `retries` times more; then its last error. Any other error is raised at once."""
    pause = _PAUSE
    for _ in range(retries):
        try:
            return await work()
        except PASSING:
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, _LONGEST)
    return await work()
