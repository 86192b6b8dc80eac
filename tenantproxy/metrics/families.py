"""How does a snapshot become a Prometheus family? Small pure functions; every name gets the prefix here.

Families made this way carry no `_created` samples: those double the series and say what process_start_time says.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

from tenantproxy.pools.base import HistogramSnapshot

__all__ = ["PREFIX", "Labels", "counter", "gauge", "histogram"]

PREFIX: Final = "tenantproxy_"

Labels = tuple[str, ...]
"""Label values, in the order of the family's label names."""

Key = TypeVar("Key", bound=Labels)  # Mapping's keys are invariant: a mapping by pairs must do as well


def gauge(name: str, text: str, labels: Labels, values: Mapping[Key, float]) -> GaugeMetricFamily:
    """A gauge with one sample for each key of `values`."""
    family = GaugeMetricFamily(PREFIX + name, text, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def counter(
    name: str, text: str, labels: Labels, values: Mapping[Key, float], *, known: Iterable[str] = ()
) -> CounterMetricFamily:
    """A counter (`name` without `_total`). `known`: values of its one label that are shown from the start as 0.

    A counter that first appears as 1 has no increase for Prometheus: an alert on it would miss the first case.
    """
    family = CounterMetricFamily(PREFIX + name, text, labels=labels)
    for each in known:
        if (each,) not in values:
            family.add_metric((each,), 0.0)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def histogram(name: str, text: str, labels: Labels, values: Mapping[Key, HistogramSnapshot]) -> HistogramMetricFamily:
    """A histogram; the snapshots' counts are per bucket, Prometheus wants them cumulative."""
    family = HistogramMetricFamily(PREFIX + name, text, labels=labels)
    for key, snapshot in values.items():
        family.add_metric(key, _cumulative(snapshot), snapshot.total)
    return family


def _cumulative(snapshot: HistogramSnapshot) -> list[tuple[str, float]]:
    buckets: list[tuple[str, float]] = []
    so_far = 0
    for bound, count in zip((*snapshot.bounds, float("inf")), snapshot.counts, strict=True):
        so_far += count
        buckets.append((_bound(bound), so_far))
    return buckets


def _bound(seconds: float) -> str:
    return "+Inf" if seconds == float("inf") else str(float(seconds))  # as OpenMetrics wants numbers in `le`
