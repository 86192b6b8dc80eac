"""What is between us and a server that is said to be behind a connection pooler? Told by which process answers whom."""

from __future__ import annotations

from typing import Final

from tenantproxy.driver.state import DriverConnection

__all__ = ["Found", "what_is_between"]

Found = str
"""A sentence of what was found."""

_TRIES: Final = 5
_PID: Final = "SELECT pg_catalog.pg_backend_pid()"


async def what_is_between(one: DriverConnection, other: DriverConnection) -> tuple[Found, str]:
    """What was found, and what to do about it, if something is. Both connections are leased, and in no transaction.

    A pooler of transactions gives both the same server connection sooner or later, one of sessions never does.
    """
    first, second = set(), set()
    for _ in range(_TRIES):
        first.add(await one.con.fetchval(_PID))
        second.add(await other.con.fetchval(_PID))
        if first & second:
            return "a pooler of transactions", ""
    if first == {one.con.get_server_pid()}:
        return "no pooler: the server itself answers", "leave pooler out: sessions of our own cost less and can do more"
    if len(first) == len(second) == 1:
        return "a pooler of sessions, it seems", "set pool_mode = transaction in pgbouncer.ini: fewer connections do"
    return "a pooler of transactions", ""
