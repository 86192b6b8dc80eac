"""Does a pipeline know when the server reads COPY data, in whatever order a client says what?"""

from __future__ import annotations

import pytest

from tenantproxy.wire.frames import COPY_DATA, COPY_DONE
from tenantproxy.wire.pipeline import Copy, Pipeline


@pytest.fixture
def pipeline() -> Pipeline:
    """Nothing is outstanding."""
    return Pipeline()


def test_the_end_of_a_copy_may_be_sent_before_the_server_says_that_it_begins(pipeline: Pipeline) -> None:
    pipeline.queried()
    pipeline.copies(COPY_DONE)
    pipeline.copy_began()
    assert pipeline.copy is not Copy.IN
    pipeline.ready()
    assert pipeline.is_quiet
    assert not pipeline.is_doubtful


def test_the_end_of_a_copy_that_never_began_does_not_end_the_next_one(pipeline: Pipeline) -> None:
    pipeline.queried()
    pipeline.copies(COPY_DONE)
    pipeline.failed()
    pipeline.ready()
    pipeline.queried()
    pipeline.copy_began()
    assert pipeline.copy is Copy.IN


def test_an_end_that_comes_when_all_is_answered_is_nobodys(pipeline: Pipeline) -> None:
    pipeline.queried()
    pipeline.failed()
    pipeline.ready()
    pipeline.copies(COPY_DONE)
    pipeline.queried()
    pipeline.copy_began()
    assert pipeline.copy is Copy.IN


def test_an_end_behind_a_sync_that_the_copy_may_have_swallowed_is_doubtful(pipeline: Pipeline) -> None:
    pipeline.opened()
    pipeline.synced()
    pipeline.copies(COPY_DONE)
    assert pipeline.is_doubtful


def test_another_backend_knows_nothing_of_what_was_sent_ahead(pipeline: Pipeline) -> None:
    pipeline.queried()
    pipeline.copies(COPY_DONE)
    pipeline.abandon()
    pipeline.queried()
    pipeline.copy_began()
    assert pipeline.copy is Copy.IN


@pytest.mark.parametrize("kind", [COPY_DATA, COPY_DONE])
def test_a_message_of_copy_that_a_timeout_may_answer_is_in_doubt(pipeline: Pipeline, kind: int) -> None:
    """PostgreSQL may answer it with a ReadyForQuery that no Sync has asked for."""
    pipeline.opened()
    assert pipeline.copies(kind), "the server may be reading a COPY"
    assert pipeline.is_doubtful


def test_what_is_prepared_inside_a_copy_whose_end_is_not_read_is_in_doubt(pipeline: Pipeline) -> None:
    pipeline.queried()
    pipeline.copy_began()
    pipeline.copies(COPY_DATA)
    assert not pipeline.is_doubtful
    pipeline.opened()
    assert pipeline.is_doubtful


@pytest.mark.parametrize("is_extended", [False, True])
def test_data_that_comes_behind_a_failed_copy_is_left_out_and_in_no_doubt(
    pipeline: Pipeline, is_extended: bool
) -> None:
    """As of each client that has not read the error yet."""
    if is_extended:
        pipeline.opened()
    else:
        pipeline.queried()
    pipeline.copy_began()
    assert pipeline.copies(COPY_DATA)
    pipeline.failed()
    if not is_extended:
        pipeline.ready()
    assert not pipeline.copies(COPY_DATA)
    assert not pipeline.copies(COPY_DONE)
    assert not pipeline.is_doubtful
    if is_extended:
        pipeline.synced()
        pipeline.ready()
    assert pipeline.is_quiet
