"""What may be told of a statement? Its text without literals and comments. Pure.

Literals are where passwords and people's data are. What cannot be read for sure is left out, with all that follows:
an open quotation, and a backslash in a plain literal, whose meaning is up to `standard_conforming_strings`. Values that
need no quotation are left out too: those of settings, and what follows the word PASSWORD; and what follows a COPY from
the client, which is its data. Letters are those of PostgreSQL: whatever is not ASCII may be part of a name, and of the
tag of a dollar quotation, and is no blank.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["LONGEST", "fingerprint", "text_of"]

LONGEST: Final = 200  # characters of a fingerprint
_READ: Final = 4_000  # characters of a statement that are looked at
_CUT: Final = "..."

_TOKEN: Final = re.compile(
    r"""
      (?P<space> [ \t\n\r\f\v]+ | --[^\n\r]* )
    | (?P<comment> /\* )
    | (?P<escaped> [eE]'(?:[^'\\]|''|\\.)*' )
    | (?P<plain> (?:[bBxXnN]|[uU]&)?'(?:[^'\\]|'')*' )
    | (?P<dollar> \$(?P<tag>(?:[A-Za-z_\x80-\U0010ffff][A-Za-z0-9_\x80-\U0010ffff]*)?)\$ .*? \$(?P=tag)\$ )
    | (?P<name> "(?:[^"]|"")*" )
    | (?P<word> [A-Za-z_\x80-\U0010ffff][A-Za-z0-9_$\x80-\U0010ffff]* | \$[0-9]+ )
    | (?P<number> (?: [0-9] | \.[0-9] ) (?: (?<=[eE])[+-](?=[0-9]) | [A-Za-z0-9_.$\x80-\U0010ffff] )* )
    | (?P<open> ['"] | \$(?=[A-Za-z_$\x80-\U0010ffff]) )
    | (?P<sign> . )
    """,
    re.VERBOSE | re.DOTALL,
)
_SETTING: Final = frozenset(("SET", "ALTER", "CREATE"))  # the first words of statements with values of settings
_LIST: Final = re.compile(r"\?(?:, ?\?)+")


def text_of(messages: bytes) -> bytes:
    """The SQL of the first of a client's messages, as far as a fingerprint looks: of a Query or a Parse, else none."""
    kind, at = messages[:1], 5
    if kind == b"P":
        at = messages.find(b"\0", 5) + 1
    elif kind != b"Q":
        return b""
    end = messages.find(b"\0", at)
    return messages[at : min(end if end >= 0 else len(messages), at + _READ)] if at else b""


def fingerprint(text: str) -> str:
    """`text` with `?` for each literal, lists of them as one, spaces as one, and no comment; cut to `LONGEST`."""
    text = text[:_READ]
    parts: list[str] = []
    values = _Values()
    at, is_apart, size = 0, False, 0
    while at < len(text) and size <= LONGEST:
        found = _TOKEN.match(text, at)
        assert found is not None  # the last alternative takes any character
        kind = found.lastgroup if found.lastgroup != "tag" else "dollar"
        if kind in ("space", "comment"):
            at = found.end() if kind == "space" else _behind_comment(text, at)
            is_apart = True
            continue
        part = "?" if kind in ("escaped", "plain", "dollar", "number") else _CUT if kind == "open" else found[0]
        part = _CUT if part == _CUT else values.shown(part)
        if part:
            parts.append(f" {part}" if is_apart and parts else part)
            size += len(parts[-1])
        if part == _CUT:
            break
        is_apart, at = False, found.end()
    told = _LIST.sub("?", "".join(parts))
    return told if len(told) <= LONGEST else told[: LONGEST - len(_CUT)] + _CUT


class _Values:
    """Which words and names of a statement are values? Told one after the other, `;` between two statements."""

    __slots__ = ("_first", "_has_set", "_has_stdin", "_is_hiding", "_last")

    def __init__(self) -> None:
        self._begin()
        self._has_stdin = False

    def _begin(self) -> None:
        self._first = self._last = ""
        self._has_set = self._is_hiding = False

    def shown(self, part: str) -> str:
        """`part`, what is told in its place, or nothing; `...`: nothing that follows is to be told."""
        if part == ";":
            self._begin()
            return part
        if self._has_stdin and not self._first:
            return _CUT
        if self._is_hiding:
            return ""
        word, last = part.upper(), self._last
        self._first = self._first or word
        self._last = word
        if self._has_set and last in ("TO", "="):
            self._is_hiding = True  # to the end: a value may be a list, and what follows one is seldom of interest
            return "?"
        if self._first in _SETTING:
            self._has_set = self._has_set or word == "SET"
            if last == "PASSWORD" and word not in ("NULL", "?", ")", ","):
                self._is_hiding = True  # it was to be a literal: what was typed instead may be several words
                return "?"
        elif self._first == "COPY" and word == "STDIN":
            self._has_stdin = True
        return part


def _behind_comment(text: str, at: int) -> int:
    """PostgreSQL's comments may hold others; one that does not end hides all."""
    depth = 0
    for mark in re.finditer(r"/\*|\*/", text[at:]):
        depth += 1 if mark[0] == "/*" else -1
        if not depth:
            return at + mark.end()
    return len(text)
