"""When has the last process of a service ended: the main one, and its workers, however each of them ended?

All of them hold the writing end of a pipe, to which nothing is ever written; its reading end is at its end then.
"""

from __future__ import annotations

import asyncio
import os

__all__ = ["Generation", "ended"]


class Generation:
    """The pipe of this process and its workers: `held` is handed to each worker, `watched` to a successor."""

    def __init__(self) -> None:
        self.watched, self.held = os.pipe()

    def close(self) -> None:
        """This process ends."""
        os.close(self.watched)
        os.close(self.held)


async def ended(watched: int) -> None:
    """Returns when no process holds the other end of `watched`, which is closed then."""
    loop = asyncio.get_running_loop()
    is_over = asyncio.Event()
    os.set_blocking(watched, False)
    loop.add_reader(watched, is_over.set)
    try:
        await is_over.wait()
    finally:
        loop.remove_reader(watched)
        os.close(watched)
