"""How are messages of the PostgreSQL protocol framed? One byte of kind, four of length, the payload.

https://www.postgresql.org/docs/current/protocol-message-formats.html. Kinds are ints, as indexing bytes gives them.
"""

from __future__ import annotations

import struct
from typing import Final

from tenantproxy.errors import ProtocolError

__all__ = ["HEADER", "MAX_FRAME", "WITHOUT_BODY", "frame", "has_body", "length_of"]

HEADER: Final = 5
MAX_FRAME: Final = 0x3FFF_FFFF  # MaxAllocSize - 1: a server takes no longer message, and sends none

_HEAD: Final = struct.Struct("!BI")
_LENGTH: Final = struct.Struct("!I")

# From a client.
BIND: Final = 0x42  # B
CLOSE: Final = 0x43  # C
COPY_DATA: Final = 0x64  # d, from both sides
COPY_DONE: Final = 0x63  # c, from both sides
COPY_FAIL: Final = 0x66  # f
DESCRIBE: Final = 0x44  # D
EXECUTE: Final = 0x45  # E
FLUSH: Final = 0x48  # H
FUNCTION_CALL: Final = 0x46  # F
PARSE: Final = 0x50  # P
PASSWORD: Final = 0x70  # p, also SASLInitialResponse and SASLResponse
QUERY: Final = 0x51  # Q
SYNC: Final = 0x53  # S
TERMINATE: Final = 0x58  # X

WITHOUT_BODY: Final = frozenset((COPY_DONE, FLUSH, SYNC, TERMINATE))
"""Of a client's kinds those whose length is always 4. A server answers a Flush with a body by an error that nothing
was asked for, and then reads nothing up to the next Sync, no simple query either: such a message must not reach it."""

# From a server.
AUTHENTICATION: Final = 0x52  # R
BACKEND_KEY_DATA: Final = 0x4B  # K
BIND_COMPLETE: Final = 0x32  # 2
CLOSE_COMPLETE: Final = 0x33  # 3
COMMAND_COMPLETE: Final = 0x43  # C
COPY_BOTH: Final = 0x57  # W
COPY_IN: Final = 0x47  # G
COPY_OUT: Final = 0x48  # H
DATA_ROW: Final = 0x44  # D
EMPTY_QUERY: Final = 0x49  # I
ERROR: Final = 0x45  # E
FUNCTION_RESULT: Final = 0x56  # V
NEGOTIATE: Final = 0x76  # v
NO_DATA: Final = 0x6E  # n
NOTICE: Final = 0x4E  # N
NOTIFICATION: Final = 0x41  # A
PARAMETER_DESCRIPTION: Final = 0x74  # t
PARAMETER_STATUS: Final = 0x53  # S
PARSE_COMPLETE: Final = 0x31  # 1
PORTAL_SUSPENDED: Final = 0x73  # s
READY: Final = 0x5A  # Z
ROW_DESCRIPTION: Final = 0x54  # T

# What ReadyForQuery says of the session.
IDLE: Final = 0x49  # I
IN_TRANSACTION: Final = 0x54  # T
IN_FAILED_TRANSACTION: Final = 0x45  # E


def frame(kind: int, payload: bytes = b"") -> bytes:
    """One message. Raises ProtocolError for a payload that no peer would take: a length must not wrap round."""
    if len(payload) > MAX_FRAME - 4:
        raise ProtocolError("a message is too long", detail=f"{len(payload)} bytes")
    return _HEAD.pack(kind, len(payload) + 4) + payload


def length_of(data: bytes, at: int) -> int:
    """The length of the message that begins at `at`, its byte of kind included. Needs HEADER bytes there.

    Raises ProtocolError when it says less than itself, or more than a message may have: before anything is allocated.
    """
    (length,) = _LENGTH.unpack_from(data, at + 1)
    if not 4 <= length <= MAX_FRAME:
        raise ProtocolError("a message has an impossible length", detail=f"{length} bytes, kind {data[at]:#04x}")
    return int(length) + 1


def has_body(kind: int, length: int) -> ProtocolError:
    """The error for a message of `WITHOUT_BODY` whose length, its byte of kind included, says that it has one."""
    what = f"a {_NAMES[kind]} message has the length 4, this one {length - 1}"
    return ProtocolError("invalid message format", detail=what)


_NAMES: Final = {COPY_DONE: "CopyDone", FLUSH: "Flush", SYNC: "Sync", TERMINATE: "Terminate"}
