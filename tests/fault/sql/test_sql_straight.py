"""Do requests that go past aiohttp get what it would answer, and leave nothing behind?"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence

import pytest

from tenantproxy.sidecar.shortcut import Peer
from tests.support.sql_house import BOTH_MODES, SqlAnswer, SqlHouse, a_sql_house, connection_string
from tests.support.waiting import until
from tests.support.world import World

pytestmark = pytest.mark.asyncio


@pytest.fixture
async def house(lasting: World) -> AsyncIterator[SqlHouse]:
    async with a_sql_house(lasting) as house:
        await house.ask("SELECT 1")  # who is known from now on
        yield house


def seen_by_aiohttp(house: SqlHouse) -> int:
    server = house.listener._runner.server
    assert server is not None
    return server.requests_count


def raw(body: bytes, tenant: str = "row1", *more: str) -> bytes:
    modes = [f"{name}: {value}" for name, value in BOTH_MODES.items()]
    lines = ["Host: x", f"Neon-Connection-String: {connection_string(tenant)}", *modes, *more]
    return "\r\n".join(["POST /sql HTTP/1.1", *lines, f"Content-Length: {len(body)}", "", ""]).encode() + body


def asking(query: str, *more: str, params: Sequence[object] = ()) -> bytes:
    return raw(json.dumps({"query": query, "params": list(params)}).encode(), "row1", *more)


async def connected(house: SqlHouse) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = house.listener.url.removeprefix("http://").split(":")
    return await asyncio.open_connection(host, int(port))


async def read_answer(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    size = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    return head, await reader.readexactly(size)


def told(answer: SqlAnswer) -> tuple[int, dict[str, str], object]:
    headers = {name.lower(): value for name, value in answer.headers.items()}
    assert len(headers.pop("x-request-id")) == 32
    headers.pop("date")
    return answer.status, headers, answer.body


async def test_a_known_caller_hears_past_aiohttp_what_aiohttp_answers(house: SqlHouse) -> None:
    bodies: list[object] = [
        {"query": "SELECT $1::text AS said, 2 AS number", "params": ["ä"]},
        {"queries": [{"query": "SELECT 1"}, {"query": "SELECT 2"}]},
        {"query": "SELECT nowhere"},
        {"query": "BEGIN"},
        {"query": ""},
        {"query": "SELECT repeat('x', 200000)"},
    ]
    for body in bodies:
        modes = {"Neon-Batch-Isolation-Level": "Serializable", "Neon-Batch-Read-Only": "true"}
        theirs = await house.post(body, headers={**modes, "Connection": "close"})  # which is not straight
        before = seen_by_aiohttp(house)
        ours = await house.post(body, headers=modes)
        assert seen_by_aiohttp(house) == before
        status, headers, said = told(theirs)
        assert headers.pop("connection") == "close"
        assert told(ours) == (status, headers, said)


async def test_what_is_wrong_with_a_request_is_told_by_aiohttp(house: SqlHouse) -> None:
    before = seen_by_aiohttp(house)
    answers = [
        await house.post(b"no JSON"),
        await house.ask("SELECT 1", headers={"Neon-Array-Mode": "maybe"}),
        await house.ask("SELECT 1", headers={"Neon-Connection-String": connection_string("row1", password="wrong")}),
        await house.ask("SELECT 1", headers={"Neon-Connection-String": connection_string("row1", password="wrong")}),
        await house.ask("SELECT 1", headers={"Neon-Connection-String": None}),
        await house.ask("SELECT 1", headers={"Authorization": "Bearer none"}),
    ]
    assert [answer.status for answer in answers] == [400] * 6
    assert [answer.code for answer in answers][2:4] == ["28P01", "28P01"]
    assert seen_by_aiohttp(house) == before + 6


async def test_a_reload_forgets_who_was_known(house: SqlHouse) -> None:
    assert (await house.ask("SELECT 1")).value == "1"
    before = seen_by_aiohttp(house)
    house.door.prepare(house.port.router.settings)()
    assert (await house.ask("SELECT 1")).value == "1"
    assert (await house.ask("SELECT 1")).value == "1"
    assert seen_by_aiohttp(house) == before + 1


async def test_one_callers_head_gives_another_peer_nothing(house: SqlHouse) -> None:
    """Whether a password may be taken depends on who sends it over what."""
    await house.ask("SELECT 1")
    straight = house.door.straight
    data = asking("SELECT 1")
    near, far = (straight.read(data, Peer(address, is_encrypted=False)) for address in ("127.0.0.1", "192.0.2.1"))
    assert near is not None
    assert near.caller is not None
    assert far is not None
    assert far.caller is None
    assert "secret" not in repr(straight._known)
    assert connection_string("row1") not in repr(straight._known)


async def test_pipelined_requests_are_answered_in_order(house: SqlHouse) -> None:
    reader, writer = await connected(house)
    before = seen_by_aiohttp(house)
    writer.write(asking("SELECT 'first', pg_sleep(0.2)"))
    await until(lambda: house.port.listener.guests, "the first request runs")
    for number in range(3):
        writer.write(asking(f"SELECT {number}", f"X-Request-ID: number-{number}"))
        await writer.drain()
        await asyncio.sleep(0)
    assert b"first" in (await read_answer(reader))[1]
    for number in range(3):
        head, body = await read_answer(reader)
        assert f"X-Request-Id: number-{number}".encode().lower() in head.lower()
        assert json.loads(body)["rows"] == [[str(number)]]
    assert seen_by_aiohttp(house) <= before + 3
    writer.close()


async def test_an_id_that_cannot_be_logged_becomes_another_one_in_each_answer(house: SqlHouse) -> None:
    """Although the head is the same each time, and is read once."""
    reader, writer = await connected(house)
    ids = set()
    for _ in range(3):
        writer.write(asking("SELECT 1", "X-Request-ID: a b"))
        head, _ = await read_answer(reader)
        ids.add(head.lower().partition(b"x-request-id: ")[2][:32])
    assert len(ids) == 3
    writer.close()


def _waits(house: SqlHouse) -> int:
    shortcuts = [client._shortcut for client in house.listener.places if client._shortcut is not None]
    return sum(len(data) for shortcut in shortcuts for data in shortcut._behind)


@pytest.mark.parametrize("behind", [b"", b"POST"])
async def test_a_client_that_goes_has_its_straight_statement_cancelled(house: SqlHouse, behind: bytes) -> None:
    """Also one that has sent more, which waits for its answer."""
    _, writer = await connected(house)
    before = seen_by_aiohttp(house)
    writer.write(asking("SELECT pg_sleep(60)"))
    await until(lambda: any(guest.holds_backend for guest in house.port.listener.guests), "it runs")
    assert seen_by_aiohttp(house) == before
    writer.write(behind)
    await until(lambda: _waits(house) == len(behind), "it has come")
    writer.transport.abort()
    await until(lambda: not house.port.listener.guests and house.port.is_quiet, "it has ended", timeout=25)
    assert (await house.ask("SELECT 1")).value == "1"


async def test_a_listener_that_closes_lets_a_straight_request_end_and_says_so(lasting: World) -> None:
    async with a_sql_house(lasting) as house:
        await house.ask("SELECT 1")
        reader, writer = await connected(house)
        before = seen_by_aiohttp(house)
        writer.write(asking("SELECT 'whole', pg_sleep(0.5)"))
        await until(lambda: any(guest.holds_backend for guest in house.port.listener.guests), "it runs")
        assert seen_by_aiohttp(house) == before
        closing = asyncio.ensure_future(house.listener.close())
        head, body = await read_answer(reader)
        assert b"connection: close" in head.lower()
        assert b"whole" in body
        assert await reader.read() == b""
        writer.close()
        await closing


async def test_a_straight_answer_counts_as_kept_until_it_is_read(house: SqlHouse) -> None:
    reader, writer = await connected(house)
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    before, memory = seen_by_aiohttp(house), house.port.listener._memory
    before_used = memory.used
    writer.write(asking("SELECT repeat('x', 10000) FROM generate_series(1, 800)"))  # more than sockets take
    await until(lambda: memory.used > before_used + 8_000_000 and not house.port.listener.guests, "it is answered")
    assert seen_by_aiohttp(house) == before
    writer.transport.resume_reading()  # type: ignore[attr-defined]
    assert len((await read_answer(reader))[1]) > 8_000_000
    await until(lambda: memory.used == before_used, "nothing is kept")
    writer.close()
