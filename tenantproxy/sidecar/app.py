"""What is in the process, in which order does it start and end? The composition root: only here every class is known.

Start: admin listener (alive, not ready), router, public listener (ready).
End: not ready, public listener drained, router closed, admin listener closed.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextvars import Context
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from aiohttp import web
from prometheus_client import CollectorRegistry

from tenantproxy._native import data_path, why_not
from tenantproxy.auth.caller import TrustedProxies
from tenantproxy.config import listen_address
from tenantproxy.config.version import VERSION
from tenantproxy.errors import ConfigurationError, Problem, TenantProxyError, is_passing
from tenantproxy.metrics.fleet import FleetCollector
from tenantproxy.metrics.listeners import HttpRequests, ProcessCollector, ProcessStats
from tenantproxy.metrics.logins import LoginCollector
from tenantproxy.metrics.pg import PgCollector
from tenantproxy.metrics.prometheus import RouterCollector, TenantCounts, registry_of
from tenantproxy.pools.base import Stats
from tenantproxy.router import Router
from tenantproxy.sidecar.admin import Readiness, admin_app
from tenantproxy.sidecar.admin_gate import admin_gate
from tenantproxy.sidecar.auth import AuthDesk
from tenantproxy.sidecar.descriptors import ceiling, raise_limit
from tenantproxy.sidecar.http import public_app
from tenantproxy.sidecar.lag import LoopLag
from tenantproxy.sidecar.listener import HttpListener
from tenantproxy.sidecar.pg import PgPort, Reread
from tenantproxy.sidecar.starting import any_of_registry, until_done
from tenantproxy.sidecar.tls import listener_tls

__all__ = ["DRAIN_TIMEOUT", "Sidecar", "run", "serve_until_signalled"]

DRAIN_TIMEOUT: Final = 30.0
_ADMIN_CLIENTS: Final = 100
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
    ) -> None:
        self.router = router
        self._is_open = False
        self._draining = False  # True from the first moment of `close` on, for good
        self._later: set[asyncio.Task[None]] = set()  # what could not be done when it opened
        self._lag = LoopLag()
        self._requests = HttpRequests()
        self._tenants: TenantCounts | None = None  # as of the last scrape
        self._stats: Stats | None = None  # likewise
        settings = router.settings
        self.auth = AuthDesk(router)
        self.pg = PgPort.configured(router, self.auth, drain_timeout=drain_timeout, version=VERSION, reread=reread)
        public = public_app(
            self._requests, [*self.auth.routes(), *routes], mismatch_text=settings.resolve.mismatch_text
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
        )
        admin = admin_app(
            self._requests,
            readiness=self.readiness,
            metrics=self._scraped,
            stats=router.snapshot,
            gate=admin_gate(settings.admin),
        )
        self._admin = _listener(
            settings.admin.listen, admin, protocol="admin", max_clients=_ADMIN_CLIENTS, drain_timeout=drain_timeout,
            tls=listener_tls(settings.admin, "admin"),
        )  # fmt: skip
        if self.pg is not None:
            self.pg.read_others = self._read_certificates
        self._series = registry_of(
            RouterCollector(lambda: self._stats or router.stats(), version=VERSION, tenants=lambda: self._tenants),
            ProcessCollector(self._process, self._requests),
            LoginCollector(lambda: router.login_counts, lambda: self.auth.reuses, lambda: router.audit),
            FleetCollector(lambda: router.fleet),
            PgCollector(lambda: None if self.pg is None else self.pg.pg_stats()),
        )

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
        if self.pg is None:
            return None
        host, port = self.pg.listener.address
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    async def open(self) -> None:
        """Start everything; when one part cannot start, what did is closed again and the error raised.

        While the main database is down and tenants are registered in it, this waits: alive, not ready. Cancellation
        closes what was started.
        """
        try:
            self._lag.open()
            await _bind(self._admin, "admin.listen")
            if not self.router.is_open:
                await until_done(self.router.open, "the router")
            if not self._registry_loaded():
                self._do_later(until_done(self.router.registry.probe, "readiness", again=any_of_registry))
            await self._open_auth()
            if self.pg is not None:
                await _bind(self.pg, "pg.listen")
            await _bind(self._public, "http.listen")
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

    async def close(self) -> None:
        """Drain and stop; returns when the last connection is gone. Safe to call again."""
        self._draining = True
        later = tuple(self._later)
        for task in later:
            task.cancel()
        await asyncio.gather(*later, return_exceptions=True)
        async with asyncio.TaskGroup() as drained:
            for listener in (self._public, self.pg):
                if listener is not None:
                    drained.create_task(listener.close())
        await self.auth.close()
        await self.router.close()
        if self._admin is not None:
            await self._admin.close()
        await self._lag.close()

    async def reload(self) -> None:
        """Read users and certificates again. Raises ConfigurationError, and nothing has changed then."""
        if self.pg is not None:
            await self.pg.reload()
        else:
            take_over = await asyncio.to_thread(self._read_certificates)
            take_over()

    def _read_certificates(self) -> Callable[[], None]:
        """Those of the HTTP listeners; what is returned lets them be shown. Raises ConfigurationError."""
        settings = self.router.settings
        public, admin = listener_tls(settings.http, "http"), listener_tls(settings.admin, "admin")

        def take_over() -> None:
            for listener, tls in ((self._public, public), (self._admin, admin)):
                if listener is not None:
                    listener.tls = tls

        return take_over

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

    async def _scraped(self) -> CollectorRegistry:
        self._tenants = self.router.registry.counts()
        self._stats = await self.router.scrape()
        return self._series

    def _process(self) -> ProcessStats:
        listeners = tuple(each.stats() for each in (self._public, self._admin, self.pg) if each is not None)
        return ProcessStats(listeners=listeners, draining=self._draining, lag_seconds=self._lag.worst)


async def serve_until_signalled(sidecar: Sidecar, ready: Callable[[Sidecar], Awaitable[None] | None]) -> None:
    """Open `sidecar`, call `ready`, serve until SIGTERM or SIGINT, drain. A second signal ends the process at once.

    SIGHUP reads the configuration again.
    """
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def signalled(name: str) -> None:
        logger.info("%s: draining", name)
        for each in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(each)
            signal.signal(each, signal.SIG_DFL)
        stop.set()

    reloads: set[asyncio.Task[None]] = set()

    async def reload() -> None:
        try:
            await sidecar.reload()
        except TenantProxyError as exc:
            logger.error("SIGHUP: nothing was changed: %s", exc)
        else:
            logger.info("SIGHUP: read the configuration again")

    def hung_up() -> None:
        task = loop.create_task(reload(), name="tenantproxy reload")
        reloads.add(task)
        task.add_done_callback(reloads.discard)

    for each in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(each, signalled, each.name)
    if not await _opens(sidecar, stop):
        return
    # What is there now stays: a full collection need not look through it, and hold the event loop, each time.
    gc.collect()
    gc.freeze()
    async with sidecar:
        loop.add_signal_handler(signal.SIGHUP, hung_up)
        if (invited := ready(sidecar)) is not None:
            await invited
        await stop.wait()


async def _opens(sidecar: Sidecar, stop: asyncio.Event) -> bool:
    """Open `sidecar`, however long its main database is down; False: stopped meanwhile, and closed."""
    opening = asyncio.ensure_future(sidecar.open())
    stopping = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait([opening, stopping], return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
        if not opening.done():
            opening.cancel()
            await asyncio.wait([opening])
    if opening.cancelled():
        return False
    opening.result()
    return True


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
