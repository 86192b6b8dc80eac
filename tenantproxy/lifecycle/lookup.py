"""How does login find the account of a row tenant? Through one function in their database that one role may call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import asyncpg

from tenantproxy.lifecycle.install import alone, sql_file
from tenantproxy.model import quote_identifier

__all__ = ["install_lookup", "lookup_statements"]

_CLOSED: Final = "SELECT has_function_privilege($1, 'tenantproxy.login_candidates(text)', 'EXECUTE')"


def lookup_statements(*, database: str, login_role: str, query: str, search_path: Sequence[str]) -> list[str]:
    """What `install_lookup` runs, for one transaction of a superuser; `login_role` exists by then."""
    login = quote_identifier(login_role)
    text = sql_file("login_lookup.sql").replace(':"login"', login)
    path = ", ".join(["pg_catalog", *map(quote_identifier, search_path), "pg_temp"])
    return [
        f"GRANT CONNECT ON DATABASE {quote_identifier(database)} TO {login};\n",
        f"SET LOCAL search_path = {path};\n",
        text.replace(":lookup_query", query.strip().removesuffix(";")),
    ]


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
    async with alone(conn, lock_timeout):
        database = await conn.fetchval("SELECT current_database()")
        for statements in lookup_statements(
            database=database, login_role=login_role, query=query, search_path=search_path
        ):
            await conn.execute(statements)
        if await conn.fetchval(_CLOSED, app_role):
            # A member of the login role, or its superuser: then tenants could ask who else has an account.
            raise asyncpg.InvalidGrantOperationError(f"the role {app_role} could call the lookup function for tenants")
    return True
