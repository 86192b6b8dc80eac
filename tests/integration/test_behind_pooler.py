"""Are tenants served through a PgBouncer that the configuration names, each transaction as its own? By the library."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
from sqlalchemy import text

from tenantproxy import Router
from tenantproxy.config import Settings
from tenantproxy.context import use
from tenantproxy.embedded import EmbeddedPostgres
from tenantproxy.errors import ConfigurationError, IsolationError, NotSupported
from tenantproxy.lifecycle.access import connect_as
from tenantproxy.lifecycle.live_check import check_live
from tenantproxy.model import Isolation, Tenant
from tenantproxy.registry import MemoryRegistry
from tenantproxy.sqlalchemy import create_async_engine
from tests.support.pooler import PGBOUNCER, PgBouncer, a_pooler
from tests.support.standby import keys_of
from tests.support.world import APP_PASSWORD, APP_ROLE, ROLE_SECRET, ROW_SECRET, SERVER, World, a_world

pytestmark = pytest.mark.skipif(PGBOUNCER is None, reason="apt-get install pgbouncer")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lasting(postgres: EmbeddedPostgres) -> AsyncIterator[World]:
    async with a_world(postgres) as made:
        async with made.shared.connect() as admin:
            for role in ("of_schema1", "of_schema2"):
                await admin.execute(f"ALTER ROLE {role} IN DATABASE {made.shared.name} SET search_path = ''")
        yield made


@pytest.fixture(scope="module")
def pooler(postgres: EmbeddedPostgres) -> Any:
    with a_pooler(postgres, default_pool_size=1) as made:
        yield made


def through(
    world: World,
    port: int,
    *,
    signed: bool = True,
    tenants: dict[str, Any] | None = None,
    pg: dict[str, Any] | None = None,
    signed_context: dict[str, str] | None = None,
    **keys: Any,
) -> Settings:
    """The tenants' server is behind the pooler at `port`, and main is not. `tenants`: instead of those of the world."""
    given = {"registry": {"source": "postgres"}} if tenants is None else {"registry": {"source": "file"}}
    given |= {} if pg is None else {"pg": pg}
    given |= {} if signed_context is None else {"signed_context": signed_context}
    given |= {} if tenants is None else {"tenants": {n: {"server": SERVER} | each for n, each in tenants.items()}}
    pooled = {**keys_of(world.server), "port": port, "pooler": "pgbouncer", **keys}
    return Settings.from_mapping(
        {
            "main": {"server": "direct", "database": world.main.name},
            "servers": {SERVER: pooled, "direct": keys_of(world.server)},
            "row": {"key": ROW_SECRET.decode()} if signed else {"signed": False},
            "tenant_roles": {"key": ROLE_SECRET.decode()},
            "pools": {"acquire_timeout": 15.0},
        }
        | given
    )


@asynccontextmanager
async def a_router(world: World, pooler: PgBouncer, **options: Any) -> AsyncIterator[Router]:
    async with Router(through(world, pooler.port, **options), registry=MemoryRegistry(world.tenants)) as router:
        yield router


async def sleepers(world: World) -> int:
    """How many statements sleep on the server."""
    async with world.main.connect() as admin:
        asked = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep%' AND pid <> pg_backend_pid()"
        found: int = await admin.fetchval(asked + " AND state <> 'idle'")
        return found


def names(tenant: Tenant) -> list[str]:
    return [f"{tenant.id} {n}" for n in (1, 2, 3)]


@pytest.mark.parametrize("kind", list(Isolation))
async def test_tenants_that_alternate_on_one_server_connection_see_their_own(
    lasting: World, pooler: PgBouncer, kind: Isolation
) -> None:
    async with a_router(lasting, pooler) as router:
        for _ in range(3):
            for tenant in lasting.of(kind):
                scope = router.tenant(tenant.id)
                rows = await scope.fetch("SELECT name FROM projects ORDER BY 1")
                assert [row["name"] for row in rows] == names(tenant)
                async with scope.transaction() as conn:
                    assert await conn.fetchval("SELECT count(*) FROM projects") == 3
                    assert await conn.fetchval("SELECT min(name) FROM projects") == f"{tenant.id} 1"
        assert not any(router.stats().violations.values())


@pytest.mark.parametrize("kind", list(Isolation))
async def test_a_statement_behind_a_commit_in_its_text_has_no_tenant(
    lasting: World, pooler: PgBouncer, kind: Isolation
) -> None:
    """Such a text is refused; where it is not seen, the server refuses what comes behind."""
    tenant, other = lasting.of(kind)
    async with a_router(lasting, pooler) as router:
        await router.tenant(other.id).fetch("SELECT name FROM projects")
        for said in ("COMMIT; SELECT name FROM projects", "/* */ ROLLBACK; BEGIN; SELECT 1"):
            with pytest.raises(NotSupported, match="transaction"):
                await router.tenant(tenant.id).execute(said)
        if kind is Isolation.DATABASE:
            return
        for end in ("COMMIT", "ROLLBACK", "COMMIT AND CHAIN", "ROLLBACK AND CHAIN", "COMMIT; BEGIN"):
            long = f"SELECT '{'x' * 9000}'; {end}; SELECT name FROM projects"
            with pytest.raises((asyncpg.InsufficientPrivilegeError, asyncpg.UndefinedTableError)):
                await router.tenant(tenant.id).execute(long)
        assert await router.tenant(tenant.id).fetchval("SELECT count(*) FROM projects") == 3


async def test_a_transaction_of_its_user_is_one_of_the_server(lasting: World, pooler: PgBouncer) -> None:
    tenant = lasting.of(Isolation.ROW)[0]
    async with a_router(lasting, pooler) as router:
        scope = router.tenant(tenant.id)
        with pytest.raises(ZeroDivisionError):  # noqa: PT012
            async with scope.transaction() as conn:
                await conn.execute("INSERT INTO projects (tenant_id, name) VALUES ($1, 'undone')", tenant.id)
                raise ZeroDivisionError
        async with scope.transaction(isolation="serializable", readonly=True) as conn:
            assert await conn.fetchval("SHOW transaction_isolation") == "serializable"
            with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
                async with conn.transaction():
                    await conn.execute("DELETE FROM projects")
            assert [row["name"] async for row in conn.cursor("SELECT name FROM projects ORDER BY 1")] == names(tenant)
        async with scope.connection() as conn:
            async with conn.transaction():
                with pytest.raises(asyncpg.DivisionByZeroError):  # noqa: PT012
                    async with conn.transaction():
                        await conn.execute("INSERT INTO projects (tenant_id, name) VALUES ($1, 'undone')", tenant.id)
                        await conn.fetch("SELECT 1/0")
                assert await conn.fetchval("SELECT count(*) FROM projects") == 3
            statement = await conn.prepare("SELECT name FROM projects WHERE name = $1")
            assert await statement.fetchval(f"{tenant.id} 1") == f"{tenant.id} 1"
            assert await statement.fetchval(f"{tenant.id} 2") == f"{tenant.id} 2"
            with pytest.raises(asyncpg.NoActiveSQLTransactionError):
                [row async for row in statement.cursor("x")]


@asynccontextmanager
async def a_stranger(world: World, pooler: PgBouncer, user: str, password: str) -> AsyncIterator[asyncpg.Connection]:
    """Another client of the pooler, of the same user and database: on one server connection it comes in between."""
    conn = await asyncpg.connect(
        host="127.0.0.1", port=pooler.port, user=user, password=password, database=world.shared.name, ssl=False,
        statement_cache_size=0,
    )  # fmt: skip
    try:
        yield conn
    finally:
        conn.terminate()


POISONS = {
    "a setting": "SET app.current_tenant_id = '{other}'; SET app.tenant_proof = 'bound'",
    "a temporary table": "CREATE TEMP TABLE projects AS SELECT 'of a stranger' AS name",
    "a path": "SET search_path = pg_catalog",
    "a cursor": "DECLARE c CURSOR WITH HOLD FOR SELECT 'of a stranger'",
    "read only": "SET default_transaction_read_only = on",
    "isolation": "SET default_transaction_isolation = serializable",
    "old strings": "SET standard_conforming_strings = off",
    "no row security": "SET row_security = off",
    "an encoding": "SET client_encoding = latin1",
    "a timeout": "SET lock_timeout = '1ms'; SET idle_in_transaction_session_timeout = '1ms'",
}


@pytest.mark.parametrize("poison", POISONS)
async def test_what_others_left_in_the_session_does_not_reach_a_tenant(
    lasting: World, pooler: PgBouncer, poison: str
) -> None:
    tenant, other = lasting.of(Isolation.ROW)
    async with lasting.shared.connect() as admin:
        await admin.execute(f"GRANT TEMPORARY ON DATABASE {lasting.shared.name} TO app")
    try:
        async with a_router(lasting, pooler) as router, a_stranger(lasting, pooler, APP_ROLE, APP_PASSWORD) as stranger:
            scope = router.tenant(tenant.id)
            await scope.fetch("SELECT 1")
            await stranger.execute(POISONS[poison].format(other=other.id))
            assert [row["name"] for row in await scope.fetch("SELECT name FROM projects ORDER BY 1")] == names(tenant)
            async with scope.transaction() as conn:
                await conn.execute("UPDATE projects SET name = name")
                assert await conn.fetchval("SELECT count(*) FROM pg_cursors WHERE is_holdable") == 0
                assert await conn.fetchval(r"SELECT '\ñ'") == "\\ñ"
            with pytest.raises((asyncpg.InsufficientPrivilegeError, asyncpg.ObjectNotInPrerequisiteStateError)):
                await stranger.fetch("SELECT * FROM public.projects")
    finally:
        async with lasting.shared.connect() as admin:
            await admin.execute(f"REVOKE TEMPORARY ON DATABASE {lasting.shared.name} FROM app")


async def test_a_session_with_statements_of_a_strangers_sql_is_not_used(lasting: World, pooler: PgBouncer) -> None:
    tenant = lasting.of(Isolation.ROW)[0]
    async with a_router(lasting, pooler) as router, a_stranger(lasting, pooler, APP_ROLE, APP_PASSWORD) as stranger:
        await stranger.execute('PREPARE "PGBOUNCER_900" AS SELECT 1')
        with pytest.raises(IsolationError, match="prepared in SQL"):
            await router.tenant(tenant.id).fetch("SELECT name FROM projects")
        assert await router.tenant(tenant.id).fetchval("SELECT count(*) FROM projects") == 3  # the session is gone
        assert router.stats().violations["transaction"] == 1


async def test_a_schema_tenant_whose_role_sees_a_schema_by_itself_is_refused(lasting: World, pooler: PgBouncer) -> None:
    tenant = lasting.of(Isolation.SCHEMA)[0]
    role, database = tenant.placement.role, lasting.shared.name
    async with lasting.shared.connect() as admin:
        await admin.execute(f"ALTER ROLE {role} IN DATABASE {database} SET search_path = 'schema1'")
    try:
        with a_pooler(lasting.server) as fresh:
            async with a_router(lasting, fresh) as router:
                with pytest.raises(IsolationError, match=r"sees the schemas schema1.*ALTER ROLE of_schema1"):
                    await router.tenant(tenant.id).fetch("SELECT 1")
    finally:
        async with lasting.shared.connect() as admin:
            await admin.execute(f"ALTER ROLE {role} IN DATABASE {database} SET search_path = ''")


async def test_a_pooler_that_leads_to_another_database_is_found(lasting: World) -> None:
    one, other = (tenant.placement.database for tenant in lasting.of(Isolation.DATABASE))
    to = f"host={lasting.server.host} port={lasting.server.port}"
    with a_pooler(lasting.server, databases=f"{one} = {to} dbname={other}") as renamed:
        async with a_router(lasting, renamed) as router:
            with pytest.raises(IsolationError, match=f"leads to the database '{other}'"):
                await router.tenant(lasting.of(Isolation.DATABASE)[0].id).fetch("SELECT name FROM projects")


async def test_a_reload_that_leads_elsewhere_is_found_by_the_next_transaction(lasting: World) -> None:
    tenant, other = lasting.of(Isolation.DATABASE)
    with a_pooler(lasting.server) as moved:
        async with a_router(lasting, moved) as router:
            assert await router.tenant(tenant.id).fetchval("SELECT count(*) FROM projects") == 3
            to = f"host={lasting.server.host} port={lasting.server.port} dbname={other.placement.database}"
            moved.write(databases=f"{tenant.placement.database} = {to}")
            async with moved.console() as console:
                await console.say("RELOAD")
                await console.say("RECONNECT")
            with pytest.raises(IsolationError, match="leads to the database"):
                await router.tenant(tenant.id).fetch("SELECT name FROM projects")


async def test_a_pooler_of_statements_is_named(lasting: World) -> None:
    with a_pooler(lasting.server, mode="statement") as wrong:
        with pytest.raises(IsolationError, match=r"pool_mode is statement.*pool_mode = transaction"):
            async with a_router(lasting, wrong):
                pass


@pytest.mark.parametrize("kind", list(Isolation))
async def test_a_pooler_of_sessions_serves_too(lasting: World, kind: Isolation) -> None:
    with a_pooler(lasting.server, mode="session", server_reset_query="") as sessions:
        async with a_router(lasting, sessions) as router:
            for tenant in (*lasting.of(kind), *lasting.of(kind)):
                rows = await router.tenant(tenant.id).fetch("SELECT name FROM projects ORDER BY 1")
                assert [row["name"] for row in rows] == names(tenant)


@pytest.mark.parametrize(
    ("mode", "said"), [("transaction", "pooler of transactions"), ("session", "of sessions"), (None, "no pooler")]
)
async def test_a_live_check_says_what_it_found_in_between(lasting: World, mode: Any, said: str) -> None:
    tenants: dict[str, Any] = {lasting.of(Isolation.ROW)[0].id: {"isolation": "row", "database": lasting.shared.name}}
    with a_pooler(lasting.server, mode=mode or "transaction") as pooler:
        port = pooler.port if mode else lasting.server.port
        settings = through(lasting, port, tenants=tenants)
        found = {finding.place: finding for finding in await check_live(settings)}
    assert said in found[f"{SERVER}/{lasting.shared.name}"].what
    assert "row, exact" in found[f"{SERVER}/{lasting.shared.name}"].what


def wrongs(settings: dict[str, Any]) -> dict[str, str]:
    with pytest.raises(ConfigurationError) as caught:
        Settings.from_mapping(settings)
    return {problem.key: f"{problem.problem}; {problem.fix}" for problem in caught.value.problems}


def test_what_cannot_be_behind_a_pooler_is_told_with_its_fix() -> None:
    server = {"host": "h", "user": "app", "password": "", "pooler": "pgbouncer"}
    found = wrongs(
        {
            "main": {"server": "a", "database": "m"},
            "servers": {"a": server | {"replicas": ["b"]}, "b": server},
            "row": {"form": "trusted", "key": "k" * 32},
        }
    )
    assert set(found) == {"servers.a.replicas", "servers.b.pooler", "row.form", "registry.listen", "fleet.enabled"}
    assert "listen = false" in found["registry.listen"]
    hosts = {key: value for key, value in server.items() if key != "host"} | {"hosts": ["x:1", "y:2"]}
    direct = {"host": "h", "user": "app", "password": ""}
    main = {"server": "d", "database": "m"}
    assert set(wrongs({"main": main, "servers": {"d": direct, "c": hosts}})) == {"servers.c.hosts"}
    assert "one of" in wrongs({"main": main, "servers": {"d": direct | {"pooler": "odyssey"}}})["servers.d.pooler"]


async def test_main_may_be_behind_the_pooler_without_listen_and_fleet(lasting: World, pooler: PgBouncer) -> None:
    pooled = {"port": pooler.port, "pooler": "pgbouncer"}
    settings = Settings.from_mapping(
        lasting.mapping(registry="postgres", servers={SERVER: pooled}, fleet={"enabled": False})
        | {"registry": {"source": "postgres", "listen": False}}
    )
    async with Router(settings) as router:
        for tenant in lasting.tenants:
            rows = await router.tenant(tenant.id).fetch("SELECT name FROM projects ORDER BY 1")
            assert [row["name"] for row in rows] == names(tenant)
        assert await router.main().fetchval("SELECT count(*) FROM tenantproxy.tenants") == len(lasting.tenants)
        async with router.admin(lasting.of(Isolation.ROW)[0].id, reason="a test") as admin:
            assert await admin.fetchval("SELECT count(*) FROM projects") == 6


@pytest.mark.parametrize(
    "said",
    [
        "SET timezone = 'UTC'", "RESET ALL", "LISTEN news", "DISCARD ALL", "PREPARE p AS SELECT 1",
        "CREATE TEMP TABLE t (a int)", "SELECT pg_advisory_lock(1)", "DECLARE c CURSOR WITH HOLD FOR SELECT 1",
        "SELECT set_config('app.x', '1', false)", "SELECT 1; SET a.b = 1",
    ],
)  # fmt: skip
async def test_what_needs_a_session_is_refused_with_what_to_do(lasting: World, pooler: PgBouncer, said: str) -> None:
    async with a_router(lasting, pooler) as router:
        async with router.tenant(lasting.of(Isolation.ROW)[0].id).connection() as conn:
            with pytest.raises(NotSupported, match="behind a connection pooler") as caught:
                await conn.execute(said)
            assert caught.value.hint
            with pytest.raises(NotSupported):
                await conn.add_listener("news", print)
            with pytest.raises(NotSupported):
                await conn.reset()
            assert await conn.fetchval("SELECT count(*) FROM projects") == 3
            async with conn.transaction():
                await conn.execute("SET LOCAL timezone = 'UTC'; SELECT pg_advisory_xact_lock(1)")


async def test_sqlalchemy_works_through_a_pooler(lasting: World, pooler: PgBouncer) -> None:
    async with a_router(lasting, pooler) as router:
        engine = create_async_engine(router)
        for tenant in lasting.tenants * 2:
            with use(router.tenant(tenant.id)):
                async with engine.begin() as conn:
                    found = await conn.execute(
                        text("SELECT name FROM projects WHERE name LIKE :it ORDER BY 1"), {"it": "%"}
                    )
                    assert list(found.scalars()) == names(tenant)
                    async with conn.begin_nested():
                        assert (await conn.execute(text("SELECT count(*) FROM projects"))).scalar_one() == 3
                    streamed = await conn.stream(text("SELECT name FROM projects ORDER BY 1"))
                    assert [row[0] async for row in streamed] == names(tenant)
                async with engine.connect() as conn:
                    alone = await conn.execution_options(isolation_level="AUTOCOMMIT")
                    assert (await alone.execute(text("SELECT count(*) FROM projects"))).scalar_one() == 3
        await engine.dispose()


async def test_a_context_lasts_for_the_transactions_of_its_lease(lasting: World, pooler: PgBouncer) -> None:
    tenant, other = lasting.of(Isolation.ROW)
    async with a_router(lasting, pooler) as router:
        scope = router.tenant(tenant.id, context={"app.user_id": "it's \\ 7 €"})
        assert await scope.fetchval("SELECT current_setting('app.user_id')") == "it's \\ 7 €"
        asked = "SELECT coalesce(current_setting('app.user_id', true), '')"
        assert await router.tenant(tenant.id).fetchval(asked) == ""
        assert await router.tenant(other.id).fetchval(asked) == ""


async def test_signed_settings_hold_for_each_transaction_of_their_lease(lasting: World, pooler: PgBouncer) -> None:
    tenant, other = lasting.of(Isolation.ROW)
    said = "SELECT tenantproxy.context('app.role')"
    async with a_router(lasting, pooler, signed_context={"app.role": "claim:role"}) as router:
        for each, role in ((tenant, "it's \\ 7 €"), (other, "viewer"), (tenant, "admin")):
            async with router.tenant(each.id, context={"app.role": role}).connection() as conn:
                assert [await conn.fetchval(said) for _ in range(2)] == [role, role]
                forging = "SELECT set_config('app.context', '{\"app.role\": \"owner\"}', true)"
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await conn.execute(f"{forging}; {said}")
        assert await router.tenant(tenant.id).fetchval(said) is None


async def test_types_of_its_own_schema_are_read_for_each_tenant(lasting: World, pooler: PgBouncer) -> None:
    async with a_router(lasting, pooler) as router:
        for tenant in (*lasting.of(Isolation.SCHEMA), *lasting.of(Isolation.SCHEMA)):
            async with lasting.shared.connect() as admin:
                await admin.execute(
                    f"DROP TYPE IF EXISTS {tenant.placement.schema}.mood;"
                    f" CREATE TYPE {tenant.placement.schema}.mood AS ENUM ('of {tenant.id}')"
                )
            assert await router.tenant(tenant.id).fetchval("SELECT $1::mood", f"of {tenant.id}") == f"of {tenant.id}"


async def test_installing_goes_past_the_pooler(lasting: World, pooler: PgBouncer) -> None:
    server = through(lasting, pooler.port).servers[SERVER]
    admin, secret = lasting.server.superuser, lasting.server.password
    with pytest.raises(ConfigurationError, match="TENANTPROXY_SERVERS__NAME__HOST"):
        await connect_as(server, lasting.shared.name, admin, secret)
    with pytest.raises(ConfigurationError, match="TENANTPROXY_SERVERS__NAME__HOST"):
        await connect_as(server, lasting.shared.name, admin, secret, search_path="pg_catalog")
    past = server.model_copy(update={"port": lasting.server.port})
    conn = await connect_as(past, lasting.shared.name, admin, secret)
    await conn.close()
