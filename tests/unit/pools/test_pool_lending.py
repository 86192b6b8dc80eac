"""Does the right caller get the right connection, at once and in turn?"""

from __future__ import annotations

import pytest

from tenantproxy.config import Pools
from tenantproxy.errors import PoolClosed, PoolFull
from tenantproxy.model import Limits
from tenantproxy.pools.resets import RESET_SECONDS
from tests.support.fakes import House, Link, ask, lease, ready, reset, reset_ahead, retire, route


@pytest.fixture
def house() -> House:
    return House(servers={"one": 40})


def test_a_cold_pool_lends_the_connection_that_it_opens_for_the_first_caller(house: House) -> None:
    pool = house.alone("acme")
    caller = ask(pool, "acme")
    assert caller.waits
    assert house.connector.opening == [pool]
    link = house.connector.succeed()
    assert caller.link is link


def test_an_idle_connection_is_lent_without_waiting(house: House) -> None:
    pool = house.alone("acme")
    (link,) = house.idle(pool, 1, "acme")
    assert ask(pool, "acme").link is link
    assert not house.connector.opening


def test_a_connection_that_comes_back_goes_straight_to_the_one_who_waits(house: House) -> None:
    pool = house.alone("acme", max_size=1)
    (link,) = house.filled(pool, "acme", 1)
    caller = ask(pool, "acme")
    reset(link)
    assert caller.waits, "a session that is being reset was lent"
    ready(link)
    assert caller.link is link
    assert pool.stats().idle == 0


def test_a_late_comer_does_not_overtake_those_of_its_tenant_who_wait(house: House) -> None:
    pool = house.shared()
    busy = house.filled(pool, "busy", 10)
    waits = [ask(pool, "busy") for _ in range(2)]
    reset(busy[0])
    late = ask(pool, "busy")
    ready(busy[0])
    assert waits[0].link is busy[0]
    assert late.waits


def test_callers_of_one_tenant_are_served_in_the_order_in_which_they_came(house: House) -> None:
    pool = house.alone("acme", max_size=1)
    (link,) = house.filled(pool, "acme", 1)
    callers = [ask(pool, "acme") for _ in range(3)]
    for caller in callers:
        assert caller.waits
        ready(link)
        assert caller.link is link


def test_tenants_of_a_shared_pool_are_served_in_turn_however_many_of_one_wait(house: House) -> None:
    pool = house.shared()
    links = house.filled(pool, "flood", 10) + house.filled(pool, "filler", 10)
    flood = [ask(pool, "flood") for _ in range(50)]
    polite = ask(pool, "polite")
    ready(links[0])
    ready(links[1])
    assert polite.link in (links[0], links[1])
    assert sum(not caller.waits for caller in flood) == 1


def test_a_tenant_at_its_limit_never_blocks_another(house: House) -> None:
    pool = house.shared()
    house.filled(pool, "full", 10)
    blocked = ask(pool, "full")
    other = ask(pool, "other")
    link = house.connector.succeed()
    assert other.link is link
    assert blocked.waits
    assert not house.connector.opening, "a connection is opened for a tenant that may not have it"


def test_a_tenants_own_limit_wins_over_the_default(house: House) -> None:
    pool = house.shared()
    limits = Limits(max_size=1, max_waiting=1)
    ask(pool, "small", limits)
    house.connector.succeed()
    waits = ask(pool, "small", limits)
    assert waits.waits
    assert not house.connector.opening
    with pytest.raises(PoolFull, match="max_waiting = 1"):
        ask(pool, "small", limits)


def test_a_connection_that_is_being_reset_counts_for_the_tenant_that_released_it(house: House) -> None:
    pool = house.shared()
    limits = Limits(max_size=1)
    (idle,) = house.idle(pool, 1, "other")
    mine = lease(pool, "small", limits)
    assert mine is idle
    (spare,) = house.idle(pool, 1, "other")
    caller = ask(pool, "small", limits)
    assert caller.waits
    reset(mine)
    assert caller.waits
    assert spare.state == "idle"
    ready(mine)
    assert caller.link is not None


def test_a_connection_that_is_being_closed_counts_for_its_tenant_until_it_is_gone(house: House) -> None:
    pool = house.shared()
    limits = Limits(max_size=1)
    mine = house.idle(pool, 1, "other")[0]
    assert lease(pool, "small", limits) is mine
    (spare,) = house.idle(pool, 1, "other")
    caller = ask(pool, "small", limits)
    retire(mine)
    assert caller.waits
    house.connector.end(mine)
    assert caller.link is spare
    assert not house.connector.opening


def test_what_lies_idle_is_looked_at_before_it_is_lent_to_one_who_waited(house: House) -> None:
    pool = house.shared()
    limits = Limits(max_size=1)
    mine = house.idle(pool, 1, "other")[0]
    assert lease(pool, "small", limits) is mine
    (spare,) = house.idle(pool, 1, "other")
    caller = ask(pool, "small", limits)
    spare.alive = False
    retire(mine)
    house.connector.end(mine)
    assert caller.waits
    assert spare.state == "retiring"
    assert house.connector.opening == [pool]


# --- affinity --------------------------------------------------------------------------------------------------------
def bound_links(house: House, *tenants: str | None) -> list[Link]:
    """Idle links of the shared pool, bound as said; the first has lain there longest."""
    links = house.filled(house.shared(), "former", len(tenants))
    for link, tenant in zip(links, tenants, strict=True):
        ready(link, tenant)
    return links


def test_a_tenant_is_lent_the_connection_that_is_still_its_own(house: House) -> None:
    links = bound_links(house, "other", None, "acme", None)
    assert lease(house.shared(), "acme") is links[2]


def test_of_several_that_are_its_own_a_tenant_is_lent_the_last_used(house: House) -> None:
    links = bound_links(house, "acme", "acme")
    assert lease(house.shared(), "acme") is links[1]


def test_without_one_of_its_own_a_tenant_is_lent_one_that_is_nobodys(house: House) -> None:
    links = bound_links(house, "other", None)
    assert lease(house.shared(), "acme") is links[1]


def test_without_either_a_tenant_is_lent_the_least_recently_used(house: House) -> None:
    links = bound_links(house, "one", "two", "three")
    assert lease(house.shared(), "acme") is links[0]


def test_the_pool_tells_whose_session_a_connection_still_is(house: House) -> None:
    pool = house.shared()
    mine, nobodys = bound_links(house, "acme", None)
    assert (pool.bound_to(mine), pool.bound_to(nobodys)) == ("acme", None)
    assert pool.has_idle_of(route("acme", "row").tenant)
    assert not pool.has_idle_of(route("other", "row").tenant)


def test_the_next_tenant_is_the_one_who_would_be_served_now(house: House) -> None:
    pool = house.shared()
    link, *_ = house.filled(pool, "acme", 10)
    assert pool.next_tenant(link, None) is None
    ask(pool, "acme")
    assert pool.next_tenant(link, None) is None, "a tenant at its limit is not next"
    ask(pool, "other")
    assert pool.next_tenant(link, None) == "other"


def test_a_connection_stays_with_its_tenant_for_four_turns_while_others_wait(house: House) -> None:
    pool = house.shared()
    (link,) = house.filled(pool, "acme", 1)
    house.filled(pool, "busy", 10)
    house.filled(pool, "busier", 9)
    callers = [ask(pool, name) for name in ("other", *["acme"] * 6)]
    served, bound = [], "acme"
    for _ in callers:
        ready(link, bound)
        bound = next(caller.tenant for caller in callers if caller.link is link and caller not in served)
        served.append(next(caller for caller in callers if caller.link is link and caller not in served))
    assert [caller.tenant for caller in served] == ["acme"] * 4 + ["other"] + ["acme"] * 2


def test_one_who_asks_for_its_own_is_lent_nothing_else(house: House) -> None:
    pool = house.shared()
    _, own, nobodys = bound_links(house, "other", "acme", None)
    assert lease(pool, "acme", bound_only=True) is own
    assert lease(pool, "acme", bound_only=True) is None
    assert lease(pool, "stranger", bound_only=True) is None
    assert nobodys.state == "idle"


def test_one_whose_own_connection_is_dead_is_lent_no_other_in_its_place(house: House) -> None:
    pool = house.shared()
    own, _ = bound_links(house, "acme", None)
    own.alive = False
    assert lease(pool, "acme", bound_only=True) is None
    assert own.state == "retiring"
    assert "acme" not in house.counters.acquires


# --- one that is reset ahead of need ---------------------------------------------------------------------------------
def test_the_longest_idle_bound_connection_is_reset_ahead_and_a_stranger_finds_it_unbound(house: House) -> None:
    pool = house.shared()
    first, second = bound_links(house, "acme", "other")
    assert reset_ahead(pool) is first
    assert (pool.stats().idle, pool.stats().resetting) == (1, 1)
    ready(first)
    assert lease(pool, "stranger") is first
    assert second.state == "idle"


def test_none_is_reset_ahead_while_an_idle_one_is_nobodys_or_is_being_reset(house: House) -> None:
    pool = house.shared()
    links = bound_links(house, "acme", "other", "third")
    assert reset_ahead(pool) is links[0]
    assert reset_ahead(pool) is None
    ready(links[0])
    assert reset_ahead(pool) is None


def test_the_only_idle_connection_stays_with_its_tenant(house: House) -> None:
    bound_links(house, "acme")
    assert reset_ahead(house.shared()) is None


def test_none_is_reset_ahead_while_somebody_waits(house: House) -> None:
    pool = house.shared()
    bound_links(house, "acme", "other")
    assert lease(pool, "small", Limits(max_size=1)) is not None
    ask(pool, "small", Limits(max_size=1))
    assert reset_ahead(pool) is None


def test_one_that_waits_while_a_connection_is_reset_ahead_gets_it(house: House) -> None:
    house = House(settings=Pools(shared_size=2))
    pool = house.shared()
    first, second = bound_links(house, "acme", "other")
    assert reset_ahead(pool) is first
    assert lease(pool, "stranger") is second
    caller = ask(pool, "late")
    assert not house.connector.opening
    ready(first)
    assert caller.link is first


def test_a_reset_ahead_that_takes_too_long_ends_its_connection(house: House) -> None:
    pool = house.shared()
    first, _ = bound_links(house, "acme", "other")
    assert reset_ahead(pool) is first
    house.connector.pass_time(RESET_SECONDS + 0.1)
    pool.sweep(house.clock.now)
    assert first.state == "retiring"


# --- those who leave -------------------------------------------------------------------------------------------------
def test_one_who_left_without_a_word_is_passed_over(house: House) -> None:
    pool = house.alone("acme", max_size=1)
    (link,) = house.filled(pool, "acme", 1)
    gone, waits = ask(pool, "acme"), ask(pool, "acme")
    gone.gone = True
    ready(link)
    assert waits.link is link
    assert gone.refused == 1


def test_a_connection_that_nobody_takes_any_more_lies_idle(house: House) -> None:
    pool = house.alone("acme", max_size=1)
    (link,) = house.filled(pool, "acme", 1)
    ask(pool, "acme").gone = True
    ready(link)
    assert link.state == "idle"
    assert lease(pool, "acme") is link


def test_a_cancelled_wait_does_not_cancel_the_connect(house: House) -> None:
    pool = house.alone("acme")
    caller = ask(pool, "acme")
    assert caller.ticket is not None
    assert pool.cancel(caller.ticket, "cancelled")
    link = house.connector.succeed()
    assert caller.waits
    assert lease(pool, "acme") is link


def test_a_ticket_that_was_served_cannot_be_cancelled(house: House) -> None:
    pool = house.alone("acme")
    caller = ask(pool, "acme")
    assert caller.ticket is not None
    house.connector.succeed()
    assert not pool.cancel(caller.ticket, "cancelled")
    assert pool.stats().used == 1


def test_one_who_was_handed_a_connection_and_had_left_gives_it_to_the_next(house: House) -> None:
    pool = house.alone("acme", max_size=1)
    first, second = ask(pool, "acme"), ask(pool, "acme")
    link = house.connector.succeed()
    assert first.link is link
    ready(link, None)
    assert second.link is link


# --- how it is counted -----------------------------------------------------------------------------------------------
def test_each_acquire_is_counted_once_by_how_it_ended(house: House) -> None:
    house = House(settings=Pools(max_size=1, max_waiting=3))
    pool = house.alone("acme")
    (link,) = house.filled(pool, "acme", 1)
    gone, left, late = (ask(pool, "acme") for _ in range(3))
    with pytest.raises(PoolFull):
        ask(pool, "acme")
    gone.gone = True
    assert left.ticket is not None
    assert late.ticket is not None
    pool.cancel(left.ticket, "cancelled")
    pool.cancel(late.ticket, "timeout")
    ready(link)
    lease(pool, "acme")
    failed = ask(pool, "acme")
    pool.close(PoolClosed("closed for the test"))
    assert isinstance(failed.error, PoolClosed)
    assert house.counters.acquires["acme"] == {"ok": 2, "cancelled": 2, "timeout": 1, "rejected": 1, "error": 1}


def test_a_snapshot_shows_every_state_and_every_tenant(house: House) -> None:
    pool = house.shared()
    used, resets, idle, ends = house.filled(pool, "acme", 4)
    house.filled(pool, "busy", 10)
    left = ask(pool, "left")
    assert left.ticket is not None
    pool.cancel(left.ticket, "cancelled")
    ready(idle)
    reset(resets)
    retire(ends)
    ask(pool, "busy")
    house.clock.now += 2.0
    ask(pool, "busy")
    assert used.state == "used"
    stats = pool.stats()
    assert (stats.idle, stats.used, stats.opening, stats.resetting, stats.retiring) == (1, 11, 1, 1, 1)
    assert (stats.limit, stats.label, stats.key, stats.waiting) == (20, "one/shared", pool.key, 2)
    tenants = {tenant.tenant: tenant for tenant in stats.tenants}
    assert (tenants["busy"].leased, tenants["busy"].waiting, tenants["busy"].max_size) == (10, 2, 10)
    assert tenants["busy"].oldest_wait_seconds == 2.0
    assert (tenants["acme"].leased, tenants["acme"].oldest_wait_seconds) == (1, 0.0)


def test_a_connection_is_told_to_end_once_however_often_it_is_retired(house: House) -> None:
    pool = house.alone("acme")
    (link,) = house.filled(pool, "acme", 1)
    for _ in range(3):
        retire(link)
    assert link.ends == 1
    house.connector.end(link)
    pool.retire(link, "error")
    pool.ready(link, None)
    assert pool.is_empty
    assert house.budget.in_use == 0


def test_connections_that_are_reset_at_once_are_made_ready_for_one_waiter_each(house: House) -> None:
    pool = house.shared()
    links = house.filled(pool, "acme", 3)
    house.filled(pool, "busy", 10)
    house.filled(pool, "busier", 7)
    callers = [ask(pool, name) for name in ("first", "second")]
    for link in links:
        reset(link)
    assert [pool.aim(link) for link in links] == ["first", "second", None]
    ready(links[1], "second")
    ready(links[0], "first")
    assert [caller.link for caller in callers] == [links[0], links[1]]


def test_one_that_was_made_ready_for_a_caller_who_left_is_lent_to_the_next(house: House) -> None:
    pool = house.shared()
    (link,) = house.filled(pool, "acme", 1)
    house.filled(pool, "busy", 10)
    house.filled(pool, "busier", 9)
    first, second = ask(pool, "first"), ask(pool, "second")
    reset(link)
    assert pool.aim(link) == "first"
    assert first.ticket is not None
    assert pool.cancel(first.ticket, "cancelled")
    ready(link, "first")
    assert second.link is link
    assert pool.aim(link) is None, "one that is lent was made ready again"


def test_a_connection_that_is_lost_while_it_is_made_ready_leaves_its_waiter_to_another(house: House) -> None:
    pool = house.shared()
    one, other = house.filled(pool, "acme", 2)
    house.filled(pool, "busy", 10)
    house.filled(pool, "busier", 8)
    caller = ask(pool, "first")
    reset(one)
    reset(other)
    assert (pool.aim(one), pool.aim(other)) == ("first", None)
    retire(one, "reset_failed")
    assert pool.aim(other) == "first"
    ready(other, "first")
    assert caller.link is other
