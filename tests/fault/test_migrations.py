"""Do all tenants come to one version, each file once in each place, whatever dies, fails or is locked on the way?"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import asyncpg
import pytest

from tenantproxy import ConfigurationError, Router
from tenantproxy.config import Settings
from tenantproxy.lifecycle.migrate import Migrated, MigrationsRunning, Migrator, SchemaPlace, targets_of
from tenantproxy.lifecycle.migrate.runs import running
from tenantproxy.model import Isolation
from tests.support.lasting import lasting as kept
from tests.support.mortal import Mortality
from tests.support.world import World, a_world

EVERY: Final = int(os.environ.get("TENANTPROXY_TEST_EVERY", "11"))  # behind which statements a process dies; 1: each
FILES: Final = {
    "0001_orders.sql": "CREATE TABLE orders (id int, tenant_id text NOT NULL DEFAULT 'x');",
    "0002_seen.sql": "CREATE TABLE seen (tenant_id text, how_often int DEFAULT 0); ALTER TABLE orders ADD at date;",
    "0002_seen.down.sql": "DROP TABLE seen; ALTER TABLE orders DROP at;",
    "0003_index.sql": "-- tenantproxy: no transaction\nCREATE INDEX CONCURRENTLY IF NOT EXISTS orders_at ON orders(at)",
    "0003_index.down.sql": "DROP INDEX orders_at;",
}


@pytest.fixture(scope="module")
def house(request: pytest.FixtureRequest) -> Iterator[World]:
    with kept(a_world(request.getfixturevalue("postgres"), rows=2, schemas=3, databases=3)) as world:
        yield world


def settings_of(world: World, folder: Path, files: Mapping[str, str] = FILES, **rules: Any) -> Settings:
    for name, text in files.items():
        (folder / name).write_text(text)
    return world.settings(migrations={"folder": str(folder), "retries": 0, **rules})


@pytest.fixture
async def clean(house: World) -> AsyncIterator[None]:
    """What a test migrates is as it was behind it."""
    yield
    for target in places(house, house.settings(migrations={"folder": "x"})):
        async with house.database(next(t for t in house.tenants if t.id in target.tenants)).connect() as conn:
            await conn.execute(f'SET search_path = "{target.schema}"')
            await conn.execute("DROP TABLE IF EXISTS orders, seen, bare")
            await conn.execute("DROP SCHEMA IF EXISTS tenantproxy_migrations CASCADE")
    async with house.main.connect() as conn:
        await conn.execute("DELETE FROM tenantproxy.migration_runs")


def places(world: World, settings: Settings) -> list[SchemaPlace]:
    return targets_of(settings, world.tenants)


def migrator(world: World, settings: Settings, life: Mortality | None = None) -> Migrator:
    made = Migrator(settings, (life or Mortality(world)).connect())
    made.read()
    return made


async def journals(world: World, settings: Settings) -> dict[str, list[int]]:
    found = {}
    for target in places(world, settings):
        async with world.database(next(t for t in world.tenants if t.id in target.tenants)).connect() as conn:
            query = "SELECT version FROM tenantproxy_migrations.applied WHERE place = $1 ORDER BY 1"
            try:
                found[target.name] = [row[0] for row in await conn.fetch(query, target.schema)]
            except asyncpg.UndefinedTableError:
                found[target.name] = []
    return found


def errors(outcomes: list[Migrated]) -> list[str]:
    return [outcome.error for outcome in outcomes if outcome.error is not None]


async def test_every_place_is_migrated_once_and_rows_stay_apart(house: World, tmp_path: Path, clean: None) -> None:
    settings = settings_of(house, tmp_path)
    targets = places(house, settings)
    assert len(targets) == 3 + 3 + 1, "row tenants of a database share one place"
    outcomes = await migrator(house, settings).run(targets)
    assert errors(outcomes) == []
    assert {outcome.applied for outcome in outcomes} == {(1, 2, 3)}
    assert {outcome.applied for outcome in await migrator(house, settings).run(targets)} == {()}
    async with Router(settings) as router:
        await router.tenant("row1").execute("INSERT INTO seen (tenant_id) VALUES ('row1')")
        assert await router.tenant("row2").fetchval("SELECT count(*) FROM seen") == 0
        assert await router.tenant("schema1").fetchval("SELECT count(*) FROM orders") == 0


async def test_a_role_of_tenants_cannot_change_the_journal(house: World, tmp_path: Path, clean: None) -> None:
    settings = settings_of(house, tmp_path)
    await migrator(house, settings).run(places(house, settings))
    async with Router(settings) as router:
        for tenant in ("row1", "schema1", "database1"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await router.tenant(tenant).execute("DELETE FROM tenantproxy_migrations.applied")


async def test_a_migration_runs_nothing_that_its_tenants_role_made_or_may_make(
    house: World, tmp_path: Path, clean: None
) -> None:
    files = {"1_seen.sql": "CREATE TABLE seen AS SELECT lower('A'::varchar) AS low; UPDATE projects SET name = name"}
    settings = settings_of(house, tmp_path, files)
    by_schema, by_database = (
        next(each for each in places(house, settings) if each.isolation is kind)
        for kind in (Isolation.SCHEMA, Isolation.DATABASE)
    )
    schema, role = by_schema.schema, by_schema.role
    own = next(each for each in house.tenants if each.id in by_database.tenants)
    says = "LANGUAGE plpgsql AS $$BEGIN RAISE 'ran as %', current_user; END$$"

    async def told(target: SchemaPlace) -> str | None:
        return (await migrator(house, settings).bring(target)).error

    async with house.shared.connect() as admin, house.database(own).connect() as inside:
        await admin.execute(f"GRANT CREATE ON SCHEMA {schema} TO {role}")
        async with house.as_role_of(next(t for t in house.tenants if t.id in by_schema.tenants)) as theirs:
            await theirs.execute(f"CREATE FUNCTION {schema}.lower(varchar) RETURNS text {says}")
        assert f"the tenant's own role ({role}) owns something here" in (await told(by_schema) or "")
        await admin.execute(f"DROP FUNCTION {schema}.lower(varchar)")
        assert f"{role} may create things in SCHEMA {schema}" in (await told(by_schema) or "")
        await admin.execute(f"REVOKE CREATE ON SCHEMA {schema} FROM {role}")
        assert await told(by_schema) is None
        await inside.execute(f"CREATE FUNCTION fires() RETURNS trigger {says}")
        await inside.execute(
            "CREATE TRIGGER fires BEFORE UPDATE ON projects FOR EACH ROW EXECUTE FUNCTION fires();"
            f" ALTER TABLE projects OWNER TO {by_database.role}"
        )
        assert f"({by_database.role}) owns something here" in (await told(by_database) or "")
        await inside.execute("ALTER TABLE projects OWNER TO CURRENT_USER; DROP FUNCTION fires() CASCADE")
        assert await told(by_database) is None


async def test_a_run_that_dies_behind_any_statement_is_gone_on_with_and_repeats_nothing(
    house: World, tmp_path: Path, clean: None
) -> None:
    files = {
        "1_seen.sql": "CREATE TABLE seen (tenant_id text, how_often int)",
        "2_row.sql": "INSERT INTO seen VALUES ('row1', 1)",
        "3_more.sql": "UPDATE seen SET how_often = how_often + 1",
    }
    settings = settings_of(house, tmp_path, files, parallel=2)
    targets = places(house, settings)
    last, deaths = 0, 0
    outcomes: list[Migrated] = []
    while True:
        last += EVERY
        dying = Mortality(house, last)
        try:
            outcomes = await migrator(house, settings, dying).run(targets)
        except* (OSError, asyncpg.InterfaceError):
            assert dying.is_dead
        if not dying.is_dead:
            break
        deaths += 1
        async with house.main.connect() as conn:
            await conn.execute("UPDATE tenantproxy.migration_runs SET seen_at = now() - interval '5 minutes'")
    assert deaths > 3
    assert errors(outcomes) == []
    assert set(map(tuple, (await journals(house, settings)).values())) == {(1, 2, 3)}
    for tenant in house.tenants[1:]:
        async with house.database(tenant).connect() as conn:
            name = f'"{tenant.placement.schema or "public"}".seen'
            assert [row[0] for row in await conn.fetch(f"SELECT how_often FROM {name}")] == [2]


async def test_one_process_migrates_at_a_time(house: World, tmp_path: Path, clean: None) -> None:
    settings = settings_of(house, tmp_path)
    async with house.main.connect() as conn, running(conn, 1):
        with pytest.raises(MigrationsRunning, match="another process migrates at this moment"):
            await migrator(house, settings).run(places(house, settings))


async def test_a_process_that_was_taken_for_dead_applies_nothing_twice(
    house: World, tmp_path: Path, clean: None
) -> None:
    settings = settings_of(house, tmp_path, {"1_seen.sql": FILES["0002_seen.sql"].partition(";")[0]})
    targets = places(house, settings)
    async with house.main.connect() as first, house.main.connect() as second:
        async with running(first, len(targets)):
            await second.execute("UPDATE tenantproxy.migration_runs SET seen_at = now() - interval '5 minutes'")
            async with running(second, len(targets)):
                both = await asyncio.gather(*(bring_all(house, settings, targets) for _ in range(2)))
    assert errors([*both[0], *both[1]]) == []
    assert sorted(len(outcome.applied) for each in both for outcome in each) == [0] * 7 + [1] * 7


async def bring_all(world: World, settings: Settings, targets: list[SchemaPlace]) -> list[Migrated]:
    made = migrator(world, settings)
    return await asyncio.gather(*(made.bring(target) for target in targets))


async def test_a_file_that_fails_stops_the_others_and_the_next_run_goes_on(
    house: World, tmp_path: Path, clean: None
) -> None:
    settings = settings_of(house, tmp_path, parallel=1)
    targets = places(house, settings)
    bad = targets[3]
    async with house.database(next(t for t in house.tenants if t.id in bad.tenants)).connect() as conn:
        await conn.execute(f'CREATE TABLE "{bad.schema}".seen ()')
        outcomes = await migrator(house, settings).run(targets)
        assert [outcome.target for outcome in outcomes if outcome.error] == [bad]
        assert 'PostgreSQL says 42P07: relation "seen" already exists' in errors(outcomes)[0]
        assert len(outcomes) == 4, "none is begun behind it"
        assert (outcomes[-1].version, outcomes[-1].left) == (1, 2), "what was applied before stays"
        await conn.execute(f'DROP TABLE "{bad.schema}".seen')
    assert errors(await migrator(house, settings).run(targets)) == []
    assert set(map(tuple, (await journals(house, settings)).values())) == {(1, 2, 3)}


async def test_a_canary_that_fails_keeps_all_others_from_it(house: World, tmp_path: Path, clean: None) -> None:
    settings = settings_of(house, tmp_path, {"1_bad.sql": "SELECT 1 / 0"}, max_failures=100, canary=2)
    outcomes = await migrator(house, settings).run(places(house, settings))
    assert len(outcomes) <= 2, "no other is begun"


async def test_a_file_gives_way_to_a_long_read_and_is_tried_again(house: World, tmp_path: Path, clean: None) -> None:
    settings = settings_of(house, tmp_path, {"1_more.sql": "ALTER TABLE projects ADD more int"}, lock_timeout=0.1)
    (target,) = [each for each in places(house, settings) if each.name == "database1"]
    tenant = next(each for each in house.tenants if each.id == "database1")
    async with house.database(tenant).connect() as reader, house.database(tenant).connect() as other:
        reading = reader.transaction()
        await reading.start()
        await reader.fetch("SELECT * FROM projects")
        (outcome,) = await migrator(house, settings).run([target])
        assert "55P03" in (outcome.error or "")
        assert await other.fetchval("SELECT count(*) FROM projects", timeout=60) == 3, "none waits behind it"
        patient = settings_of(house, tmp_path, {}, lock_timeout=0.1, retries=50)
        run = asyncio.ensure_future(migrator(house, patient).run([target]))
        await asyncio.sleep(0)
        await reading.rollback()
        assert errors(await run) == []
        await other.execute("ALTER TABLE projects DROP more")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("CREATE TABLE bare (n int); GRANT SELECT ON bare TO app", "public.bare"),
        ("CREATE TABLE bare (n int); COMMIT; SELECT 1", "ends the transaction that it runs in"),
    ],
)
async def test_what_would_open_the_wall_or_escape_the_journal_is_refused(
    house: World, tmp_path: Path, clean: None, text: str, told: str
) -> None:
    settings = settings_of(house, tmp_path, {"1_x.sql": text})
    (target,) = [each for each in places(house, settings) if "row1" in each.tenants]
    (outcome,) = await migrator(house, settings).run([target])
    assert told in (outcome.error or "")


async def test_versions_go_back_by_the_files_that_undo_them(house: World, tmp_path: Path, clean: None) -> None:
    settings = settings_of(house, tmp_path)
    targets = places(house, settings)
    await migrator(house, settings).run(targets)
    assert errors(await migrator(house, settings).roll_back(targets, to="1")) == []
    assert set(map(tuple, (await journals(house, settings)).values())) == {(1,)}
    assert "nothing takes 1_orders back" in errors(await migrator(house, settings).roll_back(targets, to="0"))[0]
    assert {outcome.applied for outcome in await migrator(house, settings).run(targets)} == {(2, 3)}


async def test_a_file_that_was_changed_or_came_late_is_refused(house: World, tmp_path: Path, clean: None) -> None:
    settings = settings_of(house, tmp_path)
    targets = places(house, settings)
    await migrator(house, settings).run(targets)
    (tmp_path / "0001_orders.sql").write_text("SELECT 1")
    assert "1_orders was changed after it was applied" in errors(await migrator(house, settings).look(targets))[0]
    (tmp_path / "0001_orders.sql").unlink()
    assert "there is no such file" in errors(await migrator(house, settings).look(targets))[0]
    settings_of(house, tmp_path)
    (tmp_path / "0000_late.sql").write_text("SELECT 1")
    assert "comes before version 3" in errors(await migrator(house, settings).look(targets))[0]


def test_everything_that_is_wrong_with_a_folder_is_told_at_once(house: World, tmp_path: Path) -> None:
    files = {"first.sql": "", "1_a.sql": "", "01_b.sql": "", "7_c.down.sql": "", "README.md": ""}
    settings = settings_of(house, tmp_path, files)
    with pytest.raises(ConfigurationError) as told:
        migrator(house, settings)
    assert len(told.value.problems) == 3
