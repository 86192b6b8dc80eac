"""What does this process have on a server, and what has the whole fleet there? For a census."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any, Final

import asyncpg

from tenantproxy.config import Settings
from tenantproxy.connect.hosts import Hosts
from tenantproxy.fleet.link import PIDS, connect_serving
from tenantproxy.pools.budget import ServerBudget
from tenantproxy.pools.manager import PoolManager
from tenantproxy.pools.pool import Pool

__all__ = ["FleetConnections"]

_TIMEOUT: Final = 3.0
_DATABASE: Final = "postgres"
_MOST: Final = 3  # databases of tenants
_REFUSED: Final = (
    asyncpg.InsufficientPrivilegeError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.InvalidAuthorizationSpecificationError,
)


class FleetConnections:
    """Looks through the pools of a router's managers. `hosts`: of those servers that have several."""

    def __init__(self, settings: Settings, family: list[PoolManager[Any]], hosts: Mapping[str, Hosts]) -> None:
        self._settings = settings
        self._family = family
        self._hosts = hosts

    def adopt(self, settings: Settings) -> None:
        """Connect as `settings` say from now on."""
        self._settings = settings

    def pids(self, budget: ServerBudget) -> tuple[int, ...]:
        """The process ids of all connections of `budget`, lingering ones too; not of connects under way."""
        found = [conn.process.pid for pool in self._pools(budget) for conn in pool.connections()]
        found += [one.process.pid for one in budget.lingering]
        for hosts in self._hosts.values():
            if hosts.budget is budget:  # the other hosts' are processes of other servers
                found.append(hosts.looks_by.pid(hosts.serving if hosts.is_choosing else 0))
        return tuple(sorted({pid for pid in found if pid}))

    async def count(self, budget: ServerBudget, users: tuple[str, ...]) -> tuple[int, ...]:
        """The process ids of `users` (none: of all but superusers) on the server of `budget`.

        By one more connection, outside of the budget and gone afterwards: a full server could not be counted else.
        None behind a connection pooler: its own connections, which stay, were left by no process, and it lets go of a
        client that is gone. Asked in the database that is there for looks, then in some of tenants, where that may be
        closed to our role. Raises ConnectFailed, TimeoutError, or asyncpg's errors.
        """
        if self._settings.servers[budget.server].pooler:
            return ()
        server = self._settings.servers[budget.server]
        databases = {pool.key.database for pool in self._pools(budget)}
        first = server.probe_database or _DATABASE
        refused: asyncpg.PostgresError | None = None
        async with asyncio.timeout(_TIMEOUT):
            for database in (first, *sorted(databases - {first})[:_MOST]):
                try:
                    return await self._counted(budget.server, database, users)
                except _REFUSED as exc:  # there it may not connect, or not see others' backends
                    refused = exc
        assert refused is not None
        raise refused

    async def _counted(self, name: str, database: str, users: tuple[str, ...]) -> tuple[int, ...]:
        conn, _ = await connect_serving(self._settings.servers[name], database, self._hosts.get(name))
        try:
            return tuple(await conn.fetchval(PIDS, list(users)) or ())
        finally:
            conn.terminate()

    def _pools(self, budget: ServerBudget) -> Iterator[Pool[Any]]:
        for manager in self._family:
            for pool in (*manager, *manager.closing()):
                if pool.budget is budget:
                    yield pool
