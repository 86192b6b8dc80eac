"""Does what was saved come back as it was, and is what cannot come back refused, whatever breaks on the way?"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import asyncpg
import pyrage
import pytest
from typer.testing import CliRunner

from tenantproxy import ConfigurationError, Router
from tenantproxy.cli.main import app
from tenantproxy.config import Settings
from tenantproxy.embedded import EmbeddedPostgres
from tenantproxy.lifecycle.access import admin_connect
from tenantproxy.lifecycle.backup import (
    BackupContent,
    BackupDamaged,
    BackupFailed,
    BackupOutcome,
    BackupWriter,
    RestoreRefused,
    StoredBackup,
    backup_tenant,
    begin_run,
    find_backup,
    list_backups,
    newest_verified,
    restore_backup,
    restore_main,
    resume_run,
    run_all,
    verify_backup,
)
from tenantproxy.lifecycle.backup.crypt import Identities
from tenantproxy.lifecycle.backup.store import MAIN
from tenantproxy.lifecycle.backup.tools import ToolFailed
from tenantproxy.lifecycle.backup.verify import content_of
from tenantproxy.lifecycle.migrate import Migrator, targets_of
from tenantproxy.lifecycle.migrate.journal import read_journal, write_journal
from tenantproxy.lifecycle.provision import Provisioner, ProvisioningFailed, Wanted, wanted
from tenantproxy.model import Isolation, Placement, Tenant, TenantStatus, tenant_id
from tests.support.database import Database, fresh_database
from tests.support.lasting import lasting as kept
from tests.support.made_tenants import everything
from tests.support.made_tenants import remove as remove_place
from tests.support.saved_world import APPLIED, SHARED_TABLES, furnish_for_backups
from tests.support.waiting import until
from tests.support.world import World, a_world

KINDS: Final = (Isolation.DATABASE, Isolation.SCHEMA, Isolation.ROW)
ROWS: Final = " UNION ALL ".join(f"SELECT '{table}' || tenant_id FROM {table}" for table in SHARED_TABLES)
KEY: Final = pyrage.x25519.Identity.generate()


@asynccontextmanager
async def own_saved_world() -> AsyncIterator[World]:
    async with EmbeddedPostgres(version=18, durable=False, max_connections=60) as server:
        async with a_world(server, rows=2, schemas=1, databases=1, furnish=furnish_for_backups) as world:
            yield world


@pytest.fixture(scope="module")
def house() -> Iterator[World]:
    """A server for the tests of this file, whose tenants have what is hard to save."""
    with kept(own_saved_world()) as world:
        yield world


@pytest.fixture
async def unchanged(house: World) -> AsyncIterator[None]:
    """Whatever the test makes, it or what it tests removes again."""
    before = await everything(house, rows=ROWS)
    yield
    assert await everything(house, rows=ROWS) == before


def settings_of(
    world: World, folder: Path, *, servers: Mapping[str, Any] = MappingProxyType({}), **backup: object
) -> Settings:
    (folder / "key").write_text(f"# made by a test\n{KEY}\n")
    given = {"folder": str(folder / "saved"), "key_files": [str(folder / "key")], **backup}
    provision = {"shared_database": world.shared.name}
    return world.settings(registry="postgres", backup=given, provision=provision, servers=servers)


def of_kind(world: World, kind: Isolation) -> Tenant:
    return world.of(kind)[0]


async def remove(world: World, want: Wanted) -> None:
    """What a restore made, by hand, with its rows."""
    await remove_place(world, want)
    if want.isolation is Isolation.ROW:
        async with world.shared.connect() as shared:
            await shared.execute("BEGIN; SET CONSTRAINTS ALL DEFERRED")
            for table in SHARED_TABLES:
                await shared.execute(
                    f"SET session_replication_role = replica; DELETE FROM {table} WHERE tenant_id = '{want.id}'"
                )
            await shared.execute("COMMIT")


async def content(settings: Settings, tenant: str, kind: Isolation) -> list[Any]:
    """All that a tenant sees in its own session, without whose it is."""
    things = "SELECT id, size::text, body, part_of FROM things ORDER BY id"
    columns = "boss, id, name, mood::text, born::text, paid, tags, face, about, seen, empty, loud"
    people = f"SELECT {columns} FROM people ORDER BY id"
    queries = {
        Isolation.ROW: [
            people,
            "SELECT id, person, body FROM notes ORDER BY id",
            "SELECT at, what FROM events ORDER BY 1",
            "SELECT id, other FROM left_side",
            "SELECT id, name FROM projects ORDER BY 1",
        ]
    }.get(kind, [things, "SELECT id, name FROM projects ORDER BY 1"])
    async with Router(settings) as router:
        return [[tuple(row) for row in await router.tenant(tenant).fetch(query)] for query in queries]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_tenant_comes_back_under_another_name_with_all_that_it_had(
    house: World, tmp_path: Path, unchanged: None, kind: Isolation
) -> None:
    settings = settings_of(house, tmp_path, recipients=[str(KEY.to_public())] if kind is Isolation.SCHEMA else [])
    tenant = of_kind(house, kind)
    saved = await backup_tenant(settings, tenant)
    assert (await verify_backup(settings, saved)).verified_at is not None
    async with house.shared.connect() as conn:  # as on another server, whose sequences began later
        await conn.execute("ALTER TABLE people ALTER id RESTART; ALTER SEQUENCE notes_id_seq RESTART")
    restored = await restore_backup(settings, saved, as_id="again")
    assert await content(settings, "again", kind) == await content(settings, tenant.id, kind)
    async with Router(settings) as router:
        again = router.tenant("again")
        if kind is Isolation.ROW:
            most = await again.fetchval("SELECT max(id) FROM people")
            insert = "INSERT INTO people (tenant_id, name) VALUES ('again', 'x') RETURNING id"
            assert await again.fetchval(insert) == most + 1, "no number is given that a row of its has"
            assert await again.fetchval("SELECT nextval('notes_id_seq')") > await again.fetchval(
                "SELECT max(id) FROM notes"
            )
            assert await router.tenant("row2").fetchval("SELECT count(*) FROM people") == 1200
        else:
            assert await again.fetchval("INSERT INTO things (body) VALUES ('x') RETURNING id") == 51
            assert await again.fetchval("SELECT secret FROM sealed") == "for the operator alone"
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await again.execute("INSERT INTO sealed VALUES ('x')")
    if kind is Isolation.SCHEMA:
        assert restored.saga.wanted.schema is not None
        async with house.shared.connect() as conn:
            assert await read_journal(conn, restored.saga.wanted.schema) == [APPLIED]
    await remove(house, restored.saga.wanted)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_backup_that_was_changed_on_disk_is_named_and_nothing_is_made_of_it(
    house: World, tmp_path: Path, unchanged: None, kind: Isolation
) -> None:
    settings = settings_of(house, tmp_path)
    saved = await backup_tenant(settings, of_kind(house, kind))
    file = saved.path / max(saved.manifest.files, key=lambda each: each.bytes).name
    whole = file.read_bytes()
    for broken in (whole[:-1], bytes([*whole[:-1], whole[-1] ^ 1]), None):
        file.unlink() if broken is None else file.write_bytes(broken)
        for attempt in (verify_backup(settings, saved), restore_backup(settings, saved, as_id="again")):
            with pytest.raises(BackupDamaged, match=f"the file {file.name} of the backup {saved.id}"):
                await attempt
    assert await newest_verified(settings, of_kind(house, kind).id) is None


@pytest.mark.parametrize("kind", [Isolation.DATABASE, Isolation.ROW])
async def test_content_that_differs_from_the_manifest_is_never_called_verified_or_restored(
    house: World, tmp_path: Path, unchanged: None, kind: Isolation
) -> None:
    settings = settings_of(house, tmp_path)
    saved = await backup_tenant(settings, of_kind(house, kind))
    changed = forged(saved, lambda text: text.replace('"checksum": "', '"checksum": "9', 1))
    with pytest.raises(BackupDamaged, match=r"other rows"):
        await verify_backup(settings, changed)
    with pytest.raises(ProvisioningFailed, match=r"other rows.*all that was made for it is gone"):
        await restore_backup(settings, changed, as_id="again")


PLANTED: Final = r"""
CREATE FUNCTION public.ran(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $plant$
DECLARE attempt text; BEGIN
  IF current_database() = '{source}' THEN RETURN $1; END IF;
  FOREACH attempt IN ARRAY ARRAY[
    'ALTER ROLE {role} SUPERUSER', 'CREATE ROLE planted SUPERUSER', 'RESET ROLE; ALTER ROLE {role} CREATEROLE',
    'SET SESSION AUTHORIZATION {boss}; ALTER ROLE {role} CREATEDB', 'RESET SESSION AUTHORIZATION; CREATE ROLE planted',
    'SET ROLE {boss}; CREATE ROLE planted', 'GRANT pg_read_all_data TO {role}', 'GRANT {boss} TO {role}',
    'COPY (SELECT rolpassword FROM pg_catalog.pg_authid) TO ''{file}''', 'COPY (SELECT 1) TO PROGRAM ''touch {file}''',
    'SELECT lo_export(lo_from_bytea(0, ''x''), ''{file}'')', 'ALTER DATABASE "{source}" SET work_mem = 99',
    'ALTER SYSTEM SET work_mem = 99', 'CREATE EVENT TRIGGER planted ON ddl_command_end EXECUTE FUNCTION public.ran()',
    'CREATE TEMP TABLE planted ()', 'UPDATE pg_catalog.pg_authid SET rolsuper = true',
    'SELECT pg_catalog.pg_read_file(''PG_VERSION'')', 'SELECT count(*) FROM pg_catalog.pg_authid'
  ] LOOP
    BEGIN EXECUTE attempt; EXCEPTION WHEN OTHERS THEN CONTINUE; END;
    RAISE 'did as %: %', session_user, attempt;
  END LOOP;
  IF current_user <> session_user OR pg_has_role(session_user, '{boss}', 'MEMBER') THEN RAISE 'is more'; END IF;
  RETURN $1;
END $plant$;
CREATE DOMAIN public.asked AS int CHECK (public.ran(VALUE) > 0);
CREATE TABLE public.checked (n int CHECK (public.ran(n) > 0), d public.asked DEFAULT public.ran(1),
  made int GENERATED ALWAYS AS (public.ran(n)) STORED);
INSERT INTO public.checked VALUES (1);
CREATE MATERIALIZED VIEW public.shown AS SELECT public.ran(n) AS n FROM public.checked;
CREATE FUNCTION public.fires() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM public.ran(1); RETURN NEW; END';
CREATE TRIGGER fires BEFORE INSERT OR UPDATE ON public.checked FOR EACH ROW EXECUTE FUNCTION public.fires();
ALTER TABLE public.checked OWNER TO {role};
ALTER FUNCTION public.ran(int) OWNER TO {role};
ALTER MATERIALIZED VIEW public.shown OWNER TO {role};
ALTER DOMAIN public.asked OWNER TO {role};
"""
DROPPED: Final = (
    "DROP MATERIALIZED VIEW public.shown; DROP TABLE public.checked; DROP DOMAIN public.asked;"
    " DROP FUNCTION public.fires; DROP FUNCTION public.ran(int)"
)


async def test_nothing_that_a_tenant_planted_does_more_than_it_may_while_it_is_restored(
    house: World, tmp_path: Path, unchanged: None
) -> None:
    settings, tenant = settings_of(house, tmp_path), of_kind(house, Isolation.DATABASE)
    file, role, boss = tmp_path / "planted", house.role_of(tenant), house.server.superuser
    async with house.database(tenant).connect() as admin:
        power = "SELECT rolname, rolsuper, rolcreaterole, rolcreatedb, rolbypassrls FROM pg_roles ORDER BY 1"
        before = await admin.fetch(power)
        await admin.execute(PLANTED.format(source=tenant.placement.database, role=role, boss=boss, file=file))
        try:
            saved = await backup_tenant(settings, tenant)
        finally:
            await admin.execute(DROPPED)
        assert (await verify_backup(settings, saved)).verified_at is not None
        assert await admin.fetch(power) == before
        want = (await restore_backup(settings, saved, as_id="again")).saga.wanted
    assert not file.exists()
    async with Database(server=house.server, name=want.database).connect() as conn:
        owner = "SELECT pg_get_userbyid(relowner) FROM pg_class WHERE oid = $1::text::regclass"
        owners = {name: await conn.fetchval(owner, name) for name in ("checked", "shown", "things")}
        assert owners == {"checked": want.role, "shown": want.role, "things": boss}
        assert [tuple(row) for row in await conn.fetch("SELECT * FROM public.checked")] == [(1, 1, 1)]
    await remove(house, want)


MADE_MEANWHILE: Final = {
    "a function with the admin's rights": "CREATE FUNCTION public.boom() RETURNS int LANGUAGE sql SECURITY DEFINER"
    " AS 'SELECT 1'",
    "rights on a closed table": "GRANT SELECT ON public.sealed TO PUBLIC",
    "rights that come later": "ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO PUBLIC",
    "a trigger of the admin's table": "CREATE TRIGGER boom BEFORE UPDATE ON public.sealed FOR EACH ROW"
    " EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    "a cast of the admin's type": "CREATE CAST (public.size AS int) WITH FUNCTION public.ran(public.size) AS IMPLICIT",
    "a schema": "CREATE SCHEMA boom",
}


@pytest.mark.parametrize("attempt", MADE_MEANWHILE)
async def test_what_a_function_changes_while_it_is_restored_never_becomes_the_admin_users(
    house: World, tmp_path: Path, unchanged: None, attempt: str
) -> None:
    settings, tenant = settings_of(house, tmp_path), of_kind(house, Isolation.DATABASE)
    body = f"IF current_database() <> '{tenant.placement.database}' THEN"
    body += f" EXECUTE $e${MADE_MEANWHILE[attempt]}$e$; END IF; RETURN 1;"
    async with house.database(tenant).connect() as admin:
        await admin.execute(
            f"CREATE FUNCTION public.ran(public.size) RETURNS int LANGUAGE plpgsql AS $$BEGIN {body} END$$;"
            f" ALTER FUNCTION public.ran OWNER TO {house.role_of(tenant)};"
            " CREATE TABLE public.checked (s public.size CHECK (public.ran(s) > 0));"
            " INSERT INTO public.checked VALUES ('s')"
        )
        try:
            saved = await backup_tenant(settings, tenant)
        finally:
            await admin.execute("DROP TABLE public.checked; DROP FUNCTION public.ran")
    with pytest.raises(ProvisioningFailed, match=r"is defined otherwise than in the backup: .*made for it is gone"):
        await restore_backup(settings, saved, as_id="again")


GAINS: Final = {
    "a statement like those of the session": (
        "SELECT 1; END",
        "SELECT 1; SELECT pg_catalog.x FROM (SELECT public.mine() AS x) pg_catalog; END",
        "SELECT 2; END",
    ),
    "a statement of the tenant's own function": (
        "SELECT 1; END", "SELECT 1; SELECT public.mine() AS x; END", "SELECT 2 AS two; END"
    ),
}  # fmt: skip


@pytest.mark.parametrize("attempt", GAINS)
async def test_no_statement_comes_into_the_admin_users_function_while_it_is_restored(
    house: World, tmp_path: Path, unchanged: None, attempt: str
) -> None:
    settings, tenant = settings_of(house, tmp_path), of_kind(house, Isolation.DATABASE)
    was, becomes, own = GAINS[attempt]
    had = "SELECT 2 AS two; SELECT public.mine() AS x; END" if "own" in attempt else own
    guarded = "CREATE OR REPLACE FUNCTION public.guarded() RETURNS int LANGUAGE sql SECURITY DEFINER BEGIN ATOMIC"
    theirs = "CREATE OR REPLACE FUNCTION public.theirs() RETURNS int LANGUAGE sql BEGIN ATOMIC"
    body = f"IF current_database() <> '{tenant.placement.database}' THEN"
    body += f" EXECUTE $e${guarded} {becomes}$e$; EXECUTE $e${theirs} {own}$e$; END IF; RETURN 1;"
    role = house.role_of(tenant)
    async with house.database(tenant).connect() as admin:
        await admin.execute(
            "CREATE FUNCTION public.mine() RETURNS int LANGUAGE plpgsql AS $$BEGIN"
            " RETURN (SELECT rolsuper::int + 40 FROM pg_roles WHERE rolname = current_user); END$$;"
            f"{guarded} {was}; {theirs} {had};"
            f" CREATE FUNCTION public.ran(public.size) RETURNS int LANGUAGE plpgsql AS $$BEGIN {body} END$$;"
            f" ALTER FUNCTION public.ran OWNER TO {role}; ALTER FUNCTION public.mine OWNER TO {role};"
            f" ALTER FUNCTION public.theirs OWNER TO {role};"
            " CREATE TABLE public.checked (s public.size CHECK (public.ran(s) > 0));"
            " INSERT INTO public.checked VALUES ('s')"
        )
        try:
            saved = await backup_tenant(settings, tenant)
        finally:
            await admin.execute("DROP TABLE public.checked; DROP FUNCTION ran, guarded, theirs, mine")
    with pytest.raises(ProvisioningFailed, match="is defined otherwise than in the backup"):
        await restore_backup(settings, saved, as_id="again")


async def test_what_is_called_schema_comes_back_with_its_owners_and_rights(
    house: World, tmp_path: Path, unchanged: None
) -> None:
    settings, tenant = settings_of(house, tmp_path), of_kind(house, Isolation.DATABASE)
    role = house.role_of(tenant)
    async with house.database(tenant).connect() as admin:
        await admin.execute(
            f"CREATE TABLE public.schema (schema int); GRANT SELECT (schema) ON public.schema TO {role};"
            " CREATE FUNCTION public.of(schema int) RETURNS int LANGUAGE sql AS 'SELECT 1';"
            f" GRANT ALL ON FUNCTION public.of TO {role}; CREATE SCHEMA schema AUTHORIZATION {role}"
        )
        try:
            saved = await backup_tenant(settings, tenant)
        finally:
            await admin.execute("DROP TABLE public.schema; DROP FUNCTION public.of; DROP SCHEMA schema")
    assert (await verify_backup(settings, saved)).verified_at is not None
    restored = await restore_backup(settings, saved, as_id="again")
    async with Database(server=house.server, name=restored.saga.wanted.database).connect() as conn:
        owner = "SELECT pg_get_userbyid(nspowner) FROM pg_namespace WHERE nspname = 'schema'"
        assert await conn.fetchval(owner) == restored.saga.wanted.role
    await remove(house, restored.saga.wanted)


async def test_a_check_of_postgresqls_own_functions_has_no_rights_while_rows_are_read_in(
    house: World, tmp_path: Path, unchanged: None
) -> None:
    settings, tenant = settings_of(house, tmp_path), of_kind(house, Isolation.SCHEMA)
    schema, role = tenant.placement.schema, house.role_of(tenant)
    async with house.shared.connect() as admin:
        await admin.execute(
            f"CREATE TABLE {schema}.checked (n int CHECK (pg_catalog.pg_read_file('PG_VERSION') <> ''));"
            f" INSERT INTO {schema}.checked VALUES (1); ALTER TABLE {schema}.checked OWNER TO {role}"
        )
        try:
            saved = await backup_tenant(settings, tenant)
        finally:
            await admin.execute(f"DROP TABLE {schema}.checked")
    with pytest.raises(ToolFailed, match="permission denied for function pg_read_file"):
        await verify_backup(settings, saved)
    with pytest.raises(ProvisioningFailed, match=r"permission denied.*all that was made for it is gone"):
        await restore_backup(settings, saved, as_id="again")


async def test_an_admin_session_finds_nothing_of_a_tenants_in_the_place_of_what_postgresql_has(
    house: World, tmp_path: Path
) -> None:
    settings, tenant = settings_of(house, tmp_path), of_kind(house, Isolation.DATABASE)
    name = tenant.placement.database
    async with house.main.connect() as admin:
        await admin.execute(f'ALTER DATABASE "{name}" SET search_path = public, pg_catalog')
        try:
            conn = await admin_connect(settings)(tenant.placement.server, name)
            try:
                await conn.execute("RESET ALL")
                assert await conn.fetchval("SHOW search_path") == "pg_catalog"
            finally:
                await conn.close()
        finally:
            await admin.execute(f'ALTER DATABASE "{name}" RESET search_path')


def forged(saved: StoredBackup, change: Any) -> StoredBackup:
    """The same with another content, and a manifest that agrees with it."""
    path = saved.path / saved.manifest.content
    text = change(path.read_text())
    path.write_text(text)
    manifest = json.loads((saved.path / "manifest.json").read_text())
    for file in manifest["files"]:
        if file["name"] == path.name:
            file["sha256"], file["bytes"] = hashlib.sha256(text.encode()).hexdigest(), len(text.encode())
    (saved.path / "manifest.json").write_text(json.dumps(manifest))
    return find_backup(saved.path.parent.parent, saved.id)


async def test_a_backup_is_never_restored_over_a_tenant_or_next_to_its_rows(
    house: World, tmp_path: Path, unchanged: None
) -> None:
    settings = settings_of(house, tmp_path)
    saved = await backup_tenant(settings, of_kind(house, Isolation.ROW))
    for name in (None, "row2", "ROW2"):
        with pytest.raises(RestoreRefused, match=r"(?i)the tenant row[12] exists"):
            await restore_backup(settings, saved, as_id=name)
    async with house.shared.connect() as conn:
        await conn.execute("INSERT INTO events VALUES ('left-over', '2024-01-01', 'x')")
        with pytest.raises(RestoreRefused, match=r"public\.events has rows of a tenant left-over already"):
            await restore_backup(settings, saved, as_id="left-over")
        await conn.execute("DELETE FROM events WHERE tenant_id = 'left-over'")


@pytest.mark.parametrize("kind", KINDS)
async def test_a_process_that_dies_behind_the_filling_leaves_a_tenant_to_finish_or_abandon(
    house: World, tmp_path: Path, unchanged: None, monkeypatch: pytest.MonkeyPatch, kind: Isolation
) -> None:
    settings = settings_of(house, tmp_path)
    tenant = of_kind(house, kind)
    saved = await backup_tenant(settings, tenant)
    fill = BackupContent.fill

    async def dies(mine: BackupContent, wanted: Wanted) -> None:
        await fill(mine, wanted)
        raise ConnectionResetError("the process is gone")

    for ending in ("abandon", "finish"):
        monkeypatch.setattr(BackupContent, "fill", dies)
        with pytest.raises(ProvisioningFailed, match=r"it is at the step has_access"):
            await restore_backup(settings, saved, as_id="again")
        monkeypatch.setattr(BackupContent, "fill", fill)
        async with Provisioner(settings).open() as making:
            (saga,) = await making.store.unfinished("again")
            for ended in (making.finish(saga), making.abandon(saga)):
                with pytest.raises(ConfigurationError, match="is being restored from"):
                    await ended
        filler = BackupContent(settings, admin_connect(settings))
        async with Provisioner(settings, content=filler).open() as making:
            saga = await (making.abandon(saga) if ending == "abandon" else making.finish(saga))
        await filler.close()
        if ending == "finish":
            assert await content(settings, "again", kind) == await content(settings, tenant.id, kind)
            await remove(house, saga.wanted)


@pytest.mark.parametrize("kind", [Isolation.DATABASE, Isolation.ROW])
async def test_a_full_disk_is_told_and_leaves_nothing_of_the_backup(
    house: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Isolation
) -> None:
    settings = settings_of(house, tmp_path, recipients=[str(KEY.to_public())] if kind is Isolation.ROW else [])
    opened = os.open

    def full(path: Any, flags: int, mode: int = 0o777, **options: Any) -> int:
        is_data = str(path).endswith((".dump", ".copy.age")) and flags & os.O_CREAT
        return opened("/dev/full", os.O_WRONLY) if is_data else opened(path, flags, mode, **options)

    monkeypatch.setattr(os, "open", full)
    with pytest.raises(BackupFailed, match=r"no space is left in .*/saved"):
        await backup_tenant(settings, of_kind(house, kind))
    assert [path for path in (tmp_path / "saved").rglob("*") if path.parent.parent == tmp_path / "saved"] == []


@pytest.mark.parametrize("kind", KINDS)
async def test_a_connection_lost_while_saving_is_told_and_leaves_nothing(
    house: World, tmp_path: Path, kind: Isolation
) -> None:
    settings, tenant = settings_of(house, tmp_path), of_kind(house, kind)
    table = "people" if kind is Isolation.ROW else f"{tenant.placement.schema or 'public'}.things"
    waiting = "SELECT array_agg(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = $1"
    async with house.database(tenant).connect() as locking, house.main.connect() as looking:
        await locking.execute(f"BEGIN; LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
        saving = asyncio.create_task(backup_tenant(settings, tenant))

        async def is_waiting() -> Any:
            return await looking.fetchval(waiting, tenant.placement.database)

        await until(is_waiting, "a statement that waits for the table")
        await looking.execute("SELECT pg_terminate_backend(p) FROM unnest($1::int[]) p", await is_waiting())
        with pytest.raises(BackupFailed, match=f"the tenant {tenant.id} could not be saved"):
            await saving
    assert list((tmp_path / "saved" / tenant.id).iterdir()) == []


async def test_a_backup_that_is_cancelled_leaves_no_file_and_no_child(house: World, tmp_path: Path) -> None:
    settings, tenant = settings_of(house, tmp_path), of_kind(house, Isolation.DATABASE)
    dumping = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'tenantproxy backup'"
    async with house.database(tenant).connect() as locking, house.main.connect() as looking:
        await locking.execute("CREATE VIEW late AS SELECT 1 AS n")
        await locking.execute("BEGIN; LOCK TABLE late IN ACCESS EXCLUSIVE MODE")
        saving = asyncio.create_task(backup_tenant(settings, tenant))

        async def runs() -> bool:
            return bool(await looking.fetchval(dumping))

        await until(runs, "pg_dump that waits for the view")
        saving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await saving

        async def is_gone() -> bool:
            return not await looking.fetchval(dumping)

        await until(is_gone, "the end of pg_dump")
        await locking.execute("COMMIT; DROP VIEW late")
    assert list((tmp_path / "saved" / tenant.id).iterdir()) == []


async def test_rows_that_other_policies_hide_from_their_tenant_are_never_left_out_in_silence(
    house: World, tmp_path: Path
) -> None:
    settings = settings_of(house, tmp_path)
    async with house.shared.connect() as conn:
        await conn.execute("CREATE POLICY of_a_user ON notes AS RESTRICTIVE USING (id % 2 = 0)")
        try:
            with pytest.raises(BackupFailed, match=r"policies of public\.notes show the tenant \d+ of its 1200 rows"):
                await backup_tenant(settings, of_kind(house, Isolation.ROW))
        finally:
            await conn.execute("DROP POLICY of_a_user ON notes")


async def test_a_run_goes_on_where_it_was_interrupted_and_no_failure_stops_the_others(
    house: World, tmp_path: Path
) -> None:
    settings = settings_of(house, tmp_path, parallel=1)
    ghost = replace(of_kind(house, Isolation.DATABASE), id=tenant_id("ghost"))
    ghost = replace(ghost, placement=replace(ghost.placement, database="no_such_database"))
    tenants: dict[str, Tenant] = {each.id: each for each in (ghost, *house.tenants)}
    writer = BackupWriter(settings)

    class Died(Exception):
        pass

    def dies(outcome: BackupOutcome) -> None:
        if outcome.tenant == "row1":
            raise Died

    async with writer.open():
        with pytest.raises(Died):
            async with begin_run(writer.folder, [MAIN, "row1", "row2", "database1", "ghost"]) as run:
                await run_all(settings, writer, run, tenants, told=dies)
        journal = writer.folder / "_runs" / f"{run.id}.jsonl"
        journal.write_text(journal.read_text() + '{"tenant": "row2", "bac')  # it died while it wrote a line
        async with resume_run(writer.folder) as run:
            with pytest.raises(BackupFailed, match="another process works on the run"):
                async with resume_run(writer.folder):
                    pass
            outcomes = {each.tenant: each for each in await run_all(settings, writer, run, tenants)}
        async with resume_run(writer.folder) as run:
            again = await run_all(settings, writer, run, tenants)
    assert {name for name, each in outcomes.items() if each.again} == {MAIN, "row1"}
    assert "no_such_database" in (outcomes["ghost"].error or "")
    assert {name for name, each in outcomes.items() if each.error} == {"ghost"}
    assert {each.tenant for each in again if not each.again} == {"ghost"}
    assert len(list_backups(writer.folder)) == 4, "none was saved twice"


SYSTEMS: Final = """
CREATE TABLE {crm}.leads (id serial PRIMARY KEY, thing int REFERENCES {own}.things, name text);
INSERT INTO {crm}.leads (thing, name) SELECT n, 'lead ' || n FROM generate_series(1, 20) n;
CREATE VIEW {own}.led WITH (security_invoker = true) AS SELECT l.name, t.body FROM {crm}.leads l
  JOIN {own}.things t ON t.id = l.thing;
CREATE TABLE {billing}.bills (total numeric); INSERT INTO {billing}.bills VALUES (1.50);
GRANT SELECT ON {own}.led, {crm}.leads, {billing}.bills TO {role};
"""


@asynccontextmanager
async def with_systems(house: World, settings: Settings) -> AsyncIterator[Tenant]:
    """A schema tenant whose systems refer to it, and it to them; `crm` is migrated. It is gone behind the block."""
    rules = settings.provision.model_copy(update={"systems": ("crm", "billing")})
    ruled = settings.model_copy(update={"provision": rules})
    async with Provisioner(ruled).open() as making:
        want = (await making.create(wanted(ruled, "systemic", isolation=Isolation.SCHEMA))).wanted
    crm, billing = (schema for _, schema in want.systems)
    async with house.shared.connect() as conn:
        await conn.execute(f'CREATE TABLE "{want.schema}".things (id int PRIMARY KEY, body text)')
        await conn.execute(f"INSERT INTO \"{want.schema}\".things SELECT n, 't' || n FROM generate_series(1, 30) n")
        await conn.execute(SYSTEMS.format(own=want.schema, crm=crm, billing=billing, role=want.role))
        await write_journal(conn, crm, [APPLIED])
    try:
        yield want.tenant(TenantStatus.ACTIVE)
    finally:
        await removed(house, want)


async def removed(house: World, want: Wanted) -> None:
    async with house.shared.connect() as conn:
        for _, schema in want.systems:
            await conn.execute(f'DROP SCHEMA IF EXISTS "{schema}" CASCADE')
        await conn.execute("DELETE FROM tenantproxy_migrations.applied WHERE place LIKE 'tenant_%'")
    await remove_place(house, want)


async def of_systems(settings: Settings, tenant: str) -> list[Any]:
    async with Router(settings) as router:
        found = [await router.tenant(tenant).fetch("SELECT name, body FROM led ORDER BY 1")]
        for system, table in (("crm", "leads"), ("billing", "bills")):
            found.append(await router.tenant(tenant, system=system).fetch(f"SELECT * FROM {table} ORDER BY 1"))
        return [[tuple(row) for row in rows] for rows in found]


@pytest.mark.parametrize("name", ["systemic", "again"])
async def test_a_tenant_with_systems_comes_back_whole_by_any_name_or_leaves_nothing(
    house: World, tmp_path: Path, unchanged: None, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    settings = settings_of(house, tmp_path)
    async with with_systems(house, settings) as tenant:
        saved = await verify_backup(settings, await backup_tenant(settings, tenant))
        before = await of_systems(settings, tenant.id)
        if name == "again":
            await tried(house, settings, saved, name, before, monkeypatch)
    if name != "again":  # the first one is gone by now
        await tried(house, settings, saved, name, before, monkeypatch)


async def tried(
    house: World, settings: Settings, saved: StoredBackup, name: str, before: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A restore that dies behind the filling, is abandoned, and is made again."""
    fill = BackupContent.fill

    async def dies(mine: BackupContent, wanted: Wanted) -> None:
        await fill(mine, wanted)
        raise ConnectionResetError("the process is gone")

    async def ended(*, is_undone: bool) -> Wanted:
        monkeypatch.setattr(BackupContent, "fill", dies)
        with pytest.raises(ProvisioningFailed, match=r"it is at the step has_access"):
            await restore_backup(settings, saved, as_id=name)
        monkeypatch.setattr(BackupContent, "fill", fill)
        filler = BackupContent(settings, admin_connect(settings))
        async with Provisioner(settings, content=filler).open() as making:
            (saga,) = await making.store.unfinished(name)
            saga = await (making.abandon(saga) if is_undone else making.finish(saga))
        await filler.close()
        return saga.wanted

    await ended(is_undone=True)
    want = await ended(is_undone=False)
    assert await of_systems(settings, name) == before
    assert dict(want.systems).keys() == {"crm", "billing"}
    async with house.shared.connect() as conn:
        assert await read_journal(conn, dict(want.systems)["crm"]) == [APPLIED]
    await removed(house, want)


async def test_the_main_database_comes_back_as_a_new_one_and_never_over_another(
    house: World, tmp_path: Path, unchanged: None
) -> None:
    settings = settings_of(house, tmp_path)
    async with BackupWriter(settings).open() as writer:
        saved = await verify_backup(settings, await writer.save_main())
    with pytest.raises(RestoreRefused, match="there is a database"):
        await restore_main(settings, saved, database=house.main.name)
    with pytest.raises(RestoreRefused, match="of the main database, not of a tenant"):
        await restore_backup(settings, saved, as_id="again")
    assert await restore_main(settings, saved, database="main_again") == ()
    again = house.settings(registry="postgres", main={"server": "primary", "database": "main_again"})
    async with Router(again) as router:
        assert await router.tenant("row1").fetchval("SELECT count(*) FROM people") == 1200
    async with house.main.connect() as conn:
        await conn.execute("DROP DATABASE main_again WITH (FORCE)")


def test_an_operator_saves_tries_restores_and_prunes_from_the_command_line(house: World, tmp_path: Path) -> None:
    config = tmp_path / "tenantproxy.toml"
    admin = f'[servers.primary.admin]\nuser = "{house.server.superuser}"\npassword = "{house.server.password}"\n'
    provision = f'[provision]\nshared_database = "{house.shared.name}"\n'
    config.write_text(f'{house.toml()}{admin}{provision}[backup]\nfolder = "{tmp_path}/saved"\nkeep = 1\n')

    def rows(*args: str, code: int = 0) -> Any:
        done = CliRunner().invoke(app, ["backup", *args, "--config", str(config), "--json"])
        assert done.exit_code == code, done.output
        return json.loads(done.stdout) if done.stdout else done.output

    assert [row["state"] for row in rows("create", "row1", "row2", "--dry-run")] == ["would_save"] * 2
    assert [row["state"] for row in rows("create", "row1", "row2")] == ["saved", "saved"]
    assert [row["state"] for row in rows("create", "--resume")] == ["whole_before", "whole_before"]
    assert [row["tenant"] for row in rows("create", "main")] == ["main"]
    (first,) = rows("verify", "row1")
    assert first["verified_at"] is not None
    rows("create", "row1")
    assert rows("restore", first["backup"], "--as", "again", "--dry-run")["state"] == "would_restore"
    assert "a backup is never restored into one" in rows("restore", first["backup"], code=1)
    assert "there is no backup" in rows("restore", "globex", code=1)
    assert "it is not clear what to save" in rows("create", code=1)
    assert "tenant globex: is not registered" in rows("create", "globex", code=1)
    assert rows("prune") == [], "the older one was verified, and the newer one is the newest"
    newest = rows("list", "row1")[-1]["backup"]
    rows("verify", newest)
    assert rows("prune", "--dry-run") == [{"backup": first["backup"], "state": "would_remove"}]
    assert rows("prune") == [{"backup": first["backup"], "state": "removed"}]
    assert [row["backup"] for row in rows("list", "row1")] == [newest]
    damaged = tmp_path / "saved" / newest / "manifest.json"
    damaged.write_text("{")
    assert "was changed or cut off" in rows("list", code=1)[-1]["error"]


async def test_a_backup_under_four_writers_shows_one_moment(house: World, tmp_path: Path) -> None:
    settings, tenant = settings_of(house, tmp_path), of_kind(house, Isolation.DATABASE)
    written = 0
    is_over = False

    async def write() -> None:
        nonlocal written
        async with house.database(tenant).connect() as conn:
            while not is_over:
                async with conn.transaction():
                    await conn.execute("INSERT INTO things (body) VALUES ('written')")
                    await conn.execute("INSERT INTO sealed VALUES ('written')")
                written += 1

    writers = [asyncio.create_task(write()) for _ in range(4)]
    try:
        await until(lambda: written > 20, "writers that write")
        saved = await backup_tenant(settings, tenant)
    finally:
        is_over = True
        await asyncio.gather(*writers)
        async with house.database(tenant).connect() as conn:
            await conn.execute("DELETE FROM things WHERE body = 'written'; DELETE FROM sealed WHERE secret = 'written'")
    rows = {each.name: each.rows for each in (await content_of(saved, Identities())).tables}
    assert rows["things"] > 70
    assert rows["things"] - rows["sealed"] == 49, "what one transaction wrote is in it whole or not at all"
    assert (await verify_backup(settings, saved)).verified_at is not None


async def test_a_backup_of_an_older_version_comes_back_as_it_was_and_is_migrated(
    house: World, tmp_path: Path, unchanged: None
) -> None:
    settings, tenant = settings_of(house, tmp_path), of_kind(house, Isolation.DATABASE)
    saved = await backup_tenant(settings, tenant)
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "1_more.sql").write_text("ALTER TABLE things ADD more int")
    rules = house.settings(migrations={"folder": str(tmp_path / "files")}).migrations
    newer = settings.model_copy(update={"migrations": rules})
    restored = await restore_backup(newer, saved, as_id="again")
    assert "at no version of the migrations, and the newest is 1: tenantproxy migrate run" in restored.notes[-1]
    before, after = [await content(settings, name, Isolation.DATABASE) for name in (tenant.id, "again")]
    assert before == after
    migrator = Migrator(newer)
    migrator.read()
    (outcome,) = await migrator.run(targets_of(newer, [restored.saga.wanted.tenant(TenantStatus.ACTIVE)]))
    assert (outcome.error, outcome.applied) == (None, (1,))
    async with Router(newer) as router:
        assert await router.tenant("again").fetchval("SELECT count(*) FROM things WHERE more IS NULL") == 50
    async with house.main.connect() as conn:
        await conn.execute("DELETE FROM tenantproxy.migration_runs")
    await remove(house, restored.saga.wanted)


async def test_a_backup_goes_to_a_newer_server_and_never_to_an_older_one(
    house: World, postgres16: EmbeddedPostgres, tmp_path: Path, unchanged: None
) -> None:
    admin = {"user": postgres16.superuser, "password": postgres16.password}
    where = {"host": postgres16.host, "port": postgres16.port, "user": "app", "password": "", "ssl": "disable"}
    settings = settings_of(house, tmp_path, servers={"older": {**where, "admin": admin}})
    async with fresh_database(postgres16) as database:
        async with database.connect() as conn:
            await conn.execute("CREATE TABLE things AS SELECT n, n / 3.0::float8 AS third FROM generate_series(1, 9) n")
        place = Placement(isolation=Isolation.DATABASE, server="older", database=database.name)
        saved = await backup_tenant(settings, Tenant(id=tenant_id("old"), placement=place))
    assert (await verify_backup(settings, saved)).verified_at is not None
    restored = await restore_backup(settings, saved, as_id="again", server="primary")
    async with Database(server=house.server, name=restored.saga.wanted.database).connect() as conn:
        assert await conn.fetchval("SELECT sum(third) FROM things") == 15.0
    await remove(house, restored.saga.wanted)
    newer = await backup_tenant(settings, of_kind(house, Isolation.DATABASE))
    with pytest.raises(RestoreRefused, match="of PostgreSQL 18, and the server is 16, which is older"):
        await restore_backup(settings, newer, as_id="again", server="older")
