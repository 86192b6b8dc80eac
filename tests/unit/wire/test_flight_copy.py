"""Does a flight know when the server reads COPY data, in whatever order a client says what?"""

from __future__ import annotations

import pytest

from tenantproxy.wire.flight import Flight
from tenantproxy.wire.frames import COPY_DATA, COPY_DONE
from tenantproxy.wire.statements import ServerStatements, Statements


@pytest.fixture
def flight() -> Flight:
    """One that has a backend."""
    flight = Flight(Statements())
    flight.board(ServerStatements())
    return flight


def test_the_end_of_a_copy_may_be_sent_before_the_server_says_that_it_begins(flight: Flight) -> None:
    flight.queried()
    flight.copies(COPY_DONE)
    flight.copy_began()
    assert not flight.copying
    flight.ready()
    assert flight.is_quiet
    assert not flight.is_doubtful


def test_the_end_of_a_copy_that_never_began_does_not_end_the_next_one(flight: Flight) -> None:
    flight.queried()
    flight.copies(COPY_DONE)
    flight.failed()
    flight.ready()
    flight.queried()
    flight.copy_began()
    assert flight.copying


def test_an_end_that_comes_when_all_is_answered_is_nobodys(flight: Flight) -> None:
    flight.queried()
    flight.failed()
    flight.ready()
    flight.copies(COPY_DONE)
    flight.queried()
    flight.copy_began()
    assert flight.copying


def test_an_end_behind_a_sync_that_the_copy_may_have_swallowed_is_doubtful(flight: Flight) -> None:
    flight.is_open = True
    flight.synced()
    flight.copies(COPY_DONE)
    assert flight.is_doubtful


def test_another_backend_knows_nothing_of_what_was_sent_ahead(flight: Flight) -> None:
    flight.queried()
    flight.copies(COPY_DONE)
    flight.abandon()
    flight.board(ServerStatements())
    flight.queried()
    flight.copy_began()
    assert flight.copying


@pytest.mark.parametrize("kind", [COPY_DATA, COPY_DONE])
def test_a_message_of_copy_that_a_timeout_may_answer_is_in_doubt(flight: Flight, kind: int) -> None:
    """PostgreSQL may answer it with a ReadyForQuery that no Sync has asked for."""
    flight.opened()
    assert flight.copies(kind), "the server may be reading a COPY"
    assert flight.is_doubtful


def test_what_is_prepared_inside_a_copy_whose_end_is_not_read_is_in_doubt(flight: Flight) -> None:
    flight.queried()
    flight.copy_began()
    flight.copies(COPY_DATA)
    assert not flight.is_doubtful
    flight.opened()
    assert flight.is_doubtful


@pytest.mark.parametrize("is_extended", [False, True])
def test_data_that_comes_behind_a_failed_copy_is_left_out_and_in_no_doubt(flight: Flight, is_extended: bool) -> None:
    """As of each client that has not read the error yet."""
    if is_extended:
        flight.opened()
    else:
        flight.queried()
    flight.copy_began()
    assert flight.copies(COPY_DATA)
    flight.failed()
    if not is_extended:
        flight.ready()
    assert not flight.copies(COPY_DATA)
    assert not flight.copies(COPY_DONE)
    assert not flight.is_doubtful
    if is_extended:
        flight.synced()
        flight.ready()
    assert flight.is_quiet
