"""Are connections opened as needed, again after failures, and do all waiters hear when there will be none?"""

from __future__ import annotations

import pytest

from tenantproxy.config import Pools
from tenantproxy.errors import (
    BudgetExhausted,
    ConnectFailed,
    IsolationError,
    PoolError,
    PoolFull,
    PoolTimeout,
    TenantProxyError,
)
from tenantproxy.events import ConnectFailure, Exhausted, ServerDown, ServerUp
from tenantproxy.pools.budget import BREAKER_SECONDS
from tenantproxy.pools.pool import Pool
from tests.support.fakes import Caller, House, Link, ask, ready, reset, retire, route


@pytest.fixture
def house() -> House:
    return House(servers={"one": 12})


def retries(house: House) -> list[float]:
    return [event.retry_in for event in house.events.of(ConnectFailure)]


# --- how many --------------------------------------------------------------------------------------------------------
def test_no_more_connections_are_opened_than_callers_wait_for(house: House) -> None:
    pool = house.alone("acme")
    for _ in range(3):
        ask(pool, "acme")
    assert house.connector.opening == [pool] * 3


def test_a_connection_that_is_being_reset_counts_as_one_to_come(house: House) -> None:
    pool = house.alone("acme")
    (link,) = house.filled(pool, "acme", 1)
    reset(link)
    ask(pool, "acme")
    assert not house.connector.opening
    ask(pool, "acme")
    assert house.connector.opening == [pool]


def test_a_pool_never_opens_more_than_its_limit(house: House) -> None:
    pool = house.alone("acme", max_size=2)
    for _ in range(5):
        ask(pool, "acme")
    assert house.connector.opening == [pool] * 2


def test_a_connection_that_is_still_ending_counts_against_the_limit(house: House) -> None:
    pool = house.alone("acme", max_size=1)
    (link,) = house.filled(pool, "acme", 1)
    retire(link)
    ask(pool, "acme")
    assert not house.connector.opening
    house.connector.end(link)
    assert house.connector.opening == [pool]


def test_a_connection_serves_whoever_waits_when_it_is_open_not_whom_it_was_opened_for(house: House) -> None:
    pool = house.alone("acme", max_size=1)
    first, second = ask(pool, "acme"), ask(pool, "acme")
    assert first.ticket is not None
    pool.cancel(first.ticket, "cancelled")
    assert house.connector.succeed() is second.link


# --- after a failure -------------------------------------------------------------------------------------------------
def test_after_a_failure_the_next_connect_waits_twice_as_long_each_time_up_to_two_seconds(house: House) -> None:
    pool = house.alone("acme")
    ask(pool, "acme")
    for _ in range(10):
        house.connector.fail(failure="busy")
        assert not house.connector.opening
        house.connector.pass_time(2.0)
        assert house.connector.opening == [pool]
    for number, delay in enumerate(retries(house)):
        most = min(2.0, 0.05 * 2**number)
        assert most / 2 <= delay <= most


def test_after_a_failure_one_connect_tries_for_all(house: House) -> None:
    pool = house.alone("acme")
    callers = [ask(pool, "acme") for _ in range(4)]
    for _ in callers:
        house.connector.fail(failure="busy")
    house.connector.pass_time(2.0)
    assert house.connector.opening == [pool]
    house.connector.succeed()
    assert house.connector.opening == [pool] * 3
    for _ in range(3):
        house.connector.succeed()
    assert not any(caller.waits for caller in callers)


def test_connects_that_fail_together_count_as_one_failure(house: House) -> None:
    pool = house.alone("acme")
    for _ in range(8):
        ask(pool, "acme")
    for _ in range(8):
        house.connector.fail(failure="busy")
    assert max(retries(house)) <= 0.05


def test_new_callers_during_the_pause_cause_no_connect(house: House) -> None:
    pool = house.alone("acme")
    ask(pool, "acme")
    house.connector.fail(failure="busy")
    ask(pool, "acme")
    house.manager.sweep()
    assert not house.connector.opening


def test_a_pool_that_pauses_lets_others_have_the_permit(house: House) -> None:
    waits = house.alone("waits")
    house.filled(house.alone("full"), "full", 9)
    ask(waits, "waits")
    house.connector.fail(failure="busy")
    other = house.alone("other")
    house.filled(other, "other", 1)
    assert house.budget.tenants_in_use == 10


def test_a_success_ends_the_pauses(house: House) -> None:
    pool = house.alone("acme")
    ask(pool, "acme")
    for _ in range(5):
        house.connector.fail(failure="busy")
        house.connector.pass_time(2.0)
    house.connector.succeed()
    ask(pool, "acme")
    house.connector.fail(failure="busy")
    assert retries(house)[-1] <= 0.05


def test_callers_wait_through_failures_that_may_pass_and_are_served_afterwards(house: House) -> None:
    pool = house.alone("acme")
    caller = ask(pool, "acme")
    house.connector.fail(failure="busy")
    assert caller.waits
    house.connector.pass_time(1.0)
    assert house.connector.succeed() is caller.link


# --- denied ----------------------------------------------------------------------------------------------------------
def test_a_refusal_that_waiting_does_not_mend_fails_everybody_at_once(house: House) -> None:
    pool = house.alone("acme")
    callers = [ask(pool, "acme") for _ in range(2)]
    house.connector.fail(failure="denied", error=ConnectFailed("the database does not exist"))
    assert [str(caller.error) for caller in callers] == ["the database does not exist"] * 2
    assert callers[0].error is not callers[1].error


def test_until_a_new_try_is_due_new_callers_hear_the_same_at_once_and_then_one_tries(house: House) -> None:
    pool = house.alone("acme")
    ask(pool, "acme")
    house.connector.fail(failure="denied", error=IsolationError("the role is a superuser"))
    with pytest.raises(IsolationError, match="superuser"):
        ask(pool, "acme")
    assert not house.connector.opening
    house.connector.pass_time(0.1)
    caller = ask(pool, "acme")
    assert house.connector.opening == [pool]
    house.connector.succeed()
    assert not caller.waits
    assert house.counters.acquires["acme"] == {"ok": 1, "error": 2, "timeout": 0, "rejected": 0, "cancelled": 0}


def test_a_denial_of_one_database_does_not_stop_the_others(house: House) -> None:
    ask(house.alone("gone"), "gone")
    house.connector.fail(failure="denied")
    caller = ask(house.alone("acme"), "acme")
    house.connector.succeed()
    assert not caller.waits
    assert not house.budget.is_down


# --- the breaker -----------------------------------------------------------------------------------------------------
def bring_down(house: House) -> list[Caller]:
    """Callers of two tenants who waited while the server was found to be down."""
    callers = [ask(house.alone(name), name) for name in ("acme", "other")]
    house.connector.fail(house.alone("acme"))
    house.connector.pass_time(BREAKER_SECONDS)
    house.connector.fail(house.alone("other"))
    return callers


def test_a_server_that_refuses_for_half_a_second_is_down_and_everybody_on_it_hears_at_once(house: House) -> None:
    callers = bring_down(house)
    assert house.budget.is_down
    assert [type(caller.error) for caller in callers] == [ConnectFailed, ConnectFailed]
    assert [event.server for event in house.events.of(ServerDown)] == ["one"]
    assert house.counters.exhaustions["connect"] == 2


def test_a_server_that_refuses_for_less_is_not_down(house: House) -> None:
    callers = [ask(house.alone("acme"), "acme") for _ in range(2)]
    house.connector.fail()
    house.connector.pass_time(BREAKER_SECONDS - 0.1)
    house.connector.fail()
    assert not house.budget.is_down
    assert all(caller.waits for caller in callers)


def test_a_server_that_leaves_three_connects_in_a_row_unanswered_is_down(house: House) -> None:
    callers = [ask(house.alone(name), name) for name in ("acme", "other", "third")]
    for name in ("acme", "other"):
        house.connector.fail(house.alone(name), "busy", silent=True)
        assert not house.budget.is_down
    assert all(caller.waits for caller in callers)
    house.connector.fail(house.alone("third"), "busy", silent=True)
    assert house.budget.is_down
    assert [type(caller.error) for caller in callers] == [ConnectFailed] * 3


@pytest.mark.parametrize("answer", ["connection", "error"])
def test_an_answer_between_unanswered_connects_begins_the_count_anew(house: House, answer: str) -> None:
    for name in ("a", "b", "c", "d", "e"):
        caller = ask(house.alone(name), name)
        if name == "c" and answer == "connection":
            house.connector.succeed()
            assert not caller.waits
        elif name == "c":
            house.connector.fail(failure="denied")
        else:
            house.connector.fail(house.alone(name), "busy", silent=True)
    assert not house.budget.is_down


def test_while_a_server_is_down_new_callers_fail_at_once(house: House) -> None:
    bring_down(house)
    with pytest.raises(ConnectFailed) as failed:
        ask(house.alone("third"), "third")
    assert failed.value.message == "no connection"
    assert failed.value.detail == "server 'one'"  # the database of another tenant is not named
    assert not house.connector.opening.count(house.alone("third"))


def test_with_a_connection_left_callers_wait_for_it_even_when_the_server_is_down(house: House) -> None:
    pool = house.alone("lucky", max_size=1)
    (link,) = house.filled(pool, "lucky", 1)
    caller = ask(pool, "lucky")
    bring_down(house)
    assert caller.waits
    late = ask(pool, "lucky")
    assert late.waits
    ready(link)
    assert caller.link is link


def test_a_server_that_answers_again_whatever_it_says_is_up(house: House) -> None:
    bring_down(house)
    house.connector.pass_time(3.0)
    house.budget.reached()
    assert not house.budget.is_down
    (event,) = house.events.of(ServerUp)
    assert event.seconds == pytest.approx(3.0 + BREAKER_SECONDS)
    caller = ask(house.alone("third"), "third")
    house.connector.succeed(house.alone("third"))
    assert not caller.waits


@pytest.mark.parametrize("failure", ["busy", "denied"])
def test_a_server_that_can_say_no_is_not_down(house: House, failure: str) -> None:
    bring_down(house)
    house.budget.reached()
    house.connector.pass_time(2.0)
    ask(house.alone("third"), "third")
    house.connector.fail(house.alone("third"), "busy" if failure == "busy" else "denied")
    assert not house.budget.is_down


def test_other_servers_are_not_down() -> None:
    house = House(servers={"one": 12, "two": 12})
    bring_down(house)
    pool = house.pool(route("far", server="two"))
    caller = ask(pool, "far")
    house.connector.succeed(pool)
    assert not caller.waits


# --- what callers hear -----------------------------------------------------------------------------------------------
def time_out(caller: Caller, pool: Pool[Link]) -> PoolError:
    assert caller.ticket is not None
    assert pool.cancel(caller.ticket, "timeout")
    return pool.timed_out(caller.ticket, 5.0)


def words(error: TenantProxyError) -> tuple[str, str]:
    assert error.detail
    assert error.hint
    assert error.retry_after
    assert error.http_status == 503
    return error.detail, error.hint


def test_a_caller_behind_its_own_limit_hears_which_and_who_else_waits(house: House) -> None:
    pool = house.alone("acme", max_size=2)
    house.filled(pool, "acme", 2)
    caller, _ = ask(pool, "acme"), ask(pool, "acme")
    error = time_out(caller, pool)
    assert type(error) is PoolTimeout
    assert str(error).startswith("no connection became free within 5 s.")
    detail, hint = words(error)
    assert "max_size = 2" in detail
    assert "1 more of this tenant wait" in detail
    assert "max_size" in hint
    assert house.events.of(Exhausted) == [
        Exhausted(cause="tenant_limit", tenant="acme", pool="acme", limit=2, waiting=1)
    ]
    assert house.counters.exhaustions["tenant_limit"] == 1


def test_a_caller_behind_the_servers_budget_hears_that_it_is_taken(house: House) -> None:
    house.filled(house.alone("greedy"), "greedy", 10)
    pool = house.alone("acme")
    caller = ask(pool, "acme")
    error = time_out(caller, pool)
    assert type(error) is BudgetExhausted
    detail, hint = words(error)
    assert "max_connections = 12" in detail
    assert "0 more of this tenant wait" in detail
    assert "max_connections" in hint
    assert house.counters.exhaustions["server_budget"] == 1


def test_a_caller_behind_a_full_shared_pool_hears_of_its_size() -> None:
    house = House(servers={"one": 40}, settings=Pools(max_size=2, shared_size=4))
    pool = house.shared()
    for name in ("a", "b"):
        house.filled(pool, name, 2)
    error = time_out(ask(pool, "c"), pool)
    assert type(error) is PoolTimeout
    detail, hint = words(error)
    assert "all 4 connections of this pool" in detail
    assert "shared_size" in hint


def test_a_caller_whose_connection_is_still_being_opened_is_not_told_of_a_limit(house: House) -> None:
    pool = house.alone("acme", max_size=1)
    error = time_out(ask(pool, "acme"), pool)
    assert type(error) is PoolTimeout
    detail, hint = words(error)
    assert "1 are being opened" in detail
    assert "slow or silent" in hint
    assert house.counters.exhaustions["connect"] == 1


def test_a_caller_of_a_server_that_fails_hears_why_and_not_that_a_limit_is_reached(house: House) -> None:
    pool = house.alone("acme")
    caller = ask(pool, "acme")
    house.connector.fail(failure="busy", error=ConnectFailed("it is starting up", detail="57P03", retry_after=1.0))
    error = time_out(caller, pool)
    assert type(error) is ConnectFailed
    assert "57P03" in str(error)


def test_also_beside_connections_that_are_lent_a_failed_connect_is_what_the_caller_hears_of(house: House) -> None:
    pool = house.alone("acme")
    house.filled(pool, "acme", 1)
    caller = ask(pool, "acme")
    house.connector.fail(failure="busy", error=BudgetExhausted("the database has no connection left", detail="53300"))
    error = time_out(caller, pool)
    assert "53300" in str(error), "the budget of 12 is not taken, but that is what it says"


def test_one_too_many_hears_at_once_how_many_wait(house: House) -> None:
    house = House(settings=Pools(max_size=1, max_waiting=2))
    pool = house.alone("acme")
    house.filled(pool, "acme", 1)
    for _ in range(2):
        ask(pool, "acme")
    with pytest.raises(PoolFull) as full:
        ask(pool, "acme")
    detail, hint = words(full.value)
    assert "max_waiting = 2" in detail
    assert "1 of max_size = 1" in detail
    assert "max_waiting" in hint
    assert house.counters.exhaustions["queue_full"] == 1
    assert house.events.of(Exhausted)[-1].cause == "queue_full"


def test_another_tenant_of_the_pool_may_wait_where_one_has_too_many() -> None:
    house = House(settings=Pools(max_size=1, shared_size=1, max_waiting=1))
    pool = house.shared()
    house.filled(pool, "full", 1)
    ask(pool, "full")
    with pytest.raises(PoolFull):
        ask(pool, "full")
    assert ask(pool, "other").waits
