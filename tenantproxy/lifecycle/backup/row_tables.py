"""Which tables hold rows of row tenants, and in which order can they be filled? What cannot be is refused by name."""

from __future__ import annotations

import graphlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import asyncpg

from tenantproxy.lifecycle.backup.errors import BackupFailed
from tenantproxy.lifecycle.backup.manifest import BackupColumn
from tenantproxy.lifecycle.table_plan import POLICIES
from tenantproxy.model import quote_identifier

__all__ = ["ForeignKey", "OwnerTable", "PolicyTable", "fill_order", "policy_tables", "row_tables"]


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnerTable:
    """Another table that says whose rows are that refer to it: `column` to its `key`. Quoted, `owner_type` but."""

    column: str
    table: str
    key: str
    owner_column: str
    owner_type: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyTable:
    """A table that our policy holds. `columns`: those that can be written, but `tenant_column`, which says whose.

    Without a `tenant_column`, its rows find whose they are through another table.

    `has_others`: further policies may hide rows of the tenant's own. `may_fill`: its role may insert. `is_self_bound`:
    a row refers to another one, by a key that is checked behind each statement.
    """

    oid: int
    schema: str
    name: str
    columns: tuple[BackupColumn, ...]
    tenant_column: BackupColumn | None = None
    through: OwnerTable | None = None
    is_partitioned: bool = False
    has_others: bool = False
    may_fill: bool = True
    is_self_bound: bool = False

    @property
    def sql_name(self) -> str:
        """Quoted, with its schema."""
        return f"{quote_identifier(self.schema)}.{quote_identifier(self.name)}"

    @property
    def condition(self) -> str:
        """True for the rows of the tenant `$1`, for who sees all."""
        if (by := self.through) is not None:
            of = f"{by.owner_column} = $1::text::{by.owner_type}"
            return f"{by.column} IN (SELECT {by.key} FROM {by.table} WHERE {of})"
        assert self.tenant_column is not None
        return f"{quote_identifier(self.tenant_column.name)} = $1::text::{self.tenant_column.type}"

    @property
    def source(self) -> str:
        """Behind FROM: the rows of its partitions, but not those of children, which are tables of their own."""
        return self.sql_name if self.is_partitioned else f"ONLY {self.sql_name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignKey:
    """A table (its oid) that refers to another, or to itself."""

    name: str
    table: int
    refers_to: int
    deferrable: bool


# Our policies compare one column with the session's tenant: the one that they depend on, or one of a table that they
# refer to. Of a partitioned table its rows are read once, through its root.
_TABLES: Final = """
SELECT c.oid::int8 AS oid, n.nspname::text AS schema, c.relname::text AS name, c.relkind = 'p' AS is_partitioned,
  EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = c.oid AND p.polname <> ALL ($1)) AS has_others,
  has_table_privilege(c.oid, 'INSERT') AS may_fill,
  EXISTS (SELECT FROM pg_constraint k WHERE k.conrelid = c.oid AND k.confrelid = c.oid AND k.contype = 'f'
          AND NOT k.condeferrable) AS is_self_bound, (
    SELECT a.attname::text FROM pg_policy p
    JOIN pg_depend d ON d.classid = 'pg_policy'::regclass AND d.objid = p.oid
      AND d.refclassid = 'pg_class'::regclass AND d.refobjid = c.oid AND d.refobjsubid > 0
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = d.refobjsubid
    WHERE p.polrelid = c.oid AND p.polname = ANY ($1) LIMIT 1) AS tenant_column, (
    SELECT json_build_object('column', quote_ident(a.attname), 'table', format('%I.%I', m.nspname, t.relname),
      'key', quote_ident(b.attname), 'owner_column', quote_ident(o.attname),
      'owner_type', format_type(o.atttypid, o.atttypmod))
    FROM pg_policy p JOIN pg_constraint k ON k.conrelid = c.oid AND k.contype = 'f' AND cardinality(k.conkey) = 1
    JOIN pg_depend d ON d.classid = 'pg_policy'::regclass AND d.objid = p.oid AND d.refclassid = 'pg_class'::regclass
      AND d.refobjid = k.confrelid AND d.refobjsubid > 0 AND d.refobjsubid <> k.confkey[1]
    JOIN pg_class t ON t.oid = k.confrelid JOIN pg_namespace m ON m.oid = t.relnamespace
    JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = k.conkey[1]
    JOIN pg_attribute b ON b.attrelid = k.confrelid AND b.attnum = k.confkey[1]
    JOIN pg_attribute o ON o.attrelid = k.confrelid AND o.attnum = d.refobjsubid
    WHERE p.polrelid = c.oid AND p.polname = ANY ($1) AND k.confrelid <> c.oid AND EXISTS (SELECT FROM pg_depend e
      WHERE e.classid = 'pg_policy'::regclass AND e.objid = p.oid AND e.refclassid = 'pg_class'::regclass
        AND e.refobjid = c.oid AND e.refobjsubid = k.conkey[1]) LIMIT 1)::text AS through,
  ARRAY(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
        AND a.attgenerated = '' ORDER BY a.attnum) AS columns,
  ARRAY(SELECT format_type(a.atttypid, a.atttypmod) FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0
        AND NOT a.attisdropped AND a.attgenerated = '' ORDER BY a.attnum) AS types
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relrowsecurity
  AND EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = c.oid AND p.polname = ANY ($1))
  AND has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')
  AND pg_get_userbyid(c.relowner) <> ALL ($2)
ORDER BY 2, 3
"""
_KEYS: Final = """
SELECT conname::text AS name, conrelid::int8 AS "table", confrelid::int8 AS refers_to, condeferrable AS deferrable
FROM pg_constraint WHERE contype = 'f' AND conparentid = 0 AND conrelid = ANY ($1::int8[]::oid[])
  AND confrelid = ANY ($1::int8[]::oid[]) ORDER BY conname
"""


async def row_tables(conn: asyncpg.Connection, *, own_roles: Sequence[str] = ()) -> list[PolicyTable]:
    """The tables that hold rows of the session's tenant, in an order in which they can be filled.

    `own_roles`: those of tenants with a place of their own. What they own is left out: to read it would be to run the
    checks of its types, and `conn` may be the admin user's, to whom all tables are open.

    With `search_path = pg_catalog`, so that types are written in full. Raises BackupFailed as `fill_order`.
    """
    tables = {table.oid: table for table in await policy_tables(conn, own_roles=own_roles)}
    keys = [ForeignKey(**row) for row in await conn.fetch(_KEYS, list(tables))]
    return fill_order(tables, keys)


async def policy_tables(conn: asyncpg.Connection, *, own_roles: Sequence[str] = ()) -> list[PolicyTable]:
    """The same, in the order of their names."""
    rows = await conn.fetch(_TABLES, list(POLICIES), own_roles)
    if lost := [f"{row['schema']}.{row['name']}" for row in rows if row["tenant_column"] is None]:
        raise BackupFailed(f"it cannot be told whose the rows of these tables are: {', '.join(lost)}")
    return [_row_table(row) for row in rows]


def _row_table(row: asyncpg.Record) -> PolicyTable:
    columns = [BackupColumn(name=name, type=kind) for name, kind in zip(row["columns"], row["types"], strict=True)]
    through = OwnerTable(**json.loads(row["through"])) if row["through"] else None
    own = None if through else next(each for each in columns if each.name == row["tenant_column"])
    return PolicyTable(
        oid=row["oid"], schema=row["schema"], name=row["name"], tenant_column=own, through=through,
        columns=tuple(each for each in columns if each is not own), is_partitioned=row["is_partitioned"],
        has_others=row["has_others"], may_fill=row["may_fill"], is_self_bound=row["is_self_bound"],
    )  # fmt: skip


def fill_order(tables: dict[int, PolicyTable], keys: Sequence[ForeignKey]) -> list[PolicyTable]:
    """Those that others refer to come first. A key that can be deferred, or a table's to itself, orders nothing.

    Raises BackupFailed for tables that refer to each other by keys that cannot be deferred.
    """
    firm = [key for key in keys if not key.deferrable and key.table != key.refers_to]
    before = {oid: {key.refers_to for key in firm if key.table == oid} for oid in tables}
    try:
        return [tables[oid] for oid in graphlib.TopologicalSorter(before).static_order()]
    except graphlib.CycleError as exc:
        circle = set(exc.args[1])
        named = sorted(key.name for key in firm if key.table in circle and key.refers_to in circle)
        raise BackupFailed(
            f"the tables {', '.join(sorted(tables[oid].name for oid in circle))} refer to each other,"
            " so that none could be filled first",
            hint=f"let one of their keys be deferred: ALTER TABLE ... ALTER CONSTRAINT {named[0]} DEFERRABLE",
        ) from None
