"""Does a tenant get a connection whose role reaches more than the tenant's own? By the library and by the port."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import pytest

from tenantproxy import Router
from tenantproxy.connect import reach_check
from tenantproxy.embedded import EmbeddedPostgres
from tenantproxy.errors import TenantProxyError, UnprotectedRelations
from tenantproxy.events import Event, FunctionsNotVerified, IsolationViolation
from tenantproxy.lifecycle import isolate_table
from tenantproxy.lifecycle.provisioner import close_database, grant_access, provision_schema
from tenantproxy.model import Isolation, Tenant
from tenantproxy.registry import MemoryRegistry
from tests.support.database import Database
from tests.support.raw_house import a_raw_house, ask
from tests.support.waiting import until
from tests.support.world import APP_ROLE, World, a_world

Ask = Callable[[Tenant, str], Awaitable[list[Any]]]
OPEN_TABLE = (
    "CREATE TABLE invoices (tenant_id text NOT NULL, total text NOT NULL);"
    " INSERT INTO invoices VALUES ('row1', '1'), ('row2', '2')"
)


@pytest.fixture
async def rows(postgres: EmbeddedPostgres) -> AsyncIterator[World]:
    """Row tenants alone."""
    async with a_world(postgres, schemas=0, databases=0) as made:
        yield made


@pytest.fixture(params=["library", "port"])
def side(request: pytest.FixtureRequest) -> str:
    """Which of the two opens the connections."""
    kind: str = request.param
    return kind


@asynccontextmanager
async def asking(
    side: str, world: World, *, events: list[Event] | None = None, tenants: list[Tenant] | None = None, **changes: Any
) -> AsyncIterator[Ask]:
    """`await ask(tenant, sql)`: the first column, each time by a lease of its own."""
    heard = events if events is not None else []
    settings = world.settings(**changes)
    async with AsyncExitStack() as stack:
        if side == "port":
            house = await stack.enter_async_context(a_raw_house(settings))

            async def by_port(tenant: Tenant, sql: str) -> list[Any]:
                try:
                    async with house.leased(tenant) as backend:
                        return [row[0] for row in await ask(backend, sql)]
                finally:
                    heard[:] = house.events

            yield by_port
        else:
            registry = MemoryRegistry()  # empty while the router opens, so that it opens no tenant's pool by itself
            router = Router(settings, registry=registry, observer=heard.append)
            await stack.enter_async_context(router)
            for tenant in tenants or world.tenants:
                registry.add(tenant)

            async def by_library(tenant: Tenant, sql: str) -> list[Any]:
                return [row[0] for row in await router.tenant(tenant.id).fetch(sql)]

            yield by_library


async def test_a_table_without_a_policy_is_refused_and_named(side: str, rows: World) -> None:
    async with rows.shared.connect() as admin:
        await admin.execute(OPEN_TABLE)
    async with asking(side, rows) as tell:
        with pytest.raises(UnprotectedRelations) as caught:
            await tell(rows.tenants[0], "SELECT total FROM invoices")
    assert "table public.invoices (it has no row-level security)" in str(caught.value)
    assert "tenantproxy install --table public.invoices --column tenant_id" in str(caught.value)
    assert caught.value.count == 1


async def test_the_router_does_not_open_on_a_table_without_a_policy(rows: World) -> None:
    async with rows.shared.connect() as admin:
        await admin.execute(OPEN_TABLE)
    with pytest.raises(UnprotectedRelations, match=r"public\.invoices"):
        await Router(rows.settings()).open()


@pytest.mark.parametrize("laid_on", ["the role", "the database"])
async def test_a_role_set_at_connect_does_not_hide_what_the_login_reaches(side: str, rows: World, laid_on: str) -> None:
    name = rows.shared.name
    weak = f"weak_{name}"
    async with rows.shared.connect() as admin:
        await admin.execute(OPEN_TABLE)
        await admin.execute(f'CREATE ROLE "{weak}"; GRANT "{weak}" TO {APP_ROLE}; GRANT SELECT ON projects TO "{weak}"')
        await admin.execute(
            f'GRANT USAGE ON SCHEMA public, tenantproxy TO "{weak}";'
            f' GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA tenantproxy TO "{weak}"'
        )
        where = f'ROLE {APP_ROLE} IN DATABASE "{name}"' if laid_on == "the role" else f'DATABASE "{name}"'
        await admin.execute(f'ALTER {where} SET role = "{weak}"')
        try:
            async with asking(side, rows) as tell:
                with pytest.raises(TenantProxyError):
                    await tell(rows.tenants[0], "SELECT total FROM invoices")
                with pytest.raises(TenantProxyError) as caught:  # by a session that was reset, if one was lent
                    await tell(rows.tenants[0], "SELECT total FROM invoices")
                assert isinstance(caught.value, UnprotectedRelations) or "acts as 'weak_" in str(caught.value)
        finally:
            await admin.execute(f'RESET ROLE; ALTER {where} RESET role; DROP OWNED BY "{weak}"; DROP ROLE "{weak}"')


async def test_what_is_refused_is_told_once_and_served_once_it_is_isolated(side: str, rows: World) -> None:
    events: list[Event] = []
    async with rows.shared.connect() as admin:
        await admin.execute(OPEN_TABLE)
        async with asking(side, rows, events=events) as tell:
            for _ in range(3):
                with pytest.raises(UnprotectedRelations):
                    await tell(rows.tenants[0], "SELECT total FROM invoices")
            violations = [event for event in events if isinstance(event, IsolationViolation)]
            assert [event.check for event in violations] == ["reach"]
            assert "public.invoices" in violations[0].detail
            await isolate_table(admin, "invoices")
            seen: list[Any] = []

            async def served() -> bool:
                with suppress(TenantProxyError):
                    seen.extend(await tell(rows.tenants[0], "SELECT total FROM invoices"))
                return bool(seen)

            await until(served, "the pool looked again")
            assert seen == ["1"]


async def test_what_all_tenants_may_share_is_named_in_the_configuration(side: str, rows: World) -> None:
    async with rows.shared.connect() as admin:
        await admin.execute(OPEN_TABLE)
    async with asking(side, rows, row={"unprotected": ["public.invoices"]}) as tell:
        assert await tell(rows.tenants[0], "SELECT total FROM invoices ORDER BY 1") == ["1", "2"]


async def test_a_table_that_comes_later_is_found_by_a_new_connection(
    side: str, rows: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reach_check, "GOOD_SECONDS", 0.0)
    async with asking(side, rows) as tell, rows.shared.connect() as admin:
        assert len(await tell(rows.tenants[0], "SELECT name FROM projects")) == 3
        await admin.execute(OPEN_TABLE)
        await admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'"
                            " AND datname = current_database()")  # fmt: skip

        async def refused() -> bool:
            try:
                await tell(rows.tenants[0], "SELECT 1")
            except UnprotectedRelations:
                return True
            except Exception:  # noqa: BLE001 - the connection that was ended is found out in its own time
                return False
            return False

        await until(refused, "a new connection looked again")


async def test_functions_with_their_owners_rights_are_told_once(side: str, rows: World) -> None:
    events: list[Event] = []
    async with rows.shared.connect() as admin:
        await admin.execute("CREATE FUNCTION everything() RETURNS bigint SECURITY DEFINER LANGUAGE sql"
                            " AS 'SELECT count(*) FROM pg_authid'")  # fmt: skip
    async with asking(side, rows, events=events) as tell:
        for tenant in rows.tenants:
            await tell(tenant, "SELECT 1")
    named = [event for event in events if isinstance(event, FunctionsNotVerified)]
    assert [event.functions for event in named] == ["public.everything()"]


async def test_unsigned_rows_are_refused_without_a_policy_on_the_setting(side: str, rows: World) -> None:
    async with rows.shared.connect() as admin:
        await admin.execute(f"GRANT EXECUTE ON FUNCTION pg_prepared_statement() TO {APP_ROLE}; DROP TABLE projects")
        await admin.execute(OPEN_TABLE)
        await admin.execute(
            "ALTER TABLE invoices ENABLE ROW LEVEL SECURITY;"
            " CREATE POLICY p ON invoices USING (tenant_id = current_setting('app.other', true))"
        )
        async with asking(side, rows, row={"signed": False}) as tell:
            with pytest.raises(UnprotectedRelations, match=r"public\.invoices"):
                await tell(rows.tenants[0], "SELECT total FROM invoices")
        async with asking(side, rows, row={"signed": False, "setting": "app.other"}) as tell:
            assert await tell(rows.tenants[0], "SELECT total FROM invoices") == ["1"]


@asynccontextmanager
async def sharing_a_role(server: EmbeddedPostgres) -> AsyncIterator[tuple[World, Tenant]]:
    """A world where the role of the first of two schema tenants reads the second one's schema."""
    async with a_world(server, rows=0, databases=0) as world:
        first, second = world.of(Isolation.SCHEMA)
        async with world.shared.connect() as admin:
            role, schema = world.role_of(first), second.placement.schema
            await admin.execute(f'GRANT USAGE ON SCHEMA {schema} TO "{role}"')
            await grant_access(admin, str(schema), role=role)
        yield world, first


async def test_a_schema_tenant_whose_role_reads_another_schema_is_refused(
    side: str, postgres: EmbeddedPostgres
) -> None:
    async with sharing_a_role(postgres) as (world, first), asking(side, world) as tell:
        with pytest.raises(UnprotectedRelations) as caught:
            await tell(first, "SELECT name FROM schema2.projects")
        assert "table schema2.projects" in str(caught.value)
        assert "tenantproxy install --roles" in str(caught.value)
        other = world.of(Isolation.SCHEMA)[1]
        assert len(await tell(other, "SELECT name FROM projects")) == 3


@pytest.mark.parametrize("known", [{"shared_role": True}, {"common": ["schema2.*"]}, {"common": ["schema2.projects"]}])
async def test_a_shared_schema_is_served_when_the_operator_knows(
    side: str, postgres: EmbeddedPostgres, known: dict[str, Any]
) -> None:
    async with sharing_a_role(postgres) as (world, first), asking(side, world, schema=known) as tell:
        assert len(await tell(first, "SELECT name FROM schema2.projects")) == 3


async def test_schema_tenants_that_share_the_servers_role_are_refused(side: str, postgres: EmbeddedPostgres) -> None:
    async with a_world(postgres, rows=0, databases=0) as world:
        shared = [replace(each, placement=replace(each.placement, role=None)) for each in world.tenants]

        def connect(name: str) -> Awaitable[Any]:
            return Database(server=world.server, name=name).open()

        async with Database(server=world.server, name="postgres").connect() as admin:
            await close_database(admin, world.shared.name, roles=[APP_ROLE])
        for tenant in shared:
            schema = str(tenant.placement.schema)
            await provision_schema(connect, database=world.shared.name, schema=schema, role=APP_ROLE)
        async with asking(side, world, tenants=shared) as tell:
            with pytest.raises(UnprotectedRelations, match=r"schema2\.projects"):
                await tell(shared[0], "SELECT name FROM schema2.projects")
