"""Who may wait in front of a pool, for leases of its own tenant, and when is a connection lent on to it?"""

from __future__ import annotations

import pytest

from tenantproxy.config import Pools
from tenantproxy.errors import PoolClosed, PoolFull
from tenantproxy.model import Limits, tenant_id
from tests.support.fakes import House, ask, lease, ready, retire, route

ACME = tenant_id("acme")


@pytest.fixture
def house() -> House:
    return House(servers={"one": 40}, settings=Pools(max_size=2, max_waiting=3, shared_size=3))


def test_only_a_tenant_at_its_limit_has_room_in_front_of_its_pool(house: House) -> None:
    pool = house.alone("acme")
    assert not pool.room_ahead(ACME)
    one, two = house.filled(pool, "acme", 2)
    assert pool.room_ahead(ACME) == 3
    ready(one)
    assert not pool.room_ahead(ACME)
    assert lease(pool, "acme") is one
    retire(two)
    assert pool.room_ahead(ACME) == 3, "until it is gone, it counts for its tenant"


def test_a_tenant_whose_pool_may_have_no_more_has_room_too(house: House) -> None:
    pool = house.alone("acme")
    house.filled(pool, "acme", 1)
    assert not pool.room_ahead(ACME)
    pool.learn(role_limit=1)
    assert pool.room_ahead(ACME) == 3


def test_those_of_a_tenant_who_wait_take_their_part_of_the_room(house: House) -> None:
    pool = house.alone("acme")
    house.filled(pool, "acme", 2)
    callers = [ask(pool, "acme") for _ in range(3)]
    assert all(caller.waits for caller in callers)
    assert pool.room_ahead(ACME) == 0


def test_where_another_tenant_waits_there_is_no_room(house: House) -> None:
    pool = house.shared()
    link, _ = house.filled(pool, "acme", 2)
    house.filled(pool, "globex", 1)
    assert pool.room_ahead(ACME) == 3
    assert pool.lend_on(link, 0.0)
    assert ask(pool, "globex").waits
    assert not pool.room_ahead(ACME)
    assert not pool.lend_on(link, 0.0)


def test_a_pool_that_is_closed_has_no_room(house: House) -> None:
    pool = house.alone("acme")
    link, _ = house.filled(pool, "acme", 2)
    pool.close(PoolClosed("closed"))
    assert not pool.room_ahead(ACME)
    assert not pool.lend_on(link, 0.0)


def test_those_who_wait_in_front_count_among_those_who_wait(house: House) -> None:
    pool = house.alone("acme")
    house.filled(pool, "acme", 2)
    pool.wait_ahead(ACME, 2)
    assert pool.stats().waiting == 2
    assert [each.waiting for each in pool.tenant_stats()] == [2]
    assert ask(pool, "acme").waits
    assert pool.stats().waiting == 3
    with pytest.raises(PoolFull, match="too many"):
        ask(pool, "acme")
    pool.wait_ahead(ACME, -2)
    assert pool.stats().waiting == 1
    assert ask(pool, "acme").waits


def test_those_who_wait_in_front_elsewhere_take_their_part_of_the_room(house: House) -> None:
    pool = house.alone("acme")
    house.filled(pool, "acme", 2)
    pool.wait_ahead(ACME, 3)
    assert pool.room_ahead(ACME, 3) == pool.room_ahead(ACME) == 3
    assert pool.room_ahead(ACME, 1) == 1
    pool.wait_ahead(ACME, 1)
    assert pool.room_ahead(ACME, 0) == 0


def test_a_connection_is_lent_on_to_who_has_waited_longest(house: House) -> None:
    pool = house.alone("acme")
    link, _ = house.filled(pool, "acme", 2)
    early = house.clock()
    house.clock.now += 1.0
    caller = ask(pool, "acme")
    house.clock.now += 1.0
    assert pool.lend_on(link, early)
    assert not pool.lend_on(link, house.clock())
    ready(link)
    assert caller.link is link


def test_a_connection_that_is_to_end_is_not_lent_on(house: House) -> None:
    pool = house.alone("acme")
    one, two = house.filled(pool, "acme", 2)
    assert pool.lend_on(one, 0.0)
    retire(two)
    assert not pool.lend_on(two, 0.0)
    pool.expire()
    assert not pool.lend_on(one, 0.0)


def test_a_connection_at_the_end_of_its_lifetime_is_not_lent_on(house: House) -> None:
    pool = house.alone("acme")
    (link,) = house.filled(pool, "acme", 1)
    house.clock.now += house.settings.max_lifetime
    assert not pool.lend_on(link, 0.0)


def test_a_tenant_above_its_limit_gets_nothing_lent_on(house: House) -> None:
    pool = house.alone("acme")
    link, _ = house.filled(pool, "acme", 2)
    assert pool.lend_on(link, 0.0)
    pool.resize(ACME, Limits(max_size=1), 1)
    assert not pool.lend_on(link, 0.0)


def test_nothing_is_lent_on_where_a_tenant_elsewhere_has_none() -> None:
    house = House(servers={"one": 4}, settings=Pools(max_size=2))
    pool = house.alone("acme")
    link, _ = house.filled(pool, "acme", 2)
    assert pool.lend_on(link, 0.0)
    assert ask(house.pool(route("globex")), "globex").waits
    assert not pool.lend_on(link, 0.0)


def test_a_lease_that_is_lent_on_begins_anew_and_is_not_too_long() -> None:
    house = House(servers={"one": 4}, settings=Pools(max_size=1, max_hold=1.0))
    pool = house.alone("acme")
    (link,) = house.filled(pool, "acme", 1)
    house.clock.now += 0.9
    assert pool.lend_on(link, 0.0)
    house.clock.now += 0.9
    assert ask(pool, "acme").waits
    pool.sweep(house.clock())
    assert not pool.is_retiring(link)


def test_a_wait_that_was_counted_as_none_is_moved_to_its_bucket(house: House) -> None:
    pool = house.alone("acme")
    house.filled(pool, "acme", 1)
    pool.lent_again(ACME, 3, 0.5, {0: 3})
    before = list(pool.wait_seconds.counts)
    pool.waited_ahead({0: 1, 2: 2}, 0.4)
    after = pool.wait_seconds.counts
    assert sum(after) == sum(before)
    assert (after[0], after[2]) == (before[0] - 2, before[2] + 2)
    assert pool.wait_seconds.total == pytest.approx(0.4)


def test_behind_those_who_wait_in_front_there_is_room_though_a_lease_has_just_ended(house: House) -> None:
    pool = house.alone("acme")
    one, _ = house.filled(pool, "acme", 2)
    pool.wait_ahead(ACME, 2)
    ready(one)
    assert not pool.room_ahead(ACME, 0)
    assert pool.room_behind(ACME, 0) == 1
    assert pool.room_behind(ACME, 2) == 3, "two of them are its own"
    assert not pool.room_behind(tenant_id("globex"), 0), "nothing is known of it"
