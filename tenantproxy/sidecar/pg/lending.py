"""Which raw backends serve the PostgreSQL port? Pools in addition to the router's own, under the same budgets.

Opened after its router and closed before it. The plans of tenants are the router's.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import suppress
from contextvars import Context
from time import monotonic
from typing import Final

from tenantproxy.config import Settings
from tenantproxy.model import Route, TenantId
from tenantproxy.pools.manager import PoolManager
from tenantproxy.raw.backend import RawBackend
from tenantproxy.raw.connector import RawConnector
from tenantproxy.raw.lender import PROFILE, RawLender
from tenantproxy.raw.side import new_raw_side
from tenantproxy.router import Router
from tenantproxy.routes import RouteKey
from tenantproxy.sidecar.pg.context import Pairs
from tenantproxy.sidecar.pg.sources import PoolAndRoute
from tenantproxy.slices import in_slices

__all__ = ["RawLending"]

_SWEEP_SECONDS: Final = 1.0

logger = logging.getLogger("tenantproxy")


class RawLending:
    """The raw side of `router`."""

    lender: RawLender

    def __init__(self, router: Router) -> None:
        self._routes = router.routes
        self._family = router.family
        self._budgets = router.budgets
        self._is_behind = router.is_behind
        self._servers = router.settings.servers
        self._pools: PoolManager[RawBackend]
        self._connector: RawConnector
        self._pools, self.lender, self._connector = new_raw_side(
            router.settings,
            router.budgets,
            router.counters,
            clock=monotonic,
            observer=router.observer,
            family=router.family,
            hosts=router.hosts,
            limits=router.pool_settings,
            watch=router.lease_watch,
        )
        self._sweeper: asyncio.Task[None] | None = None

    def adopt(self, settings: Settings) -> None:
        """Open and lend by `settings` from now on; the pools follow the router."""
        self._servers = settings.servers
        self._connector.adopt(settings)
        self.lender.acquire_timeout = settings.pools.acquire_timeout

    async def open(self) -> None:
        """Begin to lend. The router is open."""
        loop = asyncio.get_running_loop()
        self._sweeper = loop.create_task(self._sweep(), name="tenantproxy pg sweeper", context=Context())

    async def close(self, *, timeout: float = 5.0) -> None:
        """End every backend. A client that still holds one loses it now. Safe to call again."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            with suppress(asyncio.CancelledError):
                await self._sweeper
            self._sweeper = None
        pools = [*self._pools, *self._pools.closing()]
        self._pools.close()
        for pool in pools:
            for backend in list(pool.connections()):
                pool.retire(backend, "shutdown")
        await self._connector.settle(timeout)
        await self._connector.close()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            try:
                await in_slices(self._pools.sweeping())
            except Exception:
                logger.exception("sweeping the pools of the PostgreSQL port failed")

    def backends(self) -> Iterator[RawBackend]:
        """All that are open now."""
        for pool in [*self._pools, *self._pools.closing()]:
            yield from list(pool.connections())

    def is_pooled(self, server: str) -> bool:
        """See `listener.Lending`."""
        return bool(self._servers[server].pooler)

    def vacate(self, server: str, database: str) -> None:
        """See `listener.Lending`."""
        for manager in self._family:
            for pool in manager:
                if pool.key.server == server and pool.key.database == database and not pool.is_main:
                    pool.expire()

    # --- Lending -----------------------------------------------------------------------------------------------------
    def known(
        self, tenant: TenantId, *, replica: bool = False, system: str | None = None, read_only: bool = False
    ) -> PoolAndRoute | None:
        """See `listener.Lending`."""
        key = (tenant, system, replica, PROFILE, read_only)
        route = self._routes.known_by(key)
        if route is None:
            return None
        return self._reading(key, route) if route.session.standby else (self._pools.pool(route), route)

    def fresh_until(
        self, tenant: TenantId, *, replica: bool = False, system: str | None = None, read_only: bool = False
    ) -> float:
        """See `listener.Lending`."""
        return self._routes.fresh_until((tenant, system, replica, PROFILE, read_only))

    async def find(
        self, tenant: TenantId, *, replica: bool = False, system: str | None = None, read_only: bool = False
    ) -> PoolAndRoute:
        """See `listener.Lending`."""
        key = (tenant, system, replica, PROFILE, read_only)
        route = await self._routes.find_by(key)
        return self._reading(key, route) if route.session.standby else (self._pools.pool(route), route)

    def with_context(self, route: Route, context: Pairs) -> Route:
        """See `listener.Lending`."""
        return self._routes.with_context(route, context)

    def _reading(self, key: RouteKey, preferred: Route) -> PoolAndRoute:
        """The tenant's replica, or another one where that does not serve or is too far behind, or the primary."""
        route = preferred
        if self._is_avoided(route):
            route = self._routes.reads(key, avoid=self._is_avoided) or preferred
        return self._pools.pool(route), route

    def _is_avoided(self, route: Route) -> bool:
        name = route.pool.server
        return self._budgets[name].is_avoided or self._is_behind(name)
