"""Which series are about the workers themselves? How many are in which state, and how often one crashed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from prometheus_client.core import Metric

from tenantproxy.metrics.families import counter, gauge
from tenantproxy.sidecar.workers.state import WorkerState

__all__ = ["WorkerCollector"]


class WorkerCollector:
    """A collector over the states of all workers and the count of crashes."""

    def __init__(self, states: Callable[[], Sequence[WorkerState]], crashes: Callable[[], int]) -> None:
        self._states = states
        self._crashes = crashes

    def collect(self) -> Iterator[Metric]:
        """Both families."""
        counts = Counter(self._states())
        by_state = {(state.value,): counts[state] for state in WorkerState if state is not WorkerState.GONE}
        yield gauge("workers", "Worker processes, by state.", ("state",), by_state)
        yield counter("worker_crashes", "Workers that ended by themselves.", (), {(): self._crashes()})
