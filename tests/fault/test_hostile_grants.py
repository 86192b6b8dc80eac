"""A tenant grants what is its own to the roles of others: who is stopped by it, and what does it reach through them?"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import asyncpg
import pytest

from tenantproxy import Router
from tenantproxy.config import Settings
from tenantproxy.connect.reach import PIN_PATH, REACH, argument, exposures, parse
from tenantproxy.errors import UnprotectedRelations
from tenantproxy.events import Event, RightsGiven
from tenantproxy.isolation.policies import TenantForm
from tenantproxy.lifecycle.doctor import examine
from tenantproxy.model import Isolation, tenant_id
from tests.support.lasting import lasting as kept
from tests.support.owners import an_owner, own_world, settings_of
from tests.support.raw_house import a_raw_house, ask
from tests.support.world import APP_ROLE, World

OTHERS: Final = ("row1", "schema1")
# What an owner makes and gives: rows, code, and names of what it may not use itself.
GIVEN: Final = """
CREATE TABLE things (tenant_id text, n int); INSERT INTO things VALUES ('x', 1);
CREATE TABLE secured (tenant_id text); ALTER TABLE secured ENABLE ROW LEVEL SECURITY;
CREATE POLICY p ON secured USING (holds(tenant_id));
CREATE TABLE parts (n int) PARTITION BY LIST (n); CREATE TABLE parts_rest PARTITION OF parts DEFAULT;
CREATE TRIGGER fires BEFORE INSERT ON things FOR EACH ROW EXECUTE FUNCTION fires();
CREATE RULE also AS ON INSERT TO secured DO ALSO INSERT INTO things VALUES (new.tenant_id, 1);
CREATE VIEW own AS SELECT holds(tenant_id) FROM things;
CREATE VIEW of_views AS SELECT * FROM own, information_schema.tables, pg_catalog.pg_class;
CREATE VIEW of_others AS SELECT a.name FROM public.projects a, pg_catalog.pg_authid b;
CREATE VIEW as_caller WITH (security_invoker) AS SELECT name FROM public.projects;
CREATE MATERIALIZED VIEW kept AS SELECT n FROM things;
CREATE FUNCTION reads() RETURNS bigint RETURN (SELECT count(*) FROM things);
CREATE FUNCTION "count"(text) RETURNS bigint LANGUAGE sql AS 'SELECT 0';
GRANT ALL ON ALL TABLES IN SCHEMA {schema} TO {grantees};
GRANT ALL ON ALL FUNCTIONS IN SCHEMA {schema} TO {grantees};
GRANT ALL ON SCHEMA {schema} TO {grantees};
"""


@pytest.fixture(scope="module")
def house() -> Iterator[World]:
    with kept(own_world()) as world:
        yield world


@pytest.fixture
def settings(house: World, tmp_path: Path) -> Settings:
    return settings_of(house, tmp_path)


@asynccontextmanager
async def served(side: str, settings: Settings, events: list[Event]) -> AsyncIterator[dict[str, Any]]:
    """For each of `OTHERS` what it reads without naming a schema, or the error that refused it."""
    answers: dict[str, Any] = {}
    async with AsyncExitStack() as stack:
        router = await stack.enter_async_context(Router(settings, observer=events.append))
        house = await stack.enter_async_context(a_raw_house(settings)) if side == "port" else None
        for name in OTHERS:
            try:
                if house is None:
                    answers[name] = await router.tenant(name).fetchval("SELECT count(*) FROM projects")
                else:
                    tenant = await router.registry.get(tenant_id(name))
                    async with house.leased(tenant) as backend:
                        answers[name] = int(str((await ask(backend, "SELECT count(*) FROM projects"))[0][0]))
            except UnprotectedRelations as exc:
                answers[name] = exc
        events += house.events if house is not None else []
        yield answers


@pytest.mark.parametrize("side", ["library", "port"])
@pytest.mark.parametrize("to", ["PUBLIC", "the others"])
async def test_no_tenant_is_stopped_by_what_another_one_gives_it(
    house: World, settings: Settings, side: str, to: str
) -> None:
    async with an_owner(house, settings, Isolation.SCHEMA) as (want, _, conn):
        roles = [APP_ROLE, *(house.role_of(each) for each in house.of(Isolation.SCHEMA))]
        grantees = "PUBLIC" if to == "PUBLIC" else ", ".join(f'"{role}"' for role in roles)
        async with house.shared.connect() as admin:
            await admin.execute(f'GRANT USAGE ON SCHEMA public TO "{want.role}"')
        await conn.execute(GIVEN.format(schema=want.schema, grantees=grantees))
        events: list[Event] = []
        async with served(side, settings, events) as answers:
            assert answers == {"row1": 3, "schema1": 3}
        told = [each for each in events if isinstance(each, RightsGiven)]
        assert {each.role for each in told} >= set(roles)
        assert {each.giver for each in told} == {want.role}
        assert all(f"{want.schema}.things" in each.relations for each in told)
        report = await examine(settings)
        found = [each for each in report.findings if each.schema == want.schema and each.code != "TPD071"]
        assert {each.code for each in found} <= {"TPD061", "TPD062", "TPD084", "TPD087"}
        async with house.shared.connect() as admin:
            for finding in found:
                if finding.code in {"TPD061", "TPD062"}:
                    for statement in finding.sql:
                        await admin.execute(statement)
            for role in roles:
                assert not await admin.fetchval("SELECT has_schema_privilege($1, $2, 'USAGE')", role, want.schema)


# What an operator opened by mistake is no gift: each names what is refused.
MISTAKES: Final = {
    "a table in a schema that the operator owns": (
        "CREATE SCHEMA of_all; CREATE TABLE of_all.t (n int); GRANT USAGE ON SCHEMA of_all TO PUBLIC;"
        ' ALTER TABLE of_all.t OWNER TO "{role}"; GRANT SELECT ON of_all.t TO PUBLIC',
        "table of_all.t",
    ),
    "a view of the operator's": (
        "CREATE VIEW {schema}.v AS TABLE public.projects; GRANT SELECT ON {schema}.v TO PUBLIC",
        "view {schema}.v",
    ),
    "a view of the operator's behind one of the owner's": (
        "CREATE SCHEMA of_all; CREATE VIEW of_all.v AS TABLE public.projects;"
        ' GRANT USAGE ON SCHEMA of_all TO "{role}"; GRANT SELECT ON of_all.v TO "{role}";'
        ' CREATE VIEW {schema}.w AS TABLE of_all.v; ALTER VIEW {schema}.w OWNER TO "{role}";'
        " CREATE VIEW {schema}.v AS TABLE {schema}.w;"
        ' ALTER VIEW {schema}.v OWNER TO "{role}"; GRANT SELECT ON {schema}.v TO PUBLIC',
        "view {schema}.v",
    ),
    "what the owner may read by mistake, through its view": (
        'CREATE TABLE public.secret (n int); GRANT SELECT (n) ON public.secret TO "{role}";'
        ' CREATE VIEW {schema}.v AS TABLE public.secret; ALTER VIEW {schema}.v OWNER TO "{role}";'
        " GRANT SELECT ON {schema}.v TO PUBLIC",
        "view {schema}.v",
    ),
    "what the owner may write by mistake, through a rule": (
        'CREATE TABLE public.secret (n int); GRANT INSERT ON public.secret TO "{role}";'
        ' CREATE TABLE {schema}.v (n int); ALTER TABLE {schema}.v OWNER TO "{role}";'
        " GRANT INSERT ON {schema}.v TO PUBLIC;"
        " CREATE RULE r AS ON INSERT TO {schema}.v DO ALSO INSERT INTO public.secret VALUES (new.n)",
        "table {schema}.v",
    ),
    "a catalogue that only the operator reads": (
        "CREATE VIEW {schema}.v AS SELECT rolname FROM pg_authid; GRANT SELECT ON {schema}.v TO PUBLIC",
        "view {schema}.v",
    ),
    "a foreign table": (
        "CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w;"
        " CREATE FOREIGN TABLE {schema}.v (n int) SERVER s; GRANT SELECT ON {schema}.v TO PUBLIC",
        "foreign table {schema}.v",
    ),
    "the schema of a role that is more than a tenant's": (
        'ALTER ROLE "{role}" CREATEROLE; CREATE TABLE {schema}.v (n int); GRANT SELECT ON {schema}.v TO PUBLIC',
        "table {schema}.v",
    ),
    "the schema of a role that no tenant is known to have": (
        'COMMENT ON ROLE "{role}" IS NULL; CREATE TABLE {schema}.v (n int); GRANT SELECT ON {schema}.v TO PUBLIC',
        "table {schema}.v",
    ),
    "the schema of a role that the session can become": (
        'GRANT "{role}" TO app; CREATE TABLE {schema}.v (n int); GRANT SELECT ON {schema}.v TO PUBLIC',
        "table {schema}.v",
    ),
}


async def reached(house: World, given: str) -> list[str]:
    """What row tenants' role reaches that is not theirs."""
    async with house.app(house.shared) as own, own.transaction(readonly=True):
        await own.execute(PIN_PATH)
        await own.execute("SET LOCAL lock_timeout = '5s'")
        return [each.what for each in exposures(parse(await own.fetchval(REACH, given)), form=TenantForm())]


@pytest.mark.parametrize("mistake", MISTAKES)
async def test_what_was_not_the_owners_to_give_is_refused(house: World, settings: Settings, mistake: str) -> None:
    made, what = MISTAKES[mistake]
    async with an_owner(house, settings, Isolation.SCHEMA) as (want, _, conn):
        await conn.execute(f"GRANT USAGE ON SCHEMA {want.schema} TO PUBLIC")
        async with house.shared.connect() as admin:
            sign = await admin.fetchval("SELECT shobj_description($1::text::regrole, 'pg_authid')", want.role)
            try:
                await admin.execute(made.format(schema=want.schema, role=want.role))
                assert what.format(schema=want.schema) in await reached(house, argument([], path=["public"]))
            finally:
                await admin.execute(f'ALTER ROLE "{want.role}" NOCREATEROLE; REVOKE "{want.role}" FROM app')
                await admin.execute(f"COMMENT ON ROLE \"{want.role}\" IS '{sign}'; DROP TABLE IF EXISTS secret CASCADE")
                await admin.execute(
                    "DROP SCHEMA IF EXISTS of_all CASCADE; DROP FOREIGN DATA WRAPPER IF EXISTS w CASCADE"
                )


async def test_what_an_owner_puts_where_others_look_is_refused(house: World, settings: Settings) -> None:
    """There a function or table of its own would stand in the place of theirs."""
    async with an_owner(house, settings, Isolation.SCHEMA) as (want, _, conn):
        await conn.execute(
            f"CREATE TABLE v (n int); GRANT ALL ON v TO PUBLIC; GRANT USAGE ON SCHEMA {want.schema} TO PUBLIC"
        )
        assert await reached(house, argument([], path=["public"])) == []
        assert f"table {want.schema}.v" in await reached(house, argument([], path=["public", str(want.schema)]))


async def test_many_gifts_hide_no_leak_and_are_looked_at_soon(house: World, settings: Settings) -> None:
    async with an_owner(house, settings, Isolation.SCHEMA) as (want, _, conn), house.shared.connect() as admin:
        await conn.execute(
            "DO $$ BEGIN FOR i IN 1..150 LOOP EXECUTE format('CREATE TABLE a%s (n int)', i); END LOOP;"
            " FOR i IN 1..100 LOOP EXECUTE format('CREATE VIEW v%s AS SELECT 1 AS n %s', i,"
            " (SELECT string_agg(format(' UNION ALL TABLE v%s', j), '') FROM generate_series(1, i - 1) j)); END LOOP;"
            " END $$;"
            f" GRANT ALL ON ALL TABLES IN SCHEMA {want.schema} TO PUBLIC; GRANT USAGE ON SCHEMA {want.schema} TO PUBLIC"
        )
        await admin.execute("CREATE TABLE zz (n int); GRANT SELECT ON zz TO PUBLIC")
        try:
            assert await reached(house, argument([], path=["public"])) == ["table public.zz"]
        finally:
            await admin.execute("DROP TABLE zz")


async def test_a_lock_on_a_gift_keeps_no_neighbour_from_looking(house: World, settings: Settings) -> None:
    async with an_owner(house, settings, Isolation.SCHEMA) as (want, _, conn):
        await conn.execute(
            "CREATE TABLE v (n int); CREATE RULE r AS ON INSERT TO v DO INSTEAD NOTHING;"
            " CREATE RULE s AS ON UPDATE TO v DO INSTEAD SELECT 1; ALTER TABLE v ENABLE ROW LEVEL SECURITY;"
            " CREATE POLICY p ON v USING (n > 0); CREATE VIEW w AS TABLE v;"
            f" GRANT ALL ON v, w TO PUBLIC; GRANT USAGE ON SCHEMA {want.schema} TO PUBLIC;"
            " BEGIN; LOCK TABLE v, w IN ACCESS EXCLUSIVE MODE"
        )
        assert await reached(house, argument([], path=["public"])) == []
        await conn.execute("ROLLBACK")


async def test_a_view_of_what_schema_tenants_share_stops_no_row_tenant(house: World, tmp_path: Path) -> None:
    settings = settings_of(house, tmp_path, schema={"common": ["common.*"]})
    async with an_owner(house, settings, Isolation.SCHEMA) as (want, _, conn), house.shared.connect() as admin:
        await admin.execute(
            "CREATE SCHEMA common; CREATE TABLE common.countries (n int);"
            f' GRANT USAGE ON SCHEMA common TO "{want.role}"; GRANT SELECT ON common.countries TO "{want.role}"'
        )
        try:
            await conn.execute(
                f"CREATE VIEW v AS TABLE common.countries; GRANT USAGE ON SCHEMA {want.schema} TO PUBLIC"
            )
            await conn.execute("GRANT SELECT ON v TO PUBLIC")
            async with served("library", settings, []) as answers:
                assert answers == {"row1": 3, "schema1": 3}
            assert await reached(house, argument([], path=["public"])) == [f"view {want.schema}.v"]
        finally:
            await admin.execute("DROP SCHEMA common CASCADE")


async def test_a_gift_that_others_may_give_on_is_taken_back_by_the_sql_of_doctor(
    house: World, settings: Settings
) -> None:
    async with (
        an_owner(house, settings, Isolation.SCHEMA) as (want, _, conn),
        an_owner(house, settings, Isolation.SCHEMA) as (friend, _, theirs),
    ):
        await conn.execute(f'GRANT USAGE ON SCHEMA {want.schema} TO "{friend.role}" WITH GRANT OPTION')
        await theirs.execute(f"GRANT USAGE ON SCHEMA {want.schema} TO {APP_ROLE}")
        async with house.shared.connect() as admin:
            for finding in (await examine(settings)).findings:
                if finding.code == "TPD062":
                    for statement in finding.sql:
                        with suppress(asyncpg.UndefinedObjectError):
                            await admin.execute(statement)
            for role in (APP_ROLE, friend.role):
                assert not await admin.fetchval("SELECT has_schema_privilege($1, $2, 'USAGE')", role, want.schema)
