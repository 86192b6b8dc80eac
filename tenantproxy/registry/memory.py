"""Where does a tenant live? In this process: a registry that code fills. Changed by `add` and `remove` alone."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping

from tenantproxy.errors import TenantNotFound
from tenantproxy.model import Isolation, Tenant, TenantId, TenantStatus, tenant_id

__all__ = ["MemoryRegistry", "not_found"]


class MemoryRegistry:
    """Tenants in a dict. Every change is announced to the subscribers in the same call."""

    def __init__(self, tenants: Iterable[Tenant] = ()) -> None:
        self._tenants: dict[str, Tenant] = {}  # by id; no two ids differ only by case
        self._folded: dict[str, str] = {}  # lower-case id -> id, for exactly those
        self._databases: dict[str, tuple[TenantId, ...]] = {}  # those with one of that name to themselves
        self._ordered: list[str] | None = None  # all ids in order, while none has come or gone
        self._listeners: list[Callable[[str | None], None]] = []
        for tenant in tenants:
            self.add(tenant)

    @property
    def source(self) -> str:
        """See `base.Registry`."""
        return "memory"

    def add(self, tenant: Tenant) -> None:
        """Register or replace. Raises ValueError when another tenant's id differs only by case."""
        name = tenant_id(tenant.id)
        first = self._folded.setdefault(name.lower(), name)
        if first != name:
            raise ValueError(f"the tenant id {name!r} differs from {first!r} only by case")
        self._unlist(name)
        if name not in self._tenants:
            self._ordered = None
        self._tenants[name] = tenant
        if tenant.placement.isolation is Isolation.DATABASE:
            database = tenant.placement.database
            self._databases[database] = (*self._databases.get(database, ()), name)
        self._announce(name)

    def remove(self, tenant: str) -> None:
        """Forget a tenant. Raises TenantNotFound."""
        if tenant not in self._tenants:
            raise not_found()
        self._unlist(tenant)
        del self._tenants[tenant], self._folded[tenant.lower()]
        self._ordered = None
        self._announce(tenant)

    def _unlist(self, tenant: str) -> None:
        known = self._tenants.get(tenant)
        if known is not None and known.placement.isolation is Isolation.DATABASE:
            database = known.placement.database
            others = tuple(name for name in self._databases.pop(database) if name != tenant)
            if others:
                self._databases[database] = others

    def replace(self, tenants: Iterable[Tenant]) -> frozenset[str]:
        """Become `tenants`, all or nothing; returns, and announces, the ids that differ. Raises ValueError as `add`."""
        return self.become(MemoryRegistry(tenants))

    def become(self, fresh: MemoryRegistry) -> frozenset[str]:
        """Hold what `fresh` does, which is not used any more; returns, and announces, the ids that differ."""
        old, self._tenants, self._folded = self._tenants, fresh._tenants, fresh._folded
        self._databases, self._ordered = fresh._databases, None
        changed = frozenset(name for name in old.keys() | fresh._tenants if old.get(name) != fresh._tenants.get(name))
        for name in sorted(changed):
            self._announce(name)
        return changed

    def subscribe(self, listener: Callable[[str | None], None]) -> Callable[[], None]:
        """See `base.Announces`."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def _announce(self, tenant: str) -> None:
        for listener in tuple(self._listeners):
            listener(tenant)

    async def get(self, tenant: TenantId) -> Tenant:
        """See `base.Registry`."""
        try:
            return self._tenants[tenant]
        except KeyError:
            raise not_found() from None

    async def of_database(self, database: str, /) -> tuple[TenantId, ...]:
        """See `by_database.FindsDatabases`."""
        return self._databases.get(database, ())

    async def tenants(self, *, status: TenantStatus | None = None) -> AsyncIterator[Tenant]:
        """See `base.Registry`. Those registered when it is first asked."""
        async for tenant in self.tenants_after(""):
            if status is None or tenant.status is status:
                yield tenant

    async def tenants_after(self, after: str, /) -> AsyncIterator[Tenant]:
        """See `base.ListsFrom`. Those registered when it is first asked, as they were then or are when they come."""
        if self._ordered is None:
            self._ordered = sorted(self._tenants)
        ordered = self._ordered
        for place in range(bisect_right(ordered, after), len(ordered)):
            if (tenant := self._tenants.get(ordered[place])) is not None:
                yield tenant

    def counts(self) -> Mapping[tuple[Isolation, TenantStatus], int]:
        """How many tenants there are of each kind and status."""
        return Counter((tenant.placement.isolation, tenant.status) for tenant in self._tenants.values())

    async def open(self) -> None:
        """See `base.Registry`."""

    async def close(self) -> None:
        """See `base.Registry`."""

    def __len__(self) -> int:
        return len(self._tenants)


def not_found() -> TenantNotFound:
    """The error for an unknown tenant. It does not repeat the identifier, which came from an unauthenticated caller."""
    return TenantNotFound("there is no such tenant", hint="tenantproxy tenants list shows those that are registered")
