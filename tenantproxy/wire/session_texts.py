"""What do the statements of one text set or reset, in the order of their tags?

A text is read to know what a session has after it, never to decide what a client may do. What cannot be read for sure
is unknown, and then the backend is reset.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from tenantproxy.wire.commands import is_local
from tenantproxy.wire.leftovers import CUSTOM, SETTING
from tenantproxy.wire.settings import canonical, read_set

__all__ = ["MAX_READ", "SetEffect", "may_be_custom", "may_mean", "may_set", "set_effects", "sets_untracked"]

MAX_READ: Final = 8192  # bytes; longer ones are not read


class SetEffect(NamedTuple):
    """What a statement with the tag SET or RESET has done. `value` None: what the session had at its start.

    `name` is `settings.ALL` for every setting, and empty for one that means nothing behind its transaction.
    """

    name: bytes
    value: bytes | None
    is_local: bool = False  # until the transaction ends


_NOTHING: Final = SetEffect(b"", None, is_local=True)
# Each begins with another byte, so that nothing is read twice. No backslash: what it means is up to
# standard_conforming_strings. No dollar but that of a parameter: it may begin a literal.
_PIECE: Final = re.compile(
    rb"""(?P<end>;) | (?P<comment> --[^\r\n]*+ | /\*(?:[^*/]|\*(?!/)|/(?!\*))*+\*/ )
       | (?: [^'"$;\\/\-\0] | '(?:[^'\\\0]|'')*+' | "(?:[^"\0]|"")++" | \$(?=[0-9]) | -(?!-) | /(?!\*) )++""",
    re.VERBOSE,
)
_WORD: Final = re.compile(rb"[A-Za-z]+")
_CONSTRAINTS: Final = re.compile(rb"SET\s+CONSTRAINTS\b", re.IGNORECASE)  # its tag is another one
_NAME: Final = re.compile(rb"([A-Za-z_][\w.$]*)(?=[\s=])")  # in quotes it may be any
_DOTTED: Final = re.compile(rb"[A-Za-z_\"\x80-\xff]\s*\.")
_MEANS: Final = re.compile(
    rb"extra_float_digits|bytea_output|array_nulls|transform_null_equals|search_path|SCHEMA|U&", re.IGNORECASE
)
_LOCAL_SET: Final = re.compile(rb"SET\s+LOCAL\s+", re.IGNORECASE)


_LINE_COMMENT: Final = re.compile(rb"--[^\n]*")
_SETS: Final = re.compile(rb"(?:\A|;|\*/)\s*+(?:SET|RESET|DISCARD)\b", re.IGNORECASE)


def may_set(sql: bytes) -> bool:
    """Whether the session may be set otherwise after this text: what follows waits until it is answered."""
    if len(sql) > MAX_READ:
        return False
    return _SETS.search(_LINE_COMMENT.sub(b"", sql) if b"--" in sql else sql) is not None


def set_effects(sql: bytes) -> list[SetEffect | None] | None:
    """One for each statement of `sql` that is tagged SET or RESET, in order; None there: not known.

    None for all: the text cannot be read. `sql` is without the NUL that ends it in its message.
    """
    statements = _split(sql) if len(sql) <= MAX_READ else None
    if statements is None:
        return None
    effects: list[SetEffect | None] = []
    for statement in statements:
        word = _WORD.match(statement)
        kind = word[0].upper() if word else b""
        if kind == b"EXECUTE":  # of a prepared SET: it has that tag too
            return None
        if kind in (b"SET", b"RESET") and not _CONSTRAINTS.match(statement):
            effects.append(_effect(statement))
    return effects


def sets_untracked(sql: bytes) -> int:
    """What a text that begins with SET leaves that does not go along with the client: see `leftovers`."""
    if sql[:3].upper() != b"SET":
        return 0
    effects = set_effects(sql)
    if effects is not None and None not in effects:
        return 0
    return SETTING | CUSTOM if may_be_custom(sql) else SETTING


def may_be_custom(sql: bytes) -> bool:
    """Whether a setting in this text may be a client's own, whose name has a dot in it."""
    return _DOTTED.search(sql) is not None


def may_mean(sql: bytes) -> bool:
    """Whether a setting in this text may be one of those that give texts their meaning, and that no server reports."""
    return _MEANS.search(sql) is not None


def _effect(statement: bytes) -> SetEffect | None:
    found = read_set(statement)
    if found is not None:
        return SetEffect(*found)
    if not is_local(statement):
        return None
    local = _LOCAL_SET.match(statement)
    if local is None:  # SET TRANSACTION
        return _NOTHING
    found = read_set(b"SET " + statement[local.end() :])
    if found is not None:
        return SetEffect(*found, is_local=True)
    name = _NAME.match(statement, local.end())
    is_untracked = name is not None and canonical(name[1]) is None and name[1].lower() != b"schema"
    return _NOTHING if is_untracked else None


def _split(sql: bytes) -> list[bytes] | None:
    """Its statements without comments; None when there is something that is not understood."""
    statements: list[bytes] = []
    parts: list[bytes] = []
    at = 0
    while at < len(sql):
        found = _PIECE.match(sql, at)
        if found is None:
            return None
        at = found.end()
        if found["end"]:
            statements.append(b"".join(parts).strip())
            parts.clear()
        else:
            parts.append(b" " if found["comment"] else found[0])
    statements.append(b"".join(parts).strip())
    return [statement for statement in statements if statement]
