"""How is a session made one tenant's when it has a database of its own? By connecting to it."""

from __future__ import annotations

from tenantproxy.errors import TenantNotFound
from tenantproxy.model import Isolation, PoolKey, Route, Session, Tenant

__all__ = ["DatabasePlan"]


class DatabasePlan:
    """A pool of connections to the tenant's own database, as the tenant's own role where it has one."""

    def plan(self, tenant: Tenant, *, system: str | None = None, replica: str | None = None) -> Route:
        """See `base.Plan`."""
        if system is not None:
            raise TenantNotFound("a tenant with a database of its own has no systems to choose from")
        place = tenant.placement
        return Route(
            tenant=tenant.id,
            isolation=Isolation.DATABASE,
            pool=PoolKey(server=replica or place.server, database=place.database, user=place.role),
            session=Session(standby=replica is not None),
            limits=tenant.limits,
        )
