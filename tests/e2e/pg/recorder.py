"""What does a client send, and behind which answers? `python -m tests.e2e.pg.recorder HOST:PORT TRACE COMMAND...`.

COMMAND is run with the port of a relay to PostgreSQL as its first argument, then the words of the environment's
`RECORDED`. TRACE gets a line of JSON for each connection: the parameters of its startup packet without user and
database, and the turns behind its login: what the client sent, and the kinds of what it was answered until it spoke
again, without rows and what comes unasked.
"""

from __future__ import annotations

import asyncio
import json
import os
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

UNTOLD: Final = "DdSNA"  # rows, COPY data, settings, notices, notifications
_CANCEL: Final = 16  # bytes of a request to cancel: Postgrex sends one before it leaves


class Frames:
    """Whole messages of what came so far."""

    def __init__(self) -> None:
        self._left = b""

    def of(self, data: bytes) -> Iterator[bytes]:
        """Those that are whole now."""
        self._left += data
        while len(self._left) > 4 and len(self._left) > (size := struct.unpack_from("!I", self._left, 1)[0]):
            yield self._left[: size + 1]
            self._left = self._left[size + 1 :]


async def relay(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, where: tuple[str, int], trace: list[dict[str, Any]]
) -> None:
    """One connection, until either side ends it."""
    (size,) = struct.unpack("!I", head := await reader.readexactly(4))
    packet = await reader.readexactly(size - 4)
    if size == _CANCEL:
        writer.close()
        return
    words = packet[4:].decode().split("\0")
    said = dict(zip(words[::2], words[1::2], strict=False))
    turns: list[dict[str, str]] = []
    trace.append({"startup": {k: v for k, v in said.items() if k not in ("", "user", "database")}, "turns": turns})
    to_reader, to_writer = await asyncio.open_connection(*where)
    to_writer.write(head + packet)
    is_in = False

    async def from_client() -> None:
        frames = Frames()
        while data := await reader.read(65536):
            for each in frames.of(data):
                if is_in and each[:1] != b"X":
                    if not turns or turns[-1]["heard"]:
                        turns.append({"sent": "", "heard": ""})
                    turns[-1]["sent"] += each.decode("latin-1")
            to_writer.write(data)
        to_writer.close()

    async def from_server() -> None:
        nonlocal is_in
        frames = Frames()
        while data := await to_reader.read(65536):
            for each in frames.of(data):
                kind = chr(each[0])
                if is_in and turns and kind not in UNTOLD:
                    turns[-1]["heard"] += kind
                is_in = is_in or kind == "Z"
            writer.write(data)
        writer.close()

    await asyncio.gather(from_client(), from_server(), return_exceptions=True)


async def record(where: str, path: Path, command: list[str]) -> int:
    """The exit code of the command."""
    host, _, port = where.rpartition(":")
    trace: list[dict[str, Any]] = []
    server = await asyncio.start_server(lambda r, w: relay(r, w, (host, int(port)), trace), "127.0.0.1", 0)
    async with server:
        there = str(server.sockets[0].getsockname()[1])
        process = await asyncio.create_subprocess_exec(*command, there, *os.environ.get("RECORDED", "").split())
        code = await process.wait()
    await asyncio.to_thread(path.write_text, "".join(json.dumps(each) + "\n" for each in trace if each["turns"]))
    return code


if __name__ == "__main__":
    sys.exit(asyncio.run(record(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])))
