"""What do the single steps cost? A lookup with its plan, a cold tenant, an eviction."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence
from typing import Final

import asyncpg

from benchmarks.measure import Spread
from benchmarks.ours import row_entries
from benchmarks.part import Options, Part
from benchmarks.table import at_most, figure, render, spread
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
    connects, firsts = await _cold(world, names)
    evicting = await _evicting(world, names)
    rows = [
        ("cached lookup + plan", f"{spread(lookups)} us"),
        ("asyncpg.connect + select", f"{spread(connects)} ms"),
        ("ours, first select of a cold tenant", f"{spread(firsts)} ms"),
        ("the same, evicting another pool", f"{spread(evicting)} ms"),
        ("an eviction costs", figure(evicting.median - firsts.median, "ms")),
    ]
    data = {
        "lookup_us": lookups.median,
        "connect_ms": connects.median,
        "cold_ms": firsts.median,
        "cold_evicting_ms": evicting.median,
    }
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


async def _cold(world: World, names: Sequence[str]) -> tuple[Spread, Spread]:
    """Milliseconds of a bare connect with a select, and of our first select, database by database in turns."""
    connects, firsts = [], []
    entries = {name: {"isolation": "database", "database": name} for name in names}
    async with Router(world.settings(entries, budget=len(names) + 10, max_pools=len(names))) as router:
        for name in names:
            start = time.perf_counter()
            connection = await asyncpg.connect(**world.app(name))
            await connection.fetchrow(SELECT, 1)
            connects.append((time.perf_counter() - start) * 1e3)
            await connection.close()
            start = time.perf_counter()
            await router.tenant(name).fetchrow(SELECT, 1)
            firsts.append((time.perf_counter() - start) * 1e3)
    return Spread.of(connects), Spread.of(firsts)


async def _evicting(world: World, names: Sequence[str]) -> Spread:
    """Milliseconds of a first select that has to close the least recently used pool."""
    taken = []
    entries = {name: {"isolation": "database", "database": name} for name in names}
    async with Router(world.settings(entries, budget=len(names) + 10, max_pools=KEPT_POOLS)) as router:
        for name in names:
            start = time.perf_counter()
            await router.tenant(name).fetchrow(SELECT, 1)
            taken.append((time.perf_counter() - start) * 1e3)
        evicted = sum(router.stats().evicted.values())
        if evicted < len(names) - KEPT_POOLS - 1:
            raise AssertionError(f"only {evicted} pools were evicted: this does not measure evictions")
    return Spread.of(taken[KEPT_POOLS:])
