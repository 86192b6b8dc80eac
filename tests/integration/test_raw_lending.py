"""Does a client of the PostgreSQL port get a backend that is its tenant's, on a real server?"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from time import monotonic

import pytest
import pytest_asyncio

from tenantproxy.embedded import EmbeddedPostgres
from tenantproxy.errors import ProtocolError, TenantProxyError
from tenantproxy.model import Isolation, Tenant
from tenantproxy.raw.backend import RawBackend, Settings
from tenantproxy.raw.connector import APPLICATION_NAME
from tests.support.raw_house import RawHouse, ServerError, a_raw_house, ask, value
from tests.support.world import World, a_world

TOKYO: Settings = ((b"TimeZone", b"Asia/Tokyo"), (b"DateStyle", b"German"))
GERMAN: Settings = ((b"DateStyle", b"German"),)


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=(18, 16), ids=("pg18", "pg16"))
async def old_world(request: pytest.FixtureRequest, cluster: Callable[[int], EmbeddedPostgres]) -> AsyncIterator[World]:
    """One for all of these tests."""
    async with a_world(cluster(request.param)) as made:
        yield made


async def enter(house: RawHouse, backend: RawBackend, tenant: Tenant, session: Settings = ()) -> None:
    """Once more on a lease; raises what it was told."""
    done: asyncio.Future[TenantProxyError | None] = asyncio.get_running_loop().create_future()
    house.lender.enter(backend, house.route(tenant), session, done.set_result)
    error = await done
    if error is not None:
        raise error


@pytest.mark.parametrize("kind", list(Isolation))
async def test_every_tenant_reads_its_own_rows_and_no_others(old_world: World, kind: Isolation) -> None:
    async with a_raw_house(old_world.settings()) as house:
        for tenant in old_world.of(kind):
            async with house.leased(tenant) as backend:
                names = await ask(backend, "SELECT name FROM projects ORDER BY 1")
                assert names == [[f"{tenant.id} {n}"] for n in (1, 2, 3)]
                assert await value(backend, "SELECT pg_backend_pid()") == str(backend.pid)
                assert await value(backend, "SHOW application_name") == APPLICATION_NAME


async def test_pins_stand_whatever_the_session_is_reset_to(old_world: World) -> None:
    tenant = old_world.of(Isolation.SCHEMA)[0]
    async with a_raw_house(old_world.settings()) as house, house.leased(tenant) as backend:
        for undo in ("RESET ALL", "DISCARD ALL"):
            await ask(backend, undo)
            assert await value(backend, "SHOW search_path") == f'"{tenant.placement.schema}"'
            assert await value(backend, "SHOW statement_timeout") == "0"
            assert await value(backend, "SHOW client_encoding") == "UTF8"


async def test_a_tenants_settings_go_with_its_session_from_backend_to_backend(old_world: World) -> None:
    one, two = old_world.of(Isolation.ROW)
    async with a_raw_house(old_world.settings(pools={"shared_size": 1})) as house:
        for tenant, session, zone, style in (
            (one, TOKYO, "Asia/Tokyo", "German, DMY"),
            (one, GERMAN, None, "German, DMY"),
            (two, (), None, "ISO, MDY"),
            (one, TOKYO, "Asia/Tokyo", "German, DMY"),
            (one, (), None, "ISO, MDY"),
        ):
            async with house.leased(tenant, session) as backend:
                assert (await value(backend, "SHOW timezone") == "Asia/Tokyo") == (zone is not None)
                assert await value(backend, "SHOW datestyle") == style
                assert backend.parameters[b"DateStyle"].decode() == style
                assert backend.session == session


async def test_settings_apply_to_tenants_that_need_no_bind_too(old_world: World) -> None:
    tenant = old_world.of(Isolation.DATABASE)[0]
    async with a_raw_house(old_world.settings(pools={"max_size": 1})) as house:
        async with house.leased(tenant, TOKYO) as backend:
            assert await value(backend, "SHOW timezone") == "Asia/Tokyo"
        async with house.leased(tenant) as again:
            assert again is backend
            assert await value(backend, "SHOW timezone") != "Asia/Tokyo"


async def test_a_setting_that_the_server_does_not_take_is_refused_and_nothing_runs(old_world: World) -> None:
    for tenant in (old_world.of(Isolation.ROW)[0], old_world.of(Isolation.DATABASE)[0]):
        async with a_raw_house(old_world.settings()) as house:
            with pytest.raises(ProtocolError, match="refuses a setting"):
                await house.lease(tenant, ((b"TimeZone", b"Mars/Olympus"),))
            async with house.leased(tenant) as backend:
                assert await value(backend, "SELECT 1") == "1"


# --- again on a lease ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("undo", ["DISCARD ALL", "RESET ALL", "DISCARD SEQUENCES"])
async def test_a_client_that_undid_its_session_is_the_tenants_again_after_it_was_entered(
    old_world: World, undo: str
) -> None:
    tenant = old_world.of(Isolation.ROW)[0]
    async with a_raw_house(old_world.settings()) as house:
        backend = await house.lease(tenant, TOKYO)
        await ask(backend, undo)
        with pytest.raises(ServerError):
            await ask(backend, "SELECT name FROM projects")
        backend.session = TOKYO if undo == "DISCARD SEQUENCES" else ()
        await enter(house, backend, tenant, TOKYO)
        assert await value(backend, "SELECT min(name) FROM projects") == f"{tenant.id} 1"
        assert await value(backend, "SHOW timezone") == "Asia/Tokyo"
        house.release(backend, tenant)


async def test_a_lease_is_renewed_although_its_client_made_the_session_read_only_and_serializable(
    old_world: World,
) -> None:
    tenant = old_world.of(Isolation.ROW)[0]
    async with a_raw_house(old_world.settings()) as house:
        backend = await house.lease(tenant)
        await ask(backend, "SET default_transaction_read_only = on")
        await ask(backend, "SET default_transaction_isolation = serializable")
        until = backend.bound_until
        await enter(house, backend, tenant)
        assert backend.bound_until > until
        assert await value(backend, "SHOW default_transaction_read_only") == "on"
        assert await value(backend, "SELECT min(name) FROM projects") == f"{tenant.id} 1"
        house.release(backend, tenant)


async def test_a_proof_that_is_about_to_end_is_renewed_before_the_next_lease(old_world: World) -> None:
    tenant = old_world.of(Isolation.ROW)[0]
    async with a_raw_house(old_world.settings(pools={"shared_size": 1})) as house:
        async with house.leased(tenant) as backend:
            pass
        backend.bound_until = monotonic() + 1.0
        async with house.leased(tenant) as again:
            assert again is backend
            assert backend.bound_until > monotonic() + 40.0
        assert house.counters.resets == {"ok": 0, "failed": 0}


async def test_a_renewal_after_the_tenant_was_fenced_destroys_the_backend(old_world: World) -> None:
    tenant = old_world.of(Isolation.ROW)[0]
    async with a_raw_house(old_world.settings()) as house, old_world.shared.connect() as admin:
        backend = await house.lease(tenant)
        await admin.execute(
            "INSERT INTO tenantproxy.fenced_tenant (tenant_id, reason) VALUES ($1, 'it moves')", tenant.id
        )
        try:
            with pytest.raises(TenantProxyError, match="refuses the proof"):
                await enter(house, backend, tenant)
        finally:
            await admin.execute("DELETE FROM tenantproxy.fenced_tenant")
        assert backend.is_ending
        assert house.pool(tenant).stats().used == 0


# --- other ways to be a tenant's -------------------------------------------------------------------------------------
async def test_a_request_context_is_set_and_gone_for_the_next_client(old_world: World) -> None:
    tenant = old_world.of(Isolation.DATABASE)[0]
    async with a_raw_house(old_world.settings(pools={"max_size": 1})) as house:
        client = house.ask_by(house.route(tenant, context=(("app.user_id", "7"),)))
        backend = await client.answer()
        assert await value(backend, "SELECT current_setting('app.user_id')") == "7"
        house.release(backend, tenant)
        async with house.leased(tenant) as again:
            assert again is backend
            assert await value(backend, "SELECT current_setting('app.user_id')") == ""
