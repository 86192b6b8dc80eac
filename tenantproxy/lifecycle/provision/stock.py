"""Which databases are kept ready for tenants to come? Each is written down before it is made; it is whole, or it goes.

One is made, sealed and filled as a tenant's is, under a name that cannot be guessed; who takes it renames it. A process
that dies while it makes or removes one leaves a row by which the next one to fill the stock removes what is there.
"""

from __future__ import annotations

import asyncio
import secrets
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final

import asyncpg

from tenantproxy.errors import TenantProxyError
from tenantproxy.lifecycle.turn_lock import take_turn

__all__ = ["Stock", "Stocked", "stocked"]

Make = Callable[[str, str], Awaitable[int]]
"""Makes a whole database on a server (the first) for a mark; its identifier."""
Remove = Callable[[str, str, int | None], Awaitable[None]]
"""Removes what is there, of a server, a mark and an identifier if it is known."""

_SILENT: Final = 30.0  # seconds after which a process that makes or removes one is thought to be gone
_ALONE: Final = "tenantproxy stock"
_NEW: Final = """
INSERT INTO tenantproxy.stock (mark, server, content, state, holder)
SELECT $1, $2, $3, 'making', $4
WHERE (SELECT count(*) FROM tenantproxy.stock WHERE server = $2 AND content = $3 AND state IN ('making', 'ready')) < $5
RETURNING true
"""
_READY: Final = """
UPDATE tenantproxy.stock SET state = 'ready', database = $3, holder = NULL
WHERE mark = $1 AND holder = $2 AND state = 'making' RETURNING true
"""
_GOING: Final = """
UPDATE tenantproxy.stock SET state = 'going', holder = $2, seen_at = now() WHERE mark IN (
  SELECT mark FROM tenantproxy.stock WHERE server = $1 AND (
    state = 'ready' AND content <> $3
    OR state <> 'ready' AND (holder IS NULL OR seen_at < now() - make_interval(secs => $5))
    OR mark IN (SELECT mark FROM tenantproxy.stock WHERE server = $1 AND content = $3 AND state = 'ready'
                ORDER BY created_at OFFSET $4))
  FOR UPDATE SKIP LOCKED)
RETURNING mark, database
"""
_GONE: Final = "DELETE FROM tenantproxy.stock WHERE mark = $1 AND holder = $2 AND state = 'going'"
_LEFT: Final = "UPDATE tenantproxy.stock SET holder = NULL WHERE holder = $1"
_BEAT: Final = "UPDATE tenantproxy.stock SET seen_at = now() WHERE holder = $1"
_SHELF: Final = """
SELECT server, count(*) FILTER (WHERE state = 'ready' AND content = $1) AS ready,
  count(*) FILTER (WHERE state = 'making') AS making,
  count(*) FILTER (WHERE state = 'going' OR state = 'ready' AND content <> $1) AS going
FROM tenantproxy.stock GROUP BY server ORDER BY server
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stocked:
    """The stock of one server: databases that can be taken, that are being made, and that are to go."""

    server: str
    ready: int
    making: int
    going: int


async def stocked(conn: asyncpg.Connection, content: str) -> list[Stocked]:
    """The stock as it is, of `content`; `conn`: the main database's."""
    return [Stocked(**dict(row)) for row in await conn.fetch(_SHELF, content)]


class Stock:
    """Fills the stock of servers up. `conn` is the main database's, as the admin user, and this one's alone.

    State: by which id this process holds what it makes or removes.
    """

    def __init__(self, conn: asyncpg.Connection, *, make: Make, remove: Remove, content: str, parallel: int) -> None:
        self._conn = conn
        self._turn = asyncio.Lock()  # one statement or transaction at a time on the connection
        self._make = make
        self._remove = remove
        self._content = content
        self._parallel = parallel
        self._holder = uuid.uuid4()

    async def fill(self, server: str, most: int, *, told: Callable[[], None] = lambda: None) -> int:
        """Bring it to `most` databases of the content of now, removing all others; how many were made.

        Raises what PostgreSQL and a migration say: what failed is removed again, the others are there. `told` is called
        for each one that was made. Cancelled, what was being made is for the next one to remove.
        """
        async with self._alive():
            await self._clear(server, most)
            made = 0

            async def some() -> None:
                nonlocal made
                while (mark := await self._claimed(server, most)) is not None:
                    await self._stock(server, mark)
                    made += 1
                    told()

            outcomes = await asyncio.gather(*(some() for _ in range(self._parallel)), return_exceptions=True)
        if failures := [each for each in outcomes if each is not None]:
            raise failures[0]
        return made

    async def _clear(self, server: str, most: int) -> None:
        async with self._turn:
            rows = await self._conn.fetch(_GOING, server, self._holder, self._content, most, _SILENT)
        for row in rows:
            await self._remove(server, row["mark"], row["database"])
            async with self._turn:
                await self._conn.execute(_GONE, row["mark"], self._holder)

    async def _claimed(self, server: str, most: int) -> str | None:
        mark = secrets.token_hex(16)
        async with self._turn, self._conn.transaction():
            await take_turn(self._conn, _ALONE, patience=_SILENT)
            is_new = await self._conn.fetchval(_NEW, mark, server, self._content, self._holder, most)
        return mark if is_new else None

    async def _stock(self, server: str, mark: str) -> None:
        oid = await self._make(server, mark)
        async with self._turn:
            is_ready = await self._conn.fetchval(_READY, mark, self._holder, oid)
        if not is_ready:
            await self._remove(server, mark, oid)
            raise TenantProxyError("this process was silent for too long: what it made for the stock was removed")

    @asynccontextmanager
    async def _alive(self) -> AsyncIterator[None]:
        beat = asyncio.ensure_future(self._beat())
        try:
            yield
        finally:
            beat.cancel()
            with suppress(asyncio.CancelledError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                await beat
            with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):  # it is thought gone then
                await self._conn.execute(_LEFT, self._holder)

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(_SILENT / 6)
            async with self._turn:
                await self._conn.execute(_BEAT, self._holder)
