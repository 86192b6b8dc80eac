"""Is what the provisioner makes closed to all other roles, and may each step be run again?"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from typing import Final

import asyncpg
import pytest

from tenantproxy.embedded import EmbeddedPostgres
from tenantproxy.errors import ConfigurationError
from tenantproxy.lifecycle import install
from tenantproxy.lifecycle.provisioner import (
    Connect,
    close_functions,
    close_maintenance,
    ensure_database,
    ensure_role,
    ensure_schema,
    provision_database,
    provision_schema,
    provision_shared,
    run_statements,
)
from tenantproxy.lifecycle.verifier import scram_verifier
from tenantproxy.model import Isolation
from tests.support.database import Database
from tests.support.world import APP_PASSWORD, APP_ROLE, OWN_PROJECTS, SHARED_PROJECTS, World, row_key

DENIED = asyncpg.InsufficientPrivilegeError
PASSWORD: Final = "a password of a tenant's role"


def connect_to(server: EmbeddedPostgres) -> Connect:
    def connect(name: str) -> asyncio.Future[asyncpg.Connection]:
        return asyncio.ensure_future(Database(server=server, name=name).open())

    return connect


@pytest.fixture
async def name(postgres: EmbeddedPostgres) -> AsyncIterator[str]:
    """For a database, schema and role of this test alone; dropped afterwards."""
    name = f"p_{secrets.token_hex(5)}"
    yield name
    async with Database(server=postgres, name="postgres").connect() as admin:
        await admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        await admin.execute(f"DROP ROLE IF EXISTS {name}")


async def privileges(database: Database) -> list[object]:
    async with database.connect() as conn:
        row = await conn.fetchrow(
            "SELECT (SELECT datacl::text FROM pg_database WHERE datname = current_database()),"
            " (SELECT array_agg((nspname, nspacl)::text ORDER BY oid) FROM pg_namespace),"
            " (SELECT array_agg((relname, relacl)::text ORDER BY oid) FROM pg_class WHERE relkind IN ('r', 'S')),"
            " (SELECT array_agg((oid::regprocedure, proacl)::text ORDER BY oid) FROM pg_proc),"
            " (SELECT array_agg(defaclacl::text) FROM pg_default_acl)"
        )
    assert row is not None
    return list(row)


async def test_a_database_tenant_can_be_provisioned_again_and_nothing_changes(
    postgres: EmbeddedPostgres, name: str
) -> None:
    database, connect = Database(server=postgres, name=name), connect_to(postgres)
    async with Database(server=postgres, name="postgres").connect() as admin:
        await ensure_role(admin, name, password=PASSWORD)
    statements = [OWN_PROJECTS, "INSERT INTO projects (name) VALUES ('first')"]
    await provision_database(connect, database=name, role=name, statements=statements)
    before = await privileges(database)
    await provision_database(connect, database=name, role=name, statements=statements)
    assert await privileges(database) == before
    async with database.connect(name, PASSWORD) as conn:
        assert await conn.fetchval("SELECT count(*) FROM projects") == 1


async def test_a_shared_database_and_its_schemas_can_be_provisioned_again(
    postgres: EmbeddedPostgres, name: str
) -> None:
    database, connect = Database(server=postgres, name=name), connect_to(postgres)
    async with Database(server=postgres, name="postgres").connect() as admin:
        await ensure_role(admin, APP_ROLE, password=APP_PASSWORD)

    async def provision() -> list[object]:
        await provision_shared(
            connect, database=name, role=APP_ROLE, keys={1: row_key(name)}, tables=["projects"],
            statements=[SHARED_PROJECTS],
        )  # fmt: skip
        await provision_schema(connect, database=name, schema="one", role=APP_ROLE, statements=[OWN_PROJECTS])
        return await privileges(database)

    assert await provision() == await provision()


@pytest.mark.parametrize("done", range(5))
async def test_provisioning_goes_on_where_a_crash_stopped_it(postgres: EmbeddedPostgres, name: str, done: int) -> None:
    """The connection is lost at the k-th statement that changes something."""
    database, connect = Database(server=postgres, name=name), connect_to(postgres)
    async with Database(server=postgres, name="postgres").connect() as admin:
        await ensure_role(admin, name, password=PASSWORD)
    left = [done]

    async def failing(database: str) -> asyncpg.Connection:
        conn = await connect(database)

        def count(record: object) -> None:
            left[0] -= 1
            if left[0] < 0:
                conn.terminate()

        conn.add_query_logger(count)
        return conn

    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, ConnectionError)):
        await provision_database(failing, database=name, role=name, statements=[OWN_PROJECTS])
    await provision_database(connect, database=name, role=name, statements=[OWN_PROJECTS])
    async with database.connect(name, PASSWORD) as conn:
        assert await conn.fetchval("SELECT count(*) FROM projects") == 0


async def test_statements_that_fail_are_undone_and_run_again(database: Database) -> None:
    async with database.connect() as conn:
        with pytest.raises(asyncpg.DivisionByZeroError):
            await run_statements(conn, ["CREATE TABLE t ()", "SELECT 1/0"])
        assert await run_statements(conn, ["CREATE TABLE t ()"])
        assert not await run_statements(conn, ["CREATE TABLE t ()"])
        assert await run_statements(conn, ["CREATE TABLE u ()"])
        assert await conn.fetchval("SHOW search_path") == '"$user", public'


async def test_statements_run_as_the_owner_and_see_only_their_schema(database: Database, name: str) -> None:
    async with database.connect() as conn:
        await ensure_role(conn, name)
        await ensure_schema(conn, "mine", role=name, owner=name)
        await conn.execute("CREATE TABLE public.elsewhere ()")
        with pytest.raises(asyncpg.UndefinedTableError):
            await run_statements(conn, ["SELECT FROM elsewhere"], schema="mine")
        await run_statements(conn, ["CREATE TABLE t ()"], schema="mine", owner=name)
        assert await conn.fetchval("SELECT relowner::regrole::text FROM pg_class WHERE relname = 't'") == name
        await conn.execute("DROP SCHEMA mine CASCADE")


ATTEMPTS: Final = {
    "a temp table": "CREATE TEMP TABLE x ()",
    "a table in public": "CREATE TABLE public.x ()",
    "a schema": "CREATE SCHEMA x",
    "an end of other sessions": "SELECT pg_terminate_backend(1, 1)",
    "a cancel of other sessions": "SELECT pg_cancel_backend(1)",
    "the other sessions' statements": "SELECT query FROM pg_stat_activity",
    "the other sessions' statements, one by one": "SELECT pg_stat_get_backend_activity(1)",
    "SQL from text": "SELECT query_to_xml('SELECT 1', true, true, '')",
    "SQL from a table's name": "SELECT table_to_xml('pg_class', true, true, '')",
    "a large object": "SELECT lo_create(0)",
    "a large object from bytes": "SELECT lo_from_bytea(0, 'x')",
    "emptying a table": "TRUNCATE public.projects",
    "a reference to a table": "CREATE TABLE public.x (id bigint REFERENCES public.projects)",
    "a trigger": "CREATE TRIGGER x BEFORE UPDATE ON public.projects EXECUTE FUNCTION tsvector_update_trigger()",
    "another role": "SET ROLE postgres",
    "the keeper": "SET ROLE tenantproxy_keeper",
    "a new role": "CREATE ROLE x",
    "a new database": "CREATE DATABASE x",
    "a server's file": "SELECT pg_read_file('postgresql.conf')",
    "a program": "COPY (SELECT 1) TO PROGRAM 'true'",
}


async def test_tenant_sql_is_denied_what_reaches_beyond_its_rows(each_world: World) -> None:
    allowed = []
    async with each_world.app(each_world.shared) as conn:
        for what, sql in ATTEMPTS.items():
            try:
                await conn.execute(sql)
            except DENIED:
                continue
            allowed.append(what)
    assert allowed == []


async def test_schemas_are_open_to_their_own_role_alone(database: Database, name: str) -> None:
    async with database.connect() as conn:
        for role in (name, APP_ROLE):
            await ensure_role(conn, role, password=PASSWORD if role == name else APP_PASSWORD)
        await ensure_schema(conn, "one", role=name)
        await ensure_schema(conn, "two", role=APP_ROLE)
        await run_statements(conn, [OWN_PROJECTS], schema="one")
        await run_statements(conn, [OWN_PROJECTS], schema="two")
    async with database.connect(name, PASSWORD) as conn:
        with pytest.raises(DENIED, match="schema two"):
            await conn.fetch("SELECT * FROM two.projects")
    async with database.connect() as conn:
        await conn.execute(f"DROP OWNED BY {name}")


async def test_a_database_tenants_role_enters_its_own_database_only(world: World, name: str) -> None:
    first, second = (world.database(tenant) for tenant in world.of(Isolation.DATABASE))
    async with Database(server=world.server, name="postgres").connect() as admin:
        await ensure_role(admin, name, password=PASSWORD)
        await admin.execute(f"GRANT CONNECT ON DATABASE {first.name} TO {name}")
    async with first.connect(name, PASSWORD):
        pass
    for closed in (second, world.shared, world.main):
        with pytest.raises(DENIED, match="permission denied for database"):
            await closed.open(name, PASSWORD)
    async with Database(server=world.server, name="postgres").connect() as admin:
        await admin.execute(f"REVOKE CONNECT ON DATABASE {first.name} FROM {name}")


async def test_maintenance_databases_are_closed_to_tenants(own_postgres: EmbeddedPostgres) -> None:
    maintenance = Database(server=own_postgres, name="postgres")
    async with maintenance.connect() as admin:
        await ensure_role(admin, APP_ROLE, password=APP_PASSWORD)
        async with maintenance.connect(APP_ROLE, APP_PASSWORD):
            pass
        await close_maintenance(admin)
        await close_maintenance(admin)
    for name in ("postgres", "template1"):
        with pytest.raises(DENIED, match="permission denied for database"):
            await Database(server=own_postgres, name=name).open(APP_ROLE, APP_PASSWORD)


@pytest.mark.parametrize("close_first", [True, False])
async def test_after_closing_and_installing_in_either_order_only_the_keeper_sees_what_is_prepared(
    each_own_postgres: EmbeddedPostgres, *, close_first: bool
) -> None:
    database = Database(server=each_own_postgres, name="postgres")
    async with database.connect() as conn:
        await ensure_role(conn, APP_ROLE, password=APP_PASSWORD)
        if close_first:
            assert await close_functions(conn)
        await install(conn, app_role=APP_ROLE, keys={1: row_key(database.name)})
        assert await close_functions(conn)
        seers = "SELECT count(*) FROM pg_roles WHERE has_function_privilege(oid, 'pg_prepared_statement()', 'EXECUTE')"
        assert await conn.fetchval(f"{seers} AND NOT rolsuper AND rolname <> 'tenantproxy_keeper'") == 0
    async with database.connect(APP_ROLE, APP_PASSWORD) as conn:
        assert await conn.fetchval("SELECT tenantproxy.prepared_check(1)")
        with pytest.raises(DENIED, match="function pg_prepared_statement"):
            await conn.fetch("SELECT * FROM pg_prepared_statements")


async def test_a_schema_tenant_in_a_database_of_somebody_elses_reaches_no_other_session_either(
    each_own_postgres: EmbeddedPostgres,
) -> None:
    database = Database(server=each_own_postgres, name="postgres")
    async with database.connect() as conn:
        await ensure_role(conn, APP_ROLE, password=APP_PASSWORD)
    one, two = (
        provision_schema(connect_to(each_own_postgres), database="postgres", schema=schema, role=APP_ROLE)
        for schema in ("one", "two")
    )
    await asyncio.gather(one, two)
    async with database.connect(APP_ROLE, APP_PASSWORD) as conn:
        with pytest.raises(DENIED, match="function pg_terminate_backend"):
            await conn.execute("SELECT pg_terminate_backend(0)")


async def test_closing_functions_needs_a_superuser_and_says_so(database: Database, name: str) -> None:
    async with database.connect() as conn:
        await ensure_role(conn, name, password=PASSWORD)
        assert await close_functions(conn)
        assert await close_functions(conn)
    async with database.connect(name, PASSWORD) as conn:
        assert not await close_functions(conn)


@pytest.mark.parametrize("attribute", ["SUPERUSER", "BYPASSRLS", "CREATEROLE", "CREATEDB", "REPLICATION"])
async def test_a_role_that_is_more_than_a_tenant_is_refused(database: Database, name: str, attribute: str) -> None:
    async with database.connect() as conn:
        await conn.execute(f"CREATE ROLE {name} {attribute}")
        with pytest.raises(ConfigurationError, match=f"role {name}"):
            await ensure_role(conn, name, password=PASSWORD)


async def test_a_role_gets_its_new_password_and_loses_what_it_would_inherit(database: Database, name: str) -> None:
    async with database.connect() as conn:
        await conn.execute(f"CREATE ROLE {name} NOLOGIN INHERIT")
        for password in ("first", PASSWORD):
            await ensure_role(conn, name, password=password)
        row = await conn.fetchrow("SELECT rolcanlogin, rolinherit FROM pg_roles WHERE rolname = $1", name)
    assert row is not None
    assert tuple(row) == (True, False)
    async with database.connect(name, PASSWORD):
        pass
    with pytest.raises(asyncpg.InvalidPasswordError):
        await database.open(name, "first")


async def test_steps_run_at_once_by_two_operators_both_succeed(postgres: EmbeddedPostgres, name: str) -> None:
    maintenance = Database(server=postgres, name="postgres")
    async with maintenance.connect() as one, maintenance.connect() as two:
        await asyncio.gather(*(ensure_role(conn, name) for conn in (one, two)))
        assert sorted(await asyncio.gather(*(ensure_database(conn, name) for conn in (one, two)))) == [False, True]


async def test_the_password_of_a_role_never_reaches_the_server(database: Database, name: str) -> None:
    async with database.connect() as conn:
        await conn.execute("SET log_statement = 'all'")
        await ensure_role(conn, name, password=PASSWORD)
    written = database.server.log_file.read_text()
    assert f'ALTER ROLE "{name}" PASSWORD' in written
    assert PASSWORD not in written


@pytest.mark.parametrize("password", ["", "ümlaut", "line\nbreak", "nul\0"])
def test_a_password_that_would_need_saslprep_is_refused(password: str) -> None:
    with pytest.raises(ValueError, match="printable ASCII"):
        scram_verifier(password)


@pytest.mark.parametrize("bad", ["", "x" * 64, "a\0b", "line\nbreak"])
async def test_a_name_that_postgresql_would_change_is_refused_before_anything_is_done(
    postgres: EmbeddedPostgres, bad: str
) -> None:
    maintenance = Database(server=postgres, name="postgres")
    async with maintenance.connect() as conn:
        count = "SELECT count(*) FROM pg_database"
        before = await conn.fetchval(count)
        for step in (ensure_role(conn, bad), ensure_database(conn, bad), ensure_schema(conn, bad, role=APP_ROLE)):
            with pytest.raises(ValueError, match="an identifier"):
                await step
        assert await conn.fetchval(count) == before
