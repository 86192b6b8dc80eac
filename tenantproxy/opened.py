"""The process and event loop in which a router was opened: only there can its connections be used and closed."""

from __future__ import annotations

import asyncio
import os
from typing import Self

from tenantproxy.errors import PoolClosed

__all__ = ["OpenedIn"]


class OpenedIn:
    """One process and one of its event loops."""

    __slots__ = ("_pid", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._pid = os.getpid()

    @classmethod
    def here(cls) -> Self:
        """The running loop. Raises RuntimeError without one."""
        return cls(asyncio.get_running_loop())

    @property
    def is_forked(self) -> bool:
        """This process is a child of that one: the sockets are the parent's, and must not be shut down here."""
        return self._pid != os.getpid()

    @property
    def has_ended(self) -> bool:
        """Nothing of it can run here any more: the loop is closed, or this is a forked child."""
        return self.is_forked or self.loop.is_closed()

    def check(self) -> None:
        """Raises PoolClosed unless it is the running loop of this process."""
        if self.is_forked:
            raise PoolClosed(
                "the router was opened in another process",
                hint="open it in this one too: `await router.open()`; the connections of its parent are left alone",
            )
        if self.loop is not asyncio.get_running_loop():
            raise PoolClosed(
                "the router was opened in another event loop",
                hint="open one router per event loop, and use and close it there alone",
            )
