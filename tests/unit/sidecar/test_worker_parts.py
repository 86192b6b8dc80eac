"""Are budgets divided among workers exactly, limits so that none is 0, and what workers tell added up rightly? Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantproxy.config import settled, share_of
from tenantproxy.config.shares import divided
from tenantproxy.metrics.exposition import exposition, registry_of
from tenantproxy.metrics.families import histogram
from tenantproxy.pools.base import HistogramSnapshot, ServerStats
from tenantproxy.sidecar.pg.keys import MOST_WORKERS, new_pid, worker_of
from tenantproxy.sidecar.workers.budgets import lowered, raised
from tenantproxy.sidecar.workers.merged import Merged, counted, families_of, merged_readiness, merged_servers
from tenantproxy.sidecar.workers.staff import next_pause
from tenantproxy.watch import SeenTrace

P = "tenantproxy_"
held = st.lists(st.fixed_dictionaries({"one": st.integers(0, 40)}), min_size=1, max_size=6)


# --- budgets ---------------------------------------------------------------------------------------------------------
@given(total=st.integers(0, 100), have=held, more=st.integers(0, 2))
def test_what_workers_have_is_never_more_than_the_budget(total: int, have: list[dict[str, int]], more: int) -> None:
    parts = len(have) + more
    kept = lowered({"one": total}, have, parts)
    assert all(0 <= new["one"] <= old["one"] for new, old in zip(kept, have, strict=True)), "it only lowers"
    grants = raised({"one": total}, [*kept, *({} for _ in range(more))], parts)
    assert sum(grant["one"] for grant in grants) == total, "all of it, once they keep to what they were told"


@given(total=st.integers(0, 100), have=held)
def test_a_worker_that_still_holds_too_much_costs_the_others_and_not_the_budget(
    total: int, have: list[dict[str, int]]
) -> None:
    grants = raised({"one": total}, have, len(have))
    assert all(new["one"] >= old["one"] for new, old in zip(grants, have, strict=True)), "it only raises"
    assert sum(grant["one"] for grant in grants) <= max(total, sum(each["one"] for each in have))


@given(limit=st.integers(0, 1000), parts=st.integers(1, 50))
def test_parts_differ_by_one_at_most_and_are_the_whole(limit: int, parts: int) -> None:
    found = divided(limit, parts)
    assert sum(found) == limit
    assert max(found) - min(found) <= 1
    assert found == sorted(found, reverse=True)


def test_a_workers_share_of_each_limit_is_rounded_up_and_none_is_zero() -> None:
    whole = settled(
        {
            "main": {"server": "primary", "database": "main"},
            "servers": {"primary": {"user": "app", "password": "p", "max_connections": 40}},
            "registry": {"source": "file"},
            "pools": {"max_size": 7, "max_waiting": 1, "max_pools": 10},
            "pg": {"max_clients": 1001, "max_clients_per_tenant": 0},
            "http": {"max_clients": 9},
        },
        source="test.toml",
    )
    share = share_of(whole, 4)
    assert (share.pools.max_size, share.pools.max_waiting, share.pools.max_pools) == (2, 1, 3)
    assert (share.pg.max_clients, share.pg.max_clients_per_tenant, share.http.max_clients) == (251, 0, 3)
    assert share.servers["primary"].max_connections == 40, "budgets are the supervisor's to divide"


# --- ids, pauses -----------------------------------------------------------------------------------------------------
@given(worker=st.integers(0, MOST_WORKERS - 1))
def test_the_worker_is_found_in_each_process_id_that_a_client_was_told(worker: int) -> None:
    pid = new_pid(worker)
    assert worker_of(pid) == worker
    assert pid < 2**31
    assert worker_of(4_000_000) is None, "a server's own"


def test_a_worker_that_crashes_again_and_again_is_started_ever_later() -> None:
    pauses = [0.0]
    for _ in range(12):
        pauses.append(next_pause(pauses[-1], age=1.0))
    assert pauses[1:5] == [0.1, 0.2, 0.4, 0.8]
    assert pauses[-1] == 30.0
    assert next_pause(30.0, age=61.0) == 0.1, "it had worked for a minute"


# --- what they tell --------------------------------------------------------------------------------------------------
def family(name: str, value: float, kind: str = "gauge", **labels: str) -> list[Any]:
    sample = f"{P}{name}_total" if kind == "counter" else P + name
    return [P + name, "Text.", kind, [[sample, labels, value]]]


def merged(*told: list[Any]) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (one.name.removeprefix(P), tuple(one.labels.items())): one.value
        for each in Merged([[one] for one in told]).collect()
        for one in each.samples
    }


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("client_connections", "gauge", 5.0),
        ("pg_queries", "counter", 5.0),
        ("draining", "gauge", 3.0),
        ("eventloop_lag_seconds", "gauge", 3.0),
        ("fleet_cap", "gauge", 3.0),
        ("fleet_granted", "gauge", 5.0),
        ("fleet_last_renewal_timestamp_seconds", "gauge", 2.0),
        ("server_up", "gauge", 2.0),
    ],
)
def test_series_are_added_up_or_the_worst_of_them_is_told(name: str, kind: str, expected: float) -> None:
    (value,) = merged(family(name, 2.0, kind), family(name, 3.0, kind)).values()
    assert value == expected


def test_series_with_other_labels_stay_apart() -> None:
    found = merged(family("pools", 1.0, tenant="a"), family("pools", 2.0, tenant="b"), family("pools", 4.0, tenant="a"))
    assert found == {("pools", (("tenant", "a"),)): 5.0, ("pools", (("tenant", "b"),)): 2.0}


class Waits:
    """What a worker collects that saw one trace at that time, or none."""

    def __init__(self, at: float | None) -> None:
        self._seen = {} if at is None else {0: SeenTrace(f"trace-at-{at:g}", 0.01, at)}

    def collect(self) -> Iterator[Any]:
        counted = HistogramSnapshot(bounds=(0.1,), counts=(1, 0), total=0.01)
        yield histogram("waits", "Waits.", ("isolation",), {("row",): counted}, seen=lambda _: self._seen)


@pytest.mark.parametrize("order", [(1.0, 2.0), (2.0, 1.0)])
def test_the_last_exemplar_of_all_workers_is_shown_in_openmetrics_alone(order: tuple[float, float]) -> None:
    told = [families_of(registry_of(Waits(at))) for at in (*order, None)]
    series = registry_of(Merged(msgspec.msgpack.decode(msgspec.msgpack.encode(told))))
    modern, plain = (exposition(series, accept)[0].decode() for accept in ("application/openmetrics-text", ""))
    assert 'tenantproxy_waits_bucket{isolation="row",le="0.1"} 3.0 # {trace_id="trace-at-2"} 0.01 2.0' in modern
    assert "trace-at-1" not in modern
    assert "trace" not in plain


def test_of_a_worker_that_is_gone_counters_and_histograms_stay_and_gauges_do_not() -> None:
    told = [family("a", 1.0), family("b", 1.0, "counter"), family("c", 1.0, "histogram")]
    assert [each[0] for each in counted(told)] == [P + "b", P + "c"]


@pytest.mark.parametrize(
    ("every", "expected"),
    [
        ([], {}),
        ([{"a": False, "b": True}, {"a": True, "b": True}], {"a": True, "b": True}),
        ([{"a": False, "b": True}, {"a": True, "b": False}], {"a": True, "b": True}),
        ([{"a": False, "b": True}, {"a": False, "b": True}], {"a": False, "b": True}),
    ],
)
def test_the_service_is_ready_with_one_ready_worker(every: list[dict[str, bool]], expected: dict[str, bool]) -> None:
    assert merged_readiness(every) == expected


def stats(limit: int, *, up: bool = True, most: int | None = None) -> ServerStats:
    seconds = HistogramSnapshot(bounds=(1.0,), counts=(1, limit), total=0.5)
    return ServerStats(
        server="one", connections=1, limit=limit, configured=40, waiting_pools=2, lingering=1, up=up,
        max_connections=most, open_seconds=seconds,
    )  # fmt: skip


def test_a_server_is_up_where_it_is_for_all_and_its_limit_the_sum() -> None:
    (found,) = merged_servers([stats(13), stats(14, up=False, most=100)])
    assert (found.limit, found.connections, found.waiting_pools, found.lingering) == (27, 2, 4, 2)
    assert (found.up, found.configured, found.max_connections) == (False, 40, 100)
    assert (found.open_seconds.counts, found.open_seconds.total) == ((2, 27), 1.0)
