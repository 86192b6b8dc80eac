"""How do people use SQLAlchemy? Over asyncpg, and over psycopg without a loop; an engine with its own pool each."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import URL, Connection, Engine, create_engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from tests.e2e.pg.clients.base import Row, Session, with_placeholders
from tests.e2e.pg.seats import Seat
from tests.support.waiting import PATIENCE

__all__ = ["SqlalchemyAsyncpg", "SqlalchemyPsycopg", "url"]


def url(driver: str, seat: Seat, tenant: str = "", *, user: str = "") -> URL:
    """For both kinds of engine."""
    return URL.create(
        f"postgresql+{driver}", host=seat.host, port=seat.port, username=user or seat.user, password=seat.password,
        database=tenant or seat.tenant,
    )  # fmt: skip


def _statement(sql: str, values: Sequence[object]) -> tuple[Any, dict[str, object]]:
    given = {f"p{number}": value for number, value in enumerate(values, start=1)}
    return text(with_placeholders(sql, ":p{}")), given


def _state(error: BaseException) -> str | None:
    cause = error.orig if isinstance(error, DBAPIError) else error
    state: str | None = getattr(cause, "sqlstate", None)
    return state


class SqlalchemyAsyncpg:
    """create_async_engine. To notifications and cancelling it adds nothing to its driver."""

    name: Final = "sqlalchemy-asyncpg"
    lacks: Final = frozenset({"late_cancel", "cancel", "listen"})

    async def connect(self, seat: Seat, tenant: str, *, user: str = "") -> Session:
        engine = create_async_engine(url("asyncpg", seat, tenant, user=user))
        try:
            return _Async(engine, await engine.connect())
        except BaseException:
            await engine.dispose()
            raise

    def state(self, error: BaseException) -> str | None:
        return _state(error)


class _Async:
    def __init__(self, engine: AsyncEngine, conn: AsyncConnection) -> None:
        self._engine = engine
        self._conn = conn
        self._in_transaction = False

    async def rows(self, sql: str, *values: object) -> list[Row]:
        try:
            statement, given = _statement(sql, values)
            result = await self._conn.execute(statement, given)
            rows = [tuple(row) for row in result] if result.returns_rows else []
        except BaseException:
            if not self._in_transaction:
                await self._conn.rollback()
            raise
        if not self._in_transaction:
            await self._conn.commit()
        return rows

    async def prepared(self, sql: str, *values: object) -> list[Row]:
        return await self.rows(sql, *values)  # always, by default

    async def begin(self) -> None:
        self._in_transaction = True
        await self._conn.execute(text("SELECT 1"))  # begins with it, not before

    async def commit(self) -> None:
        await self._conn.commit()
        self._in_transaction = False

    async def rollback(self) -> None:
        await self._conn.rollback()
        self._in_transaction = False

    async def copy_in(self, table: str, bodies: Sequence[str]) -> None:
        conn = (await self._conn.get_raw_connection()).driver_connection
        assert conn is not None
        await conn.copy_records_to_table(table, records=[(body,) for body in bodies], columns=["body"])

    async def copy_out(self, query: str) -> bytes:
        conn = (await self._conn.get_raw_connection()).driver_connection
        assert conn is not None
        out = io.BytesIO()
        await conn.copy_from_query(query, output=out)
        return out.getvalue()

    async def listen(self, channel: str) -> None:
        raise NotImplementedError

    async def notified(self) -> str:
        raise NotImplementedError

    async def cancel(self) -> None:
        raise NotImplementedError

    async def size(self, query: str) -> int:
        total = 0
        async with self._conn.stream(text(query)) as result:
            async for row in result:
                total += len(row[0])
        await self._conn.commit()
        return total

    async def close(self) -> None:
        await self._conn.close()
        await self._engine.dispose()


class SqlalchemyPsycopg:
    """create_engine, in threads."""

    name: Final = "sqlalchemy-psycopg"
    lacks: Final[frozenset[str]] = frozenset({"listen"})

    async def connect(self, seat: Seat, tenant: str, *, user: str = "") -> Session:
        engine = create_engine(url("psycopg", seat, tenant, user=user))
        try:
            return _Sync(engine, await asyncio.to_thread(engine.connect))
        except BaseException:
            engine.dispose()
            raise

    def state(self, error: BaseException) -> str | None:
        return _state(error)


class _Sync:
    def __init__(self, engine: Engine, conn: Connection) -> None:
        self._engine = engine
        self._conn = conn
        self._in_transaction = False

    async def rows(self, sql: str, *values: object) -> list[Row]:
        return await asyncio.to_thread(self._rows, sql, *values)

    def _rows(self, sql: str, *values: object) -> list[Row]:
        try:
            statement, given = _statement(sql, values)
            result = self._conn.execute(statement, given)
            rows = [tuple(row) for row in result] if result.returns_rows else []
        except BaseException:
            if not self._in_transaction:
                self._conn.rollback()
            raise
        if not self._in_transaction:
            self._conn.commit()
        return rows

    async def prepared(self, sql: str, *values: object) -> list[Row]:
        driver = self._driver()
        before, driver.prepare_threshold = driver.prepare_threshold, 0
        try:
            return await self.rows(sql, *values)
        finally:
            driver.prepare_threshold = before

    def _driver(self) -> Any:
        return self._conn.connection.driver_connection

    async def begin(self) -> None:
        self._in_transaction = True

    async def commit(self) -> None:
        await asyncio.to_thread(self._conn.commit)
        self._in_transaction = False

    async def rollback(self) -> None:
        await asyncio.to_thread(self._conn.rollback)
        self._in_transaction = False

    async def copy_in(self, table: str, bodies: Sequence[str]) -> None:
        def run() -> None:
            driver = self._driver()
            try:
                with driver.cursor() as cursor, cursor.copy(f"COPY {table} (body) FROM STDIN") as copy:
                    for body in bodies:
                        copy.write_row((body,))
            except BaseException:
                driver.rollback()
                raise
            if not self._in_transaction:
                driver.commit()

        await asyncio.to_thread(run)

    async def copy_out(self, query: str) -> bytes:
        def run() -> bytes:
            driver = self._driver()
            with driver.cursor() as cursor, cursor.copy(f"COPY ({query}) TO STDOUT") as copy:
                out = b"".join(map(bytes, copy))
            driver.commit()
            return out

        return await asyncio.to_thread(run)

    async def listen(self, channel: str) -> None:
        raise NotImplementedError

    async def notified(self) -> str:
        raise NotImplementedError

    async def cancel(self) -> None:
        await asyncio.to_thread(self._driver().cancel_safe, timeout=PATIENCE)

    async def size(self, query: str) -> int:
        def run() -> int:
            # A cursor on the server, read in parts.
            with self._conn.execution_options(stream_results=True, max_row_buffer=5).execute(text(query)) as result:
                total = sum(len(row[0]) for row in result)
            self._conn.commit()
            return total

        return await asyncio.to_thread(run)

    async def close(self) -> None:
        await asyncio.to_thread(self._conn.close)
        await asyncio.to_thread(self._engine.dispose)
