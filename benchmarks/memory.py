"""What do ten thousand tenants weigh, registered and with an open pool each? And what does evicting one take?"""

from __future__ import annotations

import gc
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from benchmarks.measure import Spread
from benchmarks.part import Options, Part
from benchmarks.table import at_most, figure, render, spread
from benchmarks.world import World
from tenantproxy.config import Pools
from tenantproxy.errors import LeaseExpired, TenantProxyError
from tenantproxy.events import ignore
from tenantproxy.isolation.schema import SchemaPlan
from tenantproxy.model import Isolation, Placement, Route, Tenant, tenant_id
from tenantproxy.pools.budget import ServerBudget
from tenantproxy.pools.counters import Counters
from tenantproxy.pools.manager import PoolManager
from tenantproxy.pools.pool import Pool
from tenantproxy.registry import CachedRegistry, MemoryRegistry

__all__ = ["run"]

TENANTS: Final = 10_000
EVICTIONS: Final = 200
TENANT_LIMIT_KB, POOL_LIMIT_KB = 2.0, 4.0


class Link:
    """A connection in name only: the pools' own weight is measured, not a driver's."""

    __slots__ = ()


class Links:
    """Opens and ends links at once, as the pools' rules ask: answers come later, when `answer` is called."""

    def __init__(self) -> None:
        self._due: list[Callable[[], object]] = []

    def open(self, pool: Pool[Link]) -> None:
        """A link for `pool`."""
        self._due.append(lambda: pool.opened(Link()))

    def retire(self, pool: Pool[Link], conn: Link) -> None:
        """The end of `conn`."""
        self._due.append(lambda: pool.retired(conn))

    def expire(self, conn: Link, error: LeaseExpired) -> None:
        """See `pool.Connector`."""

    @property
    def reset(self) -> None:
        """See `pool.Connector`."""
        return None

    def is_usable(self, conn: Link) -> bool:
        """Always."""
        return True

    def later(self, delay: float, call: Callable[[], None]) -> None:
        """Nothing fails here, so nothing is tried again."""
        raise AssertionError("no connect fails in this benchmark")

    def answer(self) -> None:
        """Give every answer that is due."""
        while self._due:
            self._due.pop()()


@dataclass(slots=True)
class Taker:
    """Takes the one link it is offered."""

    conn: Link | None = None

    def offer(self, conn: Link, /) -> bool:
        """Take it."""
        self.conn = conn
        return True

    def fail(self, error: TenantProxyError, /) -> None:
        """Cannot be."""
        raise error


async def run(world: World, options: Options) -> Part:
    """Weighed once (it does not vary), timed in rounds."""
    count = max(100, round(TENANTS * options.scale))
    per_tenant = await _registered(count)
    now = [0.0]
    links = Links()
    manager = _manager(links, lambda: now[0], count)
    routes = [SchemaPlan().plan(_tenant(number)) for number in range(count)]
    per_pool = _weigh(lambda: _open_pools(manager, links, routes, now)) / count
    if len(manager) != count or not all(pool.is_empty for pool in manager):
        raise AssertionError("every tenant should have an open pool without a connection now")
    evictions = Spread.of([_evict(manager, count + number * EVICTIONS) for number in range(options.rounds)])
    rows = [
        ("a registered tenant with its cache entry", figure(per_tenant / 1024, "KB")),
        ("an open pool, used before, without connections", figure(per_pool / 1024, "KB")),
        (f"opening a pool that evicts one of {count:,}, no I/O", f"{spread(evictions)} us"),
    ]
    return Part(
        title=f"Memory at {count:,} tenants (tracemalloc)",
        text=render(("", "measured"), rows),
        data={"tenant_bytes": per_tenant, "pool_bytes": per_pool, "eviction_us": evictions.median},
        verdicts=(
            at_most("a registered tenant with its cache entry", TENANT_LIMIT_KB, per_tenant / 1024, "KB"),
            at_most("an open pool without connections", POOL_LIMIT_KB, per_pool / 1024, "KB"),
        ),
    )


def _tenant(number: int) -> Tenant:
    """Its strings are its own, as those of a row read from a registry are."""
    name = tenant_id(f"tenant_{number:06}")
    placement = Placement(
        isolation=Isolation.SCHEMA, server="primary", database=f"database_{number % 10}", schema=f"schema_{number:06}"
    )
    return Tenant(id=name, placement=placement)


async def _registered(count: int) -> float:
    """Bytes per tenant of a registry and its cache, after every tenant was looked up once."""
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        cached = CachedRegistry(MemoryRegistry(_tenant(number) for number in range(count)))
        for number in range(count):
            await cached.get(tenant_id(f"tenant_{number:06}"))
        gc.collect()
        weight = tracemalloc.get_traced_memory()[0] - before
        await cached.close()
    finally:
        tracemalloc.stop()
    return weight / count


def _weigh(build: Callable[[], None]) -> float:
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        build()
        gc.collect()
        return tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()


def _manager(links: Links, clock: Callable[[], float], count: int) -> PoolManager[Link]:
    budget = ServerBudget("primary", limit=count + 10, clock=clock, observer=ignore)
    return PoolManager(
        budgets={"primary": budget},
        settings=Pools(max_pools=count, idle_timeout=600.0),
        connector=links,
        clock=clock,
        observer=ignore,
        counters=Counters(max_tenants=100),
    )


def _open_pools(manager: PoolManager[Link], links: Links, routes: list[Route], now: list[float]) -> None:
    """Each pool lends a connection once; then all connections are closed, the pools stay."""
    for number, route in enumerate(routes):
        now[0] = number * 1e-3
        taker = Taker()
        pool = manager.pool(route)
        pool.wait(route.tenant, route.limits, taker)
        links.answer()
        assert taker.conn is not None
        pool.ready(taker.conn, None)
    for pool in manager:
        pool.expire()
    links.answer()


def _evict(manager: PoolManager[Link], first: int) -> float:
    """Microseconds for one pool that is opened in the place of the least recently used one."""
    routes = [SchemaPlan().plan(_tenant(first + number)) for number in range(EVICTIONS)]
    start = time.perf_counter()
    for route in routes:
        manager.pool(route)
    return (time.perf_counter() - start) / EVICTIONS * 1e6
