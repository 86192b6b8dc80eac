"""Does a process keep to what main granted it, and to less when it has not heard of main for a while?"""

from __future__ import annotations

import pytest

from tenantproxy.fleet.member import Member
from tenantproxy.fleet.share import Holding, Lease, Share
from tenantproxy.fleet.values import ServerGrant, Terms

TERMS = Terms(cap=20, floor=2, burst=2, ttl=15.0)


def granted(limit: int, *, target: int | None = None, asked: float = 0.0, since: float = -100.0) -> Share:
    """A share with an answer, whose floor main has known since `since`."""
    share = Share(TERMS)
    grant = ServerGrant(server="one", granted=limit, target=limit if target is None else target, epoch=0)
    share.accept(grant, asked=since, now=since)
    share.accept(grant, asked=asked, now=asked)
    return share


@pytest.mark.parametrize(
    ("age", "lease", "allowed"),
    [(4.9, "fresh", 10), (5.0, "fenced", 2), (10.0, "cancelling", 2), (134.9, "cancelling", 2), (135.0, "lost", 0)],
)
def test_what_is_allowed_falls_as_the_answer_grows_old(age: float, lease: str, allowed: int) -> None:
    share = granted(10)
    assert (share.lease(age), share.allowed(age)) == (Lease(lease), allowed)


def test_before_the_first_answer_nothing_may_be_opened() -> None:
    assert not Share(TERMS).may_open(0.0, total=0, opening=0)


def test_the_floor_is_not_owned_before_main_has_known_it_for_a_ttl() -> None:
    assert granted(10, since=-14.0).allowed(6.0) == 0
    assert granted(10, since=-15.0).allowed(6.0) == 2


def test_no_more_than_a_burst_of_connects_is_under_way() -> None:
    share = granted(10)
    assert share.may_open(0.0, total=2, opening=1)
    assert not share.may_open(0.0, total=2, opening=2)


def test_a_limit_that_is_kept_without_main_never_ends() -> None:
    share = Share(TERMS, keeps=True)
    share.accept(ServerGrant(server="one", granted=10, target=10, epoch=0), asked=0.0, now=0.0)
    assert share.allowed(1e6) == 10


def test_a_lower_target_takes_what_is_not_open_at_once_and_the_rest_as_it_ends() -> None:
    share = granted(10, target=4)
    claim = share.claim("one", 0.0, Holding(total=7))
    assert (claim.keep, claim.lowers, share.limit) == (7, True, 7)
    share.tighten(3)
    assert share.limit == 4


def test_idle_connections_above_the_target_close_and_leases_stay() -> None:
    orders = granted(10, target=4).orders(0.0, total=9, closing=2)
    assert (orders.close_idle, orders.cancel_used, orders.close_all) == (3, 0, False)


def test_leases_above_the_floor_are_cancelled_at_two_thirds_of_the_ttl() -> None:
    share = granted(10)
    assert share.orders(9.9, total=6, closing=0).cancel_used == 0
    assert share.orders(10.0, total=6, closing=0).cancel_used == 4


def test_everything_closes_when_main_may_have_forgotten_the_process() -> None:
    assert granted(10).orders(135.0, total=1, closing=0).close_all


def test_an_answer_is_as_old_as_its_question() -> None:
    member = Member({"one": TERMS})
    report = member.report(0.0, {"one": Holding(total=0)})
    member.hear(report.seq, [ServerGrant(server="one", granted=9, target=9, epoch=0)], now=4.0)
    assert member.shares["one"].age(5.0) == 5.0


def test_the_answer_to_an_older_report_does_not_count() -> None:
    member = Member({"one": TERMS})
    first = member.report(0.0, {"one": Holding(total=0)})
    member.report(1.0, {"one": Holding(total=0)})
    assert not member.hear(first.seq, [ServerGrant(server="one", granted=9, target=9, epoch=0)], now=2.0)
    assert member.shares["one"].limit == 0


def test_a_process_whose_id_another_one_has_takes_a_new_one_and_no_grant() -> None:
    member = Member({"one": TERMS})
    report = member.report(0.0, {"one": Holding(total=0)})
    member.hear(report.seq, [ServerGrant(server="one", granted=9, target=9, epoch=0)], now=0.0)
    former, report = member.process, member.report(1.0, {"one": Holding(total=3)})
    assert member.hear_stale(report.seq)
    assert member.process != former
    assert member.shares["one"].allowed(1.0) == 0


def test_a_process_that_leaves_something_open_says_how_much_and_is_buried() -> None:
    member = Member({"one": TERMS})
    first = member.report(0.0, {"one": Holding(total=0, want=9)})
    member.hear(first.seq, [ServerGrant(server="one", granted=12, target=12, epoch=0)], now=0.0)
    process = member.process
    last, funeral = member.end(1.0, {"one": 2})
    (claim,) = last.claims
    assert (claim.used, claim.keep, claim.lowers, claim.want) == (2, 2, True, 0.0)
    assert last.process == process
    assert (funeral.buried, funeral.claims) == ((process,), ())
    assert funeral.process != process
    assert member.shares["one"].allowed(1.0) == 0
