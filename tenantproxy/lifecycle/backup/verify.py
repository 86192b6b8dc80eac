"""Can a backup be restored, and is what comes back what was saved? Tried in a place of its own that is then gone."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Final

import asyncpg

from tenantproxy.config import Settings
from tenantproxy.lifecycle.access import opened
from tenantproxy.lifecycle.backup.content import compare, read_content, settle, snapshot_schemas
from tenantproxy.lifecycle.backup.crypt import Identities
from tenantproxy.lifecycle.backup.deadline import in_time, time_to_read
from tenantproxy.lifecycle.backup.errors import BackupDamaged
from tenantproxy.lifecycle.backup.manifest import BackupKind, Content, SavedTable, StoredBackup
from tenantproxy.lifecycle.backup.pg_restores import Dump, check_version
from tenantproxy.lifecycle.backup.row_restore import compare_rows
from tenantproxy.lifecycle.backup.scratch import scratch_database, scratch_mark
from tenantproxy.lifecycle.backup.store import check_files, note_verified
from tenantproxy.lifecycle.backup.streams import read_text, reading_lines
from tenantproxy.lifecycle.provisioner import ConnectTo
from tenantproxy.model import quote_identifier

__all__ = ["content_of", "server_version", "verify"]

_CHUNK: Final = 256 * 1024


async def verify(settings: Settings, connect: ConnectTo, backup: StoredBackup, identities: Identities) -> StoredBackup:
    """Restore it into a scratch place of its server, or of the main database's, and compare.

    What held is written next to its manifest. Raises BackupDamaged, RestoreRefused (an older server), ToolFailed, what
    asyncpg raises, OSError, BackupFailed behind `[backup] timeout`.
    """
    server = backup.manifest.server if backup.manifest.server in settings.servers else settings.main.server
    await asyncio.to_thread(check_files, backup)
    content = await content_of(backup, identities)
    async with in_time(time_to_read(settings, backup), f"trying the backup {backup.id}"):
        if backup.manifest.kind is BackupKind.ROW:
            await _verify_rows(connect, backup, content, identities)
        else:
            await _verify_dump(settings, connect, backup, content, server, identities)
    return await asyncio.to_thread(note_verified, backup, datetime.now(UTC))


async def content_of(backup: StoredBackup, identities: Identities) -> Content:
    """What it holds. Raises BackupDamaged, ConfigurationError without a key for it."""
    return Content.from_json(await read_text(backup, backup.manifest.content, identities))


async def server_version(connect: ConnectTo, server: str, database: str = "postgres") -> int:
    """As `server_version_num`."""
    async with opened(connect, server, database) as conn:
        return int(await conn.fetchval("SELECT pg_catalog.current_setting('server_version_num')"))


async def _verify_dump(
    settings: Settings, connect: ConnectTo, backup: StoredBackup, content: Content, server: str, identities: Identities
) -> None:
    version = await server_version(connect, server)
    check_version(backup, version)
    dump = Dump(settings, backup, server=server, server_version=version, identities=identities)
    async with scratch_database(connect, server) as database:
        await dump.restore(connect, database, content, scratch_mark(database), is_used=False)
        async with opened(connect, server, database) as conn:
            async with conn.transaction(isolation="repeatable_read", readonly=True):
                found = await read_content(conn, await snapshot_schemas(conn), is_whole=not backup.manifest.schema)
                compare(content, found)


async def _verify_rows(connect: ConnectTo, backup: StoredBackup, content: Content, identities: Identities) -> None:
    """In tables that only their transaction sees, which ends with its connection: no crash leaves them behind."""
    schema = f"tenantproxy_scratch_{secrets.token_hex(8)}"
    async with opened(connect, backup.manifest.server, backup.manifest.database) as conn:
        await conn.transaction(isolation="repeatable_read").start()  # and never committed
        await settle(conn)
        types = sorted({column.type for table in content.tables for column in table.columns})
        await conn.fetch("SELECT t::regtype FROM unnest($1::text[]) t", types)  # nothing but names of types
        await conn.execute(f"CREATE SCHEMA {quote_identifier(schema)}")
        sources = {}
        try:
            for number, table in enumerate(content.tables):
                name = f"t{number}"
                await _fill(conn, schema, name, backup, table, identities)
                sources[table.schema, table.name] = f"{quote_identifier(schema)}.{name}"
        except asyncpg.DataError as exc:
            raise BackupDamaged(f"a row of the backup {backup.id} cannot be read: {exc.args[0]}") from None
        await compare_rows(conn, content, sources)


async def _fill(
    conn: asyncpg.Connection, schema: str, name: str, backup: StoredBackup, table: SavedTable, identities: Identities
) -> None:
    columns = ", ".join(f"{quote_identifier(each.name)} {each.type}" for each in table.columns)
    await conn.execute(f"CREATE TABLE {quote_identifier(schema)}.{name} ({columns})")
    if table.file is None:
        return

    async def chunks() -> AsyncIterator[bytes]:
        assert table.file is not None
        async with reading_lines(backup, table.file, identities) as stream:
            while data := await stream.read(_CHUNK):
                yield data

    names = [each.name for each in table.columns] or None
    await conn.copy_to_table(name, schema_name=schema, columns=names, source=chunks())
