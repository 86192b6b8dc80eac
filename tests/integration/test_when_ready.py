"""After which messages does PostgreSQL say ReadyForQuery? Each rule that `wire.pipeline` counts by, on real servers."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tenantproxy.raw.exchange import query
from tenantproxy.wire import frames
from tenantproxy.wire.frames import frame
from tests.support.database import Database
from tests.support.model_server import DONE, FLUSH, SYNC, bind, close, data, execute, fail, function, parse, run
from tests.support.waiting import until
from tests.support.wire_client import WireClient, raw, startup

DESCRIBE_NONE = frame(frames.DESCRIBE, b"Snone\0")
BAD = parse(b"", b"SELEC 1")
COPY = b"COPY t FROM STDIN"
GOOD = parse(b"", b"SELECT 1") + run()
END = query("SELECT 'the end'")

# What is sent, and what is answered but for the end: 1 2 3 C G E Z as on the wire, D T t s n I V.
CASES: dict[str, tuple[bytes, str]] = {
    "a query": (query("SELECT 1"), "TDCZ"),
    "a query that fails": (query("SELECT 1/0"), "EZ"),
    "a query of several statements": (query("SELECT 1; SELECT 2"), "TDCTDCZ"),
    "a query without one": (query(""), "IZ"),
    "a function call that fails": (function(), "EZ"),
    "a sync": (SYNC, "Z"),
    "many syncs": (SYNC * 3, "ZZZ"),
    "no flush": (FLUSH, ""),
    "a segment": (GOOD + SYNC, "12DCZ"),
    "no segment without its sync": (GOOD + FLUSH, "12DC"),
    "a sync whose commit fails": (parse(b"", b"INSERT INTO late VALUES (1), (1)") + run() + SYNC, "12CEZ"),
    "no parse that fails": (BAD + SYNC, "EZ"),
    "no bind that fails": (bind(b"none") + GOOD + SYNC, "EZ"),
    "no describe that fails": (DESCRIBE_NONE + GOOD + SYNC, "EZ"),
    "no execute that fails": (execute(b"none") + GOOD + SYNC, "EZ"),
    "no close": (close(b"none") + FLUSH, "3"),
    "no flush that is too long": (frame(frames.FLUSH, b"x") + GOOD + SYNC, "EZ"),
    "a sync that is too long": (frame(frames.SYNC, b"x"), "EZ"),
    "no query that is skipped": (BAD + query("SELECT 1") + SYNC, "EZ"),
    "no function call that is skipped": (BAD + function() + SYNC, "EZ"),
    "no copy messages outside of a copy": (data() + DONE + fail(), ""),
    "no copy messages behind an open segment": (GOOD + data() + DONE + fail() + SYNC, "12DCZ"),
    "no copy messages that are skipped": (BAD + data() + DONE + fail() + SYNC, "EZ"),
    "a copy": (query(COPY.decode()) + data() + DONE, "GCZ"),
    "a copy with syncs in it": (query(COPY.decode()) + SYNC + data() + FLUSH + SYNC + DONE, "GCZ"),
    "a copy that is ended by its client": (query(COPY.decode()) + fail(), "GEZ"),
    "a copy that fails, and no messages behind it": (query(COPY.decode()) + data(b"x\n") + data() + DONE, "GEZ"),
    "a copy that never begins": (query("COPY none FROM STDIN") + data() + DONE, "EZ"),
    "an extended copy, by its second sync": (parse(b"", COPY) + run() + SYNC + data() + DONE + SYNC, "12GCZ"),
    "an extended copy that fails": (parse(b"", COPY) + run() + SYNC + data(b"x\n") + data() + DONE + SYNC, "12GEZ"),
}


@pytest.fixture
async def client(each_database: Database) -> AsyncIterator[WireClient]:
    """A connection to the server itself."""
    server = each_database.server
    client = WireClient(*await raw(server.port))
    client.send(startup(server.superuser, each_database.name))
    await client.log_in(server.password)
    for sql in ("CREATE TABLE t (n int)", "CREATE TABLE late (n int UNIQUE DEFERRABLE INITIALLY DEFERRED)"):
        await client.query(sql)
    yield client
    client.abort()


async def heard(client: WireClient) -> str:
    """The kinds of all messages before the answer to END."""
    client.send(SYNC + END)  # the Sync ends what is left open
    kinds = ""
    while True:
        kind, payload = await client.message()
        if b"the end" in payload:
            break
        kinds += chr(kind)
    assert (await client.answer()).tags == ["SELECT 1"]
    assert kinds.endswith("ZT")
    return kinds.removesuffix("ZT")


async def test_ready_comes_after_these_messages_and_no_others(client: WireClient) -> None:
    for name, (sent, expected) in CASES.items():
        client.send(sent)
        assert await heard(client) == expected, name


@pytest.mark.parametrize("inside", [query("SELECT 1"), GOOD, close(b""), DESCRIBE_NONE, function()])
async def test_a_message_of_another_kind_inside_a_copy_ends_the_connection(client: WireClient, inside: bytes) -> None:
    client.send(query(COPY.decode()) + data() + inside + SYNC)
    answer = await client.rest()
    assert answer.kinds == b"GEE"
    assert answer.errors[-1]["S"] == "FATAL"


STRUCK: dict[str, tuple[bytes, str]] = {
    "copy data": (data(), "1EZ"),
    "the end of a copy": (DONE, "1EZ"),
    "the failure of a copy": (fail(), "1EZ"),
    "copy messages, once": (data() + DONE + data(), "1EZ"),
    "a sync, for which it is": (SYNC, "1EZ"),
    "a query, which does not run": (query("SELECT 1"), "1EZ"),
    "a function call, which does not run": (function(), "1EZ"),
    "nothing where a segment goes on": (run() + SYNC, "1EZ"),
    "nothing at a flush": (FLUSH + SYNC, "1EZ"),
}


async def test_a_timeout_that_strikes_at_a_message_of_copy_is_answered_without_a_sync(
    client: WireClient, each_database: Database
) -> None:
    """And one that strikes at any other message is not: one ReadyForQuery for what asks for it."""
    async with each_database.connect() as watching:
        pid = (await client.query("SELECT pg_backend_pid()")).value
        await client.query("SET statement_timeout = '1ms'")
        since = f"SELECT clock_timestamp() - xact_start > '20ms' FROM pg_stat_activity WHERE pid = {pid}"

        async def is_struck() -> bool:
            return bool(await watching.fetchval(since))

        for name, (sent, expected) in STRUCK.items():
            client.send(parse(b"", b"SELECT 1") + FLUSH)
            await until(is_struck, "the timeout is due")
            client.send(sent)
            assert await heard(client) == expected, name


async def test_a_server_that_leaves_a_transaction_open_says_so_at_the_query_behind_an_execute(
    client: WireClient,
) -> None:
    """PostgreSQL 18: it is idle as it says at the Sync only where it was idle as it said at the Query."""
    client.send(GOOD + query("SELECT 2") + SYNC)
    at_query, at_sync = await client.answer(), await client.answer()
    assert at_sync.status == "I"
    assert (await client.query("SELECT 3")).sqlstate == (None if at_query.status == "I" else "XX000")
