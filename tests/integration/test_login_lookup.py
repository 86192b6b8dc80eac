"""Does the lookup of row tenants' accounts answer the one role it is for, exactly, and nothing else?"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import asyncpg
import pytest

from tenantproxy.lifecycle.install import install as install_context
from tenantproxy.lifecycle.install import isolate_table
from tenantproxy.lifecycle.lookup import install_lookup
from tenantproxy.lifecycle.provisioner import close_database, close_public, ensure_role
from tests.support.database import Database
from tests.support.world import APP_PASSWORD, APP_ROLE, row_key

LOGIN_ROLE: Final = "login_lookup_of_the_tests"
LOGIN_PASSWORD: Final = "login-password-of-the-tests"
QUERY: Final = "select tenant_id, id::text as user_id from users where lower(email) = $1 and is_active"
CALL: Final = "SELECT tenant_id, user_id FROM tenantproxy.login_candidates($1)"

_USERS: Final = """
CREATE TABLE users (tenant_id text NOT NULL, id int NOT NULL, email text, password_hash text, secret text,
                    is_active boolean NOT NULL DEFAULT true, PRIMARY KEY (tenant_id, id));
INSERT INTO users VALUES
  ('row1', 1, 'Ann@example.org', 'hash', 'secret'), ('row2', 7, 'ann@example.org', 'hash', 'secret'),
  ('row1', 2, 'bob@example.org', 'hash', 'secret'), ('row1', 9, 'ann@example.org', 'hash', 'secret'),
  ('row1', 3, NULL, 'hash', 'secret'), ('row1', 4, '', 'hash', 'secret');
INSERT INTO users VALUES ('row2', 8, 'gone@example.org', 'hash', 'secret', false);
GRANT SELECT, INSERT, UPDATE, DELETE ON users TO app;
"""


@pytest.fixture
async def shared(each_database: Database) -> Database:
    """A database of row tenants with a table of users and the lookup installed."""
    async with each_database.connect() as admin:
        await ensure_role(admin, APP_ROLE, password=APP_PASSWORD)
        await ensure_role(admin, LOGIN_ROLE, password=LOGIN_PASSWORD)
        await close_database(admin, each_database.name, roles=[APP_ROLE])
        await close_public(admin, role=APP_ROLE)
        await install_context(admin, app_role=APP_ROLE, keys={1: row_key(each_database.name)})
        await admin.execute(_USERS)
        await isolate_table(admin, "users")
        assert await install(admin)
    return each_database


async def install(admin: asyncpg.Connection, query: str = QUERY) -> bool:
    return await install_lookup(admin, login_role=LOGIN_ROLE, app_role=APP_ROLE, query=query)


@asynccontextmanager
async def login(database: Database) -> AsyncIterator[asyncpg.Connection]:
    async with database.connect(LOGIN_ROLE, LOGIN_PASSWORD) as conn:
        yield conn


@asynccontextmanager
async def tenant(database: Database) -> AsyncIterator[asyncpg.Connection]:
    """What a hostile tenant has: any SQL as the role of all tenants."""
    async with database.connect(APP_ROLE, APP_PASSWORD) as conn:
        yield conn


async def candidates(conn: asyncpg.Connection, email: str | None) -> list[tuple[str, str]]:
    return [(row["tenant_id"], row["user_id"]) for row in await conn.fetch(CALL, email)]


async def test_one_call_finds_each_tenant_of_an_address_once(shared: Database) -> None:
    async with login(shared) as conn:
        assert await candidates(conn, "ann@example.org") == [("row1", "1"), ("row2", "7")]
        assert await candidates(conn, "bob@example.org") == [("row1", "2")]


_NOT_EXACT: Final = [
        None, "", "%", "_", "ann%", "ann@example.or_", ".*", "ANN@EXAMPLE.ORG", " ann@example.org", "ann@example.org ",
        "' or '1'='1", "ann@example.org' --", "*", "gone@example.org", "x" * 400, "ann@example.org, bob@example.org",
]  # fmt: skip


async def test_only_one_exact_address_is_answered(shared: Database) -> None:
    async with login(shared) as conn:
        for email in _NOT_EXACT:
            assert await candidates(conn, email) == [], email


async def test_it_tells_no_more_than_tenant_and_user_and_of_64_tenants(shared: Database) -> None:
    async with shared.connect() as admin:
        rows = [(f"many{n:03}", 1, "many@example.org") for n in range(100)]
        await admin.executemany("INSERT INTO users (tenant_id, id, email) VALUES ($1, $2, $3)", rows)
    async with login(shared) as conn:
        found = await conn.fetch("SELECT * FROM tenantproxy.login_candidates($1)", "many@example.org")
        assert len(found) == 64
        assert list(found[0].keys()) == ["tenant_id", "user_id"]


_OF_A_TENANT: Final = [
    "SELECT * FROM tenantproxy.login_candidates('ann@example.org')",
    "SELECT tenantproxy.login_candidates('ann@example.org')",
    "CREATE TEMP VIEW v AS SELECT * FROM tenantproxy.login_candidates('ann@example.org'); SELECT * FROM v",
    "DO $$ BEGIN PERFORM tenantproxy.login_candidates('ann@example.org'); END $$",
    "PREPARE p AS SELECT * FROM tenantproxy.login_candidates('ann@example.org'); EXECUTE p",
    f"SET ROLE {LOGIN_ROLE}",
    "SET ROLE tenantproxy_lookup",
    f"SET SESSION AUTHORIZATION {LOGIN_ROLE}",
    f"GRANT {LOGIN_ROLE} TO app",
    "GRANT tenantproxy_lookup TO app",
    "GRANT EXECUTE ON FUNCTION tenantproxy.login_candidates(text) TO PUBLIC",
    "ALTER FUNCTION tenantproxy.login_candidates(text) OWNER TO app",
    "ALTER FUNCTION tenantproxy.login_candidates(text) SECURITY INVOKER",
    "ALTER FUNCTION tenantproxy.login_candidates(text) RESET search_path",
    "DROP FUNCTION tenantproxy.login_candidates(text)",
    "CREATE OR REPLACE FUNCTION tenantproxy.login_candidates(text) RETURNS TABLE (tenant_id text, user_id text)"
    " LANGUAGE sql AS 'SELECT 1::text, 2::text'",
    "CREATE FUNCTION tenantproxy.login_candidates(varchar) RETURNS text LANGUAGE sql AS 'SELECT 1::text'",
    "DROP OWNED BY tenantproxy_lookup",
    "REASSIGN OWNED BY tenantproxy_lookup TO app",
    "SELECT * FROM users",
]


async def test_a_tenant_cannot_ask_it_nor_change_it(shared: Database) -> None:
    async with shared.connect() as admin:  # also where temporary objects are allowed
        await admin.execute(f'GRANT TEMPORARY ON DATABASE "{shared.name}" TO app')
    for attempt in _OF_A_TENANT:
        async with tenant(shared) as conn:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                print(await conn.execute(attempt), attempt)
    async with login(shared) as conn:
        assert await candidates(conn, "ann@example.org") == [("row1", "1"), ("row2", "7")]


async def test_a_tenant_that_drops_what_it_owns_and_resets_its_role_changes_nothing(shared: Database) -> None:
    async with tenant(shared) as conn:
        await conn.execute("DROP OWNED BY app")
        await conn.execute("ALTER ROLE app SET search_path = nowhere")
        await conn.execute("ALTER ROLE app RESET ALL")
    async with login(shared) as conn:
        assert len(await candidates(conn, "ann@example.org")) == 2
    async with shared.connect() as admin:  # for the tests behind this one
        await admin.execute(f'GRANT CONNECT ON DATABASE "{shared.name}" TO app')


_BESIDES: Final = [
    "SELECT * FROM public.users",
    "SELECT email FROM public.users",
    "SELECT count(*) FROM public.users",
    "UPDATE public.users SET email = 'x'",
    "SELECT tenantproxy.bind('row1', 'x')",
    "SELECT tenantproxy.bound_tenant()",
    "SELECT * FROM tenantproxy.context_key",
    "SET ROLE tenantproxy_lookup",
    "SET ROLE app",
    "CREATE TABLE public.planted (x int)",
    "CREATE FUNCTION public.lower(text) RETURNS text LANGUAGE sql AS 'SELECT 1::text'",
    "CREATE SCHEMA mine",
    "ALTER FUNCTION tenantproxy.login_candidates(text) RESET search_path",
]


async def test_the_login_role_can_do_nothing_besides(shared: Database) -> None:
    async with login(shared) as conn:
        for attempt in _BESIDES:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                print(await conn.execute(attempt), attempt)


async def test_nothing_that_the_caller_sets_or_shadows_changes_what_it_reads(shared: Database) -> None:
    async with shared.connect() as admin:
        await admin.execute(f'GRANT TEMPORARY, CREATE ON DATABASE "{shared.name}" TO {LOGIN_ROLE}')
    async with login(shared) as conn:
        await conn.execute(
            "CREATE SCHEMA mine; CREATE TABLE mine.users (tenant_id text, id int, email text, is_active boolean);"
            "INSERT INTO mine.users VALUES ('row1', 666, 'ann@example.org', true);"
            "CREATE TEMP TABLE users AS TABLE mine.users;"
            "CREATE FUNCTION mine.lower(text) RETURNS text LANGUAGE sql AS $$ SELECT 'ann@example.org'::text $$;"
            "CREATE FUNCTION mine.eq(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT true';"
            "CREATE OPERATOR mine.= (LEFTARG = text, RIGHTARG = text, FUNCTION = mine.eq);"
            "CREATE FUNCTION mine.length(text) RETURNS int LANGUAGE sql AS 'SELECT 1';"
            "SET search_path = mine, pg_temp, public, pg_catalog; SET row_security = off"
        )
        assert await candidates(conn, "ann@example.org") == [("row1", "1"), ("row2", "7")]
        assert await candidates(conn, "anybody") == []
        assert await conn.fetchval("SELECT current_user") == LOGIN_ROLE
        await conn.execute("DROP SCHEMA mine CASCADE")
    async with shared.connect() as admin:
        await admin.execute(f'REVOKE TEMPORARY, CREATE ON DATABASE "{shared.name}" FROM {LOGIN_ROLE}')


async def test_its_owner_is_nobody_and_reads_the_columns_of_the_query_alone(shared: Database) -> None:
    async with shared.connect() as admin:
        role = await admin.fetchrow(
            "SELECT rolcanlogin, rolsuper, rolinherit, rolcreaterole FROM pg_roles WHERE rolname = 'tenantproxy_lookup'"
        )
        assert role is not None
        assert not any(role.values())
        readable = await admin.fetch(
            "SELECT column_name FROM information_schema.column_privileges WHERE grantee = 'tenantproxy_lookup'"
            " AND privilege_type = 'SELECT' ORDER BY 1"
        )
        assert [row[0] for row in readable] == ["email", "id", "is_active", "tenant_id"]
        assert not await admin.fetchval("SELECT has_table_privilege('tenantproxy_lookup', 'users', 'SELECT')")
        members = "SELECT count(*) FROM pg_auth_members WHERE roleid = 'tenantproxy_lookup'::regrole"
        assert await admin.fetchval(members) == 0


async def test_installing_again_takes_the_new_query_and_gives_up_the_rights_of_the_old(shared: Database) -> None:
    async with shared.connect() as admin:
        await admin.execute("CREATE VIEW people AS SELECT tenant_id, id, email FROM users")
        # With a comment at its end and a semicolon, as people write queries.
        assert await install(admin, "select tenant_id, id as user_id from public.people where email = $1 -- exact\n;")
        readable = await admin.fetch(
            "SELECT DISTINCT table_name::text FROM information_schema.column_privileges"
            " WHERE grantee = 'tenantproxy_lookup' AND table_schema = 'public'"
        )
        assert [row[0] for row in readable] == ["people"]
    async with login(shared) as conn:
        assert await candidates(conn, "Ann@example.org") == [("row1", "1")]
        assert await candidates(conn, "gone@example.org") == [("row2", "8")]


async def test_a_query_that_is_wrong_is_refused_and_the_former_one_stays(shared: Database) -> None:
    async with shared.connect() as admin:
        for wrong in ("select 1", "select tenant_id from users", "delete from users", "select tenant_id) from (users"):
            with pytest.raises(asyncpg.PostgresError):
                await install(admin, wrong)
    async with login(shared) as conn:
        assert len(await candidates(conn, "ann@example.org")) == 2


async def test_the_role_of_tenants_cannot_be_the_login_role_or_a_member_of_it(shared: Database) -> None:
    async with shared.connect() as admin:
        with pytest.raises(asyncpg.InvalidGrantOperationError):
            await install_lookup(admin, login_role=APP_ROLE, app_role=APP_ROLE, query=QUERY)
        await admin.execute(f"GRANT {LOGIN_ROLE} TO app WITH INHERIT TRUE" if await _is_16(admin) else _INHERIT)
        try:
            with pytest.raises(asyncpg.InvalidGrantOperationError):
                await install(admin)
        finally:
            await admin.execute(f"REVOKE {LOGIN_ROLE} FROM app; ALTER ROLE app NOINHERIT")


_INHERIT: Final = f"GRANT {LOGIN_ROLE} TO app; ALTER ROLE app INHERIT"


async def _is_16(admin: asyncpg.Connection) -> bool:
    return admin.get_server_version().major >= 16


async def test_without_a_superuser_nothing_is_done(shared: Database) -> None:
    async with shared.connect() as admin:
        await admin.execute(f"ALTER ROLE {LOGIN_ROLE} CREATEROLE")
    try:
        async with login(shared) as conn:
            assert not await install(conn)
    finally:
        async with shared.connect() as admin:
            await admin.execute(f"ALTER ROLE {LOGIN_ROLE} NOCREATEROLE")
