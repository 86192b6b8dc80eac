"""Does a request stream know where each message ends, and what becomes of it?"""

from __future__ import annotations

import pytest

from tenantproxy.errors import ProtocolError
from tenantproxy.wire.frames import BIND, BIND_COMPLETE, DESCRIBE, IDLE, PARSE, PARSE_COMPLETE, READY, frame
from tenantproxy.wire.memory import FREE_BYTES
from tenantproxy.wire.pipeline import Pipeline
from tenantproxy.wire.prepared import Prepared
from tenantproxy.wire.requests import RequestStream, Stop
from tenantproxy.wire.responses import ResponseStream
from tenantproxy.wire.session_settings import KeptSettings
from tenantproxy.wire.statements import ServerStatements, Statements
from tests.support.model_server import DONE, FLUSH, SYNC, TERMINATE, bind, data, execute, parse, query


@pytest.fixture
def stream() -> RequestStream:
    """Of a client that has a backend."""
    pipeline = Pipeline()
    prepared = Prepared(Statements(), pipeline)
    prepared.board(ServerStatements())
    return RequestStream(pipeline, prepared, KeptSettings((), {}), is_session=False)


def test_a_message_in_pieces_passes_and_the_reading_stops_at_its_end(stream: RequestStream) -> None:
    sent = query(b"x" * 9000)
    assert stream.read(sent[:50], has_backend=True) == sent[:50]
    assert str(stream.state) == "passing"
    assert "passing, 8956 bytes" in repr(stream)
    assert stream.read(sent[50:] + SYNC, has_backend=True) == sent[50:]
    assert (str(stream.state), stream.stop, stream.at) == ("boundary", Stop.BOUNDARY, 8956)


def test_what_needs_no_backend_asks_for_none(stream: RequestStream) -> None:
    assert stream.read(FLUSH + DONE + data() + query(b"a"), has_backend=False) == b""
    assert stream.stop is Stop.BACKEND
    assert stream.at == len(FLUSH + DONE + data())


def test_behind_a_refusal_all_is_void_up_to_the_next_sync(stream: RequestStream) -> None:
    long = parse(b"s", b"x" * 100)
    assert stream.refuse(long) == 0
    assert stream.read(long[:20], has_backend=False) == b""
    assert str(stream.state) == "discarding"
    stream.read(long[20:], has_backend=False)
    assert str(stream.state) == "skip_to_sync"
    stream.read(long + SYNC + query(b"a"), has_backend=False)
    assert stream.reply == b"Z\0\0\0\5I"
    assert (str(stream.state), stream.stop) == ("boundary", Stop.BACKEND)


def test_a_simple_query_that_is_refused_is_void_alone(stream: RequestStream) -> None:
    sent = query(b"x" * 9000)
    assert stream.refuse(sent[:30]) == 30
    assert str(stream.state) == "discarding"
    stream.read(sent[30:], has_backend=False)
    assert str(stream.state) == "boundary"


def test_a_turn_is_so_many_messages_or_so_many_bytes(stream: RequestStream) -> None:
    assert len(stream.read(SYNC * 1000, has_backend=True)) == 256 * len(SYNC)
    assert stream.stop is Stop.TURN
    out = stream.read(query(b"x" * 30_000) * 5, has_backend=True)
    assert out.count(b"Q") == 3
    assert stream.stop is Stop.TURN


def test_what_the_server_would_skip_is_not_sent(stream: RequestStream) -> None:
    stream.read(parse(b"", b"bad"), has_backend=True)
    stream._pipeline.failed()
    assert stream.read(parse(b"", b"a") + query(b"b") + SYNC + query(b"c"), has_backend=True) == SYNC + query(b"c")


def test_a_farewell_is_the_last_that_is_read(stream: RequestStream) -> None:
    assert stream.read(query(b"a") + TERMINATE + query(b"b"), has_backend=True) == query(b"a")
    assert stream.stop is Stop.TERMINATED


# --- the commonest ---------------------------------------------------------------------------------------------------
_END = frame(DESCRIBE, b"P\0") + execute() + SYNC
_ANSWER = frame(PARSE_COMPLETE) + frame(BIND_COMPLETE) + frame(READY, bytes((IDLE,)))


class Client:
    """One that has a backend, and hears the answer to each statement before it sends the next."""

    def __init__(self, *, is_short: bool = True) -> None:
        self._is_short = is_short  # the short way, where that is open to it
        self._pipeline = pipeline = Pipeline()
        self.prepared = prepared = Prepared(Statements(), pipeline)
        prepared.board(ServerStatements())
        self._stream = RequestStream(pipeline, prepared, KeptSettings((), {}), is_session=False)
        self._responses = ResponseStream(pipeline, prepared, is_session=False)
        self.was_short = False

    def sends(self, sent: bytes) -> bytes:
        """What goes out."""
        bind_at = self._stream.one_statement(sent) if self._is_short else -1
        self.was_short = bind_at >= 0
        if self.was_short:
            return self._stream.statement(sent, bind_at)
        return self._stream.read(sent, has_backend=True)

    def hears(self) -> bytes:
        """The whole answer."""
        return self._responses.scan(_ANSWER)


def test_a_statement_like_the_last_is_not_looked_at_again_and_another_one_is() -> None:
    client, plain, locks = Client(), b"SELECT pg_advisory_last(1)", b"SELECT pg_advisory_lock(1)"
    for sql, is_short in ((plain, True), (plain, True), (locks, False)):
        client.sends(parse(b"", sql) + bind(b"") + _END)
        client.hears()
        assert client.was_short is is_short, sql


@pytest.mark.parametrize(
    ("parsed", "bound"),
    [
        (parse(b"", b"SELECT 1"), bind(b"")),
        (parse(b"", b"SELECT 1"), bind(b"", portal=b"p")),
        (parse(b"", b"SELECT 1" + b" " * FREE_BYTES), bind(b"")),
        (parse(b"", b"SELECT 1"), bind(b"s")),
        (parse(b"s", b"SELECT 1"), bind(b"s")),
        (frame(PARSE, b""), bind(b"")),
        (frame(PARSE, b"\0"), bind(b"")),
        (parse(b"", b"SELECT 1"), frame(BIND, b"\0\0")),
    ],
)
def test_the_short_way_sends_and_remembers_what_the_long_one_does(parsed: bytes, bound: bytes) -> None:
    short, long = Client(), Client(is_short=False)
    for _ in range(3):
        outs = []
        for client in (short, long):
            try:
                outs.append(client.sends(parsed + bound + _END))
            except ProtocolError as exc:
                outs.append(exc.message.encode())
        assert outs[0].partition(b"tp_")[0] == outs[1].partition(b"tp_")[0]
        if b"tp_" in outs[0] or b"end" in outs[0]:  # it is answered otherwise
            return
        assert short.hears() == long.hears() == _ANSWER
        assert short.prepared.unnamed == long.prepared.unnamed


@pytest.mark.parametrize("bound", [frame(BIND), frame(BIND, b"\0"), frame(BIND, b"\0x"), frame(BIND, b"p\0")])
def test_a_bind_without_two_names_is_refused(bound: bytes) -> None:
    client = Client()
    client.sends(parse(b"", b"SELECT 1") + bind(b"") + _END)
    client.hears()
    with pytest.raises(ProtocolError, match="does not end"):
        client.sends(parse(b"", b"SELECT 1") + bound + _END)
