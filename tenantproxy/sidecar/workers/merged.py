"""What do the metrics and pools of several workers say together? Their sum, or the most, or the least."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from operator import add
from typing import Any, Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.samples import Exemplar, Sample

from tenantproxy.metrics.families import PREFIX
from tenantproxy.pools.base import HistogramSnapshot, ServerStats, Stats
from tenantproxy.sidecar.admin import Readiness
from tenantproxy.sidecar.pg.gathered import merged_pools

__all__ = ["FamilyData", "Merged", "counted", "families_of", "merged_readiness", "merged_servers", "merged_stats"]

FamilyData = Sequence[Any]
"""A family as a worker tells it: name, text, type, samples of name, labels, value and, where it has one, exemplar.

An exemplar is its labels, its value and when it was seen, in unix time.
"""

# The same in each worker, or no sum: the time of the one that is worst off.
_MOST: Final = frozenset(
    PREFIX + name
    for name in (
        "build_info", "tenants", "pool_oldest_wait_seconds", "server_max_connections", "server_connections_configured",
        "tenants_unusable",
        "registry_last_success_timestamp_seconds", "draining", "eventloop_lag_seconds", "pg_data_path",
        "pg_paused_tenants", "replica_lag_seconds", "server_host_info", "fleet_cap", "fleet_processes", "fleet_ghosts",
    )
)  # fmt: skip
_LEAST: Final = frozenset(
    PREFIX + name
    for name in ("server_up", "certificate_expiry_timestamp_seconds", "fleet_last_renewal_timestamp_seconds")
)


class Merged:
    """A collector over what the workers told, each one family after the other."""

    def __init__(self, told: Iterable[Sequence[FamilyData]]) -> None:
        self._told = list(told)

    def collect(self) -> Iterator[Metric]:
        """All families. Of the exemplars of one bucket the last that was seen is there."""
        families: dict[str, tuple[Metric, dict[Any, float]]] = {}
        seen: dict[Any, Exemplar] = {}
        for name, text, kind, samples in (family for each in self._told for family in each):
            if name not in families:
                families[name] = (Metric(name, text, kind), {})
            values, fold = families[name][1], _fold_of(name)
            for sample, labels, value, *exemplar in samples:
                key = (sample, tuple(labels.items()))
                former = values.get(key)
                values[key] = value if former is None else fold(former, value)
                if exemplar:
                    seen[key] = max((Exemplar(*exemplar[0]), *_known(seen, key)), key=lambda one: one.timestamp or 0)
        for metric, values in families.values():
            metric.samples = [
                Sample(key[0], dict(key[1]), value, exemplar=seen.get(key)) for key, value in values.items()
            ]
            yield metric


def families_of(registry: CollectorRegistry) -> list[FamilyData]:
    """The families of a registry, to be told to another process."""
    return [
        [each.name, each.documentation, each.type, [_told(one) for one in each.samples]] for each in registry.collect()
    ]


def _told(sample: Sample) -> list[Any]:
    exemplar = () if sample.exemplar is None else (list(sample.exemplar),)
    return [sample.name, sample.labels, sample.value, *exemplar]


def _known(seen: Mapping[Any, Exemplar], key: Any) -> tuple[Exemplar, ...]:
    return (seen[key],) if key in seen else ()


def counted(told: Sequence[FamilyData]) -> list[FamilyData]:
    """Of a worker that is gone, what must not go back: counters and histograms."""
    return [family for family in told if family[2] in ("counter", "histogram")]


def _fold_of(name: str) -> Callable[[float, float], float]:
    if name in _MOST:
        return max
    return min if name in _LEAST else add


_COUNTS: Final = ("exhaustions", "closed", "opened", "evicted", "resets", "violations")
_TIMES: Final = ("acquire_wait", "hold")


def merged_stats(every: Sequence[Stats], past: Sequence[Stats] = ()) -> Stats:
    """The pools and servers of all, and what they and those in `past` counted that is not of one tenant.

    Counts by tenant are of the first alone: `named.NamedCounters` adds those up.
    """
    pools = merged_pools(pool for stats in every for pool in stats.pools)
    servers = merged_servers(server for stats in every for server in stats.servers)
    limit = sum(stats.pools_limit for stats in every)
    counted = [*every, *past]
    sums: dict[str, Any] = {name: _summed([getattr(each, name) for each in counted], add) for name in _COUNTS}
    sums |= {name: _summed([getattr(each, name) for each in counted], _together) for name in _TIMES}
    return replace(every[0], pools=tuple(pools), servers=tuple(servers), pools_limit=limit, **sums)


def _summed(every: Sequence[Mapping[Any, Any]], fold: Callable[[Any, Any], Any]) -> dict[Any, Any]:
    sums: dict[Any, Any] = {}
    for each in every:
        for name, value in each.items():
            sums[name] = fold(sums[name], value) if name in sums else value
    return sums


def _together(one: HistogramSnapshot, other: HistogramSnapshot) -> HistogramSnapshot:
    counts = tuple(map(sum, zip(one.counts, other.counts, strict=True)))
    return HistogramSnapshot(bounds=one.bounds, counts=counts, total=one.total + other.total)


def merged_servers(servers: Iterable[ServerStats]) -> list[ServerStats]:
    """One entry for each server, with what all workers have of its budget; up where it is for all of them."""
    by_name: dict[str, ServerStats] = {}
    for one in servers:
        former = by_name.get(one.server)
        by_name[one.server] = one if former is None else _joined(former, one)
    return list(by_name.values())


def _joined(one: ServerStats, other: ServerStats) -> ServerStats:
    names = ("connections", "limit", "waiting_pools", "lingering")
    sums = {name: getattr(one, name) + getattr(other, name) for name in names}
    known = [each for each in (one.max_connections, other.max_connections) if each is not None]
    is_up, configured = one.up and other.up, max(one.configured, other.configured)
    return replace(
        one,
        up=is_up,
        configured=configured,
        max_connections=max(known, default=None),
        open_seconds=_together(one.open_seconds, other.open_seconds),
        **sums,
    )


def merged_readiness(every: Sequence[Readiness]) -> dict[str, bool]:
    """What holds for the service: what does for one worker that is ready, else for any of them."""
    ready = next((each for each in every if all(each.values())), None)
    if ready is not None:
        return dict(ready)
    return {name: any(each.get(name, False) for each in every) for name in (every[0] if every else ())}
