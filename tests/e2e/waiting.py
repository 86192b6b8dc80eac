"""How does a test wait for what it cannot be told of? It looks again until a deadline; it never just sleeps."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable


async def until(condition: Callable[[], bool], *, within: float = 20.0) -> None:
    """Return when `condition()` holds; TimeoutError after `within` seconds."""
    async with asyncio.timeout(within):
        while not condition():  # noqa: ASYNC110 - nobody sets an event for us
            await asyncio.sleep(0.001)


def wait_until(condition: Callable[[], bool], *, within: float = 20.0) -> None:
    """As `until`, for tests without a loop."""
    deadline = time.monotonic() + within
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {within} s")
        time.sleep(0.01)
