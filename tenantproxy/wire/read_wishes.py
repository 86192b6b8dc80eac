"""Where does a client want to read? `SET tenantproxy.replica` and `tenantproxy.after`, answered without a server."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from tenantproxy.errors import InvalidSetting, NotSupported

__all__ = ["AFTER", "REPLICA", "SYSTEM", "ReadWish", "alone", "is_on", "position", "read_wish", "unprepared"]

REPLICA: Final = b"tenantproxy.replica"
SYSTEM: Final = b"tenantproxy.system"  # at the start of a connection alone
AFTER: Final = b"tenantproxy.after"
_NAMES: Final = (REPLICA, AFTER)
_PREFIX: Final = b"tenantproxy."
_NEAR: Final = 80  # bytes within which the name comes, at most
_ASKED: Final = re.compile(
    rb"\s* (?P<word>SET|RESET) \s+ (?:(?P<scope>SESSION|LOCAL)\s+)? (?P<name>tenantproxy\.\w+) (?P<rest>.*)",
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)
_VALUE: Final = re.compile(
    rb"(?: \s*=\s* | \s+TO\s+ ) (?: '(?P<text>[^']*)' | (?P<bare>[A-Za-z0-9]+) ) \s* ;? \s*", re.IGNORECASE | re.VERBOSE
)
_END: Final = re.compile(rb"\s*;?\s*")
_POSITION: Final = re.compile(rb"([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})")
_ON: Final = (b"on", b"true", b"yes", b"1")
_OFF: Final = (b"off", b"false", b"no", b"0")


@dataclass(frozen=True, slots=True)
class ReadWish:
    """What one text asks for. None: that one stays as it is.

    `replica`: read from replicas. `after`: a position in the log that they must have replayed, 0 for none. `resets`:
    `replica` is to be what the client's user has.
    """

    replica: bool | None = None
    after: int | None = None
    resets: bool = False


def read_wish(sql: bytes) -> ReadWish | None:
    """What a text asks for; None: it is about something else. Raises InvalidSetting, NotSupported."""
    if _PREFIX not in sql[:_NEAR].lower():
        return None
    asked = _ASKED.match(sql)
    if asked is None:
        return None
    name = asked["name"].lower()
    if name not in _NAMES:
        raise InvalidSetting(
            f'unrecognized configuration parameter "{name[:100].decode("ascii", "replace")}"',
            hint="there are tenantproxy.replica and tenantproxy.after, and at startup tenantproxy.system",
        )
    if (asked["scope"] or b"").lower() == b"local":
        raise NotSupported(f"{name.decode()} is for whole transactions: SET LOCAL cannot set it", hint="write SET")
    if asked["word"].lower() == b"reset":
        if not _END.fullmatch(asked["rest"]):
            raise alone(name)
        return ReadWish(resets=True) if name == REPLICA else ReadWish(after=0)
    found = _VALUE.fullmatch(asked["rest"])
    if found is None:
        raise alone(name)
    is_default = found["bare"] is not None and found["bare"].lower() == b"default"
    value = found["bare"] if found["text"] is None else found["text"]
    if name == REPLICA:
        return ReadWish(resets=True) if is_default else ReadWish(replica=is_on(value))
    return ReadWish(after=0 if is_default else position(value))


def is_on(value: bytes) -> bool:
    """A boolean as PostgreSQL reads it. Raises InvalidSetting."""
    low = value.lower()
    if low in _ON or low in _OFF:
        return low in _ON
    raise InvalidSetting('parameter "tenantproxy.replica" requires a Boolean value', hint="write on or off")


def position(value: bytes) -> int:
    """A position in the write-ahead log, in bytes; 0 for none, which is empty. Raises InvalidSetting."""
    if not value:
        return 0
    found = _POSITION.fullmatch(value)
    if found is None:
        raise InvalidSetting(
            'parameter "tenantproxy.after" requires a position in the log, as 16/B374D848',
            hint="ask the primary for it after the COMMIT: SELECT pg_current_wal_insert_lsn()",
        )
    return int(found[1], 16) << 32 | int(found[2], 16)


def alone(name: bytes = REPLICA) -> NotSupported:
    """It came inside a transaction or with something else."""
    return NotSupported(
        f"{name.decode()} cannot be set inside a transaction, or among other statements or messages",
        hint=f"send SET {name.decode()} = ... as a simple query of its own, outside of a transaction",
    )


def unprepared() -> NotSupported:
    """It came by the extended protocol, or from a client that keeps its backend."""
    return NotSupported(
        "tenantproxy.replica and tenantproxy.after can be set by a simple query in transaction mode,"
        " and when connecting",
        hint="connect with options=-c tenantproxy.replica=on, or write replica = true for this user in [pg.users]",
    )
