"""What stands in for a server that means us harm? One that says what it is told to, or a real one, misquoted."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

from tests.support.chaos import ChaosProxy, Link, Way

Part = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

NOTICE: Final = b"N" + struct.pack("!I", 4 + 26 + 1000) + b"SNOTICE\0C00000\0Mhear me: " + b"x" * 999 + b"\0\0"
PARAMETER: Final = b"S" + struct.pack("!I", 4 + 14) + b"DateStyle\0ISO\0"
ASKS_SCRAM: Final = b"R" + struct.pack("!II", 23, 10) + b"SCRAM-SHA-256\0\0"
LETS_IN: Final = b"R" + struct.pack("!II", 8, 0)


def challenge(text: bytes) -> bytes:
    """What a server says second in a SCRAM exchange."""
    return b"R" + struct.pack("!II", 8 + len(text), 11) + text


@asynccontextmanager
async def hostile_server(part: Part) -> AsyncIterator[int]:
    """Plays `part` to each connection whose startup packet has come; closes it then. Yields its port."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            (size,) = struct.unpack("!I", await reader.readexactly(4))
            await reader.readexactly(size - 4)
            await part(reader, writer)
        except (OSError, EOFError, asyncio.CancelledError):
            pass  # the client has left, or the test is over
        finally:
            tasks.discard(task)
            writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def says(*texts: bytes) -> Part:
    """Says `texts`, the first at once and each other after something was said to it, then ends."""

    async def part(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for n, text in enumerate(texts):
            if n and not await reader.read(65536):
                return
            writer.write(text)
            await writer.drain()
        writer.write_eof()
        await reader.read()

    return part


def repeats(text: bytes, first: bytes = b"") -> Part:
    """Says `text` again and again, until the peer closes."""

    async def part(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(first)
        while True:
            writer.write(text * 20)
            await writer.drain()

    return part


class LyingProxy(ChaosProxy):
    """Passes on what a real server says, until `lie` is set: then it says that in place of the server's next words.

    `then_ends`: and closes. `endless`: says the lie again and again.
    """

    def __init__(self, host: str, port: int) -> None:
        super().__init__(host, port)
        self.lie: bytes | None = None
        self.then_ends = False
        self.endless = False

    async def _pass(self, link: Link, chunk: bytes, writer: asyncio.StreamWriter, way: Way) -> None:
        if way is Way.TO_CLIENT and self.lie is not None:
            chunk, self.lie = self.lie, None
            with contextlib.suppress(ConnectionError):
                while self.endless:
                    writer.write(chunk)
                    await writer.drain()
            if self.then_ends:
                writer.write(chunk)
                await writer.drain()
                link.cut()
                return
        await super()._pass(link, chunk, writer, way)
