"""What does a scrape say of a process's fleet? The names and labels that alerts and dashboards of operators go by."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, generate_latest

from tenantproxy.fleet.stats import FleetServerStats, FleetStats
from tenantproxy.metrics.fleet import FleetCollector

STATS = FleetStats(
    fleet="default",
    process="p",
    servers=(
        FleetServerStats(server="primary", granted=7, target=6, wanted=5.5, used=4, cap=57, processes=3, ghosts=2),
    ),
    last_renewal=1700000000.5,
    calls=1,
    failures=0,
)


def scraped(stats: FleetStats | None) -> list[str]:
    registry = CollectorRegistry()
    registry.register(FleetCollector(lambda: stats))
    return [line for line in generate_latest(registry).decode().splitlines() if not line.startswith("#")]


def test_each_gauge_of_a_fleet_has_its_name_its_server_and_its_value() -> None:
    assert scraped(STATS) == [
        'tenantproxy_fleet_granted{server="primary"} 7.0',
        'tenantproxy_fleet_wanted{server="primary"} 5.5',
        'tenantproxy_fleet_used{server="primary"} 4.0',
        'tenantproxy_fleet_cap{server="primary"} 57.0',
        'tenantproxy_fleet_processes{server="primary"} 3.0',
        'tenantproxy_fleet_ghosts{server="primary"} 2.0',
        "tenantproxy_fleet_last_renewal_timestamp_seconds 1.7000000005e+09",
    ]


def test_a_process_without_a_fleet_says_nothing_of_one() -> None:
    assert not scraped(None)
