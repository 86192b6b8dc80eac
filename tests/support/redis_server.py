"""A real Redis of the test's own, which can be killed, stopped and started again; and a peer that only claims to be."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import pytest
from redis.asyncio import Redis

from tenantproxy.embedded.server import _free_port
from tests.support.waiting import wait_until

PASSWORD: Final = "of-redis-alone"
_PROGRAM: Final = shutil.which("redis-server")


class RedisServer:
    """One that keeps everything in its memory."""

    def __init__(self, folder: Path) -> None:
        if _PROGRAM is None:
            pytest.skip("Redis is not there: apt-get install redis-server")
        self.port = _free_port()
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """For `[registry.redis]`."""
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, and wait until it listens."""
        assert _PROGRAM is not None
        options = ["--save", "", "--appendonly", "no", "--bind", "127.0.0.1", "--port", str(self.port)]
        with (self._folder / "redis.log").open("ab") as log:
            process = self._process = subprocess.Popen(
                [_PROGRAM, "-", *options],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=self._folder,
            )
        assert process.stdin is not None
        process.stdin.write(f"requirepass {PASSWORD}\n".encode())
        process.stdin.close()
        wait_until(lambda: process.poll() is not None or self._listens(), "Redis listens")
        assert process.poll() is None, (self._folder / "redis.log").read_text()

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def kill(self) -> None:
        """End it at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(timeout=30)
            self._process = None

    def freeze(self) -> None:
        """It accepts connections, and answers nothing."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """It goes on."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGCONT)

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Redis]:
        """Who has its password, and may write what he likes."""
        async with Redis(host="127.0.0.1", port=self.port, password=PASSWORD) as client:
            yield client


@asynccontextmanager
async def liar(answer: bytes) -> AsyncIterator[int]:
    """The port of a peer that greets as Redis does, and says `answer` when it is asked for entries."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while asked := await reader.read(65_536):
                if b"GETRANGE" not in asked:  # the greeting
                    writer.write(b"+OK\r\n" * asked.count(b"*"))
                    continue
                writer.write(answer)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]
