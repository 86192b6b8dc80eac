"""Which pools are open, which go when there are too many, and what outlives them?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from tenantproxy.config import Pools
from tenantproxy.errors import PoolClosed, TenantEnded
from tenantproxy.events import PoolEvicted, PoolOpened
from tenantproxy.model import PoolKey, tenant_id
from tenantproxy.pools.counters import Counters
from tenantproxy.pools.lingering import STARTUP_SECONDS
from tenantproxy.pools.manager import PoolManager
from tests.support.fakes import House, ask, lease, ready, reset, retire, route

IDLE = 30.0


@pytest.fixture
def house() -> House:
    """Room for two pools."""
    return House(servers={"one": 40}, settings=Pools(max_pools=2, idle_timeout=IDLE))


def labels(house: House) -> list[str]:
    return [pool.label for pool in house.manager]


def end_all(house: House) -> None:
    for link in [link for link in house.connector.links if link.state == "retiring"]:
        house.connector.end(link)


# --- which pool ------------------------------------------------------------------------------------------------------
def test_equal_keys_get_the_same_pool(house: House) -> None:
    assert house.alone("acme") is house.alone("acme")
    assert house.alone("acme") is not house.alone("other")


def test_row_tenants_of_a_database_share_a_pool_and_others_have_their_own(house: House) -> None:
    first, second = house.pool(route("a", "row")), house.pool(route("b", "row"))
    assert first is second
    assert (first.label, first.limit) == ("one/shared", house.settings.shared_size)
    alone = house.pool(route("c", "schema"))
    assert (alone.label, alone.limit) == ("c", house.settings.max_size)


def test_a_pool_is_no_larger_than_its_server_allows() -> None:
    house = House(servers={"one": 5})
    assert house.shared().limit == 5


def test_the_main_pool_is_one_of_its_own_and_takes_no_place(house: House) -> None:
    main = house.main(size=7)
    assert house.main(size=7) is main
    assert (main.is_main, main.limit, main.label) == (True, 7, "one/main")
    assert len(house.manager) == 0
    assert labels(house) == ["one/main"]


def test_the_main_pool_is_never_evicted(house: House) -> None:
    main = house.main()
    for name in ("a", "b", "c"):
        house.alone(name)
    house.clock.now += 10 * IDLE
    house.manager.sweep()
    assert house.main() is main
    assert not main.is_closed


# --- too many --------------------------------------------------------------------------------------------------------
def test_a_pool_too_many_evicts_the_least_recently_used_one(house: House) -> None:
    for name in ("a", "b"):
        house.idle(house.alone(name), 1, name)
    victim = house.alone("b")
    house.clock.now += 1.0
    link = lease(house.alone("a"), "a")
    assert link is not None
    ready(link)
    house.alone("c")
    assert labels(house) == ["a", "c"]
    assert victim.is_closed
    assert house.events.of(PoolEvicted) == [PoolEvicted(pool="b", reason="lru")]
    assert house.counters.evicted["lru"] == 1


@pytest.mark.parametrize("state", ["used", "waiting", "opening", "resetting"])
def test_a_pool_that_is_in_use_is_never_evicted(house: House, state: str) -> None:
    pool = house.alone("busy", max_size=1)
    if state in ("opening", "waiting"):
        ask(pool, "busy")
    if state == "waiting":
        house.connector.fail(failure="busy")
    if state in ("used", "resetting"):
        (link,) = house.filled(pool, "busy", 1)
        if state == "resetting":
            reset(link)
    house.clock.now += 1.0
    for name in ("a", "b", "c"):
        house.alone(name)
        house.clock.now += 1.0
    assert house.alone("busy") is pool
    assert not pool.is_closed


def test_while_all_are_busy_there_may_be_more_and_the_sweeper_sees_to_it_later(house: House) -> None:
    links = {name: house.filled(house.alone(name), name, 1)[0] for name in ("a", "b", "c", "d")}
    assert len(house.manager) == 4
    house.manager.sweep()
    assert len(house.manager) == 4
    for name in ("a", "c", "d"):
        ready(links[name])
    house.manager.sweep()
    assert labels(house) == ["b", "d"]


def test_idle_connections_of_an_evicted_pool_end_and_their_permits_return(house: House) -> None:
    house.idle(house.alone("a"), 3, "a")
    for name in ("b", "c"):
        house.alone(name)
    assert house.budget.in_use == 3
    end_all(house)
    assert house.budget.in_use == 0
    assert house.counters.closed["evicted"] == 3


# --- idle, removed ---------------------------------------------------------------------------------------------------
def test_a_pool_that_nobody_used_for_the_idle_timeout_is_closed_when_it_is_empty(house: House) -> None:
    pool = house.alone("a")
    (link,) = house.idle(pool, 1, "a")
    house.clock.now += IDLE
    house.manager.sweep()
    assert link.state == "retiring"
    assert house.alone("a") is pool, "it still has a connection"
    house.connector.end(link)
    house.manager.sweep()
    assert pool.is_closed
    assert house.counters.evicted["idle"] == 1


def test_a_lent_connection_of_a_removed_pool_counts_as_evicted_and_not_as_the_end_of_the_router(house: House) -> None:
    pool = house.alone("a")
    (link,) = house.filled(pool, "a", 1)
    house.manager.remove(tenant_id("a"), [pool.key])
    ready(link)
    assert link.state == "retiring"
    assert (house.counters.closed["evicted"], house.counters.closed["shutdown"]) == (1, 0)


def test_managers_of_one_family_share_the_places_and_the_least_recently_used_pool_goes_wherever_it_is() -> None:
    house = House(servers={"one": 40}, settings=Pools(max_pools=2))
    family: list[PoolManager[Any]] = []
    mine, other = (house.new_manager(family) for _ in range(2))
    pools = [mine.pool(route("a")), other.pool(route("b"))]
    house.clock.now += 1.0
    other.pool(route("a"))
    assert pools[0].is_closed
    assert (len(mine), len(other)) == (0, 2)
    house.clock.now += 1.0
    mine.pool(route("c"))
    assert pools[1].is_closed
    assert (len(mine), len(other)) == (1, 1)


def test_a_closed_manager_takes_no_place_of_its_family() -> None:
    house = House(servers={"one": 40}, settings=Pools(max_pools=1))
    family: list[PoolManager[Any]] = []
    mine, other = (house.new_manager(family) for _ in range(2))
    mine.pool(route("a"))
    mine.close()
    assert family == [other]
    kept = other.pool(route("b"))
    assert not kept.is_closed


def test_two_managers_that_sweep_return_the_permit_of_a_login_that_was_given_up_once() -> None:
    house = House(servers={"one": 10})
    managers = [house.new_manager([]) for _ in range(2)]
    pool = managers[0].pool(route("a"))
    ask(pool, "a")
    house.connector.fail(pool, "busy", silent=True)
    assert (house.budget.in_use, len(house.budget.lingering)) == (1, 1)
    house.clock.now += STARTUP_SECONDS
    for manager in managers:
        manager.sweep()
    assert (house.budget.in_use, len(house.budget.lingering)) == (1, 0)
    assert house.connector.opening == [pool]


def test_a_pool_that_is_used_stays(house: House) -> None:
    pool = house.alone("a")
    house.filled(pool, "a", 1)
    house.clock.now += 10 * IDLE
    house.manager.sweep()
    assert house.alone("a") is pool


def test_removing_a_tenant_fails_who_waits_and_takes_back_what_is_lent(house: House) -> None:
    pool = house.alone("a", max_size=1)
    (link,) = house.filled(pool, "a", 1)
    caller = ask(pool, "a")
    house.manager.remove(tenant_id("a"), [pool.key, PoolKey(server="one", database="never opened")])
    assert isinstance(caller.error, PoolClosed)
    assert caller.error.retryable
    assert link.state == "used", "a caller at work may end it"
    ready(link)
    assert link.state == "retiring"
    assert list(house.manager.closing()) == [pool]
    house.connector.end(link)
    house.manager.sweep()
    assert not list(house.manager.closing())
    assert house.budget.in_use == 0


def test_removing_a_row_tenant_leaves_the_pool_that_it_shares(house: House) -> None:
    pool = house.shared()
    house.manager.remove(tenant_id("another"), [pool.key])
    assert not pool.is_closed


def test_removing_a_tenant_leaves_the_pool_of_another(house: House) -> None:
    pool = house.alone("a")
    house.manager.remove(tenant_id("b"), [pool.key])
    assert not pool.is_closed


# --- ending a tenant -------------------------------------------------------------------------------------------------
ENDED = TenantEnded("the tenant is suspended")


def looked_at(house: House, tenant: str) -> list[str]:
    """The databases of the pools that are looked at to end `tenant`."""
    looked: list[str] = []

    def keep(key: PoolKey) -> bool:
        looked.append(key.database)
        return False

    house.manager.end_tenant(tenant_id(tenant), ENDED, keep=keep)
    return looked


def test_to_end_a_tenant_looks_at_no_pool_that_it_is_not_in() -> None:
    house = House(servers={"one": 1_000}, settings=Pools(max_pools=1_000))
    for number in range(200):
        house.filled(house.pool(route(f"t{number}", "row", database=f"shared{number}")), f"t{number}", 1)
    assert looked_at(house, "unknown") == []
    assert looked_at(house, "t7") == ["shared7"]


def test_a_tenant_is_ended_in_each_pool_that_it_is_in_a_closing_one_too() -> None:
    house = House(servers={"one": 40}, settings=Pools(max_pools=10))
    pools = [house.alone("a"), house.shared("first"), house.shared("second")]
    links = [house.filled(pool, "a", 1)[0] for pool in pools]
    (other,) = house.filled(house.shared("first"), "b", 1)
    house.manager.remove(tenant_id("a"), [pools[0].key])
    assert len(looked_at(house, "a")) == 3
    assert [link.state for link in links] == ["retiring"] * 3
    assert other.state == "used"


def test_a_tenant_that_left_and_one_whose_pool_ended_are_looked_for_nowhere(house: House) -> None:
    (link,) = house.filled(house.shared(), "a", 1)
    ready(link)
    house.idle(house.alone("b"), 1, "b")
    house.manager.remove(tenant_id("b"), [house.alone("b").key])
    end_all(house)
    house.manager.sweep()
    assert looked_at(house, "a") == looked_at(house, "b") == []


# --- no resurrection -------------------------------------------------------------------------------------------------
def test_a_pool_that_is_gone_never_comes_back_its_key_gets_a_new_one(house: House) -> None:
    pool = house.alone("a")
    (link,) = house.filled(pool, "a", 1)
    house.manager.remove(tenant_id("a"), [pool.key])
    again = house.alone("a")
    assert again is not pool
    ready(link)
    assert link.state == "retiring"
    assert again.is_empty
    with pytest.raises(PoolClosed):
        ask(pool, "a")


def test_opening_is_counted_as_cold_and_after_an_eviction_as_reopened(house: House) -> None:
    for name in ("a", "b", "c", "a"):
        house.alone(name)
        house.clock.now += 1.0
    assert house.counters.opened == {"cold": 3, "reopen": 1}
    assert [(event.pool, event.reason) for event in house.events.of(PoolOpened)] == [
        ("a", "cold"),
        ("b", "cold"),
        ("c", "cold"),
        ("a", "reopen"),
    ]


# --- close -----------------------------------------------------------------------------------------------------------
def test_closing_closes_every_pool_and_opens_none_any_more(house: House) -> None:
    main, pool = house.main(), house.alone("a", max_size=1)
    house.idle(main, 1, "main")
    (link,) = house.filled(pool, "a", 1)
    caller = ask(pool, "a")
    house.manager.close()
    assert isinstance(caller.error, PoolClosed)
    assert main.is_closed
    assert pool.is_closed
    with pytest.raises(PoolClosed, match="the router is closed"):
        house.alone("a")
    with pytest.raises(PoolClosed, match="the router is closed"):
        house.main()
    ready(link)
    end_all(house)
    assert house.budget.in_use == 0
    assert not list(house.manager.closing())


# --- what outlives pools ---------------------------------------------------------------------------------------------
def totals(house: House) -> dict[str, int]:
    counters = house.counters
    groups: dict[str, Mapping[Any, int]] = {
        **counters.acquires,
        "closed": counters.closed,
        "opened": counters.opened,
        "evicted": counters.evicted,
        "exhaustions": counters.exhaustions,
    }
    return {f"{group} {name}": number for group, counts in groups.items() for name, number in counts.items()}


def test_no_counter_ever_goes_back_when_pools_go(house: House) -> None:
    before: dict[str, int] = {}
    for _ in range(3):
        for name in ("a", "b", "c"):
            (link,) = house.filled(house.alone(name), name, 1)
            retire(link)
            end_all(house)
            house.manager.sweep()
            now = totals(house)
            assert [name for name in before if now[name] < before[name]] == []
            before = now
    assert {name: counts["ok"] for name, counts in house.counters.acquires.items()} == {"a": 3, "b": 3, "c": 3}


def test_tenants_without_series_are_counted_together() -> None:
    counters = Counters(max_tenants=2)
    for name in ("a", "b", "c", "d", "a"):
        counters.count(name, "ok")
    assert {name: counts["ok"] for name, counts in counters.acquires.items()} == {"a": 2, "b": 1, "_other": 2}


def test_a_label_is_kept_while_no_tenant_matters_clearly_more() -> None:
    counters = Counters(max_tenants=2)
    came = [counters.label_of(name) for name in ("a", "_main", "b", "c", "a", "c", "_registry", "b")]
    assert came == ["a", "_main", "b", "_other", "a", "_other", "_registry", "b"]
    for label in ("one/x", "one/y", "one/z"):
        counters.note_place(label)
    assert counters.places == {"one/x", "one/y"}


def test_a_sweep_in_steps_leaves_the_pools_usable_between_them(house: House) -> None:
    names = ["a", "b", "c"]
    for name in names:
        house.filled(house.alone(name), name, 1)
    for step, _ in enumerate(house.manager.sweeping()):
        house.manager.remove(tenant_id(names[step % 3]), [house.alone(names[step % 3]).key])
        house.filled(house.alone("d"), "d", 1)
    assert {pool.label for pool in house.manager} >= {"d"}


def test_a_new_pool_of_a_tenant_goes_on_counting_where_the_old_one_ended(house: House) -> None:
    for _ in range(2):
        house.filled(house.alone("a"), "a", 1)
        house.manager.remove(tenant_id("a"), [house.alone("a").key])
    assert house.counters.acquires["a"]["ok"] == 2
