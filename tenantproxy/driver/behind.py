"""How does a reset go out in one write with the statement before it? And whose is which part of what comes back?

The driver hears the answer to its statement up to ReadyForQuery, as always. All behind it is the answer to the reset,
which must be the expected one byte for byte. What the server says unasked is the driver's.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from contextvars import Context
from functools import partial
from typing import Any, Final

from tenantproxy.isolation.turn import Asked
from tenantproxy.wire.frames import HEADER, NOTICE, NOTIFICATION, PARAMETER_STATUS, QUERY, READY, frame

__all__ = ["ResetBehind"]

_UNASKED: Final = (PARAMETER_STATUS, NOTICE, NOTIFICATION)


def _tell(came: asyncio.Future[None]) -> None:
    if not came.done():
        came.set_result(None)


class ResetBehind(asyncio.Protocol):
    """A reset that goes out behind a statement of the driver. Reads for it until the answer to the reset is there.

    `is_awaited`: it was sent, its answer is still to come. `is_over`: it is not waited for any more; `is_confirmed`:
    the answer was the expected one. `is_stale`: something ran behind it, so that it proves nothing.
    """

    __slots__ = (
        "_answer",
        "_driver",
        "_expected",
        "_is_of_reset",
        "_left",
        "_start",
        "_then",
        "_transport",
        "is_awaited",
        "is_confirmed",
        "is_over",
        "is_sent",
        "is_stale",
        "message",
    )  # fmt: skip

    def __init__(self, transport: asyncio.Transport, reset: Asked) -> None:
        self._transport = transport
        self._driver: Any = transport.get_protocol()
        self._start = b""  # of a message whose length is not known yet
        self._left = 0  # bytes to come of a message whose beginning the driver has
        self._is_of_reset = False  # what comes next
        said = reset.said(secrets.token_hex(16))
        self.message, self._expected = frame(QUERY, said.sql.encode() + b"\0"), said.answer
        self._answer = b""  # of the reset, as far as it came
        self._then: Callable[[], None] | None = None
        self.is_awaited = False
        self.is_confirmed = False
        self.is_over = False
        self.is_sent = False
        self.is_stale = False

    def begin(self) -> None:
        """It is written, behind a statement of the driver that ends with its ReadyForQuery: read from now on."""
        self.is_awaited = self.is_sent = True
        self._transport.set_protocol(self)

    def when_over(self, then: Callable[[], None]) -> None:
        """Call `then`, in an empty context, once it is over. It is not yet."""
        self._then = then

    def done(self) -> bool:
        """Whether it is over."""
        return self.is_over

    def cancel(self) -> None:
        """Wait for its answer no longer: it is over, and not confirmed. The driver does not get it all the same."""
        self._end(confirmed=False)

    async def wait(self, timeout: float) -> None:
        """Wait for its answer, or the end of the connection. Raises TimeoutError after `timeout` seconds."""
        if not self.is_over:
            came = asyncio.get_running_loop().create_future()
            self._then = partial(_tell, came)
            async with asyncio.timeout(timeout):
                await came

    def _end(self, *, confirmed: bool) -> None:
        if self.is_over:
            return
        self.is_over, self.is_confirmed = True, confirmed
        then, self._then = self._then, None
        if then is not None:
            Context().run(then)

    # --- what comes --------------------------------------------------------------------------------------------------
    def data_received(self, data: bytes) -> None:
        """Give the driver what is its own, and look at the rest."""
        if not self._is_of_reset:
            # Mostly. No statement knows the nonce, so all before is the driver's.
            if data.endswith(self._expected):
                self._driver.data_received(data[: -len(self._expected)])
                self._give_back(b"", confirmed=True)
                return
            end = self._end_of_statement(data)
            if end < 0:
                self._driver.data_received(data)
                return
            self._is_of_reset = True
            if end == len(data):
                self._driver.data_received(data)
                return
            self._driver.data_received(data[:end])
            data = data[end:]
        self._answer += data
        if self._answer == self._expected:  # nearly always, and at once
            self._give_back(b"", confirmed=True)
        else:
            self._take_apart()

    def _end_of_statement(self, data: bytes) -> int:
        """Where in `data` the answer to the statement ends; -1: later."""
        shift = len(self._start)
        if shift:
            data = self._start + data
        at, size = self._left, len(data)
        while at + HEADER <= size:
            length = 1 + int.from_bytes(data[at + 1 : at + HEADER])
            if data[at] == READY:
                if at + length <= size:
                    return at + length - shift
                break
            at += length
        self._start, self._left = (data[at:], 0) if at < size else (b"", at - size)
        return -1

    def _take_apart(self) -> None:
        """Compare what was asked for message by message: the server may say something unasked in between."""
        at, data = 0, self._answer
        while at + HEADER <= len(data):
            end = at + 1 + int.from_bytes(data[at + 1 : at + HEADER])
            if end > len(data):
                break
            message = data[at:end]
            at = end
            if message[0] in _UNASKED:
                self._driver.data_received(message)
            elif self._expected.startswith(message):
                self._expected = self._expected[len(message) :]
                if not self._expected:
                    self._give_back(data[at:], confirmed=True)
                    return
            elif message[0] == READY:
                self._give_back(data[at:], confirmed=False)
                return
            else:
                self._expected = b"\0"  # nothing begins so: it is only read to its end
        self._answer = data[at:]

    def _give_back(self, rest: bytes, *, confirmed: bool) -> None:
        self._answer = b""
        self.is_awaited = False
        if self._transport.get_protocol() is self:  # else the connection is being ended without the driver
            self._transport.set_protocol(self._driver)
            if rest:
                self._driver.data_received(rest)
        self._end(confirmed=confirmed)

    # --- what is not data --------------------------------------------------------------------------------------------
    def eof_received(self) -> bool | None:
        """See asyncio."""
        keep: bool | None = self._driver.eof_received()
        return keep

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio."""
        self.is_awaited = False
        self._driver.connection_lost(exc)
        self._end(confirmed=False)

    def pause_writing(self) -> None:
        """See asyncio."""
        self._driver.pause_writing()

    def resume_writing(self) -> None:
        """See asyncio."""
        self._driver.resume_writing()
