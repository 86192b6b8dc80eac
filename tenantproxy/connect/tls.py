"""How does a connection come to speak TLS? A handshake on an open transport, and the transport that comes out of it.

Made of memory and bytes (`ssl.MemoryBIO`), so that every event loop does the same and a connection of the compiled path
stays one: after the handshake it encrypts itself. Handshakes cost far more than queries, so they take turns: in one
step of the event loop they do no more than `HandshakeTurns` lets them, however many there are.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from time import perf_counter
from typing import Any, Final, TypeAlias

from tenantproxy.connect.tls_records import first_flight
from tenantproxy.connect.tls_transport import TlsTransport

__all__ = ["Handshake", "HandshakeTurns", "Secured", "shake_hands"]

_TURN_SECONDS: Final = 0.001  # of one step of the event loop; a handshake with an RSA key is longer, and has one alone
_MAX_HANDSHAKE: Final = 128 * 1024  # bytes of a peer's
_MAX_UNREAD: Final = 64 * 1024  # from which on it has to wait for its turn
_RECORDS: Final = 64  # that one turn looks at

Secured: TypeAlias = Callable[[asyncio.Transport], None]
"""Called with the transport that encrypts, and sets its protocol: what came behind the handshake follows."""


class HandshakeTurns:
    """Which handshakes go on in this step of the event loop? First come, first served, and no more than a millisecond.

    State: those that have something to do. Used by one event loop.
    """

    def __init__(self) -> None:
        self._waiting: deque[Handshake] = deque()
        self._is_called = False

    def add(self, handshake: Handshake) -> None:
        """It has heard something."""
        self._waiting.append(handshake)
        if not self._is_called:
            self._is_called = True
            asyncio.get_running_loop().call_soon(self._go_on)

    def _go_on(self) -> None:
        until = perf_counter() + _TURN_SECONDS
        try:
            while self._waiting:
                self._waiting.popleft().go_on()
                if perf_counter() >= until:
                    break
        finally:
            self._is_called = bool(self._waiting)
            if self._waiting:
                asyncio.get_running_loop().call_soon(self._go_on)


class Handshake(asyncio.Protocol):
    """One handshake on `transport`, whose protocol it is until it is over. Begins when `begin` is called.

    Ends with one of two calls: `on_done`, or `on_failed` with an ssl.SSLError or OSError, after which the transport is
    closed as soon as the peer has been sent the reason. Without a deadline of its own: the caller aborts the transport.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        session: ssl.SSLObject,
        bios: tuple[ssl.MemoryBIO, ssl.MemoryBIO],
        *,
        turns: HandshakeTurns,
        on_done: Secured,
        on_failed: Callable[[Exception], None],
    ) -> None:
        self._transport = transport
        self._session = session
        self._incoming, self._outgoing = bios
        self._turns = turns
        self._on_done = on_done
        self._on_failed = on_failed
        self._received = bytearray()
        self._read = 0  # bytes that OpenSSL has had
        self._has_begun = session.server_side  # a client speaks first
        self._is_queued = False
        self._is_paused = False  # enough is received
        self._is_ended = False  # the peer sends nothing behind what was received
        self._is_over = False

    @classmethod
    def on(
        cls, transport: asyncio.Transport, context: ssl.SSLContext, *, server_hostname: str | None = None, **parts: Any
    ) -> Handshake:
        """With `context`: of a server, or of a client that wants `server_hostname`. `parts`: as of the constructor."""
        bios = ssl.MemoryBIO(), ssl.MemoryBIO()
        is_server = context.protocol is ssl.PROTOCOL_TLS_SERVER
        session = context.wrap_bio(*bios, server_side=is_server, server_hostname=server_hostname)
        return cls(transport, session, bios, **parts)

    @property
    def session(self) -> ssl.SSLObject:
        """What is known of the connection."""
        return self._session

    def begin(self, data: bytes = b"") -> None:
        """Begin; `data` is what the peer has said of it."""
        self._transport.set_protocol(self)
        if data or not self._has_begun:
            self.data_received(data)

    # --- asyncio.Protocol --------------------------------------------------------------------------------------------
    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        if self._is_over:
            self._transport.abort()  # a server that speaks before anyone hears it
            return
        self._received += data
        if len(self._received) > _MAX_UNREAD:
            self._transport.pause_reading()
            self._is_paused = True
        self._queue()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio."""
        if not self._is_over:
            self._is_over = True
            self._on_failed(exc or ConnectionResetError("the peer closed the connection while TLS began"))

    def eof_received(self) -> bool:
        """See asyncio: the transport closes, when what came before has had its turn."""
        self._is_ended = True
        return self._is_queued

    # --- its turn ----------------------------------------------------------------------------------------------------
    def _queue(self) -> None:
        if not self._is_queued:
            self._is_queued = True
            self._turns.add(self)

    def go_on(self) -> None:
        """Take the next step; called by the turns."""
        self._is_queued = False
        for _ in range(_RECORDS):
            if self._is_over or self._transport.is_closing():
                return
            size = first_flight(self._received)
            if not size and self._has_begun:
                break
            self._step(size)
        else:
            self._queue()  # a record for each byte
            return
        self._resume()
        if self._is_ended:
            self._transport.close()

    def _step(self, size: int) -> None:
        """Let OpenSSL have the next `size` bytes, and none of what is behind them."""
        self._has_begun = True
        self._read += size
        if self._read > _MAX_HANDSHAKE:
            self._fail(ssl.SSLError("the peer sends more than a handshake has"))
            return
        self._incoming.write(self._received[:size])
        del self._received[:size]
        try:
            self._session.do_handshake()
        except ssl.SSLWantReadError:
            self._send()
            return
        except (ssl.SSLError, ValueError) as exc:  # ValueError: a certificate's name that cannot be one
            self._send()  # the alert that tells the peer why
            self._fail(exc if isinstance(exc, ssl.SSLError) else ssl.SSLError(str(exc)))
            return
        self._finish()

    def _resume(self) -> None:
        if self._is_paused and not self._transport.is_closing():
            self._is_paused = False
            self._transport.resume_reading()

    def _send(self) -> None:
        if self._outgoing.pending:
            self._transport.write(self._outgoing.read())

    def _fail(self, error: Exception) -> None:
        self._is_over = True
        self._transport.close()
        self._on_failed(error)

    def _finish(self) -> None:
        """What the peer sent behind its last message of the handshake is the first of the session, and encrypted."""
        self._is_over = True
        secured = _encrypting(self._transport, self._session, self._incoming, self._outgoing)
        try:
            self._on_done(secured)
        except BaseException:
            secured.abort()
            raise
        if self._received:
            secured.received(bytes(self._received))
            self._received.clear()
        secured.flush()  # the end of the handshake and the session's ticket, unless an answer has taken them with it
        self._resume()
        if self._is_ended and not secured.is_closing() and not secured.get_protocol().eof_received():
            secured.close()


async def shake_hands(transport: asyncio.Transport, context: ssl.SSLContext, server_hostname: str) -> asyncio.Transport:
    """The transport that encrypts, of a client; its protocol is to be set before anything else is awaited.

    Raises ssl.SSLError or OSError. When it fails or is cancelled, the caller aborts `transport`.
    """
    done: asyncio.Future[asyncio.Transport] = asyncio.get_running_loop().create_future()

    def secured(transport: asyncio.Transport) -> None:
        if not done.done():
            done.set_result(transport)

    def failed(error: Exception) -> None:
        if not done.done():
            done.set_exception(error)

    turns = HandshakeTurns()  # of its own: connects are few at once
    handshake = Handshake.on(
        transport, context, server_hostname=server_hostname, turns=turns, on_done=secured, on_failed=failed
    )
    handshake.begin()
    secured_by = await done
    if secured_by.is_closing():
        raise ConnectionResetError(
            "the server closed the connection behind the handshake, or spoke before it was asked"
        )
    return secured_by


def _encrypting(transport: Any, session: ssl.SSLObject, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> Any:
    """The transport of the session, with `received` and `flush`: that of the compiled path itself, or one on it."""
    encrypt = getattr(transport, "encrypt", None)
    if encrypt is None:
        return TlsTransport(transport, session, incoming, outgoing)
    encrypt(session, incoming, outgoing)
    return transport
