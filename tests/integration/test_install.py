"""Does the install put the signed context in, again and again, all or nothing, with no more rights than it needs?"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

import asyncpg
import pytest

from tenantproxy.embedded import EmbeddedPostgres
from tenantproxy.errors import ConfigurationError
from tenantproxy.isolation.row import BIND
from tenantproxy.lifecycle import forget_keys, install, install_registry, isolate_table
from tenantproxy.lifecycle.provisioner import ensure_role
from tests.support.database import Database
from tests.support.world import APP_PASSWORD, APP_ROLE, SHARED_PROJECTS, row_key, signer

OWNER: Final = "owner_of_the_database"
FOREVER: Final = 9_999_999_999_999_999


def proof(database: Database, tenant: str, *, kid: int = 1, pid: int = 0) -> str:
    return signer(database.name, kid).sign(tenant, pid=pid, from_us=0, to_us=FOREVER)


async def bind(conn: asyncpg.Connection, database: Database, tenant: str, *, kid: int = 1) -> object:
    return await conn.fetchval(BIND, tenant, proof(database, tenant, kid=kid, pid=conn.get_server_pid()))


async def snapshot(conn: asyncpg.Connection) -> list[object]:
    """Everything that the install makes, by its definition and its owner."""
    rows = await conn.fetch(
        "SELECT proname::text, pg_get_functiondef(oid), proowner::regrole::text, proacl::text FROM pg_proc"
        " WHERE pronamespace = 'tenantproxy'::regnamespace UNION ALL"
        " SELECT relname, relkind::text, relowner::regrole::text, relacl::text FROM pg_class"
        " WHERE relnamespace = 'tenantproxy'::regnamespace ORDER BY 1, 2"
    )
    return [tuple(row) for row in rows]


@pytest.fixture
async def admin(each_database: Database) -> AsyncIterator[asyncpg.Connection]:
    async with each_database.connect() as conn:
        await ensure_role(conn, APP_ROLE, password=APP_PASSWORD)
        yield conn


async def test_installing_again_changes_nothing(admin: asyncpg.Connection, each_database: Database) -> None:
    await install(admin, app_role=APP_ROLE, keys={1: row_key(each_database.name)})
    before = await snapshot(admin)
    assert len(before) > 8
    await install(admin, app_role=APP_ROLE, keys={1: row_key(each_database.name)})
    assert await snapshot(admin) == before
    assert await admin.fetchval("SELECT count(*) FROM tenantproxy.context_key") == 1


async def test_the_installer_is_not_left_in_the_keeper_role(admin: asyncpg.Connection, each_database: Database) -> None:
    await install(admin, app_role=APP_ROLE, keys={1: row_key(each_database.name)})
    assert await admin.fetchval("SELECT current_user") == "postgres"
    members = await admin.fetchval(
        "SELECT count(*) FROM pg_auth_members WHERE roleid = 'tenantproxy_keeper'::regrole"
        " AND member = 'postgres'::regrole"
    )
    assert members == 0
    assert await admin.fetchval("SHOW search_path") == '"$user", public'


async def test_a_bound_connection_survives_an_upgrade(admin: asyncpg.Connection, each_database: Database) -> None:
    keys = {1: row_key(each_database.name)}
    await install(admin, app_role=APP_ROLE, keys=keys)
    async with each_database.connect(APP_ROLE, APP_PASSWORD) as conn:
        assert await bind(conn, each_database, "acme") == "acme"
        await install(admin, app_role=APP_ROLE, keys=keys)
        assert await conn.fetchval("SELECT tenantproxy.bound_tenant()") == "acme"


async def test_an_upgrade_may_change_the_setting(admin: asyncpg.Connection, each_database: Database) -> None:
    await install(admin, app_role=APP_ROLE, keys={1: row_key(each_database.name)})
    await install(admin, app_role=APP_ROLE, keys={1: row_key(each_database.name)}, setting="my.tenant")
    async with each_database.connect(APP_ROLE, APP_PASSWORD) as conn:
        await bind(conn, each_database, "acme")
        assert await conn.fetchval("SELECT current_setting('my.tenant')") == "acme"
        assert await conn.fetchval("SELECT current_setting('app.current_tenant_id', true)") in (None, "")
        assert await conn.fetchval("SELECT tenantproxy.bound_tenant()") == "acme"


@pytest.mark.parametrize(
    "setting", ["tenant", "App.tenant", "app.tenant;drop", "app.it's", "a.b.c", "", "app.x\n", "app.tenant_proof"]
)
async def test_what_cannot_be_a_setting_is_refused_before_anything_is_done(database: Database, setting: str) -> None:
    async with database.connect() as conn:
        with pytest.raises(ConfigurationError, match=r"row\.setting"):
            await install(conn, app_role=APP_ROLE, keys={1: bytes(32)}, setting=setting)
        assert await conn.fetchval("SELECT to_regnamespace('tenantproxy')") is None


@pytest.mark.parametrize("keys", [{}, {10: bytes(32)}, {-1: bytes(32)}, {1: bytes(31)}, {1: bytes(65)}])
async def test_unusable_keys_are_refused_and_not_shown(database: Database, keys: dict[int, bytes]) -> None:
    async with database.connect() as conn:
        with pytest.raises(ValueError) as caught:
            await install(conn, app_role=APP_ROLE, keys=keys)
    assert "\\x00" not in str(caught.value)


async def test_a_role_name_with_quotes_is_a_name_and_nothing_else(database: Database) -> None:
    role = """it"s 'a; DROP TABLE x; -- role"""
    async with database.connect() as conn:
        await ensure_role(conn, role, password=APP_PASSWORD)
        await install(conn, app_role=role, keys={1: row_key(database.name)})
        async with database.connect(role, APP_PASSWORD) as app:
            assert await bind(app, database, "acme") == "acme"
        await conn.execute('DROP SCHEMA tenantproxy CASCADE; DROP ROLE "it""s \'a; DROP TABLE x; -- role"')


async def test_an_install_that_fails_leaves_nothing(database: Database) -> None:
    async with database.connect() as conn:
        with pytest.raises(asyncpg.UndefinedObjectError):
            await install(conn, app_role="nobody_by_this_name", keys={1: row_key(database.name)})
        assert await conn.fetchval("SELECT to_regnamespace('tenantproxy')") is None
        assert await conn.fetchval("SELECT current_user") == "postgres"


async def test_an_install_does_not_wait_behind_a_lock_for_long(
    admin: asyncpg.Connection, each_database: Database
) -> None:
    keys = {1: row_key(each_database.name)}
    await install(admin, app_role=APP_ROLE, keys=keys)
    async with each_database.connect() as other, other.transaction():
        await other.execute("LOCK TABLE tenantproxy.context_key")
        with pytest.raises(asyncpg.LockNotAvailableError):
            await install(admin, app_role=APP_ROLE, keys=keys, lock_timeout=0.05)
    await install(admin, app_role=APP_ROLE, keys=keys)


async def test_two_installers_at_once_both_succeed(admin: asyncpg.Connection, each_database: Database) -> None:
    keys = {1: row_key(each_database.name)}
    async with each_database.connect() as other:
        await asyncio.gather(*(install(conn, app_role=APP_ROLE, keys=keys) for conn in (admin, other)))


async def test_the_keys_stand_in_no_server_log(admin: asyncpg.Connection, each_database: Database) -> None:
    await admin.execute(
        "SET log_statement = 'all'; SET log_min_duration_statement = 0; SET log_parameter_max_length = -1"
    )
    log, key = each_database.server.log_file, row_key(each_database.name)
    await install(admin, app_role=APP_ROLE, keys={1: key})
    await admin.execute("SELECT 'the end of it'")
    written = log.read_text()
    assert "INSERT INTO tenantproxy.context_key" in written
    assert bytes(b ^ 0x36 for b in key).hex() not in written


async def test_the_keys_stand_in_no_plan_that_is_logged(admin: asyncpg.Connection, each_database: Database) -> None:
    await admin.execute(
        "LOAD 'auto_explain'; SET auto_explain.log_min_duration = 0; SET auto_explain.log_verbose = on;"
        "SET debug_print_plan = on; SET debug_pretty_print = off"
    )
    log, key = each_database.server.log_file, row_key(each_database.name)
    await install(admin, app_role=APP_ROLE, keys={1: key})
    await admin.execute("SELECT 'the end of it'")
    written = " ".join(log.read_text().split())  # PostgreSQL breaks its lines
    assert "{PLANNEDSTMT" in written
    assert "Query Text: INSERT INTO tenantproxy.context_key" in written
    assert bytes(b ^ 0x36 for b in key).hex() not in written
    assert " ".join(str(int.from_bytes([b ^ 0x36], signed=True)) for b in key) not in written


async def test_rotation_accepts_both_keys_until_the_old_one_is_forgotten(
    admin: asyncpg.Connection, each_database: Database
) -> None:
    await install(admin, app_role=APP_ROLE, keys={1: row_key(each_database.name, 1)})
    await install(admin, app_role=APP_ROLE, keys={2: row_key(each_database.name, 2)})
    async with each_database.connect(APP_ROLE, APP_PASSWORD) as conn:
        for kid in (1, 2):
            assert await bind(conn, each_database, "acme", kid=kid) == "acme"
        await forget_keys(admin, [1])
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await bind(conn, each_database, "acme", kid=1)
        assert await bind(conn, each_database, "acme", kid=2) == "acme"


async def test_a_database_owner_with_createrole_can_install_and_upgrade(each_own_postgres: EmbeddedPostgres) -> None:
    async with Database(server=each_own_postgres, name="postgres").connect() as root:
        await root.execute(f"CREATE ROLE {OWNER} LOGIN CREATEROLE PASSWORD '{APP_PASSWORD}'")
        await root.execute(f"CREATE DATABASE mine OWNER {OWNER}")
    mine = Database(server=each_own_postgres, name="mine")
    async with mine.connect(OWNER, APP_PASSWORD) as conn:
        await ensure_role(conn, APP_ROLE, password=APP_PASSWORD)
        for _ in range(2):
            await install(conn, app_role=APP_ROLE, keys={1: row_key("mine")})
            await install_registry(conn, app_role=APP_ROLE)
        await conn.execute(SHARED_PROJECTS)
        await isolate_table(conn, "projects")
        await conn.execute(f"GRANT SELECT, INSERT ON projects TO {APP_ROLE}")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await conn.fetch("SELECT * FROM tenantproxy.context_key")
    async with mine.connect(APP_ROLE, APP_PASSWORD) as conn:
        await bind(conn, mine, "acme")
        await conn.execute("INSERT INTO projects (tenant_id, name) VALUES ('acme', 'x')")
        assert await conn.fetchval("SELECT count(*) FROM projects") == 1


@pytest.mark.parametrize("registry_first", [True, False])
async def test_registry_and_signed_context_share_a_database_in_either_order(
    database: Database, *, registry_first: bool
) -> None:
    async with database.connect() as conn:
        await ensure_role(conn, APP_ROLE, password=APP_PASSWORD)
        if registry_first:
            await install_registry(conn, app_role=APP_ROLE)
        await install(conn, app_role=APP_ROLE, keys={1: row_key(database.name)})
        await install_registry(conn, app_role=APP_ROLE)
    async with database.connect(APP_ROLE, APP_PASSWORD) as conn:
        assert await conn.fetch("SELECT id FROM tenantproxy.tenants") == []
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await conn.execute("DELETE FROM tenantproxy.tenants")


POLICIES: Final = (
    "SELECT polname::text, polpermissive, polroles::text FROM pg_policy WHERE polrelid = $1::regclass ORDER BY 1"
)


@pytest.fixture
async def isolated(admin: asyncpg.Connection, each_database: Database) -> asyncpg.Connection:
    """An admin connection to a database with the signed context in it."""
    await install(admin, app_role=APP_ROLE, keys={1: row_key(each_database.name)})
    return admin


@pytest.mark.parametrize("type_of_column", ["text", "varchar(63)", "uuid", "bigint", "name"])
async def test_isolating_a_table_again_takes_no_lock_on_it(
    isolated: asyncpg.Connection, each_database: Database, type_of_column: str
) -> None:
    await isolated.execute(f'CREATE TABLE t ("the Tenant" {type_of_column})')
    await isolate_table(isolated, "t", "the Tenant")
    policies = await isolated.fetch(POLICIES, "t")
    assert [tuple(row) for row in policies] == [("tenantproxy", True, "{0}")]
    async with each_database.connect() as reader, reader.transaction():
        await reader.fetch("SELECT * FROM t")
        await isolate_table(isolated, "t", "the Tenant", lock_timeout=0.05)


async def test_a_uuid_column_is_compared_as_uuid_and_through_its_index(
    isolated: asyncpg.Connection, each_database: Database
) -> None:
    mine, other = "6f2b5e0c-2f0e-4f0b-9a53-1d2f6f0a7c11", "00000000-0000-0000-0000-000000000001"
    await isolated.execute("CREATE TABLE t (tenant_id uuid PRIMARY KEY); GRANT SELECT ON t TO app")
    await isolated.execute(f"INSERT INTO t VALUES ('{mine}'), ('{other}')")
    await isolate_table(isolated, "t")
    async with each_database.connect(APP_ROLE, APP_PASSWORD) as conn:
        await bind(conn, each_database, mine)
        assert [str(row[0]) for row in await conn.fetch("SELECT tenant_id FROM t")] == [mine]
        plan = await conn.fetch("SET enable_seqscan = off") or await conn.fetch("EXPLAIN SELECT * FROM t")
        assert any("Index Cond" in row[0] for row in plan)


async def test_a_table_with_policies_of_its_own_gets_a_restrictive_one_beside_them(
    isolated: asyncpg.Connection, each_database: Database
) -> None:
    await isolated.execute(f"{SHARED_PROJECTS}; GRANT SELECT ON projects TO app")
    await isolated.execute("INSERT INTO projects (tenant_id, name) VALUES ('acme', 'a'), ('globex', 'g')")
    await isolate_table(isolated, "projects")
    await isolated.execute(
        "CREATE POLICY old ON projects USING (tenant_id = current_setting('app.current_tenant_id', true))"
    )
    await isolate_table(isolated, "projects")
    policies = await isolated.fetch(POLICIES, "projects")
    assert [tuple(row) for row in policies] == [("old", True, "{0}"), ("tenantproxy_signed", False, "{0}")]
    async with each_database.connect(APP_ROLE, APP_PASSWORD) as conn:
        await conn.execute("SELECT set_config('app.current_tenant_id', 'globex', false)")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await conn.fetch("SELECT * FROM projects")
        await conn.execute("RESET ALL")
        await bind(conn, each_database, "acme")
        assert [row["name"] for row in await conn.fetch("SELECT name FROM projects")] == ["a"]


async def test_partitions_cannot_be_read_beside_their_table(
    isolated: asyncpg.Connection, each_database: Database
) -> None:
    await isolated.execute(
        "CREATE TABLE t (tenant_id text) PARTITION BY LIST (tenant_id);"
        "CREATE TABLE t_acme PARTITION OF t FOR VALUES IN ('acme');"
        "CREATE TABLE t_rest PARTITION OF t DEFAULT; INSERT INTO t VALUES ('acme'), ('globex');"
        "GRANT SELECT ON ALL TABLES IN SCHEMA public TO app"
    )
    await isolate_table(isolated, "t")
    async with each_database.connect(APP_ROLE, APP_PASSWORD) as conn:
        await bind(conn, each_database, "acme")
        assert await conn.fetchval("SELECT count(*) FROM t") == 1
        assert await conn.fetchval("SELECT count(*) FROM t_rest") == 0


async def test_a_weakened_policy_is_put_right(isolated: asyncpg.Connection) -> None:
    await isolated.execute("CREATE TABLE t (tenant_id text)")
    await isolate_table(isolated, "t")
    await isolated.execute(
        "ALTER POLICY tenantproxy ON t TO app USING (true); ALTER TABLE t NO FORCE ROW LEVEL SECURITY"
    )
    await isolate_table(isolated, "t")
    row = await isolated.fetchrow(
        "SELECT polroles::text, pg_get_expr(polqual, polrelid) AS reads, relforcerowsecurity FROM pg_policy"
        " JOIN pg_class c ON c.oid = polrelid WHERE relname = 't'"
    )
    assert row is not None
    assert row["polroles"] == "{0}"
    assert "bound_tenant" in row["reads"]
    assert row["relforcerowsecurity"]


async def test_isolating_what_is_not_there_names_it(isolated: asyncpg.Connection) -> None:
    with pytest.raises(ConfigurationError, match=r'"public"\."nothing" with a column "tenant_id"'):
        await isolate_table(isolated, "nothing")
    await isolated.execute("CREATE TABLE t (tenant_id text)")
    with pytest.raises(asyncpg.UndefinedObjectError):
        await isolate_table(isolated, "t", cast="no_such_type")
