"""How do we talk to a server ourselves? One write, and the answer that is expected of it, byte for byte.

Login, check, reset and bind are such conversations. What a server may say at any time (NoticeResponse,
ParameterStatus) may come between; with any other byte than the expected ones the conversation has failed, and the
connection must be ended: what runs on it is unknown.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Sequence
from secrets import token_hex
from typing import Final

from tenantproxy.connect.expected_answer import ExpectedAnswer
from tenantproxy.connect.failures import Refused, Unconfirmed
from tenantproxy.raw.backend import RawBackend
from tenantproxy.wire.frames import (
    BIND,
    BIND_COMPLETE,
    CLOSE,
    CLOSE_COMPLETE,
    COMMAND_COMPLETE,
    DATA_ROW,
    ERROR,
    EXECUTE,
    HEADER,
    NOTICE,
    NOTIFICATION,
    PARAMETER_STATUS,
    PARSE,
    PARSE_COMPLETE,
    QUERY,
    READY,
    ROW_DESCRIPTION,
    SYNC,
    frame,
)
from tenantproxy.wire.rows import values_of

__all__ = [
    "READY_IDLE",
    "SYNC_NOW",
    "Exchange",
    "answer_of",
    "fresh_nonce",
    "query",
    "reset",
    "row",
    "sqlstate_of",
    "statement",
    "tag",
    "values_of",
]

_TEXT: Final = 25  # its type's number
_SHORT: Final = struct.Struct("!H")
_LONG: Final = struct.Struct("!i")


# --- what we say -----------------------------------------------------------------------------------------------------
SYNC_NOW: Final = frame(SYNC)


def query(sql: str) -> bytes:
    """A simple query."""
    return frame(QUERY, sql.encode() + b"\0")


def statement(
    sql: str, args: Sequence[bytes | None] = (), *, types: Sequence[int] | None = None, name: bytes = b""
) -> bytes:
    """`sql`, prepared and run with its arguments as text; a Sync has to follow.

    Without a name: no former user of the session can have prepared something else under it. With one, which must be
    new and secret for the same reason, it is closed again: the statement without a name stays the client's.
    """
    closing = frame(CLOSE, b"S" + name + b"\0") if name else b""
    return parse(sql, [_TEXT] * len(args) if types is None else types, name) + run(args, name) + closing


def parse(sql: str, types: Sequence[int], name: bytes = b"") -> bytes:
    """Prepare `sql`."""
    numbers = b"".join(map(_LONG.pack, types))
    return frame(PARSE, name + b"\0" + sql.encode() + b"\0" + _SHORT.pack(len(types)) + numbers)


def run(args: Sequence[bytes | None] = (), name: bytes = b"") -> bytes:
    """Run what was prepared as `name`; arguments and results are text."""
    values = b"".join(_LONG.pack(-1) if arg is None else _LONG.pack(len(arg)) + arg for arg in args)
    return frame(BIND, b"\0" + name + b"\0\0\0" + _SHORT.pack(len(args)) + values + b"\0\0") + _EXECUTE


_EXECUTE: Final = frame(EXECUTE, b"\0\0\0\0\0")

# --- what we expect --------------------------------------------------------------------------------------------------
READY_IDLE: Final = frame(READY, b"I")
_PREPARED: Final = frame(PARSE_COMPLETE) + frame(BIND_COMPLETE)
_CLOSED: Final = frame(CLOSE_COMPLETE)


def tag(text: str) -> bytes:
    """A command was completed."""
    return frame(COMMAND_COMPLETE, text.encode() + b"\0")


def row(*values: bytes) -> bytes:
    """One row of texts."""
    columns = b"".join(_LONG.pack(len(value)) + value for value in values)
    return frame(DATA_ROW, _SHORT.pack(len(values)) + columns)


def answer_of(text: str, *rows: bytes, is_named: bool = False) -> bytes:
    """To `statement`, when its tag is `text`."""
    return _PREPARED + b"".join(rows) + tag(text) + (_CLOSED if is_named else b"")


def fresh_nonce() -> bytes:
    """128 bits that no one else could know before they were sent.

    What is answered to a reset or a bind can be foreseen but for this: without it, an answer too many that a former
    user of the session has left under way could be taken for ours. Hexadecimal digits: the same in every encoding.
    """
    return token_hex(16).encode()


def reset(nonce: bytes) -> tuple[bytes, bytes]:
    """What undoes all that a user left in a session, and the answer.

    The nonce stands right before DISCARD ALL, and all of it are simple queries. A server that says the nonce in a row
    has read this query as one, whatever it was in the middle of; so it reads the next message as one, too, and what
    comes behind that row is the answer to it, which nothing of a former user can give.
    """
    return _BEFORE_NONCE + query(f"{_AT_ONCE}; SELECT '{nonce.decode()}'") + _DISCARD, (
        _BEFORE_NONCE_ANSWER + _ROW_OF_TEXT + row(nonce) + tag("SELECT 1") + READY_IDLE + _DISCARD_ANSWER
    )


# Nothing of these waits. DISCARD ALL takes a snapshot, and so does the nonce: as a serializable, deferrable
# transaction, which a session can be told to begin, each would wait for all writing ones before it. LOCAL, or a look at
# what a client has set would find it.
_AT_ONCE: Final = (
    "SET LOCAL TRANSACTION ISOLATION LEVEL READ COMMITTED; SET default_transaction_isolation = 'read committed';"
    " SET lock_timeout = 0"
)
# Each a message of its own: a hostile statement_timeout would cancel DISCARD ALL, and roll its own reset back.
_BEFORE_NONCE: Final = query("SET statement_timeout = 0")
_DISCARD: Final = query("DISCARD ALL")
_BEFORE_NONCE_ANSWER: Final = tag("SET") + READY_IDLE + tag("SET") * 3
_ROW_OF_TEXT: Final = frame(  # of no table, of type text, of any length, without modifier, as text
    ROW_DESCRIPTION, b"\0\1?column?\0" + struct.pack("!ihihih", 0, 0, _TEXT, -1, -1, 0)
)
_DISCARD_ANSWER: Final = tag("DISCARD ALL") + READY_IDLE


Done = Callable[[Exception | None], None]
"""None: the answer is confirmed. Refused, Unconfirmed, OSError (TimeoutError, lost): end the connection."""


class Exchange:
    """One conversation, under way from `begin` on.

    `rows`: collects the payloads of rows, which `expected` leaves out then. `is_reset`: what was listened to before may
    still be heard. `heard`: collects notifications, in a session whose client may listen to any.
    """

    __slots__ = ("_answer", "_asynchronous", "_backend", "_done", "_heard", "_rows", "_timer")

    def __init__(
        self,
        backend: RawBackend,
        expected: bytes,
        done: Done,
        *,
        rows: list[bytes] | None = None,
        is_reset: bool = False,
        heard: list[bytes] | None = None,
    ) -> None:
        self._backend = backend
        self._answer = ExpectedAnswer(expected)
        self._done: Done | None = done
        self._rows = rows
        self._heard = heard
        self._asynchronous = _ASYNCHRONOUS if heard is None and not is_reset else _ASYNCHRONOUS_LISTENING
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, messages: bytes, *, timeout: float | None = None) -> None:
        """Send `messages` and read the answer. Without a timeout the caller must make sure that it ends."""
        backend = self._backend
        backend.conversation = self
        backend.sink = self.feed
        backend.on_lost = self.lost
        if timeout is not None:
            self._timer = asyncio.get_running_loop().call_later(timeout, self._late)
        if backend.is_closed:
            asyncio.get_running_loop().call_soon(self.lost, backend.lost_by)
            return
        backend.write(messages)

    def feed(self, data: bytes) -> None:
        """Bytes came."""
        try:
            if self._answer.feed(data, self):
                self._end(None)
        except (Refused, Unconfirmed) as error:
            self._end(error)

    # --- AnswerListener ----------------------------------------------------------------------------------------------
    def aside(self, kind: int, message: bytes) -> bool:
        """See `ExpectedAnswer`."""
        if kind in self._asynchronous:
            if kind == PARAMETER_STATUS:
                self._backend.report(message[HEADER:])
            elif kind == NOTIFICATION and self._heard is not None:
                self._heard.append(message)
            return True
        if kind == DATA_ROW and self._rows is not None:
            self._rows.append(message[HEADER:])
            return True
        return False

    def unexpected(self, kind: int, message: bytes, confirmed: int) -> None:
        """See `ExpectedAnswer`."""
        raise Refused(sqlstate_of(message[HEADER:]), confirmed) if kind == ERROR else Unconfirmed(kind)

    # --- its end -----------------------------------------------------------------------------------------------------
    def lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._end(exc if isinstance(exc, OSError) else ConnectionResetError("the server closed the connection"))

    def _late(self) -> None:
        self._timer = None
        self._end(TimeoutError("the server did not answer in time"))

    def _end(self, error: Exception | None) -> None:
        done = self._done
        if done is None:
            return
        self.drop()
        backend = self._backend
        if backend.conversation is self:  # else it is being ended already
            if error is None:
                backend.conversation = None
                backend.sink = backend.resting_sink
                backend.on_lost = backend.resting_lost
            else:
                backend.detach()
        done(error)

    def drop(self) -> None:
        """Stop: the result is no longer wanted."""
        self._done = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


_ASYNCHRONOUS: Final = frozenset((NOTICE, PARAMETER_STATUS))
_ASYNCHRONOUS_LISTENING: Final = _ASYNCHRONOUS | {NOTIFICATION}


def sqlstate_of(payload: bytes) -> str:
    """The SQLSTATE in an ErrorResponse, empty when a server sends none."""
    for field in payload.split(b"\0"):
        if field[:1] == b"C":
            return field[1:6].decode("ascii", "replace")
    return ""
