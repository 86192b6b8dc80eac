"""Is what clients of the port sent counted once, while tenants get and lose series?"""

from __future__ import annotations

from tenantproxy.model import TenantId, tenant_id
from tenantproxy.sidecar.pg.traffic import Traffic, TrafficTable


def table(named: set[str]) -> TrafficTable:
    return TrafficTable(
        lambda tenant: tenant if tenant in named else "_other", lambda tenant: tenant in {*named, "_other"}
    )


def queries(one: TrafficTable) -> dict[str, int]:
    return {label: traffic.queries for label, traffic in one.by_label.items()}


def test_clients_of_a_tenant_without_series_share_those_of_others() -> None:
    one = table({"a"})
    one.of(tenant_id("a")).queries += 1
    for name in ("b", "c"):
        one.of(tenant_id(name)).queries += 1
    assert queries(one) == {"a": 1, "_other": 2}


def test_clients_whose_tenant_lost_its_series_go_on_in_others() -> None:
    named = {"a"}
    one = table(named)
    kept = one.of(tenant_id("a"))
    kept.queries += 5
    named.clear()
    one.settle(lambda: {id(kept)})
    assert (queries(one), one.former.queries) == ({"_other": 0}, 5)
    for total in (2, 4):
        kept.queries += 2
        one.settle(lambda: {id(kept)})
        assert queries(one) == {"_other": total}
    one.settle(set)
    kept.queries += 1  # of a client that is gone
    one.settle(set)
    assert (queries(one), one.former.queries) == ({"_other": 4}, 5)


def test_a_tenant_that_comes_again_begins_at_zero() -> None:
    named = {"a"}
    one = table(named)
    one.of(tenant_id("a")).queries += 5
    named.clear()
    one.settle(set)
    named.add("a")
    assert one.of(tenant_id("a")).queries == 0


def test_every_counter_of_traffic_is_added_and_copied() -> None:
    one = Traffic()
    for number, name in enumerate(Traffic.__slots__):
        setattr(one, name, number)
    other = one.copy()
    other.add(one, one)
    other.add(one)
    assert [getattr(other, name) for name in Traffic.__slots__] == [2 * n for n in range(len(Traffic.__slots__))]
    assert TenantId("_other") not in table(set()).by_label
