"""What does this process have on a server, and what has the whole fleet there? For a census."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

from tenantproxy.config import Settings
from tenantproxy.errors import ConnectFailed
from tenantproxy.fleet.link import PIDS, connect_plain
from tenantproxy.pools.budget import ServerBudget
from tenantproxy.pools.manager import PoolManager
from tenantproxy.pools.pool import Pool

__all__ = ["FleetConnections"]

_TIMEOUT = 3.0


class FleetConnections:
    """Looks through the pools of a router's managers. No state."""

    def __init__(self, settings: Settings, family: list[PoolManager[Any]]) -> None:
        self._settings = settings
        self._family = family

    def pids(self, budget: ServerBudget) -> tuple[int, ...]:
        """The process ids of all connections of `budget`, lingering ones too; not of connects under way."""
        found = [conn.process.pid for pool in self._pools(budget) for conn in pool.connections()]
        found += [one.process.pid for one in budget.lingering]
        return tuple(sorted({pid for pid in found if pid}))

    async def count(self, budget: ServerBudget, users: tuple[str, ...]) -> tuple[int, ...]:
        """The process ids of `users` (none: of all but superusers) on the server of `budget`.

        By one more connection, outside of the budget and gone afterwards: a full server could not be counted else.
        Raises ConnectFailed while no database there is known, TimeoutError, or asyncpg's errors.
        """
        key = next((pool.key for pool in self._pools(budget)), None)
        if key is None:
            raise ConnectFailed(f"no database on server {budget.server!r} is known yet")
        async with asyncio.timeout(_TIMEOUT):
            conn = await connect_plain(self._settings.servers[key.server], key.database)
            try:
                return tuple(await conn.fetchval(PIDS, list(users)) or ())
            finally:
                conn.terminate()

    def _pools(self, budget: ServerBudget) -> Iterator[Pool[Any]]:
        for manager in self._family:
            for pool in (*manager, *manager.closing()):
                if pool.budget is budget:
                    yield pool
