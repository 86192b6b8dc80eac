"""What did a client send that its server has not answered yet, and under which names do its statements run there?

Each Query, Sync and FunctionCall is answered by one ReadyForQuery, each Parse and Close by one acknowledgement, in
order. Messages of our own are put in between, and their answers are taken out again. A flight that ended with nothing
awaited and ReadyForQuery `I` leaves a backend that somebody else may use; when that cannot be known for certain,
`is_doubtful` says so for good.
"""

from __future__ import annotations

import struct
from collections import deque
from typing import Final

from tenantproxy.errors import ProtocolError
from tenantproxy.wire.frames import (
    BIND,
    CLOSE,
    CLOSE_COMPLETE,
    DESCRIBE,
    PARSE,
    PARSE_COMPLETE,
    frame,
    length_of,
)
from tenantproxy.wire.statements import NAME_PREFIX, ServerStatements, Statement, Statements

__all__ = ["FUNCTION", "QUERY", "SYNC", "Flight"]

_HEAD: Final = struct.Struct("!BI")
_SWALLOWED: Final = 0

# Closing what does not exist is no error: an answer of the right length at the right place.
_CLOSE_NOTHING: Final = frame(CLOSE, b"S" + NAME_PREFIX + b"none\0")
_CLOSE_UNNAMED: Final = frame(CLOSE, b"S\0")


class _Awaited:
    """One answer to come: `kind` as the server sends it, `shown` as the client sees it (0: not at all)."""

    __slots__ = ("client_name", "is_ready", "kind", "shown", "statement")

    def __init__(
        self,
        kind: int,
        shown: int,
        *,
        statement: Statement | None = None,
        client_name: bytes | None = None,
        is_ready: bool = False,
    ) -> None:
        self.kind = kind
        self.shown = shown
        self.statement = statement  # what is prepared, or closed, by then
        self.client_name = client_name  # the name that a client gave it by this very message
        self.is_ready = is_ready  # a ReadyForQuery ends everything before it


QUERY: Final = _Awaited(0, 0, is_ready=True)
SYNC: Final = _Awaited(0, 0, is_ready=True)
FUNCTION: Final = _Awaited(0, 0, is_ready=True)
_PARSED: Final = _Awaited(PARSE_COMPLETE, PARSE_COMPLETE)
_PARSED_UNNAMED: Final = _Awaited(PARSE_COMPLETE, PARSE_COMPLETE)
_OWN_UNNAMED: Final = _Awaited(PARSE_COMPLETE, _SWALLOWED)
_CLOSED: Final = _Awaited(CLOSE_COMPLETE, CLOSE_COMPLETE)
_OWN_CLOSED: Final = _Awaited(CLOSE_COMPLETE, _SWALLOWED)
_KNOWN: Final = _Awaited(CLOSE_COMPLETE, PARSE_COMPLETE)  # it is prepared already: only say so


class Flight:
    """One client's messages under way, and its statements. `awaited` is read by the relay's hot path.

    The relay calls `board` with a backend's statements when it got one; `parse`, `bind`, `describe` and `close` with
    each such message, whole, in order, and sends what they return in its place.
    """

    __slots__ = (
        "_all",
        "_ended_ahead",
        "_server",
        "_unnamed",
        "_unnamed_is_there",
        "awaited",
        "copying",
        "is_doubtful",
        "is_open",
        "last_bound",
        "names",
    )

    def __init__(self, statements: Statements) -> None:
        self.awaited: deque[_Awaited] = deque()
        self.is_doubtful = False
        self.is_open = False  # messages were sent that no Sync has followed yet: their answers are not counted
        self.copying = False  # the server reads COPY data, and takes neither Sync nor Flush for what they are
        self.last_bound: Statement | None = None
        self.names: dict[bytes, Statement] = {}
        self._all = statements
        self._ended_ahead = 0  # ends of COPY data that were sent before the server said that it reads any
        self._server = ServerStatements()
        self._unnamed: bytes | None = None  # the Parse message of the client's unnamed statement
        self._unnamed_is_there = False  # it is the one on the backend

    def board(self, server: ServerStatements) -> None:
        """The client has another backend."""
        assert not self.awaited
        self._server = server
        self._ended_ahead = 0
        self._unnamed_is_there = False

    def queried(self) -> None:
        """The client sent a simple query, which ends its unnamed statement."""
        self._unnamed = None
        self._unnamed_is_there = False
        self.is_open = False
        self.awaited.append(QUERY)

    def synced(self) -> None:
        """The client sent a Sync."""
        self.is_open = False
        self.awaited.append(SYNC)

    def copy_ended(self) -> None:
        """The client sent CopyDone or CopyFail: some send the COPY, its data and this in one go."""
        if self.copying:
            self.copying = False
        elif not self.is_quiet:  # else the server takes no notice of it
            self._ended_ahead += 1
            if [entry for entry in self.awaited if entry.is_ready] not in ([], [QUERY]):
                self.is_doubtful = True  # what was sent before it may be read as part of the COPY, or not

    @property
    def is_quiet(self) -> bool:
        """Whether nothing that was sent is unanswered."""
        return not self.awaited and not self.is_open

    # --- to the server -----------------------------------------------------------------------------------------------
    def parse(self, message: bytes) -> bytes:
        """For a Parse message."""
        name_ends = _end(message, 5)
        if name_ends == 5:
            self._unnamed = message
            self._unnamed_is_there = True
            self.awaited.append(_PARSED_UNNAMED)
            return message
        name, body = message[5:name_ends], message[name_ends + 1 :]
        known = self.names.get(name)
        if known is not None:  # let the server say that the name is taken, in its own words
            before = self._ensure(known)
            self.awaited.append(_PARSED)
            return before + frame(PARSE, known.name + b"\0" + body)
        statement = self.names[name] = self._all.of(body)
        if self._server.use(statement):
            self.awaited.append(_KNOWN)
            return _CLOSE_NOTHING
        before = self._make_room(statement)
        self.awaited.append(_Awaited(PARSE_COMPLETE, PARSE_COMPLETE, statement=statement, client_name=name))
        return before + statement.parse

    def bind(self, message: bytes) -> bytes:
        """For a Bind message, or for as much of a long one as holds its two names: the rest follows as it is."""
        portal_ends = _end(message, 5) + 1
        name_ends = _end(message, portal_ends)
        self.last_bound = None
        if name_ends == portal_ends:
            return message if self._unnamed_is_there else self._with_unnamed(message)
        statement = self.names.get(message[portal_ends:name_ends])
        if statement is None:
            return _unknown(message, portal_ends)
        before = b"" if self._server.use(statement) else self._ensure(statement)
        self.last_bound = statement
        name = statement.name
        length = length_of(message, 0) - 1 + len(name) - (name_ends - portal_ends)
        return before + _HEAD.pack(BIND, length) + message[5:portal_ends] + name + message[name_ends:]

    def describe(self, message: bytes) -> bytes:
        """For a Describe message."""
        if message[5:6] != b"S":
            return message
        name = message[6 : _end(message, 6)]
        if not name:
            return message if self._unnamed_is_there else self._with_unnamed(message)
        statement = self.names.get(name)
        if statement is None:
            return _unknown(message, 6)
        return self._ensure(statement) + frame(DESCRIBE, b"S" + statement.name + b"\0")

    def close(self, message: bytes) -> bytes:
        """For a Close message. A named statement stays prepared for others; only the client's name is gone."""
        self.awaited.append(_CLOSED)
        if message[5:6] != b"S":
            return message
        name = message[6 : _end(message, 6)]
        if not name:
            self._unnamed = None
            return message
        return _CLOSE_NOTHING if self.names.pop(name, None) is not None else _unknown(message, 6)

    def deallocate(self, name: bytes, message: bytes) -> bytes:
        """For a Parse message of the unnamed statement `DEALLOCATE name`: with the name that it has there."""
        statement = self.names.pop(name, None)
        if statement is None:
            return self.parse(message)
        before = self._ensure(statement)
        self._server.forget(statement)
        return before + self.parse(frame(PARSE, b"\0DEALLOCATE " + statement.name + b"\0\0\0"))

    def abandon(self) -> None:
        """The backend is given up: nothing is awaited of it any more."""
        self.awaited.clear()
        self._ended_ahead = 0
        self.is_open = self.copying = self.is_doubtful = False
        self._unnamed_is_there = False

    def prepare_again(self) -> bytes:
        """Close the statement that was bound last: its plan is of yesterday. The next Bind prepares it anew."""
        statement = self.last_bound
        if statement is None:
            return b""
        self._server.forget(statement)
        self.awaited.append(_Awaited(CLOSE_COMPLETE, _SWALLOWED, statement=statement))
        return statement.close

    def deallocated_all(self) -> None:
        """Every statement is gone, the backend's and the client's."""
        self.names.clear()
        self._server.clear()
        self._unnamed = None
        self._unnamed_is_there = False

    def _with_unnamed(self, message: bytes) -> bytes:
        """What the client parsed on another backend is parsed here too; what it never did must not be another's."""
        if self._unnamed is None:
            self.awaited.append(_OWN_CLOSED)
            return _CLOSE_UNNAMED + message
        self._unnamed_is_there = True
        self.awaited.append(_OWN_UNNAMED)
        return self._unnamed + message

    def _ensure(self, statement: Statement) -> bytes:
        if self._server.use(statement):
            return b""
        before = self._make_room(statement)
        self.awaited.append(_Awaited(PARSE_COMPLETE, _SWALLOWED, statement=statement))
        return before + statement.parse

    def _make_room(self, statement: Statement) -> bytes:
        out = self._server.add(statement)
        if out is None:
            return b""
        self.awaited.append(_Awaited(CLOSE_COMPLETE, _SWALLOWED, statement=out))
        return out.close

    # --- from the server ---------------------------------------------------------------------------------------------
    def acknowledged(self, kind: int) -> int:
        """For ParseComplete and CloseComplete: the kind that the client shall see, 0 for none.

        Raises ProtocolError for an answer that nothing was asked for.
        """
        if not self.awaited or self.awaited[0].kind != kind:
            raise ProtocolError("the server answered what it was not asked", detail=f"kind {kind:#04x}")
        return self.awaited.popleft().shown

    def ready(self) -> None:
        """For ReadyForQuery. What was not acknowledged before it has not happened.

        Raises ProtocolError when none was due.
        """
        while self.awaited:
            entry = self.awaited.popleft()
            if entry.is_ready:
                return
            self._undo(entry)
        raise ProtocolError("the server was ready once more than it was asked")

    def _undo(self, entry: _Awaited) -> None:
        if entry is _PARSED_UNNAMED:
            self._unnamed = None
        if entry is _PARSED_UNNAMED or entry is _OWN_UNNAMED:
            self._unnamed_is_there = False
        statement = entry.statement
        if statement is None:
            return
        if entry.kind == CLOSE_COMPLETE:
            self._server.put_back(statement)
            return
        self._server.forget(statement)
        if entry.client_name is not None and self.names.get(entry.client_name) is statement:
            del self.names[entry.client_name]

    def copy_began(self) -> None:
        """For CopyInResponse. A Sync that was sent with the COPY is read as part of it, and never answered."""
        if self._ended_ahead:
            self._ended_ahead -= 1
            return
        self.copying = True
        if len(self.awaited) > 1:
            self.is_doubtful = True  # which of them the server read before it began is anybody's guess
        elif self.awaited and self.awaited[0] is SYNC:
            self.awaited.clear()
            self.is_open = True

    def copy_failed(self) -> None:
        """For an ErrorResponse. While copying, a Sync that was taken back may have been read behind the error."""
        if not self.copying:
            if len(self.awaited) < 2:
                self._ended_ahead = 0  # the COPY has not begun: the server takes no notice of its end
            return
        self.copying = False
        if not self.awaited:
            self.is_doubtful = True


def _end(message: bytes, begin: int) -> int:
    end = message.find(b"\0", begin)
    if end < 0:
        raise ProtocolError("a name in a message does not end", detail=f"kind {message[0]:#04x}")
    return end


def _unknown(message: bytes, name_begins: int) -> bytes:
    """A name that the client never prepared through us: perhaps in SQL. It must not be one of ours."""
    if not message.startswith(NAME_PREFIX, name_begins):
        return message
    return (
        _HEAD.pack(message[0], length_of(message, 0)) + message[5:name_begins] + b"?" + message[name_begins:]
    )  # one byte longer, and so is the length: it does not count the kind
