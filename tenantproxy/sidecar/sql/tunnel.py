"""How does a WebSocket carry the PostgreSQL port's protocol? A transport over it, and the loop that reads it.

Binary messages are bytes of the protocol, cut anywhere. Everything else is the port's: login, limits, pools, cancels.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextvars import Context
from typing import Any, Final, cast

from aiohttp import WSCloseCode, WSMsgType, web

from tenantproxy.sidecar.http_protocol import HttpProtocol
from tenantproxy.sidecar.pg.encryption import Channel

__all__ = ["WebSocketTransport", "tunnel"]

_BINARY: Final = 0x82  # the last frame of a message, which is the only one
_SHORT, _MEDIUM = 126, 65_536
_BEFORE_LOGIN: Final = 128 * 1024  # bytes: of a frame that is not whole nothing else knows, and it may be large
_CLOSE_SECONDS: Final = 10.0  # that a client has to answer a close


class WebSocketTransport(asyncio.Transport):
    """What a server of the protocol writes goes out as binary messages; `receive` waits while it does not read.

    Messages are written to the connection itself, each in one piece: so its flow control is that of the connection.
    """

    def __init__(self, real: asyncio.Transport, socket: web.WebSocketResponse, *, known: Mapping[str, Any]) -> None:
        """`known`: what is to be known of it, in place of what the connection says."""
        super().__init__()
        self._real = real
        self._socket = socket
        self._known = known
        self._protocol: asyncio.BaseProtocol | None = None
        self._room: int | None = _BEFORE_LOGIN  # bytes that may come; None: the login is over
        self._is_closing = False
        self._closing: asyncio.Task[bool] | None = None
        self._last: asyncio.TimerHandle | None = None  # set while a close is on its way
        self._may_read = asyncio.Event()
        self._may_read.set()

    # --- asyncio.Transport -------------------------------------------------------------------------------------------
    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """See asyncio."""
        return self._known[name] if name in self._known else self._real.get_extra_info(name, default)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """See asyncio."""
        if self._protocol is not None:
            self._room = None  # its login has made way for a client
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        """See asyncio."""
        assert self._protocol is not None
        return self._protocol

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """See asyncio."""
        if data and not (self._is_closing or self._real.is_closing()):
            self._real.write(_head(len(data)) + data)

    def get_write_buffer_size(self) -> int:
        """See asyncio."""
        return self._real.get_write_buffer_size()

    def is_closing(self) -> bool:
        """See asyncio."""
        return self._is_closing or self._real.is_closing()

    def can_write_eof(self) -> bool:
        """See asyncio."""
        return True

    def write_eof(self) -> None:
        """The client is told that nothing more comes, and answers it by closing."""
        self.close()

    def close(self) -> None:
        """See asyncio."""
        if not self._is_closing:
            self._is_closing = True
            self._may_read.set()
            loop = asyncio.get_running_loop()
            self._closing = loop.create_task(self._socket.close(code=WSCloseCode.OK), context=Context())
            # A close waits behind all that was written, without end where its client reads nothing.
            self._last = loop.call_later(2 * _CLOSE_SECONDS, self._real.abort, context=Context())

    def abort(self) -> None:
        """See asyncio."""
        self._is_closing = True
        self._may_read.set()
        self._real.abort()

    def is_reading(self) -> bool:
        """See asyncio."""
        return self._may_read.is_set()

    def pause_reading(self) -> None:
        """See asyncio."""
        if not self._is_closing:
            self._may_read.clear()

    def resume_reading(self) -> None:
        """See asyncio."""
        self._may_read.set()

    def came(self, size: int) -> None:
        """So many bytes came, of frames that need not be whole. Too many before the login is over end it."""
        if self._room is not None:
            self._room -= size
            if self._room < 0:
                self.abort()

    # --- the loop ----------------------------------------------------------------------------------------------------
    async def carry(self) -> None:
        """Pass on what comes until either side closes."""
        while True:
            await self._may_read.wait()
            try:
                message = await self._socket.receive()
            except ConnectionError:
                return  # it was lost under the answer to a ping
            if message.type is WSMsgType.BINARY:
                if message.data and not self._is_closing:
                    cast("asyncio.Protocol", self.get_protocol()).data_received(message.data)
            elif message.type is WSMsgType.TEXT:
                await self._socket.close(code=WSCloseCode.UNSUPPORTED_DATA, message=b"binary messages only")
                return
            else:
                return

    async def end(self) -> None:
        """The tunnel is over: its server is told so, and the close of the WebSocket is waited for."""
        self._is_closing = True
        if self._protocol is not None:
            self._protocol.connection_lost(None)
        if self._closing is not None and self._last is not None:
            await self._closing
            self._last.cancel()


def _head(size: int) -> bytes:
    """Of a message of a server, which is not masked: RFC 6455, 5.2."""
    if size < _SHORT:
        return bytes((_BINARY, size))
    if size < _MEDIUM:
        return bytes((_BINARY, 126)) + size.to_bytes(2, "big")
    return bytes((_BINARY, 127)) + size.to_bytes(8, "big")


async def tunnel(
    request: web.Request,
    connect: Callable[[], asyncio.Protocol],
    *,
    max_message: int,
    channel: Channel,
    client: str,
) -> web.WebSocketResponse:
    """Let a server of the protocol have the request's WebSocket, to its end. `client`: the address it is from."""
    socket = web.WebSocketResponse(max_msg_size=max_message, compress=False, timeout=_CLOSE_SECONDS, decode_text=False)
    await socket.prepare(request)
    real, protocol = request.transport, cast("HttpProtocol", request.protocol)
    if real is None:
        return socket
    peer = real.get_extra_info("peername")
    known: dict[str, Any] = {"channel": channel}
    if isinstance(peer, tuple) and client:
        known["peername"] = (client, peer[1])
    transport = WebSocketTransport(real, socket, known=known)
    server = connect()
    transport.set_protocol(server)
    protocol.tunnel = _Pressure(transport)
    try:
        server.connection_made(transport)
        await transport.carry()
    finally:
        protocol.tunnel = None
        await transport.end()
    return socket


class _Pressure(asyncio.Protocol):
    """Passes on what comes, and that a client does not read as fast as it is written to."""

    def __init__(self, transport: WebSocketTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._transport.came(len(data))

    def pause_writing(self) -> None:
        self._transport.get_protocol().pause_writing()

    def resume_writing(self) -> None:
        self._transport.get_protocol().resume_writing()
