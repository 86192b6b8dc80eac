"""Who holds a place at an HTTP listener, and who gives way?"""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from tenantproxy.sidecar.places import Places, network_of


@dataclass(eq=False, slots=True)
class Client:
    address: str | None = None


class Now:
    at = 0.0

    def __call__(self) -> float:
        return self.at


def test_one_address_at_its_limit_closes_its_own_and_no_other() -> None:
    now, closed = Now(), list[Client]()
    places = Places[Client](10, 2, closed.append, grace=1.0, clock=now)
    stranger, first, second, third = Client("b"), Client("a"), Client("a"), Client("a")
    assert all(map(places.take, (stranger, first, second)))
    assert not places.take(third)  # the others have only just connected
    now.at = 1.0
    assert places.take(third)
    assert closed == [first]
    assert len(places) == 3
    places.works(second)
    places.works(third)
    now.at = 9.0
    assert not places.take(Client("a"))
    assert places.take(Client("b"))
    assert closed == [first]


def test_who_left_or_gave_way_is_counted_once() -> None:
    now, closed = Now(), list[Client]()
    places = Places[Client](1, 1, closed.append, grace=0.0, clock=now)
    first, second = Client("a"), Client("b")
    assert places.take(first)
    assert places.take(second)
    places.waits(first)  # its last answer was still being sent
    places.leave(first)
    assert len(places) == 1
    places.leave(second)
    places.leave(second)
    assert (len(places), places._idle, places._idle_of, places._of) == (0, {}, {}, {})


@pytest.mark.parametrize(
    ("peer", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
    ],
)
def test_an_ipv6_customer_counts_as_one_address(peer: str, network: str) -> None:
    assert network_of(peer) == network
