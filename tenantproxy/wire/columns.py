"""Which columns does a RowDescription tell of? The same come again and again: what was read of short ones is kept."""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import Final, NamedTuple

from tenantproxy.errors import ProtocolError

__all__ = ["Column", "columns_of"]

_SHORT: Final = struct.Struct("!H").unpack_from
_COLUMN: Final = struct.Struct("!IhIhih")
_REMEMBERED: Final = 4096  # bytes of a description that is kept, read


class Column(NamedTuple):
    """One column of a result, as a RowDescription has it. `table`, `number`: 0 where it is none of a table."""

    name: str
    table: int
    number: int
    type: int
    size: int
    modifier: int


def columns_of(payload: bytes) -> tuple[Column, ...]:
    """The columns of a RowDescription. Raises ProtocolError when it is none, UnicodeDecodeError for other encodings."""
    return _known(payload) if len(payload) <= _REMEMBERED else _columns_of(payload)


def _columns_of(payload: bytes) -> tuple[Column, ...]:
    found: list[Column] = []
    try:
        (count,) = _SHORT(payload, 0)
        at = 2
        for _ in range(count):
            end = payload.index(b"\0", at)
            table, number, kind, size, modifier, _ = _COLUMN.unpack_from(payload, end + 1)
            found.append(Column(payload[at:end].decode(), table, number, kind, size, modifier))
            at = end + 1 + _COLUMN.size
    except (struct.error, ValueError) as exc:
        if isinstance(exc, UnicodeDecodeError):
            raise
        raise ProtocolError("the server described its rows in no way that there is") from None
    if at != len(payload):
        raise ProtocolError("the server described its rows in no way that there is")
    return tuple(found)


_known = lru_cache(maxsize=512)(_columns_of)
