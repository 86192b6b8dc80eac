"""Are rows that say through another table whose they are kept apart, saved, restored and removed as others are?"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import asyncpg
import pytest
import pytest_asyncio

from tenantproxy import Router
from tenantproxy.config import Settings
from tenantproxy.connect.reach import PIN_PATH, REACH, argument, exposures, parse
from tenantproxy.embedded import EmbeddedPostgres
from tenantproxy.errors import TenantProxyError
from tenantproxy.isolation.policies import TenantForm
from tenantproxy.lifecycle.backup import backup_tenant, restore_backup, verify_backup
from tenantproxy.lifecycle.doctor import examine
from tenantproxy.lifecycle.migrate.rows import guard_rows
from tenantproxy.lifecycle.status.erase import erase_rows
from tests.support.waiting import until
from tests.support.world import APP_ROLE, World, a_world

pytestmark = pytest.mark.asyncio(loop_scope="module")

TABLES: Final = """
CREATE TABLE firms (id text PRIMARY KEY, name text);
CREATE TABLE teams (id uuid PRIMARY KEY, firm text NOT NULL REFERENCES firms);
CREATE INDEX ON teams (firm);
CREATE TABLE members (team uuid NOT NULL REFERENCES teams, number int, PRIMARY KEY (team, number));
ALTER TABLE firms ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY tenantproxy ON firms USING (id = (SELECT tenantproxy.bound_tenant()));
GRANT SELECT, INSERT, UPDATE, DELETE ON firms TO app;
"""
ROWS: Final = """
INSERT INTO firms SELECT t, 'firm of ' || t FROM unnest('{row1,row2}'::text[]) t;
INSERT INTO teams SELECT md5(t || n)::uuid, t FROM unnest('{row1,row2}'::text[]) t, generate_series(1, 2) n;
INSERT INTO members SELECT id, n FROM teams, generate_series(1, 3) n;
"""
SHAPE: Final = {"column": "firm", "through": {"team": "teams"}}
TRIGGER: Final = """
CREATE TRIGGER {name} {when} ON {table} FOR EACH ROW {condition} EXECUTE FUNCTION {call};
ALTER TABLE {table} ENABLE ALWAYS TRIGGER {name};
"""


def looking(
    name: str = "tenantproxy_reference", *, table: str = "members", when: str = "AFTER INSERT OR UPDATE",
    condition: str = "", call: str = "tenantproxy.check_reference('team', 'public.teams', 'id')",
) -> str:  # fmt: skip
    """SQL: the trigger behind the foreign key, as it should be but for what is given."""
    drop = f"DROP TRIGGER IF EXISTS tenantproxy_reference ON {table};"
    return drop + TRIGGER.format(name=name, table=table, when=when, condition=condition, call=call)


PARTED: Final = """
CREATE TABLE parted (LIKE members) PARTITION BY LIST (number);
CREATE TABLE part PARTITION OF parted DEFAULT;
ALTER TABLE parted ADD FOREIGN KEY (team) REFERENCES teams ON UPDATE CASCADE, ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON parted USING (team = ANY (ARRAY(
  SELECT t.id FROM teams t WHERE t.firm = (SELECT tenantproxy.bound_tenant()))));
REVOKE ALL ON part FROM app;
GRANT SELECT, INSERT, UPDATE, DELETE ON parted TO app;
REVOKE TRUNCATE, REFERENCES, TRIGGER ON parted FROM app;
""" + looking(table="parted")
ACCOUNTS: Final = """
CREATE TABLE accounts (firm text PRIMARY KEY, code text UNIQUE);
CREATE TABLE notes (firm text REFERENCES accounts ({key}) ON UPDATE CASCADE);
ALTER TABLE accounts ENABLE ROW LEVEL SECURITY;
ALTER TABLE notes ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON accounts USING (firm = (SELECT tenantproxy.bound_tenant()));
CREATE POLICY own ON notes USING (firm = (SELECT tenantproxy.bound_tenant()));
GRANT SELECT, INSERT, UPDATE, DELETE ON accounts, notes TO app;
REVOKE TRUNCATE, REFERENCES, TRIGGER ON accounts, notes FROM app
"""
THEIRS: Final = "SELECT md5('row21')::uuid"
OTHER: Final = """
CREATE FUNCTION public.check_reference() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
"""
CHAIN: Final = (
    ACCOUNTS.format(key="code")
    + """;
CREATE TABLE regions (firm text PRIMARY KEY, code text UNIQUE);
ALTER TABLE regions ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON regions USING (firm = (SELECT tenantproxy.bound_tenant()));
GRANT SELECT, INSERT, UPDATE, DELETE ON regions TO app;
REVOKE TRUNCATE, REFERENCES, TRIGGER ON regions FROM app;
REVOKE UPDATE ON accounts FROM app;
ALTER TABLE accounts ADD FOREIGN KEY (code) REFERENCES regions (code) ON UPDATE CASCADE
"""
)
NEXT: Final = "md5('the next of row2')::uuid"
DENIED: Final = asyncpg.InsufficientPrivilegeError


def settings_of(world: World, folder: Path | None = None) -> Settings:
    changes: dict[str, Any] = {"migrations": SHAPE, "provision": {"shared_database": world.shared.name}}
    return world.settings(registry="postgres", backup={"folder": str(folder)} if folder else {}, **changes)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def house(postgres: EmbeddedPostgres) -> AsyncIterator[World]:
    async with a_world(postgres, schemas=0, databases=0) as world:
        async with world.shared.connect() as conn, conn.transaction():
            await conn.execute(TABLES)
            await guard_rows(conn, settings_of(world), role=APP_ROLE, own_schemas=())
            await conn.execute(ROWS)
        yield world


async def opened(world: World, change: str = "SELECT") -> list[str]:
    """What the role of tenants' SQL reaches when a superuser has done that."""
    async with world.shared.connect() as conn:
        async with conn.transaction():
            await conn.execute(change)
            await conn.execute(PIN_PATH)
            await conn.execute(f"SET LOCAL ROLE {APP_ROLE}")
            text = await conn.fetchval(REACH, argument([("public", "countries")]))
            found = [each.what for each in exposures(parse(text), form=TenantForm())]
            await conn.execute("SET LOCAL ROLE NONE; ROLLBACK AND CHAIN")
    return found


async def test_a_migration_isolates_them_and_the_doctor_finds_nothing(house: World) -> None:
    assert await opened(house) == await opened(house, PARTED) == await opened(house, ACCOUNTS.format(key="firm")) == []
    ours = "; ALTER TABLE notes ALTER firm SET DEFAULT tenantproxy.bound_tenant(),"
    ours += " ADD FOREIGN KEY (firm) REFERENCES accounts ON DELETE SET DEFAULT"
    assert await opened(house, ACCOUNTS.format(key="firm") + ours) == []
    found = {(each.code, each.object) for each in (await examine(settings_of(house))).findings}
    assert not {each for each in found if "members" in each[1] or "teams" in each[1]} - {
        ("TPD099", "public.teams_pkey"),
    }


@pytest.mark.parametrize(
    ("change", "table"),
    [
        ("ALTER TABLE members DROP CONSTRAINT members_team_fkey", "members"),
        ("ALTER TABLE members DROP CONSTRAINT members_team_fkey, ADD FOREIGN KEY (team) REFERENCES teams NOT VALID",
         "members"),
        ("ALTER TABLE members DISABLE TRIGGER ALL", "members"),
        ("CREATE POLICY all_of_them ON teams USING (true)", "members"),
        ("ALTER TABLE teams DISABLE ROW LEVEL SECURITY", "members"),
        ("CREATE TABLE more () INHERITS (teams)", "members"),
        ("CREATE TABLE more () INHERITS (members)", "members"),
        ("ALTER TABLE members DROP CONSTRAINT members_team_fkey,"
         " ADD FOREIGN KEY (team) REFERENCES teams ON DELETE SET DEFAULT", "members"),
        ("ALTER TABLE members DROP CONSTRAINT members_team_fkey,"
         " ADD FOREIGN KEY (team) REFERENCES teams ON UPDATE SET DEFAULT", "members"),
        ("CREATE TABLE copies AS TABLE teams; ALTER TABLE copies ADD PRIMARY KEY (id);"
         " ALTER TABLE members ADD FOREIGN KEY (team) REFERENCES copies ON UPDATE CASCADE", "members"),
        (ACCOUNTS.format(key="code"), "notes"),
        (ACCOUNTS.format(key="firm") + "; ALTER TABLE notes ALTER firm SET DEFAULT 'row2',"
         " ADD FOREIGN KEY (firm) REFERENCES accounts ON DELETE SET DEFAULT", "notes"),
        (f"{PARTED}; ALTER TABLE part DISABLE TRIGGER ALL", "parted"),
        (f"{PARTED}; ALTER TABLE part ENABLE TRIGGER tenantproxy_reference", "parted"),
        ("DROP TRIGGER tenantproxy_reference ON members", "members"),
        ("ALTER TABLE members DISABLE TRIGGER tenantproxy_reference", "members"),
        ("ALTER TABLE members ENABLE TRIGGER tenantproxy_reference", "members"),
        ("ALTER TABLE members ENABLE REPLICA TRIGGER tenantproxy_reference", "members"),
        (looking(condition="WHEN (false)"), "members"),
        (looking(when="BEFORE INSERT OR UPDATE"), "members"),
        (looking(when="AFTER INSERT"), "members"),
        (looking(when="AFTER INSERT OR UPDATE OF number"), "members"),
        (looking('"A"'), "members"),
        (looking(call="tenantproxy.check_reference('team', 'public.firms', 'id')"), "members"),
        (OTHER + looking(call="public.check_reference('team', 'public.teams', 'id')"), "members"),
        ("ALTER TABLE members ALTER CONSTRAINT members_team_fkey DEFERRABLE", "members"),
        (ACCOUNTS.format(key="code") + "; ALTER POLICY own ON accounts"
         " USING (firm = (SELECT tenantproxy.bound_tenant()) AND code <> '')", "notes"),
        (CHAIN, "notes"),
        ("ALTER POLICY tenantproxy ON members USING (team = ANY (ARRAY(SELECT t.id FROM teams t)))", "members"),
        ("ALTER POLICY tenantproxy ON members USING (team = ANY (ARRAY(SELECT t.id FROM teams t"
         " WHERE t.firm = (SELECT tenantproxy.bound_tenant()) OR true)))", "members"),
        ("ALTER POLICY tenantproxy ON members USING (team = ANY (ARRAY(SELECT t.id FROM teams t"
         " WHERE t.firm = (SELECT tenantproxy.bound_tenant()) UNION SELECT t.id FROM teams t)))", "members"),
        ("ALTER POLICY tenantproxy ON members USING (team = ANY (ARRAY(SELECT t.id FROM teams t, teams u"
         " WHERE u.firm = (SELECT tenantproxy.bound_tenant()))))", "members"),
        ("CREATE TABLE copies AS TABLE teams; ALTER POLICY tenantproxy ON members USING (team = ANY (ARRAY("
         "SELECT t.id FROM copies t WHERE t.firm = (SELECT tenantproxy.bound_tenant()))))", "members"),
    ],
)  # fmt: skip
async def test_what_makes_the_way_to_the_tenant_unsure_is_an_exposure(house: World, change: str, table: str) -> None:
    assert f"public.{table}" in {each.split()[-1] for each in await opened(house, change)}


async def test_a_tenant_reads_and_writes_its_own_rows_alone(house: World) -> None:
    async with Router(settings_of(house)) as router:
        scope = router.tenant("row1")
        assert await scope.fetchval("SELECT count(*) FROM members") == 6
        assert await scope.fetchval(f"SELECT count(*) FROM members WHERE team = ({THEIRS})") == 0
        assert await scope.execute(f"UPDATE members SET number = 9 WHERE team = ({THEIRS})") == "UPDATE 0"
        for hostile in (
            f"INSERT INTO members SELECT ({THEIRS}), 7",
            f"UPDATE members SET team = ({THEIRS})",
            f"INSERT INTO teams SELECT ({THEIRS}), 'row2'",
            "UPDATE teams SET firm = 'row2'",
        ):
            with pytest.raises(DENIED):
                await scope.execute(hostile)
        with pytest.raises(asyncpg.UniqueViolationError):
            await scope.execute(f"INSERT INTO teams SELECT ({THEIRS}), 'row1'")


@pytest.mark.parametrize(
    "write",
    [
        "INSERT INTO members SELECT {next}, 666 FROM ({wait}) x",
        "UPDATE members SET team = {next} FROM ({wait}) x WHERE team = md5('row11')::uuid",
    ],
)
async def test_no_row_is_left_to_the_next_owner_of_a_key(house: World, write: str) -> None:
    wait = "SELECT pg_advisory_xact_lock(127)"
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'advisory' AND query LIKE '%127%'"
    async with Router(settings_of(house)) as router, house.shared.connect() as admin:
        one, two = router.tenant("row1"), router.tenant("row2")
        await one.execute(f"INSERT INTO teams VALUES ({NEXT}, 'row1')")
        await admin.execute("SELECT pg_advisory_lock(127)")
        slow = asyncio.create_task(one.execute(write.format(next=NEXT, wait=wait)))
        await until(lambda: admin.fetchval(waiting), "the statement waits")
        await one.execute(f"DELETE FROM teams WHERE id = {NEXT}")
        await two.execute(f"INSERT INTO teams VALUES ({NEXT}, 'row2')")
        await admin.execute("SELECT pg_advisory_unlock(127)")
        with pytest.raises(DENIED, match="no longer this tenant's"):
            await slow
        assert await two.fetchval(f"SELECT count(*) FROM members WHERE team = {NEXT}") == 0
        await two.execute(f"DELETE FROM teams WHERE id = {NEXT}")


@pytest.mark.parametrize("change", ["DELETE FROM teams", "UPDATE teams SET id = gen_random_uuid()"])
async def test_what_is_referred_to_keeps_its_key_until_the_commit(house: World, change: str) -> None:
    async with Router(settings_of(house)) as router, house.shared.connect() as admin:
        one = router.tenant("row1")
        await one.execute(f"INSERT INTO teams VALUES ({NEXT}, 'row1')")
        async with one.transaction() as conn:
            await conn.execute(f"INSERT INTO members VALUES ({NEXT}, 1)")
            await admin.execute("SET lock_timeout = '50ms'")
            with pytest.raises(asyncpg.LockNotAvailableError):
                await admin.execute(f"{change} WHERE id = {NEXT}")
            await conn.execute("DELETE FROM members WHERE number = 1 AND team = " + NEXT)
        await one.execute(f"DELETE FROM teams WHERE id = {NEXT}")


async def test_their_policy_is_served_by_the_index_of_the_reference(house: World) -> None:
    async with Router(settings_of(house)) as router, router.tenant("row1").transaction() as conn:
        await conn.execute("SET LOCAL enable_seqscan = off")
        plan = "\n".join(row[0] for row in await conn.fetch("EXPLAIN SELECT * FROM members"))
    assert "members_pkey" in plan
    assert "Filter" not in plan.partition("InitPlan")[0]


async def test_a_table_that_does_not_refer_is_refused_by_name(house: World) -> None:
    async with house.shared.connect() as conn:
        async with conn.transaction():
            await conn.execute("CREATE TABLE loose (team uuid); GRANT SELECT ON loose TO app")
            with pytest.raises(TenantProxyError, match=r"public\.loose: its column team does not refer to teams"):
                await guard_rows(conn, settings_of(house), role=APP_ROLE, own_schemas=())
            await conn.execute("ROLLBACK AND CHAIN")


async def test_their_rows_are_saved_removed_and_restored_with_the_tenants(house: World, tmp_path: Path) -> None:
    settings = settings_of(house, tmp_path)
    query = (
        "SELECT f.name, m.* FROM members m JOIN teams t ON t.id = m.team JOIN firms f ON f.id = t.firm ORDER BY 2, 3"
    )
    async with Router(settings) as router:
        before = await router.tenant("row1").fetch(query)
        saved = await backup_tenant(settings, house.tenants[0])
        assert (await verify_backup(settings, saved)).verified_at is not None
        async with house.shared.connect() as conn:
            gone = await erase_rows(conn, "row1", "firm", own_schemas=())
            assert {each.replace('"', ""): count for each, count in gone.items() if count} == {
                "public.firms": 1, "public.teams": 2, "public.members": 6, "public.projects": 3,
            }  # fmt: skip
            assert await conn.fetchval("SELECT count(*) FROM members") == 6
        await restore_backup(settings, saved, as_id="again")
        after = await router.tenant("again").fetch(query)
        assert [row[1:] for row in map(tuple, after)] == [row[1:] for row in map(tuple, before)]
        assert len(after) == 6
