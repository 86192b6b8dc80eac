"""Does a client that was told what a statement is get values of these types and rows of this shape, on any backend?"""

from __future__ import annotations

import pytest

from tenantproxy.wire import answers, frames
from tenantproxy.wire.frames import frame
from tests.support import model_server as pg
from tests.support.model_server import SYNC, ModelServer, query, run
from tests.support.relay_desk import Client, Lender, settle

READY = answers.ready_for_query()
PREPARED = pg.parse(b"s", b"rows 1") + pg.describe(b"s") + SYNC
OUT_OF_DATE = b"\0C0A000\0Mcached plan must not change result type\0"
USES = {
    "alone": run(b"s") + SYNC,
    "described": pg.shown(b"s") + SYNC,
    "behind others": pg.parse(b"", b"rows 2") + run() + run(b"s") + SYNC,
    "twice": run(b"s") * 2 + SYNC,
    "pipelined": (run(b"s") + SYNC) * 3 + query(b"rows 3"),
}


def alone(*sent: bytes) -> bytes:
    """What a server answers to a client that has it to itself."""
    server = ModelServer()
    return [server.feed(each) for each in sent][-1]


async def prepared(*, columns: dict[bytes, bytes] | None = None) -> tuple[Lender, Client]:
    """A client that has prepared and described `s`, and gets another backend next."""
    lender = Lender(2)
    client = Client(lender)
    assert client.ask(PREPARED) == alone(PREPARED)
    lender.idle[0].model.columns = columns or {}
    return lender, client


@pytest.mark.parametrize("use", USES.values(), ids=USES)
@pytest.mark.parametrize("size", [1, 7, None])
async def test_a_statement_that_is_the_same_elsewhere_runs_and_the_client_sees_nothing_of_the_question(
    use: bytes, size: int | None
) -> None:
    lender, client = await prepared()
    client.send(use, size=size)
    while any(backend.answers for backend in lender.backends):
        for backend in list(lender.backends):
            backend.deliver(size)
    settle(lender)
    assert client.take() == alone(PREPARED, use)
    assert lender.destroyed == 0
    assert client.ask(use) == alone(PREPARED, use)


@pytest.mark.parametrize("use", USES.values(), ids=USES)
async def test_a_statement_that_is_another_one_by_now_runs_nowhere_and_drivers_know_the_error(use: bytes) -> None:
    lender, client = await prepared(columns={b"rows 1": b"another"})
    other = lender.idle[0]
    answer = client.ask(use)
    segments = use.count(SYNC)
    assert answer.count(OUT_OF_DATE) == segments
    assert answer.count(READY) == segments + use.count(query(b"rows 3"))
    assert b"rows 1" not in other.model.ran
    assert b"tp_" not in answer, "an internal name"
    assert lender.destroyed == 0


async def test_a_client_that_prepares_again_is_told_what_the_statement_is_now() -> None:
    lender, client = await prepared(columns={b"rows 1": b"another"})
    for backend in lender.backends:
        backend.model.columns = {b"rows 1": b"another"}
    assert OUT_OF_DATE in client.ask(run(b"s") + SYNC)
    client.ask(pg.close(b"s") + SYNC)
    assert pg.shape(b"another") in client.ask(PREPARED)
    for _ in range(3):
        assert client.ask(run(b"s") + SYNC) == alone(PREPARED, run(b"s") + SYNC)


async def test_a_statement_that_cannot_be_prepared_any_more_is_refused_in_the_servers_words() -> None:
    lender, client = await prepared()
    other = lender.idle[0]
    client.send(run(b"s") + SYNC)
    other.answers = pg.error(b"42P01")  # to the Parse: the table is gone
    other.model = ModelServer()
    other.model.is_skipping = True
    settle(lender)
    assert client.take() == pg.error(b"42P01") + READY


async def test_a_client_that_was_told_nothing_is_not_asked_for_anything() -> None:
    lender = Lender(2)
    client = Client(lender)
    client.ask(pg.parse(b"s", b"rows 1") + SYNC)
    lender.idle[0].model.columns = {b"rows 1": b"another"}
    assert client.ask(run(b"s") + SYNC) == alone(PREPARED, run(b"s") + SYNC)


async def test_a_client_that_leaves_while_its_statement_is_compared_leaves_no_backend_in_doubt() -> None:
    lender, client = await prepared()
    client.send(run(b"s") + SYNC)
    client.leave()
    settle(lender)
    assert (lender.destroyed, len(lender.idle)) == (1, 2)


def test_columns_are_compared_by_what_a_client_goes_by() -> None:
    from tenantproxy.wire.responses import shape_of

    def column(table: bytes, oid: bytes) -> bytes:
        return frame(frames.ROW_DESCRIPTION, b"\0\1n\0" + table + b"\0\1" + oid + b"\0\x08" + b"\xff" * 4 + b"\0\0")

    assert shape_of(column(b"\0\0\0\1", b"\0\0\0\x14")) == shape_of(column(b"\0\0\0\2", b"\0\0\0\x14"))
    assert shape_of(column(b"\0\0\0\1", b"\0\0\0\x14")) != shape_of(column(b"\0\0\0\1", b"\0\0\2\xbd"))


COPIED = pg.parse(b"", b"copy in") + run() + SYNC


@pytest.mark.parametrize("size", [1, 7, None])
@pytest.mark.parametrize("use", USES.values(), ids=USES)
async def test_a_statement_that_is_sent_right_behind_a_copy_waits_for_its_end_to_be_compared(
    use: bytes, size: int | None
) -> None:
    """As libpq copies: a Sync with the COPY, which the server reads as part of it, and one behind its data."""
    lender, client = await prepared()
    assert client.ask(COPIED) == alone(PREPARED, COPIED)
    behind = pg.data() + pg.DONE + SYNC + use
    client.send(behind, size=size)
    while any(backend.answers for backend in lender.backends):
        for backend in list(lender.backends):
            backend.deliver(size)
    settle(lender)
    assert client.take() == alone(PREPARED, COPIED, behind)
    assert not client.line.is_closed
    assert client.ask(use) == alone(PREPARED, use)
