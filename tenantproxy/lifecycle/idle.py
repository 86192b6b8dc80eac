"""Which tenants has no one used for long? By what the main database knows: logins in the audit table, and sessions."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

import asyncpg

from tenantproxy.config import Settings
from tenantproxy.errors import ConfigurationError, Problem
from tenantproxy.lifecycle.access import admin_connection, registered
from tenantproxy.lifecycle.install import as_keeper

__all__ = ["IdleTenant", "idle_tenants"]

_TABLES: Final = (
    "SELECT to_regclass('tenantproxy.audit_log') IS NOT NULL AND to_regclass('tenantproxy.sessions') IS NOT NULL"
)
_SEEN: Final = """
SELECT tenant, max(at) AS at FROM (
  SELECT tenant, at FROM tenantproxy.audit_log WHERE tenant IS NOT NULL AND kind = 'login_succeeded'
  UNION ALL SELECT tenant, rotated_at FROM tenantproxy.sessions) AS seen
GROUP BY tenant
"""
_MADE: Final = "SELECT id, created_at FROM tenantproxy.tenants"


@dataclass(frozen=True, slots=True, kw_only=True)
class IdleTenant:
    """One that was not used since `seen`, None: never, as far as is known. `made`: when it was entered, if known."""

    tenant: str
    status: str
    seen: datetime | None
    made: datetime | None


async def idle_tenants(settings: Settings, *, days: int) -> list[IdleTenant]:
    """Those with no login and no refreshed session within `days`, nor younger than that; the longest first.

    Raises ConfigurationError where the main database lacks our tables.
    """
    before = datetime.now(UTC) - timedelta(days=days)
    tenants = await registered(settings)
    async with admin_connection(settings, settings.main.server, settings.main.database) as conn:
        if not await conn.fetchval(_TABLES):
            problem = "the main database has no tables of logins"
            raise ConfigurationError([Problem(key="login", problem=problem, fix="run: tenantproxy install")])
        seen = await _seen(conn)
        has_table = settings.registry.source == "postgres" and settings.registry.query is None
        made = {row["id"]: row["created_at"] for row in await conn.fetch(_MADE)} if has_table else {}
    found = [
        IdleTenant(tenant=each.id, status=str(each.status), seen=seen.get(each.id), made=made.get(each.id))
        for each in tenants
    ]
    idle = [each for each in found if all(at is None or at < before for at in (each.seen, each.made))]
    never = datetime.min.replace(tzinfo=UTC)
    return sorted(idle, key=lambda each: (each.seen or each.made or never, each.tenant))


async def _seen(conn: asyncpg.Connection) -> dict[str, datetime]:
    async with conn.transaction(), as_keeper(conn):
        return {row["tenant"]: row["at"] for row in await conn.fetch(_SEEN)}
