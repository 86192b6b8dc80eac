"""Is every tenant served in turn, and none held up by another tenant's limit?"""

from __future__ import annotations

from tenantproxy.model import Limits, tenant_id
from tenantproxy.pools.queue import Ticket, Turn, Turns
from tests.support.fakes import Caller, Link


def turn_of(turns: Turns[Link], tenant: str, max_size: int = 2) -> Turn[Link]:
    turn: Turn[Link] = Turn(tenant_id(tenant), limits=Limits(), max_size=max_size, max_waiting=9)
    turns.add(turn)
    return turn


def queue(turns: Turns[Link], turn: Turn[Link], since: float = 0.0) -> Ticket[Link]:
    ticket: Ticket[Link] = Ticket(turn, Caller(turn.tenant), since)
    turns.enqueue(ticket)
    return ticket


def take(turns: Turns[Link]) -> Ticket[Link] | None:
    """As a pool serves: the ticket's tenant holds one more."""
    ticket = turns.next()
    if ticket is not None:
        ticket.turn.leased += 1
        turns.refresh(ticket.turn)
    return ticket


def test_one_tenants_waiters_are_served_in_the_order_in_which_they_came() -> None:
    turns: Turns[Link] = Turns(1)
    turn = turn_of(turns, "acme", max_size=5)
    tickets = [queue(turns, turn) for _ in range(3)]
    assert [take(turns) for _ in range(4)] == [*tickets, None]


def test_a_tenant_with_many_waiters_gets_one_turn_like_everybody_else() -> None:
    turns: Turns[Link] = Turns(1)
    greedy, polite = turn_of(turns, "greedy", max_size=9), turn_of(turns, "polite", max_size=9)
    many = [queue(turns, greedy) for _ in range(3)]
    one = queue(turns, polite)
    assert [take(turns) for _ in range(4)] == [many[0], one, many[1], many[2]]


def test_a_tenant_at_its_limit_is_passed_over() -> None:
    turns: Turns[Link] = Turns(1)
    full, other = turn_of(turns, "full", max_size=1), turn_of(turns, "other")
    full.leased = 1
    queue(turns, full)
    wanted = queue(turns, other)
    assert turns.next() is wanted
    assert turns.next() is None
    assert turns.waiting == 1


def test_a_tenant_below_its_limit_again_is_served_again() -> None:
    turns: Turns[Link] = Turns(1)
    turn = turn_of(turns, "acme", max_size=1)
    queue(turns, turn)
    second = queue(turns, turn)
    assert take(turns) is not None
    assert take(turns) is None
    turn.leased = 0
    turns.refresh(turn)
    assert take(turns) is second


def test_one_who_left_is_not_served_and_is_out_only_once() -> None:
    turns: Turns[Link] = Turns(1)
    turn = turn_of(turns, "acme")
    first, second = queue(turns, turn), queue(turns, turn)
    assert turns.cancel(first)
    assert not turns.cancel(first)
    assert turns.waiting == 1
    assert turns.next() is second


def test_a_turn_that_everybody_left_holds_nobody_up() -> None:
    turns: Turns[Link] = Turns(1)
    left, other = turn_of(turns, "left"), turn_of(turns, "other")
    ticket = queue(turns, left)
    wanted = queue(turns, other)
    turns.cancel(ticket)
    assert turns.peek() is other
    assert turns.next() is wanted


def test_only_as_many_are_eligible_as_their_tenants_limits_allow() -> None:
    turns: Turns[Link] = Turns(1)
    small, large, full = turn_of(turns, "small", 1), turn_of(turns, "large", 5), turn_of(turns, "full", 1)
    full.leased = 1
    for turn in (small, small, large, large, full):
        queue(turns, turn)
    assert turns.eligible(100) == 1 + 2 + 0
    assert turns.eligible(2) == 2, "counted no further than asked"


def test_tenants_below_the_guarantee_are_served_before_those_who_came_earlier_and_hold_more() -> None:
    turns: Turns[Link] = Turns(1)
    rich, poor = turn_of(turns, "rich"), turn_of(turns, "poor")
    rich.leased = 1
    queue(turns, rich)
    wanted = queue(turns, poor)
    assert turns.below == 1
    assert turns.next() is wanted
    assert turns.below == 0


def test_a_tenant_that_fell_below_the_guarantee_while_it_waits_comes_first() -> None:
    turns: Turns[Link] = Turns(1)
    rich, other = turn_of(turns, "rich"), turn_of(turns, "other")
    rich.leased = other.leased = 1
    queue(turns, other)
    wanted = queue(turns, rich)
    rich.leased = 0
    turns.refresh(rich)
    assert turns.next() is wanted
    assert turns.peek() is other


def test_without_a_guarantee_nobody_comes_first() -> None:
    turns: Turns[Link] = Turns(0)
    rich, poor = turn_of(turns, "rich"), turn_of(turns, "poor")
    rich.leased = 1
    first = queue(turns, rich)
    queue(turns, poor)
    assert turns.below == 0
    assert turns.next() is first


def test_tenants_that_hold_and_want_nothing_are_forgotten() -> None:
    turns: Turns[Link] = Turns(1)
    waits, holds, left = turn_of(turns, "waits"), turn_of(turns, "holds"), turn_of(turns, "left")
    queue(turns, waits)
    holds.leased = 1
    turns.purge()
    assert list(turns) == [waits, holds]
    assert turns.get(left.tenant) is None


def test_a_tenant_that_was_forgotten_in_its_turn_comes_back_as_new() -> None:
    turns: Turns[Link] = Turns(1)
    turn = turn_of(turns, "acme")
    turns.cancel(queue(turns, turn))
    turns.purge()
    again = turn_of(turns, "acme")
    ticket = queue(turns, again)
    assert turns.next() is ticket
    assert turns.next() is None


def test_draining_leaves_nobody_and_tells_each() -> None:
    turns: Turns[Link] = Turns(1)
    turn = turn_of(turns, "acme", max_size=1)
    tickets = {queue(turns, turn) for _ in range(3)}
    assert set(turns.drain()) == tickets
    assert turns.waiting == 0
    assert turns.peek() is None
    late = queue(turns, turn)
    assert turns.next() is late


def test_the_oldest_wait_is_that_of_the_first_in_the_queue() -> None:
    turns: Turns[Link] = Turns(1)
    turn = turn_of(turns, "acme")
    seen = [turn.oldest_since]
    first = queue(turns, turn, since=3.0)
    queue(turns, turn, since=5.0)
    seen.append(turn.oldest_since)
    turns.cancel(first)
    assert [*seen, turn.oldest_since] == [None, 3.0, 5.0]
