"""How does a raw backend end? With a Terminate, and a wait for the server to hang up that is never long."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context
from typing import Final, Protocol

from tenantproxy.connect.lease_policy import END_TIMEOUT
from tenantproxy.connect.watch import keep_socket, may_live_on
from tenantproxy.raw.backend import RawBackend, discard, ignore_loss
from tenantproxy.wire.frames import TERMINATE, frame

__all__ = ["END_TIMEOUT", "End", "end_of", "send_terminate"]

_FIRST_CANCEL_SECONDS: Final = 0.01  # what is not busy has ended by then
_TERMINATE: Final = frame(TERMINATE)


class EndOwner(Protocol):
    """Who has backends ended: the connector."""

    def cancel(self, backend: RawBackend, done: Callable[[], None] | None = None) -> None:
        """Ask the server to cancel what runs on `backend`; `done` when it has done with the request."""
        ...

    def ended(self, backend: RawBackend, *, silent: bool, sock: socket.socket | None) -> None:
        """`backend` is gone; `silent`: its server side may live on, and `sock` hears of its end."""
        ...


class End:
    """The end of one backend. It says Terminate, cancels what keeps the server from reading that, and waits for EOF."""

    __slots__ = ("_backend", "_deadline", "_is_silent", "_loop", "_owner", "_pause", "_sock", "_timer")

    def __init__(self, owner: EndOwner, backend: RawBackend) -> None:
        self._owner = owner
        self._backend = backend
        self._loop = asyncio.get_running_loop()
        self._deadline = self._loop.time() + END_TIMEOUT
        self._pause = _FIRST_CANCEL_SECONDS
        self._is_silent = False
        self._sock: socket.socket | None = None  # then: where its end can be heard
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """Called by the pool, which must not be called in turn."""
        backend = self._backend
        is_resting, holder = backend.is_resting and not backend.is_doubtful, backend.on_lost
        backend.leave(self._lost)
        if backend.is_closed:
            self._loop.call_soon(self._lost, backend.lost_by, context=Context())
            return
        if not is_resting and holder is not ignore_loss:
            # Not closed by its holder: the pool closes, or a reset took too long.
            why = backend.expired or ConnectionAbortedError("the connection is being closed")
            self._loop.call_soon(holder, why, context=Context())
        if backend.wire is not None and not is_resting and not backend.transport.is_closing():
            # A pooler forgets a client that leaves, and its request to cancel with it: that goes first.
            self._owner.cancel(backend, self._terminate)
            self._timer = self._loop.call_at(self._deadline, self.give_up, context=Context())
            return
        self._terminate()
        if is_resting:
            self._timer = self._loop.call_at(self._deadline, self.give_up, context=Context())
        else:
            self._timer = self._loop.call_later(self._pause, self._cancel, context=Context())

    def _terminate(self) -> None:
        backend = self._backend
        if not (backend.is_closed or backend.transport.is_closing()):
            backend.write(_TERMINATE)
            if backend.transport.can_write_eof():
                with suppress(OSError):  # reset by the server: that is read, and ends this
                    backend.transport.write_eof()  # it may wait for the rest of a message that its client began
                backend.write = discard  # its holder may write more before it is told

    def _cancel(self) -> None:
        """Ask again and again: PostgreSQL forgets a request that arrives before it has begun with what it is for."""
        if self._loop.time() >= self._deadline:
            self.give_up()
            return
        self._owner.cancel(self._backend)
        if not self._backend.transport.can_write_eof():
            self._backend.write(_TERMINATE)  # the first one may have been read as part of a COPY
        self._pause *= 4
        at = min(self._deadline, self._loop.time() + self._pause)
        self._timer = self._loop.call_at(at, self._cancel, context=Context())

    def give_up(self) -> None:
        """The peer is silent: leave."""
        self._is_silent = True
        if self._sock is None:
            self._sock = keep_socket(self._backend.transport)
        self._backend.transport.abort()

    def _lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._owner.ended(self._backend, silent=self._is_silent or may_live_on(exc), sock=self._sock)


async def send_terminate(backend: RawBackend, timeout: float = END_TIMEOUT) -> bool:
    """End a connection that no pool has; False: its server side may live on."""
    gone = end_of(backend)
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


def end_of(backend: RawBackend) -> asyncio.Future[None]:
    """Return a future that is done when `backend`, whose messages are discarded from now on, is gone."""
    gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def lost(_: Exception | None) -> None:
        if not gone.done():
            gone.set_result(None)

    backend.leave(lost)
    return gone
