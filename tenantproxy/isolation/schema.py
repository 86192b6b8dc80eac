"""How is a session made one tenant's when it has a schema? search_path, pinned at connect, holds that schema alone.

A schema tenant never shares a backend: two schemas that each own an enum type break a driver's cached statements.
"""

from __future__ import annotations

from tenantproxy.errors import TenantNotFound
from tenantproxy.model import Isolation, PoolKey, Route, Session, Tenant

__all__ = ["SchemaPlan"]


class SchemaPlan:
    """A pool whose connections see the tenant's schema and pg_catalog, nothing else."""

    def plan(self, tenant: Tenant, *, system: str | None = None, replica: str | None = None) -> Route:
        """See `base.Plan`."""
        place = tenant.placement
        schema = place.schema if system is None else _schema_of(tenant, system)
        others = {*tenant.systems.values(), place.schema} - {schema, None}
        return Route(
            tenant=tenant.id,
            isolation=Isolation.SCHEMA,
            pool=PoolKey(
                server=replica or place.server,
                database=place.database,
                user=place.role,
                schema=schema,
                systems=tuple(sorted(filter(None, others))),
            ),
            session=Session(standby=replica is not None),
            limits=tenant.limits,
        )


def _schema_of(tenant: Tenant, system: str) -> str:
    try:
        return tenant.systems[system]
    except KeyError:
        raise TenantNotFound(
            "the tenant does not have this system",
            detail=f"it has {', '.join(sorted(tenant.systems)) or 'none'}",
        ) from None
