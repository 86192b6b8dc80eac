"""What do people use today? Each peer as its documentation says, at its best: warm, prepared, no limits in its way."""

from __future__ import annotations

import asyncio
from typing import Final

import asyncpg
import psycopg
import psycopg_pool

from benchmarks.world import SELECT, TASKS, World, item, row_tenant

__all__ = ["ByHand", "PlainPool", "PsycopgPool", "RawConnections", "TransactionPool", "TransactionsOfPool"]

_PSYCOPG_SELECT: Final = SELECT.replace("$1", "%s")


class RawConnections:
    """The floor: each task has a connection of its own, nothing is leased or reset."""

    def __init__(self, world: World) -> None:
        self.name = "asyncpg, a connection per task"
        self.tasks = TASKS
        self._world = world
        self._connections: list[asyncpg.Connection] = []

    async def open(self, size: int) -> None:
        """As many tasks as connections."""
        self.tasks = size
        for _ in range(size):
            self._connections.append(await asyncpg.connect(**self._world.app("bench_database")))

    async def call(self, task: int, number: int) -> object:
        """One select."""
        return await self._connections[task].fetchrow(SELECT, item(number))

    async def close(self) -> None:
        """Close them all."""
        for connection in self._connections:
            await connection.close()


class PlainPool:
    """asyncpg.Pool with its default reset."""

    def __init__(self, world: World) -> None:
        self.name = "asyncpg.Pool, default reset"
        self.tasks = TASKS
        self._world = world
        self._pool: asyncpg.Pool | None = None

    async def open(self, size: int) -> None:
        """One pool of one database."""
        self._pool = await asyncpg.create_pool(**self._world.app("bench_database"), min_size=size, max_size=size)

    async def call(self, task: int, number: int) -> object:
        """Acquire, select, reset on release."""
        assert self._pool is not None
        return await self._pool.fetchrow(SELECT, item(number))

    async def close(self) -> None:
        """Close the pool."""
        if self._pool is not None:
            await self._pool.close()


class TransactionsOfPool(PlainPool):
    """asyncpg.Pool and a transaction for each call."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.name = "asyncpg.Pool, a transaction each"

    async def call(self, task: int, number: int) -> object:
        """Acquire, begin, select, commit, reset on release."""
        assert self._pool is not None
        async with self._pool.acquire() as connection, connection.transaction():
            return await connection.fetchrow(SELECT, item(number))


class TransactionPool:
    """asyncpg.Pool, a transaction and set_config(..., true): row isolation as people write it, 20 tenants in turns."""

    def __init__(self, world: World) -> None:
        self.name = "asyncpg.Pool + transaction + set_config"
        self.tasks = TASKS
        self._world = world
        self._pool: asyncpg.Pool | None = None

    async def open(self, size: int) -> None:
        """One pool of the shared database with the plain policy."""
        self._pool = await asyncpg.create_pool(**self._world.app("bench_plain"), min_size=size, max_size=size)

    async def call(self, task: int, number: int) -> object:
        """Acquire, begin, set, select, commit, reset on release."""
        assert self._pool is not None
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.fetchval("select set_config('app.current_tenant_id', $1, true)", row_tenant(number))
            return await connection.fetchrow(SELECT, item(number))

    async def close(self) -> None:
        """Close the pool."""
        if self._pool is not None:
            await self._pool.close()


class PsycopgPool:
    """psycopg_pool.AsyncConnectionPool: autocommit, prepared at the first use; it resets nothing but a transaction."""

    def __init__(self, world: World) -> None:
        self.name = "psycopg_pool, autocommit"
        self.tasks = TASKS
        self._world = world
        self._pool: psycopg_pool.AsyncConnectionPool[psycopg.AsyncConnection[tuple[object, ...]]] | None = None

    async def open(self, size: int) -> None:
        """One pool of one database."""
        args = self._world.app("bench_database")
        conninfo = psycopg.conninfo.make_conninfo(
            host=args["host"], port=args["port"], dbname=args["database"], user=args["user"], password=args["password"]
        )
        options = {"autocommit": True, "prepare_threshold": 0}
        self._pool = psycopg_pool.AsyncConnectionPool(
            conninfo, kwargs=options, min_size=size, max_size=size, open=False
        )
        await self._pool.open(wait=True)

    async def call(self, task: int, number: int) -> object:
        """Borrow, select, give back."""
        assert self._pool is not None
        async with self._pool.connection() as connection:
            cursor = await connection.execute(_PSYCOPG_SELECT, (item(number),))
            return await cursor.fetchone()

    async def close(self) -> None:
        """Close the pool."""
        if self._pool is not None:
            await self._pool.close()


class ByHand:
    """A dict of asyncpg pools, made under a lock at first use: database tenants as people write them."""

    def __init__(self, world: World) -> None:
        self.name = "dict of asyncpg pools"
        self.tasks = TASKS
        self._world = world
        self._size = 0
        self._pools: dict[str, asyncpg.Pool] = {}
        self._lock = asyncio.Lock()

    async def open(self, size: int) -> None:
        """The pool of the one tenant that is measured."""
        self._size = size
        await self._pool("bench_database")

    async def _pool(self, tenant: str) -> asyncpg.Pool:
        async with self._lock:
            pool = self._pools.get(tenant)
            if pool is None:
                args = self._world.app(tenant)
                pool = self._pools[tenant] = await asyncpg.create_pool(**args, min_size=self._size, max_size=self._size)
            return pool

    async def call(self, task: int, number: int) -> object:
        """Find the tenant's pool, acquire, select, reset on release."""
        pool = await self._pool("bench_database")
        async with pool.acquire() as connection:
            return await connection.fetchrow(SELECT, item(number))

    async def close(self) -> None:
        """Close the pools."""
        for pool in self._pools.values():
            await pool.close()
