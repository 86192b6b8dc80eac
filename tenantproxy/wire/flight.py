"""What did a client send that its server has not answered yet, and under which names do its statements run there?

Each Query, Sync and FunctionCall is answered by one ReadyForQuery, each Parse and Close by one acknowledgement, in
order. Messages of our own are put in between, and their answers are taken out again. A flight that ended with nothing
awaited and ReadyForQuery `I` leaves a backend that somebody else may use; when that cannot be known for certain,
`is_doubtful` says so for good.

When PostgreSQL sends ReadyForQuery (PostgresMain and SocketBackend in src/backend/tcop/postgres.c, 15 to 18 alike; each
line is tried on real servers in tests/integration/test_when_ready.py):

- after start-up; after each Query and each FunctionCall, also a failed one; for each Sync, also one whose commit fails;
- not for Parse, Bind, Describe, Execute, Close and Flush, also when they fail: then everything is skipped up to the
  next Sync, a Query and a FunctionCall too;
- while a COPY reads (CopyGetData in copyfromparse.c) Sync and Flush are part of it, and not answered. Any other message
  than those of COPY ends the connection;
- outside of a COPY its messages are ignored. But each message that is read lets a due `statement_timeout` strike, which
  Parse and Bind have started and the end of an Execute, Sync, Query or an error stops. If it strikes at CopyData,
  CopyDone or CopyFail, which belong to neither protocol, there is an ErrorResponse *and* a ReadyForQuery, though no
  Sync was sent; the Sync that follows gets another one.

So a message of COPY outside of one that is known is in doubt while extended messages are open, and so is an extended
message inside a COPY whose end has not been read.
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
    COPY_DATA,
    DESCRIBE,
    EXECUTE,
    HEADER,
    PARSE,
    PARSE_COMPLETE,
    frame,
    length_of,
)
from tenantproxy.wire.statements import MAX_PREPARED_BYTES, NAME_PREFIX, ServerStatements, Statement, Statements

__all__ = ["QUERY", "SYNC", "Flight", "is_described"]

_HEAD: Final = struct.Struct("!BI")
_SWALLOWED: Final = 0
_SMALL: Final = 65_536  # a text that need not be counted each time
_KEPT: Final = 2000  # bytes that a statement counts beside its text

# Closing what does not exist is no error: an answer of the right length at the right place.
_CLOSE_NOTHING: Final = frame(CLOSE, b"S" + NAME_PREFIX + b"none\0")
_CLOSE_UNNAMED: Final = frame(CLOSE, b"S\0")


class _Awaited:
    """One answer to come: `kind` as the server sends it, `shown` as the client sees it (0: not at all)."""

    __slots__ = ("body", "client_name", "is_behind", "is_ready", "is_unnamed", "kind", "names", "shown", "statement")

    def __init__(
        self,
        kind: int,
        shown: int,
        *,
        statement: Statement | None = None,
        client_name: bytes | None = None,
        body: bytes | None = None,
        names: dict[bytes, Statement] | None = None,
        is_ready: bool = False,
        is_behind: bool = False,
        is_unnamed: bool = False,
    ) -> None:
        self.kind = kind
        self.shown = shown
        self.statement = statement  # what is prepared, or closed, by then
        self.client_name = client_name  # the name that a client gave it, or took from it, by this very message
        self.body = body  # of a Parse under a name that is taken, unless what has it fails
        self.names = names  # what the client deallocates by this statement
        self.is_ready = is_ready  # a ReadyForQuery ends everything before it
        self.is_behind = is_behind  # messages without a Sync were sent before it: their error skips it
        self.is_unnamed = is_unnamed  # the backend's statement without a name is another one afterwards


QUERY: Final = _Awaited(0, 0, is_ready=True)
SYNC: Final = _Awaited(0, 0, is_ready=True)
_BEHIND: Final = _Awaited(0, 0, is_ready=True, is_behind=True)
_PARSED_UNNAMED: Final = _Awaited(PARSE_COMPLETE, PARSE_COMPLETE, is_unnamed=True)
_OWN_UNNAMED: Final = _Awaited(PARSE_COMPLETE, _SWALLOWED, is_unnamed=True)
_OWN_PARSED: Final = _Awaited(PARSE_COMPLETE, _SWALLOWED)
_CLOSED: Final = _Awaited(CLOSE_COMPLETE, CLOSE_COMPLETE)
_OWN_CLOSED: Final = _Awaited(CLOSE_COMPLETE, _SWALLOWED)


class Flight:
    """One client's messages under way, and its statements. `awaited` is read by the relay's hot path.

    The relay calls `board` with a backend's statements when it got one; `parse`, `bind`, `describe` and `close` with
    each such message, whole, in order, and sends what they return in its place.
    """

    __slots__ = (
        "_all",
        "_begun",
        "_ended_ahead",
        "_is_skipping",
        "_is_torn",
        "_segment",
        "_server",
        "_unnamed",
        "_unnamed_is_there",
        "awaited",
        "copying",
        "is_doubtful",
        "is_open",
        "last_bound",
        "names",
        "unsure",
    )

    def __init__(self, statements: Statements) -> None:
        self.awaited: deque[_Awaited] = deque()
        self.is_doubtful = False
        self.is_open = False  # messages were sent that no Sync has followed yet: their answers are not counted
        self.copying = False  # the server reads COPY data, and takes neither Sync nor Flush for what they are
        self.unsure = 0  # Syncs that it read as part of a COPY, unless that had failed by then
        self.last_bound: Statement | None = None
        self.names: dict[bytes, Statement] = {}
        self._all = statements
        self._ended_ahead = 0  # ends of COPY data that were sent before the server said that it reads any
        self._server = ServerStatements()
        self._unnamed: bytes | None = None  # the Parse message of the client's unnamed statement
        self._unnamed_is_there = False  # it is the one on the backend
        self._segment = 0  # how many were sent
        self._is_skipping = False  # an error has come for what is open: the server reads nothing until Sync
        self._is_torn = False  # an error came where a query may have been skipped with what was sent before it
        # Not known to be prepared yet: in which segment that was sent, and under which name if the client asked for it.
        self._begun: dict[Statement, tuple[int, bytes | None]] = {}

    def board(self, server: ServerStatements) -> None:
        """The client has another backend."""
        assert not self.awaited
        self._server = server
        self._ended_ahead = 0
        self._unnamed_is_there = False
        self._begun.clear()

    def queried(self) -> None:
        """The client sent a simple query, which ends its unnamed statement."""
        self._unnamed = None
        self._unnamed_is_there = False
        if self._is_torn:
            self._mend()
        self._segment += 1
        self.awaited.append(_BEHIND if self.is_open else QUERY)
        self.is_open = self._is_skipping = False

    def called(self) -> None:
        """The client sent a function call."""
        if self._is_torn:
            self._mend()
        self._segment += 1
        self.awaited.append(_BEHIND if self.is_open else QUERY)
        self.is_open = self._is_skipping = False

    def synced(self) -> None:
        """The client sent a Sync."""
        if self.copying:
            self.unsure += 1
            return
        if self._is_torn:
            self._mend()
        self._segment += 1
        self.is_open = self._is_skipping = False
        self.awaited.append(SYNC)

    def _mend(self) -> None:
        """More is sent before it is known whether a query was skipped."""
        self._is_torn = False
        if _BEHIND in self.awaited:
            self.is_doubtful = True

    def opened(self) -> None:
        """The client sent Parse, Bind, Describe, Execute or Close."""
        self.is_open = True
        if self.copying:
            self.is_doubtful = True  # the COPY has failed, which we have not read: a statement_timeout may run now

    def copies(self, kind: int) -> bool:
        """The client sent CopyData, CopyDone or CopyFail; False: the server takes no notice of it, so leave it out.

        Some send the COPY, its data and the end in one go; those whose COPY failed go on until they read of it.
        """
        if self.copying:
            self.copying = kind == COPY_DATA
            return True
        if not self.is_doubtful and (self._is_skipping or self.is_quiet):
            return False
        if self.is_open:
            self.is_doubtful = True  # a statement_timeout may strike here, and be answered by a ReadyForQuery
        if kind != COPY_DATA:
            self._ended_ahead += 1
            if [entry for entry in self.awaited if entry.is_ready] not in ([], [QUERY], [_BEHIND]):
                self.is_doubtful = True  # what was sent before it may be read as part of the COPY, or not
        return True

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
            before = self._ensure(known, name)
            self.awaited.append(_Awaited(PARSE_COMPLETE, PARSE_COMPLETE, statement=known, client_name=name, body=body))
            return before + frame(PARSE, known.name + b"\0" + body)
        self._check_room(len(body))
        statement = self.names[name] = self._all.of(body)
        if self._is_there(statement, b""):  # only say so
            self.awaited.append(_Awaited(CLOSE_COMPLETE, PARSE_COMPLETE, statement=statement, client_name=name))
            return _CLOSE_NOTHING
        return self._prepare(statement, name)

    def _check_room(self, size: int) -> None:
        """A client's texts are kept for as long as it may bind them. Raises ProtocolError for too many."""
        if (size > _SMALL or len(self.names) % 64 == 63) and (
            sum(len(each.parse) + _KEPT for each in self.names.values()) + size > MAX_PREPARED_BYTES
        ):
            raise ProtocolError(
                "too many prepared statements", detail=f"at most {MAX_PREPARED_BYTES} bytes of a client"
            )

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
        is_there = not self._begun and self._server.use(statement)
        before = b"" if is_there else self._ensure(statement, message[portal_ends:name_ends])
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
        self.last_bound = statement
        return self._ensure(statement, name) + frame(DESCRIBE, b"S" + statement.name + b"\0")

    def close(self, message: bytes) -> bytes:
        """For a Close message. A named statement stays prepared for others; only the client's name is gone."""
        if message[5:6] != b"S":
            self.awaited.append(_CLOSED)
            return message
        name = message[6 : _end(message, 6)]
        statement = self.names.pop(name, None)
        if statement is not None:
            self.awaited.append(_Awaited(CLOSE_COMPLETE, CLOSE_COMPLETE, statement=statement, client_name=name))
            return _CLOSE_NOTHING
        self.awaited.append(_CLOSED)
        if not name:
            self._unnamed = None
            return message
        return _unknown(message, 6)

    def deallocate(self, name: bytes, message: bytes) -> bytes:
        """For a Parse message of the unnamed statement `DEALLOCATE name`: the statement stays prepared for others."""
        statement = self.names.pop(name, None)
        if statement is None:
            return self.parse(message)
        instead = self._all.nothing()
        self.awaited.append(_OWN_PARSED)
        sent = self.parse(frame(PARSE, b"\0DEALLOCATE " + instead.name + b"\0\0\0"))
        self._taken_back_unless_parsed({name: statement})
        return instead.parse + sent

    def deallocate_all(self, message: bytes) -> bytes:
        """For a Parse message of the unnamed statement `DEALLOCATE ALL`, which will be run."""
        sent = self.parse(message)
        self._taken_back_unless_parsed(self.names)
        self.names = {}
        self.deallocating_all()
        return sent

    def _taken_back_unless_parsed(self, names: dict[bytes, Statement]) -> None:
        self.awaited[-1] = _Awaited(PARSE_COMPLETE, PARSE_COMPLETE, names=names, is_unnamed=True)

    def abandon(self) -> None:
        """The backend is given up: nothing is awaited of it any more."""
        self.awaited.clear()
        self._begun.clear()
        self._is_torn = False
        self._ended_ahead = 0
        self.unsure = 0
        self.is_open = self.copying = self.is_doubtful = self._is_skipping = False
        self._unnamed_is_there = False

    def prepare_again(self) -> bytes:
        """Close the statement that was bound last: its plan is of yesterday. The next Bind prepares it anew."""
        statement = self.last_bound
        if statement is None:
            return b""
        self._server.forget(statement)
        self.is_open = True
        self.awaited.append(_Awaited(CLOSE_COMPLETE, _SWALLOWED, statement=statement))
        return statement.close

    def outdated(self) -> None:
        """The plan of the statement used last is of yesterday: whoever prepares its text from now on gets a new one."""
        if self.last_bound is not None:
            self._all.renew(self.last_bound)

    def deallocated_all(self) -> None:
        """Every statement is gone, the backend's and the client's: all but what was sent since."""
        self.names = {}
        self._server.clear()
        for entry in self.awaited:
            self._redo(entry)

    def deallocating_all(self) -> None:
        """All statements are about to go, so what comes behind must not take one for prepared."""
        self._begun.clear()
        self._server.doubt()

    def lost(self) -> None:
        """The server does not know a statement, or knows one that it should not: believe nothing of it any more."""
        self._server.doubt()

    def _with_unnamed(self, message: bytes) -> bytes:
        """What the client parsed on another backend is parsed here too; what it never did must not be another's."""
        if self._unnamed is None:
            self.awaited.append(_OWN_CLOSED)
            return _CLOSE_UNNAMED + message
        self._unnamed_is_there = True
        self.awaited.append(_OWN_UNNAMED)
        return self._unnamed + message

    def _ensure(self, statement: Statement, name: bytes) -> bytes:
        return b"" if self._is_there(statement, name) else self._prepare(statement)

    def _is_there(self, statement: Statement, name: bytes) -> bool:
        """Whether it will be prepared when what is sent now is read, or is not for the client under this name either.

        An error skips a Parse to the end of its segment, and not what comes behind that.
        """
        if self._begun and (begun := self._begun.get(statement)) is not None:
            return begun[0] == self._segment or begun[1] == name
        return self._server.use(statement)

    def _prepare(self, statement: Statement, client_name: bytes | None = None) -> bytes:
        if statement in self._begun or self._server.is_doubtful:  # it may be there: that must be no error
            self.awaited.append(_OWN_CLOSED)
            before = statement.close
        else:
            before = b""
        for out in self._server.add(statement):
            self._begun.pop(out, None)
            self.awaited.append(_Awaited(CLOSE_COMPLETE, _SWALLOWED, statement=out))
            before += out.close
        shown = _SWALLOWED if client_name is None else PARSE_COMPLETE
        self.awaited.append(_Awaited(PARSE_COMPLETE, shown, statement=statement, client_name=client_name))
        self._begun[statement] = self._segment, client_name
        return before + statement.parse

    # --- from the server ---------------------------------------------------------------------------------------------
    def acknowledged(self, kind: int) -> int:
        """For ParseComplete and CloseComplete: the kind that the client shall see, 0 for none.

        Raises ProtocolError for an answer that nothing was asked for.
        """
        if not self.awaited or self.awaited[0].kind != kind:
            raise ProtocolError("the server answered what it was not asked", detail=f"kind {kind:#04x}")
        entry = self.awaited.popleft()
        if entry.statement is not None:
            self._done(entry, entry.statement)
        return entry.shown

    def _done(self, entry: _Awaited, statement: Statement) -> None:
        if entry.kind == CLOSE_COMPLETE:
            if entry.client_name is None:
                self._server.forget(statement)
        elif entry.body is None:
            self._begun.pop(statement, None)
            self._server.put_back(statement)
        else:  # what had the name had failed: now another text stands there under the name that we gave it
            assert entry.client_name is not None
            self._server.doubt()
            name = entry.client_name
            if not any(later.client_name == name and later.shown == CLOSE_COMPLETE for later in self.awaited):
                self.names[name] = self._all.of(entry.body)

    def ready(self) -> None:
        """For ReadyForQuery. What was not acknowledged before it has not happened.

        Raises ProtocolError when none was due.
        """
        skipped: list[_Awaited] = []
        while self.awaited:
            entry = self.awaited.popleft()
            if entry.is_ready:
                for each in reversed(skipped):
                    self._undo(each)
                return
            skipped.append(entry)
        if not self.is_doubtful:
            raise ProtocolError("the server was ready once more than it was asked")

    def _undo(self, entry: _Awaited) -> None:
        if entry.is_unnamed and not any(later.is_unnamed for later in self.awaited):  # else that one stands there
            self._unnamed_is_there = False
            if entry.shown:
                self._unnamed = None
        if entry.names:
            self.names = entry.names | self.names
        statement, name = entry.statement, entry.client_name
        if statement is None or entry.body is not None:
            return
        if entry.kind == PARSE_COMPLETE:
            self._server.forget(statement)
            self._begun.pop(statement, None)
        elif name is None:
            self._server.put_back(statement)
        if name is not None:
            if entry.shown == CLOSE_COMPLETE:
                self.names[name] = statement
                return
            if self.names.get(name) is statement:
                del self.names[name]
            for later in self.awaited:  # a Close sent since has nothing to give back
                if later.client_name == name and later.statement is statement and later.shown == CLOSE_COMPLETE:
                    later.statement = None

    def _redo(self, entry: _Awaited) -> None:
        """It was sent after everything was forgotten."""
        statement, name = entry.statement, entry.client_name
        if statement is None:
            return
        if entry.kind == PARSE_COMPLETE:
            self._server.put_back(statement)
        elif name is None:
            self._server.forget(statement)
        if name is not None:
            if entry.shown == CLOSE_COMPLETE:
                self.names.pop(name, None)
            else:
                self.names[name] = statement

    def copy_began(self) -> None:
        """For CopyInResponse. A Sync that was sent with the COPY is read as part of it, and never answered."""
        if self._ended_ahead:
            self._ended_ahead -= 1
            return
        self.copying = True
        if self.awaited and all(entry is SYNC for entry in self.awaited):
            self.unsure += len(self.awaited)
            self.awaited.clear()
            self.is_open = True
        elif len(self.awaited) > 1:
            self.is_doubtful = True  # which of them the server read before it began is anybody's guess

    def failed(self) -> bool:
        """For an ErrorResponse. False: what is answered from now on cannot be known."""
        if not self.copying and len(self.awaited) < 2:
            self._ended_ahead = 0  # the COPY has not begun: the server takes no notice of its end
        self.copying = False
        if self.unsure:  # it may have come before such a Sync was read: then that is answered
            self.unsure = 0
            self.is_doubtful = True
        ready = [entry for entry in self.awaited if entry.is_ready]
        self._is_skipping = self.is_open and not ready
        if not ready or not ready[0].is_behind:
            return True
        if len(ready) == 1:  # a ReadyForQuery tells that it was the query itself
            self._is_torn = True
            return True
        self.is_doubtful = True
        return False

    def copied(self) -> None:
        """For the end of a COPY: all that was sent before it has been read."""
        self.unsure = 0


def is_described(segment: bytes) -> bool:
    """Whether a client that sent this learns anew of what shape the rows are: each Execute stands behind a Describe of
    its portal, and nothing is prepared here. Many drivers remember the shape, and would misread rows of another.
    """
    at, is_known = 0, False
    while len(segment) - at >= HEADER:
        kind = segment[at]
        if kind == PARSE or (kind == DESCRIBE and segment[at + HEADER : at + HEADER + 1] != b"P"):
            return False
        if kind == EXECUTE and not is_known:
            return False
        is_known = kind == DESCRIBE or (is_known and kind != BIND)
        at += length_of(segment, at)
    return True


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
