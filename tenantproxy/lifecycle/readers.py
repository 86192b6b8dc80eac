"""What is still to be done until a role reads all that another one reads, and can write nothing?

A mirror of grants: wherever the writer may look, its reader may, in one database at a time and in tables to come. What
a grant cannot close is told by the check at each connect (`connect.reader`).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import asyncpg

from tenantproxy.errors import Problem
from tenantproxy.lifecycle.change import SEARCH_PATH, Change, ChangePlan
from tenantproxy.lifecycle.install import alone
from tenantproxy.model import quote_identifier, reader_of

__all__ = ["grant_reading", "grants_of", "has_role", "plan_reader"]

_TRIES: Final = 50  # where others change grants of the same database
_OURS: Final = (  # of the schema tenantproxy: what a session needs to be made its tenant's, and policies to read
    "bind", "bound_tenant", "context", "current_tenant", "enter", "hello", "prepared_check", "proved_tenant",
    "sign_context", "trust", "trust_again",
)  # fmt: skip
_SHUT: Final = ("tenantproxy", "tenantproxy_login")  # schemas in which nothing but those functions is a reader's
_KEEPER: Final = "GRANT tenantproxy_keeper TO CURRENT_USER; SET LOCAL ROLE tenantproxy_keeper; "
_NO_KEEPER: Final = "; RESET ROLE; REVOKE tenantproxy_keeper FROM CURRENT_USER"

# Each row: what it is, how it is changed, and as whom it has to be. $1 writer, $2 reader, $3 schemas left out, $4 ours.
_PLAN: Final = """
WITH who AS (
  SELECT w.oid AS writer, w.rolname::text AS name, coalesce(r.oid, 0) AS reader,
    coalesce(r.rolname::text, 'public') AS has, quote_ident($2) AS role
  FROM pg_roles w LEFT JOIN pg_roles r ON r.rolname = $2 WHERE w.rolname = $1
), schemas AS (
  SELECT n.oid, n.nspname, n.nspowner, n.nspacl FROM pg_namespace n, who
  WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' AND n.nspname <> ALL ($3)
    AND has_schema_privilege(who.name, n.oid, 'USAGE')
), relations AS (
  SELECT c.oid, c.relkind, c.relacl, c.relowner, n.nspname, format('%I.%I', n.nspname, c.relname) AS name
  FROM pg_class c JOIN schemas n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
)
SELECT 1 AS step, format('database %I: %s may connect', d.datname, role) AS what,
  format('GRANT CONNECT ON DATABASE %I TO %s', d.datname, role) AS sql, d.datdba AS owner
FROM pg_database d, who WHERE d.datname = current_database()
  AND has_database_privilege(who.name, d.oid, 'CONNECT') AND NOT has_database_privilege(who.has, d.oid, 'CONNECT')
UNION ALL
SELECT 2, format('schema %I: %s may look into it', n.nspname, role),
  format('GRANT USAGE ON SCHEMA %I TO %s', n.nspname, role), n.nspowner
FROM schemas n, who WHERE NOT has_schema_privilege(who.has, n.oid, 'USAGE')
UNION ALL
SELECT 3, format('schema %I: %s may read what %s reads', c.nspname, role, quote_ident(who.name)),
  format('GRANT SELECT ON %s TO %s', string_agg(c.name, ', ' ORDER BY c.name), role), c.relowner
FROM relations c, who WHERE c.relkind <> 'S' AND has_table_privilege(who.name, c.oid, 'SELECT')
  AND NOT has_table_privilege(who.has, c.oid, 'SELECT')
GROUP BY c.nspname, role, who.name, c.relowner
UNION ALL
SELECT 3, format('table %s: %s may read what %s reads', c.name, role, quote_ident(who.name)),
  format('GRANT SELECT (%s) ON %s TO %s', string_agg(quote_ident(t.attname), ', ' ORDER BY t.attnum), c.name, role),
  c.relowner
FROM relations c JOIN pg_attribute t ON t.attrelid = c.oid AND t.attacl IS NOT NULL AND NOT t.attisdropped, who
WHERE NOT has_table_privilege(who.name, c.oid, 'SELECT') AND has_column_privilege(who.name, c.oid, t.attnum, 'SELECT')
  AND NOT has_column_privilege(who.has, c.oid, t.attnum, 'SELECT')
GROUP BY c.name, role, who.name, c.relowner
UNION ALL
SELECT 4, format('%s may read what %s creates later', role, quote_ident(pg_get_userbyid(f.defaclrole))),
  format('ALTER DEFAULT PRIVILEGES FOR ROLE %I%s GRANT SELECT ON TABLES TO %s', pg_get_userbyid(f.defaclrole),
    coalesce(' IN SCHEMA ' || quote_ident(n.nspname), ''), role), f.defaclrole
FROM who, pg_default_acl f LEFT JOIN schemas n ON n.oid = f.defaclnamespace
WHERE f.defaclobjtype = 'r' AND (f.defaclnamespace = 0 OR n.oid IS NOT NULL)
  AND EXISTS (SELECT FROM aclexplode(f.defaclacl) a WHERE a.grantee = who.writer AND a.privilege_type = 'SELECT')
  AND NOT EXISTS (SELECT FROM aclexplode(f.defaclacl) a WHERE a.grantee = who.reader AND a.privilege_type = 'SELECT')
UNION ALL
SELECT 5, format('functions of the schema %I: %s may call what %s calls', n.nspname, role, quote_ident(who.name)),
  format('GRANT EXECUTE ON FUNCTION %s TO %s', string_agg(p.oid::regprocedure::text, ', ' ORDER BY p.oid), role),
  p.proowner
FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace, who
WHERE p.prokind IN ('f', 'w') AND has_function_privilege(who.name, p.oid, 'EXECUTE')
  AND NOT has_function_privilege(who.has, p.oid, 'EXECUTE')
  AND (n.nspname = 'tenantproxy' AND p.proname = ANY ($4)
    OR NOT p.prosecdef AND n.oid IN (SELECT s.oid FROM schemas s))
GROUP BY n.nspname, role, who.name, p.proowner
UNION ALL
SELECT 6, format('%s: %s may no longer %s', c.name, role, string_agg(a.privilege_type, ', ')),
  format('REVOKE %s ON %s FROM %s', string_agg(a.privilege_type, ', '), c.name, role), c.relowner
FROM relations c, aclexplode(c.relacl) a, who
WHERE a.grantee = who.reader AND who.reader <> 0 AND a.privilege_type <> 'SELECT'
GROUP BY c.name, role, c.relowner
UNION ALL
SELECT 6, format('schema %I: %s creates nothing in it', n.nspname, role),
  format('REVOKE CREATE ON SCHEMA %I FROM %s', n.nspname, role), n.nspowner
FROM schemas n, aclexplode(n.nspacl) a, who
WHERE a.grantee = who.reader AND who.reader <> 0 AND a.privilege_type = 'CREATE'
UNION ALL
SELECT 6, format('database %I: %s makes no schema and no temporary table', d.datname, role),
  format('REVOKE CREATE, TEMPORARY ON DATABASE %I FROM %s', d.datname, role), d.datdba
FROM pg_database d, who WHERE d.datname = current_database() AND who.reader <> 0 AND EXISTS (
  SELECT FROM aclexplode(d.datacl) a WHERE a.grantee = who.reader AND a.privilege_type IN ('CREATE', 'TEMPORARY'))
UNION ALL
SELECT 7, 'functions that make large objects: closed to PUBLIC',
  format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', string_agg(p.oid::regprocedure::text, ', ' ORDER BY p.oid)),
  p.proowner
FROM pg_proc p
WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.proname IN ('lo_creat', 'lo_create', 'lo_from_bytea')
  AND EXISTS (SELECT FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a WHERE a.grantee = 0)
GROUP BY p.proowner
"""
_OWNED: Final = f"""
SELECT p.step, p.what, p.sql, pg_get_userbyid(p.owner)::text AS owner, pg_has_role(p.owner, 'USAGE') AS is_mine,
  pg_get_userbyid(p.owner) = 'tenantproxy_keeper' AS is_keepers
FROM ({_PLAN}) p ORDER BY p.step, p.what
"""
_CLOSING: Final = 7  # the step that only who owns the functions of PostgreSQL can do


async def has_role(conn: asyncpg.Connection, role: str) -> bool:
    """Whether there is a role of that name."""
    return bool(await conn.fetchval("SELECT true FROM pg_roles WHERE rolname = $1", role))


async def plan_reader(conn: asyncpg.Connection, writer: str) -> ChangePlan:
    """The plan of the role that reads what `writer` reads (`reader_of`), in the database of `conn`. Changes nothing.

    What the user of `conn` cannot do is in `missing`; what a superuser has to close for all, in `notes`.
    """
    reader = quote_identifier(reader_of(writer))
    async with conn.transaction(readonly=True):
        await conn.execute("SELECT pg_catalog.set_config('search_path', $1, true)", SEARCH_PATH)
        rows = await _rows(conn, writer)
        user = await conn.fetchval("SELECT current_user::text")
    notes, missing = [], []
    for row in rows:
        if row["is_mine"] or row["is_keepers"]:
            continue
        if row["step"] == _CLOSING:
            notes.append(f"{reader} could make large objects until a superuser runs: {row['sql']}")
            continue
        name = quote_identifier(row["owner"])
        fix = f"GRANT {name} TO {quote_identifier(user)}, or name {name} or a superuser in [servers.NAME.admin]"
        problem = f"may not run {row['sql'][:200]}, for what belongs to {name}"
        missing.append(Problem(key=f"user {user}", problem=problem, fix=fix))
    return ChangePlan(changes=tuple(_changes(rows)), notes=tuple(notes), missing=tuple(missing))


async def grants_of(conn: asyncpg.Connection, writer: str) -> list[Change]:
    """The changes of `plan_reader` that the user of `conn` may make; its search_path is pg_catalog alone."""
    return list(_changes(await _rows(conn, writer)))


async def _rows(conn: asyncpg.Connection, writer: str) -> list[asyncpg.Record]:
    return await conn.fetch(_OWNED, writer, reader_of(writer), list(_SHUT), list(_OURS))


def _changes(rows: Iterable[asyncpg.Record]) -> Iterator[Change]:
    for row in rows:
        if row["is_mine"]:
            yield Change(what=row["what"], sql=row["sql"])
        elif row["is_keepers"]:
            yield Change(what=row["what"], sql=f"{_KEEPER}{row['sql']}{_NO_KEEPER}")


async def grant_reading(conn: asyncpg.Connection, writer: str) -> Sequence[Change]:
    """Bring the reader of `writer` up to it in the database of `conn`; what was changed. Nothing where it is missing.

    What the user of `conn` may not change is left, and the check at connect tells of it. Again where another change of
    the same grants came first.
    """
    if not await has_role(conn, reader_of(writer)):
        return ()  # of a server's own user: `install --roles` makes it
    for left in range(_TRIES, -1, -1):
        plan = await plan_reader(conn, writer)
        try:
            if plan.changes:
                async with alone(conn, 5.0):
                    for change in plan.changes:
                        await conn.execute(change.sql)
            return plan.changes
        except asyncpg.InternalServerError:  # XX000: tuple concurrently updated
            if not left:
                raise
            await asyncio.sleep(random.uniform(0.0, 0.05))
    raise AssertionError("the last try returns or raises")
