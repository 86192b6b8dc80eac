"""Is a standby mistaken for a primary, or a promoted replica for one? With real ones, on both drivers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from tenantproxy import Router
from tenantproxy.driver.renewing import RenewingConnection
from tenantproxy.errors import ConnectFailed, TenantProxyError
from tenantproxy.events import ServerDown, ServerUp
from tenantproxy.lifecycle.prove import Options, prove
from tenantproxy.model import Isolation, Tenant
from tenantproxy.registry.memory import MemoryRegistry
from tests.support.checked import checked
from tests.support.database import Database
from tests.support.raw_house import ServerError, a_raw_house, ask, value
from tests.support.standby import REPLICA, Replicated, Standby, a_replicated_world, keys_of, paused
from tests.support.waiting import until
from tests.support.world import SERVER

NAMES = "SELECT name FROM projects ORDER BY 1"
WRITE = {
    Isolation.ROW: "INSERT INTO projects (tenant_id, name) VALUES ('row1', 'lost')",
    Isolation.SCHEMA: "INSERT INTO projects (name) VALUES ('lost')",
    Isolation.DATABASE: "INSERT INTO projects (name) VALUES ('lost')",
}
ESCAPES = (
    "SET default_transaction_read_only = off",
    "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE",
    "SELECT set_config('default_transaction_read_only', 'off', false)",
    "BEGIN READ WRITE",
    "RESET ALL",
    "DISCARD ALL",
)

pytestmark = pytest.mark.timeout(180)  # a base backup and a promotion, on a machine that may be busy


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lasting() -> AsyncIterator[Replicated]:
    """To read from, and to mistake for a primary; it is never promoted."""
    async with a_replicated_world() as made:
        yield made


@pytest.fixture
async def replicated() -> AsyncIterator[Replicated]:
    """One to promote."""
    async with a_replicated_world(rows=2, schemas=1, databases=1) as made:
        yield made


def own(tenant: Tenant) -> list[str]:
    return [f"{tenant.id} {n}" for n in (1, 2, 3)]


async def promote(standby: Standby) -> None:
    await asyncio.to_thread(standby.promote)


async def lost_rows(replicated: Replicated, tenant: Tenant) -> int:
    """How many writes reached the standby."""
    place = tenant.placement
    async with Database(server=replicated.standby, name=place.database).connect() as admin:
        table = f'"{place.schema or "public"}".projects'
        count: int = await admin.fetchval(f"SELECT count(*) FROM {table} WHERE name = 'lost'")
        return count


# --- reading ---------------------------------------------------------------------------------------------------------
async def test_the_library_reads_each_kind_of_tenant_from_a_replica(lasting: Replicated) -> None:
    world = lasting.world
    settings = world.settings(servers=lasting.servers())
    async with checked(settings, world, servers={SERVER: world.server, REPLICA: lasting.standby}) as router:
        for tenant in (*world.tenants, *world.tenants):
            scope = router.tenant(tenant.id, replica=True)
            assert [row["name"] for row in await scope.fetch(NAMES)] == own(tenant)
            assert await scope.fetchval("SELECT pg_is_in_recovery()")
            with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
                await scope.execute("CREATE TABLE t ()")
        assert router.stats().resets["failed"] == 0


async def test_signed_settings_hold_on_a_replica_and_through_a_renewal(lasting: Replicated) -> None:
    world, said = lasting.world, "SELECT tenantproxy.context('app.role')"
    settings = world.settings(servers=lasting.servers(), signed_context={"app.role": "claim:role"})
    async with checked(settings, world, servers={SERVER: world.server, REPLICA: lasting.standby}) as router:
        for role in ("viewer", "admin"):
            scope = router.tenant("row1", replica=True, context={"app.role": role})
            async with scope.connection() as conn:
                assert await conn.fetchval(said) == role
                await conn.execute("RESET app.context")
                assert isinstance(conn._con, RenewingConnection)
                conn._con.renew_at = 0.0
                assert await conn.fetchval(said) == role
                await conn.execute("SELECT set_config('app.context', '{\"app.role\": \"owner\"}', false)")
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await conn.fetchval(said)


async def test_raw_backends_of_a_replica_are_each_kind_of_tenants(lasting: Replicated) -> None:
    world = lasting.world
    async with a_raw_house(world.settings(servers=lasting.servers(), pools={"max_size": 1, "shared_size": 1})) as house:
        for tenant in (*world.tenants, *world.tenants):
            route = house.route(tenant, replica=REPLICA)
            backend = await house.ask_by(route).answer()
            assert [name for (name,) in await ask(backend, NAMES)] == own(tenant)
            assert await value(backend, "SHOW default_transaction_read_only") == "on"
            house.lender.release(backend, route, is_dirty=True)
            await house.settled()
        assert house.counters.resets["failed"] == 0


async def test_on_a_replica_the_proof_is_carried_and_tenants_change_by_a_reset(lasting: Replicated) -> None:
    settings = lasting.world.settings(servers=lasting.servers(), pools={"shared_size": 1})
    async with a_raw_house(settings) as house:
        for turn in range(4):
            tenant = lasting.world.of(Isolation.ROW)[turn % 2]
            route = house.route(tenant, replica=REPLICA)
            backend = await house.ask_by(route).answer()
            assert await value(backend, "SELECT min(name) FROM projects") == f"{tenant.id} 1"
            assert await value(backend, "SELECT left(current_setting('app.tenant_proof'), 3)") == "v1."
            house.lender.release(backend, route, is_dirty=False)
        assert house.counters.resets == {"ok": 3, "failed": 0}


async def test_a_lease_on_a_replica_is_renewed_in_a_session_that_only_reads(lasting: Replicated) -> None:
    tenant = lasting.world.of(Isolation.ROW)[0]
    async with a_raw_house(lasting.world.settings(servers=lasting.servers())) as house:
        route = house.route(tenant, replica=REPLICA)
        backend = await house.ask_by(route).answer()
        until_then = backend.bound_until
        done: asyncio.Future[TenantProxyError | None] = asyncio.get_running_loop().create_future()
        house.lender.enter(backend, route, (), done.set_result)
        assert await done is None
        assert backend.bound_until > until_then
        assert await value(backend, "SELECT min(name) FROM projects") == f"{tenant.id} 1"
        house.lender.release(backend, route, is_dirty=False)


# --- a standby for a primary -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", list(Isolation))
async def test_the_library_refuses_a_standby_as_primary_for_each_kind(lasting: Replicated, kind: Isolation) -> None:
    world, tenant = lasting.world, lasting.world.of(kind)[0]
    servers = lasting.mistaken() | {"direct": keys_of(world.server)}
    settings = world.settings(main={"server": "direct"}, servers=servers, registry="postgres")
    async with checked(settings, world, registry=MemoryRegistry([tenant]), servers={"direct": world.server}) as router:
        for _ in range(2):
            with pytest.raises(ConnectFailed, match="is a standby") as caught:
                await router.tenant(tenant.id).fetch(NAMES)
            assert caught.value.retryable
        assert [server.up for server in router.stats().servers if server.server == SERVER] == [False]
        assert len([event for event in router.events if isinstance(event, ServerDown)]) == 1


@pytest.mark.parametrize("kind", list(Isolation))
async def test_the_port_refuses_a_standby_as_primary_for_each_kind(lasting: Replicated, kind: Isolation) -> None:
    async with a_raw_house(lasting.world.settings(servers=lasting.mistaken())) as house:
        with pytest.raises(ConnectFailed, match="is a standby") as caught:
            await house.lease(lasting.world.of(kind)[0])
        assert caught.value.retryable
        assert house.budgets[SERVER].is_unfit


async def test_a_router_whose_registry_is_on_a_standby_does_not_open(lasting: Replicated) -> None:
    with pytest.raises(ConnectFailed, match="is a standby"):
        async with Router(lasting.world.settings(servers=lasting.mistaken(), registry="postgres")):
            pass


async def test_a_primary_is_not_read_as_if_it_were_a_replica(lasting: Replicated) -> None:
    world, tenant = lasting.world, lasting.world.tenants[0]
    async with a_raw_house(world.settings(servers=lasting.servers() | {REPLICA: keys_of(world.server)})) as house:
        with pytest.raises(ConnectFailed, match="not in recovery"):
            await house.ask_by(house.route(tenant, replica=REPLICA)).answer()


async def test_a_standby_serves_as_primary_once_it_is_promoted(replicated: Replicated) -> None:
    world, tenant = replicated.world, replicated.world.of(Isolation.DATABASE)[0]
    servers = replicated.mistaken() | {"direct": keys_of(world.server)}
    settings = world.settings(main={"server": "direct"}, servers=servers, registry="postgres")
    both = {SERVER: replicated.standby, "direct": world.server}
    async with (
        checked(settings, world, registry=MemoryRegistry([tenant]), servers=both) as router,
        a_raw_house(settings) as house,
    ):
        with pytest.raises(ConnectFailed, match="is a standby"):
            await router.tenant(tenant.id).execute(WRITE[Isolation.DATABASE])
        with pytest.raises(ConnectFailed, match="is a standby"):
            await house.lease(tenant)
        await promote(replicated.standby)

        async def serves() -> bool:
            try:
                await router.tenant(tenant.id).execute(WRITE[Isolation.DATABASE])
                async with house.leased(tenant) as backend:
                    await ask(backend, WRITE[Isolation.DATABASE])
            except ConnectFailed:
                return False
            return True

        await until(serves, "the new primary serves", timeout=60.0)
        assert [event for event in router.events if isinstance(event, ServerUp)]
        assert all(server.up for server in router.stats().servers)


# --- after a promotion -----------------------------------------------------------------------------------------------
async def test_no_lease_of_the_library_writes_to_a_promoted_replica(replicated: Replicated) -> None:
    world = replicated.world
    settings = world.settings(servers=replicated.servers(), pools={"acquire_timeout": 30.0})
    both = {SERVER: world.server, REPLICA: replicated.standby}
    async with checked(settings, world, servers=both) as router:
        scopes = [(tenant, router.tenant(tenant.id, replica=True)) for tenant in world.tenants]
        for tenant, scope in scopes:  # idle connections from before
            assert [row["name"] for row in await scope.fetch(NAMES)] == own(tenant)
        held = [(tenant, scope.connection()) for tenant, scope in scopes]
        conns = [(tenant, await block.__aenter__(), block) for tenant, block in held]
        await promote(replicated.standby)
        for tenant, conn, block in conns:  # leases that were held meanwhile
            for escape in ESCAPES:
                with contextlib.suppress(TenantProxyError, asyncpg.PostgresError):
                    await conn.execute(escape)
                with pytest.raises((TenantProxyError, asyncpg.PostgresError)):
                    await conn.execute(WRITE[tenant.placement.isolation])
            await block.__aexit__(None, None, None)
        for tenant, scope in scopes:  # those that come later read from the primary
            assert [row["name"] for row in await scope.fetch(NAMES)] == own(tenant)
            assert await scope.fetchval("SELECT inet_server_port()") == world.server.port
        for tenant in world.tenants:
            assert await lost_rows(replicated, tenant) == 0


async def test_idle_connections_to_a_promoted_replica_are_not_lent(replicated: Replicated) -> None:
    world = replicated.world
    settings = world.settings(servers=replicated.servers())
    both = {SERVER: world.server, REPLICA: replicated.standby}
    async with checked(settings, world, servers=both) as router:
        for tenant in world.tenants:
            await router.tenant(tenant.id, replica=True).fetch(NAMES)
        await promote(replicated.standby)
        for tenant in world.tenants:
            for escape in ESCAPES:
                async with router.tenant(tenant.id, replica=True).connection() as conn:
                    await conn.execute(escape)
                    assert await conn.fetchval("SELECT inet_server_port()") == world.server.port
        assert [server.up for server in router.stats().servers if server.server == REPLICA] == [False]


async def test_a_raw_backend_of_a_promoted_replica_is_not_lent(replicated: Replicated) -> None:
    world = replicated.world
    async with a_raw_house(world.settings(servers=replicated.servers())) as house:
        for tenant in world.tenants:
            route = house.route(tenant, replica=REPLICA)
            backend = await house.ask_by(route).answer()
            house.lender.release(backend, route, is_dirty=False)
        await promote(replicated.standby)
        for tenant in world.tenants:
            route = house.route(tenant, replica=REPLICA)
            with pytest.raises(ConnectFailed, match="not in recovery"):
                await house.ask_by(route).answer()
            assert house.lender.lease_nowait(house.manager.pool(route), route, ()) is None


async def test_a_write_in_a_raw_lease_held_across_a_promotion_is_refused(replicated: Replicated) -> None:
    world = replicated.world
    async with a_raw_house(world.settings(servers=replicated.servers())) as house:
        leases = []
        for tenant in world.tenants:
            route = house.route(tenant, replica=REPLICA)
            leases.append((tenant, route, await house.ask_by(route).answer()))
        await promote(replicated.standby)
        for tenant, route, backend in leases:
            with pytest.raises(ServerError, match="25006"):
                await ask(backend, WRITE[tenant.placement.isolation])
            house.lender.release(backend, route, is_dirty=True)
        for tenant in world.tenants:
            assert await lost_rows(replicated, tenant) == 0


# --- no replica serves -----------------------------------------------------------------------------------------------
async def _primary_port(router: Router, tenant: Tenant) -> Any:
    return await router.tenant(tenant.id, replica=True).fetchval("SELECT inet_server_port()", timeout=60.0)


@pytest.mark.parametrize("kind", list(Isolation))
async def test_reads_fall_back_to_the_primary_when_no_replica_serves(
    lasting: Replicated, kind: Isolation, unused_tcp_port_factory: Callable[[], int]
) -> None:
    world, tenant = lasting.world, lasting.world.of(kind)[0]
    gone = keys_of(world.server) | {"port": unused_tcp_port_factory()}
    servers = {SERVER: {"replicas": [REPLICA, "other"]}, REPLICA: gone, "other": gone}
    async with checked(world.settings(servers=servers), world, servers={SERVER: world.server}) as router:
        for _ in range(3):
            assert await _primary_port(router, tenant) == world.server.port
        assert [row["name"] for row in await router.tenant(tenant.id, replica=True).fetch(NAMES)] == own(tenant)


async def test_another_replica_reads_when_the_preferred_one_is_gone(
    lasting: Replicated, unused_tcp_port_factory: Callable[[], int]
) -> None:
    world = lasting.world
    gone = keys_of(world.server) | {"port": unused_tcp_port_factory()}
    servers = {SERVER: {"replicas": ["gone", REPLICA]}, REPLICA: keys_of(lasting.standby), "gone": gone}
    both = {SERVER: world.server, REPLICA: lasting.standby}
    async with checked(world.settings(servers=servers), world, servers=both) as router:
        for tenant in world.tenants:
            assert await _primary_port(router, tenant) == lasting.standby.port


# --- a replica that is behind ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", list(Isolation))
async def test_what_was_written_is_read_from_the_replica_only_when_it_has_come_so_far(
    lasting: Replicated, kind: Isolation
) -> None:
    world, tenant = lasting.world, lasting.world.of(kind)[0]
    both = {SERVER: world.server, REPLICA: lasting.standby}
    async with checked(world.settings(servers=lasting.servers()), world, servers=both) as router:
        scope = router.tenant(tenant.id)
        async with paused(lasting.standby) as admin:
            await scope.execute(WRITE[kind].replace("row1", tenant.id))
            reader = router.tenant(tenant.id, replica=True, after=await scope.position())
            assert await reader.fetchval("SELECT count(*) FROM projects WHERE name = 'lost'") == 1
            assert not await reader.fetchval("SELECT pg_is_in_recovery()")
            await admin.execute("SELECT pg_wal_replay_resume()")
            await lasting.standby.catch_up()
            assert await reader.fetchval("SELECT pg_is_in_recovery()")
            assert await reader.fetchval("SELECT count(*) FROM projects WHERE name = 'lost'") == 1
        never = router.tenant(tenant.id, replica=True, after="FFFFFFFF/FFFFFFFF")  # of another server, or made up
        assert not await never.fetchval("SELECT pg_is_in_recovery()")
        await scope.execute("DELETE FROM projects WHERE name = 'lost'")
    with pytest.raises(ValueError, match="no position"):
        router.tenant(tenant.id, replica=True, after="0/0' OR true")


async def test_the_position_is_behind_commits_that_are_not_written_yet(lasting: Replicated) -> None:
    world, tenant = lasting.world, lasting.world.of(Isolation.DATABASE)[0]
    both = {SERVER: world.server, REPLICA: lasting.standby}
    async with checked(world.settings(servers=lasting.servers()), world, servers=both) as router:
        scope = router.tenant(tenant.id)
        async with scope.connection() as conn:
            await conn.execute("SET synchronous_commit = off")
            await conn.execute("INSERT INTO projects (name) VALUES ('gone')")
            written = await conn.fetchval("SELECT pg_current_wal_insert_lsn()::text")
            position = await scope.position()
            assert await conn.fetchval("SELECT $1::text::pg_lsn >= $2::text::pg_lsn", position, written)
        await scope.execute("DELETE FROM projects WHERE name = 'gone'")


async def test_a_replica_beyond_max_replica_lag_is_not_read(lasting: Replicated) -> None:
    world, tenant = lasting.world, lasting.world.of(Isolation.DATABASE)[0]
    settings = world.settings(servers=lasting.servers(max_replica_lag=0.5))
    both = {SERVER: world.server, REPLICA: lasting.standby}
    async with checked(settings, world, servers=both) as router:
        scope = router.tenant(tenant.id, replica=True)

        async def is_read() -> Any:
            return await scope.fetchval("SELECT pg_is_in_recovery()")

        await until(is_read, "its lag is measured, and it is read")
        async with paused(lasting.standby):

            async def is_left() -> Any:
                await router.tenant(tenant.id).execute("INSERT INTO projects (name) VALUES ('gone')")
                await router.tenant(tenant.id).execute("DELETE FROM projects WHERE name = 'gone'")
                return not await is_read()

            await until(is_left, "it is too far behind")
            (lag,) = [server.lag for server in router.stats().servers if server.server == REPLICA]
            assert lag is not None
            assert lag > 0.5
        await until(is_read, "it has caught up")


async def test_the_isolation_proof_tries_replicas_too(lasting: Replicated) -> None:
    settings = lasting.world.settings(servers=lasting.servers())
    chosen = Options(doors=("library",), checks=("cross reads", "forged context"), timeout=240.0)
    proof = await prove(settings, chosen)
    assert proof.exit_code == 0, [(each.door, each.check, each.detail) for each in proof.results]
    tried = {(each.kind, each.check) for each in proof.results if each.door == "library, replica"}
    assert tried >= {(kind, "forged context") for kind in ("row, bound", "schema", "database")}
