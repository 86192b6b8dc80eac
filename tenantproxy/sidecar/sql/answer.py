"""How is SQL over HTTP answered? Results and errors as the JSON that Neon's clients read. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Sequence
from functools import lru_cache
from typing import Any, Final

import msgspec

from tenantproxy.errors import (
    InvalidCredentials,
    PoolTimeout,
    TenantProxyError,
    error_response,
)
from tenantproxy.sidecar.sql.request import SqlRequest
from tenantproxy.wire.answers import read_error
from tenantproxy.wire.array_texts import reading_array
from tenantproxy.wire.columns import Column
from tenantproxy.wire.results import Row, StatementResult

__all__ = ["answer_at_once", "answering", "error_body", "retry_after", "server_error"]

_FIELDS: Final = {
    "M": "message", "C": "code", "D": "detail", "H": "hint", "P": "position", "p": "internalPosition",
    "q": "internalQuery", "S": "severity", "W": "where", "t": "table", "c": "column", "s": "schema", "d": "dataType",
    "n": "constraint", "F": "file", "L": "line", "R": "routine",
}  # fmt: skip
_STEP: Final = 1000  # values that are read or written at once
_REMEMBERED: Final = 64  # columns of a description that is kept: a caller chooses how many there are, of which names

_encode: Final = msgspec.json.encode


def answer_at_once(results: Sequence[StatementResult], request: SqlRequest) -> bytes | None:
    """The body for all that was asked for, where that is one step of `answering`; None: take its steps."""
    if request.is_batch:
        return None
    ((columns, rows, tag),) = results
    if len(rows) * max(1, len(columns)) > _STEP:
        return None
    modes = request.modes
    if rows and not modes.is_raw:
        if any(column.type in _ARRAYS for column in columns):
            return None
        rows = _simple(columns, rows)
    return b"%b%b%b" % (_opening(columns, modes.as_array), _told(columns, rows, modes.as_array), _closing(tag))


def answering(results: Sequence[StatementResult], request: SqlRequest) -> Generator[None, None, bytes]:
    """The body for all that was asked for and went well. In small steps, for `slices.found_in_slices`."""
    parts: list[bytes] = []
    if not request.is_batch:
        yield from _result(results[0], request, parts)
        return b"".join(parts)
    parts.append(b'{"results":[')
    for number, each in enumerate(results):
        if number:
            parts.append(b",")
        yield from _result(each, request, parts)
    parts.append(b"]}")
    return b"".join(parts)


def _result(result: StatementResult, request: SqlRequest, parts: list[bytes]) -> Iterator[None]:
    columns, modes = result.columns, request.modes
    parts.append(_opening(columns, modes.as_array))
    yield
    step = max(1, _STEP // max(1, len(columns)))
    for at in range(0, len(result.rows), step):
        rows: list[Row] = result.rows[at : at + step]
        if not modes.is_raw:
            rows = yield from _converted(columns, rows)
        parts += (b"," if at else b"", _told(columns, rows, modes.as_array))
        yield
    parts.append(_closing(result.tag))


def _told(columns: tuple[Column, ...], rows: Sequence[Any], as_array: bool) -> bytes:
    if as_array:
        return _encode(rows)[1:-1]
    names = [column.name for column in columns]
    return _encode([dict(zip(names, row, strict=True)) for row in rows])[1:-1]


def _opening(columns: tuple[Column, ...], as_array: bool) -> bytes:
    return _known_opening(columns, as_array) if len(columns) <= _REMEMBERED else _opening_of(columns, as_array)


def _opening_of(columns: tuple[Column, ...], as_array: bool) -> bytes:
    return b'{"rowAsArray":%b,"fields":%b,"rows":[' % (b"true" if as_array else b"false", _fields_of(columns))


_known_opening = lru_cache(maxsize=512)(_opening_of)


@lru_cache(maxsize=512)
def _closing(tag: bytes) -> bytes:
    words = tag.decode("utf-8", "replace").split(" ")
    return b'],"command":%b,"rowCount":%b}' % (_encode(words[0]), _count(words))


def _count(words: Sequence[str]) -> bytes:
    last = words[-1]
    return last.encode() if len(words) > 1 and last.isascii() and last.isdigit() else b"null"


def _fields_of(columns: tuple[Column, ...]) -> bytes:
    return _encode(
        [
            {
                "name": column.name,
                "dataTypeID": column.type,
                "tableID": column.table,
                "columnID": column.number,
                "dataTypeSize": column.size,
                "dataTypeModifier": column.modifier,
                "format": "text",
            }
            for column in columns
        ]
    )


# --- values, where they are not wanted as texts ----------------------------------------------------------------------
def _simple(columns: Sequence[Column], rows: Sequence[Row]) -> list[list[Any]]:
    """All but arrays."""
    readers = [_READERS.get(column.type) for column in columns]
    return [
        [value if value is None or read is None else read(value) for value, read in zip(row, readers, strict=True)]
        for row in rows
    ]


def _converted(columns: Sequence[Column], rows: Sequence[Row]) -> Generator[None, None, list[list[Any]]]:
    found = _simple(columns, rows)
    for number, column in enumerate(columns):
        element = _ARRAYS.get(column.type)
        if element is None:
            continue
        for row in found:
            if row[number] is not None:
                row[number] = yield from _array(element, row[number])
    return found


def _number(text: str) -> float | str:
    value = float(text)
    return value if math.isfinite(value) else text


def _json(text: str) -> msgspec.Raw:
    return msgspec.Raw(text.encode())


def _bool(text: str) -> bool:
    return text == "t"


def _array(read: Callable[[str], Any], text: str) -> Generator[None, None, Any]:
    try:
        return (yield from reading_array(text, read))
    except ValueError:
        return text


# By the numbers of types that are the same on every server (pg_type.dat). int8 stays text: readers of JSON round it.
_READERS: Final[dict[int, Callable[[str], Any]]] = {
    16: _bool, 21: int, 23: int, 700: _number, 701: _number, 114: _json, 3802: _json,
}  # fmt: skip
_ARRAYS: Final[dict[int, Callable[[str], Any]]] = {
    1000: _bool, 1005: int, 1007: int, 1021: _number, 1022: _number, 199: _json, 3807: _json,
}  # fmt: skip
_TEXT_ARRAYS: Final = (  # int8, oid, text, varchar, bpchar, char, name, uuid, numeric, times, bytea, addresses
    1016, 1028, 1009, 1015, 1014, 1002, 1003, 2951, 1231, 1115, 1185, 1182, 1183, 1270, 1187, 1001, 1041, 651, 1040,
)  # fmt: skip
_ARRAYS.update(dict.fromkeys(_TEXT_ARRAYS, str))


# --- errors ----------------------------------------------------------------------------------------------------------
def server_error(payload: bytes) -> bytes:
    """The body for what a server says in an ErrorResponse."""
    return _error(read_error(payload))


def error_body(error: TenantProxyError) -> bytes:
    """The body for an error of tenantproxy's own."""
    fields = dict(error_response(error, fatal=False))
    if isinstance(error, PoolTimeout):
        fields["M"] = f"query_wait_timeout: {fields['M']}"  # the word that tools know from PgBouncer
    return _error(fields)


def _error(fields: dict[str, str]) -> bytes:
    return _encode({name: fields.get(letter) for letter, name in _FIELDS.items()})


def retry_after(error: TenantProxyError) -> str | None:
    """The header's value: seconds; None: trying again does not help."""
    if error.retry_after is not None:
        return str(max(1, math.ceil(error.retry_after)))
    return "1" if error.retryable and not isinstance(error, InvalidCredentials) else None
