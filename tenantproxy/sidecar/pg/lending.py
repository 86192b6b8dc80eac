"""Which raw backends are there for the PostgreSQL port? Pools of them beside the router's own, under the same budgets.

Opened after its router and closed before it. State: the plans of tenants, good while their registry entries are.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import suppress
from contextvars import Context
from time import monotonic
from typing import Final

from tenantproxy.errors import TenantNotFound
from tenantproxy.model import Route, TenantId
from tenantproxy.pools.backend import RawBackend
from tenantproxy.pools.manager import PoolManager
from tenantproxy.pools.pool import Pool
from tenantproxy.pools.raw import RawConnector
from tenantproxy.pools.raw_lender import RawLender, raw_route
from tenantproxy.pools.raw_side import new_raw_side
from tenantproxy.registry import Entry
from tenantproxy.router import Router

__all__ = ["RawLending"]

_SWEEP_SECONDS: Final = 1.0
_ROUTES: Final = 10_000  # plans kept; a plan costs microseconds to make again

logger = logging.getLogger("tenantproxy")


class RawLending:
    """The raw side of `router`."""

    lender: RawLender

    def __init__(self, router: Router) -> None:
        self._router = router
        self._routes: dict[TenantId, tuple[Entry, Route]] = {}
        self._is_fresh = router.registry.is_fresh
        self._pools: PoolManager[RawBackend]
        self._connector: RawConnector
        self._pools, self.lender, self._connector = new_raw_side(
            router.settings,
            router.budgets,
            router.counters,
            clock=monotonic,
            observer=router.observer,
            family=router.family,
        )
        self._sweeper: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Begin to lend. The router is open."""
        loop = asyncio.get_running_loop()
        self._sweeper = loop.create_task(self._sweep(), name="tenantproxy pg sweeper", context=Context())

    async def close(self, *, timeout: float = 5.0) -> None:
        """End every backend. Nobody holds one any more, or loses it now. Safe to call again."""
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
                self._pools.sweep()
            except Exception:
                logger.exception("sweeping the pools of the PostgreSQL port failed")

    def backends(self) -> Iterator[RawBackend]:
        """All that are open now."""
        for pool in [*self._pools, *self._pools.closing()]:
            yield from list(pool.connections())

    # --- Lending -----------------------------------------------------------------------------------------------------
    def known(self, tenant: TenantId) -> tuple[Pool[RawBackend], Route] | None:
        """See `listener.Lending`."""
        known = self._routes.get(tenant)
        if known is None or not self._is_fresh(known[0]):
            return None
        return self._pools.pool(known[1]), known[1]

    async def find(self, tenant: TenantId) -> tuple[Pool[RawBackend], Route]:
        """See `listener.Lending`."""
        try:
            found = await self._router.registry.get(tenant)
            route = raw_route(self._router.route_of(found))
        except TenantNotFound:
            self._forget(tenant)
            raise
        known = self._routes.get(tenant)
        if known is not None and known[1] != route:
            self._forget(tenant)  # it moved, or has other limits: nothing may be served as it was
        if len(self._routes) >= _ROUTES:
            self._routes.clear()
        entry = self._router.registry.entry(tenant)
        if entry is not None and entry.tenant is found:
            self._routes[tenant] = (entry, route)
        return self._pools.pool(route), route

    def _forget(self, tenant: TenantId) -> None:
        known = self._routes.pop(tenant, None)
        if known is not None:
            self._pools.remove(tenant, [known[1].pool])
