"""How many clients may an HTTP listener have, and how does it stop? Only the composition root opens and closes one."""

from __future__ import annotations

import asyncio
import json
from typing import Final, cast

from aiohttp import web

from tenantproxy.metrics.listeners import ListenerStats
from tenantproxy.sidecar.descriptors import is_scarce

__all__ = ["HttpListener"]

_LINE_BYTES: Final = 8190  # of the request line, and of each header
_HEADERS: Final = 64
_KEEPALIVE_SECONDS: Final = 75.0
_REFUSED_SECONDS: Final = 1.0
_HEAD_SECONDS: Final = 10.0

_BODY: Final = json.dumps(
    {"type": "about:blank", "title": "too many clients", "status": 503, "code": "too_many_clients"}
).encode()
_REFUSAL: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/problem+json\r\nRetry-After: 1\r\n"
    b"Connection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(_BODY), _BODY)
)


class HttpListener:
    """Serves `app` on `host:port` (0: a free one) to `max_clients` connections; one more is answered 503 and closed.

    Whoever has not sent the head of a first request after `head_timeout` seconds is closed: silence is free of charge,
    and would take the places of all.
    """

    def __init__(
        self,
        app: web.Application,
        *,
        protocol: str,
        host: str,
        port: int,
        max_clients: int,
        drain_timeout: float,
        ceiling: int | None = None,
        head_timeout: float = _HEAD_SECONDS,
    ) -> None:
        self.ceiling = ceiling  # see `descriptors.ceiling`
        self.head_timeout = head_timeout
        self._runner = web.AppRunner(
            app,
            access_log=None,
            keepalive_timeout=_KEEPALIVE_SECONDS,
            shutdown_timeout=drain_timeout,
            max_line_size=_LINE_BYTES,
            max_field_size=_LINE_BYTES,
            max_headers=_HEADERS,
        )
        self._protocol = protocol
        self._host = host
        self._port = port
        self._max_clients = max_clients
        self._clients = 0  # admitted and not yet lost
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        """Bind and accept. Raises OSError when the address cannot be had; nothing is left open then."""
        await self._runner.setup()
        try:
            loop = asyncio.get_running_loop()
            self._server = await loop.create_server(lambda: _Client(self), self._host, self._port, backlog=1024)
        except BaseException:
            await self._runner.cleanup()
            raise

    @property
    def url(self) -> str:
        """Where it listens, with the real port. RuntimeError while it does not."""
        if self._server is None or not self._server.sockets:
            raise RuntimeError("the listener is not open")
        host, port = self._server.sockets[0].getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    @property
    def is_open(self) -> bool:
        """Whether it accepts."""
        return self._server is not None and self._server.is_serving()

    def stats(self) -> ListenerStats:
        """The clients of this moment."""
        return ListenerStats(protocol=self._protocol, clients=self._clients, limit=self._max_clients)

    async def close(self) -> None:
        """Stop accepting; what runs may finish within `drain_timeout`, idle connections end at once; cut the rest."""
        if self._server is not None:
            self._server.close()
        await self._runner.cleanup()

    def admit(self) -> asyncio.Protocol | None:
        """aiohttp's protocol for one more client, or None when there are as many as may be; called by `_Client`."""
        server = self._runner.server
        if server is None or self._clients >= self._max_clients:
            return None
        self._clients += 1
        return server()

    def lost(self) -> None:
        """An admitted client is gone; called by `_Client`, once."""
        self._clients -= 1


class _Client(asyncio.Protocol):
    """One connection: admitted and passed on to aiohttp, or told 503."""

    def __init__(self, listener: HttpListener) -> None:
        self._listener = listener
        self._inner: asyncio.Protocol | None = None  # None: not admitted
        self._patience: asyncio.TimerHandle | None = None  # set while a refused client, or a first head, is waited for
        self._tail = b""  # of what came of that head

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if is_scarce(transport, self._listener.ceiling):
            cast("asyncio.Transport", transport).abort()
            return
        # Here and not when the protocol is made: a burst is accepted, and all its protocols made, in one loop step.
        self._inner = self._listener.admit()
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by its class
        if self._inner is None:
            self._transport.write(_REFUSAL)
        else:
            self._inner.connection_made(transport)
        seconds = _REFUSED_SECONDS if self._inner is None else self._listener.head_timeout
        self._patience = asyncio.get_running_loop().call_later(seconds, self._transport.abort)

    def data_received(self, data: bytes) -> None:
        if self._inner is not None:
            if self._patience is not None:
                self._watch_head(self._patience, data)
            self._inner.data_received(data)
        else:
            self._transport.close()  # only now: closing on unread bytes would reset our answer away

    def _watch_head(self, patience: asyncio.TimerHandle, data: bytes) -> None:
        """Between later requests aiohttp's own keep-alive holds."""
        seen = self._tail + data
        self._tail = seen[-2:]
        if b"\n\r\n" in seen or b"\n\n" in seen:
            patience.cancel()
            self._patience = None

    def eof_received(self) -> bool | None:
        return None if self._inner is None else self._inner.eof_received()

    def pause_writing(self) -> None:
        if self._inner is not None:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        if self._inner is not None:
            self._inner.resume_writing()

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._patience is not None:
            self._patience.cancel()
        if self._inner is not None:
            self._listener.lost()
            self._inner.connection_lost(exc)  # type: ignore[arg-type]  # aiohttp takes any
