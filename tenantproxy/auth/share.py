"""How much of a database may logins use? A bounded number of questions at once, so that others always get through.

State: who asks and who waits. Changed by those who ask.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Hashable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Final

from tenantproxy.auth.base import AnyConnection, AuthDatabase
from tenantproxy.errors import TooManyAttempts

if TYPE_CHECKING:
    import asyncpg

__all__ = ["KeyedSlots", "SharedDatabaseAccess"]

_RETRY_SECONDS: Final = 1.0


class KeyedSlots:
    """At most `limit` holders of each key at once; the others wait in order."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._slots: dict[Hashable, tuple[asyncio.Semaphore, int]] = {}  # with how many hold or wait: at least one

    def __len__(self) -> int:
        return len(self._slots)

    @asynccontextmanager
    async def hold(self, key: Hashable) -> AsyncIterator[None]:
        """One of the places of `key`, for the length of the block."""
        semaphore, users = self._slots.get(key, (asyncio.Semaphore(self._limit), 0))
        self._slots[key] = (semaphore, users + 1)
        try:
            async with semaphore:
                yield
        finally:
            semaphore, users = self._slots.pop(key)
            if users > 1:
                self._slots[key] = (semaphore, users - 1)


class SharedDatabaseAccess:
    """A `Database` of which at most `limit` connections are used at once, and for which at most `max_waiting` wait.

    One more is refused with TooManyAttempts, which is not the database's failure. `timeout` bounds the wait too.
    """

    def __init__(self, database: AuthDatabase, *, limit: int, max_waiting: int) -> None:
        self._database = database
        self._limit = limit
        self._max_waiting = max_waiting
        self._gate = _Gate(limit, max_waiting)

    def renew(self) -> None:
        """Be of the running event loop from now on; who still asks in another one is not counted any more."""
        self._gate = _Gate(self._limit, self._max_waiting)

    async def fetch(self, sql: str, /, *args: object, timeout: float | None = None) -> list[asyncpg.Record]:
        """The rows of one statement. Raises TooManyAttempts, TimeoutError, and what the database raises."""
        async with asyncio.timeout(timeout), self._gate.place():
            return await self._database.fetch(sql, *args, timeout=timeout)

    def connection(self) -> AbstractAsyncContextManager[AnyConnection]:
        """One connection for the length of the block."""
        return self._connection()

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[AnyConnection]:
        async with self._gate.place(), self._database.connection() as conn:
            yield conn


class _Gate:
    """`limit` places and a queue before them."""

    def __init__(self, limit: int, max_waiting: int) -> None:
        self._slots = asyncio.Semaphore(limit)
        self._room = limit + max_waiting
        self._users = 0  # in a place or waiting, at most `_room`

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        if self._users >= self._room:
            raise TooManyAttempts("too many logins at once", hint="try again", retry_after=_RETRY_SECONDS)
        self._users += 1
        try:
            async with self._slots:
                yield
        finally:
            self._users -= 1
