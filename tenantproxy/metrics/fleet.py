"""What does a process tell Prometheus of its fleet? Its part of each server; nothing where it shares with no other."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client.core import Metric

from tenantproxy.fleet.stats import FleetServerStats, FleetStats
from tenantproxy.metrics.families import gauge

__all__ = ["FleetCollector"]

_OF_SERVERS: tuple[tuple[str, str, Callable[[FleetServerStats], float]], ...] = (
    ("fleet_granted", "Connections that this process may have, as the main database said.", lambda one: one.granted),
    ("fleet_wanted", "Connections that this process could use: leases, waiters, connects.", lambda one: one.wanted),
    ("fleet_used", "Connections that this process has, its own to the main database included.", lambda one: one.used),
    (
        "fleet_cap",
        "Most connections of all processes together, as far as this one knows.",
        lambda one: one.cap,
    ),
    ("fleet_processes", "Processes of the fleet that are alive, as the main database said.", lambda one: one.processes),
    ("fleet_ghosts", "Connections of silent processes that were seen on the server.", lambda one: one.ghosts),
)


class FleetCollector:
    """A collector for prometheus-client over `router.fleet`."""

    def __init__(self, stats: Callable[[], FleetStats | None]) -> None:
        self._stats = stats

    def collect(self) -> Iterator[Metric]:
        """The families, of this moment."""
        stats = self._stats()
        if stats is None:
            return
        for name, text, value in _OF_SERVERS:
            yield gauge(name, text, ("server",), {(one.server,): value(one) for one in stats.servers})
        text = "When the main database last said what this process may have."
        yield gauge("fleet_last_renewal_timestamp_seconds", text, (), {(): stats.last_renewal})
