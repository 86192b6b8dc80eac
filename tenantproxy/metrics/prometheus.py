"""Which Prometheus series does a router have? Read from one snapshot at each scrape; nothing is counted here.

An evicted pool's gauges vanish with it. The label of a tenant is its id for the first `metrics.max_tenants` that came,
for the life of the process, and `_other` for the rest, in gauges and counters alike; histograms have none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final, TypeVar, get_args

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from tenantproxy.events import CloseReason, EvictReason, ExhaustCause
from tenantproxy.metrics.families import Family, Labels, counter, counter_of, gauge, gauge_of, histogram
from tenantproxy.model import Isolation, TenantStatus
from tenantproxy.pools.base import PoolStats, ServerStats, Stats
from tenantproxy.slices import Slices

__all__ = ["RouterCollector", "TenantCounts", "exposition", "exposition_in_slices", "registry_of"]

TenantCounts = Mapping[tuple[Isolation, TenantStatus], int]
"""How many registered tenants there are of each kind and status."""

_OTHER: Final = "_other"
_SAMPLES_A_STEP: Final = 20
_EOF: Final = b"# EOF\n"
_STATES: Final = ("idle", "used", "opening", "resetting", "retiring", "lingering")
_OPENMETRICS: Final = "application/openmetrics-text"
_TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"

Reason = TypeVar("Reason", bound=str)


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
    ) -> None:
        self._stats = stats
        self._version = version
        self._tenants = tenants

    def collect(self) -> Iterator[Metric]:
        """All families of one snapshot. Synchronous, so the snapshot is one moment of the event loop."""
        stats = self._stats()
        yield gauge("build_info", "The version that runs.", ("version",), {(self._version,): 1})
        yield from _tenants(self._tenants())
        yield from _pools(stats)
        yield from _acquires(stats)
        yield from _connections(stats)
        yield from _servers(stats.servers)
        yield from _isolation(stats)
        yield from _lookups(stats)


def registry_of(*collectors: Collector) -> CollectorRegistry:
    """A registry of its own: what other libraries register globally is not ours to show."""
    registry = CollectorRegistry(auto_describe=False)
    for collector in collectors:
        registry.register(collector)
    return registry


def exposition(registry: CollectorRegistry, accept: str) -> tuple[bytes, str]:
    """The body and its content type: OpenMetrics when `accept`, the request's header, asks for it, else plain text."""
    modern = _is_openmetrics(accept)
    return _generate(registry, modern=modern), openmetrics.CONTENT_TYPE_LATEST if modern else _TEXT


async def exposition_in_slices(registry: CollectorRegistry, accept: str) -> tuple[bytes, str]:
    """The same without holding the event loop; each family is of one moment."""
    modern, slices = _is_openmetrics(accept), Slices()
    parts: list[bytes] = []
    for family in registry.collect():
        await slices.pause()  # to collect is a step too
        for part in _in_steps(family, modern=modern):
            parts.append(part)
            await slices.pause()
    if modern:
        parts.append(_EOF)
    return b"".join(parts), openmetrics.CONTENT_TYPE_LATEST if modern else _TEXT


def _in_steps(family: Metric, *, modern: bool) -> Iterator[bytes]:
    """The text of a family, some samples in a step. What prometheus-client takes 15 µs for, `Family` does in one."""
    yield _text(family, (), modern=modern)
    if isinstance(family, Family):
        for lines in family.lines():
            yield lines.encode()
        return
    for first in range(0, len(family.samples), _SAMPLES_A_STEP):
        text = _text(family, family.samples[first : first + _SAMPLES_A_STEP], modern=modern)
        while text.startswith(b"# "):
            text = text.partition(b"\n")[2]
        yield text


def _text(family: Metric, samples: Iterable[Sample], *, modern: bool) -> bytes:
    """The head of a family and some of its samples."""
    part = Metric(family.name, family.documentation, family.type, family.unit)
    part.samples = list(samples)
    return _generate(_One(part), modern=modern).removesuffix(_EOF)


class _One:
    """Something to collect a single family from."""

    def __init__(self, family: Metric) -> None:
        self._family = family

    def collect(self) -> Iterator[Metric]:
        yield self._family


def _generate(registry: Any, *, modern: bool) -> bytes:
    if not modern:
        return generate_latest(registry)
    body: bytes = openmetrics.generate_latest(registry)  # type: ignore[no-untyped-call]
    return body


def _is_openmetrics(accept: str) -> bool:
    # Not prometheus_client's choose_encoder: it raises on versions that it cannot parse, and any client may send those.
    wanted = _quality(accept, _OPENMETRICS)
    return wanted > 0 and wanted >= _quality(accept, "text/plain")


def _quality(accept: str, wanted: str) -> float:
    """How much a media type is wanted (RFC 9110 12.5.1), from 0 to 1; what cannot be read counts as not wanted."""
    best = 0.0
    for each in accept.split(","):
        kind, *parameters = (part.strip().lower() for part in each.split(";"))
        if kind != wanted:
            continue
        given = [part[2:].strip() for part in parameters if part.startswith("q=")]
        try:
            best = max(best, float(given[0]) if given else 1.0)
        except ValueError:
            continue
    return best


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


def _acquires(stats: Stats) -> Iterator[Metric]:
    yield counter_of(
        "pool_acquires",
        "Leases asked for, by how that ended.",
        ("tenant", "result"),
        (((tenant, result), n) for tenant, by_result in stats.acquires.items() for result, n in by_result.items()),
    )
    yield _reasons(
        "exhaustions", "Callers that got no connection, by the limit met.", "cause", stats.exhaustions, ExhaustCause
    )
    waits = {(isolation.value,): snapshot for isolation, snapshot in stats.acquire_wait.items()}
    yield histogram("pool_acquire_wait_seconds", "From asking for a connection to having it.", ("isolation",), waits)
    holds = {(isolation.value,): snapshot for isolation, snapshot in stats.hold.items()}
    yield histogram("pool_hold_seconds", "How long a connection was lent.", ("isolation",), holds)


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
