"""How does a saved tenant become a tenant again? By the saga that makes tenants, filled with the backup.

What cannot be is refused before anything is made; what fails on the way is undone by the saga, or left to be finished.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import asyncpg

from tenantproxy.config import Settings
from tenantproxy.errors import ConfigurationError, Problem
from tenantproxy.lifecycle.access import admin_connect, listed, opened
from tenantproxy.lifecycle.acting import cannot_act_for, let_read, may_not_act
from tenantproxy.lifecycle.backup.content import compare, read_content, snapshot_schemas
from tenantproxy.lifecycle.backup.content_filler import BackupContent
from tenantproxy.lifecycle.backup.crypt import Identities
from tenantproxy.lifecycle.backup.deadline import in_time, time_to_read
from tenantproxy.lifecycle.backup.errors import RestoreRefused
from tenantproxy.lifecycle.backup.manifest import BackupKind, Content, StoredBackup
from tenantproxy.lifecycle.backup.pg_restores import Dump, check_version, keeps_owners, known_roles
from tenantproxy.lifecycle.backup.scratch import drop_made
from tenantproxy.lifecycle.backup.store import check_files
from tenantproxy.lifecycle.backup.verify import content_of
from tenantproxy.lifecycle.migrate.files import read_folder
from tenantproxy.lifecycle.provision import Provisioner, Saga, Wanted, wanted
from tenantproxy.lifecycle.provision.wanted import temporary_name
from tenantproxy.lifecycle.provisioner import ConnectTo, create_closed
from tenantproxy.model import Isolation, quote_identifier

__all__ = ["Restored", "plan_restore", "restore_backup", "restore_main", "version_notes"]

_MAINTENANCE: Final = "postgres"


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """A tenant that is served again. `notes`: what an operator should look at."""

    saga: Saga
    notes: tuple[str, ...] = ()


async def restore_backup(
    settings: Settings,
    backup: StoredBackup,
    *,
    as_id: str | None = None,
    server: str | None = None,
    domain: str | None = None,
    connect: ConnectTo | None = None,
    key_files: Sequence[str] = (),
    key: str | None = None,
) -> Restored:
    """Make a tenant of `backup`, of its own identifier or `as_id`, on its own server or `server`.

    `domain`: for names by `[provision]` that have it. `key`: the saga's, by which it is told from others of that name.

    Raises RestoreRefused (nothing was begun), BackupDamaged, ConfigurationError, ProvisioningFailed, which says what
    became of it. Cancelled, the saga is left for `tenants finish` and `abandon`.
    """
    connect = connect or admin_connect(settings)
    filler = BackupContent(settings, connect, key_files)
    try:
        want = await _planned(settings, backup, _wanted(settings, backup, as_id, server, domain), connect, filler)
        async with Provisioner(settings, connect, content=filler).open() as making:
            saga = await making.create(want, key=key)
    finally:
        await filler.close()
    return Restored(saga=saga, notes=(*filler.notes, *version_notes(settings, backup)))


async def plan_restore(
    settings: Settings,
    backup: StoredBackup,
    *,
    as_id: str | None = None,
    server: str | None = None,
    domain: str | None = None,
    connect: ConnectTo | None = None,
    key_files: Sequence[str] = (),
) -> Wanted:
    """The tenant that `restore_backup` would make, with all that is looked at before; nothing is made. Raises as it."""
    connect = connect or admin_connect(settings)
    filler = BackupContent(settings, connect, key_files)
    try:
        return await _planned(settings, backup, _wanted(settings, backup, as_id, server, domain), connect, filler)
    finally:
        await filler.close()


async def _planned(
    settings: Settings, backup: StoredBackup, want: Wanted, connect: ConnectTo, filler: BackupContent
) -> Wanted:
    await _refuse_existing(settings, want)
    await asyncio.to_thread(check_files, backup)
    content = await content_of(backup, filler.identities)
    await _check_server(settings, connect, want, backup, content)
    if want.isolation is Isolation.ROW:
        await filler.check_rows(want, content)
    return want


def _wanted(
    settings: Settings, backup: StoredBackup, as_id: str | None, server: str | None, domain: str | None
) -> Wanted:
    manifest = backup.manifest
    if manifest.kind is BackupKind.MAIN:
        hint = "restore it under the name of a new database: --as NAME"
        raise RestoreRefused("this is a backup of the main database, not of a tenant", hint=hint)
    here = manifest.server if manifest.server in settings.servers else None
    want = wanted(
        settings, as_id or manifest.tenant, isolation=Isolation(manifest.kind.value), server=server or here,
        tier=manifest.tier, region=manifest.region, domain=domain, systems=[name for name, _ in manifest.systems],
    )  # fmt: skip
    if want.isolation is not Isolation.SCHEMA:
        want = replace(want, systems=manifest.systems)
    return replace(want, restore_from=os.fspath(backup.path.absolute()))


async def _refuse_existing(settings: Settings, want: Wanted) -> None:
    found, unusable = await listed(settings)
    taken = {each.id.lower() for each in found} | {name.lower() for name in unusable}
    if want.id.lower() in taken:
        raise RestoreRefused(
            f"the tenant {want.id} exists; a backup is never restored into one",
            hint="restore it under another name: --as ID",
        )


async def _check_server(
    settings: Settings, connect: ConnectTo, want: Wanted, backup: StoredBackup, content: Content
) -> None:
    async with opened(connect, want.server, _MAINTENANCE) as conn:
        version = await conn.fetchval("SELECT pg_catalog.current_setting('server_version_num')::int")
        if want.isolation is not Isolation.ROW:
            check_version(backup, version)
            await _check_owners(conn, backup, content)


async def _check_owners(conn: asyncpg.Connection, backup: StoredBackup, content: Content) -> None:
    """What runs with its owner's rights must not have more of them than before."""
    if keeps_owners(content):
        if missing := sorted(set(content.owners) - await known_roles(conn) - {backup.manifest.role}):
            raise RestoreRefused(
                f"what is in the backup belongs to roles that are not here: {', '.join(missing)}",
                hint="create them first: CREATE ROLE",
            )
        others = set(content.owners) - {backup.manifest.role, content.admin}
        if lacking := await cannot_act_for(conn, others):
            raise may_not_act(await conn.fetchval("SELECT current_user::text"), lacking)
        return
    would_gain = content.has_definers and not content.admin_is_superuser
    if would_gain and await conn.fetchval("SELECT rolsuper FROM pg_roles WHERE rolname = current_user"):
        raise RestoreRefused(
            "the backup has SECURITY DEFINER functions, which would run as a superuser here and did not before",
            hint="restore it with an admin user that is no superuser",
        )


def version_notes(settings: Settings, backup: StoredBackup) -> list[str]:
    """Whether what came back is older or newer than the migrations that there are."""
    if backup.manifest.kind is BackupKind.ROW or not settings.migrations.folder:
        return []
    files, had = read_folder(settings.migrations.folder), backup.manifest.version
    newest = files[-1].version if files else None
    if had == newest:
        return []
    told = "at no version" if had is None else f"at version {had}"
    if newest is None or (had is not None and had > newest):
        return [f"the backup is {told} of the migrations, newer than the files here: migrate with those that it had"]
    return [f"the backup is {told} of the migrations, and the newest is {newest}: tenantproxy migrate run"]


async def restore_main(
    settings: Settings,
    backup: StoredBackup,
    *,
    database: str,
    connect: ConnectTo | None = None,
    key_files: Sequence[str] = (),
) -> tuple[str, ...]:
    """Make a new database of a backup of the main database, with what was granted in it; notes as in `Restored`.

    The service goes on with the one that is configured. Raises RestoreRefused where there is a database of that name,
    BackupDamaged, ToolFailed, BackupFailed behind `[backup] timeout`, what asyncpg raises: nothing of it stays then.
    """
    connect = connect or admin_connect(settings)
    identities = Identities.of(settings, key_files)
    server = settings.main.server
    await asyncio.to_thread(check_files, backup)
    content = await content_of(backup, identities)
    mark = secrets.token_hex(16)
    temporary = temporary_name(mark)
    async with opened(connect, server, _MAINTENANCE) as conn:
        version = await conn.fetchval("SELECT pg_catalog.current_setting('server_version_num')::int")
        check_version(backup, version)
        if await conn.fetchval("SELECT true FROM pg_database WHERE datname = $1", database):
            raise RestoreRefused(f"there is a database {database}", hint="name one that is not there: --as NAME")
        dump = Dump(settings, backup, server=server, server_version=version, identities=identities)
        try:
            await create_closed(conn, temporary, template="template0")
            async with in_time(time_to_read(settings, backup), f"restoring the backup {backup.id}"):
                notes = await _fill_main(settings, connect, conn, dump, content, mark)
            await conn.execute(f"ALTER DATABASE {quote_identifier(temporary)} RENAME TO {quote_identifier(database)}")
        except BaseException:
            await asyncio.shield(drop_made(connect, conn, server, temporary))
            raise
    return notes


async def _fill_main(
    settings: Settings, connect: ConnectTo, conn: asyncpg.Connection, dump: Dump, content: Content, mark: str
) -> tuple[str, ...]:
    known, database = await known_roles(conn), temporary_name(mark)
    if missing := sorted(set(content.owners) - known - {content.admin}):
        problem = f"what is in the backup belongs to roles that are not here: {', '.join(missing)}"
        raise ConfigurationError([Problem(key="roles", problem=problem, fix="run: tenantproxy install")])
    if lacking := await cannot_act_for(conn, set(content.owners) - {content.admin}):
        raise may_not_act(await conn.fetchval("SELECT current_user::text"), lacking)
    roles: dict[str, str] = {content.admin: await conn.fetchval("SELECT current_user::text")}
    notes = await dump.restore(connect, database, content, mark, roles=roles)
    async with opened(connect, settings.main.server, database) as inside:
        owners = {roles.get(each, each) for each in content.owners}
        if keeps_owners(content):
            await dump.give_owners(inside, roles=roles, owners=owners)
        notes += await dump.give_access(inside, roles=roles, owners=owners)
        await let_read(inside, owners)
        async with inside.transaction(isolation="repeatable_read", readonly=True):
            compare(content, await read_content(inside, await snapshot_schemas(inside), is_whole=True))
    user = quote_identifier(settings.servers[settings.main.server].user)
    await conn.execute(f"GRANT CONNECT ON DATABASE {quote_identifier(database)} TO {user}")
    return tuple(notes)
