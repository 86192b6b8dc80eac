"""Does what only asyncpg does work at every seat: its cache of statements, its cursors, its pool, its cancelling?"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from typing import TypeAlias

import asyncpg
import pytest

from tests.e2e.pg.clients.asyncpg_client import arguments
from tests.e2e.pg.seats import Seat
from tests.support.waiting import PATIENCE

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


@pytest.fixture
async def conn(seat: Seat) -> AsyncIterator[Connection]:
    """One connection."""
    conn = await asyncpg.connect(**arguments(seat))
    yield conn
    await conn.close(timeout=PATIENCE)


async def test_many_rows_are_written_all_or_none(conn: Connection) -> None:
    mark = secrets.token_hex(6)
    count = "SELECT count(*) FROM notes WHERE body = $1"
    await conn.executemany("INSERT INTO notes (body) VALUES ($1)", [(mark,)] * 2000)
    assert await conn.fetchval(count, mark) == 2000
    with pytest.raises(asyncpg.NotNullViolationError):
        await conn.executemany("INSERT INTO notes (body) VALUES ($1)", [(mark,)] * 100 + [(None,)])
    assert await conn.fetchval(count, mark) == 2000
    rows = await conn.fetchmany("DELETE FROM notes WHERE body = $1 RETURNING body", [(mark,), (mark,)])
    assert len(rows) == 2000


async def test_a_cursor_reads_in_parts(conn: Connection) -> None:
    async with conn.transaction():
        total = 0
        async for row in conn.cursor("SELECT generate_series(1, 1000)", prefetch=50):
            total += row[0]
        cursor = await conn.cursor("SELECT generate_series(1, 100)")
        await cursor.forward(90)
        assert [row[0] for row in await cursor.fetch(20)] == list(range(91, 101))
    assert total == 500_500


async def test_a_timeout_cancels_and_the_connection_goes_on(conn: Connection) -> None:
    for _ in range(3):
        with pytest.raises(TimeoutError):
            await conn.fetch("SELECT pg_sleep(60)", timeout=0.05)
        assert await conn.fetchval("SELECT 7") == 7
    async with conn.transaction():
        with pytest.raises(asyncpg.DivisionByZeroError):
            async with conn.transaction():
                await conn.fetchval("SELECT 1 / $1::int", 0)
        assert await conn.fetchval("SELECT 1 / $1::int", 1) == 1


async def test_a_task_that_is_cancelled_in_a_copy_leaves_nothing(conn: Connection, seat: Seat) -> None:
    mark = secrets.token_hex(6)
    begun, never = asyncio.Event(), asyncio.Event()

    async def records() -> AsyncIterator[tuple[str]]:
        for _ in range(50_000):
            yield (mark,)
        begun.set()
        await never.wait()

    task = asyncio.create_task(conn.copy_records_to_table(seat.copy_into, records=records(), columns=["body"]))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await conn.fetchval("SELECT count(*) FROM notes WHERE body = $1", mark) == 0


async def test_its_pool_and_the_reset_that_it_sends_work_over_ours(seat: Seat) -> None:
    async def work(pool: asyncpg.Pool[asyncpg.Record], number: int) -> None:
        for turn in range(10):
            async with pool.acquire(timeout=30) as conn:
                await conn.execute("SET TimeZone = 'Asia/Tokyo'")
                assert await conn.fetchval(f"SELECT $1::int + {number}", turn) == turn + number
                async with conn.transaction():
                    assert await conn.fetchval("SELECT count(*) FROM projects") == 3
            async with pool.acquire(timeout=30) as conn:  # its RESET ALL has been
                assert await conn.fetchval("SELECT current_setting('TimeZone')") != "Asia/Tokyo"

    async with asyncpg.create_pool(**arguments(seat, seat.crowded), min_size=1, max_size=3) as pool:
        await asyncio.gather(*(work(pool, number) for number in range(5)))


async def test_types_that_it_looks_up_come_as_they_are(conn: Connection, seat: Seat) -> None:
    # A row of a table is of a type that it knows nothing of: it asks, with settings of its own around the question.
    for _ in range(2):
        row = await conn.fetchrow(
            "SELECT projects, '[1,3)'::int4range, ARRAY[1, 2] FROM projects ORDER BY name LIMIT 1"
        )
        assert row is not None
        assert (row[0]["name"], row[1], row[2]) == (seat.rows[0], asyncpg.Range(1, 3), [1, 2])
        await conn.reload_schema_state()


async def test_its_cache_of_statements_survives_being_emptied(seat: Seat) -> None:
    # A cache of two: it closes statements all the time, by names that other clients have too.
    conns = [await asyncpg.connect(**arguments(seat, seat.crowded), statement_cache_size=2) for _ in range(2)]
    try:
        for turn in range(5):
            for text in range(5):
                for number, conn in enumerate(conns):
                    found = await conn.fetchval(f"SELECT $1::int + {100 * text + 1000 * number}", turn)
                    assert found == turn + 100 * text + 1000 * number
        for conn in conns:
            await conn.reload_schema_state()
            assert await conn.fetchval("SELECT $1::int", 7) == 7
    finally:
        for conn in conns:
            await conn.close(timeout=PATIENCE)


async def test_what_it_was_told_of_the_server_is_normalised(conn: Connection) -> None:
    settings = conn.get_settings()
    assert settings.client_encoding == "UTF8"
    assert settings.standard_conforming_strings == "on"
    assert settings.is_superuser == "off"
    assert conn.get_server_version().major >= 15


async def test_advisory_locks_of_a_transaction_end_with_it(conn: Connection, seat: Seat) -> None:
    key = secrets.randbelow(2**40)
    other = await asyncpg.connect(**arguments(seat))
    try:
        async with conn.transaction():
            await conn.execute("SELECT pg_advisory_xact_lock($1)", key)
            assert await other.fetchval("SELECT pg_try_advisory_xact_lock($1)", key) is False
        assert await other.fetchval("SELECT pg_try_advisory_xact_lock($1)", key) is True
    finally:
        await other.close(timeout=PATIENCE)
