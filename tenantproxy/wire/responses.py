"""What does a server answer, where does it end, and what of it does the client see?

A response stream looks at kinds and lengths and passes on what lies between the few messages that mean something. It
tells the pipeline of each of them, takes out the answers to internal messages, and says what else happened (`events`).
"""

from __future__ import annotations

import struct
from typing import Final, Protocol

from tenantproxy.errors import ProtocolError
from tenantproxy.wire.frames import (
    BIND_COMPLETE,
    CLOSE_COMPLETE,
    COMMAND_COMPLETE,
    COPY_DATA,
    COPY_IN,
    COPY_OUT,
    DATA_ROW,
    EMPTY_QUERY,
    ERROR,
    HEADER,
    IDLE,
    MAX_FRAME,
    NO_DATA,
    NOTICE,
    NOTIFICATION,
    PARAMETER_DESCRIPTION,
    PARAMETER_STATUS,
    PARSE_COMPLETE,
    PORTAL_SUSPENDED,
    READY,
    ROW_DESCRIPTION,
    frame,
)
from tenantproxy.wire.pipeline import (
    BEHIND,
    OWN_PARSED,
    OWN_PARSED_UNNAMED,
    PARSED,
    PARSED_UNNAMED,
    REFUSED,
    REFUSED_BY_US,
    Pipeline,
)
from tenantproxy.wire.prepared import Prepared
from tenantproxy.wire.rows import LONGEST, end_of_rows
from tenantproxy.wire.statements import NAME_PREFIX

__all__ = ["Pids", "ResponseStream", "is_unexpected"]

_LENGTH: Final = struct.Struct("!I").unpack_from
_LOOKED_AT: Final = frozenset(  # whole; all others stream
    (
        READY,
        COMMAND_COMPLETE,
        ERROR,
        PARAMETER_STATUS,
        COPY_IN,
        COPY_OUT,
        NOTICE,
        NOTIFICATION,
        PARSE_COMPLETE,
        CLOSE_COMPLETE,
        PARAMETER_DESCRIPTION,
    )
)
_SHAPES: Final = frozenset((ROW_DESCRIPTION, NO_DATA))  # looked at behind a ParameterDescription
_PASSED: Final = frozenset(  # never looked at
    (
        ROW_DESCRIPTION,
        BIND_COMPLETE,
        NO_DATA,
        COPY_DATA,
        PORTAL_SUSPENDED,
        EMPTY_QUERY,
    )
)
_LOOKED_AT_BEHIND: Final = _LOOKED_AT | _SHAPES
_PASSED_BEHIND: Final = _PASSED - _SHAPES
_OF_A_PROCESS: Final = frozenset((NOTICE, NOTIFICATION))
_FIRST_KIND: Final = PARSE_COMPLETE  # of all; a row that is shorter than itself leads to a byte below
_READY_SIZE: Final = 6
_SHORTEST_TAG: Final = 2  # DO
_STATUSES: Final = b"ITE"
_NO_EVENT: Final = (0, b"")
_OPEN: Final = b"T"
_OF_BLOCKS: Final = {b"BEGIN": True, b"START TRANSACTION": True} | dict.fromkeys(
    (b"COMMIT", b"ROLLBACK", b"PREPARE TRANSACTION"), False
)
_MANY: Final = 1024  # bytes of rows in which to look for their end at once
_MISSES: Final = 4
_COLUMN: Final = 18  # bytes behind a column's name
_MAX_LOOKED_AT: Final = 1024 * 1024  # an error with a long DETAIL

# Fields of an error. No text that a user chose has a NUL before it.
_FATAL: Final = (b"\0VFATAL\0", b"\0VPANIC\0")
_STALE_PLAN: Final = (b"\0C0A000\0", b"\0RRevalidateCachedQuery\0")
# Of a statement that was parsed before: tables, types or functions have changed since, so that it cannot be planned
# again as it is. Not what is wrong with a value (22, 23) or may be gone the next time (40, 53, 55, 57).
_OUTDATED: Final = (b"\0C42", b"\0C0A", b"\0C3F", b"\0CXX")
_PARSING: Final = frozenset(bytes((each,)) for each in (PARSED, PARSED_UNNAMED, OWN_PARSED, OWN_PARSED_UNNAMED))
_CANCELLED: Final = b"\0C57014\0"
_INSIDE: Final = b"\0W"  # a function: what ran it is the client's own
# A statement is not there, or is; the session says that it is another's: a set_config in a SELECT shows nowhere else.
_REFUSED: Final = (b"\0C26000\0", NAME_PREFIX + b"none")
_IS_REFUSED: Final = (bytes((REFUSED,)), bytes((REFUSED_BY_US,)))
_OUT_OF_DATE: Final = frame(  # in PostgreSQL's words: drivers know them, and prepare again
    ERROR,
    b"SERROR\0VERROR\0C0A000\0Mcached plan must not change result type\0"
    b"DThe statement was prepared when its parameters or rows had other types.\0"
    b"HPrepare it again.\0RRevalidateCachedQuery\0\0",
)
_NOT_SIGNALLED: Final = b"\0Rpg_signal_backend\0"  # of no process: it may be a client of this port
_ABOUT_A_NAME: Final = (b"\0C26000\0", b"\0C42P05\0")
_NOT_AS_BELIEVED: Final = (*_ABOUT_A_NAME, b"\0C42501\0Mtenantproxy: ")


class Pids(Protocol):
    """Which process id the client was told, and which its backend has."""

    def as_told(self, notification: bytes) -> bytes | None:
        """A NotificationResponse of its own backend with the id that it was told; None: as it is."""
        ...


class ResponseStream:
    """What a server says to one client. What `scan` found is in its attributes until the next `scan`.

    Invariant: of `_tail` (the beginning of a message) and `_rest` (bytes to come of one) one is empty.
    """

    __slots__ = (
        "_described",
        "_ends_idle",
        "_is_session",
        "_looked_at_kinds",
        "_passed_kinds",
        "_pipeline",
        "_prepared",
        "_rest",
        "_tail",
        "events",
        "has_begun",
        "is_copying_in",
        "is_fatal",
        "is_idle",
        "is_plain",
        "is_retryable",
        "is_stale",
        "pids",
        "readies",
        "timed_out",
        "warning",
    )

    def __init__(self, pipeline: Pipeline, prepared: Prepared, *, is_session: bool) -> None:
        self.readies = 0  # how often it was ready
        self.has_begun = False  # the last command that begins or ends transactions has begun one
        self.is_idle = False  # it ended with nothing outstanding, in no transaction
        self.is_plain = False  # and nothing else has happened: there are no events
        self.is_copying_in = False  # a COPY began that the client sends
        self.is_stale = False  # the plan of a statement was
        self.is_retryable = False  # and nothing of what was sent has run
        self.is_fatal = False  # it has said why it goes
        self.timed_out = b""  # what the client hears when what runs for it was cancelled, for it took too long
        self.warning = b""  # of a signal that it did not send; what comes behind it is in `take_tail`
        self.pids: Pids | None = None  # None: the client was told its backend's own
        self.events: list[tuple[int, bytes]] = []
        """In order: tags of commands other than SELECT, reports of settings, errors, beginnings of COPY, and behind one
        of these or `tell_ready` each ReadyForQuery."""
        self._pipeline = pipeline
        self._prepared = prepared
        self._is_session = is_session  # statements keep their names: no answer is to an internal message
        self._tail = b""
        self._rest = 0
        self._looked_at_kinds, self._passed_kinds = _LOOKED_AT, _PASSED
        self._described = b""  # the parameters of a statement, when the shape of its rows comes next
        self._ends_idle = False  # when the message under way has come whole

    @property
    def is_amid(self) -> bool:
        """Whether a message has not come whole."""
        return bool(self._tail or self._rest)

    @property
    def is_half_passed(self) -> bool:
        """Whether the client has the beginning of one."""
        return self._rest > 0

    @property
    def is_at_rest(self) -> bool:
        """Whether a new one would scan on the same."""
        is_done = not (self._tail or self._rest or self.events or self.timed_out or self.warning)
        return is_done and not (self._ends_idle or self.has_begun or self.is_fatal)

    def take_events(self) -> list[tuple[int, bytes]]:
        """What has happened since this was last asked."""
        events, self.events = self.events, []
        return events

    def tell_ready(self) -> None:
        """The next ReadyForQuery is an event, whatever comes before it."""
        self.events.append(_NO_EVENT)

    def abandon(self) -> None:
        """The backend is given up: nothing comes from it any more."""
        self._tail = b""
        self._looked_at_kinds, self._passed_kinds = _LOOKED_AT, _PASSED
        self._ends_idle = self.has_begun = False

    def scan(self, data: bytes) -> bytes:  # noqa: C901 - a hot loop
        """What the client gets of `data`. Raises ProtocolError for what no server says."""
        at = 0
        rest = self._rest
        if rest:
            at = min(rest, len(data))
            rest -= at
        elif self._tail:
            data = self._tail + data
            self._tail = b""
        size = len(data)
        last = size - HEADER  # where the last message could begin
        begin = 0  # what lies between here and `at` goes to the client as it came
        out: list[bytes] | None = None  # if something is not passed on as it came
        pipeline, prepared, passed = self._pipeline, self._prepared, self._passed_kinds
        misses = 0  # how often rows turned out to be of many lengths
        readies = 0
        self.is_stale = self.is_copying_in = False
        is_idle = self._ends_idle and pipeline.is_quiet
        self._ends_idle = False
        while at <= last:
            kind = data[at]
            end = at + 1 + _LENGTH(data, at + 1)[0]
            if (kind == DATA_ROW or kind in passed) and at + HEADER <= end <= size:
                if size - end > _MANY and kind == DATA_ROW and end - at <= LONGEST and misses < _MISSES:
                    at = end_of_rows(data, end, end - at - 1)
                    misses += at - end < _MANY
                else:
                    at = end
                continue
            if end > size:
                if self._is_waited_for(kind, end - at):
                    break
                if kind == ERROR:
                    self._failed(data[at:], is_first=False)
                rest = end - size
                end = size
            elif kind == READY:
                skipped = pipeline.ready()
                if skipped:
                    self._not_answered(skipped, data[at + HEADER : end])
                if end - at != _READY_SIZE or data[at + 5] not in _STATUSES:
                    raise ProtocolError("the server is ready in no way that there is")
                pipeline.status = status = data[at + 5]
                readies += 1
                if self.events:
                    self.events.append((READY, data[at + HEADER : end]))
                is_idle = status == IDLE and not (pipeline.outstanding or pipeline.is_open)
            elif kind == COMMAND_COMPLETE:
                if not data.startswith(b"SELECT", at + 5):
                    self._completed(data[at + 5 : end - 1])
            elif kind == PARSE_COMPLETE and end - at == HEADER and not self._is_session:
                if prepared.acknowledged(pipeline.acknowledged(PARSE_COMPLETE)) != PARSE_COMPLETE:
                    out = [*(out or ()), data[begin:at]]
                    begin = end
            elif kind in self._looked_at_kinds:
                if end - at < HEADER:
                    raise ProtocolError("the server sent a message of an impossible length")
                new = self._looked_at(kind, data[at:end], is_first=at == 0)
                passed = self._passed_kinds
                if new is not None:
                    out = [*(out or ()), data[begin:at], new]
                    begin = end
                    if self.warning:
                        at = end
                        break
            elif end - at < HEADER or kind < _FIRST_KIND:
                raise ProtocolError("the server sent a message of an impossible length")
            at = end
        self._rest = rest  # not before: where this raises, the client has no end of what it has the beginning of
        if at < size:
            self._tail = data[at:]
        if is_idle and (self._tail or rest):
            is_idle = False
            self._ends_idle = True
        self.is_idle = is_idle
        self.is_plain = is_idle and not self.events
        self.readies = readies
        if out is not None:
            return b"".join((*out, data[begin:at]))
        return data if at == size else data[:at]

    def _looked_at(self, kind: int, message: bytes, *, is_first: bool) -> bytes | None:
        """What the client gets for it; None: the message as it is. Raises ProtocolError."""
        if kind == ERROR:
            self._looked_at_kinds, self._passed_kinds = _LOOKED_AT, _PASSED
            instead = self._failed(message, is_first=is_first)
            if instead:
                return instead
            if not self._is_session and any(each in message for each in _ABOUT_A_NAME):
                return self._prepared.in_own_names(message)
        elif kind == PARAMETER_STATUS:
            self.events.append((kind, message[HEADER:-1]))
        elif kind in _OF_A_PROCESS:
            return None if self.pids is None else self._of_a_process(kind, message, self.pids)
        elif kind == COPY_IN:
            self._pipeline.copy_began()
            self.is_copying_in = True
            self.events.append((kind, b""))
        elif kind == COPY_OUT:
            self._pipeline.copy_out_began()
        elif kind in _SHAPES:
            self._looked_at_kinds, self._passed_kinds = _LOOKED_AT, _PASSED
            is_shown = self._prepared.described(self._described + shape_of(message))
            return None if is_shown else b""
        elif not self._is_session:  # ParseComplete, CloseComplete, ParameterDescription
            if kind == PARAMETER_DESCRIPTION:
                self._described = message
                self._looked_at_kinds, self._passed_kinds = _LOOKED_AT_BEHIND, _PASSED_BEHIND
            shown = self._prepared.acknowledged(self._pipeline.acknowledged(kind))
            if shown != kind:
                return frame(shown) if shown else b""
        return None

    def _not_answered(self, skipped: bytes, status: bytes) -> None:
        """An error has skipped these, or they say that a Query stood behind open messages."""
        self._prepared.skipped(skipped, by_first=False)
        if skipped[-1] == BEHIND and self._pipeline.status == IDLE and status == _OPEN and not self.has_begun:
            self._pipeline.left_open()

    def _of_a_process(self, kind: int, message: bytes, pids: Pids) -> bytes | None:
        """A notice or a notification to a client that was not told its backend's own process id."""
        if kind == NOTIFICATION:
            return pids.as_told(message)
        if _NOT_SIGNALLED not in message:
            return None
        self.warning = message
        self.events.append((kind, b""))
        return b""

    def take_tail(self) -> bytes:
        """What came behind a warning, to be scanned next."""
        tail, self._tail, self.warning = self._tail, b"", b""
        return tail

    def _completed(self, tag: bytes) -> None:
        """A command ended, other than a SELECT. Raises ProtocolError."""
        if len(tag) < _SHORTEST_TAG:
            raise ProtocolError("the server ended a command that there is not")
        self.events.append((COMMAND_COMPLETE, tag))
        if tag.startswith(b"COPY"):
            self._pipeline.copied()
        elif tag in _OF_BLOCKS:
            self.has_begun = _OF_BLOCKS[tag]
        elif tag in (b"DISCARD ALL", b"DEALLOCATE ALL") and not self._is_session:
            self._prepared.deallocated_all()

    def _failed(self, error: bytes, *, is_first: bool) -> bytes:
        """What the client hears instead; empty: the error."""
        pipeline, prepared = self._pipeline, self._prepared
        self.has_begun = False  # or it has failed: what comes behind tells
        if pipeline.is_quiet:  # of nothing that was asked: it may skip everything up to a Sync that is never sent
            pipeline.doubt()
        skipped = pipeline.failed()
        if skipped:
            prepared.skipped(skipped, by_first=True)
        self.has_begun = False  # a COMMIT that failed has no tag
        if skipped[:1] in _IS_REFUSED and all(each in error for each in _REFUSED):
            self.events.append((ERROR, b""))  # to an internal one, yet what its transaction did before is undone
            return _OUT_OF_DATE if skipped[0] == REFUSED else prepared.refusal
        self.events.append((ERROR, error))
        if any(each in error for each in _FATAL):
            self.is_fatal = True
        elif self._is_session:
            pass
        elif all(each in error for each in _STALE_PLAN):
            self.is_stale = True
            # The first answer is this error, so it is one to our Bind, and nothing of the segment has run.
            is_of_bind = prepared.last_bound is not None and _INSIDE not in error
            self.is_retryable = is_first and is_of_bind and pipeline.owes_one_sync
        elif is_unexpected(error):
            prepared.lost()
        elif any(each in error for each in _OUTDATED) and not (pipeline.owes_a_query or skipped[:1] in _PARSING):
            # It may be an error of its run too. No loop of them costs others more than it costs the client: to renew a
            # text again, the client must have prepared it again.
            prepared.outdated()
        if self.timed_out and _CANCELLED in error:
            instead, self.timed_out = self.timed_out, b""
            return instead
        return b""

    def _is_waited_for(self, kind: int, length: int) -> bool:
        """Whether a message that has not come whole must, before it goes on to the client."""
        looked_at = self._looked_at_kinds
        is_huge = kind in looked_at and kind not in (ERROR, NOTICE) and length > _MAX_LOOKED_AT
        if is_huge or length > MAX_FRAME + 1 or kind < _FIRST_KIND:
            raise ProtocolError("the server sent a message of an impossible length")
        return kind in looked_at and length <= _MAX_LOOKED_AT


def is_unexpected(error: bytes) -> bool:
    """Whether an ErrorResponse says that the session is not what we believe it to be."""
    return any(each in error for each in _NOT_AS_BELIEVED)


def shape_of(message: bytes) -> bytes:
    """What a RowDescription says that a client goes by: names, types and sizes, not from which table they come.

    Raises ProtocolError for one that is none.
    """
    shape = bytearray()
    at, size = HEADER + 2, len(message)
    while at < size:
        name_ends = message.find(b"\0", at) + 1
        if not name_ends or name_ends + _COLUMN > size:
            raise ProtocolError("the server described rows that there are not")
        shape += message[at:name_ends] + message[name_ends + 6 : name_ends + 16]  # behind table and column
        at = name_ends + _COLUMN
    return bytes(shape)
