"""Is all of a tenant's life there without a superuser, as on managed PostgreSQL, or is it told which right is missing?

The admin user has CREATEROLE and CREATEDB. It made the application's role, the databases and everything in them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import asyncpg
import pytest
from typer.testing import CliRunner

from tenantproxy import ConfigurationError, Router
from tenantproxy.cli.main import app
from tenantproxy.config import Settings, load, role_password
from tenantproxy.embedded import EmbeddedPostgres
from tenantproxy.lifecycle.access import registered
from tenantproxy.lifecycle.backup import (
    BackupFailed,
    BackupWriter,
    backup_tenant,
    restore_backup,
    restore_main,
    verify_backup,
)
from tenantproxy.lifecycle.move import MoveOptions, Mover
from tenantproxy.lifecycle.provision import Provisioner, wanted
from tenantproxy.lifecycle.status import delete, resume, suspend
from tenantproxy.model import Isolation, Tenant, TenantStatus
from tests.conftest import NEWEST_AND_OLDEST
from tests.support.database import Database
from tests.support.lasting import lasting as kept

ADMIN: Final = "boss"
SECRET: Final = "the secret that all keys of these tests come from"
SHARED: Final = """
CREATE TABLE projects (tenant_id text NOT NULL, id int, name text, part_of int, PRIMARY KEY (tenant_id, id),
  FOREIGN KEY (tenant_id, part_of) REFERENCES projects DEFERRABLE INITIALLY DEFERRED)
"""
OWN: Final = """
CREATE TABLE projects (id serial PRIMARY KEY, name text);
INSERT INTO projects (name) SELECT 'p' || n FROM generate_series(1, 9) n;
CREATE VIEW small WITH (security_invoker = true) AS SELECT id FROM projects;
"""
OF_THE_TENANT: Final = """
CREATE TABLE {schema}.owned (n int CHECK (n > 0)); INSERT INTO {schema}.owned VALUES (7);
CREATE FUNCTION {schema}.twice(int) RETURNS int LANGUAGE sql AS 'SELECT $1 * 2';
ALTER TABLE {schema}.owned OWNER TO {role}; ALTER FUNCTION {schema}.twice OWNER TO {role};
ALTER DEFAULT PRIVILEGES FOR ROLE {role} IN SCHEMA {schema} GRANT SELECT ON TABLES TO app;
GRANT SELECT ON {schema}.owned TO app;
ALTER TABLE {schema}.projects ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON {schema}.projects TO {role} USING (id > 0);
"""


@dataclass(frozen=True, kw_only=True)
class Managed:
    """A server of a provider: `root` is the provider's, `boss` is who rents it."""

    server: EmbeddedPostgres
    folder: Path
    settings: Settings
    tenants: dict[Isolation, Tenant] = field(default_factory=dict)

    @asynccontextmanager
    async def root(self, database: str = "postgres") -> AsyncIterator[asyncpg.Connection]:
        async with Database(server=self.server, name=database).connect() as conn:
            yield conn

    @asynccontextmanager
    async def boss(self, database: str = "postgres") -> AsyncIterator[asyncpg.Connection]:
        async with Database(server=self.server, name=database).connect(ADMIN, ADMIN) as conn:
            yield conn

    async def made(self, name: str, isolation: Isolation) -> Tenant:
        """A new tenant, with nine projects."""
        async with Provisioner(self.settings).open() as making:
            saga = await making.create(wanted(self.settings, name, isolation=isolation))
        tenant = saga.wanted.tenant(TenantStatus.ACTIVE)
        if isolation is Isolation.ROW:
            async with Router(self.settings) as router:
                await router.tenant(name).execute(
                    f"INSERT INTO projects SELECT '{name}', n, 'p' || n, 10 - n FROM generate_series(1, 9) n"
                )
        return tenant


@asynccontextmanager
async def a_managed(version: int, folder: Path) -> AsyncIterator[Managed]:
    preparing = {"max_prepared_transactions": "4"}
    async with EmbeddedPostgres(version=version, durable=False, max_connections=60, settings=preparing) as server:
        async with Database(server=server, name="postgres").connect() as root:
            await root.execute(f"CREATE ROLE {ADMIN} LOGIN CREATEROLE CREATEDB PASSWORD '{ADMIN}'")
        async with Database(server=server, name="postgres").connect(ADMIN, ADMIN) as boss:
            await boss.execute("CREATE ROLE app LOGIN NOINHERIT PASSWORD 'app'")
            await boss.execute("CREATE DATABASE main")
            await boss.execute("CREATE DATABASE shared")
        async with Database(server=server, name="shared").connect(ADMIN, ADMIN) as boss:
            await boss.execute(SHARED)
        (folder / "own.sql").write_text(OWN)
        config = folder / "tenantproxy.toml"
        config.write_text(f"""
main = {{ server = "primary", database = "main" }}
registry = {{ source = "postgres" }}
row = {{ key = "{SECRET}" }}
tenant_roles = {{ key = "{SECRET} too" }}
provision = {{ shared_database = "shared", sql_files = ["{folder}/own.sql"], role = "t_{{id}}" }}
backup = {{ folder = "{folder}/saved" }}
[servers.primary]
host = "{server.host}"
port = {server.port}
user = "app"
password = "app"
ssl = "disable"
admin = {{ user = "{ADMIN}", password = "{ADMIN}" }}
""")
        command = ["install", "--config", str(config), "--table", "public.projects", "--database", "primary/shared"]
        done = await asyncio.to_thread(CliRunner().invoke, app, command)
        assert done.exit_code == 0, done.output
        managed = Managed(server=server, folder=folder, settings=load(config))
        for kind in Isolation:
            managed.tenants[kind] = await managed.made(f"{kind.value}1", kind)
            await plant(managed, managed.tenants[kind])
        yield managed


async def plant(managed: Managed, tenant: Tenant) -> None:
    """What its own role owns."""
    place = tenant.placement
    if place.role is not None:
        async with managed.root(place.database) as root:
            await root.execute(OF_THE_TENANT.format(schema=place.schema or "public", role=place.role))


@pytest.fixture(scope="module", params=NEWEST_AND_OLDEST, ids=lambda version: f"pg{version}")
def managed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Managed]:
    with kept(a_managed(request.param, tmp_path_factory.mktemp("managed"))) as made:
        yield made


async def seen(managed: Managed, name: str) -> list[Any]:
    async with Router(managed.settings) as router:
        return [tuple(row) for row in await router.tenant(name).fetch("SELECT id, name FROM projects ORDER BY id")]


@pytest.mark.parametrize("kind", Isolation)
async def test_a_tenant_of_each_kind_is_saved_tried_and_restored_without_a_superuser(
    managed: Managed, kind: Isolation
) -> None:
    tenant = managed.tenants[kind]
    saved = await backup_tenant(managed.settings, tenant)
    assert (await verify_backup(managed.settings, saved)).verified_at is not None
    want = (await restore_backup(managed.settings, saved, as_id=f"{kind.value}-again")).saga.wanted
    assert await seen(managed, want.id) == await seen(managed, tenant.id)
    if want.role is not None:
        schema = want.schema or "public"
        async with managed.root(want.database) as root:
            owner = "SELECT pg_get_userbyid(relowner) FROM pg_class WHERE oid = $1::text::regclass"
            owners = [await root.fetchval(owner, f"{schema}.{name}") for name in ("owned", "projects")]
            assert owners == [want.role, ADMIN]
            for right in ("has_schema_privilege($1, $2, 'CREATE')", "has_database_privilege($1, $3, 'CREATE')"):
                query = f"SELECT {right} FROM (SELECT $1::text, $2::text, $3::text) AS given"
                assert not await root.fetchval(query, want.role, schema, want.database)
            assert await root.fetchval(f"SELECT has_table_privilege('app', '{schema}.owned', 'SELECT')")
            kept_rights = "SELECT count(*) FROM pg_default_acl WHERE pg_get_userbyid(defaclrole) = $1"
            assert await root.fetchval(kept_rights, want.role) == 1
            assert not await root.fetchval("SELECT count(*) FROM pg_roles WHERE rolname LIKE 'tenantproxy_load%'")
    removed = await delete(managed.settings, want.id, grace_days=0, backups=None, no_backup=True)
    assert (removed.state, removed.left) == ("deleted", ())


async def test_the_main_database_is_saved_and_restored_without_a_superuser(managed: Managed) -> None:
    async with BackupWriter(managed.settings).open() as writer:
        saved = await verify_backup(managed.settings, await writer.save_main())
    assert await restore_main(managed.settings, saved, database="main_again") == ()
    async with managed.root("main_again") as root:
        owner = "SELECT pg_get_userbyid(relowner) FROM pg_class WHERE oid = 'tenantproxy.fleet_key'::regclass"
        assert await root.fetchval(owner) == "tenantproxy_keeper"
        assert await root.fetchval("SELECT count(*) FROM tenantproxy.tenants") >= 3
        assert not await root.fetchval(f"SELECT pg_has_role('{ADMIN}', 'tenantproxy_keeper', 'USAGE')")
        await root.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'main_again'"
                           " AND pid <> pg_backend_pid()")  # fmt: skip
    async with managed.root() as root:
        await root.execute("DROP DATABASE main_again WITH (FORCE)")


@pytest.mark.parametrize("kind", [Isolation.DATABASE, Isolation.SCHEMA])
async def test_sessions_of_a_suspended_tenant_end_though_their_owner_is_no_superuser(
    managed: Managed, kind: Isolation
) -> None:
    tenant = managed.tenants[kind]
    password = role_password(f"{SECRET} too".encode(), "primary", tenant.placement.role or "")
    theirs = await Database(server=managed.server, name=tenant.placement.database).open(tenant.placement.role, password)
    try:
        await theirs.execute("BEGIN")
        closed = await suspend(managed.settings, tenant.id)
        assert (closed.is_closed, closed.ended) == (True, 1)
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
            await theirs.execute("SELECT 1")
    finally:
        theirs.terminate()
        await resume(managed.settings, tenant.id)


@pytest.mark.parametrize("kind", [Isolation.DATABASE, Isolation.SCHEMA])
async def test_what_a_deleted_tenant_has_prepared_is_undone_without_a_superuser(
    managed: Managed, kind: Isolation
) -> None:
    tenant = await managed.made(f"prepares-{kind.value}", kind)
    password = role_password(f"{SECRET} too".encode(), "primary", tenant.placement.role or "")
    database = Database(server=managed.server, name=tenant.placement.database)
    async with database.connect(tenant.placement.role, password) as theirs:
        await theirs.execute("BEGIN")
        await theirs.execute(f"LOCK TABLE {tenant.placement.schema or 'public'}.projects IN ROW EXCLUSIVE MODE")
        await theirs.execute("PREPARE TRANSACTION 'left'")
    removed = await delete(managed.settings, tenant.id, grace_days=0, no_backup=True)
    assert (removed.state, removed.left) == ("deleted", ())


async def test_a_session_that_the_admin_user_may_not_end_is_told_and_never_passed_over(managed: Managed) -> None:
    tenant, other = await managed.made("guarded", Isolation.DATABASE), managed.tenants[Isolation.DATABASE]
    roles = {each.id: each.placement.role for each in (tenant, other)}
    async with managed.root() as root:
        power = "" if managed.server.version >= 16 else "SUPERUSER"  # before 16 CREATEROLE acts for all others
        await root.execute(f"CREATE ROLE stranger LOGIN {power} PASSWORD 'x'")
        await root.execute(f"GRANT CONNECT ON DATABASE {tenant.placement.database} TO stranger")
    async with managed.boss("main") as boss:
        point = "UPDATE tenantproxy.tenants SET role = $2 WHERE id = $1"
        try:
            await boss.executemany(point, [(name, "stranger") for name in roles])
            async with Database(server=managed.server, name=tenant.placement.database).connect("stranger", "x"):
                with pytest.raises(
                    ConfigurationError, match=r"may not end the sessions of stranger.*pg_signal_backend"
                ):
                    await suspend(managed.settings, tenant.id)
        finally:
            await boss.executemany(point, list(roles.items()))
    await delete(managed.settings, tenant.id, grace_days=0, no_backup=True)
    async with managed.root() as root:
        await root.execute("DROP ROLE stranger")


async def test_rows_of_a_deleted_tenant_go_and_row_security_holds_its_owner_again(managed: Managed) -> None:
    await managed.made("leaving", Isolation.ROW)
    removed = await delete(managed.settings, "leaving", grace_days=0, no_backup=True)
    assert removed.state == "deleted"
    async with managed.root("shared") as root:
        rows = "SELECT count(*) FROM projects WHERE tenant_id = $1"
        assert [await root.fetchval(rows, name) for name in ("leaving", "row1")] == [0, 9]
        force = "SELECT relrowsecurity AND relforcerowsecurity FROM pg_class WHERE oid = 'projects'::regclass"
        assert await root.fetchval(force)


async def test_moves_without_a_superuser_are_done_or_refused_before_they_begin(managed: Managed) -> None:
    with_rows = managed.tenants[Isolation.ROW]
    async with Mover(managed.settings).open() as mover:
        for kind in (Isolation.SCHEMA, Isolation.DATABASE):
            with pytest.raises(ConfigurationError, match=r"public\.projects.*BYPASSRLS"):
                await mover.move(with_rows.id, MoveOptions(isolation=kind))
        await managed.made("mover", Isolation.SCHEMA)
        with pytest.raises(ConfigurationError, match=r"public\.projects.*BYPASSRLS"):
            await mover.move("mover", MoveOptions(isolation=Isolation.ROW))
        before = await seen(managed, "mover")
        for kind in (Isolation.DATABASE, Isolation.SCHEMA):
            await mover.move("mover", MoveOptions(isolation=kind, drop_old=True))
            assert await seen(managed, "mover") == before
    await delete(managed.settings, "mover", grace_days=0, no_backup=True)
    assert {each.id for each in await registered(managed.settings)} == {f"{kind.value}1" for kind in Isolation}


async def test_a_right_that_a_backup_lacks_is_named(managed: Managed) -> None:
    tenant = managed.tenants[Isolation.DATABASE]
    async with managed.root(tenant.placement.database) as root:
        await root.execute("CREATE TABLE of_root (n int)")
        with pytest.raises(BackupFailed, match=r"permission denied for table of_root.*GRANT SELECT"):
            await backup_tenant(managed.settings, tenant)
        await root.execute(f"GRANT SELECT ON of_root TO {ADMIN}")
        saved = await backup_tenant(managed.settings, tenant)
        await root.execute("CREATE ROLE stranger; CREATE TABLE theirs (n int); ALTER TABLE theirs OWNER TO stranger")
        await root.execute(f"GRANT SELECT ON theirs TO {ADMIN}")
        if managed.server.version >= 16:  # before, it may become a member of any such role
            with pytest.raises(BackupFailed, match=r"theirs belongs to stranger.*GRANT (MAINTAIN|UPDATE) ON"):
                await backup_tenant(managed.settings, tenant)
            right = "MAINTAIN" if managed.server.version >= 17 else "UPDATE"
            await root.execute(f"GRANT {right} ON theirs TO {ADMIN}")
        await backup_tenant(managed.settings, tenant)
        await root.execute("DROP TABLE theirs; DROP ROLE stranger")
        with pytest.raises(ConfigurationError, match=r'may not act for "postgres".*GRANT "postgres" TO "boss"'):
            await restore_backup(managed.settings, saved, as_id="again")
        await root.execute("DROP TABLE of_root; ALTER TABLE owned ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
        with pytest.raises(BackupFailed, match=r"row-level security policy for table \"owned\".*NO FORCE"):
            await backup_tenant(managed.settings, tenant)
        await root.execute("ALTER TABLE owned DISABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY")
