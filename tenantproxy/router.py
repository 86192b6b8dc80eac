"""Tenant identifier in, connection out: the waist that everything above passes through.

State: whether it is open, and what runs while it is. All else lives in its parts, the routes and the registry.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from contextvars import Context
from dataclasses import replace
from time import monotonic
from typing import Any, Final, Self

from tenantproxy.accounts import FixedScope, TenantAccounts, new_login
from tenantproxy.auth.accounts import Account, Standing
from tenantproxy.auth.audit import AuditTable
from tenantproxy.auth.login import LoginCounts, LoginService
from tenantproxy.auth.revocation import Revocations
from tenantproxy.auth.share import SharedDatabaseAccess
from tenantproxy.changes import Changes
from tenantproxy.config import Settings, load
from tenantproxy.driver.connector import Init
from tenantproxy.driver.guard import Guard, reading_in_slices
from tenantproxy.driver.state import DriverConnection
from tenantproxy.errors import (
    AccessDenied,
    ConfigurationError,
    ConnectFailed,
    PoolClosed,
    PoolError,
    Problem,
    RegistryUnavailable,
    is_passing,
)
from tenantproxy.events import AdminAccess, Observer, SessionEnded, both, ignore, tolerant
from tenantproxy.model import Isolation, PoolKey, Route, Tenant, TenantId, TenantStatus, tenant_id
from tenantproxy.notifications import Listener
from tenantproxy.opened import OpenedIn
from tenantproxy.parts import Parts
from tenantproxy.pools.base import Clock, Stats
from tenantproxy.pools.budget import ServerBudget
from tenantproxy.pools.counters import Counters
from tenantproxy.pools.manager import PoolManager
from tenantproxy.registry import CachedRegistry, PostgresRegistry, Registry, build, cache
from tenantproxy.registry.postgres import CHANNEL
from tenantproxy.routes import (
    Routes,
    admin_route,
    listener_route,
    main_route,
    main_size,
    may_choose,
    not_served,
    registry_route,
)
from tenantproxy.scope import Found, LaneScope, Lease, Scope, TenantScope
from tenantproxy.slices import in_slices

__all__ = ["Router", "not_served", "open_router"]

_SWEEP_SECONDS: Final = 1.0
_AUDIT_SECONDS: Final = 2.0  # in which what is left of the audit is written when it closes
_LOGIN_SHARE: Final = 4  # of `[main] max_size`, a quarter for logins: strangers cause them
_LOGINS_WAITING: Final = 1_000  # each takes a millisecond or two
_STARTUP_TENANTS: Final = 1_000  # tenants looked at when it opens, to refuse a role that no policy holds


class Router:
    """Lends connections that are proven to be a tenant's. Bound to the event loop in which it was opened.

    `init` runs on each new connection, as asyncpg's: codecs that it sets stay, listeners and query loggers end with the
    first lease. `observer` is called with rare events and must not
    block. `registry` replaces the one that `settings` name. Constructing it does no I/O and needs no loop.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        registry: Registry | None = None,
        init: Init | None = None,
        observer: Observer = ignore,
        clock: Clock = monotonic,
    ) -> None:
        observer = tolerant(observer)
        self._main_scope = Scope(self)
        self.audit = AuditTable(self._main_scope) if settings.audit.table else None
        """What writes audit events into the main database, with `[audit] table`."""
        if self.audit is not None:
            observer = both(observer, self.audit)
        self.settings = settings
        self.is_open = False
        self._observer = observer
        self._parts = parts = Parts(settings, init=init, observer=observer, clock=clock)
        self._budgets = parts.budgets
        self._manager = parts.manager
        self._lender = parts.lender
        self._main_route = main_route(settings)
        self._registry_scope = LaneScope(self, registry_route(settings))
        self._own_registry = registry
        self._registry = cache(self._new_source(), settings, clock=clock, observer=observer)
        self._routes = Routes(
            settings,
            registry=self._registry,
            counters=parts.counters,
            fit=parts.fit,
        )
        self._changes = Changes(follow=self._routes.follow, has_own=parts.has_own, owners=parts.owners)
        self._opened: OpenedIn | None = None  # where it was opened last
        size = settings.main.max_size
        self.login_database = SharedDatabaseAccess(
            self._main_scope, limit=max(1, size // _LOGIN_SHARE), max_waiting=_LOGINS_WAITING
        )
        """The main database for all that logins and sessions ask: a part of its connections, and a bounded queue."""
        self._returned = asyncio.Event()  # set when something comes back while it closes
        self._sweeper: asyncio.Task[None] | None = None
        self._unhear: Callable[[], None] | None = None  # ends what the registry hears
        self.listener = Listener(LaneScope(self, listener_route(settings)), reading=reading_in_slices)
        """Hears what the main database announces while the router is open, unless `[registry] listen` is off."""
        self.revocations = Revocations(self._main_scope, settings.auth, hearing=self.listener)
        """What was revoked. Whoever verifies tokens opens it (the middleware does, by itself); `close` closes it."""
        self._opening: asyncio.Future[None] | None = None  # while it is being opened
        self._closing: asyncio.Task[None] | None = None  # while it closes
        self._logins: LoginService | None = None  # from its first use to close

    @classmethod
    def from_file(
        cls,
        path: str | os.PathLike[str] | None = None,
        *,
        registry: Registry | None = None,
        init: Init | None = None,
        observer: Observer = ignore,
    ) -> Self:
        """A router configured by a TOML file and the environment. Raises ConfigurationError."""
        return cls(load(path), registry=registry, init=init, observer=observer)

    def _new_source(self) -> Registry:
        return self._own_registry if self._own_registry is not None else build(self.settings, self._registry_scope)

    # --- life --------------------------------------------------------------------------------------------------------
    async def open(self) -> None:
        """Connect, check the roles of tenants' sessions, load the registry. Again after `close` it may be opened anew.

        Raises ConnectFailed when the main database cannot be reached and tenants are registered there (elsewhere only
        when it refuses us), IsolationError when a role could pass the wall
        (superuser, BYPASSRLS, owner of tenants' tables), RegistryUnavailable, PoolClosed when it is closed meanwhile.
        Callers that come while it is being opened wait for that, and try again when it failed. Cancellation closes what
        was opened. A router whose event loop has ended without `close`, or that a forked child inherited, opens again.
        """
        here = OpenedIn.here()
        loop = here.loop
        if self.is_abandoned:
            self._forget_loop()
        while True:
            if self._closing is not None:
                assert self._opened is not None
                self._opened.check()
                await asyncio.shield(self._closing)
            elif self._opening is not None and self._opening.get_loop() is loop:
                await asyncio.wait([self._opening])
            else:
                break
        if self.is_open:
            self._check_open()
            return
        self._opened = here
        self._opening = opening = loop.create_future()
        try:
            await self._open(loop)
        finally:
            self._opening = None
            opening.set_result(None)

    async def _open(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._manager.is_closed:
            self._manager = self._parts.renew()
            self._registry.renew(self._new_source())
        self.is_open = True
        self._registry.on_invalidate = self._changes.announce
        self.login_database.renew()
        manager = self._manager
        try:
            self._sweeper = loop.create_task(self._sweep(), name="tenantproxy sweeper", context=Context())
            await self._reach_main()
            await self._registry.open()
            if self._is_registry_in_main:
                await self._registry.probe()
            await self._check_roles()
            if manager.is_closed:
                raise PoolClosed("the router was closed while it opened")
            if self.audit is not None:
                await self.audit.open()
            if self._is_registry_in_main:
                self._unhear = self.listener.hear(CHANNEL, self._registry.invalidate)
            if self.settings.registry.listen:
                self.listener.start()
        except BaseException:
            if manager is self._manager:
                await self.close(timeout=0.0)
            raise

    @property
    def _is_registry_in_main(self) -> bool:
        return isinstance(self._registry.inner, PostgresRegistry)

    async def _reach_main(self) -> None:
        """Without tenants in it, the main database may be down: theirs are served. To be refused there is an error."""
        try:
            await self._main_scope.execute("SELECT 1")
        except PoolError as exc:
            if self._is_registry_in_main or not is_passing(exc):
                raise

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
                    backend = await self._lender.acquire(self._manager.pool(route), route)
                    self._lender.release(backend, route)

    async def close(self, *, timeout: float = 5.0) -> None:
        """Lend nothing more, wait up to `timeout` seconds for what is lent, then end it too.

        Safe to call twice: both wait for the same end. When its caller is cancelled it goes on by itself. Raises
        PoolClosed in another event loop than that of `open`, and in a forked child: nothing is closed then.
        """
        if self.is_abandoned and self._opened is not None and not self._opened.is_forked:
            self._forget_loop()
        if self._opened is not None and (self.is_open or self._closing is not None):
            self._opened.check()
        if self._closing is None:
            if not self.is_open:
                return
            self.is_open = self.audit is not None  # what is audited is written while there is a connection for it
            loop = asyncio.get_running_loop()
            self._closing = loop.create_task(self._shut(timeout), name="tenantproxy closing", context=Context())
        await asyncio.shield(self._closing)

    @property
    def is_abandoned(self) -> bool:
        """It was not closed, and the event loop in which it was opened has ended, or is that of the parent process."""
        has_ended = self._opened is not None and self._opened.has_ended
        return has_ended and (self.is_open or self._closing is not None or self._opening is not None)

    def _forget_loop(self) -> None:
        """Leave behind what was open in a loop that has ended: nothing of it can be awaited."""
        assert self._opened is not None
        self.is_open = False
        self._parts.forget_loop(shut=not self._opened.is_forked)
        self.revocations.forget_loop()
        self.listener.forget_loop()
        self._unhear = self._sweeper = self._logins = self._opening = self._closing = None
        self._registry.on_invalidate = None
        self._changes.forget_loop()
        self._registry.forget_loop()
        self._routes.clear()
        self._returned = asyncio.Event()

    async def _shut(self, timeout: float) -> None:
        try:
            if self.audit is not None:
                await self.audit.close(timeout=min(timeout, _AUDIT_SECONDS))
            self.is_open = False
            await self._end_all(timeout)
        finally:
            self._closing = None

    async def _end_all(self, timeout: float) -> None:
        await self.revocations.close()
        await self.listener.stop()
        if self._unhear is not None:
            self._unhear()
            self._unhear = None
        if self._sweeper is not None:
            self._sweeper.cancel()
            with suppress(asyncio.CancelledError):
                await self._sweeper
            self._sweeper = None
        if self._logins is not None:
            self._logins.close()
            self._logins = None
        self._registry.on_invalidate = None
        await self._changes.close()
        await self._registry.stop()
        await self._parts.looker.close()
        pools = [*self._manager, *self._manager.closing()]
        self._manager.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while any(pool.used for pool in pools):
                    self._returned.clear()
                    await self._returned.wait()
        for pool in pools:
            for backend in list(pool.connections()):
                pool.retire(backend, "shutdown")
        await self._parts.connector.settle(max(1.0, timeout))
        await self._parts.connector.close()
        self._routes.clear()
        await self._registry.close()  # last: it may be the user's, and fail or hang

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            try:
                await in_slices(self._manager.sweeping())
                self._parts.looker.sweep(self._manager)
            except Exception as exc:  # noqa: BLE001 - a rim: without it time would stand still for all pools, unnoticed
                context = {"message": "tenantproxy: a sweep of the pools failed", "exception": exc}
                asyncio.get_running_loop().call_exception_handler(context)

    # --- scopes ------------------------------------------------------------------------------------------------------
    @property
    def registry(self) -> CachedRegistry:
        """Where tenants are looked up, behind its cache."""
        return self._registry

    def tenant(
        self,
        tenant: str,
        *,
        system: str | None = None,
        replica: bool = False,
        context: Mapping[str, str] | None = None,
    ) -> TenantScope:
        """The scope of one tenant: cheap, holds no connection; an unknown tenant fails at first use.

        `system` chooses where a tenant has several schemas; `replica` reads from one of the server's replicas, read
        only, or from the primary while none of them serves.
        `context` are settings of the caller's own that each session gets (`{"app.user_id": "7"}`), for audit
        triggers and the like, or `application_name`; they are not signed, and cost a round trip a lease. Raises
        TenantNotFound for what cannot be a tenant identifier, AccessDenied for a setting that is not the caller's to
        make.
        """
        given = tuple(context.items()) if context else ()
        for name, _ in given:
            if not may_choose(name, self.settings):
                raise AccessDenied(
                    "this setting cannot be part of a tenant's context",
                    detail=repr(name),
                    hint="choose a name of your own with a dot in it, such as app.user_id",
                )
        return TenantScope(self, tenant_id(tenant), system=system, replica=replica, context=given)

    def main(self) -> Scope:
        """The scope of the shared main database."""
        return self._main_scope

    @property
    def logins(self) -> LoginService:
        """Who finds accounts, and the directory of them. Raises ConfigurationError without `[login]`, PoolClosed."""
        self._check_open()
        if self._logins is None:
            accounts = TenantAccounts(
                self.settings,
                source=self,
                tenants=self._registry,
                paused=self._into_paused,
                observer=self._observer,
            )
            self._logins = new_login(
                self.settings, main=self.login_database, accounts=accounts, observer=self._observer
            )
        return self._logins

    @property
    def login_counts(self) -> LoginCounts | None:
        """What was counted since `logins` was first used; None before that."""
        return None if self._logins is None else self._logins.counts

    @asynccontextmanager
    async def _into_paused(self, tenant: TenantId) -> AsyncIterator[Scope]:
        """The scope of a paused tenant for one question of login; a pool that is its alone is left empty."""
        found = await self._registry.get(tenant)
        if found.status is not TenantStatus.PAUSED:
            raise not_served(found.status)
        route = self._routes.plan(found)
        try:
            yield FixedScope(self, route)
        finally:
            if found.placement.isolation is not Isolation.ROW:
                self._manager.pool(route).expire()

    async def login(
        self,
        email: str,
        password: str,
        *,
        address: str | None = None,
        tenant: str | None = None,
        device: str | None = None,
    ) -> tuple[Account, ...]:
        """The accounts whose e-mail address and password these are: one, unless a person has it in several tenants.

        `tenant` looks at one alone; `address` is the client's, for its limits; `device` is what
        `logins.device_token(email)` gave after a former login on that device. Raises InvalidCredentials,
        TooManyAttempts, LoginUnavailable, which are the same whether or not there is an account, and TenantPaused where
        the password is right in a tenant that is paused.
        """
        return await self.logins.login(email, password, address=address, tenant=tenant, device=device)

    @property
    def standing(self) -> Standing | None:
        """Says at a refresh what an account is by now, for `auth.refresh.Sessions`; None without `session_query`."""
        if self.settings.login.session_query is None:
            return None
        return TenantAccounts(self.settings, source=self, tenants=self._registry, observer=self._observer)

    async def end_sessions(self, tenant: str, user: str) -> int:
        """Log one user out everywhere, as after a change of the password; how many sessions that were.

        Needs what `tenantproxy install` makes in the main database; its errors pass through.
        """
        ended = await self.revocations.end_user(tenant_id(tenant), user)
        self._observer(SessionEnded(tenant=tenant, user=user, reason="ended", sessions=ended))
        return ended

    async def tenants(self, *, status: TenantStatus | str | None = None) -> AsyncIterator[Tenant]:
        """All tenants, in order of their identifiers; asks the registry itself, not its cache."""
        self._check_open()
        async for tenant in self._registry.tenants(status=TenantStatus(status) if status is not None else None):
            yield tenant

    @asynccontextmanager
    async def admin(self, tenant: str, *, reason: str) -> AsyncIterator[Guard]:
        """A connection to the tenant's database as the server's `admin` user: a different, audited way in.

        It is not bound to the tenant: in a shared database that user may see every tenant's rows. `reason` goes into
        the AdminAccess event. The connection is closed at the end of the block. Raises AccessDenied without a reason
        or without `[servers.X.admin]`.
        """
        if not reason.strip():
            raise AccessDenied("a reason is needed for this way in", hint='say why: router.admin(id, reason="...")')
        found = await self._look_up(tenant_id(tenant))
        route = admin_route(self.settings, found)
        self._observer(AdminAccess(tenant=found.id, reason=reason))
        pool = self._manager.pool(route)
        backend = await self._lender.acquire(pool, route)
        guard = Guard(backend, backend.con)
        try:
            yield guard
        finally:
            guard.detach()
            backend.con.take_back()
            pool.retire(backend, "shutdown")
            if not self.is_open:
                self._returned.set()

    async def expire_connections(self, tenant: str) -> None:
        """Close the connections that serve this tenant: idle ones now, lent ones when they come back."""
        found = await self._look_up(tenant_id(tenant))
        keys, own = self._routes.keys_of(found), set(self._parts.of_tenant(found.id))
        for pool in self._parts.pools():
            if pool in own or replace(pool.key, profile="") in keys:
                pool.expire()

    # --- other kinds of connections ----------------------------------------------------------------------------------
    @property
    def budgets(self) -> Mapping[str, ServerBudget]:
        """The connection budget of each server, for all that connects to it."""
        return self._budgets

    @property
    def counters(self) -> Counters:
        """What is counted of all pools."""
        return self._parts.counters

    @property
    def observer(self) -> Observer:
        """Who hears of what is rare."""
        return self._observer

    @property
    def routes(self) -> Routes:
        """The plans of tenants, for listeners with connections of their own."""
        return self._routes

    @property
    def family(self) -> list[PoolManager[Any]]:
        """The managers that share `max_pools`, this router's own first: for listeners with connections of their own."""
        return self._parts.family

    def route_of(self, tenant: Tenant) -> Route:
        """The plan for an active tenant. Raises TenantPaused, TenantSuspended, TenantError."""
        if tenant.status is not TenantStatus.ACTIVE:
            raise not_served(tenant.status)
        return self._routes.plan(tenant)

    # --- profiles ----------------------------------------------------------------------------------------------------
    def add_profile(self, profile: str, init: Init) -> None:
        """Run `init`, after the router's own, on each new connection of the scopes `in_profile(profile)`.

        They have pools of their own: what `init` sets (codecs) lasts as long as a connection, and reaches no other.
        Raises ConfigurationError when another `init` is known under that name.
        """
        if not self._parts.connector.add_profile(profile, init):
            problem = Problem(
                key="profile", problem=f"{profile!r} is taken in this router", fix="give this one a name of its own"
            )
            raise ConfigurationError([problem])

    def expire_profile(self, profile: str) -> None:
        """Close the connections of a profile: idle ones now, lent ones when they come back."""
        for pool in self._manager:
            if pool.key.profile == profile:
                pool.expire()

    # --- Source: what scopes ask -------------------------------------------------------------------------------------
    def known(self, scope: Scope) -> Found | None:
        """See `scope.Source`."""
        if not self.is_open or self._opened is None or self._opened.loop is not asyncio.get_running_loop():
            return None
        if not isinstance(scope, TenantScope):
            if isinstance(scope, FixedScope):
                return self._manager.pool(scope.route), scope.route
            to_main = scope.route if isinstance(scope, LaneScope) else self._main_route
            return self._manager.main(to_main.pool, size=main_size(self.settings)), to_main
        route = self._routes.known(scope)
        return None if route is None else (self._manager.pool(route), route)

    def lend_nowait(self, found: Found) -> DriverConnection | None:
        """See `scope.Source`."""
        return self._lender.acquire_nowait(*found)

    async def lend(self, scope: Scope, found: Found | None, timeout: float | None) -> Lease:
        """See `scope.Source`."""
        deadline = None if timeout is None else monotonic() + timeout
        while True:
            pool, route = found or self.known(scope) or await self._find_until(deadline, scope)
            if route.session.standby and pool.budget.is_avoided:
                return await self._lend_elsewhere(scope, route, deadline)
            left = None if deadline is None else max(0.0, deadline - monotonic())
            try:
                return await self._lender.acquire(pool, route, left), route
            except PoolClosed:
                if not (self.is_open and pool.is_closed):
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
            pool = self._manager.pool(route)
            if route.session.standby and pool.budget.is_avoided:
                continue
            left = None if deadline is None else max(0.0, deadline - monotonic())
            try:
                return await self._lender.acquire(pool, route, left), route
            except ConnectFailed:
                if not route.session.standby:
                    raise
        raise AssertionError("the primary comes last, and lends or raises")

    async def _find_until(self, deadline: float | None, scope: Scope) -> Found:
        try:
            async with asyncio.timeout(None if deadline is None else deadline - monotonic()):
                return await self._find(scope)
        except TimeoutError:  # the lookup goes on for others, and to be remembered
            raise RegistryUnavailable(
                "the tenant could not be looked up in time", hint="see whether the registry answers", retry_after=1.0
            ) from None

    async def _find(self, scope: Scope) -> Found:
        self._check_open()
        assert isinstance(scope, TenantScope)  # main is always known
        route = await self._routes.find(scope)
        return self._manager.pool(route), route

    def release(self, backend: DriverConnection, route: Route) -> None:
        """See `scope.Source`."""
        self._lender.release(backend, route)
        if not self.is_open:
            self._returned.set()

    async def _look_up(self, tenant: TenantId) -> Tenant:
        self._check_open()
        return await self._routes.look_up(tenant)

    def _check_open(self) -> None:
        if not self.is_open:
            raise PoolClosed(
                "the router is not open",
                hint="use `async with router:`, or `await router.open()` before the first query",
            )
        assert self._opened is not None
        self._opened.check()

    # --- what is -----------------------------------------------------------------------------------------------------
    def stats(self) -> Stats:
        """An immutable snapshot of pools, budgets, waiters and counters."""
        return self._parts.stats(self._registry)

    async def scrape(self) -> Stats:
        """The same for metrics, gathered without holding the event loop: tenants beyond `max_tenants` are summed up."""
        return await self._parts.scrape(self._registry)


@asynccontextmanager
async def open_router(path: str | os.PathLike[str] | None = None) -> AsyncIterator[Router]:
    """An open router for a script: `async with open_router("tenantproxy.toml") as router:`."""
    async with Router.from_file(path) as router:
        yield router
