"""What does the console show of several workers? Their snapshots, added up. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import fields, replace
from typing import Any

from tenantproxy.config import Settings
from tenantproxy.metrics.pg import LimitUsage
from tenantproxy.model import PoolKey, TenantId
from tenantproxy.pools.base import AcquireResult, PoolStats, Stats, TenantPoolStats
from tenantproxy.sidecar.pg.colleagues import Everything
from tenantproxy.sidecar.pg.console.view import ClientRow, ConsoleView, Counts, ServerRow, WorkerRow

__all__ = ["GatheredView", "merged_pools"]

_POOL_SUMS = ("limit", "idle", "used", "opening", "resetting", "retiring", "waiting", "lingering")
_TENANT_SUMS = ("leased", "waiting", "max_size")


class GatheredView:
    """See `console.view.ConsoleView`. What it shows is of one look; its verbs are those of `here`."""

    def __init__(self, here: ConsoleView, found: Everything) -> None:
        self._here = here
        self._found = found

    @property
    def settings(self) -> Settings:
        """The whole service's."""
        return self._here.settings

    @property
    def version(self) -> str:
        """See ConsoleView."""
        return self._here.version

    @property
    def data_path(self) -> str:
        """See ConsoleView."""
        return self._here.data_path

    def stats(self) -> Stats:
        """With the pools of all workers, and what each tenant's callers got."""
        every = [port.stats for port in self._found.ports]
        if not every:
            return self._here.stats()
        acquires: dict[str, dict[AcquireResult, int]] = {}
        for stats in every:
            for tenant, counts in stats.acquires.items():
                _add(acquires.setdefault(tenant, {}), counts)
        pools = merged_pools(pool for stats in every for pool in stats.pools)
        return replace(every[0], pools=tuple(pools), acquires=acquires)

    def clients(self) -> Iterator[ClientRow]:
        """Of all workers."""
        return (client for port in self._found.ports for client in port.clients)

    def servers(self) -> Iterator[ServerRow]:
        """Of all workers."""
        return (server for port in self._found.ports for server in port.servers)

    def counts(self) -> Mapping[str, Counts]:
        """Added up."""
        sums: dict[str, Counts] = {}
        for port in self._found.ports:
            for tenant, counts in port.counts.items():
                former = sums.get(tenant)
                sums[tenant] = counts if former is None else _sum(former, counts)
        return sums

    def limits(self) -> Iterator[LimitUsage]:
        """Added up. Of a limit that many have, the sum may be of different ones: it is never too small."""
        sums: dict[str, LimitUsage] = {}
        for port in self._found.ports:
            for each in port.limits:
                former = sums.get(each.name)
                sums[each.name] = each if former is None else _joined(former, each)
        return iter(sums.values())

    def workers(self) -> Iterable[WorkerRow]:
        """All there are."""
        return self._found.workers

    async def gathered(self) -> ConsoleView:
        """It is."""
        return self

    @property
    def unauthenticated(self) -> int:
        """Added up."""
        return sum(port.unauthenticated for port in self._found.ports)

    def paused(self) -> Collection[str]:
        """By any of them."""
        return {tenant for port in self._found.ports for tenant in port.paused}

    async def things(self, tenant: TenantId) -> list[dict[str, Any]]:
        """See ConsoleView."""
        return await self._here.things(tenant)

    async def pause(self, tenant: TenantId) -> None:
        """See ConsoleView."""
        await self._here.pause(tenant)

    async def resume(self, tenant: TenantId) -> None:
        """See ConsoleView."""
        await self._here.resume(tenant)

    async def kill(self, tenant: TenantId) -> list[dict[str, Any]]:
        """See ConsoleView."""
        return await self._here.kill(tenant)

    async def reload(self) -> Collection[str]:
        """See ConsoleView."""
        return await self._here.reload()


def merged_pools(pools: Iterable[PoolStats]) -> list[PoolStats]:
    """One entry for each pool, with what all workers have of it."""
    by_key: dict[PoolKey, list[PoolStats]] = {}
    for pool in pools:
        by_key.setdefault(pool.key, []).append(pool)
    return [_merged(each) for each in by_key.values()]


def _merged(pools: list[PoolStats]) -> PoolStats:
    if len(pools) == 1:
        return pools[0]
    tenants: dict[str, TenantPoolStats] = {}
    for tenant in (tenant for pool in pools for tenant in pool.tenants):
        former = tenants.get(tenant.tenant)
        if former is None:
            tenants[tenant.tenant] = tenant
            continue
        sums = {name: getattr(former, name) + getattr(tenant, name) for name in _TENANT_SUMS}
        oldest = max(former.oldest_wait_seconds, tenant.oldest_wait_seconds)
        tenants[tenant.tenant] = replace(former, oldest_wait_seconds=oldest, **sums)
    sums = {name: sum(getattr(pool, name) for pool in pools) for name in _POOL_SUMS}
    unused = min(pool.unused_seconds for pool in pools)
    return replace(pools[0], tenants=tuple(tenants.values()), unused_seconds=unused, **sums)


def _add(sums: dict[AcquireResult, int], more: Mapping[AcquireResult, int]) -> None:
    for key, value in more.items():
        sums[key] = sums.get(key, 0) + value


def _sum(one: Counts, other: Counts) -> Counts:
    return Counts(**{each.name: getattr(one, each.name) + getattr(other, each.name) for each in fields(Counts)})


def _joined(one: LimitUsage, other: LimitUsage) -> LimitUsage:
    holder = one.holder if one.used >= other.used else other.holder
    return LimitUsage(one.name, one.limit + other.limit, one.used + other.used, holder, one.refused + other.refused)
