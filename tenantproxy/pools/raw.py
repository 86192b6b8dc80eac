"""How is a raw backend opened, checked, cancelled and ended? The PostgreSQL port's side of `Connector`.

Opening is a task, for it is rare. Ending is a few callbacks and needs none: any number of clients may leave at once.
"""

from __future__ import annotations

import asyncio
import json
import re
import ssl
import struct
import time
from collections.abc import Callable
from contextvars import Context
from time import monotonic
from typing import Final

from tenantproxy.config import Server, Settings
from tenantproxy.errors import ConnectFailed, IsolationError, PoolClosed
from tenantproxy.events import ConnectionOpened, Observer
from tenantproxy.isolation.row import enter
from tenantproxy.model import Proof
from tenantproxy.pools.backend import RawBackend, deaf, discard
from tenantproxy.pools.dial import connect, ways
from tenantproxy.pools.errands import Errands
from tenantproxy.pools.exchange import (
    READY_IDLE,
    RESET,
    RESET_ANSWER,
    SYNC_NOW,
    Exchange,
    Refused,
    Unconfirmed,
    answer_of,
    query,
    row,
    statement,
    tag,
    values_of,
)
from tenantproxy.pools.failures import classify, describe
from tenantproxy.pools.handshake import CHECK, Answer
from tenantproxy.pools.opening import WARM_WINDOW, Opening
from tenantproxy.pools.pool import Pool
from tenantproxy.wire.frames import TERMINATE, frame
from tenantproxy.wire.server_auth import Login

__all__ = ["APPLICATION_NAME", "RawConnector"]

APPLICATION_NAME: Final = "tenantproxy_pg"  # of backends that no client has named otherwise
END_TIMEOUT: Final = 2.0  # a peer that is silent for so long is aborted
_FIRST_CANCEL_SECONDS: Final = 0.01  # what is not busy has ended by then
_TERMINATE: Final = frame(TERMINATE)
_CANCEL_CODE: Final = 80877102
_BOOL: Final = 16
_TEXT: Final = 25
# One column of text, whatever the types of the answer: nothing here knows how PostgreSQL writes an array.
_CHECK: Final = f"SELECT pg_catalog.row_to_json(answer)::text FROM ({CHECK}) AS answer"
_WARM_CHECK: Final = "SELECT tenantproxy.bound_tenant()"


class RawConnector:
    """Opens and ends the backends of all raw pools of one router. What it has under way ends with `close`."""

    def __init__(self, settings: Settings, *, observer: Observer, violations: dict[str, int]) -> None:
        self._observer = observer
        self._opening = Opening(settings, observer=observer, violations=violations, application_name=APPLICATION_NAME)
        self._errands = Errands()
        self._ends: dict[RawBackend, _End] = {}
        self._all_ended: asyncio.Future[None] | None = None  # somebody waits for it

    # --- Connector ---------------------------------------------------------------------------------------------------
    def open(self, pool: Pool[RawBackend]) -> None:
        """See `pool.Connector`."""
        self._errands.spawn(self._open(pool))

    def retire(self, pool: Pool[RawBackend], conn: RawBackend) -> None:
        """See `pool.Connector`."""
        end = self._ends[conn] = _End(self, conn)
        end.begin()

    def is_usable(self, conn: RawBackend) -> bool:
        """See `pool.Connector`."""
        return not conn.is_closed

    def later(self, delay: float, call: Callable[[], None]) -> None:
        """See `pool.Connector`."""
        self._errands.later(delay, call)

    async def close(self) -> None:
        """Leave what has not ended, cancel what is under way and wait for it. The pools are closed by now."""
        for end in list(self._ends.values()):
            end.give_up()
        await self._wait_for_ends()
        await self._errands.close()

    async def settle(self, timeout: float) -> None:
        """Wait until every connection that is being ended has ended, for `timeout` seconds at most."""
        try:
            async with asyncio.timeout(timeout):
                await self._wait_for_ends()
                await self._errands.settle(timeout)
        except TimeoutError:
            pass

    async def _wait_for_ends(self) -> None:
        while self._ends:
            if self._all_ended is None:
                self._all_ended = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._all_ended)

    def ended(self, backend: RawBackend, *, silent: bool) -> None:
        """`backend` is gone; `silent`: its server side may live on."""
        del self._ends[backend]
        backend.pool.retired(backend, silent=silent)
        if not self._ends and self._all_ended is not None:
            self._all_ended.set_result(None)
            self._all_ended = None

    # --- opening -----------------------------------------------------------------------------------------------------
    async def _open(self, pool: Pool[RawBackend]) -> None:
        started = monotonic()
        opened: list[RawBackend] = []
        try:
            backend = await self._connect(pool, opened)
            backend.rest()
            if backend.is_closed or backend.is_doubtful:
                raise ConnectionResetError("the server closed the connection")
        except asyncio.CancelledError:
            for each in opened:
                each.transport.abort()
            pool.open_failed(PoolClosed("the router is closing"), "denied", "cancelled")
            raise
        except Exception as exc:  # noqa: BLE001 - a rim: whatever it was, those who wait must hear of it
            await self._open_failed(pool, opened, exc)
            return
        seconds = monotonic() - started
        pool.budget.open_seconds.observe(seconds)
        self._observer(ConnectionOpened(server=pool.key.server, pool=pool.label, seconds=seconds))
        pool.opened(backend)

    async def _open_failed(self, pool: Pool[RawBackend], opened: list[RawBackend], exc: Exception) -> None:
        # Whoever is silent may still be on the server, where it counts against the limit.
        silent = isinstance(exc, TimeoutError)
        try:
            for each in opened:
                silent = not await self._farewell(each, END_TIMEOUT if not silent else 0.0) or silent
        finally:
            error, failure = classify(exc, pool.key)
            pool.open_failed(error, failure, describe(exc), silent=silent)
            if pool.budget.is_down:
                self._errands.look_for(self._opening.server(pool.key), pool.budget)

    async def _connect(self, pool: Pool[RawBackend], opened: list[RawBackend]) -> RawBackend:
        """A backend that may serve; `opened` holds what a failure leaves behind."""
        server = self._opening.server(pool.key)
        for attempt in range(2):
            async with asyncio.timeout(server.connect_timeout):
                backend, pins = await self._dial(pool, opened)
            async with asyncio.timeout(server.connect_timeout):
                if await self._check(backend, pins, is_last=attempt == 1):
                    return backend
            await self._farewell(backend)
            opened.remove(backend)
        raise AssertionError("the second attempt returns or raises")

    async def _dial(self, pool: Pool[RawBackend], opened: list[RawBackend]) -> tuple[RawBackend, dict[str, str]]:
        key, server = pool.key, self._opening.server(pool.key)
        choices = list(ways(server))
        while True:
            pins = self._opening.pins(key)
            backend = RawBackend(pool)
            way = choices.pop(0)
            try:
                await connect(backend, server, way)
                opened.append(backend)
                await self._log_in(backend, pins)
            except (ssl.SSLError, Refused) as exc:
                if not choices or not _may_try_otherwise(exc):
                    raise
                continue
            if self._opening.pins_enough(key, pins, _major(backend)):
                backend.set_user_timeout(max(server.connect_timeout, 10.0))
                return backend, pins
            await self._farewell(backend)
            opened.remove(backend)
            choices = [way]

    async def _log_in(self, backend: RawBackend, pins: dict[str, str]) -> None:
        key = backend.pool.key
        user = key.user or self._opening.server(key).user
        parameters = {"user": user, "database": key.database, "client_encoding": "UTF8"} | pins
        methods = self._opening.server(key).require_auth
        await _log_in(backend, Login(parameters, lambda: self._opening.password(key), methods=methods))

    async def _check(self, backend: RawBackend, pins: dict[str, str], *, is_last: bool) -> bool:
        """Whether it may serve; False: its role had to be cleaned first, so open another one."""
        key = backend.pool.key
        asked = time.time()
        answer = await self._ask_for_answer(backend)
        now = (asked + time.time()) / 2
        statements = self._opening.judge(key, answer, now=now, pins=pins, budget=backend.pool.budget, is_last=is_last)
        for sql in statements:
            await ask(backend, query(sql), tag("ALTER ROLE") + READY_IDLE)
        if statements:
            return False
        backend.offset = answer.server_now - now
        backend.version = answer.version
        backend.signer = self._opening.signer(key)
        if self._opening.proof(key) is Proof.BOUND:
            await self._warm(backend)
        return True

    async def _ask_for_answer(self, backend: RawBackend) -> Answer:
        key = backend.pool.key
        args = [b"t" if key.shared else b"f", (key.schema or "").encode()]
        rows: list[bytes] = []
        message = statement(_CHECK, args, types=(_BOOL, _TEXT)) + SYNC_NOW
        try:
            await ask(backend, message, answer_of("SELECT 1") + READY_IDLE, rows=rows)
        except Unconfirmed:
            raise IsolationError("the server does not know the role we are logged in as") from None
        (column,) = values_of(rows[0])
        return Answer(**json.loads(column or b"{}"))

    async def _warm(self, backend: RawBackend) -> None:
        """Bind nobody once, and reset: the first bind and the first check of a backend are a thousand times slower."""
        binding = self._opening.warm_binding()
        bind = enter(binding, backend.signer, pid=backend.pid, server_now=backend.server_now(), window=WARM_WINDOW)
        nobody = row(binding.tenant.encode())
        messages = statement(bind.sql, [arg.encode() for arg in bind.args]) + statement(_WARM_CHECK) + SYNC_NOW
        try:
            await ask(backend, messages, answer_of("SELECT 1", nobody) * 2 + READY_IDLE)
        except Refused as exc:
            if exc.sqlstate == "42501":
                raise self._opening.not_warm(backend.pool.key) from None
            raise
        await ask(backend, RESET, RESET_ANSWER)

    async def _farewell(self, backend: RawBackend, timeout: float = END_TIMEOUT) -> bool:
        """End a connection that no pool has; False: its server side may live on."""
        gone = _end_of(backend)
        if backend.is_closed:
            return True
        try:
            backend.write(_TERMINATE)
            async with asyncio.timeout(timeout):
                await gone
        except TimeoutError:
            return False
        finally:
            backend.transport.abort()
        return True

    # --- cancelling --------------------------------------------------------------------------------------------------
    def cancel(self, backend: RawBackend, done: Callable[[], None] | None = None) -> None:
        """Ask the server to cancel what runs on `backend`; `done` when the server has done with the request."""
        self._errands.spawn(self._cancel(backend, done))

    async def _cancel(self, backend: RawBackend, done: Callable[[], None] | None) -> None:
        server = self._opening.server(backend.pool.key)
        try:
            async with asyncio.timeout(END_TIMEOUT):
                await _carry(_cancel_request(backend), RawBackend(backend.pool), server)
        except TimeoutError:
            backend.is_doubtful = True  # the request may arrive yet, and must hit nobody else
            if backend.on_cancelled is not None:  # it has been given back already
                backend.pool.retire(backend, "error")
        except (OSError, ConnectFailed):
            pass  # whoever asked for it does not rely on it
        finally:
            if done is not None:
                done()


class _End:
    """The end of one backend. It says farewell, cancels what keeps the server from reading that, and waits for EOF."""

    __slots__ = ("_backend", "_connector", "_deadline", "_is_silent", "_loop", "_pause", "_timer")

    def __init__(self, connector: RawConnector, backend: RawBackend) -> None:
        self._connector = connector
        self._backend = backend
        self._loop = asyncio.get_running_loop()
        self._deadline = self._loop.time() + END_TIMEOUT
        self._pause = _FIRST_CANCEL_SECONDS
        self._is_silent = False
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """Called by the pool, which must not be called in turn."""
        backend = self._backend
        is_resting, holder = backend.is_resting and not backend.is_doubtful, backend.on_lost
        backend.leave(self._lost)
        if backend.is_closed:
            self._loop.call_soon(self._lost, backend.lost_by, context=Context())
            return
        if not is_resting and holder is not deaf:
            # Ended by somebody else than who has it: the pool closes, or a reset took too long.
            self._loop.call_soon(holder, ConnectionAbortedError("the connection is being closed"), context=Context())
        if not backend.transport.is_closing():
            backend.write(_TERMINATE)
            if backend.transport.can_write_eof():
                backend.transport.write_eof()  # it may wait for the rest of a message that its client began
        if is_resting:
            self._timer = self._loop.call_at(self._deadline, self.give_up, context=Context())
        else:
            self._timer = self._loop.call_later(self._pause, self._cancel, context=Context())

    def _cancel(self) -> None:
        """Ask again and again: PostgreSQL forgets a request that arrives before it has begun with what it is for."""
        if self._loop.time() >= self._deadline:
            self.give_up()
            return
        self._connector.cancel(self._backend)
        if not self._backend.transport.can_write_eof():
            self._backend.write(_TERMINATE)  # the first one may have been read as part of a COPY
        self._pause *= 4
        at = min(self._deadline, self._loop.time() + self._pause)
        self._timer = self._loop.call_at(at, self._cancel, context=Context())

    def give_up(self) -> None:
        """The peer is silent: leave."""
        self._is_silent = True
        self._backend.transport.abort()

    def _lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._connector.ended(self._backend, silent=self._is_silent or isinstance(exc, TimeoutError))


async def _log_in(backend: RawBackend, login: Login) -> None:
    """Raises Refused, ProtocolError, OSError, or what reading the password raises."""
    ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def fail(error: Exception) -> None:
        backend.sink = discard
        if not ready.done():
            ready.set_exception(error)

    def receive(data: bytes) -> None:
        try:
            answer = login.receive(data)
        except Exception as exc:  # noqa: BLE001 - raised where it is awaited
            fail(exc)
            return
        if answer:
            backend.write(answer)
        if login.refusal is not None:
            fail(Refused(login.refusal.sqlstate))
        elif login.is_done:
            backend.pid, backend.secret, backend.parameters = login.pid, login.secret, login.parameters
            backend.rest()
            if not ready.done():
                ready.set_result(None)

    def lost(exc: Exception | None) -> None:
        fail(exc or ConnectionResetError("the server closed the connection"))

    backend.sink, backend.on_lost = receive, lost
    if backend.is_closed:
        raise backend.lost_by or ConnectionResetError("the server closed the connection")
    backend.write(login.begin)
    await ready


async def ask(backend: RawBackend, messages: bytes, expected: bytes, *, rows: list[bytes] | None = None) -> None:
    """One conversation, awaited. Raises Refused, Unconfirmed or OSError."""
    answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def done(error: Exception | None) -> None:
        if answered.done():
            return
        if error is None:
            answered.set_result(None)
        else:
            answered.set_exception(error)

    Exchange(backend, expected, done, rows=rows).begin(messages)
    await answered


async def _carry(request: bytes, courier: RawBackend, server: Server) -> None:
    """Bring a request to cancel, as libpq does: by a connection of its own, which the server closes when it is done."""
    await connect(courier, server, next(ways(server)))
    try:
        gone = _end_of(courier)
        if not courier.is_closed:
            courier.write(request)
            await gone
    finally:
        courier.transport.abort()


def _end_of(backend: RawBackend) -> asyncio.Future[None]:
    """Done when `backend`, to which nobody listens from now on, is gone."""
    gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def lost(_: Exception | None) -> None:
        if not gone.done():
            gone.set_result(None)

    backend.leave(lost)
    return gone


def _cancel_request(backend: RawBackend) -> bytes:
    return struct.pack("!III", 12 + len(backend.secret), _CANCEL_CODE, backend.pid) + backend.secret


def _major(backend: RawBackend) -> int:
    """The server's version before the dot, as it reports it: `18.1`, `16beta2 (Debian ...)`."""
    digits = re.match(rb"\d{1,5}", backend.parameters.get(b"server_version", b""))
    return int(digits[0]) if digits else 0


def _may_try_otherwise(exc: Exception) -> bool:
    """As libpq: without TLS when that broke off, and the other way round when pg_hba.conf refuses this way."""
    return isinstance(exc, ssl.SSLError) or (isinstance(exc, Refused) and exc.sqlstate == "28000")
