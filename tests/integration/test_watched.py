"""Is each lease and statement told to who looks at them, of the right tenant, and nothing where none looks?"""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from tenantproxy.driver.connection import TenantConnection
from tenantproxy.events import Event, SlowLease, SlowStatement
from tenantproxy.router import Router
from tenantproxy.watch import LeaseOver, StatementOver
from tests.support.port_house import a_port
from tests.support.sql_house import a_sql_house
from tests.support.waiting import until
from tests.support.wire_client import PASSWORD
from tests.support.world import World

CANARY = "s3cr3t"
SELECT = f"SELECT '{CANARY}', count(*) FROM projects /* {CANARY} */"
TOLD = "SELECT ?, count(*) FROM projects"


class Looks:
    """A watch that keeps what it is told."""

    def __init__(self) -> None:
        self.leases: list[LeaseOver] = []
        self.statements: list[StatementOver] = []

    def lease(self, lease: LeaseOver) -> None:
        self.leases.append(lease)

    def statement(self, statement: StatementOver) -> None:
        self.statements.append(statement)


async def test_each_statement_and_lease_of_the_library_is_told_of_its_tenant(world: World) -> None:
    looks = Looks()
    async with Router(world.settings(), watch=looks) as router:
        for tenant in world.tenants:
            looks.leases.clear()
            looks.statements.clear()
            async with router.tenant(tenant.id).connection() as conn:
                await conn.fetch("SELECT 1")
                await conn.execute("SELECT 2")
                with pytest.raises(asyncpg.DivisionByZeroError):
                    await conn.fetchval("SELECT 1/0")
            assert await router.tenant(tenant.id).fetchval("SELECT 3") == 3
            told = [(each.text, each.tenant, each.error) for each in looks.statements]
            assert told == [
                ("SELECT 1", tenant.id, ""),
                ("SELECT 2", tenant.id, ""),
                ("SELECT 1/0", tenant.id, "22012"),
                ("SELECT 3", tenant.id, ""),
            ]
            assert {(each.tenant, each.isolation) for each in looks.leases} == {(tenant.id, tenant.placement.isolation)}
            assert len(looks.leases) == 2


async def test_a_lease_says_how_long_its_caller_waited_and_held_it(world: World) -> None:
    looks = Looks()
    async with Router(world.settings(pools={"max_size": 1}), watch=looks) as router:
        scope = router.tenant("row1")
        assert await scope.fetchval("SELECT 1") == 1  # what is looked at before the first lease is
        looks.leases.clear()

        async def second() -> None:
            assert await scope.fetchval("SELECT 1") == 1

        async with scope.connection() as conn:
            waiting = asyncio.create_task(second())
            await until(lambda: any(pool.waiting for pool in router.stats().pools), "the second waits")
            await conn.fetchval("SELECT pg_sleep(0.05)")
        await waiting
        first, other = [each for each in looks.leases if each.tenant == "row1"]
        assert first.held >= 0.05
        assert first.waited < 0.04 < other.waited
        assert await scope.fetchval("SELECT 1") == 1
        assert looks.leases[-1].waited < other.waited


async def test_connections_are_of_the_plain_class_where_none_looks(world: World) -> None:
    async with Router(world.settings()) as router:
        assert router.lease_watch is None
        tenant = world.tenants[-1].id
        async with router.tenant(tenant).connection():
            kinds = {type(conn.con) for pool in router._parts.pools() for conn in pool.connections()}
        assert all(TenantConnection.fetch is kind.fetch for kind in kinds)


async def test_the_port_tells_statements_of_either_protocol_without_literals(world: World) -> None:
    async with a_port(world, log={"slow_statement": 0.000001, "slow_lease": 0.000001}) as house:
        assert not house.listener.pg_stats().is_compiled
        async with house.a_client("row1") as client:
            await client.query(SELECT)
        driver = await asyncpg.connect(
            host="127.0.0.1", port=house.number, user="all", password=PASSWORD, database="row2", ssl=False
        )
        for _ in range(2):
            await driver.fetch(SELECT)
        await driver.close()
        events = house.router.events
        await until(lambda: told(events, SlowLease, "row2") >= 2, "its leases are told")
    statements = [each for each in events if isinstance(each, SlowStatement)]
    assert told(events, SlowLease, "row1") >= 1
    assert [each.statement for each in statements if each.tenant == "row1"].count(TOLD) == 1
    assert [each.statement for each in statements if each.tenant == "row2"].count(TOLD) >= 2
    assert CANARY not in repr(events)


def told(events: list[Event], kind: type[SlowLease], tenant: str) -> int:
    """How many of that kind are of this tenant."""
    return sum(isinstance(each, kind) and each.tenant == tenant for each in events)


async def test_sql_over_http_tells_its_statements(world: World) -> None:
    async with a_sql_house(world, log={"slow_statement": 0.000001}) as house:
        assert (await house.ask(SELECT)).status == 200
        assert (await house.ask("SELECT 1/0")).status == 400
        statements = [each for each in house.port.router.events if isinstance(each, SlowStatement)]
        assert [(each.statement, each.error) for each in statements if each.tenant == "row1"] == [
            (TOLD, ""),
            ("SELECT ?/?", "22012"),
        ]
