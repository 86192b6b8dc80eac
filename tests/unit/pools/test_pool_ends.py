"""When does a connection end, and what comes after it?"""

from __future__ import annotations

import random

import pytest

from tenantproxy.config import Pools
from tenantproxy.errors import PoolClosed
from tenantproxy.events import CloseReason
from tenantproxy.model import Limits, tenant_id
from tenantproxy.pools.resets import LATE_SECONDS, RESET_SECONDS
from tests.support.fakes import NO_LIMITS, Caller, House, ask, lease, ready, reset, retire

LIFETIME, IDLE = 100.0, 30.0
ACME = tenant_id("acme")


@pytest.fixture
def house() -> House:
    return House(servers={"one": 40}, settings=Pools(max_lifetime=LIFETIME, idle_timeout=IDLE))


def ended(house: House) -> dict[CloseReason, int]:
    return {reason: number for reason, number in house.counters.closed.items() if number}


# --- lifetime --------------------------------------------------------------------------------------------------------
def test_connections_that_were_opened_together_do_not_end_together(house: House) -> None:
    random.seed(1)  # else all ten end on one side of the middle once in 512 times
    pool = house.alone("acme")
    links = house.idle(pool, 10, "acme")
    house.clock.now += LIFETIME * 0.95
    for _ in links:
        lease(pool, "acme")
    assert 0 < len(house.connector.of(pool, "retiring")) < 10


def test_no_connection_ends_before_nine_tenths_of_its_lifetime(house: House) -> None:
    pool = house.alone("acme")
    house.idle(pool, 10, "acme")
    house.clock.now += LIFETIME * 0.9 - 0.001
    assert all(lease(pool, "acme") is not None for _ in range(10))


def test_an_idle_connection_that_is_too_old_is_not_lent(house: House) -> None:
    pool = house.alone("acme")
    (link,) = house.idle(pool, 1, "acme")
    house.clock.now += LIFETIME
    caller = ask(pool, "acme")
    assert caller.waits
    assert link.state == "retiring"
    assert house.connector.opening == [pool]
    assert ended(house) == {"lifetime": 1}


def test_a_connection_that_comes_back_too_old_ends_and_its_successor_need_not_wait_for_that(house: House) -> None:
    pool = house.shared()
    (link,) = house.filled(pool, "acme", 1)
    reset(link)
    caller = ask(pool, "acme")
    assert not house.connector.opening
    house.clock.now += LIFETIME
    ready(link)
    assert link.state == "retiring"
    assert caller.waits
    assert house.connector.opening == [pool]


def test_when_one_comes_back_too_old_what_lies_idle_serves_the_one_who_waited_for_its_tenants_limit(
    house: House,
) -> None:
    pool = house.shared()
    limits = Limits(max_size=1)
    house.idle(pool, 1)
    old = lease(pool, "small", limits)
    house.clock.now += LIFETIME
    (young,) = house.idle(pool, 1)
    caller = ask(pool, "small", limits)
    assert caller.waits
    assert old is not None
    ready(old)
    assert caller.link is young
    assert not house.connector.opening


def test_the_sweeper_ends_idle_connections_that_are_too_old(house: House) -> None:
    house = House(settings=Pools(max_lifetime=10.0, idle_timeout=600.0))
    pool = house.alone("acme")
    house.idle(pool, 2, "acme")
    house.clock.now += 10.0
    house.manager.sweep()
    assert ended(house) == {"lifetime": 2}


# --- idleness and death ----------------------------------------------------------------------------------------------
def test_a_connection_that_was_never_used_again_ends_after_the_idle_timeout(house: House) -> None:
    pool = house.alone("acme")
    caller = ask(pool, "acme")
    assert caller.ticket is not None
    pool.cancel(caller.ticket, "cancelled")
    link = house.connector.succeed()
    house.clock.now += IDLE - 0.1
    house.manager.sweep()
    assert link.state == "idle"
    house.clock.now += 0.1
    house.manager.sweep()
    assert link.state == "retiring"
    assert ended(house) == {"idle": 1}


def test_a_connection_that_is_used_now_and_then_stays(house: House) -> None:
    pool = house.alone("acme")
    (link,) = house.idle(pool, 1, "acme")
    for _ in range(3):
        house.clock.now += IDLE - 1
        assert lease(pool, "acme") is link
        ready(link)
        house.manager.sweep()
    assert link.state == "idle"


def test_one_dead_idle_connection_takes_every_older_one_with_it_and_no_younger(house: House) -> None:
    pool = house.shared()
    old = house.idle(pool, 2)
    house.clock.now += 1.0
    dead, used = house.filled(pool, "other", 4)[2:]
    house.clock.now += 1.0
    young = house.filled(pool, "third", 1)[0]
    for link in (dead, young):
        ready(link, "acme" if link is dead else None)
    dead.alive = False
    assert old[0].state == "used"
    for link in old:
        ready(link)
    assert lease(pool, "acme") is young
    assert [link.state for link in old] == ["retiring", "retiring"]
    assert used.state == "used"
    assert ended(house) == {"error": 3}


def test_the_sweeper_finds_dead_connections_too(house: House) -> None:
    pool = house.shared()
    links = house.idle(pool, 3)
    links[2].alive = False
    house.manager.sweep()
    assert ended(house) == {"error": 3}


def test_a_caller_who_finds_only_dead_connections_gets_a_new_one(house: House) -> None:
    pool = house.alone("acme", max_size=2)
    links = house.idle(pool, 2, "acme")
    links[1].alive = False
    caller = ask(pool, "acme")
    assert caller.waits
    house.connector.end(links[0])
    house.connector.succeed()
    assert not caller.waits


# --- resets ----------------------------------------------------------------------------------------------------------
def test_a_failed_reset_is_replaced_while_the_connection_still_ends(house: House) -> None:
    pool = house.alone("acme", max_size=2)
    first, _ = house.filled(pool, "acme", 2)
    caller = ask(pool, "acme")
    reset(first)
    retire(first, "reset_failed")
    assert not house.connector.opening, "its limit is two"
    house.connector.end(first)
    assert house.connector.opening == [pool]
    house.connector.succeed()
    assert not caller.waits
    assert ended(house) == {"reset_failed": 1}


def test_below_its_limit_a_pool_opens_another_as_soon_as_a_reset_failed(house: House) -> None:
    pool = house.shared()
    (link,) = house.filled(pool, "acme", 1)
    reset(link)
    caller = ask(pool, "acme")
    assert not house.connector.opening, "it would be served by the one that is being reset"
    retire(link, "reset_failed")
    assert house.connector.opening == [pool]
    assert caller.waits


def test_a_reset_that_is_late_is_not_waited_for(house: House) -> None:
    pool = house.shared()
    (link,) = house.filled(pool, "acme", 1)
    reset(link)
    caller = ask(pool, "acme")
    house.clock.now += LATE_SECONDS + 0.1
    house.manager.sweep()
    house.connector.succeed(pool)
    assert not caller.waits
    ready(link)
    assert link.state == "idle"


@pytest.mark.parametrize("closed", [False, True], ids=["in an open pool", "in a closed pool"])
def test_the_sweeper_ends_a_connection_whose_reset_never_ends(house: House, *, closed: bool) -> None:
    pool = house.alone("acme")
    (link,) = house.filled(pool, "acme", 1)
    reset(link)
    if closed:
        house.manager.remove(ACME, [pool.key])
    house.clock.now += RESET_SECONDS + 0.1
    house.manager.sweep()
    assert link.state == "retiring"
    assert ended(house) == {"reset_failed": 1}
    ready(link)
    assert link.state == "retiring", "an answer that came too late brought it back"


# --- expire, close ---------------------------------------------------------------------------------------------------
def test_expiring_ends_idle_connections_now_and_the_others_when_they_come_back(house: House) -> None:
    pool = house.shared()
    used, resets, idle = house.filled(pool, "acme", 3)
    ready(idle)
    reset(resets)
    pool.expire()
    assert (used.state, resets.state, idle.state) == ("used", "resetting", "retiring")
    ready(used)
    ready(resets)
    assert (used.state, resets.state) == ("retiring", "retiring")
    assert ended(house) == {"evicted": 3}


def test_a_connection_opened_after_expiring_is_kept(house: House) -> None:
    pool = house.alone("acme")
    house.idle(pool, 1, "acme")
    pool.expire()
    caller = ask(pool, "acme")
    link = house.connector.succeed()
    assert caller.link is link
    ready(link)
    assert link.state == "idle"


def test_one_who_waits_is_served_by_a_new_connection_when_the_expired_one_comes_back(house: House) -> None:
    pool = house.alone("acme", max_size=1)
    (link,) = house.filled(pool, "acme", 1)
    caller = ask(pool, "acme")
    pool.expire()
    ready(link)
    assert caller.waits
    house.connector.end(link)
    assert caller.link is None
    assert house.connector.succeed() is not link
    assert not caller.waits


def test_closing_fails_who_waits_ends_what_is_idle_and_takes_back_what_is_lent(house: House) -> None:
    pool = house.shared()
    used, idle = house.filled(pool, "acme", 2)
    house.filled(pool, "busy", 10)
    ready(idle)
    caller = ask(pool, "busy")
    pool.close(PoolClosed("gone", retry_after=0.1))
    assert isinstance(caller.error, PoolClosed)
    assert (used.state, idle.state) == ("used", "retiring")
    ready(used)
    assert used.state == "retiring"
    pool.close(PoolClosed("again"))
    with pytest.raises(PoolClosed):
        lease(pool, "acme")
    with pytest.raises(PoolClosed):
        pool.wait(ACME, NO_LIMITS, Caller(ACME))


def test_a_connect_that_succeeds_after_the_pool_closed_is_ended(house: House) -> None:
    pool = house.alone("acme")
    caller = ask(pool, "acme")
    pool.close(PoolClosed("gone"))
    assert isinstance(caller.error, PoolClosed)
    link = house.connector.succeed()
    assert link.state == "retiring"
    house.connector.end(link)
    assert house.budget.in_use == 0


def test_a_connect_that_fails_after_the_pool_closed_gives_its_permit_back(house: House) -> None:
    pool = house.alone("acme")
    ask(pool, "acme")
    pool.close(PoolClosed("gone"))
    house.connector.fail()
    assert house.budget.in_use == 0
    house.connector.pass_time(10.0)
    assert not house.connector.opening


def test_each_error_of_a_closing_pool_is_an_exception_of_its_own(house: House) -> None:
    pool = house.alone("acme", max_size=1)
    house.filled(pool, "acme", 1)
    callers = [ask(pool, "acme") for _ in range(2)]
    pool.close(PoolClosed("gone"))
    assert callers[0].error is not callers[1].error
    assert str(callers[0].error) == str(callers[1].error) == "gone"


# --- leases that last too long --------------------------------------------------------------------------------------
def test_a_lease_beyond_max_hold_ends_only_while_others_wait() -> None:
    house = House(servers={"one": 7}, settings=Pools(max_size=1, max_hold=2.0, max_lifetime=600.0))
    pool = house.alone("acme")
    (link,) = house.filled(pool, "acme", 1)
    house.connector.pass_time(10.0)
    house.manager.sweep()
    assert link.state == "used"
    caller = ask(pool, "acme")
    house.manager.sweep()
    assert house.connector.expired == [link]
    house.connector.end(link)
    house.connector.succeed()
    assert not caller.waits
    assert house.counters.closed["max_hold"] == 1


def test_no_more_leases_end_than_callers_wait_and_the_oldest_first() -> None:
    house = House(servers={"one": 5}, settings=Pools(max_size=2, shared_size=3, max_hold=2.0, max_lifetime=600.0))
    pool = house.shared()
    links = []
    for name in ("a", "b", "c"):
        links += house.filled(pool, name, 1)
        house.clock.now += 1.0
    house.clock.now += 10.0
    ask(house.alone("elsewhere"), "elsewhere")
    house.manager.sweep()
    assert house.connector.expired == links[:1]
    house.manager.sweep()
    assert house.connector.expired == links[:1], "its permit is on its way"


def test_leases_of_the_main_database_are_not_ended() -> None:
    house = House(servers={"one": 7}, settings=Pools(max_hold=2.0, max_lifetime=600.0))
    main = house.main(size=1)
    house.filled(main, "listener", 1)
    house.clock.now += 10.0
    ask(main, "main")
    house.manager.sweep()
    assert not house.connector.expired
