"""How is a simple query said to the server past asyncpg? Where every byte of its answer is known beforehand.

asyncpg shows no row of a simple query, and so nothing of an answer that only the server can know; and to compare bytes
costs less than to read them. asyncpg is at rest meanwhile. What a server may say at any time is passed on to it.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

import asyncpg

from tenantproxy.connect.expected_answer import ExpectedAnswer
from tenantproxy.connect.failures import Unconfirmed
from tenantproxy.wire.answers import read_error
from tenantproxy.wire.frames import (
    ERROR,
    HEADER,
    NOTICE,
    NOTIFICATION,
    PARAMETER_STATUS,
    QUERY,
    READY,
    frame,
)

__all__ = ["Saying"]

_ANY_TIME: Final = frozenset((NOTICE, PARAMETER_STATUS, NOTIFICATION))


class Saying(asyncio.Protocol):
    """What stands in for asyncpg's protocol on its transport, one query at a time. One for each connection.

    After a refusal of the server asyncpg goes on. After anything else than that and the expected answer it must not:
    what comes is read here and thrown away, until the connection is ended without the driver.
    """

    def __init__(self, transport: asyncio.Transport, protocol: Any) -> None:
        self._transport = transport
        self._asyncpg = protocol
        self._answer: ExpectedAnswer | None = None  # that is waited for
        self._refused: Exception | None = None  # by the server, which has to say that it is ready before this ends
        self._answered: asyncio.Future[None] | None = None

    async def say(self, sql: str, expected: bytes) -> None:
        """Send `sql` and wait for `expected`. Has no timer: its caller has one.

        Raises Unconfirmed, what asyncpg raises for an error of the server, or OSError when the connection is lost.
        """
        if self._transport.is_closing():
            raise ConnectionResetError("the connection is closed")
        self._answer, self._refused = ExpectedAnswer(expected), None
        self._answered = answered = asyncio.get_running_loop().create_future()
        self._transport.set_protocol(self)
        self._transport.write(frame(QUERY, sql.encode() + b"\0"))
        await answered

    def lost(self) -> None:
        """The connection was ended, and another protocol read its last words: who waits for an answer gets none."""
        self._end(ConnectionResetError("the connection was closed"))

    # --- what the transport calls ------------------------------------------------------------------------------------
    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        if self._answer is None:
            return
        try:
            if self._answer.feed(data, self):
                self._end(None)
        except (Unconfirmed, asyncpg.PostgresError) as error:
            self._end(error)

    # --- AnswerListener ----------------------------------------------------------------------------------------------
    def aside(self, kind: int, message: bytes) -> bool:
        """See `ExpectedAnswer`."""
        if kind in _ANY_TIME:
            self._asyncpg.data_received(message)
            return True
        if self._refused is not None:
            raise self._refused if kind == READY else Unconfirmed(kind)
        return False

    def unexpected(self, kind: int, message: bytes, confirmed: int) -> None:
        """See `ExpectedAnswer`."""
        if kind != ERROR:
            raise Unconfirmed(kind)
        self._refused = asyncpg.PostgresError.new(read_error(message[HEADER:]))

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone; asyncpg hears of it too."""
        self._end(exc if isinstance(exc, OSError) else ConnectionResetError("the server closed the connection"))
        self._asyncpg.connection_lost(exc)

    def eof_received(self) -> bool | None:
        """The server has said its last word; the transport closes."""
        return None

    def pause_writing(self) -> None:
        """As asyncpg's."""
        self._asyncpg.pause_writing()

    def resume_writing(self) -> None:
        """As asyncpg's."""
        self._asyncpg.resume_writing()

    def _end(self, error: Exception | None) -> None:
        answered, self._answer = self._answered, None
        if answered is None or answered.done():
            return
        if error is None or error is self._refused:
            self._transport.set_protocol(self._asyncpg)
        if error is None:
            answered.set_result(None)
        else:
            answered.set_exception(error)
