"""How do the console's tables and a driver's messages look on the wire? Values in and out; pure."""

from __future__ import annotations

import struct

from tenantproxy.errors import ProtocolError
from tenantproxy.sidecar.pg.console.tables import INT4, INT8, TEXT, Cell, Row, Table
from tenantproxy.wire import answers

__all__ = ["Malformed", "Reader", "described", "row_of", "text_of"]


def described(table: Table, formats: tuple[int, ...]) -> bytes:
    """Its columns; `formats` as Bind gives them."""
    return answers.row_description(table.columns, table.types, _each(formats, len(table.columns)))


def row_of(table: Table, row: Row, formats: tuple[int, ...]) -> bytes:
    """One row of it."""
    every = zip(row, table.types, _each(formats, len(table.columns)), strict=True)
    return answers.data_row([_cell(*cell) for cell in every])


def _each(formats: tuple[int, ...], columns: int) -> tuple[int, ...]:
    """The format of each column: one given is that of all, none is text."""
    return formats if len(formats) == columns else (formats or (0,)) * columns


def _cell(value: Cell, oid: int, form: int) -> str | bytes | None:
    if isinstance(value, int) and oid == INT4:
        value = min(value, 2**31 - 1)  # drivers refuse what does not fit its type
    if value is None or form == 0 or oid == TEXT:
        return None if value is None else str(value)
    number = int(value)
    if oid == INT4:
        return struct.pack("!i", number)
    return struct.pack("!q", number) if oid == INT8 else _numeric(number)


def _numeric(number: int) -> bytes:
    """PostgreSQL's binary form of a number that is whole and not negative: digits of base 10,000."""
    digits: list[int] = []
    while number:
        number, digit = divmod(number, 10_000)
        digits.insert(0, digit)
    return struct.pack(f"!hhHH{len(digits)}h", len(digits), max(0, len(digits) - 1), 0, 0, *digits)


# --- the parts of messages -------------------------------------------------------------------------------------------
class Malformed(Exception):
    """A message ends too soon, or too late."""


def text_of(payload: bytes) -> bytes:
    """The text of a simple query. Raises ProtocolError."""
    text, nul, rest = payload.partition(b"\0")
    if not nul or rest:
        raise ProtocolError("malformed message", detail="a query does not end where it says")
    return text


class Reader:
    """Takes a payload apart, field by field."""

    def __init__(self, payload: bytes) -> None:
        self._payload = payload
        self._at = 0

    def string(self) -> bytes:
        """Up to a NUL."""
        end = self._payload.find(b"\0", self._at)
        if end < 0:
            raise Malformed
        text, self._at = self._payload[self._at : end], end + 1
        return text

    def target(self) -> tuple[bytes, bytes]:
        """What Describe and Close are about: S or P, and its name."""
        what = self._take(1)
        if what not in (b"S", b"P"):
            raise Malformed
        return what, self.string()

    def int2(self) -> int:
        """Two bytes."""
        return int.from_bytes(self._take(2), "big")

    def int4(self) -> int:
        """Four bytes."""
        return int.from_bytes(self._take(4), "big")

    def int2s(self) -> tuple[int, ...]:
        """As many as the first says."""
        return tuple(self.int2() for _ in range(self.int2()))

    def _take(self, size: int) -> bytes:
        taken = self._payload[self._at : self._at + size]
        if len(taken) < size:
            raise Malformed
        self._at += size
        return taken
