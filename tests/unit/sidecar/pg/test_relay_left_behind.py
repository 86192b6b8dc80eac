"""What does a client meet that its predecessor, its own full buffer or half an answer left? Found by the model test."""

from __future__ import annotations

import pytest

from tenantproxy.wire.pipeline import Pipeline
from tenantproxy.wire.prepared import Prepared
from tenantproxy.wire.statements import ServerStatements, Statements
from tests.support.model_server import DONE, SYNC, bind, data, describe, parse, query, run
from tests.support.relay_desk import Client, Lender, settle


@pytest.mark.parametrize("end", [data(b"wrong\n"), data(b"wrong\n") + SYNC])
async def test_a_client_whose_server_was_slow_when_its_copy_failed_is_read_again(end: bytes) -> None:
    """The rest of its data is still on the way to the server, which has nothing to say about it."""
    lender = Lender()
    client = Client(lender)
    client.ask(query(b"copy in"))
    client.backend.on_writable(False)
    client.relay.data_received(end)
    settle(lender)
    assert client.relay.backend is None
    assert not client.line.is_reading_paused
    assert client.ask(query(b"rows 1")).endswith(b"Z\0\0\0\5I")


async def test_a_statement_without_a_name_that_an_error_skips_does_not_leave_that_of_another_client() -> None:
    lender, statements = Lender(), Statements()
    other, client = Client(lender, statements=statements), Client(lender, statements=statements)
    other.ask(parse(b"", b"of the other:rows 1") + SYNC)
    client.send(describe(b"none") + parse(b"", b"own:rows 1") + SYNC + run() + SYNC)
    settle(lender)
    answer = client.take()
    assert b"of the other" not in answer
    assert b"own:rows 1" in answer


async def test_a_text_that_an_error_skips_under_one_name_is_there_under_another_that_was_sent_behind_it() -> None:
    lender = Lender()
    client = Client(lender)
    client.send(parse(b"", b"bad") + parse(b"x", b"rows 1") + SYNC + parse(b"y", b"rows 1") + SYNC)
    client.backend.deliver(client.backend.answers.index(b"Z") + 6)
    client.take()
    client.send(run(b"y") + SYNC)
    settle(lender)
    assert b"rows 1 0" in client.take()


async def test_an_error_of_ours_is_not_put_behind_half_a_row_when_the_rest_of_it_is_told_wrong() -> None:
    lender = Lender()
    client = Client(lender)
    client.send(query(b"rows 1"))
    backend = client.backend
    backend.deliver(8)
    assert client.take() == b"D\0\0\0\x12\0\1\0"
    backend.answers += b"1\0\0\0\4"
    backend.deliver()
    assert not client.take()
    assert client.ends == 1


async def test_a_client_in_doubt_hears_that_it_is_its_own_doing() -> None:
    lender = Lender()
    client = Client(lender)
    client.send(parse(b"", b"rows 1") + DONE + SYNC)
    client.backend.answers = b"3\0\0\0\4"
    client.backend.deliver()
    assert b"C08P01\0" in client.take()


def test_a_statement_without_a_name_leaves_on_another_backend_what_it_leaves_on_its_first() -> None:
    prepared = Prepared(Statements(), Pipeline())
    prepared.parse(parse(b"", b"rows 1"))
    prepared.unnamed_leaves = 1
    prepared.board(ServerStatements())
    prepared.bind(bind(b""))
    assert prepared.unnamed_leaves == 1
