"""Which values may a tracked session setting have? One check per setting, as strict as the server's."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, TypeAlias

__all__ = ["CHECKS", "MAX_VALUE", "quoted_schema", "schemas"]

MAX_VALUE: Final = 1024  # bytes of one value

Check: TypeAlias = Callable[[bytes], bytes | None]
"""The value as a server would report it, as far as that is known without one; None when it is not one."""

_MAX_INT: Final = 2**31 - 1
_DURATION: Final = re.compile(rb"((?:0|[1-9]\d{0,9})(?:\.\d{1,6})?)\s*(us|ms|s|min|h|d|)")
_MILLISECONDS: Final = {b"us": 0.001, b"ms": 1.0, b"": 1.0, b"s": 1e3, b"min": 6e4, b"h": 3.6e6, b"d": 8.64e7}


def _duration(value: bytes) -> bytes | None:
    """A timeout: milliseconds, or a number with a unit."""
    value = value.strip()
    found = _DURATION.fullmatch(value)
    if found is None or float(found[1]) * _MILLISECONDS[found[2]] > _MAX_INT:
        return None
    return value


def _whole(lowest: int, highest: int) -> Check:
    def check(value: bytes) -> bytes | None:
        found = re.fullmatch(rb"[+-]?(?:0|[1-9]\d?)", value.strip())  # 010 would be 8
        return b"%d" % int(found[0]) if found and lowest <= int(found[0]) <= highest else None

    return check


def _word(*words: bytes) -> Check:
    def check(value: bytes) -> bytes | None:
        return value.lower() if value.lower() in words else None

    return check


_STYLES: Final = {b"iso": b"ISO", b"sql": b"SQL", b"postgres": b"Postgres", b"german": b"German"}
_ORDERS: Final = {
    b"ymd": b"YMD",
    b"dmy": b"DMY",
    b"euro": b"DMY",
    b"european": b"DMY",
    b"mdy": b"MDY",
    b"us": b"MDY",
    b"noneuro": b"MDY",
    b"noneuropean": b"MDY",
}


def _date_style(value: bytes) -> bytes | None:
    """At most one style and one order of day and month; the server refuses words that contradict each other."""
    words = [word.strip().lower() for word in value.split(b",")]
    if not all(word in _STYLES or word in _ORDERS for word in words):
        return None
    styles = {_STYLES[word] for word in words if word in _STYLES}
    orders = {_ORDERS[word] for word in words if word in _ORDERS}
    return b", ".join((*styles, *orders)) if len(styles) <= 1 and len(orders) <= 1 else None


def _time_zone(value: bytes) -> bytes | None:
    """A name, or a POSIX specification (`<+03>-3`); only the server knows all names."""
    return value if re.fullmatch(rb"[A-Za-z0-9_+\-/:.,<> ]{1,100}", value) else None


# What clients may speak, by its name without punctuation; from the server's table of names and aliases, but for
# MULE_INTERNAL, which has no conversion from UTF8. All of them leave ASCII as it is, and we say nothing else.
_ENCODINGS: Final[dict[bytes, bytes]] = {
    name.lower().replace(b"_", b""): name
    for name in (
        b"BIG5 EUC_CN EUC_JIS_2004 EUC_JP EUC_KR EUC_TW GB18030 GBK ISO_8859_5 ISO_8859_6 ISO_8859_7 ISO_8859_8 JOHAB"
        b" KOI8R KOI8U LATIN1 LATIN2 LATIN3 LATIN4 LATIN5 LATIN6 LATIN7 LATIN8 LATIN9 LATIN10 SHIFT_JIS_2004 SJIS"
        b" SQL_ASCII UHC UTF8 WIN866 WIN874 WIN1250 WIN1251 WIN1252 WIN1253 WIN1254 WIN1255 WIN1256 WIN1257 WIN1258"
    ).split()
} | {
    b"unicode": b"UTF8",
    b"iso88591": b"LATIN1",
    b"iso88592": b"LATIN2",
    b"iso885915": b"LATIN9",
    b"shiftjis": b"SJIS",
    b"mskanji": b"SJIS",
    b"koi8": b"KOI8R",
    b"win": b"WIN1251",
    b"alt": b"WIN866",
    b"windows1250": b"WIN1250",
    b"windows1251": b"WIN1251",
    b"windows1252": b"WIN1252",
}


def _encoding(value: bytes) -> bytes | None:
    """As a server reads it: case and punctuation do not count, nor do the quotes that some drivers send."""
    return _ENCODINGS.get(re.sub(rb"[^a-z0-9]", b"", value.lower()))


def _text(value: bytes) -> bytes | None:
    return None if b"\0" in value else value


_SCHEMA: Final = re.compile(rb'\s*(?:"((?:[^"\0]|"")*)"|([A-Za-z_$\x80-\xff][\w$\x80-\xff]*))\s*(,|\Z)')


def schemas(value: bytes) -> tuple[bytes, ...] | None:
    """The names in a search_path, unquoted and folded as the server folds them; None when it is not a list of names."""
    if not value.strip():
        return ()
    names: list[bytes] = []
    at, comma = 0, b","
    while comma:
        found = _SCHEMA.match(value, at)
        if found is None:
            return None
        quoted, plain, comma = found.groups()
        names.append(plain.lower() if quoted is None else quoted.replace(b'""', b'"'))
        at = found.end()
    return tuple(names)


def quoted_schema(name: bytes) -> bytes:
    """`name` as an element of the value of search_path. (An identifier in SQL: model.quote_identifier.)"""
    if re.fullmatch(rb"[a-z_][a-z0-9_]*", name):
        return name
    return b'"' + name.replace(b'"', b'""') + b'"'


def _search_path(value: bytes) -> bytes | None:
    return None if schemas(value) is None else value


_KILOBYTES: Final = {b"B": 1 / 1024, b"kB": 1.0, b"": 1.0, b"MB": 1024.0, b"GB": 1024.0**2, b"TB": 1024.0**3}
_MEMORY: Final = re.compile(rb"((?:0|[1-9]\d{0,9})(?:\.\d{1,6})?)\s*(B|kB|MB|GB|TB|)")


def _memory(value: bytes) -> bytes | None:
    """Kilobytes, or a number with a unit; at least 64 kB."""
    value = value.strip()
    found = _MEMORY.fullmatch(value)
    if found is None or not 64 <= float(found[1]) * _KILOBYTES[found[2]] <= _MAX_INT:
        return None
    return value


_SWITCHES: Final = {
    **dict.fromkeys((b"on", b"true", b"yes", b"1", b"t", b"y"), b"on"),
    **dict.fromkeys((b"off", b"false", b"no", b"0", b"f", b"n"), b"off"),
}


def _switch(value: bytes) -> bytes | None:
    return _SWITCHES.get(value.lower())


def _synchronous_commit(value: bytes) -> bytes | None:
    word = value.lower()
    return word if word in (b"local", b"remote_write", b"remote_apply") else _SWITCHES.get(word)


CHECKS: Final[dict[bytes, Check]] = {
    b"DateStyle": _date_style,
    b"IntervalStyle": _word(b"postgres", b"postgres_verbose", b"sql_standard", b"iso_8601"),
    b"TimeZone": _time_zone,
    b"application_name": _text,
    b"array_nulls": _switch,
    b"bytea_output": _word(b"escape", b"hex"),
    b"client_encoding": _encoding,
    b"client_min_messages": _word(
        b"debug5",
        b"debug4",
        b"debug3",
        b"debug2",
        b"debug1",
        b"debug",
        b"log",
        b"info",
        b"notice",
        b"warning",
        b"error",
    ),
    b"default_transaction_deferrable": _switch,
    b"default_transaction_isolation": _word(
        b"serializable", b"repeatable read", b"read committed", b"read uncommitted"
    ),
    b"default_transaction_read_only": _switch,
    b"extra_float_digits": _whole(-15, 3),
    b"idle_in_transaction_session_timeout": _duration,
    b"jit": _switch,
    b"lock_timeout": _duration,
    b"search_path": _search_path,
    b"standard_conforming_strings": _switch,
    b"statement_timeout": _duration,
    b"synchronous_commit": _synchronous_commit,
    b"transform_null_equals": _switch,
    b"work_mem": _memory,
}
"""Every tracked setting, by its name as PostgreSQL writes it."""
