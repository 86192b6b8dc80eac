"""How is a password written before it is hashed for SCRAM? RFC 4013, as PostgreSQL applies it."""

from __future__ import annotations

import stringprep
import unicodedata

__all__ = ["saslprep"]

_PROHIBITED = (
    stringprep.in_table_c12,
    stringprep.in_table_c21_c22,
    stringprep.in_table_c3,
    stringprep.in_table_c4,
    stringprep.in_table_c5,
    stringprep.in_table_c6,
    stringprep.in_table_c7,
    stringprep.in_table_c8,
    stringprep.in_table_c9,
    stringprep.in_table_a1,
)


def saslprep(password: str) -> bytes:
    """`password` normalised. One that must not be is taken as it is: PostgreSQL and its clients do so."""
    if password.isascii() and password.isprintable():
        return password.encode()
    prepared = _prepared(password)
    return (password if prepared is None else prepared).encode("utf-8", "surrogatepass")


def _prepared(password: str) -> str | None:
    mapped = "".join(
        " " if stringprep.in_table_c12(char) else char for char in password if not stringprep.in_table_b1(char)
    )
    text = unicodedata.ucd_3_2_0.normalize("NFKC", mapped)
    if not text or any(prohibited(char) for char in text for prohibited in _PROHIBITED):
        return None
    if any(map(stringprep.in_table_d1, text)):  # right-to-left: throughout, or not at all
        if any(map(stringprep.in_table_d2, text)):
            return None
        if not (stringprep.in_table_d1(text[0]) and stringprep.in_table_d1(text[-1])):
            return None
    return text
