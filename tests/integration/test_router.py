"""Does the router do what its API says, for tenants of every kind, on a real server?"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import FrozenInstanceError, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import asyncpg
import pytest

import tenantproxy
from tenantproxy import (
    AccessDenied,
    ConnectFailed,
    PoolClosed,
    PoolFull,
    PoolTimeout,
    Router,
    TenantNotFound,
    TenantPaused,
    TenantStatus,
    TenantSuspended,
    TenantUnresolved,
)
from tenantproxy.embedded import EmbeddedPostgres
from tenantproxy.events import AdminAccess, ConnectionOpened, Event, Exhausted, PoolOpened
from tenantproxy.model import Isolation, tenant_id
from tenantproxy.registry import MemoryRegistry
from tests.support.checked import CheckedRouter, checked
from tests.support.lasting import a_lasting_world
from tests.support.waiting import SLACK, until
from tests.support.world import World

KINDS = ("database1", "schema1", "row1")
NAMES = "SELECT name FROM projects ORDER BY name"

kinds = pytest.mark.parametrize("tenant", KINDS)


@pytest.fixture(scope="session")
def lasting(postgres: EmbeddedPostgres) -> Iterator[World]:
    with a_lasting_world(postgres) as world:
        yield world


@pytest.fixture
async def router(lasting: World) -> AsyncIterator[CheckedRouter]:
    async with checked(lasting.settings(registry="postgres"), lasting) as router:
        yield router


def own(tenant: str) -> list[str]:
    return [f"{tenant} {n}" for n in (1, 2, 3)]


def inserting(tenant: str) -> str:
    """An INSERT of one name, $1."""
    if tenant.startswith("row"):
        return f"INSERT INTO projects (tenant_id, name) VALUES ('{tenant}', $1)"
    return "INSERT INTO projects (name) VALUES ($1)"


class Row(asyncpg.Record):
    def __getattr__(self, name: str) -> Any:
        return self[name]


# --- reading ---------------------------------------------------------------------------------------------------------
async def test_every_tenant_reads_its_own_rows_and_no_others_on_every_version(each_world: World) -> None:
    async with checked(each_world.settings(registry="postgres"), each_world) as router:
        for _ in range(2):
            for tenant in each_world.tenants:
                assert [row["name"] for row in await router.tenant(tenant.id).fetch(NAMES)] == own(tenant.id)


@kinds
async def test_the_reading_methods_give_what_asyncpgs_give(router: CheckedRouter, tenant: str) -> None:
    db = router.tenant(tenant)
    like = "SELECT name, length(name) AS size FROM projects WHERE name LIKE $1 ORDER BY name"
    assert [row["name"] for row in await db.fetch(like, "%")] == own(tenant)
    first = await db.fetchrow(like, "%")
    assert first is not None
    assert (first["name"], first["size"]) == (f"{tenant} 1", len(tenant) + 2)
    assert await db.fetchrow(like, "nothing") is None
    assert await db.fetchval(like, "%", column=1) == len(tenant) + 2
    assert await db.fetchval(like, "nothing") is None
    many = await db.fetchmany(like, [("%1",), ("%2",)])
    assert sorted({row["name"] for row in many} & {f"{tenant} 1", f"{tenant} 2"}) == own(tenant)[:2]


@kinds
async def test_records_come_in_the_class_that_was_asked_for(router: CheckedRouter, tenant: str) -> None:
    db = router.tenant(tenant)
    assert [row.name for row in await db.fetch(NAMES, record_class=Row)] == own(tenant)  # type: ignore[attr-defined]
    first = await db.fetchrow(NAMES, record_class=Row)
    assert isinstance(first, Row)
    assert first.name == f"{tenant} 1"
    again = await db.fetchrow(NAMES)
    assert not isinstance(again, Row)


@kinds
async def test_copy_from_query_writes_the_tenants_rows(router: CheckedRouter, tenant: str) -> None:
    out = BytesIO()
    tag = await router.tenant(tenant).copy_from_query(NAMES, output=out)
    assert tag == "COPY 3"
    assert out.getvalue().decode().split("\n")[:3] == own(tenant)


# --- writing ---------------------------------------------------------------------------------------------------------
@kinds
async def test_execute_and_executemany_write_for_the_tenant_alone(router: CheckedRouter, tenant: str) -> None:
    db, other = router.tenant(tenant), router.tenant(tenant[:-1] + "2")
    assert await db.execute(inserting(tenant), "new 1") == "INSERT 0 1"
    await db.executemany(inserting(tenant), [("new 2",), ("new 3",)])
    assert await db.fetchval("SELECT count(*) FROM projects WHERE name LIKE 'new%'") == 3
    assert await other.fetchval("SELECT count(*) FROM projects WHERE name LIKE 'new%'") == 0
    assert await db.execute("DELETE FROM projects WHERE name LIKE 'new%'; SELECT 1") == "SELECT 1"
    assert [row["name"] for row in await db.fetch(NAMES)] == own(tenant)


@pytest.mark.parametrize("tenant", ["database1", "schema1"])
async def test_copy_fills_a_tenants_table(router: CheckedRouter, tenant: str) -> None:
    db = router.tenant(tenant)
    assert await db.copy_records_to_table("projects", records=[("new 1",), ("new 2",)], columns=["name"]) == "COPY 2"
    assert await db.copy_to_table("projects", source=BytesIO(b"new 3\nnew 4\n"), columns=["name"]) == "COPY 2"
    assert await db.execute("DELETE FROM projects WHERE name LIKE 'new%'") == "DELETE 4"


async def test_copy_into_a_table_with_policies_is_postgresqls_own_refusal(router: CheckedRouter) -> None:
    with pytest.raises(asyncpg.FeatureNotSupportedError):
        await router.tenant("row1").copy_records_to_table(
            "projects", records=[("row1", "x")], columns=["tenant_id", "name"]
        )
    assert [row["name"] for row in await router.tenant("row1").fetch(NAMES)] == own("row1")


# --- transactions ----------------------------------------------------------------------------------------------------
@kinds
async def test_a_transaction_is_committed_at_its_end_and_rolled_back_when_its_block_raises(
    router: CheckedRouter, tenant: str
) -> None:
    db = router.tenant(tenant)
    with suppress(KeyError):
        async with db.transaction() as conn:
            await conn.execute(inserting(tenant), "rolled back")
            raise KeyError
    assert [row["name"] for row in await db.fetch(NAMES)] == own(tenant)
    async with db.transaction() as conn:
        await conn.execute("DELETE FROM projects WHERE name LIKE '%3'")
    assert [row["name"] for row in await db.fetch(NAMES)] == own(tenant)[:2]
    await db.execute(inserting(tenant), f"{tenant} 3")


@kinds
async def test_a_transaction_has_the_options_it_was_given_and_the_next_one_has_not(
    router: CheckedRouter, tenant: str
) -> None:
    db = router.tenant(tenant)
    shown = (
        "SELECT (current_setting('transaction_isolation'), current_setting('transaction_read_only'),"
        " current_setting('transaction_deferrable'))"
    )
    async with db.transaction(isolation="serializable", readonly=True, deferrable=True) as conn:
        assert await conn.fetchval(shown) == ("serializable", "on", "on")
        with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
            async with conn.transaction():
                await conn.execute(inserting(tenant), "x")
    async with db.transaction(isolation="repeatable_read") as conn:
        assert await conn.fetchval(shown) == ("repeatable read", "off", "off")
    async with db.transaction() as conn:
        assert await conn.fetchval(shown) == ("read committed", "off", "off")


@kinds
async def test_nothing_that_was_kept_from_a_block_works_after_it(router: CheckedRouter, tenant: str) -> None:
    db = router.tenant(tenant)
    async with db.connection() as conn:
        statement = await conn.prepare(NAMES)
        transaction = conn.transaction()
        await transaction.start()
        cursor = await conn.cursor(NAMES)
        kept: Any = conn
        assert isinstance(kept, asyncpg.Connection)
    late: list[Callable[[], Awaitable[object]]] = [
        lambda: kept.fetch(NAMES),
        lambda: kept.execute("SELECT 1"),
        statement.fetch,
        lambda: cursor.fetch(1),
        transaction.commit,
    ]
    for call in late:
        with pytest.raises(asyncpg.InterfaceError):
            await call()
    block = db.connection()
    async with block:
        pass
    with pytest.raises(RuntimeError, match="entered already"):
        await block.__aenter__()


# --- limits ----------------------------------------------------------------------------------------------------------
@kinds
async def test_a_timeout_bounds_the_wait_and_the_statement_together(lasting: World, tenant: str) -> None:
    async with checked(lasting.settings(pools={"max_size": 1, "shared_size": 1}), lasting) as router:
        db = router.tenant(tenant)
        async with db.connection():
            began = time.monotonic()
            with pytest.raises(PoolTimeout, match="max_size = 1") as caught:
                await db.fetchval("SELECT 1", timeout=0.1)
            assert 0.09 < time.monotonic() - began < 0.1 + SLACK
            assert (caught.value.http_status, caught.value.sqlstate) == (503, "53300")
            began = time.monotonic()
            late = asyncio.ensure_future(db.fetchval("SELECT pg_sleep(30)", timeout=2.0))
            await until(lambda: time.monotonic() - began > 1.0, "half of its time is over")
        with pytest.raises(TimeoutError):
            await late
        assert 1.9 < time.monotonic() - began < 2.95  # 3 when its time began again
        assert await db.fetchval("SELECT count(*) FROM projects") == 3


@kinds
async def test_calls_beyond_max_size_wait_their_turn_and_all_are_served(lasting: World, tenant: str) -> None:
    async with checked(lasting.settings(pools={"max_size": 3}), lasting) as router:
        db = router.tenant(tenant)
        pids = await asyncio.gather(*(db.fetchval("SELECT pg_backend_pid(), pg_sleep(0.002)") for _ in range(60)))
        assert 1 <= len(set(pids)) <= 3
        assert router.stats().acquires[tenant]["ok"] >= 60


async def test_too_many_waiters_are_refused_at_once(lasting: World) -> None:
    async with checked(lasting.settings(pools={"max_size": 1, "max_waiting": 2}), lasting) as router:
        db = router.tenant("database1")
        async with db.connection():
            waiting = [asyncio.ensure_future(db.fetchval("SELECT 1")) for _ in range(2)]
            await until(lambda: sum(pool.waiting for pool in router.stats().pools) == 2, "two wait")
            with pytest.raises(PoolFull, match="max_waiting = 2"):
                await db.fetchval("SELECT 1")
        assert await asyncio.gather(*waiting) == [1, 1]
        assert router.stats().exhaustions["queue_full"] == 1
        assert [event.cause for event in router.events if isinstance(event, Exhausted)] == ["queue_full"]


# --- tenants ---------------------------------------------------------------------------------------------------------
async def test_tenants_are_listed_in_order_and_by_status(lasting: World) -> None:
    paused, gone = lasting.tenants[0], lasting.tenants[-1]
    registry = MemoryRegistry(lasting.tenants)
    registry.add(replace(paused, status=TenantStatus.PAUSED))
    registry.add(replace(gone, status=TenantStatus.SUSPENDED))
    async with checked(lasting.settings(), lasting, registry=registry) as router:
        listed = [tenant.id async for tenant in router.tenants()]
        assert listed == sorted(tenant.id for tenant in lasting.tenants)
        assert [tenant.id async for tenant in router.tenants(status="paused")] == [paused.id]
        active = [tenant.id async for tenant in router.tenants(status=TenantStatus.ACTIVE)]
        assert active == [name for name in listed if name not in (paused.id, gone.id)]
        with pytest.raises(TenantPaused) as caught:
            await router.tenant(paused.id).fetchval("SELECT 1")
        assert caught.value.retry_after
        with pytest.raises(TenantSuspended):
            await router.tenant(gone.id).fetchval("SELECT 1")


async def test_an_unknown_tenant_fails_at_its_first_use_and_a_malformed_one_at_once(router: CheckedRouter) -> None:
    stranger = router.tenant("nobody")
    with pytest.raises(TenantNotFound):
        await stranger.fetchval("SELECT 1")
    for bad in ("", "a b", "a'b", "x" * 64, "é", ".hidden"):
        with pytest.raises(TenantNotFound) as caught:
            router.tenant(bad)
        assert not bad or bad not in str(caught.value)


async def test_a_tenant_with_several_systems_has_a_schema_for_each(lasting: World) -> None:
    crm = next(tenant for tenant in lasting.tenants if tenant.id == "schema1")
    registry = MemoryRegistry([*lasting.tenants, replace(crm, systems={"crm": "schema2", "billing": "schema3"})])
    role = lasting.role_of(crm)
    async with lasting.shared.connect() as admin:
        for schema in ("schema2", "schema3"):
            await admin.execute(
                f"GRANT USAGE ON SCHEMA {schema} TO {role}; GRANT SELECT ON {schema}.projects TO {role}"
            )
    async with checked(lasting.settings(), lasting, registry=registry) as router:
        for system, schema in ((None, "schema1"), ("crm", "schema2"), ("billing", "schema3")):
            names = await router.tenant("schema1", system=system).fetch(NAMES)
            assert [row["name"] for row in names] == own(schema)
        for tenant in KINDS:
            with pytest.raises(TenantNotFound, match="system"):
                await router.tenant(tenant, system="hr").fetchval("SELECT 1")
    async with lasting.shared.connect() as admin:
        await admin.execute(f"REVOKE ALL ON SCHEMA schema2, schema3 FROM {role}")


# --- main, admin -----------------------------------------------------------------------------------------------------
async def test_main_has_the_same_methods_and_no_tenant(router: CheckedRouter) -> None:
    main = router.main()
    assert await main.fetchval("SELECT count(*) FROM tenantproxy.tenants") == 9
    async with main.transaction(readonly=True) as conn:
        assert await conn.fetchval("SELECT current_database()") == router.settings.main.database
    assert not await main.fetchval("SELECT current_setting('app.current_tenant_id', true)")


async def test_the_admins_way_in_is_told_and_needs_a_reason(router: CheckedRouter, lasting: World) -> None:
    async with router.admin("row1", reason="nightly bill") as conn:
        assert await conn.fetchval("SELECT current_user") == lasting.server.superuser
        assert await conn.fetchval("SELECT current_database()") == lasting.shared.name
    with pytest.raises(asyncpg.InterfaceError):
        await conn.fetchval("SELECT 1")
    assert [event for event in router.events if isinstance(event, AdminAccess)] == [
        AdminAccess(tenant="row1", reason="nightly bill")
    ]
    with pytest.raises(AccessDenied, match="reason"):
        async with router.admin("row1", reason=" "):
            pass


# --- connections -----------------------------------------------------------------------------------------------------
async def test_codecs_that_init_sets_stay_across_leases_and_tenants(lasting: World) -> None:
    calls = 0

    async def init(conn: asyncpg.Connection[Any]) -> None:
        nonlocal calls
        calls += 1
        await conn.set_type_codec("jsonb", schema="pg_catalog", encoder=json.dumps, decoder=json.loads)

    settings = lasting.settings(pools={"shared_size": 1, "max_size": 1})
    async with checked(settings, lasting, init=init) as router:
        pids = set()
        for tenant in ("row1", "row2", "row1", "database1", "database1", "schema1"):
            async with router.tenant(tenant).connection() as conn:
                pids.add(conn.get_server_pid())
                assert await conn.fetchval("SELECT $1::jsonb", {"of": tenant}) == {"of": tenant}
        assert len(pids) == 3
        assert calls == 3 + 1, "once for each connection, main's too"
        async with router.tenant("row1").connection() as conn:
            await conn.set_type_codec("jsonb", schema="pg_catalog", encoder=str, decoder=lambda text: "of row1 alone")
            assert await conn.fetchval("""SELECT '{"a": 1}'::jsonb""") == "of row1 alone"
        assert await router.tenant("row2").fetchval("""SELECT '{"a": 1}'::jsonb""") == {"a": 1}


async def test_the_observer_hears_of_what_is_rare_and_may_not_break_anything(lasting: World) -> None:
    heard: list[Event] = []
    async with Router(lasting.settings(), observer=heard.append) as router:
        await router.tenant("database1").fetchval("SELECT 1")
        opened = {(type(event), getattr(event, "pool", "")) for event in heard}
        main = f"primary/{lasting.main.name}"
        assert {(ConnectionOpened, main), (PoolOpened, "database1"), (ConnectionOpened, "database1")} <= opened
        before = len(heard)
        for _ in range(50):
            await router.tenant("database1").fetchval("SELECT 1")
        assert len(heard) == before, "an event for each call would cost too much"


async def test_the_statistics_are_one_frozen_moment(router: CheckedRouter, lasting: World) -> None:
    for tenant in KINDS:
        await router.tenant(tenant).fetchval("SELECT 1")
    await until(lambda: router.is_at_rest, "resets are over")
    async with router.tenant("row2").connection():
        stats = router.stats()
    assert stats.acquires["row2"]["ok"] == 1
    pools = {pool.label: pool for pool in stats.pools}
    shared = pools[f"primary/{lasting.shared.name}"]
    assert (shared.key.shared, shared.used, shared.waiting, shared.limit) == (True, 1, 0, 20)
    assert {one.tenant: one.leased for one in shared.tenants}["row2"] == 1
    assert pools["database1"].idle == 1
    (server,) = stats.servers
    total = sum(pool.idle + pool.used + pool.opening + pool.resetting + pool.retiring for pool in stats.pools)
    assert (server.connections, server.limit, server.up) == (total, 50, True)
    assert server.max_connections == 200
    assert set(stats.acquire_wait) == set(stats.hold) == set(Isolation)
    assert sum(stats.hold[Isolation.SCHEMA].counts) == 1
    assert stats.resets["failed"] == 0
    assert stats.registry_last_success
    with pytest.raises(FrozenInstanceError):
        stats.pools_limit = 1  # type: ignore[misc]
    await router.tenant("row2").fetchval("SELECT 1")
    assert stats.acquires["row2"]["ok"] == 1


async def test_a_tenant_named_main_is_not_counted_with_the_main_database(lasting: World) -> None:
    named = replace(next(one for one in lasting.tenants if one.id == "database1"), id=tenant_id("main"))
    async with checked(lasting.settings(), lasting, registry=MemoryRegistry([named])) as router:
        before = dict(router.stats().acquires)
        assert "main" not in before
        await router.tenant("main").fetchval("SELECT 1")
        assert router.stats().acquires["main"]["ok"] == 1
        await router.main().fetchval("SELECT 1")
        assert router.stats().acquires["main"]["ok"] == 1


# --- the current tenant ----------------------------------------------------------------------------------------------
async def test_the_current_tenant_is_the_tasks_own_and_there_is_no_default(router: CheckedRouter) -> None:
    with pytest.raises(TenantUnresolved):
        tenantproxy.current()

    async def names() -> list[str]:
        await asyncio.sleep(0)
        return [row["name"] for row in await tenantproxy.current().fetch(NAMES)]

    async def job(tenant: str) -> None:
        with tenantproxy.use(router.tenant(tenant)) as scope:
            assert tenantproxy.current() is scope
            inner = [asyncio.create_task(names()) for _ in range(3)]
            assert await asyncio.gather(*inner) == [own(tenant)] * 3
            with pytest.raises(AccessDenied, match="another tenant"):
                with tenantproxy.use(router.tenant("row3")):
                    pass
            with tenantproxy.use(router.tenant(tenant)):
                assert await names() == own(tenant)
            assert tenantproxy.current() is scope

    await asyncio.gather(*(job(tenant) for tenant in (*KINDS, "row2") for _ in range(4)))
    with pytest.raises(TenantUnresolved):
        tenantproxy.current()


# --- life ------------------------------------------------------------------------------------------------------------
async def test_a_configuration_file_is_enough_for_an_open_router(lasting: World, tmp_path: Path) -> None:
    path = tmp_path / "tenantproxy.toml"
    path.write_text(lasting.toml())
    closed = Router.from_file(path)  # nothing is opened yet
    with pytest.raises(PoolClosed, match="not open"):
        await closed.tenant("row1").fetchval("SELECT 1")
    with pytest.raises(PoolClosed):
        await anext(closed.tenants())
    async with tenantproxy.open_router(path) as router:
        for tenant in KINDS:
            assert [row["name"] for row in await router.tenant(tenant).fetch(NAMES)] == own(tenant)
    assert not router.is_open
    await router.close()


async def test_a_change_in_the_registry_is_heard_at_once(world: World) -> None:
    async with checked(world.settings(registry="postgres"), world) as router:
        assert router.listener.is_wanted
        await router.listener.listening.wait()
        assert await router.tenant("database1").fetchval("SELECT count(*) FROM projects") == 3
        async with world.main.connect() as admin:
            await admin.execute("UPDATE tenantproxy.tenants SET status = 'suspended' WHERE id = 'database1'")

            async def refused() -> bool:
                try:
                    await router.tenant("database1").fetchval("SELECT 1")
                except TenantSuspended:
                    return True
                return False

            await until(refused, "the suspension is in force", timeout=3.0 + SLACK)
            await admin.execute("UPDATE tenantproxy.tenants SET status = 'active' WHERE id = 'database1'")

            async def active() -> bool:
                return not await refused()

            await until(active, "the tenant is served again", timeout=3.0 + SLACK)


async def test_a_wrong_password_is_told_without_the_password(lasting: World) -> None:
    router = CheckedRouter(lasting.settings(servers={"primary": {"password": "not the right one"}}))
    with pytest.raises(ConnectFailed, match="refused our password") as caught:
        await router.open()
    assert "not the right one" not in str(caught.value)
    assert not router.is_open


@pytest.mark.parametrize("tenant", ["row1", "schema1", "database1"])
async def test_settings_that_a_caller_gives_are_there_in_its_session_and_gone_in_the_next(
    world: World, tenant: str
) -> None:
    async with Router(world.settings(pools={"max_size": 1, "shared_size": 1})) as router:
        for user in ("7", "8"):
            db = router.tenant(tenant, context={"app.user_id": user})
            assert await db.fetchval("SELECT current_setting('app.user_id')") == user
        left = await router.tenant(tenant).fetchval("SELECT nullif(current_setting('app.user_id', true), '')")
        assert left is None


@pytest.mark.parametrize("name", ["app.current_tenant_id", "APP.Tenant_Proof", "role", "search_path"])
async def test_a_caller_cannot_give_a_setting_that_isolation_rests_on(world: World, name: str) -> None:
    router = Router(world.settings())
    with pytest.raises(AccessDenied, match=r"app\.user_id"):
        router.tenant("row1", context={name: "row2"})


async def test_a_sweep_that_fails_is_told_and_the_next_one_comes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: told.append(context))
    monkeypatch.setattr("tenantproxy.life._SWEEP_SECONDS", 0.01)
    async with Router(world.settings()) as router:
        sweeping = router._parts.manager.sweeping
        sweeps: list[None] = []

        def failing() -> Iterator[None]:
            sweeps.append(None)
            if len(sweeps) == 1:
                raise ZeroDivisionError
            return sweeping()

        monkeypatch.setattr(router._parts.manager, "sweeping", failing)
        await until(lambda: len(sweeps) > 2, "it goes on")
    assert [type(context["exception"]) for context in told] == [ZeroDivisionError]
