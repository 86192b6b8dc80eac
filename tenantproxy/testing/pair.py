"""Which two tenants does a test use? The first two of one kind that are registered, or those that it names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tenantproxy.config import Settings
from tenantproxy.errors import ConfigurationError, Problem
from tenantproxy.model import Isolation, Tenant, TenantStatus
from tenantproxy.router import Router

__all__ = ["TwoTenants", "find_two"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TwoTenants:
    """Two registered tenants of one kind, by their identifiers, and the configuration that knows them."""

    settings: Settings = field(repr=False)
    first: str
    second: str
    isolation: Isolation

    def router(self, **options: Any) -> Router:
        """A new router for them, closed: `async with two_tenants.router() as router`. `options` as of `Router`."""
        return Router(self.settings, **options)


async def find_two(settings: Settings, wanted: Sequence[str] = ()) -> TwoTenants:
    """The `wanted` ones, or the first two active ones of one kind, which share a database unless each has its own.

    Raises ConfigurationError where there are no such two, errors of the router.
    """
    groups: dict[tuple[object, ...], list[Tenant]] = {}
    async with Router(settings) as router:
        async for tenant in router.tenants(status=TenantStatus.ACTIVE):
            if wanted and tenant.id not in wanted:
                continue
            place = tenant.placement
            where = () if place.isolation is Isolation.DATABASE else (place.database,)
            group = groups.setdefault((place.isolation, place.server, *where), [])
            group.append(tenant)
            if len(group) == 2:
                first, second = group
                return TwoTenants(settings=settings, first=first.id, second=second.id, isolation=place.isolation)
    named = f" among {', '.join(wanted)}" if wanted else ""
    problem = Problem(key="tenants", problem=f"no two active ones of one kind are registered{named}", fix="add them")
    raise ConfigurationError([problem])
