"""Where does a record of TLS end? Without looking inside: its head is never encrypted (RFC 8446, 5.1)."""

from __future__ import annotations

import ssl
from typing import Final

__all__ = ["LONGEST_RECORD", "SAID_BY_TLS", "SAID_BY_TLS_AT_ONCE", "OwnRecords", "first_flight", "first_record"]

LONGEST_RECORD: Final = 16384 + 2048 + 5
"""Bytes of a whole one, in any version."""

SAID_BY_TLS: Final = 1000
"""Records that are TLS's own, such as new keys, that a peer may send: each costs as much as a query."""

SAID_BY_TLS_AT_ONCE: Final = 32
"""How many of these in what is read at once."""

_HEAD: Final = 5
_KINDS: Final = range(20, 25)
_MAJOR_VERSION: Final = 3
_CHANGE_CIPHER_SPEC: Final = 20


def first_record(data: bytes | bytearray | memoryview) -> int:
    """How many bytes of `data` its first record has; 0: it is not all there. What is none is returned whole."""
    if len(data) < _HEAD:
        return 0
    size = _HEAD + int.from_bytes(data[3:_HEAD], "big")
    if data[0] not in _KINDS or data[1] != _MAJOR_VERSION or size > LONGEST_RECORD:
        return len(data)  # OpenSSL says what is wrong with it
    return size if len(data) >= size else 0


def first_flight(data: bytearray) -> int:
    """As `first_record`, for a handshake: a ChangeCipherSpec and what it precedes are one, as no answer is between."""
    size = first_record(data)
    if size and data[0] == _CHANGE_CIPHER_SPEC:
        behind = first_record(data[size:])
        return size + behind if behind else 0
    return size


class OwnRecords:
    """How many records of a peer said something of TLS alone. Raises ssl.SSLError where they are too many."""

    __slots__ = ("_at_once", "_count")

    def __init__(self) -> None:
        self._count = self._at_once = 0

    def begin(self) -> None:
        """More was received."""
        self._at_once = 0

    def add(self) -> None:
        """One more."""
        self._count += 1
        self._at_once += 1
        if self._count > SAID_BY_TLS or self._at_once > SAID_BY_TLS_AT_ONCE:
            raise ssl.SSLError("the peer sends new keys and the like, over and over")
