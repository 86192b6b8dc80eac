"""What may a tenant do in its place, and does it stay so at the new one? What was closed to it stays closed.

All that comes over belongs to the admin user there. So what belonged to the tenant's own role does not come: its
functions, and what calls them, would run with that user's rights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import asyncpg

from tenantproxy.errors import Problem
from tenantproxy.lifecycle.their_code import their_code
from tenantproxy.model import quote_identifier

__all__ = ["close_again", "owner_problems"]

_DEFINERS: Final = """
SELECT p.oid::regprocedure::text FROM pg_proc p JOIN pg_roles r ON r.oid = p.proowner
WHERE p.pronamespace = ANY ($1::text[]::regnamespace[]) AND p.prosecdef AND NOT r.rolsuper ORDER BY 1
"""
_HIDDEN: Final = (
    "SELECT nspname::text FROM pg_namespace WHERE nspname = ANY ($1) AND NOT has_schema_privilege($2, oid, 'USAGE')"
)
_CLOSED: Final = """
SELECT n.nspname::text AS schema, c.relname::text AS name, c.relkind = 'S' AS is_sequence,
  string_agg(p.privilege, ', ' ORDER BY p.privilege) AS privileges
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
CROSS JOIN unnest(ARRAY['SELECT', 'UPDATE', 'INSERT', 'DELETE', 'USAGE']) AS p (privilege)
WHERE n.nspname = ANY ($1) AND CASE
  WHEN c.relkind = 'S' THEN
    p.privilege IN ('SELECT', 'UPDATE', 'USAGE') AND NOT has_sequence_privilege($2, c.oid, p.privilege)
  WHEN c.relkind IN ('r', 'p', 'v', 'm', 'f') THEN
    p.privilege <> 'USAGE' AND NOT has_table_privilege($2, c.oid, p.privilege)
  ELSE false END
GROUP BY 1, 2, 3
"""
_ROUTINES: Final = """
SELECT n.nspname::text AS schema, p.proname::text AS name, p.oid::regprocedure::text AS written,
  has_function_privilege($2, p.oid, 'EXECUTE') AS is_open,
  ARRAY(SELECT s.nspname::text FROM unnest(p.proargtypes) WITH ORDINALITY u (t, o) JOIN pg_type t ON t.oid = u.t
        JOIN pg_namespace s ON s.oid = t.typnamespace ORDER BY u.o) AS type_schemas,
  ARRAY(SELECT t.typname::text FROM unnest(p.proargtypes) WITH ORDINALITY u (t, o) JOIN pg_type t ON t.oid = u.t
        ORDER BY u.o) AS types
FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = ANY ($1)
"""


async def owner_problems(
    conn: asyncpg.Connection, key: str, schemas: Sequence[str], role: str, *, is_whole: bool, becomes_superusers: bool
) -> list[Problem]:
    """Why what is in `schemas`, whose SQL runs as `role`, must not become the admin user's. `is_whole`: all of a
    database.
    """
    await conn.execute("SET search_path = pg_catalog")
    quoted, problems = [quote_identifier(each) for each in schemas], []
    code = await their_code(conn, schemas, role, is_whole=is_whole)
    if code.may_create:
        problem = f"lets the tenant's role create things in {', '.join(code.may_create)}, also while it is moved"
        problems.append(
            Problem(key=key, problem=problem, fix=f"REVOKE CREATE ON {code.may_create[0]} FROM {role}, or from PUBLIC")
        )
    if code.owners:
        owners = ", ".join(code.owners)
        problem = f"has things that belong to the tenant's own role ({owners}), and would to the admin user"
        problems.append(
            Problem(key=key, problem=problem, fix="give them to the migrating role first: REASSIGN OWNED BY")
        )
    if becomes_superusers and (definers := [row[0] for row in await conn.fetch(_DEFINERS, quoted)]):
        problem = f"has SECURITY DEFINER functions that would run as a superuser: {', '.join(definers)}"
        problems.append(Problem(key=key, problem=problem, fix="move it with an admin user that is none"))
    return problems


async def close_again(
    source: asyncpg.Connection, target: asyncpg.Connection, schemas: Mapping[str, str], *, old_role: str, role: str
) -> None:
    """Take from `role` at the new place what `old_role` may not at the old one. `schemas`: their names, old and new."""
    grantee = quote_identifier(role)
    for row in await source.fetch(_HIDDEN, list(schemas), old_role):
        await target.execute(f"REVOKE ALL ON SCHEMA {quote_identifier(schemas[row[0]])} FROM PUBLIC, {grantee}")
    for row in await source.fetch(_CLOSED, list(schemas), old_role):
        name = f"{quote_identifier(schemas[row['schema']])}.{quote_identifier(row['name'])}"
        kind = "SEQUENCE" if row["is_sequence"] else "TABLE"
        await target.execute(f"REVOKE {row['privileges']} ON {kind} {name} FROM {grantee}")
    closed = {
        _signature(row, schemas) for row in await source.fetch(_ROUTINES, list(schemas), old_role) if not row["is_open"]
    }
    for row in await target.fetch(_ROUTINES, list(schemas.values()), role) if closed else ():
        if _signature(row, {}) in closed:
            await target.execute(f"REVOKE ALL ON ROUTINE {row['written']} FROM PUBLIC, {grantee}")


def _signature(row: asyncpg.Record, renamed: Mapping[str, str]) -> tuple[object, ...]:
    schemas = tuple(renamed.get(each, each) for each in row["type_schemas"])
    return (renamed.get(row["schema"], row["schema"]), row["name"], schemas, tuple(row["types"]))
