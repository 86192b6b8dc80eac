"""What runs while a router is open? Opened and closed once, however often that is asked.

State: in which process and loop it was opened, whether it is being opened or closed, and the tasks that run meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context
from dataclasses import dataclass
from typing import Final

from tenantproxy.auth.audit import AuditTable
from tenantproxy.auth.login import LoginService
from tenantproxy.auth.revocation import Revocations
from tenantproxy.auth.share import SharedDatabaseAccess
from tenantproxy.changes import Changes
from tenantproxy.config import Settings
from tenantproxy.errors import PoolClosed, PoolError, is_passing
from tenantproxy.model import Isolation, PoolKey, TenantStatus
from tenantproxy.mongo.clusters import MongoClusters
from tenantproxy.notifications import Listener
from tenantproxy.opened import OpenedIn
from tenantproxy.parts import Parts
from tenantproxy.registry import CachedRegistry, MongoRegistry, PostgresRegistry, Registry
from tenantproxy.registry.postgres import CHANNEL
from tenantproxy.routes import Routes
from tenantproxy.scope import Scope
from tenantproxy.slices import in_slices

__all__ = ["MainServices", "RouterLife"]

_SWEEP_SECONDS: Final = 1.0
_AUDIT_SECONDS: Final = 2.0  # in which what is left of the audit is written when it closes
_STARTUP_TENANTS: Final = 1_000  # tenants looked at when it opens, to refuse a role that no policy holds


@dataclass(frozen=True, slots=True, kw_only=True)
class MainServices:
    """What a router has that works on the main database."""

    scope: Scope
    login_database: SharedDatabaseAccess
    listener: Listener
    revocations: Revocations
    audit: AuditTable | None


class RouterLife:
    """Opens and closes a router's parts, registry and services in the right order."""

    def __init__(
        self,
        settings: Settings,
        *,
        parts: Parts,
        routes: Routes,
        registry: CachedRegistry,
        new_source: Callable[[], Registry],
        main: MainServices,
        clusters: MongoClusters,
    ) -> None:
        self._clusters = clusters
        self._settings = settings
        self._parts = parts
        self._routes = routes
        self._registry = registry
        self._new_source = new_source  # what the registry asks, made again each time it opens
        self._main = main
        self._changes = Changes(
            follow=routes.follow,
            is_concerned=lambda tenant: parts.is_concerned(tenant) or tenant in routes.pauses,
            concerned=lambda: parts.concerned().union(routes.pauses.tenants),
        )
        self.is_open = False
        self.opened: OpenedIn | None = None  # where it was opened last
        self.returned = asyncio.Event()  # set when something comes back while it closes
        self.logins: LoginService | None = None  # from its first use to close
        self._sweeper: asyncio.Task[None] | None = None
        self._unhear: Callable[[], None] | None = None  # ends what the registry hears
        self._opening: asyncio.Future[None] | None = None  # while it is being opened
        self._closing: asyncio.Task[None] | None = None  # while it closes

    async def open(self) -> None:
        """See `Router.open`."""
        here = OpenedIn.here()
        loop = here.loop
        if self.is_abandoned:
            self._forget_loop()
        while True:
            if self._closing is not None:
                assert self.opened is not None
                self.opened.check()
                await asyncio.shield(self._closing)
            elif self._opening is not None and self._opening.get_loop() is loop:
                await asyncio.wait([self._opening])
            else:
                break
        if self.is_open:
            self.check_open()
            return
        self.opened = here
        self._opening = opening = loop.create_future()
        try:
            await self._open(loop)
        finally:
            self._opening = None
            opening.set_result(None)

    async def _open(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._parts.manager.is_closed:
            self._parts.renew()
            self._registry.renew(self._new_source())
        self.is_open = True
        self._registry.on_invalidate = self._changes.announce
        self._main.login_database.renew()
        manager = self._parts.manager
        try:
            self._sweeper = loop.create_task(self._sweep(), name="tenantproxy sweeper", context=Context())
            self._parts.watch.start(self._settings.main.server)  # a fleet hears of the others first
            self._parts.fleet.begin()
            error = await self._reach_main()
            await self._parts.fleet.open(self._main.scope if error is None else None, error=error or "")
            if self.is_open:  # not closed meanwhile
                self._parts.watch.start()
            await self._registry.open()
            if isinstance(self._registry.inner, PostgresRegistry | MongoRegistry):
                await self._registry.probe()
            await self._check_roles()
            if manager.is_closed:
                raise PoolClosed("the router was closed while it opened")
            if self._main.audit is not None:
                await self._main.audit.open()
            if self._is_registry_in_main:
                self._unhear = self._main.listener.hear(CHANNEL, self._registry.invalidate)
            if self._settings.registry.listen:
                self._main.listener.start()
        except BaseException:
            if manager is self._parts.manager:
                await self.close(timeout=0.0)
            raise

    @property
    def _is_registry_in_main(self) -> bool:
        return isinstance(self._registry.inner, PostgresRegistry)

    async def _reach_main(self) -> str | None:
        """Without tenants in it, the main database may be down: theirs are served. To be refused there is an error.

        Returns why it is not reached.
        """
        try:
            await self._main.scope.execute("SELECT 1")
        except PoolError as exc:
            if self._is_registry_in_main or not is_passing(exc):
                raise
            return type(exc).__name__
        return None

    async def _check_roles(self) -> None:
        """Open one connection to each shared database, where a wrong role would show every tenant's rows."""
        seen: set[PoolKey] = set()
        looked_at = 0
        async for tenant in self._registry.tenants(status=TenantStatus.ACTIVE):
            looked_at += 1
            if looked_at > _STARTUP_TENANTS:
                return
            if tenant.placement.isolation is not Isolation.ROW:
                continue
            route = self._routes.plan(tenant)
            if route.pool not in seen:
                seen.add(route.pool)
                with suppress(PoolError):  # unreachable now is for its own callers to hear; a wrong role is not
                    backend = await self._parts.lender.acquire(self._parts.manager.pool(route), route)
                    self._parts.lender.release(backend, route)

    async def close(self, *, timeout: float) -> None:
        """See `Router.close`."""
        if self.is_abandoned and self.opened is not None and not self.opened.is_forked:
            self._forget_loop()
        if self.opened is not None and (self.is_open or self._closing is not None):
            self.opened.check()
        if self._closing is None:
            if not self.is_open:
                return
            self.is_open = self._main.audit is not None  # what is audited is written while there is a connection for it
            loop = asyncio.get_running_loop()
            self._closing = loop.create_task(self._shut(timeout), name="tenantproxy closing", context=Context())
        await asyncio.shield(self._closing)

    @property
    def is_abandoned(self) -> bool:
        """See `Router.is_abandoned`."""
        has_ended = self.opened is not None and self.opened.has_ended
        return has_ended and (self.is_open or self._closing is not None or self._opening is not None)

    def _forget_loop(self) -> None:
        """Leave behind what was open in a loop that has ended: nothing of it can be awaited."""
        assert self.opened is not None
        self.is_open = False
        self._parts.forget_loop(shut=not self.opened.is_forked)
        self._main.revocations.forget_loop()
        self._main.listener.forget_loop()
        self._unhear = self._sweeper = self.logins = self._opening = self._closing = None
        self._registry.on_invalidate = None
        self._changes.forget_loop()
        self._registry.forget_loop()
        self._routes.clear()
        self._clusters.forget_loop()
        self.returned = asyncio.Event()

    async def _shut(self, timeout: float) -> None:
        try:
            if self._main.audit is not None:
                await self._main.audit.close(timeout=min(timeout, _AUDIT_SECONDS))
            self.is_open = False
            await self._end_all(timeout)
        finally:
            self._closing = None

    async def _end_all(self, timeout: float) -> None:
        await self._main.revocations.close()
        await self._main.listener.stop()
        if self._unhear is not None:
            self._unhear()
            self._unhear = None
        if self._sweeper is not None:
            self._sweeper.cancel()
            with suppress(asyncio.CancelledError):
                await self._sweeper
            self._sweeper = None
        if self.logins is not None:
            self.logins.close()
            self.logins = None
        self._registry.on_invalidate = None
        await self._changes.close()
        await self._registry.stop()
        await self._parts.looker.close()
        await self._parts.watch.close()
        pools = [*self._parts.manager, *self._parts.manager.closing()]
        self._parts.manager.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while any(pool.used for pool in pools):
                    self.returned.clear()
                    await self.returned.wait()
        for pool in pools:
            for backend in list(pool.connections()):
                pool.retire(backend, "shutdown")
        await self._parts.connector.settle(max(1.0, timeout))
        await self._parts.connector.close()
        await self._parts.fleet.close()
        self._routes.clear()
        await self._registry.close()  # late: it may be the user's, and fail or hang
        await self._clusters.close()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            try:
                await in_slices(self._parts.manager.sweeping())
                self._parts.looker.sweep(self._parts.manager)
            except Exception as exc:  # noqa: BLE001 - a boundary: without it time would stand still for all pools, unnoticed
                context = {"message": "tenantproxy: a sweep of the pools failed", "exception": exc}
                asyncio.get_running_loop().call_exception_handler(context)

    def check_open(self) -> None:
        """Raises PoolClosed unless it is open, and in this process and loop."""
        if not self.is_open:
            raise PoolClosed(
                "the router is not open",
                hint="use `async with router:`, or `await router.open()` before the first query",
            )
        assert self.opened is not None
        self.opened.check()
