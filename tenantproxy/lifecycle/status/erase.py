"""What is left of a tenant outside a place of its own? Its rows in shared tables, and what the main database knows."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final

import asyncpg

from tenantproxy.errors import TenantProxyError
from tenantproxy.lifecycle.backup.row_tables import PolicyTable, policy_tables
from tenantproxy.lifecycle.table_facts import tables_with
from tenantproxy.model import quote_identifier

__all__ = ["erase_rows", "forget_tenant", "shared_tables"]

_ISOLATED: Final = """
SELECT relrowsecurity AND pg_get_userbyid(relowner) <> ALL ($2) FROM pg_class WHERE oid = to_regclass($1)
"""
_HELD: Final = """
SELECT t FROM unnest($1::text[]) t JOIN pg_class c ON c.oid = to_regclass(t)
WHERE row_security_active(c.oid) AND c.relforcerowsecurity AND pg_has_role(current_user, c.relowner, 'USAGE')
"""
_PATIENCE: Final = "5s"
_TYPE: Final = """
SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = to_regclass($1) AND attname = $2
"""
_OID: Final = "SELECT to_regclass($1)::oid::int8"
_KNOWN: Final = (
    ("tenantproxy.login_directory", "tenant_id"),
    ("tenantproxy.sessions", "tenant"),
    ("tenantproxy.session_ends", "tenant"),
)


async def shared_tables(
    conn: asyncpg.Connection, column: str, *, own_schemas: Sequence[str], own_roles: Sequence[str] = ()
) -> list[str]:
    """The tables with `column` that row security guards, outside the schemas of other tenants.

    `own_roles`: other tenants'. To delete from a table of theirs would be to run their triggers.
    """
    found = await tables_with(conn, column, outside=own_schemas)
    return [name for name in found if await conn.fetchval(_ISOLATED, name, own_roles)]


async def erase_rows(
    conn: asyncpg.Connection, tenant: str, column: str, *, own_schemas: Sequence[str], own_roles: Sequence[str] = ()
) -> Mapping[str, int]:
    """Delete the tenant's rows from all shared tables, by table; all or none: from those with `column`, and from those
    whose tenantproxy policy says by another one, or through another table, whose a row is. `own_schemas`, `own_roles`:
    those of tenants that have a place of their own in this database.

    One statement, so that foreign keys between them are looked at when all are gone. Raises TenantProxyError where the
    user of `conn` sees the rows of one tenant alone, and is not their owner.
    """
    tables = await shared_tables(conn, column, own_schemas=own_schemas, own_roles=own_roles)
    name = quote_identifier(column)
    conditions = {
        table: f"{name} = $1::text::{await conn.fetchval(_TYPE, table, column)}" for table in tables
    }  # fmt: skip
    known = {await conn.fetchval(_OID, table) for table in tables}
    conditions |= {
        each.sql_name: each.condition
        for each in await _policed(conn, own_roles)
        if each.oid not in known and each.schema not in own_schemas
    }
    if not conditions:
        return {}
    tables = list(conditions)
    parts = [
        f"d{number} AS (DELETE FROM {table} WHERE {condition} RETURNING 1)"
        for number, (table, condition) in enumerate(conditions.items())
    ]
    counts = ", ".join(f"(SELECT count(*) FROM d{number})" for number in range(len(tables)))
    try:
        async with conn.transaction(), _all_seen(conn, tables):
            row = await conn.fetchrow(f"WITH {', '.join(parts)} SELECT {counts}", tenant)
    except asyncpg.LockNotAvailableError as exc:
        raise TenantProxyError(
            f"the rows of the tenant could not be deleted: others held its tables for {_PATIENCE}",
            hint="call it again when long transactions have ended",
        ) from exc
    except asyncpg.InsufficientPrivilegeError as exc:
        raise TenantProxyError(
            "the rows of the tenant could not be deleted, as row security holds for the admin user too",
            detail=exc.args[0] if exc.args else None,
            hint="name the owner of the tables, or a superuser, in [servers.NAME.admin]",
        ) from exc
    assert row is not None
    return dict(zip(tables, row, strict=True))


async def _policed(conn: asyncpg.Connection, own_roles: Sequence[str]) -> list[PolicyTable]:
    """The tables with a tenantproxy policy, with types and tables written in full."""
    async with conn.transaction():
        await conn.execute("SET LOCAL search_path = pg_catalog")
        return await policy_tables(conn, own_roles=own_roles)


@asynccontextmanager
async def _all_seen(conn: asyncpg.Connection, tables: Sequence[str]) -> AsyncIterator[None]:
    """In the transaction of `conn`, policies of `tables` hide no row: where they would, that is an error.

    An owner whom row security holds too, as on managed PostgreSQL, is let off it: no other session sees that, since
    those tables are locked to the end of the transaction, and it holds again by then.
    """
    held = [row[0] for row in await conn.fetch(_HELD, sorted(tables))]
    if held:
        await conn.execute(f"SET LOCAL lock_timeout = '{_PATIENCE}'")
        await conn.execute(f"LOCK TABLE {', '.join(held)} IN ACCESS EXCLUSIVE MODE")
    for table in held:
        await conn.execute(f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY")
    await conn.execute("SET LOCAL row_security = off")
    yield
    if held:
        await conn.execute("SET CONSTRAINTS ALL IMMEDIATE")
    for table in held:
        await conn.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")


async def forget_tenant(conn: asyncpg.Connection, tenant: str) -> None:
    """Delete what the main database knows of the tenant besides its entry: its part of the directory, its sessions."""
    for table, column in _KNOWN:
        if await conn.fetchval("SELECT to_regclass($1) IS NOT NULL", table):
            await conn.execute(f"DELETE FROM {table} WHERE {column} = $1", tenant)
