"""Which Prometheus series does a router have? Read from one snapshot at each scrape; nothing is counted here.

An evicted pool's gauges vanish with it. The label of a tenant is its id for the `metrics.max_tenants` that matter most
now, and `_other` for the rest, in gauges and counters alike; histograms have none. A tenant's counter never goes back
while it is there, and begins at 0 when it comes again; what it had before adds to a family of its own (`..._former`),
whose value, with those of all tenants, is all that ever happened. Sums of rates leave that family alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Final, TypeVar, get_args

from prometheus_client.core import Metric

from tenantproxy.events import CloseReason, EvictReason, ExhaustCause
from tenantproxy.metrics.families import Labels, counter, counter_of, gauge, gauge_of, histogram
from tenantproxy.model import Isolation, TenantStatus
from tenantproxy.pools.base import PoolStats, ServerStats, Stats
from tenantproxy.pools.names import OTHER as _OTHER
from tenantproxy.watch import SeenTrace

__all__ = [
    "RouterCollector",
    "Seen",
    "TenantCounts",
    "no_traces",
]

TenantCounts = Mapping[tuple[Isolation, TenantStatus], int]
"""How many registered tenants there are of each kind and status."""

_STATES: Final = ("idle", "used", "opening", "resetting", "retiring", "lingering")

Reason = TypeVar("Reason", bound=str)


Seen = Callable[[str, str], Mapping[int, SeenTrace]]
"""The traces to show with the waits ("wait") or holds ("hold") of an isolation, by bucket."""


def no_traces(_kind: str, _isolation: str) -> Mapping[int, SeenTrace]:
    """None are made."""
    return {}


class RouterCollector:
    """A collector for prometheus-client over a function that gives snapshots (`router.stats`).

    `tenants` gives the counts of registered tenants, or None where the registry cannot count them cheaply: then the
    family is left out.
    """

    def __init__(
        self,
        stats: Callable[[], Stats],
        *,
        version: str,
        tenants: Callable[[], TenantCounts | None] = lambda: None,
        seen: Seen = no_traces,
    ) -> None:
        self._stats = stats
        self._version = version
        self._tenants = tenants
        self._seen = seen

    def collect(self) -> Iterator[Metric]:
        """All families of one snapshot. Synchronous, so the snapshot is one moment of the event loop."""
        stats = self._stats()
        yield gauge("build_info", "The version that runs.", ("version",), {(self._version,): 1})
        yield from _tenants(self._tenants())
        yield from _pools(stats)
        yield from _acquires(stats, self._seen)
        yield from _connections(stats)
        yield from _servers(stats.servers)
        yield from _isolation(stats)
        yield from _lookups(stats)


def _tenants(counts: TenantCounts | None) -> Iterator[Metric]:
    if counts is None:
        return
    values: dict[Labels, float] = {(isolation.value, status.value): n for (isolation, status), n in counts.items()}
    yield gauge("tenants", "Registered tenants.", ("isolation", "status"), values)


def _pools(stats: Stats) -> Iterator[Metric]:
    pools = stats.pools
    label = partial(_pool_label, stats)
    yield gauge("pools", "Open pools, the main one included.", (), {(): len(pools)})
    yield gauge("pools_limit", "Pools without the main one that may stay open while idle.", (), {(): stats.pools_limit})
    # A tenant with several schemas has several pools under one label.
    yield gauge_of(
        "pool_connections",
        "Connections of a pool by state.",
        ("pool", "state"),
        _by_state(pools, label),
    )
    yield gauge_of(
        "pool_connections_limit",
        "Connections that a pool may have.",
        ("pool",),
        (((label(p),), p.limit) for p in pools),
    )
    yield gauge_of(
        "pool_waiting_requests",
        "Callers of a tenant that wait for a connection.",
        ("tenant",),
        (((_tenant_label(stats, t.tenant),), t.waiting) for p in pools for t in p.tenants),
    )
    yield gauge_of(
        "pool_oldest_wait_seconds",
        "How long the first of a tenant's callers has waited.",
        ("tenant",),
        (((_tenant_label(stats, t.tenant),), t.oldest_wait_seconds) for p in pools for t in p.tenants),
        fold=max,
    )


def _tenant_label(stats: Stats, tenant: str) -> str:
    return tenant if tenant in stats.acquires else _OTHER


def _pool_label(stats: Stats, pool: PoolStats) -> str:
    if "/" not in pool.label:  # no tenant's id has one
        return _tenant_label(stats, pool.label)
    return pool.label if stats.places is None or pool.label in stats.places else _OTHER


def _by_state(pools: Iterable[PoolStats], label: Callable[[PoolStats], str]) -> Iterator[tuple[Labels, float]]:
    for pool in pools:
        name = label(pool)
        for state in _STATES:
            yield (name, state), getattr(pool, state)


def _acquires(stats: Stats, seen: Seen) -> Iterator[Metric]:
    yield counter_of(
        "pool_acquires",
        "Leases asked for, by how that ended.",
        ("tenant", "result"),
        (((tenant, result), n) for tenant, by_result in stats.acquires.items() for result, n in by_result.items()),
    )
    text = "The same of tenants that have no series any more; a sum, not to be taken a rate of."
    yield counter("pool_acquires_former", text, ("result",), _single(stats.former_acquires))
    yield counter_of(
        "exhaustions",
        "Callers that got no connection, by the limit met.",
        ("tenant", "cause"),
        _exhaustions(stats.exhaustions_by_tenant),
    )
    yield counter("exhaustions_former", text, ("cause",), _single(stats.former_exhaustions))
    waits = {(isolation.value,): snapshot for isolation, snapshot in stats.acquire_wait.items()}
    text = "From asking for a connection to having it."
    yield histogram("pool_acquire_wait_seconds", text, ("isolation",), waits, seen=lambda key: seen("wait", key[0]))
    holds = {(isolation.value,): snapshot for isolation, snapshot in stats.hold.items()}
    text = "How long a connection was lent."
    yield histogram("pool_hold_seconds", text, ("isolation",), holds, seen=lambda key: seen("hold", key[0]))


def _exhaustions(by_tenant: Mapping[str, Mapping[ExhaustCause, int]]) -> Iterator[tuple[Labels, float]]:
    # What no tenant has met yet is there from the start: an alert must not miss the first case.
    yield from (((_OTHER, cause), 0) for cause in get_args(ExhaustCause))
    yield from (((tenant, cause), n) for tenant, causes in by_tenant.items() for cause, n in causes.items())


def _connections(stats: Stats) -> Iterator[Metric]:
    yield histogram(
        "connection_open_seconds",
        "From connecting to ready, checks included.",
        ("server",),
        {(server.server,): server.open_seconds for server in stats.servers},
    )
    yield _reasons("connections_closed", "Connections closed or found dead.", "reason", stats.closed, CloseReason)
    yield counter("pool_opens", "Pools opened.", ("reason",), _single(stats.opened), known=("cold", "reopen"))
    yield _reasons("pool_evictions", "Pools closed, with their connections.", "reason", stats.evicted, EvictReason)


def _reasons(name: str, text: str, label: str, counts: Mapping[Reason, int], kinds: object) -> Metric:
    return counter(name, text, (label,), _single(counts), known=get_args(kinds))


def _single(counts: Mapping[Reason, int]) -> dict[Labels, float]:
    return {(key,): value for key, value in counts.items()}


def _servers(servers: Sequence[ServerStats]) -> Iterator[Metric]:
    of = partial(_of_server, servers)
    yield of("server_connections", "Permits of a server's budget that are taken.", lambda s: s.connections)
    yield of(
        "server_connections_limit", "The budget of a server: connections of all pools together.", lambda s: s.limit
    )
    yield of(
        "server_connections_configured", "max_connections of a server in the configuration.", lambda s: s.configured
    )
    yield of("server_max_connections", "max_connections as the server reports it.", lambda s: s.max_connections)
    yield of("server_up", "0 while callers of this server fail at once.", lambda s: int(s.up))
    yield of(
        "replica_lag_seconds", "How far a replica is behind its primary, where max_replica_lag asks.", lambda s: s.lag
    )
    served: dict[Labels, float] = {(s.server, s.host): 1.0 for s in servers if s.host}
    yield gauge("server_host_info", "Which of the hosts of a server serves.", ("server", "host"), served)
    moved: dict[Labels, float] = {(s.server,): s.failovers for s in servers if s.host}
    yield counter("server_failovers", "How often another host of a server began to serve.", ("server",), moved)


def _of_server(
    servers: Sequence[ServerStats], name: str, text: str, value: Callable[[ServerStats], float | None]
) -> Metric:
    values: dict[Labels, float] = {(s.server,): v for s in servers if (v := value(s)) is not None}
    return gauge(name, text, ("server",), values)


def _isolation(stats: Stats) -> Iterator[Metric]:
    yield counter("session_resets", "Sessions reset before they were lent again.", ("result",), _single(stats.resets))
    yield counter("session_bind_failures", "Sessions that could not be bound.", (), {(): stats.bind_failures})
    yield counter("isolation_violations", "Checks of isolation that failed.", ("check",), _single(stats.violations))


def _lookups(stats: Stats) -> Iterator[Metric]:
    yield counter("tenant_lookups", "Tenants looked up.", ("source", "result"), stats.lookups)
    text = "Registered tenants whose entry cannot be used, as far as it was read."
    yield gauge("tenants_unusable", text, (), {(): stats.tenants_unusable})
    seconds = {(source,): snapshot for source, snapshot in stats.lookup_seconds.items()}
    yield histogram("tenant_lookup_seconds", "How long the source of the registry took.", ("source",), seconds)
    if stats.registry_last_success is not None:
        yield gauge(
            "registry_last_success_timestamp_seconds",
            "When the registry last answered, unix time.",
            (),
            {(): stats.registry_last_success},
        )
