"""How do people use psycopg 3? Its two kinds of connection, behind one face."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import psycopg

from tests.e2e.pg.clients.base import Row, Session, with_placeholders
from tests.e2e.pg.seats import Seat
from tests.support.waiting import PATIENCE

__all__ = ["PsycopgAsync", "PsycopgSync", "conninfo"]


def conninfo(seat: Seat, tenant: str = "", *, user: str = "") -> str:
    """For libpq."""
    return psycopg.conninfo.make_conninfo(
        host=seat.host, port=seat.port, user=user or seat.user, password=seat.password, dbname=tenant or seat.tenant,
        connect_timeout=30, sslmode="prefer",
    )  # fmt: skip


def _sql(sql: str, values: Sequence[object]) -> bytes:
    return with_placeholders(sql.replace("%", "%%") if values else sql, "%s").encode()


class PsycopgAsync:
    """psycopg.AsyncConnection."""

    name: Final = "psycopg-async"
    lacks: Final[frozenset[str]] = frozenset()

    async def connect(self, seat: Seat, tenant: str, *, user: str = "") -> Session:
        info = conninfo(seat, tenant, user=user)
        return _Async(await psycopg.AsyncConnection.connect(info, autocommit=True))

    def state(self, error: BaseException) -> str | None:
        return getattr(error, "sqlstate", None)


class _Async:
    def __init__(self, conn: psycopg.AsyncConnection[Row]) -> None:
        self._conn = conn

    async def rows(self, sql: str, *values: object, prepare: bool | None = None) -> list[Row]:
        cursor = await self._conn.execute(_sql(sql, values), values or None, prepare=prepare)
        return await cursor.fetchall() if cursor.description else []

    async def prepared(self, sql: str, *values: object) -> list[Row]:
        return await self.rows(sql, *values, prepare=True)

    async def begin(self) -> None:
        await self._conn.set_autocommit(False)

    async def commit(self) -> None:
        await self._conn.commit()
        await self._conn.set_autocommit(True)

    async def rollback(self) -> None:
        await self._conn.rollback()
        await self._conn.set_autocommit(True)

    async def copy_in(self, table: str, bodies: Sequence[str]) -> None:
        async with self._conn.cursor() as cursor, cursor.copy(f"COPY {table} (body) FROM STDIN".encode()) as copy:
            for body in bodies:
                await copy.write_row((body,))

    async def copy_out(self, query: str) -> bytes:
        async with self._conn.cursor() as cursor, cursor.copy(f"COPY ({query}) TO STDOUT".encode()) as copy:
            return b"".join([bytes(block) async for block in copy])

    async def listen(self, channel: str) -> None:
        await self._conn.execute(f"LISTEN {channel}".encode())

    async def notified(self) -> str:
        async for notification in self._conn.notifies(timeout=PATIENCE, stop_after=1):
            return notification.payload
        raise TimeoutError

    async def cancel(self) -> None:
        await self._conn.cancel_safe(timeout=PATIENCE)

    async def size(self, query: str) -> int:
        async with self._conn.cursor() as cursor:
            return sum([len(row[0]) async for row in cursor.stream(query.encode())])

    async def close(self) -> None:
        await self._conn.close()


class PsycopgSync:
    """psycopg.Connection, in threads."""

    name: Final = "psycopg"
    lacks: Final[frozenset[str]] = frozenset()

    async def connect(self, seat: Seat, tenant: str, *, user: str = "") -> Session:
        info = conninfo(seat, tenant, user=user)
        return _Sync(await asyncio.to_thread(psycopg.connect, info, autocommit=True))

    def state(self, error: BaseException) -> str | None:
        return getattr(error, "sqlstate", None)


class _Sync:
    def __init__(self, conn: psycopg.Connection[Row]) -> None:
        self._conn = conn

    async def rows(self, sql: str, *values: object, prepare: bool | None = None) -> list[Row]:
        def run() -> list[Row]:
            cursor = self._conn.execute(_sql(sql, values), values or None, prepare=prepare)
            return cursor.fetchall() if cursor.description else []

        return await asyncio.to_thread(run)

    async def prepared(self, sql: str, *values: object) -> list[Row]:
        return await self.rows(sql, *values, prepare=True)

    async def begin(self) -> None:
        self._conn.autocommit = False

    async def commit(self) -> None:
        await asyncio.to_thread(self._conn.commit)
        self._conn.autocommit = True

    async def rollback(self) -> None:
        await asyncio.to_thread(self._conn.rollback)
        self._conn.autocommit = True

    async def copy_in(self, table: str, bodies: Sequence[str]) -> None:
        def run() -> None:
            with self._conn.cursor() as cursor, cursor.copy(f"COPY {table} (body) FROM STDIN".encode()) as copy:
                for body in bodies:
                    copy.write_row((body,))

        await asyncio.to_thread(run)

    async def copy_out(self, query: str) -> bytes:
        def run() -> bytes:
            with self._conn.cursor() as cursor, cursor.copy(f"COPY ({query}) TO STDOUT".encode()) as copy:
                return b"".join(map(bytes, copy))

        return await asyncio.to_thread(run)

    async def listen(self, channel: str) -> None:
        await self.rows(f"LISTEN {channel}")

    async def notified(self) -> str:
        def run() -> str:
            return next(self._conn.notifies(timeout=PATIENCE, stop_after=1)).payload

        return await asyncio.to_thread(run)

    async def cancel(self) -> None:
        await asyncio.to_thread(self._conn.cancel_safe, timeout=PATIENCE)

    async def size(self, query: str) -> int:
        def run() -> int:
            with self._conn.cursor() as cursor:
                return sum(len(row[0]) for row in cursor.stream(query.encode()))

        return await asyncio.to_thread(run)

    async def close(self) -> None:
        await asyncio.to_thread(self._conn.close)
