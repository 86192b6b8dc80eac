"""Do real drivers get along with the console, in both query protocols and with results in text and in binary?"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from decimal import Decimal

import asyncpg
import psycopg
import pytest

from tenantproxy.sidecar.pg.console.tables import TABLES
from tenantproxy.sidecar.pg.console.view import Counts
from tests.support.console import View, client, open_door, pool, tenant
from tests.support.waiting import PATIENCE

COUNTS = Counts(queries=123_456_789, transactions=10_000, received=99_990_000, query_seconds=1.5)


@pytest.fixture
def view() -> View:
    view = View()
    view.shown_clients = [client(1), client(2, None, user="ops"), client(3, "zoë", state="waiting")]
    view.pools = [pool("acme", tenant("acme", leased=1), used=1, idle=2)]
    view.counted = {"acme": COUNTS, "_other": Counts()}
    return view


@pytest.fixture
async def port(view: View) -> AsyncIterator[int]:
    async with open_door(view) as port:
        yield port


async def test_asyncpg_reads_every_table_in_binary(port: int) -> None:
    conn = await asyncpg.connect(host="127.0.0.1", port=port, user="ops", database="tenantproxy", ssl=False)
    try:
        for name, table in TABLES.items():
            statement = await conn.prepare(f"SHOW {name}")
            assert tuple(one.name for one in statement.get_attributes()) == table.columns
            rows = await statement.fetch()
            assert all(tuple(row.keys()) == table.columns for row in rows)
        stats = {row["database"]: row for row in await conn.fetch("SHOW STATS")}["acme"]
        assert (stats["total_query_count"], stats["total_xact_count"]) == (Decimal(123_456_789), Decimal(10_000))
        assert (stats["total_received"], stats["total_query_time"]) == (Decimal(99_990_000), Decimal(1_500_000))
        assert stats["total_sent"] == 0
        assert [row["database"] for row in await conn.fetch("SHOW CLIENTS")] == ["acme", "tenantproxy", "zoë"]
        with pytest.raises(asyncpg.PostgresSyntaxError, match="use SHOW HELP;"):
            await conn.fetch("SELECT 1")
        assert await conn.fetchval("SHOW VERSION") == "tenantproxy 1.2.3", "an error does not end the session"
        assert await conn.execute("SHOW HELP") == "SHOW"
    finally:
        await conn.close()


@pytest.mark.parametrize("autocommit", [True, False])
async def test_psycopg_reads_tables_and_gives_commands_with_and_without_transactions(
    port: int, view: View, autocommit: bool
) -> None:
    def talk() -> None:
        dsn = f"host=127.0.0.1 port={port} user=ops dbname=tenantproxy sslmode=prefer gssencmode=prefer"
        with psycopg.connect(dsn, autocommit=autocommit) as conn:
            pools = conn.execute("SHOW POOLS").fetchall()
            assert [row[:3] for row in pools] == [("acme", "app", 1), ("zoë", "app", 0)]
            with conn.cursor(binary=True) as cursor:
                cursor.execute("SHOW LISTS", prepare=True)
                lists: dict[str, int] = dict(cursor.fetchall())
            assert (lists["databases"], lists["used_clients"], lists["used_servers"]) == (2, 3, 3)
            conn.execute("PAUSE acme")
            with pytest.raises(psycopg.errors.InvalidCatalogName):
                conn.execute("PAUSE missing")
            conn.rollback()
            conn.execute("RESUME acme")
        assert view.done == ["pause acme", "resume acme"]

    await asyncio.to_thread(talk)


async def test_a_user_who_may_only_read_is_told_so_and_nothing_happens(view: View) -> None:
    async with open_door(view, may_change=False) as port:
        conn = await asyncpg.connect(host="127.0.0.1", port=port, user="ops", database="tenantproxy", ssl=False)
        try:
            for command in ("PAUSE acme", "RESUME acme", "KILL acme", "RELOAD", "kill", "/* SHOW */ KILL acme"):
                for give in (conn.execute, conn.fetch):
                    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="admin access needed"):
                        await give(command)
            assert await conn.fetch("SHOW TENANTS")
        finally:
            await conn.close()
    assert view.done == []


async def test_a_pause_answers_when_it_is_done_and_others_are_answered_meanwhile(port: int, view: View) -> None:
    view.may_pause.clear()
    first = await asyncpg.connect(host="127.0.0.1", port=port, user="ops", database="tenantproxy", ssl=False)
    second = await asyncpg.connect(host="127.0.0.1", port=port, user="ops", database="tenantproxy", ssl=False)
    try:
        pausing = asyncio.create_task(first.execute("PAUSE acme"))
        async with asyncio.timeout(PATIENCE):
            while "acme" not in view.stopped:
                await second.fetch("SHOW TENANTS")
        assert not pausing.done()
        view.may_pause.set()
        assert await pausing == "PAUSE"
    finally:
        await first.close()
        await second.close()
