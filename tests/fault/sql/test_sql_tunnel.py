"""Is the WebSocket `/v2` the port's protocol with the port's limits? Login, pools, cancels, backpressure, the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import aiohttp
import pytest

from tenantproxy.lifecycle.prove.port_client import cancel_request
from tenantproxy.raw.exchange import query
from tests.fault.sql.test_sql_bad_days import connected
from tests.support.port_house import users
from tests.support.sql_house import SqlHouse, a_sql_house
from tests.support.waiting import until
from tests.support.wire_client import PASSWORD, SSL_REQUEST, startup
from tests.support.world import World

pytestmark = pytest.mark.asyncio

TERMINATE = b"X\0\0\0\4"


def password(text: str = PASSWORD) -> bytes:
    body = text.encode() + b"\0"
    return b"p" + (len(body) + 4).to_bytes(4, "big") + body


class Tunnel:
    """A client of the WebSocket, as raw as can be."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket

    async def say(self, *parts: bytes) -> None:
        for part in parts:
            await self.socket.send_bytes(part)

    async def hear(self, until_ready: int = 1) -> bytes:
        """Everything up to so many ReadyForQuery, or to the end."""
        heard: list[bytes] = []
        readies = 0
        while readies < until_ready:
            message = await self.socket.receive(timeout=30)
            if message.type is not aiohttp.WSMsgType.BINARY:
                break
            heard.append(message.data)
            readies += message.data.count(b"Z\0\0\0\5")
        return b"".join(heard)


@asynccontextmanager
async def a_tunnel(house: SqlHouse, path: str = "/v2") -> AsyncIterator[Tunnel]:
    async with house.http.ws_connect(f"{house.listener.url}{path}", max_msg_size=0) as socket:
        yield Tunnel(socket)


def first(tenant: str = "row1", user: str = "all") -> bytes:
    return startup(user=user, database=tenant)


async def test_startup_password_and_first_query_in_one_frame_are_answered(lasting: World) -> None:
    async with a_sql_house(lasting) as house:
        for user in ("all", "session"):
            async with a_tunnel(house, "/v2?address=evil.example:5432") as client:
                await client.say(first(user=user) + password() + query("SELECT name FROM projects ORDER BY id"))
                heard = await client.hear(2)
                assert heard.startswith(b"R\0\0\0\x08\0\0\0\3"), "it was not asked for the password itself"
                assert b"row1 3" in heard
                assert b"row2" not in heard
                await client.say(query("SELECT 41 + 1"))
                assert b"42" in await client.hear()
                await client.say(TERMINATE)
                assert (await client.socket.receive(timeout=30)).type is aiohttp.WSMsgType.CLOSE
        assert house.port.listener.logins["ok"] == 2


async def test_bytes_may_be_cut_anywhere(lasting: World) -> None:
    async with a_sql_house(lasting) as house, a_tunnel(house) as client:
        sent = first() + password() + query("SELECT 'in pieces'")
        await client.say(*(sent[at : at + 1] for at in range(len(sent))))
        assert b"in pieces" in await client.hear(2)


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (first() + password("guess"), b"C28P01"),
        (first(user="unknown") + password(), b"C28P01"),
        (first("nowhere", "one") + password(), b"C28P01"),
        (first("row2", "one") + password(), b"C28P01"),
        (b"\xff" * 100, b"C08P01"),
        (first() + b"x" * 100_000, b"C08P01"),
    ],
    ids=["password", "user", "tenant", "not its tenant", "garbage", "flood"],
)
async def test_who_may_not_come_in_is_told_as_on_the_port_and_closed(lasting: World, sent: bytes, code: bytes) -> None:
    one = {"password": PASSWORD, "tenants": ["row1"]}
    async with a_sql_house(lasting, pg={"users": users(one=one)}) as house, a_tunnel(house) as client:
        await client.say(sent)
        assert code in await client.hear(9)
        await until(lambda: not house.port.listener._startups, "it is gone")


async def test_encryption_inside_a_tunnel_is_declined_and_text_closes_it(lasting: World) -> None:
    async with a_sql_house(lasting) as house:
        async with a_tunnel(house) as client:
            await client.say(SSL_REQUEST)
            assert (await client.socket.receive(timeout=30)).data == b"N"
            await client.say(first() + password())
            await client.hear()
            await client.socket.send_str("SELECT 1")
            assert (await client.socket.receive(timeout=30)).data == aiohttp.WSCloseCode.UNSUPPORTED_DATA
        await until(lambda: not house.port.listener._clients, "its client is gone")


async def test_a_message_beyond_the_limit_closes_the_tunnel(lasting: World) -> None:
    async with a_sql_house(lasting, sql={"max_body": 5000}) as house, a_tunnel(house) as client:
        await client.say(first() + password())
        await client.hear()
        await client.say(query("SELECT '" + "x" * 6000 + "'"))
        assert (await client.socket.receive(timeout=30)).data == aiohttp.WSCloseCode.MESSAGE_TOO_BIG
        await until(lambda: not house.port.listener._clients, "its client is gone")


async def test_the_ports_limits_of_clients_hold_for_tunnels(lasting: World) -> None:
    async with a_sql_house(lasting, pg={"max_clients_per_tenant": 1}) as house, a_tunnel(house) as client:
        await client.say(first() + password())
        await client.hear()
        async with a_tunnel(house) as second:
            await second.say(first() + password())
            assert b"C53300" in await second.hear()


async def test_a_tunnel_can_be_cancelled_and_its_end_ends_what_runs(lasting: World) -> None:
    async with a_sql_house(lasting, pools={"max_size": 1}) as house:
        async with a_tunnel(house) as client:
            await client.say(first("database1") + password())
            heard = await client.hear()
            at = heard.index(b"K\0\0\0\x0c")
            await client.say(query("SELECT pg_sleep(60)"))
            await until(lambda: any(each.holds_backend for each in house.port.listener.clients()), "it runs")
            async with a_tunnel(house) as second:
                await second.say(cancel_request(int.from_bytes(heard[at + 5 : at + 9], "big"), heard[at + 9 : at + 13]))
                await second.hear(9)
            assert b"C57014" in await client.hear()
            await client.say(query("SELECT pg_sleep(60)"))
            await until(lambda: any(each.holds_backend for each in house.port.listener.clients()), "it runs")
            client.socket._response.connection.transport.abort()  # type: ignore[union-attr]
        await until(lambda: house.port.is_at_rest, "what ran for it has ended")
        assert (await house.ask("SELECT 1", tenant="database1")).value == "1"


async def test_a_client_that_does_not_read_stops_its_server_and_not_us(lasting: World) -> None:
    async with a_sql_house(lasting) as house, a_tunnel(house) as client:
        await client.say(first("database1") + password())
        await client.hear()
        await client.say(query("SELECT repeat('x', 10000) FROM generate_series(1, 3000)"))
        (served,) = house.port.listener.clients()

        def is_paused() -> bool:
            backend = None if served.relay is None else served.relay.backend
            return backend is not None and backend.is_paused

        await until(is_paused, "its server is not read any more")
        assert served.transport.get_write_buffer_size() < 4_000_000
        heard = await client.hear()
        assert len(heard) > 30_000_000


async def test_a_drain_ends_an_idle_tunnel_with_57p01_and_lets_a_transaction_end(lasting: World) -> None:
    async with a_sql_house(lasting) as house, a_tunnel(house) as idle, a_tunnel(house) as busy:
        for client in (idle, busy):
            await client.say(first("database1") + password())
            await client.hear()
        await busy.say(query("BEGIN"))
        await busy.hear()
        closing = asyncio.gather(house.listener.close(), house.port.port.drain())
        assert b"C57P01" in await idle.hear()
        await busy.say(query("SELECT 'still served'"))
        assert b"still served" in await busy.hear()
        await busy.say(query("COMMIT"))
        heard = await busy.hear(9)
        assert b"COMMIT" in heard
        assert b"C57P01" in heard
        await closing


async def upgraded(house: SqlHouse) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A WebSocket whose frames are the test's own."""
    reader, writer = await connected(house)
    writer.write(
        b"GET /v2 HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    assert b"101" in await reader.readuntil(b"\r\n\r\n")
    return reader, writer


async def test_before_its_login_a_client_makes_us_keep_no_large_frame(
    lasting: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the reader of frames knows of a message that is not whole: the limit of the port comes behind it."""
    monkeypatch.setattr("tenantproxy.sidecar.pg.login.LOGIN_SECONDS", 3600.0)
    async with a_sql_house(lasting) as house:
        reader, writer = await upgraded(house)
        writer.write(b"\x82\xff" + (1_000_000).to_bytes(8, "big") + bytes(4) + b"x" * 500_000)
        with suppress(ConnectionError):
            async with asyncio.timeout(30):
                assert await reader.read() == b""
        writer.close()
        async with a_tunnel(house) as client:
            await client.say(first() + password())
            await client.hear()
            await client.say(query("SELECT length('" + "x" * 900_000 + "')"))
            assert b"900000" in await client.hear()


async def test_a_client_that_reads_nothing_is_cut_off_when_it_is_refused(
    lasting: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The close would wait behind the answers to its pings, and the place of the connection with it."""
    monkeypatch.setattr("tenantproxy.sidecar.sql.tunnel._CLOSE_SECONDS", 0.1)
    monkeypatch.setattr("tenantproxy.sidecar.sql.tunnel._BEFORE_LOGIN", 10**9)
    async with a_sql_house(lasting, pg={"max_unauthenticated": 1}) as house:
        _, writer = await upgraded(house)
        await until(lambda: len(house.port.listener._startups) == 1, "it is there")
        (flooding,), (place,) = house.port.listener._startups, house.listener.places
        writer.transport.set_write_buffer_limits(0)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        ping = b"\x89\xfd\0\0\0\0" + b"x" * 125
        while not flooding.transport.get_write_buffer_size():
            writer.write(ping * 1000)
            await asyncio.sleep(0)
        async with a_tunnel(house):
            await until(lambda: flooding not in house.port.listener._startups, "it gave way")
            await until(lambda: place not in list(house.listener.places), "its place is free")
        writer.transport.abort()
