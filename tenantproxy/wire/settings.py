"""Which settings of a client's session go with it from backend to backend, and to which values?

In transaction mode a client's next transaction may run on another backend. `Settings` is what has to be put right there
first: () for a session as at startup. How a relay keeps it (the session of the client, `now`; what it asked for in its
startup packet, `start`):

1. A ParameterStatus while the client has a backend: `now = with_reported(now, name, value, baseline=...)`, at any time.
   A server reports what is in force, so a rollback needs no thought.
2. A simple query, sent while nothing else was unanswered, with `read_set(sql)` not None, whose tag SET or RESET came:
   outside a transaction (ReadyForQuery `I` before and after) `now = with_set(now, name, value, start=start)`, and the
   backend has `with_set` of it without `start`. Inside a transaction remember it, and apply it at the tag COMMIT.
3. In any doubt (a ROLLBACK TO after such a SET, a SET in a pipeline, or one that `read_set` does not read) forget what
   is remembered, and give the backend back dirty: its reset makes its session () again. So `now` may have missed a wish
   of the client, but what is believed of a backend is never wrong.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Final, TypeAlias

from tenantproxy.errors import InvalidSetting
from tenantproxy.wire.commands import bare
from tenantproxy.wire.values import CHECKS, MAX_VALUE, quoted_schema

__all__ = [
    "ALL",
    "MEANING",
    "NO_SETTINGS",
    "Settings",
    "canonical",
    "changes",
    "checked",
    "is_tracked",
    "meaning_of",
    "of",
    "read_set",
    "with_reported",
    "with_set",
]

Settings: TypeAlias = tuple[tuple[bytes, bytes], ...]
"""Names as PostgreSQL writes them, each once. Made by this module only, so that equal ones are mostly the same object:
compare with `is` first, then with `==`."""

NO_SETTINGS: Final[Settings] = ()
ALL: Final = b"all"  # as a name: every setting

MEANING: Final = frozenset(
    (
        b"DateStyle",
        b"IntervalStyle",
        b"TimeZone",
        b"array_nulls",
        b"bytea_output",
        b"client_encoding",
        b"extra_float_digits",
        b"search_path",
        b"standard_conforming_strings",
        b"transform_null_equals",
    )
)
"""Those by which PostgreSQL reads a text when it parses it, or that its constants are made with when it plans it: the
parsed statement and its plan keep them, whatever is set later. (Functions marked immutable that are not quite: the
output of float8 goes by extra_float_digits.)"""

_NOTHING: Final[Mapping[bytes, bytes]] = MappingProxyType({})
_BY_LOWER: Final = {name.lower(): name for name in CHECKS}


def canonical(name: bytes) -> bytes | None:
    """A tracked setting's name as PostgreSQL writes it (`TimeZone`), whatever its case; None for all others."""
    return _BY_LOWER.get(name.lower())


def checked(name: bytes, value: bytes) -> tuple[bytes, bytes]:
    """A setting that a client asks for at startup, with its name as PostgreSQL writes it.

    A server does not refuse what passes here, but for the name of a time zone. Raises InvalidSetting.
    """
    known = canonical(name)
    if known is None:
        raise InvalidSetting(
            f'the setting "{_shown(name)}" cannot be set at startup',
            hint="allowed are tenant, " + ", ".join(sorted(allowed.decode() for allowed in CHECKS)),
        )
    if len(value) > MAX_VALUE:
        raise InvalidSetting(f'the value of "{known.decode()}" is too long', detail=f"at most {MAX_VALUE} bytes")
    good = CHECKS[known](value)
    if good is None:
        raise InvalidSetting(f'invalid value for the setting "{known.decode()}": "{_shown(value)}"')
    return known, good


def of(pairs: Iterable[tuple[bytes, bytes]]) -> Settings:
    """`pairs` (of `checked`) as Settings; of two with one name the last counts."""
    return _interned(tuple(sorted(dict(pairs).items(), key=_place)))


def is_tracked(name: bytes, value: bytes) -> bool:
    """Whether `with_reported` notes it."""
    return canonical(name) is not None and len(value) <= MAX_VALUE


def with_reported(
    settings: Settings, name: bytes, value: bytes, *, baseline: Mapping[bytes, bytes] = _NOTHING
) -> Settings:
    """After a ParameterStatus. `baseline`: what the servers of the pool report of a session as at startup."""
    known = canonical(name)
    if known is None or not is_tracked(name, value):
        return settings
    return _with(settings, known, None if baseline.get(name) == value else value)


def with_set(settings: Settings, name: bytes, value: bytes | None, *, start: Settings = NO_SETTINGS) -> Settings:
    """After what `read_set` read has taken effect. `start`: to what RESET returns, the wishes of the startup packet."""
    if name == ALL:
        return start
    return _with(settings, name, dict(start).get(name) if value is None else value)


@lru_cache(maxsize=2048)
def meaning_of(settings: Settings) -> Settings:
    """What of `settings` gives a statement its meaning."""
    return _interned(tuple(setting for setting in settings if setting[0] in MEANING))


def changes(applied: Settings, wanted: Settings) -> tuple[tuple[bytes, bytes | None], ...]:
    """What to set on a backend that has `applied`, in order; None: to what it had at startup."""
    if applied is wanted or applied == wanted:
        return ()
    had, wants = dict(applied), dict(wanted)
    gone: list[tuple[bytes, bytes | None]] = [(name, None) for name in had if name not in wants]
    return tuple(gone) + tuple(pair for pair in wants.items() if had.get(pair[0]) != pair[1])


def _with(settings: Settings, name: bytes, value: bytes | None) -> Settings:
    now = dict(settings)
    if now.get(name) == value:
        return settings
    if name == b"client_encoding":  # what is not ASCII does not outlive the encoding it was said in
        now = {other: said for other, said in now.items() if other == name or said.isascii()}
    if value is None:
        del now[name]
    else:
        now[name] = value
    return of(now.items())


def _place(setting: tuple[bytes, bytes]) -> tuple[bool, bytes]:
    """client_encoding first: the server reads the bytes of all that follow by it."""
    return setting[0] != b"client_encoding", setting[0]


@lru_cache(maxsize=2048)  # a limit for what clients can make us keep; beyond it `==` still tells
def _interned(settings: Settings) -> Settings:
    return settings


def _shown(value: bytes) -> str:
    return value[:100].decode("utf-8", "replace")


# --- the text of one plain SET or RESET ------------------------------------------------------------------------------
_SET: Final = re.compile(
    rb"""SET \s+ (?:SESSION\s+)?
    (?: (?P<zone>TIME\s+ZONE\s+) | (?P<names>NAMES\s+) | (?P<name>[A-Za-z_]+) (?: \s*=\s* | \s+TO\s+ ) )
    (?P<values>[^;]+)""",
    re.IGNORECASE | re.VERBOSE,
)
_ISOLATION: Final = re.compile(
    rb"""SET \s+ SESSION \s+ CHARACTERISTICS \s+ AS \s+ TRANSACTION \s+ ISOLATION \s+ LEVEL \s+
    (SERIALIZABLE | REPEATABLE\s+READ | READ\s+(?:UN)?COMMITTED)""",
    re.IGNORECASE | re.VERBOSE,
)
_RESET: Final = re.compile(rb"RESET\s+(?:(TIME\s+ZONE)|([A-Za-z_]+))", re.IGNORECASE)
# No backslash in a literal: what it means is up to standard_conforming_strings.
_VALUE: Final = re.compile(
    rb"""(?: '(?P<literal>(?:[^'\\\0]|'')*)' | "(?P<quoted>(?:[^"\0]|"")+)"
       | (?P<number>[+-]?[0-9]+(?:\.[0-9]+)?) | (?P<word>[A-Za-z_][A-Za-z0-9_]*) )""",
    re.VERBOSE,
)
_COMMA: Final = re.compile(rb"\s*(,\s*|\Z)")
_LISTS: Final = {b"search_path", b"DateStyle"}


def read_set(sql: bytes) -> tuple[bytes, bytes | None] | None:
    """The setting and its new value (None: to what it had at startup) that this one plain statement sets.

    Of the forms `SET [SESSION] name {TO|=} value`, `SET TIME ZONE value`, `SET NAMES value`, `SET SESSION
    CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL value`, `RESET name` and `RESET ALL`
    (the name is ALL then), for settings that are tracked. None for everything else: other settings, LOCAL, several
    statements, comments. `sql` is without the NUL that ends it in its message. Whether a value is good the server says.
    """
    if len(sql) > 2 * MAX_VALUE or sql[:1] not in b"sSrR \t\r\n":
        return None
    text = bare(sql)
    reset = _RESET.fullmatch(text)
    if reset:
        return _reset(b"TimeZone" if reset[1] else reset[2])
    isolation = _ISOLATION.fullmatch(text)
    if isolation:
        return b"default_transaction_isolation", b" ".join(isolation[1].lower().split())
    found = _SET.fullmatch(text)
    if found is None:
        return None
    name = canonical(b"TimeZone" if found["zone"] else b"client_encoding" if found["names"] else found["name"])
    values = _values(found["values"])
    if name is None or values is None or (len(values) > 1 and name not in _LISTS):
        return None
    if len(values) == 1 and _is_default(*values[0], is_zone=found["zone"] is not None):
        return name, None
    value = _value(name, values)
    return None if value is None or len(value) > MAX_VALUE else (name, value)


def _reset(name: bytes) -> tuple[bytes, None] | None:
    known = ALL if name.lower() == ALL else canonical(name)
    return None if known is None else (known, None)


def _is_default(kind: str, value: bytes, *, is_zone: bool) -> bool:
    return kind == "word" and (value == b"default" or (is_zone and value == b"local"))


def _value(name: bytes, values: list[tuple[str, bytes]]) -> bytes | None:
    """As the server joins them: each element of search_path is one schema, even if it is a literal with a comma."""
    if name != b"search_path":
        return b", ".join(value for _, value in values)
    if any(kind == "number" for kind, _ in values):
        return None
    return b", ".join(quoted_schema(value) for _, value in values)


def _values(text: bytes) -> list[tuple[str, bytes]] | None:
    """Each value of a list, with its kind, as PostgreSQL's lexer hands it on; None when something else is there."""
    values: list[tuple[str, bytes]] = []
    at, comma = 0, b","
    while comma:
        found = _VALUE.match(text, at)
        end = _COMMA.match(text, found.end()) if found else None
        if found is None or end is None:
            return None
        values.append(_lexed(found))
        at, comma = end.end(), end[1]
    return values


def _lexed(found: re.Match[bytes]) -> tuple[str, bytes]:
    kind, value = str(found.lastgroup), found[str(found.lastgroup)]
    if kind == "literal":
        return kind, value.replace(b"''", b"'")
    if kind == "quoted":
        return kind, value.replace(b'""', b'"')
    return kind, value.lower()
