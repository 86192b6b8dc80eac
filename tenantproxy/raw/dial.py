"""How does a backend get its transport? By TCP or a unix socket, with TLS as far as libpq's words ask for it."""

from __future__ import annotations

import asyncio
import os
import ssl
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tenantproxy.config import Server
from tenantproxy.connect.failures import no_tls
from tenantproxy.connect.refusals import place_of
from tenantproxy.connect.server_tls import tls_context
from tenantproxy.connect.tls import shake_hands
from tenantproxy.raw.backend import RawBackend
from tenantproxy.wire.end_point import end_point

__all__ = ["Way", "binding_of", "connect", "ways"]

_SSL_REQUEST: Final = struct.pack("!II", 8, 80877103)
_UNVERIFIED: Final = ("allow", "prefer", "require")


class Way:
    """One way to a server: without TLS (`context` None), or with it, which the server may refuse unless it `must`."""

    __slots__ = ("context", "must")

    def __init__(self, context: ssl.SSLContext | None = None, *, must: bool = False) -> None:
        self.context = context
        self.must = must


def ways(server: Server) -> Iterator[Way]:
    """The ways to try: the next one when the server refuses our role or breaks off TLS, as libpq does."""
    if server.ssl == "disable" or server.host.startswith("/"):
        yield Way()
    elif server.ssl == "allow":
        yield Way()
        yield Way(_context(server), must=True)
    elif server.ssl == "prefer":
        yield Way(_context(server))
        yield Way()
    else:
        yield Way(_context(server), must=True)


def _context(server: Server) -> ssl.SSLContext:
    if server.ssl_root_cert_file or server.ssl_cert_file:
        return tls_context(server)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = server.ssl == "verify-full"
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    own = Path(os.environ.get("PGSSLROOTCERT") or Path.home() / ".postgresql" / "root.crt")
    if server.ssl not in ("allow", "prefer") and own.is_file():  # "require" is "verify-ca" where there is one: libpq
        context.load_verify_locations(own)
    elif server.ssl in _UNVERIFIED:
        context.verify_mode = ssl.CERT_NONE
    else:
        context.load_default_certs()
    return context


async def connect(backend: RawBackend, server: Server, way: Way) -> None:
    """Give `backend` a transport. Raises OSError (ssl.SSLError too) or ConnectFailed; the transport is aborted then."""
    loop = asyncio.get_running_loop()
    backend.server = server
    if server.host.startswith("/"):
        await loop.create_unix_connection(lambda: backend, f"{server.host}/.s.PGSQL.{server.port}")
    else:
        await loop.create_connection(lambda: backend, server.host, server.port)
    if way.context is None:
        return
    try:
        await _secure(backend, server, way.context, must=way.must)
    except BaseException:
        backend.transport.set_protocol(backend)  # which hears of its end
        backend.transport.abort()
        raise


def binding_of(transport: asyncio.BaseTransport) -> bytes:
    """By what a login on it is bound to the server's certificate; empty without TLS."""
    session: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
    certificate = None if session is None else session.getpeercert(binary_form=True)
    return b"" if certificate is None else end_point(certificate)


async def _secure(backend: RawBackend, server: Server, context: ssl.SSLContext, *, must: bool) -> None:
    answer = await _ask(backend)
    if answer == b"S":
        # Whatever came in the clear after this byte would be taken for the server's own word: `_ask` lets nothing pass.
        if backend.is_closed:
            raise ConnectionResetError("the server closed the connection while TLS began")
        transport = await shake_hands(backend.transport, context, server.host)
        transport.set_protocol(backend)
        backend.use(transport)
    elif answer != b"N":
        raise ConnectionResetError("the server does not answer as PostgreSQL does")
    elif must:
        raise no_tls(place_of(backend.pool.key))


async def _ask(backend: RawBackend) -> bytes:
    """What the server says to SSLRequest: exactly what came first, and nothing may come behind it."""
    answered: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def receive(data: bytes) -> None:
        if answered.done():
            backend.transport.abort()
        else:
            answered.set_result(data)

    def lost(exc: Exception | None) -> None:
        if not answered.done():
            answered.set_exception(exc or ConnectionResetError("the server closed the connection"))

    backend.sink, backend.on_lost = receive, lost
    backend.write(_SSL_REQUEST)
    return await answered
