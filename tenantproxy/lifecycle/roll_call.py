"""Has every process heard what was announced? Each answers a roll call, on the session on which it listens."""

from __future__ import annotations

import asyncio
from typing import Final

import asyncpg

from tenantproxy.notifications import LISTENS, ROLL_CALL

__all__ = ["until_heard"]

_PAUSE: Final = 0.005
_CALL: Final = "SELECT clock_timestamp(), pg_notify($1, '')"
_SILENT: Final = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND query = $1 AND query_start < $2
"""


async def until_heard(main: asyncpg.Connection, *, patience: float) -> bool:
    """Wait until each process has heard what was announced before; False: one is silent for `patience` seconds.

    `main`: the main database's, outside a transaction. Asks the sessions whose statements its user may see; a process
    that listens to nothing is not among them.
    """
    until = asyncio.get_running_loop().time() + patience
    called_at = await main.fetchval(_CALL, ROLL_CALL)
    while await main.fetchval(_SILENT, LISTENS, called_at):
        if asyncio.get_running_loop().time() >= until:
            return False
        await asyncio.sleep(_PAUSE)
    return True
