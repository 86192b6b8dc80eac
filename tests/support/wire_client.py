"""How does a test speak PostgreSQL's protocol byte by byte? A client that sends whatever it is told, and reads whole.

`client = await WireClient.connect(port, "row1")` has logged in; `WireClient(*await raw(port))` has said nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from typing import Final

from tenantproxy.lifecycle.prove.port_client import SSL_REQUEST, PortClient, cancel_request, startup
from tenantproxy.lifecycle.prove.port_client import PortAnswer as Answer
from tenantproxy.lifecycle.prove.port_client import PortRefused as Refused
from tests.support.waiting import until

__all__ = [
    "ANSWER_SECONDS",
    "PASSWORD",
    "SSL_REQUEST",
    "Answer",
    "Refused",
    "WireClient",
    "cancel",
    "gone",
    "raw",
    "startup",
]

PASSWORD: Final = "password-of-the-test-clients"
ANSWER_SECONDS: Final = 30.0  # of a busy machine; what should come at once is expected within this


async def raw(port: int, *, receive_buffer: int = 0) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection on which nothing was said; `receive_buffer`: bytes that its kernel takes while it does not read."""
    sock = socket.socket()
    try:
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
        return await asyncio.open_connection(sock=sock, limit=max(receive_buffer, 2**16))
    except BaseException:
        sock.close()
        raise


class WireClient(PortClient):
    """One connection to a port of this machine, as a client of the tests has it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        super().__init__(reader, writer, answer_timeout=ANSWER_SECONDS)

    @classmethod
    async def connect(
        cls, port: int, tenant: str, user: str = "all", *, receive_buffer: int = 0, **parameters: str
    ) -> WireClient:
        """Logged in. Raises Refused with what it was told."""
        client = cls(*await raw(port, receive_buffer=receive_buffer))
        try:
            client.send(startup(user, tenant, **parameters))
            await client.log_in()
        except BaseException:
            client.abort()
            raise
        return client

    async def log_in(self, password: str = PASSWORD, *, may_show: bool = False) -> Answer:
        """See `PortClient.log_in`."""
        return await super().log_in(password, may_show=may_show)

    async def secure(self, context: ssl.SSLContext, host: str = "localhost") -> None:
        """Ask for TLS, and begin it. Raises ssl.SSLError, OSError."""
        self.send(SSL_REQUEST)
        assert await self.reader.readexactly(1) == b"S", "the port has no TLS"
        await self.writer.start_tls(context, server_hostname=host)

    async def ended(self) -> bool:
        """Whether the server closes: what it said before is thrown away."""
        await self.rest()
        return self.reader.at_eof() or self.reader.exception() is not None


async def cancel(port: int, pid: int, secret: bytes) -> None:
    """A request to cancel, as libpq sends it; returns when the server has closed."""
    reader, writer = await raw(port)
    try:
        writer.write(cancel_request(pid, secret))
        with contextlib.suppress(ConnectionError):
            assert await reader.read(1) == b"", "a request to cancel is never answered"
    finally:
        writer.transport.abort()


async def gone(client: WireClient) -> None:
    """Wait until the server has closed."""
    await until(client.ended, "the server closes")
