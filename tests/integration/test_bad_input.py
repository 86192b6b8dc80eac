"""What does a user see of each mistake and each bad day? Class, code and words; never a secret."""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import asyncpg
import pytest
import pytest_asyncio

from tenantproxy import Router
from tenantproxy import errors as e
from tenantproxy.config import role_password
from tenantproxy.embedded import EmbeddedPostgres
from tenantproxy.events import AdminAccess, Event, IsolationViolation
from tenantproxy.lifecycle import install
from tenantproxy.lifecycle.provisioner import ensure_role
from tenantproxy.model import Isolation, Placement, Tenant, TenantStatus, quote_identifier, tenant_id
from tenantproxy.registry import MemoryRegistry
from tests.support.chaos import ChaosProxy
from tests.support.database import fresh_database
from tests.support.leases import one_connection, own_rows, pid_of, rows_of
from tests.support.waiting import PATIENCE, until
from tests.support.world import APP_PASSWORD, APP_ROLE, ROLE_SECRET, ROW_SECRET, SERVER, World, a_world, row_key

MIGHTY_PASSWORD: Final = "password-of-a-mighty-role"
WRONG_PASSWORD: Final = "a-password-that-is-wrong"
WRONG_KEY: Final = "a key that nobody installed in any database"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def one_world(postgres: EmbeddedPostgres) -> AsyncIterator[World]:
    async with a_world(postgres) as made:
        yield made


@dataclass(slots=True)
class Scene:
    """Where something goes wrong, and what was said of it."""

    world: World
    events: list[Event] = field(default_factory=list)

    @asynccontextmanager
    async def router(self, **changes: Any) -> AsyncIterator[Router]:
        async with one_connection(self.world, observer=self.events.append, **changes) as router:
            yield router


def _secrets(world: World) -> list[str]:
    key = row_key(world.shared.name)
    return [
        APP_PASSWORD, ROW_SECRET.decode(), MIGHTY_PASSWORD, WRONG_PASSWORD, WRONG_KEY, world.server.password or "-",
        key.hex(), repr(key), "postgres://", "postgresql://",
    ]  # fmt: skip


_PROOF: Final = re.compile(r"v1\.\d\.\d{10}\.")


def _tells_no_secret(world: World, *texts: str) -> None:
    for text in texts:
        assert not _PROOF.search(text)
        for secret in _secrets(world):
            assert secret not in text


Provoke = Callable[[Scene], Awaitable[object]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """What is done, and how it must fail."""

    name: str
    provoke: Provoke
    error: type[e.TenantProxyError]
    words: tuple[str, ...]


REFUSALS: list[Refusal] = []


def refused(error: type[e.TenantProxyError], *words: str) -> Callable[[Provoke], Provoke]:
    def add(provoke: Provoke) -> Provoke:
        REFUSALS.append(Refusal(name=provoke.__name__, provoke=provoke, error=error, words=words))
        return provoke

    return add


# --- whom it is asked for --------------------------------------------------------------------------------------------
@refused(e.TenantNotFound, "no such tenant")
async def an_unknown_tenant(scene: Scene) -> None:
    async with scene.router() as router:
        await router.tenant("nobody").fetch("SELECT 1")


@refused(e.TenantNotFound, "no such tenant")
async def one_that_differs_by_case(scene: Scene) -> None:
    async with scene.router() as router:
        await router.tenant("Row1").fetch("SELECT 1")


def _status(status: TenantStatus) -> Provoke:
    async def provoke(scene: Scene) -> None:
        place = Placement(isolation=Isolation.ROW, server=SERVER, database=scene.world.shared.name)
        registry = MemoryRegistry([Tenant(id=tenant_id("one"), placement=place, status=status)])
        async with Router(scene.world.settings(), registry=registry, observer=scene.events.append) as router:
            await router.tenant("one").fetch("SELECT 1")

    provoke.__name__ = f"one_that_is_{status.value}"
    return provoke


for _one in (TenantStatus.SUSPENDED, TenantStatus.INACTIVE, TenantStatus.DELETING):
    refused(e.TenantSuspended, f"the tenant is {_one.value}", "operator")(_status(_one))
for _one in (TenantStatus.PAUSED, TenantStatus.PROVISIONING):
    refused(e.TenantPaused, f"the tenant is {_one.value}", "try again")(_status(_one))


@refused(e.TenantNotFound, "no systems")
async def a_system_of_a_row_tenant(scene: Scene) -> None:
    async with scene.router() as router:
        await router.tenant("row1", system="crm").fetch("SELECT 1")


@refused(e.TenantError, "server 'nowhere'", "[servers.nowhere]")
async def a_server_that_is_not_configured(scene: Scene) -> None:
    place = Placement(isolation=Isolation.DATABASE, server="nowhere", database="x")
    registry = MemoryRegistry([Tenant(id=tenant_id("one"), placement=place)])
    async with Router(scene.world.settings(), registry=registry, observer=scene.events.append) as router:
        await router.tenant("one").fetch("SELECT 1")


# --- where it lives --------------------------------------------------------------------------------------------------
def _placed(scene: Scene, **place: str) -> dict[str, Any]:
    return {"tenants": {"one": {"database": scene.world.shared.name} | place}}


@refused(e.IsolationError, "schema 'no_such_schema' does not exist", "USAGE", "create the schema")
async def a_schema_that_does_not_exist(scene: Scene) -> None:
    async with scene.router(**_placed(scene, isolation="schema", schema="no_such_schema")) as router:
        await router.tenant("one").fetch("SELECT 1")


@refused(e.IsolationError, "schema 'Public' does not exist")
async def a_schema_that_differs_by_case(scene: Scene) -> None:
    async with scene.router(**_placed(scene, isolation="schema", schema="Public")) as router:
        await router.tenant("one").fetch("SELECT 1")


@refused(e.ConnectFailed, "the database does not exist", "3D000", "[main] database")
async def a_database_that_does_not_exist(scene: Scene) -> None:
    async with scene.router(**_placed(scene, isolation="database", database="no_such_database")) as router:
        await router.tenant("one").fetch("SELECT 1")


@refused(e.ConnectFailed, "may not connect", "42501", "GRANT CONNECT")
async def a_database_that_is_closed_to_us(scene: Scene) -> None:
    async with fresh_database(scene.world.server) as closed, closed.connect() as admin:
        await admin.execute(f"REVOKE CONNECT ON DATABASE {quote_identifier(closed.name)} FROM PUBLIC")
        async with scene.router(**_placed(scene, isolation="database", database=closed.name)) as router:
            await router.tenant("one").fetch("SELECT 1")


@refused(e.ConfigurationError, "schema", "64 bytes", "63")
async def a_schema_of_64_bytes(scene: Scene) -> None:
    async with scene.router(**_placed(scene, isolation="schema", schema="s" * 64)):
        pytest.fail("it was let in")


@refused(e.IsolationError, "not installed", "tenantproxy install --config")
async def a_database_without_the_signed_context(scene: Scene) -> None:
    async with fresh_database(scene.world.server) as bare:
        async with scene.router(**_placed(scene, isolation="row", database=bare.name)):
            pytest.fail("it was let in")


@refused(e.IsolationError, "older version", "tenantproxy install --config")
async def a_database_with_an_older_signed_context(scene: Scene) -> None:
    async with fresh_database(scene.world.server) as old:
        async with old.connect() as admin:
            await install(admin, app_role=APP_ROLE, keys={1: row_key(old.name)})
            await admin.execute("DROP FUNCTION tenantproxy.prepared_check(bigint)")
        async with scene.router(**_placed(scene, isolation="row", database=old.name)):
            pytest.fail("it was let in")


@refused(e.IsolationError, "[signed_context]", "not installed", "tenantproxy install --config", "again")
async def a_database_that_signs_no_settings_yet(scene: Scene) -> None:
    async with fresh_database(scene.world.server) as old:
        async with old.connect() as admin:
            await install(admin, app_role=APP_ROLE, keys={1: row_key(old.name)})
            await admin.execute("DROP FUNCTION tenantproxy.sign_context(text, text)")
        placed = _placed(scene, isolation="row", database=old.name)
        async with scene.router(**placed, signed_context={"app.role": "claim:role"}):
            pytest.fail("it was let in")


@refused(e.IsolationError, "'app'", "pg_prepared_statement", "signed = true")
async def a_closed_database_without_signatures(scene: Scene) -> None:
    async with scene.router(row={"signed": False}):
        pytest.fail("it was let in")


# --- who we are ------------------------------------------------------------------------------------------------------
@asynccontextmanager
async def _mighty(scene: Scene, *grants: str) -> AsyncIterator[dict[str, Any]]:
    """A role that may log in everywhere, and what `grants` say."""
    async with scene.world.shared.connect() as admin:
        await ensure_role(admin, "mighty", password=MIGHTY_PASSWORD)
        for database in (scene.world.main, scene.world.shared):
            await admin.execute(f'GRANT CONNECT ON DATABASE "{database.name}" TO mighty')
        for grant in grants:
            await admin.execute(grant)
        try:
            yield {"servers": {SERVER: {"user": "mighty", "password": MIGHTY_PASSWORD}}}
        finally:
            await admin.execute("DROP TABLE IF EXISTS of_mighty; DROP OWNED BY mighty; DROP ROLE IF EXISTS owner_of_it")
            for database in (scene.world.main, scene.world.shared):
                await admin.execute(f'REVOKE ALL ON DATABASE "{database.name}" FROM mighty')
            await admin.execute("DROP ROLE mighty")


@refused(e.IsolationError, "is a superuser", "NOSUPERUSER")
async def a_superuser(scene: Scene) -> None:
    server = scene.world.server
    async with scene.router(servers={SERVER: {"user": server.superuser, "password": server.password}}):
        pytest.fail("it was let in")


@refused(e.IsolationError, "BYPASSRLS", "role 'mighty'")
async def a_role_that_bypasses_policies(scene: Scene) -> None:
    async with _mighty(scene, "ALTER ROLE mighty BYPASSRLS") as changes, scene.router(**changes):
        pytest.fail("it was let in")


@refused(e.IsolationError, "owns tables", "OWNER TO")
async def an_owner_of_tables(scene: Scene) -> None:
    owning = ("CREATE TABLE of_mighty (tenant_id text)", "ALTER TABLE of_mighty OWNER TO mighty")
    async with _mighty(scene, *owning) as changes, scene.router(**changes):
        pytest.fail("it was let in")


@refused(e.IsolationError, "owns tables", "OWNER TO")
async def a_member_of_the_role_that_owns_tables(scene: Scene) -> None:
    owning = ("CREATE ROLE owner_of_it", "CREATE TABLE of_mighty ()", "ALTER TABLE of_mighty OWNER TO owner_of_it")
    async with _mighty(scene, *owning, "GRANT owner_of_it TO mighty") as changes, scene.router(**changes):
        pytest.fail("it was let in")


@refused(e.IsolationError, "owns tables", "OWNER TO")
async def an_owner_of_tables_without_signatures(scene: Scene) -> None:
    owning = ("CREATE TABLE of_mighty (tenant_id text)", "ALTER TABLE of_mighty OWNER TO mighty")
    async with _mighty(scene, *owning) as changes, scene.router(row={"signed": False}, **changes):
        pytest.fail("it was let in")


@refused(e.IsolationError, "refuses our proofs", "key in [row]", "tenantproxy install")
async def a_key_that_is_not_installed(scene: Scene) -> None:
    async with scene.router(row={"key": WRONG_KEY}):
        pytest.fail("it was let in")


@refused(e.ConfigurationError, "row.key", "key_file")
async def no_key(scene: Scene) -> None:
    async with scene.router(row={"key": None}):
        pytest.fail("it was let in")


@refused(e.ConfigurationError, "row.key", "32")
async def a_short_key(scene: Scene) -> None:
    async with scene.router(row={"key": WRONG_KEY[:31]}):
        pytest.fail("it was let in")


@refused(e.ConnectFailed, "refused our password", "28P01", "user and password")
async def a_wrong_password(scene: Scene) -> None:
    async with scene.router(servers={SERVER: {"password": WRONG_PASSWORD}}):
        pytest.fail("it was let in")


# --- whether the server is there -------------------------------------------------------------------------------------
@refused(e.ConnectFailed, "cannot be reached", "server 'primary'", "host and port")
async def a_server_that_is_down_at_the_start(scene: Scene) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: whoever connects is refused
        async with scene.router(servers={SERVER: {"port": taken.getsockname()[1]}}) as router:
            await own_rows(router.tenant("row1"))  # the tenants are in the file: it opens


@refused(e.ConnectFailed, "cannot be reached", "server 'primary'", "host and port")
async def a_server_that_goes_down_later(scene: Scene) -> None:
    server = scene.world.server
    async with ChaosProxy(server.host, server.port) as proxy:
        async with scene.router(servers={SERVER: {"port": proxy.port}}) as router:
            scope = router.tenant("row1")
            assert await own_rows(scope) == rows_of("row1")
            proxy.refusing = True
            for link in proxy.links:
                link.reset()
            await until(lambda: not proxy.links, "every connection is cut")
            try:
                await own_rows(scope)
            finally:
                proxy.refusing = False
                await until(lambda: router.stats().servers[0].up, "the server is found again")
                assert await own_rows(scope) == rows_of("row1")


@refused(e.ConnectFailed, "opening a connection failed", "ZeroDivisionError")
async def an_init_that_fails(scene: Scene) -> None:
    async def init(_: asyncpg.Connection) -> None:
        raise ZeroDivisionError(APP_PASSWORD)

    async with Router(scene.world.settings(), init=init, observer=scene.events.append):
        pytest.fail("it was let in")


# --- when it is asked ------------------------------------------------------------------------------------------------
@refused(e.PoolClosed, "not open", "async with router")
async def a_router_that_is_not_open(scene: Scene) -> None:
    await Router(scene.world.settings()).tenant("row1").fetch("SELECT 1")


@refused(e.PoolClosed, "not open", "async with router")
async def a_router_that_is_closed(scene: Scene) -> None:
    async with scene.router() as router:
        scope = router.tenant("row1")
        await pid_of(scope)
    await scope.fetch("SELECT 1")


@refused(e.PoolClosed, "not open")
async def the_main_database_of_a_closed_router(scene: Scene) -> None:
    async with scene.router() as router:
        main = router.main()
        await main.fetch("SELECT 1")
    await main.fetch("SELECT 1")


@refused(e.PoolClosed, "not open")
async def the_list_of_a_closed_router(scene: Scene) -> None:
    async for _ in Router(scene.world.settings()).tenants():
        pytest.fail("it was let in")


@refused(e.PoolClosed, "another event loop", "one router per event loop")
async def another_event_loop(scene: Scene) -> None:
    async with scene.router() as router:
        await asyncio.to_thread(lambda: asyncio.run(_fetch(router, "row1")))


@refused(e.PoolClosed, "another event loop", "one router per event loop")
async def another_event_loop_and_a_tenant_that_is_known(scene: Scene) -> None:
    async with scene.router() as router:
        await pid_of(router.tenant("row1"))
        await asyncio.to_thread(lambda: asyncio.run(_fetch(router, "row1")))


@refused(e.PoolClosed, "another event loop", "one router per event loop")
async def another_event_loop_and_the_main_database(scene: Scene) -> None:
    async with scene.router() as router:
        await asyncio.to_thread(lambda: asyncio.run(_fetch(router, None)))


async def _fetch(router: Router, tenant: str | None) -> object:
    scope = router.main() if tenant is None else router.tenant(tenant)
    return await scope.fetch("SELECT 1")


# --- how many ask ----------------------------------------------------------------------------------------------------
@refused(e.PoolTimeout, "within 0.05 s", "max_size = 1", "0 more", "raise max_size")
async def a_connection_within_a_connection_of_a_tenant_that_has_one(scene: Scene) -> None:
    async with scene.router() as router, router.tenant("schema1").connection():
        async with router.tenant("schema1").connection(timeout=0.05):
            pytest.fail("it was let in")


@refused(e.PoolTimeout, "within 0.5 s")
async def an_acquire_timeout(scene: Scene) -> None:
    async with scene.router(pools={"acquire_timeout": 0.5}) as router, router.tenant("row1").connection():
        await router.tenant("row2").fetch("SELECT 1")


@refused(e.PoolTimeout, "within 0 s")
async def no_time_at_all(scene: Scene) -> None:
    async with scene.router() as router, router.tenant("database1").connection():
        async with router.tenant("database1").connection(timeout=0):
            pytest.fail("it was let in")


@refused(e.PoolFull, "too many wait", "max_waiting = 1", "max_size = 1")
async def more_who_wait_than_may(scene: Scene) -> None:
    async with scene.router(pools={"max_waiting": 1}) as router:
        scope = router.tenant("row1")
        async with scope.connection():
            waiting = asyncio.create_task(scope.fetchval("SELECT 1"))
            await until(lambda: any(pool.waiting for pool in router.stats().pools), "one waits")
            try:
                await scope.fetch("SELECT 1")
            finally:
                waiting.cancel()
                await asyncio.gather(waiting, return_exceptions=True)


@refused(e.BudgetExhausted, "max_connections = 3", "raise the server's max_connections")
async def more_than_the_server_may_have(scene: Scene) -> None:
    async with scene.router(servers={SERVER: {"max_connections": 3}}) as router:
        async with router.tenant("database1").connection():
            async with router.tenant("database2").connection(timeout=0.1):
                pytest.fail("it was let in")


# --- the other way in ------------------------------------------------------------------------------------------------
@refused(e.AccessDenied, "reason", "router.admin")
async def an_admin_without_a_reason(scene: Scene) -> None:
    async with scene.router() as router, router.admin("row1", reason=" \n"):
        pytest.fail("it was let in")


@refused(e.AccessDenied, "no admin user", "[servers.primary.admin]")
async def an_admin_where_there_is_none(scene: Scene) -> None:
    async with scene.router(servers={SERVER: {"admin": None}}) as router, router.admin("row1", reason="a test"):
        pytest.fail("it was let in")


@refused(e.TenantNotFound, "no such tenant")
async def an_admin_of_nobody(scene: Scene) -> None:
    async with scene.router() as router, router.admin("nobody", reason="a test"):
        pytest.fail("it was let in")


@refused(e.ConnectFailed, "refused our password")
async def an_admin_with_a_wrong_password(scene: Scene) -> None:
    admin = {"user": scene.world.server.superuser, "password": WRONG_PASSWORD}
    async with scene.router(servers={SERVER: {"admin": admin}}) as router, router.admin("row1", reason="a test"):
        pytest.fail("it was let in")


@contextmanager
def _quiet_after(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.DEBUG)
    yield
    wrong = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert wrong == []


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal.name)
async def test_each_mistake_has_its_class_its_words_and_no_secret(
    one_world: World, refusal: Refusal, caplog: pytest.LogCaptureFixture
) -> None:
    scene = Scene(one_world)
    with _quiet_after(caplog):
        async with asyncio.timeout(PATIENCE):
            with pytest.raises(refusal.error) as caught:
                await refusal.provoke(scene)
    error = caught.value
    assert type(error) is refusal.error
    for word in refusal.words:
        assert word in str(error), word
    if isinstance(error, e.PoolTimeout | e.PoolFull | e.BudgetExhausted | e.TenantPaused):
        assert error.retry_after
    told = [str(error), repr(error), str(e.problem_json(error)), str(e.error_response(error)), repr(vars(error))]
    printed = "".join(line for line in traceback.format_exception(error) if not line.lstrip().startswith("File "))
    _tells_no_secret(one_world, *told, *map(repr, scene.events), *map(str, scene.events), caplog.text, printed)


IDENTIFIERS: Final = {
    "": "empty", "row1'": "not allowed", 'row"1': "not allowed", "row1; DROP TABLE projects": "not allowed",
    "row\\1": "not allowed", "row1\0": "NUL", "\0": "NUL", "a" * 64: "64 bytes", "a" * 10_000: "10000 bytes",
    "r\u043ew1": "not ASCII", "\uff52ow1": "not ASCII", "row\u00b9": "not ASCII", "row1\u200b": "not ASCII",
    "row1 ": "not allowed", " row1": "not allowed", "row1\n": "not allowed", "-row1": "not allowed",
    ".row1": "not allowed", "../row1": "not allowed", "row1/row2": "not allowed", "row%31": "not allowed",
    "$1": "not allowed", "row1\r\nX": "not allowed",
}  # fmt: skip


@pytest.mark.parametrize(("name", "why"), IDENTIFIERS.items(), ids=lambda part: ascii(part)[:20])
async def test_what_cannot_name_a_tenant_is_refused_at_once_and_not_repeated(
    one_world: World, name: str, why: str
) -> None:
    router = Router(one_world.settings())  # not even open: nothing is looked up
    with pytest.raises(e.TenantNotFound, match="cannot be a tenant identifier") as caught:
        router.tenant(name)
    assert why in str(caught.value)
    assert caught.value.http_status == 404
    if len(name) > 5:
        assert name not in str(caught.value)


@pytest.mark.parametrize("name", [None, 1, b"row1", ["row1"]])
async def test_what_is_not_text_cannot_name_a_tenant(one_world: World, name: Any) -> None:
    with pytest.raises(e.TenantNotFound, match=type(name).__name__):
        Router(one_world.settings()).tenant(name)


async def test_identifiers_that_are_equal_after_truncation_are_two_tenants_or_none(one_world: World) -> None:
    longest = "t" * 63
    place = one_world.tenants[0].placement
    registry = MemoryRegistry([Tenant(id=tenant_id(longest), placement=place)])
    async with Router(one_world.settings(), registry=registry) as router:
        assert await own_rows(router.tenant(longest)) == []
        for other in (longest + "t", longest + "1"):
            with pytest.raises(e.TenantNotFound, match="64 bytes"):
                router.tenant(other)
        with pytest.raises(e.TenantNotFound, match="no such tenant"):
            await router.tenant(longest[:-1]).fetch("SELECT 1")


async def test_a_schema_with_every_odd_character_is_one_schema(one_world: World) -> None:
    odd = "Odd\"; SET search_path = 'public'; --, public"
    async with one_world.shared.connect() as admin:
        name = quote_identifier(odd)
        await ensure_role(admin, "of_odd", password=role_password(ROLE_SECRET, SERVER, "of_odd"))
        await admin.execute(
            f"CREATE SCHEMA {name}; CREATE TABLE {name}.projects AS SELECT 'odd 1' AS name;"
            f" GRANT USAGE ON SCHEMA {name} TO of_odd; GRANT SELECT ON {name}.projects TO of_odd;"
            f' GRANT CONNECT ON DATABASE "{one_world.shared.name}" TO of_odd'
        )
        scene = Scene(one_world)
        try:
            async with scene.router(**_placed(scene, isolation="schema", schema=odd, role="of_odd")) as router:
                assert await own_rows(router.tenant("one")) == ["odd 1"]
                assert await router.tenant("one").fetchval("SELECT current_schemas(true)") == ["pg_catalog", odd]
        finally:
            await admin.execute(f"DROP SCHEMA {name} CASCADE; DROP OWNED BY of_odd")


async def test_a_wrong_role_is_found_when_the_router_opens_and_not_by_a_tenant(one_world: World) -> None:
    scene = Scene(one_world)
    async with _mighty(scene, "ALTER ROLE mighty BYPASSRLS") as changes:
        settings = one_world.settings(**changes)
        router = Router(settings)
        with pytest.raises(e.IsolationError, match="BYPASSRLS"):
            await router.open()
        assert not router.is_open
        assert router.stats().violations["connect"] >= 1
        async with one_world.shared.connect() as admin:
            count = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'mighty'"
            await until(lambda: _is_zero(admin, count), "nothing is left open")


async def _is_zero(conn: asyncpg.Connection, query: str) -> bool:
    return bool(await conn.fetchval(query) == 0)


async def test_the_way_in_for_operators_is_told_and_ends_with_its_block(one_world: World) -> None:
    scene = Scene(one_world)
    async with scene.router() as router:
        async with router.admin("row1", reason="nightly bill") as conn:
            pid = conn.get_server_pid()
            assert await conn.fetchval("SELECT rolsuper FROM pg_roles WHERE rolname = current_user")
            assert await conn.fetchval("SELECT count(DISTINCT tenant_id) FROM projects") == 2
        with pytest.raises(asyncpg.InterfaceError, match="released"):
            await conn.fetch("SELECT 1")
        assert await pid_of(router.tenant("row1")) != pid
        async with one_world.shared.connect() as admin:
            gone = f"SELECT count(*) FROM pg_stat_activity WHERE pid = {pid}"
            await until(lambda: _is_zero(admin, gone), "its connection is closed")
    assert [event for event in scene.events if isinstance(event, AdminAccess)] == [
        AdminAccess(tenant="row1", reason="nightly bill")
    ]


async def test_what_the_operator_laid_on_the_admins_role_stays(one_world: World) -> None:
    scene = Scene(one_world)
    password = one_world.server.password or ""
    async with one_world.shared.connect() as admin:
        await admin.execute(f"CREATE ROLE operator SUPERUSER LOGIN PASSWORD '{password}'")
        await admin.execute("ALTER ROLE operator SET work_mem = '7MB'")
        try:
            changes = {"primary": {"admin": {"user": "operator", "password": password}}}
            async with scene.router(servers=changes) as router:
                async with router.admin("row1", reason="nightly bill") as conn:
                    assert await conn.fetchval("SELECT current_setting('work_mem')") == "7MB"
            assert not [event for event in scene.events if isinstance(event, IsolationViolation)]
        finally:
            await admin.execute("DROP ROLE operator")


async def test_connections_of_different_tenants_nest(one_world: World) -> None:
    scene = Scene(one_world)
    async with scene.router(pools={"shared_size": 2}) as router:
        async with (
            router.tenant("row1").connection() as one,
            router.tenant("row2").transaction() as two,
            router.tenant("schema1").connection() as three,
            router.tenant("database1").connection() as four,
            router.main().connection() as main,
        ):
            for tenant, conn in (("row1", one), ("row2", two), ("schema1", three), ("database1", four), ("row1", one)):
                assert await own_rows(conn) == rows_of(tenant)
            assert await main.fetchval("SELECT current_database()") == one_world.main.name
            assert len({conn.get_server_pid() for conn in (one, two, three, four, main)}) == 5


async def test_what_postgresql_says_reaches_the_caller_untouched_and_the_connection_serves_on(one_world: World) -> None:
    scene = Scene(one_world)
    async with scene.router() as router:
        scope = router.tenant("row1")
        pid = await pid_of(scope)
        for query, error in (
            ("SELECT nonsense", asyncpg.UndefinedColumnError),
            ("SELEC 1", asyncpg.PostgresSyntaxError),
            ("SELECT 1/0", asyncpg.DivisionByZeroError),
            ("INSERT INTO projects (tenant_id, name) VALUES ('row2', 'x')", asyncpg.InsufficientPrivilegeError),
            ("COPY projects FROM STDIN", asyncpg.FeatureNotSupportedError),
        ):
            with pytest.raises(error):
                await scope.execute(query)
        with pytest.raises(ValueError, match="isolation"):
            async with scope.transaction(isolation="nonsense"):  # type: ignore[arg-type]
                pytest.fail("it was let in")
        assert await pid_of(scope) == pid
        await until(lambda: all(pool.used == 0 for pool in router.stats().pools), "nothing is lent")


async def test_one_block_cannot_be_entered_twice(one_world: World) -> None:
    async with Scene(one_world).router() as router:
        block = router.tenant("row1").connection()
        async with block as conn:
            with pytest.raises(RuntimeError, match="entered already"):
                await block.__aenter__()
            assert await own_rows(conn) == rows_of("row1")


async def test_a_block_that_ends_twice_gives_nothing_of_the_next_tenant_back(one_world: World) -> None:
    async with Scene(one_world).router() as router:
        block = router.tenant("row1").connection()
        async with block as conn:
            pid = conn.get_server_pid()
        async with router.tenant("row2").connection() as other:
            assert other.get_server_pid() == pid
            await block.__aexit__(None, None, None)
            assert [pool.used for pool in router.stats().pools if pool.key.shared] == [1]
            assert await own_rows(other) == rows_of("row2")


async def test_an_observer_that_fails_breaks_nothing(one_world: World, caplog: pytest.LogCaptureFixture) -> None:
    def observer(event: Event) -> None:
        raise ZeroDivisionError(type(event).__name__)

    settings = one_world.settings(pools={"max_size": 1, "shared_size": 1, "max_waiting": 1})
    async with Router(settings, observer=observer) as router:
        async with router.tenant("row1").connection() as conn:
            await conn.execute("DO $$ BEGIN EXECUTE 'PRE' || 'PARE p AS SELECT 1'; END $$")
        assert await own_rows(router.tenant("row2")) == rows_of("row2")
        async with router.tenant("row1").connection():
            with pytest.raises(e.PoolTimeout):
                async with router.tenant("row1").connection(timeout=0.01):
                    pytest.fail("it was let in")
        async with router.admin("row1", reason="a test") as conn:
            assert await conn.fetchval("SELECT 1") == 1
        assert await own_rows(router.tenant("row1")) == rows_of("row1")
    assert "ZeroDivisionError" in caplog.text
