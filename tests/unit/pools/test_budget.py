"""Does a server ever get one connection too many, and does every tenant that has none get one in the end?"""

from __future__ import annotations

import gc
import weakref

import pytest

from tenantproxy.config import Pools
from tenantproxy.events import BackendLingers
from tenantproxy.model import PoolKey, tenant_id
from tenantproxy.pools.budget import CALM_SECONDS, LAST_SECONDS, MAX_TURN_SECONDS, TURN_SECONDS
from tenantproxy.pools.lingering import STARTUP_SECONDS
from tenantproxy.pools.pool import Pool
from tests.support.fakes import Caller, House, Link, ask, ready, reset, retire, route


@pytest.fixture
def house() -> House:
    """Five connections for tenants, two more for main."""
    return House(servers={"one": 7}, settings=Pools(idle_timeout=600.0))


def end_all(house: House) -> None:
    for link in [link for link in house.connector.links if link.state == "retiring"]:
        house.connector.end(link)


# --- how many --------------------------------------------------------------------------------------------------------
def test_all_pools_together_open_no_more_than_the_server_may_have(house: House) -> None:
    for name in ("a", "b", "c", "d", "e", "f", "g"):
        ask(house.alone(name), name)
    assert len(house.connector.opening) == 5
    assert house.budget.in_use == 5
    assert house.budget.contended


def test_a_permit_is_given_back_when_the_server_side_is_gone_not_before(house: House) -> None:
    links = house.filled(house.alone("acme"), "acme", 5)
    caller = ask(house.alone("other"), "other")
    retire(links[0])
    assert not house.connector.opening
    house.connector.end(links[0])
    house.connector.succeed()
    assert not caller.waits


def test_the_permit_of_a_connect_that_failed_goes_to_who_waits_for_one(house: House) -> None:
    pool = house.alone("acme")
    for _ in range(5):
        ask(pool, "acme")
    other = house.alone("other")
    ask(other, "other")
    house.connector.fail(failure="busy")
    assert house.connector.opening.count(other) == 1


def test_two_connections_are_always_mains_own(house: House) -> None:
    house.filled(house.alone("greedy"), "greedy", 5)
    ask(house.alone("greedy"), "greedy")
    assert not house.connector.opening
    main = house.main()
    callers = [ask(main, "main") for _ in range(3)]
    assert house.connector.opening == [main, main]
    for _ in range(2):
        house.connector.succeed()
    assert [caller.waits for caller in callers] == [False, False, True]


def test_main_may_take_more_than_its_reserve_while_nobody_else_wants_it(house: House) -> None:
    main = house.main()
    assert len(house.filled(main, "main", 6)) == 6


def test_servers_have_budgets_of_their_own() -> None:
    house = House(servers={"one": 3, "two": 3})
    for server in ("one", "two"):
        ask(house.pool(route(f"tenant_{server}", server=server)), f"tenant_{server}")
    assert [budget.in_use for budget in house.budgets.values()] == [1, 1]


# --- who is next -----------------------------------------------------------------------------------------------------
def test_a_tenant_with_nothing_is_served_before_one_that_holds_more(house: House) -> None:
    greedy, poor = house.alone("greedy"), house.alone("poor")
    links = house.filled(greedy, "greedy", 5)
    more = ask(greedy, "greedy")
    caller = ask(poor, "poor")
    retire(links[0])
    house.connector.end(links[0])
    assert house.connector.opening == [poor]
    house.connector.succeed()
    assert not caller.waits
    assert more.waits


def test_of_tenants_with_nothing_the_one_that_waits_longer_is_served_first(house: House) -> None:
    links = house.filled(house.alone("greedy"), "greedy", 5)
    first, second = house.alone("first"), house.alone("second")
    ask(first, "first")
    ask(second, "second")
    for link in links[:2]:
        retire(link)
        house.connector.end(link)
    assert house.connector.opening == [first, second]


def test_a_tenant_with_nothing_and_many_callers_takes_one_permit_before_another_with_nothing_has_one(
    house: House,
) -> None:
    links = house.filled(house.alone("greedy"), "greedy", 5)
    many, poor = house.alone("many"), house.alone("poor")
    for _ in range(4):
        ask(many, "many")
    ask(poor, "poor")
    for link in links[:2]:
        retire(link)
        house.connector.end(link)
    assert sorted(pool.label for pool in house.connector.opening) == ["many", "poor"]


@pytest.mark.parametrize("guaranteed", [1, 0])
def test_in_a_shared_pool_too_a_tenant_with_nothing_is_served_before_one_that_holds_more(guaranteed: int) -> None:
    house = House(servers={"one": 8}, settings=Pools(guaranteed=guaranteed))
    pool = house.shared()
    greedy, other = house.filled(pool, "greedy", 5), house.filled(pool, "other", 1)
    more, poor = ask(pool, "greedy"), ask(pool, "poor")
    ready(other[0])
    assert poor.waits is (guaranteed == 0)
    assert more.waits is (guaranteed == 1)
    assert len(greedy) == 5


def test_nobody_takes_a_free_permit_before_a_tenant_that_has_nothing(house: House) -> None:
    greedy, poor = house.alone("greedy"), house.alone("poor")
    links = house.filled(greedy, "greedy", 5)
    ask(poor, "poor")
    retire(links[0])
    more = ask(greedy, "greedy")
    house.connector.end(links[0])
    assert house.connector.opening == [poor]
    assert more.waits


def test_nobody_stands_back_for_a_pool_that_was_refused_as_its_database_is_full(house: House) -> None:
    rich = house.alone("rich")
    house.filled(rich, "rich", 2)
    ask(house.alone("limited"), "limited")
    house.connector.fail(failure="full")
    house.connector.pass_time(1.0)
    assert not house.connector.opening, "it was told that there is no connection left"
    ask(rich, "rich")
    assert house.connector.opening == [rich]


# --- idle connections of others --------------------------------------------------------------------------------------
def test_idle_connections_of_the_least_recently_used_pool_are_closed_to_serve_a_waiter(house: House) -> None:
    old, new = house.alone("old"), house.alone("new")
    house.idle(old, 2, "old")
    house.clock.now += 1.0
    house.idle(new, 3, "new")
    caller = ask(house.alone("poor"), "poor")
    assert len(house.connector.of(old, "retiring")) == 1
    assert len(house.connector.of(new, "idle")) == 3
    end_all(house)
    house.connector.succeed()
    assert not caller.waits
    assert house.counters.closed["evicted"] == 1


def test_a_tenant_that_only_wants_more_gets_no_connection_that_was_in_use_a_moment_ago(house: House) -> None:
    links = house.filled(house.alone("polite"), "polite", 2)
    house.filled(house.alone("greedy"), "greedy", 3)
    for link in links:
        ready(link)
    ask(house.alone("greedy"), "greedy")
    assert [link.state for link in links] == ["idle", "idle"], "its own would have come back before a new one is there"
    house.connector.pass_time(CALM_SECONDS * 2)
    assert [link.state for link in links] == ["retiring", "idle"]


def test_a_tenant_keeps_its_last_connection_for_a_while_against_those_who_only_want_more(house: House) -> None:
    (link,) = house.filled(house.alone("polite"), "polite", 1)
    house.filled(house.alone("greedy"), "greedy", 4)
    ready(link)
    ask(house.alone("greedy"), "greedy")
    house.connector.pass_time(LAST_SECONDS * 0.9)
    assert link.state == "idle"
    house.connector.pass_time(LAST_SECONDS)
    assert link.state == "retiring"


def test_a_tenant_with_nothing_gets_the_last_connection_of_another_at_once_where_nobody_holds_more(
    house: House,
) -> None:
    links = [house.filled(house.alone(name), name, 1)[0] for name in ("a", "b", "c", "d", "e")]
    ready(links[0])
    ask(house.alone("poor"), "poor")
    assert links[0].state == "retiring"


def test_a_tenant_with_nothing_lets_those_who_hold_several_yield_before_another_loses_its_last(house: House) -> None:
    (last,) = house.filled(house.alone("polite"), "polite", 1)
    rich = house.filled(house.alone("greedy"), "greedy", 4)
    ready(last)
    ask(house.alone("greedy"), "greedy")
    ask(house.alone("poor"), "poor")
    assert last.state == "idle"
    ready(rich[0])
    assert (rich[0].state, last.state) == ("retiring", "idle")


def test_a_tenant_with_nothing_waits_no_longer_than_a_moment_for_them(house: House) -> None:
    (last,) = house.filled(house.alone("polite"), "polite", 1)
    house.filled(house.alone("greedy"), "greedy", 4)
    ready(last)
    ask(house.alone("poor"), "poor")
    house.connector.pass_time(CALM_SECONDS * 2)
    assert last.state == "retiring"


def test_no_more_idle_connections_are_closed_than_are_wanted(house: House) -> None:
    house.idle(house.alone("old"), 5, "old")
    for name in ("a", "b"):
        ask(house.alone(name), name)
    assert len(house.connector.of(house.alone("old"), "retiring")) == 2


def test_a_connection_that_becomes_idle_while_others_want_one_is_closed_for_them(house: House) -> None:
    links = house.filled(house.alone("greedy"), "greedy", 5)
    ask(house.alone("poor"), "poor")
    ready(links[0])
    assert links[0].state == "retiring"


def test_when_the_peer_of_a_closed_one_is_silent_another_is_closed_at_once(house: House) -> None:
    pool = house.alone("old")
    house.idle(pool, 5, "old")
    ask(house.alone("poor"), "poor")
    (link,) = house.connector.of(pool, "retiring")
    house.connector.end(link, silent=True)
    assert len(house.connector.of(pool, "retiring")) == 1


def test_mains_idle_connections_are_not_closed_where_that_would_help_nobody(house: House) -> None:
    house.idle(house.main(), 2, "main")
    house.filled(house.alone("greedy"), "greedy", 5)
    ask(house.alone("poor"), "poor")
    assert len(house.connector.of(house.main(), "idle")) == 2


def test_mains_idle_connections_beyond_its_reserve_serve_tenants_that_wait(house: House) -> None:
    house.idle(house.main(), 5, "main")
    house.filled(house.alone("greedy"), "greedy", 2)
    ask(house.alone("poor"), "poor")
    assert len(house.connector.of(house.main(), "retiring")) == 1


# --- yielding --------------------------------------------------------------------------------------------------------
def waiting_elsewhere(house: House) -> tuple[list[Link], Caller, Caller]:
    """Five links of `greedy`, one more of its callers, and one of `poor`, which has nothing."""
    greedy = house.alone("greedy")
    links = house.filled(greedy, "greedy", 5)
    return links, ask(greedy, "greedy"), ask(house.alone("poor"), "poor")


def test_a_connection_that_would_go_to_a_tenant_with_enough_is_closed_for_one_with_nothing(house: House) -> None:
    links, more, poor = waiting_elsewhere(house)
    ready(links[0])
    assert links[0].state == "retiring"
    house.connector.end(links[0])
    house.connector.succeed(house.alone("poor"))
    assert not poor.waits
    assert more.waits


def test_a_connection_serves_the_poor_of_its_own_pool_for_a_short_turn_before_it_yields(house: House) -> None:
    pool = house.shared()
    links = [house.filled(pool, name, 1)[0] for name in ("a", "b", "c", "d", "e")]
    house.clock.now += 10.0
    elsewhere = ask(house.alone("poor"), "poor")
    own = [ask(pool, name) for name in ("f", "g")]
    ready(links[0])
    assert own[0].link is links[0], "it was closed at once: no connection would serve any tenant"
    house.clock.now += TURN_SECONDS + 0.01
    ready(links[0])
    assert links[0].state == "retiring"
    house.connector.end(links[0])
    assert house.connector.opening == [house.alone("poor")]
    assert elsewhere.waits


def test_a_turn_grows_with_the_time_that_a_connect_takes(house: House) -> None:
    pool = house.shared()
    links = [house.filled(pool, name, 1)[0] for name in ("a", "b", "c", "d", "e")]
    house.budget.opened_in(0.4)
    house.clock.now += 10.0
    ask(house.alone("poor"), "poor")
    own = [ask(pool, name) for name in ("f", "g")]
    house.clock.now += TURN_SECONDS + 0.01
    ready(links[0])
    assert own[0].link is links[0]
    house.clock.now += 4 * 0.4
    ready(links[1])
    assert links[1].state == "retiring"
    house.budget.opened_in(100.0)
    assert house.budget.turn_seconds == MAX_TURN_SECONDS


def test_a_young_connection_has_its_short_turn_too(house: House) -> None:
    pool = house.shared()
    for name in ("a", "b", "c", "d"):
        house.filled(pool, name, 1)
    ask(house.alone("poor"), "poor")
    house.connector.succeed(house.alone("poor"))
    second = ask(house.alone("second"), "second")
    house.clock.now += 10.0
    link = house.connector.of(pool, "used")[0]
    retire(link)
    house.connector.end(link)
    fresh = house.connector.succeed(house.alone("second"))
    assert second.link is fresh
    ask(house.alone("third"), "third")
    waits = [ask(pool, name) for name in ("e", "f")]
    mine = house.connector.of(pool, "used")[0]
    ready(mine)
    assert [caller.waits for caller in waits] == [False, True]


def test_main_never_yields(house: House) -> None:
    main = house.main(size=2)
    (link, _) = house.filled(main, "main", 2)
    house.filled(house.alone("greedy"), "greedy", 5)
    ask(house.alone("poor"), "poor")
    more = ask(main, "main")
    house.clock.now += 10.0
    ready(link)
    assert more.link is link


# --- backends that linger --------------------------------------------------------------------------------------------
def left_behind(house: House, pool: Pool[Link], size: int, tenant: str) -> list[Link]:
    """`size` links of `tenant` that were closed, and whose backends did not end."""
    links = house.filled(pool, tenant, size)
    for link in links:
        retire(link)
        house.connector.end(link, silent=True)
    return links


def processes(house: House) -> list[int]:
    return [one.process.pid for one in house.budget.lingering]


def test_the_permit_of_a_backend_that_lingers_stays_taken_however_long(house: House) -> None:
    left_behind(house, house.alone("acme"), 5, "acme")
    assert (house.budget.in_use, len(house.budget.lingering)) == (5, 5)
    caller = ask(house.alone("other"), "other")
    house.connector.pass_time(3600.0)
    house.manager.sweep()
    assert not house.connector.opening
    house.budget.gone(house.connector.lingering[0])
    house.connector.succeed()
    assert not caller.waits
    assert (house.budget.in_use, len(house.budget.lingering)) == (5, 4)


def test_an_event_says_which_tenant_left_a_backend_behind(house: House) -> None:
    (link,) = left_behind(house, house.shared(), 1, "acme")
    expected = BackendLingers(server="one", pool="one/shared", tenant="acme", pid=link.number + 1)
    assert house.events.of(BackendLingers) == [expected]


def test_what_lingers_counts_to_the_limit_of_its_tenant_alone() -> None:
    house = House(servers={"one": 30}, settings=Pools(max_size=5, shared_size=8))
    pool = house.shared()
    left_behind(house, pool, 2, "acme")
    callers = [ask(pool, "acme") for _ in range(5)]
    others = [ask(pool, "globex") for _ in range(5)]
    while house.connector.opening:
        house.connector.succeed()
    assert sum(not caller.waits for caller in callers) == 3
    assert not any(caller.waits for caller in others)


def test_a_tenant_that_has_half_of_its_limit_lingering_waits_until_some_have_ended() -> None:
    house = House(servers={"one": 30}, settings=Pools(max_size=4, shared_size=8))
    pool = house.shared()
    left_behind(house, pool, 2, "acme")
    caller = ask(pool, "acme")
    house.idle(pool, 1, "globex")
    assert caller.waits
    assert caller.ticket is not None
    assert "2 still at work on the server" in str(pool.timed_out(caller.ticket, 5.0))
    house.budget.gone(house.connector.lingering[0])
    assert not caller.waits


def test_a_pool_stays_while_something_of_its_tenant_lingers() -> None:
    house = House(servers={"one": 30}, settings=Pools(max_pools=1, max_size=2))
    pool = house.alone("acme")
    left_behind(house, pool, 1, "acme")
    house.idle(house.alone("other"), 1, "other")
    house.connector.pass_time(1000.0)
    house.manager.sweep()
    assert not pool.is_closed
    assert ask(house.alone("acme"), "acme").waits, "its tenant got a fresh limit"
    assert pool.stats().lingering == 1


def test_a_look_returns_the_permits_of_processes_that_are_not_there(house: House) -> None:
    left_behind(house, house.alone("acme"), 3, "acme")
    first, second, third = processes(house)
    house.budget.looked({first: None, second: 0.0}, began=house.clock.now)
    assert processes(house) == [first, second]
    assert house.budget.in_use == 2
    assert third not in processes(house)


def test_a_process_that_began_after_ours_was_seen_has_only_its_number(house: House) -> None:
    left_behind(house, house.alone("acme"), 1, "acme")
    house.budget.looked({processes(house)[0]: 0.5}, began=house.clock.now)
    assert house.budget.in_use == 0


def test_a_look_says_nothing_of_what_was_left_after_it_began(house: House) -> None:
    began = house.clock.now
    house.clock.now += 1.0
    left_behind(house, house.alone("acme"), 1, "acme")
    house.budget.looked({}, began=began)
    assert len(house.budget.lingering) == 1


def test_a_login_that_was_given_up_is_over_when_its_server_answers_or_after_its_timeout(house: House) -> None:
    for name in ("acme", "other"):
        ask(house.alone(name), name)
    house.connector.fail(house.alone("acme"), "busy", silent=True)
    assert (house.budget.in_use, len(house.budget.lingering)) == (2, 1)
    house.budget.looked({}, began=house.clock.now)
    assert len(house.budget.lingering) == 1, "the server may not have noticed yet"
    house.clock.now += 3.0
    house.budget.looked({}, began=house.clock.now)
    assert not house.budget.lingering
    house.connector.fail(house.alone("other"), "busy", silent=True)
    house.clock.now += STARTUP_SECONDS
    house.manager.sweep()
    assert not house.budget.lingering


def test_mains_permit_comes_back_to_main(house: House) -> None:
    left_behind(house, house.main(), 1, "main")
    house.filled(house.alone("greedy"), "greedy", 5)
    house.budget.gone(house.connector.lingering[0])
    assert (house.budget.in_use, house.budget.tenants_in_use) == (5, 5)


def test_one_connection_of_mains_may_be_opened_where_all_that_is_there_lingers(house: House) -> None:
    left_behind(house, house.alone("greedy"), 5, "greedy")
    left_behind(house, house.main(), 2, "main")
    callers = [ask(house.main(), "main") for _ in range(2)]
    assert house.connector.opening == [house.main()]
    house.connector.succeed()
    assert [caller.waits for caller in callers] == [False, True]


def test_the_reserve_of_a_server_without_main_is_for_looking(house: House) -> None:
    house.filled(house.alone("greedy"), "greedy", 5)
    key = PoolKey(server="one", database="greedy", profile="look")
    pool = house.manager.reserved(key)
    assert house.manager.reserved(key) is pool
    ask(pool, "look")
    house.connector.succeed(pool)
    assert house.budget.in_use == 6
    house.manager.drop_reserved("one")
    assert pool.is_closed
    assert house.manager.reserved(key) is not pool


# --- what is ---------------------------------------------------------------------------------------------------------
def test_a_snapshot_shows_the_permits_and_who_wants_one(house: House) -> None:
    links = house.filled(house.alone("greedy"), "greedy", 5)
    for name in ("a", "b"):
        ask(house.alone(name), name)
    retire(links[0])
    house.connector.end(links[0], silent=True)
    house.budget.max_connections = 100
    house.budget.open_seconds.observe(0.003)
    stats = house.budget.stats()
    assert (stats.server, stats.connections, stats.limit, stats.lingering) == ("one", 5, 7, 1)
    assert (stats.waiting_pools, stats.up, stats.max_connections) == (2, True, 100)
    assert sum(stats.open_seconds.counts) == 1


def test_a_pool_that_was_closed_wants_nothing_any_more(house: House) -> None:
    links = house.filled(house.alone("greedy"), "greedy", 5)
    caller = ask(house.alone("gone"), "gone")
    assert house.budget.stats().waiting_pools == 1
    house.manager.remove(caller.tenant, [house.alone("gone").key])
    assert house.budget.stats().waiting_pools == 0
    reset(links[0])
    ready(links[0])
    assert links[0].state == "idle"


def test_a_pool_whose_caller_left_wants_nothing_any_more(house: House) -> None:
    links = house.filled(house.alone("greedy"), "greedy", 5)
    caller = ask(house.alone("poor"), "poor")
    assert caller.ticket is not None
    house.alone("poor").cancel(caller.ticket, "cancelled")
    ready(links[0])
    assert links[0].state == "idle"


def test_a_pool_whose_caller_was_served_by_its_own_wants_nothing_any_more(house: House) -> None:
    own = house.alone("own")
    (link,) = house.filled(own, "own", 1)
    links = house.filled(house.alone("greedy"), "greedy", 4)
    caller = ask(own, "own")
    ready(link)
    assert caller.link is link
    ready(links[0])
    assert links[0].state == "idle"


def test_a_permit_is_not_lost_on_a_pool_that_pauses_after_a_failure(house: House) -> None:
    links = house.filled(house.alone("greedy"), "greedy", 4)
    fails, other = house.shared(), house.alone("other")
    for name in ("x", "y"):
        ask(fails, name)
    house.connector.fail(fails, "busy", silent=True)
    caller = ask(other, "other")
    retire(links[0])
    house.connector.end(links[0])
    assert house.connector.opening == [other]
    assert caller.waits


def test_a_pool_that_is_gone_is_not_kept_in_memory(house: House) -> None:
    pool = house.alone("gone")
    (link,) = house.idle(pool, 1, "gone")
    house.manager.remove(tenant_id("gone"), [pool.key])
    house.connector.end(link)
    house.manager.sweep()
    known = weakref.ref(pool)
    del pool, link
    gc.collect()
    assert known() is None
