"""What belongs to the PostgreSQL port? Its users, its pools and its listener, opened and closed together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Self

from tenantproxy.config import RELOADED, Settings, listen_address
from tenantproxy.errors import ConfigurationError, NotSupported, Problem
from tenantproxy.metrics.listeners import ListenerStats
from tenantproxy.metrics.pg import PgStats
from tenantproxy.router import Router
from tenantproxy.sidecar.auth import AuthDesk
from tenantproxy.sidecar.descriptors import ceiling
from tenantproxy.sidecar.pg.console.console import Console
from tenantproxy.sidecar.pg.console.tables import Averages
from tenantproxy.sidecar.pg.lending import RawLending
from tenantproxy.sidecar.pg.listener import PgListener
from tenantproxy.sidecar.pg.users import Users, seed_of
from tenantproxy.sidecar.pg.view import PortView
from tenantproxy.sidecar.tls import listener_tls
from tenantproxy.wire.oauth_bearer import Discovery

__all__ = ["PgPort", "Reread"]

Reread = Callable[[], Settings]
"""Reads the configuration from where it came from. Raises ConfigurationError."""


class PgPort:
    """The port as `[pg]` says. Opened when router and login desk are, closed before them."""

    def __init__(
        self, router: Router, desk: AuthDesk, *, drain_timeout: float, version: str, reread: Reread | None = None
    ) -> None:
        self._router = router
        self._settings = router.settings
        self._desk = desk
        self._drain_timeout = drain_timeout
        self._version = version
        self._reread = reread
        self._averages = Averages()
        self._lending: RawLending | None = None  # from open to close
        self._listener: PgListener | None = None
        self._users: Users | None = None
        self.read_others: Callable[[], Callable[[], None]] = _nothing  # certificates of others, for `reload`

    @classmethod
    def configured(
        cls, router: Router, desk: AuthDesk, *, drain_timeout: float, version: str, reread: Reread | None = None
    ) -> Self | None:
        """The port; None where no user could use it. `reread` reads the configuration again, for RELOAD."""
        pg = router.settings.pg
        if not (pg.listen and (pg.users or pg.jwt or pg.oauth_issuer)):
            return None
        return cls(router, desk, drain_timeout=drain_timeout, version=version, reread=reread)

    async def open(self) -> None:
        """Read the users, bind and accept. Raises OSError, ConfigurationError; nothing is left open then."""
        settings = self._settings
        pg = settings.pg
        host, port = listen_address(pg.listen)
        self._users = users = Users(
            pg.users,
            self._desk.tokens if pg.jwt or pg.oauth_issuer else None,
            jwt=pg.jwt,
            discovery=Discovery(pg.oauth_issuer, pg.oauth_scope) if pg.oauth_issuer else None,
            tenants=self._router.registry,
            seed=seed_of(settings),
        )
        self._lending = RawLending(self._router)
        await self._lending.open()
        self._listener = PgListener(
            host=host,
            port=port,
            pg=pg,
            label_of=self._router.counters.label_of,
            drain_timeout=self._drain_timeout,
            lending=self._lending,
            users=users,
            tls=listener_tls(pg, "pg"),
            ceiling=ceiling(settings.servers.values()),
            observer=self._router.observer,
        )
        view = PortView(
            self._router,
            self._lending,
            self._listener,
            settings=lambda: self._settings,
            version=self._version,
            reload=self.reload,
        )
        self._listener.new_console = lambda target: Console(
            view, user=target.user, may_change=target.may_change, averages=self._averages
        )
        try:
            await self._listener.open()
        except BaseException:
            await self.close()
            raise

    async def reload(self) -> None:
        """Take over the users, limits and certificates of the configuration and its files, as they are now.

        Raises ConfigurationError, and nothing has changed. Who is connected stays, with what it was let in for.
        """
        if self._reread is None or self._users is None:
            raise NotSupported("this process has no configuration file to read again")
        new = await asyncio.to_thread(self._reread)
        old = self._settings
        fixed = [name for name in type(new).model_fields if name != "pg" and getattr(new, name) != getattr(old, name)]
        kept = {name: getattr(old.pg, name) for name in RELOADED}
        fixed += ["pg"] if new.pg.model_copy(update=kept) != old.pg else []
        if fixed:
            raise ConfigurationError(
                Problem(key=name, problem="has changed, and cannot while it runs", fix="restart, or change it back")
                for name in fixed
            )
        tls = await asyncio.to_thread(listener_tls, new.pg, "pg")
        take_over_others = await asyncio.to_thread(self.read_others)
        self._users.reload(new.pg.users)
        take_over_others()
        self._settings = old.model_copy(update={"pg": new.pg})
        if self._listener is not None:
            self._listener.reload(new.pg, tls)
            self._listener.forget_greetings()

    async def close(self) -> None:
        """Drain and stop. Safe to call again."""
        listener, self._listener = self._listener, None
        if listener is not None:
            await listener.close()
        lending, self._lending = self._lending, None
        if lending is not None:
            await lending.close()

    @property
    def listener(self) -> PgListener:
        """The listener. RuntimeError while it is not open."""
        if self._listener is None:
            raise RuntimeError("the PostgreSQL port is not open")
        return self._listener

    @property
    def is_open(self) -> bool:
        """Whether it accepts."""
        return self._listener is not None and self._listener.is_open

    def pg_stats(self) -> PgStats | None:
        """What only this protocol has; None while it is not open."""
        return None if self._listener is None else self._listener.pg_stats()

    def stats(self) -> ListenerStats:
        """The clients of this moment."""
        if self._listener is None:
            return ListenerStats(protocol="pg", clients=0, limit=self._settings.pg.max_clients)
        return self._listener.stats()


def _nothing() -> Callable[[], None]:
    return lambda: None
