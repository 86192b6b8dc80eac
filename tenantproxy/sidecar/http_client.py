"""What becomes of a client of an HTTP listener? Admitted or refused, cut off when late, read by aiohttp or past it."""

from __future__ import annotations

import asyncio
from typing import Any, Final, Protocol, cast

from tenantproxy.connect.tls import Handshake, HandshakeTurns
from tenantproxy.sidecar.descriptors import is_scarce
from tenantproxy.sidecar.http_protocol import HttpProtocol
from tenantproxy.sidecar.places import Places, network_of
from tenantproxy.sidecar.shortcut import Shortcut, ShortDoor
from tenantproxy.sidecar.tls import ListenerTls

__all__ = ["HttpClient"]

_REFUSED_SECONDS: Final = 1.0


class ClientListener(Protocol):
    """Whose it is: `listener.HttpListener`."""

    tls: ListenerTls | None
    turns: HandshakeTurns
    ceiling: int | None
    head_timeout: float
    write_timeout: float
    places: Places[HttpClient]
    shortcut: ShortDoor[Any] | None
    is_closing: bool

    def is_exempt(self, peer: str, /) -> bool:
        """Whether the address counts for no limit."""
        ...

    def admit(self, client: HttpClient) -> HttpProtocol | bytes:
        """aiohttp's protocol for one more client, or what it is answered."""
        ...

    def gone(self, client: HttpClient) -> None:
        """Its connection is over."""
        ...


class HttpClient(asyncio.Protocol):
    """One connection: admitted and passed on to aiohttp, or refused. A `shortcut.ShortcutClient`."""

    def __init__(self, listener: ClientListener) -> None:
        self._listener = listener
        self._inner: HttpProtocol | None = None  # None: not admitted
        self._transport: asyncio.Transport | None = None  # from the moment of admission
        self._timer: asyncio.TimerHandle | None = None  # set while a head, or the end of a closed client, is waited for
        self._stalled: asyncio.TimerHandle | None = None  # set while it reads too little of what we answer
        self._shortcut: Shortcut | None = None
        self.address: str | None = None  # what it counts for; None: a trusted proxy, or unknown

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        if is_scarce(transport, self._listener.ceiling):
            cast("asyncio.Transport", transport).abort()
            return
        # Here and not when the protocol is made: a burst is accepted, and all its protocols made, in one loop step.
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by its class
        peer = transport.get_extra_info("peername")
        if peer and not self._listener.is_exempt(peer[0]):
            self.address = network_of(peer[0])
        admitted, tls = self._listener.admit(self), self._listener.tls
        if isinstance(admitted, bytes):
            if tls is not None:
                self._transport.abort()  # a handshake for a refusal would be for free
                return
            self._transport.write(admitted)
            self._abort_after(_REFUSED_SECONDS)
            return
        self._abort_after(self._listener.head_timeout)
        if tls is None:
            self._begin(admitted, self._transport)
            return

        def secured(transport: asyncio.Transport) -> None:
            transport.set_protocol(self)
            self._begin(admitted, transport)

        parts: Any = {"turns": self._listener.turns, "on_done": secured, "on_failed": self.connection_lost}
        Handshake.on(self._transport, tls.context, **parts).begin()

    def _begin(self, admitted: HttpProtocol, transport: asyncio.Transport) -> None:
        self._inner, self._transport = admitted, transport
        if self._listener.shortcut is not None:
            self._shortcut = Shortcut(self._listener.shortcut, self, transport)
        admitted.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        if self._shortcut is not None and self._shortcut.offer(data):
            return
        if self._inner is None:
            if self._transport is not None:
                self._transport.close()  # only now: closing on unread bytes would reset our answer away
            return
        if isinstance(self._inner.tunnel, asyncio.Protocol):
            self._inner.tunnel.data_received(data)
        before = self._inner.heads
        self._inner.data_received(data)
        if self._inner.heads != before:
            self._listener.places.works(self)
            self._stop_timer()
        elif self._timer is None and self._inner.is_waiting:
            self._abort_after(self._listener.head_timeout)  # the first bytes of another head

    def is_between(self) -> bool:
        """See `shortcut.ShortcutClient`."""
        return self._inner is not None and self._inner.is_waiting and not self._listener.is_closing

    def is_last(self) -> bool:
        """See `shortcut.ShortcutClient`."""
        return self._listener.is_closing

    def works(self) -> None:
        """See `shortcut.ShortcutClient`."""
        self._listener.places.works(self)
        self._stop_timer()
        assert self._inner is not None
        self._inner.passed(is_under_way=True)

    @property
    def is_unseen(self) -> bool:
        """Whether it is at work, and aiohttp does not know."""
        return self.is_tunnel or (self._shortcut is not None and self._shortcut.is_busy)

    @property
    def is_tunnel(self) -> bool:
        """Whether it is a WebSocket by now, whose other end knows when to close."""
        return self._inner is not None and self._inner.tunnel is not None

    def waits(self) -> None:
        """An answer was sent, and no other request has come; called by aiohttp's protocol and the shortcut."""
        self._listener.places.waits(self)
        if self._inner is not None and self._inner.is_passed:
            self._inner.passed(is_under_way=False)
            if self._listener.is_closing and self._transport is not None:
                self._transport.close()

    def make_room(self, limit: int) -> None:
        """See `unauthenticated.Pending`. The place is free at once."""
        self._listener.places.leave(self)
        self.give_way()

    def give_way(self) -> None:
        """Close: another takes the place. What was answered may still be on its way, for a moment."""
        if self._transport is not None:
            self._transport.close()
            self._abort_after(_REFUSED_SECONDS)

    def _abort_after(self, seconds: float) -> None:
        self._stop_timer()
        if self._transport is not None:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._transport.abort)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _is_read(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def eof_received(self) -> bool | None:
        """See asyncio.Protocol."""
        if self._inner is not None:
            self._inner.eof_received()
        return None

    def pause_writing(self) -> None:
        """See asyncio.Protocol."""
        if self._transport is not None and not self.is_tunnel:  # of one, the server waits, as on the PostgreSQL port
            loop = asyncio.get_running_loop()
            self._stalled = loop.call_later(self._listener.write_timeout, self._transport.abort)
        if self._shortcut is not None:
            self._shortcut.pause()
        if self._inner is not None:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        """See asyncio.Protocol."""
        self._is_read()
        if self._inner is not None:
            self._inner.resume_writing()
        if self._shortcut is not None:
            self._shortcut.resume()

    def connection_lost(self, exc: BaseException | None) -> None:
        """See asyncio.Protocol."""
        self._stop_timer()
        self._is_read()
        self._listener.places.leave(self)
        self._listener.gone(self)
        if self._shortcut is not None:
            self._shortcut.lost()
        if self._inner is not None:
            self._inner.connection_lost(exc)
