"""What belongs to the PostgreSQL port? Its users, its pools and its listener, opened and closed together."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import partial
from typing import Any, Self

from tenantproxy.config import Settings, listen_address
from tenantproxy.config.changes import changed_keys, refuse, told
from tenantproxy.errors import NotSupported
from tenantproxy.metrics.listeners import ListenerStats
from tenantproxy.metrics.pg import PgStats
from tenantproxy.raw.lender import RawLender
from tenantproxy.router import Router
from tenantproxy.sidecar.auth import AuthDesk
from tenantproxy.sidecar.descriptors import ceiling
from tenantproxy.sidecar.pg.colleagues import Colleagues
from tenantproxy.sidecar.pg.console.console import Console
from tenantproxy.sidecar.pg.console.tables import Averages
from tenantproxy.sidecar.pg.context import ClientContext
from tenantproxy.sidecar.pg.lending import RawLending
from tenantproxy.sidecar.pg.listener import Elsewhere, PgListener
from tenantproxy.sidecar.pg.passwords import PasswordChecks
from tenantproxy.sidecar.pg.traffic import TrafficTable
from tenantproxy.sidecar.pg.users import Target, Users, seed_of
from tenantproxy.sidecar.pg.view import PortView
from tenantproxy.sidecar.tls import listener_tls
from tenantproxy.wire.oauth_bearer import Discovery

__all__ = ["PgPort", "Reread"]

Reread = Callable[[], Settings]
"""Reads the configuration from where it came from. Raises ConfigurationError."""


class PgPort:
    """The port as `[pg]` says. Opened when router and login desk are, closed before them."""

    def __init__(
        self,
        router: Router,
        desk: AuthDesk,
        *,
        drain_timeout: float,
        version: str,
        reread: Reread | None = None,
        sockets: Sequence[socket.socket] = (),
        colleagues: Colleagues | None = None,
    ) -> None:
        """`sockets`: what it listens on instead of binding. `colleagues`: this is one of several workers."""
        self._router = router
        self._settings = router.settings
        self._desk = desk
        self._drain_timeout = drain_timeout
        self._version = version
        self._reread = reread
        self._sockets = sockets
        self._colleagues = colleagues
        self._averages = Averages()
        self._lending: RawLending | None = None  # from open to close
        self._listener: PgListener | None = None
        self._users: Users | None = None
        self.passwords = PasswordChecks()  # its threads begin with the first password, and end with the port
        self._view: PortView | None = None
        self.shown: Callable[[], Settings] = lambda: self._settings
        """What the console shows as the configuration: of a worker, the whole service's."""
        self.peer: Elsewhere | None = None
        """The process before or after this one, while an upgrade has both serve: it may have the client of a cancel."""
        self.reloads: Callable[[], Awaitable[Collection[str]]] = self.reload
        """What RELOAD does; the composition root's, once it has set it."""

    @classmethod
    def configured(cls, router: Router, desk: AuthDesk, **options: Any) -> Self | None:
        """The port; None where no user could use it. It has no address of its own where only `[sql]` leads to it."""
        pg, sql = router.settings.pg, router.settings.sql
        if not ((pg.listen or sql.enabled) and (pg.users or pg.jwt or pg.oauth_issuer)):
            return None
        return cls(router, desk, **options)

    async def open(self) -> None:
        """Read the users, bind and accept. Raises OSError, ConfigurationError; nothing is left open then."""
        settings = self._settings
        pg = settings.pg
        host, port = listen_address(pg.listen) if pg.listen else ("", 0)
        self._users = users = Users(
            pg.users,
            self._desk.tokens if pg.jwt or pg.oauth_issuer else None,
            jwt=pg.jwt,
            discovery=Discovery(pg.oauth_issuer, pg.oauth_scope) if pg.oauth_issuer else None,
            tenants=self._router.registry,
            seed=seed_of(settings),
            context=ClientContext.configured(settings),
        )
        self._lending = RawLending(self._router)
        await self._lending.open()
        self._listener = PgListener(
            host=host,
            port=port,
            pg=pg,
            traffic=TrafficTable(self._router.counters.label_of, self._router.counters.is_named),
            drain_timeout=self._drain_timeout,
            lending=self._lending,
            users=users,
            passwords=self.passwords,
            tls=listener_tls(pg, "pg"),
            ceiling=ceiling(settings.servers.values()),
            observer=self._router.observer,
            sockets=self._sockets,
            worker=0 if self._colleagues is None else self._colleagues.number,
            elsewhere=self._cancel_elsewhere,
        )
        self._view = view = PortView(
            self._router,
            self._lending,
            self._listener,
            settings=self._shown,
            version=self._version,
            reload=self._reload,
            colleagues=self._colleagues,
        )
        self._listener.new_console = partial(self._new_console, view)
        self._router.holders.append(self._listener)
        try:
            await self._listener.open()
        except BaseException:
            await self.close()
            raise

    def _new_console(self, view: PortView, target: Target, address: str) -> Console:
        return Console(
            view,
            user=target.user,
            may_change=target.may_change,
            averages=self._averages,
            address=address,
            observer=self._router.observer,
        )

    def _shown(self) -> Settings:
        return self.shown()

    async def _reload(self) -> Collection[str]:
        return await self.reloads()

    async def _cancel_elsewhere(self, pid: int, secret: bytes) -> object:
        if self._colleagues is not None:
            return await self._colleagues.cancel(pid, secret)
        return None if self.peer is None else await self.peer(pid, secret)

    async def reload(self) -> Collection[str]:
        """Take over what changed in `[pg]`, for a port without a sidecar around it; returns the keys.

        Raises ConfigurationError, and nothing has changed. Who is connected stays, with what it was let in for.
        """
        if self._reread is None:
            raise NotSupported("this process has no configuration file to read again")
        new = await asyncio.to_thread(self._reread)
        changed = changed_keys(self._settings, new)
        refuse(changed)
        self.prepare(new)()
        return told(changed)

    def prepare(self, new: Settings) -> Callable[[], None]:
        """Get ready to take over what may change of `[pg]`: what this returns does it, and cannot fail.

        Raises ConfigurationError.
        """
        users = None if self._users is None else self._users.prepare(new.pg.users)
        tls = listener_tls(new.pg, "pg")

        def commit() -> None:
            self._settings = new
            if users is not None and self._users is not None:
                users()
                self._users.adopt(self._desk.tokens if new.pg.jwt or new.pg.oauth_issuer else None)
            if self._lending is not None:
                self._lending.adopt(new)
            if self._listener is not None:
                self._listener.reload(new.pg, tls)
                self._listener.forget_greetings()

        return commit

    async def drain(self) -> None:
        """Let the clients end. Its backends stay: guests may have some."""
        if self._listener is not None:
            await self._listener.close()

    async def close(self) -> None:
        """Drain and stop. Safe to call again. Clients are shown, cancelled and killed until they are gone."""
        await self.drain()
        if self._listener is not None:
            self._router.holders.remove(self._listener)
        self._listener = None
        lending, self._lending = self._lending, None
        if lending is not None:
            await lending.close()
        self.passwords.close()

    @property
    def listener(self) -> PgListener:
        """The listener. RuntimeError while it is not open."""
        if self._listener is None:
            raise RuntimeError("the PostgreSQL port is not open")
        return self._listener

    @property
    def has_backends(self) -> bool:
        """Whether guests may have some: from open to close, while it drains too."""
        return self._listener is not None and self._lending is not None

    @property
    def users(self) -> Users:
        """Who may come in. RuntimeError while it is not open."""
        if self._users is None:
            raise RuntimeError("the PostgreSQL port is not open")
        return self._users

    @property
    def lender(self) -> RawLender:
        """Lends its backends. RuntimeError while it is not open."""
        if self._lending is None:
            raise RuntimeError("the PostgreSQL port is not open")
        return self._lending.lender

    @property
    def view(self) -> PortView:
        """What the console sees and does here. RuntimeError while it is not open."""
        if self._view is None:
            raise RuntimeError("the PostgreSQL port is not open")
        return self._view

    @property
    def is_open(self) -> bool:
        """Whether it accepts."""
        return self._listener is not None and self._listener.is_open

    @property
    def has_listener(self) -> bool:
        """Whether it may have clients: until the last of them is gone, also when it accepts no more."""
        return self._listener is not None

    def pg_stats(self) -> PgStats | None:
        """What only this protocol has; None while it is not open."""
        return None if self._listener is None else self._listener.pg_stats()

    def stats(self) -> ListenerStats:
        """The clients of this moment."""
        if self._listener is None:
            return ListenerStats(protocol="pg", clients=0, limit=self._settings.pg.max_clients)
        return self._listener.stats()
