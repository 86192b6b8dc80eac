"""Which pools are open? An LRU-bounded set of them under one budget per server.

Synchronous as `Pool` is. Pools come by `pool`, and go by LRU, by idleness, by `remove` and by `close`; a pool that is
gone never comes back, its key gets a new one.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from heapq import nsmallest
from typing import Any, Final, Generic, Protocol, TypeVar

from tenantproxy.errors import LeaseExpired, PoolClosed
from tenantproxy.events import (
    EvictReason,
    Observer,
    OpenReason,
    PoolEvicted,
    PoolOpened,
)
from tenantproxy.model import Isolation, Limits, PoolKey, Route, TenantId
from tenantproxy.pools.base import Clock
from tenantproxy.pools.budget import ServerBudget
from tenantproxy.pools.context import Connector, PoolContext, PoolSettings
from tenantproxy.pools.counters import Counters
from tenantproxy.pools.pool import Pool
from tenantproxy.pools.presence import Presence

__all__ = ["LivePoolSettings", "ManagerSettings", "PoolManager"]

C = TypeVar("C")

_MANY: Final = 200  # pools; to look through fewer costs nothing
_AT_ONCE: Final = 10  # pools evicted for one that opens
_BUSY_SECONDS: Final = 0.05
_REOPENED_MEMORY: Final = 10_000  # keys of evicted pools that are remembered, to tell `reopen` from `cold`


class ManagerSettings(PoolSettings, Protocol):
    """What the manager is told."""

    @property
    def max_pools(self) -> int:
        """Pools that may be open while they are not in use."""
        ...


class LivePoolSettings:
    """Settings of pools that can change while the pools are open; the same object for all managers of a router."""

    __slots__ = ("idle_timeout", "max_hold", "max_lifetime", "max_pools", "max_size", "max_waiting", "shared_size")

    def __init__(self, given: ManagerSettings) -> None:
        self.adopt(given)

    def adopt(self, given: ManagerSettings) -> None:
        """Be as `given` from now on; `PoolManager.refit` makes the open pools follow."""
        self.max_pools: int = given.max_pools
        self.max_size: int = given.max_size
        self.shared_size: int = given.shared_size
        self.max_waiting: int = given.max_waiting
        self.idle_timeout: float = given.idle_timeout
        self.max_lifetime: float = given.max_lifetime
        self.max_hold: float = given.max_hold


class PoolManager(Generic[C]):
    """All pools of a router."""

    def __init__(
        self,
        *,
        budgets: Mapping[str, ServerBudget],
        settings: ManagerSettings,
        connector: Connector[C],
        clock: Clock,
        observer: Observer,
        counters: Counters,
        family: list[PoolManager[Any]] | None = None,
    ) -> None:
        """`family`: the managers that share `max_pools`, a list of the router's; this one joins it until it closes."""
        self.budgets = budgets
        self.counters = counters
        self._settings = settings
        self._clock = clock
        self._observer = observer
        self.presence: Presence[C] = Presence()
        self._context = PoolContext(
            connector=connector,
            settings=settings,
            clock=clock,
            observer=observer,
            counters=counters,
            presence=self.presence,
        )
        self._pools: dict[PoolKey, Pool[C]] = {}
        self._own: dict[
            TenantId, dict[PoolKey, Limits]
        ] = {}  # pools that are one tenant's alone, and what it may there
        self._gone: list[Pool[C]] = []  # closed pools whose last connections are still ending
        self._seen: OrderedDict[PoolKey, None] = OrderedDict()  # keys of pools that were evicted
        self._main: Pool[C] | None = None
        self._main_size = 0  # as it was last asked for
        self._busy_until = 0.0  # until then all pools are in use, as far as is known
        self._reserved: dict[str, Pool[C]] = {}  # by server: one connection of the reserve each, to ask it something
        self._family: list[PoolManager[Any]] = [] if family is None else family
        self._family.append(self)
        self.is_closed = False

    def main(self, key: PoolKey, *, size: int) -> Pool[C]:
        """The pool of the main database: not counted, never evicted."""
        self._main_size = size
        if self._main is None or self._main.is_closed:
            self.counters.places.add(f"{key.server}/{key.database}")
            self._main = self._new(
                key, Isolation.DATABASE, label=f"{key.server}/{key.database}", limit=size, is_main=True
            )
        return self._main

    def reserved(self, key: PoolKey) -> Pool[C]:
        """The pool of one connection that may always be opened on a server without the main database.

        What it holds comes out of the reserve. Not counted, never evicted; ended by `drop_reserved`. `key` is used
        where that server has none yet.
        """
        pool = self._reserved.get(key.server)
        if pool is None:
            pool = self._new(key, Isolation.DATABASE, label=key.name, limit=1, is_main=True)
            self._reserved[key.server] = pool
        return pool

    def drop_reserved(self, server: str) -> None:
        """Close the pool that `reserved` made for `server`, if there is one."""
        pool = self._reserved.pop(server, None)
        if pool is not None:
            pool.close(PoolClosed("the pool was removed while waiting for it", retry_after=0.1), reason="evicted")
            self._let_end(pool)

    def pool(self, route: Route) -> Pool[C]:
        """The open pool of `route`, made if it is not open. Raises PoolClosed after `close`."""
        pool = self._pools.get(route.pool)
        return pool if pool is not None else self._open(route)

    def _open(self, route: Route) -> Pool[C]:
        key = route.pool
        label = key.name if key.shared else route.tenant
        limit = self._settings.shared_size if key.shared else self._own_limit(route.limits)
        pool = self._new(key, route.isolation, label=label, limit=limit)
        self._make_room(1)
        self._pools[key] = pool
        if key.shared:
            self.counters.note_place(label)
        else:
            self._own.setdefault(route.tenant, {})[key] = route.limits
        reason: OpenReason = "reopen" if key in self._seen else "cold"
        self.counters.opened[reason] += 1
        self._observer(PoolOpened(pool=label, reason=reason))
        return pool

    def _own_limit(self, limits: Limits) -> int:
        return limits.max_size or self._settings.max_size

    def _new(self, key: PoolKey, isolation: Isolation, *, label: str, limit: int, is_main: bool = False) -> Pool[C]:
        if self.is_closed:
            raise PoolClosed("the router is closed", hint="open it with `async with router:` or `await router.open()`")
        budget = self.budgets[key.server]
        return Pool(
            key,
            self._context,
            label=label,
            limit=min(limit, budget.most),
            budget=budget,
            isolation=isolation,
            is_main=is_main,
        )

    def _make_room(self, wanted: int) -> None:
        """Evict least recently used pools not in use until `wanted` more fit in; while all are busy, more are allowed.

        At most a few at once, the sweeper takes the others; with many pools that are all busy it is not looked for
        one at each opening.
        """
        count = sum(map(len, self._family))
        excess = count + wanted - self._settings.max_pools
        if excess <= 0 or (count > _MANY and self._clock() < self._busy_until):
            return
        victims = self._unused(min(excess, _AT_ONCE))
        for pool, manager in victims:
            manager._evict(pool, "lru")
        if not victims:
            self._busy_until = self._clock() + _BUSY_SECONDS

    def _unused(self, most: int) -> list[tuple[Pool[Any], PoolManager[Any]]]:
        """The least recently used pools of the family that are not in use, at most so many."""
        unused = ((pool, each) for each in self._family for pool in each._pools.values() if pool.is_quiet)
        return nsmallest(most, unused, key=lambda one: one[0].last_used)

    def _evict(self, pool: Pool[C], reason: EvictReason) -> None:
        del self._pools[pool.key]
        own = self._own.get(TenantId(pool.label))
        if own is not None and own.pop(pool.key, None) is not None and not own:
            del self._own[TenantId(pool.label)]
        self._seen[pool.key] = None
        if len(self._seen) > _REOPENED_MEMORY:
            self._seen.popitem(last=False)
        self.counters.evicted[reason] += 1
        pool.close(
            PoolClosed("the pool was removed while waiting for it", hint="try again", retry_after=0.1), reason="evicted"
        )
        self._let_end(pool)
        self._observer(PoolEvicted(pool=pool.label, reason=reason))

    def _let_end(self, pool: Pool[C]) -> None:
        """`pool` is closed: it is kept until its last connection has ended."""
        if pool.is_empty:
            pool.forget()
        else:
            self._gone.append(pool)

    def remove(self, tenant: TenantId, keys: Iterable[PoolKey]) -> None:
        """Close the pools of `keys` that are the tenant's alone; in shared ones nothing is its own."""
        for key in keys:
            pool = self._pools.get(key)
            if pool is not None and not key.shared and pool.label == tenant:
                self._evict(pool, "removed")

    def remove_server(self, server: str) -> None:
        """Close the pools of a server that is not configured any more: who waits in one is told, and looks again."""
        for pool in list(self._pools.values()):
            if pool.key.server == server:
                self._evict(pool, "removed")
        self.drop_reserved(server)

    def has_own(self, tenant: str) -> bool:
        """Whether there are pools that are the tenant's alone."""
        return tenant in self._own

    @property
    def owners(self) -> Iterable[TenantId]:
        """The tenants that have pools to themselves."""
        return self._own.keys()

    def of_tenant(self, tenant: TenantId) -> list[Pool[C]]:
        """The pools that are the tenant's alone."""
        return [self._pools[key] for key in self._own.get(tenant, ())]

    def fit(self, tenant: TenantId, limits: Limits, is_right: Callable[[PoolKey], bool]) -> None:
        """Make the tenant's own pools what it may have now: those of wrong keys close, the others get its limits."""
        for key, former in list(self._own.get(tenant, {}).items()):
            pool = self._pools[key]
            if not is_right(key):
                self._evict(pool, "removed")
            elif former != limits:
                self._own[tenant][key] = limits
                pool.resize(tenant, limits, min(self._own_limit(limits), pool.budget.most))

    def end_tenant(self, tenant: TenantId, error: LeaseExpired, *, keep: Callable[[PoolKey], bool]) -> None:
        """End what the tenant holds in any pool, and its waits; not in pools of keys to `keep`.

        Looks at the pools that it is in alone: one that no pool knows, as most unknown ones, costs one look.
        """
        for pool in self.presence.of(tenant):
            if not pool.is_main and not keep(pool.key):
                pool.end_tenant(tenant, error)

    def shares_with(self, tenant: TenantId) -> bool:
        """Whether the tenant holds something in a pool that it shares with others, or waits there."""
        pools = self.presence.of(tenant)
        return any(pool.key.shared and self._has(pool) and pool.serves(tenant) for pool in pools)

    def sharers(self) -> Iterator[TenantId]:
        """The tenants of which `shares_with` is true."""
        for pool in self._pools.values():
            if pool.key.shared:
                yield from pool.served()

    def refit(self) -> None:
        """Let the open pools keep to what budgets and settings say now."""
        for pool in list(self._pools.values()):
            own = self._own.get(TenantId(pool.label), {}).get(pool.key)
            limit = self._settings.shared_size if own is None else self._own_limit(own)
            pool.reconfigure(min(limit, pool.budget.limit))
        if self._main is not None:
            self._main.reconfigure(min(self._main_size, self._main.budget.limit))

    def sweep(self) -> None:
        """What time demands, at once."""
        for _ in self.sweeping():
            pass

    def sweeping(self) -> Iterator[None]:
        """What time demands, in steps between which others may run; taken by the one sweeper about every second."""
        now = self._clock()
        self.counters.review(now)
        for budget in dict.fromkeys(self.budgets.values()):  # once each, and in the same order every time
            budget.sweep(now)
        idle_limit = now - self._settings.idle_timeout
        for pool in [*self, *self._gone]:
            pool.sweep(now)
            if pool.is_empty and pool.is_quiet and pool.last_used <= idle_limit and self._has(pool):
                self._evict(pool, "idle")
            yield
        # The overshoot of a busy time. What is not in use now may be before its turn comes.
        for pool, manager in self._unused(max(0, sum(map(len, self._family)) - self._settings.max_pools)):
            if pool.is_quiet and manager._has(pool):
                manager._evict(pool, "lru")
            yield
        closing, self._gone = self._gone, []
        for pool in closing:
            self._let_end(pool)

    def _has(self, pool: Pool[C]) -> bool:
        """Whether it is open still, and not the main one."""
        return self._pools.get(pool.key) is pool

    def close(self) -> None:
        """Close every pool; connections that are lent close when they come back."""
        self.is_closed = True
        for pool in self:
            pool.close(PoolClosed("the router is closing"))
            self._let_end(pool)
        self._pools.clear()
        self._own.clear()
        self._reserved.clear()
        self._main = None
        if self in self._family:
            self._family.remove(self)

    def abandon(self) -> None:
        """Forget every pool with its connections, without a word to them: their event loop has ended."""
        self.is_closed = True
        self._pools.clear()
        self._own.clear()
        self._gone.clear()
        self.presence.clear()
        self._reserved.clear()
        self._main = None
        if self in self._family:
            self._family.remove(self)

    def __iter__(self) -> Iterator[Pool[C]]:
        """All open pools, main first."""
        if self._main is not None:
            yield self._main
        yield from list(self._reserved.values())
        yield from list(self._pools.values())

    def closing(self) -> Iterator[Pool[C]]:
        """Closed pools that still have connections."""
        return (pool for pool in self._gone if not pool.is_empty)

    def __len__(self) -> int:
        return len(self._pools)
