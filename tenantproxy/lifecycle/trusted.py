"""May the keeper set the parameter in which the trusted form keeps a session's tenant? Asks for that, and looks."""

from __future__ import annotations

from typing import Final

import asyncpg

__all__ = ["GRANT", "PARAMETER", "is_trusted", "may_trust"]

PARAMETER: Final = "backtrace_functions"
GRANT: Final = f"GRANT SET ON PARAMETER {PARAMETER} TO tenantproxy_keeper"
"""What a superuser has to run once on each server; in every database of it the keeper may set it then."""

_VERSION: Final = 150000  # before it, no right to set a parameter can be granted
_TRUST: Final = "tenantproxy.trust(text, integer, bigint, text, bigint, boolean)"


async def is_trusted(conn: asyncpg.Connection) -> bool:
    """Whether the trusted form is installed in the database of `conn`."""
    found: bool = await conn.fetchval("SELECT to_regprocedure($1) IS NOT NULL", _TRUST)
    return found


async def may_trust(conn: asyncpg.Connection) -> bool:
    """Whether the keeper, which exists, may set the parameter; it is granted now where the user of `conn` may do that.

    `conn` is in a transaction.
    """
    if await conn.fetchval("SELECT current_setting('server_version_num')::int") < _VERSION:
        return False
    asked = "SELECT has_parameter_privilege('tenantproxy_keeper', $1, 'SET')"
    if not await conn.fetchval(asked, PARAMETER):
        try:
            async with conn.transaction():
                await conn.execute(GRANT)
        except asyncpg.InsufficientPrivilegeError:
            return False
    granted: bool = await conn.fetchval(asked, PARAMETER)
    return granted
