"""Where does a router listen? On its fleet's connection to the main database if there is one, else on another one.

So that an idle process of a fleet has one connection there, and not two.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import Any, Protocol

import asyncpg

from tenantproxy.driver.reading import SlicedReading

__all__ = ["FleetListening", "SharedConnection"]


class SharedConnection:
    """What a listener needs of a connection on which reports are made too: one call at a time, by `lock`."""

    def __init__(self, conn: asyncpg.Connection[Any], lock: asyncio.Lock, drop: Callable[[], None]) -> None:
        self._conn = conn
        self._lock = lock
        self._drop = drop

    async def add_listener(self, channel: str, heard: Callable[..., None]) -> None:
        """See asyncpg."""
        async with self._lock:
            await self._conn.add_listener(channel, heard)

    async def remove_listener(self, channel: str, heard: Callable[..., None]) -> None:
        """See asyncpg."""
        async with self._lock:
            await self._conn.remove_listener(channel, heard)

    async def execute(self, query: str, *, timeout: float | None = None) -> str:
        """See asyncpg."""
        async with self._lock:
            return await self._conn.execute(query, timeout=timeout)

    def add_termination_listener(self, ended: Callable[..., None]) -> None:
        """See asyncpg."""
        self._conn.add_termination_listener(ended)

    def remove_termination_listener(self, ended: Callable[..., None]) -> None:
        """See asyncpg."""
        self._conn.remove_termination_listener(ended)

    def is_closed(self) -> bool:
        """See asyncpg."""
        return self._conn.is_closed()

    def terminate(self) -> None:
        """It does not answer: reports are not made on it either."""
        self._drop()

    @contextmanager
    def reading_in_slices(self) -> Iterator[None]:
        """As `driver.guard.reading_in_slices`."""
        transport = self._conn._transport  # type: ignore[attr-defined]  # asyncpg's own; see driver/private.py
        reading = SlicedReading(transport)
        try:
            yield
        finally:
            reading.stop()


class _Fleet(Protocol):
    async def shared_connection(self) -> SharedConnection | None: ...


class _Lane(Protocol):
    def connection(self) -> AbstractAsyncContextManager[Any]: ...


class FleetListening:
    """Where `notifications.Listener` listens: see above. `own` lends a connection of the main database's pool."""

    def __init__(self, own: _Lane, fleet: _Fleet) -> None:
        self._own = own
        self._fleet = fleet

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Any]:
        """One connection for the length of the block. Raises what opening one raises."""
        shared = await self._fleet.shared_connection()
        if shared is not None:
            yield shared
            return
        async with self._own.connection() as conn:
            yield conn
