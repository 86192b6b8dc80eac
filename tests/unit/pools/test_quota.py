"""Does a budget keep to what a fleet says, and come down to it without cutting off a lease?"""

from __future__ import annotations

import pytest

from tenantproxy.config import Pools
from tenantproxy.fleet.ration import FixedQuota, SharedQuota
from tenantproxy.fleet.share import Share
from tenantproxy.fleet.values import ServerGrant, Terms
from tenantproxy.model import Limits, tenant_id
from tests.support.fakes import Caller, House, ask, ready, retire


class Granted:
    """A house whose budget follows a share."""

    def __init__(self, limit: int, *, burst: int = 99, floor: int = 1, own: int = 0) -> None:
        self.house = House(servers={"one": 20}, settings=Pools(idle_timeout=600.0))
        self.share = Share(Terms(cap=20, floor=floor, burst=burst, ttl=15.0))
        self.wanted = 0
        self.quota = SharedQuota(self.share, clock=self.house.clock, own=lambda: own, wants=self._wants, is_main=False)
        self.house.budget.follow(self.quota)
        self.answer(limit)

    def _wants(self) -> None:
        self.wanted += 1

    def answer(self, limit: int, target: int | None = None) -> None:
        now = self.house.clock.now
        grant = ServerGrant(server="one", granted=limit, target=limit if target is None else target, epoch=0)
        self.share.accept(grant, asked=now, now=now)
        self.look()

    def look(self) -> None:
        budget = self.house.budget
        orders = self.quota.look(budget.in_use, budget.closing)
        budget.regrant()
        if orders.cancel_used:
            budget.end_leases(orders.cancel_used)


def test_no_more_is_opened_than_was_granted_and_the_rest_with_the_next_answer() -> None:
    granted = Granted(3)
    pool = granted.house.alone("acme")
    for _ in range(6):
        ask(pool, "acme")
    assert len(granted.house.connector.opening) == 3
    assert granted.wanted
    granted.answer(5)
    assert len(granted.house.connector.opening) == 5


def test_a_fleet_takes_the_place_of_a_part_that_the_process_was_given() -> None:
    granted = Granted(12)
    budget = granted.house.budget
    budget.allot(5)
    assert (budget.limit, budget.whole) == (12, 20)
    budget.follow(None)
    assert (budget.limit, budget.whole) == (5, 20), "without one, its part; the whole is what is told to the fleet"


def test_connections_outside_of_the_budget_are_part_of_what_was_granted() -> None:
    granted = Granted(3, own=1)
    pool = granted.house.alone("acme")
    for _ in range(6):
        ask(pool, "acme")
    assert len(granted.house.connector.opening) == 2


def test_no_more_than_a_burst_of_connects_is_under_way_in_all_pools_together() -> None:
    granted = Granted(10, burst=2)
    one, other = granted.house.alone("acme"), granted.house.alone("other")
    for _ in range(2):
        ask(one, "acme")
        ask(other, "other")
    assert len(granted.house.connector.opening) == 2
    granted.house.connector.succeed()
    assert len(granted.house.connector.opening) == 2
    assert granted.house.budget.opening == 2


def test_nothing_is_opened_with_an_old_answer_whatever_the_limit_says() -> None:
    granted = Granted(10)
    granted.house.clock.now += 5.0
    ask(granted.house.alone("acme"), "acme")
    assert not granted.house.connector.opening


def test_a_connect_that_finishes_after_the_answer_grew_old_is_closed() -> None:
    granted = Granted(10)
    caller = ask(granted.house.alone("acme"), "acme")
    granted.house.clock.now += 5.0
    granted.house.connector.succeed()
    assert caller.waits
    assert [link.state for link in granted.house.connector.links] == ["retiring"]


def test_idle_connections_above_the_target_close_at_once_and_leases_as_they_end() -> None:
    granted = Granted(6)
    pool = granted.house.alone("acme")
    links = granted.house.filled(pool, "acme", 6)
    ready(links[0])
    granted.answer(6, target=3)
    assert [link.state for link in links].count("retiring") == 1
    ready(links[1])
    ready(links[2])
    assert [link.state for link in links].count("retiring") == 3
    for link in links[:3]:
        granted.house.connector.end(link)
    assert granted.house.budget.limit == 3
    ready(links[3])
    assert [link.state for link in links].count("retiring") == 0


def test_a_permit_that_returns_while_the_target_is_lower_is_not_used_again() -> None:
    granted = Granted(4)
    pool = granted.house.alone("acme")
    links = granted.house.filled(pool, "acme", 4)
    caller = ask(pool, "acme")
    granted.answer(4, target=2)
    retire(links[0])
    granted.house.connector.end(links[0])
    assert not granted.house.connector.opening
    assert caller.waits


def test_leases_above_the_floor_end_when_main_is_lost_for_long() -> None:
    granted = Granted(4, floor=1)
    granted.share.held_since = -100.0
    pool = granted.house.alone("acme")
    granted.house.filled(pool, "acme", 4)
    granted.house.clock.now += 10.0
    granted.look()
    assert pool.used == 1
    assert granted.house.counters.closed["fenced"] == 3


def test_a_fixed_part_is_kept_to_and_what_exists_above_it_closes_when_idle() -> None:
    house = House(servers={"one": 20})
    links = house.filled(house.alone("acme"), "acme", 4)
    house.budget.follow(FixedQuota(2))
    assert house.budget.limit == 2
    ready(links[0])
    assert links[0].state == "retiring"


def test_one_who_waits_in_vain_hears_how_much_of_the_server_is_this_processs() -> None:
    granted = Granted(2)
    granted.house.filled(granted.house.alone("acme"), "acme", 2)
    pool = granted.house.alone("other")
    ticket = pool.wait(tenant_id("other"), Limits(), Caller(tenant_id("other")))
    error = pool.timed_out(ticket, 5.0)
    assert "may have 2 of the server's 20 connections" in (error.detail or "")


@pytest.mark.parametrize("limit", [0, 1])
def test_main_has_no_reserve_where_there_is_next_to_nothing(limit: int) -> None:
    share = Share(Terms(cap=20))
    share.accept(ServerGrant(server="one", granted=limit, target=limit, epoch=0), asked=0.0, now=0.0)
    quota = SharedQuota(share, clock=lambda: 0.0, own=lambda: 0, wants=lambda: None, is_main=True)
    assert quota.reserve == 0
