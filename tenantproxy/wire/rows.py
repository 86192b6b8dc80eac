"""Where do rows end that lie whole in a buffer, one behind the other, and what is in one?

A pattern finds their end faster than a loop.

A DataRow has its length in its head, and a pattern cannot count. But rows of one answer are of nearly one length, so
there is a pattern for each small window of lengths, made once: every one of them in full, so that it takes whole
messages only, and possessive, so that it takes none back.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Final

from tenantproxy.errors import ProtocolError
from tenantproxy.wire.frames import DATA_ROW

__all__ = ["LONGEST", "end_of_rows", "values_of"]

LONGEST: Final = 256  # of rows that are worth a pattern: its size grows with their length
_SHORTEST: Final = 6  # a length, and a count of columns
_SHORT: Final = struct.Struct("!H")
_LONG: Final = struct.Struct("!i")
_WINDOW: Final = 8  # lengths to both sides of the window in which a row is


def end_of_rows(data: bytes, at: int, length: int) -> int:
    """Where the DataRows that begin at `at` end, or the run of those that are about as long as `length` (without kind).

    `at` itself without one. What comes after it is left to the caller.
    """
    found = _pattern(length // _WINDOW)(data, at)
    return at if found is None else found.end()


@lru_cache(maxsize=LONGEST // _WINDOW + 1)
def _pattern(window: int) -> Callable[[bytes, int], re.Match[bytes] | None]:
    low = max(_SHORTEST, (window - 1) * _WINDOW)
    rows = b"|".join(
        re.escape(struct.pack("!I", length)) + b".{%d}" % (length - 4) for length in range(low, (window + 2) * _WINDOW)
    )
    return re.compile(b"(?s:%b(?:%b))*+" % (re.escape(bytes([DATA_ROW])), rows)).match


def values_of(payload: bytes) -> Iterable[bytes | None]:
    """The columns of a row. Raises ProtocolError when it is not one."""
    try:
        (count,) = _SHORT.unpack_from(payload)
        values: list[bytes | None] = []
        at = 2
        for _ in range(count):
            (size,) = _LONG.unpack_from(payload, at)
            at += 4 + max(size, 0)
            if at > len(payload):
                break
            values.append(None if size < 0 else payload[at - size : at])
    except struct.error:
        raise ProtocolError("the server sent a row that is none") from None
    if len(values) != count or at != len(payload):
        raise ProtocolError("the server sent a row that is none")
    return values
