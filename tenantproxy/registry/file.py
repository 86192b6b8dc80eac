"""Where does a tenant live? The configuration file says: [tenants.*]."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping

from tenantproxy.config import Settings
from tenantproxy.model import Isolation, Tenant, TenantId, TenantStatus
from tenantproxy.registry.memory import MemoryRegistry

__all__ = ["FileRegistry"]


class FileRegistry:
    """The tenants of `settings`, until `reload` brings others."""

    def __init__(self, settings: Settings) -> None:
        self._inner = MemoryRegistry(_tenants(settings))

    @property
    def source(self) -> str:
        """See `base.Registry`."""
        return "file"

    def reload(self, settings: Settings) -> frozenset[str]:
        """Take over the tenants of `settings`; returns, and announces, the ids that changed, came or went."""
        return self._inner.replace(_tenants(settings))

    def prepare(self, settings: Settings) -> Callable[[], None]:
        """As `reload`, in two steps: what this returns takes the tenants over, and cannot fail. Raises ValueError."""
        fresh = MemoryRegistry(_tenants(settings))

        def commit() -> None:
            self._inner.become(fresh)

        return commit

    def subscribe(self, listener: Callable[[str | None], None]) -> Callable[[], None]:
        """See `base.Announces`."""
        return self._inner.subscribe(listener)

    async def get(self, tenant: TenantId) -> Tenant:
        """See `base.Registry`."""
        return await self._inner.get(tenant)

    async def of_database(self, database: str, /) -> tuple[TenantId, ...]:
        """See `by_database.FindsDatabases`."""
        return await self._inner.of_database(database)

    def tenants(self, *, status: TenantStatus | None = None) -> AsyncIterator[Tenant]:
        """See `base.Registry`."""
        return self._inner.tenants(status=status)

    def tenants_after(self, after: str, /) -> AsyncIterator[Tenant]:
        """See `base.ListsFrom`."""
        return self._inner.tenants_after(after)

    def counts(self) -> Mapping[tuple[Isolation, TenantStatus], int]:
        """How many tenants there are of each kind and status."""
        return self._inner.counts()

    async def open(self) -> None:
        """See `base.Registry`."""

    async def close(self) -> None:
        """See `base.Registry`."""


def _tenants(settings: Settings) -> list[Tenant]:
    return [entry.to_tenant(name, settings.main.server) for name, entry in settings.tenants.items()]
