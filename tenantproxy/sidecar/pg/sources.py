"""Where does a client of the port find its tenant: the pool and the route of its next transaction?

State: whether the tenant has readers. The clients of a tenant share its sources, and what the tenant's memory keeps.
"""

from __future__ import annotations

from collections.abc import Awaitable, Container
from typing import NamedTuple, Protocol, TypeAlias
from weakref import WeakValueDictionary

from tenantproxy.model import Route, TenantId
from tenantproxy.pools.pool import Pool
from tenantproxy.raw.backend import RawBackend
from tenantproxy.raw.lender import RawLender
from tenantproxy.sidecar.pg.context import Pairs
from tenantproxy.wire.memory import TenantMemory

__all__ = ["Lending", "PoolAndRoute", "SourceParts", "TenantSource"]


PoolAndRoute: TypeAlias = tuple[Pool[RawBackend], Route]


class Lending(Protocol):
    """What a listener needs of the router."""

    @property
    def lender(self) -> RawLender:
        """Lends raw backends."""
        ...

    def known(
        self, tenant: TenantId, *, replica: bool = False, system: str | None = None, read_only: bool = False
    ) -> PoolAndRoute | None:
        """The tenant's pool and route without I/O; None: `find` it. `replica`: to read, where it has replicas.

        `system`: of a tenant that has several schemas. `read_only`: as the role that only reads."""
        ...

    def fresh_until(
        self, tenant: TenantId, *, replica: bool = False, system: str | None = None, read_only: bool = False
    ) -> float:
        """Until when that holds, unless something happens meanwhile; monotonic."""
        ...

    async def find(
        self, tenant: TenantId, *, replica: bool = False, system: str | None = None, read_only: bool = False
    ) -> PoolAndRoute:
        """The same from the registry. Raises TenantError, RegistryUnavailable, PoolClosed."""
        ...

    def with_context(self, route: Route, context: Pairs) -> Route:
        """`route` with the settings of a client."""
        ...

    def is_pooled(self, server: str) -> bool:
        """Whether its section says that a connection pooler is in between."""
        ...

    def vacate(self, server: str, database: str) -> None:
        """Close the idle connections to a database, those of the library too; the others when they are released."""
        ...


class Find(Protocol):
    """Asks the registry for a tenant's pool and route."""

    def __call__(
        self, tenant: TenantId, *, replica: bool, system: str | None, read_only: bool
    ) -> Awaitable[PoolAndRoute]:
        """Of its primary, or to read from."""
        ...


class SourceParts(NamedTuple):
    """What all sources of a tenant have in common. `paused`: the tenants that get no backend now."""

    lending: Lending
    find: Find
    paused: Container[TenantId]
    memory: TenantMemory


class TenantSource:
    """See `checkout.Source`. All clients of a tenant share it, but those that read `after` a position.

    Those that have the same settings of `[context]`, in the same one of its systems, and those that only read, share
    one that is made of it.
    """

    __slots__ = (
        "__weakref__", "_contexts", "_known", "_made", "_origin", "_parts", "_paused", "_primary",
        "_readers", "_tenant", "after", "context", "read_only", "replica", "system",
    )  # fmt: skip

    def __init__(
        self,
        tenant: TenantId,
        parts: SourceParts,
        *,
        primary: TenantSource | None = None,
        replica: bool = False,
        after: int = 0,
        context: Pairs = (),
        system: str | None = None,
        read_only: bool = False,
        origin: TenantSource | None = None,
    ) -> None:
        self.read_only = read_only
        self.replica = replica
        self.after = after
        self._primary = primary  # of clients that said nothing; None: this one
        self._readers: TenantSource | None = None  # of clients that read from replicas, once there is one
        self.context = context
        self.system = system
        self._origin = origin  # without a context; it lives as long as this does
        self._contexts: WeakValueDictionary[tuple[Pairs, str | None, bool], TenantSource] = WeakValueDictionary()
        self._made: tuple[Route, Route] | None = None  # the last one, and what became of it
        self._tenant = tenant
        self._parts = parts
        self._known = parts.lending.known  # for each lease
        self._paused = parts.paused

    @property
    def tenant(self) -> TenantId:
        """Whose."""
        return self._tenant

    @property
    def memory(self) -> TenantMemory:
        """What the tenant's clients keep."""
        return self._parts.memory

    def known(self) -> PoolAndRoute | None:
        """See `checkout.Source`."""
        if self._tenant in self._paused:
            return None
        if self.system is not None or self.read_only:
            found = self._known(self._tenant, replica=self.replica, system=self.system, read_only=self.read_only)
        else:
            found = self._known(self._tenant, replica=True) if self.replica else self._known(self._tenant)
        return found if found is None or not self.context else self._in_context(found)

    def fresh_until(self) -> float:
        """See `checkout.Source`."""
        return self._parts.lending.fresh_until(
            self._tenant, replica=self.replica, system=self.system, read_only=self.read_only
        )

    async def find(self) -> PoolAndRoute:
        """See `checkout.Source`."""
        found = await self._parts.find(self._tenant, replica=self.replica, system=self.system, read_only=self.read_only)
        return self._in_context(found) if self.context else found

    def _in_context(self, found: PoolAndRoute) -> PoolAndRoute:
        pool, route = found
        if self._made is None or self._made[0] is not route:
            self._made = route, self._parts.lending.with_context(route, self.context)
        return pool, self._made[1]

    def of(self, context: Pairs, system: str | None = None, *, read_only: bool = False) -> TenantSource:
        """That of clients with these settings, in this one of the tenant's systems, that write or only read."""
        if (context, system, read_only) == (self.context, self.system, self.read_only):
            return self
        known = self._contexts.get((context, system, read_only))
        if known is None:
            known = TenantSource(
                self._tenant, self._parts, context=context, system=system, read_only=read_only, origin=self
            )
            self._contexts[context, system, read_only] = known
        return known

    def reading(self, *, replica: bool, after: int = 0) -> TenantSource:
        """See `checkout.Source`."""
        if (replica, after) == (self.replica, self.after):
            return self
        primary = self._primary or self
        if after:
            return primary._derived(replica=replica, after=after)
        if not replica:
            return primary
        if primary._readers is None:
            primary._readers = primary._derived(replica=True, after=0)
        return primary._readers

    def _derived(self, *, replica: bool, after: int) -> TenantSource:
        return TenantSource(
            self._tenant,
            self._parts,
            primary=self,
            replica=replica,
            after=after,
            context=self.context,
            system=self.system,
            read_only=self.read_only,
        )
