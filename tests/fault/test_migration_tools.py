"""Do projects of alembic and Django bring all tenants to one version, each where it is, and nothing open on the way?"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import asyncpg
import psycopg
import pytest
import sqlalchemy.exc

from tenantproxy import ConfigurationError, Router
from tenantproxy.config import Settings
from tenantproxy.lifecycle.migrate import Migrated, Migrator, SchemaPlace, targets_of
from tenantproxy.lifecycle.migrate.tool.child import _sqlstate
from tests.support.lasting import lasting as kept
from tests.support.waiting import until
from tests.support.world import World, a_world

INI: Final = "[alembic]\nscript_location = %(here)s/migrations\nsqlalchemy.url = postgresql+psycopg://nowhere/none\n"
ENV: Final = """
from alembic import context
from sqlalchemy import engine_from_config, pool
print("what a project prints is no answer")
section = context.config.get_section(context.config.config_ini_section)
engine = engine_from_config(section, prefix="sqlalchemy.", poolclass=pool.NullPool)
with engine.connect() as connection:
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()
"""
REVISION: Final = """
from alembic import op
revision = "{this}"
down_revision = {before!r}
def upgrade():
    op.execute({up!r})
def downgrade():
    op.execute({down!r})
"""
ORDERS: Final = "CREATE TABLE orders (id int, tenant_id text NOT NULL DEFAULT 'x')"
SEEN: Final = "CREATE TABLE seen (tenant_id text, how_often int); INSERT INTO seen VALUES ('row1', 1)"
DJANGO: Final = """
from django.db import migrations
class Migration(migrations.Migration):
    atomic = {atomic}
    dependencies = {before!r}
    operations = [migrations.RunSQL({up!r}, {down!r})]
"""
SETTINGS: Final = """
INSTALLED_APPS = ["shop"]
DATABASES = {"default": {"ENGINE": "django.db.backends.postgresql", "NAME": "none", "HOST": "nowhere"}}
"""
NAMES: Final = {"alembic": ("a1", "b2"), "django": ("shop.0001_a1", "shop.0002_b2")}


@pytest.fixture(scope="module")
def house(request: pytest.FixtureRequest) -> Iterator[World]:
    with kept(a_world(request.getfixturevalue("postgres"), rows=2, schemas=2, databases=1)) as world:
        yield world


@pytest.fixture
async def clean(house: World) -> AsyncIterator[None]:
    yield
    for tenant in house.tenants:
        async with house.database(tenant).connect() as conn:
            await conn.execute(f"SET search_path = {tenant.placement.schema or 'public'}")
            await conn.execute("DROP TABLE IF EXISTS orders, seen, bare, alembic_version, django_migrations")
    async with house.main.connect() as conn:
        await conn.execute("DELETE FROM tenantproxy.migration_runs")


def project(
    world: World, folder: Path, tool: str, *steps: tuple[str, str], atomic: bool = True, **rules: Any
) -> Settings:
    """One of that tool, with a migration for each of `steps`, what it does and what undoes it: a1, b2, c3..."""
    before: str | None = None
    names = [f"{chr(97 + number)}{number + 1}" for number in range(len(steps))]
    if tool == "alembic":
        files = {"alembic.ini": INI, "migrations/env.py": ENV}
        for name, (up, down) in zip(names, steps, strict=True):
            files[f"migrations/versions/{name}.py"] = REVISION.format(this=name, before=before, up=up, down=down)
            before = name
    else:
        files = {"shopsettings.py": SETTINGS, "shop/__init__.py": "", "shop/migrations/__init__.py": ""}
        for number, (name, (up, down)) in enumerate(zip(names, steps, strict=True), 1):
            needs = [("shop", before)] if before is not None else []
            before = f"{number:04}_{name}"
            text = DJANGO.format(atomic=atomic, before=needs, up=up, down=down)
            files[f"shop/migrations/{before}.py"] = text
        rules |= {"django_settings": "shopsettings"}
    return settings_of(world, folder, files, {"source": tool, "folder": str(folder), **rules})


def settings_of(world: World, folder: Path, files: Mapping[str, str], rules: Mapping[str, Any]) -> Settings:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    admin = {"user": world.server.superuser, "password": world.server.password}
    return world.settings(servers={"primary": {"admin": admin}}, migrations={"retries": 0, "parallel": 1, **rules})


def places(world: World, settings: Settings, *names: str) -> list[SchemaPlace]:
    return [each for each in targets_of(settings, world.tenants) if not names or {*names} & {*each.tenants}]


async def run(world: World, settings: Settings, *names: str, to: str | None = None) -> list[Migrated]:
    migrator = Migrator(settings)
    migrator.read()
    try:
        return await migrator.run(places(world, settings, *names), to=to)
    finally:
        await migrator.close()


STEPS: Final = ((ORDERS, "DROP TABLE orders"), (SEEN, "DROP TABLE seen"))


@pytest.mark.parametrize("tool", list(NAMES))
async def test_a_project_brings_tenants_of_all_kinds_to_its_newest_version_and_back(
    house: World, tmp_path: Path, clean: None, tool: str
) -> None:
    settings, (first, second) = project(house, tmp_path, tool, *STEPS), NAMES[tool]
    outcomes = await run(house, settings)
    assert [(each.error, each.applied, each.version, each.left) for each in outcomes] == [
        (None, (first, second), second, 0)
    ] * 4
    assert {each.applied for each in await run(house, settings)} == {()}
    assert {each.version for each in await run(house, settings, to=first)} == {second}, "run never goes back"
    async with Router(settings) as router:
        assert await router.tenant("row1").fetchval("SELECT how_often FROM seen") == 1
        assert await router.tenant("row2").fetchval("SELECT count(*) FROM seen") == 0
        for name in ("schema1", "database1"):
            assert await router.tenant(name).fetchval("SELECT how_often FROM seen") == 1
        journal = {"alembic": "alembic_version", "django": "django_migrations"}[tool]
        for name in ("row1", "schema1", "database1"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await router.tenant(name).execute(f"DELETE FROM {journal}")
    migrator = Migrator(settings)
    migrator.read()
    back = await migrator.roll_back(places(house, settings), to=first)
    await migrator.close()
    assert {(each.error, each.applied, each.version, each.left) for each in back} == {(None, (second,), first, 1)}


@pytest.mark.parametrize("how", ["SELECT pg_terminate_backend(pg_backend_pid())", "DO $$ BEGIN ASSERT false; END $$"])
@pytest.mark.parametrize("tool", list(NAMES))
async def test_a_project_whose_connection_is_lost_says_nothing_of_its_migrations(
    house: World, tmp_path: Path, clean: None, tool: str, how: str
) -> None:
    (outcome,) = await run(house, project(house, tmp_path, tool, (how, "")), "schema1")
    assert outcome.error is not None
    assert (outcome.is_lost, outcome.applied) == ("terminate" in how, ())


@pytest.mark.parametrize(
    ("error", "sqlstate"),
    [
        (psycopg.OperationalError("server closed the connection unexpectedly"), "08006"),
        (sqlalchemy.exc.OperationalError("SELECT 1", {}, psycopg.OperationalError("gone")), "08006"),
        (sqlalchemy.exc.DBAPIError("SELECT 1", {}, psycopg.errors.AdminShutdown("ended")), "57P01"),
        (psycopg.errors.SyntaxError("near x"), "42601"),
        (ValueError("of the project's own"), None),
    ],
    ids=["closed", "wrapped", "ended", "syntax", "own"],
)
def test_a_server_that_goes_without_a_word_has_a_code_too(error: Exception, sqlstate: str | None) -> None:
    assert _sqlstate(error) == sqlstate


@pytest.mark.parametrize("tool", list(NAMES))
async def test_a_project_that_leaves_a_table_of_row_tenants_bare_is_rolled_back(
    house: World, tmp_path: Path, clean: None, tool: str
) -> None:
    settings = project(house, tmp_path, tool, ("CREATE TABLE bare (id int)", "DROP TABLE bare"))
    (outcome,) = await run(house, settings, "row1")
    assert "would be open to every row tenant: public.bare" in (outcome.error or "")
    assert outcome.applied == ()
    async with house.shared.connect() as conn:
        assert await conn.fetchval("SELECT to_regclass('public.bare')") is None
    (own,) = await run(house, settings, "database1")
    assert own.error is None, "a tenant's own database may have it"


@pytest.mark.parametrize("tool", list(NAMES))
async def test_a_table_of_row_tenants_lets_none_in_before_it_has_its_policy(
    house: World, tmp_path: Path, clean: None, tool: str
) -> None:
    settings = project(house, tmp_path, tool, (SEEN, ""), ("SELECT pg_sleep(600)", ""))
    if tool == "alembic":
        env = tmp_path / "migrations" / "env.py"
        env.write_text(ENV.replace("connection=connection", "connection=connection, transaction_per_migration=True"))
    begun = asyncio.ensure_future(run(house, settings, "row1"))
    async with house.shared.connect() as conn:

        async def sleeps() -> bool:
            assert not begun.done() or begun.cancelled()
            query = "SELECT true FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(600)' AND datname = $1"
            return bool(await conn.fetchval(query, house.shared.name))

        await until(sleeps, "the first migration is committed, the second one runs")
        async with Router(settings) as router:
            for name in ("row1", "row2"):
                assert await router.tenant(name).fetchval("SELECT count(*) FROM seen") == 0
        begun.cancel()
        with suppress(asyncio.CancelledError):
            await begun

        async def is_gone() -> bool:
            return not await sleeps()

        await until(is_gone, "the process that ran it has ended with the run")


@pytest.mark.parametrize("tool", list(NAMES))
async def test_a_lock_that_is_not_to_be_had_is_told_as_of_files(
    house: World, tmp_path: Path, clean: None, tool: str
) -> None:
    settings = project(house, tmp_path, tool, ("ALTER TABLE projects ADD due date", ""), lock_timeout=0.1)
    tenant = next(each for each in house.tenants if each.id == "database1")
    async with house.database(tenant).connect() as conn, conn.transaction():
        await conn.execute("LOCK projects")
        (outcome,) = await run(house, settings, "database1")
    assert "55P03" in (outcome.error or "")
    assert (outcome.applied, outcome.left) == ((), 1)


async def test_a_project_that_connects_elsewhere_changes_nothing_there(
    house: World, tmp_path: Path, clean: None
) -> None:
    settings = project(house, tmp_path, "alembic", *STEPS)
    env, server = tmp_path / "migrations" / "env.py", house.server
    url = f"postgresql+psycopg://{server.superuser}:{server.password}@{server.host}:{server.port}/{house.main.name}"
    env.write_text(ENV.replace("engine =", f"section['sqlalchemy.url'] = {url!r}\nengine ="))
    (outcome,) = await run(house, settings, "database1")
    assert "connects to a database that is not the tenant's" in (outcome.error or "")
    assert server.password not in (outcome.error or "")
    async with house.main.connect() as conn:
        assert await conn.fetchval("SELECT to_regclass('alembic_version')") is None


async def test_a_migration_without_a_transaction_is_refused_where_rows_are_shared(
    house: World, tmp_path: Path, clean: None
) -> None:
    settings = project(house, tmp_path, "django", (ORDERS, ""), atomic=False)
    (outcome,) = await run(house, settings, "row1")
    assert "shop.0001_a1 is not atomic" in (outcome.error or "")
    (own,) = await run(house, settings, "schema1")
    assert own.error is None


async def test_what_cannot_be_loaded_or_named_is_told_before_anything_is_begun(house: World, tmp_path: Path) -> None:
    settings = project(house, tmp_path, "django", *STEPS)
    migrator = Migrator(settings)
    migrator.read()
    with pytest.raises(ConfigurationError, match=r"--to: is none of the project's migrations"):
        await migrator.run(places(house, settings), to="shop.0009_none")
    (tmp_path / "shopsettings.py").write_text("import a_package_that_is_not_there")
    with pytest.raises(ConfigurationError, match="cannot be loaded: ModuleNotFoundError"):
        Migrator(settings).read()
    with pytest.raises(ConfigurationError, match="django_settings is missing"):
        house.settings(migrations={"source": "django", "folder": "x"})
