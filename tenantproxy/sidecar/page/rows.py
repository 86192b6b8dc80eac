"""What does the page show of one moment? Pools, servers and counts as JSON texts, and what differs from before. Pure.

A row is encoded when it is another one than at the last look, and what all viewers get is put together from the texts.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, NamedTuple, TypeVar

from tenantproxy.fleet.stats import FleetProcess, FleetServerStats, FleetStats
from tenantproxy.pools.base import HistogramSnapshot, PoolStats, ServerStats, Stats, TenantPoolStats
from tenantproxy.sidecar.pg.console.view import WorkerRow

__all__ = [
    "COLUMNS",
    "Look",
    "PoolRow",
    "changes",
    "counts_of",
    "fleet_of",
    "pool_rows",
    "processes_of",
    "server_row",
    "waits_of",
]

COLUMNS: Final = (
    "pool", "kind", "server", "database", "limit", "idle", "used", "opening", "resetting", "retiring", "waiting",
    "oldest", "used_at",
)  # fmt: skip
"""Of a row of pools. `kind`: `tenant`, its own pool; `shared`; `main`; `part`, a tenant in a shared one."""

_encode: Final = json.JSONEncoder(separators=(",", ":")).encode  # json.dumps would make an encoder for each row
Row = TypeVar("Row")


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What there is to show. `logins` by result; `clients` by protocol, with their limit; `paused` at the port.

    `processes`: of the fleet; `own`: the ids of those there that this service is.
    `workers`: of this service, where it has any.
    """

    stats: Stats
    fleet: FleetStats | None = None
    logins: Mapping[str, int] = field(default_factory=dict)
    clients: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    paused: Collection[str] = ()
    processes: Sequence[FleetProcess] = ()
    own: Collection[str] = ()
    workers: Sequence[WorkerRow] = ()


class PoolRow(NamedTuple):
    """What `COLUMNS` name, and the same as JSON."""

    values: tuple[Any, ...]
    text: str


def pool_rows(
    stats: Stats, now: float, known: Mapping[str, PoolRow] = MappingProxyType({})
) -> Iterator[tuple[str, PoolRow]]:
    """An id that stays the same, and the row; `now` is unix time. One by one: there may be thousands.

    `known`: those of the last look, by id. A row that is as it was is the same object.
    """
    seen: dict[str, int] = {}
    for pool in stats.pools:
        # The library and the port have pools of equal keys.
        place = pool.key.name
        seen[place] = count = seen.get(place, 0) + 1
        name = f"{place} {count}"
        yield name, _row(known.get(name), _pool_values(pool, now))
        if pool.key.shared:
            for tenant in pool.tenants:
                part = f"{name} {tenant.tenant}"
                yield part, _row(known.get(part), _part_values(pool, tenant))


def _row(former: PoolRow | None, values: tuple[Any, ...]) -> PoolRow:
    if former is not None and former.values == values:
        return former
    return PoolRow(values, _encode(values))


def _pool_values(pool: PoolStats, now: float) -> tuple[Any, ...]:
    kind = "shared" if pool.key.shared else "main" if "/" in pool.label else "tenant"  # no tenant's name has a slash
    oldest = max((tenant.oldest_wait_seconds for tenant in pool.tenants), default=0.0)
    return (
        pool.label, kind, pool.key.server, pool.key.database, pool.limit, pool.idle, pool.used, pool.opening,
        pool.resetting, pool.retiring, pool.waiting, round(oldest, 2), round(now - pool.unused_seconds),
    )  # fmt: skip


def _part_values(pool: PoolStats, tenant: TenantPoolStats) -> tuple[Any, ...]:
    return (
        tenant.tenant, "part", pool.key.server, pool.key.database, tenant.max_size, 0, tenant.leased, 0, 0, 0,
        tenant.waiting, round(tenant.oldest_wait_seconds, 2), 0,
    )  # fmt: skip


def server_row(server: ServerStats) -> dict[str, Any]:
    """A server's budget, of which this process has `limit`."""
    return {
        "name": server.server,
        "used": server.connections,
        "limit": server.limit,
        "configured": server.configured,
        "max": server.max_connections,
        "waiting": server.waiting_pools,
        "lingering": server.lingering,
        "up": server.up,
        "host": server.host,
        "lag": server.lag,
    }


def fleet_of(look: Look) -> dict[str, Any] | None:
    """This service's part of each server, among the processes of its fleet."""
    fleet = look.fleet
    if fleet is None:
        return None
    return {"name": fleet.fleet, "process": fleet.process, "servers": [_part(each) for each in fleet.servers]}


def processes_of(look: Look) -> list[list[Any]]:
    """What each process of the fleet has: server, its id, whether it is of this service, its state, granted, used,
    wanted, and of a silent one for how many seconds. Equal lists while nothing changes."""
    return [
        [
            each.server, each.process, each.process in look.own, each.state, each.granted, each.used, each.wanted,
            None if each.state == "live" else each.seen_seconds,
        ]
        for each in look.processes
    ]  # fmt: skip


def _part(part: FleetServerStats) -> dict[str, Any]:
    return {
        "server": part.server, "granted": part.granted, "used": part.used, "wanted": round(part.wanted, 1),
        "cap": part.cap, "processes": part.processes, "ghosts": part.ghosts,
    }  # fmt: skip


def counts_of(look: Look) -> dict[str, Any]:
    """What was counted since the start, by cause, reason and result."""
    stats = look.stats
    return {
        "exhaustions": dict(stats.exhaustions),
        "evicted": dict(stats.evicted),
        "opened": dict(stats.opened),
        "closed": dict(stats.closed),
        "resets": dict(stats.resets),
        "violations": sum(stats.violations.values()),
        "logins": dict(look.logins),
        "clients": {name: list(each) for name, each in look.clients.items()},
        "pools": [len(stats.pools), stats.pools_limit],
    }


def waits_of(stats: Stats) -> dict[str, Any]:
    """How long callers waited and held, of all kinds together, in buckets that are not cumulative."""
    return {"wait": _summed(stats.acquire_wait.values()), "hold": _summed(stats.hold.values())}


def _summed(histograms: Iterable[HistogramSnapshot]) -> dict[str, Sequence[float]]:
    found = list(histograms)
    if not found:
        return {"bounds": [], "counts": []}
    return {"bounds": found[0].bounds, "counts": [sum(each) for each in zip(*(h.counts for h in found), strict=True)]}


def changes(before: Mapping[str, Row], now: Mapping[str, Row]) -> tuple[dict[str, Row], list[str]]:
    """The rows that are new or other ones, and the ids of those that are gone."""
    return {name: row for name, row in now.items() if before.get(name) != row}, [
        name for name in before if name not in now
    ]
