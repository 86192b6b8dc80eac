"""Does a flight know what is unanswered, and under which name a statement runs on which backend?"""

from __future__ import annotations

import pytest

from tenantproxy.errors import ProtocolError
from tenantproxy.wire.flight import Flight
from tenantproxy.wire.frames import CLOSE_COMPLETE, COPY_DONE, PARSE_COMPLETE, length_of
from tenantproxy.wire.statements import ServerStatements, Statements
from tests.support.model_server import bind, close, describe, parse


class Wire:
    """A flight with a backend, and what it sends."""

    def __init__(self, statements: Statements | None = None, server: ServerStatements | None = None) -> None:
        self.flight = Flight(Statements() if statements is None else statements)
        self.flight.board(ServerStatements() if server is None else server)

    def parsed(self, name: bytes, text: bytes) -> bytes:
        """What goes out for a Parse of a segment that is answered."""
        self.flight.is_open = True
        sent = self.flight.parse(parse(name, text))
        self.answer()
        return sent

    def answer(self) -> list[int]:
        """All that is awaited is answered as it should be; what of it the client sees."""
        self.flight.synced()
        shown = [self.flight.acknowledged(entry.kind) for entry in list(self.flight.awaited) if not entry.is_ready]
        self.flight.ready()
        assert self.flight.is_quiet
        return [kind for kind in shown if kind]


def messages(data: bytes) -> list[bytes]:
    found = []
    while data:
        size = length_of(data, 0)
        found.append(data[:size])
        data = data[size:]
    return found


def test_two_clients_give_one_name_to_two_statements_and_each_runs_its_own() -> None:
    everybody, server = Statements(), ServerStatements()
    first, second = Wire(everybody, server), Wire(everybody, server)
    one, two = first.parsed(b"s", b"SELECT 1"), second.parsed(b"s", b"SELECT 2")
    assert (b"SELECT 1" in one, b"SELECT 2" in two) == (True, True)
    assert first.flight.bind(bind(b"s")) != second.flight.bind(bind(b"s"))
    assert first.flight.names[b"s"] is not second.flight.names[b"s"]


def test_a_statement_is_prepared_once_on_a_backend_and_again_on_another() -> None:
    wire = Wire()
    wire.parsed(b"s", b"SELECT 1")
    assert [each[:1] for each in messages(wire.flight.bind(bind(b"s")))] == [b"B"]
    wire.flight.board(ServerStatements())
    assert [each[:1] for each in messages(wire.flight.bind(bind(b"s")))] == [b"P", b"B"]
    assert wire.answer() == [], "the client did not ask for that"
    wire.flight.board(ServerStatements())
    assert [each[:1] for each in messages(wire.flight.describe(describe(b"s")))] == [b"P", b"D"]


@pytest.mark.parametrize("name", [b"s", b"a_long_name_of_a_statement", b"\xc3\xa4"])
def test_every_message_that_is_sent_is_framed_right(name: bytes) -> None:
    wire = Wire()
    sent = [
        wire.parsed(name, b"SELECT 1"),
        wire.flight.bind(bind(name, values=b"\0\0\0\1\0\0\0\4abcd\0\0")),
        wire.flight.describe(describe(name)),
        wire.flight.close(close(name)),
        wire.flight.bind(bind(b"tp_1")),
        wire.flight.describe(describe(b"tp_1")),
        wire.flight.close(close(b"tp_1")),
    ]
    for each in sent:
        assert b"".join(messages(each)) == each


def test_nobody_reaches_a_statement_by_the_name_that_we_gave_it() -> None:
    everybody, server = Statements(), ServerStatements()
    owner, stranger = Wire(everybody, server), Wire(everybody, server)
    owner.parsed(b"s", b"SELECT 'of the owner'")
    name = everybody.of(b"SELECT 'of the owner'\0\0\0").name
    for sent in (bind(name), bind(name, portal=b"p"), describe(name), close(name)):
        kind = {66: stranger.flight.bind, 68: stranger.flight.describe, 67: stranger.flight.close}[sent[0]]
        assert b"?" + name in kind(sent)
        assert b"\0" + name + b"\0" not in kind(sent)
        assert b"S" + name + b"\0" not in kind(sent)


def test_a_statement_without_a_name_is_never_the_one_of_who_had_the_backend_before() -> None:
    everybody, server = Statements(), ServerStatements()
    first, second = Wire(everybody, server), Wire(everybody, server)
    first.parsed(b"", b"SELECT 'of the first'")
    assert [each[:1] for each in messages(second.flight.bind(bind(b"")))] == [b"C", b"B"]


def test_a_statement_without_a_name_goes_with_its_client_to_another_backend() -> None:
    wire = Wire()
    wire.parsed(b"", b"SELECT 1")
    wire.flight.board(ServerStatements())
    assert messages(wire.flight.bind(bind(b"")))[0] == parse(b"", b"SELECT 1")
    wire.answer()
    wire.flight.queried()
    wire.flight.ready()
    assert [each[:1] for each in messages(wire.flight.bind(bind(b"")))] == [b"C", b"B"], "a simple query ends it"


def test_a_backend_that_is_full_closes_what_was_not_used_for_longest() -> None:
    wire = Wire(server=ServerStatements(2))
    for n in range(2):
        wire.parsed(b"s%d" % n, b"SELECT %d" % n)
    sent = wire.parsed(b"s2", b"SELECT 2")
    assert [each[:1] for each in messages(sent)] == [b"C", b"P"]
    assert [each[:1] for each in messages(wire.flight.bind(bind(b"s2")))] == [b"B"]
    assert [each[:1] for each in messages(wire.flight.bind(bind(b"s0")))] == [b"C", b"P", b"B"]


def test_an_answer_that_was_not_asked_for_is_an_error() -> None:
    for kind in (PARSE_COMPLETE, CLOSE_COMPLETE):
        with pytest.raises(ProtocolError):
            Wire().flight.acknowledged(kind)
    with pytest.raises(ProtocolError):
        Wire().flight.ready()
    wire = Wire()
    wire.flight.parse(parse(b"s", b"SELECT 1"))
    with pytest.raises(ProtocolError):
        wire.flight.acknowledged(CLOSE_COMPLETE)


def test_a_message_whose_name_does_not_end_is_refused() -> None:
    flight = Wire().flight
    for method, message in (
        (flight.parse, b"P\0\0\0\5s"),
        (flight.bind, b"B\0\0\0\6\0s"),
        (flight.close, b"C\0\0\0\6Ss"),
    ):
        with pytest.raises(ProtocolError):
            method(message)


def test_a_sync_that_a_copy_may_have_read_is_in_doubt_when_the_copy_fails() -> None:
    for copies, is_doubtful in ((True, False), (False, True)):
        flight = Wire().flight
        flight.is_open = True
        flight.synced()
        flight.copy_began()
        assert not flight.is_quiet
        flight.copies(COPY_DONE)
        if copies:
            flight.copied()
        flight.failed()
        assert flight.is_doubtful is is_doubtful


def test_a_query_that_may_be_skipped_is_in_doubt_once_more_was_sent_behind_it() -> None:
    flight = Wire().flight
    flight.is_open = True
    flight.queried()
    assert flight.failed(), "its ReadyForQuery will tell"
    flight.synced()
    assert flight.is_doubtful
    flight = Wire().flight
    flight.is_open = True
    flight.queried()
    flight.synced()
    assert not flight.failed()


def test_a_skipped_parse_is_sent_again_for_what_comes_behind_its_segment() -> None:
    """By us, where the client believes that it is prepared long since."""
    wire = Wire()
    wire.parsed(b"s", b"SELECT 1")
    wire.flight.board(ServerStatements())
    wire.flight.is_open = True
    wire.flight.bind(bind(b"s"))
    assert [each[:1] for each in messages(wire.flight.bind(bind(b"s")))] == [b"B"]
    wire.flight.synced()
    wire.flight.is_open = True
    assert [each[:1] for each in messages(wire.flight.bind(bind(b"s")))] == [b"C", b"P", b"B"]
    wire.flight.synced()
    wire.flight.failed()
    wire.flight.ready()
    assert [wire.flight.acknowledged(kind) for kind in (CLOSE_COMPLETE, PARSE_COMPLETE)] == [0, 0]
    wire.flight.ready()
    assert [each[:1] for each in messages(wire.flight.bind(bind(b"s")))] == [b"B"]


@pytest.mark.parametrize(("size", "most"), [(20, 20_000), (1_000_000, 40)])
def test_a_client_cannot_fill_our_memory_with_statements(size: int, most: int) -> None:
    wire = Wire()

    def prepare() -> None:
        for n in range(most):
            wire.parsed(b"s%d" % n, b"%d" % n + b"x" * size)

    with pytest.raises(ProtocolError, match="too many"):
        prepare()
    assert len(wire.flight.names) > most // 2
