"""What do the single steps cost? A lookup with its plan, a cold tenant, an eviction."""

from __future__ import annotations

import itertools
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Final

import asyncpg

from benchmarks.measure import Spread
from benchmarks.ours import row_entries
from benchmarks.part import Options, Part
from benchmarks.table import at_most, render, spread
from benchmarks.world import SELECT, World
from tenantproxy import Router
from tenantproxy.isolation.base import Plan
from tenantproxy.isolation.database import DatabasePlan
from tenantproxy.isolation.row import RowPlan
from tenantproxy.isolation.schema import SchemaPlan
from tenantproxy.model import Isolation, tenant_id

__all__ = ["run"]

LOOKUPS: Final = 20_000
COLD: Final = 40
KEPT_POOLS: Final = 4
LOOKUP_LIMIT_US: Final = 15.0

_PLANS: Final[Mapping[Isolation, Plan]] = {
    Isolation.DATABASE: DatabasePlan(),
    Isolation.SCHEMA: SchemaPlan(),
    Isolation.ROW: RowPlan(),
}


async def run(world: World, options: Options) -> Part:
    """Each of them `rounds` times or for some dozens of tenants; medians."""
    names = [f"cold_{number:02}" for number in range(max(8, round(COLD * options.scale)))]
    await world.add_databases(names)
    lookups = Spread.of([await _lookup(world) for _ in range(options.rounds)])
    cold = await _cold(world, names)
    rows = [
        ("cached lookup + plan", f"{spread(lookups)} us"),
        ("asyncpg.connect + select", f"{spread(cold['bare'])} ms"),
        ("ours, first select of a cold tenant", f"{spread(cold['cold'])} ms"),
        ("the same, evicting another pool", f"{spread(cold['evicting'])} ms"),
        ("an eviction adds", f"{spread(cold['eviction'])} ms"),
    ]
    data = {"lookup_us": asdict(lookups), **{f"{what}_ms": asdict(value) for what, value in cold.items()}}
    verdicts = (at_most("cached lookup + plan", LOOKUP_LIMIT_US, lookups, "us"),)
    return Part(title="Single steps", text=render(("", "median [p25-p75]"), rows), data=data, verdicts=verdicts)


async def _lookup(world: World) -> float:
    """Microseconds for one of the three kinds in turns, without a connection."""
    entries = row_entries("bench_signed") | {
        "own": {"isolation": "database", "database": "bench_database"},
        "first": {"isolation": "schema", "database": "bench_schemas", "schema": "first"},
    }
    names = list(entries)
    async with Router(world.settings(entries)) as router:
        registry = router.registry
        for name in names:
            await registry.get(tenant_id(name))
        start = time.perf_counter()
        for name in itertools.islice(itertools.cycle(names), LOOKUPS):
            tenant = await registry.get(tenant_id(name))
            _PLANS[tenant.placement.isolation].plan(tenant)
        return (time.perf_counter() - start) / LOOKUPS * 1e6


async def _cold(world: World, names: Sequence[str]) -> dict[str, Spread]:
    """Milliseconds until the first row: bare, ours, and ours where a pool has to go, database by database.

    The first connection to a database fills its caches for all that follow, so one that is not timed goes ahead; then
    the three take the first place in turns.
    """
    entries = {name: {"isolation": "database", "database": name} for name in names}
    taken: dict[str, list[float]] = {"bare": [], "cold": [], "evicting": []}
    roomy = Router(world.settings(entries, budget=len(names) + 10, max_pools=len(names) + 1))
    narrow = Router(world.settings(entries, budget=len(names) + 10, max_pools=KEPT_POOLS))
    async with roomy, narrow:
        calls: dict[str, Callable[[str], Awaitable[object]]] = {
            "bare": lambda name: _bare(world, name),
            "cold": lambda name: roomy.tenant(name).fetchrow(SELECT, 1),
            "evicting": lambda name: narrow.tenant(name).fetchrow(SELECT, 1),
        }
        for number, name in enumerate(names):
            await _bare(world, name)
            order = [*calls][number % 3 :] + [*calls][: number % 3]
            for what in order:
                start = time.perf_counter()
                await calls[what](name)
                taken[what].append((time.perf_counter() - start) * 1e3)
        evicted = sum(narrow.stats().evicted.values())
    if evicted < len(names) - KEPT_POOLS - 1:
        raise AssertionError(f"only {evicted} pools were evicted: this does not measure evictions")
    pairs = zip(taken["evicting"][KEPT_POOLS:], taken["cold"][KEPT_POOLS:], strict=True)
    found = {what: Spread.of(values[KEPT_POOLS:]) for what, values in taken.items()}
    return found | {"eviction": Spread.of(evicting - cold for evicting, cold in pairs)}


async def _bare(world: World, name: str) -> None:
    """Closed without waiting: ours does not close in the time that is measured either."""
    connection = await asyncpg.connect(**world.app(name))
    try:
        await connection.fetchrow(SELECT, 1)
    finally:
        connection.terminate()
