"""How is a database or a schema saved? By pg_dump, in the snapshot in which its tables are counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

import asyncpg

from tenantproxy.config import Settings
from tenantproxy.lifecycle.access import opened
from tenantproxy.lifecycle.acting import let_read
from tenantproxy.lifecycle.backup.content import KEY_TABLE, owners_in, read_content, settle, snapshot_schemas
from tenantproxy.lifecycle.backup.crypt import Recipients
from tenantproxy.lifecycle.backup.manifest import BackupFile, Content
from tenantproxy.lifecycle.backup.streams import saving
from tenantproxy.lifecycle.backup.tools import DumpTools, child_environment, find_tools, run_tool
from tenantproxy.lifecycle.migrate.journal import read_journal
from tenantproxy.lifecycle.migrate.plan import Applied
from tenantproxy.lifecycle.provisioner import ConnectTo
from tenantproxy.model import Placement, quote_identifier

__all__ = ["DUMP", "Saved", "dump_command", "save_dump"]

DUMP: Final = "content.dump"
"""The name of the file that pg_dump writes, in its custom format; `.age` is behind it when it is encrypted."""

_LOCK_WAIT: Final = 30_000  # ms; then pg_dump fails rather than have all writers wait behind it


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """What was saved of one place, at which moment, and by what. `further`: the journals of its other schemas."""

    content: Content
    files: tuple[BackupFile, ...]
    snapshot_at: datetime
    server_version: int
    pg_dump: str | None
    migrations: tuple[Applied, ...]
    further: tuple[tuple[Applied, ...], ...] = ()


async def save_dump(
    settings: Settings,
    connect: ConnectTo,
    place: Placement,
    folder: Path,
    recipients: Recipients,
    *,
    schemas: Sequence[str] | None,
) -> Saved:
    """Save `schemas` of a database, None: all of it, to a file in `folder`.

    Raises what asyncpg raises, OSError, ToolFailed, ConfigurationError without a pg_dump that fits.
    """
    async with opened(connect, place.server, place.database) as conn:
        version = _number(conn)
        tools = find_tools(settings, version)
        named = schemas or await snapshot_schemas(conn)
        await let_read(conn, await owners_in(conn, named, is_whole=schemas is None))
        async with conn.transaction(isolation="repeatable_read", readonly=True):
            moment = await conn.fetchval("SELECT pg_catalog.now()")
            snapshot = await conn.fetchval("SELECT pg_catalog.pg_export_snapshot()")
            migrations = await read_journal(conn, place.schema or "public")
            further = [tuple(await read_journal(conn, each)) for each in (schemas or ())[1:]]
            async with opened(connect, place.server, place.database) as fresh, fresh.transaction():
                await settle(fresh)
                content = await read_content(conn, named, is_whole=schemas is None, fresh=fresh)
            command = [*dump_command(tools, schemas), f"--snapshot={snapshot}"]
            environment = child_environment(settings.servers[place.server], place.database)
            async with saving(folder / f"{DUMP}{'.age' if recipients else ''}", recipients) as sink:
                await run_tool(command, environment, stdout=sink.fileno)
    assert sink.file is not None
    return Saved(
        content=content, files=(sink.file,), snapshot_at=moment, server_version=version, pg_dump=tools.version,
        migrations=tuple(migrations), further=tuple(further),
    )  # fmt: skip


def dump_command(tools: DumpTools, schemas: Sequence[str] | None) -> list[str]:
    """pg_dump of `schemas`, or of all, without the keys of row tenants, and without what would begin to replicate."""
    command = [tools.pg_dump, "--format=custom", "--no-password", f"--lock-wait-timeout={_LOCK_WAIT}"]
    command += ["--no-publications", "--no-subscriptions"]
    if schemas is None:
        return [*command, f"--exclude-table-data={'.'.join(map(quote_identifier, KEY_TABLE))}"]
    return [*command, *(f"--schema={quote_identifier(schema)}" for schema in schemas)]


def _number(conn: asyncpg.Connection) -> int:
    version = conn.get_server_version()
    return int(version.major * 10000 + version.minor)
