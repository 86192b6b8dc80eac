"""What is in a place, and how does it come to another one? Its tables, row by row, and whether they are equal then.

A table's checksum is of all its rows, in any order: the xor and the sum of a 64-bit hash of each, and their number.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import asyncpg

from tenantproxy.errors import TenantProxyError
from tenantproxy.model import quote_identifier

__all__ = [
    "MovedTable",
    "compare",
    "copy_sequences",
    "copy_table",
    "pipe",
    "read_tables",
    "refresh_views",
    "schemas_of",
    "settle",
]

_SCHEMAS: Final = """
SELECT nspname::text FROM pg_namespace WHERE nspname !~ '^pg_'
  AND nspname <> ALL ('{information_schema,tenantproxy,tenantproxy_migrations}') ORDER BY 1
"""
_TABLES: Final = """
SELECT n.nspname::text AS schema, c.relname::text AS name, c.relpersistence = 'p' AS is_logged,
  c.relreplident = 'f' OR EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisvalid AND (
    c.relreplident = 'd' AND i.indisprimary OR c.relreplident = 'i' AND i.indisreplident)) AS has_identity,
  ARRAY(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
        AND a.attgenerated = '' ORDER BY a.attnum) AS columns,
  ARRAY(SELECT CASE WHEN s.nspname = 'pg_catalog' THEN t.typname ELSE format('%I.%I', s.nspname, t.typname) END
        FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid JOIN pg_namespace s ON s.oid = t.typnamespace
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
        ORDER BY a.attnum) AS types
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND c.relpersistence <> 't' AND n.nspname = ANY ($1)
  AND NOT EXISTS (
    SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
ORDER BY 1, 2
"""
_SEQUENCES: Final = """
SELECT n.nspname::text AS schema, c.relname::text AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'S' AND n.nspname = ANY ($1) ORDER BY 1, 2
"""
_VIEWS: Final = """
SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'm' AND NOT c.relispopulated AND n.nspname = ANY ($1) ORDER BY c.oid
"""
_SETTINGS: Final = (
    "SET row_security = off; SET datestyle = 'ISO, YMD'; SET intervalstyle = postgres; SET timezone = 'UTC';"
    " SET extra_float_digits = 3; SET bytea_output = hex; SET search_path = pg_catalog; SET statement_timeout = 0;"
    " SET idle_in_transaction_session_timeout = 0; SET lock_timeout = '30s'"  # it is paused: another's lock may last
)
_HASHED: Final = frozenset(
    {"bool", "int2", "int4", "int8", "oid", "uuid", "date", "time", "timestamp", "timestamptz", "bytea"}
)
"""Types whose hash tells all values apart that are written differently; of others the text is hashed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MovedTable:
    """A table with the columns that can be written. `can_follow`: logical replication takes its changes along."""

    schema: str
    name: str
    columns: tuple[str, ...]
    types: tuple[str, ...]
    can_follow: bool

    @property
    def sql_name(self) -> str:
        """Quoted, with its schema."""
        return f"{quote_identifier(self.schema)}.{quote_identifier(self.name)}"

    def checksum(self, relation: str | None = None) -> str:
        """The query for (rows, xor, sum); of `relation`, which has the same columns, where it is given."""
        parts = ", ".join(_hashed(name, kind) for name, kind in zip(self.columns, self.types, strict=True))
        row = f"hash_record_extended(ROW({parts}), 0)" if self.columns else "0::bigint"
        return (
            "SELECT count(*) AS rows, bit_xor(h) AS xor, sum(h >> 16)::text AS sum"
            f" FROM (SELECT {row} AS h FROM {relation or f'ONLY {self.sql_name}'}) AS hashed"
        )


def _hashed(name: str, kind: str) -> str:
    column = quote_identifier(name)
    if kind in _HASHED:
        return column
    # The owner of a type may have made a cast of it to text, which would run as us: a row's text knows of no casts.
    written = f"ROW({column})" if "." in kind else column
    return f'{written}::text COLLATE "C"'


async def settle(conn: asyncpg.Connection) -> None:
    """Values are written alike on both sides, nothing is cut off, and a policy is an error instead of fewer rows."""
    await conn.execute(_SETTINGS)


async def schemas_of(conn: asyncpg.Connection, schema: str | None) -> list[str]:
    """The schemas of a place: its own, or all of its database but our own."""
    return [schema] if schema is not None else [row[0] for row in await conn.fetch(_SCHEMAS)]


async def read_tables(conn: asyncpg.Connection, schemas: Sequence[str]) -> list[MovedTable]:
    """The tables of `schemas`, each partition for itself."""
    return [
        MovedTable(
            schema=row["schema"], name=row["name"], columns=tuple(row["columns"]), types=tuple(row["types"]),
            can_follow=row["has_identity"] and row["is_logged"],
        )
        for row in await conn.fetch(_TABLES, list(schemas))
    ]  # fmt: skip


Written = Callable[..., Coroutine[Any, Any, None]]


@asynccontextmanager
async def pipe() -> AsyncIterator[tuple[Written, AsyncIterator[bytes]]]:
    """`await written(conn.copy_from_query, query, *args)` on one side, `source=chunks` on the other, in tasks of both.

    It holds a few chunks, whatever the size.
    """
    chunks: asyncio.Queue[bytes | None] = asyncio.Queue(maxsize=16)

    async def put(data: bytes) -> None:
        await chunks.put(data)

    async def written(copy: Callable[..., Awaitable[object]], query: str, *args: object) -> None:
        await copy(query, *args, output=put, format="binary")
        await chunks.put(None)

    async def read() -> AsyncIterator[bytes]:
        while (chunk := await chunks.get()) is not None:
            yield chunk

    yield written, read()


async def copy_table(source: asyncpg.Connection, target: asyncpg.Connection, table: MovedTable, schema: str) -> None:
    """All rows, through this process; into the table of that name in `schema`."""
    columns = ", ".join(map(quote_identifier, table.columns))
    async with pipe() as (written, chunks), asyncio.TaskGroup() as group:
        group.create_task(written(source.copy_from_query, f"SELECT {columns} FROM ONLY {table.sql_name}"))
        group.create_task(_put(target, table, schema, chunks))


async def _put(conn: asyncpg.Connection, table: MovedTable, schema: str, chunks: AsyncIterator[bytes]) -> None:
    await conn.copy_to_table(table.name, schema_name=schema, columns=table.columns, source=chunks, format="binary")


async def copy_sequences(
    source: asyncpg.Connection, target: asyncpg.Connection, schemas: Sequence[str], renamed: dict[str, str]
) -> None:
    """Each sequence goes on where it was."""
    for row in await source.fetch(_SEQUENCES, list(schemas)):
        name = quote_identifier(row["name"])
        now = await source.fetchrow(f"SELECT last_value, is_called FROM {quote_identifier(row['schema'])}.{name}")
        assert now is not None
        there = f"{quote_identifier(renamed.get(row['schema'], row['schema']))}.{name}"
        await target.fetchval("SELECT setval($1::text::regclass, $2, $3)", there, now["last_value"], now["is_called"])


async def refresh_views(conn: asyncpg.Connection, schemas: Sequence[str]) -> None:
    """Fill materialized views, in the order in which they were made."""
    for row in await conn.fetch(_VIEWS, list(schemas)):
        await conn.execute(f"REFRESH MATERIALIZED VIEW {row[0]}")


async def compare(
    source: asyncpg.Connection, target: asyncpg.Connection, tables: Sequence[MovedTable], renamed: dict[str, str]
) -> int:
    """The number of rows, where both sides have the same. Raises TenantProxyError that names the tables that differ."""
    there = {
        (each.schema, each.name): each
        for each in await read_tables(target, sorted({renamed.get(each.schema, each.schema) for each in tables}))
    }
    pairs = [(each, there.get((renamed.get(each.schema, each.schema), each.name))) for each in tables]
    lost = [each.sql_name for each, other in pairs if other is None or set(other.columns) != set(each.columns)]
    if lost or len(there) != len(tables):
        raise TenantProxyError(f"the new place has other tables than the old one: {', '.join(lost) or 'more'}")

    async def sums(conn: asyncpg.Connection, side: Sequence[MovedTable]) -> list[tuple[object, ...]]:
        return [tuple(row) for each in side if (row := await conn.fetchrow(each.checksum())) is not None]

    columns = [_as_in(other, each) for each, other in pairs if other is not None]
    here, found = await asyncio.gather(sums(source, tables), sums(target, columns))
    if wrong := [each.sql_name for each, a, b in zip(tables, here, found, strict=True) if a != b]:
        raise TenantProxyError(f"rows differ between the old and the new place: {', '.join(wrong)}")
    return sum(int(str(row[0])) for row in here)


def _as_in(table: MovedTable, model: MovedTable) -> MovedTable:
    """`table` with its columns in the order of `model`."""
    return MovedTable(
        schema=table.schema, name=table.name, columns=model.columns, types=model.types, can_follow=table.can_follow
    )
