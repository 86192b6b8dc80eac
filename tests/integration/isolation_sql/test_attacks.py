"""What can hostile SQL do in a session that is proven to be row1's? See and change the rows of row1; nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import asyncpg
import pytest

from tenantproxy.isolation.proof import Signer
from tenantproxy.lifecycle import isolate_table
from tests.support.sessions import CARRY, READ, bind, carry, names, prove
from tests.support.world import World

FLIP: Final = "set_config('app.current_tenant_id', 'row2', false)"
OWN: Final = ["row1 1", "row1 2", "row1 3"]

# Each is run statement by statement; then everything that the session can read is looked at.
FLIPS: Final[dict[str, Sequence[str]]] = {
    "SET": ["SET app.current_tenant_id = 'row2'"],
    "SET LOCAL": ["BEGIN", "SET LOCAL app.current_tenant_id = 'row2'"],
    "set_config": [f"SELECT {FLIP}"],
    "a CTE before the rows": [f"WITH x AS MATERIALIZED (SELECT {FLIP}) SELECT name FROM x, projects"],
    "a CTE behind the rows": [f"SELECT name, (SELECT {FLIP}) FROM projects"],
    "a condition": [f"SELECT name FROM projects WHERE {FLIP} = 'row2' OR true"],
    "a lateral flip of each row": [f"SELECT p.name FROM projects q, LATERAL (SELECT {FLIP}) x, projects p"],
    "DO": [f"DO $$ BEGIN PERFORM {FLIP}; END $$"],
    "DO with EXECUTE": ["DO $$ BEGIN EXECUTE 'SE' || 'T app.current_tenant_id = ''row2'''; END $$"],
    "a unicode name": ["SELECT U&\"\\0073et_config\"('app.current_tenant_id', 'row2', false)"],
    "EXPLAIN ANALYZE": [f"EXPLAIN ANALYZE SELECT {FLIP}"],
    "ts_stat": [f"SELECT * FROM ts_stat($$SELECT to_tsvector({FLIP})$$)"],
    "PREPARE": [f"PREPARE p AS SELECT {FLIP}", "EXECUTE p"],
    "a generic plan": [
        "SET plan_cache_mode = force_generic_plan", "PREPARE p AS SELECT name FROM public.projects", "EXECUTE p",
        "SET app.current_tenant_id = 'row2'", "EXECUTE p",
    ],
    "a cursor opened before": [
        "BEGIN", "DECLARE c CURSOR FOR SELECT name FROM projects", "FETCH 1 FROM c",
        "SET app.current_tenant_id = 'row2'", "FETCH ALL FROM c",
    ],
    "a savepoint": ["BEGIN", "SAVEPOINT s", "SET app.current_tenant_id = 'row2'", "RELEASE s"],
    "a rollback": ["BEGIN", f"SELECT {FLIP}", "ROLLBACK"],
    "AND CHAIN": ["BEGIN", f"SELECT {FLIP}", "COMMIT AND CHAIN"],
    "a proof of nothing": ["SET app.tenant_proof = ''", "SET app.current_tenant_id = 'row2'"],
    "no row security": ["SET row_security = off"],
    "a search_path": ["SET search_path = pg_temp, public, pg_catalog", "SET app.current_tenant_id = 'row2'"],
    "all reset, then claimed": ["RESET ALL", f"SELECT {FLIP}", "SET app.tenant_proof = 'bound'"],
    "all discarded, then claimed": ["DISCARD ALL", f"SELECT {FLIP}", "SET app.tenant_proof = 'bound'"],
    "sequences discarded, then claimed": ["DISCARD SEQUENCES", f"SELECT {FLIP}", "SET app.tenant_proof = 'bound'"],
    "another role's": ["SET ROLE NONE", "SET SESSION AUTHORIZATION DEFAULT", f"SELECT {FLIP}"],
    "a serializable snapshot": ["BEGIN ISOLATION LEVEL SERIALIZABLE", "SELECT 1", f"SELECT {FLIP}"],
    "a role default": ["ALTER ROLE app SET app.current_tenant_id = 'row2'", "ALTER ROLE app RESET ALL"],
}  # fmt: skip


@pytest.mark.parametrize("how", ["bound", "carried"])
@pytest.mark.parametrize("flip", FLIPS)
async def test_no_way_to_set_the_tenant_shows_a_row_of_another(
    conn: asyncpg.Connection, signer: Signer, flip: str, how: str
) -> None:
    await (bind if how == "bound" else carry)(conn, signer, "row1")
    seen: list[str] = []
    for statement in (*FLIPS[flip], READ, "ROLLBACK", READ):
        seen += await everything(conn, statement)
    assert not [text for text in seen if "row2 " in text]


async def everything(conn: asyncpg.Connection, statement: str) -> list[str]:
    """All that the statement returns, as text; a refusal, and what it says, is an answer too."""
    try:
        return [str(dict(row)) for row in await conn.fetch(statement)]
    except asyncpg.PostgresError as error:
        return [str(error), str(error.detail)]


REFUSED: Final[dict[str, str]] = {
    "reading the key": "SELECT * FROM tenantproxy.context_key",
    "adding a key": "INSERT INTO tenantproxy.context_key VALUES (9, '', '')",
    "replacing the key": "UPDATE tenantproxy.context_key SET kid = 9",
    "dropping the key": "DROP TABLE tenantproxy.context_key",
    "copying the key": "COPY tenantproxy.context_key TO STDOUT",
    "a statistic of the key": "ANALYZE tenantproxy.context_key; SELECT 1/0",
    "reading the fence": "SELECT * FROM tenantproxy.fenced_tenant",
    "fencing another": "INSERT INTO tenantproxy.fenced_tenant VALUES ('row2', '')",
    "replacing the function": "CREATE OR REPLACE FUNCTION tenantproxy.bound_tenant() RETURNS text RETURN 'row2'",
    "altering the function": "ALTER FUNCTION tenantproxy.bound_tenant() SECURITY INVOKER",
    "dropping the function": "DROP FUNCTION tenantproxy.bound_tenant()",
    "asking for proofs": "SELECT tenantproxy.proof_until('row2', repeat('0', 114))",
    "asking for marks": "SELECT tenantproxy.mark(1, 'row2')",
    "a new binding": "SELECT setval('tenantproxy.tenant_binding', 1)",
    "a new mark": "SELECT setval('tenantproxy.tenant_mark', 1)",
    "the next binding": "SELECT nextval('tenantproxy.tenant_binding')",
    "the next mark": "SELECT nextval('tenantproxy.tenant_mark')",
    "this binding": "SELECT currval('tenantproxy.tenant_binding')",
    "this mark": "SELECT currval('tenantproxy.tenant_mark')",
    "the binding as a row": "SELECT * FROM tenantproxy.tenant_binding",
    "another binding's start": "ALTER SEQUENCE tenantproxy.tenant_mark RESTART 1",
    "a name in our schema": "CREATE TABLE tenantproxy.x ()",
    "the keeper's role": "SET ROLE tenantproxy_keeper",
    "the keeper's membership": "GRANT tenantproxy_keeper TO app",
    "the owner's role": "SET ROLE postgres",
    "a policy of its own": "CREATE POLICY open ON public.projects USING (true)",
    "dropping the policy": "DROP POLICY tenantproxy ON public.projects",
    "no row security on the table": "ALTER TABLE public.projects DISABLE ROW LEVEL SECURITY",
    "no row security in the session": "SET row_security = off; SELECT name FROM public.projects",
    "a row for another": "INSERT INTO public.projects (tenant_id, name) VALUES ('row2', 'planted')",
    "moving a row to another": "UPDATE public.projects SET tenant_id = 'row2'",
    "emptying the table": "TRUNCATE public.projects",
}


@pytest.mark.parametrize("what", REFUSED)
async def test_hostile_sql_is_refused(conn: asyncpg.Connection, signer: Signer, what: str) -> None:
    await bind(conn, signer, "row1")
    if what.startswith("a statistic"):  # ANALYZE only warns, and skips
        with pytest.raises(asyncpg.DivisionByZeroError):
            await conn.execute(REFUSED[what])
        assert await conn.fetchval("SELECT count(*) FROM pg_stats WHERE schemaname = 'tenantproxy'") == 0
        return
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await conn.execute(REFUSED[what])


async def test_the_last_sequence_value_does_not_tell_the_binding(conn: asyncpg.Connection, signer: Signer) -> None:
    await bind(conn, signer, "row1")
    with pytest.raises((asyncpg.ObjectNotInPrerequisiteStateError, asyncpg.InsufficientPrivilegeError)):
        await conn.fetchval("SELECT lastval()")


async def test_changing_rows_reaches_only_the_tenants_own(
    target: World, conn: asyncpg.Connection, signer: Signer
) -> None:
    await bind(conn, signer, "row1")
    async with conn.transaction():
        assert await conn.execute("UPDATE public.projects SET name = 'gone' WHERE tenant_id = 'row2'") == "UPDATE 0"
        assert await conn.execute("DELETE FROM public.projects WHERE tenant_id = 'row2'") == "DELETE 0"
        assert await conn.execute("UPDATE public.projects SET name = upper(name)") == "UPDATE 3"
        await conn.execute("UPDATE public.projects SET name = lower(name)")
    assert await names(conn) == OWN


async def test_bulk_loading_past_the_policy_is_refused_and_bulk_reading_follows_it(
    conn: asyncpg.Connection, signer: Signer
) -> None:
    await bind(conn, signer, "row1")
    with pytest.raises(asyncpg.FeatureNotSupportedError):
        await conn.copy_records_to_table("projects", records=[("row2", "x")], columns=["tenant_id", "name"])
    read = bytearray()

    async def take(chunk: bytes) -> None:
        read.extend(chunk)

    await conn.copy_from_table("projects", output=take, columns=["name"])
    assert read.decode().split("\n")[:-1] == OWN


@pytest.mark.parametrize("mode", ["debug_parallel_query", "force_parallel_mode"])
async def test_parallel_plans_see_only_the_tenants_rows(conn: asyncpg.Connection, signer: Signer, mode: str) -> None:
    known = await conn.fetchval("SELECT true FROM pg_settings WHERE name = $1", mode)
    await bind(conn, signer, "row1")
    await conn.execute("SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0")
    if known:
        await conn.execute(f"SET {mode} = on")
    assert await names(conn) == OWN


async def test_a_standing_bind_cannot_be_taken_to_another_tenant(conn: asyncpg.Connection, signer: Signer) -> None:
    await bind(conn, signer, "row1")
    with pytest.raises(asyncpg.ObjectInUseError, match="another tenant's"):
        await conn.execute("SELECT tenantproxy.bind($1, $2)", "row2", await prove(conn, signer, "row2"))
    assert await names(conn) == OWN


# With everything granted that tenant SQL should not have: TEMP, and CREATE in public.
SHADOWS: Final = (
    "CREATE SCHEMA evil",
    "CREATE FUNCTION evil.current_setting(text, boolean) RETURNS text RETURN 'row2'",
    "CREATE FUNCTION public.current_setting(text, boolean) RETURNS text RETURN 'row2'",
    "CREATE FUNCTION evil.sha256(bytea) RETURNS bytea RETURN '\\x00'::bytea",
    "CREATE FUNCTION evil.currval(regclass) RETURNS bigint RETURN 1",
    "CREATE FUNCTION evil.hashtextextended(text, bigint) RETURNS bigint RETURN 1",
    "CREATE FUNCTION evil.date_part(text, timestamptz) RETURNS double precision RETURN 0",
    "CREATE FUNCTION evil.always(text, text) RETURNS boolean RETURN true",
    "CREATE OPERATOR evil.= (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.always)",
    "CREATE FUNCTION evil.always(bigint, bigint) RETURNS boolean RETURN true",
    "CREATE OPERATOR evil.= (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = evil.always)",
    "CREATE DOMAIN evil.text AS pg_catalog.text",
    "CREATE TEMP TABLE context_key (kid smallint, ipad bytea, opad bytea, not_after timestamptz)",
    "CREATE TEMP TABLE fenced_tenant (tenant_id text)",
    "CREATE TEMP SEQUENCE tenant_binding",
    "CREATE TEMP SEQUENCE tenant_mark",
    "CREATE FUNCTION evil.leak(text) RETURNS boolean LANGUAGE plpgsql COST 0.0001"
    " AS $$ BEGIN RAISE WARNING 'leaked %', $1; RETURN true; END $$",
)


async def test_shadowing_all_that_the_functions_use_shows_no_row_of_another(each_world: World) -> None:
    async with each_world.shared.connect() as admin:
        await admin.execute(f"GRANT ALL ON DATABASE {each_world.shared.name} TO app; GRANT ALL ON SCHEMA public TO app")
    async with each_world.app(each_world.shared) as conn:
        leaked: list[str] = []
        conn.add_log_listener(lambda _, message: leaked.append(str(message)))
        for statement in SHADOWS:
            await conn.execute(statement)
        await conn.execute("SET search_path = evil, pg_temp, public, pg_catalog")
        await bind(conn, each_world.signer(), "row1")
        assert await names(conn) == OWN
        await conn.fetch("SELECT name FROM public.projects WHERE evil.leak(name)")
        assert len(leaked) == 3
        assert not [text for text in leaked if "row2" in text]
        await conn.execute("SELECT pg_catalog.set_config('app.current_tenant_id', 'row2', false)")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await conn.fetch(READ)
        await conn.execute(CARRY, "row2", "v1." + "0" * 111)
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await conn.fetch(READ)


async def test_a_role_that_drops_what_it_owns_opens_no_row(each_world: World) -> None:
    """DROP OWNED BY may remove each policy TO the role: ours name none, and the RESTRICTIVE one outlives the others."""
    async with each_world.shared.connect() as admin:
        await admin.execute(
            "CREATE TABLE old (tenant_id text, name text); INSERT INTO old VALUES ('row2', 'row2 x');"
            # As long as it holds a right on a sequence, PostgreSQL refuses the whole command.
            "REVOKE ALL ON ALL SEQUENCES IN SCHEMA public, schema1, schema2 FROM app;"
            "CREATE POLICY plain ON old USING (tenant_id = current_setting('app.current_tenant_id', true));"
            "CREATE POLICY narrow ON old AS RESTRICTIVE TO app USING (false)"
        )
        await isolate_table(admin, "old")
    async with each_world.app(each_world.shared) as conn:
        await conn.execute("DROP OWNED BY app")
        async with each_world.shared.connect() as admin:  # since 15.20 those on tables of others outlive it
            await admin.execute("DROP POLICY IF EXISTS narrow ON old")
        await conn.execute(f"SELECT {FLIP}")
        for table in ("old", "projects"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError, match="no valid tenant context"):
                await conn.fetch(f"SELECT * FROM {table}")
