"""By which route is a tenant served now? Looks it up, plans, and remembers the plan for as long as it is true.

State: the remembered plans. Changed by `find`, which sees what the registry says; the router empties it when it closes.
Whatever is remembered, a tenant that changed is compared with the pools that are open for it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from hashlib import blake2b
from itertools import product
from typing import Final, Protocol

from tenantproxy.config import Server, Settings
from tenantproxy.driver.connector import ADMIN_PROFILE
from tenantproxy.errors import (
    AccessDenied,
    LeaseExpired,
    RegistryUnavailable,
    TenantEnded,
    TenantError,
    TenantNotFound,
    TenantPaused,
    TenantProxyError,
    TenantSuspended,
)
from tenantproxy.isolation import DatabasePlan, Plan, RowPlan, SchemaPlan
from tenantproxy.isolation.signed import with_context
from tenantproxy.model import (
    OWN_SETTINGS,
    Isolation,
    Limits,
    PoolKey,
    Route,
    Session,
    Tenant,
    TenantId,
    TenantStatus,
    reader_of,
)
from tenantproxy.pauses import Pauses
from tenantproxy.pools.counters import Counters
from tenantproxy.registry import CachedRegistry, Entry, TenantMisconfigured
from tenantproxy.scope import TenantScope

__all__ = [
    "MAIN",
    "RouteKey",
    "Routes",
    "admin_route",
    "listener_route",
    "main_route",
    "main_size",
    "may_choose",
    "no_readers",
    "not_served",
    "registry_route",
]

MAIN: Final = TenantId("_main")  # no tenant can be called so
REGISTRY: Final = TenantId("_registry")
LISTENER: Final = TenantId("_listener")
_OWN_LANES: Final = 2  # connections of the main pool that its callers leave to the registry and the listener
_LOOKUP_CONNECTIONS: Final = 3  # two for lookups, one for a listing
_NO_LIMIT: Final = 1_000_000
_ROUTES: Final = 10_000  # plans kept; a plan costs 5 microseconds to make again
_NOTHING: Final = Limits()
_ENDED: Final = frozenset({TenantStatus.SUSPENDED, TenantStatus.INACTIVE, TenantStatus.DELETING})

RouteKey = tuple[TenantId, str | None, bool, str, bool]
"""Tenant, system, replica, profile, whether it reads only."""

Fit = Callable[[TenantId, Limits, Callable[[PoolKey], bool]], None]
"""Makes the pools that are the tenant's alone what it may have now, as `PoolManager.fit` does."""


class EndTenant(Protocol):
    """Ends what a tenant has, as `PoolManager.end_tenant` does."""

    def __call__(self, tenant: TenantId, error: LeaseExpired, /, *, keep: Callable[[PoolKey], bool]) -> None:
        """See there."""
        ...


class Routes:
    """The routes of all tenants, for all listeners. `fit` is told what the registry says of a tenant that changed.

    `end`: of one that is not to be served again, whose leases and clients end at once.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        registry: CachedRegistry,
        counters: Counters,
        fit: Fit,
        end: EndTenant,
        most: int = _ROUTES,
    ) -> None:
        self._servers = settings.servers
        self._has_readers = settings.has_readers
        self._signed = frozenset(name.lower() for name in settings.signed_context)
        self._registry = registry
        self._counters = counters
        self._fit = fit
        self._end = end
        self._most = most
        self._plans: dict[Isolation, Plan] = {
            Isolation.DATABASE: DatabasePlan(),
            Isolation.SCHEMA: SchemaPlan(),
            Isolation.ROW: RowPlan(
                signed=settings.row.signed,
                setting=settings.row.setting,
                form=settings.row.form,
                signs_context=bool(settings.signed_context),
            ),
        }
        # Good while the entry is; the least recently used first, roughly: the order is kept from half of `most` on.
        self._routes: OrderedDict[RouteKey, tuple[Entry, Route]] = OrderedDict()
        self.pauses = Pauses(patience=settings.pools.acquire_timeout)
        """Callers that wait for the end of a tenant's pause."""

    def known(self, scope: TenantScope) -> Route | None:
        """The route when the registry need not be asked for it."""
        route = self.known_by((scope.id, scope.system, scope.replica, scope.profile, scope.read_only))
        return route if route is None or not scope.context else self.with_context(route, scope.context)

    def known_by(self, key: RouteKey) -> Route | None:
        """As `known`, without a scope."""
        routes = self._routes
        known = routes.get(key)
        if known is None or not self._registry.is_fresh(known[0]):
            return None
        if 2 * len(routes) > self._most:
            routes.move_to_end(key)
        return known[1]

    def fresh_until(self, key: RouteKey) -> float:
        """Until when (monotonic) what `known_by` said need not be asked again, unless the registry changes."""
        known = self._routes.get(key)
        return 0.0 if known is None else known[0].fresh_until

    async def find(self, scope: TenantScope) -> Route:
        """The route of a tenant that the registry is asked for. Raises TenantError, RegistryUnavailable."""
        route = await self.find_by((scope.id, scope.system, scope.replica, scope.profile, scope.read_only))
        return route if not scope.context else self.with_context(route, scope.context)

    async def find_by(self, key: RouteKey) -> Route:
        """As `find`, without a scope. A tenant that was served a moment ago, and is paused, is waited for."""
        tenant = await self.look_up(key[0])
        if tenant.status is TenantStatus.PAUSED and key in self._routes:
            self._apply(tenant)
            tenant = await self.pauses.until_over(tenant, self.look_up)
            if tenant.status is TenantStatus.PAUSED:
                self._routes.pop(key, None)  # the next caller is told at once
        return self._remembered(tenant, key)

    def is_paused(self, tenant: TenantId) -> bool:
        """Whether that is what was last heard of it."""
        entry = self._registry.entry(tenant)
        return entry is not None and entry.tenant.status is TenantStatus.PAUSED

    async def look_up(self, tenant: TenantId) -> Tenant:
        """What the registry says of it now. Raises TenantNotFound, RegistryUnavailable."""
        try:
            return await self._registry.get(tenant)
        except TenantMisconfigured:
            self._close_all(tenant)
            raise
        except TenantNotFound:
            self._end_all(tenant, "not registered any more")
            self._counters.forget(tenant)
            raise
        except RegistryUnavailable:
            self._counters.exhausted(tenant, "registry")
            raise

    async def follow(self, tenant: TenantId) -> None:
        """Look up a tenant that changed, so that its pools change without waiting for its next caller."""
        with suppress(TenantProxyError):  # a caller will hear it
            self._apply(await self.look_up(tenant))

    def plan(
        self, tenant: Tenant, system: str | None = None, *, replica: bool = False, read_only: bool = False
    ) -> Route:
        """The route of a tenant, whatever its status. Raises TenantError when it is on no configured server.

        AccessDenied for one to read only, where there are no roles for it.
        """
        server = _server_of(self._servers, tenant)
        name = _preferred(tenant.id, server.replicas)[0] if replica and server.replicas else None
        return self._plan(tenant, system, name, read_only)

    def _plan(self, tenant: Tenant, system: str | None, replica: str | None, read_only: bool) -> Route:
        route = self._plans[tenant.placement.isolation].plan(tenant, system=system, replica=replica)
        if not read_only:
            return route
        if not self._has_readers:
            raise no_readers()
        # A replica has the roles of its primary.
        return replace(route, pool=_reading(route.pool, _server_of(self._servers, tenant).user))

    def elsewhere(self, tenant: Tenant, scope: TenantScope, tried: PoolKey) -> Iterator[Route]:
        """Where else a tenant may be read when the replica of `tried` cannot serve: other replicas, then the primary.

        Raises TenantError when it is not served any more.
        """
        if tenant.status is not TenantStatus.ACTIVE:
            raise not_served(tenant.status)
        server = self._servers.get(tenant.placement.server)
        replicas = _preferred(tenant.id, server.replicas) if server is not None else ()
        for name in (*(name for name in replicas if name != tried.server), None):
            route = self._plan(tenant, scope.system, name, scope.read_only)
            route = replace(route, pool=replace(route.pool, profile=scope.profile))
            yield route if not scope.context else self.with_context(route, scope.context)

    def reads(self, key: RouteKey, *, avoid: Callable[[Route], bool]) -> Route | None:
        """Where a tenant known by `key` is read now: the first of its replicas not to `avoid`, or the primary."""
        known = self._routes.get(key)
        if known is None or known[0].tenant is None:
            return None
        tenant, (_, system, _, profile, read_only) = known[0].tenant, key
        server = self._servers.get(tenant.placement.server)
        for name in (*_preferred(tenant.id, server.replicas if server is not None else ()), None):
            route = self._plan(tenant, system, name, read_only)
            route = replace(route, pool=replace(route.pool, profile=profile))
            if name is None or not avoid(route):
                return route
        return None

    def with_context(self, route: Route, context: tuple[tuple[str, str], ...]) -> Route:
        """`route` with the settings that its caller brings; see `isolation.signed`."""
        return replace(route, session=with_context(route.session, context, self._signed))

    def keys_of(self, tenant: Tenant) -> set[PoolKey]:
        """The pools, without their profile, that may hold connections of this tenant."""
        keys: set[PoolKey] = set()
        server = self._servers.get(tenant.placement.server)
        plan = self._plans[tenant.placement.isolation].plan
        for system, name in product((None, *tenant.systems), (None, *server.replicas) if server is not None else ()):
            with suppress(TenantError):  # a database of its own has no systems
                key = plan(tenant, system=system, replica=name).pool
                keys.add(key)
                if self._has_readers and server is not None:
                    keys.add(_reading(key, server.user))
        return keys

    def adopt(self, settings: Settings) -> None:
        """Plan by the servers of `settings` from now on."""
        self._servers = settings.servers
        self._has_readers = settings.has_readers
        self.pauses.patience = settings.pools.acquire_timeout
        self._routes.clear()

    def clear(self) -> None:
        """Remember nothing."""
        self._routes.clear()

    def _remembered(self, tenant: Tenant, key: RouteKey) -> Route:
        """The plan for an active tenant, remembered until the registry says something else of it."""
        known = self._routes.get(key)
        entry = self._registry.entry(tenant.id)
        if known is not None and known[0] is entry and tenant.status is TenantStatus.ACTIVE:
            return known[1]
        self._apply(tenant)
        if tenant.status is not TenantStatus.ACTIVE:
            raise not_served(tenant.status)
        _, system, replica, profile, read_only = key
        route = self.plan(tenant, system, replica=replica, read_only=read_only)
        if profile:
            route = replace(route, pool=replace(route.pool, profile=profile))
        # Another entry came while this tenant was asked for: its plan is for callers that asked before, not after.
        if entry is not None and entry.tenant is tenant:
            self._routes[key] = (entry, route)
            self._routes.move_to_end(key)
            if len(self._routes) > self._most:
                self._routes.popitem(last=False)
        return route

    def _apply(self, tenant: Tenant) -> None:
        """Let the pools that are the tenant's alone follow what the registry says of it."""
        if tenant.status is not TenantStatus.PAUSED:
            self.pauses.end(tenant.id)
        if tenant.status in _ENDED:
            self._end_all(tenant.id, tenant.status.value)
            return
        if tenant.status is not TenantStatus.ACTIVE or tenant.placement.server not in self._servers:
            self._close_all(tenant.id)
            return
        keys: set[PoolKey] = set()  # made when there is a pool to compare

        def is_right(key: PoolKey) -> bool:
            if not keys:
                keys.update(self.keys_of(tenant))
            return _is_operators(key) or replace(key, profile="") in keys

        self._fit(tenant.id, tenant.limits, is_right)

    def _close_all(self, tenant: TenantId) -> None:
        self._fit(tenant, _NOTHING, _is_operators)

    def _end_all(self, tenant: TenantId, why: str) -> None:
        error = TenantEnded(
            f"the tenant is {why}",
            detail="its connections were closed, and what their transactions did is undone",
            hint="ask the operator of this service",
        )
        self._end(tenant, error, keep=_is_operators)
        self._close_all(tenant)


def _is_operators(key: PoolKey) -> bool:
    """Whether its connections are the way in by `Router.admin`, which is there whatever the tenant's status."""
    return key.profile == ADMIN_PROFILE


def no_readers() -> AccessDenied:
    """That nothing can be read only here: the role that writes never stands in for one that reads."""
    return AccessDenied(
        "there are no roles that only read in this deployment",
        detail="[tenant_roles] readers is not on",
        hint="write readers = true there, and run `tenantproxy install --roles`",
    )


def _reading(key: PoolKey, user: str) -> PoolKey:
    """The pool of the role that reads what that of `key` does; `user`: of the server."""
    try:
        return replace(key, user=reader_of(key.user or user), reader=True)
    except ValueError as exc:
        raise TenantError(
            "the tenant's role has a name that is too long for one that reads for it", detail=str(exc),
            hint="choose a shorter pattern in [provision] role",
        ) from None  # fmt: skip


def _preferred(tenant: TenantId, replicas: Iterable[str]) -> list[str]:
    """`replicas` in the order in which this tenant reads from them: the same in every process.

    Rendezvous hashing: one more replica takes over its share of the tenants, and no other tenant moves.
    """
    return sorted(replicas, key=lambda name: blake2b(f"{name}\0{tenant}".encode(), digest_size=8).digest())


def _server_of(servers: Mapping[str, Server], tenant: Tenant) -> Server:
    """The server that the tenant is registered on. Raises TenantError when it is not configured."""
    name = tenant.placement.server
    server = servers.get(name)
    if server is None:
        raise TenantError(
            "the tenant is registered on a server that is not configured",
            detail=f"server {name!r}",
            hint=f"configure [servers.{name}], or correct the registry",
        )
    return server


def main_size(settings: Settings) -> int:
    """How many connections the main pool may have: `max_size`, and at least one for each of its lanes."""
    return max(settings.main.max_size, _OWN_LANES + 1)


def main_route(settings: Settings) -> Route:
    """To the shared main database, for callers: they leave one connection for the registry, one for the listener."""
    return _lane(settings, MAIN, Limits(max_size=max(1, settings.main.max_size - _OWN_LANES)))


def registry_route(settings: Settings) -> Route:
    """To the main database for lookups: they do not queue behind callers of `main`."""
    return _lane(settings, REGISTRY, Limits(max_size=_LOOKUP_CONNECTIONS, max_waiting=_NO_LIMIT))


def listener_route(settings: Settings) -> Route:
    """To the main database for what listens there; it holds one connection all the time."""
    return _lane(settings, LISTENER, Limits(max_size=1, max_waiting=_NO_LIMIT))


def _lane(settings: Settings, name: TenantId, limits: Limits) -> Route:
    key = PoolKey(server=settings.main.server, database=settings.main.database)
    return Route(tenant=name, isolation=Isolation.DATABASE, pool=key, session=Session(), limits=limits)


def admin_route(settings: Settings, tenant: Tenant) -> Route:
    """To the tenant's database as the server's `admin` user. Raises AccessDenied where it has none."""
    place = tenant.placement
    server = _server_of(settings.servers, tenant)
    if server.admin is None:
        raise AccessDenied(
            "this server has no admin user",
            detail=f"server {place.server!r}",
            hint=f"configure [servers.{place.server}.admin] with a user and its password",
        )
    key = PoolKey(
        server=place.server,
        database=place.database,
        user=server.admin.user,
        schema=place.schema,
        profile=ADMIN_PROFILE,
    )
    return Route(tenant=tenant.id, isolation=place.isolation, pool=key, session=Session())


def may_choose(setting: str, settings: Settings) -> bool:
    """Whether a caller may have this setting made in its session."""
    if setting.lower() in (settings.row.setting, *OWN_SETTINGS):
        return False
    return "." in setting or setting == "application_name"


def not_served(status: TenantStatus) -> TenantError:
    """Why a tenant in this status gets no connection."""
    if status in (TenantStatus.PAUSED, TenantStatus.PROVISIONING):
        by = " by an operator" if status is TenantStatus.PAUSED else ""
        return TenantPaused(f"the tenant is {status.value}{by}", hint="it comes back: try again later", retry_after=5.0)
    return TenantSuspended(f"the tenant is {status.value}", hint="ask the operator of this service")
