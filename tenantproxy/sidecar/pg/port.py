"""What belongs to the PostgreSQL port? Its users, its pools and its listener, opened and closed together."""

from __future__ import annotations

from typing import Self

from tenantproxy.config import is_loopback, listen_address
from tenantproxy.metrics.listeners import ListenerStats
from tenantproxy.router import Router
from tenantproxy.sidecar.auth import AuthDesk
from tenantproxy.sidecar.pg.lending import RawLending
from tenantproxy.sidecar.pg.listener import PgListener
from tenantproxy.sidecar.pg.users import Users, seed_of

__all__ = ["PgPort"]


class PgPort:
    """The port as `[pg]` says. Opened when router and login desk are, closed before them."""

    def __init__(self, router: Router, desk: AuthDesk, *, drain_timeout: float) -> None:
        self._router = router
        self._desk = desk
        self._drain_timeout = drain_timeout
        self._lending: RawLending | None = None  # from open to close
        self._listener: PgListener | None = None

    @classmethod
    def configured(cls, router: Router, desk: AuthDesk, *, drain_timeout: float) -> Self | None:
        """The port; None where nobody could use it."""
        pg = router.settings.pg
        return cls(router, desk, drain_timeout=drain_timeout) if pg.listen and (pg.users or pg.jwt) else None

    async def open(self) -> None:
        """Read the users, bind and accept. Raises OSError, ConfigurationError; nothing is left open then."""
        settings = self._router.settings
        pg = settings.pg
        host, port = listen_address(pg.listen)
        users = Users(
            pg.users,
            self._desk.tokens if pg.jwt else None,
            is_loopback(pg.listen),
            tenants=self._router.registry,
            seed=seed_of(settings),
        )
        self._lending = RawLending(self._router)
        await self._lending.open()
        self._listener = PgListener(
            host=host,
            port=port,
            max_clients=pg.max_clients,
            max_tenants=settings.metrics.max_tenants,
            drain_timeout=self._drain_timeout,
            lending=self._lending,
            users=users,
        )
        try:
            await self._listener.open()
        except BaseException:
            await self.close()
            raise

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

    def stats(self) -> ListenerStats:
        """The clients of this moment."""
        if self._listener is None:
            return ListenerStats(protocol="pg", clients=0, limit=self._router.settings.pg.max_clients)
        return self._listener.stats()
