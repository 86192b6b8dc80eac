"""Does a raw backend end in whatever state it is, and does its permit come back when its server side is gone?"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import pytest_asyncio

from tenantproxy import Router
from tenantproxy.config import Settings
from tenantproxy.embedded import EmbeddedPostgres
from tenantproxy.errors import ConnectFailed, TenantProxyError
from tenantproxy.model import Isolation, Tenant
from tenantproxy.raw import cancel as raw_cancel
from tenantproxy.raw import close as raw_end
from tenantproxy.raw import connector as raw
from tenantproxy.raw.backend import RawBackend
from tenantproxy.raw.exchange import query, statement
from tests.support.chaos import ChaosProxy
from tests.support.database import Database
from tests.support.faults import CancelEater, frozen
from tests.support.raw_house import ServerError, Talk, a_raw_house, ask, value
from tests.support.waiting import until
from tests.support.world import SERVER, World, a_world

State = Callable[[RawBackend], Awaitable[object]]


def through(world: World, proxy: ChaosProxy, **changes: object) -> Settings:
    """The settings of `world`, with its server behind `proxy`."""
    return world.settings(servers={SERVER: {"host": proxy.host, "port": proxy.port, **changes}})


async def activity(world: World, pid: int) -> str | None:
    async with Database(server=world.server, name="postgres").connect() as admin:
        state: str | None = await admin.fetchval("SELECT state FROM pg_stat_activity WHERE pid = $1", pid)
        return state


async def nothing(backend: RawBackend) -> None:
    """It was lent, and nothing was said."""


async def in_a_transaction(backend: RawBackend) -> None:
    await ask(backend, "BEGIN")


async def in_a_failed_transaction(backend: RawBackend) -> None:
    with pytest.raises(ServerError, match="22012"):
        await Talk(backend).say(query("BEGIN; SELECT 1/0"))


async def while_a_statement_runs(backend: RawBackend) -> None:
    Talk(backend)
    backend.write(query("SELECT pg_sleep(60)"))


async def while_a_result_comes_that_nobody_reads(backend: RawBackend) -> None:
    talk = Talk(backend)
    backend.write(query("SELECT repeat('x', 1000) FROM generate_series(1, 1000000)"))
    await until(lambda: talk.kinds, "the first row came")
    backend.pause_reading()


async def in_the_middle_of_a_copy_in(backend: RawBackend) -> None:
    talk = Talk(backend)
    backend.write(query("COPY projects (name) FROM STDIN"))
    await until(lambda: talk.kinds, "the server waits for data")
    backend.write(b"d\0\0\0\x08row")  # one byte is missing


async def in_the_middle_of_a_message(backend: RawBackend) -> None:
    backend.write(b"Q\0\0\xff\xffSELECT")


async def before_its_sync(backend: RawBackend) -> None:
    backend.write(statement("SELECT 1"))


STATES: list[State] = [
    nothing,
    in_a_transaction,
    in_a_failed_transaction,
    while_a_statement_runs,
    while_a_result_comes_that_nobody_reads,
    in_the_middle_of_a_copy_in,
    in_the_middle_of_a_message,
    before_its_sync,
]


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=(18, 16), ids=("pg18", "pg16"))
async def old_world(request: pytest.FixtureRequest, cluster: Callable[[int], EmbeddedPostgres]) -> AsyncIterator[World]:
    """One for all of these tests."""
    async with a_world(cluster(request.param)) as made:
        yield made


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """No server of a busy machine is taken for a silent one."""
    for module in (raw, raw_cancel, raw_end):
        monkeypatch.setattr(module, "END_TIMEOUT", 20.0)


@pytest.mark.usefixtures("patience")
@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
async def test_a_backend_ends_in_any_state_and_its_permit_comes_back_when_it_is_gone(
    old_world: World, state: State
) -> None:
    tenant = old_world.of(Isolation.DATABASE)[0]
    async with a_raw_house(old_world.settings()) as house:
        backend = await house.lease(tenant)
        await state(backend)
        pool = backend.pool
        house.lender.destroy(backend)
        assert pool.stats().retiring == 1
        await until(lambda: pool.is_empty, "the permit came back")
        assert await activity(old_world, backend.pid) is None
        assert not house.budgets[SERVER].lingering, "it ended, and counted as silent"


async def test_closing_ends_what_is_lent_and_what_is_on_its_way_and_no_task_is_left(old_world: World) -> None:
    one, two = old_world.of(Isolation.ROW)
    before = asyncio.all_tasks()
    async with a_raw_house(old_world.settings(pools={"shared_size": 2})) as house:
        backend = await house.lease(one)
        losses: list[Exception | None] = []
        await while_a_statement_runs(backend)
        backend.on_lost = losses.append
        coming = house.ask_for(two)  # its connect is under way
        waits = [house.ask_for(two) for _ in range(3)]
    assert isinstance(losses[0], ConnectionAbortedError)
    await until(lambda: all(client.calls for client in (coming, *waits)), "every client was told")
    assert all(isinstance(client.error, TenantProxyError) for client in (coming, *waits))
    await until(lambda: asyncio.all_tasks() <= before, "no task is left")


async def test_the_permit_of_a_frozen_backend_stays_taken_until_it_has_ended(old_world: World) -> None:
    tenant = old_world.of(Isolation.DATABASE)[0]
    async with a_raw_house(old_world.settings()) as house:
        backend = await house.lease(tenant)
        pool = backend.pool
        with frozen(backend.pid):
            house.lender.destroy(backend)
            await until(lambda: pool.is_empty, "it was left")
            assert (house.budgets[SERVER].in_use, pool.stats().lingering) == (1, 1)
        await until(lambda: not house.budgets[SERVER].in_use, "its end was heard")
        assert await activity(old_world, backend.pid) is None


@pytest.mark.usefixtures("patience")
async def test_a_request_to_cancel_that_is_lost_is_sent_again(old_world: World) -> None:
    tenant = old_world.of(Isolation.DATABASE)[0]
    async with CancelEater(old_world.server.host, old_world.server.port) as proxy:
        async with a_raw_house(through(old_world, proxy)) as house:
            backend = await house.lease(tenant)
            proxy.swallow = 2
            await while_a_statement_runs(backend)
            house.lender.destroy(backend)
            await until(lambda: backend.pool.is_empty, "it has ended")
            assert proxy.cancels >= 3
            assert await activity(old_world, backend.pid) is None
            assert not house.budgets[SERVER].lingering


# --- cancelling ------------------------------------------------------------------------------------------------------
async def test_a_statement_that_is_cancelled_ends_with_57014_and_its_backend_goes_on(old_world: World) -> None:
    tenant = old_world.of(Isolation.DATABASE)[0]
    async with a_raw_house(old_world.settings()) as house:
        async with house.leased(tenant) as backend:
            task = asyncio.ensure_future(ask(backend, "SELECT pg_sleep(60)"))

            async def runs() -> bool:
                return await activity(old_world, backend.pid) == "active"

            await until(runs, "it runs")
            house.lender.cancel_request(backend, lambda: None)
            with pytest.raises(ServerError, match="57014"):
                await task
            assert await value(backend, "SELECT 1") == "1"
        await house.settled()
        async with house.leased(tenant) as again:
            assert again is backend


async def test_no_request_to_cancel_ever_hits_whoever_has_the_backend_next(old_world: World) -> None:
    tenants = old_world.of(Isolation.ROW)
    async with a_raw_house(old_world.settings(pools={"shared_size": 1})) as house:
        for turn in range(30):
            async with house.leased(tenants[turn % 2]) as backend:
                assert await value(backend, "SELECT 'unharmed'") == "unharmed"
                house.lender.cancel_request(backend, lambda: None)  # too late: nothing runs any more
        assert house.counters.resets["failed"] == 0


# --- opening ---------------------------------------------------------------------------------------------------------
async def test_a_server_that_wants_a_way_to_log_in_that_was_not_allowed_gets_no_password(old_world: World) -> None:
    tenant = old_world.of(Isolation.DATABASE)[0]
    async with a_raw_house(old_world.settings(servers={SERVER: {"require_auth": ["md5"]}})) as house:
        with pytest.raises(TenantProxyError, match="'scram-sha-256', which is not allowed"):
            await house.ask_for(tenant).answer()


async def test_a_wrong_password_is_told_at_once_and_leaves_no_backend(old_world: World) -> None:
    tenant = old_world.of(Isolation.DATABASE)[0]
    async with a_raw_house(old_world.settings(servers={SERVER: {"password": "not this one"}})) as house:
        with pytest.raises(ConnectFailed, match="refused our password"):
            await house.ask_for(tenant).answer()
        assert house.pool(tenant).is_empty


async def test_a_setting_that_somebody_laid_on_our_role_is_taken_off_and_a_clean_session_is_lent(
    old_world: World,
) -> None:
    tenant = old_world.of(Isolation.DATABASE)[0]
    name = tenant.placement.database
    async with a_raw_house(old_world.settings()) as house:
        async with old_world.app(old_world.database(tenant)) as app:
            await app.execute(f'ALTER ROLE app IN DATABASE "{name}" SET synchronous_commit = off')
        async with house.leased(tenant) as backend:
            assert await value(backend, "SHOW synchronous_commit") == "on"
        assert house.counters.violations["role_settings"] == 1


async def test_a_server_that_accepts_and_never_speaks_costs_the_connect_timeout_and_a_permit(
    old_world: World,
) -> None:
    tenant = old_world.of(Isolation.DATABASE)[0]
    async with ChaosProxy(old_world.server.host, old_world.server.port) as proxy:
        proxy.unresponsive = True
        settings = through(old_world, proxy, connect_timeout=0.2)
        async with a_raw_house(settings) as house:
            client = house.ask_for(tenant)
            await until(lambda: house.budgets[SERVER].lingering, "the connect was given up")
            assert client.acquire is not None
            client.acquire.cancel()


async def test_the_bytes_of_a_server_may_come_one_by_one(old_world: World) -> None:
    tenants = old_world.of(Isolation.ROW)
    async with ChaosProxy(old_world.server.host, old_world.server.port) as proxy:
        proxy.slice_size = 1
        async with a_raw_house(through(old_world, proxy, connect_timeout=20.0)) as house:
            for tenant in tenants:
                async with house.leased(tenant, ((b"TimeZone", b"Asia/Tokyo"),)) as backend:
                    assert await value(backend, "SELECT tenantproxy.bound_tenant()") == tenant.id
                    assert await value(backend, "SHOW timezone") == "Asia/Tokyo"
                    assert backend.parameters[b"TimeZone"] == b"Asia/Tokyo"


async def test_a_server_that_is_not_there_is_told_fast_and_serves_again_when_it_is_back(old_world: World) -> None:
    tenant = old_world.of(Isolation.DATABASE)[0]
    async with ChaosProxy(old_world.server.host, old_world.server.port) as proxy:
        proxy.refusing = True
        async with a_raw_house(through(old_world, proxy)) as house:
            with pytest.raises(ConnectFailed, match="cannot be reached"):
                await house.ask_for(tenant).answer()
            assert house.budgets[SERVER].is_down
            proxy.refusing = False
            await until(lambda: not house.budgets[SERVER].is_down, "the breaker closed without a request")
            async with house.leased(tenant) as backend:
                assert await value(backend, "SELECT 1") == "1"


async def test_a_backend_that_is_terminated_is_replaced_and_its_client_hears_what_the_server_said(
    old_world: World,
) -> None:
    tenant = old_world.of(Isolation.ROW)[0]
    async with a_raw_house(old_world.settings(pools={"shared_size": 1})) as house:
        async with house.leased(tenant) as backend:
            first = backend.pid
        async with Database(server=old_world.server, name="postgres").connect() as admin:
            await admin.execute("SELECT pg_terminate_backend($1)", first)
            await until(lambda: house.pool(tenant).is_empty, "the idle one was found dead")
            second = await house.lease(tenant)
            assert second.pid != first
            talk = Talk(second)
            await admin.execute("SELECT pg_terminate_backend($1)", second.pid)
            with pytest.raises(ConnectionResetError):
                await talk.say(b"")
            assert talk.error == "57P01"
        house.release(second, tenant)
        async with house.leased(tenant) as third:
            assert await value(third, "SELECT min(name) FROM projects") == f"{tenant.id} 1"


# --- one budget ------------------------------------------------------------------------------------------------------
async def test_both_sides_together_never_have_more_connections_than_their_server_may(old_world: World) -> None:
    limit = 6
    settings = old_world.settings(servers={SERVER: {"max_connections": limit}}, pools={"acquire_timeout": 20.0})
    tenants = [*old_world.of(Isolation.DATABASE), *old_world.of(Isolation.ROW)]
    most = 0
    stop = asyncio.Event()

    async def watch() -> None:
        nonlocal most
        async with Database(server=old_world.server, name="postgres").connect() as admin:
            while not stop.is_set():
                names = {old_world.main.name, *(tenant.placement.database for tenant in tenants)}
                sql = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app' AND datname = ANY($1)"
                most = max(most, await admin.fetchval(sql, sorted(names)))

    async with Router(settings) as router, a_raw_house(settings, budgets=router.budgets) as house:
        watcher = asyncio.create_task(watch())

        async def by_wire(tenant: Tenant) -> None:
            for _ in range(5):
                async with house.leased(tenant) as backend:
                    assert await value(backend, "SELECT name FROM projects ORDER BY 1") == f"{tenant.id} 1"

        async def by_library(tenant: Tenant) -> None:
            for _ in range(5):
                assert await router.tenant(tenant.id).fetchval("SELECT min(name) FROM projects") == f"{tenant.id} 1"

        async with asyncio.TaskGroup() as group:
            for tenant in tenants * 3:
                group.create_task(by_wire(tenant))
                group.create_task(by_library(tenant))
        stop.set()
        await watcher
        assert router.budgets[SERVER].in_use <= limit
    assert 0 < most <= limit
    assert router.budgets[SERVER].in_use == len(router.budgets[SERVER].lingering)
