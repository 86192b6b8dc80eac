"""What does an idle client weigh? Thousands that logged in and ran one query each, in memory of the proxy."""

from __future__ import annotations

import asyncio
from typing import Final

from benchmarks.part import Options, Part
from benchmarks.pg_client import Client, connect
from benchmarks.pg_process import allow_many_files, memory_bytes
from benchmarks.pg_targets import OURS, Target, open_targets
from benchmarks.pg_world import DATABASE, PgWorld
from benchmarks.table import at_most, figure, render

__all__ = ["run"]

CLIENTS: Final = 5000
_FIRST: Final = 20  # they fill pools and caches, and are not weighed
_AT_ONCE: Final = 50
_LIMIT_KB: Final = 1.5
_SPARE_FILES: Final = 500
_SETTLE_SECONDS: Final = 1.0  # a proxy may give back buffers a while after the last answer


async def run(world: PgWorld, options: Options) -> Part:
    """Weighed once, in a fresh process: what it freed before would hide what it takes now."""
    count = min(max(100, round(CLIENTS * options.scale)), allow_many_files() - _SPARE_FILES)
    weights: dict[str, float] = {}
    totals: dict[str, int] = {}
    async with open_targets(world) as targets:
        for target in targets.proxies:
            weights[target.name], totals[target.name] = await _weigh(target, count)
    rows = [(name, figure(weights[name] / 1024, "KB"), figure(totals[name] / 2**20, "MB")) for name in weights]
    return Part(
        title=f"{count:,} idle clients (resident memory of the proxy)",
        text=render(("", "for each client", "the whole process"), rows),
        data={"clients": count, "bytes_each": weights, "bytes_in_all": totals},
        verdicts=(at_most("an idle client's memory", _LIMIT_KB, weights[OURS] / 1024, "KB"),),
    )


async def _weigh(target: Target, count: int) -> tuple[float, int]:
    """Bytes for each client, and of the whole process with all of them."""
    assert target.pid is not None
    clients = await _arrive(target, _FIRST)
    await asyncio.sleep(_SETTLE_SECONDS)
    before = memory_bytes(target.pid)
    try:
        clients += await _arrive(target, count)
        await asyncio.sleep(_SETTLE_SECONDS)
        after = memory_bytes(target.pid)
        return (after - before) / count, after
    finally:
        for client in clients:
            client.close()


async def _arrive(target: Target, count: int) -> list[Client]:
    turns = asyncio.Semaphore(_AT_ONCE)

    async def one() -> Client:
        async with turns:
            client = await connect(target, DATABASE)
            await client.run("SELECT 1")
            return client

    return await asyncio.gather(*(one() for _ in range(count)))
