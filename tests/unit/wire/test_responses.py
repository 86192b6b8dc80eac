"""Does a response stream pass on what is the client's, and tell of what happened?"""

from __future__ import annotations

import pytest

from tenantproxy.errors import ProtocolError
from tenantproxy.wire import frames
from tenantproxy.wire.frames import frame
from tenantproxy.wire.pipeline import Pipeline
from tenantproxy.wire.prepared import Prepared
from tenantproxy.wire.responses import ResponseStream
from tenantproxy.wire.statements import ServerStatements, Statements
from tests.support.model_server import STALE_PLAN, G, bind, error, parse, row, tag

READY = b"Z\0\0\0\5I"


class Wire:
    """A client's streams, with `s` prepared."""

    def __init__(self) -> None:
        self.pipeline = Pipeline()
        self.prepared = Prepared(Statements(), self.pipeline)
        self.prepared.board(ServerStatements())
        self.responses = ResponseStream(self.pipeline, self.prepared, is_session=False)
        self.pipeline.opened()
        self.prepared.parse(parse(b"s", b"SELECT 1"))
        self.pipeline.synced()
        self.responses.scan(frame(frames.PARSE_COMPLETE) + READY)
        assert self.responses.is_idle

    def bound(self) -> None:
        self.pipeline.opened()
        self.prepared.bind(bind(b"s"))
        self.pipeline.synced()


def test_what_happened_is_told_in_order_and_once() -> None:
    wire = Wire()
    wire.pipeline.queried()
    status = frame(frames.PARAMETER_STATUS, b"TimeZone\0UTC\0")
    said = row(b"x") + tag(b"SET") + status + READY
    assert wire.responses.scan(said) == said
    kinds = [kind for kind, _ in wire.responses.take_events()]
    assert kinds == [frames.COMMAND_COMPLETE, frames.PARAMETER_STATUS, frames.READY]
    assert not wire.responses.take_events()
    assert wire.responses.readies == 1


def test_the_beginning_and_the_end_of_a_copy_are_noted() -> None:
    wire = Wire()
    wire.pipeline.queried()
    wire.responses.scan(G)
    assert wire.responses.is_copying_in
    assert str(wire.pipeline.copy) == "in"
    wire.responses.scan(error(b"22P04") + READY)
    wire.pipeline.queried()
    wire.responses.scan(frame(frames.COPY_OUT, b"\0\0\0"))
    assert str(wire.pipeline.copy) == "out"
    wire.responses.scan(tag(b"COPY 1") + READY)
    assert str(wire.pipeline.copy) == "none"


def test_a_ready_that_was_not_asked_for_is_an_error() -> None:
    with pytest.raises(ProtocolError):
        Wire().responses.scan(READY)


def test_a_stale_plan_of_a_statement_of_ours_can_be_tried_again() -> None:
    wire = Wire()
    wire.bound()
    wire.responses.scan(STALE_PLAN + READY)
    assert wire.responses.is_stale
    assert wire.responses.is_retryable


RAISED = frame(frames.ERROR, b"SERROR\0VERROR\0CP0001\0Mit says RRevalidateCachedQuery\0Rexec_stmt_raise\0\0")
INSIDE = frame(frames.ERROR, STALE_PLAN[frames.HEADER : -1] + b"WPL/pgSQL\0\0")


@pytest.mark.parametrize("said", [RAISED, INSIDE, frame(frames.BIND_COMPLETE) + STALE_PLAN])
def test_an_error_that_the_client_has_made_itself_is_never_tried_again(said: bytes) -> None:
    """It would run twice: with such words, inside a function, or when the statement runs."""
    wire = Wire()
    wire.bound()
    assert wire.responses.scan(said + READY) == said + READY
    assert not wire.responses.is_retryable


def test_a_stale_plan_without_a_statement_of_ours_is_not_tried_again() -> None:
    wire = Wire()
    wire.pipeline.opened()
    wire.prepared.bind(bind(b"none"))
    wire.pipeline.synced()
    wire.responses.scan(STALE_PLAN + READY)
    assert not wire.responses.is_retryable
