"""Which of several hosts serves, and who notices when that changes? With a real standby, by library and port."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from tenantproxy import Router
from tenantproxy.embedded import EmbeddedPostgres
from tenantproxy.errors import ConnectFailed, IsolationError, ServerMoved
from tenantproxy.events import Event, HostRefused, ServerMovedTo
from tenantproxy.model import Isolation
from tenantproxy.registry.memory import MemoryRegistry
from tests.support.port_house import PortHouse, a_port
from tests.support.standby import Replicated, a_replicated_world, address_of, keys_of
from tests.support.waiting import until
from tests.support.world import SERVER, World, a_world

PORT = "SELECT inet_server_port()"
WRITES = {
    Isolation.ROW: "INSERT INTO projects (tenant_id, name) VALUES ('row1', 'new')",
    Isolation.SCHEMA: "INSERT INTO projects (name) VALUES ('new')",
    Isolation.DATABASE: "INSERT INTO projects (name) VALUES ('new')",
}

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


async def write(house: PortHouse, world: World) -> None:
    """One row for each tenant, by the library and by the port."""
    for tenant in world.tenants:
        sql = WRITES[tenant.placement.isolation]
        assert await house.router.tenant(tenant.id).execute(sql) == "INSERT 0 1"
        async with house.a_client(tenant.id) as client:
            assert (await client.query(sql)).tags == ["INSERT 0 1"]


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
async def _fail_over(replicated: Replicated) -> None:
    await replicated.standby.catch_up()
    await asyncio.to_thread(replicated.world.server.stop, "fast")
    await asyncio.to_thread(replicated.standby.promote)


async def test_in_a_failover_idle_clients_notice_nothing_and_transactions_hear_57p01_once(
    replicated: Replicated,
) -> None:
    world, standby = replicated.world, replicated.standby
    servers = {SERVER: replicated.hosts()}
    async with a_port(world, real={SERVER: standby}, servers=servers, pools={"acquire_timeout": 60.0}) as house:
        await write(house, world)
        idle = [await house.client(tenant.id) for tenant in world.tenants]
        busy = [await house.client(tenant.id) for tenant in world.tenants]
        for client in idle:
            assert (await client.query("SELECT 1")).value == "1"
        for client in busy:
            assert (await client.query("BEGIN")).status == "T"
            assert (await client.query("SELECT 1")).value == "1"
        await _fail_over(replicated)
        for client in idle:
            assert (await client.query(PORT)).value == str(standby.port)
        for client in busy:
            (error,) = (await client.rest()).errors
            assert error["C"] == "57P01"
        await write(house, world)
        (server,) = house.router.stats().servers
        assert (server.host, server.failovers, server.up) == (address_of(standby), 1, True)
        assert [event.host for event in house.router.events if isinstance(event, ServerMovedTo)][-1] == server.host


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
        assert refused(house) == [(address_of(world.server), "former_primary")]
        (error,) = (await client.rest()).errors
        assert error["C"] == "57P01"
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)) as caught:
            await conn.fetchval(PORT)
        with pytest.raises(ServerMoved):
            await block.__aexit__(caught.type, caught.value, None)
        await write(house, world)
        assert await house.router.tenant(tenant.id).fetchval(PORT) == standby.port
        before = await rows_of(world)
        await asyncio.to_thread(standby.stop, "fast")
        with pytest.raises(ConnectFailed, match="refused"):
            await house.router.tenant(tenant.id).execute(WRITES[Isolation.DATABASE], timeout=2.0)
        assert await rows_of(world) == before
        await asyncio.to_thread(standby.start)
        await write(house, world)


async def rows_of(world: World) -> int:
    """How many rows the database tenant has on the old primary."""
    (tenant,) = world.of(Isolation.DATABASE)
    async with world.database(tenant).connect() as admin:
        count: int = await admin.fetchval("SELECT count(*) FROM projects")
        return count
