"""Under which name does a statement of a client run on the backend that it has now?

A client's Parse, Bind, Describe and Close are sent in other words: its names stand for statements that are known by
their content, under internal names, and are prepared where they are missing. What was sent and is not answered yet is
taken for done, until an error skips it.
"""

from __future__ import annotations

import re
import struct
from collections import deque
from contextlib import suppress
from hashlib import blake2b
from typing import Final

from tenantproxy.errors import OutOfMemory, ProtocolError, StatementTooLong, TenantProxyError
from tenantproxy.wire.answers import error_response
from tenantproxy.wire.frames import (
    BIND,
    CLOSE,
    CLOSE_COMPLETE,
    DESCRIBE,
    ERROR,
    EXECUTE,
    FLUSH,
    HEADER,
    PARAMETER_DESCRIPTION,
    PARSE,
    PARSE_COMPLETE,
    QUERY,
    frame,
    length_of,
)
from tenantproxy.wire.memory import TenantMemory
from tenantproxy.wire.names import ClientNames
from tenantproxy.wire.pipeline import (
    CLOSED,
    CLOSED_KNOWN,
    DESCRIBED,
    OWN_CLOSED,
    OWN_PARSED,
    OWN_PARSED_UNNAMED,
    PARSED,
    PARSED_UNNAMED,
    REFUSED,
    REFUSED_BY_US,
    Certainty,
    Pipeline,
)
from tenantproxy.wire.session_settings import KeptSettings
from tenantproxy.wire.settings import NO_SETTINGS
from tenantproxy.wire.statements import MAX_PREPARED_BYTES, NAME_PREFIX, ServerStatements, Statement, Statements
from tenantproxy.wire.unnamed_statement import UnnamedStatement

__all__ = ["MAX_TEXT", "REFUSAL", "Prepared", "is_described"]

MAX_TEXT: Final = 16 * 1024 * 1024
"""Bytes of a Parse message that is seen whole, so that its statement may be prepared elsewhere."""


_HEAD: Final = struct.Struct("!BI").pack
_LENGTH: Final = struct.Struct("!I").unpack_from
_KNOWN: Final = Certainty.KNOWN
_NOT_SHOWN: Final = 0

# Closing what does not exist is no error: an answer of the right length at the right place.
_CLOSE_NOTHING: Final = frame(CLOSE, b"S" + NAME_PREFIX + b"none\0")
_MAX_RECENT: Final = 64  # statements that are being prepared by a client, or were just now
_CLOSE_UNNAMED: Final = frame(CLOSE, b"S\0")
_OUR_NAME: Final = re.compile(NAME_PREFIX + rb"[0-9a-f]{16}")
_NONE: Final = NAME_PREFIX + b"none"
REFUSAL: Final = frame(DESCRIBE, b"S" + _NONE + b"\0")
"""Goes out in place of a whole Bind: an error, so that the server skips what follows up to the Sync."""

_REFUSED_QUERY: Final = frame(QUERY, b"EXECUTE " + _NONE + b"\0")
_FLUSH: Final = frame(FLUSH)
_SHOWN: Final = {
    OWN_PARSED_UNNAMED: _NOT_SHOWN,
    OWN_PARSED: _NOT_SHOWN,
    CLOSED: CLOSE_COMPLETE,
    OWN_CLOSED: _NOT_SHOWN,
}


class _Change:
    """What one Parse or Close changes when it is acknowledged. `shown`: the kind that the client sees then, or 0."""

    __slots__ = ("begun", "body", "closes", "describes", "is_unnamed", "name", "parses", "shown", "takes_all", "told")

    def __init__(
        self,
        shown: int,
        *,
        parses: Statement | None = None,
        begun: tuple[int, bytes | None] | None = None,
        closes: Statement | None = None,
        name: bytes | None = None,
        body: bytes | None = None,
        describes: Statement | None = None,
        told: bytes | None = None,
        is_unnamed: bool = False,
        takes_all: bool = False,
    ) -> None:
        self.shown = shown
        self.describes = describes  # what is described then
        self.told = told  # the name under which the client asked for that; None: we did
        self.parses = parses  # is on the backend then
        self.begun = begun  # what `Prepared._begun` says of it until a later Parse of the same is sent
        self.closes = closes  # is not
        self.name = name  # a change of it is settled
        self.body = body  # what the name is then, though it was taken: what had it had failed
        self.is_unnamed = is_unnamed  # the backend's statement without a name is another one
        self.takes_all = takes_all  # no name is left


_IS_UNNAMED: Final = bytes((PARSED_UNNAMED,))
_NO_CHANGES: Final[deque[_Change]] = deque()  # never added to: an empty deque has 600 bytes, and most clients are idle


class Prepared:
    """The statements of one client. `board` it on each backend that it gets.

    `parse`, `bind`, `describe` and `close` are called with each such message, whole and in order, and return what is
    sent in its place. Invariant: `_changes` are those of the PARSED and CLOSED_KNOWN of `pipeline`, in order.
    """

    __slots__ = (
        "_all",
        "_begun",
        "_changes",
        "_describing",
        "_given",
        "_kept",
        "_lost_at",
        "_memory",
        "_pipeline",
        "_recent",
        "_recent_at",
        "_refusals",
        "_server",
        "_told",
        "_unmarked_segment",
        "_unnamed",
        "is_comparing",
        "last_bound",
        "names",
        "refusal",
    )

    def __init__(
        self,
        statements: Statements,
        pipeline: Pipeline,
        kept: KeptSettings | None = None,
        *,
        memory: TenantMemory | None = None,
    ) -> None:
        self._memory = memory = TenantMemory() if memory is None else memory
        self.names = ClientNames(memory)
        self._kept = KeptSettings(NO_SETTINGS, {}) if kept is None else kept
        self._recent: dict[Statement, int] = {}  # in which segment it was prepared, of the last ones
        self._recent_at = 0  # in which the last of them was
        self._lost_at = -1  # in which one was that is not there any more
        self.last_bound: Statement | None = None
        self.is_comparing = False  # a Bind waits until the server has said what its statement is
        self._describing: _Change | None = None  # what the description that comes now is of
        # What the client was told of its statements, by name: it may go by that without asking again.
        self._given: dict[bytes, bytes] = {}  # the client's name of a statement, by ours
        self._told: dict[bytes, tuple[Statement, bytes]] = {}
        self._all = statements
        self._pipeline = pipeline
        self._server = ServerStatements()
        self._changes = _NO_CHANGES
        self._unnamed = UnnamedStatement(memory)
        self._unmarked_segment = -1  # the last one with a message that an error may be of, and no answer tells
        self._refusals: list[bytes] = []  # what the client hears, for each REFUSED_BY_US that is outstanding
        self.refusal = b""  # for the one that has come
        # Not known to be prepared yet: in which segment that was sent, and under which name if the client asked for it.
        self._begun: dict[Statement, tuple[int, bytes | None]] = {}

    @property
    def is_at_rest(self) -> bool:
        """Whether the client has no statement, and nothing that was sent of one is unanswered."""
        return self._is_settled and self.unnamed is None and not self.names

    @property
    def may_be_carried(self) -> bool:
        """Whether nothing that was sent of a statement is unanswered, and none without a name has a long text."""
        return self._is_settled and not self._unnamed.is_long

    @property
    def _is_settled(self) -> bool:
        is_done = not (self._changes or self._refusals or self._begun or self.is_comparing)
        return is_done and self._unnamed.is_settled

    @property
    def unnamed(self) -> bytes | None:
        """The Parse message of the client's statement without a name."""
        return self._unnamed.message

    @property
    def unnamed_leaves(self) -> int:
        """What that may leave in the session: see `leftovers`."""
        return self._unnamed.leaves

    @unnamed_leaves.setter
    def unnamed_leaves(self, left: int) -> None:
        self._unnamed.leaves = left

    def carries(self, name: bytes) -> tuple[Statement, bytes | None] | None:
        """The client's statement, and what it was told of that, where a Bind of it goes out under its name as it is.

        To be asked again when anything else has come from the client. None: `bind` has to say what goes out. See there.
        """
        statement = self.names.get(name)
        if statement is None or statement.meaning is not self._kept.meaning:
            return None
        if statement.watched is not None or statement.leaves:
            return None
        told = self._told.get(name) if self._told else None
        return statement, (told[1] if told is not None and told[0] is statement else None)

    def carried(self, unnamed: bytes) -> None:
        """The client's statement without a name was parsed elsewhere, by this message; empty: it is gone."""
        if unnamed:
            self._unnamed.carried(unnamed)
        else:
            self._unnamed.clear()

    def use(self, statements: Statements) -> None:
        """What the client prepares from now on is one of these."""
        self._all = statements

    def board(self, server: ServerStatements) -> None:
        """The client has another backend, on which `server` is prepared."""
        self._server = server
        self._unnamed.is_there = False
        if self._begun:
            self._begun.clear()
        if self._recent:
            self._recent.clear()

    def abandon(self) -> None:
        """The backend is given up, and with it what is outstanding: that has not happened."""
        for change in self._changes:
            self._settle_names(change, is_done=False)
            if change.body is not None:
                self._memory.give(len(change.body))
        self._changes.clear()
        self._refusals.clear()
        self._begun.clear()
        self._describing = None
        self.is_comparing = False
        self._unnamed.lost()

    def leave(self) -> None:
        """The client has gone, and so has its backend."""
        self.abandon()
        self.names.close()
        self.queried()

    def queried(self) -> None:
        """The client's unnamed statement is gone, as after each simple query. Nothing to do where `unnamed` is None."""
        self._unnamed.clear()

    @property
    def text_bound(self) -> bytes:
        """The SQL of the statement that was bound last."""
        if self.last_bound is not None:
            return self.last_bound.text
        return b"" if self.unnamed is None else self.unnamed[6 : _end(self.unnamed, 6)]

    # --- to the server -----------------------------------------------------------------------------------------------
    def parse(self, message: bytes) -> bytes:
        """For a Parse message. Where there is no memory for its text, what goes out is an error, as for `refuse`."""
        name_ends = _end(message, 5)
        if name_ends != 5:
            try:
                return self._parse(message[5:name_ends], message[name_ends + 1 :])
            except OutOfMemory as exc:
                return self.refuse(exc)
        mark = self._mark()
        try:
            self._unnamed.parsing(message, self._pipeline.segment)
        except OutOfMemory as exc:
            self.queried()
            return mark + self.refuse(exc)
        self._pipeline.expect(PARSED_UNNAMED)
        return mark + message

    def _mark(self) -> bytes:
        """What goes out ahead of a Parse of the statement without a name, whose answer tells that it was read.

        Else an error of a message before it, which no acknowledgement tells of, would be taken for one of the Parse.
        """
        segment = self._pipeline.segment
        if not self._unnamed.is_kept or not (self._pipeline.has_executed or self._unmarked_segment == segment):
            return b""
        self._pipeline.expect(OWN_CLOSED)
        return _CLOSE_NOTHING

    def mark_query(self) -> bytes:
        """What goes out ahead of a simple query behind open messages: no answer to it means that they failed.

        `pipeline.queried(is_marked=True)` has to follow.
        """
        self._pipeline.expect(OWN_CLOSED)
        return _CLOSE_NOTHING

    def takes_unnamed(self, parse: bytes, data: bytes, bind_at: int) -> bool:
        """`parse` and `bind` at once, for the unnamed statement in the unnamed portal, where both go out as they are.

        `data` holds both, and what is behind them; `parse` has FREE_BYTES at most. False: nothing was done, they are to
        be called.
        """
        if data[bind_at + HEADER] or data[bind_at + HEADER + 1] or self._unnamed.is_long:
            return False
        self.last_bound = None
        pipeline = self._pipeline
        self._unnamed.parsing(parse, pipeline.segment)
        pipeline.expect(PARSED_UNNAMED)
        return True

    def parse_begun(self, head: bytes) -> bytes:
        """For as much of a Parse message as holds its name, one too long to be kept: the rest follows as it is.

        An unnamed statement passes, and is gone with the transaction. `REFUSAL` goes out in place of all of any other.
        """
        if _end(head, 5) != 5:
            return self.refuse(
                StatementTooLong(
                    "the text of a named statement is too long for a pool in transaction mode",
                    detail=f"{length_of(head, 0)} bytes, at most {MAX_TEXT} are kept",
                    hint='prepare it without a name, send a simple query, or use pool_mode = "session"',
                )
            )
        mark = self._mark()
        self._unnamed.parsing(None, self._pipeline.segment)
        self._pipeline.expect(PARSED_UNNAMED)
        return mark + head

    def refuse(self, error: TenantProxyError) -> bytes:
        """For a message that no server gets: an error, after which the server skips what follows up to the Sync."""
        self._pipeline.expect(REFUSED_BY_US)
        self.refusal = error_response(error)
        self._refusals.append(self.refusal)
        return REFUSAL

    def refuse_query(self, error: TenantProxyError) -> bytes:
        """The same for a simple query; `pipeline.queried` has to follow."""
        self.refuse(error)
        return _REFUSED_QUERY

    def _parse(self, name: bytes, body: bytes) -> bytes:
        known = self.names.get(name)
        if known is not None:  # let the server say that the name is taken, in its own words
            self._memory.take(len(body))
            try:
                self.names.give(name, known)
            except OutOfMemory:
                self._memory.give(len(body))
                raise
            self._gave(name, known)
            before = self._ensure(known, name)
            self._expect(PARSED, _Change(PARSE_COMPLETE, parses=known, name=name, body=body))
            return before + frame(PARSE, known.name + b"\0" + body)
        if self.names.size + len(body) > MAX_PREPARED_BYTES:  # they are kept for as long as the client may bind them
            raise OutOfMemory(
                "too many prepared statements of one client",
                detail=f"at most {MAX_PREPARED_BYTES} bytes of their texts are kept",
                hint="close those that are not used any more",
            )
        statement = self._all.of(body, self._kept.meaning)
        self.names.give(name, statement)
        self._gave(name, statement)
        if self._is_there(statement, b""):  # only say so
            self._expect(CLOSED_KNOWN, _Change(PARSE_COMPLETE, name=name))
            return _CLOSE_NOTHING
        return self._prepare(statement, name)

    def _gave(self, name: bytes, statement: Statement) -> None:
        if len(self._given) > 2 * len(self.names) + 16:  # names that are gone
            self._given = {ours: each for ours, each in self._given.items() if self._has(each, ours)}
        self._given[statement.name] = name

    def _has(self, name: bytes, ours: bytes) -> bool:
        statement = self.names.get(name)
        return statement is not None and statement.name == ours

    def _expect(self, answer: int, change: _Change) -> None:
        self._pipeline.expect(answer)
        if self._changes is _NO_CHANGES:
            self._changes = deque()
        self._changes.append(change)

    def bind(self, message: bytes) -> bytes:
        """For a Bind message, or for as much of a long one as holds its two names: the rest follows as it is.

        When `is_comparing` is set, what is returned goes out before it, and it is to be read again when that has been
        answered: the statement must be what the client was told of it. `REFUSAL` goes out in place of all of it.
        """
        portal_ends = message.find(b"\0", HEADER) + 1
        name_ends = message.find(b"\0", portal_ends)
        if not portal_ends or name_ends < 0:
            raise _endless(message)
        self.last_bound = None
        self._unmarked_segment = self._pipeline.segment
        if name_ends == portal_ends:
            return message if self._has_unnamed else self._with_unnamed(message)
        given = message[portal_ends:name_ends]
        statement = self.names.get(given)
        if statement is None:
            return _unknown(message, portal_ends)
        if statement.meaning is not self._kept.meaning:
            statement = self._as_set_now(given, statement)
        if self._told and (told := self._told.get(given)) is not None and told[0] is statement:
            description = self._server.description(statement)
            if description is not told[1] and description != told[1]:
                return self._compare(statement, given, description)
        is_there = not self._begun and self._server.use(statement)
        before = b"" if is_there else self._ensure(statement, given)
        self.last_bound = statement
        name = statement.name
        length = _LENGTH(message, 1)[0] + len(name) - (name_ends - portal_ends)
        return before + _HEAD(BIND, length) + message[5:portal_ends] + name + message[name_ends:]

    def _as_set_now(self, name: bytes, statement: Statement) -> Statement:
        """What a statement is that was prepared while its text meant something else.

        A server may read it again by the settings of now too, whenever it has to plan it again. So all backends do.
        Not in a transaction that has failed: it runs nothing there but its end, and the server would refuse to parse
        what it still describes.
        """
        meaning = self._kept.meaning
        if statement.meaning == meaning or self._pipeline.has_surely_failed:
            return statement
        now = self._all.of(statement.body, meaning)
        self._gave(name, now)
        told = self._told.get(name)
        if told is not None and told[0] is statement:  # it has parameters and rows of its own: they are compared
            self._told[name] = now, told[1]
        self.names.swap(name, now)
        return now

    def meaning_changed(self, readies: int) -> None:
        """The server reports another meaning of texts, and was ready so often since the last such report was read.

        What was sent since the first of the segments that it answered there may have been parsed by either.
        """
        since = self._pipeline.answered_segments - max(readies, 1)
        recent = {statement for statement, at in self._recent.items() if at >= since}
        if self._lost_at >= since:  # there were more than are known
            recent.update(change.parses for change in self._changes if change.parses is not None)
            self._server.doubt()
        for change in self._changes:
            if change.parses in recent:
                change.parses = None
        for statement in recent:
            self._begun.pop(statement, None)
            self._server.distrust(statement)

    def leaves(self, bind: bytes) -> int:
        """What the statement of this Bind message may leave in the session; as much of it as holds the names."""
        portal_ends = _end(bind, 5) + 1
        name_ends = _end(bind, portal_ends)
        if name_ends == portal_ends:
            return self.unnamed_leaves
        statement = self.names.get(bind[portal_ends:name_ends])
        return 0 if statement is None else statement.leaves

    def _compare(self, statement: Statement, name: bytes, description: bytes | None) -> bytes:
        """The client was told something else of this statement than the server says, or that is not known yet.

        It would send values of other types, or misread the rows: as with a server, its statement is out of date.
        """
        if description is not None:
            self._all.renew(statement)  # clients that prepare it from now on get a new one, here and elsewhere
            self._pipeline.expect(REFUSED)
            return REFUSAL
        if (
            self._pipeline.certainty is not _KNOWN
        ):  # which answer is the one to this could not be told, nor whether it comes
            raise ProtocolError(
                "a statement may be out of date, and what the server still answers is not known",
                hint="send no COPY messages outside of a COPY; connect again",
            )
        before = self._ensure(statement, name)
        self._expect(DESCRIBED, _Change(_NOT_SHOWN, describes=statement))
        self.is_comparing = True
        return before + frame(DESCRIBE, b"S" + statement.name + b"\0") + _FLUSH

    def describe(self, message: bytes) -> bytes:
        """For a Describe message."""
        if message[5:6] != b"S":
            self._unmarked_segment = self._pipeline.segment
            return message
        name = message[6 : _end(message, 6)]
        if not name:
            before = b"" if self._has_unnamed else self._with_unnamed(b"")
            self._expect(DESCRIBED, _Change(PARAMETER_DESCRIPTION))
            return before + message
        statement = self.names.get(name)
        if statement is None:
            self._expect(DESCRIBED, _Change(PARAMETER_DESCRIPTION))
            return _unknown(message, 6)
        if statement.meaning is not self._kept.meaning:
            statement = self._as_set_now(name, statement)
        self.last_bound = statement
        before = self._ensure(statement, name)
        self._expect(DESCRIBED, _Change(PARAMETER_DESCRIPTION, describes=statement, told=name))
        return before + frame(DESCRIBE, b"S" + statement.name + b"\0")

    def close(self, message: bytes) -> bytes:
        """For a Close message. A named statement stays prepared for others; only the client's name is gone."""
        if message[5:6] != b"S":
            self._pipeline.expect(CLOSED)
            return message
        name = message[6 : _end(message, 6)]
        if name and self.names.get(name) is not None:
            self.names.take(name)
            self._expect(CLOSED_KNOWN, _Change(CLOSE_COMPLETE, name=name))
            return _CLOSE_NOTHING
        if name:
            self._pipeline.expect(CLOSED)
            return _unknown(message, 6)
        self._unnamed.closing()
        self._expect(CLOSED_KNOWN, _Change(CLOSE_COMPLETE, is_unnamed=True))
        return message

    def deallocate(self, name: bytes, message: bytes) -> bytes:
        """For a Parse message of the unnamed statement `DEALLOCATE name`: the statement stays prepared for others."""
        if self.names.get(name) is None:
            return self.parse(message)
        instead = self._all.nothing()
        sent = frame(PARSE, b"\0DEALLOCATE " + instead.name + b"\0\0\0")
        mark = self._mark()
        self._pipeline.expect(OWN_PARSED)
        self._unnamed.parsing(sent, self._pipeline.segment)
        self.names.take(name)
        self._expect(PARSED, _Change(PARSE_COMPLETE, name=name, is_unnamed=True))
        return mark + instead.parse + sent

    def deallocate_all(self, message: bytes) -> bytes:
        """For a Parse message of the unnamed statement `DEALLOCATE ALL`, which will be run."""
        mark = self._mark()
        self._unnamed.parsing(message, self._pipeline.segment)
        self.names.take_all()
        self._expect(PARSED, _Change(PARSE_COMPLETE, is_unnamed=True, takes_all=True))
        self.deallocating_all()
        return mark + message

    def prepare_again(self) -> bytes:
        """Close the statement that was bound last: its plan is stale. The next Bind prepares it again."""
        statement = self.last_bound
        if statement is None:
            return b""
        self._server.forget(statement)
        self._pipeline.opened()
        self._expect(CLOSED_KNOWN, _Change(_NOT_SHOWN, closes=statement))
        return statement.close

    def outdated(self) -> None:
        """The plan of the statement used last is stale: clients that prepare its text from now on get a new one."""
        if self.last_bound is not None:
            self._all.renew(self.last_bound)

    def deallocated_all(self) -> None:
        """Every statement is gone, the backend's and the client's: all but what was sent since."""
        self.names.clear()
        if self._changes:
            self._server.doubt()
        else:
            self._server.clear()

    def deallocating_all(self) -> None:
        """All statements are about to go, so what comes behind must not take one for prepared."""
        self._begun.clear()
        self._server.doubt()

    def lost(self) -> None:
        """The server does not know a statement, or knows one that it should not: believe nothing of it any more."""
        self._server.doubt()

    @property
    def _has_unnamed(self) -> bool:
        """Whether the backend has the client's statement without a name when it reads what is sent now.

        Another client's may stand there still, if an error skips the Parse and not what comes behind its segment.
        """
        unnamed = self._unnamed
        return unnamed.is_there and (unnamed.is_settled or unnamed.segment == self._pipeline.segment)

    def _with_unnamed(self, message: bytes) -> bytes:
        """What the client parsed on another backend is parsed here too; what it never did must not be another's."""
        if self.unnamed is None:
            self._pipeline.expect(OWN_CLOSED)
            return _CLOSE_UNNAMED + message
        self._pipeline.expect(OWN_PARSED_UNNAMED)
        return self._unnamed.parsing_again(self._pipeline.segment) + message

    def _ensure(self, statement: Statement, name: bytes) -> bytes:
        return b"" if self._is_there(statement, name) else self._prepare(statement)

    def _is_there(self, statement: Statement, name: bytes) -> bool:
        """Whether it will be prepared when what is sent now is read, or is not for the client under this name either.

        An error skips a Parse to the end of its segment, and not what comes behind that.
        """
        if self._begun and (begun := self._begun.get(statement)) is not None:
            return begun[0] == self._pipeline.segment or begun[1] == name
        return self._server.use(statement)

    def _prepare(self, statement: Statement, name: bytes | None = None) -> bytes:
        if statement in self._begun or self._server.may_have(statement):  # it may be there: that must be no error
            self._pipeline.expect(OWN_CLOSED)
            before = statement.close
        else:
            before = b""
        for out in self._server.add(statement):
            self._begun.pop(out, None)
            self._expect(CLOSED_KNOWN, _Change(_NOT_SHOWN, closes=out))
            before += out.close
        shown = _NOT_SHOWN if name is None else PARSE_COMPLETE
        segment = self._pipeline.segment
        begun = self._begun[statement] = segment, name
        self._expect(PARSED, _Change(shown, parses=statement, begun=begun, name=name))
        if self._recent and self._recent_at < self._pipeline.answered_segments - 1:
            self._recent.clear()
        elif len(self._recent) >= _MAX_RECENT:
            self._recent.clear()
            self._lost_at = segment
        self._recent[statement] = self._recent_at = segment
        before += statement.parse
        if not statement.names:  # a name of it that is not answered yet still means the one that it was before
            statement.forget_text()
        return before

    # --- from the server ---------------------------------------------------------------------------------------------
    def acknowledged(self, answer: int) -> int:
        """An answer that the pipeline took: the kind that the client shall see, 0 for none."""
        if answer == PARSED_UNNAMED:
            self._unnamed.acknowledged()
            return PARSE_COMPLETE
        if answer >= PARSED:
            change = self._changes.popleft()
            if change.is_unnamed:
                self._unnamed.acknowledged()
            self._done(change)
            return change.shown
        if answer == OWN_PARSED_UNNAMED:
            self._unnamed.acknowledged()
        return _SHOWN[answer]

    def described(self, description: bytes) -> bool:
        """The server has said what the parameters and rows of a statement are. Whether the client sees it."""
        change, self._describing = self._describing, None
        if change is None:
            return True
        statement, name = change.describes, change.told
        if statement is not None:
            digest = blake2b(description, digest_size=16).digest()
            self._server.describe(statement, digest)
            if name is not None:
                if len(self._told) > 2 * len(self.names) + 16:  # names that are gone
                    self._told = {each: told for each, told in self._told.items() if self.names.get(each) is told[0]}
                self._told[name] = statement, digest
        if not change.shown:
            self.is_comparing = False
        return change.shown != _NOT_SHOWN

    def _done(self, change: _Change) -> None:
        if change.shown == PARAMETER_DESCRIPTION or change.describes is not None:
            self._describing = change
            return
        if change.closes is not None:
            self._server.forget(change.closes)
        elif change.body is not None:  # another text stands there under the name that we gave it
            assert change.name is not None
            self._server.doubt()
            self._memory.give(len(change.body))
            self.names.settle(change.name, is_done=False)
            with suppress(OutOfMemory):  # then the client's name means nothing
                self.names.set(change.name, self._all.of(change.body, self._kept.meaning))
            return
        elif change.parses is not None:
            if self._begun.get(change.parses) is change.begun:
                self._begun.pop(change.parses, None)
            self._server.put_back(change.parses)
        self._settle_names(change, is_done=True)

    def _settle_names(self, change: _Change, *, is_done: bool) -> None:
        if change.name is not None:
            self.names.settle(change.name, is_done=is_done)
        elif change.takes_all:
            self.names.settle_all(is_done=is_done)

    def in_own_names(self, error: bytes) -> bytes:
        """An ErrorResponse about a statement, by the name that the client gave it."""
        found = _OUR_NAME.search(error)
        name = self._given.get(found[0]) if found is not None else None
        if found is None or name is None:
            return error
        return frame(ERROR, error[HEADER:].replace(found[0], name))

    def skipped(self, answers: bytes, *, by_first: bool) -> None:
        """These will not come: what was not acknowledged before an error has not happened.

        `by_first`: the error is of what the first of them answers, unless it is of a message before that.
        """
        unnamed = answers.count(PARSED_UNNAMED) + answers.count(OWN_PARSED_UNNAMED)
        known = answers.count(PARSED) + answers.count(CLOSED_KNOWN) + answers.count(DESCRIBED)
        refused = answers.count(REFUSED_BY_US)
        if refused:
            self.refusal = self._refusals[0]
            del self._refusals[:refused]
        changes = [self._changes.popleft() for _ in range(known)]
        is_of_unnamed = answers[:1] == _IS_UNNAMED or bool(
            changes and changes[0].is_unnamed and answers[0] in (OWN_PARSED, PARSED)
        )
        for change in reversed(changes):
            unnamed += change.is_unnamed
            self._undo(change)
        if unnamed:
            self._unnamed.skipped(unnamed, is_failed=by_first and is_of_unnamed)

    def _undo(self, change: _Change) -> None:
        if change.describes is not None:
            self.is_comparing = self.is_comparing and change.told is not None
        elif change.closes is not None:
            self._server.put_back(change.closes)
        elif change.parses is not None and self._begun.get(change.parses) is change.begun and change.body is None:
            # Else it was sent once more, behind the error.
            self._server.forget(change.parses)
            self._begun.pop(change.parses, None)
        if change.body is not None:
            self._memory.give(len(change.body))
        self._settle_names(change, is_done=False)


def is_described(segment: bytes) -> bool:
    """Whether a client that sent this learns again of what shape the rows are: each Execute stands behind a Describe of
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
        raise _endless(message)
    return end


def _endless(message: bytes) -> ProtocolError:
    return ProtocolError("a name in a message does not end", detail=f"kind {message[0]:#04x}")


def _unknown(message: bytes, name_begins: int) -> bytes:
    """A name that the client never prepared through us: perhaps in SQL. It must not be an internal name."""
    if not message.startswith(NAME_PREFIX, name_begins):
        return message
    return (
        _HEAD(message[0], length_of(message, 0)) + message[5:name_begins] + b"?" + message[name_begins:]
    )  # one byte longer, and so is the length: it does not count the kind
