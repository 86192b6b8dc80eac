"""How does a client of the console get its answers? One message after the other, the next one when the last is done."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context
from typing import Final

from tenantproxy.errors import ProtocolError, TenantProxyError
from tenantproxy.sidecar.pg.console.console import Console
from tenantproxy.wire import answers, frames
from tenantproxy.wire.frames import HEADER, length_of

__all__ = ["ConsoleClient"]

_MAX_MESSAGE: Final = 65_536  # a command of the console is short


class ConsoleClient(asyncio.Protocol):
    """One client of the console between its login and its end. `on_end` is called once."""

    def __init__(self, transport: asyncio.Transport, console: Console, *, on_end: Callable[[], None]) -> None:
        self._transport = transport
        self._console = console
        self._on_end = on_end
        self._buffer = bytearray()
        self._task: asyncio.Task[None] | None = None  # while something is being answered
        self._is_over = False

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        self._buffer += data
        if self._task is None:
            loop = asyncio.get_running_loop()
            self._task = loop.create_task(self._answer(), name="tenantproxy pg console", context=Context())
        elif len(self._buffer) > 2 * _MAX_MESSAGE:
            self._transport.pause_reading()

    async def _answer(self) -> None:
        try:
            while (message := self._next()) is not None:
                kind, payload = message
                if kind == frames.TERMINATE:
                    self._transport.close()
                    break
                self._transport.write(await self._console.receive(kind, payload))
        except TenantProxyError as exc:
            self.end(exc)
        finally:
            self._task = None
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def _next(self) -> tuple[int, bytes] | None:
        """Take the next message. Raises ProtocolError for one that no client of the console sends."""
        buffer = self._buffer
        if len(buffer) < HEADER or self._transport.is_closing():
            return None
        size = length_of(bytes(buffer[:HEADER]), 0)
        if size > _MAX_MESSAGE:
            raise ProtocolError("a message is too long for the console", detail=f"{size} bytes")
        if len(buffer) < size:
            return None
        kind, payload = buffer[0], bytes(buffer[HEADER:size])
        del buffer[:size]
        return kind, payload

    def end(self, error: TenantProxyError) -> None:
        """Say why, and close."""
        self._transport.write(answers.error_response(error, fatal=True))
        self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        if self._is_over:
            return
        self._is_over = True
        if self._task is not None:
            self._task.cancel()
        self._on_end()
