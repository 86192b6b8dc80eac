"""How does login find the account of a row tenant? Through one function in their database that one role may call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import asyncpg

from tenantproxy.lifecycle.install import alone, sql_file
from tenantproxy.model import quote_identifier

__all__ = ["install_lookup"]

_CLOSED: Final = "SELECT has_function_privilege($1, 'tenantproxy.login_candidates(text)', 'EXECUTE')"


async def install_lookup(
    conn: asyncpg.Connection,
    *,
    login_role: str,
    app_role: str,
    query: str,
    search_path: Sequence[str] = ("public",),
    lock_timeout: float = 5.0,
) -> bool:
    """Install or upgrade `tenantproxy.login_candidates(text)` where the signed context is installed already.

    It returns `tenant_id` and `user_id` of what `query` finds for the address $1 in the rows of all tenants, each
    tenant once. `login_role`, which exists, may connect and call it; `app_role`, which runs tenants' SQL, may not.
    Names in `query` are looked up in `search_path` now, not when it runs. False, and nothing done, when `conn` is not a
    superuser's: only one may make a role that row security lets pass.
    """
    if not await conn.fetchval("SELECT rolsuper FROM pg_roles WHERE rolname = current_user"):
        return False
    text = sql_file("login_lookup.sql").replace(':"login"', quote_identifier(login_role))
    text = text.replace(":lookup_query", query.strip().removesuffix(";"))
    async with alone(conn, lock_timeout):
        database = quote_identifier(await conn.fetchval("SELECT current_database()"))
        await conn.execute(f"GRANT CONNECT ON DATABASE {database} TO {quote_identifier(login_role)}")
        path = ", ".join(["pg_catalog", *map(quote_identifier, search_path), "pg_temp"])
        await conn.execute("SELECT pg_catalog.set_config('search_path', $1, true)", path)
        await conn.execute(text)
        if await conn.fetchval(_CLOSED, app_role):
            # A member of the login role, or its superuser: then tenants could ask who else has an account.
            raise asyncpg.InvalidGrantOperationError(f"the role {app_role} could call the lookup function for tenants")
    return True
