"""Is a reset behind a statement believed for its own answer alone, and does the driver get the rest?"""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any

import pytest

from tenantproxy.driver.behind import ResetBehind
from tenantproxy.driver.joined import JoiningTransport
from tenantproxy.isolation.turn import SOFT
from tenantproxy.wire.frames import (
    BIND,
    COMMAND_COMPLETE,
    DATA_ROW,
    ERROR,
    NOTICE,
    PARAMETER_STATUS,
    PARSE,
    QUERY,
    READY,
    SYNC,
    frame,
)

STATEMENT = frame(BIND, b"of the driver") + frame(SYNC)
ANSWER = frame(0x32) + frame(DATA_ROW, bytes(300)) + frame(COMMAND_COMPLETE, b"SELECT 1\0") + frame(READY, b"I")
STATUS = frame(PARAMETER_STATUS, b"TimeZone\0UTC\0")
WARNING = frame(NOTICE, b"SWARNING\0\0")
FAILED = frame(ERROR, b"SERROR\0\0") + frame(READY, b"I")


class FakeTransport:
    """Keeps what is written, and gives what comes to its protocol."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.driver = self.protocol = FakeDriver()

    def write(self, data: bytes) -> None:
        self.written.append(bytes(data))

    def get_protocol(self) -> Any:
        return self.protocol

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def feed(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.protocol.data_received(piece)


class FakeDriver:
    def __init__(self) -> None:
        self.heard = b""
        self.is_lost = False

    def data_received(self, data: bytes) -> None:
        self.heard += data

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True


def sent() -> tuple[FakeTransport, ResetBehind]:
    """A reset that was written behind a statement."""
    real: Any = FakeTransport()
    wire = JoiningTransport(real)
    behind = wire.behind = ResetBehind(real, SOFT)
    wire.write(STATEMENT)
    return real, behind


def answer_to(real: FakeTransport) -> bytes:
    """What PostgreSQL answers to the reset that was written."""
    nonce = real.written[0].partition(b", '")[2].partition(b"'")[0]
    row = frame(DATA_ROW, b"\0\2" + bytes(4) + len(nonce).to_bytes(4) + nonce)
    tags = [frame(COMMAND_COMPLETE, tag + b"\0") for tag in (b"CLOSE CURSOR ALL", b"SET", b"RESET", b"UNLISTEN")]
    rest = [frame(COMMAND_COMPLETE, tag + b"\0") for tag in (b"SELECT 1", b"DISCARD TEMP", b"DISCARD SEQUENCES")]
    columns = (
        b"\0\2pg_advisory_unlock_all\0\0\0\0\0\0\0\0\0\x08\xe6\0\4\xff\xff\xff\xff\0\0"
        b"?column?\0\0\0\0\0\0\0\0\0\0\x19\xff\xff\xff\xff\xff\xff\0\0"
    )
    return b"".join([*tags, frame(0x54, columns), row, *rest, frame(READY, b"I")])


def test_a_statement_and_its_reset_are_one_write() -> None:
    real, behind = sent()
    assert len(real.written) == 1
    assert real.written[0].startswith(STATEMENT + b"Q")
    assert behind.is_awaited


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 6, 7, 50, 10_000])
def test_the_driver_gets_its_answer_and_the_reset_is_believed_however_it_is_cut(size: int) -> None:
    real, behind = sent()
    data = ANSWER + answer_to(real)
    real.feed(*(data[at : at + size] for at in range(0, len(data), size)))
    assert real.driver.heard == ANSWER
    assert behind.is_confirmed
    assert behind.is_over
    assert not behind.is_awaited
    assert real.protocol is real.driver


def test_two_pieces_are_told_apart_wherever_they_are_cut() -> None:
    for cut in range(len(ANSWER) + 400):
        real, behind = sent()
        data = ANSWER + answer_to(real)
        real.feed(data[:cut], *([data[cut:]] if data[cut:] else []))
        assert (real.driver.heard, behind.is_confirmed) == (ANSWER, True), cut


def test_what_the_server_says_unasked_is_the_drivers_and_no_failure() -> None:
    real, behind = sent()
    answer = answer_to(real)
    ends = [at for at in range(len(answer)) if answer[:at] and answer[at : at + 1] in b"CTDZ"]
    cut = next(at for at in ends if answer[at:].startswith(b"C\0\0\0\n"))  # before the tag RESET
    real.feed(ANSWER + STATUS, answer[:cut] + WARNING + answer[cut:], STATUS)
    assert real.driver.heard == ANSWER + STATUS + WARNING + STATUS
    assert behind.is_confirmed


def test_an_answer_with_any_byte_changed_proves_nothing() -> None:
    real, _ = sent()
    size = len(answer_to(real))
    bounds = [0]
    while bounds[-1] < size:
        answer = answer_to(real)
        bounds.append(bounds[-1] + 1 + int.from_bytes(answer[bounds[-1] + 1 : bounds[-1] + 5]))
    payloads = [at for start, end in pairwise(bounds) for at in range(start + 5, end)]
    for at in payloads:
        real, behind = sent()
        wrong = bytearray(answer_to(real))
        wrong[at] ^= 1
        real.feed(ANSWER + bytes(wrong))
        assert behind.is_over, at
        assert not behind.is_confirmed, at
        assert real.driver.heard == ANSWER


def test_the_answer_to_another_reset_proves_nothing() -> None:
    former, _ = sent()
    real, behind = sent()
    real.feed(ANSWER + answer_to(former))
    assert behind.is_over
    assert not behind.is_confirmed


@pytest.mark.parametrize("left_out", range(9))
def test_a_message_too_few_or_an_error_proves_nothing(left_out: int) -> None:
    real, behind = sent()
    messages, data = [], answer_to(real)
    while data:
        length = 1 + int.from_bytes(data[1:5])
        messages.append(data[:length])
        data = data[length:]
    few = b"".join(message for number, message in enumerate(messages) if number != left_out)
    real.feed(ANSWER + few)
    assert behind.is_over
    assert not behind.is_confirmed
    failed_real, failed = sent()
    failed_real.feed(ANSWER + b"".join(messages[:left_out]) + FAILED)
    assert failed.is_over
    assert not failed.is_confirmed
    assert failed_real.protocol is failed_real.driver


def test_a_reset_that_ends_in_a_transaction_proves_nothing() -> None:
    real, behind = sent()
    real.feed(ANSWER + answer_to(real)[:-1] + b"T")
    assert behind.is_over
    assert not behind.is_confirmed


async def test_a_lost_connection_ends_the_wait_and_proves_nothing() -> None:
    real, behind = sent()
    asyncio.get_running_loop().call_soon(real.protocol.connection_lost, None)
    await behind.wait(60.0)
    assert real.driver.is_lost
    assert (behind.is_over, behind.is_confirmed) == (True, False)


def test_an_answer_that_is_not_waited_for_any_more_is_still_kept_from_the_driver() -> None:
    real, behind = sent()
    told: list[bool] = []
    behind.when_over(lambda: told.append(behind.is_confirmed))
    behind.cancel()
    assert told == [False]
    real.feed(ANSWER + answer_to(real))
    assert real.driver.heard == ANSWER
    assert not behind.is_confirmed
    assert not behind.is_awaited
    assert told == [False]


@pytest.mark.parametrize("other", [frame(PARSE, b"first\0select\0\0\0"), frame(BIND, b"alone")])
def test_nothing_is_written_when_the_driver_writes_part_of_a_request(other: bytes) -> None:
    real: Any = FakeTransport()
    wire = JoiningTransport(real)
    wire.behind = ResetBehind(real, SOFT)
    with pytest.raises(RuntimeError, match="foreseen"):
        wire.write(other)
    assert real.written == []
    assert wire.behind is None


def test_what_is_ahead_goes_out_with_an_extended_request_alone() -> None:
    real: Any = FakeTransport()
    wire = JoiningTransport(real)
    wire.ahead = b"begin"
    wire.write(memoryview(STATEMENT))
    wire.write(STATEMENT)
    wire.ahead = b"begin"
    with pytest.raises(RuntimeError, match="foreseen"):
        wire.write(frame(QUERY, b"select 1\0"))
    assert real.written == [b"begin" + STATEMENT, STATEMENT]
