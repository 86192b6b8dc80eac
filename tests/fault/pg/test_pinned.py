"""Does a client in transaction mode find again what it left in its session, as with a server? And at whose expense?"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import psycopg
import pytest

from tenantproxy.model import tenant_id
from tests.support.model_server import SYNC, parse, query, run
from tests.support.port_house import PortHouse, a_port, users
from tests.support.waiting import PATIENCE, until
from tests.support.wire_client import PASSWORD, WireClient
from tests.support.world import World

TENANT = "database1"
PID = "SELECT pg_backend_pid()"
LEFT = {
    "a temporary table": ("CREATE TEMP TABLE kept (n int)", "SELECT count(*) FROM kept", "0", "DROP TABLE kept"),
    "one made of a query": ("SELECT 1 AS n INTO TEMP kept", "SELECT n FROM kept", "1", "DROP TABLE kept"),
    "a cursor held": ("DECLARE kept CURSOR WITH HOLD FOR SELECT 7", "FETCH kept", "7", "CLOSE kept"),
    "a lock": (
        "SELECT pg_advisory_lock(4711)",
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()",
        "1",
        "SELECT pg_advisory_unlock(4711)",
    ),
    "a setting in a select": (
        "SELECT set_config('work_mem', '77MB', false)",
        "SELECT current_setting('work_mem')",
        "77MB",
        "RESET work_mem",
    ),
    "a setting of its own": (
        "SELECT set_config('app.user_id', 'me', false)",
        "SELECT current_setting('app.user_id')",
        "me",
        "RESET ALL",
    ),
    "a setting": ("SET geqo_seed = 0.5", "SELECT current_setting('geqo_seed')", "0.5", "RESET geqo_seed"),
}


@asynccontextmanager
async def port_of(world: World, max_size: int = 2, **pg: Any) -> AsyncIterator[PortHouse]:
    """A port whose tenant may make temporary tables."""
    tenant = next(each for each in world.tenants if each.id == tenant_id(TENANT))
    listens = {"listen": "127.0.0.1:0", "users": users()} | pg
    pools = {"max_size": max_size, "acquire_timeout": PATIENCE}
    async with a_port(world, pools=pools, pg=listens) as house, world.database(tenant).connect() as admin:
        await admin.execute(f'GRANT TEMP ON DATABASE "{world.database(tenant).name}" TO PUBLIC')
        yield house


async def asks(client: WireClient, sql: str, way: str) -> str | None:
    if way == "simple":
        client.send(query(sql.encode()))
    else:
        client.send(parse(b"", sql.encode()) + run() + SYNC)
    answer = await client.answer()
    assert not answer.errors, (sql, answer.errors)
    return answer.rows[0][0] if answer.rows else None


async def free(client: WireClient, house: PortHouse) -> None:
    """It holds no backend any more."""
    held = house.listener._clients[client.pid]
    await until(lambda: not held.holds_backend, "its backend is given back")


@pytest.mark.parametrize("way", ["simple", "extended"])
@pytest.mark.parametrize("what", LEFT)
async def test_what_a_client_left_is_there_until_it_ends_it_and_no_other_client_meets_it(
    lasting: World, what: str, way: str
) -> None:
    leaves, looks, value, ends = LEFT[what]
    async with port_of(lasting) as house, house.a_client(TENANT) as client, house.a_client(TENANT) as other:
        clean = (await other.query("SELECT current_setting('work_mem')")).value
        await asks(client, leaves, way)
        pid = await asks(client, PID, way)
        assert await asks(client, looks, way) == value
        assert await asks(other, PID, way) != pid
        await asks(client, "BEGIN", way)
        await asks(client, "SELECT 1", way)
        await asks(client, "COMMIT", way)
        assert await asks(client, PID, way) == pid
        assert house.listener.pg_stats().pinned == 1
        await asks(client, ends, way)
        await free(client, house)
        assert house.listener.pg_stats().pinned == 0
        assert (house.listener.limits()[-1].name, house.listener.limits()[-1].used) == ("max_pinned", 0)
        assert (await other.query("SELECT current_setting('work_mem')")).value == clean


async def test_a_setting_that_one_of_several_statements_made_lasts_until_all_are_reset(lasting: World) -> None:
    async with port_of(lasting) as house, house.a_client(TENANT) as client:
        await client.query("SELECT 1; SET app.user_id = 'me'; SET geqo_seed = 0.5")
        assert (await client.query("SELECT current_setting('app.user_id')")).value == "me"
        await client.query("RESET geqo_seed")
        assert (await client.query("SELECT current_setting('app.user_id')")).value == "me"
        await client.query("RESET ALL")
        await free(client, house)


async def test_nothing_is_kept_for_what_did_not_happen_or_is_gone_with_its_transaction(lasting: World) -> None:
    async with port_of(lasting) as house, house.a_client(TENANT) as client:
        for statements in (
            ("BEGIN", "CREATE TEMP TABLE gone (n int)", "ROLLBACK"),
            ("BEGIN", "CREATE TEMP TABLE gone (n int) ON COMMIT DROP", "COMMIT"),
            ("BEGIN", "SET LOCAL work_mem = '77MB'", "COMMIT"),
            ("BEGIN; SET LOCAL work_mem = '77MB'; SELECT 1; COMMIT",),
            ("BEGIN", "DECLARE gone CURSOR FOR SELECT 1", "COMMIT"),
            ("SELECT pg_try_advisory_lock(1), pg_advisory_unlock(1)",),
            ("SET geqo_seed = 0.5; RESET geqo_seed",),
            ("CREATE TEMP TABLE gone (n no_such_type)",),
            ("SELECT set_config('work_mem', '77MB', false)", "DISCARD ALL"),
        ):
            for sql in statements:
                await client.query(sql)
            await free(client, house)


async def test_drivers_work_on_their_temporary_tables_across_transactions(lasting: World) -> None:
    async with port_of(lasting, 4) as house:
        place = f"postgresql://all:{PASSWORD}@127.0.0.1:{house.number}/{TENANT}?sslmode=disable"
        asyncs = await asyncpg.connect(place)
        psycopgs = await psycopg.AsyncConnection.connect(place)
        try:
            for n in range(3):
                async with asyncs.transaction():
                    await asyncs.execute("CREATE TEMP TABLE IF NOT EXISTS mine (n int)")
                    await asyncs.execute("INSERT INTO mine VALUES ($1)", n)
                async with psycopgs.transaction():
                    await psycopgs.execute("CREATE TEMP TABLE IF NOT EXISTS mine (n int)")
                    await psycopgs.execute("INSERT INTO mine VALUES (%s)", (n + 10,))
                async with house.a_client(TENANT) as other:
                    assert (await other.query("SELECT * FROM mine")).sqlstate == "42P01"
            assert [row["n"] for row in await asyncs.fetch("SELECT n FROM mine ORDER BY n")] == [0, 1, 2]
            found = await psycopgs.execute("SELECT n FROM mine ORDER BY n")
            assert await found.fetchall() == [(10,), (11,), (12,)]
        finally:
            await asyncs.close()
            await psycopgs.close()


async def test_two_migrations_wait_for_each_others_lock_as_with_a_server(lasting: World) -> None:
    async with port_of(lasting, 6) as house:
        order: list[int] = []

        async def migrate(n: int) -> None:
            async with house.a_client(TENANT) as client:
                assert not (await client.query("SELECT pg_advisory_lock(99)")).errors
                order.append(n)
                for sql in ("BEGIN", "SELECT 1", "COMMIT"):
                    await client.query(sql)
                order.append(n)
                assert (await client.query("SELECT pg_advisory_unlock(99)")).value == "t"

        await asyncio.gather(*(migrate(n) for n in range(3)))
        assert order[::2] == order[1::2], "two had the lock at once"


@pytest.mark.parametrize("way", ["simple", "extended"])
async def test_one_client_more_than_may_hears_so_before_anything_has_run(lasting: World, way: str) -> None:
    async with port_of(lasting, 3, max_pinned=1) as house:
        first, second = await house.client(TENANT), await house.client(TENANT)
        await asks(first, "SELECT pg_advisory_lock(1)", way)
        for sql in ("SELECT pg_advisory_lock(2)", "SET geqo_seed = 0.5", "CREATE TEMP TABLE t (n int)"):
            second.send(query(sql.encode()) if way == "simple" else parse(b"", sql.encode()) + run() + SYNC)
            answer = await second.answer()
            assert answer.sqlstate == "53300"
            assert "max_pinned = 1" in answer.errors[0]["D"]
            assert (len(answer.errors), answer.tags, answer.status) == (1, [], "I")
        assert (await second.query("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")).value == "1"
        await second.query("BEGIN")
        second.send(query(b"SELECT pg_advisory_lock(2)"))
        assert (await second.answer()).status == "E", "an error aborts a transaction"
        await second.query("ROLLBACK")
        assert house.listener.limits()[-1].refused == 4
        await first.query("DISCARD ALL")
        await free(first, house)
        await asks(second, "SELECT pg_advisory_lock(2)", way)


async def test_a_client_that_idles_on_what_it_keeps_is_ended_when_others_wait_long(lasting: World) -> None:
    async with port_of(lasting, 1, idle_transaction_timeout=0.2) as house:
        client, other = await house.client(TENANT), await house.client(TENANT)
        await client.query("SELECT pg_advisory_lock(1)")
        assert (await other.query("SELECT 1")).value == "1"
        assert (await client.rest()).sqlstate == "57P05"


@pytest.mark.parametrize("way", ["simple", "extended"])
async def test_refused_is_refused_before_it_has_run_and_says_by_what(lasting: World, way: str) -> None:
    async with port_of(lasting, session_features="refuse") as house, house.a_client(TENANT) as client:
        for leaves, *_ in LEFT.values():
            client.send(query(leaves.encode()) if way == "simple" else parse(b"", leaves.encode()) + run() + SYNC)
            answer = await client.answer()
            assert (answer.sqlstate, answer.tags, answer.status) == ("0A000", [], "I"), leaves
            assert "session_features" in answer.errors[0]["H"]
        assert await asks(client, "SELECT set_config('a.b', 'c', true)", way) == "c"
        async with house.a_client(TENANT, "session") as own:
            await asks(own, "SELECT pg_advisory_lock(1)", way)


@pytest.mark.parametrize("way", ["simple", "extended"])
async def test_warned_of_is_gone_when_its_transaction_is_over(lasting: World, way: str) -> None:
    async with port_of(lasting, 1, session_features="warn") as house, house.a_client(TENANT) as client:
        for leaves, looks, value, _ in LEFT.values():
            client.send(query(leaves.encode()) if way == "simple" else parse(b"", leaves.encode()) + run() + SYNC)
            answer = await client.answer()
            assert not answer.errors
            await free(client, house)
            after = await client.query(looks)
            assert after.errors or after.rows != [[value]], leaves
        assert client.notices, "it was not told"
