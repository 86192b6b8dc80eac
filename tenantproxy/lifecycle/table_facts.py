"""What does the catalogue say of a table to be isolated: its partitions, policies, indexes, owner and grants?"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import asyncpg

from tenantproxy.lifecycle.change import SEARCH_PATH
from tenantproxy.lifecycle.column_type import ColumnType, describe_type

__all__ = [
    "PRIVILEGES",
    "Access",
    "ExistingPolicy",
    "Relation",
    "TableFacts",
    "find_table",
    "read_table",
    "tables_with",
]

PRIVILEGES: Final = ("SELECT", "INSERT", "UPDATE", "DELETE")
"""What a role that runs tenants' SQL gets on a table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExistingPolicy:
    """A policy. `command`: `*`, or r, a, w, d as in pg_policy. `applies`: to a role that tenants' SQL runs as."""

    name: str
    permissive: bool
    command: str
    for_all_roles: bool
    applies: bool
    reads: str | None
    writes: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Relation:
    """A table, or one of its partitions and children. `kind`: as pg_class.relkind; names are quoted where needed.

    `default` is the column's own; `settable`: it may have one. `broken` are indexes that a build left invalid.
    """

    name: str
    kind: str
    owner: str
    is_mine: bool
    enabled: bool
    forced: bool
    default: str | None
    settable: bool
    nullable: bool
    identity: bool
    has_index: bool
    broken: tuple[str, ...]
    policies: tuple[ExistingPolicy, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """What a role that tenants' SQL runs as may do with the table, and must not.

    `owns`: owners of the table or a partition that it is or can become. `sequences` are those that it lacks USAGE on.
    """

    role: str
    exists: bool
    mighty: bool
    owns: tuple[str, ...]
    lacks: tuple[str, ...]
    excess: tuple[str, ...]
    excess_of_public: tuple[str, ...]
    sees_schema: bool
    sequences: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TableFacts:
    """A table (the first of `relations`) with its partitions and children, and who may use it.

    `others`: roles besides the owner and those of `access` that have been granted it. `parent`: what it is a part of.
    """

    schema: str
    column: str
    kind: ColumnType
    user: str
    may_index: bool
    may_open_schema: bool
    relations: tuple[Relation, ...]
    access: tuple[Access, ...]
    others: tuple[str, ...]
    parent: str | None


_FIND: Final = """
SELECT c.oid::int8 AS oid, format('%I.%I', n.nspname, c.relname) AS name, c.relkind::text AS kind,
       EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = $2 AND a.attnum > 0
               AND NOT a.attisdropped) AS has_column,
       ARRAY(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0
             AND NOT a.attisdropped ORDER BY a.attnum) AS columns
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = $1::int8::oid
"""


async def find_table(conn: asyncpg.Connection, table: str, column: str, path: str) -> asyncpg.Record | str:
    """The relation that `table` names, as in SQL, looked for in `path` (a search_path); a text: why it was not found.

    Has oid, name, kind, has_column and columns.
    """
    try:
        async with conn.transaction():
            await conn.execute("SELECT pg_catalog.set_config('search_path', $1, true)", path)
            oid = await conn.fetchval("SELECT pg_catalog.to_regclass($1)::oid::int8", table)
            # What is set in a part of a transaction outlives that part.
            await conn.execute("SELECT pg_catalog.set_config('search_path', $1, true)", SEARCH_PATH)
    except asyncpg.PostgresError as exc:
        return f"is no name of a table: {exc.args[0] if exc.args else exc}"
    if oid is None:
        bare = table.rpartition(".")[2].strip('"')
        alike = await conn.fetchval(
            "SELECT string_agg(format('%I.%I', n.nspname, c.relname), ', ') FROM pg_class c"
            " JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p')"
            " AND lower(c.relname) = lower($1) AND n.nspname !~ '^pg_'",
            bare,
        )
        return "does not exist in this database" + (f", but {alike} does" if alike else "")
    row = await conn.fetchrow(_FIND, oid, column)
    assert row is not None
    return row


# Partitions and children have the column because their parent has it, and are isolated with it.
_WITH_COLUMN: Final = """
SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = $1 AND NOT a.attisdropped
WHERE c.relkind IN ('r', 'p') AND n.nspname !~ '^pg_' AND n.nspname <> ALL ('{information_schema,tenantproxy}')
  AND n.nspname <> ALL ($2)
  AND NOT EXISTS (SELECT FROM pg_inherits i JOIN pg_attribute p ON p.attrelid = i.inhparent AND p.attname = $1
                  WHERE i.inhrelid = c.oid)
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
                  AND d.deptype = 'e')
ORDER BY 1
"""


async def tables_with(conn: asyncpg.Connection, column: str, *, outside: Sequence[str]) -> list[str]:
    """All tables that have `column`, but in the schemas `outside`; not those of extensions."""
    return [row[0] for row in await conn.fetch(_WITH_COLUMN, column, list(outside))]


_TREE: Final = """
WITH RECURSIVE tree AS (
  SELECT $1::int8::oid AS oid, 0 AS depth
  UNION SELECT i.inhrelid, depth + 1 FROM pg_inherits i JOIN tree ON i.inhparent = tree.oid)
SELECT c.oid::int8 AS oid, format('%I.%I', n.nspname, c.relname) AS name, c.relkind::text AS kind,
  pg_get_userbyid(c.relowner)::text AS owner, pg_has_role(c.relowner, 'USAGE') AS is_mine,
  c.relrowsecurity AS enabled, c.relforcerowsecurity AS forced,
  pg_get_expr(d.adbin, d.adrelid) AS default, a.attidentity = '' AND a.attgenerated = '' AS settable,
  NOT a.attnotnull AS nullable, a.attidentity <> '' AS identity,
  EXISTS (SELECT FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_am m ON m.oid = x.relam
          WHERE i.indrelid = c.oid AND i.indisvalid AND i.indkey[0] = a.attnum AND i.indpred IS NULL
            AND m.amname IN ('btree', 'hash')) AS has_index,
  ARRAY(SELECT i.indexrelid::regclass::text FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid
        WHERE i.indrelid = c.oid AND x.relkind = 'i' AND NOT i.indisvalid AND i.indnatts = 1
          AND i.indkey[0] = a.attnum AND i.indpred IS NULL AND NOT i.indisunique) AS broken,
  (SELECT coalesce(json_agg(json_build_object('name', p.polname, 'permissive', p.polpermissive,
     'command', p.polcmd, 'for_all_roles', p.polroles = '{0}',
     'applies', cardinality($3::text[]) = 0 OR EXISTS (SELECT FROM unnest(p.polroles) AS given(oid) WHERE given.oid = 0
       OR EXISTS (SELECT FROM pg_roles r WHERE r.rolname = ANY ($3) AND pg_has_role(r.oid, given.oid, 'MEMBER'))),
     'reads', pg_get_expr(p.polqual, p.polrelid), 'writes', pg_get_expr(p.polwithcheck, p.polrelid))
     ORDER BY p.polname), '[]') FROM pg_policy p WHERE p.polrelid = c.oid)::text AS policies
FROM tree JOIN pg_class c ON c.oid = tree.oid JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = $2 AND NOT a.attisdropped
LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
ORDER BY depth, name
"""
_ACCESS: Final = """
SELECT w.role, r.oid IS NOT NULL AS exists, coalesce(r.rolsuper OR r.rolbypassrls, false) AS mighty,
  ARRAY(SELECT DISTINCT pg_get_userbyid(c.relowner)::text FROM pg_class c WHERE c.oid = ANY ($2::int8[]::oid[])
        AND r.oid IS NOT NULL AND pg_has_role(r.oid, c.relowner, 'MEMBER')) AS owns,
  ARRAY(SELECT p FROM unnest($3::text[]) p WHERE NOT has_table_privilege(w.or_public, t.oid, p)) AS lacks,
  ARRAY(SELECT DISTINCT g.privilege_type FROM pg_class c, aclexplode(c.relacl) g
        WHERE c.oid = ANY ($2::int8[]::oid[]) AND g.grantee = r.oid
        AND g.privilege_type IN ('TRUNCATE', 'REFERENCES', 'TRIGGER') ORDER BY 1) AS excess,
  ARRAY(SELECT DISTINCT g.privilege_type FROM pg_class c, aclexplode(c.relacl) g
        WHERE c.oid = ANY ($2::int8[]::oid[]) AND g.grantee = 0
        AND g.privilege_type IN ('TRUNCATE', 'REFERENCES', 'TRIGGER') ORDER BY 1) AS excess_of_public,
  has_schema_privilege(w.or_public, t.relnamespace, 'USAGE') AS sees_schema,
  ARRAY(SELECT DISTINCT format('%I.%I', n.nspname, s.relname) FROM pg_depend d JOIN pg_class s ON s.relkind = 'S'
          AND s.oid = CASE WHEN d.classid = 'pg_class'::regclass THEN d.objid ELSE d.refobjid END
        JOIN pg_namespace n ON n.oid = s.relnamespace
        WHERE NOT has_sequence_privilege(w.or_public, s.oid, 'USAGE')
          AND (d.classid = 'pg_class'::regclass AND d.deptype = 'a' AND d.refclassid = 'pg_class'::regclass
               AND d.refobjid = t.oid
               OR d.classid = 'pg_attrdef'::regclass AND d.refclassid = 'pg_class'::regclass
               AND d.objid IN (SELECT f.oid FROM pg_attrdef f WHERE f.adrelid = t.oid))
        ORDER BY 1) AS sequences
FROM pg_class t, unnest($4::text[]) AS given(role) LEFT JOIN pg_roles r ON r.rolname = given.role,
LATERAL (SELECT given.role, coalesce(r.rolname::text, 'public') AS or_public) w
WHERE t.oid = $1::int8::oid ORDER BY 1
"""
_ABOUT: Final = """
SELECT n.nspname::text AS schema, current_user::text AS user, has_schema_privilege(n.oid, 'CREATE') AS may_index,
  pg_has_role(n.nspowner, 'USAGE') OR has_schema_privilege(n.oid, 'USAGE WITH GRANT OPTION') AS may_open_schema,
  ARRAY(SELECT DISTINCT CASE g.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(g.grantee)::text END
        FROM aclexplode(c.relacl) g WHERE g.grantee <> c.relowner AND g.privilege_type = ANY ($2)
          AND NOT EXISTS (SELECT FROM pg_roles r WHERE r.oid = g.grantee
                          AND (r.rolname = ANY ($3) OR r.rolsuper OR r.rolbypassrls)) ORDER BY 1) AS others,
  (SELECT i.inhparent::regclass::text FROM pg_inherits i WHERE i.inhrelid = c.oid LIMIT 1) AS parent
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = $1::int8::oid
"""


async def read_table(conn: asyncpg.Connection, oid: int, column: str, roles: Sequence[str]) -> TableFacts:
    """All that is needed to plan; `column` exists. With search_path = pg_catalog, so that names are printed in full."""
    tree = await conn.fetch(_TREE, oid, column, list(roles))
    relations = [dict(row) for row in tree]
    oids = [relation.pop("oid") for relation in relations]
    access = await conn.fetch(_ACCESS, oid, oids, list(PRIVILEGES), list(roles))
    about = await conn.fetchrow(_ABOUT, oid, list(PRIVILEGES), list(roles))
    assert about is not None
    return TableFacts(
        column=column,
        kind=await describe_type(conn, oid, column),
        relations=tuple(_relation(relation) for relation in relations),
        access=tuple(Access(**_tuples(dict(row))) for row in access),
        **_tuples(dict(about)),
    )


def _relation(row: dict[str, Any]) -> Relation:
    policies = tuple(ExistingPolicy(**policy) for policy in json.loads(row.pop("policies")))
    return Relation(policies=policies, **_tuples(row))


def _tuples(row: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in row.items()}
