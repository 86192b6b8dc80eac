"""What does a request of SQL over HTTP ask for? Its body and headers, read and held against the limits. Pure.

The protocol is Neon's: a statement with its parameters, or several that are one transaction.
"""

from __future__ import annotations

import struct
from collections.abc import Generator, Mapping, Sequence
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final, NamedTuple

import msgspec

from tenantproxy.config import SqlSettings
from tenantproxy.errors import InvalidSetting
from tenantproxy.raw.exchange import SYNC_NOW, statement
from tenantproxy.sidecar.sql.malformed import malformed, too_large, utf8
from tenantproxy.wire.array_texts import writing_array
from tenantproxy.wire.commands import PLANNED, is_local, is_of_a_moment, word_of
from tenantproxy.wire.frames import BIND, DESCRIBE, EXECUTE, PARSE, frame
from tenantproxy.wire.leftovers import ANYTHING, leftovers

__all__ = [
    "BATCH_HEADERS",
    "HEADERS",
    "Modes",
    "SqlRequest",
    "modes_of",
    "reading_request",
    "request_at_once",
    "too_large",
]

ARRAY_MODE, RAW_TEXT = "Neon-Array-Mode", "Neon-Raw-Text-Output"
ISOLATION, READ_ONLY, DEFERRABLE = "Neon-Batch-Isolation-Level", "Neon-Batch-Read-Only", "Neon-Batch-Deferrable"
BATCH_HEADERS: Final = (ISOLATION, READ_ONLY, DEFERRABLE)
HEADERS: Final = (ARRAY_MODE, RAW_TEXT, *BATCH_HEADERS)

_LEVELS: Final = {
    "ReadUncommitted": "READ UNCOMMITTED",
    "ReadCommitted": "READ COMMITTED",
    "RepeatableRead": "REPEATABLE READ",
    "Serializable": "SERIALIZABLE",
}
_FLAGS: Final = {"true": True, "false": False}
_LONG: Final = struct.Struct("!i").pack
_SHORT: Final = struct.Struct("!H").pack
_NULL: Final = _LONG(-1)
_DESCRIBE_AND_RUN: Final = frame(DESCRIBE, b"P\0") + frame(EXECUTE, b"\0\0\0\0\0")
_DESCRIBE_RUN_AND_SYNC: Final = _DESCRIBE_AND_RUN + SYNC_NOW
_STEP: Final = 500  # parameters that are read at once
_NO_VALUES: Final = b"\0\0\0\0\0\0"
_SHORT_TEXT: Final = 4096  # bytes of a statement; what is known of a longer one is found out each time


class _Query(msgspec.Struct):
    query: str
    params: list[msgspec.Raw] | None = None


class _Body(msgspec.Struct):
    query: str | None = None
    params: list[msgspec.Raw] | None = None
    queries: list[_Query] | None = None


_BODY: Final = msgspec.json.Decoder(_Body)
_LIST: Final = msgspec.json.Decoder(list[Any], float_hook=Decimal)  # numbers stay what was written
_ELEMENT: Final = msgspec.json.Encoder(decimal_format="number")


class Modes(NamedTuple):
    """How results are told: rows as lists, values as the texts that the server sent."""

    as_array: bool
    is_raw: bool


class SqlRequest(NamedTuple):
    """One request. `message`: all that is sent for it but the end of a batch's transaction. `texts`: its statements.

    `is_batch`: they are one transaction. `leaves`: a text may leave something in the session that no tag tells of.
    `values`: of a statement that may stay prepared, what its Bind message holds behind the names; empty: it may not.
    `echo`: headers of the answer to a batch.
    """

    message: bytes
    texts: tuple[bytes, ...]
    is_batch: bool
    modes: Modes
    leaves: bool
    values: bytes = b""
    echo: tuple[tuple[str, str], ...] = ()

    def __repr__(self) -> str:
        return f"<SqlRequest of {len(self.texts)}>"  # neither texts nor values are shown

    def message_for(self, name: bytes) -> bytes:
        """What is sent for its one statement, where that is prepared under this name."""
        return frame(BIND, b"\0%b\0%b" % (name, self.values)) + _DESCRIBE_RUN_AND_SYNC

    def is_local_set(self, index: int) -> bool:
        """Whether the statement of this number, whose tag is SET, sets something for its transaction alone."""
        return self.is_batch and is_local(self.texts[index])


def modes_of(headers: Mapping[str, str]) -> Modes:
    """Raises InvalidSetting for a value that is neither true nor false."""
    return Modes(_flag(headers, ARRAY_MODE), _flag(headers, RAW_TEXT))


def reading_request(
    body: bytes, headers: Mapping[str, str], limits: SqlSettings, modes: Modes | None = None
) -> Generator[None, None, SqlRequest]:
    """The request in a body and its headers, whose names are matched in any case. `modes`: theirs, if known already.

    In small steps, for `slices.found_in_slices`: what one asks for may be a million values.
    Raises ProtocolError, StatementTooLong, InvalidSetting: what is wrong and the limit, and nothing of what it holds.
    """
    try:
        if not body.isascii():
            body.decode()  # the decoder leaves that to the reader of each parameter
        given = _BODY.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as exc:
        detail = str(exc) if isinstance(exc, msgspec.ValidationError) else None
        raise malformed("the body is not the JSON of a statement or a batch", detail) from None
    if modes is None:
        modes = modes_of(headers)
    if given.queries is not None:
        if given.query is not None:
            raise malformed("the body has both query and queries")
        return (yield from _batch(given.queries, headers, limits, modes))
    if given.query is None:
        raise malformed("the body has neither query nor queries")
    text = _text(given.query, limits)
    return _single(text, _NO_VALUES if not given.params else (yield from _values(given.params, limits)), modes)


def request_at_once(body: bytes, limits: SqlSettings, modes: Modes) -> SqlRequest | None:
    """The same where it is one small step; None: take those of `reading_request`, which says too what is wrong."""
    try:
        given = _BODY.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return None
    params = given.params or ()
    if given.query is None or given.queries is not None or len(params) > _STEP or not body.isascii():
        return None
    parts = [b"\0\0", _SHORT(len(params))]
    for raw in params:
        written = bytes(raw)
        if written[:1] == b"[":
            return None
        value = _scalar(written)
        parts += (_NULL,) if value is None else (_LONG(len(value)), value)
    if len(params) > limits.max_parameters:
        return None
    parts.append(b"\0\0")
    return _single(_text(given.query, limits), b"".join(parts), modes)


def _single(text: _Text, values: bytes, modes: Modes) -> SqlRequest:
    message = text.parse + frame(BIND, b"\0\0" + values) + _DESCRIBE_RUN_AND_SYNC
    return SqlRequest(message, (text.sql,), False, modes, text.leaves, values if text.may_stay else b"")


def _batch(
    queries: Sequence[_Query], headers: Mapping[str, str], limits: SqlSettings, modes: Modes
) -> Generator[None, None, SqlRequest]:
    if len(queries) > limits.max_batch:
        raise too_large("statements in one batch", len(queries), "max_batch", limits.max_batch)
    level = headers.get(ISOLATION)
    if level is not None and level not in _LEVELS:
        raise InvalidSetting(
            f"the header {ISOLATION} has a value that it cannot have", hint=f"one of {', '.join(_LEVELS)}"
        )
    reads, defers = _flag(headers, READ_ONLY), _flag(headers, DEFERRABLE)
    begin = "BEGIN" + (f" ISOLATION LEVEL {_LEVELS[level]}" if level else "")
    begin += (" READ ONLY" if reads else "") + (" DEFERRABLE" if defers else "")
    texts: list[bytes] = []
    segments: list[bytes] = []
    leaves = False
    for each in queries:
        text = _text(each.query, limits)
        texts.append(text.sql)
        values = _NO_VALUES if not each.params else (yield from _values(each.params, limits))
        segments.append(text.parse + frame(BIND, b"\0\0" + values) + _DESCRIBE_AND_RUN)
        leaves = leaves or text.leaves
        yield
    echo = [(ISOLATION, level)] if level else []
    echo += [(name, "true") for name, is_on in ((READ_ONLY, reads), (DEFERRABLE, defers)) if is_on]
    return SqlRequest(
        message=statement(begin) + b"".join(segments) + SYNC_NOW,
        texts=tuple(texts),
        is_batch=True,
        modes=modes,
        leaves=leaves,
        echo=tuple(echo),
    )


def _flag(headers: Mapping[str, str], name: str) -> bool:
    value = headers.get(name)
    if value is None:
        return False
    found = _FLAGS.get(value.lower())
    if found is None:
        raise InvalidSetting(f"the header {name} has a value that it cannot have", hint="true or false")
    return found


# --- messages --------------------------------------------------------------------------------------------------------
class _Text(NamedTuple):
    """A statement. `parse`: its Parse message, without a name. `may_stay`: it has a plan, and leaves nothing behind."""

    sql: bytes
    parse: bytes
    leaves: bool
    may_stay: bool


def _text(query: str, limits: SqlSettings) -> _Text:
    text = _known_text(query) if len(query) <= _SHORT_TEXT else _text_of(query)
    if len(text.sql) > limits.max_statement:
        raise too_large("bytes in one statement", len(text.sql), "max_statement", limits.max_statement)
    return text


def _text_of(query: str) -> _Text:
    sql = utf8(query, "a statement")
    if b"\0" in sql:
        raise malformed("a statement has a NUL in it")
    leaves = bool(leftovers(sql) & ANYTHING)
    is_short = len(sql) <= _SHORT_TEXT
    may_stay = not leaves and is_short and word_of(sql, 0) in PLANNED and not is_of_a_moment(sql)
    return _Text(sql, frame(PARSE, b"\0%b\0\0\0" % sql), leaves, may_stay)


_known_text = lru_cache(maxsize=512)(_text_of)


def _values(params: Sequence[msgspec.Raw], limits: SqlSettings) -> Generator[None, None, bytes]:
    """What a Bind message holds behind its names."""
    if len(params) > limits.max_parameters:
        raise too_large("parameters of one statement", len(params), "max_parameters", limits.max_parameters)
    parts = [b"\0\0", _SHORT(len(params))]
    for number, raw in enumerate(params, 1):
        value = yield from _parameter(raw)
        if number % _STEP == 0:
            yield
        parts += (_NULL,) if value is None else (_LONG(len(value)), value)
    parts.append(b"\0\0")
    return b"".join(parts)


def _parameter(raw: msgspec.Raw) -> Generator[None, None, bytes | None]:
    """A value of JSON as PostgreSQL reads it: an object is JSON, a list an array, a number what was written."""
    written = bytes(raw)
    if written[:1] != b"[":
        return _scalar(written)
    try:
        value = utf8((yield from writing_array(_LIST.decode(written), _element)), "a parameter")
    except (ValueError, ArithmeticError, RecursionError):  # of numbers beyond what there is, too
        raise malformed("a parameter is a list that is no array of PostgreSQL") from None
    return _without_nul(value)


def _scalar(written: bytes) -> bytes | None:
    """Any but a list."""
    first = written[:1]
    if first == b"n":
        return None
    return _without_nul(utf8(msgspec.json.decode(written), "a parameter") if first == b'"' else written)


def _without_nul(value: bytes) -> bytes:
    if b"\0" in value:
        raise malformed("a parameter has a NUL in it")
    return value


def _element(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    return _ELEMENT.encode(value).decode()
