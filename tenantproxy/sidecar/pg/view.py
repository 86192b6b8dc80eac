"""What does the console see and do? Reads listener, pools and router at each question; keeps nothing."""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from time import monotonic
from typing import Literal

from tenantproxy.config import Settings
from tenantproxy.errors import PoolClosed
from tenantproxy.metrics.pg import LimitUsage
from tenantproxy.model import TenantId
from tenantproxy.pools.base import Stats
from tenantproxy.printable import line_text
from tenantproxy.raw.backend import RawBackend
from tenantproxy.router import Router
from tenantproxy.sidecar.acted_on import Thing, client_thing
from tenantproxy.sidecar.pg.colleagues import Colleagues, PortSnapshot
from tenantproxy.sidecar.pg.console.view import ClientRow, ConsoleView, Counts, ServerRow, WorkerRow
from tenantproxy.sidecar.pg.encryption import encrypted_by
from tenantproxy.sidecar.pg.gathered import GatheredView
from tenantproxy.sidecar.pg.lending import RawLending
from tenantproxy.sidecar.pg.listener import Client, PgListener

__all__ = ["PortView"]


_STARTED = time.time()


class PortView:
    """See `console.view.ConsoleView`. `colleagues`: the workers, where this process is one of several."""

    def __init__(
        self,
        router: Router,
        lending: RawLending,
        listener: PgListener,
        *,
        settings: Callable[[], Settings],
        version: str,
        reload: Callable[[], Awaitable[Collection[str]]],
        colleagues: Colleagues | None = None,
    ) -> None:
        self._router = router
        self._lending = lending
        self._listener = listener
        self._settings = settings
        self._reload = reload
        self._colleagues = colleagues
        self._worker = 0 if colleagues is None else colleagues.number
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
            yield _client_row(client, now, self._worker)

    def clients_of(self, tenant: TenantId) -> Iterator[ClientRow]:
        """Those of one tenant."""
        now = monotonic()
        return (_client_row(client, now, self._worker) for client in tuple(self._listener.clients(tenant)))

    def things_of(self, tenant: TenantId) -> list[Thing]:
        """Its clients here, and its requests of SQL over HTTP, as the audit log names them."""
        guests = self._listener.guests.of(tenant)
        clients = [client_thing(row) for row in self.clients_of(tenant)]
        return clients + [{"request": each.request_id, "worker": self._worker} for each in guests]

    def end_client(self, pid: int) -> tuple[str, Thing] | None:
        """End who was told this process id: its tenant ("": on the console), and who it was; None: no one was."""
        client = self._listener.client(pid)
        if client is None:
            return None
        row = _client_row(client, monotonic(), self._worker)
        client.kill(PoolClosed("terminating connection due to administrator command"))
        return row.tenant or "", client_thing(row)

    def servers(self) -> Iterator[ServerRow]:
        """All backends of the port's pools."""
        holders = {
            client.relay.backend: client.pid
            for client in self._listener.clients()
            if client.relay is not None and client.relay.backend is not None
        }
        for backend in self._lending.backends():
            yield _server_row(backend, holders.get(backend), self._router.settings, self._worker)

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

    def workers(self) -> Iterable[WorkerRow]:
        """This process."""
        row = WorkerRow(number=self._worker, pid=os.getpid(), state="ready", started_at=_STARTED, version=self.version)
        return (row,)

    async def gathered(self) -> ConsoleView:
        """See ConsoleView."""
        return self if self._colleagues is None else GatheredView(self, await self._colleagues.everything())

    def snapshot(self) -> PortSnapshot:
        """What the console of another worker wants to know."""
        return PortSnapshot(
            stats=self.stats(),
            clients=list(self.clients()),
            servers=list(self.servers()),
            counts=dict(self.counts()),
            limits=self.limits(),
            unauthenticated=self.unauthenticated,
            paused=sorted(self.paused()),
        )

    async def things(self, tenant: TenantId) -> list[Thing]:
        """See ConsoleView."""
        if self._colleagues is None:
            return self.things_of(tenant)
        return await self._colleagues.command("things", tenant)

    async def pause(self, tenant: TenantId) -> None:
        """See ConsoleView. Raises TenantNotFound."""
        await self._router.registry.get(tenant)
        if self._colleagues is None:
            await self.pause_here(tenant)
        else:
            await self._colleagues.command("pause", tenant)

    async def resume(self, tenant: TenantId) -> None:
        """See ConsoleView. Raises TenantNotFound."""
        if tenant not in self.paused():
            await self._router.registry.get(tenant)
        if self._colleagues is None:
            await self.resume_here(tenant)
        else:
            await self._colleagues.command("resume", tenant)

    async def kill(self, tenant: TenantId) -> list[Thing]:
        """See ConsoleView. Raises TenantNotFound."""
        await self._router.registry.get(tenant)
        if self._colleagues is None:
            return await self.kill_here(tenant)
        return await self._colleagues.command("kill", tenant)

    async def pause_here(self, tenant: TenantId) -> None:
        """`pause`, in this process."""
        await self._listener.pause(tenant)

    async def resume_here(self, tenant: TenantId) -> None:
        """`resume`, in this process."""
        self._listener.resume(tenant)

    async def kill_here(self, tenant: TenantId) -> list[Thing]:
        """`kill`, in this process; whom it ended."""
        ended = self.things_of(tenant)
        self._listener.kill(tenant)
        return ended

    def drain_here(self, tenant: TenantId) -> list[Thing]:
        """Let the tenant's clients of this process go, each when nothing of it is under way; which they are."""
        clients = [client_thing(row) for row in self.clients_of(tenant)]
        self._listener.drain_clients(tenant)
        return clients

    async def reload(self) -> Collection[str]:
        """See ConsoleView."""
        return await (self._reload() if self._colleagues is None else self._colleagues.reload())


def _client_row(client: Client, now: float, worker: int) -> ClientRow:
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
        backend=f"{backend.pool.key.server}/{backend.pid}" if backend is not None else "",
        pool_mode=client.target.pool_mode,
        application_name=line_text(settings.get(b"application_name", b"").decode("utf-8", "replace")),
        prepared_statements=relay.prepared_statements if relay is not None else 0,
        is_pinned=relay is not None and relay.is_pinned,
        tls=client.tls,
        worker=worker,
    )


def _server_row(backend: RawBackend, holder: int | None, settings: Settings, worker: int) -> ServerRow:
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
        application_name=line_text(session.get(b"application_name", b"").decode("utf-8", "replace")),
        prepared_statements=len(backend.prepared),
        tls=encrypted_by(backend.transport),
        worker=worker,
    )


def _address(backend: RawBackend, which: str) -> tuple[str, int]:
    """Of a unix socket: its path, and no port."""
    known = backend.transport.get_extra_info(which)
    return (known[0], known[1]) if isinstance(known, tuple) else (str(known or ""), 0)
