"""What if clients prepare, begin or send more than there is memory for? And is what is long passed on?"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest

from tenantproxy.raw.exchange import query, statement
from tenantproxy.sidecar.pg.listener import Client
from tenantproxy.wire.frames import BIND, EXECUTE, PARSE, SYNC, frame
from tests.fault.pg.test_descriptors import START_SECONDS, config_of
from tests.support.port_house import PortHouse, a_port
from tests.support.waiting import until
from tests.support.wire_client import Answer, WireClient
from tests.support.world import World

COUNT = "SELECT count(*) FROM projects"
MEGABYTE = 2**20
LIMIT = 4 * MEGABYTE
SYNC_NOW = frame(SYNC)
MODES = pytest.mark.parametrize("user", ["all", "session"])


def parse(name: bytes, size: int, text: bytes = b"SELECT 7") -> bytes:
    return frame(PARSE, name + b"\0" + text + b" -- " + b"x" * size + b"\0\0\0")


def executed(name: bytes = b"") -> bytes:
    return frame(BIND, b"\0" + name + b"\0\0\0\0\0\0\0") + frame(EXECUTE, b"\0\0\0\0\0") + SYNC_NOW


def used(house: PortHouse) -> int:
    """Bytes that clients make the port keep."""
    return house.listener._memory.used


def refused(house: PortHouse) -> int:
    """How often there was no room."""
    return house.listener._memory.refused


@asynccontextmanager
async def limited(world: World, **changes: Any) -> AsyncIterator[PortHouse]:
    async with a_port(world, pg={"max_memory": LIMIT}, **changes) as house:
        yield house
        for client in house.clients:
            client.abort()
        await until(lambda: used(house) == 0, "all that was kept for clients is given back")


async def test_what_clients_have_in_common_is_there_once(lasting: World) -> None:
    """A tenant's, a user's and that of a session's settings; never with the clients of another tenant."""
    async with a_port(lasting) as house:
        logins = [("database1", "UTC"), ("database1", "UTC"), ("database1", "Asia/Tokyo"), ("database2", "UTC")]
        clients = [await house.client(tenant, timezone=zone) for tenant, zone in logins]
        first, second, elsewhere, others = (house.listener._clients[each.pid] for each in clients)

        def kept(client: Client) -> Any:
            assert client.relay is not None
            return client.relay.kept

        def source(client: Client) -> Any:
            assert client.relay is not None
            return client.relay._parts.source

        assert first.target is second.target is elsewhere.target is not others.target
        assert source(first) is source(second) is source(elsewhere) is not source(others)
        assert kept(first).start is kept(second).start
        assert kept(first)._greeted is kept(second)._greeted is not kept(elsewhere)._greeted
        assert kept(others)._greeted is not kept(first)._greeted
        session = await house.client("database1", "session")
        held = house.listener._clients[session.pid]
        assert held.relay is not None
        assert held.relay.backend is not None
        assert kept(held)._greeted is not held.relay.backend.parameters, "which change with each SET"


async def said(client: WireClient, data: bytes) -> Answer:
    client.send(data)
    return await client.answer()


async def ended(client: WireClient) -> dict[str, str]:
    """The error with which it was ended."""
    answer = await client.rest()
    return answer.errors[-1]


# --- limits ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", [b"s%d", b""], ids=["named", "unnamed"])
async def test_a_tenant_that_prepares_too_much_is_refused_and_others_are_not(lasting: World, name: bytes) -> None:
    async with limited(lasting) as house:
        clients = [await house.client("row1") for _ in range(5)]
        refusals: list[dict[str, str]] = []
        for n, client in enumerate(clients):
            answer = await said(client, parse(name and name % n, 700_000, b"SELECT %d" % n) + SYNC_NOW)
            refusals += answer.errors
            assert answer.status == "I"
        assert [(each["C"], each["D"]) for each in refusals] == [("53200", f"[pg] max_memory = {LIMIT}")] * 3
        assert "max_memory" in refusals[0]["H"]
        assert (await clients[-1].query(COUNT)).value == "3"  # it goes on
        other = await house.client("row2")
        assert not (await said(other, parse(b"s", 700_000, b"SELECT 7") + SYNC_NOW)).errors
        assert (await said(other, executed(b"s"))).value == "7"
        await clients[0].close()
        await clients[1].close()
        await until(lambda: used(house) < MEGABYTE, "what they had is given back")
        assert not (await said(clients[-1], parse(b"t", 700_000) + SYNC_NOW)).errors


async def test_what_is_closed_makes_room_for_what_comes(lasting: World) -> None:
    async with limited(lasting) as house:
        client = await house.client("row1")
        for n in range(8):
            assert not (await said(client, parse(b"s", 1_500_000, b"SELECT %d" % n) + SYNC_NOW)).errors
            assert (await said(client, executed(b"s"))).value == str(n)
            how = frame(ord("C"), b"Ss\0") + SYNC_NOW if n % 2 else query("DEALLOCATE s")
            assert not (await said(client, how)).errors


async def test_a_refused_parse_fails_its_transaction_as_a_servers_error_does(lasting: World) -> None:
    async with limited(lasting) as house:
        client = await house.client("row1")
        await client.query("BEGIN")
        answer = await said(client, parse(b"s", 3_000_000) + executed(b"s"))
        assert ([each["C"] for each in answer.errors], answer.status) == (["53200"], "E")
        assert (await client.query("ROLLBACK")).status == "I"
        assert (await said(client, statement("SELECT 8::text", []) + SYNC_NOW)).value == "8"


@pytest.mark.parametrize("begin", ["SELECT 1", "BEGIN"])
async def test_unfinished_messages_of_a_tenant_are_bounded_and_it_is_told(lasting: World, begin: str) -> None:
    """They stop shortly before their end, and say nothing more."""
    async with limited(lasting) as house:
        clients = [await house.client("row1") for _ in range(6)]
        for client in clients:
            await client.query(begin)
            client.send(parse(b"s", 700_000)[:-10])
        await until(lambda: refused(house) >= 4 and used(house) > 1_300_000, "there is no room for most")
        assert used(house) <= LIMIT // 2
        async with house.a_client("row2") as other:
            assert (await other.query(COUNT)).value == "3"
        for client in clients:
            client.send(parse(b"s", 700_000)[-10:] + SYNC_NOW)
        answers = [await client.answer() for client in clients]
        assert {each.status for each in answers if each.errors} == {"E" if begin == "BEGIN" else "I"}
        assert {each.sqlstate for each in answers} == {"53200", None}
        assert sum(each.sqlstate is None for each in answers) == 2


@pytest.mark.parametrize("begin", ["SELECT 1", "BEGIN"])
async def test_what_comes_behind_a_refused_parse_is_read_as_the_messages_that_it_is(lasting: World, begin: str) -> None:
    """Its end comes with the beginning of a Bind, whose value then comes alone, and must not be read as messages."""
    async with limited(lasting) as house:
        client = await house.client("row1")
        await client.query(begin)
        size = 60_000
        client.send(parse(b"s", size)[:-10])
        await until(lambda: used(house) > size // 2, "it has come")
        house.listener._memory.limit = 2 * used(house) + 5
        value = query("SELECT 'a value that is read as a query'")
        count = b"\0\0\0\1"  # of no formats, one value
        bind = frame(BIND, b"\0s\0" + count + len(value).to_bytes(4, "big") + value + b"\0\0")
        behind = frame(EXECUTE, b"\0\0\0\0\0") + SYNC_NOW
        head = len(bind) - len(value) - 2
        client.send(parse(b"s", size)[-10:] + bind[:head])
        await until(lambda: refused(house) == 1, "there is no room for the end of it")
        client.send(bind[head:] + behind)
        answer = await client.answer()
        assert ([each["C"] for each in answer.errors], answer.rows) == (["53200"], [])
        assert (await client.query("SELECT 1" if begin != "BEGIN" else "ROLLBACK")).status == "I"
        house.listener._memory.limit = LIMIT


async def test_bytes_that_wait_for_a_backend_are_bounded(lasting: World) -> None:
    async with limited(lasting, pools={"max_size": 1, "acquire_timeout": 40.0}) as house:
        holder = await house.client("database1")
        await holder.query("BEGIN")
        waiting = [await house.client("database1") for _ in range(30)]
        for client in waiting:
            client.send(query("SELECT 1 -- " + "x" * 200_000))
        await until(lambda: len(house.listener._clients) < 31 - 10, "those beyond are ended")
        assert used(house) <= LIMIT // 2
        await holder.query("COMMIT")
        answers = [await client.answer() for client in waiting]
        assert {each.sqlstate for each in answers} == {"53200", None}
        assert {each.status for each in answers if each.errors} == {""}
        assert all(each.value == "1" for each in answers if not each.errors)


async def test_many_small_statements_are_bounded_too(lasting: World) -> None:
    async with a_port(lasting, pg={"max_memory": 400_000}) as house:
        client = await house.client("row1")
        count = 0
        while not (answer := await said(client, parse(b"s%d" % count, 1000, b"SELECT %d" % count) + SYNC_NOW)).errors:
            count += 1
        assert (answer.sqlstate, 100 < count < 200) == ("53200", True)
        assert (await said(client, executed(b"s7"))).value == "7"


# --- what is long ----------------------------------------------------------------------------------------------------
LONG = 17 * MEGABYTE


@MODES
async def test_statements_and_values_of_more_than_16_megabytes_pass_without_being_kept(
    lasting: World, user: str
) -> None:
    async with a_port(lasting, pg={"max_memory": LIMIT}) as house:
        client = await house.client("row1", user)
        assert (await said(client, query("SELECT 6 -- " + "x" * LONG))).value == "6"
        assert (await said(client, parse(b"", LONG) + executed())).value == "7"
        value = b"y" * LONG
        answer = await said(client, statement("SELECT length($1)::text", [value]) + SYNC_NOW)
        assert answer.value == str(LONG)
        assert (await client.query(COUNT)).value == "3"
        assert used(house) == 0


async def test_a_named_statement_that_is_too_long_to_be_kept_is_refused_and_its_client_goes_on(lasting: World) -> None:
    async with a_port(lasting) as house:
        client = await house.client("row1")
        answer = await said(client, parse(b"s", LONG) + executed(b"s"))
        assert ([each["C"] for each in answer.errors], answer.status) == (["54000"], "I")
        assert "16777216" in answer.errors[0]["D"]
        assert (await client.query(COUNT)).value == "3"
        session = await house.client("row1", "session")
        assert (await said(session, parse(b"s", LONG) + executed(b"s"))).value == "7"


async def test_an_unnamed_statement_that_was_not_kept_is_gone_with_its_transaction(lasting: World) -> None:
    async with a_port(lasting) as house:
        client = await house.client("row1")
        await client.query("BEGIN")
        assert not (await said(client, parse(b"", LONG) + SYNC_NOW)).errors
        assert (await said(client, executed())).value == "7"
        await client.query("COMMIT")
        assert (await said(client, executed())).sqlstate == "26000"


@MODES
async def test_no_length_within_a_gigabyte_ends_a_client_without_a_word(lasting: World, user: str) -> None:
    """At PostgreSQL's own limit and beyond it, a byte each; what is in such a message may still come."""
    for kind in b"QPBFd":
        async with a_port(lasting) as house:
            client = await house.client("row1", user)
            client.send(bytes((kind,)) + b"\x40\0\0\0")
            error = await ended(client)
            assert (error["C"], error["S"]) == ("08P01", "FATAL")


async def test_who_sends_half_a_statement_and_stops_keeps_no_backend_from_others(lasting: World) -> None:
    async with a_port(lasting, pools={"shared_size": 1}) as house:
        slow = await house.client("row1")
        await slow.query("SELECT 1")
        slow.send(parse(b"s", 200_000)[:150_000])
        await until(lambda: house.listener._memory.used > 100_000, "it has come")
        async with house.a_client("row2") as other:
            assert (await other.query(COUNT)).value == "3"
        slow.send(parse(b"s", 200_000)[150_000:] + executed(b"s"))
        assert (await slow.answer()).value == "7"


# --- a process -------------------------------------------------------------------------------------------------------
@pytest.mark.timeout(180)  # a process has to start
async def test_the_memory_of_statements_goes_back_to_the_system_when_their_clients_have_gone(
    lasting: World, tmp_path: Path
) -> None:
    """Two texts of 15 MB from each of 6 idle clients: one copy of each."""
    config = tmp_path / "tenantproxy.toml"
    config.write_text(config_of(lasting))
    popen = subprocess.Popen(  # noqa: ASYNC220 - it takes no time
        [sys.executable, "-m", "tenantproxy", "serve", "--config", str(config)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert popen.stdout is not None
        async with asyncio.timeout(START_SECONDS):
            where = json.loads(await asyncio.to_thread(popen.stdout.readline))
        port, process = int(where["pg"].rpartition(":")[2]), psutil.Process(popen.pid)
        clients = [await WireClient.connect(port, "row1") for _ in range(6)]
        before = process.memory_info().rss
        for n, client in enumerate(clients):
            for name in (b"s", b"t"):
                answer = await said(client, parse(name, 15_000_000, b"SELECT %d" % n) + SYNC_NOW)
                assert not answer.errors
        assert process.memory_info().rss - before < (12 + 10) * 15_000_000  # and what is under way
        for client in clients:
            client.abort()
        await until(lambda: process.memory_info().rss - before < 30_000_000, "it has given them back")
    finally:
        popen.kill()
        popen.communicate()
