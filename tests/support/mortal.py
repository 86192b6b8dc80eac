"""How does a process die between two statements? All its connections end at once, and it says nothing more to any."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import asyncpg

from tenantproxy.embedded import EmbeddedPostgres
from tenantproxy.lifecycle.provisioner import ConnectTo
from tests.support.world import World

__all__ = ["Death", "Mortality"]


class Death(ConnectionError):
    """What the code of the dead process would see, if it were not dead."""


class Mortality:
    """Counts the statements of a process, and ends it behind number `last` (None: never).

    `is_dead`, `count`: what became of it. Only the server's side of a death is real, which is what is left behind.
    """

    def __init__(
        self, world: World, last: int | None = None, *, others: Mapping[str, EmbeddedPostgres] | None = None
    ) -> None:
        """`others`: further servers, by their names in the configuration."""
        self._others = others or {}
        self.count = 0
        self.is_dead = False
        self._world = world
        self._last = last
        self._open: list[asyncpg.Connection] = []

    def connect(self) -> ConnectTo:
        """How that process connects."""

        class Mortal(asyncpg.Connection):
            async def execute(mine, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
                return await self._live(super().execute, *args, **kwargs)

            async def fetch(mine, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
                return await self._live(super().fetch, *args, **kwargs)

            async def fetchrow(mine, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
                return await self._live(super().fetchrow, *args, **kwargs)

            async def fetchval(mine, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
                return await self._live(super().fetchval, *args, **kwargs)

        async def connect(name: str, database: str) -> asyncpg.Connection:
            if self.is_dead:
                raise Death
            args = self._others.get(name, self._world.server).connect_args(database)
            conn: asyncpg.Connection = await asyncpg.connect(**args, connection_class=Mortal)
            self._open.append(conn)
            return conn

        return connect

    async def _live(self, work: Any, *args: Any, **kwargs: Any) -> Any:
        if self.is_dead:
            raise Death
        try:
            answer = await work(*args, **kwargs)
        except AttributeError:  # asyncpg's, of a connection that was ended between two steps of a statement
            if self.is_dead:
                raise Death from None
            raise
        self.count += 1
        if self.count == self._last:
            self.is_dead = True
            for conn in self._open:
                conn.terminate()
            raise Death
        return answer
