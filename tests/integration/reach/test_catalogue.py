"""Which relations could show one row tenant another's rows? Every way in that PostgreSQL has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import asyncpg
import pytest

from tenantproxy.connect.reach import PIN_PATH, REACH, Reach, argument, exposures, parse
from tenantproxy.errors import Exposure
from tenantproxy.isolation.policies import TenantForm
from tenantproxy.lifecycle import isolate_table
from tests.support.world import APP_ROLE, World

pytestmark = pytest.mark.asyncio(loop_scope="module")

BOUND: Final = "(SELECT tenantproxy.bound_tenant())"
OURS: Final = f"tenant_id = {BOUND}"
TABLE: Final = "CREATE TABLE t (tenant_id text, name text); GRANT SELECT, INSERT, UPDATE, DELETE ON t TO app;"
SECURED: Final = f"{TABLE} ALTER TABLE t ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;"
HELD: Final = f"{SECURED} CREATE POLICY ours ON t USING ({OURS});"

# What a superuser made, and what must be named for it.
OPEN: Final[dict[str, tuple[str, str]]] = {
    "a table without row security": (TABLE, "table public.t"),
    "a table with a policy that is not enabled": (f"{TABLE} CREATE POLICY ours ON t USING ({OURS})", "table public.t"),
    "one column": ("CREATE TABLE t (tenant_id text); GRANT SELECT (tenant_id) ON t TO app", "table public.t"),
    "a grant to PUBLIC": ("CREATE TABLE t (n int); GRANT SELECT ON t TO PUBLIC", "table public.t"),
    "a grant to insert": ("CREATE TABLE t (n int); GRANT INSERT ON t TO app", "table public.t"),
    "a role that can be set": (
        "CREATE ROLE readers; GRANT readers TO app; CREATE TABLE t (n int); GRANT SELECT ON t TO readers",
        "table public.t",
    ),
    "a role that is inherited": (
        "CREATE ROLE readers; ALTER ROLE app INHERIT; GRANT readers TO app;"
        " CREATE TABLE t (n int); GRANT SELECT ON t TO readers",
        "table public.t",
    ),
    "a schema that only another role sees": (
        "CREATE ROLE readers; GRANT readers TO app; CREATE SCHEMA s; CREATE TABLE s.t (n int);"
        " GRANT USAGE ON SCHEMA s TO readers; GRANT SELECT ON s.t TO app",
        "table s.t",
    ),
    "a role that reads everything": (
        "GRANT pg_read_all_data TO app; CREATE SCHEMA s; CREATE TABLE s.t (n int)",
        "table s.t",
    ),
    "names that need quotes": (
        'CREATE SCHEMA "A b"; CREATE TABLE "A b"."c.d""e" (n int); GRANT USAGE ON SCHEMA "A b" TO app;'
        ' GRANT SELECT ON "A b"."c.d""e" TO app',
        'table "A b"."c.d""e"',
    ),
    "a view with its owner's rights": ("CREATE VIEW v AS TABLE projects; GRANT SELECT ON v TO app", "view public.v"),
    "a barrier view": (
        "CREATE VIEW v WITH (security_barrier) AS TABLE projects; GRANT SELECT ON v TO app",
        "view public.v",
    ),
    "a view whose invoker is off": (
        "CREATE VIEW v WITH (security_invoker = off) AS TABLE projects; GRANT SELECT ON v TO app",
        "view public.v",
    ),
    "a materialized view": (
        "CREATE MATERIALIZED VIEW m AS SELECT 1 AS n; GRANT SELECT ON m TO app",
        "materialized view public.m",
    ),
    "a foreign table": (
        "CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w;"
        " CREATE FOREIGN TABLE f (n int) SERVER s;"
        " GRANT SELECT ON f TO app",
        "foreign table public.f",
    ),
    "a partition": (
        "CREATE TABLE t (tenant_id text) PARTITION BY LIST (tenant_id); CREATE TABLE t_rest PARTITION OF t DEFAULT;"
        " ALTER TABLE t ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;"
        f" CREATE POLICY ours ON t USING ({OURS}); GRANT SELECT ON t, t_rest TO app",
        "partition public.t_rest",
    ),
    "a child that inherits": ("CREATE TABLE t () INHERITS (projects); GRANT SELECT ON t TO app", "table public.t"),
    "a policy for everything": (f"{SECURED} CREATE POLICY p ON t USING (true)", "table public.t"),
    "a second policy that opens everything": (f"{HELD} CREATE POLICY p ON t USING (true)", "table public.t"),
    "a second policy to read": (f"{HELD} CREATE POLICY p ON t FOR SELECT USING (name = 'x')", "table public.t"),
    "a second policy to delete": (f"{HELD} CREATE POLICY p ON t FOR DELETE USING (true)", "table public.t"),
    "a second policy to update": (f"{HELD} CREATE POLICY p ON t FOR UPDATE USING (true)", "table public.t"),
    "a second policy to insert": (f"{HELD} CREATE POLICY p ON t FOR INSERT WITH CHECK (true)", "table public.t"),
    "a second policy for a role that can be set": (
        f"{HELD} CREATE ROLE readers; GRANT readers TO app; CREATE POLICY p ON t TO readers USING (true)",
        "table public.t",
    ),
    "a policy that lets rows be given away": (
        f"{SECURED} CREATE POLICY p ON t USING ({OURS}) WITH CHECK (true)",
        "table public.t",
    ),
    "a restrictive policy that any tenant can drop": (
        f"{SECURED} CREATE POLICY p ON t USING (true); CREATE POLICY r ON t AS RESTRICTIVE TO app USING ({OURS})",
        "table public.t",
    ),
    "a restrictive policy for one command": (
        f"{SECURED} CREATE POLICY p ON t USING (true);"
        f" CREATE POLICY r ON t AS RESTRICTIVE FOR SELECT USING ({OURS})",
        "table public.t",
    ),
    "OR true": (
        f"{SECURED} CREATE POLICY p ON t USING ({OURS} OR true)",
        "table public.t",
    ),
    "OR within AND": (
        f"{SECURED} CREATE POLICY p ON t USING (({OURS} OR name = 'x') AND name <> '')",
        "table public.t",
    ),
    "AND within OR": (
        f"{SECURED} CREATE POLICY p ON t USING (name = 'x' OR ({OURS} AND name <> ''))",
        "table public.t",
    ),
    "NOT": (f"{SECURED} CREATE POLICY p ON t USING (NOT ({OURS}))", "table public.t"),
    "another operator": (f"{SECURED} CREATE POLICY p ON t USING (tenant_id <> {BOUND})", "table public.t"),
    "no column": (f"{SECURED} CREATE POLICY p ON t USING (tenantproxy.bound_tenant() IS NOT NULL)", "table public.t"),
    "the form in a text": (
        f"{SECURED} CREATE POLICY p ON t USING (name <> ' AND (tenant_id = tenantproxy.bound_tenant())')",
        "table public.t",
    ),
    "a part of the column": (f"{SECURED} CREATE POLICY p ON t USING (left(tenant_id, 3) = {BOUND})", "table public.t"),
    "a cast that cuts": (
        f'{SECURED} ALTER TABLE t ADD kind "char"; CREATE POLICY p ON t USING (kind = {BOUND}::"char")',
        "table public.t",
    ),
    "a cast to a length": (
        f"{SECURED} CREATE POLICY p ON t USING (tenant_id = {BOUND}::varchar(1))",
        "table public.t",
    ),
    "a function of the same name": (
        f"CREATE SCHEMA s; CREATE FUNCTION s.bound_tenant() RETURNS text RETURN 'row1'; {SECURED}"
        " CREATE POLICY p ON t USING (tenant_id = (SELECT s.bound_tenant()))",
        "table public.t",
    ),
    "an operator of the same name": (
        "CREATE FUNCTION always(text, text) RETURNS boolean RETURN true;"
        f" CREATE OPERATOR public.= (FUNCTION = always, LEFTARG = text, RIGHTARG = text); {SECURED}"
        f" CREATE POLICY p ON t USING (tenant_id OPERATOR(public.=) {BOUND})",
        "table public.t",
    ),
    "a cast by a function": (
        "CREATE TYPE k AS (n int); CREATE FUNCTION to_k(text) RETURNS k RETURN ROW(1)::k;"
        f" CREATE CAST (text AS k) WITH FUNCTION to_k(text); {SECURED} ALTER TABLE t ADD kind k;"
        f" CREATE POLICY p ON t USING (kind = {BOUND}::k)",
        "table public.t",
    ),
    "a plain setting": (
        f"{SECURED} CREATE POLICY p ON t USING (tenant_id = current_setting('app.current_tenant_id', true))",
        "table public.t",
    ),
    "TRUNCATE": (f"{HELD} GRANT TRUNCATE ON t TO app", "table public.t"),
    "a trigger": (f"{HELD} GRANT TRIGGER ON t TO app", "table public.t"),
    "a foreign key": (f"{HELD} GRANT REFERENCES (tenant_id) ON t TO app", "table public.t"),
    "a rule": (
        f"{HELD} CREATE TABLE log (name text);"
        " CREATE RULE r AS ON INSERT TO t DO ALSO INSERT INTO log VALUES (new.name)",
        "table public.t",
    ),
    "what the router keeps": ("GRANT SELECT ON tenantproxy.fenced_tenant TO app", "table tenantproxy.fenced_tenant"),
    "a table of an extension": (
        f"{TABLE} ALTER EXTENSION plpgsql ADD TABLE t",
        "table public.t of the extension plpgsql",
    ),
    "a superuser's role": ("CREATE ROLE boss SUPERUSER; GRANT boss TO app", "role boss"),
    "a role past row security": ("CREATE ROLE boss BYPASSRLS; GRANT boss TO app", "role boss"),
    "a role that makes roles": ("ALTER ROLE app CREATEROLE", "role app"),
    "a role that reads files": ("GRANT pg_read_server_files TO app", "role pg_read_server_files"),
    "a domain that cuts": (
        f"{SECURED} CREATE DOMAIN cut AS varchar(3); CREATE POLICY p ON t USING (tenant_id = {BOUND}::cut)",
        "table public.t",
    ),
    "a domain over a domain that cuts": (
        f"{SECURED} CREATE DOMAIN cut AS char(3); CREATE DOMAIN d AS cut; ALTER TABLE t ADD k d;"
        f" CREATE POLICY p ON t USING (k = {BOUND}::d)",
        "table public.t",
    ),
    "a domain over a name, which cuts": (
        f"{SECURED} CREATE DOMAIN cut AS name; CREATE POLICY p ON t USING (tenant_id = {BOUND}::cut)",
        "table public.t",
    ),
    "a domain that ignores case": (
        "CREATE COLLATION ci FROM \"C\"; UPDATE pg_collation SET collisdeterministic = false WHERE collname = 'ci';"
        f" CREATE DOMAIN loose AS text COLLATE ci; {SECURED}"
        f" CREATE POLICY p ON t USING (tenant_id = {BOUND}::loose)",
        "table public.t",
    ),
    "a table that only a view in sight reads": (
        "CREATE SCHEMA s; CREATE TABLE s.t (n int); GRANT SELECT ON s.t TO app;"
        " CREATE VIEW v WITH (security_invoker) AS TABLE s.t; GRANT SELECT ON v TO app",
        "table s.t",
    ),
    "a view of the owner's behind two that are not": (
        "CREATE SCHEMA s; CREATE VIEW s.a AS TABLE projects; CREATE VIEW s.b WITH (security_invoker) AS TABLE s.a;"
        " CREATE VIEW v WITH (security_invoker) AS TABLE s.b; GRANT SELECT ON v, s.a, s.b TO app",
        "view s.a",
    ),
    "a table that only a function in sight reads": (
        "CREATE SCHEMA s; CREATE TABLE s.t (n int); GRANT SELECT ON s.t TO app;"
        " CREATE FUNCTION f() RETURNS SETOF int LANGUAGE sql BEGIN ATOMIC SELECT n FROM s.t; END",
        "table s.t",
    ),
}  # fmt: skip

CLOSED: Final[dict[str, str]] = {
    "nothing more": "",
    "a policy of ours": HELD,
    "no sub-select": f"{SECURED} CREATE POLICY p ON t USING (tenant_id = tenantproxy.bound_tenant())",
    "the other way round": f"{SECURED} CREATE POLICY p ON t USING ({BOUND} = tenant_id)",
    "proofs alone": f"{SECURED} CREATE POLICY p ON t USING (tenant_id = tenantproxy.current_tenant())",
    "further conditions": (
        f"{SECURED} CREATE POLICY p ON t USING ({OURS} AND (name = 'a' OR name = 'b') AND name <> ')')"
    ),
    "a policy for each command": (
        f"{SECURED} CREATE POLICY a ON t FOR SELECT USING ({OURS});"
        f"CREATE POLICY b ON t FOR INSERT WITH CHECK ({OURS});"
        f"CREATE POLICY c ON t FOR UPDATE USING ({OURS}); CREATE POLICY d ON t FOR DELETE USING ({OURS})"
    ),
    "a policy to read, and none to write": f"{SECURED} CREATE POLICY p ON t FOR SELECT USING ({OURS})",
    "no policy, so nothing to see": SECURED,
    "a restrictive policy": (
        f"{SECURED} CREATE POLICY p ON t USING (true); CREATE POLICY r ON t AS RESTRICTIVE USING ({OURS})"
    ),
    "an open policy for others": f"{HELD} CREATE ROLE clerks; CREATE POLICY p ON t TO clerks USING (true)",
    "a policy for our role": f"{SECURED} CREATE POLICY p ON t TO app USING ({OURS})",
    "a view with its reader's rights": (
        "CREATE VIEW v WITH (security_invoker) AS TABLE projects; GRANT SELECT ON v TO app"
    ),
    "a table without a grant": "CREATE TABLE t (n int)",
    "a schema without USAGE": "CREATE SCHEMA s; CREATE TABLE s.t (n int); GRANT SELECT ON s.t TO app",
    "a partition without a grant": (
        "CREATE TABLE t (tenant_id text) PARTITION BY LIST (tenant_id); CREATE TABLE t_rest PARTITION OF t DEFAULT;"
        " ALTER TABLE t ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;"
        f" CREATE POLICY ours ON t USING ({OURS}); GRANT SELECT ON t TO app"
    ),
    "a rule that does nothing": f"{HELD} CREATE RULE r AS ON DELETE TO t DO INSTEAD NOTHING",
    "a domain and an enum that keep all texts": (
        f"{SECURED} CREATE DOMAIN code AS varchar; CREATE DOMAIN key AS code; CREATE TYPE e AS ENUM ('a'); ALTER TABLE"
        f" t ADD k key, ADD e e; CREATE POLICY p ON t FOR SELECT USING (k = {BOUND}::key);"
        f" CREATE POLICY q ON t FOR DELETE USING (e = {BOUND}::e)"
    ),
    "a domain that cuts something else": (
        f"{SECURED} CREATE DOMAIN cut AS varchar(3); CREATE POLICY p ON t USING ({OURS} AND name = 'abcd'::cut)"
    ),
    "a secured table behind a view in sight": (
        "CREATE SCHEMA s; CREATE TABLE s.t (tenant_id text); GRANT SELECT ON s.t TO app;"
        " CREATE VIEW v WITH (security_invoker) AS TABLE s.t; GRANT SELECT ON v TO app;"
        f" ALTER TABLE s.t ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON s.t USING ({OURS})"
    ),
    "a sequence": "CREATE SEQUENCE s; GRANT ALL ON s TO app",
    "a temporary table": "CREATE TEMP TABLE x (n int); GRANT SELECT ON x TO app",
}


async def look(
    world: World, *sql: str, names: Sequence[tuple[str, str | None]] = (), setting: str | None = None
) -> tuple[Reach, list[Exposure]]:
    """What the app role reaches once a superuser ran `sql`, which is undone again."""
    async with world.shared.connect() as conn:
        transaction = conn.transaction()
        await transaction.start()
        await conn.execute("ALTER DEFAULT PRIVILEGES IN SCHEMA public REVOKE ALL ON TABLES FROM app")
        for statement in filter(None, sql):
            await conn.execute(statement)
        reach = await asked(conn, names)
        await transaction.rollback()
    return reach, list(exposures(reach, form=TenantForm(setting)))


async def asked(conn: asyncpg.Connection, names: Sequence[tuple[str, str | None]] = ()) -> Reach:
    await conn.execute(f"SET LOCAL ROLE {APP_ROLE}")
    await conn.execute(PIN_PATH)
    return parse(await conn.fetchval(REACH, argument(names)))


@pytest.mark.parametrize("case", OPEN)
async def test_what_is_open_is_named(row_world: World, case: str) -> None:
    sql, expected = OPEN[case]
    _, found = await look(row_world, sql)
    whats = [exposure.what for exposure in found]
    assert expected in whats if " role" in case else whats == [expected]


@pytest.mark.parametrize("case", CLOSED)
async def test_what_is_closed_is_not_named(row_world: World, case: str) -> None:
    _, found = await look(row_world, CLOSED[case])
    assert found == []


@pytest.mark.parametrize(
    "column",
    [
        "text",
        "varchar",
        "varchar(63)",
        "char(20)",
        "uuid",
        "bigint",
        "smallint",
        "numeric",
        "d",
        "dd",
        "du",
        "dv",
        "e",
    ],
)
async def test_what_isolate_table_makes_is_closed(row_world: World, column: str) -> None:
    async with row_world.shared.connect() as conn:
        transaction = conn.transaction()
        await transaction.start()
        await conn.execute(
            "CREATE DOMAIN d AS text; CREATE DOMAIN dd AS d; CREATE DOMAIN du AS uuid; CREATE DOMAIN dv AS varchar(20);"
            " CREATE TYPE e AS ENUM ('row1', 'row2')"
        )
        await conn.execute(f'CREATE TABLE t ("the Tenant" {column}); GRANT SELECT, INSERT, UPDATE, DELETE ON t TO app')
        await isolate_table(conn, "t", "the Tenant")
        reach = await asked(conn)
        await transaction.rollback()
    assert [relation.label for relation in reach.relations] == ["public.projects", "public.t"]
    assert list(exposures(reach, form=TenantForm())) == []


@pytest.mark.parametrize(
    "value",
    [
        "current_setting('app.who')", "current_setting('app.who', true)", "(SELECT current_setting('app.who', true))",
        "nullif(current_setting('app.who', true), '')", "(SELECT nullif(current_setting('app.who'), ''))",
    ],
)  # fmt: skip
async def test_unsigned_rows_need_a_policy_on_their_own_setting(row_world: World, value: str) -> None:
    policy = f"{SECURED} CREATE POLICY p ON t USING (tenant_id = {value})"
    assert (await look(row_world, policy, setting="app.who"))[1] == []
    assert [each.what for each in (await look(row_world, policy, setting="app.whoever"))[1]] == ["table public.t"]
    assert [each.what for each in (await look(row_world, policy))[1]] == ["table public.t"]


async def test_what_the_operator_names_is_not_looked_at(row_world: World) -> None:
    sql = (
        'CREATE SCHEMA "a.b"; GRANT USAGE ON SCHEMA "a.b" TO app; CREATE TABLE "a.b"."x""y" (n int);'
        'CREATE TABLE "a.b".z (n int); GRANT SELECT ON ALL TABLES IN SCHEMA "a.b" TO app'
    )
    one = await look(row_world, sql, names=[("a.b", 'x"y'), ("a", "b.z")])
    assert [each.what for each in one[1]] == ['table "a.b".z']
    assert (await look(row_world, sql, names=[("a.b", None)]))[1] == []


async def test_functions_with_their_owners_rights_are_named(row_world: World) -> None:
    sql = (
        "CREATE FUNCTION mine() RETURNS int SECURITY DEFINER RETURN 1; CREATE FUNCTION hers() RETURNS int RETURN 1;"
        "CREATE FUNCTION shut() RETURNS int SECURITY DEFINER RETURN 1; REVOKE ALL ON FUNCTION shut() FROM PUBLIC;"
        "CREATE FUNCTION pulled() RETURNS trigger SECURITY DEFINER LANGUAGE plpgsql AS 'BEGIN RETURN new; END';"
        "REVOKE ALL ON FUNCTION pulled() FROM PUBLIC;"
        "CREATE TRIGGER x BEFORE INSERT ON projects EXECUTE FUNCTION pulled()"
    )
    reach, found = await look(row_world, sql)
    assert reach.definers == ("public.mine()", "public.pulled()")
    assert found == []


async def test_no_code_of_a_tenant_runs_while_it_is_looked_at(row_world: World) -> None:
    trap = (
        "CREATE FUNCTION trap(text, text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE 'trapped'; END $$;"
        "CREATE OPERATOR public.= (FUNCTION = trap, LEFTARG = text, RIGHTARG = text);"
        "CREATE OPERATOR public.<> (FUNCTION = trap, LEFTARG = text, RIGHTARG = text);"
        "CREATE FUNCTION public.format(text, text, text) RETURNS text LANGUAGE plpgsql"
        " AS $$ BEGIN RAISE 'trapped'; END $$"
    )
    async with row_world.shared.connect() as conn:
        transaction = conn.transaction()
        await transaction.start()
        await conn.execute(trap)
        await conn.execute("SET search_path = public, pg_catalog")
        reach = await asked(conn)
        await transaction.rollback()
    assert [relation.label for relation in reach.relations] == ["public.projects"]


async def test_many_open_relations_are_counted_and_not_all_told(row_world: World) -> None:
    sql = "DO $$ BEGIN FOR n IN 1..150 LOOP EXECUTE format('CREATE TABLE t%s (n int)', n); END LOOP; END $$"
    reach, found = await look(row_world, sql, "GRANT SELECT ON ALL TABLES IN SCHEMA public TO app")
    assert reach.open == 150
    assert len(found) == 100
