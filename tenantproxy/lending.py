"""Which connection does a scope get? One by its route, and by another one when a replica cannot serve.

No state: what is lent belongs to the pools.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Protocol

from tenantproxy.connect.refusals import place_of
from tenantproxy.driver.state import DriverConnection
from tenantproxy.errors import ConnectFailed, PoolClosed, RegistryUnavailable
from tenantproxy.model import Route, Tenant, TenantId, TenantStatus
from tenantproxy.parts import Parts
from tenantproxy.pools.pool import Pool
from tenantproxy.routes import Routes, not_served
from tenantproxy.scope import Found, Lease, Scope, TenantScope

__all__ = ["ScopeLending"]


class OpenCheck(Protocol):
    """Whether the router is open; its life is one."""

    is_open: bool

    def check_open(self) -> None:
        """Raises PoolClosed."""
        ...


class ScopeLending:
    """Waits for connections on behalf of scopes."""

    def __init__(
        self, gate: OpenCheck, *, parts: Parts, routes: Routes, known: Callable[[Scope], Found | None]
    ) -> None:
        self._gate = gate
        self._known = known  # what need not be looked up
        self._parts = parts
        self._routes = routes

    async def lend(self, scope: Scope, found: Found | None, timeout: float | None) -> Lease:
        """A lease for `scope`, whose pool and route are `found` (None: the tenant has to be looked up)."""
        deadline = None if timeout is None else monotonic() + timeout
        while True:
            pool, route = found or self._known(scope) or await self._find_until(deadline, scope)
            if route.session.standby and self._is_avoided(pool):
                return await self._lend_elsewhere(scope, route, deadline)
            left = None if deadline is None else max(0.0, deadline - monotonic())
            try:
                return await self._acquire(scope, pool, route, left), route
            except PoolClosed:
                if not (self._gate.is_open and pool.is_closed):
                    raise
            except ConnectFailed:
                if not route.session.standby:
                    raise
                return await self._lend_elsewhere(scope, route, deadline)
            found = None  # evicted while we waited: the tenant, if it is still served, has a new one

    async def _lend_elsewhere(self, scope: Scope, tried: Route, deadline: float | None) -> Lease:
        """A replica cannot serve now: from another one, or the primary. Raises what the primary's lease raises."""
        assert isinstance(scope, TenantScope)
        for route in self._routes.elsewhere(await self._look_up(scope.id), scope, tried.pool):
            pool = self._parts.manager.pool(route)
            if route.session.standby and self._is_avoided(pool):
                continue
            left = None if deadline is None else max(0.0, deadline - monotonic())
            try:
                return await self._acquire(scope, pool, route, left), route
            except ConnectFailed:
                if not route.session.standby:
                    raise
        raise AssertionError("the primary comes last, and lends or raises")

    def _is_avoided(self, pool: Pool[DriverConnection]) -> bool:
        """Whether the replica of `pool` does not serve now, or is too far behind."""
        return pool.budget.is_avoided or self._parts.watch.is_behind(pool.key.server)

    async def _acquire(
        self, scope: Scope, pool: Pool[DriverConnection], route: Route, left: float | None
    ) -> DriverConnection:
        """A lease; of a replica one that has come as far as `scope` wants, or ConnectFailed."""
        lender = self._parts.lender
        backend = await lender.acquire(pool, route, left)
        after = scope.after if route.session.standby and isinstance(scope, TenantScope) else None
        if after is None:
            return backend
        try:
            has_replayed = await backend.con.has_replayed(after, left)
        except BaseException:
            pool.retire(backend, "error")
            raise
        if has_replayed:
            return backend
        lender.release(backend, route)
        raise ConnectFailed("the replica is behind what was asked for", detail=place_of(pool.key), retry_after=1.0)

    async def _find_until(self, deadline: float | None, scope: Scope) -> Found:
        try:
            async with asyncio.timeout(None if deadline is None else deadline - monotonic()):
                return await self._find(scope)
        except TimeoutError:  # the lookup goes on for others, and to be remembered
            if isinstance(scope, TenantScope) and self._routes.is_paused(scope.id):
                raise not_served(TenantStatus.PAUSED) from None
            raise RegistryUnavailable(
                "the tenant could not be looked up in time", hint="see whether the registry answers", retry_after=1.0
            ) from None

    async def _find(self, scope: Scope) -> Found:
        self._gate.check_open()
        assert isinstance(scope, TenantScope)  # main is always known
        route = await self._routes.find(scope)
        return self._parts.manager.pool(route), route

    async def _look_up(self, tenant: TenantId) -> Tenant:
        self._gate.check_open()
        return await self._routes.look_up(tenant)
