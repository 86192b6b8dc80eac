"""Does a relay hand each client its own answers, and part with a backend only when nothing of it is left there?"""

from __future__ import annotations

import asyncio
from time import monotonic

import pytest

from tenantproxy.errors import PoolTimeout
from tenantproxy.model import Binding, Proof, tenant_id
from tenantproxy.wire import answers, frames
from tenantproxy.wire.frames import frame
from tenantproxy.wire.statements import Statements
from tests.support import model_server as pg
from tests.support.model_server import STALE_PLAN, SYNC, ModelServer, query, run
from tests.support.relay_desk import Backend, Client, Lender, settle

READY = answers.ready_for_query()
PARSED, CLOSED, BOUND = frame(frames.PARSE_COMPLETE), frame(frames.CLOSE_COMPLETE), frame(frames.BIND_COMPLETE)
HEALED = ModelServer().feed(pg.parse(b"s", b"rows 1") + pg.shown(b"s") + SYNC).removeprefix(PARSED)
BUSY = PoolTimeout("no connection became free")


def alone(*sent: bytes) -> bytes:
    """What a server answers to a client that has it to itself."""
    return ModelServer().feed(b"".join(sent))


def rows(count: int = 1) -> bytes:
    return alone(query(b"rows %d" % count))


def as_row_tenant(backend: Backend, *, ends_in: float) -> None:
    """Let it be bound by a proof that ends so soon."""
    backend.binding = Binding(tenant=tenant_id("acme"), proof=Proof.BOUND)
    backend.bound = tenant_id("acme")
    backend.bound_until = monotonic() + ends_in


async def test_nothing_is_sent_on_a_backend_that_an_answer_of_ours_gave_back() -> None:
    """DEALLOCATE is answered here, and what comes in the same packet needs a backend again."""
    lender = Lender()
    client = Client(lender)
    client.ask(pg.parse(b"s", b"rows 1") + SYNC)
    answer = client.ask(query(b"DEALLOCATE s") + query(b"rows 1") + query(b"rows 2"))
    assert answer == pg.tag(b"DEALLOCATE") + READY + rows(1) + rows(2)


async def test_a_name_that_is_taken_is_told_by_itself_also_where_another_has_its_text() -> None:
    client = Client(Lender())
    for name in (b"x", b"y"):
        client.ask(pg.parse(name, b"rows 1") + SYNC)
    assert b'"x" already exists' in client.ask(pg.parse(b"x", b"rows 1") + SYNC)


async def test_an_answered_deallocate_leaves_no_backend_held() -> None:
    lender = Lender()
    client = Client(lender)
    client.ask(pg.parse(b"s", b"rows 1") + SYNC)
    assert client.ask(query(b"DEALLOCATE s")) == pg.tag(b"DEALLOCATE") + READY
    assert len(lender.idle) == 1


async def test_a_deallocate_in_a_savepoint_of_its_own_forgets_the_clients_name() -> None:
    """psqlODBC deallocates so in a transaction, and takes the name for its next statement."""
    lender = Lender()
    client = Client(lender)
    client.ask(pg.parse(b"s", b"rows 1") + SYNC)
    ready = client.ask(query(b"begin"))[-6:]
    answer = client.ask(query(b'SAVEPOINT x;DEALLOCATE "s";RELEASE x'))
    assert answer == pg.tag(b"SAVEPOINT") + pg.tag(b"DEALLOCATE") + pg.tag(b"RELEASE") + ready
    assert b"already exists" not in client.ask(pg.parse(b"s", b"rows 2") + SYNC)
    before = (query(b"begin"), pg.parse(b"s", b"rows 2") + SYNC)
    assert client.ask(run(b"s") + SYNC) == alone(*before, run(b"s") + SYNC)[len(alone(*before)) :]


# --- COPY ------------------------------------------------------------------------------------------------------------
async def test_a_copy_that_fails_before_it_reads_leaves_nobody_an_answer_too_many() -> None:
    """The Sync sent with the COPY is answered after all; the client has sent the end of its data and one more."""
    lender = Lender()
    client = Client(lender)
    client.send(pg.parse(b"", b"trap") + run() + SYNC)
    backend = client.backend
    opening, failure = backend.answers.split(pg.error(b"P0001"))
    backend.answers = b""
    backend.data_received(opening)  # CopyInResponse has come, the error not yet
    client.send(pg.data() + pg.DONE + SYNC)
    backend.answers = pg.error(b"P0001") + failure + backend.answers
    while backend.is_leased and backend.answers:
        backend.deliver(1)
    assert lender.destroyed == 1
    assert lender.released == 0
    assert client.ask(query(b"rows 1")).endswith(rows(1))


@pytest.mark.parametrize("is_session", [False, True])
async def test_a_copy_in_the_extended_protocol_is_answered_as_by_a_server(is_session: bool) -> None:
    """As libpq does it: a Sync with the COPY, and one behind its data."""
    lender = Lender()
    client = Client(lender, is_session=is_session)
    begin = pg.parse(b"", b"copy in") + run() + SYNC
    for end in (pg.data() * 3 + pg.DONE, pg.data(b"wrong\n"), pg.data() + pg.fail()):
        server = ModelServer()
        assert client.ask(begin) == server.feed(begin)
        assert client.ask(end) == server.feed(end)
        assert client.ask(SYNC) == server.feed(SYNC)
        assert client.ask(query(b"rows 1")) == rows(1)


@pytest.mark.parametrize("is_session", [False, True])
async def test_a_sync_amid_a_copy_that_has_failed_unseen_is_answered(is_session: bool) -> None:
    lender = Lender()
    client = Client(lender, is_session=is_session)
    client.ask(pg.parse(b"", b"copy in") + run() + pg.FLUSH)
    client.send(pg.data(b"wrong\n"))  # the server knows, the relay does not
    assert client.ask(SYNC).endswith(pg.error(b"22P04") + READY)
    assert client.ask(query(b"rows 1")) == rows(1)


async def test_a_copy_whose_data_came_with_it_leaves_a_session_usable() -> None:
    lender = Lender()
    client = Client(lender, is_session=True)
    sent = query(b"copy in") + pg.data() + pg.DONE
    assert client.ask(sent) == alone(sent)
    sent = pg.parse(b"", b"rows 1") + run() + SYNC
    assert client.ask(sent) == alone(sent)


async def test_a_copy_that_fails_with_an_enormous_error_leaves_a_session_usable() -> None:
    lender = Lender()
    client = Client(lender, is_session=True)
    client.ask(pg.parse(b"", b"copy in") + run() + pg.FLUSH)
    backend = client.backend
    backend.model.feed(pg.data(b"wrong\n"))
    enormous = frame(frames.ERROR, b"SERROR\0VERROR\0C22P04\0M" + b"x" * 1_100_000 + b"\0\0")
    for at in range(0, len(enormous), 65536):
        backend.data_received(enormous[at : at + 65536])
    assert client.take().endswith(enormous)
    assert client.ask(SYNC) == READY


async def test_a_client_that_leaves_amid_a_piece_of_copy_data_leaves_no_backend_behind() -> None:
    lender = Lender()
    client = Client(lender)
    client.ask(query(b"copy in"))
    client.send(pg.data(b"x" * 100)[:50])
    client.leave()
    assert lender.destroyed == 1


@pytest.mark.parametrize("is_session", [False, True])
async def test_the_end_of_a_message_that_was_never_sent_leaves_no_backend_with_its_beginning(is_session: bool) -> None:
    """It came together with bytes that are no message."""
    lender = Lender()
    client = Client(lender, is_session=is_session)
    client.ask(SYNC)
    client.send(pg.fail()[:7])
    client.send(pg.fail()[7:] + b"\0\xff\xff\xff\xff")
    client.leave()
    assert len(lender.idle) == 1
    assert client.ends == 1


async def test_data_that_a_failed_copy_no_longer_takes_is_not_read_as_something_else() -> None:
    lender = Lender()
    client = Client(lender)
    client.ask(query(b"copy in"))
    long = pg.data(b"x" * 100)
    client.send(pg.data(b"wrong\n") + long[:50])
    settle(lender)
    assert client.take() == pg.error(b"22P04") + READY
    assert client.ask(long[50:] + pg.data() + pg.DONE + query(b"rows 1")) == rows(1)
    assert lender.destroyed == 0


# --- what the server says, in pieces ---------------------------------------------------------------------------------
STATUS = answers.parameter_status(b"TimeZone", b"UTC")


@pytest.mark.parametrize("cut", range(len(STATUS) + 1))
async def test_a_backend_is_given_back_however_a_message_behind_the_answer_is_cut(cut: int) -> None:
    """A server reports a setting at any time, so also right behind ReadyForQuery."""
    lender = Lender()
    client = Client(lender)
    client.send(query(b"rows 1"))
    backend = client.backend
    answer, backend.answers = backend.answers, b""
    backend.data_received(answer + STATUS[:cut])
    if backend.is_leased and STATUS[cut:]:
        backend.data_received(STATUS[cut:])
    assert not backend.is_leased
    assert client.take().startswith(answer)


async def test_an_error_of_ours_is_not_put_into_the_middle_of_a_row() -> None:
    """A client would take it for the row's value."""
    lender = Lender()
    client = Client(lender)
    client.send(query(b"rows 1"))
    client.backend.answers = b""
    begun = pg.row(b"x" * 200)[:100]
    client.backend.data_received(begun)
    client.backend.connection_lost(None)
    assert client.take() == begun
    assert client.line.is_closed
    assert client.ends == 1


BROKEN = [b"Z\0\0\0\4", b"Z\0\0\0\0", b"Z\0\0\0\5X", b"E\0\0\0\3", b"C\0\0\0\4", b"C\0\0\0\5\0"]
STRANGE = [b"S\0\0\0\4", b"S\0\0\0\5\0"]


@pytest.mark.parametrize("garbage", BROKEN + STRANGE)
async def test_a_server_that_breaks_the_protocol_ends_its_client_and_raises_nothing(garbage: bytes) -> None:
    for behind in (b"", b"Z\0\0\0\5I"):
        lender = Lender()
        client = Client(lender)
        client.send(query(b"rows 1"))
        client.backend.answers = b""
        client.backend.data_received(garbage + behind)
        if garbage in BROKEN:
            assert client.line.is_closed
            assert lender.released == 0


async def test_a_backend_that_says_an_error_behind_its_last_answer_is_not_lent_again() -> None:
    """It may skip everything up to a Sync by now: the next one's reset would never be answered."""
    lender = Lender()
    client = Client(lender)
    client.send(query(b"rows 1"))
    client.backend.answers += pg.error(b"08P01")
    settle(lender)
    assert client.take() == rows(1) + pg.error(b"08P01")
    assert (lender.released, lender.destroyed) == (0, 1)


BODIES = (frames.FLUSH, frames.SYNC, frames.TERMINATE, frames.COPY_DONE)


@pytest.mark.parametrize("is_session", [False, True])
@pytest.mark.parametrize("before", [b"", query(b"rows 1"), run(b"rows 1")], ids=["nothing", "query", "extended"])
@pytest.mark.parametrize("kind", BODIES, ids=["flush", "sync", "terminate", "copy_done"])
async def test_a_message_that_has_no_body_is_refused_when_it_has_one(
    kind: int, before: bytes, *, is_session: bool
) -> None:
    """As soon as its length is there: nothing of it reaches a server, and the backend is lent no more."""
    lender = Lender()
    client = Client(lender, is_session=is_session)
    client.send(before)
    client.send(frame(kind, b"x" * 15_000)[: frames.HEADER])
    assert b"C08P01\0" in client.take()
    assert client.line.is_closed
    assert client.ends == 1
    assert lender.released == 0
    settle(lender)


# --- prepared statements ---------------------------------------------------------------------------------------------
async def test_a_statement_that_was_skipped_can_be_prepared_again() -> None:
    """It is prepared on the backend for another client: its Parse is only said to be done, unless it is skipped."""
    lender = Lender()
    other, client = Client(lender, statements=(shared := Statements())), Client(lender, statements=shared)
    other.ask(pg.parse(b"x", b"rows 1") + SYNC)
    skipped = pg.parse(b"", b"fail") + run() + pg.parse(b"s", b"rows 1") + SYNC
    again = pg.parse(b"s", b"rows 1") + run(b"s") + SYNC
    assert client.ask(skipped) + client.ask(again) == alone(skipped, again)


@pytest.mark.parametrize("asked", [pg.describe(b"s"), pg.close(b"s"), run(b"end"), pg.shown(b"end"), run(b"s")])
async def test_what_was_prepared_before_a_transaction_failed_is_there_in_it(asked: bytes) -> None:
    """Though it is not known what it set: the server parses nothing there, but its end."""
    client = Client(Lender())
    steps = [
        pg.parse(b"s", b"SET") + pg.parse(b"end", b"rollback") + SYNC,
        query(b"begin"),
        run(b"s") + SYNC,
        query(b"fail"),
    ]
    for step in steps:
        client.ask(step)
    assert client.ask(asked + SYNC) == alone(*steps, asked + SYNC)[len(alone(*steps)) :]


async def test_what_comes_behind_the_end_of_a_failed_transaction_is_prepared_by_what_is_set_then() -> None:
    """In the same segment: what the statement means there is not known."""
    lender = Lender()
    client = Client(lender)
    client.ask(pg.parse(b"s", b"SET") + pg.parse(b"t", b"rows 1") + pg.parse(b"end", b"rollback") + SYNC)
    client.ask(query(b"begin") + run(b"s") + SYNC)
    client.ask(query(b"fail"))
    prepared = len(lender.backends[0].model.statements)
    client.ask(run(b"end") + run(b"t") + SYNC)
    assert len(lender.backends[0].model.statements) == prepared + 1


async def test_a_skipped_statement_without_a_name_takes_the_next_one_not_with_it() -> None:
    """The answer that tells of it comes between the Parse and the Bind of the next."""
    lender = Lender()
    client = Client(lender)
    before = pg.parse(b"", b"bad") + pg.parse(b"", b"rows 1") + run() + SYNC + pg.parse(b"", b"rows 2")
    behind = run() + SYNC
    assert client.ask(before) + client.ask(behind) == alone(before, behind)


BAD, ONE, TWO = pg.parse(b"s", b"bad"), pg.parse(b"", b"rows 1"), pg.parse(b"", b"rows 2")
REPLACED = {  # what follows a statement without a name, and is then bound
    "skipped": [BAD + TWO + SYNC],
    "skipped twice": [BAD + TWO + pg.parse(b"", b"rows 3") + SYNC],
    "skipped in a later segment too": [BAD + TWO + SYNC + BAD + pg.parse(b"", b"rows 3") + SYNC],
    "skipped in a former segment": [BAD + TWO + SYNC + pg.parse(b"", b"rows 3") + SYNC],
    "in error": [pg.parse(b"", b"bad") + SYNC],
    "in error, and the next one skipped": [pg.parse(b"", b"bad") + TWO + SYNC],
    "skipped, and a query": [BAD + TWO + SYNC + query(b"rows 3")],
    "skipped by what was run": [pg.parse(b"", b"fail") + run() + TWO + SYNC],
    "in error behind what was run": [run() + pg.parse(b"", b"bad") + SYNC],
    "skipped by what was bound": [pg.parse(b"", b"inner") + pg.bind(b"") + TWO + SYNC],
    "skipped by what was described": [frame(frames.DESCRIBE, b"Pnone\0") + TWO + SYNC],
    "read, and the next one skipped": [TWO + BAD + pg.parse(b"", b"rows 3") + SYNC],
    "a close that is skipped": [BAD + pg.close(b"") + SYNC],
    "a close": [pg.close(b"") + SYNC],
    "a close behind an error of what was run": [pg.parse(b"", b"fail") + run() + pg.close(b"") + SYNC],
    "a DEALLOCATE that is skipped": [BAD + pg.parse(b"", b"DEALLOCATE t") + SYNC],
    "a DEALLOCATE that is skipped by what was run": [
        pg.parse(b"", b"fail") + run() + pg.parse(b"", b"DEALLOCATE t") + SYNC
    ],
    "a DEALLOCATE ALL that is skipped": [BAD + pg.parse(b"", b"DEALLOCATE ALL") + SYNC],
    "an error in a transaction": [query(b"begin") + ONE + SYNC, BAD + TWO + SYNC, pg.parse(b"", b"rollback") + SYNC],
}


@pytest.mark.parametrize("behind", REPLACED)
@pytest.mark.parametrize("has_another", [False, True])
async def test_a_statement_without_a_name_stays_until_a_server_reads_the_next_one(
    behind: str, has_another: bool
) -> None:
    """Else its client hears of none, where a server has one."""
    lender = Lender()
    client, other = Client(lender), Client(lender)
    sent = [pg.parse(b"t", b"rows 3") + ONE + SYNC, *REPLACED[behind], run() + SYNC, run() + SYNC]
    heard = b""
    for each in sent:
        heard += client.ask(each)
        if has_another and client.relay.backend is None:
            other.ask(pg.parse(b"", b"rows 4") + SYNC)
    assert heard == alone(*sent)


async def test_a_close_that_was_skipped_has_closed_nothing() -> None:
    lender = Lender()
    client = Client(lender)
    sent = [
        pg.parse(b"s", b"rows 1") + SYNC,
        pg.parse(b"", b"fail") + run() + pg.close(b"s") + pg.parse(b"s", b"rows 2") + pg.close(b"s") + SYNC,
        run(b"s") + SYNC,
    ]
    assert b"".join(client.ask(each) for each in sent) == alone(*sent)


async def test_what_is_prepared_right_behind_deallocate_all_is_there() -> None:
    """All in one write: the tag comes when the rest has long been sent."""
    lender = Lender()
    client = Client(lender)
    sent = [
        pg.parse(b"old", b"rows 1") + SYNC,
        pg.parse(b"", b"DEALLOCATE ALL") + run() + pg.parse(b"s", b"rows 2") + run(b"s") + SYNC,
        run(b"s") + SYNC,
        run(b"old") + SYNC,
    ]
    assert b"".join(client.ask(each) for each in sent) == alone(*sent)


async def test_a_name_used_again_before_its_failure_is_known_is_the_later_statement() -> None:
    lender = Lender()
    client = Client(lender)
    sent = [
        pg.parse(b"s", b"bad") + SYNC + pg.parse(b"s", b"rows 2") + run(b"s") + SYNC,
        run(b"s") + SYNC,
    ]
    assert b"".join(client.ask(each) for each in sent) == alone(*sent)


async def test_a_deallocate_that_was_skipped_does_not_spoil_the_statement_for_others() -> None:
    lender = Lender()
    shared = Statements()
    client, other = Client(lender, statements=shared), Client(lender, statements=shared)
    client.ask(pg.parse(b"s", b"rows 1") + SYNC)
    client.ask(pg.parse(b"", b"fail") + run() + pg.parse(b"", b"DEALLOCATE s") + run() + SYNC)
    sent = pg.parse(b"x", b"rows 1") + run(b"x") + SYNC
    assert other.ask(sent) == alone(sent)


async def test_a_deallocated_statement_is_unknown_afterwards() -> None:
    lender = Lender()
    client = Client(lender)
    sent = [
        pg.parse(b"s", b"rows 1") + SYNC,
        pg.parse(b"", b"DEALLOCATE s") + run() + SYNC,
        run(b"s") + SYNC,
        pg.parse(b"s", b"rows 2") + run(b"s") + SYNC,
    ]
    assert b"".join(client.ask(each) for each in sent) == alone(*sent)


async def test_a_plan_made_stale_by_ddl_is_healed_and_the_client_sees_nothing_of_it() -> None:
    lender = Lender()
    client = Client(lender)
    client.ask(pg.parse(b"s", b"rows 1") + SYNC)
    lender.idle[0].model.stale.add(b"rows 1")
    assert client.ask(pg.shown(b"s") + SYNC) == HEALED


async def test_what_a_client_sends_while_a_plan_is_healed_comes_after_it() -> None:
    lender = Lender()
    client = Client(lender)
    client.ask(pg.parse(b"s", b"rows 1") + SYNC)
    lender.idle[0].model.stale.add(b"rows 1")
    client.send(pg.shown(b"s") + SYNC)
    backend = client.backend
    assert backend.answers == STALE_PLAN + READY
    backend.deliver(len(STALE_PLAN))
    client.send(query(b"rows 2"))
    client.send(pg.parse(b"", b"rows 3") + run() + SYNC)
    settle(lender)
    assert client.take() == HEALED + rows(2) + alone(pg.parse(b"", b"rows 3") + run() + SYNC)


async def test_a_stale_plan_is_healed_also_when_the_binding_is_about_to_end() -> None:
    lender = Lender()
    client = Client(lender)
    client.ask(pg.parse(b"s", b"rows 1") + SYNC)
    as_row_tenant(lender.idle[0], ends_in=1.0)
    lender.idle[0].model.stale.add(b"rows 1")
    assert client.ask(pg.shown(b"s") + SYNC) == HEALED


async def test_a_client_hears_of_the_end_of_its_backend_amid_healing() -> None:
    lender = Lender()
    client = Client(lender)
    client.ask(pg.parse(b"s", b"rows 1") + SYNC)
    lender.idle[0].model.stale.add(b"rows 1")
    client.send(pg.shown(b"s") + SYNC)
    backend = client.backend
    goodbye = pg.error(b"57P01", severity=b"FATAL")
    backend.answers = STALE_PLAN
    backend.deliver()
    backend.data_received(goodbye)
    backend.connection_lost(None)
    assert client.take() == goodbye


# --- messages in pieces ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("cut", range(1, 20))
async def test_a_long_bind_may_be_cut_anywhere(cut: int) -> None:
    """In a transaction, where the backend is there already: it streams as soon as its names have come."""
    lender = Lender()
    client = Client(lender)
    client.ask(query(b"begin") + pg.parse(b"statement", b"rows 1") + SYNC)
    bind = pg.bind(b"statement", values=b"x" * 200_000)
    client.send(bind[:cut])
    assert client.ask(bind[cut:] + pg.execute() + SYNC).startswith(BOUND)


async def test_a_giant_message_is_not_gathered_before_it_is_sent() -> None:
    lender = Lender()
    client = Client(lender)
    client.send(b"Q" + (500_000_000).to_bytes(4, "big"))
    piece = b"x" * 65536
    for _ in range(10):
        client.send(piece)
    assert len(client.backend.model.input) > 9 * len(piece)


# --- who leaves, and who is refused ----------------------------------------------------------------------------------
async def test_what_a_client_sent_before_its_farewell_is_run() -> None:
    lender = Lender()
    client = Client(lender)
    backend = lender.idle[0]
    client.send(query(b"rows 1") + pg.TERMINATE)
    assert backend.model.ran == [b"rows 1"]
    assert not backend.model.is_closed, "the Terminate went on to the server"
    assert client.line.is_closed
    client.leave()
    assert lender.released + lender.destroyed == 1


async def test_a_client_that_was_drained_takes_no_backend_any_more() -> None:
    lender = Lender()
    client = Client(lender)
    client.ask(query(b"copy in"))
    long = pg.data(b"x" * 100)
    client.send(pg.data(b"wrong\n") + long[:50])
    settle(lender)
    client.relay.drain()
    client.send(long[50:] + query(b"begin"))
    settle(lender)
    assert client.ends == 1
    assert len(lender.idle) == 1


@pytest.mark.parametrize("sent", [
    query(b"rows 1"), pg.parse(b"", b"rows 1") + run() + SYNC, SYNC, pg.function(), query(b"rows 1") * 3,
    pg.parse(b"", b"rows 1") + SYNC + query(b"rows 1"), query(b"rows 1") + pg.parse(b"", b"rows 1") + SYNC,
])  # fmt: skip
@pytest.mark.parametrize("size", [1, 7, None])
async def test_a_client_that_is_refused_a_backend_hears_one_error_for_each_segment(
    sent: bytes, size: int | None
) -> None:
    lender = Lender()
    lender.is_busy = True
    client = Client(lender)
    client.send(sent, size=size)
    while lender.waiting:
        lender.refuse(BUSY)
    segments = sent.count(query(b"rows 1")) + sent.count(SYNC) + sent.count(pg.function())
    assert client.take() == (answers.error_response(BUSY) + READY) * segments
    lender.is_busy = False
    assert client.ask(query(b"rows 1")) == rows(1)


@pytest.mark.parametrize("answered_here", ["a query that was refused", "DEALLOCATE"])
async def test_a_refusal_does_not_repeat_what_was_answered_without_a_server_before(answered_here: str) -> None:
    """A ReadyForQuery too many puts every answer behind it to the wrong request."""
    lender = Lender()
    client = Client(lender)
    client.ask(pg.parse(b"s", b"rows 1") + SYNC)
    if answered_here == "DEALLOCATE":
        assert client.ask(query(b"DEALLOCATE s")) == pg.tag(b"DEALLOCATE") + READY
    lender.is_busy = True
    requests = [pg.parse(b"", b"rows 1") + pg.shown(b"") + SYNC]
    if answered_here != "DEALLOCATE":
        requests.insert(0, query(b"rows 1"))
    for request in requests:
        client.send(request)
        lender.refuse(BUSY)
        assert client.take() == answers.error_response(BUSY) + READY


async def test_a_segment_that_was_refused_is_not_run_when_a_later_one_could_be_healed() -> None:
    lender = Lender()
    shared = Statements()
    client = Client(lender, statements=shared)
    client.ask(pg.parse(b"s", b"rows 1") + SYNC)
    lender.is_busy = True
    client.send(pg.parse(b"", b"rows 7") + run() + SYNC + pg.shown(b"s") + SYNC)
    lender.idle[0].model.stale.add(b"rows 1")
    lender.is_busy = False
    lender.refuse(BUSY)
    settle(lender)
    assert client.take() == answers.error_response(BUSY) + READY + STALE_PLAN + READY
    assert b"rows 7" not in lender.backends[0].model.ran


# --- a simple query inside an extended one ---------------------------------------------------------------------------
async def test_a_query_that_was_skipped_with_its_segment_ends_a_session_or_is_not_waited_for() -> None:
    """An error makes a server skip all until Sync, a simple query too; in a session it is not known what failed."""
    client = Client(Lender(), is_session=True)
    sent = pg.parse(b"", b"bad") + query(b"rows 1") + SYNC
    assert client.ask(sent).startswith(alone(sent)[: -len(READY)])
    if not client.line.is_closed:
        again = pg.parse(b"s", b"rows 1") + run(b"s") + SYNC
        assert client.ask(again) == alone(again)


RELEASED = pg.parse(b"", b"fail") + run() + query(b"rows 1")  # as Postgrex ends what it runs within a savepoint
UNREAD = pg.parse(b"", b"bad") + query(b"rows 1") + query(b"rows 2") + pg.close(b"x") + query(b"rows 3")
ITSELF = pg.parse(b"", b"rows 1") + run() + query(b"fail")
BEHIND_IT = pg.parse(b"", b"rows 5") + run() + query(b"rows 6") + SYNC


@pytest.mark.parametrize("sent", [RELEASED, UNREAD, ITSELF, ITSELF + UNREAD], ids=["one", "several", "itself", "both"])
@pytest.mark.parametrize("is_at_once", [False, True])
@pytest.mark.parametrize("behind", [b"", SYNC + query(b"rows 7"), BEHIND_IT], ids=["none", "query", "more"])
async def test_a_query_behind_messages_that_fail_is_skipped_and_the_client_goes_on(
    sent: bytes, behind: bytes, *, is_at_once: bool
) -> None:
    lender = Lender()
    client = Client(lender)
    turns = [sent, SYNC + behind] if not is_at_once else [sent + SYNC + behind]
    assert b"".join(map(client.ask, turns)) == alone(*turns)
    assert lender.released
    assert not lender.destroyed


@pytest.mark.parametrize("sql", [b"rows 2", b"fail", b"copy in;fail"])
async def test_a_query_inside_a_segment_that_does_not_fail_is_answered(sql: bytes) -> None:
    """asyncpg prepares without a Sync, and may ask something else then."""
    lender = Lender()
    client = Client(lender)
    sent = pg.parse(b"s", b"rows 1") + pg.describe(b"s") + pg.FLUSH + query(sql)
    if b"copy" in sql:
        sent += pg.data() + pg.DONE
    assert client.ask(sent) == alone(sent)
    assert lender.released == 1


# --- clients that keep their backend ---------------------------------------------------------------------------------
async def test_a_client_that_listens_to_two_channels_keeps_its_backend_when_it_leaves_one() -> None:
    lender = Lender()
    client = Client(lender)
    client.ask(query(b"LISTEN a") + query(b"LISTEN b") + query(b"UNLISTEN a"))
    assert client.backend.is_leased
    client.ask(query(b"DISCARD ALL"))
    assert lender.released == 1


async def test_a_long_session_is_renewed_between_transactions_and_never_in_one() -> None:
    lender = Lender()
    client = Client(lender, is_session=True)
    client.ask(query(b"begin"))
    as_row_tenant(client.backend, ends_in=1.0)
    assert client.ask(query(b"rows 1")) == alone(query(b"begin") + query(b"rows 1"))[-len(rows(1)) :]
    client.ask(query(b"commit"))
    client.send(query(b"rows 2"))
    assert len(lender.entering) == 1
    settle(lender)
    assert client.take() == b""
    lender.entered()
    settle(lender)
    assert client.take() == rows(2)


async def test_after_a_renewal_a_client_that_does_not_read_is_not_read_for() -> None:
    lender = Lender()
    client = Client(lender, is_session=True)
    client.ask(query(b"rows 1"))
    as_row_tenant(client.backend, ends_in=1.0)
    client.relay.pause_writing()
    client.send(query(b"rows 2"))
    backend, _ = lender.entering[0]
    backend.resume_reading()  # as the lender does, to read the answer to its renewal
    lender.entered()
    assert backend.is_paused
    client.relay.resume_writing()
    settle(lender)
    assert client.take() == rows(2)


@pytest.mark.parametrize("sent", [
    query(b"rows 1") * 4, query(b"copy in") + pg.data() + pg.DONE, (pg.parse(b"", b"rows 1") + run() + SYNC) * 3,
    query(b"copy in;copy in") + (pg.data() + pg.DONE) * 2, pg.parse(b"", b"rows 1") + pg.FLUSH + run() + SYNC,
    pg.parse(b"", b"copy in") + run() + pg.FLUSH + pg.data() + pg.DONE + SYNC, pg.function() * 2,
    pg.parse(b"", b"copy in") + run() + SYNC + pg.data() + SYNC + pg.data(b"wrong\n") + SYNC + query(b"rows 1"),
])  # fmt: skip
@pytest.mark.parametrize("is_session", [False, True])
async def test_no_byte_is_held_for_ever_when_a_binding_is_about_to_end(sent: bytes, is_session: bool) -> None:
    for size in (1, 3, 10, 30, len(sent)):
        lender = Lender()
        client = Client(lender, is_session=is_session)
        client.ask(query(b"begin"))
        as_row_tenant(client.backend, ends_in=1.0)
        client.send(query(b"commit"))
        for at in range(0, len(sent), size):
            client.send(sent[at : at + size])
            if at % 3:
                settle(lender)
        for _ in range(10):
            await asyncio.sleep(0)  # what the relay put off to the next turn of the loop
            settle(lender)
            while lender.entering:
                lender.entered()
        assert client.line.is_closed or client.ask(query(b"rows 3")).endswith(rows(3))


# --- what waits for a backend ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("is_refused", [False, True])
@pytest.mark.parametrize("behind", [b"", query(b"SELECT 2")])
async def test_what_waits_for_a_backend_is_looked_at_whatever_waited_before(behind: bytes, *, is_refused: bool) -> None:
    lender = Lender()
    lender.is_busy = True
    client = Client(lender)
    plain, locks = query(b"SELECT pg_advisory_last(1)"), query(b"SELECT pg_advisory_lock(1)")
    client.send(plain)
    if is_refused:
        lender.refuse(BUSY)
    else:
        lender.grant()
        client.backend.deliver()
    assert not client.relay.backend
    client.send(locks)
    client.send(behind)
    lender.grant()
    assert client.relay.kept.left, "what the lock leaves was not seen"
    settle(lender)


async def test_what_comes_behind_a_query_that_waits_for_a_backend_runs_after_it() -> None:
    lender = Lender()
    lender.is_busy = True
    client = Client(lender)
    client.send(query(b"rows 1"))
    client.send(pg.parse(b"s", b"rows 2") + run(b"s") + SYNC)
    lender.is_busy = False
    settle(lender)
    assert client.take() == alone(query(b"rows 1"), pg.parse(b"s", b"rows 2"), run(b"s"), SYNC)
