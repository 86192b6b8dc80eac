"""How does a driver read what comes in masses? In slices, so that the event loop can do something else between them.

State: what was received and not passed on. Changed by the transport, by the end of a slice and by `stop`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, Final

from tenantproxy.slices import is_over, slice_end

__all__ = ["SlicedReading"]

_STEP: Final = 2048  # bytes that the driver is given at once: some fifty announcements


class SlicedReading(asyncio.Protocol):
    """Stands between `transport` and its protocol from now on, until `stop`.

    A transport gives up to 256 kB to its protocol at once, and asyncpg reads all messages in them before it returns:
    4,800 announcements hold the event loop for 9 ms. Not for a connection on which other code pauses reading.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._driver: Any = transport.get_protocol()
        self._unread: deque[bytes] = deque()
        self._loop = asyncio.get_running_loop()
        transport.set_protocol(self)

    def data_received(self, data: bytes) -> None:
        """Pass on what there is time for; more is not read before the rest is passed on too."""
        is_idle = not self._unread
        self._unread.extend(data[first : first + _STEP] for first in range(0, len(data), _STEP))
        if is_idle:
            self._pass_on()

    def _pass_on(self) -> None:
        if self._transport.get_protocol() is not self:
            return  # the connection is being ended without the driver, or is lost
        end = slice_end()
        try:
            while self._unread:
                self._driver.data_received(self._unread.popleft())
                if is_over(end):
                    break
        except BaseException:
            self._transport.abort()
            raise
        if self._unread:
            self._transport.pause_reading()
            self._loop.call_soon(self._pass_on)
        else:
            self._transport.resume_reading()

    def stop(self) -> None:
        """Let the transport give everything to the driver itself again."""
        if self._transport.get_protocol() is self:
            self._transport.set_protocol(self._driver)
            self._pass_on_all()
            self._transport.resume_reading()

    def _pass_on_all(self) -> None:
        while self._unread:
            self._driver.data_received(self._unread.popleft())

    # --- what is not data goes through -------------------------------------------------------------------------------
    def eof_received(self) -> bool | None:
        """See asyncio."""
        self._pass_on_all()
        keep: bool | None = self._driver.eof_received()
        return keep

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio."""
        if exc is not None:  # else it was ended here, or there was an `eof_received`
            self._pass_on_all()
        self._driver.connection_lost(exc)

    def pause_writing(self) -> None:
        """See asyncio."""
        self._driver.pause_writing()

    def resume_writing(self) -> None:
        """See asyncio."""
        self._driver.resume_writing()
