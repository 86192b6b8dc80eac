"""Does a tenant that is suspended or deleted lose all that it has in a process, and no other tenant anything?"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import asyncpg
import pytest

from tenantproxy import Router
from tenantproxy.embedded import EmbeddedPostgres
from tenantproxy.errors import TenantEnded, TenantNotFound, TenantSuspended
from tests.support.lasting import lasting as kept
from tests.support.port_house import a_port
from tests.support.waiting import until
from tests.support.world import World, a_world

COUNT = "SELECT count(*) FROM projects"
KINDS = ("row1", "schema1", "database1")


@pytest.fixture(scope="module")
def house(postgres: EmbeddedPostgres) -> Iterator[World]:
    with kept(a_world(postgres)) as world:
        yield world


@pytest.fixture
async def admin(house: World) -> AsyncIterator[asyncpg.Connection]:
    async with house.main.connect() as conn:
        yield conn
        await conn.execute("UPDATE tenantproxy.tenants SET status = 'active' WHERE status <> 'active'")


@pytest.fixture
async def router(house: World) -> AsyncIterator[Router]:
    async with Router(house.settings(registry="postgres", pools={"shared_size": 2})) as router:
        await router.listener.listening.wait()
        yield router


def used_by(router: Router) -> set[str]:
    """The tenants that hold a connection."""
    return {each.tenant for pool in router.stats().pools for each in pool.tenants if each.leased}


async def suspend(admin: asyncpg.Connection, tenant: str) -> None:
    await admin.execute("UPDATE tenantproxy.tenants SET status = 'suspended' WHERE id = $1", tenant)


@pytest.mark.parametrize("tenant", KINDS)
async def test_a_transaction_of_a_suspended_tenant_is_ended_with_an_error_of_its_own(
    router: Router, admin: asyncpg.Connection, tenant: str
) -> None:
    async def works() -> None:
        async with router.tenant(tenant).transaction() as conn:
            await conn.execute("INSERT INTO projects (name) VALUES ('never')" if tenant != "row1" else "SELECT 1")
            await conn.execute("SELECT pg_sleep(60)")

    working = asyncio.ensure_future(works())
    other = router.tenant(f"{tenant[:-1]}2")
    async with other.transaction() as conn:
        await until(lambda: used_by(router) >= {tenant, f"{tenant[:-1]}2"}, "both work")
        await suspend(admin, tenant)
        with pytest.raises(TenantEnded, match="the tenant is suspended") as told:
            await asyncio.wait_for(working, 10)
        assert (told.value.sqlstate, told.value.http_status, told.value.retryable) == ("57P01", 403, False)
        assert await conn.fetchval(COUNT) == 3, "others go on"
    with pytest.raises(TenantSuspended):
        await router.tenant(tenant).fetchval(COUNT)


async def test_who_waits_in_a_shared_pool_is_refused_when_its_tenant_is_suspended(
    router: Router, admin: asyncpg.Connection
) -> None:
    async with router.tenant("row2").connection(), router.tenant("row2").connection():
        waiting = asyncio.ensure_future(router.tenant("row1").fetchval(COUNT))
        await until(lambda: any(pool.waiting for pool in router.stats().pools), "it waits")
        await suspend(admin, "row1")
        with pytest.raises((TenantEnded, TenantSuspended)):
            await asyncio.wait_for(waiting, 10)


async def test_a_client_of_the_port_that_is_idle_is_ended_with_its_tenant(
    house: World, admin: asyncpg.Connection
) -> None:
    async with a_port(house, registry="postgres") as port:
        await port.router.listener.listening.wait()
        clients = {name: await port.client(name) for name in (*KINDS, "row2")}
        for name in KINDS:
            await suspend(admin, name)
        for name in KINDS:
            (error,) = (await clients[name].rest()).errors
            assert (error["C"], "suspended" in error["M"]) == ("57P01", True)
        assert (await clients["row2"].query(COUNT)).rows == [["3"]]
        await clients["row2"].close()


async def test_what_a_tenant_that_is_gone_counted_is_in_the_sum_of_former_ones(
    router: Router, house: World, admin: asyncpg.Connection
) -> None:
    await router.tenant("database2").fetchval(COUNT)
    assert router.stats().acquires["database2"]["ok"] == 1
    row = await admin.fetchrow("DELETE FROM tenantproxy.tenants WHERE id = 'database2' RETURNING *")
    assert row is not None
    try:
        await until(lambda: "database2" not in router.stats().acquires, "its series are gone")
        assert router.stats().former_acquires["ok"] >= 1
        with pytest.raises(TenantNotFound):
            await router.tenant("database2").fetchval(COUNT)
    finally:
        await admin.execute("INSERT INTO tenantproxy.tenants SELECT ($1::tenantproxy.tenants).*", tuple(row.values()))
