"""What if a client does nothing for long, or what it has run takes too long?"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tenantproxy.raw.exchange import query, statement
from tenantproxy.wire.frames import COPY_DATA, COPY_DONE, FLUSH, PARSE, SYNC, frame
from tests.support.port_house import PortHouse, a_port
from tests.support.waiting import until
from tests.support.wire_client import WireClient
from tests.support.world import World

COUNT = "SELECT count(*) FROM projects"
SYNC_NOW = frame(SYNC)
MODES = pytest.mark.parametrize("user", ["all", "session"])
SLOW = {
    "a query": query("SELECT pg_sleep(600)"),
    "a statement": statement("SELECT pg_sleep(600)", []) + SYNC_NOW,
    "many rows": query("SELECT count(*) FROM generate_series(1, 1e15::bigint)"),
    "after others": query("SELECT 1") + query("SELECT 2") + query("SELECT pg_sleep(600)"),
}


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sweep, so that no test waits for it."""
    monkeypatch.setattr("tenantproxy.sidecar.pg.listener._WATCH_SECONDS", 0.05)


@asynccontextmanager
async def timed(world: World, **pg: Any) -> AsyncIterator[PortHouse]:
    async with a_port(world, pools={"shared_size": 1, "max_size": 1, "acquire_timeout": 40.0}, pg=pg) as house:
        yield house


async def told(client: WireClient) -> list[tuple[str, str]]:
    """Severity and SQLSTATE of what it was told, up to its end."""
    return [(error["S"], error["C"]) for error in (await client.rest()).errors]


# --- query_timeout ---------------------------------------------------------------------------------------------------
@MODES
@pytest.mark.parametrize("slow", SLOW)
async def test_what_runs_too_long_is_cancelled_at_the_server_and_its_client_goes_on(
    lasting: World, user: str, slow: str
) -> None:
    async with timed(lasting, query_timeout=0.2) as house:
        client = await house.client("row1", user)
        client.send(SLOW[slow])
        answer = await client.answer()
        while not answer.errors:
            answer = await client.answer()
        (error,) = answer.errors
        assert (error["S"], error["C"], answer.status) == ("ERROR", "57014", "I")
        assert error["M"] == "canceling statement due to query timeout"
        assert error["D"] == "[pg] query_timeout = 0.2 s"
        pid = (await client.query("SELECT pg_backend_pid()")).value
        assert (await client.query("SELECT pg_backend_pid()")).value == pid
        if user == "session":
            await client.close()
        async with house.a_client("row2") as other:
            assert (await other.query(COUNT)).value == "3"


@MODES
async def test_in_a_transaction_it_fails_as_after_statement_timeout(lasting: World, user: str) -> None:
    async with timed(lasting, query_timeout=0.2) as house:
        client = await house.client("row1", user)
        await client.query("BEGIN")
        answer = await client.query("SELECT pg_sleep(600)")
        assert (answer.sqlstate, answer.status) == ("57014", "E")
        assert (await client.query("ROLLBACK")).status == "I"


async def test_a_client_that_idles_between_short_queries_is_never_cancelled(lasting: World) -> None:
    async with timed(lasting, query_timeout=0.3) as house:
        client = await house.client("row1")
        await client.query("BEGIN")
        async with asyncio.timeout(30):
            for _ in range(8):
                assert (await client.query("SELECT 1, pg_sleep(0.1)")).value == "1"
        client.send(query("SELECT 1, pg_sleep(0.1)") * 8)  # each by itself is short
        for _ in range(8):
            assert (await client.answer()).value == "1"
        await client.query("COMMIT")


async def test_the_time_of_a_client_that_sends_or_reads_slowly_is_its_own(lasting: World) -> None:
    async with timed(lasting, query_timeout=0.3) as house:
        client = await house.client("database1", receive_buffer=4096)
        await client.query("BEGIN")
        client.send(query("COPY projects (name) FROM STDIN"))
        for _ in range(8):
            client.send(frame(COPY_DATA, b"x\n"))
            await _sweeps(house, 3)
        client.send(frame(COPY_DONE))
        answer = await client.answer()
        assert (answer.errors, answer.tags) == ([], ["COPY 8"])
        client.send(query("SELECT repeat('x', 10000) FROM generate_series(1, 3000)"))
        await until(lambda: any(one.relay._forwarder.client_is_slow for one in _clients(house)), "it reads nothing")
        await _sweeps(house, 20)
        answer = await client.answer()
        assert (answer.errors, len(answer.rows), answer.status) == ([], 3000, "T")
        await client.query("ROLLBACK")


async def test_a_client_whose_server_does_not_hear_is_ended_with_its_backend(
    lasting: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tenantproxy.sidecar.pg.timeouts._UNANSWERED_SECONDS", 0.3)
    async with timed(lasting, query_timeout=0.2) as house:
        monkeypatch.setattr(house.lending.lender, "cancel_request", lambda backend, done: done())
        client = await house.client("row1")
        client.send(query("SELECT pg_sleep(600)"))
        assert await told(client) == [("FATAL", "57014")]
        monkeypatch.undo()
        async with house.a_client("row2") as other:
            assert (await other.query(COUNT)).value == "3"


@MODES
async def test_a_late_request_to_cancel_hits_nothing_that_comes_behind_what_took_too_long(
    lasting: World, user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is on its way when the query ends by itself, and the client has the next one."""
    async with timed(lasting, query_timeout=0.2) as house:
        late: list[Any] = []
        lender = house.lending.lender
        cancel_request = lender.cancel_request
        monkeypatch.setattr(lender, "cancel_request", lambda backend, done: late.append((backend, done)))
        client = await house.client("row1", user)
        await client.query("BEGIN")
        client.send(query("SELECT pg_sleep(0.7)"))
        await until(lambda: late, "it is to be cancelled")
        assert not (await client.answer()).errors
        client.send(query("SELECT 1, pg_sleep(0.1)"))
        (one,) = _clients(house)
        await until(lambda: one.relay._forwarder.inbox.hold == "cancelled", "the next one waits")
        cancel_request(*late[0])
        answer = await client.answer()
        assert (answer.sqlstate, answer.status) == (None, "T")
        for _, done in late[1:]:
            done()


async def test_a_cancel_that_a_client_asked_for_keeps_the_servers_words(lasting: World) -> None:
    async with timed(lasting, query_timeout=600) as house:
        client = await house.client("row1")
        client.send(query("SELECT pg_sleep(600)"))
        (one,) = _clients(house)
        while not client.reader._buffer:  # type: ignore[attr-defined]
            one.relay.cancel(lambda: None)
            await asyncio.sleep(0)
        (error,) = (await client.answer()).errors
        assert "user request" in error["M"]


# --- client_idle_timeout ---------------------------------------------------------------------------------------------
@MODES
async def test_a_client_that_asks_for_nothing_is_ended_with_57p05(lasting: World, user: str) -> None:
    async with timed(lasting, client_idle_timeout=0.3) as house:
        silent, idle = await house.client("row1", "all"), await house.client("row1", user)
        assert (await idle.query(COUNT)).value == "3"
        assert await told(silent) == [("FATAL", "57P05")]
        assert await told(idle) == [("FATAL", "57P05")]
        async with house.a_client("row2") as other:
            assert (await other.query(COUNT)).value == "3"


@MODES
async def test_a_client_that_has_something_under_way_is_not_idle(lasting: World, user: str) -> None:
    async with timed(lasting, client_idle_timeout=0.2, idle_transaction_timeout=0) as house:
        client = await house.client("row1", user)
        assert (await client.query("SELECT 1, pg_sleep(0.7)")).value == "1"
        await client.query("BEGIN")
        waiting = await house.client("row2")
        waiting.send(query(COUNT))
        await _sweeps(house, 12)
        client.send(frame(PARSE, b"\0SELECT 7\0\0\0") + frame(FLUSH))
        await _sweeps(house, 12)
        assert (await client.query("COMMIT")).status == "I"
        if user == "session":
            await client.close()
        assert (await waiting.answer()).value == "3"


async def test_a_client_that_reads_its_answer_slowly_is_not_idle(lasting: World) -> None:
    async with timed(lasting, client_idle_timeout=0.2) as house:
        client = await house.client("row1", receive_buffer=4096)
        client.send(query("SELECT repeat('x', 10000) FROM generate_series(1, 3000)"))
        await until(lambda: any(one.relay._forwarder.client_is_slow for one in _clients(house)), "it reads nothing")
        await _sweeps(house, 12)
        answer = await client.answer()
        assert (answer.errors, len(answer.rows)) == ([], 3000)
        assert await told(client) == [("FATAL", "57P05")]


async def test_the_console_is_not_closed_for_being_watched_in_silence(lasting: World) -> None:
    users = {"ops": {"password": "password-of-the-test-clients", "console": True}}
    users["all"] = {"password": "password-of-the-test-clients", "tenants": "*"}
    async with timed(lasting, client_idle_timeout=0.2, users=users) as house:
        console, client = await house.client("tenantproxy", "ops"), await house.client("row1")
        assert await told(client) == [("FATAL", "57P05")]
        assert (await console.query("SHOW VERSION")).value


# --- keepalive -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("seconds", "option"), [(17, 17), (0, None)])
async def test_the_kernel_asks_after_silent_clients(lasting: World, seconds: int, option: int | None) -> None:
    async with timed(lasting, tcp_keepalive=seconds) as house:
        await house.client("row1")
        (one,) = _clients(house)
        sock = one.relay._transport.get_extra_info("socket")
        is_on = bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))
        idle = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) if is_on else None
        assert idle == option
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 0  # it may be busy for long


def _clients(house: PortHouse) -> list[Any]:
    return list(house.listener._clients.values())


async def _sweeps(house: PortHouse, count: int) -> None:
    """Wait until the port has looked at its clients so often."""
    listener = house.listener
    seen = 0
    sweeping = listener._sweeping

    def counted() -> Any:
        nonlocal seen
        seen += 1
        return sweeping()

    listener._sweeping = counted  # type: ignore[method-assign]
    try:
        await until(lambda: seen >= count, "it has looked")
    finally:
        listener._sweeping = sweeping  # type: ignore[method-assign]
