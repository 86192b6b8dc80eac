"""Is it this process that does what one at a time is to do? By a row of the main database: poolers would lose a lock.

Two may think so for a moment, as when one was stopped and goes on: what must not be done twice needs its own lock too.
"""

from __future__ import annotations

import uuid
from typing import Final

import asyncpg

from tenantproxy.errors import ConfigurationError, Problem

__all__ = ["Leadership"]

_INSTALLED: Final = "SELECT to_regclass('tenantproxy.leaders') IS NOT NULL"
_CLAIM: Final = """
INSERT INTO tenantproxy.leaders AS l (work, holder) VALUES ($1, $2)
ON CONFLICT (work) DO UPDATE SET holder = $2, seen_at = now()
WHERE l.holder = $2 OR l.seen_at < now() - make_interval(secs => $3) RETURNING true
"""
_RESIGN: Final = "DELETE FROM tenantproxy.leaders WHERE work = $1 AND holder = $2"


class Leadership:
    """That of one `work`, which this process has or asks for. `ttl`: seconds after which a silent one is replaced."""

    def __init__(self, work: str, *, ttl: float) -> None:
        self.ttl = ttl
        self._work = work
        self._holder = uuid.uuid4()

    async def claim(self, conn: asyncpg.Connection) -> bool:
        """Have it for `ttl` seconds from now; False: another process has it. Raises ConfigurationError."""
        if not await conn.fetchval(_INSTALLED):
            problem = "the main database has no table for it"
            raise ConfigurationError([Problem(key="login.outbox", problem=problem, fix="run: tenantproxy install")])
        return bool(await conn.fetchval(_CLAIM, self._work, self._holder, self.ttl))

    async def resign(self, conn: asyncpg.Connection) -> None:
        """Let another process have it at once."""
        await conn.execute(_RESIGN, self._work, self._holder)
