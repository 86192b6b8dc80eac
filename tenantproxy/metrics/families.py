"""How does a snapshot become a Prometheus family? Small pure functions; every name gets the prefix here.

Families made this way carry no `_created` samples: those double the series and say what process_start_time says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from operator import add
from typing import Any, Final, TypeVar

from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.samples import Exemplar, Sample
from prometheus_client.utils import floatToGoString

from tenantproxy.pools.base import HistogramSnapshot
from tenantproxy.watch import SeenTrace

__all__ = ["PREFIX", "Family", "Labels", "counter", "counter_of", "gauge", "gauge_of", "histogram"]

PREFIX: Final = "tenantproxy_"
_STEP: Final = 50  # samples; some hundredths of a slice
_PLAIN: Final = 999_999  # above it Go writes numbers with an exponent

Labels = tuple[str, ...]
"""Label values, in the order of the family's label names."""

Key = TypeVar("Key", bound=Labels)  # Mapping's keys are invariant: a mapping by pairs must do as well


class Family(Metric):
    """A gauge or counter whose values are summed up, and whose samples and lines are made, when they are asked for.

    That can be done in steps, so that a long family does not hold the event loop. `pairs` are read once; `fold` joins
    the values of the same labels.
    """

    def __init__(
        self,
        name: str,
        text: str,
        kind: str,
        labels: Labels,
        pairs: Iterable[tuple[Key, float]],
        *,
        fold: Callable[[float, float], float] = add,
    ) -> None:
        self._labels = labels
        self._pairs = iter(pairs)
        self._fold = fold
        self._values: dict[Any, float] = {}
        self._sample_name = f"{name}_total" if kind == "counter" else name
        super().__init__(name, text, kind)

    def lines(self) -> Iterator[str]:
        """Its samples as text, the same in both formats, in steps; what comes of a step may be empty."""
        for _ in self._sum():
            yield ""
        order = sorted(range(len(self._labels)), key=self._labels.__getitem__)
        labels = ",".join(f'{self._labels[place]}="%s"' for place in order)
        line = f"{self._sample_name}{{{labels}}} %s\n" if labels else f"{self._sample_name} %s\n"
        values = iter(self._values.items())
        while some := list(islice(values, _STEP)):
            yield "".join([line % (*[_escaped(key[place]) for place in order], _number(value)) for key, value in some])

    def _sum(self) -> Iterator[None]:
        """Read all pairs, in steps."""
        values, fold = self._values, self._fold
        while some := list(islice(self._pairs, _STEP)):
            for key, value in some:
                former = values.get(key)
                values[key] = value if former is None else fold(former, value)
            yield

    @property
    def samples(self) -> list[Sample]:
        """All of them, as prometheus-client wants them."""
        for _ in self._sum():
            pass
        return [
            Sample(self._sample_name, dict(zip(self._labels, key, strict=True)), value)
            for key, value in self._values.items()
        ]

    @samples.setter
    def samples(self, samples: list[Sample]) -> None:
        """What `Metric` does when it is made."""


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _number(value: float) -> str:
    # Most are small whole numbers, which need no `floatToGoString`.
    if type(value) is int and 0 <= value <= _PLAIN:
        return f"{value}.0"
    text: str = floatToGoString(value)  # type: ignore[no-untyped-call]
    return text


def gauge(name: str, text: str, labels: Labels, values: Mapping[Key, float]) -> Metric:
    """A gauge with one sample for each key of `values`."""
    return Family(PREFIX + name, text, "gauge", labels, list(values.items()))


def gauge_of(
    name: str,
    text: str,
    labels: Labels,
    pairs: Iterable[tuple[Key, float]],
    *,
    fold: Callable[[float, float], float] = add,
) -> Metric:
    """A gauge of many `pairs`, which are read when the samples are wanted; `fold` joins those of the same labels."""
    return Family(PREFIX + name, text, "gauge", labels, pairs, fold=fold)


def counter_of(name: str, text: str, labels: Labels, pairs: Iterable[tuple[Key, float]]) -> Metric:
    """A counter (`name` without `_total`) of many `pairs`, which are read when the samples are wanted."""
    return Family(PREFIX + name, text, "counter", labels, pairs)


def counter(name: str, text: str, labels: Labels, values: Mapping[Key, float], *, known: Iterable[str] = ()) -> Metric:
    """A counter (`name` without `_total`). `known`: values of its one label that are shown from the start as 0.

    A counter that first appears as 1 has no increase for Prometheus: an alert on it would miss the first case.
    """
    missing: dict[Labels, float] = {(each,): 0.0 for each in known if (each,) not in values}
    shown: list[tuple[Labels, float]] = [*missing.items(), *values.items()]
    return Family(PREFIX + name, text, "counter", labels, shown)


def histogram(
    name: str,
    text: str,
    labels: Labels,
    values: Mapping[Key, HistogramSnapshot],
    *,
    seen: Callable[[Key], Mapping[int, SeenTrace]] = lambda _: {},
) -> HistogramMetricFamily:
    """A histogram; the snapshots' counts are per bucket, Prometheus wants them cumulative.

    `seen`: by bucket, a trace that is shown with it as an exemplar, in OpenMetrics.
    """
    family = HistogramMetricFamily(PREFIX + name, text, labels=labels)
    for key, snapshot in values.items():
        family.add_metric(key, _cumulative(snapshot, seen(key)), snapshot.total)
    return family


def _cumulative(snapshot: HistogramSnapshot, seen: Mapping[int, SeenTrace]) -> list[Any]:
    buckets: list[Any] = []
    so_far = 0
    for number, (bound, count) in enumerate(zip((*snapshot.bounds, float("inf")), snapshot.counts, strict=True)):
        so_far += count
        one = seen.get(number) if seen else None
        exemplar = () if one is None else (Exemplar({"trace_id": one.trace_id}, one.seconds, one.at),)
        buckets.append((_bound(bound), so_far, *exemplar))
    return buckets


def _bound(seconds: float) -> str:
    return "+Inf" if seconds == float("inf") else str(float(seconds))  # as OpenMetrics wants numbers in `le`
