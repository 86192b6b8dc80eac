"""How many clients may an HTTP listener have, and how does it stop? Only the composition root opens and closes one."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from aiohttp import web

from tenantproxy.connect.tls import HandshakeTurns
from tenantproxy.metrics.listeners import ListenerStats
from tenantproxy.sidecar.http_client import HttpClient
from tenantproxy.sidecar.http_protocol import HttpProtocol
from tenantproxy.sidecar.places import Places
from tenantproxy.sidecar.shortcut import ShortDoor
from tenantproxy.sidecar.sockets import Listening, serve
from tenantproxy.sidecar.tls import ListenerTls
from tenantproxy.sidecar.unauthenticated import Unauthenticated

__all__ = ["HttpListener"]

_LINE_BYTES: Final = 8190  # of the request line, and of each header
_HEADERS: Final = 64
_KEEPALIVE_SECONDS: Final = 75.0
_HEAD_SECONDS: Final = 10.0
_WRITE_SECONDS: Final = 30.0
_LAST_SECONDS: Final = 1.0  # a connection that was silent for so long is closed when the listener is
_LOOK_SECONDS: Final = 0.02


def _refusal(status: bytes, title: str) -> bytes:
    code = int(status[:3])
    problem = {"type": "about:blank", "title": title, "status": code, "code": title.replace(" ", "_")}
    body = json.dumps(problem).encode()
    return (
        b"HTTP/1.1 %s\r\nContent-Type: application/problem+json\r\nRetry-After: 1\r\nCache-Control: no-store\r\n"
        b"Connection: close\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)
    )


_REFUSAL: Final = _refusal(b"503 Service Unavailable", "too many clients")
_REFUSAL_OF_ADDRESS: Final = _refusal(b"429 Too Many Requests", "too many clients of this address")


class HttpListener:
    """Serves `app` on `host:port` (0: a free one) to `max_clients` connections.

    One more takes the place of the connection that has waited longest for a next request, `idle_grace` seconds at
    least; where all are at work it is answered 503 and closed. `max_per_address` (0: no limit) does the same for each
    address that `is_exempt` does not hold for, with 429. The head of each request must be complete `head_timeout`
    seconds after its first byte, that of the first request after the connection was opened: silence is free of charge,
    and would take the places of all. For the same reason a client that takes nothing of what it asked for is cut off
    after `write_timeout` seconds. `max_unknown` (0: no such limit): connections of which no request has shown who asks
    (`known`); one more closes the oldest of them, so that those who are known find a place however many others come.
    `max_readers`, where there is `max_unknown`: connections of those who may only look; one more takes the place of one
    that has waited for long, or finds none. `tls`: with what clients must speak; replaced when certificates are read
    again. A handshake is part of the first head. `shortcut`: answers what it takes without `app`.
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
        write_timeout: float = _WRITE_SECONDS,
        max_per_address: int = 0,
        max_unknown: int = 0,
        max_readers: int | None = None,
        idle_grace: float = 1.0,
        is_exempt: Callable[[str], bool] = lambda peer: False,
        tls: ListenerTls | None = None,
        sockets: Sequence[socket.socket] = (),
        shortcut: ShortDoor[Any] | None = None,
    ) -> None:
        self.tls = tls
        self.shortcut = shortcut
        self.turns = HandshakeTurns()
        self.ceiling = ceiling  # see `descriptors.ceiling`
        self.head_timeout = head_timeout
        self.write_timeout = write_timeout
        self.is_exempt = is_exempt
        self.places: Places[HttpClient] = Places(max_clients, max_per_address, HttpClient.give_way, grace=idle_grace)
        self.unknown = Unauthenticated(max_unknown) if max_unknown else None
        self.readers: set[HttpClient] = set()
        self._max_readers = max_clients if max_readers is None else max_readers
        app.on_response_prepare.append(self._say_last)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=drain_timeout)
        self._drain_timeout = drain_timeout
        self._sockets = sockets  # what it is to listen on; none: it binds its own
        self._protocol = protocol
        self._host = host
        self._port = port
        self._server: Listening | None = None
        self.is_closing = False

    async def open(self) -> None:
        """Bind and accept. Raises OSError when the address cannot be had; nothing is left open then."""
        await self._runner.setup()
        try:
            self._server = await serve(lambda: HttpClient(self), self._host, self._port, sockets=self._sockets)
        except BaseException:
            await self._runner.cleanup()
            raise

    async def take_clients(self, wanted: bool) -> None:
        """Leave what connects to the other processes of its sockets, or accept again. Raises OSError."""
        if self._server is not None and not self.is_closing:
            await self._server.take_clients(wanted)

    @property
    def url(self) -> str:
        """Where it listens, with the real port. RuntimeError while it does not."""
        if self._server is None:
            raise RuntimeError("the listener is not open")
        host, port = self._server.address
        scheme = "http" if self.tls is None else "https"
        return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"

    @property
    def is_open(self) -> bool:
        """Whether it accepts."""
        return self._server is not None and self._server.is_serving()

    def adopt(self, *, max_clients: int, max_per_address: int, is_exempt: Callable[[str], bool]) -> None:
        """Other limits from now on; who is connected stays."""
        self.places.limit, self.places.per_address = max_clients, max_per_address
        self.is_exempt = is_exempt

    def stats(self) -> ListenerStats:
        """The clients of this moment."""
        return ListenerStats(
            protocol=self._protocol,
            clients=len(self.places),
            limit=self.places.limit,
            certificate_expires_at=None if self.tls is None else self.tls.expires_at,
        )

    async def close(self) -> None:
        """Stop accepting; what runs may finish within `drain_timeout`, and is answered `Connection: close`.

        The rest is cut. A connection without a request is closed when it has been silent for a second: the next request
        of a busy client may be on its way, and a connection that is closed under it makes it fail.
        """
        self.is_closing = True
        if self._server is not None:
            self._server.close()
            loop = asyncio.get_running_loop()
            until = loop.time() + min(_LAST_SECONDS, self._drain_timeout)
            while self.places.recently_idle(_LAST_SECONDS) and loop.time() < until:  # noqa: ASYNC110 - once in a life
                await asyncio.sleep(_LOOK_SECONDS)
            until = loop.time() + self._drain_timeout
            while any(client.is_unseen for client in self.places) and loop.time() < until:  # noqa: ASYNC110
                await asyncio.sleep(_LOOK_SECONDS)  # from then on aiohttp reads nothing more of any connection
        await self._runner.cleanup()

    async def _say_last(self, request: web.Request, response: web.StreamResponse) -> None:
        if self.is_closing:
            response.force_close()
            response.headers["Connection"] = "close"

    def admit(self, client: HttpClient) -> HttpProtocol | bytes:
        """aiohttp's protocol for one more client, or what it is answered; called by `HttpClient`."""
        server = self._runner.server
        if server is None:
            return _REFUSAL
        if self.unknown is not None:
            self.unknown.add(client)
        if not self.places.take(client):
            self.gone(client)
            return _REFUSAL if client.address is None or len(self.places) >= self.places.limit else _REFUSAL_OF_ADDRESS
        return HttpProtocol(
            server,
            loop=asyncio.get_running_loop(),
            on_idle=client.waits,
            on_known=partial(self.known, client),
            access_log=None,
            keepalive_timeout=_KEEPALIVE_SECONDS,
            max_line_size=_LINE_BYTES,
            max_field_size=_LINE_BYTES,
            max_headers=_HEADERS,
        )

    def known(self, client: HttpClient, is_reader: bool) -> bool:
        """A request has shown whose it is; False: one that may only look, and there are enough of these already.

        Who may do more once is not counted among those any more. Safe to call again.
        """
        if self.unknown is None:
            return True
        if is_reader and client in self.unknown:
            if len(self.readers) >= self._max_readers:
                closed = self.places.close_idle_of(self.readers)
                if closed is None:
                    return False
                self.readers.discard(closed)
            self.readers.add(client)
        elif not is_reader:
            self.readers.discard(client)
        self.unknown.discard(client)
        return True

    def gone(self, client: HttpClient) -> None:
        """Its connection is over. Safe to call again."""
        self.readers.discard(client)
        if self.unknown is not None:
            self.unknown.discard(client)
