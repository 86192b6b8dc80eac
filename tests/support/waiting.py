"""How does a test wait? For a condition, with a deadline, never for a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

PATIENCE: Final = 120.0  # seconds after which something that a test waits for counts as broken, on any machine
SLACK: Final = 8.0  # seconds that a busy machine may add to anything that is measured
_PAUSE: Final = 0.01


def wait_until(condition: Callable[[], object], what: str, *, timeout: float = PATIENCE) -> None:
    """Return when `condition()` is true; AssertionError naming `what` when that takes longer than `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"after {timeout} s still not: {what}"
        time.sleep(_PAUSE)


async def until(condition: Callable[[], object | Awaitable[object]], what: str, *, timeout: float = PATIENCE) -> None:
    """As `wait_until`, for a loop that must go on meanwhile; `condition` may be a coroutine function."""
    deadline = time.monotonic() + timeout
    while True:
        answer = condition()
        if await answer if isinstance(answer, Awaitable) else answer:
            return
        assert time.monotonic() < deadline, f"after {timeout} s still not: {what}"
        await asyncio.sleep(_PAUSE)
