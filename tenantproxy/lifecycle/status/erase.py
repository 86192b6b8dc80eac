"""What is left of a tenant outside a place of its own? Its rows in shared tables, and what the main database knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import asyncpg

from tenantproxy.errors import TenantProxyError
from tenantproxy.lifecycle.table_facts import tables_with
from tenantproxy.model import quote_identifier

__all__ = ["erase_rows", "forget_tenant", "shared_tables"]

_ISOLATED: Final = "SELECT relrowsecurity FROM pg_class WHERE oid = to_regclass($1)"
_TYPE: Final = """
SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = to_regclass($1) AND attname = $2
"""
_KNOWN: Final = (
    ("tenantproxy.login_directory", "tenant_id"),
    ("tenantproxy.sessions", "tenant"),
    ("tenantproxy.session_ends", "tenant"),
)


async def shared_tables(conn: asyncpg.Connection, column: str, *, own_schemas: Sequence[str]) -> list[str]:
    """The tables of row tenants: those with `column` that row security guards, outside the schemas of other tenants."""
    found = await tables_with(conn, column, outside=own_schemas)
    return [name for name in found if await conn.fetchval(_ISOLATED, name)]


async def erase_rows(
    conn: asyncpg.Connection, tenant: str, column: str, *, own_schemas: Sequence[str]
) -> Mapping[str, int]:
    """Delete the tenant's rows from all shared tables, by table; all or none.

    One statement, so that foreign keys between them are looked at when all are gone. Raises TenantProxyError where the
    user of `conn` sees the rows of one tenant alone.
    """
    tables = await shared_tables(conn, column, own_schemas=own_schemas)
    if not tables:
        return {}
    name = quote_identifier(column)
    kinds = [await conn.fetchval(_TYPE, table, column) for table in tables]
    parts = [
        f"d{number} AS (DELETE FROM {table} WHERE {name} = $1::text::{kind} RETURNING 1)"
        for number, (table, kind) in enumerate(zip(tables, kinds, strict=True))
    ]
    counts = ", ".join(f"(SELECT count(*) FROM d{number})" for number in range(len(tables)))
    async with conn.transaction():
        await conn.execute("SET LOCAL row_security = off")  # an error instead of fewer rows
        try:
            row = await conn.fetchrow(f"WITH {', '.join(parts)} SELECT {counts}", tenant)
        except asyncpg.InsufficientPrivilegeError as exc:
            raise TenantProxyError(
                "the rows of the tenant could not be deleted, as row security holds for the admin user too",
                detail=exc.args[0] if exc.args else None,
                hint="name a superuser, or a user with BYPASSRLS that owns the tables, in [servers.NAME.admin]",
            ) from exc
    assert row is not None
    return dict(zip(tables, row, strict=True))


async def forget_tenant(conn: asyncpg.Connection, tenant: str) -> None:
    """Delete what the main database knows of the tenant besides its entry: its part of the directory, its sessions."""
    for table, column in _KNOWN:
        if await conn.fetchval("SELECT to_regclass($1) IS NOT NULL", table):
            await conn.execute(f"DELETE FROM {table} WHERE {column} = $1", tenant)
