"""What could a tenant's role reach beyond the canary? Asked by the role itself, read only, with the library's session.

The operator's own tables, functions and roles: what a table made for the proof cannot show.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final

from tenantproxy.errors import ConnectFailed, IsolationError, TenantProxyError
from tenantproxy.lifecycle.prove.base import DoorClosed, SqlRefused, Talk, Trial, quoted
from tenantproxy.lifecycle.prove.canary import PREFIX
from tenantproxy.lifecycle.prove.doors import LibraryDoor
from tenantproxy.lifecycle.prove.pairs import reason
from tenantproxy.lifecycle.prove.results import Outcome
from tenantproxy.lifecycle.prove.sql_checks import knows, tried
from tenantproxy.model import Isolation, Tenant, quote_identifier, tenant_id
from tenantproxy.registry import MemoryRegistry
from tenantproxy.router import Router

__all__ = ["other_databases", "other_roles", "other_schemas", "other_sessions", "own_functions", "own_tables"]

_RELATIONS: Final = 300  # of a database, read with one limit of time each
_FUNCTIONS: Final = 100
_READ_TIMEOUT: Final = "1s"

# The columns of a table that its policy compares with the tenant, and those of such a name in all others, but for a
# name that is by itself the key of its table: it says something else elsewhere. Or, where the policy looks into another
# table, the reference to that one.
_COLUMNS: Final = r"""
WITH asking AS (
  SELECT p.polrelid, d.refobjid, d.refobjsubid,
    pg_catalog.count(*) FILTER (WHERE d.refobjid <> p.polrelid) OVER (PARTITION BY p.oid) > 0 AS is_through
  FROM pg_catalog.pg_policy p JOIN pg_catalog.pg_depend d
    ON d.classid = 'pg_catalog.pg_policy'::pg_catalog.regclass AND d.objid = p.oid AND d.refobjsubid > 0
  WHERE pg_catalog.pg_get_expr(p.polqual, p.polrelid) ~ 'tenantproxy\.(bound|current)_tenant|current_setting'
)
SELECT pg_catalog.format('%I.%I', n.nspname, c.relname), pg_catalog.quote_ident(a.attname), NULL, NULL
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema',
    'tenantproxy') AND pg_catalog.has_schema_privilege(n.oid, 'USAGE')
  AND pg_catalog.has_column_privilege(c.oid, a.attnum, 'SELECT')
  AND (a.attname = 'tenant_id'
    OR EXISTS (SELECT FROM asking k WHERE k.polrelid = c.oid AND NOT k.is_through AND k.refobjsubid = a.attnum)
    OR a.attname IN (
      SELECT pa.attname FROM asking k JOIN pg_catalog.pg_attribute pa ON pa.attrelid = k.refobjid
        AND pa.attnum = k.refobjsubid
      WHERE NOT k.is_through AND NOT EXISTS (SELECT FROM pg_catalog.pg_index i WHERE i.indrelid = k.refobjid
        AND i.indisprimary AND i.indnkeyatts = 1 AND i.indkey[0] = k.refobjsubid)))
UNION
SELECT pg_catalog.format('%I.%I', n.nspname, c.relname), pg_catalog.quote_ident(a.attname),
  pg_catalog.format('%I.%I', m.nspname, t.relname), pg_catalog.quote_ident(b.attname)
FROM asking k JOIN pg_catalog.pg_class c ON c.oid = k.polrelid AND NOT c.relispartition
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_constraint f ON f.conrelid = c.oid AND f.contype = 'f' AND f.confrelid = k.refobjid
  AND pg_catalog.cardinality(f.conkey) = 1
JOIN pg_catalog.pg_class t ON t.oid = f.confrelid JOIN pg_catalog.pg_namespace m ON m.oid = t.relnamespace
JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = f.conkey[1]
JOIN pg_catalog.pg_attribute b ON b.attrelid = t.oid AND b.attnum = f.confkey[1]
WHERE k.is_through AND k.refobjid <> k.polrelid AND pg_catalog.has_schema_privilege(n.oid, 'USAGE')
  AND EXISTS (SELECT FROM asking o WHERE o.polrelid = c.oid AND o.refobjid = c.oid AND o.refobjsubid = f.conkey[1])
  AND pg_catalog.has_table_privilege(c.oid, 'SELECT') AND pg_catalog.has_table_privilege(t.oid, 'SELECT')
ORDER BY 1, 2
"""
_DEFINERS: Final = r"""
SELECT p.oid::pg_catalog.regprocedure::text, pg_catalog.format('%I.%I()', n.nspname, p.proname), p.provolatile::text
FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
WHERE p.prosecdef AND p.prokind = 'f' AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'tenantproxy')
  AND p.prorettype NOT IN ('pg_catalog.trigger'::pg_catalog.regtype, 'pg_catalog.event_trigger'::pg_catalog.regtype)
  AND pg_catalog.has_schema_privilege(n.oid, 'USAGE') AND pg_catalog.has_function_privilege(p.oid, 'EXECUTE')
ORDER BY 1
"""
_NO_ARGUMENTS: Final = re.compile(r".*\(\)")


# --- the operator's tables -------------------------------------------------------------------------------------------
async def own_tables(at: Trial, outcome: Outcome) -> None:
    """Reads every relation of the operator's that says whose a row is, and finds none that is another tenant's."""
    first = at.pair.first
    if at.pair.isolation is not Isolation.ROW:
        outcome.nothing = "each tenant has tables of its own"
        return
    async with at.door.session(first) as talk:
        found = [(str(row[0]), str(row[1]), row[2], row[3]) for row in await talk.ask(_COLUMNS)]
        for relation, column, parent, key in found[:_RELATIONS]:
            if PREFIX in relation or at.is_unprotected(relation):
                continue
            other = f"SELECT 1 FROM {relation} WHERE {column}::text <> {quoted(first.id)} LIMIT 1"
            if parent is not None:  # whose rows this one refers to is read there
                other = f"SELECT 1 FROM {relation} WHERE {column} NOT IN (SELECT {key} FROM {parent}) LIMIT 1"
            try:
                rows = await _read_only(talk, other)
            except SqlRefused as exc:
                outcome.untried.append(f"{relation} ({exc.sqlstate})")
                continue
            outcome.judge(relation, f"rows of other tenants are shown by {column}" if rows else None)
    if len(found) > _RELATIONS:
        outcome.untried.append(f"{len(found) - _RELATIONS} more relations")
    if not found:
        outcome.nothing = "no table of the operator's has a tenant's column"


async def own_functions(at: Trial, outcome: Outcome) -> None:
    """Calls SECURITY DEFINER functions without arguments that promise no effect (`at.may_call`: the others too).

    In a transaction that reads only and is rolled back. Those with arguments cannot be tried.
    """
    first, second = at.pair.first, at.pair.second
    if at.pair.isolation is not Isolation.ROW:
        outcome.nothing = "each tenant has functions of its own"
        return
    async with at.door.session(first) as talk:
        found = await talk.ask(_DEFINERS)
        for name, call, volatility in found[:_FUNCTIONS]:
            if not _NO_ARGUMENTS.fullmatch(str(name)):
                outcome.untried.append(f"{name}, which has arguments: read what it does")
            elif volatility == "v" and not at.may_call:
                outcome.untried.append(f"{name}, which is VOLATILE: --call-functions calls it, read only")
            else:
                try:
                    rows = await _read_only(talk, f"SELECT * FROM {call} LIMIT 1000")
                except SqlRefused as exc:
                    outcome.untried.append(f"{name} ({exc.sqlstate})")
                    continue
                leaks = any(_names(second, value) for row in rows for value in row)
                outcome.judge(str(name), f"it shows rows of {second.id}" if leaks else None)
    if len(found) > _FUNCTIONS:
        outcome.untried.append(f"{len(found) - _FUNCTIONS} more functions")
    if not found:
        outcome.nothing = "no SECURITY DEFINER function can be called"


def _names(tenant: Tenant, value: str | None) -> bool:
    """Whether it is the tenant's identifier, or has it in it as a word."""
    return value is not None and re.search(rf"(?<![\w-]){re.escape(tenant.id)}(?![\w-])", value) is not None


async def _read_only(talk: Talk, sql: str) -> list[list[str | None]]:
    await talk.ask("BEGIN TRANSACTION READ ONLY")
    try:
        await talk.ask(f"SET LOCAL statement_timeout = '{_READ_TIMEOUT}'")
        return await talk.ask(sql)
    finally:
        await talk.ask("ROLLBACK")


# --- roles and sessions ----------------------------------------------------------------------------------------------
_MEMBER: Final = (
    "SELECT rolname FROM pg_catalog.pg_roles WHERE pg_catalog.pg_has_role(oid, 'MEMBER') AND rolname <> current_user"
    " ORDER BY 1 LIMIT 50"
)


async def other_roles(at: Trial, outcome: Outcome) -> None:
    """Becomes every role that the tenant's may become, and reads: rows of the other, the keys, the other's schema."""
    second = at.pair.second
    reads = ["SELECT 'key ' || kid FROM tenantproxy.context_key"]
    if at.canary is not None:
        reads.append(f"SELECT secret FROM {at.canary.place(second)}")
    async with at.door.session(at.pair.first) as talk:
        roles = [None, *(str(row[0]) for row in await talk.ask(_MEMBER))]
    for role in roles:
        async with at.door.session(at.pair.first) as talk:
            if role is not None:
                await tried(talk, [f"SET ROLE {quote_identifier(role)}"])
            seen = await tried(talk, reads)
        leak = None
        if any(re.fullmatch(r"key \d", each) for each in seen):
            leak = "reads the keys that sign"
        elif at.canary is not None and knows(at, seen, second):
            leak = f"reads rows of {second.id}"
        outcome.judge(f"as {role or 'itself'}", leak)


async def other_sessions(at: Trial, outcome: Outcome) -> None:
    """Sessions of one role see and end each other, where the functions for that are open to tenants."""
    if not at.pair.shares_role:
        outcome.nothing = "each has a role of its own, which PostgreSQL keeps apart"
        return
    calls = {
        "what others run": "SELECT count(*) FROM pg_catalog.pg_stat_get_activity(NULL)",
        "ending others": "SELECT pg_catalog.pg_terminate_backend(0)",
        "cancelling others": "SELECT pg_catalog.pg_cancel_backend(0)",
    }
    for name, call in calls.items():
        async with at.door.session(at.pair.first) as talk:
            try:
                await talk.ask(call)
            except SqlRefused as exc:
                outcome.judge(name, None if exc.sqlstate == "42501" else f"it says {exc.sqlstate}")
            else:
                outcome.judge(name, "the function is open: tenantproxy install closes it")


# --- places ----------------------------------------------------------------------------------------------------------
_NO_CONNECT: Final = "may not connect to the database"  # as `connect.failures` says 42501
_SCHEMA: Final = "SELECT pg_catalog.has_schema_privilege(n.oid, {}) FROM pg_catalog.pg_namespace n WHERE n.nspname = {}"


async def other_schemas(at: Trial, outcome: Outcome) -> None:
    """The role of a schema tenant has no right to look into, or make anything in, the schema of the other."""
    schema = at.pair.second.placement.schema
    if schema is None:
        outcome.nothing = "their kind has no schemas"
        return
    if at.pair.shares_role:
        outcome.open = "they share a role ([schema] shared_role): a qualified name is all that one needs"
        return
    async with at.door.session(at.pair.first) as talk:
        for right in ("USAGE", "CREATE"):
            rows = await talk.ask(_SCHEMA.format(quoted(right), quoted(schema)))
            may = rows == [["True"]] or rows == [["t"]]
            outcome.judge(right, f"{at.pair.first.id}'s role has {right} on {schema}" if may else None)


async def other_databases(at: Trial, outcome: Outcome) -> None:
    """The credentials of a database tenant open no database of another one."""
    first, second = at.pair.first, at.pair.second
    if at.pair.isolation is not Isolation.DATABASE:
        outcome.nothing = "they have one database"
        return
    if at.pair.shares_role:
        outcome.open = "they share a role: nothing but tenantproxy keeps it to one database"
        return
    if not isinstance(at.door, LibraryDoor):
        raise DoorClosed("it is about the server")
    place = replace(first.placement, database=second.placement.database)
    thief = Tenant(id=tenant_id(first.id), placement=place)
    settings = at.door.router.settings
    async with Router(settings, registry=MemoryRegistry([thief])) as router:
        try:
            await router.tenant(thief.id).fetchval("SELECT 1", timeout=15.0)
        except (ConnectFailed, IsolationError) as exc:
            if _NO_CONNECT in reason(exc):
                outcome.judge(second.placement.database, None)
            else:
                outcome.untried.append(reason(exc))
        except TenantProxyError as exc:
            outcome.untried.append(reason(exc))
        else:
            outcome.judge(second.placement.database, f"the role of {first.id} may connect to it")
