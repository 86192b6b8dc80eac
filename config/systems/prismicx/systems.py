"""The systems of a tenant: each in a schema of its own, brought from version to version by `schema_migrations`."""

from __future__ import annotations

import re
from dataclasses import dataclass

import asyncpg

from tenantproxy import Router
from tenantproxy.lifecycle.access import admin_connection
from tenantproxy.lifecycle.migrate.files import Migration
from tenantproxy.lifecycle.migrate.journal import apply_one, ensure_journal, undo_one
from tenantproxy.lifecycle.provisioner import ensure_schema, grant_access
from tenantproxy.model import MAX_IDENTIFIER_BYTES, Tenant

LONGEST = 40  # letters of a tenant's name: those of its schemas are longer
NONE = "0"
TENANT = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
_SYSTEM = re.compile(r"[a-z0-9]+")
_LOCK_TIMEOUT, _STATEMENT_TIMEOUT = 2.0, 60.0

_WAY = """
SELECT version_from, version_to, schema_version_from, schema_version_to, migration_sql, rollback_sql,
       coalesce(description, migration_id) AS name
FROM schema_migrations WHERE system_id = $1 ORDER BY schema_version_from"""
_HAS = """
SELECT v.version FROM tenant_systems AS t JOIN system_versions AS v USING (version_id)
WHERE t.tenant_id = $1 AND t.system_id = $2"""
_KEEP = """
INSERT INTO tenant_systems (tenant_id, system_id, version_id, status)
SELECT $1, system_id, version_id, 'active' FROM system_versions WHERE system_id = $2 AND version = $3
ON CONFLICT (tenant_id, system_id) DO UPDATE
SET version_id = excluded.version_id, status = 'active', error_message = NULL"""


class NoWay(Exception):
    """There is no such system or version, or no way to it."""


@dataclass(frozen=True, slots=True)
class Step:
    """From one version to the next, or back."""

    version: str
    number: int
    migration: Migration
    is_back: bool


def schema_of(tenant: str, system: str) -> str:
    """tenant_<tenant_id>_<system_type>: `tenant_tenant_001_crm`."""
    if not TENANT.fullmatch(tenant) or not _SYSTEM.fullmatch(system):  # else two could have one schema
        raise NoWay("a tenant is of a-z 0-9 and single hyphens, a system of a-z 0-9")
    name = f"tenant_{tenant.replace('-', '_')}_{system}"
    if len(name) > MAX_IDENTIFIER_BYTES:
        raise NoWay("the name of the schema would be too long")
    return name


def steps(rows: list[asyncpg.Record], now: str, to: str) -> list[Step]:
    """The way from version `now` to `to`, forward or back. Raises NoWay."""
    ahead = {row["version_from"]: row for row in rows}
    behind = {row["version_to"]: row for row in rows}
    for table, key, is_back in ((ahead, "version_to", False), (behind, "version_from", True)):
        found: list[Step] = []
        at = now
        while at != to and at in table and len(found) <= len(rows):
            row = table[at]
            at = row[key]
            if is_back and row["rollback_sql"] is None:
                break
            migration = Migration(
                version=row["schema_version_to"], name=row["name"], sql=row["migration_sql"], undo=row["rollback_sql"]
            )
            found.append(Step(at, row["schema_version_to"], migration, is_back))
        if at == to:
            return found
    raise NoWay(f"there is no way from version {now} to {to}")


class Systems:
    """Installs, upgrades and takes back, with the admin user of the server: tenants and the service may not."""

    def __init__(self, router: Router) -> None:
        self._router = router

    async def bring(self, tenant: Tenant, system: str, to: str | None) -> tuple[str, str]:
        """Bring a system of the tenant to version `to`, None: the latest; the version, and the schema.

        Each step is one transaction, in which its place in `tenant_systems` is kept too. Raises NoWay, and what
        PostgreSQL says of a step; `tenant_systems` has it as `failed` then, at the version before.
        """
        settings, schema = self._router.settings, schema_of(tenant.id, system)
        async with admin_connection(settings, settings.main.server, settings.main.database) as conn:
            rows = await conn.fetch(_WAY, system)
            latest = await conn.fetchval(
                "SELECT version FROM system_versions WHERE system_id = $1 AND is_latest", system
            )
            wanted = to or latest
            if latest is None or wanted == NONE:
                raise NoWay("there is no such system or version")
            await ensure_journal(conn, is_own=False)
            now = await conn.fetchval(_HAS, tenant.id, system) or NONE
            if now == NONE and tenant.placement.role is not None:
                async with conn.transaction():
                    await ensure_schema(conn, schema, role=tenant.placement.role)
            for step in steps(rows, now, wanted):
                await self._take(conn, tenant, system, schema, step)
            if tenant.placement.role is not None:
                await grant_access(conn, schema, role=tenant.placement.role)
        return wanted, schema

    async def _take(self, conn: asyncpg.Connection, tenant: Tenant, system: str, schema: str, step: Step) -> None:
        change = undo_one if step.is_back else apply_one
        try:
            async with conn.transaction():
                await change(
                    conn, schema, step.migration, lock_timeout=_LOCK_TIMEOUT, statement_timeout=_STATEMENT_TIMEOUT
                )
                await conn.execute("SELECT pg_catalog.set_config('search_path', 'public', true)")
                await conn.execute(_KEEP, tenant.id, system, step.version)
        except asyncpg.PostgresError as exc:
            await conn.execute(
                "UPDATE public.tenant_systems SET status = 'failed', error_message = $3"
                " WHERE tenant_id = $1 AND system_id = $2",
                tenant.id, system, f"{type(exc).__name__} {exc.sqlstate} on the way to {step.version}",
            )  # fmt: skip
            raise
