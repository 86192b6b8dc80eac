"""Is it known under which name a statement runs on which backend, whatever was skipped?"""

from __future__ import annotations

import pytest

from tenantproxy.errors import ProtocolError
from tenantproxy.wire.frames import CLOSE_COMPLETE, PARSE_COMPLETE, length_of
from tenantproxy.wire.pipeline import Pipeline
from tenantproxy.wire.prepared import REFUSAL, Prepared
from tenantproxy.wire.statements import ServerStatements, Statements
from tests.support.model_server import bind, close, describe, error, parse


class Wire:
    """A client's statements on a backend, and what is sent."""

    def __init__(self, statements: Statements | None = None, server: ServerStatements | None = None) -> None:
        self.pipeline = Pipeline()
        self.prepared = Prepared(Statements() if statements is None else statements, self.pipeline)
        self.prepared.board(ServerStatements() if server is None else server)

    def parsed(self, name: bytes, text: bytes) -> bytes:
        """What goes out for a Parse of a segment that is answered."""
        self.pipeline.opened()
        sent = self.prepared.parse(parse(name, text))
        self.answer(sent)
        return sent

    def answer(self, sent: bytes) -> list[int]:
        """All that was sent is acknowledged as it should be; what of it the client sees."""
        kinds = {80: PARSE_COMPLETE, 67: CLOSE_COMPLETE}
        shown = [self.acknowledged(kinds[each[0]]) for each in messages(sent) if each[0] in kinds]
        self.pipeline.synced()
        self.ready()
        assert self.pipeline.is_quiet
        return [kind for kind in shown if kind]

    def acknowledged(self, kind: int) -> int:
        return self.prepared.acknowledged(self.pipeline.acknowledged(kind))

    def ready(self) -> None:
        self.prepared.skipped(self.pipeline.ready(), by_first=False)

    def failed(self) -> None:
        self.prepared.skipped(self.pipeline.failed(), by_first=True)

    def queried(self) -> None:
        self.pipeline.queried()
        self.prepared.queried()


def messages(data: bytes) -> list[bytes]:
    found = []
    while data:
        size = length_of(data, 0)
        found.append(data[:size])
        data = data[size:]
    return found


def test_two_clients_give_one_name_to_two_statements_and_each_runs_its_own() -> None:
    all_of, server = Statements(), ServerStatements()
    first, second = Wire(all_of, server), Wire(all_of, server)
    one, two = first.parsed(b"s", b"SELECT 1"), second.parsed(b"s", b"SELECT 2")
    assert (b"SELECT 1" in one, b"SELECT 2" in two) == (True, True)
    assert first.prepared.bind(bind(b"s")) != second.prepared.bind(bind(b"s"))
    assert first.prepared.names.get(b"s") is not second.prepared.names.get(b"s")


def test_a_statement_is_prepared_once_on_a_backend_and_again_on_another() -> None:
    wire = Wire()
    wire.parsed(b"s", b"SELECT 1")
    assert [each[:1] for each in messages(wire.prepared.bind(bind(b"s")))] == [b"B"]
    wire.prepared.board(ServerStatements())
    sent = wire.prepared.bind(bind(b"s"))
    assert [each[:1] for each in messages(sent)] == [b"P", b"B"]
    assert wire.answer(sent) == [], "the client did not ask for that"
    wire.prepared.board(ServerStatements())
    assert [each[:1] for each in messages(wire.prepared.describe(describe(b"s")))] == [b"P", b"D"]


@pytest.mark.parametrize("name", [b"s", b"a_long_name_of_a_statement", b"\xc3\xa4"])
def test_every_message_that_is_sent_is_framed_right(name: bytes) -> None:
    wire = Wire()
    sent = [
        wire.parsed(name, b"SELECT 1"),
        wire.prepared.bind(bind(name, values=b"\0\0\0\1\0\0\0\4abcd\0\0")),
        wire.prepared.describe(describe(name)),
        wire.prepared.close(close(name)),
        wire.prepared.bind(bind(b"tp_1")),
        wire.prepared.describe(describe(b"tp_1")),
        wire.prepared.close(close(b"tp_1")),
    ]
    for each in sent:
        assert b"".join(messages(each)) == each


def test_nobody_reaches_a_statement_by_the_name_that_we_gave_it() -> None:
    all_of, server = Statements(), ServerStatements()
    owner, stranger = Wire(all_of, server), Wire(all_of, server)
    owner.parsed(b"s", b"SELECT 'of the owner'")
    name = all_of.of(b"SELECT 'of the owner'\0\0\0").name
    for sent in (bind(name), bind(name, portal=b"p"), describe(name), close(name)):
        kind = {66: stranger.prepared.bind, 68: stranger.prepared.describe, 67: stranger.prepared.close}[sent[0]]
        assert b"?" + name in kind(sent)
        assert b"\0" + name + b"\0" not in kind(sent)
        assert b"S" + name + b"\0" not in kind(sent)


def test_a_text_has_another_name_in_another_pool_and_names_are_not_counted() -> None:
    one, other = Statements(), Statements()
    assert one.of(b"SELECT 1\0\0\0").name != other.of(b"SELECT 1\0\0\0").name
    assert len({len(one.of(b"SELECT %d\0\0\0" % n).name) for n in range(20)}) == 1


def test_an_error_shows_the_name_that_the_client_gave() -> None:
    wire = Wire()
    wire.parsed(b"mine", b"SELECT 1")
    statement = wire.prepared.names.get(b"mine")
    assert statement is not None
    told = wire.prepared.in_own_names(error(b"42P05", text=b'"%b" already exists' % statement.name))
    assert told == error(b"42P05", text=b'"mine" already exists')


def test_a_statement_without_a_name_is_never_the_one_of_who_had_the_backend_before() -> None:
    all_of, server = Statements(), ServerStatements()
    first, second = Wire(all_of, server), Wire(all_of, server)
    first.parsed(b"", b"SELECT 'of the first'")
    assert [each[:1] for each in messages(second.prepared.bind(bind(b"")))] == [b"C", b"B"]


def test_a_statement_without_a_name_goes_with_its_client_to_another_backend() -> None:
    wire = Wire()
    wire.parsed(b"", b"SELECT 1")
    wire.prepared.board(ServerStatements())
    sent = wire.prepared.bind(bind(b""))
    assert messages(sent)[0] == parse(b"", b"SELECT 1")
    wire.answer(sent)
    wire.queried()
    wire.ready()
    assert [each[:1] for each in messages(wire.prepared.bind(bind(b"")))] == [b"C", b"B"], "a simple query ends it"


def test_a_backend_that_is_full_closes_what_was_not_used_for_longest() -> None:
    wire = Wire(server=ServerStatements(2))
    for n in range(2):
        wire.parsed(b"s%d" % n, b"SELECT %d" % n)
    sent = wire.parsed(b"s2", b"SELECT 2")
    assert [each[:1] for each in messages(sent)] == [b"C", b"P"]
    assert [each[:1] for each in messages(wire.prepared.bind(bind(b"s2")))] == [b"B"]
    assert [each[:1] for each in messages(wire.prepared.bind(bind(b"s0")))] == [b"C", b"P", b"B"]


def test_a_message_whose_name_does_not_end_is_refused() -> None:
    prepared = Wire().prepared
    for method, message in (
        (prepared.parse, b"P\0\0\0\5s"),
        (prepared.bind, b"B\0\0\0\6\0s"),
        (prepared.close, b"C\0\0\0\6Ss"),
    ):
        with pytest.raises(ProtocolError):
            method(message)


def test_a_skipped_parse_is_sent_again_for_what_comes_behind_its_segment() -> None:
    """By us, where the client believes that it is prepared long since."""
    wire = Wire()
    wire.parsed(b"s", b"SELECT 1")
    wire.prepared.board(ServerStatements())
    wire.pipeline.opened()
    wire.prepared.bind(bind(b"s"))
    assert [each[:1] for each in messages(wire.prepared.bind(bind(b"s")))] == [b"B"]
    wire.pipeline.synced()
    wire.pipeline.opened()
    assert [each[:1] for each in messages(wire.prepared.bind(bind(b"s")))] == [b"C", b"P", b"B"]
    wire.pipeline.synced()
    wire.failed()
    wire.ready()
    assert [wire.acknowledged(kind) for kind in (CLOSE_COMPLETE, PARSE_COMPLETE)] == [0, 0]
    wire.ready()
    assert [each[:1] for each in messages(wire.prepared.bind(bind(b"s")))] == [b"B"]


@pytest.mark.parametrize(("size", "most"), [(20, 20_000), (1_000_000, 40)])
def test_a_client_cannot_fill_our_memory_with_statements(size: int, most: int) -> None:
    wire = Wire()

    wire.pipeline.opened()
    prepared = 0
    while (sent := wire.prepared.parse(parse(b"s%d" % prepared, b"%d" % prepared + b"x" * size))) is not REFUSAL:
        wire.answer(sent)
        wire.pipeline.opened()
        prepared += 1
        assert prepared < most
    assert b"\0C53200\0Mtoo many prepared statements" in wire.prepared.refusal
    assert len(wire.prepared.names) == prepared > most // 2


def test_names_mean_what_was_answered_when_an_error_skips_what_was_sent() -> None:
    wire = Wire()
    wire.parsed(b"s", b"SELECT 1")
    before = wire.prepared.names.get(b"s")
    wire.pipeline.opened()
    wire.prepared.deallocate_all(parse(b"", b"DEALLOCATE ALL"))
    assert wire.prepared.names.get(b"s") is None
    wire.prepared.parse(parse(b"s", b"SELECT 2"))
    wire.prepared.close(close(b"s"))
    wire.prepared.parse(parse(b"s", b"SELECT 3"))
    assert wire.prepared.names.get(b"s") is not before
    wire.failed()
    assert wire.prepared.names.get(b"s") is before
    assert wire.pipeline.is_skipping


def test_what_a_client_may_keep_is_counted_down_again() -> None:
    wire = Wire()
    for _ in range(3):
        wire.parsed(b"s", b"SELECT 1")
        wire.pipeline.opened()
        wire.answer(wire.prepared.close(close(b"s")))
        wire.pipeline.opened()
        wire.prepared.parse(parse(b"t", b"bad"))
        wire.pipeline.synced()
        wire.failed()
        wire.ready()
    assert wire.prepared.names.size == len(wire.prepared.names) == 0
