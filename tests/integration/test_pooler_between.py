"""Is a connection pooler between us and the server found at connect? With a real PgBouncer, on both drivers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from tenantproxy import Router
from tenantproxy.config import Settings
from tenantproxy.embedded import EmbeddedPostgres
from tenantproxy.errors import ConnectFailed, IsolationError
from tenantproxy.model import Isolation
from tenantproxy.registry import MemoryRegistry
from tests.support.chaos import ChaosProxy, Link, Way
from tests.support.pooler import PGBOUNCER, a_pgbouncer
from tests.support.raw_house import a_raw_house
from tests.support.standby import keys_of
from tests.support.world import ROLE_SECRET, ROW_SECRET, SERVER, World, a_world

MODES = ("transaction", "session")

pytestmark = pytest.mark.skipif(PGBOUNCER is None, reason="apt-get install pgbouncer")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lasting(postgres: EmbeddedPostgres) -> AsyncIterator[World]:
    async with a_world(postgres) as made:
        yield made


@pytest.fixture(params=MODES, scope="module")
def pooler(request: pytest.FixtureRequest, postgres: EmbeddedPostgres) -> Iterator[int]:
    with a_pgbouncer(postgres, mode=request.param) as port:
        yield port


def through(world: World, port: int, *, signed: bool = True) -> Settings:
    """Only the tenants' server is behind the pooler: the router itself opens."""
    servers = {SERVER: {"port": port}, "direct": keys_of(world.server)}
    row = {"key": ROW_SECRET.decode()} if signed else {"signed": False}
    return Settings.from_mapping(
        {
            "main": {"server": "direct", "database": world.main.name},
            "servers": {SERVER: keys_of(world.server) | servers[SERVER], "direct": servers["direct"]},
            "registry": {"source": "postgres"},
            "row": row,
            "tenant_roles": {"key": ROLE_SECRET.decode()},
            "pools": {"acquire_timeout": 15.0},
        }
    )


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("kind", list(Isolation))
async def test_the_library_lends_nothing_through_a_pooler(
    lasting: World, pooler: int, kind: Isolation, signed: bool
) -> None:
    tenant = lasting.of(kind)[0]
    router = Router(through(lasting, pooler, signed=signed), registry=MemoryRegistry([tenant]))
    with pytest.raises(IsolationError, match="a connection pooler is in between") as caught:
        async with router:  # a shared database is looked at as the router opens
            await router.tenant(tenant.id).fetch("SELECT name FROM projects")
    assert "PgBouncer" in str(caught.value.hint)
    assert router.stats().violations["connect"] > 0


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("kind", list(Isolation))
async def test_the_port_lends_nothing_through_a_pooler(
    lasting: World, pooler: int, kind: Isolation, signed: bool
) -> None:
    async with a_raw_house(through(lasting, pooler, signed=signed)) as house:
        with pytest.raises(IsolationError, match="a connection pooler is in between") as caught:
            await house.lease(lasting.of(kind)[0])
        assert "PgBouncer" in str(caught.value.hint)
        assert house.counters.violations["connect"] > 0


async def test_the_main_database_is_not_served_through_a_pooler_either(lasting: World, pooler: int) -> None:
    with pytest.raises(IsolationError, match="a connection pooler is in between"):
        async with Router(lasting.settings(servers={SERVER: {"port": pooler}})):
            pass


async def test_a_pooler_that_refuses_our_startup_parameters_is_named(lasting: World) -> None:
    tenant = lasting.of(Isolation.SCHEMA)[0]
    with a_pgbouncer(lasting.server, ignored="") as port:
        with pytest.raises(ConnectFailed, match=r"does not take our startup packet.*PgBouncer"):
            await Router(lasting.settings(servers={SERVER: {"port": port}})).open()
        async with Router(through(lasting, port), registry=MemoryRegistry([tenant])) as router:
            with pytest.raises(ConnectFailed, match=r"does not take our startup packet.*PgBouncer"):
                await router.tenant(tenant.id).fetch("SELECT 1")
        async with a_raw_house(through(lasting, port)) as house:
            with pytest.raises(ConnectFailed, match=r"does not take our startup packet.*PgBouncer"):
                await house.lease(tenant)


class Forgetful(ChaosProxy):
    """Passes everything on but `search_path` in startup packets, as a proxy might that knows its server's process."""

    async def _pass(self, link: Link, chunk: bytes, writer: asyncio.StreamWriter, way: Way) -> None:
        if way is Way.TO_SERVER and chunk[4:8] == _PROTOCOL_3:
            before, name, rest = chunk[8:].partition(b"search_path\0")
            kept = before + rest.partition(b"\0")[2] if name else before
            chunk = (len(kept) + 8).to_bytes(4, "big") + _PROTOCOL_3 + kept
        await super()._pass(link, chunk, writer, way)


_PROTOCOL_3 = b"\0\3\0\0"


async def test_a_startup_setting_that_was_lost_on_the_way_is_found(lasting: World) -> None:
    tenant = lasting.of(Isolation.SCHEMA)[0]
    async with Forgetful(lasting.server.host, lasting.server.port) as proxy:
        async with Router(through(lasting, proxy.port), registry=MemoryRegistry([tenant])) as router:
            with pytest.raises(IsolationError, match="what we set at startup: search_path"):
                await router.tenant(tenant.id).fetch("SELECT 1")
        async with a_raw_house(through(lasting, proxy.port)) as house:
            with pytest.raises(IsolationError, match="what we set at startup: search_path"):
                await house.lease(tenant)
