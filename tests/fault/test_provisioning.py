"""Does a tenant come to be whole or not at all, whatever dies on the way, and is what others own left alone?"""

from __future__ import annotations

import asyncio
import os
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final

import asyncpg
import pytest

from tenantproxy import ConfigurationError, Router
from tenantproxy.config import Settings
from tenantproxy.embedded import EmbeddedPostgres
from tenantproxy.lifecycle.migrate import Migrator, targets_of
from tenantproxy.lifecycle.provision import Provisioner, ProvisioningFailed, Saga, SagaHeld, SagaState, Wanted, wanted
from tenantproxy.lifecycle.provision.state import SagaEvent
from tenantproxy.lifecycle.provision.template import template_name
from tenantproxy.lifecycle.provisioner import change_grants
from tenantproxy.lifecycle.status import delete
from tenantproxy.model import Isolation, TenantStatus
from tests.fault.conftest import own_world
from tests.support.database import Database
from tests.support.lasting import lasting as kept
from tests.support.made_tenants import everything, remove
from tests.support.mortal import Mortality
from tests.support.waiting import PATIENCE, until
from tests.support.world import OWN_PROJECTS, World

KINDS: Final = (Isolation.DATABASE, Isolation.SCHEMA, Isolation.ROW)
EVERY: Final = int(
    os.environ.get("TENANTPROXY_TEST_EVERY", "7")
)  # statement behind which a process dies; 1: each of them
FILE: Final = f"{OWN_PROJECTS};\nINSERT INTO projects (name) VALUES ('the first');\n"


@pytest.fixture(scope="module")
def house() -> Iterator[World]:
    """A server for the tests of this file, in which nothing is left behind by any of them."""
    with kept(own_world()) as world:
        yield world


@pytest.fixture
async def unchanged(house: World) -> AsyncIterator[None]:
    """Whatever the test makes, it or what it tests removes again."""
    before = await everything(house)
    yield
    assert await everything(house) == before


@pytest.fixture
def settings(house: World, tmp_path: Path) -> Settings:
    return settings_of(house, tmp_path)


def settings_of(world: World, folder: Path, text: str = FILE, **provision: object) -> Settings:
    path = folder / "schema.sql"
    path.write_text(text)
    given = {"shared_database": world.shared.name, "sql_files": [str(path)], **provision}
    return world.settings(registry="postgres", provision=given)


def connecting(world: World) -> Mortality:
    return Mortality(world)


async def gone_for_long(world: World) -> None:
    """Who held a saga has been silent for longer than the others wait."""
    async with world.main.connect() as conn:
        await conn.execute("UPDATE tenantproxy.sagas SET seen_at = now() - interval '5 minutes'")


@asynccontextmanager
async def router_of(settings: Settings) -> AsyncIterator[Router]:
    async with Router(settings) as router:
        yield router


@pytest.mark.parametrize("kind", KINDS)
async def test_a_tenant_that_was_made_is_served_with_what_the_files_put_there(
    house: World, settings: Settings, unchanged: None, kind: Isolation
) -> None:
    async with Provisioner(settings, connecting(house).connect()).open() as making:
        saga = await making.create(wanted(settings, "acme-1", isolation=kind))
    assert saga.state is SagaState.ACTIVE
    async with router_of(settings) as router:
        rows = await router.tenant("acme-1").fetch("SELECT name FROM projects")
        assert [row["name"] for row in rows] == ([] if kind is Isolation.ROW else ["the first"])
    if saga.wanted.role is not None:
        other = Database(server=house.server, name=house.main.name)
        with pytest.raises(asyncpg.PostgresError):
            await other.open(saga.wanted.role, "x")
    await remove(house, saga.wanted)


@pytest.mark.parametrize("ending", ["finish", "abandon"])
@pytest.mark.parametrize("kind", KINDS)
async def test_a_process_that_dies_behind_any_statement_leaves_a_tenant_to_finish_or_to_abandon(
    house: World, settings: Settings, unchanged: None, kind: Isolation, ending: str
) -> None:
    async with Provisioner(settings, connecting(house).connect()).open() as making:  # the template is there
        await remove(house, (await making.create(wanted(settings, "warm", isolation=kind))).wanted)
    last = 0
    while True:
        last += EVERY
        dying = Mortality(house, last)
        saga: Saga | None = None
        try:
            async with Provisioner(settings, dying.connect()).open() as making:
                saga = await making.create(wanted(settings, "acme", isolation=kind), key=f"{kind} {ending} {last}")
        except (ProvisioningFailed, OSError, asyncpg.InterfaceError):
            assert dying.is_dead
        if not dying.is_dead:
            assert saga is not None
            await remove(house, saga.wanted)
            break
        await gone_for_long(house)
        async with Provisioner(settings, connecting(house).connect()).open() as making:
            for left in await making.store.unfinished():
                ended = await (making.finish(left) if ending == "finish" else making.abandon(left))
                assert ended.state is (SagaState.ACTIVE if ending == "finish" else SagaState.CLEANED)
        async with house.main.connect() as conn:
            if await conn.fetchval("SELECT status FROM tenantproxy.tenants WHERE id = 'acme'") == TenantStatus.ACTIVE:
                row = await conn.fetchval("SELECT max(id) FROM tenantproxy.sagas WHERE state = 'active'")
                want = await conn.fetchval("SELECT wanted::text FROM tenantproxy.sagas WHERE id = $1", row)
                await remove(house, Wanted.from_json(want))
    assert last > (10 if kind is Isolation.ROW else 40)


async def test_what_others_have_under_the_name_is_neither_adopted_nor_dropped(
    house: World, settings: Settings, unchanged: None
) -> None:
    async with house.main.connect() as conn, house.shared.connect() as shared:
        await conn.execute("CREATE DATABASE tenant_taken")
        await conn.execute("CREATE ROLE tenant_taken2")
        await conn.execute(f'GRANT CONNECT ON DATABASE "{house.shared.name}" TO tenant_taken2')
        await shared.execute("CREATE SCHEMA tenant_taken3 CREATE TABLE kept (n int)")
        async with Provisioner(settings, connecting(house).connect()).open() as making:
            for name, kind, what in (
                ("taken", Isolation.DATABASE, "database"),
                ("taken2", Isolation.DATABASE, "role"),
                ("taken2", Isolation.SCHEMA, "role"),
                ("taken3", Isolation.SCHEMA, "schema"),
            ):
                with pytest.raises(
                    ProvisioningFailed, match=f"there is a {what} tenant_{name} that was not made"
                ) as no:
                    await making.create(wanted(settings, name, isolation=kind))
                assert no.value.saga.state is SagaState.CLEANED
        assert await conn.fetchval("SELECT count(*) FROM pg_database WHERE datname = 'tenant_taken'") == 1
        granted = "SELECT has_database_privilege('tenant_taken2', $1, 'CONNECT')"
        assert await conn.fetchval(granted, house.shared.name)
        assert await shared.fetchval("SELECT count(*) FROM tenant_taken3.kept") == 0
        await shared.execute("DROP SCHEMA tenant_taken3 CASCADE")
        await conn.execute(f'REVOKE ALL ON DATABASE "{house.shared.name}" FROM tenant_taken2')
        await conn.execute("DROP ROLE tenant_taken2")
        await conn.execute("DROP DATABASE tenant_taken")


@pytest.mark.parametrize("kind", [Isolation.DATABASE, Isolation.SCHEMA])
async def test_a_file_that_fails_leaves_nothing_and_the_next_try_succeeds(
    house: World, tmp_path: Path, unchanged: None, kind: Isolation
) -> None:
    bad = settings_of(house, tmp_path, f"{FILE} SELECT 1 / 0;", template=False)
    async with Provisioner(bad, connecting(house).connect()).open() as making:
        with pytest.raises(ProvisioningFailed, match=r"22012: division by zero\. all that was made for it is gone"):
            await making.create(wanted(bad, "acme", isolation=kind))
    good = settings_of(house, tmp_path)
    async with Provisioner(good, connecting(house).connect()).open() as making:
        await remove(house, (await making.create(wanted(good, "acme", isolation=kind))).wanted)


@pytest.mark.parametrize("ending", ["finish", "abandon"])
async def test_a_connection_lost_in_a_migration_leaves_a_tenant_to_finish_or_abandon(
    house: World, tmp_path: Path, unchanged: None, ending: str
) -> None:
    kills = "SELECT pg_terminate_backend(pg_backend_pid()) FROM pg_roles WHERE rolname = 'server_is_restarted'"
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "1_more.sql").write_text(f"ALTER TABLE projects ADD more int; {kills};")
    rules = house.settings(migrations={"folder": str(tmp_path / "files")}).migrations
    settings = settings_of(house, tmp_path).model_copy(update={"migrations": rules})
    async with house.main.connect() as conn, Provisioner(settings).open() as making:
        await conn.execute("CREATE ROLE server_is_restarted")
        with pytest.raises(ProvisioningFailed, match="it is at the step has_access") as failed:
            await making.create(wanted(settings, "acme"))
        await conn.execute("DROP ROLE server_is_restarted")
        (saga,) = await making.store.unfinished()
        assert (saga.id, saga.state) == (failed.value.saga.id, SagaState.HAS_ACCESS)
        if ending == "abandon":
            assert (await making.abandon(saga)).state is SagaState.CLEANED
            return
        done = await making.finish(saga)
        async with router_of(settings) as router:
            assert await router.tenant("acme").fetchval("SELECT count(more) FROM projects") == 0
        await remove(house, done.wanted)


def mount(*arguments: str | Path) -> None:
    subprocess.run(["mount", *arguments], check=True, timeout=PATIENCE)


@contextmanager
def small_disk(server: EmbeddedPostgres) -> Iterator[Path]:
    """A file system of two megabytes, on which the server may write."""
    owner = server.data_dir.stat()
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        path = Path(name) / "disk"
        path.mkdir()
        options = f"size=2m,mode=700,uid={owner.st_uid},gid={owner.st_gid}"
        try:
            mount("-t", "tmpfs", "-o", options, "none", path)
        except subprocess.CalledProcessError:
            pytest.xfail("root of this machine may mount nothing, as in most containers")
        try:
            yield path
        finally:
            subprocess.run(["umount", "--lazy", path], check=True, timeout=PATIENCE)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount a small file system")
async def test_a_full_disk_undoes_a_step_says_so_and_stops_nothing_else(
    house: World, tmp_path: Path, unchanged: None
) -> None:
    with small_disk(house.server) as disk:
        async with house.main.connect() as conn:
            await conn.execute(f"CREATE TABLESPACE small LOCATION '{disk}'")
            fills = "CREATE TABLE filler TABLESPACE small AS SELECT n, md5(n::text) FROM generate_series(1, 99999) n;"
            settings = settings_of(house, tmp_path, f"{FILE} {fills}", template=False)
            async with Provisioner(settings).open() as making:
                with pytest.raises(ProvisioningFailed, match=r"53100: .*No space left.* made for it is gone again"):
                    await making.create(wanted(settings, "acme"))
            (tmp_path / "files").mkdir()
            (tmp_path / "files" / "1_filler.sql").write_text(fills)
            migrating = house.settings(migrations={"folder": str(tmp_path / "files")})
            migrator = Migrator(migrating)
            migrator.read()
            targets = targets_of(migrating, house.of(Isolation.DATABASE))
            (full,) = await migrator.run(targets)
            assert ("53100" in (full.error or ""), full.version, full.is_lost) == (True, None, False)
            await asyncio.to_thread(mount, "-o", "remount,size=64m", disk)
            (done,) = await migrator.run(targets)
            assert (done.error, done.applied) == (None, (1,))
            async with house.database(house.of(Isolation.DATABASE)[0]).connect() as inside:
                await inside.execute("DROP TABLE filler; DROP SCHEMA tenantproxy_migrations CASCADE")
            await conn.execute("DROP TABLESPACE small")


async def test_a_session_that_is_not_the_tenants_undoes_it(house: World, tmp_path: Path, unchanged: None) -> None:
    settings = settings_of(house, tmp_path, f"{FILE} ALTER ROLE tenant_acme BYPASSRLS;", template=False)
    async with Provisioner(settings, connecting(house).connect()).open() as making:
        with pytest.raises(ProvisioningFailed, match="BYPASSRLS"):
            await making.create(wanted(settings, "acme"))


async def test_two_operators_make_one_tenant_once(house: World, settings: Settings, unchanged: None) -> None:
    async with (
        Provisioner(settings, connecting(house).connect()).open() as one,
        Provisioner(settings, connecting(house).connect()).open() as two,
    ):
        want = wanted(settings, "acme")
        both = await asyncio.gather(one.create(want), two.create(wanted(settings, "acme")), return_exceptions=True)
        (saga,) = [each for each in both if isinstance(each, Saga)]
        (refused,) = [each for each in both if not isinstance(each, Saga)]
        assert isinstance(refused, ConfigurationError)
        assert "is being made already" in str(refused) or "exists already" in str(refused)
        await remove(house, saga.wanted)


async def test_a_request_that_is_made_again_with_its_key_is_not_done_twice(
    house: World, settings: Settings, unchanged: None
) -> None:
    async with Provisioner(settings, connecting(house).connect()).open() as making:
        first = await making.create(wanted(settings, "acme"), key="order 7")
        again = await making.create(wanted(settings, "acme"), key="order 7")
        assert (again.id, again.state) == (first.id, SagaState.ACTIVE)
        with pytest.raises(ConfigurationError, match="belongs to the tenant acme"):
            await making.create(wanted(settings, "globex"), key="order 7")
        await remove(house, first.wanted)


async def test_a_process_that_was_taken_for_dead_changes_nothing_more(
    house: World, settings: Settings, unchanged: None
) -> None:
    async with (
        Provisioner(settings, connecting(house).connect()).open() as slow,
        Provisioner(settings, connecting(house).connect()).open() as other,
    ):
        held = await slow.store.begin(wanted(settings, "acme"), "k")
        with pytest.raises(SagaHeld):
            await other.finish(held)
        await gone_for_long(house)
        saga = await other.finish(held)
        for change in (slow.store.move(held, SagaEvent.ROLE_MADE), slow.store.note(held, database=1)):
            with pytest.raises(SagaHeld):
                await change
        await remove(house, saga.wanted)


async def test_a_template_is_sealed_and_goes_when_the_files_change(house: World, tmp_path: Path) -> None:
    async def templates() -> list[str]:
        query = "SELECT datname::text FROM pg_database WHERE datname LIKE 'tenantproxy_template%' ORDER BY 1"
        async with house.main.connect() as conn:
            return [row[0] for row in await conn.fetch(query)]

    for text in (FILE, f"{FILE} SELECT 1;"):
        settings = settings_of(house, tmp_path, text)
        async with Provisioner(settings, connecting(house).connect()).open() as making:
            await remove(house, (await making.create(wanted(settings, "acme"))).wanted)
        assert await templates() == [template_name([text])]
        with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError):
            await Database(server=house.server, name=template_name([text])).open()


async def test_a_database_with_a_templates_name_is_copied_only_where_we_made_it(
    house: World, tmp_path: Path, unchanged: None
) -> None:
    settings = settings_of(house, tmp_path, f"{FILE} SELECT 2;")
    name = template_name([f"{FILE} SELECT 2;"])

    async def leads() -> bool:
        async with Provisioner(settings, connecting(house).connect()).open() as making:
            want = (await making.create(wanted(settings, "acme"))).wanted
        async with Database(server=house.server, name=want.database).connect() as conn:
            found = bool(await conn.fetchval("SELECT to_regclass('planted') IS NOT NULL"))
        await remove(house, want)
        return found

    async with house.main.connect() as conn:
        await conn.execute("CREATE ROLE planter CREATEDB LOGIN PASSWORD 'x'")
        await conn.execute(f"CREATE DATABASE {name} OWNER planter")
        try:
            async with Database(server=house.server, name=name).connect() as inside:
                await inside.execute("CREATE TABLE planted ()")
            for state in ("false IS_TEMPLATE false", "false IS_TEMPLATE true"):
                await conn.execute(f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS {state}")
                with pytest.raises(ProvisioningFailed, match=f"database {name} that tenantproxy did not make"):
                    await leads()
            await conn.execute(f"ALTER DATABASE {name} OWNER TO CURRENT_USER")  # as of a release that gave no sign
            assert not await leads(), "it is made again"
            await conn.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
            with pytest.raises(ProvisioningFailed, match="or that can be changed"):
                await leads()
        finally:
            await conn.execute(f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS false IS_TEMPLATE false")
            await conn.execute(f"DROP DATABASE {name}")
            await conn.execute("DROP ROLE planter")


async def test_a_tenant_that_is_active_cannot_be_abandoned(house: World, settings: Settings, unchanged: None) -> None:
    async with Provisioner(settings, connecting(house).connect()).open() as making:
        saga = await making.create(wanted(settings, "acme"))
        with pytest.raises(SagaHeld):
            await making.abandon(saga)
        await remove(house, saga.wanted)


def test_what_is_not_configured_is_told_all_at_once_before_anything_is_begun(house: World) -> None:
    settings = house.settings(servers={"primary": {"admin": None}})
    with pytest.raises(ConfigurationError) as told:
        wanted(settings, "acme", isolation=Isolation.SCHEMA)
    keys = {problem.key for problem in told.value.problems}
    assert keys == {"registry", "servers.primary.admin", "provision.shared_database"}


async def test_grants_to_other_tenants_meanwhile_fail_neither_making_nor_removing(
    house: World, settings: Settings, unchanged: None
) -> None:
    shared = house.shared.name
    waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = $1 AND wait_event_type = 'Lock'"

    async def is_waiting() -> bool:
        return bool(await other.fetchval(waits, shared))

    async with house.shared.connect() as conn, house.shared.connect() as other, Provisioner(settings).open() as making:
        want = wanted(settings, "among_others", isolation=Isolation.SCHEMA)
        for work in (lambda: making.create(want), lambda: delete(settings, want.id, grace_days=0, no_backup=True)):
            async with conn.transaction():
                await change_grants(conn, f'GRANT CONNECT ON DATABASE "{shared}" TO PUBLIC')
                task = asyncio.ensure_future(work())
                await until(is_waiting, "it waits for the other change")
                await conn.execute(f'REVOKE ALL ON DATABASE "{shared}" FROM PUBLIC')
            await task


async def test_no_tenant_of_a_shared_database_keeps_others_from_being_made_and_removed(
    house: World, settings: Settings, unchanged: None
) -> None:
    every = "SELECT pg_advisory_lock(hashtextextended('tenantproxy grants on ' || current_database(), 0))"
    async with house.app(house.shared) as hostile:  # as any tenant's SQL in it
        await hostile.execute(every)
        async with asyncio.timeout(15), Provisioner(settings).open() as making:
            want = wanted(settings, "not_held_up", isolation=Isolation.SCHEMA)
            await making.create(want)
            await delete(settings, want.id, grace_days=0, no_backup=True)
