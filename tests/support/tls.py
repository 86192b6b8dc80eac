"""How does a test get TLS before a server that has none? Certificates of its own, and a proxy that speaks it."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import Final

from tests.support.authority import self_signed
from tests.support.chaos import ChaosProxy

_SSL_REQUEST: Final = b"\0\0\0\x08\x04\xd2\x16\x2f"


def certificate(folder: Path, *, host: str) -> Path:
    """A new certificate for `host`, signed by itself, with its key in one file."""
    pair, path = self_signed(folder, host), folder / f"{host}.pem"
    path.write_bytes(pair.key.read_bytes() + pair.certificate.read_bytes())
    return path


class TlsProxy(ChaosProxy):
    """Speaks TLS with clients that ask for it, and passes on what they say in the clear.

    `answer`: what it says to SSLRequest; with `N` it goes on in the clear, and with anything else not at all.
    """

    def __init__(self, host: str, port: int, pem: Path) -> None:
        super().__init__(host, port)
        self.answer = b"S"
        self.secured = 0  # handshakes that succeeded
        self.in_clear = 0  # connections that went on without
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._context.load_cert_chain(pem)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = await reader.readexactly(8)
        if first != _SSL_REQUEST:
            self.in_clear += 1
            await self._pass_all(first, reader, writer)
            return
        writer.write(self.answer)
        if self.answer == b"N":
            self.in_clear += 1
        elif self.answer == b"S":
            await writer.start_tls(self._context)
            self.secured += 1
        else:
            await reader.read()  # until its client has gone
            return
        await self._pass_all(b"", reader, writer)

    async def _pass_all(self, first: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_connection(*self._target)
        to_server.write(first)
        pumps = [
            asyncio.ensure_future(_pump(reader, to_server)),
            asyncio.ensure_future(_pump(from_server, writer)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            to_server.close()  # first: this may be cancelled once more
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while chunk := await reader.read(65536):
        writer.write(chunk)
        await writer.drain()
