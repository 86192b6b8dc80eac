"""Who is connected to the PostgreSQL port? The listener: it admits clients, knows them by their keys, and drains.

State: startup connections and clients, tenants that the operator paused, one count of traffic per tenant. Only the
composition root opens and closes it.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from contextvars import Context
from dataclasses import dataclass, replace
from time import monotonic
from typing import Final
from weakref import WeakKeyDictionary, WeakValueDictionary

from tenantproxy._native import data_path, why_not
from tenantproxy.auth.trust import Trust
from tenantproxy.config import Pg
from tenantproxy.connect.keepalive import keep_alive
from tenantproxy.errors import (
    AuthError,
    ConnectFailed,
    InvalidSetting,
    LeaseExpired,
    PoolClosed,
    TenantError,
    TenantNotFound,
    TenantPaused,
    TenantProxyError,
    TenantSuspended,
    TooManyAttempts,
    TooManyClients,
)
from tenantproxy.events import Observer, ignore
from tenantproxy.metrics.listeners import ListenerStats
from tenantproxy.metrics.pg import LOGIN_RESULTS, LimitUsage, LoginResult, PgStats
from tenantproxy.model import Route, TenantId, TenantStatus
from tenantproxy.pools.pool import Pool
from tenantproxy.raw.backend import RawBackend
from tenantproxy.routes import not_served
from tenantproxy.sidecar.descriptors import is_scarce
from tenantproxy.sidecar.free_memory import trim
from tenantproxy.sidecar.pg.admission import Admission, ClientPlace
from tenantproxy.sidecar.pg.carried import CarriedRelay, relay_on
from tenantproxy.sidecar.pg.console.client import ConsoleClient
from tenantproxy.sidecar.pg.console.console import Console
from tenantproxy.sidecar.pg.context import placed
from tenantproxy.sidecar.pg.database_list import DatabaseList
from tenantproxy.sidecar.pg.encryption import Channel, Encryption, check_encryption, encrypted_by
from tenantproxy.sidecar.pg.greetings import Greetings, greeting
from tenantproxy.sidecar.pg.guests import Guest, Guests
from tenantproxy.sidecar.pg.keys import new_pid
from tenantproxy.sidecar.pg.lanes import Lanes, lanes_on
from tenantproxy.sidecar.pg.login import StartupConnection
from tenantproxy.sidecar.pg.maintenance import MaintenanceTransport
from tenantproxy.sidecar.pg.passwords import PasswordChecks
from tenantproxy.sidecar.pg.pinning import Pinning
from tenantproxy.sidecar.pg.refusals import LoginRefusals
from tenantproxy.sidecar.pg.relay import Relay
from tenantproxy.sidecar.pg.sources import Lending, SourceParts, TenantSource
from tenantproxy.sidecar.pg.traffic import Traffic, TrafficTable
from tenantproxy.sidecar.pg.users import CONSOLES, JWT, Credential, Target, Users
from tenantproxy.sidecar.sockets import Listening, serve
from tenantproxy.sidecar.tls import ListenerTls
from tenantproxy.sidecar.unauthenticated import Unauthenticated
from tenantproxy.slices import in_slices
from tenantproxy.wire import answers, untracked
from tenantproxy.wire.client_auth import ClientAuth
from tenantproxy.wire.memory import ProcessMemory, TenantMemory
from tenantproxy.wire.read_wishes import AFTER, REPLICA, SYSTEM, is_on, position, unprepared
from tenantproxy.wire.session_features import FeaturePolicy, SessionFeatures
from tenantproxy.wire.session_settings import KeptSettings
from tenantproxy.wire.settings import NO_SETTINGS, Settings
from tenantproxy.wire.startup import SessionWish
from tenantproxy.wire.statements import Definitions, Statements
from tenantproxy.wire.transaction_only import no_sessions
from tenantproxy.wire.values import schemas

__all__ = ["Elsewhere", "Lending", "PgListener"]

_TRIMMED: Final = 16 * 1024 * 1024  # bytes fewer that clients make us keep, from which on the system shall have them
_TRIM_SWEEPS: Final = 6  # then once more: what was on its way to a backend is let go when that has ended
_REST_SECONDS: Final = 0.25
_MOST_TARGETS: Final = 1000  # that are remembered
_ENDING_SECONDS, _ENDING_PAUSE = 1.0, 0.01
_STARTUP_SECONDS: Final = 2.0
_WATCH_SECONDS: Final = 1.0  # a suspended tenant's sessions end within a few of these

logger = logging.getLogger("tenantproxy")


Elsewhere = Callable[[int, bytes], Awaitable[object]]
"""Passes a cancel request on, by pid and secret, to the worker that has the client."""


class PgListener:
    """Serves PostgreSQL's protocol on `host:port` (0: a free one), within the limits of `pg`.

    Without a host it has no port of its own, and serves what `connect` gives it. `guests`: see `guests.Guest`.
    """

    def __init__(
        self,
        *,
        host: str,
        port: int,
        pg: Pg,
        traffic: TrafficTable,
        drain_timeout: float,
        lending: Lending,
        users: Users,
        passwords: PasswordChecks,
        tls: ListenerTls | None = None,
        ceiling: int | None = None,
        observer: Observer = ignore,
        sockets: Sequence[socket.socket] = (),
        worker: int = 0,
        elsewhere: Elsewhere | None = None,
    ) -> None:
        """`sockets`: what it listens on instead. `worker`: its number, in clients' keys; `elsewhere`: the others."""
        self._sockets = sockets
        self._worker = worker
        self._elsewhere = elsewhere
        self._forwards: set[asyncio.Task[None]] = set()  # cancel requests that are on their way to another worker
        self._ceiling = ceiling  # see `descriptors.ceiling`
        self._host = host
        self._port = port
        self._pg = pg
        self._admission = Admission(pg)
        self._unauthenticated = Unauthenticated(pg.unauthenticated)
        self._memory = ProcessMemory(pg.max_memory, pg.max_memory_per_tenant)
        self._sources: WeakValueDictionary[TenantId, TenantSource] = WeakValueDictionary()  # while they have clients
        self._lists: WeakValueDictionary[tuple[str, ...], DatabaseList] = WeakValueDictionary()  # while in use
        self._pinning = Pinning(pg)
        self.encryption = Encryption(tls)  # see `login.LoginHost`
        self._drain_timeout = drain_timeout
        self._lending = lending
        self._users = users
        self._passwords = passwords
        self._greetings = Greetings(lending.lender)
        self._statements: WeakKeyDictionary[Pool[RawBackend], Statements] = WeakKeyDictionary()
        self._definitions: WeakValueDictionary[tuple[str, str], Definitions] = WeakValueDictionary()  # by database
        self._refusals = LoginRefusals(observer)
        self._startups: set[StartupConnection] = set()
        self._clients: dict[int, Client] = {}  # by the pid that they were told
        self.guests = Guests()
        self._tenants: Counter[TenantId] = Counter()  # how many clients each has; none of those without
        self._targets: dict[Target, Target] = {}  # the same object for all clients of one user and tenant
        self._traffic = traffic
        self._paused: dict[TenantId, asyncio.Event] = {}
        self._server: Listening | None = None  # None: it has no port of its own, or is closed
        self._is_open = False
        self._lanes: Lanes | None = None  # None: Python carries everything
        self._watches: list[asyncio.Task[None]] = []
        self._is_empty = asyncio.Event()
        self._is_closing = False
        self._ending: list[asyncio.Transport] = []  # of clients that were told that it closes
        self.logins: dict[LoginResult, int] = dict.fromkeys(LOGIN_RESULTS, 0)
        self.new_console: Callable[[Target, str], Console] | None = None  # set by the port, once

    # --- life --------------------------------------------------------------------------------------------------------
    async def open(self) -> None:
        """Bind and accept. Raises OSError when the address cannot be had."""
        loop = asyncio.get_running_loop()
        # The compiled path looks into no statement, and tells of none.
        self._lanes = lanes_on(loop, self._lending.lender) if self._lending.lender.watch is None else None
        if self._host or self._sockets:
            self._server = await serve(self.connect, self._host, self._port, sockets=self._sockets)
        self._is_open = True
        self._watches = [
            loop.create_task(self._watch_over(), name="tenantproxy pg watch", context=Context()),
            loop.create_task(self._watch_times(), name="tenantproxy pg timeouts", context=Context()),
            loop.create_task(self._watch_idle(), name="tenantproxy pg idle", context=Context()),
        ]

    def connect(self) -> asyncio.Protocol:
        """The protocol of one more connection, on whatever carries it."""
        return StartupConnection(self)

    async def take_clients(self, wanted: bool) -> None:
        """Leave what connects to the other processes of its sockets, or accept again. Raises OSError."""
        if self._server is not None and not self._is_closing:
            await self._server.take_clients(wanted)

    async def close(self) -> None:
        """Accept no more; clients end when no request of theirs is outstanding, after `drain_timeout` at the latest."""
        self._is_closing, self._is_open = True, False
        if self._server is not None:
            self._server.close()
        for client in list(self._clients.values()):
            client.drain()
        # Who is about to log in has done so in a moment, and is told to leave as the others are: it is not refused.
        until = monotonic() + min(_STARTUP_SECONDS, self._drain_timeout)
        while self._startups and monotonic() < until:  # noqa: ASYNC110
            await asyncio.sleep(_ENDING_PAUSE)
        for connection in list(self._startups):
            connection.refuse(PoolClosed("the service is shutting down", hint="connect again"))
        with suppress(TimeoutError):
            async with asyncio.timeout(self._drain_timeout):
                while self._clients:
                    self._is_empty.clear()
                    await self._is_empty.wait()
        for client in list(self._clients.values()):
            client.kill()
        # A process that ends before they have read why would reset that away.
        until = monotonic() + _ENDING_SECONDS
        while monotonic() < until and not all(transport.is_closing() for transport in self._ending):  # noqa: ASYNC110
            await asyncio.sleep(_ENDING_PAUSE)
        watches, self._watches = self._watches, []
        for watch in watches:
            watch.cancel()
            with suppress(asyncio.CancelledError):
                await watch

    async def _watch_over(self) -> None:
        """End those who hold a backend of a tenant that is not served any more; the others hear it when they ask."""
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            holders: list[tuple[Client, TenantId | None] | tuple[Guest, TenantId | None]]
            holders = [(each, each.target.tenant) for each in self._clients.values() if each.holds_backend]
            holders += [(guest, guest.tenant) for guest in self.guests if guest.holds_backend]
            for holder, tenant in holders:
                try:
                    await self._look_after(holder, tenant)
                except Exception:
                    logger.exception("looking after the clients of the PostgreSQL port failed")

    async def _watch_times(self) -> None:
        """End those that take too long, and let the system have what clients do not need any more."""
        trims = 0  # sweeps until the last one
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            try:
                await in_slices(self._sweeping())
                if self._lanes is not None:
                    self._lanes.forget()
                trims = _TRIM_SWEEPS if self._memory.has_fallen(_TRIMMED) else max(0, trims - 1)
                if trims in (_TRIM_SWEEPS, 1):
                    trim()
            except Exception:
                logger.exception("the timeouts of the PostgreSQL port failed")

    async def _watch_idle(self) -> None:
        """Let the clients rest that have nothing to do."""
        while True:
            await asyncio.sleep(_REST_SECONDS)
            await in_slices(self._resting())

    def _resting(self) -> Iterator[None]:
        for client in list(self._clients.values()):
            if client.relay is not None:
                client.relay.rest_if_idle(monotonic())
            yield

    def _sweeping(self) -> Iterator[None]:
        for client in list(self._clients.values()):
            if client.relay is not None:
                error = client.relay.overdue(monotonic(), self._pg)
                if error is not None:
                    client.relay.kill(error)
                yield

    async def _look_after(self, holder: Client | Guest, tenant: TenantId | None) -> None:
        assert tenant is not None
        if self._lending.known(tenant) is None:
            try:
                await self._lending.find(tenant)
            except TenantError as exc:
                holder.kill(exc)
            except TenantProxyError:
                return  # the registry cannot be asked now
        relay = holder.relay if isinstance(holder, Client) else None
        if relay is not None and relay.backend is not None and relay.backend.pool.is_closed:
            relay.drain()  # the tenant is elsewhere now

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens, with the real port. RuntimeError while it does not."""
        if self._server is None:
            raise RuntimeError("the listener is not open")
        return self._server.address

    @property
    def is_open(self) -> bool:
        """Whether it accepts."""
        return self._is_open and (self._server is None or self._server.is_serving())

    # --- what is -----------------------------------------------------------------------------------------------------
    def stats(self) -> ListenerStats:
        """The clients of this moment."""
        passed = [*self._traffic.by_label.values(), self._traffic.former]
        return ListenerStats(
            protocol="pg",
            clients=len(self._clients),
            limit=self._pg.max_clients,
            received=sum(each.received for each in passed),
            sent=sum(each.sent for each in passed),
            certificate_expires_at=None if self.encryption.tls is None else self.encryption.tls.expires_at,
        )

    def pg_stats(self) -> PgStats:
        """What only this protocol has."""
        self._traffic.settle(self._counted_in)
        traffic = self._traffic.by_label.items()
        return PgStats(
            queries={name: each.queries for name, each in traffic},
            transactions={name: each.transactions for name, each in traffic},
            logins=dict(self.logins),
            waiting=sum(client.relay is not None and client.relay.is_waiting for client in self._clients.values()),
            paused=len(self._paused),
            pinned=sum(client.relay is not None and client.relay.is_pinned for client in self._clients.values()),
            pins={name: each.pins for name, each in traffic},
            limits=self.limits(),
            is_compiled=self._lanes is not None,
            carried=0 if self._lanes is None else self._lanes.carried,
            encrypted=sum(bool(client.tls) for client in self._clients.values()),
            handshakes=dict(self.encryption.results),
        )

    def _counted_in(self) -> set[int]:
        return {id(client.relay.traffic) for client in self._clients.values() if client.relay is not None}

    @property
    def data_path(self) -> str:
        """Which carries its clients' transactions, for people."""
        return data_path() if self._lanes is not None or why_not() is not None else "pure Python: of another event loop"

    def limits(self) -> tuple[LimitUsage, ...]:
        """The limits of `[pg]` and what is used of them."""
        memory, of_tenants = self._memory, {tenant: source.memory.used for tenant, source in self._sources.items()}
        most = max(of_tenants, key=of_tenants.__getitem__, default="")
        used = of_tenants[TenantId(most)] if most else 0
        return (
            *self._admission.usage(),
            self._unauthenticated_usage(),
            LimitUsage("max_memory", memory.limit, memory.used, "", memory.refused),
            LimitUsage("max_memory_per_tenant", memory.per_tenant, used, most, memory.refused_tenant),
            self._pinning.usage(),
        )

    def _unauthenticated_usage(self) -> LimitUsage:
        those = self._unauthenticated
        return LimitUsage("max_unauthenticated", those.limit, len(those), those.most_of, those.made_room)

    def reload(self, pg: Pg, tls: ListenerTls | None) -> None:
        """Take over the limits of `pg`, and what new connections are secured with. Who is connected stays."""
        self.encryption.tls = tls
        self._pg = self._admission.pg = pg
        self._unauthenticated.limit = pg.unauthenticated
        self._memory.limit, self._memory.per_tenant = pg.max_memory, pg.max_memory_per_tenant
        self._pinning.pg = pg

    @property
    def unauthenticated(self) -> int:
        """How many connections have not logged in."""
        return len(self._startups)

    def forget_greetings(self) -> None:
        """Servers may say something else of their sessions now."""
        self._greetings.forget()

    @property
    def traffic(self) -> dict[TenantId, Traffic]:
        """What passed, by tenant; those that have no series of their own share `_other`."""
        return self._traffic.by_label

    def clients(self, tenant: TenantId | None = None) -> Iterator[Client]:
        """Who is connected (to this tenant)."""
        return (client for client in self._clients.values() if tenant is None or client.target.tenant == tenant)

    # --- LoginHost: what startup connections ask ---------------------------------------------------------------------
    def accepted(self, connection: StartupConnection) -> None:
        """See `login.LoginHost`."""
        self._startups.add(connection)
        if is_scarce(connection.transport, self._ceiling):
            connection.transport.abort()  # and the next one finds room: those who say nothing have taken it all
            self._unauthenticated.close_oldest()
        else:
            self._unauthenticated.add(connection)

    def refused(self, connection: StartupConnection, error: TenantProxyError) -> None:
        """See `login.LoginHost`."""
        if connection.wish is not None:
            self._refusals.tell(
                connection.wish,
                connection.transport,
                error,
                is_known=self._users.knows,
                tenant=connection.tenant,
                request=connection.request_id,
            )
        if isinstance(error, (TenantPaused, TenantSuspended)):
            self.logins["not_served"] += 1
        elif isinstance(error, (TooManyClients, TooManyAttempts)):
            self.logins["limited"] += 1
        elif isinstance(error, (AuthError, TenantNotFound)):
            self.logins["refused"] += 1
        else:
            self.logins["error"] += 1

    def startup_ended(self, connection: StartupConnection) -> None:
        """See `login.LoginHost`."""
        self._startups.discard(connection)
        self._unauthenticated.discard(connection)

    def handshake_failed(self, connection: StartupConnection, why: str) -> None:
        """See `login.LoginHost`."""
        self._refusals.tell_handshake(connection.transport, why, connection.request_id)

    def check_channel(self, channel: Channel) -> None:
        """See `login.LoginHost`."""
        check_encryption(channel, self._pg.ssl_required)

    def named_by(self, server_name: str) -> tuple[bytes, ...]:
        """See `login.LoginHost`. Names of servers do not tell upper case from lower."""
        name, domain = server_name.lower(), f".{self._pg.ssl_tenant_domain.lower()}"
        return (name.removesuffix(domain).encode(),) if len(domain) > 1 and name.endswith(domain) else ()

    def check_room(self, wish: SessionWish) -> None:
        """See `login.LoginHost`. Tells a stranger nothing: it depends on the name of the database alone."""
        if wish.database not in CONSOLES:
            self._admission.check_total()

    def credential(self, user: bytes, channel: Channel) -> Credential:
        """See `login.LoginHost`."""
        return self._users.find(user, channel)

    async def check_password(self, auth: ClientAuth, password: str) -> None:
        """See `login.LoginHost`."""
        assert auth.verifier is not None
        if not await self._passwords.is_right(auth.verifier, password, Trust.STRANGER):
            raise auth.refusal()

    async def authorise(self, wish: SessionWish, token: str | None) -> Target | TenantProxyError:
        """See `login.LoginHost`."""
        if token is not None:
            return await self._users.authorise_token(token, wish)
        return await self._users.authorise(wish.user, wish)

    def cancel(self, pid: int, secret: bytes, done: Callable[[], None]) -> None:
        """See `login.LoginHost`."""
        client = self._clients.get(pid)
        if client is not None and client.relay is not None and secrets.compare_digest(client.secret, secret):
            client.relay.cancel(done)
        elif self._elsewhere is not None:
            task = asyncio.get_running_loop().create_task(
                self._forward(pid, secret, done), name="tenantproxy pg cancel", context=Context()
            )
            self._forwards.add(task)
            task.add_done_callback(self._forwards.discard)
        else:
            done()

    async def _forward(self, pid: int, secret: bytes, done: Callable[[], None]) -> None:
        """Any worker may get the cancel request of a client of another."""
        assert self._elsewhere is not None
        try:
            await self._elsewhere(pid, secret)
        except TenantProxyError:
            pass  # that one is gone, and its clients with it
        finally:
            done()

    async def cancel_here(self, pid: int, secret: bytes) -> bool:
        """Cancel for a client of this listener, whose request came to another; False: it has no such client."""
        client = self._clients.get(pid)
        if client is None or client.relay is None or not secrets.compare_digest(client.secret, secret):
            return False
        done = asyncio.get_running_loop().create_future()
        client.relay.cancel(lambda: None if done.done() else done.set_result(None))
        await done
        return True

    async def admit(self, connection: StartupConnection, target: Target, wish: SessionWish) -> None:
        """See `login.LoginHost`."""
        place = self._admission.take(target.tenant, target.user, connection.address)
        self._unauthenticated.discard(connection)
        try:
            if target.tenant is None:
                self._admit_to_console(connection, target, wish, place)
            else:
                await self._admit_to_tenant(connection, target, target.tenant, wish, place)
        except BaseException:
            self._admission.leave(place)
            raise
        self.logins["ok"] += 1

    def _admit_to_console(
        self, connection: StartupConnection, target: Target, wish: SessionWish, place: ClientPlace
    ) -> None:
        assert self.new_console is not None
        if wish.others:
            raise untracked.not_tracked(wish.others[0][0])
        console = self.new_console(target, _address(connection.transport, "peername")[0])
        client = Client(self, connection.transport, self._new_pid(), target, place)
        client.console = ConsoleClient(connection.transport, console, on_end=client.ended)
        self._register(connection, client, console.welcome, client.console)

    async def _admit_to_tenant(
        self, connection: StartupConnection, target: Target, tenant: TenantId, wish: SessionWish, place: ClientPlace
    ) -> None:
        if tenant in self._paused:  # who is connected waits; a new client would be cut off by its startup timeout
            raise not_served(TenantStatus.PAUSED)
        context = placed(target.context, _address(connection.transport, "peername")[0])
        others = self._users.left_of(target, wish.others)
        chosen = others.pop(REPLICA, None)
        after = position(others.pop(AFTER, b""))
        if after and target.pool_mode == "session":
            raise unprepared()
        system = others.pop(SYSTEM, b"").decode() or target.system
        source = (
            self.source_of(tenant)
            .of(context, system, read_only=target.read_only)
            .reading(replica=target.replica if chosen is None else is_on(chosen), after=after)
        )
        wish = replace(wish, others=tuple(others.items()))
        pool, route = source.known() or await source.find()
        if target.pool_mode == "session" and self._lending.is_pooled(route.pool.server):
            raise no_sessions()
        start = _startup_settings(wish, route, is_session=target.pool_mode == "session")
        wish = replace(wish, settings=start, others=NO_SETTINGS)
        baseline = await self._greetings.baseline(pool, route)
        backend: RawBackend | None = None
        if target.pool_mode == "session" and self._pg.session_backend_at_login:
            backend = await self._greetings.lend(pool, route, wish.settings)
            reported: Mapping[bytes, bytes] = dict(backend.parameters)
        else:
            reported = await self._greetings.ask(pool, route, wish.settings) if wish.settings else baseline
            wish = replace(wish, settings=self._greetings.alike(wish.settings))
        try:
            self._serve(connection, target, wish, place, _Access(pool, route, source, baseline, reported, backend))
        except BaseException:
            if backend is not None:
                self._lending.lender.destroy(backend)
            raise

    def _serve(
        self, connection: StartupConnection, target: Target, wish: SessionWish, place: ClientPlace, access: _Access
    ) -> None:
        """Greet a client of a tenant, and let a relay have its transport."""
        backend = access.backend
        if backend is not None and (backend.is_closed or backend.is_ending):
            raise ConnectFailed("the server closed the connection", retry_after=1.0)
        if len(self._targets) >= _MOST_TARGETS:
            self._targets.clear()
        target = self._targets.setdefault(target, target)
        assert target.tenant is not None
        if target.databases:
            connection.transport = MaintenanceTransport(connection.transport, self._databases_of(target.databases))
        client = Client(self, connection.transport, self._new_pid(backend), target, place)
        traffic = self.traffic_of(target.tenant)
        traffic.logins += 1
        kept = KeptSettings(wish.settings, access.baseline, greeted=access.reported)
        places = self._pinning.places(target.tenant, access.pool.max_size_of(access.route.limits))
        client.relay = relay_on(
            connection.transport,
            None if connection.is_tunnel or target.databases else self._lanes,
            source=access.source,
            lender=self._lending.lender,
            statements=self._statements_of(access.pool, access.route),
            kept=kept,
            features=SessionFeatures(kept, self._features_at(access.route), places),
            is_session=target.pool_mode == "session",
            traffic=traffic,
            on_end=client.ended,
            memory=access.source.memory,
            rights=client,
        )
        welcome = greeting(access.reported)
        if backend is not None:
            client.relay.adopt(backend, access.route)
        self._register(connection, client, welcome, client.relay)
        if isinstance(client.relay, CarriedRelay):
            client.relay.ride()
        if self._is_closing:
            client.drain()

    def _features_at(self, route: Route) -> FeaturePolicy:
        """Behind a connection pooler nothing can be left in a session, however long it is kept."""
        return "refuse" if self._lending.is_pooled(route.pool.server) else self._pg.session_features

    def _databases_of(self, tenants: tuple[str, ...]) -> DatabaseList:
        """The same for all clients that list the same: it is large where they list many."""
        known = self._lists.get(tenants)
        if known is None:
            known = self._lists[tenants] = DatabaseList(tenants)
        return known

    def source_of(self, tenant: TenantId) -> TenantSource:
        """Where a client or a guest finds the tenant."""
        known = self._sources.get(tenant)
        if known is None:
            memory = TenantMemory(self._memory)
            known = TenantSource(tenant, SourceParts(self._lending, self.find, self._paused, memory))
            self._sources[tenant] = known
        return known

    def definitions_of(self, pool: Pool[RawBackend], route: Route) -> Definitions:
        """Of the database that the pool has connections to: for guests that change tables, or prepare statements."""
        return self._statements_of(pool, route).definitions

    def _statements_of(self, pool: Pool[RawBackend], route: Route) -> Statements:
        known = self._statements.get(pool)
        if known is None:
            database = route.pool.server, route.pool.database
            known = self._statements[pool] = Statements(self._definitions.setdefault(database, Definitions()))
        return known

    def _register(
        self, connection: StartupConnection, client: Client, welcome: bytes, protocol: asyncio.Protocol
    ) -> None:
        if self._pg.tcp_keepalive and not connection.transport.is_closing():
            keep_alive(connection.transport, None, idle_seconds=self._pg.tcp_keepalive)
        self._clients[client.pid] = client
        if client.target.tenant is not None:
            self._tenants[client.target.tenant] += 1
        connection.transport.write(
            welcome + answers.backend_key_data(client.pid, client.secret) + answers.ready_for_query()
        )
        connection.pass_on(protocol)

    def _new_pid(self, backend: RawBackend | None = None) -> int:
        """That of `backend`, unless another client has the same; else a new one, never what cancels by itself."""
        if backend is not None and backend.pid not in self._clients:
            return backend.pid
        while (pid := new_pid(self._worker)) in self._clients:
            pass
        return pid

    def traffic_of(self, tenant: TenantId) -> Traffic:
        """Where what passes of the tenant is counted."""
        return self._traffic.of(tenant)

    # --- Source: what relays ask -------------------------------------------------------------------------------------
    async def find(
        self, tenant: TenantId, *, replica: bool = False, system: str | None = None, read_only: bool = False
    ) -> tuple[Pool[RawBackend], Route]:
        """See `relay.Source`."""
        while (paused := self._paused.get(tenant)) is not None:
            await paused.wait()
        return await self._lending.find(tenant, replica=replica, system=system, read_only=read_only)

    # --- what an operator does ---------------------------------------------------------------------------------------
    async def pause(self, tenant: TenantId) -> None:
        """Let transactions of `tenant` end and no new ones begin; returns when none is left. Its clients wait."""
        self._paused.setdefault(tenant, asyncio.Event())
        while tenant in self._paused and self._is_served(tenant):  # noqa: ASYNC110 - seldom; relays need not tell
            await asyncio.sleep(0.02)

    def _is_served(self, tenant: TenantId) -> bool:
        """Whether something may run for it now."""
        is_client = any(client.holds_backend for client in self.clients(tenant))
        return is_client or any(guest.holds_backend for guest in self.guests.of(tenant))

    def resume(self, tenant: TenantId) -> bool:
        """Go on; False when it was not paused."""
        event = self._paused.pop(tenant, None)
        if event is None:
            return False
        event.set()
        return True

    def kill(self, tenant: TenantId) -> None:
        """End all clients of `tenant` now, and serve none until `resume`."""
        self._paused.setdefault(tenant, asyncio.Event())
        for client in list(self.clients(tenant)):
            client.kill()
        for guest in self.guests.of(tenant):
            guest.kill(PoolClosed("terminating connection due to administrator command", hint="try again"))

    def drain_clients(self, tenant: TenantId) -> None:
        """Let each client of `tenant` go when nothing of it is under way. They may come again at once."""
        for client in list(self.clients(tenant)):
            client.drain()

    # --- parts.ClientHolder ------------------------------------------------------------------------------------------
    def has_clients_of(self, tenant: TenantId) -> bool:
        """See `parts.ClientHolder`."""
        return tenant in self._tenants or tenant in self.guests.tenants

    def tenants_of_clients(self) -> Iterable[TenantId]:
        """See `parts.ClientHolder`."""
        return {*self._tenants, *self.guests.tenants}

    def end_tenant(self, tenant: TenantId, error: LeaseExpired) -> None:
        """See `parts.ClientHolder`."""
        for client in list(self.clients(tenant)) if tenant in self._tenants else ():
            if client.relay is not None:
                client.relay.kill(error)
        for guest in self.guests.of(tenant):
            guest.kill(error)

    def paused(self) -> frozenset[TenantId]:
        """The tenants that are paused here."""
        return frozenset(self._paused)

    def signal(self, client: Client, pid: int, *, ends: bool) -> bool:
        """`client` asks to cancel or end the one that was told `pid`: of its own tenant and user alone."""
        other, target = self._clients.get(pid), client.target
        if other is None or other.relay is None:
            return False
        is_own = other.target.tenant == target.tenant and other.target.user == target.user
        if not is_own or (target.user == JWT.decode() and other is not client):  # which stands for many people
            return False
        if ends:
            other.relay.kill(PoolClosed("terminating connection due to administrator command"))
        else:
            other.relay.cancel(lambda: None)
        return True

    def client(self, pid: int) -> Client | None:
        """Who was told `pid`; None: no client was."""
        return self._clients.get(pid)

    def vacate(self, client: Client, database: bytes) -> None:
        """`client` needs `database` of its server without other connections: those that are idle are closed."""
        backend = client.relay.backend if client.relay is not None else None
        name = database.decode("utf-8", "replace")
        if backend is not None and self._users.may_vacate(client.target, name):
            self._lending.vacate(backend.pool.key.server, name)

    def ended(self, client: Client) -> None:
        """A client is gone; called by itself. When it is told why, its connection ends a little later."""
        del self._clients[client.pid]
        if (tenant := client.target.tenant) is not None:
            self._tenants[tenant] -= 1
            if not self._tenants[tenant]:
                del self._tenants[tenant]
        if self._is_closing:
            self._ending.append(client.transport)
        self._admission.leave(client.place)
        if not self._clients:
            self._is_empty.set()


def _startup_settings(wish: SessionWish, route: Route, *, is_session: bool) -> Settings:
    """What the client's session begins with.

    A client may not begin where its tenant is not, nor say whose its session is. Raises InvalidSetting; what SQL may
    reach, grants decide.
    """
    schema, path = route.pool.schema, dict(wish.settings).get(b"search_path")
    if schema is not None and path is not None and set(schemas(path) or ()) != {schema.encode()}:
        raise InvalidSetting(
            "the search_path of this tenant is its own schema",
            hint="leave search_path out of the startup parameters and options",
        )
    if not wish.others:
        return wish.settings
    if not is_session:
        raise untracked.not_tracked(wish.others[0][0], is_session=False)
    binding = route.session.binding
    own = [name for name, _ in route.session.context] + ([] if binding is None else [binding.setting])
    untracked.check_names(wish.others, own)
    return untracked.add(wish.settings, wish.others)


class Client:
    """One client that was let in, and by which key it may cancel. It has a relay, or the console."""

    __slots__ = (
        "_listener",
        "connected_at",
        "console",
        "pid",
        "place",
        "relay",
        "secret",
        "target",
        "tls",
        "transport",
    )

    def __init__(
        self, listener: PgListener, transport: asyncio.Transport, pid: int, target: Target, place: ClientPlace
    ) -> None:
        self._listener = listener
        self.transport = transport
        self.place = place
        self.relay: Relay | None = None
        self.console: ConsoleClient | None = None
        self.pid = pid
        self.secret = secrets.token_bytes(4)  # as long as protocol 3.0 has it
        self.target = target
        self.connected_at = time.time()
        self.tls = encrypted_by(transport)

    @property
    def address(self) -> tuple[str, int]:
        """Its host and port."""
        return _address(self.transport, "peername")

    @property
    def local_address(self) -> tuple[str, int]:
        """To which it has connected."""
        return _address(self.transport, "sockname")

    @property
    def holds_backend(self) -> bool:
        """Whether something may run for it now."""
        return self.relay is not None and self.relay.backend is not None

    def drain(self) -> None:
        """End it as soon as nothing is under way."""
        if self.relay is not None:
            self.relay.drain()
        else:
            self.kill()

    def kill(self, why: TenantProxyError | None = None) -> None:
        """End it now."""
        if self.relay is not None:
            self.relay.kill(why)
        elif self.console is not None:
            self.console.end(PoolClosed("terminating connection due to administrator command"))

    @property
    def starts_on_replica(self) -> bool:
        """See `signals.ClientRights`."""
        return self.target.replica

    def signal(self, pid: int, *, ends: bool) -> bool:
        """See `signals.ClientRights`."""
        return self._listener.signal(self, pid, ends=ends)

    def vacate(self, database: bytes) -> None:
        """See `signals.ClientRights`."""
        self._listener.vacate(self, database)

    def ended(self) -> None:
        """It is over; called once by what it has."""
        self._listener.ended(self)


def _address(transport: asyncio.Transport, which: str) -> tuple[str, int]:
    known = transport.get_extra_info(which) or ("", 0)
    return known[0], known[1]


@dataclass(frozen=True, slots=True)
class _Access:
    """What the login of a client of a tenant found. `backend`: leased for it, where it has one from now on."""

    pool: Pool[RawBackend]
    route: Route
    source: TenantSource
    baseline: Mapping[bytes, bytes]
    reported: Mapping[bytes, bytes]
    backend: RawBackend | None
