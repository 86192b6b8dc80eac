"""How does a snapshot become a Prometheus family? Small pure functions; every name gets the prefix here.

Families made this way carry no `_created` samples: those double the series and say what process_start_time says.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, TypeVar

from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.samples import Sample

from tenantproxy.pools.base import HistogramSnapshot

__all__ = ["PREFIX", "Family", "Labels", "counter", "gauge", "histogram"]

PREFIX: Final = "tenantproxy_"

Labels = tuple[str, ...]
"""Label values, in the order of the family's label names."""

Key = TypeVar("Key", bound=Labels)  # Mapping's keys are invariant: a mapping by pairs must do as well


class Family(Metric):
    """A gauge or counter whose samples are made when they are asked for: a long family can be made in slices."""

    def __init__(self, name: str, text: str, kind: str, labels: Labels, values: Mapping[Key, float]) -> None:
        self._labels = labels
        self._values = list(values.items())
        self._sample_name = f"{name}_total" if kind == "counter" else name
        super().__init__(name, text, kind)

    def __len__(self) -> int:
        return len(self._values)

    def some(self, first: int, count: int) -> list[Sample]:
        """`count` samples from the one numbered `first` on."""
        return [
            Sample(self._sample_name, dict(zip(self._labels, key, strict=True)), value)
            for key, value in self._values[first : first + count]
        ]

    @property
    def samples(self) -> list[Sample]:
        """All of them, as prometheus-client wants them."""
        return self.some(0, len(self._values))

    @samples.setter
    def samples(self, samples: list[Sample]) -> None:
        """What `Metric` does when it is made."""


def gauge(name: str, text: str, labels: Labels, values: Mapping[Key, float]) -> Metric:
    """A gauge with one sample for each key of `values`."""
    return Family(PREFIX + name, text, "gauge", labels, values)


def counter(name: str, text: str, labels: Labels, values: Mapping[Key, float], *, known: Iterable[str] = ()) -> Metric:
    """A counter (`name` without `_total`). `known`: values of its one label that are shown from the start as 0.

    A counter that first appears as 1 has no increase for Prometheus: an alert on it would miss the first case.
    """
    missing: dict[Labels, float] = {(each,): 0.0 for each in known if (each,) not in values}
    return Family(PREFIX + name, text, "counter", labels, {**missing, **values} if missing else values)


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
