"""Which tenants changed? Listens on the main database and tells the cache; a gap in listening clears it."""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections.abc import Callable
from typing import Any, Final, TypeAlias

from tenantproxy.registry.base import AnyConnection, Database
from tenantproxy.registry.postgres import CHANNEL

__all__ = ["InvalidationListener"]

_Heard: TypeAlias = Callable[[Any, int, str, Any], None]

_FIRST_WAIT: Final = 0.1
_LONGEST_WAIT: Final = 15.0


class InvalidationListener:
    """Holds one connection of `database` and calls `invalidate` with each announced tenant.

    It never gives up: while there is no connection, the cache's own lifetime is what limits how old an answer can be.
    After each (re)connect `invalidate(None)` is called, since nobody heard what changed before. A silent peer is found
    out by a query every `heartbeat` seconds.
    """

    def __init__(
        self,
        database: Database,
        invalidate: Callable[[str | None], None],
        *,
        channel: str = CHANNEL,
        heartbeat: float = 30.0,
        heartbeat_timeout: float = 5.0,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._database = database
        self._invalidate = invalidate
        self._channel = channel
        self._heartbeat = heartbeat
        self._heartbeat_timeout = heartbeat_timeout
        self._jitter = jitter
        self._task: asyncio.Task[None] | None = None  # there is one from start to stop
        self.listening = asyncio.Event()
        """Set while changes are heard."""
        self.connects = 0
        """How often listening began."""

    def start(self) -> None:
        """Begin, in a task of our own; needs a running loop."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(
                self._run(), name="tenantproxy registry listener", context=contextvars.Context()
            )

    async def stop(self) -> None:
        """End, and give the connection back."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def _run(self) -> None:
        failures = 0
        while True:
            try:
                async with self._database.connection() as conn:
                    failures = 0
                    await self._listen(conn)
            except Exception:  # noqa: BLE001  # a rim: whatever it was, the answer is to connect again
                pass
            # Full jitter: many processes that lost the same server must not return to it together.
            await asyncio.sleep(min(_LONGEST_WAIT, _FIRST_WAIT * 2**failures) * (0.5 + self._jitter() / 2))
            failures = min(failures + 1, 10)

    async def _listen(self, conn: AnyConnection) -> None:
        """Until the connection is lost."""
        lost = asyncio.Event()

        def heard(_conn: object, _pid: int, _channel: str, payload: object) -> None:
            self._invalidate(str(payload) or None)

        def ended(_conn: object) -> None:
            lost.set()

        conn.add_termination_listener(ended)
        await conn.add_listener(self._channel, heard)
        try:
            self._invalidate(None)
            self.connects += 1
            self.listening.set()
            while not lost.is_set():
                try:
                    async with asyncio.timeout(self._heartbeat):
                        await lost.wait()
                except TimeoutError:
                    await conn.execute("SELECT 1", timeout=self._heartbeat_timeout)
        except Exception:
            conn.terminate()  # it did not answer: asking it to stop, or to close, would wait just as long
            raise
        finally:
            self.listening.clear()
            if not conn.is_closed():
                conn.remove_termination_listener(ended)
                await self._unlisten(conn, heard)

    async def _unlisten(self, conn: AnyConnection, heard: _Heard) -> None:
        try:
            async with asyncio.timeout(self._heartbeat_timeout):
                await conn.remove_listener(self._channel, heard)
        except Exception:  # noqa: BLE001  # a rim: what cannot be undone is destroyed
            conn.terminate()
