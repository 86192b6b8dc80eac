"""What is a router made of? Budgets, connector, lender and pools that fit each other, and what is counted of them.

State: the manager of the pools, which is another one each time the router is opened again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, Protocol

from tenantproxy.config import Server, Settings
from tenantproxy.connect.opening import Opening
from tenantproxy.connect.slow import watch_of
from tenantproxy.connect.watched import new_hosts
from tenantproxy.driver.connector import AsyncpgConnector, Init
from tenantproxy.driver.host_watch import HostWatch
from tenantproxy.driver.lender import Lender
from tenantproxy.driver.look import Looker
from tenantproxy.driver.state import DriverConnection
from tenantproxy.errors import LeaseExpired
from tenantproxy.events import Observer
from tenantproxy.fleet.client import Fleet
from tenantproxy.fleet.connections import FleetConnections
from tenantproxy.model import Limits, PoolKey, TenantId
from tenantproxy.pools.base import Clock, PoolStats, Stats, TenantPoolStats
from tenantproxy.pools.budget import ServerBudget
from tenantproxy.pools.counters import Counters
from tenantproxy.pools.manager import LivePoolSettings, PoolManager
from tenantproxy.pools.pool import Pool
from tenantproxy.pools.snapshot import snapshot
from tenantproxy.registry import CachedRegistry
from tenantproxy.routes import main_route, main_size
from tenantproxy.slices import Slices
from tenantproxy.watch import Watch

__all__ = ["ClientHolder", "Parts", "new_budgets"]


class ClientHolder(Protocol):
    """A listener whose clients are of one tenant each, also while they hold no connection."""

    def has_clients_of(self, tenant: TenantId) -> bool:
        """Whether any are of this tenant."""
        ...

    def tenants_of_clients(self) -> Iterable[TenantId]:
        """Whose they are."""
        ...

    def end_tenant(self, tenant: TenantId, error: LeaseExpired) -> None:
        """End those of this tenant, which hear `error`."""
        ...


_LOOPBACK: Final = {"localhost": "127.0.0.1", "::1": "127.0.0.1"}


def new_budgets(settings: Settings, *, clock: Clock, observer: Observer) -> dict[str, ServerBudget]:
    """The budget of each server, by name. Names of one host and port share one: the lowest `max_connections` of them.

    It is called as the first of them. Addresses are compared as they are written.
    """
    by_place: dict[tuple[object, ...], list[str]] = {}
    for name in settings.servers:
        by_place.setdefault(_place(settings, name), []).append(name)
    budgets = {}
    for names in by_place.values():
        budget = ServerBudget(
            names[0],
            limit=min(settings.servers[name].max_connections for name in names),
            clock=clock,
            observer=observer,
            guaranteed=settings.pools.guaranteed,
        )
        budgets.update(dict.fromkeys(names, budget))
    return {name: budgets[name] for name in settings.servers}


_TENANTS_A_STEP: Final = 50
_NO_FORM: Final = {
    "max_connections",
    "connect_timeout",
    "replicas",
    "admin",
    "login",
    "password",
    "password_file",
    "password_env",
}  # nothing is opened again for a change of these


def _place(settings: Settings, name: str) -> tuple[object, ...]:
    """Where a server is: names of one place share a budget."""
    server = settings.servers[name]
    places = sorted((_LOOPBACK.get(each.host, each.host).lower(), each.port) for each in server.each_host)
    # Of the same hosts, a primary and a replica are never the same one.
    is_replica = any(name in other.replicas for other in settings.servers.values())
    return (*places, *((server.target_session_attrs, is_replica) if server.hosts else ()))


def _is_new_form(old: Settings, name: str, server: Server) -> bool:
    """Whether connections of a server that are open are not as they would be opened now."""
    former = old.servers.get(name)
    if former is None:
        return False
    return any(getattr(former, key) != getattr(server, key) for key in type(server).model_fields.keys() - _NO_FORM)


class Parts:
    """All that lends connections, made from `settings`. No I/O, and no loop is needed."""

    def __init__(
        self, settings: Settings, *, init: Init | None, observer: Observer, clock: Clock, watch: Watch | None = None
    ) -> None:
        self._settings = settings
        self.lease_watch = watch_of(settings.log, observer, clock, watch)
        self._clock = clock
        self.observer = observer
        self.counters = Counters(max_tenants=settings.metrics.max_tenants)
        self.budgets = new_budgets(settings, clock=clock, observer=observer)
        self._places: dict[str, tuple[object, ...]] = {}  # where servers were that a reload has removed
        self.hosts = new_hosts(settings, self.budgets, clock=clock, observer=observer)
        self._opening = opening = Opening(
            settings, observer=observer, violations=self.counters.violations, hosts=self.hosts
        )
        self.connector = AsyncpgConnector(opening, init=init, watch=self.lease_watch)
        self.watch = HostWatch(settings, self.hosts, opening)
        self.lender = Lender(
            counters=self.counters,
            observer=observer,
            reset=settings.pools.reset,
            acquire_timeout=settings.pools.acquire_timeout,
            proof_window=settings.row.proof_window,
            watch=self.lease_watch,
        )
        self.connector.reset = self.lender.begin_reset
        self.looker = Looker(
            self.lender,
            self.budgets,
            main=main_route(settings).pool,
            main_size=main_size(settings),
            clock=clock,
            observer=observer,
        )
        self.pool_settings = LivePoolSettings(settings.pools)
        self.family: list[PoolManager[Any]] = []  # the router's manager, and those of other listeners
        self.holders: list[ClientHolder] = []  # listeners whose clients end with their tenant
        self.fleet = Fleet(
            settings,
            self.budgets,
            connections=FleetConnections(settings, self.family, self.hosts),
            observer=observer,
            hosts=self.hosts,
        )
        self.manager = self._new_manager()

    def _new_manager(self) -> PoolManager[DriverConnection]:
        return PoolManager(
            budgets=self.budgets,
            settings=self.pool_settings,
            connector=self.connector,
            clock=self._clock,
            observer=self.observer,
            counters=self.counters,
            family=self.family,
        )

    def renew(self) -> PoolManager[DriverConnection]:
        """A manager for a router that opens again: of servers that failed before nothing is known."""
        for budget in set(self.budgets.values()):
            budget.forget_failures()
        self.manager = self._new_manager()
        return self.manager

    def adopt(self, settings: Settings, limits: Mapping[str, int], *, new_row_keys: bool) -> None:
        """Keep to `settings` from now on. `limits`: of new servers, and of those that have another one: see `allot`."""
        changed = [name for name, server in settings.servers.items() if _is_new_form(self._settings, name, server)]
        gone = self._settings.servers.keys() - settings.servers.keys()
        self._places |= {name: _place(self._settings, name) for name in gone}
        for name, budget in new_budgets(settings, clock=self._clock, observer=self.observer).items():
            is_elsewhere = self._places.pop(name, None) not in (None, _place(settings, name))
            if name not in self.budgets or is_elsewhere:
                self.budgets[name] = self._budget_of_place(settings, name) or budget
        self._settings = settings
        self._opening.adopt(settings)
        self.lender.acquire_timeout = settings.pools.acquire_timeout
        self.pool_settings.adopt(settings.pools)
        for budget, limit in self._lowest({name: each.max_connections for name, each in settings.servers.items()}):
            budget.resize(limit)
        self.allot(limits)
        self.fleet.adopt(settings)
        for manager in self.family:
            for name in gone:
                manager.remove_server(name)
        for pool in self.pools():
            if pool.key.server in changed or (pool.key.shared and new_row_keys):
                pool.expire()  # what is opened instead is as it is now

    def _budget_of_place(self, settings: Settings, name: str) -> ServerBudget | None:
        """That of a server under another name at the same host and port."""
        for other in settings.servers:
            if other != name and other in self.budgets and _place(settings, other) == _place(settings, name):
                return self.budgets[other]
        return None

    def allot(self, limits: Mapping[str, int]) -> None:
        """Its part of budgets, by server, unless a fleet says; of names that share one, the lowest holds."""
        for budget, limit in self._lowest(limits):
            budget.allot(limit)
        for manager in self.family:
            manager.refit()

    def _lowest(self, limits: Mapping[str, int]) -> Iterable[tuple[ServerBudget, int]]:
        lowest: dict[ServerBudget, int] = {}
        for name, budget in self.budgets.items():
            if name in limits:
                lowest[budget] = min(limits[name], lowest.get(budget, limits[name]))
        return lowest.items()

    def fit(self, tenant: TenantId, limits: Limits, is_right: Callable[[PoolKey], bool]) -> None:
        """Make the tenant's own pools, of all listeners, what it may have now; see `PoolManager.fit`."""
        for manager in self.family:
            manager.fit(tenant, limits, is_right)

    def end_tenant(self, tenant: TenantId, error: LeaseExpired, *, keep: Callable[[PoolKey], bool]) -> None:
        """End all that the tenant has with any listener; see `PoolManager.end_tenant`."""
        for manager in self.family:
            manager.end_tenant(tenant, error, keep=keep)
        for holder in self.holders:
            holder.end_tenant(tenant, error)

    def is_concerned(self, tenant: TenantId) -> bool:
        """Whether a change of the tenant concerns what is open: a pool of its own, a lease, a client."""
        return any(each.has_own(tenant) or each.shares_with(tenant) for each in self.family) or any(
            holder.has_clients_of(tenant) for holder in self.holders
        )

    def concerned(self) -> set[TenantId]:
        """The tenants of which `is_concerned` is true."""
        found = {tenant for manager in self.family for tenant in (*manager.owners, *manager.sharers())}
        return found.union(*(holder.tenants_of_clients() for holder in self.holders))

    def of_tenant(self, tenant: TenantId) -> Iterator[Pool[Any]]:
        """The pools, of all listeners, that are the tenant's alone."""
        for manager in self.family:
            yield from manager.of_tenant(tenant)

    def forget_loop(self, *, shut: bool) -> None:
        """The event loop has ended, and with it every connection; `shut`: their sockets are this process's own.

        Nothing can be awaited in that loop. The server ends a session when its socket is shut down.
        """
        for manager in list(self.family):
            for pool in [*manager, *manager.closing()]:
                for backend in pool.connections():
                    if shut and isinstance(backend, DriverConnection):
                        backend.con.shut_socket()
            manager.abandon()
        self.connector.forget_loop()
        self.fleet.forget_loop()
        self.looker.forget_loop()
        self.watch.forget_loop()
        for name, budget in new_budgets(self._settings, clock=self._clock, observer=self.observer).items():
            former = self.budgets[name]
            budget.open_seconds, budget.failovers, budget.on_doubt = (
                former.open_seconds,
                former.failovers,
                former.on_doubt,
            )
            self.budgets[name] = budget
            if name in self.hosts:
                self.hosts[name].budget = budget
        self.manager.is_closed = True

    def pools(self) -> Iterator[Pool[Any]]:
        """The open pools of all managers."""
        for manager in self.family:
            yield from manager

    def stats(self, registry: CachedRegistry) -> Stats:
        """An immutable snapshot of pools, budgets, waiters and counters."""
        return self._stats(registry, [pool.stats() for pool in self.pools()])

    async def snapshot(self, registry: CachedRegistry, *, few_tenants: bool = False) -> Stats:
        """The same without holding the event loop: each pool as of its own moment; `few_tenants`: see `_folded`."""
        slices = Slices()
        tenants_of = self._folded if few_tenants else _all_tenants
        pools: list[PoolStats] = []
        for pool in list(self.pools()):
            pools.append(pool.stats(await tenants_of(pool, slices)))
            await slices.pause()
        stats = self._stats(registry, pools)
        await slices.pause()
        return stats

    async def _folded(self, pool: Pool[Any], slices: Slices) -> list[TenantPoolStats]:
        """The tenants of `pool` with series of their own, and the sum of the others as `_other`."""
        named: list[TenantPoolStats] = []
        leased, waiting, oldest = 0, 0, 0.0
        others = 0
        for number, tenant in enumerate(pool.tenant_stats(), start=1):
            if self.counters.is_named(tenant.tenant):
                named.append(tenant)
            else:
                others += 1
                leased, waiting = leased + tenant.leased, waiting + tenant.waiting
                oldest = max(oldest, tenant.oldest_wait_seconds)
            if number % _TENANTS_A_STEP == 0:
                await slices.pause()
        if others:
            named.append(
                TenantPoolStats(tenant="_other", leased=leased, waiting=waiting, oldest_wait_seconds=oldest, max_size=0)
            )
        return named

    def _stats(self, registry: CachedRegistry, pools: Iterable[PoolStats]) -> Stats:
        counters = self.counters  # at once: what a tenant loses and others get must not be seen twice
        return Stats(
            pools=tuple(pools),
            servers=tuple(budget.stats() for budget in dict.fromkeys(self.budgets.values())),
            pools_limit=self.pool_settings.max_pools,
            acquires={label: dict(counts) for label, counts in counters.acquires_by_label.items()},
            former_acquires=dict(counters.former_acquires),
            exhaustions=dict(counters.exhaustions),
            exhaustions_by_tenant={label: dict(causes) for label, causes in counters.exhaustions_by_label.items()},
            former_exhaustions=dict(counters.former_exhaustions),
            acquire_wait={isolation: snapshot(histogram) for isolation, histogram in counters.acquire_wait.items()},
            hold={isolation: snapshot(histogram) for isolation, histogram in counters.hold.items()},
            closed=dict(counters.closed),
            opened=dict(counters.opened),
            evicted=dict(counters.evicted),
            resets=dict(counters.resets),
            bind_failures=counters.bind_failures,
            violations=dict(counters.violations),
            lookups=dict(registry.lookups),
            lookup_seconds={source: snapshot(seconds) for source, seconds in registry.lookup_seconds.items()},
            registry_last_success=registry.last_success,
            tenants_unusable=len(registry.unusable),
            places=frozenset(counters.places),
        )


async def _all_tenants(pool: Pool[Any], slices: Slices) -> list[TenantPoolStats]:
    tenants: list[TenantPoolStats] = []
    for tenant in pool.tenant_stats():
        tenants.append(tenant)
        if len(tenants) % _TENANTS_A_STEP == 0:
            await slices.pause()
    return tenants
