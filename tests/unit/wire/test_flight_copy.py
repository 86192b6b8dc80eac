"""Does a flight know when the server reads COPY data, in whatever order a client says what?"""

from __future__ import annotations

import pytest

from tenantproxy.wire.flight import Flight
from tenantproxy.wire.statements import ServerStatements, Statements


@pytest.fixture
def flight() -> Flight:
    """One that has a backend."""
    flight = Flight(Statements())
    flight.board(ServerStatements())
    return flight


def test_the_end_of_a_copy_may_be_sent_before_the_server_says_that_it_begins(flight: Flight) -> None:
    flight.queried()
    flight.copy_ended()
    flight.copy_began()
    assert not flight.copying
    flight.ready()
    assert flight.is_quiet
    assert not flight.is_doubtful


def test_the_end_of_a_copy_that_never_began_does_not_end_the_next_one(flight: Flight) -> None:
    flight.queried()
    flight.copy_ended()
    flight.failed()
    flight.ready()
    flight.queried()
    flight.copy_began()
    assert flight.copying


def test_an_end_that_comes_when_all_is_answered_is_nobodys(flight: Flight) -> None:
    flight.queried()
    flight.failed()
    flight.ready()
    flight.copy_ended()
    flight.queried()
    flight.copy_began()
    assert flight.copying


def test_an_end_behind_a_sync_that_the_copy_may_have_swallowed_is_doubtful(flight: Flight) -> None:
    flight.is_open = True
    flight.synced()
    flight.copy_ended()
    assert flight.is_doubtful


def test_another_backend_knows_nothing_of_what_was_sent_ahead(flight: Flight) -> None:
    flight.queried()
    flight.copy_ended()
    flight.abandon()
    flight.board(ServerStatements())
    flight.queried()
    flight.copy_began()
    assert flight.copying
