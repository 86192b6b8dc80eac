"""Does one simple query end as soon as its answer is there, and in no other way than by that answer?"""

from __future__ import annotations

import asyncio
from typing import Any, cast

import asyncpg
import pytest

from tenantproxy.connect.failures import Unconfirmed
from tenantproxy.driver.saying import Saying
from tenantproxy.wire.answers import command_complete, data_row, parameter_status, ready_for_query
from tenantproxy.wire.frames import ERROR, NOTIFICATION, frame

ANSWER = command_complete("SET") + data_row(["echo"]) + ready_for_query()
REFUSAL = frame(ERROR, b"SERROR\0VERROR\0C42501\0Mno\0\0")


class FakeDriver:
    """asyncpg's protocol."""

    def __init__(self) -> None:
        self.heard = b""
        self.lost: list[object] = []

    def data_received(self, data: bytes) -> None:
        self.heard += data

    def connection_lost(self, exc: object) -> None:
        self.lost.append(exc)


class FakeTransport:
    """Where both are, one at a time."""

    def __init__(self, driver: FakeDriver) -> None:
        self.protocol: Any = driver
        self.written = b""

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def is_closing(self) -> bool:
        return False

    def write(self, data: bytes) -> None:
        self.written += data


class Desk:
    """One query under way."""

    def __init__(self) -> None:
        self.driver = FakeDriver()
        self.transport = FakeTransport(self.driver)
        self.saying = Saying(cast(asyncio.Transport, self.transport), self.driver)

    async def say(self, *pieces: bytes) -> None:
        task = asyncio.ensure_future(self.saying.say("SELECT 1", ANSWER))
        await asyncio.sleep(0)
        for piece in pieces:
            self.transport.protocol.data_received(piece)
        await asyncio.wait_for(task, 5)


@pytest.mark.parametrize("size", [1, 3, 7, len(ANSWER)])
async def test_an_answer_in_pieces_is_the_answer(size: int) -> None:
    desk = Desk()
    await desk.say(*(ANSWER[at : at + size] for at in range(0, len(ANSWER), size)))
    assert desk.transport.protocol is desk.driver
    assert desk.driver.heard == b""
    assert desk.transport.written.endswith(b"SELECT 1\0")


async def test_what_a_server_says_unasked_is_the_drivers() -> None:
    desk, news = Desk(), frame(NOTIFICATION, b"\0\0\0\7news\0\0")
    status = parameter_status(b"TimeZone", b"UTC")
    await desk.say(status + ANSWER[:8], ANSWER[8:20], ANSWER[20:-6] + news + ANSWER[-6:])
    assert desk.driver.heard == status + news


async def test_a_refusal_ends_when_the_server_is_ready_again_and_the_driver_goes_on() -> None:
    desk = Desk()
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await desk.say(command_complete("SET"), REFUSAL, ready_for_query())
    assert desk.transport.protocol is desk.driver
    assert desk.driver.heard == b""


@pytest.mark.parametrize(
    "other",
    [
        command_complete("SET") + data_row(["other"]) + ready_for_query(),
        ANSWER + ready_for_query(),
        ANSWER + b"Z",
        data_row(["echo"]) + ready_for_query(),
        command_complete("SET") + data_row(["echo"]) + ready_for_query(ord("T")),
        REFUSAL + ANSWER,
        b"D\0\0\0\0",
        b"D\x3f\xff\xff\xff",
    ],
)
async def test_any_other_answer_is_a_doubt_that_the_driver_never_hears(other: bytes) -> None:
    desk = Desk()
    with pytest.raises(Unconfirmed):
        await desk.say(other)
    assert desk.transport.protocol is desk.saying
    desk.transport.protocol.data_received(ANSWER)
    assert desk.driver.heard == b""


async def test_the_end_of_the_connection_is_an_error_and_the_driver_hears_of_it() -> None:
    desk = Desk()
    task = asyncio.ensure_future(desk.saying.say("SELECT 1", ANSWER))
    await asyncio.sleep(0)
    desk.transport.protocol.connection_lost(None)
    with pytest.raises(ConnectionResetError):
        await task
    assert desk.driver.lost == [None]


async def test_what_comes_after_a_wait_that_was_cancelled_is_not_the_drivers() -> None:
    desk = Desk()
    task = asyncio.ensure_future(desk.saying.say("SELECT 1", ANSWER))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    desk.transport.protocol.data_received(ANSWER)
    assert desk.driver.heard == b""


async def test_who_waits_hears_of_an_end_that_another_protocol_has_read() -> None:
    desk = Desk()
    waiting = asyncio.ensure_future(desk.saying.say("SELECT 1", ANSWER))
    await asyncio.sleep(0)
    desk.transport.set_protocol(FakeDriver())
    desk.saying.lost()
    with pytest.raises(ConnectionResetError):
        await waiting
