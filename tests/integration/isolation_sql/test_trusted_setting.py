"""Who can set the parameter that a trusted session's tenant stands in? The keeper's functions, and no tenant's SQL."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Final

import asyncpg
import pytest

from tests.support.entered import EnteredSession
from tests.support.sessions import READ, names
from tests.support.world import APP_PASSWORD, APP_ROLE, World

OWN: Final = ["row1 1", "row1 2", "row1 3"]
P: Final = "backtrace_functions"
V: Final = "4102444800row2"
SET: Final = f"set_config('{P}', '{V}', false)"

FLIPS: Final[dict[str, Sequence[str]]] = {
    "SET": [f"SET {P} = '{V}'"],
    "SET LOCAL": ["BEGIN", f"SET LOCAL {P} = '{V}'"],
    "set_config": [f"SELECT {SET}"],
    "set_config for the transaction": ["BEGIN", f"SELECT set_config('{P}', '{V}', true)"],
    "another case": [f"SET \"BACKTRACE_FUNCTIONS\" = '{V}'"],
    "a unicode name": [f"SELECT set_config(U&'\\0062acktrace_functions', '{V}', false)"],
    "its own role": [f"ALTER ROLE app SET {P} = '{V}'"],
    "its own role in the database": [f"DO $$ BEGIN EXECUTE format('ALTER ROLE app IN DATABASE %I SET {P} = %L',"
                                     f" current_database(), '{V}'); END $$"],
    "its own role, from current": [f"ALTER ROLE app SET {P} FROM CURRENT"],
    "every role": [f"ALTER ROLE ALL SET {P} = '{V}'"],
    "the system": [f"ALTER SYSTEM SET {P} = '{V}'"],
    "DO": [f"DO $$ BEGIN PERFORM {SET}; END $$"],
    "DO that catches": [f"DO $$ BEGIN BEGIN PERFORM {SET}; EXCEPTION WHEN others THEN NULL; END; END $$"],
    "the view of settings": [f"UPDATE pg_settings SET setting = '{V}' WHERE name = '{P}'"],
    "EXPLAIN ANALYZE": [f"EXPLAIN ANALYZE SELECT {SET}"],
    "ts_stat": [f"SELECT * FROM ts_stat($$SELECT to_tsvector({SET})$$)"],
    "a CTE before the rows": [f"WITH x AS MATERIALIZED (SELECT {SET}) SELECT name FROM x, projects"],
    "PREPARE": [f"PREPARE p AS SELECT {SET}", "EXECUTE p"],
    "a cursor": [f"DECLARE c CURSOR WITH HOLD FOR SELECT {SET}"],
    "altering the keeper's function": [
        f"ALTER FUNCTION tenantproxy.trust(text, integer, bigint, text, bigint, boolean) SET {P} FROM CURRENT"
    ],
    "granting it": [f"GRANT SET ON PARAMETER {P} TO app"],
    "the keeper's role": ["SET ROLE tenantproxy_keeper", f"SELECT {SET}"],
    "another user": ["SET SESSION AUTHORIZATION postgres", f"SELECT {SET}"],
    "resetting it": [f"RESET {P}"],
    "resetting all": ["RESET ALL", f"SELECT {SET}"],
    "discarding all": ["DISCARD ALL", f"SELECT {SET}"],
    "a claim of the bound form": [
        "RESET ALL", "SET app.current_tenant_id = 'row2'", "SET app.tenant_proof = 'bound'",
    ],
    "the plain setting": ["SET app.current_tenant_id = 'row2'"],
    "the mark": ["SELECT setval('tenantproxy.trusted_mark', 1)", "SELECT currval('tenantproxy.trusted_mark')"],
    "back to another": [f"SELECT tenantproxy.trust_again('row2', {V[:10]})"],
    "back to another after a reset": ["RESET ALL", f"SELECT tenantproxy.trust_again('row2', {V[:10]})"],
    "asking what is proved": ["SELECT tenantproxy.proved_tenant()"],
    "replacing the function": ["CREATE OR REPLACE FUNCTION tenantproxy.bound_tenant() RETURNS text RETURN 'row2'"],
    "a serializable snapshot": ["BEGIN ISOLATION LEVEL SERIALIZABLE", "SELECT 1", f"SELECT {SET}"],
    "a savepoint": ["BEGIN", "SAVEPOINT s", f"SELECT {SET}", "ROLLBACK TO s"],
    "row security off": ["SET row_security = off"],
    "a generic plan": ["SET plan_cache_mode = force_generic_plan", "PREPARE p AS SELECT name FROM public.projects",
                       "EXECUTE p", f"SELECT {SET}", "EXECUTE p"],
}  # fmt: skip


async def everything(conn: asyncpg.Connection, statement: str) -> str:
    try:
        return str([dict(row) for row in await conn.fetch(statement)])
    except asyncpg.PostgresError as error:
        return f"{error} {error.detail}"


@pytest.mark.parametrize("flip", FLIPS)
async def test_no_way_to_set_the_parameter_shows_a_row_of_another(
    trusted: EnteredSession, trusting: World, flip: str
) -> None:
    conn = trusted.conn
    seen = [await everything(conn, statement) for statement in (*FLIPS[flip], READ, "ROLLBACK", READ)]
    assert not [text for text in seen if "row2 " in text]
    async with trusting.shared.connect() as admin:
        kept = await admin.fetchval("SELECT count(*) FROM pg_db_role_setting, unnest(setconfig) c WHERE c ~ $1", P)
    assert kept == 0


async def test_a_function_with_the_parameter_in_its_clause_shows_no_row_of_another(each_world: World) -> None:
    async with each_world.shared.connect() as admin:
        await admin.execute("GRANT ALL ON SCHEMA public TO app")
    async with each_world.app(each_world.shared) as conn:
        for clause in (f"SET {P} = '{V}'", f"SET {P} FROM CURRENT"):
            body = "LANGUAGE sql AS 'SELECT max(name) FROM projects'"
            made = await everything(conn, f"CREATE FUNCTION public.f() RETURNS text {clause} {body}")
            seen = await everything(conn, "SELECT public.f()")
            assert "row2 " not in made + seen
            await everything(conn, "DROP FUNCTION public.f()")


@pytest.mark.parametrize("options", [{P: V}, {P.upper(): V}, {"options": f"-c {P}={V}"}], ids=str)
async def test_the_startup_packet_sets_no_tenant(trusting: World, options: dict[str, str]) -> None:
    arguments = trusting.server.connect_args(trusting.shared.name, APP_ROLE, APP_PASSWORD)
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="permission denied to set parameter"):
        await asyncpg.connect(**arguments, server_settings=options)


SHADOWS: Final = (
    "CREATE SCHEMA evil",
    f"CREATE FUNCTION evil.current_setting(text) RETURNS text RETURN '{V}'",
    f"CREATE FUNCTION public.current_setting(text) RETURNS text RETURN '{V}'",
    "CREATE FUNCTION evil.translate(text, text, text) RETURNS text RETURN 'row2'",
    "CREATE FUNCTION evil.substr(text, integer) RETURNS text RETURN 'row2'",
    "CREATE FUNCTION evil.sha256(bytea) RETURNS bytea RETURN '\\x00'::bytea",
    "CREATE FUNCTION evil.concat_ws(text, VARIADIC text[]) RETURNS text RETURN 'x'",
    "CREATE FUNCTION evil.always(text, text) RETURNS boolean RETURN true",
    "CREATE OPERATOR evil.> (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.always)",
    "CREATE OPERATOR evil.< (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.always)",
    "CREATE OPERATOR evil.= (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.always)",
    "CREATE FUNCTION evil.date_part(text, timestamptz) RETURNS double precision RETURN 0",
    "CREATE FUNCTION evil.proved_tenant() RETURNS text RETURN 'row2'",
    "CREATE DOMAIN evil.text AS pg_catalog.text CHECK (false)",
    "CREATE DOMAIN evil.int8 AS pg_catalog.int8 CHECK (false)",
    "CREATE COLLATION evil.\"C\" (locale = 'C')",
    "CREATE TEMP TABLE context_key (kid smallint, ipad bytea, opad bytea, not_after timestamptz)",
    "CREATE TEMP TABLE fenced_tenant (tenant_id text)",
    "CREATE TEMP SEQUENCE session_nonce",
    "CREATE TEMP SEQUENCE trusted_mark",
)


EVIL_PATH: Final = "SET search_path = evil, pg_temp, public, pg_catalog"


async def set_by_a_superuser(admin: asyncpg.Connection, value: str) -> None:
    """A session of the tenants' role in which the parameter has a value that no entry gave it."""
    await admin.execute(f"RESET SESSION AUTHORIZATION; SET {P} = '{value}'; SET SESSION AUTHORIZATION app; {EVIL_PATH}")


async def test_shadowing_what_the_trusted_form_uses_shows_no_row_of_another(trusting: World) -> None:
    async with trusting.shared.connect() as admin, trusting.app(trusting.shared) as conn:
        await admin.execute(f"GRANT ALL ON DATABASE {trusting.shared.name} TO app; GRANT ALL ON SCHEMA public TO app")
        try:
            session = await EnteredSession.of(conn, trusting.signer(), "first")
            await session.enter("row1")
            for statement in SHADOWS:
                await conn.execute(statement)
            await conn.execute(EVIL_PATH)
            assert await names(conn) == OWN
            session.nonce += 1
            with pytest.raises(asyncpg.InsufficientPrivilegeError, match="not valid"):
                await conn.execute(session.entry("row2"))
            assert await names(conn) == OWN
            for value in ("", "1000000000row2", "heap_insert", "_row2", "A4102444800row2"):
                await set_by_a_superuser(admin, value)
                with pytest.raises(asyncpg.InsufficientPrivilegeError, match="no valid tenant"):
                    await admin.fetch(READ)
            await set_by_a_superuser(admin, "4102444800row1")
            assert await names(admin) == OWN
        finally:
            await admin.execute("RESET SESSION AUTHORIZATION; RESET ALL")
            await admin.execute(
                "DROP SCHEMA IF EXISTS evil CASCADE; DROP FUNCTION IF EXISTS public.current_setting(text);"
                f"REVOKE CREATE, TEMPORARY ON DATABASE {trusting.shared.name} FROM app;"
                "REVOKE CREATE ON SCHEMA public FROM app"
            )


@pytest.mark.parametrize("mode", ["force_generic_plan", "force_custom_plan", "auto"])
async def test_plans_that_are_kept_across_tenants_show_each_its_own_rows(trusted: EnteredSession, mode: str) -> None:
    conn = trusted.conn
    statement = await conn.prepare(READ)
    await conn.execute("SELECT 1")  # the driver leaves it in a transaction
    for tenant in ("row1", "row2", "row1", "row2"):
        await trusted.enter(tenant)
        await conn.execute(f"SET plan_cache_mode = {mode}")
        for _ in range(7):
            assert [row["name"] for row in await statement.fetch()] == [f"{tenant} {n}" for n in (1, 2, 3)]


async def test_parallel_workers_see_the_tenants_rows_alone(trusted: EnteredSession) -> None:
    await trusted.conn.execute(
        "SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0;"
        "SET parallel_leader_participation = off"
    )
    for mode in ("debug_parallel_query", "force_parallel_mode"):
        if await trusted.conn.fetchval("SELECT true FROM pg_settings WHERE name = $1", mode):
            await trusted.conn.execute(f"SET {mode} = on")
    assert await names(trusted.conn) == OWN


async def test_a_session_past_its_time_is_refused_from_the_next_transaction_on(trusted: EnteredSession) -> None:
    conn = trusted.conn
    await conn.execute("RESET ALL")
    entry = trusted.entry("row1", seconds=2)
    await conn.execute(entry)
    await conn.execute("BEGIN")
    assert await names(conn) == OWN
    deadline = time.monotonic() + 20
    while await conn.fetchval(f"SELECT clock_timestamp() < to_timestamp({trusted.until} + 1)"):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)
    assert await names(conn) == OWN, "a transaction is not cut"
    await conn.execute("COMMIT AND CHAIN")
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="no valid tenant"):
        await conn.fetch(READ)
    await conn.execute("ROLLBACK")


async def test_an_operators_list_of_functions_is_no_tenant(trusting: World) -> None:
    async with trusting.shared.connect() as admin:
        await admin.execute(f"ALTER DATABASE {trusting.shared.name} SET {P} = 'int4div,row2'")
        try:
            async with trusting.app(trusting.shared) as conn:
                with pytest.raises(asyncpg.InsufficientPrivilegeError, match="no valid tenant"):
                    await conn.fetch(READ)
                session = await EnteredSession.of(conn, trusting.signer(), "first")
                await session.enter("row1")
                assert await names(conn) == OWN
                await conn.execute("RESET ALL")
                with pytest.raises(asyncpg.InsufficientPrivilegeError, match="no valid tenant"):
                    await conn.fetch(READ)
        finally:
            await admin.execute(f"ALTER DATABASE {trusting.shared.name} RESET {P}")
