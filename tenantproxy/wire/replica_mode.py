"""Does a client want to read from replicas? `SET tenantproxy.replica = on`, which is answered without a server."""

from __future__ import annotations

import re
from typing import Final, Literal

from tenantproxy.errors import InvalidSetting, NotSupported

__all__ = ["NAME", "in_transaction", "is_on", "replica_wish", "unprepared"]

NAME: Final = b"tenantproxy.replica"
_WISH: Final = re.compile(
    rb"""\s* (?: SET \s+ (?:SESSION\s+)? tenantproxy\.replica (?: \s*=\s* | \s+TO\s+ ) '? (?P<value>[A-Za-z0-9]+) '?
        | RESET \s+ tenantproxy\.replica ) \s* ;? \s*""",
    re.IGNORECASE | re.VERBOSE,
)
_ON: Final = (b"on", b"true", b"yes", b"1")
_OFF: Final = (b"off", b"false", b"no", b"0")


def replica_wish(sql: bytes) -> bool | Literal["reset"] | None:
    """What a text asks for; "reset": what its user has; None: it is about something else. Raises InvalidSetting."""
    if b"plica" not in sql.lower()[:60]:
        return None
    found = _WISH.fullmatch(sql)
    if found is None:
        return None
    value = found["value"]
    return "reset" if value is None or value.lower() == b"default" else is_on(value)


def is_on(value: bytes) -> bool:
    """A boolean as PostgreSQL reads it. Raises InvalidSetting."""
    low = value.lower()
    if low in _ON or low in _OFF:
        return low in _ON
    raise InvalidSetting('parameter "tenantproxy.replica" requires a Boolean value', hint="write on or off")


def in_transaction() -> NotSupported:
    """It is for whole transactions."""
    return NotSupported("tenantproxy.replica cannot be set inside a transaction, or among other messages")


def unprepared() -> NotSupported:
    """It came by the extended protocol, or from a client that keeps its backend."""
    return NotSupported(
        "tenantproxy.replica can be set by a simple query in transaction mode, and when connecting",
        hint="connect with options=-c tenantproxy.replica=on, or write replica = true for this user in [pg.users]",
    )
