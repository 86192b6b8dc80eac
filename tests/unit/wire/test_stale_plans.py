"""Who learns of another shape of rows when a stale plan is made again, and who gets a new plan?"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tenantproxy.wire.frames import BIND, BIND_COMPLETE, DESCRIBE, EXECUTE, PARSE, PARSE_COMPLETE, SYNC, frame
from tenantproxy.wire.pipeline import Pipeline
from tenantproxy.wire.prepared import Prepared, is_described
from tenantproxy.wire.responses import ResponseStream
from tenantproxy.wire.statements import ServerStatements, Statements
from tests.support.model_server import bind, error, parse

READY = b"Z\0\0\0\5I"

BOUND = frame(BIND, b"\0one\0" + bytes(6))
RUN = frame(EXECUTE, b"\0" + bytes(4))
END = frame(SYNC)
PORTAL = frame(DESCRIBE, b"P\0")
STATEMENT = frame(DESCRIBE, b"Sone\0")
PARSED = frame(PARSE, b"one\0SELECT 1\0\0\0")


@pytest.mark.parametrize(
    ("segment", "expected"),
    [
        (BOUND + PORTAL + RUN + END, True),
        (BOUND + PORTAL + RUN + BOUND + PORTAL + RUN + END, True),
        (BOUND + RUN + END, False),
        (BOUND + PORTAL + RUN + BOUND + RUN + END, False),
        (PARSED + BOUND + PORTAL + RUN + END, False),
        (STATEMENT + BOUND + RUN + END, False),
    ],
)
def test_rows_of_another_shape_are_for_those_who_ask_for_it_each_time(segment: bytes, expected: bool) -> None:
    assert is_described(segment) is expected


def test_a_text_whose_plan_is_stale_gets_another_name_for_whoever_prepares_it_next() -> None:
    statements = Statements()
    one, other = Prepared(statements, Pipeline()), Prepared(statements, Pipeline())
    server = ServerStatements()
    one.board(server)
    one.parse(PARSED)
    one.bind(BOUND)
    before = one.names.get(b"one")
    one.outdated()
    other.board(server)
    other.parse(PARSED)
    assert other.names.get(b"one") is not before
    assert one.names.get(b"one") is before


class Client:
    """One that has prepared `s`, as others may."""

    def __init__(self, statements: Statements) -> None:
        self.statements = statements
        self.pipeline = Pipeline()
        self.prepared = Prepared(statements, self.pipeline)
        self.prepared.board(ServerStatements())
        self.responses = ResponseStream(self.pipeline, self.prepared, is_session=False)
        self.answered(self.prepared.parse, parse(b"s", b"SELECT 1"), frame(PARSE_COMPLETE))

    def answered(self, send: Callable[[bytes], bytes], message: bytes, answer: bytes) -> None:
        """One message alone."""
        self.pipeline.opened()
        send(message)
        self.pipeline.synced()
        self.responses.scan(answer + READY)

    @property
    def shares(self) -> bool:
        """Whether who prepares its text now gets the same statement."""
        return self.statements.of(b"SELECT 1\0\0\0") is self.prepared.names.get(b"s")


@pytest.mark.parametrize("sqlstate", [b"42883", b"42804", b"42P01", b"0A000", b"3F000", b"XX000"])
def test_an_error_of_what_a_text_means_gives_the_next_client_another_statement(sqlstate: bytes) -> None:
    client = Client(Statements())
    client.answered(client.prepared.bind, bind(b"s"), error(sqlstate))
    assert not client.shares


@pytest.mark.parametrize("sqlstate", [b"22P02", b"22003", b"23505", b"40001", b"53200", b"57014", b"P0001"])
def test_an_error_of_a_value_leaves_the_statement_to_all(sqlstate: bytes) -> None:
    client = Client(Statements())
    client.answered(client.prepared.bind, bind(b"s"), error(sqlstate))
    assert client.shares


def test_a_text_that_cannot_be_parsed_says_nothing_of_the_statement_that_was_bound_before() -> None:
    client = Client(Statements())
    client.answered(client.prepared.bind, bind(b"s"), frame(BIND_COMPLETE))
    for name in (b"", b"t"):
        client.answered(client.prepared.parse, parse(name, b"SELECT no_such"), error(b"42703"))
        assert client.shares


def test_a_client_that_fails_again_and_again_costs_others_one_parsing() -> None:
    client = Client(statements := Statements())
    client.answered(client.prepared.bind, bind(b"s"), error(b"42883"))
    renewed = statements.of(b"SELECT 1\0\0\0")
    for _ in range(3):
        client.answered(client.prepared.bind, bind(b"s"), error(b"42883"))
    assert statements.of(b"SELECT 1\0\0\0") is renewed
