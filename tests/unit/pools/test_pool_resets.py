"""Who pays for the reset of what a tenant left? The pool has it done before another caller gets it."""

from __future__ import annotations

import pytest

from tenantproxy.config import Pools
from tenantproxy.model import tenant_id
from tenantproxy.pools.pool import Pool
from tenantproxy.pools.resets import HUNG_SECONDS, LATE_SECONDS
from tests.support.fakes import Caller, House, Link, ask, held, ready


@pytest.fixture
def house() -> House:
    """Three connections of a shared pool, two of one tenant."""
    house = House(settings=Pools(shared_size=3, max_size=2))
    house.connector.resets_first = True
    return house


def left_by(house: House, pool: Pool[Link], *tenants: str) -> list[Link]:
    """An idle connection for each whose session is still the tenant's."""
    callers = [ask(pool, tenant) for tenant in tenants]
    while house.connector.opening:
        house.connector.succeed()
    links = [held(caller) for caller in callers]
    for link, tenant in zip(links, tenants, strict=True):
        ready(link, tenant)
    return links


def asked(pool: Pool[Link], tenant: str, count: int) -> list[Caller]:
    return [ask(pool, tenant) for _ in range(count)]


def test_what_another_tenant_left_is_reset_before_it_is_lent_and_counts_for_that_tenant(house: House) -> None:
    pool = house.shared()
    links = left_by(house, pool, "rude", "rude")
    polite = asked(pool, "polite", 2)
    assert [link.state for link in links] == ["resetting"] * 2
    assert [link.charged for link in links] == [tenant_id("rude")] * 2
    assert not house.connector.opening, "one more is opened than callers wait for"
    rude = ask(pool, "rude")
    late = ask(pool, "polite")
    house.connector.succeed()
    assert rude.waits, "it has its share already"
    assert not polite[0].waits
    ready(links[0])
    assert {rude.link, polite[1].link} & {links[0]}, "it may have one again"
    assert late.waits


def test_a_tenant_that_left_long_ago_is_charged_all_the_same(house: House) -> None:
    pool = house.shared()
    left_by(house, pool, "rude", "rude")
    house.manager.sweep()
    assert not list(pool.tenant_stats())
    asked(pool, "polite", 2)
    assert ask(pool, "rude").waits
    assert [turn.leased for turn in pool._turns if turn.tenant == tenant_id("rude")] == [2]


def test_a_reset_that_is_late_is_not_waited_for_and_the_next_one_is_begun(house: House) -> None:
    pool = house.shared()
    links = left_by(house, pool, "rude", "rude")
    polite = ask(pool, "polite")
    assert sorted(link.state for link in links) == ["idle", "resetting"]
    house.connector.pass_time(LATE_SECONDS)
    assert [link.state for link in links] == ["resetting"] * 2
    house.connector.pass_time(LATE_SECONDS)
    assert house.connector.opening == [pool]
    opened = house.connector.succeed()
    assert polite.link is opened


@pytest.mark.parametrize("waits", [True, False])
def test_a_reset_that_hangs_is_ended_where_a_caller_waits_for_its_place(house: House, *, waits: bool) -> None:
    pool = house.shared()
    links = left_by(house, pool, "rude", "rude", "worse")
    polite = asked(pool, "polite", 2)
    house.connector.pass_time(LATE_SECONDS)
    assert [link.state for link in links] == ["resetting"] * 3
    if not waits:
        for caller in polite:
            assert caller.ticket is not None
            pool.cancel(caller.ticket, "cancelled")
    house.connector.pass_time(HUNG_SECONDS)
    house.manager.sweep()
    ended = [link for link in links if link.state == "retiring"]
    assert len(ended) == (2 if waits else 0)
    for link in ended:
        house.connector.end(link)
    assert house.connector.opening == [pool] * len(ended)
