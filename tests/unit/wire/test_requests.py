"""Does a request stream know where each message ends, and what becomes of it?"""

from __future__ import annotations

import pytest

from tenantproxy.wire.pipeline import Pipeline
from tenantproxy.wire.prepared import Prepared
from tenantproxy.wire.requests import RequestStream, Stop
from tenantproxy.wire.session_settings import KeptSettings
from tenantproxy.wire.statements import ServerStatements, Statements
from tests.support.model_server import DONE, FLUSH, SYNC, TERMINATE, data, parse, query


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
