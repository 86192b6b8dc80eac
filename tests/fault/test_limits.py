"""Are callers served when PostgreSQL allows fewer connections than the configuration hopes for?"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from tenantproxy.events import ConnectFailure, LimitLowered
from tests.fault.conftest import own_world
from tests.fault.test_budget import COUNT
from tests.support.checked import CheckedRouter, checked
from tests.support.database import Database
from tests.support.waiting import until
from tests.support.world import SERVER, World

SMALL = 20  # max_connections of a server, of which three are for superusers


async def served(router: CheckedRouter, *tenants: str) -> bool:
    """Whether each of the callers got its own tenant's answer."""
    return set(await asyncio.gather(*(router.tenant(name).fetchval(COUNT) for name in tenants))) == {3}


async def test_a_budget_above_the_servers_limit_is_lowered_and_told_once() -> None:
    async with own_world(SMALL, rows=2, databases=3) as world:
        settings = world.settings(servers={SERVER: {"max_connections": 200}}, pools={"acquire_timeout": 60.0})
        async with checked(settings, world) as router:
            assert await served(router, *(tenant.id for tenant in world.tenants * 20))
            assert router.stats().servers[0].limit == SMALL - 3
            told = [event for event in router.events if isinstance(event, LimitLowered)]
            expected = LimitLowered(server=SERVER, pool="", configured=200, limit=SMALL - 3, by="max_connections")
            assert told == [expected]
            assert not router.count(ConnectFailure)


async def test_a_limit_of_a_database_concerns_its_own_tenant_alone() -> None:
    async with own_world(SMALL, rows=1, databases=2) as world:
        (limited, other) = [tenant for tenant in world.tenants if tenant.id.startswith("database")]
        async with Database(server=world.server, name="postgres").connect() as admin:
            await admin.execute(f'ALTER DATABASE "{limited.placement.database}" CONNECTION LIMIT 2')
        async with checked(world.settings(pools={"acquire_timeout": 60.0}), world) as router:
            assert await served(router, limited.id)
            assert await served(router, *[limited.id] * 20, *[other.id] * 5, "row1")
            limits = {pool.label: pool.limit for pool in router.stats().pools}
            assert (limits[limited.id], limits[other.id]) == (2, 10)
            assert not router.count(ConnectFailure)


@contextlib.asynccontextmanager
async def taken(world: World, count: int) -> AsyncIterator[None]:
    """Others have so many connections of the server."""
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(count):
            await stack.enter_async_context(world.app(world.main))
        yield


async def test_where_others_fill_the_server_idle_connections_make_room_for_callers() -> None:
    async with own_world(SMALL, rows=1, databases=2) as world:
        settings = world.settings(servers={SERVER: {"max_connections": 200}}, pools={"acquire_timeout": 60.0})
        async with checked(settings, world) as router:
            async with contextlib.AsyncExitStack() as leases:
                for _ in range(4):
                    await leases.enter_async_context(router.tenant("database1").connection())
            await until(lambda: router.is_at_rest, "four connections lie idle")
            free = SMALL - 3 - router.budgets[SERVER].in_use
            async with taken(world, free):
                assert await served(router, "database2")
                assert router.count(ConnectFailure) >= 1, "the server had room"
                assert {pool.label: pool.idle for pool in router.stats().pools}["database1"] < 4
                assert await served(router, *["database2", "database1"] * 10)


async def test_two_names_of_one_server_share_one_budget(lasting: World) -> None:
    copy = {"host": lasting.server.host, "port": lasting.server.port, "user": "app", "password": "not needed"}
    settings = lasting.settings(
        servers={SERVER: {"max_connections": 8}, "alias": copy | {"ssl": "disable", "max_connections": 30}}
    )
    async with checked(settings, lasting) as router:
        assert router.budgets["alias"] is router.budgets[SERVER]
        assert [(one.server, one.limit) for one in router.stats().servers] == [(SERVER, 8)]
