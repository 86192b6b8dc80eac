"""What may be told of a statement? Its text without literals and comments. Pure.

Literals are where passwords and people's data are. What cannot be read for sure is left out, with all that follows:
an open quotation, a backslash in a plain literal, whose meaning is up to `standard_conforming_strings`, and what looks
like a quotation to people alone. Statements that PostgreSQL refuses are told too, so what was meant as a value is left
out wherever it can be one: see `fingerprint_values`. Letters are those of PostgreSQL: whatever is not ASCII may be part
of a name, and of the tag of a dollar quotation, and is no blank.
"""

from __future__ import annotations

import re
from typing import Final

from tenantproxy.wire.fingerprint_values import CUT, Values

__all__ = ["LONGEST", "fingerprint", "text_of"]

LONGEST: Final = 200  # characters of a fingerprint
_READ: Final = 4_000  # characters of a statement that are looked at

_TOKEN: Final = re.compile(
    r"""
      (?P<space> [ \t\n\r\f\v]+ | --[^\n\r]* | \#(?![>\-\#=<@&|])[^\n\r]* )
    | (?P<comment> /\* )
    | (?P<escaped> [eE]'(?:[^'\\]|''|\\.)*' )
    | (?P<plain> (?:[bBxXnN]|[uU]&)?'(?:[^'\\]|'')*' )
    | (?P<dollar> \$(?P<tag>(?:[A-Za-z_\x80-\U0010ffff][A-Za-z0-9_\x80-\U0010ffff]*)?)\$ .*? \$(?P=tag)\$ )
    | (?P<name> "(?:[^"]|"")*" )
    | (?P<word> [A-Za-z_\x80-\U0010ffff][A-Za-z0-9_$\x80-\U0010ffff]* | \$[0-9]+ )
    | (?P<number> (?: [0-9] | \.[0-9] ) (?: (?<=[eE])[+-](?=[0-9]) | [A-Za-z0-9_.$\x80-\U0010ffff] )* )
    | (?P<open> ['"\\] | \$(?=[A-Za-z_$\x80-\U0010ffff]) )
    | (?P<sign> . )
    """,
    re.VERBOSE | re.DOTALL,
)
_LITERALS: Final = frozenset(("escaped", "plain", "dollar", "number"))
_LIKE_QUOTES: Final = re.compile(
    "[\u00ab\u00b4\u00bb\u02b9-\u02bd\u2018-\u201f\u2032-\u2037\u2039\u203a\u300c-\u300f\u301d-\u301f\uff02\uff07]"
    r"|[^$]\$(?=.)"
)
"""What a text that was copied has in place of quotation marks; and a word with a dollar, which was to begin one."""
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
    values = Values()
    at, is_apart, size = 0, False, 0
    while at < len(text) and size <= LONGEST:
        found = _TOKEN.match(text, at)
        assert found is not None  # the last alternative takes any character
        kind = found.lastgroup if found.lastgroup != "tag" else "dollar"
        if kind in ("space", "comment"):
            at = found.end() if kind == "space" else _behind_comment(text, at)
            is_apart = True
            continue
        part = "?" if kind in _LITERALS else found[0]
        if kind == "open" or (kind in ("word", "name", "sign") and _LIKE_QUOTES.search(part)):
            part = CUT
        else:
            is_qualified = text[found.end() : found.end() + 1] == "."
            part = values.shown(part, is_name=kind == "name", is_qualified=is_qualified)
        if part:
            parts.append(f" {part}" if is_apart and parts else part)
            size += len(parts[-1])
        if part == CUT:
            break
        is_apart, at = False, found.end()
    told = _LIST.sub("?", "".join(parts))
    return told if len(told) <= LONGEST else told[: LONGEST - len(CUT)] + CUT


def _behind_comment(text: str, at: int) -> int:
    """PostgreSQL's comments may hold others; one that does not end hides all."""
    depth = 0
    for mark in re.finditer(r"/\*|\*/", text[at:]):
        depth += 1 if mark[0] == "/*" else -1
        if not depth:
            return at + mark.end()
    return len(text)
