"""By which route is a tenant served now? Looks it up, plans, and remembers the plan for as long as it is true.

State: the remembered plans. Changed by `find`, which sees what the registry says; the router empties it when it closes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final

from tenantproxy.config import Settings
from tenantproxy.errors import (
    AccessDenied,
    RegistryUnavailable,
    TenantError,
    TenantNotFound,
    TenantPaused,
    TenantSuspended,
)
from tenantproxy.isolation import DatabasePlan, Plan, RowPlan, SchemaPlan
from tenantproxy.model import Isolation, Limits, PoolKey, Route, Session, Tenant, TenantId, TenantStatus
from tenantproxy.pools.asyncpg import ADMIN_PROFILE
from tenantproxy.pools.manager import Counters
from tenantproxy.registry import CachedRegistry, Entry, TenantMisconfigured
from tenantproxy.scope import TenantScope

__all__ = [
    "MAIN",
    "Routes",
    "admin_route",
    "listener_route",
    "main_route",
    "main_size",
    "may_choose",
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


class Routes:
    """The routes of all tenants. `removed` is told when a tenant moved or is not served any more: which, its pools."""

    def __init__(
        self,
        settings: Settings,
        *,
        registry: CachedRegistry,
        counters: Counters,
        removed: Callable[[TenantId, Iterable[PoolKey]], None],
    ) -> None:
        self._servers = settings.servers
        self._registry = registry
        self._counters = counters
        self._removed = removed
        self._plans: dict[Isolation, Plan] = {
            Isolation.DATABASE: DatabasePlan(),
            Isolation.SCHEMA: SchemaPlan(),
            Isolation.ROW: RowPlan(signed=settings.row.signed, setting=settings.row.setting),
        }
        self._routes: dict[tuple[TenantId, str | None, bool, str], tuple[Entry, Route]] = {}  # good while the entry is
        self._planned: set[TenantId] = set()  # who may have a route; most who are refused never had one

    def known(self, scope: TenantScope) -> Route | None:
        """The route when nobody has to be asked for it."""
        known = self._routes.get((scope.id, scope.system, scope.replica, scope.profile))
        if known is None or not self._registry.is_fresh(known[0]):
            return None
        return known[1] if not scope.context else _with_context(known[1], scope)

    async def find(self, scope: TenantScope) -> Route:
        """The route of a tenant that the registry is asked for. Raises TenantError, RegistryUnavailable."""
        route = self._remembered(await self.look_up(scope.id), scope)
        return route if not scope.context else _with_context(route, scope)

    async def look_up(self, tenant: TenantId) -> Tenant:
        """What the registry says of it now. Raises TenantNotFound, RegistryUnavailable."""
        try:
            return await self._registry.get(tenant)
        except TenantMisconfigured:
            raise
        except TenantNotFound:
            self._forget(tenant)
            raise
        except RegistryUnavailable:
            self._counters.exhaustions["registry"] += 1
            raise

    def plan(self, tenant: Tenant, system: str | None = None, *, replica: bool = False) -> Route:
        """The route of a tenant, whatever its status. Raises TenantError when it is on no server of ours."""
        server = self._servers.get(tenant.placement.server)
        if server is None:
            raise TenantError(
                "the tenant is registered on a server that is not configured",
                detail=f"server {tenant.placement.server!r}",
                hint=f"configure [servers.{tenant.placement.server}], or correct the registry",
            )
        name = server.replicas[hash(tenant.id) % len(server.replicas)] if replica and server.replicas else None
        return self._plans[tenant.placement.isolation].plan(tenant, system=system, replica=name)

    def keys_of(self, tenant: Tenant) -> set[PoolKey]:
        """The pools that may hold connections of this tenant."""
        remembered = {route.pool for (name, *_), (_, route) in self._routes.items() if name == tenant.id}
        return {self.plan(tenant).pool} | remembered

    def clear(self) -> None:
        """Remember nothing."""
        self._routes.clear()
        self._planned.clear()

    def _remembered(self, tenant: Tenant, scope: TenantScope) -> Route:
        """The plan for an active tenant, remembered until the registry says something else of it."""
        if tenant.status is not TenantStatus.ACTIVE:
            self._forget(tenant.id)
            raise not_served(tenant.status)
        key = (tenant.id, scope.system, scope.replica, scope.profile)
        known = self._routes.get(key)
        entry = self._registry.entry(tenant.id)
        if known is not None and known[0] is entry:
            return known[1]
        route = self.plan(tenant, scope.system, replica=scope.replica)
        if scope.profile:
            route = replace(route, pool=replace(route.pool, profile=scope.profile))
        if known is not None and known[1] != route:
            self._forget(tenant.id)  # it moved or has other limits: nothing may be served as it was
        if len(self._routes) >= _ROUTES:
            self.clear()
        # Another entry came while this tenant was asked for: its plan is good for who asked before, and nobody after.
        if entry is not None and entry.tenant is tenant:
            self._routes[key] = (entry, route)
            self._planned.add(tenant.id)
        return route

    def _forget(self, tenant: TenantId) -> None:
        """Drop the plans of a tenant that moved or is not served any more, and the pools that were its alone."""
        if tenant not in self._planned:
            return
        self._planned.discard(tenant)
        stale = [key for key in self._routes if key[0] == tenant]
        self._removed(tenant, [self._routes.pop(key)[1].pool for key in stale])


def _with_context(route: Route, scope: TenantScope) -> Route:
    """`route` with the settings that its caller asked for."""
    return replace(route, session=replace(route.session, context=scope.context))


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
    """To the tenant's database as the server's `admin` user. Raises AccessDenied where there is none."""
    place = tenant.placement
    server = settings.servers[place.server]
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
    if setting.lower() in (settings.row.setting, "app.tenant_proof"):
        return False
    return "." in setting or setting == "application_name"


def not_served(status: TenantStatus) -> TenantError:
    """Why a tenant in this status gets no connection."""
    if status in (TenantStatus.PAUSED, TenantStatus.PROVISIONING):
        return TenantPaused(f"the tenant is {status.value}", hint="it comes back: try again later", retry_after=5.0)
    return TenantSuspended(f"the tenant is {status.value}", hint="ask the operator of this service")
