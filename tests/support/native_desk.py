"""How is the compiled path tried without a server? Clients, backends and the sockets between in one hand.

As `relay_desk`, on socket pairs: what a client or a model of a server sends goes through the kernel to the pump.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from time import monotonic
from typing import cast

from tenantproxy._native.core import Conn, Lane, Pump
from tenantproxy._native.loop import NativeLoop
from tenantproxy.model import Route
from tenantproxy.raw.backend import RawBackend
from tenantproxy.raw.lender import RawLender
from tenantproxy.sidecar.pg.carried import CarriedRelay
from tenantproxy.sidecar.pg.lanes import Lanes
from tenantproxy.sidecar.pg.traffic import Traffic
from tenantproxy.wire.memory import TenantMemory
from tenantproxy.wire.session_settings import KeptSettings
from tenantproxy.wire.statements import Statements
from tests.support.model_server import ModelServer
from tests.support.relay_desk import Backend, Lender, Source
from tests.support.waiting import PATIENCE

__all__ = ["Desk", "NativeBackend", "NativeClient", "NativeLender", "new_desk", "pump", "turn", "without_python"]

_MUCH = 1_000_000


def pump() -> Pump:
    return cast("NativeLoop", asyncio.get_running_loop()).pump


async def turn() -> None:
    """All that has been sent arrives, and what is to be done then is."""
    for _ in range(3):
        pump().wait(0)
        assert not pump().parked
        await asyncio.sleep(0)


async def without_python(peers: Callable[[], None], *fars: socket.socket) -> None:
    """Let `peers` speak by `fars` in a thread; the loop does nothing meanwhile but wait in its pump."""
    loop, over, failures = asyncio.get_running_loop(), asyncio.Event(), list[Exception]()

    def run() -> None:
        try:
            peers()
        except Exception as exc:  # noqa: BLE001 - raised again below
            failures.append(exc)
        finally:
            loop.call_soon_threadsafe(over.set)

    for far in fars:
        far.settimeout(PATIENCE / 4)
    thread = threading.Thread(target=run)
    thread.start()
    await over.wait()
    thread.join()
    for far in fars:
        far.setblocking(False)
    for failure in failures:
        raise failure


def _pair() -> tuple[socket.socket, socket.socket]:
    near, far = socket.socketpair()
    near.setblocking(False)
    far.setblocking(False)
    return near, far


def _read(far: socket.socket) -> bytes:
    try:
        return far.recv(_MUCH)
    except BlockingIOError:
        return b""


class NativeBackend(Backend):
    """A raw backend on a socket, behind which a model answers. `answers` have not been sent yet."""

    def __init__(self, model: ModelServer) -> None:
        super().__init__(model)
        near, self.far = _pair()
        self.conn = Conn(pump(), near, self)
        self.conn.begin()
        self.write = self.conn.write

    def pause_reading(self) -> None:
        RawBackend.pause_reading(self)

    def resume_reading(self) -> None:
        RawBackend.resume_reading(self)

    def deliver(self, size: int | None = None) -> None:
        """So many bytes of its answers are sent (None: all)."""
        data, self.answers = self.answers[:size], self.answers[size:] if size is not None else b""
        if data:
            self.far.send(data)

    def hear(self) -> None:
        """The model reads what was sent to it."""
        data = _read(self.far)
        if data and not self.is_leased:
            self.wrote_while_idle += data
        self.answers += self.model.feed(data)


class NativeLender(Lender):
    """Lends them, to relays and to the lane. `hands_on`: at once to the first who waits, and not by `grant` alone."""

    hands_on = False

    def release(self, backend: Backend, route: Route, *, is_dirty: bool) -> float:
        held = super().release(backend, route, is_dirty=is_dirty)
        if self.hands_on:
            self.grant()
        return held

    def _open(self) -> Backend:
        backend = NativeBackend(ModelServer())
        backend.on_lost = lambda exc: None  # as those that were lent: there is no pool
        self.idle.append(backend)
        self.backends.append(backend)
        return backend

    def destroy(self, backend: Backend, reason: str = "error") -> None:
        super().destroy(backend, reason)
        if isinstance(backend, NativeBackend):
            backend.conn.abort()
            backend.far.close()

    def hear(self) -> None:
        """All models read what was sent to them."""
        for backend in self.backends:
            assert isinstance(backend, NativeBackend)
            backend.hear()

    def close(self) -> None:
        """No connection is left."""
        for backend in self.backends:
            assert isinstance(backend, NativeBackend)
            backend.conn.abort()
            backend.far.close()


class Desk:
    """What a lane asks of its pool, which may have more to do: see `core.Lane`. It knows one tenant.

    `shares`: a desk of the same pool, for another lane of it. `most`: how many clients may wait in its lane.
    `is_refusing`: what is idle does not suit the lane.
    """

    is_bound = False

    def __init__(self, lender: NativeLender, *, shares: Desk | None = None, tenant: str = "acme") -> None:
        self.lender = lender
        self.route = Source(tenant).known()[1]
        self.pool: object = self if shares is None else shares.pool
        self.sharing: list[Desk] = [] if shares is None else shares.sharing  # all of that pool
        self.sharing.append(self)
        self.most = 0
        self.patience = float("inf")
        self.is_refusing = False
        self.waiting = 0  # as it was told
        self.kept = 0  # how often it was asked whether a backend may go on there
        self.transactions = self.reused = self.waited = 0
        self.lasts = float("inf")  # for how long, seconds, what is leased first may be lent as it is
        self.expires = float("inf")
        self.renew()

    def renew(self) -> None:
        """The lane is another one, as it is for `Lanes` now and then."""
        self.lane = Lane(pump(), self, (0.1, 1.0))
        self.lane.until = float("inf")

    @property
    def is_wanted(self) -> bool:
        return bool(self.lender.waiting)

    @property
    def room(self) -> int:
        is_spent = not (self.lender.idle or self.lender.is_busy)
        return self.room_behind if is_spent else 0

    @property
    def room_behind(self) -> int:
        others = sum(desk.waiting for desk in self.sharing if desk is not self)
        return self.most - len(self.lender.waiting) - others

    def keep(self, backend: Backend, since: float) -> float:
        self.kept += 1
        first = self.lender.waiting[0].since if self.lender.waiting else since
        return 0.0 if self.lender.is_busy or first < since else float("inf")

    def waits(self, count: int) -> None:
        self.waiting = count

    def lease(self) -> RawBackend | None:
        if self.lender.waiting or self.is_refusing or monotonic() >= self.expires:
            return None
        return self.lender.lease_nowait(None, self.route, ())

    def unlease(self, backend: Backend) -> None:
        self.take_back(backend)

    def expires_at(self, backend: RawBackend) -> float:
        self.expires = min(self.expires, monotonic() + self.lasts)
        return self.expires

    def take_back(self, backend: Backend) -> None:
        self.lender.release(backend, self.route, is_dirty=False)

    def enter_again(self, backend: Backend) -> None:
        raise AssertionError("it was not bound")

    def destroy(self, backend: Backend) -> None:
        self.lender.destroy(backend)

    def account(
        self,
        reused: int,
        transactions: int,
        seconds: float,
        held: dict[int, int],
        queries: int,
        query_seconds: float,
        received: int,
        sent: int,
        waits: dict[int, int],
        wait_seconds: float,
    ) -> None:
        self.reused += reused
        self.transactions += transactions
        self.waited += sum(waits.values())
        assert not waits or wait_seconds > 0


class _Lanes:
    """One lane for all."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def of(self, source: object, settings: object, traffic: object) -> Lane | None:
        desk = self._desk
        if desk.lender.is_busy or (desk.is_wanted and desk.room <= 0):
            return None
        desk.lane.lends = not desk.is_wanted
        return desk.lane


class NativeClient:
    """One client behind its login, on a socket. `sending` has not been sent yet, `received` is what it got."""

    def __init__(self, lender: NativeLender, *, statements: Statements, desk: Desk) -> None:
        near, self.far = _pair()
        self.conn = Conn(pump(), near, asyncio.Protocol())
        self.memory = TenantMemory()
        self.sending = self.received = b""
        self.relay = CarriedRelay(
            self.conn,
            cast("Lanes", _Lanes(desk)),
            source=Source(),
            lender=cast("RawLender", lender),
            statements=statements,
            kept=KeptSettings((), {}),
            is_session=False,
            traffic=Traffic(),
            on_end=lambda: None,
            memory=self.memory,
        )
        self.conn.set_protocol(self.relay)
        self.conn.begin()
        self.relay.ride()

    def push(self, size: int | None = None) -> None:
        """So many bytes of `sending` are sent."""
        data, self.sending = self.sending[:size], self.sending[size:] if size is not None else b""
        if data:
            self.far.send(data)

    def hear(self) -> None:
        """What came."""
        self.received += _read(self.far)

    async def leave(self) -> None:
        """It hangs up."""
        self.far.close()
        await turn()
        assert not self.memory.used, "something that it made us keep is left"


def new_desk(lender: NativeLender, *, shares: Desk | None = None, tenant: str = "acme") -> Desk:
    """That of one lane: see `Desk`."""
    return Desk(lender, shares=shares, tenant=tenant)
