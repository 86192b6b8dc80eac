"""Which tenant has this database to itself? The lookup by database name, for those who may reach every tenant.

State: `_known`, written by `find` alone. An answer is never believed by itself: the tenant is looked up and compared.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, Protocol, runtime_checkable

from cachetools import TTLCache

from tenantproxy.errors import TenantNotFound
from tenantproxy.model import Isolation, Tenant, TenantId
from tenantproxy.registry.base import Registry

__all__ = ["ByDatabase", "CachingRegistry", "FindsDatabases", "has_database"]

_MAX_ENTRIES: Final = 10_000


@runtime_checkable
class FindsDatabases(Protocol):
    """A registry that can be asked which tenants have a database of this name to themselves."""

    async def of_database(self, database: str, /) -> tuple[TenantId, ...]:
        """The tenants of isolation `database` whose database has this name, byte for byte; two tell that it is not one.

        Raises RegistryUnavailable.
        """
        ...


class CachingRegistry(Protocol):
    """A registry that others are asked through; `CachedRegistry` is one."""

    @property
    def inner(self) -> Registry:
        """The registry behind the cache."""
        ...

    def peek(self, tenant: str) -> Tenant | None:
        """The tenant if a fresh answer is at hand; None says nothing."""
        ...

    async def get(self, tenant: TenantId, /) -> Tenant:
        """The tenant. Raises TenantNotFound, RegistryUnavailable."""
        ...


class ByDatabase:
    """Asks the registry behind `tenants`, where it can be asked; elsewhere a database name finds nothing."""

    def __init__(
        self,
        tenants: CachingRegistry,
        *,
        ttl: float = 5.0,
        max_entries: int = _MAX_ENTRIES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tenants = tenants
        self._known: TTLCache[str, TenantId | None] = TTLCache(max_entries, ttl, timer=clock)

    async def find(self, database: str) -> Tenant | None:
        """The one tenant that has the database to itself, or None. Raises RegistryUnavailable."""
        inner = self._tenants.inner
        if not isinstance(inner, FindsDatabases):
            return None
        if database not in self._known:
            found = await inner.of_database(database)
            self._known[database] = found[0] if len(found) == 1 else None
        only = self._known.get(database)
        if only is None:
            return None
        try:
            tenant = await self._tenants.get(only)
        except TenantNotFound:
            return None
        return tenant if has_database(tenant, database) else None


def has_database(tenant: Tenant, database: str | None) -> bool:
    """Whether `database` is the name of a database that is this tenant's alone."""
    return tenant.placement.isolation is Isolation.DATABASE and tenant.placement.database == database
