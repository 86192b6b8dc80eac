"""Are clients that try too often held back, and no others, in bounded memory?"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantproxy.auth.throttle import Buckets, Throttle, limit_of
from tenantproxy.auth.trust import Trust
from tenantproxy.errors import TooManyAttempts


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def throttle(clock: Clock, *, account: int = 3, address: int = 6, second: int = 100, entries: int = 1000) -> Throttle:
    return Throttle(per_account=account, per_address=address, per_second=second, max_entries=entries, clock=clock)


def tried(limits: Throttle, account: bytes, address: str | None, times: int) -> int:
    """How many of `times` attempts were let through."""
    let = 0
    for _ in range(times):
        try:
            limits.take(account, address)
            let += 1
        except TooManyAttempts:
            pass
    return let


def test_an_account_may_be_tried_so_often_from_wherever_it_is(clock: Clock) -> None:
    limits = throttle(clock)
    assert sum(tried(limits, b"ann", f"10.0.{n}.1", 1) for n in range(20)) == 3
    assert tried(limits, b"bob", "10.0.0.1", 1) == 1


def test_an_address_may_try_so_often_whomever_it_tries(clock: Clock) -> None:
    limits = throttle(clock)
    assert sum(tried(limits, b"%d" % n, "10.0.0.1", 1) for n in range(20)) == 6
    assert tried(limits, b"ann", "10.0.0.2", 1) == 1
    assert tried(limits, b"ann", None, 1) == 1


def test_who_waits_as_long_as_told_may_try_again(clock: Clock) -> None:
    limits = throttle(clock)
    tried(limits, b"ann", None, 3)
    with pytest.raises(TooManyAttempts) as refused:
        limits.take(b"ann", None)
    assert refused.value.retry_after == pytest.approx(20.0)
    clock.now += 20.0
    limits.take(b"ann", None)
    assert tried(limits, b"ann", None, 1) == 0


def test_one_address_that_tries_without_end_leaves_the_tokens_of_all_to_the_others(clock: Clock) -> None:
    limits = throttle(clock, second=20)
    assert tried(limits, b"ann", "10.0.0.1", 10_000) == 2  # its network's share of the strangers' second
    assert sum(tried(limits, b"%d" % n, f"10.0.{n}.1", 1) for n in range(1, 9)) == 8
    assert tried(limits, b"late", "10.1.2.1", 1) == 0
    clock.now += 1.0
    assert tried(limits, b"late", "10.1.2.1", 1) == 1


def test_what_was_right_does_not_count_for_an_address(clock: Clock) -> None:
    limits = throttle(clock, second=1000)
    for n in range(50):
        limits.take(b"%d" % n, "10.0.0.1")
        limits.forgive(b"%d" % n, "10.0.0.1")
    assert sum(tried(limits, b"ann%d" % n, "10.0.0.1", 1) for n in range(20)) == 6


def test_who_logs_in_now_and_then_may_mistype_as_often_as_before(clock: Clock) -> None:
    limits = throttle(clock)
    for _ in range(50):
        limits.take(b"ann", "10.0.0.1")
        limits.forgive(b"ann", "10.0.0.1")
        clock.now += 5.0
    assert tried(limits, b"ann", "10.0.0.1", 9) == 3


def test_one_account_that_logs_in_without_end_leaves_the_tokens_of_all_to_the_others(clock: Clock) -> None:
    limits = throttle(clock, second=50)
    right = 0
    for _ in range(1000):
        if tried(limits, b"ann", "10.0.0.1", 1):
            limits.forgive(b"ann", "10.0.0.1")
            right += 1
    assert 10 <= right <= 30  # as a stranger, and then with the allowance of who was here before
    assert sum(tried(limits, b"%d" % n, f"10.0.{n}.1", 1) for n in range(1, 20)) == 19


def test_a_limit_of_nought_is_none(clock: Clock) -> None:
    limits = throttle(clock, account=0, address=0, second=0)
    assert tried(limits, b"ann", "10.0.0.1", 5000) == 5000


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:10.0.0.1", "10.0.0.1", True),
        ("fe80::1%eth0", "fe80::1", True),
        ("10.0.0.1", "10.0.0.2", False),
        ("unix", "\ud800", False),
    ],
)
def test_an_address_is_what_one_subscriber_has(first: str, second: str, same: bool, clock: Clock) -> None:
    limits = throttle(clock, account=0)
    tried(limits, b"", first, 6)
    assert tried(limits, b"", second, 1) == (0 if same else 1)


def test_memory_is_bounded_and_what_is_full_again_is_forgotten(clock: Clock) -> None:
    buckets = Buckets(burst=2, per_second=1, max_entries=100, clock=clock)
    for n in range(1000):
        buckets.take(b"%d" % n)
    assert len(buckets) == 100
    clock.now += 2.0
    buckets.take(b"new")
    assert len(buckets) == 1


def test_no_account_and_no_address_is_kept(clock: Clock) -> None:
    limits = throttle(clock)
    limits.take(b"ann@example.org", "192.0.2.77")
    networks = list(limits._networks._levels.values())
    kept = repr([dict(b._levels) for b in (limits._accounts, limits._pairs, limits._crowds, *networks)])
    assert "ann" not in kept
    assert "192.0.2.77" not in kept
    assert b"\xc0\x00\x02\x4d" not in [key[:4] for each in networks for key in each._levels]


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0, 5), st.booleans()), max_size=60))
def test_no_order_of_attempts_gets_more_than_burst_and_rate_allow(steps: list[tuple[int, float, bool]]) -> None:
    clock = Clock()
    buckets = Buckets(burst=3, per_second=0.5, max_entries=10, clock=clock)
    let = dict.fromkeys(range(4), 0)
    for key, later, _ in steps:
        clock.now += later
        name = b"%d" % key
        if buckets.wait(name) <= 0:
            buckets.take(name)
            let[key] += 1
        assert let[key] <= 3 + (clock.now - 1000.0) * 0.5 + 1e-6


@pytest.mark.parametrize(
    ("address", "bits", "most"),
    [
        ("2001:db8:0:0:{:x}::1", 64, 6),
        ("2001:db8:0:{:x}::1", 56, 12),
        ("2001:db8:0:{:x}00::1", 48, 24),
        ("192.0.2.{}", 24, 24),
    ],
)
def test_wider_networks_have_limits_too(address: str, bits: int, most: int, clock: Clock) -> None:
    limits = throttle(clock, account=0, second=0)
    assert sum(tried(limits, b"%d" % n, address.format(n), 1) for n in range(200)) == most


def test_an_impossible_attempt_costs_its_network_alone(clock: Clock) -> None:
    limits = throttle(clock, second=20)
    refused = 0
    for n in range(6_000):
        try:
            limits.take_impossible(f"2001:db8:{n % 60:x}::1")
        except TooManyAttempts:
            refused += 1
    assert refused == 6_000 - 60 * 6
    assert sum(tried(limits, b"ann%d" % n, f"10.0.{n}.1", 1) for n in range(10)) == 10


def test_the_owner_is_let_in_from_a_known_address_while_others_guess(clock: Clock) -> None:
    limits = throttle(clock)
    assert limits.take(b"ann", "192.0.2.1") is Trust.STRANGER
    limits.forgive(b"ann", "192.0.2.1")
    for minute in range(60):
        assert sum(tried(limits, b"ann", f"10.{minute}.{n}.1", 1) for n in range(100)) <= 4
        assert tried(limits, b"ann", "192.0.2.1", 1) == 1
        limits.forgive(b"ann", "192.0.2.1")
        clock.now += 60.0


def test_a_known_address_may_guess_no_more_than_any(clock: Clock) -> None:
    limits = throttle(clock)
    limits.take(b"ann", "192.0.2.1")
    limits.forgive(b"ann", "192.0.2.1")
    assert tried(limits, b"ann", "192.0.2.1", 100) == 3
    assert tried(limits, b"ann", "10.0.0.1", 100) == 2  # the account's own: the right attempt cost it a part of one


def test_a_device_has_an_allowance_wherever_it_is(clock: Clock) -> None:
    limits = throttle(clock)
    assert sum(tried(limits, b"ann", f"10.0.{n}.1", 1) for n in range(100)) == 3
    assert limits.take(b"ann", "203.0.113.9", device=b"phone") is Trust.PROVEN
    with pytest.raises(TooManyAttempts):
        limits.take(b"ann", "203.0.113.9")
    for _ in range(2):
        limits.take(b"ann", "203.0.113.9", device=b"phone")
    with pytest.raises(TooManyAttempts):
        limits.take(b"ann", "203.0.113.9", device=b"phone")


def test_one_network_cannot_tell_known_accounts_from_others(clock: Clock) -> None:
    limits = throttle(clock, account=10, address=100, second=100)
    limits.take(b"ann", "192.0.2.1")
    limits.forgive(b"ann", "192.0.2.1")
    assert tried(limits, b"another", "203.0.113.1", 10) == 10  # its network's share of the strangers' second
    assert tried(limits, b"bob", "203.0.113.1", 1) == tried(limits, b"ann", "203.0.113.1", 1) == 0
    assert tried(limits, b"ann", "192.0.2.1", 1) == 1


def test_many_devices_of_one_account_guess_no_more_than_four(clock: Clock) -> None:
    limits = throttle(clock)
    guesses = 0
    for n in range(200):
        while limits.allows_device(b"ann"):
            try:
                limits.take(b"ann", None, device=b"%d" % n)
            except TooManyAttempts:
                break
            guesses += 1
    assert guesses == 12
    limits.forgive(b"ann", None, device=b"0")
    assert limits.allows_device(b"ann")


def test_a_flood_of_strangers_leaves_shares_to_those_who_logged_in_before(clock: Clock) -> None:
    limits = throttle(clock, account=10, address=100, second=100)
    for n in range(10):
        limits.take(b"user%d" % n, f"192.0.{n}.1")
        limits.forgive(b"user%d" % n, f"192.0.{n}.1")
        clock.now += 1.0
    refused = 0
    for tick in range(3_000):  # 100 a second for half a minute, each from another network
        tried(limits, b"guess%d" % tick, f"2001:db8:{tick:x}::1", 1)
        if tick % 100 == 99:
            user = tick // 100 % 10
            from_home = f"192.0.{user}.1" if tick % 200 == 99 else f"198.51.{user}.1"
            refused += not tried(limits, b"user%d" % user, from_home, 1)
            limits.forgive(b"user%d" % user, from_home)
        clock.now += 0.01
    assert refused == 0


def test_newcomers_get_in_while_one_network_of_65536_floods(clock: Clock) -> None:
    limits = throttle(clock, account=10, address=100, second=100)
    refused = 0
    for tick in range(6_000):
        tried(limits, b"guess%d" % tick, f"2001:db8:0:{tick * 11 % 65536:x}::1", 1)
        if tick % 10 == 9:
            refused += not tried(limits, b"new%d" % tick, f"10.{tick // 256 % 256}.{tick % 256}.1", 1)
        clock.now += 0.01
    assert refused == 0


def test_one_account_makes_no_more_than_four_networks_familiar(clock: Clock) -> None:
    limits = throttle(clock, account=0, address=0, second=0)
    for n in range(50):
        limits.take(b"mallory", f"10.0.{n}.1")
        limits.forgive(b"mallory", f"10.0.{n}.1")
    trusts = [limits.take(b"ann", f"10.0.{n}.1") for n in range(50)]
    assert trusts == [Trust.STRANGER] * 46 + [Trust.FAMILIAR] * 4


def test_which_limit_it_was_is_for_the_operator_alone(clock: Clock) -> None:
    limits = throttle(clock)
    tried(limits, b"ann", None, 3)
    with pytest.raises(TooManyAttempts) as by_account:
        limits.take(b"ann", None)
    tried(limits, b"", "10.0.0.1", 0)
    for _ in range(6):
        limits.take_impossible("10.0.0.1")
    with pytest.raises(TooManyAttempts) as by_address:
        limits.take(b"bob", "10.0.0.1")
    assert (limit_of(by_account.value), limit_of(by_address.value)) == ("account", "address")
    assert str(by_account.value) == str(by_address.value)
