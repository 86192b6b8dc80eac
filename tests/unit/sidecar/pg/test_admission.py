"""Do the limits of clients hold, and does each of them leave others their places?"""

from __future__ import annotations

from typing import Any

import pytest

from tenantproxy.config import Pg
from tenantproxy.errors import TooManyClients
from tenantproxy.metrics.pg import LimitUsage
from tenantproxy.model import tenant_id
from tenantproxy.sidecar.pg.admission import Admission, ClientPlace, address_of
from tenantproxy.sidecar.unauthenticated import Unauthenticated

ACME, GLOBEX = tenant_id("acme"), tenant_id("globex")


def admission(**pg: Any) -> Admission:
    return Admission(Pg.model_validate(pg))


def fill(limits: Admission, count: int, tenant: Any = ACME, user: str = "all", address: str = "") -> list[ClientPlace]:
    return [limits.take(tenant, user, address) for _ in range(count)]


def refused(limits: Admission, tenant: Any = ACME, user: str = "all", address: str = "") -> TooManyClients:
    with pytest.raises(TooManyClients) as caught:
        limits.take(tenant, user, address)
    return caught.value


def test_one_tenant_leaves_half_of_the_places_to_others_by_default() -> None:
    limits = admission(max_clients=12)
    fill(limits, 6)
    error = refused(limits)
    assert (error.sqlstate, error.detail) == ("53300", "[pg] max_clients_per_tenant = 6")
    fill(limits, 6, GLOBEX)
    assert refused(limits, GLOBEX).detail == "[pg] max_clients = 12"


def test_an_operator_gets_in_when_all_places_are_taken() -> None:
    limits = admission(max_clients=2, max_clients_per_tenant=0, reserved_clients=2)
    fill(limits, 2)
    fill(limits, 2, None, "ops")
    assert refused(limits, None, "ops").detail == "[pg] max_clients = 2"


def test_operators_beyond_their_reserve_take_the_places_of_clients() -> None:
    limits = admission(max_clients=3, max_clients_per_tenant=0, reserved_clients=1)
    fill(limits, 3, None, "ops")
    fill(limits, 1)
    refused(limits)
    refused(limits, None, "ops")


def test_a_user_has_the_limit_of_all_users_or_its_own() -> None:
    limits = admission(
        max_clients=20, max_clients_per_user=3, users={"own": {"password": "x", "tenants": "*", "max_clients": 1}}
    )
    fill(limits, 3)
    fill(limits, 1, user="own")
    assert refused(limits).detail == "[pg] max_clients_per_user = 3"
    assert refused(limits, user="own").detail == "[pg.users.own] max_clients = 1"
    fill(limits, 1, user="another")


def test_an_address_leaves_others_half_and_an_ipv6_network_is_one() -> None:
    limits = admission(max_clients=4, max_clients_per_tenant=0)
    addresses = [address_of((f"2001:db8::{n}", 5000 + n, 0, 0)) for n in range(2)]
    for address in addresses:
        fill(limits, 1, address=address)
    error = refused(limits, address=addresses[0])
    assert error.detail == "[pg] max_clients_per_address = 2"
    assert "2001:db8::/64" in error.message
    fill(limits, 2, address=address_of(("2001:db8:0:1::1", 5000, 0, 0)))


@pytest.mark.parametrize("peer", ["127.0.0.1", "::1", "::ffff:127.0.0.1"])
def test_what_ends_tls_on_this_machine_is_no_client_of_its_own(peer: str) -> None:
    limits = admission(max_clients=4, max_clients_per_tenant=0)
    fill(limits, 4, address=address_of((peer, 5000)))
    asked = admission(max_clients=4, max_clients_per_tenant=0, max_clients_per_address=1)
    fill(asked, 1, address=address_of((peer, 5000)))
    refused(asked, address=address_of((peer, 5000)))


def test_places_are_released_once_and_nothing_of_a_client_is_kept() -> None:
    limits = admission(max_clients=4, max_clients_per_tenant=2)
    for place in fill(limits, 2, address="192.0.2.1") + fill(limits, 1, None, "ops"):
        limits.leave(place)
        limits.leave(place)
    assert [each.used for each in limits.usage()] == [0, 0, 0, 0, 0]
    assert not [*limits._tenants, *limits._users, *limits._addresses]
    fill(limits, 2)
    refused(limits)


def test_limits_that_are_reloaded_hold_from_then_on() -> None:
    limits = admission(max_clients=4)
    fill(limits, 2)
    limits.pg = Pg(max_clients=8)
    fill(limits, 2)
    limits.pg = Pg(max_clients=2)
    assert refused(limits, GLOBEX).detail == "[pg] max_clients = 2"


def test_usage_says_who_has_the_most_of_a_limit() -> None:
    limits = admission(max_clients=4)
    fill(limits, 2)
    fill(limits, 1, GLOBEX)
    refused(limits)
    assert LimitUsage("max_clients_per_tenant", 2, 2, "acme", 1) in list(limits.usage())


# --- not logged in ---------------------------------------------------------------------------------------------------
class FakeConnection:
    def __init__(self, address: str = "192.0.2.1") -> None:
        self.address = address
        self.made_room = 0

    def make_room(self, limit: int) -> None:
        self.made_room = limit


def crowd(limit: int, *addresses: str) -> tuple[Unauthenticated, list[FakeConnection]]:
    unauthenticated = Unauthenticated(limit)
    connections = [FakeConnection(address) for address in addresses]
    for connection in connections:
        unauthenticated.add(connection)
    return unauthenticated, connections


def test_the_oldest_that_has_not_logged_in_makes_room_for_one_more() -> None:
    unauthenticated, connections = crowd(4, "a", "b", "a", "b", "c")
    assert [each.made_room for each in connections] == [4, 0, 0, 0, 0]
    assert len(unauthenticated) == 4
    assert (unauthenticated.most_of, unauthenticated.made_room) == ("b", 1)


def test_who_floods_from_one_address_closes_its_own_connections() -> None:
    _, connections = crowd(6, "other", *["flood"] * 20)
    assert not connections[0].made_room
    assert sum(bool(each.made_room) for each in connections) == 17


@pytest.mark.parametrize("addresses", [1, 2, 4])
def test_who_floods_from_a_few_addresses_closes_no_other_ones_connection(addresses: int) -> None:
    _, connections = crowd(10, "other", *(f"flood{number % addresses}" for number in range(200)))
    assert not connections[0].made_room


def test_a_connection_that_has_logged_in_makes_no_room_any_more() -> None:
    unauthenticated, connections = crowd(2, "a", "b")
    unauthenticated.discard(connections[0])
    unauthenticated.discard(connections[0])
    for address in "cde":
        unauthenticated.add(FakeConnection(address))
    assert [each.made_room for each in connections] == [0, 2]
    assert len(unauthenticated) == 2


def test_a_limit_of_one_is_taken_in_turns() -> None:
    unauthenticated, connections = crowd(1, "a", "a", "b")
    assert [each.made_room for each in connections] == [1, 1, 0]
    assert len(unauthenticated) == 1


def test_the_limit_of_those_not_logged_in_is_never_a_small_one_by_default() -> None:
    assert (Pg(max_clients=12).unauthenticated, Pg().unauthenticated) == (1000, 10_000)
