"""Is a tenant stopped and removed whole, whatever dies on the way, and is what others own left alone?"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator
from datetime import datetime, tzinfo
from pathlib import Path
from typing import Final

import asyncpg
import pytest

from benchmarks.lifecycle_status import callers, times
from tenantproxy import ConfigurationError, Router
from tenantproxy.config import Settings
from tenantproxy.errors import TenantNotFound, TenantProxyError, TenantSuspended
from tenantproxy.lifecycle.backup import newest_verified
from tenantproxy.lifecycle.change_store import ChangeHeld
from tenantproxy.lifecycle.doctor import examine
from tenantproxy.lifecycle.provision import Provisioner, wanted
from tenantproxy.lifecycle.status import (
    FolderBackups,
    archive,
    delete,
    delete_due,
    operations,
    removal,
    resume,
    suspend,
    undelete,
)
from tenantproxy.lifecycle.status.entry import look_up
from tenantproxy.model import Isolation, Tenant, TenantStatus
from tests.fault.conftest import Figure, own_world
from tests.fault.test_provisioning import settings_of
from tests.support.database import Database
from tests.support.lasting import lasting as kept
from tests.support.made_tenants import everything
from tests.support.mortal import Mortality
from tests.support.waiting import SLACK, until
from tests.support.world import World

KINDS: Final = (Isolation.DATABASE, Isolation.SCHEMA, Isolation.ROW)
EVERY: Final = int(os.environ.get("TENANTPROXY_TEST_EVERY", "11"))


@pytest.fixture(scope="module")
def house() -> Iterator[World]:
    with kept(own_world()) as world:
        yield world


@pytest.fixture
async def unchanged(house: World) -> AsyncIterator[None]:
    """Whatever the test makes is removed again by what it tests."""
    before = await everything(house)
    yield
    assert await everything(house) == before


@pytest.fixture
def settings(house: World, tmp_path: Path) -> Settings:
    return settings_of(house, tmp_path)


class Kept:
    """Backups that say what they were asked for."""

    def __init__(self) -> None:
        self.taken: list[str] = []

    async def newest_verified(self, tenant: Tenant, *, since: datetime) -> str | None:
        return None

    async def take(self, tenant: Tenant) -> str:
        self.taken.append(tenant.id)
        return f"of {tenant.id}"


_NAMES: Final = iter(f"t{number}" for number in range(10_000))


async def a_tenant(house: World, settings: Settings, kind: Isolation) -> str:
    """A name that no other test has: a name that was deleted is not given again."""
    name = next(_NAMES)
    async with Provisioner(settings, Mortality(house).connect()).open() as making:
        await making.create(wanted(settings, name, isolation=kind))
    if kind is Isolation.ROW:
        async with house.shared.connect() as shared:
            await shared.execute("INSERT INTO projects (tenant_id, name) VALUES ($1, 'one'), ($1, 'two')", name)
    return name


async def gone_for_long(world: World) -> None:
    async with world.main.connect() as conn:
        await conn.execute("UPDATE tenantproxy.sagas SET seen_at = now() - interval '5 minutes'")


async def heard(router: Router, name: str, status: TenantStatus) -> None:
    """The router knows of a change that was made: the announcement may come behind the command's end."""
    await until(lambda: (known := router.registry.peek(name)) is None or known.status is status, "it was heard")


async def drop(house: World, settings: Settings, name: str) -> None:
    await delete(settings, name, grace_days=0, no_backup=True)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_suspended_tenant_is_refused_by_server_and_registry_until_it_is_resumed(
    house: World, settings: Settings, unchanged: None, kind: Isolation
) -> None:
    name = await a_tenant(house, settings, kind)
    async with Router(settings) as router:
        await router.listener.listening.wait()
        count = await router.tenant(name).fetchval("SELECT count(*) FROM projects")
        stopped = await suspend(settings, name)
        assert (stopped.before, stopped.after, stopped.is_closed) == ("active", "suspended", True)
        await heard(router, name, TenantStatus.SUSPENDED)
        with pytest.raises(TenantSuspended, match="the tenant is suspended"):
            await router.tenant(name).fetchval("SELECT 1")
        again = await suspend(settings, name)
        assert again.before is TenantStatus.SUSPENDED
        await unaware_process_is_refused(house, settings, name)
        assert (await resume(settings, name)).after is TenantStatus.ACTIVE
        await heard(router, name, TenantStatus.ACTIVE)
        assert await router.tenant(name).fetchval("SELECT count(*) FROM projects") == count
    async with house.main.connect() as conn:
        assert await conn.fetchval("SELECT epoch FROM tenantproxy.tenants WHERE id = $1", name) == 1
    await drop(house, settings, name)


@pytest.mark.parametrize("kind", KINDS[:2])
async def test_a_reader_is_made_closed_and_dropped_with_its_tenant(
    house: World, settings: Settings, unchanged: None, kind: Isolation
) -> None:
    roles = settings.tenant_roles
    assert roles is not None
    settings = settings.model_copy(update={"tenant_roles": roles.model_copy(update={"readers": True})})
    name = await a_tenant(house, settings, kind)
    async with Router(settings) as router:
        db = router.tenant(name, read_only=True)
        assert await db.fetchval("SELECT name FROM projects") == "the first"
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await db.execute("DELETE FROM projects")
        async with db.connection() as lent:
            await suspend(settings, name)
            with pytest.raises((TenantProxyError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
                await lent.fetchval("SELECT 1")
        await unaware_process_is_refused(house, settings, name, reads=True)
    await drop(house, settings, name)


async def test_every_process_refuses_a_suspended_tenant_within_a_second(
    house: World, settings: Settings, unchanged: None, figure: Figure
) -> None:
    names = [await a_tenant(house, settings, kind) for kind in KINDS]
    async with callers(house.mapping(registry="postgres"), names) as two_processes:
        taken = [each for name in names for each in await times(settings, two_processes, name)]
    figure("slowest_process_seconds", max(taken))
    assert max(taken) < 1.0 + SLACK
    for name in names:
        await drop(house, settings, name)


async def unaware_process_is_refused(house: World, settings: Settings, name: str, *, reads: bool = False) -> None:
    """One that still takes the tenant for an active one reaches nothing of it."""
    async with house.main.connect() as conn:
        row = await conn.fetchrow("SELECT * FROM tenantproxy.tenants WHERE id = $1", name)
    assert row is not None
    entry = {key: row[key] for key in ("isolation", "database", "schema", "role") if row[key] is not None}
    alone = house.settings(tenants={name: entry}, tenant_roles={"readers": reads})
    async with Router(alone) as router:
        with pytest.raises(Exception, match=r"refused|42501|no valid tenant context|proof|log in"):
            await router.tenant(name, read_only=reads).fetchval("SELECT count(*) FROM projects")


@pytest.mark.parametrize("kind", KINDS)
async def test_a_process_that_dies_behind_any_statement_of_a_deletion_leaves_what_the_next_call_removes(
    house: World, settings: Settings, unchanged: None, kind: Isolation
) -> None:
    last = 0
    while True:
        last += EVERY
        name = await a_tenant(house, settings, kind)
        dying = Mortality(house, last)
        try:
            await delete(settings, name, grace_days=0, no_backup=True, connect=dying.connect())
        except (OSError, asyncpg.InterfaceError):
            assert dying.is_dead
        await gone_for_long(house)
        if dying.is_dead:
            try:
                assert (await delete(settings, name, grace_days=0, no_backup=True)).state == "deleted"
            except TenantNotFound:
                pass  # it died behind the last statement
        await is_gone(house, settings, name)
        if not dying.is_dead:
            break
    assert last > 20


async def is_gone(house: World, settings: Settings, name: str) -> None:
    async with house.shared.connect() as shared:
        assert await shared.fetchval("SELECT count(*) FROM projects WHERE tenant_id = $1", name) == 0
    with pytest.raises(TenantNotFound):
        await suspend(settings, name)


async def test_a_name_that_was_deleted_is_not_given_again_in_any_case(
    house: World, settings: Settings, unchanged: None
) -> None:
    name = await a_tenant(house, settings, Isolation.ROW)
    await drop(house, settings, name)
    async with Provisioner(settings).open() as making:
        for again in (name, name.upper()):
            with pytest.raises(ConfigurationError, match="was deleted, and a name is not given again"):
                await making.create(wanted(settings, again, isolation=Isolation.ROW))


async def test_a_deletion_is_taken_back_in_its_grace_and_not_behind_it(
    house: World, settings: Settings, unchanged: None
) -> None:
    name = await a_tenant(house, settings, Isolation.DATABASE)
    backups = Kept()
    deleted = await delete(settings, name, grace_days=3, backups=backups)
    assert (deleted.state, backups.taken) == ("waiting", [])
    with pytest.raises(ConfigurationError, match="was deleted already; what it has is removed from"):
        await delete(settings, name, grace_days=3, backups=backups)
    for refused in (suspend, resume):
        with pytest.raises(ConfigurationError, match="is being deleted"):
            await refused(settings, name)
    assert await delete_due(settings, backups=backups) == []
    assert (await undelete(settings, name)).after is TenantStatus.ACTIVE
    async with Router(settings) as router:
        assert await router.tenant(name).fetchval("SELECT count(*) FROM projects") == 1
    await delete(settings, name, grace_days=3, backups=backups)
    async with house.main.connect() as conn:
        await conn.execute(
            """UPDATE tenantproxy.sagas SET notes = notes || '{"final_at": 1}' WHERE state = 'waiting'"""
        )
    (done,) = await delete_due(settings, backups=backups)
    assert (done.state, done.backup, backups.taken) == ("deleted", f"of {name}", [name])
    with pytest.raises(ConfigurationError, match="was not deleted"):
        await undelete(settings, name)


async def test_a_grace_that_is_no_number_of_days_removes_nothing(house: World, settings: Settings) -> None:
    name = await a_tenant(house, settings, Isolation.ROW)
    for days in (float("nan"), float("inf"), -1.0):
        with pytest.raises(ConfigurationError, match="a number from 0"):
            await delete(settings, name, grace_days=days, no_backup=True)
    assert (await suspend(settings, name)).before is TenantStatus.ACTIVE
    await drop(house, settings, name)


async def test_nothing_is_removed_without_a_verified_backup(house: World, settings: Settings, unchanged: None) -> None:
    name = await a_tenant(house, settings, Isolation.SCHEMA)
    with pytest.raises(ConfigurationError, match="there is no backup of it"):
        await delete(settings, name, grace_days=0)
    assert (await undelete(settings, name)).after is TenantStatus.ACTIVE
    await drop(house, settings, name)


@pytest.mark.parametrize("kind", KINDS)
async def test_the_last_backup_is_made_and_verified_and_one_of_before_does_not_count(
    house: World, tmp_path: Path, unchanged: None, kind: Isolation
) -> None:
    settings = settings_of(house, tmp_path)
    folder = settings.backup.model_copy(update={"folder": str(tmp_path / "backups")})
    settings = settings.model_copy(update={"backup": folder})
    name = await a_tenant(house, settings, kind)
    backups = FolderBackups(settings)
    async with house.main.connect() as conn:
        tenant = await look_up(conn, settings, name)
    former = await backups.take(tenant)
    done = await delete(settings, name, grace_days=0, backups=backups)
    assert done.state == "deleted"
    assert done.backup not in (None, former)
    found = await newest_verified(settings, name)
    assert found is not None
    assert found.id == done.backup


async def test_a_row_tenant_is_not_fenced_while_its_last_backup_is_made_and_is_again_afterwards(
    house: World, settings: Settings, unchanged: None
) -> None:
    name = await a_tenant(house, settings, Isolation.ROW)
    seen: list[int] = []

    async def fences() -> int:
        async with house.shared.connect() as shared:
            query = "SELECT count(*) FROM tenantproxy.fenced_tenant WHERE tenant_id = $1"
            return int(await shared.fetchval(query, name))

    class Looking(Kept):
        async def take(self, tenant: Tenant) -> str:
            seen.append(await fences())
            return await super().take(tenant)

    await delete(settings, name, grace_days=3)
    assert await fences() == 1
    await delete(settings, name, grace_days=0, backups=Looking())
    assert (seen, await fences()) == ([0], 1)


async def test_rows_are_not_removed_before_those_who_saw_no_fence_have_ended(
    house: World, settings: Settings, unchanged: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(removal, "PATIENCE", 0.2)
    name = await a_tenant(house, settings, Isolation.ROW)
    backups = Kept()
    unaware = house.settings(tenants={name: {"isolation": "row", "database": house.shared.name}})
    async with Router(unaware) as router, house.shared.connect() as shared:
        scope = router.tenant(name).transaction(isolation="repeatable_read")
        older = await scope.__aenter__()
        pid = await older.fetchval("SELECT pg_backend_pid()")  # and its snapshot, in which nothing is fenced
        with pytest.raises(TenantProxyError, match=rf"may still write its rows: pid {pid} \(for \d+ s\)"):
            await delete(settings, name, grace_days=0, backups=backups)
        assert backups.taken == [], "what it holds would not be all"
        await older.execute("INSERT INTO projects (tenant_id, name) VALUES ($1, 'late')", name)
        await scope.__aexit__(None, None, None)
        assert await shared.fetchval("SELECT count(*) FROM projects WHERE tenant_id = $1", name) == 3
        done = await delete(settings, name, grace_days=0, backups=backups)
        assert (done.state, backups.taken) == ("deleted", [name])
    await is_gone(house, settings, name)


async def test_a_backup_of_before_does_not_count_where_the_commands_clock_is_behind(
    house: World, settings: Settings, unchanged: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Behind(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Behind:
            return cls.fromtimestamp(time.time() - 3600, tz)

    for module in (operations, removal):
        monkeypatch.setattr(module, "datetime", Behind)
    asked: list[datetime] = []

    class Asked(Kept):
        async def newest_verified(self, tenant: Tenant, *, since: datetime) -> str | None:
            asked.append(since)
            return None

    async with house.main.connect() as conn:
        for kind in KINDS:
            name = await a_tenant(house, settings, kind)
            before = await conn.fetchval("SELECT clock_timestamp()")
            await delete(settings, name, grace_days=0, backups=Asked())
            assert asked.pop() > before, kind


async def test_a_tenants_role_cannot_keep_itself_from_being_dropped(
    house: World, settings: Settings, unchanged: None
) -> None:
    name = await a_tenant(house, settings, Isolation.SCHEMA)
    async with Router(settings) as router:
        await router.tenant(name).execute("ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC")
    await drop(house, settings, name)


async def test_what_was_not_made_for_the_tenant_is_left_and_told(house: World, settings: Settings) -> None:
    async with house.main.connect() as conn:
        await conn.execute("CREATE DATABASE tenant_theirs")
        await conn.execute("CREATE ROLE tenant_theirs LOGIN")
        await conn.execute(
            "INSERT INTO tenantproxy.tenants (id, isolation, database, role)"
            " VALUES ('theirs', 'database', 'tenant_theirs', 'tenant_theirs')"
        )
        planned = await delete(settings, "theirs", dry_run=True)
        done = await delete(settings, "theirs", grace_days=0, no_backup=True)
        assert planned.left == done.left == ("database tenant_theirs", "role tenant_theirs")
        async with Database(server=house.server, name="tenant_theirs").connect() as theirs:
            assert await theirs.fetchval("SELECT 1") == 1
        await conn.execute("DROP DATABASE tenant_theirs")
        await conn.execute("DROP ROLE tenant_theirs")


async def test_two_operators_delete_one_tenant_once(house: World, settings: Settings, unchanged: None) -> None:
    name = await a_tenant(house, settings, Isolation.DATABASE)
    both = await asyncio.gather(
        *(delete(settings, name, grace_days=0, no_backup=True) for _ in range(2)), return_exceptions=True
    )
    done = [each for each in both if not isinstance(each, BaseException)]
    assert [each.state for each in done] == ["deleted"]
    (refused,) = [each for each in both if isinstance(each, BaseException)]
    assert isinstance(refused, ConfigurationError | ChangeHeld | TenantNotFound)


async def test_an_archived_tenant_stays_registered_and_is_resumed_only_with_what_it_had(
    house: World, settings: Settings, unchanged: None
) -> None:
    name = await a_tenant(house, settings, Isolation.SCHEMA)
    backups = Kept()
    assert (await archive(settings, name, backups=backups)).backup == f"of {name}"
    with pytest.raises(TenantSuspended, match="inactive"):
        async with Router(settings) as router:
            await router.tenant(name).fetchval("SELECT 1")
    assert (await resume(settings, name)).before is TenantStatus.INACTIVE
    dropped = await archive(settings, name, backups=backups, drop_place=True)
    assert (dropped.state, dropped.left) == ("archived", ())
    with pytest.raises(ConfigurationError, match="is archived, and what it had was removed"):
        await resume(settings, name)
    await drop(house, settings, name)


@pytest.mark.parametrize("kind", KINDS)
async def test_doctor_finds_nothing_wrong_with_a_suspended_or_archived_tenant(
    house: World, settings: Settings, unchanged: None, kind: Isolation
) -> None:
    name = await a_tenant(house, settings, kind)
    served = (await examine(settings)).findings
    await suspend(settings, name)
    assert (await examine(settings)).findings == served
    await archive(settings, name, backups=Kept())
    assert (await examine(settings)).findings == served
    await archive(settings, name, backups=Kept(), drop_place=True)
    assert (await examine(settings)).findings == served
    await drop(house, settings, name)


async def test_the_status_of_a_table_of_the_operators_is_written_by_its_own_statement(
    house: World, tmp_path: Path
) -> None:
    async with house.main.connect() as conn:
        await conn.execute("CREATE TABLE public.agencies (name text PRIMARY KEY, is_active boolean DEFAULT true)")
        await conn.execute("INSERT INTO public.agencies VALUES ('row1')")
        await conn.execute("GRANT SELECT ON public.agencies TO app; GRANT USAGE ON SCHEMA public TO app")
        query = (
            f"SELECT name AS id, 'row' AS isolation, '{house.shared.name}' AS database,"
            " CASE WHEN is_active THEN 'active' ELSE 'suspended' END AS status FROM agencies WHERE name"
        )
        queries = {"query": f"{query} = $1", "list_query": f"{query} > $1 ORDER BY 1 LIMIT $2"}
        without = house.settings(registry="postgres")
        without = without.model_copy(update={"registry": without.registry.model_copy(update=queries)})
        with pytest.raises(ConfigurationError, match=r"registry\.status_update"):
            await suspend(without, "row1")
        update = "UPDATE agencies SET is_active = $2::text = 'active' WHERE name = $1"
        registry = without.registry.model_copy(update={"status_update": update})
        settings = without.model_copy(update={"registry": registry})
        async with Router(settings) as router:
            await router.listener.listening.wait()
            assert await router.tenant("row1").fetchval("SELECT count(*) FROM projects") == 3
            assert (await suspend(settings, "row1")).is_closed
            await heard(router, "row1", TenantStatus.SUSPENDED)
            with pytest.raises(TenantSuspended):
                await router.tenant("row1").fetchval("SELECT 1")
            await resume(settings, "row1")
            await heard(router, "row1", TenantStatus.ACTIVE)
            assert await router.tenant("row1").fetchval("SELECT count(*) FROM projects") == 3
        await conn.execute("DROP TABLE public.agencies")


async def test_no_tenant_keeps_itself_from_being_suspended(house: World) -> None:
    shared = house.settings(registry="postgres")  # where rows of tenants are in the main database
    async with house.main.connect() as conn:
        await conn.execute("CREATE TABLE public.agencies (name text PRIMARY KEY, is_active boolean DEFAULT true)")
        await conn.execute("INSERT INTO public.agencies VALUES ('row1')")
        await conn.execute("GRANT SELECT ON public.agencies TO app; GRANT USAGE ON SCHEMA public TO app")
        query = (
            f"SELECT name AS id, 'row' AS isolation, '{house.shared.name}' AS database,"
            " CASE WHEN is_active THEN 'active' ELSE 'suspended' END AS status FROM agencies WHERE name"
        )
        update = "UPDATE agencies SET is_active = $2::text = 'active' WHERE name = $1"
        queries = {"query": f"{query} = $1", "list_query": f"{query} > $1 ORDER BY 1 LIMIT $2", "status_update": update}
        settings = shared.model_copy(update={"registry": shared.registry.model_copy(update=queries)})
        try:
            async with house.app(house.main) as hostile:
                await hostile.execute("SELECT pg_advisory_lock(hashtextextended('tenantproxy status row1', 0))")
                async with asyncio.timeout(10):
                    await suspend(settings, "row1")
        finally:
            await resume(settings, "row1")
            await conn.execute("DROP TABLE public.agencies")
