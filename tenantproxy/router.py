"""Tenant identifier in, connection out: the waist that everything above passes through.

It has no state of its own: whether it is open is its life's, all else its parts', the routes' and the registry's.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import replace
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, Self
from uuid import UUID

from tenantproxy.accounts import FixedScope, TenantAccounts, new_login
from tenantproxy.auth.accounts import Account, Standing
from tenantproxy.auth.audit import AuditTable
from tenantproxy.auth.login import LoginCounts, LoginService
from tenantproxy.auth.revocation import Revocations
from tenantproxy.auth.share import SharedDatabaseAccess
from tenantproxy.auth.user_sessions import UserSession
from tenantproxy.config import Settings, load
from tenantproxy.connect.hosts import Hosts
from tenantproxy.driver.connector import Init
from tenantproxy.driver.guard import Guard, reading_in_slices
from tenantproxy.driver.state import DriverConnection
from tenantproxy.errors import (
    AccessDenied,
    ConfigurationError,
    Problem,
)
from tenantproxy.events import AdminAccess, Observer, Observers, SessionEnded, ignore, tolerant
from tenantproxy.fleet.listening import FleetListening, SharedConnection
from tenantproxy.fleet.stats import FleetProcess, FleetStats
from tenantproxy.isolation.signed import check_values
from tenantproxy.lending import ScopeLending
from tenantproxy.life import MainServices, RouterLife
from tenantproxy.model import Isolation, Route, Tenant, TenantId, TenantStatus, tenant_id
from tenantproxy.mongo.clusters import MongoClusters
from tenantproxy.mongo.documents import TenantDocuments
from tenantproxy.notifications import Listener
from tenantproxy.parts import ClientHolder, Parts
from tenantproxy.pools.base import Clock, Stats
from tenantproxy.pools.budget import ServerBudget
from tenantproxy.pools.counters import Counters
from tenantproxy.pools.manager import LivePoolSettings, PoolManager
from tenantproxy.registry import CachedRegistry, Registry, build, cache, prepare, prepare_shared
from tenantproxy.routes import (
    Routes,
    admin_route,
    listener_route,
    main_route,
    main_size,
    may_choose,
    no_readers,
    not_served,
    registry_route,
)
from tenantproxy.scope import Found, LaneScope, Lease, Scope, TenantScope
from tenantproxy.watch import Watch

if TYPE_CHECKING:
    from tenantproxy.lifecycle.desk import Lifecycle

__all__ = ["Router", "not_served", "open_router"]

_POSITION: Final = re.compile(r"[0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8}")  # a pg_lsn
_LOGIN_SHARE: Final = 4  # of `[main] max_size`, a quarter for logins: strangers cause them
_LOGINS_WAITING: Final = 1_000  # each takes a millisecond or two


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
        watch: Watch | None = None,
    ) -> None:
        """`watch` is told of each lease and statement; without one, and with no `[log] slow_*`, nothing is."""
        observer = Observers(tolerant(observer))
        self._main_scope = Scope(self)
        self.audit = AuditTable(self._main_scope) if settings.audit.table else None
        """What writes audit events into the main database, with `[audit] table`."""
        if self.audit is not None:
            observer.add(self.audit)
        self.settings = settings
        self._observer = observer
        self._parts = parts = Parts(settings, init=init, observer=observer, clock=clock, watch=watch)
        self._budgets = parts.budgets
        self._lender = parts.lender
        self._main_route = main_route(settings)
        self._registry_scope = LaneScope(self, registry_route(settings))
        self._own_registry = registry
        self._clusters = MongoClusters(settings.mongo, reserved=frozenset({settings.registry.mongodb.database}))
        self._registry = cache(self._new_source(), settings, clock=clock, observer=observer)
        self._routes = Routes(
            settings,
            registry=self._registry,
            counters=parts.counters,
            fit=parts.fit,
            end=parts.end_tenant,
        )
        size = settings.main.max_size
        self.login_database = SharedDatabaseAccess(
            self._main_scope, limit=max(1, size // _LOGIN_SHARE), max_waiting=_LOGINS_WAITING
        )
        """The main database for all that logins and sessions ask: a part of its connections, and a bounded queue."""
        own_lane = LaneScope(self, listener_route(settings))
        self.listener = Listener(FleetListening(own_lane, parts.fleet), reading=_reading)
        """Hears what the main database announces while the router is open, unless `[registry] listen` is off."""
        self.revocations = Revocations(self._main_scope, settings.auth, hearing=self.listener)
        """What was revoked. What verifies tokens opens it (the middleware does, by itself); `close` closes it."""
        self._accounts: TenantAccounts | None = None  # of `logins`
        self._life = self._new_life()

        self._lending = ScopeLending(self._life, parts=parts, routes=self._routes, known=self.known)

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

    def _new_life(self) -> RouterLife:
        services = MainServices(
            scope=self._main_scope,
            login_database=self.login_database,
            listener=self.listener,
            revocations=self.revocations,
            audit=self.audit,
        )
        return RouterLife(
            self.settings,
            parts=self._parts,
            routes=self._routes,
            registry=self._registry,
            new_source=self._new_source,
            main=services,
            clusters=self._clusters,
        )

    def _new_source(self) -> Registry:
        if self._own_registry is not None:
            return self._own_registry
        return build(self.settings, self._registry_scope, clusters=self._clusters)

    # --- life --------------------------------------------------------------------------------------------------------
    @property
    def is_open(self) -> bool:
        """It lends; while it is being opened too, and as long as it closes for what is audited then."""
        return self._life.is_open

    @property
    def is_abandoned(self) -> bool:
        """It was not closed, and the event loop in which it was opened has ended, or is that of the parent process."""
        return self._life.is_abandoned

    async def open(self) -> None:
        """Connect, check the roles of tenants' sessions, load the registry. Again after `close` it may be opened again.

        Raises ConnectFailed when the main database cannot be reached and tenants are registered there (elsewhere only
        when it refuses us), IsolationError when a role could pass the wall
        (superuser, BYPASSRLS, owner of tenants' tables), RegistryUnavailable, PoolClosed when it is closed meanwhile.
        Callers that come while it is being opened wait for that, and try again when it failed. Cancellation closes what
        was opened. A router whose event loop has ended without `close`, or that a forked child inherited, opens again.
        """
        await self._life.open()

    async def close(self, *, timeout: float = 5.0) -> None:
        """Lend nothing more, wait up to `timeout` seconds for what is lent, then end it too.

        Safe to call twice: both wait for the same end. When its caller is cancelled it goes on by itself. Raises
        PoolClosed in another event loop than that of `open`, and in a forked child: nothing is closed then.
        """
        await self._life.close(timeout=timeout)

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

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
        after: str | None = None,
        context: Mapping[str, str] | None = None,
        read_only: bool = False,
    ) -> TenantScope:
        """The scope of one tenant: cheap, holds no connection; an unknown tenant fails at first use.

        `system` chooses where a tenant has several schemas; `replica` reads from one of the server's replicas, read
        only, or from the primary while none of them serves, or is within `max_replica_lag`. `after`: a position in the
        log, of `TenantScope.position` after a write, that a replica must have replayed; else the primary is read.
        `context` are settings of the caller's own that each session gets (`{"app.user_id": "7"}`), for audit
        triggers and the like, or `application_name`; they cost a round trip a lease. In the session of a row tenant
        those that `[signed_context]` names are signed: `tenantproxy.context(name)` says what was given here, whatever
        the session's SQL does. `read_only`: its sessions log in as a role that can write nothing, whatever its SQL says
        (`[tenant_roles] readers`). Raises TenantNotFound for what cannot be a tenant identifier, AccessDenied for a
        setting that is not the caller's to make and for `read_only` where there are no such roles, InvalidSetting for a
        value that no session can have, ValueError for what is no position.
        """
        if read_only and not self.settings.has_readers:
            raise no_readers()
        if after is not None and not _POSITION.fullmatch(after):
            raise ValueError(f"{after!r} is no position in the log: write what TenantScope.position() said")
        given = tuple(context.items()) if context else ()
        for name, _ in given:
            if not may_choose(name, self.settings):
                raise AccessDenied(
                    "this setting cannot be part of a tenant's context",
                    detail=repr(name),
                    hint="choose a name of your own with a dot in it, such as app.user_id",
                )
        check_values(given)
        return TenantScope(
            self, tenant_id(tenant), system=system, replica=replica, after=after, context=given, read_only=read_only
        )

    def main(self) -> Scope:
        """The scope of the shared main database."""
        return self._main_scope

    @property
    def logins(self) -> LoginService:
        """Who finds accounts, and the directory of them. Raises ConfigurationError without `[login]`, PoolClosed."""
        self._life.check_open()
        if self._life.logins is None:
            accounts = self._accounts = TenantAccounts(
                self.settings,
                source=self,
                tenants=self._registry,
                paused=self._into_paused,
                observer=self._observer,
            )
            self._life.logins = new_login(
                self.settings, main=self.login_database, accounts=accounts, observer=self._observer
            )
        return self._life.logins

    @property
    def login_counts(self) -> LoginCounts | None:
        """What was counted since `logins` was first used; None before that."""
        return None if self._life.logins is None else self._life.logins.counts

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
                self._parts.manager.pool(route).expire()

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

    async def sessions(self, tenant: str, user: str) -> list[UserSession]:
        """The sessions of one user, the last used first, 1000 at most.

        Raises ConfigurationError where `tenantproxy install` of this release has not been run, TenantNotFound for what
        cannot be a tenant identifier; errors of the main database pass through.
        """
        return await self.revocations.sessions_of(tenant_id(tenant), user)

    async def end_sessions(self, tenant: str, user: str, *, session: str | None = None) -> int:
        """Log one user out everywhere, as after a change of the password, or end one `session`; how many there were.

        Needs what `tenantproxy install` makes in the main database; its errors pass through.
        """
        if session is not None:
            ended = int(await self.revocations.end_session(tenant_id(tenant), user, session))
        else:
            ended = await self.revocations.end_user(tenant_id(tenant), user)
        self._observer(SessionEnded(tenant=tenant, user=user, reason="ended", sessions=ended))
        return ended

    async def tenants(self, *, status: TenantStatus | str | None = None) -> AsyncIterator[Tenant]:
        """All tenants, in order of their identifiers; asks the registry itself, not its cache."""
        self._life.check_open()
        async for tenant in self._registry.tenants(status=TenantStatus(status) if status is not None else None):
            yield tenant

    async def tenants_after(self, after: str) -> AsyncGenerator[Tenant, None]:
        """As `tenants`, those behind the identifier `after`: a page costs what is on it, wherever it is."""
        self._life.check_open()
        async for tenant in self._registry.tenants_after(after):
            yield tenant

    @property
    def lifecycle(self) -> Lifecycle:
        """What makes, changes, saves and removes tenants, with the admin credentials of each server."""
        from tenantproxy.lifecycle.desk import Lifecycle  # above us: it proves what it makes by a router

        return Lifecycle(lambda: self.settings)

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
        pool = self._parts.manager.pool(route)
        backend = await self._lender.acquire(pool, route)
        guard = Guard(backend, backend.con)
        try:
            yield guard
        finally:
            guard.detach()
            backend.con.take_back()
            pool.retire(backend, "shutdown")
            if not self._life.is_open:
                self._life.returned.set()

    async def expire_connections(self, tenant: str) -> list[str]:
        """Close the connections that serve this tenant: idle ones now, lent ones when they come back.

        Returns which they are, as `server/process id`; a shared pool's serve others too.
        """
        found = await self._look_up(tenant_id(tenant))
        keys, own = self._routes.keys_of(found), set(self._parts.of_tenant(found.id))
        expired: list[str] = []
        for pool in self._parts.pools():
            if pool in own or replace(pool.key, profile="") in keys:
                expired += [f"{pool.key.server}/{conn.pid}" for conn in pool.expire()]
        return expired

    # --- other kinds of connections ----------------------------------------------------------------------------------
    @property
    def budgets(self) -> Mapping[str, ServerBudget]:
        """The connection budget of each server, for all that connects to it."""
        return self._budgets

    @property
    def lease_watch(self) -> Watch | None:
        """What is told of each lease and statement, also of the listeners' own; None: nothing is."""
        return self._parts.lease_watch

    @property
    def pool_settings(self) -> LivePoolSettings:
        """What the pools of all listeners keep to."""
        return self._parts.pool_settings

    def prepare(self, new: Settings, *, limits: Mapping[str, int], new_row_keys: bool) -> Callable[[], None]:
        """Get ready to work by `new`; what this returns does it, and cannot fail.

        Raises ConfigurationError, and ValueError for tenants that cannot be.
        `limits`: budgets, of new servers and of those that have another one. Only what `config.changes` takes over may
        differ from the settings of now. `new_row_keys`: connections of row tenants are opened again, to be signed for
        by the key that is new; those that are lent end when they are given back.
        """
        self._check_servers(new)
        registry = prepare(self._registry.inner, new)
        shared = prepare_shared(self._registry, new)

        def commit() -> None:
            self.settings = new
            self._routes.adopt(new)
            self._parts.adopt(new, limits, new_row_keys=new_row_keys)
            self.revocations.adopt(new.auth)
            if self._accounts is not None:
                self._accounts.adopt(new)
            registry()
            shared()
            self._registry.invalidate(None)

        return commit

    def _check_servers(self, new: Settings) -> None:
        """Refuse what is fixed for the life of a router: a watch over hosts, and a part of a fleet.

        Raises ConfigurationError.
        """
        old, watched = self.settings.servers, self._parts.hosts.keys()
        gone = set() if self.fleet is None else old.keys() - new.servers.keys()
        fixed = gone | {name for name in old.keys() ^ new.servers.keys() if {**old, **new.servers}[name].hosts}
        held = watched if self.fleet is None else {*watched, self.settings.main.server}
        for name in held & old.keys() & new.servers.keys():
            budget = {"max_connections": new.servers[name].max_connections}
            if old[name].model_copy(update=budget) != new.servers[name]:
                fixed.add(name)
        if fixed:
            problem = "has changed, and cannot while its hosts are watched, or the process is in a fleet"
            fix = "change it back, or let a new process take it over: tenantproxy upgrade"
            raise ConfigurationError(Problem(key=f"servers.{name}", problem=problem, fix=fix) for name in sorted(fixed))

    def resize_budgets(self, limits: Mapping[str, int]) -> None:
        """This process's part of servers' budgets, by name: what exceeds it is closed, the idle connections at once.

        In a fleet it does not count, now or when the process joins one later.
        """
        self._parts.allot(limits)

    @property
    def fleet(self) -> FleetStats | None:
        """What this process has of its servers' budgets, in a fleet; None: all of them."""
        return self._parts.fleet.stats()

    async def fleet_processes(self) -> Sequence[FleetProcess]:
        """What each process of the fleet has of each server: asked of the main database, or of the host's file."""
        return await self._parts.fleet.processes()

    def bury(self, dead: Iterable[UUID]) -> None:
        """These processes of the fleet have ended for sure, as their supervisor has seen."""
        self._parts.fleet.bury(dead)

    @property
    def hosts(self) -> Mapping[str, Hosts]:
        """The hosts of the servers that are watched, for all that connects to them."""
        return self._parts.hosts

    def is_behind(self, replica: str) -> bool:
        """Whether a replica is further behind than its primary's `max_replica_lag`, or it is not known."""
        return self._parts.watch.is_behind(replica)

    @property
    def counters(self) -> Counters:
        """What is counted of all pools."""
        return self._parts.counters

    @property
    def observer(self) -> Observers:
        """Who hears of what is rare; others may listen too."""
        return self._observer

    @property
    def routes(self) -> Routes:
        """The plans of tenants, for listeners with connections of their own."""
        return self._routes

    @property
    def family(self) -> list[PoolManager[Any]]:
        """The managers that share `max_pools`, this router's own first: for listeners with connections of their own."""
        return self._parts.family

    @property
    def holders(self) -> list[ClientHolder]:
        """The listeners whose clients end with their tenant; one that opens adds itself."""
        return self._parts.holders

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
        for pool in self._parts.manager:
            if pool.key.profile == profile:
                pool.expire()

    # --- LeaseSource: what scopes ask --------------------------------------------------------------------------------
    def known(self, scope: Scope) -> Found | None:
        """See `scope.LeaseSource`."""
        life = self._life
        opened = life.opened
        if opened is None or not life.is_open or opened.loop is not asyncio.get_running_loop():
            return None
        manager = self._parts.manager
        if not isinstance(scope, TenantScope):
            if isinstance(scope, FixedScope):
                return manager.pool(scope.route), scope.route
            to_main = scope.route if isinstance(scope, LaneScope) else self._main_route
            return manager.main(to_main.pool, size=main_size(self.settings)), to_main
        route = self._routes.known(scope)
        return None if route is None else (manager.pool(route), route)

    def lend_nowait(self, found: Found) -> DriverConnection | None:
        """See `scope.LeaseSource`."""
        return self._lender.acquire_nowait(*found)

    async def lend(self, scope: Scope, found: Found | None, timeout: float | None) -> Lease:
        """See `scope.LeaseSource`."""
        return await self._lending.lend(scope, found or self.known(scope), timeout)

    def ends_with(self, backend: DriverConnection, route: Route) -> None:
        """See `scope.LeaseSource`."""
        self._lender.ends_with(backend, route)

    def release(self, backend: DriverConnection, route: Route) -> None:
        """See `scope.LeaseSource`."""
        self._lender.release(backend, route)
        if not self._life.is_open:
            self._life.returned.set()

    def documents_of(self, tenant: TenantId) -> TenantDocuments:
        """See `scope.LeaseSource`."""
        return TenantDocuments(tenant, clusters=self._clusters, served=lambda: self._served(tenant))

    async def _served(self, tenant: TenantId) -> Tenant:
        found = await self._look_up(tenant)
        if found.status is not TenantStatus.ACTIVE:
            raise not_served(found.status)
        return found

    async def _look_up(self, tenant: TenantId) -> Tenant:
        self._life.check_open()
        return await self._routes.look_up(tenant)

    # --- what is -----------------------------------------------------------------------------------------------------
    def stats(self) -> Stats:
        """An immutable snapshot of pools, budgets, waiters and counters, of one moment.

        Made in one step, about 10 microseconds for each pool and each tenant in it; with thousands use `snapshot`.
        """
        return self._parts.stats(self._registry)

    async def snapshot(self) -> Stats:
        """The same, gathered without holding the event loop: each pool as of its own moment."""
        return await self._parts.snapshot(self._registry)

    async def scrape(self) -> Stats:
        """As `snapshot`, for metrics: tenants beyond `max_tenants` are summed up."""
        return await self._parts.snapshot(self._registry, few_tenants=True)


def _reading(conn: Guard | SharedConnection) -> AbstractContextManager[None]:
    return conn.reading_in_slices() if isinstance(conn, SharedConnection) else reading_in_slices(conn)


@asynccontextmanager
async def open_router(path: str | os.PathLike[str] | None = None) -> AsyncIterator[Router]:
    """An open router for a script: `async with open_router("tenantproxy.toml") as router:`."""
    async with Router.from_file(path) as router:
        yield router
