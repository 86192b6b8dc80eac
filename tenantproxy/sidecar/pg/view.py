"""What does the console see and do? Reads listener, pools and router at each question; keeps nothing."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from time import monotonic
from typing import Literal

from tenantproxy.config import Settings
from tenantproxy.metrics.pg import LimitUsage
from tenantproxy.model import TenantId
from tenantproxy.pools.base import Stats
from tenantproxy.raw.backend import RawBackend
from tenantproxy.router import Router
from tenantproxy.sidecar.pg.console.view import ClientRow, Counts, ServerRow
from tenantproxy.sidecar.pg.encryption import encrypted_by
from tenantproxy.sidecar.pg.lending import RawLending
from tenantproxy.sidecar.pg.listener import Client, PgListener

__all__ = ["PortView"]


class PortView:
    """See `console_view.ConsoleView`."""

    def __init__(
        self,
        router: Router,
        lending: RawLending,
        listener: PgListener,
        *,
        settings: Callable[[], Settings],
        version: str,
        reload: Callable[[], Awaitable[None]],
    ) -> None:
        self._router = router
        self._lending = lending
        self._listener = listener
        self._settings = settings
        self._reload = reload
        self.version = version

    @property
    def settings(self) -> Settings:
        """Those in force."""
        return self._settings()

    @property
    def data_path(self) -> str:
        """See ConsoleView."""
        return self._listener.data_path

    def stats(self) -> Stats:
        """The router's."""
        return self._router.stats()

    def clients(self) -> Iterator[ClientRow]:
        """All clients of the port."""
        now = monotonic()
        for client in self._listener.clients():
            yield _client_row(client, now)

    def servers(self) -> Iterator[ServerRow]:
        """All backends of the port's pools."""
        holders = {
            client.relay.backend: client.pid
            for client in self._listener.clients()
            if client.relay is not None and client.relay.backend is not None
        }
        for backend in self._lending.backends():
            yield _server_row(backend, holders.get(backend), self._router.settings)

    def counts(self) -> Mapping[str, Counts]:
        """By tenant."""
        return {
            name: Counts(
                queries=traffic.queries,
                transactions=traffic.transactions,
                leases=traffic.leases,
                logins=traffic.logins,
                received=traffic.received,
                sent=traffic.sent,
                query_seconds=traffic.query_seconds,
                transaction_seconds=traffic.transaction_seconds,
                wait_seconds=traffic.wait_seconds,
            )
            for name, traffic in self._listener.traffic.items()
        }

    def limits(self) -> Sequence[LimitUsage]:
        """Of `[pg]`."""
        return self._listener.limits()

    @property
    def unauthenticated(self) -> int:
        """Connections that have not logged in."""
        return self._listener.unauthenticated

    def paused(self) -> Collection[str]:
        """The tenants that are paused here."""
        return self._listener.paused()

    async def pause(self, tenant: TenantId) -> None:
        """See ConsoleView. Raises TenantNotFound."""
        await self._router.registry.get(tenant)
        await self._listener.pause(tenant)

    async def resume(self, tenant: TenantId) -> None:
        """See ConsoleView. Raises TenantNotFound."""
        if not self._listener.resume(tenant):
            await self._router.registry.get(tenant)

    async def kill(self, tenant: TenantId) -> None:
        """See ConsoleView. Raises TenantNotFound."""
        await self._router.registry.get(tenant)
        self._listener.kill(tenant)

    async def reload(self) -> None:
        """See ConsoleView."""
        await self._reload()


def _client_row(client: Client, now: float) -> ClientRow:
    relay = client.relay
    state: Literal["active", "idle", "waiting"] = "idle"
    waiting = 0.0
    if relay is not None and relay.is_waiting:
        state, waiting = "waiting", now - relay.waiting_since
    elif relay is not None and relay.backend is not None:
        state = "active"
    backend = relay.backend if relay is not None else None
    settings = dict(relay.kept.now) if relay is not None else {}
    asked = relay.asked_at if relay is not None else 0.0
    return ClientRow(
        id=client.pid,
        user=client.target.user,
        tenant=client.target.tenant,
        state=state,
        address=client.address[0],
        port=client.address[1],
        local_address=client.local_address[0],
        local_port=client.local_address[1],
        connected_at=client.connected_at,
        requested_at=time.time() - (now - asked) if asked else None,
        waiting_seconds=waiting,
        server_id=id(backend) & 0x7FFF_FFFF if backend is not None else None,
        pool=backend.pool.label if backend is not None else None,
        pool_mode=client.target.pool_mode,
        application_name=settings.get(b"application_name", b"").decode("utf-8", "replace"),
        prepared_statements=relay.prepared_statements if relay is not None else 0,
        is_pinned=relay is not None and relay.is_pinned,
        tls=client.tls,
    )


def _server_row(backend: RawBackend, holder: int | None, settings: Settings) -> ServerRow:
    key = backend.pool.key
    state: Literal["active", "idle", "tested", "active_cancel"] = "idle"
    if holder is not None:
        state = "active_cancel" if backend.cancels else "active"
    elif not backend.is_resting:
        state = "tested"
    remote, local = _address(backend, "peername"), _address(backend, "sockname")
    session = dict(backend.session)
    return ServerRow(
        id=id(backend) & 0x7FFF_FFFF,
        server=key.server,
        user=key.user or settings.servers[key.server].user,
        database=key.database,
        tenant=backend.bound if key.shared else backend.pool.label,
        state=state,
        address=remote[0],
        port=remote[1],
        local_address=local[0],
        local_port=local[1],
        connected_at=backend.connected_at,
        pid=backend.pid,
        client_id=holder,
        application_name=session.get(b"application_name", b"").decode("utf-8", "replace"),
        prepared_statements=len(backend.prepared),
        tls=encrypted_by(backend.transport),
    )


def _address(backend: RawBackend, which: str) -> tuple[str, int]:
    """Of a unix socket: its path, and no port."""
    known = backend.transport.get_extra_info(which)
    return (known[0], known[1]) if isinstance(known, tuple) else (str(known or ""), 0)
