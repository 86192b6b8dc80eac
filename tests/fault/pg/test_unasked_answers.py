"""Does a client hear an answer that the server gave to another one, ready when no Sync had asked it?"""

from __future__ import annotations

import pytest

from tenantproxy.raw.exchange import query
from tests.support.model_server import DONE, FLUSH, SYNC, close, data, fail, parse, run
from tests.support.port_house import PortHouse, a_port
from tests.support.waiting import until
from tests.support.wire_client import WireClient
from tests.support.world import World

pytestmark = pytest.mark.both_paths

PID = "SELECT pg_backend_pid()"
LATE = query("SELECT 'of the attacker' FROM pg_sleep(0.04)")


async def struck(house: PortHouse, world: World, client: WireClient) -> str | None:
    """The client's backend, on which a statement_timeout is due since a Parse."""
    pid = (await client.query(PID)).value
    client.send(parse(b"", b"SELECT 1") + FLUSH)
    async with world.shared.connect() as admin:

        async def is_due() -> bool:
            age = "clock_timestamp() - xact_start > '60ms'"
            return bool(await admin.fetchval(f"SELECT {age} FROM pg_stat_activity WHERE pid = {pid}"))

        await until(is_due, "the timeout is due")
    return pid


@pytest.mark.parametrize("tenant", ["row1", "row2"])
@pytest.mark.parametrize("message", [data(), DONE, fail()], ids=["data", "done", "fail"])
async def test_an_answer_that_no_sync_asked_for_gives_no_backend_to_the_next_client(
    lasting: World, message: bytes, tenant: str
) -> None:
    """PostgreSQL is ready twice here, and the attacker's query still runs when a count of Syncs says that none does."""
    async with a_port(lasting, pools={"shared_size": 1}) as house:
        settings = {"statement_timeout": "50ms"}  # of both: no internal message is sent between them on one backend
        attacker, victim = await house.client("row1", **settings), await house.client(tenant, **settings)
        pid = await struck(house, lasting, attacker)
        attacker.send(message + SYNC + LATE)
        answer = await victim.query("SELECT 'of the victim', pg_backend_pid()")
        assert answer.value == "of the victim"
        assert answer.rows[0][1] != pid, "it was lent again while the attacker's query ran"
        assert house.router.stats().resets["failed"] == 0, "it was not even tried"


FAILS_AT_COMMIT = "DECLARE held CURSOR WITH HOLD FOR SELECT 1 / (n - 1) FROM generate_series(1, 2) AS n"
QUERIED = parse(b"", b"SELECT 1") + run() + query("SELECT 2")
LEFT_OPEN = {
    "sync": QUERIED + SYNC,
    "two queries": QUERIED + query("SELECT 3") + SYNC,
    "copy to the client": parse(b"", b"SELECT 1") + run() + query("COPY (SELECT 3) TO STDOUT") + SYNC,
    "close and flush": QUERIED + close(b"") + FLUSH + SYNC,
    "syncs": QUERIED + SYNC * 3,
    "a transaction before": parse(b"", b"BEGIN") + run() + parse(b"", b"COMMIT") + run() + QUERIED + SYNC,
    "a rollback before": query("BEGIN") + query("ROLLBACK") + QUERIED + SYNC,
}


@pytest.mark.parametrize("way", LEFT_OPEN)
async def test_a_transaction_that_is_open_though_the_server_says_idle_reaches_no_other_client(
    lasting: World, way: str
) -> None:
    """PostgreSQL 18 after Parse, Bind, Execute, Query, Sync: the next statement of any client fails with XX000."""
    async with a_port(lasting, pools={"shared_size": 1}) as house:
        rude, polite = await house.client("row1"), await house.client("row1")
        rude.send(LEFT_OPEN[way])
        told = await rude.rest()
        assert told.errors[-1]["C"] == "08P01", "what was told as done may never be committed"
        for _ in range(3):
            assert (await polite.query("SELECT 'polite'")).value == "polite"
        assert house.router.stats().resets["failed"] == 0, "it was not even tried"


async def test_nor_does_one_behind_a_commit_that_failed(lasting: World) -> None:
    """It has no tag: the last one is still that of BEGIN."""
    async with a_port(lasting, pools={"shared_size": 1}) as house:
        rude, polite = await house.client("row1"), await house.client("row1")
        for sql in ("BEGIN", FAILS_AT_COMMIT):
            assert not (await rude.query(sql)).errors
        assert (await rude.query("COMMIT")).sqlstate == "22012"
        rude.send(QUERIED + SYNC)
        assert (await rude.rest()).errors[-1]["C"] == "08P01"
        assert (await polite.query("SELECT 'polite'")).value == "polite"


async def test_a_query_behind_messages_that_no_sync_had_ended_is_served_where_the_server_says_how_it_stands(
    lasting: World,
) -> None:
    """In a transaction of its own, without an Execute before it, and after a COMMIT."""
    async with a_port(lasting, pools={"shared_size": 1}) as house:
        client = await house.client("row1")
        pid = (await client.query(PID)).value
        for sent in (
            parse(b"", b"SELECT 1") + query("SELECT 2") + SYNC,
            query("BEGIN") + QUERIED + SYNC + query("COMMIT"),
            parse(b"", b"SELECT 1") + run() + query("COMMIT") + SYNC,
            # So JDBC begins a transaction whose first statement it sends as a simple query.
            parse(b"", b"BEGIN") + run() + query("SELECT 2") + query("COMMIT"),
            parse(b"", b"START TRANSACTION") + run() + QUERIED + SYNC + query("ROLLBACK"),
        ):
            client.send(sent + query("SELECT 'the end'"))
            while (answer := await client.answer()).rows != [["the end"]]:
                assert not answer.errors
        assert (await client.query(PID)).value == pid
