"""What does a client ask, where does each message end, and what of it goes to the server?

A request stream cuts what comes into messages, looks at their kinds and lengths, tells the pipeline of each and puts
the names of prepared statements right. It sends nothing: `read` returns what to send, and says why it stopped.
"""

from __future__ import annotations

import struct
from enum import StrEnum
from typing import Final

from tenantproxy.errors import ProtocolError, TenantProxyError
from tenantproxy.wire.answers import ready_for_query
from tenantproxy.wire.commands import (
    ALL,
    READ,
    VACATING,
    WATCHED,
    deallocate_of,
    deallocate_within,
    vacates,
    word_of,
)
from tenantproxy.wire.definition_changes import DefinitionChanges
from tenantproxy.wire.frames import (
    BIND,
    CLOSE,
    COMMAND_COMPLETE,
    COPY_DATA,
    COPY_DONE,
    COPY_FAIL,
    DESCRIBE,
    EXECUTE,
    FLUSH,
    FUNCTION_CALL,
    HEADER,
    IDLE,
    IN_TRANSACTION,
    PARSE,
    QUERY,
    SYNC,
    TERMINATE,
    WITHOUT_BODY,
    frame,
    has_body,
    length_of,
)
from tenantproxy.wire.leftovers import ANYTHING, CUSTOM, MARGIN, SUSPECT, leftovers, leftovers_of_part
from tenantproxy.wire.memory import FREE_BYTES
from tenantproxy.wire.pipeline import Certainty, Pipeline
from tenantproxy.wire.prepared import MAX_TEXT, REFUSAL, Prepared
from tenantproxy.wire.read_wishes import ReadWish, alone, read_wish, unprepared
from tenantproxy.wire.session_features import PinPlaces, SessionFeatures
from tenantproxy.wire.session_settings import KeptSettings
from tenantproxy.wire.session_texts import MAX_READ, may_set, sets_untracked
from tenantproxy.wire.statements import Statement, Statements
from tenantproxy.wire.states import Table

__all__ = ["REQUESTS", "RequestStream", "Requests", "Stop"]

_LENGTH: Final = struct.Struct("!I").unpack_from
STREAMED: Final = 65_536  # of a message that need not be seen whole; less is waited for before a backend is taken
_TURN: Final = range(256)  # messages of a client in one turn of the loop; then others have theirs
_TURN_BYTES: Final = 65_536
_COPYING: Final = frozenset((COPY_DATA, COPY_DONE, COPY_FAIL))
_WITHOUT_SERVER: Final = _COPYING | {TERMINATE, FLUSH}  # no backend is taken for these
_END_OF_STATEMENT: Final = (  # how libpq ends one: Describe, Execute, Sync
    frame(DESCRIBE, b"P\0") + frame(EXECUTE, b"\0\0\0\0\0") + frame(SYNC)
)
_END_SIZE: Final = len(_END_OF_STATEMENT)
_TRANSLATED: Final = {PARSE: Prepared.parse, DESCRIBE: Prepared.describe, CLOSE: Prepared.close}
_DEALLOCATED: Final = frame(COMMAND_COMPLETE, b"DEALLOCATE\0")
_SET_OR_RESET: Final = {b"S": frame(COMMAND_COMPLETE, b"SET\0"), b"R": frame(COMMAND_COMPLETE, b"RESET\0")}
_DEALLOCATED_WITHIN: Final = (
    frame(COMMAND_COMPLETE, b"SAVEPOINT\0") + _DEALLOCATED + frame(COMMAND_COMPLETE, b"RELEASE\0")
)


class Requests(StrEnum):
    """What the next byte of a client is."""

    BOUNDARY = "boundary"  # the first of a message
    PASSING = "passing"  # of a message whose head went to the server
    DISCARDING = "discarding"  # of one that no server gets
    SKIP_TO_SYNC = (
        "skip_to_sync"  # the first of a message; an error was told in a server's place, so all but Sync is void
    )


class RequestEvent(StrEnum):
    """What changes that."""

    HEAD_SENT = "head of a message sent"
    HEAD_DROPPED = "head of a message dropped"
    REST_CAME = "the rest has come"
    REST_CAME_UNSYNCED = "the rest has come, a Sync has not"
    REFUSED = "no backend to be had"
    SYNCED = "Sync"


REQUESTS: Final[Table[Requests, RequestEvent]] = {
    (Requests.BOUNDARY, RequestEvent.HEAD_SENT): Requests.PASSING,
    (Requests.BOUNDARY, RequestEvent.HEAD_DROPPED): Requests.DISCARDING,
    (Requests.BOUNDARY, RequestEvent.REFUSED): Requests.SKIP_TO_SYNC,
    (Requests.PASSING, RequestEvent.REST_CAME): Requests.BOUNDARY,
    (Requests.DISCARDING, RequestEvent.REST_CAME): Requests.BOUNDARY,
    (Requests.DISCARDING, RequestEvent.REST_CAME_UNSYNCED): Requests.SKIP_TO_SYNC,
    (Requests.SKIP_TO_SYNC, RequestEvent.HEAD_DROPPED): Requests.DISCARDING,
    (Requests.SKIP_TO_SYNC, RequestEvent.SYNCED): Requests.BOUNDARY,
}


class Stop(StrEnum):
    """Why `read` stopped."""

    END = "end"  # all was read
    BOUNDARY = "boundary"  # a message that came in pieces is whole
    BACKEND = "backend"  # what comes needs one
    BYTES = "bytes"  # `needed` are, from `at` on
    ANSWERS = "answers"  # what comes must wait until all that was sent is answered: what that sets is not known before
    COMPARED = "compared"  # a Bind must wait until its statement is: see `prepared.Prepared.bind`
    TURN = "turn"  # it has had its turn of the loop
    TERMINATED = "terminated"  # the client has left


_BOUNDARY, _PASSING, _DISCARDING, _SKIP_TO_SYNC = Requests
_UNSURE: Final = Certainty.UNSURE
_END, _STOP_BOUNDARY, _BACKEND, _BYTES, _ANSWERS, _COMPARED, _STOP_TURN, _TERMINATED = Stop
_BEFORE_A_WORD: Final = b" \t\r\n-/"
_HELD: Final = b"held"  # in place of a message: it is to be read again when all is answered


class RequestStream:
    """What one client asks. Of `read` the rest is in its attributes: `at`, `stop`, `needed`, `reply`.

    Invariant: `_rest` (bytes to come of a message) is above 0 exactly while it is PASSING or DISCARDING.
    """

    __slots__ = (
        "_asking",
        "_changes",
        "_chooses",
        "_features",
        "_is_bound",
        "_is_refused",
        "_is_session",
        "_kept",
        "_leaves_something",
        "_pipeline",
        "_plain",
        "_prepared",
        "_rest",
        "_searched",
        "_sets",
        "at",
        "needed",
        "reply",
        "state",
        "stop",
        "vacates",
        "wish",
    )

    def __init__(
        self,
        pipeline: Pipeline,
        prepared: Prepared,
        kept: KeptSettings,
        *,
        features: SessionFeatures | None = None,
        changes: DefinitionChanges | None = None,
        chooses: bool = False,
        is_session: bool,
    ) -> None:
        self._chooses = chooses  # the client may say where it reads: see `read_wishes`
        self.wish: ReadWish | None = None  # where it wants to read from now on
        self.state = _BOUNDARY
        self.at = 0  # what is before it was read
        self.stop = _END
        self.needed = 0
        self.reply = b""  # what the client is answered without a server
        self.vacates: bytes | None = None  # a database that what goes out needs without other connections
        self._pipeline = pipeline
        self._prepared = prepared
        self._kept = kept
        self._changes = DefinitionChanges(Statements(), prepared) if changes is None else changes
        self._features = SessionFeatures(kept, "warn", PinPlaces()) if features is None else features
        self._leaves_something = False  # a statement that it has prepared may
        self._plain = b""  # the last Parse message of `one_statement`: drivers send the same one again and again
        self._is_session = is_session  # a backend of its own: statements may keep their names
        self._rest = 0
        self._is_bound = False  # the portal without a name was, since the last Sync
        self._is_refused = False  # it is to skip to Sync when that has come
        self._searched: bytes | None = None  # the end of what has come of a query's text; None: it is none
        self._sets = False  # something in the open segment may set something
        self._asking = b""  # the name of the statement that `kept` was last asked for, if it was parsed

    def __repr__(self) -> str:
        return f"<RequestStream {self.state}, {self._rest} bytes to come>"

    @property
    def is_at_rest(self) -> bool:
        """Whether a new one would read on the same."""
        return self.state is _BOUNDARY and self._searched is None and not (self._is_refused or self._sets)

    @property
    def may_be_carried(self) -> bool:
        """Whether one statement that is read elsewhere, and needs no second look, leaves it as it is."""
        return self.is_at_rest and not self._leaves_something

    def _move(self, event: RequestEvent) -> None:
        self.state = REQUESTS[self.state, event]

    # --- the commonest -----------------------------------------------------------------------------------------------
    def one_query(self, data: bytes) -> int:
        """For what begins like a simple query. 0: it is one, whole, that needs no second look; -1: it may not be."""
        is_plain = (
            len(data) > HEADER
            and _LENGTH(data, 1)[0] + 1 == len(data)
            and word_of(data, HEADER) not in READ
            and self.state is _BOUNDARY
            and not self._pipeline.is_open
            and data.lower().find(b"temp") < 0  # `in` takes twice as long
            and (SUSPECT(data) is None or self._leaves_nothing(data))
        )
        return 0 if is_plain else -1

    def _leaves_nothing(self, query: bytes) -> bool:
        """Whether a query that is suspect may leave nothing, and release nothing that its client has left."""
        return not (self._is_session or self._features.has_place or leftovers(query[HEADER:-1]) & ANYTHING)

    def queried(self) -> None:
        """It was, and goes out."""
        self._pipeline.queried()
        if self._prepared.unnamed is not None:
            self._prepared.queried()

    def one_statement(self, data: bytes) -> int:
        """Where the Bind of one statement begins that is sent as libpq does it; -1: it is not that.

        Parse (without a name, or none), Bind, Describe, Execute, Sync, when nothing else is under way.
        """
        if not data.endswith(_END_OF_STATEMENT) or self.state is not _BOUNDARY or self._is_session:
            return -1
        pipeline = self._pipeline
        if pipeline.outstanding or pipeline.is_open or self._leaves_something:
            return -1
        bind_at = 0
        if data[0] == PARSE:
            bind_at = 1 + _LENGTH(data, 1)[0]
            parse = data[:bind_at]
            if parse != self._plain:
                if (
                    data[HEADER]
                    or word_of(data, HEADER + 1) in READ
                    or SUSPECT(parse) is not None
                    or parse.lower().find(b"temp") >= 0
                ):
                    return -1
                self._plain = parse if bind_at <= FREE_BYTES else b""
        end = len(data) - _END_SIZE
        if bind_at + HEADER > end or data[bind_at] != BIND or bind_at + 1 + _LENGTH(data, bind_at + 1)[0] != end:
            return -1
        if data[bind_at + HEADER] and not pipeline.is_sound:  # another portal than is executed
            return -1
        return bind_at

    def statement(self, data: bytes, bind_at: int) -> bytes:
        """What goes out for it: as `read` does, which asks of each message what it is. Raises ProtocolError."""
        prepared, kept = self._prepared, self._kept
        end = len(data) - _END_SIZE
        if bind_at:
            kept.asked_for = None
            if self._plain and prepared.takes_unnamed(self._plain, data, bind_at):
                self._pipeline.synced()
                return data
            out = prepared.parse(data[:bind_at]) + prepared.bind(data[bind_at:end])
        else:
            out = prepared.bind(data[:end])
        if prepared.is_comparing:
            self.at = bind_at
            self._pipeline.opened()
            return out
        bound = prepared.last_bound
        if bound is not None and (bound.watched is not None or kept.asked_for is not None):
            self._bound(bound, is_alone=not bind_at)
            self._sets = False
        self._pipeline.synced()
        return out + _END_OF_STATEMENT

    # --- all else ----------------------------------------------------------------------------------------------------
    def read(self, data: bytes, at: int = 0, *, has_backend: bool) -> bytes:  # noqa: C901 - a hot loop
        """What of `data` goes to the server, from `at` on. Raises ProtocolError for what no client may say."""
        self.reply = b""
        self.stop = _END
        size = len(data)
        begin = at  # what lies between it and `at` goes out as it came
        if self.state is _PASSING or self.state is _DISCARDING:
            return self._continue(data, at)
        pipeline, prepared, is_session, kept = self._pipeline, self._prepared, self._is_session, self._kept
        is_quiet = pipeline.is_quiet
        first = at
        out: list[bytes] = []
        is_dropping = not has_backend or pipeline.is_skipping
        turn_ends = min(size - HEADER, at + _TURN_BYTES)
        for _ in _TURN:
            if at > turn_ends:
                break
            kind = data[at]
            end = at + length_of(data, at)
            if kind in WITHOUT_BODY:
                if end - at != HEADER:
                    raise has_body(kind, end - at)
                if kind == TERMINATE:
                    self.stop = _TERMINATED
                    break
            if kind == BIND and pipeline.certainty is _UNSURE and pipeline.will_be_told:
                self.stop = _ANSWERS  # its statement may have to be compared, which no one could who is unsure
                break
            new: bytes | None = None  # what goes out in its place
            if is_dropping and not (kind == SYNC and has_backend):
                if has_backend or self.state is _SKIP_TO_SYNC or kind in _WITHOUT_SERVER:
                    if begin < at:
                        out.append(data[begin:at])
                    at = begin = self._drop(kind, end, size)
                    continue
                if end <= size or (size - at >= STREAMED and not self._is_whole(kind, end - at)):
                    self.stop = _BACKEND
                    break
                self.stop = _BYTES
                break
            if end > size:
                new = self._begun(kind, data[at:], end - at)
                if new is None:
                    self.stop = _BYTES
                    break
                if prepared.is_comparing:
                    out += (data[begin:at], new)
                    begin = at
                    self.stop = _COMPARED
                    break
                if self.state is _BOUNDARY:
                    self._rest = end - size
                    self._move(RequestEvent.HEAD_SENT)
                end = size
            elif kind == EXECUTE:
                if not self._is_bound and data[at + HEADER : at + HEADER + 1] == b"\0":
                    if pipeline.will_be_idle:
                        self.stop = _ANSWERS
                        break
                    if not pipeline.is_sound:
                        new = self._refused_execute()
                pipeline.executed()
                if kept.asked_for is not None and data[at + HEADER]:
                    kept.asked_for = None  # a portal with a name: whose tag comes next is not known
            elif kind == SYNC:
                pipeline.synced()
                self._is_bound = is_dropping = False
                if self._sets:
                    self._sets = False
                    at = end
                    self.stop = _ANSWERS
                    break
            elif kind == BIND:
                if kept.is_passing and not pipeline.is_quiet:
                    kept.unsure()
                pipeline.opened()
                self._is_bound = self._is_bound or data[at + HEADER : at + HEADER + 1] == b"\0"
                if self._leaves_something and (new := self._refused_bind(data[at:end])) is not None:
                    pass
                elif not is_session:
                    new = prepared.bind(data[at:end])
                    if prepared.is_comparing:
                        out += (data[begin:at], new)
                        begin = at
                        self.stop = _COMPARED
                        break
                    bound = prepared.last_bound
                    if bound is not None and (bound.watched is not None or kept.asked_for is not None):
                        self._bound(bound, is_alone=is_quiet and at == first)
            elif kind == QUERY:
                if data[at + 5 : at + 8] in WATCHED:
                    new = self._watched(data[at + 5 : end - 1])
                else:
                    new = self._asked(data, at, end)
                if new is None:
                    if not is_session and not self._admits(_left_by(data[at + HEADER : end - 1])):
                        kept.asked_for = None
                        self._changes.asked(b"")
                        new = prepared.refuse_query(self._features.refusal)
                    is_marked = pipeline.is_open and new is None and not is_session
                    if is_marked:
                        out += (data[begin:at], prepared.mark_query())
                        begin = at
                    pipeline.queried(is_marked=is_marked)
                    self._is_bound = False
                    if prepared.unnamed is not None:
                        prepared.queried()
                    if kept.may_set:
                        at = end
                        self.stop = _ANSWERS
                        break
            else:
                new = self._translated(kind, data[at:end])
            if new is not None:
                if begin < at:
                    out.append(data[begin:at])
                if new is _HELD:
                    begin = at
                    self.stop = _ANSWERS
                    break
                if new:
                    out.append(new)
                begin = end
            at = end
        if begin < at:
            out.append(data[begin:at] if begin or at < size else data)
        if at < size and self.stop is _END:
            self.stop = _BYTES if size - at < HEADER else _STOP_TURN
        if self.stop is _BYTES:
            self.needed = self._enough(data, at)
        self.at = at
        return out[0] if len(out) == 1 else b"".join(out)

    def _continue(self, data: bytes, at: int) -> bytes:
        """What of `data` belongs to a message whose head was dealt with."""
        size = min(self._rest, len(data) - at)
        self._rest -= size
        self.at = at + size
        if self._searched is not None:
            text = self._searched + data[at : self.at]
            self._features.note(leftovers_of_part(text))
            self._searched = text[-MARGIN:] if self._rest else None
        is_sent = self.state is _PASSING
        if not self._rest:
            self.stop = _STOP_BOUNDARY
            self._move(RequestEvent.REST_CAME_UNSYNCED if self._is_refused else RequestEvent.REST_CAME)
            self._is_refused = False
        return data[at : self.at] if is_sent else b""

    def _drop(self, kind: int, end: int, size: int) -> int:
        """A message that no server gets: where the next one begins."""
        if kind == SYNC and self.state is _SKIP_TO_SYNC:
            self._move(RequestEvent.SYNCED)
            self.reply += ready_for_query(IDLE)
        if end <= size:
            return end
        self._is_refused = self.state is _SKIP_TO_SYNC
        self._rest = end - size
        self._move(RequestEvent.HEAD_DROPPED)
        return size

    def _is_whole(self, kind: int, length: int) -> bool:
        """Whether a message must have come whole before any of it goes out: before a backend is taken, too."""
        return kind == PARSE and length <= MAX_TEXT and not self._is_session

    def _enough(self, data: bytes, at: int) -> int:
        """How much there must be of the message that begins at `at`, before it is looked at again."""
        if len(data) - at < HEADER:
            return HEADER
        length = length_of(data, at)
        return length if self._is_whole(data[at], length) else min(length, STREAMED)

    def _begun(self, kind: int, head: bytes, length: int) -> bytes | None:
        """What goes out of a message that has not come whole, so that the rest may follow; None: wait for it."""
        pipeline = self._pipeline
        self._kept.asked_for = None
        if kind == QUERY:
            word = word_of(head, HEADER)
            if length <= MAX_READ or (length <= STREAMED and (len(word) < 3 or word in WATCHED)):
                return None  # it is looked at, whole
            self.queried()
            if not self._is_session:
                self._features.note(leftovers_of_part(head))
                self._searched = head[-MARGIN:]
        elif kind == FUNCTION_CALL:
            self._called()
            pipeline.queried()
        elif kind == BIND and (self._is_session or _names_are_there(head)):
            pipeline.opened()
            self._is_bound = self._is_bound or head[HEADER : HEADER + 1] == b"\0"
            return head if self._is_session else self._bind_begun(head, length)
        elif kind == BIND and len(head) < STREAMED:
            return None
        elif kind in _COPYING:
            if not pipeline.copies(kind):
                self._drop(kind, length, len(head))
                return b""
        elif kind == PARSE:
            return self._parse_begun(head, length)
        elif length > STREAMED:
            what = f"{length} bytes of kind {kind:#04x}, at most {STREAMED} are taken"
            raise ProtocolError("a message is too long", detail=what)
        else:
            return None
        return head

    def _parse_begun(self, head: bytes, length: int) -> bytes | None:
        if self._is_session:
            if length <= MAX_READ:
                return None
            self._pipeline.opened()
            return head
        if length <= MAX_TEXT or (len(head) < STREAMED and head.find(b"\0", HEADER) < 0):
            return None
        self._pipeline.opened()
        out = self._prepared.parse_begun(head)
        if out is REFUSAL:
            self._drop(PARSE, length, len(head))
        else:
            self._prepared.unnamed_leaves = ANYTHING & ~CUSTOM  # such a text is not looked into
            self._leaves_something = True
        return out

    def _refused_execute(self) -> bytes:
        """What goes out for one of a portal without a name that was not bound behind the last Sync.

        Behind an error, what a simple query has left of its portal is freed memory to PostgreSQL (15 and 18 were
        tried): its process dies, and all others of its server with it.
        """
        error = ProtocolError("an Execute of the portal without a name, which nothing has bound since an error")
        if self._is_session:
            raise error
        return self._prepared.refuse(error)

    def _bind_begun(self, head: bytes, length: int) -> bytes:
        if self._kept.is_passing:
            self._kept.unsure()
        refused = self._refused_bind(head) if self._leaves_something else None
        out = self._prepared.bind(head) if refused is None else refused
        if out is REFUSAL:  # in place of all of it: the server would read the rest, values, as messages
            self._drop(BIND, length, len(head))
        return out

    def _translated(self, kind: int, message: bytes) -> bytes | None:
        """What goes out for a message of a less common kind; None: the message as it is. Raises ProtocolError."""
        pipeline = self._pipeline
        translate = _TRANSLATED.get(kind)
        if translate is not None:
            is_alone, text_begins = pipeline.is_quiet, 0
            if self._kept.is_passing and not is_alone:
                self._kept.unsure()
            if kind == PARSE:
                text_begins = message.find(b"\0", HEADER) + 1
                word = word_of(message, text_begins)
                if word in VACATING:
                    self.vacates = vacates(message[text_begins : message.find(b"\0", text_begins)])
                if word in WATCHED:
                    return self._watched_parse(message, text_begins, is_alone=is_alone)
                self._kept.mix()
            pipeline.opened()
            if self._is_session:
                return None
            return self._parsed(message, text_begins) if kind == PARSE else translate(self._prepared, message)
        if kind in _COPYING:
            return None if pipeline.copies(kind) else b""
        if kind == FUNCTION_CALL:
            self._called()
            pipeline.queried()
        elif kind != FLUSH:
            raise ProtocolError("a client may not send such a message here", detail=f"kind {kind:#04x}")
        return None

    # --- without a server --------------------------------------------------------------------------------------------
    def refuse(self, data: bytes) -> int:
        """No backend is to be had for what begins here: where the next message begins that may have one."""
        if data[0] not in (QUERY, FUNCTION_CALL):  # these end by themselves, all others with a Sync
            self.reply = b""  # it may still be that of a message before, which the client has
            self._move(RequestEvent.REFUSED)
            return 0
        self.reply = ready_for_query(IDLE)
        size = length_of(data, 0)
        if size > len(data):
            self._rest = size - len(data)
            self._move(RequestEvent.HEAD_DROPPED)
        return min(size, len(data))

    def begins_parse(self, data: bytes) -> bool:
        """Whether `data` is the beginning of a Parse message that is waited for."""
        return self.state is _BOUNDARY and len(data) >= HEADER and data[0] == PARSE

    def refuse_parse(self, head: bytes, error: TenantProxyError) -> bytes:
        """What goes out in place of that message, where a backend is held; what is behind `at` is to be read next."""
        self._pipeline.opened()
        self.at = self._drop(PARSE, length_of(head, 0), len(head))
        return self._prepared.refuse(error)

    def abandon(self) -> None:
        """The backend is given up, and the client with it: what it began is not ended any more."""
        self._rest = 0
        self._searched = None
        self._sets = self._is_bound = False
        self.state = _BOUNDARY

    # --- what is read of a few statements ----------------------------------------------------------------------------
    def _asked(self, data: bytes, at: int, end: int) -> bytes | None:
        """A simple query may set something where it holds several statements, or begins with a comment."""
        if data[at + HEADER : at + HEADER + 3] in VACATING:
            self.vacates = vacates(data[at + HEADER : end - 1])
            if self._pipeline.is_quiet:
                self._changes.asked(data[at + HEADER : end - 1])
        if self._pipeline.is_open:
            self._kept.asked_for = None
            return None
        is_read = data.find(b";", at, end - 2) >= 0 or data[at + HEADER : at + HEADER + 1] in _BEFORE_A_WORD
        if is_read and end - at <= MAX_READ and may_set(data[at + HEADER : end - 1]):
            if self._pipeline.will_be_idle:
                return _HELD
            self._kept.asked_for = data[at:end]
        return None

    def _watched(self, sql: bytes) -> bytes | None:
        """A simple query that may be SET, RESET, DISCARD or DEALLOCATE; empty: it was answered here.

        A savepoint around nothing but a DEALLOCATE is none to a transaction that is not aborted.
        """
        pipeline, prepared = self._pipeline, self._prepared
        name = deallocate_of(sql)
        if self._pipeline.will_be_idle and may_set(sql):
            return _HELD
        is_quiet = pipeline.is_quiet
        if self._chooses:
            answered = self._chosen(sql, is_quiet=is_quiet)
            if answered is not None:
                return answered
        self._kept.asked(sql, is_alone=is_quiet)
        if self._is_session:
            return None
        if name is ALL:
            prepared.deallocating_all()
        if not is_quiet or pipeline.status not in (IDLE, IN_TRANSACTION):
            return None
        answer = _DEALLOCATED
        if name is None and pipeline.status == IN_TRANSACTION:
            name, answer = deallocate_within(sql), _DEALLOCATED_WITHIN
        if name is None or name is ALL or not prepared.names.forget(name):
            return None
        self.reply += answer + ready_for_query(pipeline.status)
        return b""

    def _chosen(self, sql: bytes, *, is_quiet: bool) -> bytes | None:
        """A simple query that chooses where its client reads: empty, it was answered here; else what fails instead."""
        pipeline = self._pipeline
        try:
            wish = read_wish(sql)
            if wish is None:
                return None
            if self._is_session:
                raise unprepared()
            if not is_quiet or pipeline.status != IDLE:
                raise alone()
        except ProtocolError as exc:
            refused = self._prepared.refuse_query(exc)
            pipeline.queried()
            self._is_bound = False
            return refused
        self.wish = wish
        self.reply += _SET_OR_RESET[sql.lstrip()[:1].upper()] + ready_for_query(IDLE)
        return b""

    def _watched_parse(self, message: bytes, text_begins: int, *, is_alone: bool) -> bytes | None:
        """A statement that may be SET, RESET, DISCARD or DEALLOCATE."""
        prepared = self._prepared
        sql = message[text_begins : message.find(b"\0", text_begins)]
        if self._chooses and _says_where_to_read(sql):
            self._pipeline.opened()
            return prepared.refuse(unprepared())
        name = deallocate_of(sql) if text_begins == HEADER + 1 else None
        if name is None and word_of(sql, 0).upper() != b"SAV":
            if self._pipeline.will_be_idle:
                return _HELD
            self._sets = True
        self._pipeline.opened()
        self._kept.asked(sql, is_alone=is_alone)
        if self._is_session:
            return None
        self._asking = message[HEADER : text_begins - 1]
        if isinstance(name, bytes):
            return prepared.deallocate(name, message)
        return prepared.deallocate_all(message) if name is ALL else self._parsed(message, text_begins)

    # --- what may leave something in the session ---------------------------------------------------------------------
    def _admits(self, found: int) -> bool:
        """Whether a text that may leave `found`, as `leftovers` says, may go out."""
        return not found or self._is_session or self._features.admits(found)

    def _parsed(self, message: bytes, text_begins: int) -> bytes:
        """A Parse message that may go out as `prepared` says, unless what it leaves may not be left."""
        found = _left_by(message[text_begins : message.find(b"\0", text_begins)])
        if not found:
            return self._prepared.parse(message)
        if not self._features.may_prepare(found):
            return self._prepared.refuse(self._features.refusal)
        self._leaves_something = True
        out = self._prepared.parse(message)
        if text_begins == HEADER + 1:
            self._prepared.unnamed_leaves = found
        return out

    def _refused_bind(self, message: bytes) -> bytes | None:
        """What goes out in place of a Bind whose statement leaves what may not be left; None: it may."""
        if self._admits(self._prepared.leaves(message)):
            return None
        return self._prepared.refuse(self._features.refusal)

    def _called(self) -> None:
        """A function is called by its number: it may be any, and mostly it is one of large objects."""
        self._kept.is_dirty = True

    def _bound(self, statement: Statement, *, is_alone: bool) -> None:
        """A named statement is bound: does the next tag tell of a SET that is known?"""
        if statement is self._prepared.names.get(self._asking):
            return  # the one that was parsed just before it
        self._kept.asked_for = None
        if statement.watched:
            self._sets = True
            self._kept.asked(statement.watched, is_alone=is_alone)


def _says_where_to_read(sql: bytes) -> bool:
    try:
        return read_wish(sql) is not None
    except ProtocolError:
        return True


def _left_by(sql: bytes) -> int:
    return leftovers(sql) | (sets_untracked(sql) if word_of(sql, 0) in WATCHED else 0)


def _names_are_there(bind: bytes) -> bool:
    """Whether both names of a Bind message have come."""
    portal_ends = bind.find(b"\0", HEADER)
    return portal_ends >= 0 and bind.find(b"\0", portal_ends + 1) >= 0
