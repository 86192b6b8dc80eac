"""Which roles are tenants'? What one of them owns is no shared table, whatever its columns and policies are called."""

from __future__ import annotations

from typing import Final

import asyncpg

__all__ = ["roles_of_tenants", "schemas_of_tenants"]

_REGISTERED: Final = """
SELECT DISTINCT role FROM tenantproxy.tenants WHERE role IS NOT NULL AND coalesce(server, $1) = $2
"""
_MADE: Final = (
    "SELECT rolname::text FROM pg_roles WHERE shobj_description(oid, 'pg_authid') LIKE 'tenantproxy: made for %'"
)
_SCHEMAS: Final = """
SELECT unnest(schema || ARRAY(SELECT value FROM jsonb_each_text(systems))) AS schema FROM tenantproxy.tenants
WHERE isolation = 'schema' AND coalesce(server, $1) = $2 AND database = $3
"""


async def roles_of_tenants(
    main: asyncpg.Connection, conn: asyncpg.Connection, *, default: str, server: str
) -> list[str]:
    """Those that the registry names on `server`, and those that were made there for tenants that have left.

    `main`: the main database's; `conn`: one of `server`; `default`: the main server.
    """
    registered = {row[0] for row in await main.fetch(_REGISTERED, default, server)}
    return sorted(registered | {row[0] for row in await conn.fetch(_MADE)})


async def schemas_of_tenants(main: asyncpg.Connection, *, default: str, server: str, database: str) -> list[str]:
    """Those of schema tenants in `database` of `server`, and of their systems."""
    return [row["schema"] for row in await main.fetch(_SCHEMAS, default, server, database)]
