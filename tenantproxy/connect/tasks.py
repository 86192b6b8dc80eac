"""What does a connector have under way? Tasks and timers in an empty context, and looking for servers that are down.

Each of these tasks starts in an empty context: a transport keeps the one in which it was opened, and a listener on it
would answer with another request's tenant.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, Final

from tenantproxy.config import Server
from tenantproxy.pools.budget import ServerBudget

__all__ = ["ConnectorTasks"]

_PROBE_SECONDS: Final = 0.2
_SSL_REQUEST: Final = b"\0\0\0\x08\x04\xd2\x16\x2f"  # the one question that each version answers without a login


class ConnectorTasks:
    """The tasks and timers of one connector. All end with `close`."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        self._timers: set[asyncio.TimerHandle] = set()
        self._probes: dict[str, asyncio.Task[None]] = {}

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run `coroutine`, which handles its own errors."""
        task = asyncio.get_running_loop().create_task(coroutine, context=Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def later(self, delay: float, call: Callable[[], None]) -> None:
        """Call `call` after `delay` seconds."""

        def fire() -> None:
            self._timers.discard(handle)
            call()

        handle = asyncio.get_running_loop().call_later(delay, fire, context=Context())
        self._timers.add(handle)

    async def close(self) -> None:
        """Cancel what is under way and wait for it. The pools are closed by now."""
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
        for timer in self._timers:  # those that the last failures set
            timer.cancel()
        self._timers.clear()

    def forget_loop(self) -> None:
        """The event loop has ended, and all that was under way in it."""
        self._tasks.clear()
        self._timers.clear()
        self._probes.clear()

    async def settle(self, timeout: float) -> None:
        """Wait until all that is under way is done, for `timeout` seconds at most."""
        for probe in self._probes.values():
            probe.cancel()  # it would wait for a server that is down
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout)

    def look_for(self, server: Server, budget: ServerBudget) -> None:
        """Close the breaker as soon as the server answers again, so that it needs no caller to find out."""
        task = self._probes.get(budget.server)
        if task is None or task.done():
            self._probes[budget.server] = self.spawn(_wait_for(server, budget))


async def _wait_for(server: Server, budget: ServerBudget) -> None:
    while budget.is_down:
        await asyncio.sleep(_PROBE_SECONDS)
        try:
            async with asyncio.timeout(server.connect_timeout):
                answers = await _answers(server)
        except (OSError, TimeoutError):
            continue
        if answers:
            budget.reached()


async def _answers(server: Server) -> bool:
    """Whether PostgreSQL speaks there. A process that hangs still accepts: its kernel does."""
    if server.host.startswith("/"):
        reader, writer = await asyncio.open_unix_connection(f"{server.host}/.s.PGSQL.{server.port}")
    else:
        reader, writer = await asyncio.open_connection(server.host, server.port)
    try:
        writer.write(_SSL_REQUEST)
        return bool(await reader.read(1))
    finally:
        writer.close()
