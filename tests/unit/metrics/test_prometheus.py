"""Does the collector show a snapshot as the series that dashboards and alerts are written for?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from tenantproxy.metrics.exposition import exposition, exposition_in_slices, registry_of
from tenantproxy.metrics.prometheus import RouterCollector
from tenantproxy.model import Isolation, PoolKey, TenantStatus
from tenantproxy.pools.base import AcquireResult, HistogramSnapshot, PoolStats, ServerStats, Stats, TenantPoolStats
from tests.support.turns import counting_turns

OPENMETRICS = "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"
SECONDS = HistogramSnapshot(bounds=(0.1, 1.0), counts=(3, 2, 1), total=4.5)


def tenant(name: str, **kept: Any) -> TenantPoolStats:
    values: dict[str, Any] = {"leased": 0, "waiting": 0, "oldest_wait_seconds": 0.0, "max_size": 10}
    return TenantPoolStats(tenant=name, **(values | kept))


def pool(label: str, *, schema: str | None = None, tenants: tuple[TenantPoolStats, ...] = (), **kept: int) -> PoolStats:
    values = dict.fromkeys(("idle", "used", "opening", "resetting", "retiring", "waiting"), 0) | {"limit": 10} | kept
    key = PoolKey(server="primary", database="d", schema=schema)
    return PoolStats(key=key, label=label, tenants=tenants, **values)


SERVER = ServerStats(
    server="primary",
    connections=7,
    limit=40,
    configured=50,
    waiting_pools=0,
    up=True,
    max_connections=100,
    open_seconds=SECONDS,
)
STATS = Stats(
    pools=(
        pool("acme", schema="crm", idle=1, used=2, tenants=(tenant("acme", waiting=3, oldest_wait_seconds=0.5),)),
        pool("acme", schema="erp", idle=4, tenants=(tenant("acme", waiting=1, oldest_wait_seconds=2.5),)),
        pool("primary/shared", limit=20, used=1, resetting=1, tenants=(tenant("red"), tenant("blue", waiting=2))),
    ),
    servers=(SERVER,),
    pools_limit=100,
    acquires={"acme": {"ok": 5, "timeout": 1}, "_other": {"ok": 9}},
    former_acquires={"ok": 4},
    exhaustions={"tenant_limit": 3},
    exhaustions_by_tenant={"acme": {"tenant_limit": 1}, "_other": {"tenant_limit": 1}},
    former_exhaustions={"tenant_limit": 1},
    acquire_wait={Isolation.ROW: SECONDS},
    hold={Isolation.ROW: SECONDS},
    closed={"idle": 2},
    opened={"cold": 3},
    evicted={"lru": 1},
    resets={"ok": 12},
    bind_failures=3,
    violations={"prepared_in_sql": 1},
    lookups={("file", "hit"): 8},
    lookup_seconds={"file": SECONDS},
    registry_last_success=1700000000.0,
)


def scrape(stats: Stats = STATS, accept: str = "", **kept: Any) -> str:
    registry = registry_of(RouterCollector(lambda: stats, version="1.2.3", **kept))
    return exposition(registry, accept)[0].decode()


def samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    found: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
    for family in parse_text(text):
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in found, f"{key} twice"
            found[key] = sample.value
    return found


def test_a_snapshot_is_shown_as_this_very_text() -> None:
    text = scrape()
    for line in EXPECTED.strip().splitlines():
        assert line in text.splitlines()
    assert {each.name for each in parse_text(text)} == {"tenantproxy_" + name for name in FAMILIES.split()}


FAMILIES = """
build_info pools pools_limit pool_connections pool_connections_limit pool_waiting_requests
pool_oldest_wait_seconds pool_acquires pool_acquires_former exhaustions exhaustions_former
pool_acquire_wait_seconds pool_hold_seconds
connection_open_seconds connections_closed pool_opens pool_evictions server_connections
server_connections_limit server_connections_configured server_max_connections server_up
replica_lag_seconds server_host_info server_failovers
session_resets session_bind_failures isolation_violations tenant_lookups
tenants_unusable tenant_lookup_seconds registry_last_success_timestamp_seconds
"""

EXPECTED = """
# TYPE tenantproxy_build_info gauge
tenantproxy_build_info{version="1.2.3"} 1.0
tenantproxy_pools 3.0
tenantproxy_pools_limit 100.0
tenantproxy_pool_connections{pool="acme",state="idle"} 5.0
tenantproxy_pool_connections{pool="acme",state="used"} 2.0
tenantproxy_pool_connections{pool="primary/shared",state="resetting"} 1.0
tenantproxy_pool_connections_limit{pool="acme"} 20.0
tenantproxy_pool_waiting_requests{tenant="acme"} 4.0
tenantproxy_pool_waiting_requests{tenant="_other"} 2.0
tenantproxy_pool_oldest_wait_seconds{tenant="acme"} 2.5
# TYPE tenantproxy_pool_acquires_total counter
tenantproxy_pool_acquires_total{result="timeout",tenant="acme"} 1.0
tenantproxy_pool_acquires_total{result="ok",tenant="_other"} 9.0
tenantproxy_pool_acquires_former_total{result="ok"} 4.0
tenantproxy_exhaustions_total{cause="tenant_limit",tenant="acme"} 1.0
tenantproxy_exhaustions_total{cause="tenant_limit",tenant="_other"} 1.0
tenantproxy_exhaustions_total{cause="registry",tenant="_other"} 0.0
tenantproxy_exhaustions_former_total{cause="tenant_limit"} 1.0
# TYPE tenantproxy_pool_acquire_wait_seconds histogram
tenantproxy_pool_acquire_wait_seconds_bucket{isolation="row",le="0.1"} 3.0
tenantproxy_pool_acquire_wait_seconds_bucket{isolation="row",le="1.0"} 5.0
tenantproxy_pool_acquire_wait_seconds_bucket{isolation="row",le="+Inf"} 6.0
tenantproxy_pool_acquire_wait_seconds_count{isolation="row"} 6.0
tenantproxy_pool_acquire_wait_seconds_sum{isolation="row"} 4.5
tenantproxy_pool_hold_seconds_count{isolation="row"} 6.0
tenantproxy_connection_open_seconds_count{server="primary"} 6.0
tenantproxy_connections_closed_total{reason="idle"} 2.0
tenantproxy_connections_closed_total{reason="reset_failed"} 0.0
tenantproxy_pool_opens_total{reason="cold"} 3.0
tenantproxy_pool_opens_total{reason="reopen"} 0.0
tenantproxy_pool_evictions_total{reason="lru"} 1.0
tenantproxy_server_connections{server="primary"} 7.0
tenantproxy_server_connections_limit{server="primary"} 40.0
tenantproxy_server_connections_configured{server="primary"} 50.0
tenantproxy_server_max_connections{server="primary"} 100.0
tenantproxy_server_up{server="primary"} 1.0
tenantproxy_session_resets_total{result="ok"} 12.0
tenantproxy_session_bind_failures_total 3.0
tenantproxy_isolation_violations_total{check="prepared_in_sql"} 1.0
tenantproxy_tenant_lookups_total{result="hit",source="file"} 8.0
tenantproxy_tenant_lookup_seconds_count{source="file"} 6.0
tenantproxy_registry_last_success_timestamp_seconds 1.7e+09
"""


def test_both_formats_hold_the_same_numbers() -> None:
    plain = samples(scrape())
    modern = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in parse_openmetrics(scrape(accept=OPENMETRICS))  # type: ignore[no-untyped-call]
        for sample in family.samples
    }
    assert modern == plain


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("", "text/plain; version=0.0.4"),
        ("*/*", "text/plain; version=0.0.4"),
        ("text/plain;version=x.y", "text/plain; version=0.0.4"),
        (OPENMETRICS, "application/openmetrics-text; version=1.0.0"),
        ("application/openmetrics-text", "application/openmetrics-text; version=1.0.0"),
        ("application/openmetrics-text;q=0", "text/plain; version=0.0.4"),
        ("application/openmetrics-text; q=0.000, text/plain", "text/plain; version=0.0.4"),
        ("application/openmetrics-text;q=0.3,text/plain;q=0.5", "text/plain; version=0.0.4"),
        ("application/openmetrics-text;q=0.5,text/plain;q=0.2", "application/openmetrics-text; version=1.0.0"),
        ("application/openmetrics-text;q=x", "text/plain; version=0.0.4"),
        ("application/openmetrics-text; version=never", "application/openmetrics-text; version=1.0.0"),
    ],
)
def test_the_format_follows_the_accept_header_whatever_version_it_asks_for(accept: str, content_type: str) -> None:
    registry = registry_of(RouterCollector(lambda: STATS, version="1"))
    assert exposition(registry, accept)[1].startswith(content_type)


@pytest.mark.parametrize("accept", ["", OPENMETRICS])
def test_no_series_says_when_it_was_created(accept: str) -> None:
    assert "_created" not in scrape(accept=accept)


def test_pools_of_one_tenant_are_summed_and_its_longest_wait_counts() -> None:
    found = samples(scrape())
    assert found["tenantproxy_pool_connections", (("pool", "acme"), ("state", "idle"))] == 1 + 4
    assert found["tenantproxy_pool_waiting_requests", (("tenant", "acme"),)] == 3 + 1
    assert found["tenantproxy_pool_oldest_wait_seconds", (("tenant", "acme"),)] == 2.5


def test_histograms_never_carry_a_tenant() -> None:
    for family in parse_text(scrape()):
        if family.type == "histogram":
            assert not {label for sample in family.samples for label in sample.labels} & {"tenant", "pool"}, family.name


ODD = 'a"b\\c\nd \N{SNOWMAN}'


@pytest.mark.parametrize("accept", ["", OPENMETRICS])
async def test_in_slices_the_exposition_is_the_same_text(accept: str) -> None:
    counts = (0, 1, 999_999, 1_000_000, 123_456_789, 10**17)
    tenants: dict[str, Mapping[AcquireResult, int]] = {
        f"t{number}": {"ok": number, "error": counts[number % len(counts)]} for number in range(900)
    }
    pools = tuple(pool(name, tenants=(tenant(name, oldest_wait_seconds=0.1),)) for name in (*tenants, "t7", ODD))
    many = replace(STATS, acquires=tenants | {ODD: {"ok": 1}}, pools=pools, places=())
    registry = registry_of(RouterCollector(lambda: many, version=ODD))
    assert await exposition_in_slices(registry, accept) == exposition(registry, accept)


class Watched(tuple[PoolStats, ...]):
    """Pools that count how often one of them was looked at."""

    looks = 0

    def __iter__(self) -> Iterator[PoolStats]:
        for each in super().__iter__():
            self.looks += 1
            yield each


async def test_a_scrape_looks_at_few_pools_in_one_turn_of_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tenantproxy.slices.is_over", lambda _end: True)  # each step is a slice
    names = [f"t{number}" for number in range(600)]
    pools = Watched(pool(name, tenants=(tenant(name),)) for name in names)
    acquires: dict[str, Mapping[AcquireResult, int]] = {name: {"ok": 1} for name in names}
    registry = registry_of(RouterCollector(lambda: replace(STATS, pools=pools, acquires=acquires), version="1"))
    with counting_turns(lambda: pools.looks) as turns:
        body, _ = await exposition_in_slices(registry, "")
    assert body.count(b"tenantproxy_pool_connections_limit{") == len(names)
    assert pools.looks >= len(names)
    assert turns.most <= 50


def test_the_labels_of_tenants_are_bounded_whatever_pools_are_open() -> None:
    names = [f"t{number}" for number in range(500)]
    pools = tuple(pool(name, idle=1, tenants=(tenant(name, waiting=1),)) for name in names)
    shared = tuple(pool(f"primary/db{number}", used=1) for number in range(50))
    acquires: dict[str, Mapping[AcquireResult, int]] = {"t7": {"ok": 1}, "_other": {"ok": 499}}
    found = samples(
        scrape(
            replace(STATS, pools=pools + shared, acquires=acquires, exhaustions_by_tenant={}, places={"primary/db3"})
        )
    )
    assert {value for _, labels in found for name, value in labels if name == "tenant"} == {"t7", "_other"}
    assert {value for _, labels in found for name, value in labels if name == "pool"} == {"t7", "primary/db3", "_other"}
    assert found["tenantproxy_pool_waiting_requests", (("tenant", "_other"),)] == 499
    assert found["tenantproxy_pool_connections", (("pool", "_other"), ("state", "idle"))] == 499
    assert found["tenantproxy_pool_connections", (("pool", "_other"), ("state", "used"))] == 49


def test_an_evicted_pool_leaves_no_series_behind() -> None:
    assert 'pool="acme"' in scrape()
    text = scrape(replace(STATS, pools=STATS.pools[2:]))
    assert 'pool="acme"' not in text
    assert 'pool_waiting_requests{tenant="acme"}' not in text


def test_the_number_of_series_follows_open_pools_and_not_what_was_ever_seen() -> None:
    many = replace(STATS, pools=(), acquires={"_other": {"ok": 10_000}})
    assert len(samples(scrape(many))) < 120


def test_what_is_not_known_is_left_out_and_not_shown_as_zero() -> None:
    unknown = replace(STATS, servers=(replace(SERVER, max_connections=None),), registry_last_success=None)
    text = scrape(unknown)
    assert "tenantproxy_server_max_connections{" not in text
    assert "tenantproxy_registry_last_success_timestamp_seconds" not in text
    assert "tenantproxy_tenants{" not in text


def test_tenants_are_counted_where_the_registry_can() -> None:
    counts = {(Isolation.ROW, TenantStatus.ACTIVE): 2, (Isolation.SCHEMA, TenantStatus.SUSPENDED): 1}
    found = samples(scrape(tenants=lambda: counts))
    assert found["tenantproxy_tenants", (("isolation", "row"), ("status", "active"))] == 2
    assert found["tenantproxy_tenants", (("isolation", "schema"), ("status", "suspended"))] == 1


def test_a_label_with_quotes_and_line_breaks_is_escaped() -> None:
    odd = 'a"b\nc\\d'
    found = samples(scrape(replace(STATS, pools=(pool(odd),), acquires={odd: {"ok": 1}})))
    assert ("tenantproxy_pool_connections_limit", (("pool", odd),)) in found
