"""Does nothing that one peer says or fails at reach another one, or the loop, on the compiled path?"""

from __future__ import annotations

import asyncio
import socket
import threading
from typing import Final

import pytest

from tenantproxy._native.core import Conn
from tenantproxy.wire import frames
from tenantproxy.wire.frames import frame
from tenantproxy.wire.statements import Statements
from tests.support import model_server as pg
from tests.support.model_server import ModelServer, query
from tests.support.native_desk import NativeBackend, NativeClient, NativeLender, new_desk, pump, turn
from tests.support.relay_desk import Backend
from tests.support.waiting import PATIENCE

ANSWER: Final = pg.tag(b"SELECT 1") + frame(frames.READY, b"I")


async def test_what_a_client_sends_is_never_within_the_request_of_another() -> None:
    """Though the server answers before it has read all of that one, and Python does not run between the two."""
    lender = NativeLender()
    desk = new_desk(lender)
    first, second = (NativeClient(lender, statements=Statements(), desk=desk) for _ in range(2))
    backend = lender.backends[0]
    assert isinstance(backend, NativeBackend)
    backend.conn.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4608)
    long, short = query(b"select '" + b"a" * 15_000 + b"'"), query(b"select 'of the second'")
    loop, read, told, over = asyncio.get_running_loop(), bytearray(), bytearray(), asyncio.Event()

    def peers() -> None:
        """In a thread of their own: the loop waits meanwhile."""
        try:
            while len(read) < 4600:  # so there is room for some more, and not enough for the loop to hear of it
                read.extend(backend.far.recv(4600 - len(read)))
            backend.far.sendall(ANSWER)
            while len(told) < len(ANSWER):
                told.extend(first.far.recv(len(ANSWER)))
            second.far.sendall(short)
            while len(read) < len(long + short):
                read.extend(backend.far.recv(len(long + short)))
        finally:
            loop.call_soon_threadsafe(over.set)

    await turn()
    for far in (backend.far, first.far, second.far):
        far.settimeout(PATIENCE)
    first.far.sendall(long)
    thread = threading.Thread(target=peers)
    thread.start()
    while not over.is_set():
        pump().wait(PATIENCE)
        await asyncio.sleep(0)
    thread.join()
    assert bytes(told) == ANSWER
    assert bytes(read) == long + short
    await first.leave()
    await second.leave()
    lender.close()
    await turn()


@pytest.mark.parametrize("error", [ValueError("a bug"), asyncio.CancelledError()], ids=["error", "cancelled"])
async def test_a_protocol_that_fails_ends_its_own_connection_alone(error: BaseException) -> None:
    class Failing(asyncio.Protocol):
        lost: BaseException | None = None

        def data_received(self, data: bytes) -> None:
            raise error

        def connection_lost(self, exc: BaseException | None) -> None:
            self.lost = exc

    told: list[object] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: told.append(context["exception"]))
    near, far = socket.socketpair()
    near.setblocking(False)
    protocol = Failing()
    Conn(pump(), near, protocol).begin()
    far.send(b"x")
    await turn()
    assert protocol.lost is error
    assert told == [error]
    assert far.recv(1) == b""
    far.close()


async def test_what_lies_parked_is_given_back_where_counting_it_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["exception"]))
    lender = NativeLender()
    desk = new_desk(lender)
    client, backend = NativeClient(lender, statements=Statements(), desk=desk), lender.backends[0]
    assert isinstance(backend, NativeBackend)
    error = ValueError("a bug")

    def fail(*counts: object) -> None:
        raise error

    for is_broken in (True, False):  # the lane is used again
        told.clear()
        with monkeypatch.context() as patched:
            if is_broken:
                patched.setattr(desk, "account", fail)
            client.sending = query(b"rows 1")
            client.push()
            pump().wait(0)
            backend.hear()
            backend.deliver()
            await turn()
        assert list(lender.idle) == [backend]
        assert told == [error] * is_broken
    assert desk.transactions == 1
    client.hear()
    assert client.received == ModelServer().feed(query(b"rows 1")) * 2
    await client.leave()
    lender.close()
    await turn()


async def test_a_client_has_its_answer_before_its_backend_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who gets the backend may run Python that ends the client; and what fails at that is no matter of its answer."""
    told: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["exception"]))
    lender = NativeLender()
    desk = new_desk(lender)
    client, backend = NativeClient(lender, statements=Statements(), desk=desk), lender.backends[0]
    assert isinstance(backend, NativeBackend)
    error, heard = ValueError("a bug"), []

    def fail(given: Backend) -> None:
        client.hear()
        heard.append(client.received)
        lender.destroy(given)
        raise error

    monkeypatch.setattr(desk, "take_back", fail)
    client.sending = query(b"rows 1")
    client.push()
    await turn()
    assert client.conn.is_carrying
    backend.hear()
    backend.deliver()
    await turn()
    assert heard == [ModelServer().feed(query(b"rows 1"))]
    assert told == [error]
    assert not client.conn.is_closing()
    await client.leave()
    lender.close()
    await turn()
