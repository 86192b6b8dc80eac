"""Which databases does a tool find behind the database `postgres`? The tenants: texts that ask for them are changed.

Pure. What stands in a text's FROM as pg_database becomes a list of tenants, made on their server from the row of the
session's own database, so that it has the columns of its version; current_database() becomes "postgres". A text that is
not understood stays as it is: it then says what any client of that tenant reads. It is a convenience and no wall.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from typing import Final, TypeAlias

from tenantproxy.config.pg_users import MAINTENANCE

__all__ = ["LONGEST", "DatabaseList"]

Token: TypeAlias = tuple[str, bytes]

LONGEST: Final = 64 * 1024
"""Bytes of a text that is looked at."""

_MOST: Final = 8  # places in one text: each becomes a list of up to a thousand names
_FIRST: Final = 2**31  # of the numbers that tenants have: the server's own begin at the other end
_SUSPECT: Final = re.compile(rb"pg_database|current_database|current_catalog", re.IGNORECASE).search
_WORD: Final = rb"[A-Za-z_\x80-\xff][\w$\x80-\xff]*"
_DOLLAR: Final = rb"\$(?:[A-Za-z_\x80-\xff][\w\x80-\xff]*)?\$"
_TOKEN: Final = re.compile(
    rb"""
    (?P<gap> \s+ | --[^\r\n]* )
  | (?P<comment> /\* )
  | (?P<dollar> """ + _DOLLAR + rb""" )
  | (?P<text> [eE]'(?:[^'\\\x80-\xff]|[\x80-\xff](?!\\)|\\.)*+' | '(?:[^'\\]|\\(?!'))*+' )
  | (?P<table> (?: (?:"pg_catalog"|(?i:pg_catalog)) \s* \. \s* )? (?:"pg_database"|(?i:pg_database)(?![\w$\x80-\xff])) )
  | (?P<name> (?: (?i:pg_catalog) \s* \. \s* )? (?i:current_database) \s* \( \s* \)
            | (?i:current_catalog)(?![\w$\x80-\xff]) )
  | (?P<word> "[^"]*+" | """ + _WORD + rb""" )
  | (?P<open> ['"] )
  | (?P<sign> . )
    """,
    re.VERBOSE | re.DOTALL,
)  # fmt: skip
_CLAUSES: Final = frozenset(
    b"select from join where on using group having window order limit offset fetch for union except intersect values"
    b" returning set".split()
)
_TABLES: Final = frozenset((b"from", b"join"))
_BEFORE: Final = frozenset((b"from", b"join", b",", b"(", b"only", b"lateral"))
_NO_ALIAS: Final = _CLAUSES | frozenset(b"left right full inner cross natural outer tablesample and or".split())
# A name without a number is the session's own database.
_LIST: Final = (
    "SELECT (made.row).* FROM (SELECT pg_catalog.jsonb_populate_record(own, pg_catalog.jsonb_strip_nulls("
    "pg_catalog.jsonb_build_object('datname', one OPERATOR(pg_catalog.->) 0, 'oid', one OPERATOR(pg_catalog.->) 1,"
    " 'datallowconn', true, 'datistemplate', false))) AS row FROM pg_catalog.pg_database own,"
    " pg_catalog.jsonb_array_elements("
    "pg_catalog.convert_from(pg_catalog.decode('{}', 'hex'), 'UTF8')::pg_catalog.jsonb) one"
    " WHERE own.datname OPERATOR(pg_catalog.=) pg_catalog.current_database() OFFSET 0) made"
)
_ITSELF: Final = f"(SELECT '{MAINTENANCE}'::pg_catalog.name AS current_database)".encode()


class DatabaseList:
    """The databases of one client's tools: itself, and one for each of `tenants`."""

    def __init__(self, tenants: Iterable[str]) -> None:
        numbers: dict[int, str] = {}
        for tenant in tenants:
            number = _FIRST + int.from_bytes(hashlib.blake2b(tenant.encode(), digest_size=4).digest(), "big") // 2
            while number in numbers:
                number = _FIRST + (number + 1) % _FIRST
            numbers[number] = tenant
        pairs = [[MAINTENANCE], *([tenant, number] for number, tenant in numbers.items())]
        listed = json.dumps(pairs, separators=(",", ":")).encode().hex()  # as it is in any encoding and setting
        self._source = f"({_LIST.format(listed)})".encode()

    def changed(self, text: bytes) -> bytes:
        """A text of the client's, without the NUL that ends it, as its server gets it."""
        if len(text) > LONGEST or _SUSPECT(text) is None:
            return text
        try:
            return self._changed(list(_tokens(text)))
        except _NotUnderstood:
            return text

    def _changed(self, tokens: list[Token]) -> bytes:
        if sum(kind in ("table", "name") for kind, _ in tokens) > _MOST:
            raise _NotUnderstood
        parts: list[bytes] = []
        clauses: list[bytes] = [b""]  # of each parenthesis that is open
        before = b""
        for at, (kind, token) in enumerate(tokens):
            low = token.lower()
            if kind == "gap":
                parts.append(token)
                continue
            if kind == "table" and clauses[-1] in _TABLES and before in _BEFORE and _next(tokens, at) != b".":
                parts.append(self._source + (b"" if _has_alias(tokens, at) else b" AS pg_database"))
            elif kind == "name":
                parts.append(_ITSELF)
            else:
                parts.append(token)
            if low == b"(":
                clauses.append(clauses[-1] if before in _BEFORE else b"")
            elif low == b")" and len(clauses) > 1:
                clauses.pop()
            elif low == b";":
                clauses = [b""]
            elif kind == "word" and low in _CLAUSES:
                clauses[-1] = low
            before = low
        return b"".join(parts)


def _behind(tokens: list[Token], at: int) -> Token:
    return next((each for each in tokens[at + 1 :] if each[0] != "gap"), ("", b""))


def _next(tokens: list[Token], at: int) -> bytes:
    return _behind(tokens, at)[1]


def _has_alias(tokens: list[Token], at: int) -> bool:
    kind, token = _behind(tokens, at)
    return kind == "word" and token.lower() not in _NO_ALIAS


class _NotUnderstood(Exception):
    """The text has no end, or asks too often."""


def _tokens(text: bytes) -> Iterator[Token]:
    """In time that grows with the text alone. Comments are gaps. Raises _NotUnderstood.

    What is a literal's must never be changed as if it were not: so what ends it in one setting or encoding and not in
    another, a backslash before a quote and one that may be the half of a character, is not understood.
    """
    at = 0
    while at < len(text):
        found = _TOKEN.match(text, at)
        assert found is not None
        kind, end = found.lastgroup or "", found.end()
        if kind == "open":
            raise _NotUnderstood
        if kind in ("comment", "dollar"):
            mark = b"*/" if kind == "comment" else found[0]
            closed = text.find(mark, end)
            if closed < 0 or (kind == "comment" and text.find(b"/*", end, closed) >= 0):  # one in another
                raise _NotUnderstood
            kind, end = ("gap" if kind == "comment" else "text"), closed + len(mark)
        yield kind, text[at:end]
        at = end
