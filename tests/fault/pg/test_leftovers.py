"""What a statement leaves in its session without a tag that tells, does the next client of the tenant meet it?"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tenantproxy.model import tenant_id
from tests.support.model_server import SYNC, bind, execute, parse, query, run
from tests.support.port_house import PortHouse, a_port
from tests.support.wire_client import Answer, WireClient
from tests.support.world import World

pytestmark = pytest.mark.both_paths

TENANT = "database1"
LEFT = (
    "SELECT coalesce(current_setting('app.user_id', true), '') || ' ' || current_setting('work_mem')"
    " || ' ' || (SELECT count(*) FROM pg_class WHERE relpersistence = 't' AND pg_table_is_visible(oid))"
    " || ' ' || (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid())"
)
LEAVES = [
    "CREATE TEMP TABLE left_over AS SELECT 1 AS n",
    "CREATE/**/TEMPORARY TABLE left_over AS SELECT 1 AS n",
    "SELECT 1 AS n INTO TEMP left_over",
    "SELECT 1 AS n INTO --\rTEMP left_over",
    "CREATE -- a\n\fTEMP TABLE left_over AS SELECT 1 AS n",
    "EXPLAIN ANALYZE CREATE TABLE pg_temp.left_over AS SELECT 1 AS n",
    "SELECT set_config('app.user_id', 'alice', false)",
    "SELECT PG_CATALOG . SET_CONFIG('work_mem', '77MB', false)",
    "SELECT pg_advisory_lock(4711)",
    "SELECT pg_try_advisory_lock_shared(47, 11)",
]


@asynccontextmanager
async def one_backend(world: World) -> AsyncIterator[PortHouse]:
    """A port whose tenant has one, and may make temporary tables; no client keeps it."""
    tenant = next(each for each in world.tenants if each.id == tenant_id(TENANT))
    async with (
        a_port(world, pools={"max_size": 1}, pg={"session_features": "warn"}) as house,
        world.database(tenant).connect() as admin,
    ):
        await admin.execute(f'GRANT TEMP ON DATABASE "{world.database(tenant).name}" TO PUBLIC')
        yield house


async def says(client: WireClient, sql: str, way: str) -> Answer:
    """`sql`, in one of the ways that there are."""
    text = sql.encode()
    if way == "a query":
        client.send(query(text))
    elif way == "the last of several":
        client.send(query(b"SELECT 1; " + text))
    elif way == "in pieces":
        sent = query(b"SELECT 1; " + text + b" " * 50)
        for at in range(0, len(sent), 7):
            client.send(sent[at : at + 7])
            await client.writer.drain()
    elif way == "in an open transaction":
        client.send(query(b"BEGIN") + query(text) + query(b"COMMIT"))
        assert not (await client.answer()).errors
        answer = await client.answer()
        await client.answer()
        return answer
    elif way == "without a name":
        client.send(parse(b"", text) + run() + SYNC)
    elif way == "prepared before":
        client.send(parse(b"s", text) + SYNC)
        assert not (await client.answer()).errors
        client.send(bind(b"s") + execute() + SYNC)
    return await client.answer()


@pytest.mark.parametrize("user", ["all", "session"])
@pytest.mark.parametrize(
    "way",
    ["a query", "the last of several", "in pieces", "in an open transaction", "without a name", "prepared before"],
)
async def test_the_next_client_of_the_tenant_meets_nothing_that_a_statement_left(
    lasting: World, way: str, user: str
) -> None:
    async with one_backend(lasting) as house:
        async with house.a_client(TENANT) as client:
            clean = (await client.query(LEFT)).value
        for sql in LEAVES:
            async with house.a_client(TENANT) as client:
                assert not (await says(client, sql, way)).errors, sql
            async with house.a_client(TENANT, user) as other:
                assert (await other.query(LEFT)).value == clean, sql


@pytest.mark.parametrize("sql", ["SELECT set_config('app.user_id', 'alice', false)", "SELECT pg_advisory_lock(4711)"])
async def test_nor_what_a_statement_without_a_name_leaves_that_was_parsed_on_another_lease(
    lasting: World, sql: str
) -> None:
    """Drivers that ask for the types first do so: Parse, Describe, Sync, and then Bind."""
    async with one_backend(lasting) as house, house.a_client(TENANT) as client, house.a_client(TENANT) as other:
        clean = (await other.query(LEFT)).value
        for _ in range(2):
            client.send(parse(b"", sql.encode()) + SYNC)
            assert not (await client.answer()).errors
            for _ in range(2):
                assert (await other.query(LEFT)).value == clean
                client.send(run() + SYNC)
                assert not (await client.answer()).errors
                assert (await other.query(LEFT)).value == clean


async def test_what_is_set_for_the_transaction_alone_costs_no_reset(lasting: World) -> None:
    async with one_backend(lasting) as house, house.a_client(TENANT) as client:
        await client.query("SELECT 1")
        before = house.router.stats().resets["ok"]
        for sql in (
            "SELECT set_config('app.user_id', 'alice', true)",
            "SELECT pg_advisory_xact_lock(4711)",
            "SELECT set_config('TimeZone', 'Asia/Tokyo', false)",
            "SELECT 1 AS temp, 2 AS attempts",
        ):
            assert not (await client.query(sql)).errors
        assert house.router.stats().resets["ok"] == before
