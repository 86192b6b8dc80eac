"""Does a migration run nothing of its tenant's with more rights than the tenant has?"""

from __future__ import annotations

from typing import Final

import asyncpg

from tenantproxy.errors import TenantProxyError
from tenantproxy.lifecycle.migrate.plan import SchemaPlace
from tenantproxy.lifecycle.their_code import their_code
from tenantproxy.model import Isolation

__all__ = ["refuse_their_code"]

_SCHEMAS: Final = "SELECT nspname::text FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'"
_HAS_MORE: Final = """
SELECT EXISTS (
  SELECT FROM pg_roles WHERE rolname = $1 AND NOT rolsuper AND NOT pg_has_role(oid, current_user, 'MEMBER'))
"""


async def refuse_their_code(conn: asyncpg.Connection, place: SchemaPlace) -> None:
    """Before a migration of `place` as the user of `conn`. Raises TenantProxyError where the role that runs the
    tenant's SQL owns something in it, or may create something.

    Where that role is the user's own, or can become it, a tenant has all rights already.
    """
    former = await conn.fetchval("SELECT pg_catalog.current_setting('search_path')")
    await conn.execute("SET search_path = pg_catalog")
    try:
        if not await conn.fetchval(_HAS_MORE, place.role):
            return
        is_whole = place.isolation is Isolation.DATABASE
        found = [row[0] for row in await conn.fetch(_SCHEMAS)]
        schemas = found if is_whole else [each for each in found if each == place.schema]
        code = await their_code(conn, schemas, place.role, is_whole=is_whole)
    finally:
        if not conn.is_closed():
            await conn.execute("SELECT pg_catalog.set_config('search_path', $1, false)", former)
    if code.owners:
        raise TenantProxyError(
            f"the tenant's own role ({', '.join(code.owners)}) owns something here, which would run as the admin user"
            " when a migration comes to it",
            hint=f"give it to the migrating role: REASSIGN OWNED BY {code.owners[0]} TO ...",
        )
    if code.may_create:
        raise TenantProxyError(
            f"the tenant's role {place.role} may create things in {', '.join(code.may_create)}: a migration would find"
            " them, and run them as the admin user",
            hint=f"REVOKE CREATE ON {code.may_create[0]} FROM {place.role}, or from PUBLIC",
        )
