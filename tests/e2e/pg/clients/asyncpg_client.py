"""How do people use asyncpg?"""

from __future__ import annotations

import asyncio
import io
from collections.abc import Sequence
from typing import Final, TypedDict

import asyncpg
import asyncpg.transaction

from tests.e2e.pg.clients.base import Row, Session
from tests.e2e.pg.seats import Seat
from tests.support.waiting import PATIENCE

__all__ = ["Asyncpg", "arguments"]


class Arguments(TypedDict):
    """For asyncpg.connect and asyncpg.create_pool."""

    host: str
    port: int
    user: str
    password: str
    database: str
    timeout: float


def arguments(seat: Seat, tenant: str = "", *, user: str = "") -> Arguments:
    """To connect with."""
    return Arguments(
        host=seat.host, port=seat.port, user=user or seat.user, password=seat.password,
        database=tenant or seat.tenant, timeout=PATIENCE,
    )  # fmt: skip


class Asyncpg:
    """asyncpg.Connection. It cancels by timeouts and with its tasks only, so never late."""

    name: Final = "asyncpg"
    lacks: Final = frozenset({"late_cancel"})

    async def connect(self, seat: Seat, tenant: str, *, user: str = "") -> Session:
        return _Session(await asyncpg.connect(**arguments(seat, tenant, user=user)))

    def state(self, error: BaseException) -> str | None:
        return getattr(error, "sqlstate", None)


class _Session:
    def __init__(self, conn: asyncpg.Connection[asyncpg.Record]) -> None:
        self._conn = conn
        self._transaction: asyncpg.transaction.Transaction | None = None
        self._statements: dict[str, asyncpg.prepared_stmt.PreparedStatement[asyncpg.Record]] = {}
        self._heard: asyncio.Queue[str] = asyncio.Queue()
        self._running: asyncio.Task[list[asyncpg.Record]] | None = None

    async def rows(self, sql: str, *values: object) -> list[Row]:
        if not values and not sql.startswith("SELECT"):
            await self._conn.execute(sql)  # the simple protocol
            return []
        self._running = asyncio.create_task(self._conn.fetch(sql, *values))
        try:
            return [tuple(row) for row in await self._running]
        except asyncio.CancelledError:
            # The driver has asked the server to cancel, and says no more of it than this.
            raise asyncpg.QueryCanceledError("cancelled") from None

    async def prepared(self, sql: str, *values: object) -> list[Row]:
        if sql not in self._statements:
            self._statements[sql] = await self._conn.prepare(sql)
        return [tuple(row) for row in await self._statements[sql].fetch(*values)]

    async def begin(self) -> None:
        self._transaction = self._conn.transaction()
        await self._transaction.start()

    async def commit(self) -> None:
        assert self._transaction is not None
        await self._transaction.commit()

    async def rollback(self) -> None:
        assert self._transaction is not None
        await self._transaction.rollback()

    async def copy_in(self, table: str, bodies: Sequence[str]) -> None:
        await self._conn.copy_records_to_table(table, records=[(body,) for body in bodies], columns=["body"])

    async def copy_out(self, query: str) -> bytes:
        out = io.BytesIO()
        await self._conn.copy_from_query(query, output=out)
        return out.getvalue()

    async def listen(self, channel: str) -> None:
        await self._conn.add_listener(channel, lambda *said: self._heard.put_nowait(str(said[3])))

    async def notified(self) -> str:
        return await self._heard.get()

    async def cancel(self) -> None:
        assert self._running is not None
        self._running.cancel()

    async def size(self, query: str) -> int:
        async with self._conn.transaction():
            return sum([len(row[0]) async for row in self._conn.cursor(query, prefetch=5)])

    async def close(self) -> None:
        await self._conn.close(timeout=PATIENCE)
