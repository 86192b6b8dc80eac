"""What does a server answer to one segment of the extended protocol? Its results as texts, within limits. Sans-I/O.

A segment ends with a Sync, so its answer with the one ReadyForQuery. What is beyond the limits is not kept: the reader
says so (`is_over`), and reads on to the end.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final, NamedTuple

from tenantproxy.errors import ProtocolError
from tenantproxy.wire.columns import Column, columns_of
from tenantproxy.wire.frames import (
    BIND_COMPLETE,
    CLOSE_COMPLETE,
    COMMAND_COMPLETE,
    COPY_BOTH,
    COPY_DATA,
    COPY_DONE,
    COPY_IN,
    COPY_OUT,
    DATA_ROW,
    EMPTY_QUERY,
    ERROR,
    HEADER,
    IDLE,
    IN_FAILED_TRANSACTION,
    IN_TRANSACTION,
    MAX_FRAME,
    NO_DATA,
    NOTICE,
    NOTIFICATION,
    PARAMETER_STATUS,
    PARSE_COMPLETE,
    READY,
    ROW_DESCRIPTION,
    length_of,
)

__all__ = ["Row", "RowsAnswered", "SegmentReader", "StatementResult"]

_UNSIGNED: Final = struct.Struct("!I").unpack_from
_LONG: Final = struct.Struct("!i").unpack_from
_SHORT: Final = struct.Struct("!H").unpack_from
_MOST: Final = 1024 * 1024  # bytes of a message that is no row: a description of 1600 columns, an error with its DETAIL
_TOLD_OF_COLUMN: Final = 128  # bytes that an answer has for each column, next to its name
_LONG_VALUE: Final = 64  # bytes of a value from which on it counts what JSON makes of its characters
_CONTROLS: Final = bytes({*range(0x20)} - {*b"\b\t\n\f\r"})
_AT_ONCE: Final = 64 * 1024  # bytes of an answer that may be read at once
_MOST_TOLD: Final = 16  # bytes, at most, that count for each of an answer's: _TOLD_OF_COLUMN for a column of 19
_MORE_OF_CONTROL: Final = 5  # bytes: it is told in six
_PASSED_OVER: Final = frozenset((PARSE_COMPLETE, BIND_COMPLETE, CLOSE_COMPLETE, NO_DATA, NOTICE))
_COPIES: Final = frozenset((COPY_IN, COPY_OUT, COPY_BOTH, COPY_DATA, COPY_DONE))
_STATUSES: Final = frozenset((IDLE, IN_TRANSACTION, IN_FAILED_TRANSACTION))

Row = list[str | None]
"""The texts of one row; None is NULL."""


class StatementResult(NamedTuple):
    """What one statement was answered. `tag` is empty for an empty statement."""

    columns: tuple[Column, ...]
    rows: list[Row]
    tag: bytes


RowsAnswered = Callable[[bytes], tuple[bool, bytes, list[Row], bytes] | None]
"""What `_native.core.rows_answered` says of an answer: whether its statement was parsed, columns, rows and tag."""


class SegmentReader:
    """Reads the answer to one segment. `feed` it until it says that the server is ready.

    `results`: of the statements that have completed, in order. `error`: the payload of the first ErrorResponse.
    `status`: what ReadyForQuery said. `is_over`: rows were left out, for `max_rows` or `max_bytes` of all results were
    met: of rows and columns as JSON tells them, and of notices. `is_named`: it tells each row with the names of its
    columns. `is_copying`: a COPY began, whose answer is not read. `is_touched`: the server reported a setting, or a
    notification came: the session is not what it was. `is_parsed`, `is_bound`: a statement was: before that nothing of
    it can have run.
    """

    __slots__ = (
        "_columns", "_have", "_is_named", "_left", "_names", "_need", "_parts", "_rows", "_rows_answered",
        "_skip", "error", "is_bound", "is_copying", "is_over", "is_parsed", "is_touched", "results", "room", "size",
        "status",
    )  # fmt: skip

    def __init__(
        self, max_rows: int, max_bytes: int, *, is_named: bool = False, rows_answered: RowsAnswered | None = None
    ) -> None:
        self._rows_answered = rows_answered  # for the answer that begins now, if that is all
        self.results: list[StatementResult] = []
        self.error: bytes | None = None
        self.status = 0
        self.is_over = self.is_copying = self.is_touched = self.is_parsed = self.is_bound = False
        self.room = max_bytes  # bytes that may still come
        self.size = 0  # bytes that came
        self._left = max_rows  # rows that may still come
        self._is_named = is_named
        self._names = 0  # bytes of the names that a row is told with
        self._columns: tuple[Column, ...] = ()
        self._rows: list[Row] = []
        self._skip = 0  # bytes to come of a row that is left out
        # The beginning of a message, in the parts in which it came: as many bytes as are there, and as are needed.
        self._parts: list[bytes] = []
        self._have = self._need = 0

    def again(self) -> None:
        """Another segment follows, whose results come behind those that are there."""
        self.status = 0
        self._columns, self._rows = (), []

    def start_over(self) -> None:
        """The segment failed before anything of it ran, and is sent in other words: nothing was answered."""
        self.again()
        self.error = None
        self.is_parsed = self.is_bound = False

    def feed(self, data: bytes) -> bool:
        """Bytes came; whether the server is ready, and has said nothing behind it.

        Raises ProtocolError for what no server answers to a segment, and UnicodeDecodeError for rows that are no UTF-8:
        the connection is of no more use.
        """
        self.size += len(data)
        if self._rows_answered is not None and self._is_read_at_once(data):
            return True
        if self._skip:
            skipped = min(self._skip, len(data))
            self._skip -= skipped
            data = data[skipped:]
        if self._parts:
            self._parts.append(data)
            self._have += len(data)
            if self._have < self._need:
                return False
            data = b"".join(self._parts)
            self._parts = []
        at, size = 0, len(data)
        while size - at >= HEADER:
            kind, length = data[at], _UNSIGNED(data, at + 1)[0]
            end = at + (length + 1 if 4 <= length <= MAX_FRAME else length_of(data, at))  # which raises
            if end > size and self._is_left_out(kind, end - at):
                self._skip, at = end - size, size
                break
            if end > size:
                self._keep(data[at:], end - at)
                return False
            if kind == DATA_ROW:
                self._row(data, at, end)
            else:
                self._other(kind, data[at + HEADER : end])
            at = end
        if at < size:
            self._keep(data[at:], HEADER)
        elif self.status:
            return True
        return False

    def _is_read_at_once(self, data: bytes) -> bool:
        """The compiled one has read an answer that is far from all limits; names of columns are counted here alone."""
        rows_answered, self._rows_answered = self._rows_answered, None
        if rows_answered is None or self._is_named or len(data) > _AT_ONCE or len(data) * _MOST_TOLD > self.room:
            return False
        found = rows_answered(data)
        if found is None:
            return False
        is_parsed, description, rows, tag = found
        if len(rows) > self._left:
            return False
        columns = columns_of(description)
        self.is_parsed, self.is_bound, self.status = is_parsed, True, IDLE
        self.results.append(StatementResult(columns, rows, tag))
        return True

    def _keep(self, beginning: bytes, need: int) -> None:
        self._parts, self._have, self._need = [beginning], len(beginning), need

    def _is_left_out(self, kind: int, length: int) -> bool:
        """Whether a message that has not come whole is a row for which there is no room."""
        if kind != DATA_ROW:
            if length > _MOST:
                raise ProtocolError("the server sent a message that is too long", detail=f"kind {kind:#04x}")
            return False
        if length > self.room:
            self.is_over = True
        return self.is_over

    # --- rows --------------------------------------------------------------------------------------------------------
    def _row(self, data: bytes, at: int, end: int) -> None:
        self._take(end - at + self._names)
        self._left -= 1
        if self._left < 0:
            self.is_over = True
        if self.is_over:
            return
        try:
            (count,) = _SHORT(data, at + HEADER)
            row: Row = []
            at += HEADER + 2
            for _ in range(count):
                (length,) = _LONG(data, at)
                at += 4
                if length < 0:
                    row.append(None)
                else:
                    value = data[at : at + length]
                    row.append(value.decode())
                    at += length
                    if length > _LONG_VALUE:
                        self._take(_MORE_OF_CONTROL * (length - len(value.translate(None, _CONTROLS))))
        except struct.error:
            raise _no_row() from None
        if at != end or count != len(self._columns):
            raise _no_row()
        self._rows.append(row)

    def _take(self, size: int) -> None:
        self.room -= size
        if self.room < 0:
            self.is_over = True

    # --- the rest ----------------------------------------------------------------------------------------------------
    def _other(self, kind: int, payload: bytes) -> None:
        if kind in _PASSED_OVER:
            self._passed_over(kind, len(payload))
            return
        if self.status and kind not in (PARAMETER_STATUS, NOTIFICATION):
            raise ProtocolError("the server said something behind its last answer")
        if kind == COMMAND_COMPLETE:
            self._completed(payload[:-1])
        elif kind == ROW_DESCRIPTION:
            self._described(payload)
        elif kind == READY:
            if len(payload) != 1 or payload[0] not in _STATUSES:
                raise ProtocolError("the server is ready in no way that there is")
            self.status = payload[0]
        elif kind == ERROR:
            self.error = self.error or payload
        elif kind == EMPTY_QUERY:
            self._completed(b"")
        elif kind in (PARAMETER_STATUS, NOTIFICATION):
            self.is_touched = True
        elif kind in _COPIES:
            self.is_copying = True
        else:
            raise ProtocolError("the server gave an answer that was not asked for", detail=f"kind {kind:#04x}")

    def _passed_over(self, kind: int, size: int) -> None:
        if kind == BIND_COMPLETE:
            self.is_bound = True
        elif kind == PARSE_COMPLETE:
            self.is_parsed = True
        elif kind == NOTICE:  # a statement may raise them without end
            self._take(size)

    def _described(self, payload: bytes) -> None:
        count = int.from_bytes(payload[:2], "big")
        self._take(len(payload) + count * _TOLD_OF_COLUMN)
        if self.is_over:  # a batch may describe as many columns as it has statements, times 1664
            return
        self._columns = columns_of(payload)
        self._names = sum(len(column.name) + 3 for column in self._columns) if self._is_named else 0

    def _completed(self, tag: bytes) -> None:
        self.results.append(StatementResult(self._columns, self._rows, tag))
        self._columns, self._rows = (), []


def _no_row() -> ProtocolError:
    return ProtocolError("the server sent a row that is none")
