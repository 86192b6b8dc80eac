"""Does the PostgreSQL port show its series, and nothing without a port?"""

from __future__ import annotations

from tenantproxy.metrics.exposition import exposition, registry_of
from tenantproxy.metrics.pg import LimitUsage, PgCollector, PgStats


def scrape(stats: PgStats | None) -> list[str]:
    return exposition(registry_of(PgCollector(lambda: stats)), "")[0].decode().splitlines()


def test_queries_and_transactions_are_told_by_tenant() -> None:
    lines = scrape(PgStats(queries={"acme": 5, "_other": 7}, transactions={"acme": 2}, waiting=3, paused=1))
    assert 'tenantproxy_pg_queries_total{tenant="acme"} 5.0' in lines
    assert 'tenantproxy_pg_queries_total{tenant="_other"} 7.0' in lines
    assert 'tenantproxy_pg_transactions_total{tenant="acme"} 2.0' in lines
    assert "tenantproxy_pg_waiting_clients 3.0" in lines
    assert "tenantproxy_pg_paused_tenants 1.0" in lines


def test_logins_are_shown_from_the_start_so_that_an_alert_sees_the_first_one_refused() -> None:
    lines = scrape(PgStats(queries={}, transactions={}, logins={"ok": 4}))
    assert 'tenantproxy_pg_logins_total{result="ok"} 4.0' in lines
    for result in ("refused", "not_served", "error"):
        assert f'tenantproxy_pg_logins_total{{result="{result}"}} 0.0' in lines


def test_each_limit_shows_what_is_used_of_it_and_never_by_whom() -> None:
    usage = LimitUsage("max_clients_per_tenant", 6, 5, "acme", 3)
    lines = scrape(PgStats(queries={}, transactions={}, limits=(usage,)))
    assert 'tenantproxy_pg_limit{limit="max_clients_per_tenant"} 6.0' in lines
    assert 'tenantproxy_pg_limit_used{limit="max_clients_per_tenant"} 5.0' in lines
    assert 'tenantproxy_pg_limit_refused_total{limit="max_clients_per_tenant"} 3.0' in lines
    assert "acme" not in "".join(lines)


def test_without_a_port_there_are_no_series() -> None:
    assert scrape(None) == []


def test_which_data_path_runs_is_told_and_how_much_the_compiled_one_carried() -> None:
    lines = scrape(PgStats(queries={}, transactions={}, is_compiled=True, carried=9))
    assert 'tenantproxy_pg_data_path{path="compiled"} 1.0' in lines
    assert "tenantproxy_pg_carried_transactions_total 9.0" in lines
    assert 'tenantproxy_pg_data_path{path="python"} 1.0' in scrape(PgStats(queries={}, transactions={}))


def test_handshakes_are_shown_from_the_start_by_how_they_ended() -> None:
    lines = scrape(PgStats(queries={}, transactions={}, handshakes={"ok": 7, "certificate": 2}, encrypted=3))
    assert 'tenantproxy_pg_tls_handshakes_total{result="ok"} 7.0' in lines
    assert 'tenantproxy_pg_tls_handshakes_total{result="certificate"} 2.0' in lines
    assert 'tenantproxy_pg_tls_handshakes_total{result="timeout"} 0.0' in lines
    assert "tenantproxy_pg_tls_clients 3.0" in lines
