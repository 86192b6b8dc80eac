"""What does a request of SQL over HTTP ask for? Its body and headers, read and held against the limits. Pure.

The protocol is Neon's: a statement with its parameters, or several that are one transaction.
"""

from __future__ import annotations

import struct
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final

import msgspec

from tenantproxy.config import SqlSettings
from tenantproxy.errors import InvalidSetting, ProtocolError, StatementTooLong
from tenantproxy.raw.exchange import SYNC_NOW, statement
from tenantproxy.wire.array_texts import writing_array
from tenantproxy.wire.commands import is_local
from tenantproxy.wire.frames import BIND, DESCRIBE, EXECUTE, PARSE, frame
from tenantproxy.wire.leftovers import ANYTHING, leftovers

__all__ = ["BATCH_HEADERS", "HEADERS", "SqlRequest", "reading_request", "too_large"]

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
_STEP: Final = 500  # parameters that are read at once
_BIND_ALONE: Final = frame(BIND, b"\0\0\0\0\0\0\0\0")


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


@dataclass(frozen=True, slots=True)
class SqlRequest:
    """One request. `message`: all that is sent for it but the end of a batch's transaction. `texts`: its statements.

    `is_batch`: they are one transaction. `leaves`: a text may leave something in the session that no tag tells of.
    `echo`: headers of the answer to a batch.
    """

    message: bytes = field(repr=False)
    texts: tuple[bytes, ...] = field(repr=False)
    is_batch: bool
    as_array: bool
    is_raw: bool
    leaves: bool
    echo: tuple[tuple[str, str], ...] = ()

    def is_local_set(self, index: int) -> bool:
        """Whether the statement of this number, whose tag is SET, sets something for its transaction alone."""
        return self.is_batch and is_local(self.texts[index])


def reading_request(body: bytes, headers: Mapping[str, str], limits: SqlSettings) -> Generator[None, None, SqlRequest]:
    """The request in a body and its headers, whose names are matched in any case.

    In small steps, for `slices.found_in_slices`: what one asks for may be a million values.
    Raises ProtocolError, StatementTooLong, InvalidSetting: what is wrong and the limit, and nothing of what it holds.
    """
    try:
        if not body.isascii():
            body.decode()  # the decoder leaves that to the reader of each parameter
        given = _BODY.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as exc:
        detail = str(exc) if isinstance(exc, msgspec.ValidationError) else None
        raise _malformed("the body is not the JSON of a statement or a batch", detail) from None
    as_array, is_raw = _flag(headers, ARRAY_MODE), _flag(headers, RAW_TEXT)
    if given.queries is not None:
        if given.query is not None:
            raise _malformed("the body has both query and queries")
        return (yield from _batch(given.queries, headers, limits, as_array=as_array, is_raw=is_raw))
    if given.query is None:
        raise _malformed("the body has neither query nor queries")
    text = _text(given.query, limits)
    message = yield from _segment(text, given.params, limits)
    return SqlRequest(
        message=message + SYNC_NOW,
        texts=(text,),
        is_batch=False,
        as_array=as_array,
        is_raw=is_raw,
        leaves=bool(leftovers(text) & ANYTHING),
    )


def _batch(
    queries: Sequence[_Query], headers: Mapping[str, str], limits: SqlSettings, *, as_array: bool, is_raw: bool
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
        texts.append(text := _text(each.query, limits))
        segments.append((yield from _segment(text, each.params, limits)))
        leaves = leaves or bool(leftovers(text) & ANYTHING)
        yield
    echo = [(ISOLATION, level)] if level else []
    echo += [(name, "true") for name, is_on in ((READ_ONLY, reads), (DEFERRABLE, defers)) if is_on]
    return SqlRequest(
        message=statement(begin) + b"".join(segments) + SYNC_NOW,
        texts=tuple(texts),
        is_batch=True,
        as_array=as_array,
        is_raw=is_raw,
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
def _text(query: str, limits: SqlSettings) -> bytes:
    text = _utf8(query, "a statement")
    if len(text) > limits.max_statement:
        raise too_large("bytes in one statement", len(text), "max_statement", limits.max_statement)
    if b"\0" in text:
        raise _malformed("a statement has a NUL in it")
    return text


def _segment(text: bytes, params: Sequence[msgspec.Raw] | None, limits: SqlSettings) -> Generator[None, None, bytes]:
    parse = frame(PARSE, b"\0%b\0\0\0" % text)
    if not params:
        return parse + _BIND_ALONE + _DESCRIBE_AND_RUN
    if len(params) > limits.max_parameters:
        raise too_large("parameters of one statement", len(params), "max_parameters", limits.max_parameters)
    parts = [b"\0\0\0\0", _SHORT(len(params))]
    for number, raw in enumerate(params, 1):
        value = yield from _parameter(raw)
        if number % _STEP == 0:
            yield
        parts += (_NULL,) if value is None else (_LONG(len(value)), value)
    parts.append(b"\0\0")
    return parse + frame(BIND, b"".join(parts)) + _DESCRIBE_AND_RUN


def _parameter(raw: msgspec.Raw) -> Generator[None, None, bytes | None]:
    """A value of JSON as PostgreSQL reads it: an object is JSON, a list an array, a number what was written."""
    written = bytes(raw)
    first = written[:1]
    if first == b'"':
        value = _utf8(msgspec.json.decode(written), "a parameter")
    elif first == b"n":
        return None
    elif first == b"[":
        try:
            value = _utf8((yield from writing_array(_LIST.decode(written), _element)), "a parameter")
        except (ValueError, ArithmeticError, RecursionError):  # of numbers beyond what there is, too
            raise _malformed("a parameter is a list that is no array of PostgreSQL") from None
    else:
        value = written
    if b"\0" in value:
        raise _malformed("a parameter has a NUL in it")
    return value


def _element(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    return _ELEMENT.encode(value).decode()


def _utf8(text: str, what: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise _malformed(f"{what} is not UTF-8") from None


# --- errors ----------------------------------------------------------------------------------------------------------
def _malformed(message: str, detail: str | None = None) -> ProtocolError:
    hint = 'send {"query": "select $1", "params": [1]}, or {"queries": [...]} for one transaction'
    return ProtocolError(message, detail=detail, hint=hint)


def too_large(what: str, size: int, key: str, limit: int) -> StatementTooLong:
    """The error for more of something than `[sql]` lets a request have."""
    return StatementTooLong(
        f"too many {what}", detail=f"{size}, and [sql] {key} = {limit}", hint=f"send less at once, or raise [sql] {key}"
    )
