"""Which bytes say what we have to say ourselves, to a client? And what did a server's error say?

https://www.postgresql.org/docs/current/protocol-message-formats.html. Text is UTF-8; a NUL in it is left out, since it
would end it. Every length is checked where it is written (`frames.frame`).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from tenantproxy import errors
from tenantproxy.errors import PoolTimeout, ProtocolError, TenantProxyError
from tenantproxy.wire.frames import (
    AUTHENTICATION,
    BACKEND_KEY_DATA,
    BIND_COMPLETE,
    CLOSE_COMPLETE,
    COMMAND_COMPLETE,
    DATA_ROW,
    EMPTY_QUERY,
    ERROR,
    IDLE,
    NO_DATA,
    NOTICE,
    PARAMETER_DESCRIPTION,
    PARAMETER_STATUS,
    PARSE_COMPLETE,
    READY,
    ROW_DESCRIPTION,
    frame,
)

__all__ = [
    "AUTHENTICATION_CLEARTEXT",
    "AUTHENTICATION_OK",
    "AUTHENTICATION_SCRAM",
    "BOUND",
    "CLOSED",
    "EMPTY",
    "NOTHING_DESCRIBED",
    "NO_PARAMETERS",
    "PARSED",
    "authentication_sasl",
    "backend_key_data",
    "command_complete",
    "data_row",
    "error_response",
    "notice",
    "parameter_status",
    "read_error",
    "ready_for_query",
    "row_description",
    "sasl_continue",
    "sasl_final",
]

MAX_TEXT: Final = 8192  # bytes of one field of an error, ours or a server's; the rest is cut off
MAX_COLUMNS: Final = 1600

_TEXT_OID: Final = 25
_SIZES: Final = {16: 1, 20: 8, 23: 4, 2278: 4}  # bool, int8, int4, void
_NO_SQLSTATE: Final = "XX000"


# --- authentication and the beginning of a session -------------------------------------------------------------------
AUTHENTICATION_OK: Final = frame(AUTHENTICATION, struct.pack("!I", 0))
AUTHENTICATION_CLEARTEXT: Final = frame(AUTHENTICATION, struct.pack("!I", 3))


def authentication_sasl(*mechanisms: bytes) -> bytes:
    """The demand for a SASL exchange by one of `mechanisms`, the best first."""
    return frame(AUTHENTICATION, struct.pack("!I", 10) + b"".join(name + b"\0" for name in mechanisms) + b"\0")


AUTHENTICATION_SCRAM: Final = authentication_sasl(b"SCRAM-SHA-256")


def sasl_continue(data: bytes) -> bytes:
    """The challenge of a SASL exchange."""
    return frame(AUTHENTICATION, struct.pack("!I", 11) + data)


def sasl_final(data: bytes) -> bytes:
    """The outcome of a SASL exchange that succeeded; AUTHENTICATION_OK has to follow."""
    return frame(AUTHENTICATION, struct.pack("!I", 12) + data)


def parameter_status(name: bytes, value: bytes) -> bytes:
    """What a setting of the session is."""
    return frame(PARAMETER_STATUS, _string(name) + _string(value))


def backend_key_data(pid: int, secret: bytes) -> bytes:
    """What a client has to send to cancel."""
    return frame(BACKEND_KEY_DATA, struct.pack("!I", pid) + secret)


_READY: Final = {status: frame(READY, bytes([status])) for status in b"ITE"}


def ready_for_query(status: int = IDLE) -> bytes:
    """The session is `frames.IDLE`, IN_TRANSACTION or IN_FAILED_TRANSACTION."""
    return _READY[status]


# --- errors ----------------------------------------------------------------------------------------------------------
def error_response(error: TenantProxyError, *, fatal: bool = False) -> bytes:
    """`error` to a client; `fatal`: its connection ends."""
    fields = dict(errors.error_response(error, fatal=fatal))
    if isinstance(error, PoolTimeout):
        fields["M"] = f"query_wait_timeout: {fields['M']}"  # the word that tools know from PgBouncer
    return frame(ERROR, _fields(fields))


def notice(
    message: str,
    *,
    severity: str = "NOTICE",
    sqlstate: str = "00000",
    detail: str | None = None,
    hint: str | None = None,
) -> bytes:
    """Something to tell a client that is no error."""
    fields = {"S": severity, "V": severity, "C": sqlstate, "M": message, "D": detail or "", "H": hint or ""}
    return frame(NOTICE, _fields(fields))


def _fields(fields: Mapping[str, str]) -> bytes:
    return b"".join(key.encode() + _string(_text(value)) for key, value in fields.items() if value) + b"\0"


def _text(value: str) -> bytes:
    """Cut between two characters."""
    return value.encode("utf-8", "replace")[:MAX_TEXT].decode("utf-8", "ignore").encode()


def _string(value: bytes) -> bytes:
    return value.replace(b"\0", b"") + b"\0"


def read_error(payload: bytes) -> dict[str, str]:
    """The fields of an ErrorResponse or NoticeResponse by their one-letter codes, `C` and `M` always among them.

    Whatever a hostile server sends: fields may be missing, cut off or endless, and are not believed to be UTF-8.
    """
    fields: dict[str, str] = {}
    for field in bytes(payload[: 4 * MAX_TEXT]).split(b"\0"):
        if not field:
            break
        fields.setdefault(chr(field[0]), field[1 : 1 + MAX_TEXT].decode("utf-8", "replace"))
    sqlstate = fields.get("C", "")
    if len(sqlstate) != 5 or not (sqlstate.isascii() and sqlstate.isalnum()):
        fields["C"] = _NO_SQLSTATE
    fields.setdefault("M", "")
    return fields


# --- results of our own ---------------------------------------------------------------------------------------------
PARSED: Final = frame(PARSE_COMPLETE)
BOUND: Final = frame(BIND_COMPLETE)
CLOSED: Final = frame(CLOSE_COMPLETE)
NOTHING_DESCRIBED: Final = frame(NO_DATA)
NO_PARAMETERS: Final = frame(PARAMETER_DESCRIPTION, struct.pack("!H", 0))
EMPTY: Final = frame(EMPTY_QUERY)


def row_description(names: Sequence[str], types: Sequence[int] = (), formats: Sequence[int] = ()) -> bytes:
    """Columns by their names. `types`: their OIDs, text when none are given; `formats`: 0 text, 1 binary."""
    column = struct.Struct("!IhIhih")
    head = struct.pack("!H", _count(names))
    every = zip(names, types or [_TEXT_OID] * len(names), formats or [0] * len(names), strict=True)
    columns = (
        _string(_text(name)) + column.pack(0, 0, oid, _SIZES.get(oid, -1), -1, form) for name, oid, form in every
    )
    return frame(ROW_DESCRIPTION, head + b"".join(columns))


def data_row(values: Sequence[str | bytes | None]) -> bytes:
    """A row of such columns; None is NULL, bytes go out as they are."""
    return frame(DATA_ROW, struct.pack("!H", _count(values)) + b"".join(_cells(values)))


def _cells(values: Iterable[str | bytes | None]) -> Iterable[bytes]:
    for value in values:
        if value is None:
            yield b"\xff\xff\xff\xff"
        else:
            encoded = value if isinstance(value, bytes) else value.encode("utf-8", "replace")
            yield struct.pack("!i", len(encoded)) + encoded


def _count(columns: Sequence[object]) -> int:
    if len(columns) > MAX_COLUMNS:
        raise ProtocolError("a row has too many columns", detail=f"{len(columns)}, at most {MAX_COLUMNS}")
    return len(columns)


def command_complete(tag: str) -> bytes:
    """A command is done: `SHOW`, `PAUSE`, `SELECT 3`."""
    return frame(COMMAND_COMPLETE, _string(tag.encode()))
