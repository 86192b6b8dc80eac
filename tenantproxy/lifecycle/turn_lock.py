"""Is another operator at it? A lock that one of them holds is waited for; one that a tenant took is not.

Any session of a database can take any advisory lock there, and keep it for as long as it likes. Who holds it is known
by its role. Gone on without it, two operators may meet, and one of them hears so from PostgreSQL.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final, Protocol

import asyncpg

__all__ = ["leave_turn", "take_turn"]

_PAUSE: Final = 0.02
_KEY: Final = "SELECT pg_catalog.hashtextextended($1, 0)"
_TRY: Final = "SELECT pg_catalog.pg_try_advisory_xact_lock($1)"
_TRY_IN_SESSION: Final = "SELECT pg_catalog.pg_try_advisory_lock($1)"
_LEAVE: Final = "SELECT pg_catalog.pg_advisory_unlock(pg_catalog.hashtextextended($1, 0))"
_HOLDERS: Final = """
SELECT bool_or(coalesce(r.rolsuper OR r.rolcreaterole OR r.rolname = session_user, false))
FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_database d ON d.oid = l.database
LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid LEFT JOIN pg_catalog.pg_roles r ON r.oid = a.usesysid
WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 AND d.datname = pg_catalog.current_database()
  AND (l.classid::bigint << 32) | l.objid::bigint = $1 AND l.pid IS DISTINCT FROM pg_catalog.pg_backend_pid()
"""
"""Whether one of them is an operator's; NULL: none holds it now."""
_MAY_LOOK: Final = "SELECT pg_catalog.has_function_privilege('pg_catalog.pg_stat_get_activity(int4)', 'EXECUTE')"
"""Tenants may not, where it is closed to all but operators: to be refused would end the transaction."""


class TurnSession(Protocol):
    """A connection."""

    async def fetchval(self, query: str, *args: Any) -> Any:
        """See asyncpg."""
        ...


async def take_turn(conn: TurnSession, name: str, *, patience: float, in_session: bool = False) -> bool:
    """Be the only one at `name` in the database of `conn`, to the end of its transaction, or `in_session` until
    `leave_turn`; False: a tenant holds the lock, and it is gone on without.

    Raises asyncpg.LockNotAvailableError behind `patience` seconds in which other operators were at it, or one of whom
    the session may not see who it is.
    """
    key = await conn.fetchval(_KEY, name)
    until = asyncio.get_running_loop().time() + patience
    while not await conn.fetchval(_TRY_IN_SESSION if in_session else _TRY, key):
        if await conn.fetchval(_MAY_LOOK) and await conn.fetchval(_HOLDERS, key) is False:
            return False
        if asyncio.get_running_loop().time() >= until:
            raise asyncpg.LockNotAvailableError(f"another session does the same at this moment: {name}")
        await asyncio.sleep(_PAUSE)
    return True


async def leave_turn(conn: TurnSession, name: str) -> None:
    """Let others have what `take_turn` took for the session."""
    await conn.fetchval(_LEAVE, name)
