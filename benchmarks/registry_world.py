"""Whom does the registry know? Thousands of row tenants of one database, and hundreds with a schema, on one server."""

from __future__ import annotations

import asyncio
import gc
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import asyncpg

from tenantproxy.config import Settings
from tenantproxy.embedded import EmbeddedPostgres
from tenantproxy.isolation.proof import derive_key
from tenantproxy.lifecycle import install_auth, install_registry
from tenantproxy.lifecycle.provisioner import close_database, ensure_database, ensure_role, provision_shared

__all__ = ["COUNT", "Holds", "RegistryWorld", "open_registry_world", "row_name", "schema_name"]

COUNT: Final = "select count(*) from projects"
_ROLE: Final = "bench_app"
_SERVER: Final = "primary"
_BUDGET: Final = 120
_MAIN, _SHARED = "bench_main", "bench_shared"
_PROJECTS: Final = "create table projects (tenant_id text not null, id bigint, name text, primary key (tenant_id, id))"


def row_name(number: int) -> str:
    """A tenant of the shared database."""
    return f"row{number:05}"


def schema_name(number: int) -> str:
    """A tenant with a schema, and so with a pool to itself."""
    return f"schema{number:04}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryWorld:
    """The running server."""

    server: EmbeddedPostgres
    rows: int
    schemas: int
    password: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)
    secret: str = field(default_factory=lambda: secrets.token_urlsafe(48), repr=False)

    def settings(self, **changes: Mapping[str, Any]) -> Settings:
        """The configuration that `mapping` makes."""
        return Settings.from_mapping(self.mapping(**changes))

    def mapping(self, **changes: Mapping[str, Any]) -> dict[str, Any]:
        """Limits of waiting as they are by default; callers are patient, since the machine is small."""
        server = {"host": self.server.host, "port": self.server.port, "user": _ROLE, "password": self.password}
        mapping: dict[str, Any] = {
            "main": {"server": _SERVER, "database": _MAIN},
            "servers": {_SERVER: server | {"ssl": "disable", "max_connections": _BUDGET}},
            "registry": {"source": "postgres", "cache_ttl": 3600.0},
            "row": {"key": self.secret},
            "pools": {"acquire_timeout": 600.0, "max_pools": 10_000},
            "http": {"listen": "127.0.0.1:0"},
            "admin": {"listen": "127.0.0.1:0"},
        }
        for section, keys in changes.items():
            mapping[section] = mapping.get(section, {}) | dict(keys)
        return mapping

    async def admin(self, database: str = "postgres") -> asyncpg.Connection:
        """A superuser's connection; the caller closes it."""
        return await asyncpg.connect(**self.server.connect_args(database))

    @asynccontextmanager
    async def main(self) -> AsyncIterator[asyncpg.Connection]:
        """A superuser's connection to the main database."""
        conn = await self.admin(_MAIN)
        try:
            yield conn
        finally:
            await conn.close()


@asynccontextmanager
async def open_registry_world(*, rows: int, schemas: int, version: int | None = None) -> AsyncIterator[RegistryWorld]:
    """The server with these tenants; gone with everything on it when the block ends."""
    async with EmbeddedPostgres(version=version, max_connections=2 * _BUDGET, durable=False) as server:
        world = RegistryWorld(server=server, rows=rows, schemas=schemas)
        conn = await world.admin()
        try:
            await ensure_role(conn, _ROLE, password=world.password)
            await ensure_database(conn, _MAIN)
            await close_database(conn, _MAIN, roles=[_ROLE])
        finally:
            await conn.close()
        key = derive_key(world.secret.encode(), server=_SERVER, database=_SHARED, kid=1)
        await provision_shared(
            world.admin, database=_SHARED, role=_ROLE, keys={1: key}, tables=["projects"], statements=[_PROJECTS]
        )
        async with world.main() as main:
            await install_registry(main, app_role=_ROLE)
            await install_auth(main, app_role=_ROLE)
            await main.execute(
                "insert into tenantproxy.tenants (id, isolation, database)"
                " select id, 'row', $2 from unnest($1::text[]) id",
                [row_name(number) for number in range(rows)], _SHARED,
            )  # fmt: skip
            await main.execute(
                "insert into tenantproxy.tenants (id, isolation, database, schema)"
                " select id, 'schema', $2, id from unnest($1::text[]) id",
                [schema_name(number) for number in range(schemas)], _SHARED,
            )  # fmt: skip
            await main.execute("vacuum analyze tenantproxy.tenants")
        shared = await world.admin(_SHARED)
        try:
            for number in range(schemas):
                name = schema_name(number)
                await shared.execute(f"create schema {name}; grant usage on schema {name} to {_ROLE}")
        finally:
            await shared.close()
        yield world


class Holds:
    """How long was the event loop held at most, in milliseconds? Runs in each turn of the loop while its block does.

    `longest_ms` is of this thread's own processor time, which counts on a machine that others use: they hold everything
    for longer than we do. `longest_wall_ms` is of the clock. Both without the garbage collector, which is told apart:
    `collection_ms` of a full collection when the block was over. `collects`: with it, as it comes.
    """

    def __init__(self, *, collects: bool = False) -> None:
        self._collects = collects
        self.longest_ms = 0.0
        self.longest_wall_ms = 0.0
        self.collection_ms = 0.0
        self._last = (0.0, 0.0)
        self._is_running = False

    def __enter__(self) -> Holds:
        gc.collect()
        if not self._collects:
            gc.disable()
        self._is_running = True
        self._last = time.thread_time(), time.perf_counter()
        asyncio.get_running_loop().call_soon(self._turn)
        return self

    def __exit__(self, *_: object) -> None:
        self._is_running = False
        gc.enable()
        started = time.thread_time()
        gc.collect()
        self.collection_ms = (time.thread_time() - started) * 1e3

    def _turn(self) -> None:
        if self._is_running:
            (own, wall), self._last = self._last, (time.thread_time(), time.perf_counter())
            self.longest_ms = max(self.longest_ms, (self._last[0] - own) * 1e3)
            self.longest_wall_ms = max(self.longest_wall_ms, (self._last[1] - wall) * 1e3)
            asyncio.get_running_loop().call_soon(self._turn)
