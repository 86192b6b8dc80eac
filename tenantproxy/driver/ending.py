"""How does a connection of the driver end, and what runs on it? In bounded time, whatever its server does."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager, suppress
from contextvars import Context
from typing import Any, Final

from tenantproxy.connect.keepalive import keep_alive
from tenantproxy.connect.watch import keep_socket
from tenantproxy.driver.joined import JoiningLoop, JoiningTransport
from tenantproxy.driver.private import AsyncpgConnection

__all__ = ["EndableConnection"]

CANCEL_TIMEOUT: Final = 2.0  # a peer that ends nothing for so long, however often it is asked to, is aborted
_ASK_AGAIN_SECONDS: Final = 0.1  # then twice as long each time


class _Unread(asyncio.Protocol):
    """Takes what a server still sends to a connection that is not used any more, and tells its end."""

    def __init__(self, ended: asyncio.Future[None]) -> None:
        self._ended = ended

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._ended.done():
            self._ended.set_result(None)


class EndableConnection(AsyncpgConnection):
    """An asyncpg connection whose statements can be cancelled, and which can be ended, in bounded time."""

    __slots__ = ("_wire", "left", "was_terminated")

    def __init__(
        self, protocol: Any, transport: JoiningTransport, loop: JoiningLoop, *args: Any, **kwargs: Any
    ) -> None:
        super().__init__(protocol, transport.real, loop.real, *args, **kwargs)
        self._wire = transport  # the driver's
        self.was_terminated = False  # ended from this side, so the other one may live on
        self.left: socket.socket | None = None  # where its end can be heard; closed by the code that takes it

    async def hang_up(self, timeout: float) -> None:
        """Cancel what runs and send Terminate without the driver, until the server has closed. Raises TimeoutError."""
        ended = self._loop.create_future()
        self._transport.set_protocol(_Unread(ended))
        if not self._transport.is_reading():
            self._transport.resume_reading()
        async with asyncio.timeout(timeout):
            self._transport.write(b"X\0\0\0\4")  # Terminate: read when what runs has ended
            await self._cancel_until(ended)
        super().terminate()  # asyncpg does not know yet

    def shut_socket(self) -> None:
        """End the connection without its event loop, which has ended: the server sees the end of the stream."""
        sock = self._transport.get_extra_info("socket")
        if sock is not None:
            with suppress(OSError):  # it is closed by now
                sock.shutdown(socket.SHUT_RDWR)

    def terminate(self) -> None:
        """As asyncpg's, which also does it itself when the end of a cancelled statement does not come."""
        self.was_terminated = self.was_terminated or not self.is_closed()
        super().terminate()

    def _abort(self) -> None:
        if self.left is None:
            self.left = keep_socket(self._transport)
        super()._abort()

    def drop_left(self) -> None:
        """Nothing waits for the end of its server side."""
        if self.left is not None:
            self.left.close()
            self.left = None

    def set_user_timeout(self, seconds: float) -> None:
        """Let the kernel give up a peer that acknowledges nothing for so long, idle or not."""
        keep_alive(self._transport, seconds)

    @asynccontextmanager
    async def _in_time(self, timeout: float | None) -> AsyncIterator[None]:
        """Raise TimeoutError after `timeout` seconds, and end the connection: the server still waits for data.

        asyncpg asks for its own timeout only between two writes, so a slow source outlives it, and then it fails on
        the answer that comes to a COPY that has no waiter any more.
        """
        late = None if timeout is None else self._loop.call_later(timeout + CANCEL_TIMEOUT, self.terminate)
        try:
            async with asyncio.timeout(timeout):
                yield
        except TimeoutError:
            self.terminate()
            raise
        finally:
            if late is not None:
                late.cancel()

    def _cancel_current_command(self, waiter: asyncio.Future[None], cancel_waiter: Any = None) -> None:
        """As asyncpg's, but bounded: it asks once, and then waits for the end of the command as long as that takes."""
        if cancel_waiter is None:
            super()._cancel_current_command(waiter)
            return
        cancelling = self._cancel_in_time(waiter, cancel_waiter)
        self._cancellations.add(self._loop.create_task(cancelling, context=Context()))

    async def _cancel_in_time(self, sent: asyncio.Future[None], ended: asyncio.Future[None]) -> None:
        """Cancel a command until it has `ended`; the next one waits for `sent`, or a late request might end that."""
        try:
            async with asyncio.timeout(CANCEL_TIMEOUT):
                await self._cancel_until(ended)
        except TimeoutError:
            self.terminate()
        finally:
            task = asyncio.current_task()
            assert task is not None
            self._cancellations.discard(task)
            if not sent.done():
                sent.set_result(None)

    async def _cancel_until(self, ended: asyncio.Future[None]) -> None:
        """Ask again and again: PostgreSQL forgets a request that arrives before it has begun with the command."""
        pause = _ASK_AGAIN_SECONDS
        while not ended.done():
            await self.request_cancel()
            await asyncio.wait([ended], timeout=pause)
            pause *= 2

    def request_cancel(self) -> Awaitable[None]:
        """Ask the server to cancel what runs; the answer is when the request was sent."""
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._cancel_current_command(waiter)
        return waiter
