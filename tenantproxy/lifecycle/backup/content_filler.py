"""How does a backup become the content of a tenant that is being made? Looks first: the step may run again."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import asyncpg

from tenantproxy.config import Settings
from tenantproxy.lifecycle.access import opened
from tenantproxy.lifecycle.acting import act_for, may_not_act
from tenantproxy.lifecycle.backup.content import compare, read_content, settle, snapshot_schemas
from tenantproxy.lifecycle.backup.crypt import Identities
from tenantproxy.lifecycle.backup.deadline import in_time, time_to_read
from tenantproxy.lifecycle.backup.dumped import dump_command
from tenantproxy.lifecycle.backup.errors import RestoreRefused
from tenantproxy.lifecycle.backup.loading import LoaderNeeds, discard, loading
from tenantproxy.lifecycle.backup.manifest import BackupManifest, Content, StoredBackup
from tenantproxy.lifecycle.backup.pg_restores import (
    Dump,
    defined,
    keeps_owners,
    restore_command,
)
from tenantproxy.lifecycle.backup.row_restore import advance_sequences, check_fit, fill_rows, has_rows, remove_rows
from tenantproxy.lifecycle.backup.row_tables import row_tables
from tenantproxy.lifecycle.backup.scratch import scratch_database, scratch_mark
from tenantproxy.lifecycle.backup.sessions import RowSessions
from tenantproxy.lifecycle.backup.store import check_files, find_backup
from tenantproxy.lifecycle.backup.tools import child_environment, run_piped
from tenantproxy.lifecycle.backup.verify import content_of, server_version
from tenantproxy.lifecycle.migrate.journal import ensure_journal, write_journal
from tenantproxy.lifecycle.provision import Wanted
from tenantproxy.lifecycle.provisioner import ConnectTo
from tenantproxy.model import Isolation, TenantStatus, quote_identifier

__all__ = ["BackupContent"]

_MAINTENANCE: Final = "postgres"
_IS_EMPTY: Final = """
SELECT NOT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                   WHERE n.nspname = ANY ($1) AND c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f')
                     AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
                                     AND d.deptype = 'e'))
"""
_NAMES_IT: Final = """
SELECT p.oid::regprocedure::text FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE n.nspname = ANY ($1) AND (position($2 in p.prosrc) > 0 OR position($2 in array_to_string(p.proconfig, ' ')) > 0)
ORDER BY 1
"""


class BackupContent:
    """What `Provisioner` fills a tenant with that has `restore_from`. `close` it at the end.

    `notes`: what an operator should hear of, collected. State: those, and the sessions of row tenants.
    """

    def __init__(self, settings: Settings, connect: ConnectTo, key_files: Sequence[str] = ()) -> None:
        self.notes: list[str] = []
        self._settings = settings
        self._connect = connect
        self._key_files = key_files
        self._sessions = RowSessions(settings)

    @property
    def identities(self) -> Identities:
        """The keys that read it; asked for when they are needed. Raises ConfigurationError."""
        return Identities.of(self._settings, self._key_files)

    async def close(self) -> None:
        """Closes its sessions."""
        await self._sessions.close()

    async def fill(self, wanted: Wanted) -> None:
        """Restore it, and compare. Raises BackupDamaged, RestoreRefused, ToolFailed, BackupFailed behind `[backup]
        timeout`, and what asyncpg raises.
        """
        assert wanted.restore_from is not None
        backup = find_backup(Path(wanted.restore_from), os.fspath(wanted.restore_from))
        await asyncio.to_thread(check_files, backup)  # again: it may be another day than that of the first try
        content = await content_of(backup, self.identities)
        async with in_time(time_to_read(self._settings, backup), f"restoring the backup {backup.id}"):
            if wanted.isolation is Isolation.ROW:
                await self._fill_rows(wanted, backup, content)
            else:
                await self._fill_place(wanted, backup, content)

    async def remove(self, wanted: Wanted) -> None:
        """Take the rows of a row tenant away again, and the role that read in what others are made of: that itself goes
        with their place.
        """
        if wanted.isolation is Isolation.ROW:
            async with self._sessions.transaction(wanted.tenant(TenantStatus.ACTIVE), readonly=False) as conn:
                await settle(conn)
                await remove_rows(conn, await row_tables(conn))
            return
        for database in (wanted.database, _MAINTENANCE):
            with suppress(asyncpg.InvalidCatalogNameError):  # it was not made yet, or has gone
                async with opened(self._connect, wanted.server, database) as conn:
                    await discard(conn, wanted.mark)

    async def check_rows(self, wanted: Wanted, content: Content) -> None:
        """Before anything is made: its tables have a place for them, and nothing is that tenant's already.

        Raises RestoreRefused.
        """
        async with self._sessions.transaction(wanted.tenant(TenantStatus.ACTIVE), readonly=True) as conn:
            await settle(conn)
            tables = await row_tables(conn)
            check_fit(content, tables)
            if (table := await has_rows(conn, tables)) is not None:
                raise RestoreRefused(
                    f"{table} has rows of a tenant {wanted.id} already", hint="restore it under another name: --as ID"
                )

    async def _fill_rows(self, wanted: Wanted, backup: StoredBackup, content: Content) -> None:
        async with self._sessions.transaction(wanted.tenant(TenantStatus.ACTIVE), readonly=False) as conn:
            await settle(conn)
            tables = await row_tables(conn)
            if await has_rows(conn, tables) is not None:
                return  # it was committed, whole, before a process died
            await fill_rows(conn, backup, content, tables, wanted.id, self.identities)
            async with opened(self._connect, wanted.server, wanted.database) as admin:
                await advance_sequences(conn, admin, tables)

    async def _fill_place(self, wanted: Wanted, backup: StoredBackup, content: Content) -> None:
        version = await server_version(self._connect, wanted.server)
        dump = Dump(self._settings, backup, server=wanted.server, server_version=version, identities=self.identities)
        moved = _moved(backup, wanted)
        async with opened(self._connect, wanted.server, wanted.database) as conn:
            schemas = list(moved.values()) or await snapshot_schemas(conn)
            await discard(conn, wanted.mark)
            roles = await self._renamed(conn, wanted, backup, content)
            if await conn.fetchval(_IS_EMPTY, schemas):
                await self._restore(wanted, dump, content, moved, roles)
            owners = {roles.get(each, each) for each in content.owners} if keeps_owners(content) else set[str]()
            if lacking := await act_for(conn, owners):
                raise may_not_act(roles[content.admin], lacking)
            if owners:
                await dump.give_owners(conn, roles=roles, owners=owners, schemas=moved)
            self.notes += await dump.give_access(conn, roles=roles, owners=owners, schemas=moved)
            if moved:
                await _write_journals(conn, backup.manifest, moved)
            async with conn.transaction(isolation="repeatable_read", readonly=True):
                found = await read_content(
                    conn, schemas if moved else await snapshot_schemas(conn), is_whole=not moved
                )  # fmt: skip
                compare(content, found, renamed=moved)

    async def _restore(
        self, wanted: Wanted, dump: Dump, content: Content, moved: Mapping[str, str], roles: Mapping[str, str]
    ) -> None:
        if all(old == new for old, new in moved.items()):
            self.notes += await dump.restore(
                self._connect, wanted.database, content, wanted.mark, schemas=list(moved.values()), roles=roles
            )  # fmt: skip
            return
        async with scratch_database(self._connect, wanted.server) as scratch:
            self.notes += await dump.restore(self._connect, scratch, content, scratch_mark(scratch), roles=roles)
            async with opened(self._connect, wanted.server, scratch) as conn:
                await _rename(conn, moved)
                for old, new in moved.items():
                    named = await conn.fetch(_NAMES_IT, list(moved.values()), old) if old != new else ()
                    self.notes += [f"the function {row[0]} names the schema {old}: look at it" for row in named]
            await self._copy(wanted, scratch, dump, content, list(moved.values()))

    async def _copy(self, wanted: Wanted, scratch: str, dump: Dump, content: Content, schemas: Sequence[str]) -> None:
        """The renamed schemas, from one database into the other, without a file in between."""
        server = self._settings.servers[wanted.server]
        needs = LoaderNeeds(is_whole=False, into=schemas, sees=sorted({name for _, name in content.extensions}))
        async with loading(self._connect, wanted.server, wanted.database, wanted.mark, needs) as loader:
            await run_piped(
                (dump_command(dump.tools, schemas), child_environment(server, scratch)),
                (
                    restore_command(dump.tools, wanted.database, schemas=schemas),
                    child_environment(server, wanted.database, loader=loader),
                ),
            )
            if keeps_owners(content):
                saved = await defined(dump.tools, child_environment(server, scratch), schemas=schemas)
                await dump.check_definitions(
                    self._connect, wanted.database, loader, saved, schemas=schemas, ours=set(schemas)
                )

    async def _renamed(
        self, conn: asyncpg.Connection, wanted: Wanted, backup: StoredBackup, content: Content
    ) -> dict[str, str]:
        """The roles that have others in their place: who made it, and whose SQL it served."""
        roles: dict[str, str] = {content.admin: await conn.fetchval("SELECT current_user::text")}
        if backup.manifest.role is not None:
            roles[backup.manifest.role] = wanted.role or self._settings.servers[wanted.server].user
        return roles


def _moved(backup: StoredBackup, wanted: Wanted) -> dict[str, str]:
    """What each schema of a schema tenant was called, and is called now; nothing for a whole database."""
    if backup.manifest.schema is None or wanted.schema is None:
        return {}
    now = dict(wanted.systems)
    return {backup.manifest.schema: wanted.schema} | {old: now[name] for name, old in backup.manifest.systems}


async def _rename(conn: asyncpg.Connection, moved: Mapping[str, str]) -> None:
    """In a database of its own; by names that none has, as the new name of one may be the old one of another."""
    async with conn.transaction():
        between = {old: f"tenantproxy_between_{number}" for number, old in enumerate(moved)}
        steps = [*between.items(), *((name, moved[old]) for old, name in between.items())]
        for old, new in steps:
            await conn.execute(f"ALTER SCHEMA {quote_identifier(old)} RENAME TO {quote_identifier(new)}")


async def _write_journals(conn: asyncpg.Connection, manifest: BackupManifest, moved: Mapping[str, str]) -> None:
    """What was applied to each schema before it was here."""
    assert manifest.schema is not None
    schemas = dict(manifest.systems)
    journals = {manifest.schema: manifest.migrations}
    journals |= {schemas[name]: applied for name, applied in manifest.system_migrations}
    if any(journals.values()):
        await ensure_journal(conn, is_own=False)
        for schema, applied in journals.items():
            await write_journal(conn, moved[schema], applied)
