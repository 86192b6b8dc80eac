"""What do others notice of a tenant that floods a shared pool with slow queries?"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Final

import asyncpg

from benchmarks.measure import Spread, percentile
from benchmarks.ours import row_entries
from benchmarks.part import Options, Part
from benchmarks.table import Verdict, figure, render, spread, trust
from benchmarks.world import ROW_TENANTS, SELECT, World, item
from tenantproxy import Router

__all__ = ["run"]

NOISY_QUERIES: Final = 200
SLOW: Final = "select pg_sleep(0.05)"
POOL: Final = 20
THINK_SECONDS: Final = 0.01  # between a polite task's calls
ALLOWED_FACTOR, ALLOWED_MS = 1.5, 5.0

Call = Callable[[str, str, tuple[object, ...]], Awaitable[object]]


async def run(world: World, options: Options) -> Part:
    """The others' p99 alone and during the flood, in turns; ours, and a plain pool for comparison."""
    entries = row_entries("bench_signed") | {"noisy": {"isolation": "row", "database": "bench_signed"}}
    settings = world.settings(
        entries, budget=60, max_size=10, shared_size=POOL, max_waiting=2 * NOISY_QUERIES, acquire_timeout=30.0
    )
    figures: dict[str, dict[str, list[float]]] = {}
    async with AsyncExitStack() as stack:
        router = await stack.enter_async_context(Router(settings))
        pool = await stack.enter_async_context(
            asyncpg.create_pool(**world.app("bench_plain"), min_size=POOL, max_size=POOL)
        )
        subjects = {"ours": _through(router), "asyncpg.Pool": _through_pool(pool)}
        for name in subjects:
            figures[name] = {"alone": [], "during": []}
        for _ in range(options.rounds):
            for name, call in subjects.items():
                figures[name]["alone"].append(await _polite_p99(call, options.seconds))
                figures[name]["during"].append(await _during_noise(call, options.seconds))
    return _part(figures)


def _through(router: Router) -> Call:
    async def call(tenant: str, sql: str, args: tuple[object, ...]) -> object:
        return await router.tenant(tenant).fetchrow(sql, *args)

    return call


def _through_pool(pool: asyncpg.Pool) -> Call:
    async def call(tenant: str, sql: str, args: tuple[object, ...]) -> object:
        async with pool.acquire() as connection, connection.transaction():
            await connection.fetchval("select set_config('app.current_tenant_id', $1, true)", tenant)
            return await connection.fetchrow(sql, *args)

    return call


async def _polite_p99(call: Call, seconds: float) -> float:
    """In milliseconds, of all calls of one polite task for each of the twenty tenants."""
    taken: list[float] = []
    gc.collect()
    until = time.perf_counter() + seconds

    async def client(tenant: str) -> None:
        number = 0
        while (before := time.perf_counter()) < until:
            await call(tenant, SELECT, (item(number),))
            taken.append(time.perf_counter() - before)
            number += 1
            await asyncio.sleep(THINK_SECONDS)

    async with asyncio.TaskGroup() as group:
        for tenant in ROW_TENANTS:
            group.create_task(client(tenant))
    return percentile(taken, 99) * 1e3


async def _during_noise(call: Call, seconds: float) -> float:
    over = asyncio.Event()
    begun = asyncio.Event()

    async def flood() -> None:
        while not over.is_set():
            await call("noisy", SLOW, ())
            begun.set()

    async with asyncio.TaskGroup() as group:
        for _ in range(NOISY_QUERIES):
            group.create_task(flood())
        await begun.wait()
        p99 = await _polite_p99(call, seconds)
        over.set()
    return p99


def _part(figures: dict[str, dict[str, list[float]]]) -> Part:
    rows = []
    for name, series in figures.items():
        rows.append((name, spread(Spread.of(series["alone"])), spread(Spread.of(series["during"]))))
    alone, during = (Spread.of(figures["ours"][key]) for key in ("alone", "during"))
    allowed = ALLOWED_FACTOR * alone.median + ALLOWED_MS
    verdict = Verdict(
        target=f"fairness: p99 of 20 others during {NOISY_QUERIES} slow queries of one tenant",
        wanted=f"<= {ALLOWED_FACTOR}x alone + {ALLOWED_MS:g} ms = {figure(allowed)} ms",
        measured=f"{spread(during)} ms",
        met=during.median <= allowed,
    )
    head = ("a shared pool of 20", "others' p99 alone, ms", f"during {NOISY_QUERIES} slow queries, ms")
    steady = alone.p75 / alone.p25
    # The limit is made from the p99 alone: noise there would raise it until anything is fair.
    control = Verdict(
        target="fairness: control: the p99 alone stays the same",
        wanted="p75 <= 2x p25, median <= 5 ms",
        measured=f"{steady:.1f}x, {figure(alone.median)} ms",
        met=steady <= 2.0 and alone.median <= 5.0,
        control=True,
    )
    return Part(title="Fairness", text=render(head, rows), data=dict(figures), verdicts=trust([verdict, control]))
