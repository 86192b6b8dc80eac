"""What does a tenant hold? All rows that its own role reads, in its own session, as of one moment."""

from __future__ import annotations

from typing import Final

from tenantproxy.lifecycle.gdpr.archive import BATCH, ExportFolder
from tenantproxy.model import Isolation, Tenant, quote_identifier
from tenantproxy.router import Router

__all__ = ["export_tenant"]

# Partitions are read through their table. Of shared tables those that say whose a row is.
_TABLES: Final = """
SELECT n.nspname::text AS schema, c.relname::text AS name FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND n.nspname !~ '^pg_'
  AND n.nspname NOT IN ('information_schema', 'tenantproxy', 'tenantproxy_migrations')
  AND pg_catalog.has_schema_privilege(n.oid, 'USAGE') AND pg_catalog.has_table_privilege(c.oid, 'SELECT')
  AND (c.relrowsecurity OR NOT $1) AND ($2::text IS NULL OR n.nspname = ANY ($3::text[]))
ORDER BY 1, 2
"""


async def export_tenant(router: Router, tenant: Tenant, into: ExportFolder) -> dict[str, int]:
    """How many rows of each table, as `schema.table`, are in `into` now. Raises what the router raises."""
    place, counts = tenant.placement, dict[str, int]()
    own = [schema for schema in (place.schema, *tenant.systems.values()) if schema is not None]
    is_shared = place.isolation is Isolation.ROW
    async with router.tenant(tenant.id).transaction(readonly=True, isolation="repeatable_read") as conn:
        for row in await conn.fetch(_TABLES, is_shared, place.schema if not is_shared else None, own):
            name = f"{row['schema']}.{row['name']}"
            table = f"{quote_identifier(row['schema'])}.{quote_identifier(row['name'])}"
            query, seconds = f"SELECT to_jsonb(t)::text FROM {table} t", router.settings.gdpr.timeout
            found = conn.cursor(query, prefetch=BATCH, timeout=seconds)  # of each batch: a table may be large
            counts[name] = await into.fill(tenant.id, name, found)
    return counts
