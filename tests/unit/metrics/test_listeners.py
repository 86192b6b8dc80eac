"""Does the process show its listeners without letting strangers choose labels?"""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families as parse_text

from tenantproxy.metrics.exposition import exposition, registry_of
from tenantproxy.metrics.listeners import HttpRequests, ListenerStats, ProcessCollector, ProcessStats


def scrape(requests: HttpRequests, *, draining: bool = False) -> str:
    now = ProcessStats(
        listeners=(ListenerStats(protocol="http", clients=3, limit=1000),), draining=draining, lag_seconds=0.25
    )
    return exposition(registry_of(ProcessCollector(lambda: now, requests)), "")[0].decode()


def test_requests_are_counted_by_route_method_and_code() -> None:
    requests = HttpRequests()
    requests.observe(route="/demo/projects", method="GET", code=200, seconds=0.003)
    requests.observe(route="/demo/projects", method="GET", code=200, seconds=0.003)
    requests.observe(route="/demo/projects", method="GET", code=401, seconds=0.001)
    lines = scrape(requests).splitlines()
    assert 'tenantproxy_http_requests_total{code="200",method="GET",route="/demo/projects"} 2.0' in lines
    assert 'tenantproxy_http_requests_total{code="401",method="GET",route="/demo/projects"} 1.0' in lines
    assert 'tenantproxy_http_request_seconds_count{method="GET",route="/demo/projects"} 3.0' in lines


def test_clients_draining_and_the_loops_lag_are_shown() -> None:
    lines = scrape(HttpRequests(), draining=True).splitlines()
    assert 'tenantproxy_client_connections{protocol="http"} 3.0' in lines
    assert 'tenantproxy_clients_limit{protocol="http"} 1000.0' in lines
    assert "tenantproxy_draining 1.0" in lines
    assert "tenantproxy_eventloop_lag_seconds 0.25" in lines


def test_bytes_are_shown_for_listeners_that_count_them() -> None:
    listeners = (
        ListenerStats(protocol="http", clients=0, limit=10),
        ListenerStats(protocol="pg", clients=1, limit=20, received=300, sent=0),
    )
    now = ProcessStats(listeners=listeners, draining=False, lag_seconds=0.0)
    lines = exposition(registry_of(ProcessCollector(lambda: now, HttpRequests())), "")[0].decode().splitlines()
    shown = [line for line in lines if line.startswith("tenantproxy_client_bytes_total")]
    assert shown == [
        'tenantproxy_client_bytes_total{direction="received",protocol="pg"} 300.0',
        'tenantproxy_client_bytes_total{direction="sent",protocol="pg"} 0.0',
    ]


def test_an_invented_method_makes_no_series_of_its_own() -> None:
    requests = HttpRequests()
    for number in range(50):
        requests.observe(route="unmatched", method=f"M{number}", code=405, seconds=0.0)
    methods = {s.labels.get("method") for family in parse_text(scrape(requests)) for s in family.samples}
    assert methods == {None, "other"}
