"""Which of several hosts serves, and who notices when that changes? With a real standby, by library and port."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from tenantproxy import Router
from tenantproxy.cli.fleet import fleet as fleet_rows
from tenantproxy.config import fleet_key
from tenantproxy.connect.failures import LOST
from tenantproxy.embedded import EmbeddedPostgres
from tenantproxy.errors import ConnectFailed, IsolationError, PoolTimeout, ServerMoved
from tenantproxy.events import Event, FleetAlone, HostRefused
from tenantproxy.fleet.client import SIZE_VARIABLE
from tenantproxy.fleet.link import FleetLink
from tenantproxy.lifecycle.access import connect_as
from tenantproxy.lifecycle.fleet import install_fleet
from tenantproxy.model import Isolation
from tenantproxy.registry.memory import MemoryRegistry
from tenantproxy.scope import TenantScope
from tests.support.database import Database
from tests.support.failovers import PORT, WRITES, fail_over, rows_of, write
from tests.support.port_house import PortHouse, a_port
from tests.support.standby import Replicated, a_replicated_world, address_of, keys_of
from tests.support.waiting import until
from tests.support.world import APP_ROLE, SERVER, a_world

pytestmark = pytest.mark.timeout(180)  # a base backup and a promotion, on a machine that may be busy


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lasting() -> AsyncIterator[Replicated]:
    """A primary and a standby that stay what they are."""
    async with a_replicated_world(rows=1, schemas=1, databases=1) as made:
        yield made


@pytest.fixture
async def replicated() -> AsyncIterator[Replicated]:
    """Two to fail over between."""
    async with a_replicated_world(rows=1, schemas=1, databases=1) as made:
        yield made


@contextmanager
def silent() -> Iterator[str]:
    """The address of a host whose kernel accepts, and which never says anything."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        host, port = listener.getsockname()
        yield f"{host}:{port}"


def refused(house: PortHouse) -> list[tuple[str, str]]:
    return [(event.host, event.reason) for event in house.router.events if isinstance(event, HostRefused)]


# --- which one -------------------------------------------------------------------------------------------------------
async def test_hosts_that_are_gone_silent_or_standbys_are_passed_over(
    lasting: Replicated, unused_tcp_port_factory: Callable[[], int]
) -> None:
    with silent() as never:
        hosts = lasting.hosts(f"127.0.0.1:{unused_tcp_port_factory()}", never)
        async with a_port(lasting.world, servers={SERVER: hosts}) as house:
            await write(house, lasting.world)
            (server,) = house.router.stats().servers
            assert (server.host, server.failovers) == (address_of(lasting.world.server), 0)
            assert server.limit == server.configured - 1, "what looks at the host that serves is part of the budget"


@pytest.mark.parametrize(
    ("attrs", "is_standby"), [("standby", True), ("prefer-standby", True), ("read-only", True), ("primary", False)]
)
async def test_target_session_attrs_decides_where_tenants_of_a_server_work(
    lasting: Replicated, attrs: str, is_standby: bool
) -> None:
    world = lasting.world
    wanted = lasting.standby if is_standby else world.server
    servers = {SERVER: lasting.hosts() | {"target_session_attrs": attrs}, "direct": keys_of(world.server)}
    hosts = {"probe_database": world.main.name} if attrs == "standby" else {}
    servers[SERVER] |= hosts
    tenants = [*world.of(Isolation.SCHEMA), *world.of(Isolation.DATABASE)]
    if not is_standby:
        tenants += world.of(Isolation.ROW)
    changes: dict[str, Any] = {"main": {"server": "direct"}, "servers": servers, "registry": "postgres"}
    async with a_port(world, real={}, known=MemoryRegistry(tenants), **changes) as house:
        for tenant in tenants:
            assert await house.router.tenant(tenant.id).fetchval(PORT) == wanted.port
            async with house.a_client(tenant.id) as client:
                assert (await client.query(PORT)).value == str(wanted.port)


async def test_a_router_with_row_tenants_on_a_standby_does_not_open(lasting: Replicated) -> None:
    servers = {SERVER: lasting.hosts() | {"target_session_attrs": "standby"}, "direct": keys_of(lasting.world.server)}
    settings = lasting.world.settings(main={"server": "direct"}, servers=servers, registry="postgres")
    with pytest.raises(IsolationError, match="cannot be served from a standby"):
        async with Router(settings, registry=MemoryRegistry(lasting.world.tenants)):
            pass


async def test_prefer_standby_takes_the_primary_when_no_standby_answers(
    lasting: Replicated, unused_tcp_port_factory: Callable[[], int]
) -> None:
    world = lasting.world
    hosts = [f"127.0.0.1:{unused_tcp_port_factory()}", address_of(world.server)]
    servers = {SERVER: {"hosts": hosts, "target_session_attrs": "prefer-standby"}, "direct": keys_of(world.server)}
    changes: dict[str, Any] = {"main": {"server": "direct"}, "servers": servers, "registry": "postgres"}
    async with a_port(world, real={}, known=MemoryRegistry(world.tenants), **changes) as house:
        await write(house, world)


async def test_a_host_of_another_cluster_is_refused_and_told(lasting: Replicated, postgres: EmbeddedPostgres) -> None:
    async with a_world(postgres, rows=1, schemas=0, databases=0):  # so that our role and password are good there too
        hosts = lasting.hosts(address_of(postgres)) | {"probe_database": "postgres"}
        async with a_port(lasting.world, servers={SERVER: hosts}) as house:
            await write(house, lasting.world)
            await until(lambda: refused(house), "it is told")
            assert refused(house) == [(address_of(postgres), "another_cluster")]


async def test_a_cluster_with_another_identifier_than_is_configured_serves_nothing(lasting: Replicated) -> None:
    servers = {SERVER: lasting.hosts() | {"system_identifier": "1"}}
    told: list[Event] = []
    with pytest.raises(ConnectFailed, match="another cluster"):
        async with Router(lasting.world.settings(servers=servers), observer=told.append):
            pass
    assert {event.reason for event in told if isinstance(event, HostRefused)} == {"another_cluster"}


# --- and when it changes ---------------------------------------------------------------------------------------------
async def test_callers_fail_at_once_when_no_host_answers_and_work_when_one_does(replicated: Replicated) -> None:
    world, standby = replicated.world, replicated.standby
    (tenant,) = world.of(Isolation.DATABASE)
    settings = world.settings(servers={SERVER: replicated.hosts()}, pools={"acquire_timeout": 600.0})
    async with Router(settings) as router:
        scope = router.tenant(tenant.id)
        await scope.execute(WRITES[Isolation.DATABASE])
        await standby.catch_up()
        for server in (world.server, standby):
            await asyncio.to_thread(server.stop, "fast")
        with contextlib.suppress(ConnectFailed, *LOST):  # the first may be told of its own connection
            await scope.execute(WRITES[Isolation.DATABASE])
        with pytest.raises(ConnectFailed):
            await scope.execute(WRITES[Isolation.DATABASE])
        await asyncio.to_thread(standby.start)
        waiting = asyncio.create_task(scope.fetchval(PORT))
        await asyncio.to_thread(standby.promote)
        with contextlib.suppress(ConnectFailed):  # it may have come before the standby answered
            assert await waiting == standby.port
        await until_served(scope)


async def until_served(scope: TenantScope) -> None:
    async def is_served() -> bool:
        with contextlib.suppress(ConnectFailed):
            await scope.execute(WRITES[Isolation.DATABASE])
            return True
        return False

    await until(is_served, "a host serves")


async def test_the_command_line_installs_on_the_host_that_takes_writes(lasting: Replicated) -> None:
    settings = lasting.world.settings(servers={SERVER: lasting.hosts()})
    server, admin = settings.servers[SERVER], lasting.world.server
    conn = await connect_as(server, lasting.world.main.name, admin.superuser, admin.password)
    try:
        assert await conn.fetchval(PORT) == admin.port
    finally:
        await conn.close()


async def test_a_former_primary_that_still_takes_writes_gets_none_after_a_promotion(replicated: Replicated) -> None:
    world, standby = replicated.world, replicated.standby
    servers = {SERVER: replicated.hosts()}
    async with a_port(world, real={SERVER: standby}, servers=servers, pools={"acquire_timeout": 60.0}) as house:
        await write(house, world)
        (tenant,) = world.of(Isolation.DATABASE)
        client = await house.client(tenant.id)
        await client.query("BEGIN")
        block = house.router.tenant(tenant.id).connection()
        conn = await block.__aenter__()
        assert await conn.fetchval(PORT) == world.server.port
        await asyncio.to_thread(standby.promote)
        await until(lambda: refused(house), "the former primary is refused")
        assert set(refused(house)) == {(address_of(world.server), "former_primary")}
        (error,) = (await client.rest()).errors
        assert error["C"] == "57P01"
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)) as caught:
            await conn.fetchval(PORT)
        with pytest.raises(ServerMoved):
            await block.__aexit__(caught.type, caught.value, None)
        await write(house, world)
        assert await house.router.tenant(tenant.id).fetchval(PORT) == standby.port
        before = await rows_of(world.server, world)
        await asyncio.to_thread(standby.stop, "fast")

        async def is_refused() -> bool:
            with pytest.raises((ConnectFailed, PoolTimeout)) as failed:  # late where the machine has much to do
                await house.router.tenant(tenant.id).execute(WRITES[Isolation.DATABASE], timeout=2.0)
            return "refused" in str(failed.value)

        await until(is_refused, "neither host takes it")
        assert await rows_of(world.server, world) == before
        await asyncio.to_thread(standby.start)
        await write(house, world)


async def test_a_fleet_goes_on_reporting_to_the_host_that_serves(replicated: Replicated) -> None:
    world, standby = replicated.world, replicated.standby
    fleet = {"ttl": 3.0, "interval": 0.3}
    changes: dict[str, Any] = {"servers": {SERVER: replicated.hosts()}, "fleet": fleet}
    settings = world.settings(**changes)
    key = fleet_key(settings.fleet, settings.row, settings.tenant_roles)
    assert key is not None
    async with world.main.connect() as admin:
        await install_fleet(admin, app_role=APP_ROLE, key=key, ttl=3.0)
    await standby.catch_up()
    async with Router(settings) as router:
        before = _renewed(router)
        await until(lambda: _renewed(router) > before, "the primary answers, which is not the first host")
        await fail_over(replicated)
        assert len(await fleet_rows(settings)) == 1, "an operator is told by the new primary"
        failed = time.time()
        await until(lambda: _renewed(router) > failed, "the new primary answers")
        for tenant in world.tenants:
            assert await router.tenant(tenant.id).fetchval(PORT, timeout=60.0) == standby.port


async def test_a_process_whose_main_is_a_standby_keeps_its_part_and_joins_later(
    replicated: Replicated, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, standby = replicated.world, replicated.standby
    monkeypatch.setenv(SIZE_VARIABLE, "4")
    servers = {SERVER: {"max_connections": 20}, "main": keys_of(standby) | {"max_connections": 20}}
    settings = world.settings(main={"server": "main"}, servers=servers, fleet={"ttl": 3.0, "interval": 0.3})
    key = fleet_key(settings.fleet, settings.row, settings.tenant_roles)
    assert key is not None
    async with world.main.connect() as admin:
        await install_fleet(admin, app_role=APP_ROLE, key=key, ttl=3.0)
    await standby.catch_up()
    asked, connected = [], FleetLink._connected

    async def counted(link: FleetLink) -> Any:
        asked.append(link)
        return await connected(link)

    monkeypatch.setattr(FleetLink, "_connected", counted)
    told: list[Event] = []
    tenants = [*world.of(Isolation.SCHEMA), *world.of(Isolation.DATABASE)]
    async with Router(settings, registry=MemoryRegistry(tenants), observer=told.append) as router:
        await until(lambda: len(asked) > 3, "the standby has answered several times")
        assert len([event for event in told if isinstance(event, FleetAlone)]) == 1
        assert (router.fleet, router.budgets[SERVER].limit) == (None, 5)
        await router.tenant(tenants[-1].id).execute(WRITES[Isolation.DATABASE], timeout=60.0)
        await asyncio.to_thread(standby.promote)
        await until(lambda: router.fleet is not None, "it has joined")
        await router.tenant(tenants[-1].id).execute(WRITES[Isolation.DATABASE], timeout=60.0)


def _renewed(router: Router) -> float:
    return 0.0 if router.fleet is None else router.fleet.last_renewal


async def test_a_fleet_does_not_report_to_a_former_primary_that_lives_on(replicated: Replicated) -> None:
    """What that one grants would be granted twice."""
    world, standby = replicated.world, replicated.standby
    settings = world.settings(
        servers={SERVER: replicated.hosts() | {"max_connections": 20}},
        fleet={"ttl": 3.0, "interval": 0.3},
        pools={"acquire_timeout": 60.0},
    )
    key = fleet_key(settings.fleet, settings.row, settings.tenant_roles)
    assert key is not None
    async with world.main.connect() as admin:
        await install_fleet(admin, app_role=APP_ROLE, key=key, fleet=settings.fleet.id, ttl=settings.fleet.ttl)
    await standby.catch_up()
    reporters = "SELECT count(*) = {} FROM pg_stat_activity WHERE application_name = 'tenantproxy fleet'"
    reports = "SELECT max(seq) FROM tenantproxy.fleet_share"
    async with Router(settings) as router, world.main.connect() as old:
        (tenant,) = world.of(Isolation.DATABASE)
        assert router.fleet is not None
        assert await old.fetchval(reporters.format(1))
        await asyncio.to_thread(standby.promote)
        async with Database(server=standby, name=world.main.name).connect() as new:
            await until(lambda: new.fetchval(reporters.format(1)), "it reports to the new primary")
            last = await new.fetchval(reports)
            await until(lambda: new.fetchval(f"SELECT ({reports}) > $1", last), "and goes on to")
        await until(lambda: old.fetchval(reporters.format(0)), "it has left the former one")
        assert await router.tenant(tenant.id).fetchval(PORT) == standby.port
        assert await fleet_rows(settings), "the command line finds the primary, too"
