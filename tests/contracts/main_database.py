"""What stands in for the router's main scope? One that opens a plain connection for each call."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from tenantproxy.registry.base import AnyConnection
from tests.support.database import Database


class MainDatabase:
    """`registry.base.RegistryDatabase` over a test's own database.

    `pids` are the backends that were lent by `connection`, `held` those of them that still are.
    """

    def __init__(self, database: Database, *, user: str | None = None, password: str | None = None) -> None:
        self._database = database
        self._user = user
        self._password = password
        self.pids: list[int] = []
        self.held: set[int] = set()

    async def fetch(self, sql: str, *args: object, timeout: float | None = None) -> list[asyncpg.Record]:
        async with self._database.connect(self._user, self._password) as conn:
            return await conn.fetch(sql, *args, timeout=timeout)

    @asynccontextmanager
    async def connection(self, *, timeout: float | None = None) -> AsyncIterator[AnyConnection]:
        async with self._database.connect(self._user, self._password) as conn:
            pid = conn.get_server_pid()
            self.pids.append(pid)
            self.held.add(pid)
            try:
                yield conn
            finally:
                self.held.discard(pid)
