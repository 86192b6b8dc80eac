"""What is in a database or a schema? The rows of each table, counted, and a checksum of them in any order.

The checksum of a table is the sum of the first 60 bits of the SHA-256 of each row as text, with the settings that
change how values are written all set: equal rows have equal sums on every version and machine.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import asyncpg

from tenantproxy.lifecycle.acting import KEEPER
from tenantproxy.lifecycle.backup.errors import BackupDamaged, BackupFailed
from tenantproxy.lifecycle.backup.manifest import Content, SavedTable
from tenantproxy.model import NOTHING, quote_identifier

__all__ = ["KEY_TABLE", "checksum_of", "compare", "owners_in", "read_content", "settle", "snapshot_schemas"]

KEY_TABLE: Final = ("tenantproxy", "context_key")
"""Whose rows no backup holds: the keys that sign for row tenants. `tenantproxy install` puts them back."""

_SETTINGS: Final = {
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "extra_float_digits": "3",
    "bytea_output": "hex",
    "lc_monetary": "C",
    "xmloption": "content",
    "constraint_exclusion": "off",  # checks are not looked at, and none of their functions is called
    "search_path": "pg_catalog",
    "statement_timeout": "0",
    "lock_timeout": "30s",  # then it fails, rather than wait for who holds a table for as long as he likes
    "idle_in_transaction_session_timeout": "0",  # it waits for pg_dump
    "transaction_timeout": "0",  # since 17
}
_SET: Final = """
SELECT pg_catalog.set_config(s.name, given.value, true)
FROM unnest($1::text[], $2::text[]) AS given (name, value) JOIN pg_catalog.pg_settings s USING (name)
"""
_SCHEMAS: Final = (
    "SELECT nspname::text FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema' ORDER BY 1"
)
_OF_EXTENSION: Final = (
    "EXISTS (SELECT FROM pg_depend d WHERE d.classid = '{catalogue}'::regclass AND d.objid = {oid} AND d.deptype = 'e')"
)
_TABLES: Final = f"""
SELECT n.nspname::text AS schema, c.relname::text AS name, c.relkind = 'p' AS is_partitioned,
  format('%I.%I', n.nspname, c.relname) AS sql_name,
  has_table_privilege(c.oid, 'UPDATE, DELETE, TRUNCATE{{maintain}}') AS may_lock,
  NOT r.rolsuper AND r.rolname NOT IN (current_user, '{KEEPER}') AS is_theirs, r.rolname::text AS owner
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_roles r ON r.oid = c.relowner
WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence <> 't' AND n.nspname = ANY ($1)
  AND NOT {_OF_EXTENSION.format(catalogue="pg_class", oid="c.oid")}
ORDER BY 1, 2
"""
_SEQUENCES: Final = f"""
SELECT * FROM (
  SELECT n.nspname::text AS schema, c.relname::text AS name, s.seqincrement AS increment,
    CASE WHEN c.relkind = 'S' THEN pg_sequence_last_value(c.oid::regclass) END AS last
  FROM pg_sequence s JOIN pg_class c ON c.oid = s.seqrelid JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE n.nspname = ANY ($1) AND NOT {_OF_EXTENSION.format(catalogue="pg_class", oid="c.oid")}) AS each
WHERE last IS NOT NULL ORDER BY 1, 2
"""
_EXTENSIONS: Final = """
SELECT e.extname::text AS name, n.nspname::text AS schema
FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname <> 'plpgsql' ORDER BY 1
"""
_OWNERS: Final = f"""
SELECT DISTINCT pg_get_userbyid(owner)::text FROM (
  SELECT c.relowner FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE n.nspname = ANY ($1) AND c.relkind <> 't' AND NOT {_OF_EXTENSION.format(catalogue="pg_class", oid="c.oid")}
  UNION SELECT p.proowner FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
  WHERE n.nspname = ANY ($1) AND NOT {_OF_EXTENSION.format(catalogue="pg_proc", oid="p.oid")}
  UNION SELECT t.typowner FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
  WHERE n.nspname = ANY ($1) AND NOT {_OF_EXTENSION.format(catalogue="pg_type", oid="t.oid")}
  UNION SELECT n.nspowner FROM pg_namespace n WHERE n.nspname = ANY ($1)
  UNION SELECT lomowner FROM pg_largeobject_metadata WHERE $2
) AS all_of_them (owner) WHERE pg_get_userbyid(owner) <> 'pg_database_owner' ORDER BY 1
"""
_17: Final = 170000
_LARGE_OBJECTS: Final = "SELECT count(*) AS rows, sum(oid::bigint)::text AS checksum FROM pg_largeobject_metadata"
_FOLDED: Final = """
WITH RECURSIVE looked (oid) AS (
  SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = ANY ($1)
  UNION SELECT i.inhrelid FROM pg_inherits i JOIN looked ON i.inhparent = looked.oid)
SELECT DISTINCT coalesce(c.relname, x.stxname)::text AS what, p.oid::regprocedure::text AS calls,
  pg_get_userbyid(p.proowner)::text AS whose
FROM pg_depend d
LEFT JOIN pg_operator o ON d.refclassid = 'pg_operator'::regclass AND o.oid = d.refobjid
JOIN pg_proc p ON p.oid = CASE WHEN d.refclassid = 'pg_proc'::regclass THEN d.refobjid ELSE o.oprcode END
LEFT JOIN pg_class c ON d.classid = 'pg_class'::regclass AND c.oid = d.objid AND c.relkind IN ('i', 'I', 'p')
LEFT JOIN pg_statistic_ext x ON d.classid = 'pg_statistic_ext'::regclass AND x.oid = d.objid
LEFT JOIN pg_index i ON i.indexrelid = c.oid
JOIN pg_roles r ON r.oid = p.proowner
WHERE coalesce(i.indrelid, c.oid, x.stxrelid) IN (SELECT oid FROM looked) AND NOT r.rolsuper
  AND r.rolname <> current_user
UNION SELECT t.typname::text, p.oid::regprocedure::text, r.rolname::text
FROM pg_range g JOIN pg_type t ON t.oid = g.rngtypid JOIN pg_namespace n ON n.oid = t.typnamespace
JOIN pg_proc p ON p.oid IN (g.rngsubdiff, g.rngcanonical) JOIN pg_roles r ON r.oid = p.proowner
WHERE n.nspname = ANY ($1) AND NOT r.rolsuper AND r.rolname <> current_user
ORDER BY 1, 2 LIMIT 1
"""
_ADMIN: Final = """
SELECT r.rolname::text AS name, r.rolsuper AS is_superuser,
  EXISTS (SELECT FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
          WHERE n.nspname = ANY ($1) AND p.prosecdef) AS has_definers
FROM pg_roles r WHERE r.rolname = current_user
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Table:
    schema: str
    name: str
    is_partitioned: bool
    sql_name: str  # as PostgreSQL writes it: a tenant may have a line feed in a name
    may_lock: bool
    is_theirs: bool  # its owner may index it, and is neither the admin user nor one of more rights
    owner: str


async def settle(conn: asyncpg.Connection) -> None:
    """In the transaction of `conn`, values are written as they are in every backup."""
    await conn.fetch(_SET, list(_SETTINGS), list(_SETTINGS.values()))


async def snapshot_schemas(conn: asyncpg.Connection) -> list[str]:
    """All schemas of the database that are not PostgreSQL's own."""
    return [row[0] for row in await conn.fetch(_SCHEMAS)]


def checksum_of(relation: str, expression: str, *, only: bool = False) -> str:
    """The query for (rows, checksum). `relation` and `expression`, which names its columns by `r`, are SQL."""
    digest = f"('x' || left(encode(sha256(convert_to({expression}, 'UTF8')), 'hex'), 15))::bit(60)::bigint"
    return f"SELECT count(*) AS rows, coalesce(sum({digest}), 0)::text AS checksum FROM {'ONLY ' * only}{relation} AS r"


async def owners_in(conn: asyncpg.Connection, schemas: Sequence[str], *, is_whole: bool) -> tuple[str, ...]:
    """The roles that own something in `schemas`, sorted; `is_whole`: those of the database's large objects too."""
    return tuple(row[0] for row in await conn.fetch(_OWNERS, schemas, is_whole))


async def read_content(
    conn: asyncpg.Connection, schemas: Sequence[str], *, is_whole: bool = False,
    fresh: asyncpg.Connection | None = None,
) -> Content:  # fmt: skip
    """What is in `schemas`, in the transaction of `conn`, an admin user's: one snapshot of all but sequences.

    `is_whole`: they are all of the database, and its large objects count too, by their number and identifiers. `fresh`:
    that user's too, in a transaction that sees what is committed meanwhile; None: no one else changes tables there.

    Raises asyncpg.InsufficientPrivilegeError where that user does not see every row, BackupFailed where a function of
    another role would be called.
    """
    await settle(conn)
    # One that was a table a moment ago, and a partition on another server, which is read as the admin user.
    await conn.fetch(_SET, ["restrict_nonsystem_relation_kind"], ["view, foreign-table"])
    await conn.execute("SET LOCAL row_security = off")  # a policy is an error, and not fewer rows
    sequences = await conn.fetch(_SEQUENCES, schemas)
    maintain = ", MAINTAIN" if await _number(conn) >= _17 else ""
    tables = [_Table(**row) for row in await conn.fetch(_TABLES.format(maintain=maintain), schemas)]
    counted = [each for each in tables if (each.schema, each.name) != KEY_TABLE]
    if fresh is not None and await fresh.fetchval("SELECT rolsuper FROM pg_roles WHERE rolname = current_user"):
        await fresh.fetch("SELECT FROM pg_namespace WHERE nspname = ANY ($1) FOR SHARE", schemas)  # none is renamed
    async with _unchanged(conn, counted if fresh is not None else ()):
        await _check_folded(fresh or conn, schemas)
        saved = [await _count(conn, each) for each in counted]
    if is_whole:
        saved += await _large_objects(conn)
    admin = await conn.fetchrow(_ADMIN, schemas)
    assert admin is not None
    return Content(
        tables=tuple(saved),
        sequences=tuple((row["schema"], row["name"], row["last"], row["increment"]) for row in sequences),
        extensions=tuple((row["name"], row["schema"]) for row in await conn.fetch(_EXTENSIONS)),
        owners=await owners_in(conn, schemas, is_whole=is_whole),
        admin=admin["name"],
        admin_is_superuser=admin["is_superuser"],
        has_definers=admin["has_definers"],
    )


@asynccontextmanager
async def _unchanged(conn: asyncpg.Connection, tables: Sequence[_Table]) -> AsyncIterator[None]:
    """None of `tables` gets an index, statistics or a partition within the block, which ends in a savepoint's end.

    The planner sees what is committed now, and not the snapshot: an index made behind the look at them would be used.

    Raises BackupFailed for one that may only be read, whose owner could make one meanwhile.
    """
    for table in tables:
        if table.is_theirs and not table.may_lock:
            user = quote_identifier(await conn.fetchval("SELECT current_user::text"))
            right = "MAINTAIN" if await _number(conn) >= _17 else "UPDATE"
            raise BackupFailed(
                f"{table.sql_name} belongs to {table.owner}, and the admin user {user} may only read it: its owner"
                " could make an index while its rows are counted, whose function would run as that user",
                hint=f"GRANT {right} ON {table.sql_name} TO {user}, so that it can be locked; or GRANT"
                f" {quote_identifier(table.owner)} TO {user}",
            )
    locked = [f"{'ONLY ' * (not each.is_partitioned)}{each.sql_name}" for each in tables if each.may_lock]
    if not locked:
        yield
        return
    within = conn.transaction()
    await within.start()
    await conn.execute(f"LOCK TABLE {', '.join(locked)} IN SHARE UPDATE EXCLUSIVE MODE")
    yield
    await within.rollback()


async def _number(conn: asyncpg.Connection) -> int:
    return int(await conn.fetchval("SELECT current_setting('server_version_num')"))


async def _check_folded(conn: asyncpg.Connection, schemas: Sequence[str]) -> None:
    """To plan a query of a table is to call the functions that its indexes and statistics give constants to; to analyze
    it is to call those of its columns' range types.
    """
    for row in await conn.fetch(_FOLDED, schemas):
        raise BackupFailed(
            f"{row['what']} calls {row['calls']}, which belongs to {row['whose']}: to count the rows of its table would"
            " call it as the admin user",
            hint=f"give it to the migrating role (ALTER FUNCTION {row['calls']} OWNER TO ...), or drop {row['what']}",
        )


async def _count(conn: asyncpg.Connection, table: _Table) -> SavedTable:
    row = await conn.fetchrow(checksum_of(table.sql_name, "ROW(r.*)::text", only=not table.is_partitioned))
    assert row is not None
    return SavedTable(schema=table.schema, name=table.name, rows=row["rows"], checksum=row["checksum"])


async def _large_objects(conn: asyncpg.Connection) -> list[SavedTable]:
    row = await conn.fetchrow(_LARGE_OBJECTS)
    assert row is not None
    rows = [row] if row["rows"] else []
    return [
        SavedTable(schema="pg_catalog", name="pg_largeobject", rows=r["rows"], checksum=r["checksum"]) for r in rows
    ]


def compare(saved: Content, found: Content, *, renamed: Mapping[str, str] = NOTHING) -> None:
    """Whether what was restored is what was saved. `renamed`: what schemas are called now that have another name.

    Raises BackupDamaged with what differs.
    """

    def now(schema: str) -> str:
        return renamed.get(schema, schema)

    there = {(each.schema, each.name): each for each in found.tables}
    differences = list(_different(((now(each.schema), each) for each in saved.tables), there))
    values = {(schema, name): last for schema, name, last, _ in found.sequences}
    for schema, name, last, increment in saved.sequences:
        is_at = values.get((now(schema), name))
        if is_at is None or (is_at < last if increment > 0 else is_at > last):
            differences.append(f"the sequence {schema}.{name} is behind {last}")
    if differences:
        more = f", and {len(differences) - 5} more" if len(differences) > 5 else ""
        raise BackupDamaged(f"what was restored differs from what was saved: {'; '.join(differences[:5])}{more}")


def _different(saved: Iterator[tuple[str, SavedTable]], there: dict[tuple[str, str], SavedTable]) -> Iterator[str]:
    for schema, table in saved:
        found = there.get((schema, table.name))
        if found is None:
            yield f"{table.full_name} is missing"
        elif found.rows != table.rows:
            yield f"{table.full_name} has {found.rows} rows instead of {table.rows}"
        elif found.checksum != table.checksum:
            yield f"{table.full_name} has other rows"
