"""What does a bad network do? A TCP proxy before a real server that can cut, delay, stall, slice, reset and refuse.

`async with ChaosProxy("127.0.0.1", server.port) as proxy:` then connect to `proxy.port`. Every setting may be changed
while connections are open and holds from the next bytes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from dataclasses import dataclass, field
from enum import StrEnum
from types import TracebackType
from typing import Final, Self

_CHUNK: Final = 65536
_RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER of zero: close() sends RST and throws away what is queued


class Way(StrEnum):
    """Which bytes."""

    TO_SERVER = "to_server"
    TO_CLIENT = "to_client"


@dataclass(slots=True)
class Link:
    """One proxied connection. `passed` counts the bytes that went through, by way."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    passed: dict[Way, int] = field(default_factory=lambda: dict.fromkeys(Way, 0))
    reset_after: dict[Way, int] = field(default_factory=dict)

    def cut(self) -> None:
        """An orderly end (FIN) of both sides."""
        self.client.close()
        self.server.close()

    def reset(self) -> None:
        """A hard end: RST to both sides, what was still queued is lost."""
        for writer in (self.client, self.server):
            sock = writer.get_extra_info("socket")
            if sock is not None and sock.fileno() >= 0:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            writer.transport.abort()


class ChaosProxy:
    """Listens on 127.0.0.1 and passes everything to `host:port`, in the manner that its attributes say.

    `delay`: seconds before each chunk is passed on, either way. `slice_size`: at most so many bytes in one write.
    `refusing`: new connections are reset at once. `stall()` passes nothing more (a black hole: no FIN, no RST, and
    what comes is not even read) until `heal()`; `unresponsive` accepts and never connects to the server.
    """

    def __init__(self, host: str, port: int) -> None:
        self.host = "127.0.0.1"
        self.port = 0  # set by `open`
        self.delay = 0.0
        self.slice_size: int | None = None
        self.refusing = False
        self.unresponsive = False
        self.links: list[Link] = []  # open ones, oldest first
        self.accepted = 0  # since the start, refused ones too
        self._target = (host, port)
        self._reset_next: dict[Way, int] = {}
        self._flowing = {way: asyncio.Event() for way in Way}
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.heal()

    async def open(self) -> Self:
        """Listen on a free port."""
        self._server = await asyncio.start_server(self._accept, self.host, self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def close(self) -> None:
        """Reset what is open, stop listening; no task is left."""
        if self._server is not None:
            self._server.close()
        for link in list(self.links):
            link.reset()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut_all(self) -> None:
        """FIN on every open connection."""
        for link in list(self.links):
            link.cut()

    def reset_all(self) -> None:
        """RST on every open connection."""
        for link in list(self.links):
            link.reset()

    def reset_after(self, count: int, way: Way = Way.TO_SERVER) -> None:
        """RST each connection as soon as `count` more bytes went `way`: exactly so many, not one more."""
        for link in self.links:
            link.reset_after[way] = link.passed[way] + count
        self._reset_next[way] = count

    def stall(self, *ways: Way) -> None:
        """Let nothing more through `ways` (both by default): neither side is told."""
        for way in ways or tuple(Way):
            self._flowing[way].clear()

    def heal(self) -> None:
        """Let everything through again, in the order it came; what was cut stays cut."""
        self.delay, self.slice_size, self.refusing, self.unresponsive = 0.0, None, False, False
        self._reset_next.clear()
        for link in self.links:
            link.reset_after.clear()
        for flowing in self._flowing.values():
            flowing.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.accepted += 1
        try:
            await self._serve(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass  # either side went, or the test is over
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refusing:
            Link(writer, writer).reset()
            return
        if self.unresponsive:
            await asyncio.Event().wait()
        from_server, to_server = await asyncio.open_connection(*self._target)
        link = Link(writer, to_server, reset_after=dict(self._reset_next))
        self.links.append(link)
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pump(link, reader, to_server, Way.TO_SERVER))
                both.create_task(self._pump(link, from_server, writer, Way.TO_CLIENT))
        except* OSError:
            pass
        finally:
            self.links.remove(link)
            to_server.close()

    async def _pump(self, link: Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: Way) -> None:
        while True:
            await self._flowing[way].wait()
            chunk = await reader.read(_CHUNK)
            await self._flowing[way].wait()
            if not chunk:
                break
            if self.delay:
                await asyncio.sleep(self.delay)
            await self._pass(link, chunk, writer, way)
        if not writer.is_closing() and writer.can_write_eof():
            with contextlib.suppress(OSError):
                writer.write_eof()

    async def _pass(self, link: Link, chunk: bytes, writer: asyncio.StreamWriter, way: Way) -> None:
        while chunk:
            size = min(len(chunk), self.slice_size or len(chunk))
            limit = link.reset_after.get(way)
            if limit is not None:
                size = min(size, limit - link.passed[way])
            part, chunk = chunk[:size], chunk[size:]
            writer.write(part)
            await writer.drain()
            link.passed[way] += size
            if limit is not None and link.passed[way] >= limit:
                link.reset()
                raise ConnectionResetError
            if self.slice_size:
                await asyncio.sleep(0)  # one write, one segment: TCP_NODELAY is asyncio's default

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
