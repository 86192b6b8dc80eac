"""Do clients with prepared statements live through a change of the tables under them?"""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import psycopg
import pytest

from tests.e2e.pg.clients.asyncpg_client import arguments
from tests.e2e.pg.clients.psycopg_client import conninfo
from tests.e2e.pg.conftest import Port
from tests.e2e.pg.seats import Seat
from tests.support.database import Database
from tests.support.waiting import PATIENCE


@pytest.fixture
async def admin(seat: Seat, pg_port: Port) -> AsyncIterator[asyncpg.Connection]:
    """Where the seat's tables are, past the port."""
    name = {"database": seat.tenant, "schema": "schemas", "row": "shared"}[seat.kind]
    async with Database(server=pg_port.server, name=name).connect() as conn:
        yield conn


async def test_a_stale_plan_is_made_again(seat: Seat, admin: asyncpg.Connection) -> None:
    name = f"shapes_{seat.mode}"
    table = f'"{seat.schema}".{name}'
    await admin.execute(f"CREATE TABLE {table} (a int); INSERT INTO {table} VALUES (1)")
    query = f"SELECT * FROM {name} WHERE a > %s".encode()
    try:
        async with await psycopg.AsyncConnection.connect(conninfo(seat), autocommit=True) as conn:
            cursor = await conn.execute(query, (0,), prepare=True)
            assert await cursor.fetchall() == [(1,)]
            await admin.execute(f"ALTER TABLE {table} ADD COLUMN b text DEFAULT 'new'")
            if seat.mode == "session":  # as at a server: who has the session alone is told
                with pytest.raises(psycopg.errors.FeatureNotSupported):
                    await conn.execute(query, (0,), prepare=True)
            else:
                cursor = await conn.execute(query, (0,), prepare=True)
                assert await cursor.fetchall() == [(1, "new")]
                assert [column.name for column in cursor.description or ()] == ["a", "b"]
        async with await psycopg.AsyncConnection.connect(conninfo(seat), autocommit=True) as conn:
            cursor = await conn.execute(query, (0,), prepare=True)
            assert await cursor.fetchall() == [(1, "new")]
    finally:
        await admin.execute(f"DROP TABLE {table}")


async def test_asyncpg_hears_of_it_as_from_a_server_and_goes_on(seat: Seat, admin: asyncpg.Connection) -> None:
    name = f"forms_{seat.mode}"
    table = f'"{seat.schema}".{name}'
    await admin.execute(f"CREATE TABLE {table} (a int); INSERT INTO {table} VALUES (1)")
    conn = await asyncpg.connect(**arguments(seat))
    try:
        assert [tuple(row) for row in await conn.fetch(f"SELECT * FROM {name}")] == [(1,)]
        await admin.execute(f"ALTER TABLE {table} ADD COLUMN b text DEFAULT 'new'")
        assert [tuple(row) for row in await conn.fetch(f"SELECT * FROM {name}")] == [(1, "new")]
        await admin.execute(f"ALTER TABLE {table} ALTER COLUMN a TYPE text")
        assert [tuple(row) for row in await conn.fetch(f"SELECT * FROM {name}")] == [("1", "new")]
    finally:
        await conn.close(timeout=PATIENCE)
        await admin.execute(f"DROP TABLE {table}")
