"""Which Prometheus series does the process around a router have? Its listeners, its event loop, its way out.

Stateful: each listener counts its own requests (`Requests`); the composition root sets `draining` and the lag.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from prometheus_client.core import Metric

from tenantproxy.events import Histogram
from tenantproxy.metrics.families import Labels, counter, gauge, histogram
from tenantproxy.pools.base import HistogramSnapshot

__all__ = ["HttpRequests", "ListenerStats", "ProcessCollector", "ProcessStats"]

_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class HttpRequests:
    """Counts HTTP requests by route, method and status code.

    `route` is a pattern of the router (`/v1/pools/{tenant}`), never a path: a stranger chooses paths. So it is with
    methods: those that are not well known are `other`.
    """

    def __init__(self) -> None:
        self._codes: Counter[tuple[str, str, int]] = Counter()
        self._seconds: dict[tuple[str, str], Histogram] = {}
        self._observers: dict[tuple[str, str], Callable[[int, float], None]] = {}

    def observe(self, *, route: str, method: str, code: int, seconds: float) -> None:
        """Count one finished request."""
        self.observer(route=route, method=method)(code, seconds)

    def observer(self, *, route: str, method: str) -> Callable[[int, float], None]:
        """What counts finished requests of one route and method, by code and seconds."""
        labels = route, method if method in _METHODS else "other"
        if (known := self._observers.get(labels)) is None:
            known = self._observers[labels] = partial(self._observe, labels)
        return known

    def _observe(self, labels: tuple[str, str], code: int, seconds: float) -> None:
        self._codes[(*labels, code)] += 1
        if (kept := self._seconds.get(labels)) is None:
            kept = self._seconds[labels] = Histogram()
        kept.observe(seconds)

    @property
    def codes(self) -> dict[Labels, float]:
        """Requests by (route, method, code)."""
        return {(route, method, str(code)): n for (route, method, code), n in self._codes.items()}

    @property
    def seconds(self) -> dict[Labels, HistogramSnapshot]:
        """Durations by (route, method)."""
        return {
            key: HistogramSnapshot(bounds=kept.bounds, counts=tuple(kept.counts), total=kept.total)
            for key, kept in self._seconds.items()
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerStats:
    """One listener, now: how many clients are connected, and how many may be.

    `received` and `sent`: bytes from and to its clients since the start; None where they are not counted.
    `certificate_expires_at`: unix seconds; None: it has no TLS.
    """

    protocol: str
    clients: int
    limit: int
    received: int | None = None
    sent: int | None = None
    certificate_expires_at: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessStats:
    """The process, now. `lag_seconds`: how late the event loop recently ran what was due, at worst."""

    listeners: Sequence[ListenerStats]
    draining: bool
    lag_seconds: float


class ProcessCollector:
    """A collector for prometheus-client over the sidecar's own state."""

    def __init__(self, stats: Callable[[], ProcessStats], requests: HttpRequests) -> None:
        self._stats = stats
        self._requests = requests

    def collect(self) -> Iterator[Metric]:
        """All families, of this moment."""
        now = self._stats()
        connected: dict[Labels, float] = {(each.protocol,): each.clients for each in now.listeners}
        limits: dict[Labels, float] = {(each.protocol,): each.limit for each in now.listeners}
        yield gauge("client_connections", "Connected clients.", ("protocol",), connected)
        yield gauge("clients_limit", "Clients that may be connected.", ("protocol",), limits)
        ends: dict[Labels, float] = {
            (each.protocol,): each.certificate_expires_at
            for each in now.listeners
            if each.certificate_expires_at is not None
        }
        what = "When the certificate of a listener expires, unix time."
        yield gauge("certificate_expiry_timestamp_seconds", what, ("protocol",), ends)
        passed = {
            (each.protocol, direction): count
            for each in now.listeners
            for direction, count in (("received", each.received), ("sent", each.sent))
            if count is not None
        }
        yield counter("client_bytes", "Bytes from clients and to them.", ("protocol", "direction"), passed)
        route = ("route", "method")
        yield counter("http_requests", "HTTP requests answered.", (*route, "code"), self._requests.codes)
        yield histogram("http_request_seconds", "From a request's head to its answer.", route, self._requests.seconds)
        yield gauge(
            "draining", "1 while the process finishes what it has and takes nothing new.", (), {(): int(now.draining)}
        )
        yield gauge(
            "eventloop_lag_seconds",
            "How late the event loop was at worst in the last ten seconds.",
            (),
            {(): now.lag_seconds},
        )
