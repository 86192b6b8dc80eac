"""Tenant identifier in, connection out: the waist that everything above passes through.

State: the route cache and whether it is open. All else lives in the registry, the pools and the budgets.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from contextvars import Context
from dataclasses import replace
from time import monotonic
from typing import Any, Final, Self

from tenantproxy.auth.accounts import Account
from tenantproxy.auth.login import Login, LoginCounts
from tenantproxy.auth.revocation import Revocations
from tenantproxy.config import Settings, load
from tenantproxy.errors import (
    AccessDenied,
    ConfigurationError,
    PoolClosed,
    PoolError,
    Problem,
    RegistryUnavailable,
    TenantError,
    TenantNotFound,
    TenantPaused,
    TenantSuspended,
)
from tenantproxy.events import AdminAccess, Observer, ignore, tolerant
from tenantproxy.isolation import DatabasePlan, Plan, RowPlan, SchemaPlan
from tenantproxy.listen import Listener
from tenantproxy.lookup import FixedScope, TenantAccounts, new_login
from tenantproxy.model import (
    Isolation,
    Limits,
    PoolKey,
    Route,
    Session,
    Tenant,
    TenantId,
    TenantStatus,
    tenant_id,
)
from tenantproxy.pools.asyncpg import ADMIN_PROFILE, AsyncpgConnector, Backend, Init
from tenantproxy.pools.base import Clock, Stats
from tenantproxy.pools.budget import ServerBudget
from tenantproxy.pools.guard import Guard
from tenantproxy.pools.lender import Lender
from tenantproxy.pools.manager import Counters, PoolManager
from tenantproxy.pools.pool import Pool
from tenantproxy.pools.snapshot import snapshot
from tenantproxy.registry import (
    CachedRegistry,
    Entry,
    PostgresRegistry,
    Registry,
    TenantMisconfigured,
    build,
    cache,
)
from tenantproxy.registry.postgres import CHANNEL
from tenantproxy.scope import Found, Lease, Scope, TenantScope

__all__ = ["Router", "not_served", "open_router"]

MAIN: Final = TenantId("_main")  # no tenant can be called so
_SWEEP_SECONDS: Final = 1.0
_ROUTES: Final = 10_000  # plans kept; a plan costs 5 microseconds to make again
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
        self.settings = settings
        self.is_open = False
        self._observer = observer
        self._counters = Counters(max_tenants=settings.metrics.max_tenants)
        self._connector = AsyncpgConnector(settings, observer=observer, init=init, violations=self._counters.violations)
        self._budgets = {
            name: ServerBudget(
                name,
                limit=server.max_connections,
                clock=clock,
                observer=observer,
                guaranteed=settings.pools.guaranteed,
            )
            for name, server in settings.servers.items()
        }
        self._clock = clock
        self._family: list[PoolManager[Any]] = []  # its own manager, and those of other listeners
        self._manager = self._new_manager()
        self._lender = Lender(
            counters=self._counters,
            observer=observer,
            reset=settings.pools.reset,
            acquire_timeout=settings.pools.acquire_timeout,
            proof_window=settings.row.proof_window,
        )
        self._plans: dict[Isolation, Plan] = {
            Isolation.DATABASE: DatabasePlan(),
            Isolation.SCHEMA: SchemaPlan(),
            Isolation.ROW: RowPlan(signed=settings.row.signed, setting=settings.row.setting),
        }
        self._main_scope = Scope(self)
        self._main_key = PoolKey(server=settings.main.server, database=settings.main.database)
        self._main_route = Route(
            tenant=MAIN,
            isolation=Isolation.DATABASE,
            pool=self._main_key,
            session=Session(),
            limits=Limits(max_size=settings.main.max_size),
        )
        self._own_registry = registry
        self._registry = cache(self._new_source(), settings, clock=clock, observer=observer)
        self._routes: dict[tuple[TenantId, str | None, bool, str], tuple[Entry, Route]] = {}  # good while the entry is
        self._planned: set[TenantId] = set()  # who may have a route; most who are refused never had one
        self._loop: asyncio.AbstractEventLoop | None = None
        self._returned = asyncio.Event()  # set when something comes back while it closes
        self._sweeper: asyncio.Task[None] | None = None
        self._unhear: Callable[[], None] | None = None  # ends what the registry hears
        self.listener = Listener(self._main_scope)
        """Hears what the main database announces while the router is open, unless `[registry] listen` is off."""
        self.revocations = Revocations(self._main_scope, settings.auth, hearing=self.listener)
        """What was revoked. Whoever verifies tokens opens it (the middleware does, by itself); `close` closes it."""
        self._opening: asyncio.Future[None] | None = None  # while it is being opened
        self._closing: asyncio.Task[None] | None = None  # while it closes
        self._logins: Login | None = None  # from its first use to close

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

    def _new_manager(self) -> PoolManager[Backend]:
        return PoolManager(
            budgets=self._budgets,
            settings=self.settings.pools,
            connector=self._connector,
            clock=self._clock,
            observer=self._observer,
            counters=self._counters,
            family=self._family,
        )

    def _new_source(self) -> Registry:
        return self._own_registry if self._own_registry is not None else build(self.settings, self._main_scope)

    # --- life --------------------------------------------------------------------------------------------------------
    async def open(self) -> None:
        """Connect, check the roles of tenants' sessions, load the registry. Again after `close` it may be opened anew.

        Raises ConnectFailed when the main database cannot be reached, IsolationError when a role could pass the wall
        (superuser, BYPASSRLS, owner of tenants' tables), RegistryUnavailable, PoolClosed when it is closed meanwhile.
        Whoever comes while it is being opened waits for that, and tries anew when it failed. Cancellation closes what
        was opened.
        """
        loop = asyncio.get_running_loop()
        while True:
            if self._closing is not None:
                await asyncio.shield(self._closing)
            elif self._opening is not None and self._opening.get_loop() is loop:
                await asyncio.wait([self._opening])
            else:
                break
        if self.is_open:
            return
        self._loop = loop
        self._opening = opening = loop.create_future()
        try:
            await self._open(loop)
        finally:
            self._opening = None
            opening.set_result(None)

    async def _open(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._manager.is_closed:
            for budget in self._budgets.values():
                budget.forget_failures()
            self._manager = self._new_manager()
            self._registry.renew(self._new_source())
        self.is_open = True
        manager = self._manager
        try:
            self._sweeper = loop.create_task(self._sweep(), name="tenantproxy sweeper", context=Context())
            await self._main_scope.execute("SELECT 1")
            await self._registry.open()
            await self._check_roles()
            if manager.is_closed:
                raise PoolClosed("the router was closed while it opened")
            if isinstance(self._registry.inner, PostgresRegistry):
                self._unhear = self.listener.hear(CHANNEL, self._registry.invalidate)
            if self.settings.registry.listen:
                self.listener.start()
        except BaseException:
            if manager is self._manager:
                await self.close(timeout=0.0)
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
            route = self._plan(tenant, None, replica=False)
            if route.pool not in seen:
                seen.add(route.pool)
                with suppress(PoolError):  # unreachable now is for its own callers to hear; a wrong role is not
                    backend = await self._lender.acquire(self._manager.pool(route), route)
                    self._lender.release(backend, route)

    async def close(self, *, timeout: float = 5.0) -> None:
        """Lend nothing more, wait up to `timeout` seconds for what is lent, then end it too.

        Safe to call twice: both wait for the same end. When its caller is cancelled it goes on by itself.
        """
        if self._closing is None:
            if not self.is_open:
                return
            self.is_open = False
            loop = asyncio.get_running_loop()
            self._closing = loop.create_task(self._shut(timeout), name="tenantproxy closing", context=Context())
        await asyncio.shield(self._closing)

    async def _shut(self, timeout: float) -> None:
        try:
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
        await self._registry.close()
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
        await self._connector.settle(max(1.0, timeout))
        await self._connector.close()
        self._routes.clear()
        self._planned.clear()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            try:
                self._manager.sweep()
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

        `system` chooses where a tenant has several schemas; `replica` reads from one of the server's replicas, when it
        has any. `context` are settings of the caller's own that each session gets (`{"app.user_id": "7"}`), for audit
        triggers and the like, or `application_name`; they are not signed, and cost a round trip a lease. Raises
        TenantNotFound for what cannot be a tenant identifier, AccessDenied for a setting that is not the caller's to
        make.
        """
        given = tuple(context.items()) if context else ()
        for name, _ in given:
            if not _may_choose(name) or name.lower() in (self.settings.row.setting, "app.tenant_proof"):
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
    def logins(self) -> Login:
        """Who finds accounts, and the directory of them. Raises ConfigurationError without `[login]`, PoolClosed."""
        self._check_open()
        if self._logins is None:
            accounts = TenantAccounts(self.settings, source=self, tenants=self._registry, observer=self._observer)
            self._logins = new_login(self.settings, main=self._main_scope, accounts=accounts)
        return self._logins

    @property
    def login_counts(self) -> LoginCounts | None:
        """What was counted since `logins` was first used; None before that."""
        return None if self._logins is None else self._logins.counts

    async def login(
        self, email: str, password: str, *, address: str | None = None, tenant: str | None = None
    ) -> tuple[Account, ...]:
        """The accounts whose e-mail address and password these are: one, unless a person has it in several tenants.

        `tenant` looks at one alone; `address` is the client's, for its limit. Raises InvalidCredentials,
        TooManyAttempts, LoginUnavailable, which are the same whether or not there is an account.
        """
        return await self.logins.login(email, password, address=address, tenant=tenant)

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
        place = found.placement
        server = self.settings.servers[place.server]
        if server.admin is None:
            raise AccessDenied(
                "this server has no admin user",
                detail=f"server {place.server!r}",
                hint=f"configure [servers.{place.server}.admin] with a user and its password",
            )
        self._observer(AdminAccess(tenant=found.id, reason=reason))
        key = PoolKey(
            server=place.server,
            database=place.database,
            user=server.admin.user,
            schema=place.schema,
            profile=ADMIN_PROFILE,
        )
        route = Route(tenant=found.id, isolation=place.isolation, pool=key, session=Session())
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
        keys = {self._plan(found, None, replica=False).pool}
        keys |= {route.pool for (name, *_), (_, route) in self._routes.items() if name == found.id}
        for pool in self._all_pools():
            if replace(pool.key, profile="") in keys or pool.key in keys:
                pool.expire()

    # --- other kinds of connections ----------------------------------------------------------------------------------
    @property
    def budgets(self) -> Mapping[str, ServerBudget]:
        """The connection budget of each server, for all that connects to it."""
        return self._budgets

    @property
    def counters(self) -> Counters:
        """What is counted of all pools."""
        return self._counters

    @property
    def observer(self) -> Observer:
        """Who hears of what is rare."""
        return self._observer

    @property
    def family(self) -> list[PoolManager[Any]]:
        """The managers that share `max_pools`, this router's own first: for listeners with connections of their own."""
        return self._family

    def _all_pools(self) -> Iterator[Pool[Any]]:
        for manager in self._family:
            yield from manager

    def route_of(self, tenant: Tenant) -> Route:
        """The plan for an active tenant. Raises TenantPaused, TenantSuspended, TenantError."""
        if tenant.status is not TenantStatus.ACTIVE:
            raise not_served(tenant.status)
        return self._plan(tenant, None, replica=False)

    # --- profiles ----------------------------------------------------------------------------------------------------
    def add_profile(self, profile: str, init: Init) -> None:
        """Run `init`, after the router's own, on each new connection of the scopes `in_profile(profile)`.

        They have pools of their own: what `init` sets (codecs) lasts as long as a connection, and reaches no other.
        Raises ConfigurationError when another `init` is known under that name.
        """
        if not self._connector.add_profile(profile, init):
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
        if not self.is_open or self._loop is not asyncio.get_running_loop():
            return None
        if not isinstance(scope, TenantScope):
            if isinstance(scope, FixedScope):
                return self._manager.pool(scope.route), scope.route
            return self._manager.main(self._main_key, size=self.settings.main.max_size), self._main_route
        known = self._routes.get((scope.id, scope.system, scope.replica, scope.profile))
        if known is None or not self._registry.is_fresh(known[0]):
            return None
        route = _with_context(known[1], scope)
        return self._manager.pool(route), route

    def lend_nowait(self, found: Found) -> Backend | None:
        """See `scope.Source`."""
        return self._lender.acquire_nowait(*found)

    async def lend(self, scope: Scope, found: Found | None, timeout: float | None) -> Lease:
        """See `scope.Source`."""
        deadline = None if timeout is None else monotonic() + timeout
        while True:
            pool, route = found or self.known(scope) or await self._find_until(deadline, scope)
            left = None if deadline is None else max(0.0, deadline - monotonic())
            try:
                return await self._lender.acquire(pool, route, left), route
            except PoolClosed:
                if not (self.is_open and pool.is_closed):
                    raise
            found = None  # evicted while we waited: the tenant, if it is still served, has a new one

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
        route = _with_context(self._route(await self._look_up(scope.id), scope), scope)
        return self._manager.pool(route), route

    def release(self, backend: Backend, route: Route) -> None:
        """See `scope.Source`."""
        self._lender.release(backend, route)
        if not self.is_open:
            self._returned.set()

    async def _look_up(self, tenant: TenantId) -> Tenant:
        self._check_open()
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

    def _route(self, tenant: Tenant, scope: TenantScope) -> Route:
        """The plan for an active tenant, remembered until the registry says something else of it."""
        if tenant.status is not TenantStatus.ACTIVE:
            self._forget(tenant.id)
            raise not_served(tenant.status)
        key = (tenant.id, scope.system, scope.replica, scope.profile)
        known = self._routes.get(key)
        entry = self._registry.entry(tenant.id)
        if known is not None and known[0] is entry:
            return known[1]
        route = self._plan(tenant, scope.system, replica=scope.replica)
        if scope.profile:
            route = replace(route, pool=replace(route.pool, profile=scope.profile))
        if known is not None and known[1] != route:
            self._forget(tenant.id)  # it moved or has other limits: nothing may be served as it was
        if len(self._routes) >= _ROUTES:
            self._routes.clear()
            self._planned.clear()
        # Another entry came while this tenant was asked for: its plan is good for who asked before, and nobody after.
        if entry is not None and entry.tenant is tenant:
            self._routes[key] = (entry, route)
            self._planned.add(tenant.id)
        return route

    def _plan(self, tenant: Tenant, system: str | None, *, replica: bool) -> Route:
        server = self.settings.servers.get(tenant.placement.server)
        if server is None:
            raise TenantError(
                "the tenant is registered on a server that is not configured",
                detail=f"server {tenant.placement.server!r}",
                hint=f"configure [servers.{tenant.placement.server}], or correct the registry",
            )
        name = server.replicas[hash(tenant.id) % len(server.replicas)] if replica and server.replicas else None
        return self._plans[tenant.placement.isolation].plan(tenant, system=system, replica=name)

    def _forget(self, tenant: TenantId) -> None:
        """Drop the plans of a tenant that moved or is not served any more, and the pools that were its alone."""
        if tenant not in self._planned:
            return
        self._planned.discard(tenant)
        stale = [key for key in self._routes if key[0] == tenant]
        pools = [self._routes.pop(key)[1].pool for key in stale]
        self._manager.remove(tenant, pools)

    def _check_open(self) -> None:
        if not self.is_open:
            raise PoolClosed(
                "the router is not open",
                hint="use `async with router:`, or `await router.open()` before the first query",
            )
        if self._loop is not asyncio.get_running_loop():
            raise PoolClosed(
                "the router was opened in another event loop",
                hint="open one router per event loop, and use it there alone",
            )

    # --- what is -----------------------------------------------------------------------------------------------------
    def stats(self) -> Stats:
        """An immutable snapshot of pools, budgets, waiters and counters."""
        counters = self._counters
        return Stats(
            pools=tuple(pool.stats() for pool in self._all_pools()),
            servers=tuple(budget.stats() for budget in self._budgets.values()),
            pools_limit=self.settings.pools.max_pools,
            acquires={tenant: dict(counts) for tenant, counts in counters.acquires.items()},
            exhaustions=dict(counters.exhaustions),
            acquire_wait={isolation: snapshot(histogram) for isolation, histogram in counters.acquire_wait.items()},
            hold={isolation: snapshot(histogram) for isolation, histogram in counters.hold.items()},
            closed=dict(counters.closed),
            opened=dict(counters.opened),
            evicted=dict(counters.evicted),
            resets=dict(counters.resets),
            violations=dict(counters.violations),
            lookups=dict(self._registry.lookups),
            lookup_seconds={source: snapshot(seconds) for source, seconds in self._registry.lookup_seconds.items()},
            registry_last_success=self._registry.last_success,
        )


def _may_choose(setting: str) -> bool:
    return "." in setting or setting == "application_name"


def _with_context(route: Route, scope: TenantScope) -> Route:
    """`route` with the settings that its caller asked for."""
    if not scope.context:
        return route
    return replace(route, session=replace(route.session, context=scope.context))


def not_served(status: TenantStatus) -> TenantError:
    """Why a tenant in this status gets no connection."""
    if status in (TenantStatus.PAUSED, TenantStatus.PROVISIONING):
        return TenantPaused(f"the tenant is {status.value}", hint="it comes back: try again later", retry_after=5.0)
    return TenantSuspended(f"the tenant is {status.value}", hint="ask the operator of this service")


@asynccontextmanager
async def open_router(path: str | os.PathLike[str] | None = None) -> AsyncIterator[Router]:
    """An open router for a script: `async with open_router("tenantproxy.toml") as router:`."""
    async with Router.from_file(path) as router:
        yield router
