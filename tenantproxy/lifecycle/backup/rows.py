"""How is a row tenant saved? COPY of each table that holds rows of its own, in one snapshot, under its own policy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import asyncpg

from tenantproxy.lifecycle.access import opened
from tenantproxy.lifecycle.backup.content import checksum_of, settle
from tenantproxy.lifecycle.backup.crypt import Recipients
from tenantproxy.lifecycle.backup.dumped import Saved
from tenantproxy.lifecycle.backup.errors import BackupFailed
from tenantproxy.lifecycle.backup.manifest import BackupColumn, BackupFile, Content, SavedTable
from tenantproxy.lifecycle.backup.row_tables import PolicyTable, row_tables
from tenantproxy.lifecycle.backup.sessions import RowSessions
from tenantproxy.lifecycle.backup.streams import saving
from tenantproxy.lifecycle.migrate.journal import read_journal
from tenantproxy.lifecycle.migrate.plan import Applied
from tenantproxy.lifecycle.provisioner import ConnectTo
from tenantproxy.model import Tenant, quote_identifier

__all__ = ["row_expression", "save_rows"]


async def save_rows(
    sessions: RowSessions, connect: ConnectTo, tenant: Tenant, folder: Path, recipients: Recipients
) -> Saved:
    """Save what is `tenant`'s in the tables of its database to files in `folder`, one for each table that has rows.

    Raises BackupFailed where a table cannot be saved alone, or other policies hide rows from the tenant itself; what
    the router and asyncpg raise, OSError.
    """
    async with sessions.transaction(tenant, readonly=True) as conn:
        await settle(conn)
        moment = await conn.fetchval("SELECT pg_catalog.now()")
        version = await conn.fetchval("SELECT pg_catalog.current_setting('server_version_num')::int")
        snapshot = await conn.fetchval("SELECT pg_catalog.pg_export_snapshot()")
        tables = await row_tables(conn)
        saved: list[SavedTable] = []
        files: list[BackupFile] = []
        for number, table in enumerate(tables, start=1):
            row = await conn.fetchrow(checksum_of(table.source, row_expression(table.columns)))
            assert row is not None
            path = folder / f"{number:04}.copy{'.age' if recipients else ''}"
            if row["rows"]:
                files.append(await _copy(conn, table, path, recipients))
            saved.append(_saved(table, row, path.name if row["rows"] else None))
        migrations = await _looked_at(connect, tenant, snapshot, tables, saved)
    return Saved(
        content=Content(tables=tuple(saved)), files=tuple(files), snapshot_at=moment, server_version=version,
        pg_dump=None, migrations=migrations,
    )  # fmt: skip


def row_expression(columns: Sequence[BackupColumn]) -> str:
    """A row as text, without whose it is: the same for a tenant of another name."""
    return f"ROW({', '.join(f'r.{quote_identifier(each.name)}' for each in columns)})::text"


async def _copy(conn: asyncpg.Connection, table: PolicyTable, path: Path, recipients: Recipients) -> BackupFile:
    names = ", ".join(quote_identifier(each.name) for each in table.columns)
    async with saving(path, recipients) as sink:
        await conn.copy_from_query(f"SELECT {names} FROM {table.source}", output=sink.write)
    assert sink.file is not None
    return sink.file


def _saved(table: PolicyTable, row: asyncpg.Record, file: str | None) -> SavedTable:
    return SavedTable(
        schema=table.schema, name=table.name, rows=row["rows"], checksum=row["checksum"], file=file,
        columns=table.columns, tenant_column=table.tenant_column,
    )  # fmt: skip


async def _looked_at(
    connect: ConnectTo, tenant: Tenant, snapshot: str, tables: Sequence[PolicyTable], saved: Sequence[SavedTable]
) -> tuple[Applied, ...]:
    """The journal of the database, in the same snapshot. There, tables with other policies are counted without them."""
    async with opened(connect, tenant.placement.server, tenant.placement.database) as admin:
        async with admin.transaction(isolation="repeatable_read", readonly=True):
            await admin.execute(f"SET TRANSACTION SNAPSHOT '{snapshot}'")
            await settle(admin)
            await admin.execute("SET LOCAL row_security = off")
            for table, seen in zip(tables, saved, strict=True):
                if table.has_others:
                    query = f"SELECT count(*) FROM {table.source} WHERE {table.condition}"
                    if (there := await admin.fetchval(query, tenant.id)) != seen.rows:
                        raise BackupFailed(
                            f"other policies of {seen.full_name} show the tenant {seen.rows} of its {there} rows",
                            hint="let a session without a user see all rows of its tenant",
                        )
            return tuple(await read_journal(admin, "public"))
