"""How do the rows of a saved row tenant come back? Under the policy of the tenant that gets them.

COPY FROM is refused where row security holds, so the rows are read from the file and inserted, many at a time, in the
order of foreign keys and in one transaction.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Final

import asyncpg

from tenantproxy.lifecycle.backup.content import checksum_of
from tenantproxy.lifecycle.backup.crypt import Identities
from tenantproxy.lifecycle.backup.errors import BackupDamaged, RestoreRefused
from tenantproxy.lifecycle.backup.manifest import Content, SavedTable, StoredBackup
from tenantproxy.lifecycle.backup.row_tables import PolicyTable
from tenantproxy.lifecycle.backup.rows import row_expression
from tenantproxy.lifecycle.backup.streams import reading_lines
from tenantproxy.model import quote_identifier

__all__ = ["advance_sequences", "check_fit", "compare_rows", "copy_fields", "fill_rows", "has_rows", "remove_rows"]

_ROWS: Final = 1_000  # of one INSERT,
_BYTES: Final = 4 * 1024 * 1024  # and how long they are together, as text
_AT_ONCE: Final = 64 * 1024 * 1024  # of a table whose rows must be inserted by one statement
_ESCAPED: Final = re.compile(rb"\\(.)", re.DOTALL)
_ESCAPES: Final = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}

# Sequences that give the columns of a table their values. Those that count down are none that a restore gets ahead of.
_SEQUENCES: Final = """
SELECT DISTINCT a.attname::text AS column, n.nspname::text AS schema, s.relname::text AS name,
  q.seqincrement AS increment
FROM pg_attribute a LEFT JOIN pg_attrdef f ON f.adrelid = a.attrelid AND f.adnum = a.attnum
JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.deptype = 'i'
    AND d.refobjid = a.attrelid AND d.refobjsubid = a.attnum
  OR d.classid = 'pg_attrdef'::regclass AND d.refclassid = 'pg_class'::regclass AND d.objid = f.oid
JOIN pg_class s ON s.relkind = 'S' AND s.oid = CASE WHEN d.deptype = 'i' THEN d.objid ELSE d.refobjid END
JOIN pg_namespace n ON n.oid = s.relnamespace JOIN pg_sequence q ON q.seqrelid = s.oid AND q.seqincrement > 0
WHERE a.attrelid = $1::int8::oid AND a.attnum > 0 AND NOT a.attisdropped
  AND a.atttypid IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype)
"""


def copy_fields(line: bytes) -> list[str | None]:
    """The values of one line of COPY's text format, without its newline. Raises UnicodeDecodeError."""
    return [None if field == rb"\N" else _unescaped(field).decode() for field in line.split(b"\t")]


def _unescaped(field: bytes) -> bytes:
    return _ESCAPED.sub(lambda found: _ESCAPES.get(found[1], found[1]), field) if b"\\" in field else field


def check_fit(content: Content, tables: Sequence[PolicyTable]) -> None:
    """Whether what was saved has a place in the tables that there are. Raises RestoreRefused with all that has none."""
    there = {(each.schema, each.name): {column.name for column in each.columns} for each in tables}
    lacking = []
    for table in (each for each in content.tables if each.rows):
        columns = there.get((table.schema, table.name))
        if columns is None:
            lacking.append(table.full_name)
        else:
            lacking += [f"{table.full_name}.{each.name}" for each in table.columns if each.name not in columns]
    if lacking:
        raise RestoreRefused(
            f"the database has no place for {', '.join(lacking)}",
            hint="its tables are of another version: migrate them to that of the backup, restore, and migrate again",
        )
    filled = {(each.schema, each.name) for each in content.tables if each.rows}
    closed = [
        f"{each.schema}.{each.name}" for each in tables if (each.schema, each.name) in filled and not each.may_fill
    ]
    if closed:
        raise RestoreRefused(
            f"the tenant's role may not insert into {', '.join(closed)}",
            hint="rows come back as the tenant's own: grant it INSERT until they have",
        )


async def has_rows(conn: asyncpg.Connection, tables: Sequence[PolicyTable]) -> str | None:
    """A table in which the session's tenant has a row; None: none has."""
    for table in tables:
        if await conn.fetchval(f"SELECT EXISTS (SELECT FROM {table.source})"):
            return f"{table.schema}.{table.name}"
    return None


async def remove_rows(conn: asyncpg.Connection, tables: Sequence[PolicyTable]) -> None:
    """Delete all that the session's tenant has, those that refer to others first, in the transaction of `conn`."""
    await conn.execute("SET CONSTRAINTS ALL DEFERRED")
    for table in reversed(tables):
        await conn.execute(f"DELETE FROM {table.sql_name}")


async def fill_rows(
    conn: asyncpg.Connection,
    backup: StoredBackup,
    content: Content,
    tables: Sequence[PolicyTable],
    tenant: str,
    identities: Identities,
) -> None:
    """Insert the rows as those of `tenant`, whose session `conn` is, in its transaction.

    Raises RestoreRefused, BackupDamaged, and what asyncpg raises: the transaction is to be rolled back.
    """
    check_fit(content, tables)
    saved = {(each.schema, each.name): each for each in content.tables}
    await conn.execute("SET CONSTRAINTS ALL DEFERRED")
    for table in tables:
        mine = saved.get((table.schema, table.name))
        if mine is not None and mine.file is not None:
            insert = _Insert.of(table, mine, tenant)
            async for batch in _batches(backup, mine.file, mine, identities, is_one=table.is_self_bound):
                await insert.run(conn, batch)
    await compare_rows(conn, content, {(each.schema, each.name): each.source for each in tables})


Row = list[str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Insert:
    """The statement of one table: `$1` is the tenant, where a column says whose it is, then an array of text for each
    other column.
    """

    sql: str
    tenant: tuple[str, ...]
    width: int

    @classmethod
    def of(cls, table: PolicyTable, saved: SavedTable, tenant: str) -> _Insert:
        types = {each.name: each.type for each in table.columns}
        names = [each.name for each in saved.columns]
        own = table.tenant_column
        first = 1 if own is None else 2
        columns = ", ".join(map(quote_identifier, names if own is None else [own.name, *names]))
        arrays = ", ".join(f"${number + first}::text[]" for number in range(max(1, len(names))))
        aliases = ", ".join(f"c{number}" for number in range(max(1, len(names))))
        values = [f"u.c{number}::{types[name]}" for number, name in enumerate(names)]
        values = values if own is None else [f"$1::text::{own.type}", *values]
        return cls(
            sql=f"INSERT INTO {table.sql_name} ({columns}) OVERRIDING SYSTEM VALUE"
            f" SELECT {', '.join(values)} FROM unnest({arrays}) AS u ({aliases})",
            tenant=() if own is None else (tenant,),
            width=len(names),
        )

    async def run(self, conn: asyncpg.Connection, rows: Sequence[Row]) -> None:
        arrays = [list(column) for column in zip(*rows, strict=True)] if self.width else [[None] * len(rows)]
        await conn.execute(self.sql, *self.tenant, *arrays)


async def _batches(
    backup: StoredBackup, file: str, table: SavedTable, identities: Identities, *, is_one: bool
) -> AsyncIterator[list[Row]]:
    async with reading_lines(backup, file, identities) as lines:
        batch: list[Row] = []
        size = 0
        while line := await lines.readline():
            batch.append(_row(line, table))
            size += len(line)
            if is_one and size > _AT_ONCE:
                raise RestoreRefused(
                    f"{table.full_name} refers to itself by a key that cannot be deferred, and is too large for that",
                    hint="ALTER TABLE ... ALTER CONSTRAINT ... DEFERRABLE",
                )
            if not is_one and (len(batch) == _ROWS or size > _BYTES):
                yield batch
                batch, size = [], 0
        if batch:
            yield batch


def _row(line: bytes, table: SavedTable) -> Row:
    try:
        row = copy_fields(line.removesuffix(b"\n")) if table.columns else []
    except UnicodeDecodeError:
        row = None
    if row is None or len(row) != len(table.columns):
        raise BackupDamaged(f"a row of {table.full_name} cannot be read")
    return row


async def compare_rows(conn: asyncpg.Connection, content: Content, sources: dict[tuple[str, str], str]) -> None:
    """Whether `sources`, by (schema, table), have the rows that were saved. Raises BackupDamaged."""
    for table in content.tables:
        if (source := sources.get((table.schema, table.name))) is None:
            continue
        found = await conn.fetchrow(checksum_of(source, row_expression(table.columns)))
        assert found is not None
        if found["rows"] != table.rows or found["checksum"] != table.checksum:
            what = "other rows" if found["rows"] == table.rows else f"{found['rows']} rows instead of {table.rows}"
            hint = "a trigger or a default may have changed them on the way"
            raise BackupDamaged(f"{table.full_name} has {what} behind the restore", hint=hint)


async def advance_sequences(conn: asyncpg.Connection, admin: asyncpg.Connection, tables: Sequence[PolicyTable]) -> None:
    """No sequence of these tables gives a value that the session's tenant has: those that are behind are set.

    Before its transaction is committed. `admin` is the owner's. A sequence is locked while it is set, so that no value
    that other tenants take is given twice.
    """
    for table in tables:
        for row in await admin.fetch(_SEQUENCES, table.oid):
            most = await conn.fetchval(f"SELECT max({quote_identifier(row['column'])}) FROM {table.source}")
            if most is None:
                continue
            name = f"{quote_identifier(row['schema'])}.{quote_identifier(row['name'])}"
            behind = f"SELECT last_value < $1 OR last_value = $1 AND NOT is_called FROM {name}"
            if await admin.fetchval(behind, most):
                async with admin.transaction():
                    await admin.execute(f"ALTER SEQUENCE {name} INCREMENT BY {row['increment']}")  # as it was: the lock
                    if await admin.fetchval(behind, most):
                        await admin.fetchval("SELECT pg_catalog.setval($1::text::regclass, $2)", name, most)
