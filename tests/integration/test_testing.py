"""Do the fixtures for applications find the hole that a test plants, and leave a sound application alone?"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from importlib.metadata import entry_points

import pytest

from tenantproxy import Router, TenantScope, current, use
from tenantproxy.testing import IsolationLeak, LeakGuard, assert_isolated
from tests.support.world import World

pytest_plugins = ["pytester"]

READ = "SELECT name FROM projects"


async def write(db: TenantScope, text: str) -> None:
    await db.execute("INSERT INTO projects (tenant_id, name) VALUES ($2, $1)", text, db.id)


async def read(db: TenantScope) -> object:
    return await db.fetch(READ)


async def test_tenants_that_are_apart_are_found_to_be(world: World) -> None:
    async with Router(world.settings()) as router:
        await assert_isolated(router, "row1", "row2", write=write, read=read)


async def test_a_table_without_a_policy_is_found(world: World) -> None:
    async with world.shared.connect() as admin:
        await admin.execute("CREATE TABLE notes (tenant_id text, name text); GRANT SELECT, INSERT ON notes TO app")

    async def note(db: TenantScope, text: str) -> None:
        await db.execute("INSERT INTO notes VALUES ($1, $2)", db.id, text)

    async def notes(db: TenantScope) -> object:
        return {"notes": [dict(row) for row in await db.fetch("SELECT name FROM notes")]}

    async with Router(world.settings(row={"unprotected": ["public.notes"]})) as router:
        with pytest.raises(IsolationLeak, match="row1 is shown what row2 wrote"):
            await assert_isolated(router, "row1", "row2", write=note, read=notes)


async def test_a_cache_without_the_tenant_in_its_key_is_found(world: World) -> None:
    cached: dict[str, object] = {}

    async def cached_read(db: TenantScope) -> object:
        if "projects" not in cached:
            cached["projects"] = await read(db)
        return cached["projects"]

    async with Router(world.settings()) as router:
        with pytest.raises(AssertionError):
            await assert_isolated(router, "row1", "row2", write=write, read=cached_read)


async def test_a_tenant_that_is_kept_in_a_global_is_found(world: World) -> None:
    """It goes wrong only where both ask at once."""
    kept: list[TenantScope] = []

    async def global_read(db: TenantScope) -> object:
        kept[:] = [db]
        await asyncio.sleep(0)
        return await read(kept[0])

    async with Router(world.settings()) as router:
        with pytest.raises(IsolationLeak):
            await assert_isolated(router, "row1", "row2", write=write, read=global_read)


async def test_a_read_that_shows_nothing_proves_nothing(world: World) -> None:
    async def blind(db: TenantScope) -> object:
        return []

    async with Router(world.settings()) as router:
        with pytest.raises(AssertionError, match="nothing can be proven"):
            await assert_isolated(router, "row1", "row2", write=write, read=blind)


async def test_the_code_runs_with_its_tenant_as_the_current_one(world: World) -> None:
    async def own(db: TenantScope) -> object:
        assert current() is db
        return await read(current())

    async with Router(world.settings()) as router:
        await assert_isolated(router, "schema1", "schema2", write=insert, read=own)


async def insert(db: TenantScope, text: str) -> None:
    await db.execute("INSERT INTO projects (name) VALUES ($1)", text)


# --- the guard -------------------------------------------------------------------------------------------------------
SHOWN: dict[str, Callable[[str], object]] = {
    "text": lambda text: f"<li>{text}</li>",
    "bytes": lambda text: f"[{text}]".encode(),
    "rows": lambda text: [{"id": 1, "name": text}],
    "nested": lambda text: {"a": [("b", {"c": text})]},
    "a key": lambda text: {text: 1},
    "an exception": ValueError,
}


@pytest.mark.parametrize("shown", SHOWN)
def test_a_secret_is_found_in_whatever_another_tenant_is_shown(shown: str) -> None:
    guard = LeakGuard()
    text = guard.secret("acme")
    assert guard.secret("acme") == text != guard.secret("globex")
    guard.saw("acme", SHOWN[shown](text))
    with pytest.raises(IsolationLeak, match="globex is shown what belongs to acme"):
        guard.saw("globex", "nothing", SHOWN[shown](text))


async def test_a_connection_that_is_kept_and_a_tenant_that_stays_set_are_found(world: World) -> None:
    guard = LeakGuard()
    async with guard.watch(Router(world.settings())) as router:
        await router.main().fetchval("SELECT 1")
        await router.tenant("row1").fetchval("SELECT 1")
        guard.check()  # it listens to its main database: that is its own affair
        kept = router.tenant("row1").connection()
        await kept.__aenter__()
        with pytest.raises(AssertionError, match="connections are still lent: row1 1"):
            guard.check()
        kept.end()
        with use(router.tenant("row2")), pytest.raises(AssertionError, match="row2 is still set"):
            guard.check()
        guard.check()


# --- the plugin ------------------------------------------------------------------------------------------------------
PROGRAM = """
import asyncio

import tenantproxy


async def insert(db, text):
    await db.execute("INSERT INTO projects (tenant_id, name) VALUES ($1, $2)", db.id, text)


async def projects(db):
    return await db.fetch("SELECT name FROM projects")


KEPT = {}


async def cached(db):
    return KEPT.setdefault("projects", await projects(db))


def isolated(two_tenants, assert_isolated, read):
    async def run():
        async with two_tenants.router() as router:
            await assert_isolated(router, two_tenants.first, two_tenants.second, write=insert, read=read)

    asyncio.run(run())


def test_sound(two_tenants, assert_isolated):
    assert (two_tenants.first, two_tenants.second) == ("row1", "row2")
    isolated(two_tenants, assert_isolated, projects)


def test_hole(two_tenants, assert_isolated):
    isolated(two_tenants, assert_isolated, cached)


def test_guarded(leak_guard):
    leak_guard.saw("acme", leak_guard.secret("acme"))


def test_leaking(leak_guard):
    leak_guard.saw("globex", leak_guard.secret("acme"))


def test_kept(leak_guard, fake_router):
    asyncio.run(leak_guard.watch(fake_router).tenant("acme").connection().__aenter__())


def test_fake(fake_router):
    fake_router.on("select 1", [{"one": 1}])
    assert asyncio.run(fake_router.tenant("globex").fetchval("SELECT  1")) == 1
"""


def test_pytest_loads_the_plugin_where_tenantproxy_is_installed() -> None:
    (entry,) = [each for each in entry_points(group="pytest11") if each.name == "tenantproxy"]
    assert {"two_tenants", "leak_guard", "assert_isolated", "fake_router"} <= vars(entry.load()).keys()


@pytest.fixture
def run_application(pytester: pytest.Pytester) -> Callable[..., pytest.RunResult]:
    def run(*options: str) -> pytest.RunResult:
        pytester.makepyfile(PROGRAM)
        plugins = ("-p", "no:tenantproxy", "-p", "tenantproxy.testing.plugin", "-p", "no:randomly")
        return pytester.runpytest_subprocess(*plugins, *options)

    return run


def test_an_applications_holes_fail_its_tests_and_nothing_else_does(
    world: World, pytester: pytest.Pytester, run_application: Callable[..., pytest.RunResult]
) -> None:
    pytester.makefile(".toml", tenantproxy=world.toml())
    pytester.makeini("[pytest]\ntenantproxy_config = tenantproxy.toml\ntenantproxy_tenants = row1 row2\n")
    ended = run_application()
    ended.assert_outcomes(passed=4, failed=2, errors=1)
    ended.stdout.fnmatch_lines_random(
        ["*AssertionError: row2 does not read what it wrote*", "*globex is shown what belongs to acme*",
         "*connections are still lent: fake 1*"]
    )  # fmt: skip


def test_without_a_configuration_it_is_said_how_to_give_one(run_application: Callable[..., pytest.RunResult]) -> None:
    ended = run_application("-k", "sound or fake")
    ended.assert_outcomes(passed=1, errors=1)
    ended.stdout.fnmatch_lines(["*two_tenants needs a configuration: --tenantproxy-config FILE*"])
