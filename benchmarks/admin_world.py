"""What is looked at? A sidecar with 500 open pools, of which 100 tenants are at work at a steady pace."""

from __future__ import annotations

import asyncio
import json
import secrets
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from benchmarks.pg_client import Client, connect
from benchmarks.pg_targets import Target
from benchmarks.probed import Probed, probed, toml_text
from benchmarks.registry_world import RegistryWorld, open_registry_world, schema_name

__all__ = ["NAMED", "PACE", "POOLS", "AdminWorld", "open_admin_world"]

POOLS: Final = 500
NAMED: Final = 100
PACE: Final = 300.0  # statements a second, of all tenants at work together
_USER: Final = "bench"
_AT_ONCE: Final = 20
_MAX_CLIENTS: Final = 12_000
_LATE_SECONDS: Final = 5.0


@dataclass(slots=True)
class AdminWorld:
    """The sidecar, and who works. `workers`: a client for each tenant that is named."""

    registry: RegistryWorld
    sidecar: Probed
    target: Target
    workers: list[Client] = field(default_factory=list)
    asked: int = 0

    async def client(self, number: int) -> Client:
        """One more client of tenant `number`; the caller closes it."""
        return await connect(self.target, schema_name(number))

    async def pools(self) -> int:
        """How many are open, the main one left out."""
        async with self.sidecar.http.get(f"{self.sidecar.admin}/v1/pools") as response:
            found = json.loads(await response.read())["pools"]
        return len([each for each in found if "/" not in each["label"]])

    @asynccontextmanager
    async def at_work(self, pace: float = PACE) -> AsyncIterator[None]:
        """The tenants that are named work for the block: one statement after the other, in turn."""
        working = asyncio.create_task(self._work(pace))
        try:
            yield
        finally:
            ended = working.done()
            working.cancel()
            await asyncio.wait([working])
            if ended:
                working.result()

    async def _work(self, pace: float) -> None:
        began, count = time.perf_counter(), 0
        while True:
            due = min(int((time.perf_counter() - began) * pace), count + len(self.workers))
            turns = [self.workers[number % len(self.workers)] for number in range(count, due)]
            async with asyncio.timeout(_LATE_SECONDS):
                await asyncio.gather(*(each.run("select 1") for each in turns))
            count = due
            self.asked += len(turns)
            await asyncio.sleep(0.01)


async def _opened(world: AdminWorld, pools: int, named: int) -> None:
    """Every tenant has asked once and so has a pool; those that work stay."""
    turns = asyncio.Semaphore(_AT_ONCE)

    async def one(number: int) -> Client:
        async with turns:
            client = await world.client(number)
            await client.run("select 1")
            return client

    clients = await asyncio.gather(*(one(number) for number in reversed(range(pools))))
    world.workers, others = clients[-named:], clients[:-named]
    for client in others:
        client.close()
    if (found := await world.pools()) < pools:
        raise RuntimeError(f"{found} pools are open and not {pools}")


@asynccontextmanager
async def open_admin_world(*, pools: int, named: int, version: int | None = None) -> AsyncIterator[AdminWorld]:
    """The server, the sidecar, its tenants; gone with everything when the block ends."""
    password = secrets.token_urlsafe(24)
    async with open_registry_world(rows=100, schemas=pools, version=version) as registry:
        mapping = registry.mapping(
            metrics={"max_tenants": named},
            pg={
                "listen": "127.0.0.1:0", "max_clients": _MAX_CLIENTS, "max_clients_per_tenant": 0,
                "users": {_USER: {"password": password, "tenants": "*"}},
            },
        )  # fmt: skip
        with tempfile.TemporaryDirectory(prefix="tenantproxy-bench-") as folder:
            config = Path(folder) / "tenantproxy.toml"
            config.touch(mode=0o600)
            config.write_text(toml_text(mapping))
            async with probed(config, Path(folder) / "log") as sidecar:
                target = Target(name="ours", port=sidecar.pg_port, user=_USER, password=password, pid=sidecar.pid)
                world = AdminWorld(registry=registry, sidecar=sidecar, target=target)
                await _opened(world, pools, named)
                try:
                    yield world
                finally:
                    for client in world.workers:
                        client.close()
