"""Do the counters of tenants add up over workers that name others, end, and come again?"""

from __future__ import annotations

from typing import Any

from tenantproxy.sidecar.workers.named import NamedCounters

ACQUIRES = "tenantproxy_pool_acquires"


def told(**by_tenant: float) -> list[Any]:
    samples = [[f"{ACQUIRES}_total", {"tenant": name, "result": "ok"}, count] for name, count in by_tenant.items()]
    return [
        [ACQUIRES, "text", "counter", samples],
        [f"{ACQUIRES}_former", "text", "counter", [[f"{ACQUIRES}_former_total", {"result": "ok"}, 999]]],
        ["tenantproxy_pools", "text", "gauge", [["tenantproxy_pools", {}, 1.0]]],
    ]


def shown(named: NamedCounters) -> dict[str, float]:
    return {
        labels.get("tenant", "former"): count for _, _, _, samples in named.families() for _, labels, count in samples
    }


def test_the_sum_does_not_go_back_when_a_worker_names_another_tenant() -> None:
    named = NamedCounters(5)
    named.told(1, told(a=100))
    named.told(2, told(a=50))
    assert shown(named) == {"a": 150}
    named.told(1, told(b=1))
    named.told(2, told(a=60))
    assert shown(named) == {"a": 160, "b": 1}
    named.told(1, told(b=1, a=0))
    named.told(1, told(b=1, a=7))
    assert shown(named) == {"a": 167, "b": 1}


def test_what_a_worker_counted_that_ended_stays() -> None:
    named = NamedCounters(5)
    named.told(1, told(a=100))
    named.gone(1)
    named.told(1, told(a=3))
    assert shown(named) == {"a": 103}


def test_tenants_that_no_worker_names_make_room_and_add_to_former_ones() -> None:
    named = NamedCounters(2)
    for count, name in enumerate("abcde", start=1):
        named.told(1, told(**{name: count}))
    assert shown(named) == {"c": 3, "d": 4, "e": 5, "former": 3}


def test_what_is_of_no_single_tenant_passes_through() -> None:
    rest = NamedCounters(5).told(1, told(_other=4, a=1))
    assert [(name, samples) for name, _, _, samples in rest] == [
        (ACQUIRES, [[f"{ACQUIRES}_total", {"tenant": "_other", "result": "ok"}, 4]]),
        ("tenantproxy_pools", [["tenantproxy_pools", {}, 1.0]]),
    ]


def test_families_of_former_tenants_are_there_from_the_start() -> None:
    named = NamedCounters(5)
    named.told(1, told(a=1))
    assert {name for name, *_ in named.families()} == {ACQUIRES, f"{ACQUIRES}_former"}
