"""Does a pipeline know what is outstanding, and does it say so when it cannot know?"""

from __future__ import annotations

import itertools
from enum import StrEnum

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantproxy.errors import ProtocolError
from tenantproxy.wire.frames import CLOSE_COMPLETE, COPY_DATA, COPY_DONE, PARSE_COMPLETE
from tenantproxy.wire.pipeline import (
    CERTAINTY,
    CLOSED,
    COPY,
    OWN_CLOSED,
    PARSED_UNNAMED,
    Certainty,
    CertaintyEvent,
    Copy,
    CopyEvent,
    Pipeline,
)
from tests.support.fuzzing import IS_TRIED


@pytest.fixture
def pipeline() -> Pipeline:
    """Nothing is outstanding."""
    return Pipeline()


def test_an_answer_that_was_not_asked_for_is_an_error(pipeline: Pipeline) -> None:
    for kind in (PARSE_COMPLETE, CLOSE_COMPLETE):
        with pytest.raises(ProtocolError):
            pipeline.acknowledged(kind)
    with pytest.raises(ProtocolError):
        pipeline.ready()
    pipeline.expect(PARSED_UNNAMED)
    with pytest.raises(ProtocolError):
        pipeline.acknowledged(CLOSE_COMPLETE)


def test_a_sync_that_a_copy_may_have_read_is_in_doubt_when_the_copy_fails() -> None:
    for copies, is_doubtful in ((True, False), (False, True)):
        pipeline = Pipeline()
        pipeline.opened()
        pipeline.synced()
        pipeline.copy_began()
        assert not pipeline.is_quiet
        assert pipeline.certainty is Certainty.UNSURE
        pipeline.copies(COPY_DONE)
        if copies:
            pipeline.copied()
        pipeline.failed()
        assert pipeline.is_doubtful is is_doubtful


def test_a_query_that_may_be_skipped_is_in_doubt_once_more_was_sent_behind_it(pipeline: Pipeline) -> None:
    pipeline.opened()
    pipeline.queried()
    pipeline.failed()
    assert pipeline.certainty is Certainty.UNSURE, "its ReadyForQuery will tell"
    pipeline.synced()
    assert pipeline.is_doubtful
    assert not pipeline.is_lost
    other = Pipeline()
    other.opened()
    other.queried()
    other.synced()
    other.failed()
    assert other.is_lost


def test_a_query_behind_a_mark_is_skipped_by_an_error_before_the_mark_alone() -> None:
    for is_marks_own in (False, True):
        pipeline = Pipeline()
        pipeline.opened()
        pipeline.expect(OWN_CLOSED)
        pipeline.queried(is_marked=True)
        if is_marks_own:
            pipeline.acknowledged(CLOSE_COMPLETE)
        assert pipeline.failed() == (b"" if is_marks_own else bytes((OWN_CLOSED,)))
        assert pipeline.certainty is Certainty.KNOWN
        assert pipeline.outstanding == is_marks_own
        assert pipeline.is_skipping is not is_marks_own
        pipeline.synced()
        assert [pipeline.ready() for _ in range(1 + is_marks_own)]
        assert pipeline.is_at_rest


def test_an_error_skips_no_further_than_to_the_next_sync(pipeline: Pipeline) -> None:
    pipeline.opened()
    pipeline.expect(OWN_CLOSED)
    pipeline.queried(is_marked=True)
    pipeline.expect(CLOSED)
    pipeline.queried()
    pipeline.synced()
    pipeline.queried()
    assert pipeline.failed() == bytes((OWN_CLOSED, CLOSED))
    assert pipeline.outstanding == 2
    assert not pipeline.is_skipping


def test_what_an_error_skips_is_not_waited_for(pipeline: Pipeline) -> None:
    pipeline.opened()
    for answer in (PARSED_UNNAMED, CLOSED):
        pipeline.expect(answer)
    assert pipeline.failed() == bytes((PARSED_UNNAMED, CLOSED))
    assert pipeline.outstanding == 0
    assert not pipeline.is_quiet
    pipeline.synced()
    assert pipeline.ready() == b""
    assert pipeline.is_quiet


def test_each_state_has_a_way_for_each_event_that_can_come_there() -> None:
    for copy, event in itertools.product(Copy, CopyEvent):
        assert ((copy, event) in COPY) is (event is not CopyEvent.LAST_END_READ or copy is Copy.ENDED_AHEAD)
    for certainty, about in itertools.product(Certainty, CertaintyEvent):
        is_told = about in (CertaintyEvent.TOLD, CertaintyEvent.NOT_TOLD)
        has_none = certainty in (Certainty.KNOWN, Certainty.UNFINISHED) and is_told
        assert ((certainty, about) in CERTAINTY) is not has_none


def test_its_state_is_shown(pipeline: Pipeline) -> None:
    pipeline.opened()
    pipeline.synced()
    pipeline.doubt()
    assert repr(pipeline).startswith("<Pipeline doubtful, copy none, 1 outstanding")


class Step(StrEnum):
    """What may happen to a pipeline."""

    QUERY = "query"
    SYNC = "sync"
    OPEN = "open"
    PARSE = "parse"
    DATA = "data"
    DONE = "done"
    ACKNOWLEDGED = "acknowledged"
    READY = "ready"
    FAILED = "failed"
    COPY_IN = "copy in"
    COPY_OUT = "copy out"
    COPIED = "copied"


def take(pipeline: Pipeline, step: Step) -> None:
    match step:
        case Step.QUERY:
            pipeline.queried()
        case Step.SYNC:
            pipeline.synced()
        case Step.OPEN:
            pipeline.opened()
        case Step.PARSE:
            pipeline.expect(PARSED_UNNAMED)
        case Step.DATA | Step.DONE:
            pipeline.copies(COPY_DATA if step is Step.DATA else COPY_DONE)
        case Step.ACKNOWLEDGED:
            pipeline.acknowledged(PARSE_COMPLETE)
        case Step.READY:
            pipeline.ready()
        case Step.FAILED:
            pipeline.failed()
        case Step.COPY_IN:
            pipeline.copy_began()
        case Step.COPY_OUT:
            pipeline.copy_out_began()
        case Step.COPIED:
            pipeline.copied()


@IS_TRIED
@given(st.lists(st.sampled_from(Step), max_size=40))
def test_whatever_happens_it_is_a_protocol_error_or_in_the_tables_and_its_counts_are_right(steps: list[Step]) -> None:
    """A hostile server may say anything; a doubt stays until the backend is given up."""
    pipeline, is_doubted = Pipeline(), False
    for step in steps:
        try:
            take(pipeline, step)
        except ProtocolError:
            break
        is_doubted = is_doubted or pipeline.is_doubtful
        assert pipeline.is_doubtful is is_doubted
        answers = pipeline._answers[pipeline._head :]
        assert pipeline.outstanding == len(answers)
        assert pipeline._acknowledgements == sum(answer > 3 for answer in answers)
        assert pipeline._behinds == answers.count(3)
    pipeline.abandon()
    assert pipeline.is_quiet
    assert pipeline.certainty is Certainty.KNOWN
