"""What is in the process, in which order does it start and end? The composition root: only here every class is known.

Start: admin listener (alive, not ready), router, public listener (ready).
End: not ready, public listener drained, router closed, admin listener closed.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping
from contextvars import Context
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from aiohttp import web
from prometheus_client import CollectorRegistry

from tenantproxy._native import data_path, why_not
from tenantproxy.auth.caller import TrustedProxies
from tenantproxy.config import Settings, listen_address
from tenantproxy.config.changes import Change, changed_keys, changed_secrets, marks, refuse, told
from tenantproxy.config.version import VERSION
from tenantproxy.errors import ConfigurationError, NotSupported, Problem, TenantProxyError, is_passing
from tenantproxy.events import Event
from tenantproxy.lifecycle.login_sync import LoginFollower
from tenantproxy.metrics.exposition import registry_of
from tenantproxy.metrics.fleet import FleetCollector
from tenantproxy.metrics.listeners import HttpRequests, ProcessCollector, ProcessStats
from tenantproxy.metrics.logins import LoginCollector
from tenantproxy.metrics.pg import PgCollector
from tenantproxy.metrics.prometheus import RouterCollector, Seen, TenantCounts, no_traces
from tenantproxy.pools.base import Stats
from tenantproxy.router import Router
from tenantproxy.sidecar.admin import (
    ADMIN_CLIENTS,
    MOST_READERS,
    MOST_UNKNOWN,
    Readiness,
    admin_app,
    pools_json,
    server_json,
)
from tenantproxy.sidecar.admin_desk import AdminDesk
from tenantproxy.sidecar.admin_gate import admin_gate
from tenantproxy.sidecar.admin_roles import check_may_change
from tenantproxy.sidecar.auth import AuthDesk
from tenantproxy.sidecar.controls import control_routes
from tenantproxy.sidecar.deployment_routes import DeploymentRoutes
from tenantproxy.sidecar.descriptors import ceiling, raise_limit
from tenantproxy.sidecar.http import public_app
from tenantproxy.sidecar.lag import LoopLag
from tenantproxy.sidecar.listener import HttpListener
from tenantproxy.sidecar.live import LiveRouter
from tenantproxy.sidecar.live_routes import live_routes
from tenantproxy.sidecar.page.feed import PageFeed
from tenantproxy.sidecar.page.recent import RecentEvents
from tenantproxy.sidecar.page.routes import page_routes
from tenantproxy.sidecar.page.rows import Look
from tenantproxy.sidecar.page.shares import FleetShares
from tenantproxy.sidecar.pg import PgPort, Reread
from tenantproxy.sidecar.pg.colleagues import Colleagues
from tenantproxy.sidecar.service import Controls, Peer, UpgradeFailed, check_free
from tenantproxy.sidecar.session_routes import session_routes
from tenantproxy.sidecar.sockets import Sockets
from tenantproxy.sidecar.sql.door import SQL, SqlDoor
from tenantproxy.sidecar.starting import any_of_registry, until_done
from tenantproxy.sidecar.tenant_routes import TenantRoutes
from tenantproxy.sidecar.tls import listener_tls

__all__ = ["DRAIN_TIMEOUT", "Sidecar", "run"]

DRAIN_TIMEOUT: Final = 30.0
_YIELD_LOOKS, _YIELD_PAUSE = 250, 0.02  # five seconds for connections to be given back before an upgrade
_COUNTED_SOURCES: Final = frozenset({"memory", "file"})  # all tenants are in our memory: counting them asks no server

T = TypeVar("T")
logger = logging.getLogger("tenantproxy")


class Sidecar:
    """A router and the listeners around it. `routes`: what the public listener serves besides its own.

    `reread` reads the configuration again, for RELOAD on the console.
    Owns `router` while it is open: opens it unless it is, and closes it.
    """

    def __init__(
        self,
        router: Router,
        *,
        routes: Iterable[web.AbstractRouteDef] = (),
        drain_timeout: float = DRAIN_TIMEOUT,
        reread: Reread | None = None,
        sockets: Sockets | None = None,
        colleagues: Colleagues | None = None,
        controls: Controls | None = None,
        seen: Seen = no_traces,
    ) -> None:
        """`sockets`: what it listens on instead of binding. `colleagues`: it is one of several workers.

        `controls`: what the admin listener can do to the process, besides reloading. `seen`: see `RouterCollector`.
        """
        self.router = router
        self._reread = reread
        self._colleagues = colleagues
        self._is_open = False
        self._has_part = False  # another process has a part of the budgets
        self._reloading = asyncio.Lock()
        self._draining = False  # True from the first moment of `start_draining` on, for good
        self._later: set[asyncio.Task[None]] = set()  # what could not be done when it opened
        self._lag = LoopLag()
        self._requests = HttpRequests()
        self._tenants: TenantCounts | None = None  # as of the last scrape
        self._stats: Stats | None = None  # likewise
        self._settings = settings = router.settings
        self._marks = marks(settings)  # of the secrets that it has read
        self.whole = settings
        """The configuration of the whole service, which a worker has a share of."""
        given = sockets or {}
        self.auth = AuthDesk(router)
        self.pg = PgPort.configured(
            router,
            self.auth,
            drain_timeout=drain_timeout,
            version=VERSION,
            sockets=given.get("pg", ()),
            colleagues=colleagues,
        )
        if self.pg is not None:
            self.pg.shown = lambda: self.whole
            self.pg.reloads = self.reload
        self.sql: SqlDoor | None = None
        if self.pg is not None and settings.sql.enabled:
            self.sql = SqlDoor(self.pg, settings, router.observer, self._requests)
        public = public_app(
            self._requests,
            [*self.auth.routes(), *([] if self.sql is None else self.sql.routes()), *routes],
            mismatch_text=lambda: self._settings.resolve.mismatch_text,
            own_limits=(SQL,),
        )
        self._public = _listener(
            settings.http.listen,
            public,
            protocol="http",
            max_clients=settings.http.max_clients,
            drain_timeout=drain_timeout,
            ceiling=ceiling(settings.servers.values()),
            max_per_address=settings.http.per_address,
            is_exempt=TrustedProxies.configured(settings.http).trusts,
            tls=listener_tls(settings.http, "http"),
            sockets=given.get("http", ()),
            shortcut=None if self.sql is None else self.sql.straight,
        )
        self._drain_timeout = drain_timeout
        self._desk = AdminDesk(router, lambda: check_may_change(self._settings.admin))
        self.recent = RecentEvents()
        router.observer.add(self.recent)
        self.shares = FleetShares(router.fleet_processes)
        self.page = PageFeed(self.look, self.recent)
        admin = admin_app(
            self._requests,
            readiness=self._ready_now,
            metrics=self.metrics,
            pools=self._pools,
            servers=self._servers,
            gate=admin_gate(lambda: self._settings.admin, router.observer),
            routes=[
                *control_routes(lambda: self._settings.admin, self.reload, controls),
                *live_routes(LiveRouter(router, self.pg)),  # before `{verb}`, of which it has one
                *TenantRoutes(self._desk).routes(),
                *DeploymentRoutes(self._desk).routes(),
                *session_routes(router),
                *page_routes(self.page),
            ],
        )
        admin.on_shutdown.append(lambda _: self.page.close())
        self._admin = _listener(
            settings.admin.listen,
            admin,
            protocol="admin",
            max_clients=ADMIN_CLIENTS,
            max_unknown=MOST_UNKNOWN,
            max_readers=MOST_READERS,
            drain_timeout=drain_timeout,
            tls=listener_tls(settings.admin, "admin"),
            sockets=given.get("admin", ()),
        )
        self.series = registry_of(
            RouterCollector(
                lambda: self._stats or router.stats(), version=VERSION, tenants=lambda: self._tenants, seen=seen
            ),
            ProcessCollector(self._process, self._requests),
            LoginCollector(lambda: router.login_counts, lambda: self.auth.reuses, lambda: router.audit),
            FleetCollector(lambda: router.fleet),
            PgCollector(lambda: None if self.pg is None else self.pg.pg_stats()),
        )

    @property
    def drain_delay(self) -> float:
        """Seconds for which it is to be not ready before it stops listening."""
        return self._settings.http.drain_delay

    @property
    def public_url(self) -> str | None:
        """Where the public listener is; None when the configuration has none."""
        return None if self._public is None else self._public.url

    @property
    def admin_url(self) -> str | None:
        """Where the admin listener is; None when the configuration has none."""
        return None if self._admin is None else self._admin.url

    @property
    def pg_address(self) -> str | None:
        """Host and port of the PostgreSQL port; None when the configuration has none."""
        if self.pg is None or not self._settings.pg.listen:
            return None
        host, port = self.pg.listener.address
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    async def open(self, *, is_successor: bool = False) -> None:
        """Start everything; when one part cannot start, what did is closed again and the error raised.

        While the main database is down and tenants are registered in it, this waits: alive, not ready. Cancellation
        closes what was started. `is_successor`: another process serves the same sockets until this one is ready, so the
        admin listener, which would say that it is not, comes last.
        """
        try:
            self._lag.open()
            if not is_successor:
                await _bind(self._admin, "admin.listen")
            if not self.router.is_open:
                await until_done(self.router.open, "the router")
            if not self._registry_loaded():
                self._do_later(until_done(self.router.registry.probe, "readiness", again=any_of_registry))
            await self._open_auth()
            if self._settings.login.outbox:
                self._do_later(LoginFollower(self.router, self.router.observer).run())
            if self.pg is not None:
                await _bind(self.pg, "pg.listen")
            await _bind(self._public, "http.listen")
            if is_successor:
                await _bind(self._admin, "admin.listen")
            self._is_open = True
        except BaseException:
            await self.close()
            raise

    async def _open_auth(self) -> None:
        """Where the main database is not needed for tenants, they are served before it can be asked for sessions."""
        try:
            await self.auth.open()
        except TenantProxyError as exc:
            if not is_passing(exc):
                raise
            opening = until_done(self.auth.open, "login")
            pg = self.router.settings.pg
            if self.pg is not None and (pg.jwt or pg.oauth_issuer):
                await opening  # the port's users log in with tokens
            else:
                self._do_later(opening)

    def _do_later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work, name="tenantproxy starting", context=Context())
        self._later.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._later.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a part of the service did not start: %s", error)

    async def take_clients(self, wanted: bool) -> None:
        """Leave what connects to the other processes of the same sockets, or accept again. Raises OSError.

        Requests of who is connected are served as before.
        """
        if self._public is not None:
            await self._public.take_clients(wanted)
        if self.pg is not None and self.pg.has_listener:
            await self.pg.listener.take_clients(wanted)

    def start_draining(self) -> None:
        """Be not ready from now on, and serve as before."""
        self._draining = True

    async def close(self) -> None:
        """Drain and stop; returns when the last connection is gone. Safe to call again."""
        self._draining = True
        later = tuple(self._later)
        for task in later:
            task.cancel()
        await asyncio.gather(*later, return_exceptions=True)
        async with asyncio.TaskGroup() as drained:
            if self._public is not None:
                drained.create_task(self._public.close())
            if self.pg is not None:
                drained.create_task(self.pg.drain())
        if self.sql is not None:
            await self.sql.close()
        if self.pg is not None:
            await self.pg.close()  # not before: requests of SQL have its backends to their end
        await self._desk.close(timeout=self._drain_timeout)
        await self.shares.close()
        await self.auth.close()
        await self.router.close()
        if self._admin is not None:
            await self._admin.close()
        await self._lag.close()

    # --- reload ------------------------------------------------------------------------------------------------------
    async def reload(self) -> Collection[str]:
        """Read the configuration again, and take over what has changed; returns the keys.

        Raises ConfigurationError, and nothing has changed then. Of a worker: all do, or none.
        """
        if self._colleagues is not None:
            return await self._colleagues.reload()
        if self._reread is None:
            raise NotSupported("this process has no configuration file to read again")
        async with self._reloading:
            if self._has_part:
                raise UpgradeFailed("an upgrade is under way", hint="try again when the process before it has ended")
            new = await asyncio.to_thread(self._reread)
            changed = changed_keys(self._settings, new)
            refuse(changed)
            budgets = {name: server.max_connections for name, server in new.servers.items()}
            former = self._marks
            self.prepare(new, whole=new, limits=budgets)()
            return told(sorted({*changed, *changed_secrets(former, self._marks)}))

    def prepare(self, new: Settings, *, whole: Settings, limits: Mapping[str, int]) -> Callable[[], None]:
        """Get ready to take over `new`, of which only what may change differs; what this returns does it.

        That cannot fail. Raises ConfigurationError. `whole`: of the whole service; `limits`: budgets, of new servers
        and of those that have another one now.
        """
        found = marks(new)
        new_row_keys = _of_row(found) != _of_row(self._marks)
        try:
            router = self.router.prepare(new, limits=limits, new_row_keys=new_row_keys)
        except ValueError as exc:
            raise ConfigurationError([Problem(key="tenants", problem=str(exc), fix="correct it")]) from exc
        desk = self.auth.prepare(new)
        port = None if self.pg is None else self.pg.prepare(new)
        sql = None if self.sql is None else self.sql.prepare(new)
        exempt = TrustedProxies.configured(new.http).trusts
        public, admin = listener_tls(new.http, "http"), listener_tls(new.admin, "admin")

        def commit() -> None:
            router()
            desk()
            if port is not None:
                port()
            if sql is not None:
                sql()
            if self._public is not None:
                http = new.http
                self._public.adopt(max_clients=http.max_clients, max_per_address=http.per_address, is_exempt=exempt)
                self._public.tls = public
            if self._admin is not None:
                self._admin.tls = admin
            self._settings, self.whole, self._marks = new, whole, found

        return commit

    # --- an upgrade --------------------------------------------------------------------------------------------------
    async def yield_budgets(self) -> Mapping[str, int]:
        """Let a successor have half of each server's budget, or what is free of it; how much that is.

        Raises UpgradeFailed when too much is in use, and nothing has changed.
        """
        async with self._reloading:  # one under way would undo it
            self._has_part = True
        budgets = {name: server.max_connections for name, server in self._settings.servers.items()}
        kept = {name: limit - limit // 2 for name, limit in budgets.items()}
        held = self.resize_budgets(kept)
        for _ in range(_YIELD_LOOKS):
            if all(held[name] <= kept[name] for name in kept):
                break
            await asyncio.sleep(_YIELD_PAUSE)
            held = self.resize_budgets(kept)
        free = {name: limit - held[name] for name, limit in budgets.items()}
        try:
            check_free(free, budgets)
        except TenantProxyError:
            self.restore_budgets()
            raise
        return free

    def restore_budgets(self) -> None:
        """Have all of them, as configured: no other process has a part."""
        self._has_part = False
        self.resize_budgets({name: server.max_connections for name, server in self._settings.servers.items()})

    def resize_budgets(self, limits: Mapping[str, int]) -> dict[str, int]:
        """Keep to `limits` connections, by server; how many it holds at most until it can be fewer."""
        self.router.resize_budgets(limits)
        if self.router.fleet is not None:
            return dict(limits)  # the fleet sees to the sum of all processes
        return {name: max(budget.limit, budget.in_use) for name, budget in self.router.budgets.items()}

    async def cancel(self, pid: int, secret: bytes) -> bool:
        """Cancel for a client of this process, whose request came to another; False: it has no such client."""
        return self.pg is not None and self.pg.has_listener and await self.pg.listener.cancel_here(pid, secret)

    def tell(self, event: Event) -> None:
        """See `service.Service`."""
        self.router.observer(event)

    def meet(self, peer: Peer | None) -> None:
        """`peer` is the process before or after this one, while both serve."""
        if self.pg is not None:
            self.pg.peer = peer

    async def __aenter__(self) -> Self:
        if not self._is_open:
            await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def readiness(self) -> Readiness:
        """What must hold before traffic may come. One server down does not count: the others' tenants are served."""
        is_open = self.router.is_open
        return {
            "router open": is_open,
            "registry loaded": is_open and self._registry_loaded(),
            "a server up": is_open and any(not budget.is_down for budget in self.router.budgets.values()),
            "listening": all(each is None or each.is_open for each in (self._public, self.pg)),
            "not draining": not self._draining,
        }

    def _registry_loaded(self) -> bool:
        registry = self.router.registry
        return registry.source in _COUNTED_SOURCES or registry.last_success is not None

    async def _ready_now(self) -> Readiness:
        return self.readiness()

    async def _pools(self) -> bytes:
        return await pools_json(await self.router.snapshot())

    async def _servers(self) -> list[dict[str, Any]]:
        return [server_json(server) for server in (await self.router.snapshot()).servers]

    async def look(self, *, processes: bool = True) -> Look:
        """What the page shows of this process; `processes`: and of all in its fleet."""
        counts, fleet = self.router.login_counts, self.router.fleet
        listeners = (each.stats() for each in (self._public, self.pg) if each is not None)
        return Look(
            stats=await self.router.snapshot(),
            fleet=fleet,
            processes=self.shares.latest() if processes and fleet is not None else (),
            own=() if fleet is None else (fleet.process,),
            logins={} if counts is None else {str(name): count for name, count in counts.results.items()},
            clients={each.protocol: (each.clients, each.limit) for each in listeners},
            paused=self.pg.view.paused() if self.pg is not None and self.pg.has_listener else (),
        )

    async def metrics(self) -> CollectorRegistry:
        """The series of this process, as of now."""
        self._tenants = self.router.registry.counts()
        self._stats = await self.router.scrape()
        return self.series

    def _process(self) -> ProcessStats:
        listeners = tuple(each.stats() for each in (self._public, self._admin, self.pg) if each is not None)
        return ProcessStats(listeners=listeners, draining=self._draining, lag_seconds=self._lag.worst)


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run `main` in a new event loop, with all the descriptors that there may be.

    The loop is that of the compiled data path, else uvloop's where there is one.
    """
    raise_limit()
    logger.info("data path: %s", data_path())
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(main)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    if why_not() is None:
        from tenantproxy._native.loop import NativeLoop

        return NativeLoop
    if sys.platform == "win32":
        return None
    import uvloop

    return uvloop.new_event_loop


def _of_row(found: Mapping[Change, bytes]) -> dict[Change, bytes]:
    return {key: mark for key, mark in found.items() if key[0] == "row"}


def _listener(listen: str, app: web.Application, **options: Any) -> HttpListener | None:
    if not listen:
        return None
    host, port = listen_address(listen)
    return HttpListener(app, host=host, port=port, **options)


async def _bind(listener: HttpListener | PgPort | None, key: str) -> None:
    if listener is None:
        return
    try:
        await listener.open()
    except OSError as exc:
        problem = Problem(key=key, problem=f"cannot be bound ({exc.strerror})", fix="choose a free address or port")
        raise ConfigurationError([problem]) from exc
