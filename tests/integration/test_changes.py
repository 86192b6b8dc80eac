"""Does a change of the registry reach the pools that are open, also of tenants without callers and routes?"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from tenantproxy import Router
from tenantproxy.errors import TenantNotFound, TenantSuspended
from tenantproxy.model import TenantId, tenant_id
from tenantproxy.pools.base import PoolStats
from tests.support.port_house import PortHouse, a_port
from tests.support.waiting import until
from tests.support.world import World

COUNT = "SELECT count(*) FROM projects"


@pytest.fixture
async def router(world: World) -> AsyncIterator[Router]:
    """Remembers one route alone, and hears changes."""
    async with Router(world.settings(registry="postgres")) as router:
        router.routes._most = 1
        await router.listener.listening.wait()
        yield router


@pytest.fixture
async def admin(world: World) -> AsyncIterator[asyncpg.Connection]:
    async with world.main.connect() as conn:
        yield conn


def pool_of(router: Router, tenant: str) -> PoolStats | None:
    return next((pool for pool in router.stats().pools if pool.label == tenant), None)


async def use_all(router: Router, world: World) -> None:
    for tenant in world.tenants:
        await router.tenant(tenant.id).fetchval(COUNT)
    assert len(router.routes._routes) == 1


async def test_routes_are_bounded_and_the_least_recently_used_goes(router: Router, world: World) -> None:
    router.routes._most = 3
    names = [tenant.id for tenant in world.tenants]
    for name in (*names[:3], names[0], names[3]):
        await router.tenant(name).fetchval(COUNT)
    assert [key[0] for key in router.routes._routes] == [names[2], names[0], names[3]]


@pytest.mark.parametrize(
    "change", ["UPDATE tenantproxy.tenants SET status = 'suspended'", "DELETE FROM tenantproxy.tenants"]
)
async def test_a_tenant_that_is_gone_loses_its_connections_without_any_caller(
    router: Router, world: World, admin: asyncpg.Connection, change: str
) -> None:
    await use_all(router, world)
    assert pool_of(router, "database1") is not None
    await admin.execute(f"{change} WHERE id IN ('database1', 'schema1')")
    await until(lambda: not pool_of(router, "database1") and not pool_of(router, "schema1"), "their pools are closed")
    for name in ("database1", "schema1"):
        with pytest.raises((TenantSuspended, TenantNotFound)):
            await router.tenant(name).fetchval(COUNT)
    assert await router.tenant("database2").fetchval(COUNT) == 3


async def test_another_size_reaches_an_open_pool_and_who_waits_in_it(
    router: Router, world: World, admin: asyncpg.Connection
) -> None:
    await admin.execute("UPDATE tenantproxy.tenants SET max_size = 1")
    await use_all(router, world)
    scope = router.tenant("database1")
    await until(lambda: (pool := pool_of(router, "database1")) is not None and pool.limit == 1, "the limit is 1")
    async with scope.connection():
        waiting = asyncio.ensure_future(scope.fetchval(COUNT))
        await until(lambda: (pool := pool_of(router, "database1")) is not None and pool.waiting, "one more waits")
        await admin.execute("UPDATE tenantproxy.tenants SET max_size = 3 WHERE id = 'database1'")
        assert await waiting == 3
    await admin.execute("UPDATE tenantproxy.tenants SET max_size = 1 WHERE id = 'database1'")
    await until(lambda: (pool := pool_of(router, "database1")) is not None and pool.idle == 1, "the second is closed")
    assert await scope.fetchval(COUNT) == 3


async def test_another_size_reaches_a_tenant_that_works_in_a_shared_pool(
    router: Router, admin: asyncpg.Connection
) -> None:
    def is_heard(size: int) -> bool:
        return (known := router.registry.peek("row1")) is None or known.limits.max_size == size

    await admin.execute("UPDATE tenantproxy.tenants SET max_size = 1")
    await until(lambda: is_heard(1), "the change was heard")
    scope = router.tenant("row1")
    async with scope.connection():
        await admin.execute("UPDATE tenantproxy.tenants SET max_size = 2")
        await until(lambda: is_heard(2), "the change was heard")
        assert await scope.fetchval(COUNT) == 3


async def test_a_tenant_that_moved_loses_the_connections_to_where_it_was(
    router: Router, world: World, admin: asyncpg.Connection
) -> None:
    await use_all(router, world)
    one, two = (world.tenants[-2].placement.database, world.tenants[-1].placement.database)
    await admin.execute("DELETE FROM tenantproxy.tenants WHERE id = 'database2'")
    await admin.execute("UPDATE tenantproxy.tenants SET database = $1 WHERE id = 'database1'", two)
    await until(lambda: one not in {pool.key.database for pool in router.stats().pools}, "the former pool is closed")
    assert await router.tenant("database1").fetchval("SELECT current_database()") == two


async def test_the_ports_pools_follow_the_registry_too(world: World, admin: asyncpg.Connection) -> None:
    async with a_port(world, registry="postgres") as house:
        house.router.routes._most = 1
        await house.router.listener.listening.wait()
        for tenant in world.tenants:
            async with house.a_client(tenant.id) as client:
                await client.query(COUNT)
        assert raw_limit(house, "database1") == 10
        await admin.execute("UPDATE tenantproxy.tenants SET max_size = 2 WHERE id = 'database1'")
        await until(lambda: raw_limit(house, "database1") == 2, "the limit follows")
        await admin.execute("UPDATE tenantproxy.tenants SET status = 'suspended' WHERE id = 'database1'")
        await until(lambda: raw_limit(house, "database1") is None, "its backends are closed")
        assert raw_limit(house, "database2") == 10


def raw_limit(house: PortHouse, tenant: str) -> int | None:
    pools = house.lending._pools.of_tenant(TenantId(tenant_id(tenant)))
    return pools[0].limit if pools else None
