"""Is a connection of the compiled path what asyncio calls a transport, and does it leave nothing behind?"""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import pytest

from tenantproxy._native.core import Conn, Pump
from tests.support.waiting import PATIENCE, until


class Protocol(asyncio.Protocol):
    """Notes what it is told."""

    def __init__(self, *, keeps_open: bool = False) -> None:
        self.told: list[str] = []
        self.data = b""
        self.lost: list[Exception | None] = []
        self.keeps_open = keeps_open
        self.then: Callable[[], object] = lambda: None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.told.append("made")

    def data_received(self, data: bytes) -> None:
        self.data += data
        self.then()

    def eof_received(self) -> bool:
        self.told.append("eof")
        return self.keeps_open

    def pause_writing(self) -> None:
        self.told.append("pause")

    def resume_writing(self) -> None:
        self.told.append("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        self.told.append("lost")
        self.lost.append(exc)


class Pair:
    """A connection, its protocol, and the other end."""

    def __init__(self, protocol: Protocol | None = None) -> None:
        near, self.far = socket.socketpair()
        near.setblocking(False)
        self.far.setblocking(False)
        self.protocol = protocol or Protocol()
        self.conn = Conn(pump(), near, self.protocol)
        self.conn.begin()

    def read(self) -> bytes:
        try:
            return self.far.recv(1_000_000)
        except BlockingIOError:
            return b""


def pump() -> Pump:
    return cast("Pump", cast("Any", asyncio.get_running_loop()).pump)


@pytest.fixture(autouse=True)
async def nothing_is_left() -> AsyncIterator[None]:
    """No descriptor, and no connection."""
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - of this process, at once
    uncaught: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: uncaught.append(context))
    yield
    await until(lambda: not pump().connections, "every connection is closed")
    assert len(os.listdir("/proc/self/fd")) <= before  # noqa: PTH208
    assert not [each for each in uncaught if "is wanted" not in str(each["exception"])]


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    made = Pair()
    yield made
    made.conn.abort()
    made.far.close()


async def test_what_is_written_arrives_however_slowly_it_is_read(pair: Pair) -> None:
    data = os.urandom(3_000_000)
    pair.conn.write(data)
    assert pair.protocol.told == ["made", "pause"]
    got = b""

    def reads() -> bool:
        nonlocal got
        got += pair.read()
        return got == data

    await until(reads, "all of it has come")
    await until(lambda: pair.protocol.told == ["made", "pause", "resume"], "it may write again")
    assert not pair.conn.get_write_buffer_size()


async def test_what_was_written_goes_out_before_it_closes(pair: Pair) -> None:
    pair.conn.write(b"x" * 1_000_000)
    pair.conn.close()
    pair.conn.close()
    got = b""
    while not pair.protocol.lost:
        got += pair.read()
        await asyncio.sleep(0)
    while more := pair.read():
        got += more
    assert got == b"x" * 1_000_000
    assert pair.protocol.lost == [None]


async def test_an_end_of_the_peer_is_told_and_closes(pair: Pair) -> None:
    pair.far.send(b"last")
    pair.far.shutdown(socket.SHUT_WR)
    await until(lambda: pair.protocol.lost, "it is closed")
    assert pair.protocol.data == b"last"
    assert pair.protocol.told == ["made", "eof", "lost"]


async def test_a_protocol_may_go_on_writing_behind_the_peers_end() -> None:
    pair = Pair(Protocol(keeps_open=True))
    pair.far.shutdown(socket.SHUT_WR)
    await until(lambda: "eof" in pair.protocol.told, "it is told")
    pair.conn.write(b"answer")
    assert pair.read() == b"answer"
    pair.conn.write_eof()
    assert pair.far.recv(1) == b""
    with pytest.raises(RuntimeError):
        pair.conn.write(b"more")
    pair.conn.abort()
    await until(lambda: pair.protocol.lost, "it is closed")
    pair.far.close()


async def test_nothing_is_read_while_it_is_paused(pair: Pair) -> None:
    pair.conn.pause_reading()
    assert not pair.conn.is_reading()
    pair.far.send(b"data")
    for _ in range(5):
        await asyncio.sleep(0)
    assert pair.protocol.data == b""
    pair.conn.resume_reading()
    await until(lambda: pair.protocol.data == b"data", "it is read")


async def test_a_connection_that_another_ends_in_the_same_round_hears_nothing_more() -> None:
    pairs = [Pair(), Pair()]
    for one, other in (pairs, reversed(pairs)):
        one.protocol.then = other.conn.abort
    for each in pairs:
        each.far.send(b"x")
    await until(lambda: sum(len(each.protocol.lost) for each in pairs) == 1, "one is ended")
    assert sorted(each.protocol.data for each in pairs) == [b"", b"x"]
    for each in pairs:
        each.conn.abort()
        each.far.close()


async def test_a_protocol_that_raises_loses_its_connection_and_no_other_does(pair: Pair) -> None:
    bad = Pair()

    def fail() -> None:
        raise ValueError("is wanted by the test")

    bad.protocol.then = fail
    bad.far.send(b"x")
    await until(lambda: bad.protocol.lost, "it is closed")
    assert isinstance(bad.protocol.lost[0], ValueError)
    pair.far.send(b"x")
    await until(lambda: pair.protocol.data == b"x", "the other one is served")
    bad.far.close()


async def test_what_the_loop_has_to_call_comes_before_what_happens_now(pair: Pair) -> None:
    order: list[str] = []
    pair.protocol.then = lambda: order.append("data")
    pair.far.send(b"x")
    asyncio.get_running_loop().call_soon(order.append, "called")
    await until(lambda: len(order) == 2, "both")
    assert order == ["called", "data"]


async def test_a_loop_that_always_has_something_to_call_still_reads(pair: Pair) -> None:
    pair.far.send(b"x")
    for _ in range(10):
        await asyncio.sleep(0)
    assert pair.protocol.data == b"x"


async def test_timers_and_signals_come_while_connections_are_busy(pair: Pair) -> None:
    pair.protocol.then = lambda: pair.far.send(b"x")
    pair.far.send(b"x")
    began = asyncio.get_running_loop().time()
    await asyncio.sleep(0.05)
    assert asyncio.get_running_loop().time() - began >= 0.05
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", "pass", stdin=subprocess.DEVNULL)
    assert await asyncio.wait_for(process.wait(), PATIENCE) == 0
    pair.protocol.then = lambda: None


async def test_a_server_and_its_clients_speak_through_it() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.read(100))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    reader, writer = await asyncio.open_connection(host, port)
    assert isinstance(writer.transport, Conn)
    assert writer.get_extra_info("peername") == (host, port)
    assert writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    writer.write(b"hello")
    assert await reader.read() == b"hello"
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()


async def test_a_client_needs_no_socket_object_and_lends_one_to_those_who_ask() -> None:
    """One that is not its owner by accident: the descriptor is closed once, with the connection."""
    accepted: asyncio.Future[Conn] = asyncio.get_running_loop().create_future()

    class Relay(Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            assert isinstance(transport, Conn)
            transport.ride(cast("Any", self))
            accepted.set_result(transport)

    listening = await asyncio.get_running_loop().create_server(Relay, "127.0.0.1", 0)
    address = listening.sockets[0].getsockname()
    for is_asked in (False, True):
        accepted = asyncio.get_running_loop().create_future()
        _, writer = await asyncio.open_connection(*address)
        conn = await accepted
        assert not [each for each in gc.get_referents(conn) if isinstance(each, socket.socket)]
        assert conn.get_extra_info("sockname") == address
        assert conn.get_extra_info("peername") == writer.get_extra_info("sockname")
        assert not [each for each in gc.get_referents(conn) if isinstance(each, socket.socket)]
        if is_asked:
            assert conn.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert conn.get_extra_info("socket").fileno() == conn.get_extra_info("socket").fileno()
        conn.write_eof()
        conn.close()
        gone = conn
        await until(lambda: gone.get_extra_info("sockname") is None, "it is closed")  # noqa: B023
        writer.close()
        await writer.wait_closed()
    listening.close()
    await listening.wait_closed()
