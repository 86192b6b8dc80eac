"""Is only the exact answer taken for one, however the bytes are cut and whatever comes between?"""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantproxy.connect.expected_answer import MAX_ANSWER
from tenantproxy.connect.failures import Refused, Unconfirmed
from tenantproxy.errors import ProtocolError
from tenantproxy.raw.backend import RawBackend
from tenantproxy.raw.exchange import (
    READY_IDLE,
    Exchange,
    answer_of,
    query,
    row,
    sqlstate_of,
    statement,
    tag,
    values_of,
)
from tenantproxy.wire.frames import DATA_ROW, NOTICE, NOTIFICATION, PARAMETER_STATUS, READY, frame, length_of
from tests.support.fake_wire import NONCE, RESET_ANSWER, FakeTransport, error, said

NOTE = frame(NOTICE, b"SNOTICE\0C00000\0Mhello\0\0")
STATUS = frame(PARAMETER_STATUS, b"TimeZone\0Asia/Tokyo\0")
HEARD = frame(NOTIFICATION, b"\0\0\0\x01gossip\0\0")
BOUND = answer_of("SELECT 1", row(b"acme")) + READY_IDLE


class Retiring:
    """A pool that is only told to end connections."""

    def __init__(self) -> None:
        self.retired: list[object] = []

    def retire(self, conn: object, reason: str) -> None:
        self.retired.append(conn)


class Conversation:
    """One exchange over a fake transport, and how it ended."""

    def __init__(self, expected: bytes, **options: Any) -> None:
        self.pool = Retiring()
        self.backend = RawBackend(cast(Any, self.pool))
        self.backend.connection_made(FakeTransport())
        self.ends: list[Exception | None] = []
        self.exchange = Exchange(self.backend, expected, self.ends.append, **options)
        self.exchange.begin(b"?")

    def hear(self, data: bytes, piece: int = 65536) -> Exception | None:
        """Bytes come, in pieces; how it ended then. It must not end twice."""
        for at in range(0, len(data), piece):
            self.backend.data_received(data[at : at + piece])
        assert len(self.ends) <= 1
        return self.ends[0] if self.ends else AssertionError("it has not ended")


def messages_of(data: bytes) -> list[bytes]:
    found = []
    while data:
        size = length_of(data, 0)
        found.append(data[:size])
        data = data[size:]
    return found


@pytest.mark.parametrize("piece", [1, 2, 5, 7, 1000])
def test_the_expected_answer_confirms_however_it_is_cut(piece: int) -> None:
    talk = Conversation(RESET_ANSWER)
    assert talk.hear(RESET_ANSWER, piece) is None
    assert talk.ends == [None]
    assert talk.backend.is_resting
    assert said(talk.backend) == [b"?"]


@given(st.lists(st.sampled_from([NOTE, STATUS]), max_size=4), st.integers(1, 40), st.integers(0, 9))
def test_notices_and_reports_may_come_between_any_two_messages(between: list[bytes], piece: int, where: int) -> None:
    frames = messages_of(RESET_ANSWER)
    talk = Conversation(RESET_ANSWER)
    data = b"".join([*frames[:where], *between, *frames[where:]])
    if where == len(frames):
        piece = len(data)  # after the end they are what any server may say on an idle backend
    assert talk.hear(data, piece) is None
    assert (STATUS in between) == (talk.backend.parameters == {b"TimeZone": b"Asia/Tokyo"})


@pytest.mark.parametrize(
    "answer",
    [
        READY_IDLE + RESET_ANSWER,
        RESET_ANSWER[len(tag("SET") + READY_IDLE) :],
        RESET_ANSWER[: RESET_ANSWER.index(b"T\0\0\0")] + tag("DISCARD ALL") + READY_IDLE,
        (tag("SET") + READY_IDLE) * 2
        + tag("DISCARD ALL")
        + READY_IDLE
        + answer_of("SELECT 1", row(NONCE))
        + READY_IDLE,
        RESET_ANSWER.replace(NONCE, bytes(reversed(NONCE))),
        tag("SET") + frame(READY, b"T"),
        tag("SET") + frame(READY, b"E"),
        tag("RESET") + READY_IDLE,
        tag("DISCARD ALL") + READY_IDLE + tag("SET") + READY_IDLE,
        (tag("SET") + READY_IDLE) * 3,
        RESET_ANSWER + READY_IDLE,
        RESET_ANSWER + b"Z",
        RESET_ANSWER + tag("SET"),
        RESET_ANSWER + HEARD,
        frame(DATA_ROW, b"\0\0"),
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"C\0\0\0\0",
        b"C\0\0\0\3",
        b"C\xff\xff\xff\xff",
        frame(NOTICE, b"x" * MAX_ANSWER),
    ],
    ids=range(20),
)
def test_any_other_answer_is_a_failure(answer: bytes) -> None:
    talk = Conversation(RESET_ANSWER)
    assert isinstance(talk.hear(answer), Unconfirmed)
    assert not talk.backend.is_resting


@given(st.binary(min_size=5, max_size=60), st.integers(1, 60))
def test_no_bytes_of_a_hostile_server_confirm_or_raise(data: bytes, piece: int) -> None:
    talk = Conversation(BOUND)
    talk.hear(data, piece)
    assert None not in talk.ends


@given(st.integers(0, len(BOUND) - 1), st.integers(0, 255))
def test_one_wrong_byte_anywhere_does_not_confirm(at: int, byte: int) -> None:
    answer = BOUND[:at] + bytes([byte]) + BOUND[at + 1 :]
    talk = Conversation(BOUND)
    talk.hear(answer)
    assert (None in talk.ends) == (answer == BOUND)


def test_an_answer_that_says_another_tenant_is_not_confirmed() -> None:
    end = Conversation(BOUND).hear(answer_of("SELECT 1", row(b"evil")) + READY_IDLE)
    assert isinstance(end, Unconfirmed)
    assert end.kind == DATA_ROW


def test_an_error_is_told_with_its_sqlstate_and_without_its_text() -> None:
    end = Conversation(BOUND).hear(error("42501") + READY_IDLE)
    assert isinstance(end, Refused)
    assert (end.sqlstate, end.confirmed, str(end)) == ("42501", 0, "42501")


def test_an_error_after_a_part_of_the_answer_tells_how_much_was_confirmed() -> None:
    first = answer_of("SELECT 1", row(b"acme"))
    end = Conversation(first + answer_of("SELECT 1", row(b"f")) + READY_IDLE).hear(first + error("22023"))
    assert isinstance(end, Refused)
    assert end.confirmed == len(first)


def test_rows_are_collected_where_they_are_asked_for() -> None:
    rows: list[bytes] = []
    talk = Conversation(answer_of("SELECT 1") + READY_IDLE, rows=rows)
    assert talk.hear(BOUND) is None
    assert [list(values_of(each)) for each in rows] == [[b"acme"]]


def test_what_was_listened_to_may_be_heard_during_a_reset_and_in_no_other_conversation() -> None:
    assert Conversation(RESET_ANSWER, is_reset=True).hear(HEARD + RESET_ANSWER) is None
    assert isinstance(Conversation(BOUND).hear(HEARD + BOUND), Unconfirmed)


def test_what_comes_behind_a_failure_is_nobodys() -> None:
    talk = Conversation(BOUND)
    talk.hear(error("42501"))
    talk.backend.data_received(BOUND)
    assert len(talk.ends) == 1
    assert not talk.pool.retired


def test_a_lost_connection_is_a_failure_and_so_is_none_from_the_start() -> None:
    talk = Conversation(BOUND)
    talk.backend.connection_lost(None)
    assert isinstance(talk.ends[0], ConnectionResetError)


async def test_a_conversation_on_a_connection_that_is_lost_already_fails_at_once() -> None:
    talk = Conversation(BOUND)
    talk.backend.connection_lost(None)
    ends: list[Exception | None] = []
    Exchange(talk.backend, BOUND, ends.append).begin(b"?")
    assert not ends
    await asyncio.sleep(0)
    assert isinstance(ends[0], ConnectionResetError)


async def test_a_conversation_with_a_deadline_that_passes_is_a_failure() -> None:
    talk = Conversation(BOUND)
    ended: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
    Exchange(talk.backend, BOUND, ended.set_result).begin(b"?", timeout=0.001)
    assert isinstance(await ended, TimeoutError)


async def test_nobody_hears_of_a_conversation_that_was_dropped() -> None:
    talk = Conversation(BOUND)
    talk.backend.detach()
    talk.hear(BOUND)
    talk.backend.connection_lost(None)
    assert not talk.ends


# --- an idle backend -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("data", [NOTE, STATUS, NOTE + STATUS], ids=["a notice", "a report", "both"])
def test_a_resting_backend_may_hear_what_any_server_may_say(data: bytes) -> None:
    talk = Conversation(BOUND)
    talk.hear(BOUND)
    talk.backend.data_received(data)
    assert not talk.pool.retired


@pytest.mark.parametrize(
    "data", [READY_IDLE, error("57P01"), HEARD, STATUS[:-1], STATUS + b"Z", b"\0", b"S\0\0\0\0", b"N\xff\xff\xff\xff"]
)
def test_a_resting_backend_that_hears_anything_else_is_ended(data: bytes) -> None:
    talk = Conversation(BOUND)
    talk.hear(BOUND)
    talk.backend.data_received(data)
    assert talk.pool.retired == [talk.backend]
    assert talk.backend.is_doubtful


# --- the bytes themselves --------------------------------------------------------------------------------------------
def test_messages_are_what_the_protocol_says() -> None:
    assert query("SELECT 1") == b"Q\0\0\0\x0dSELECT 1\0"
    parse = b"P\0\0\0\x15\0SELECT $1\0\0\x01\0\0\0\x19"
    bind = b"B\0\0\0\x12\0\0\0\0\0\x01\0\0\0\x02hi\0\0"
    assert statement("SELECT $1", [b"hi"]) == parse + bind + b"E\0\0\0\x09\0\0\0\0\0"
    assert statement("SELECT $1", [None])[len(parse) :] == b"B\0\0\0\x10\0\0\0\0\0\x01\xff\xff\xff\xff\0\0" + (
        b"E\0\0\0\x09\0\0\0\0\0"
    )


def test_the_columns_of_a_row_are_read_and_one_that_is_none_is_refused() -> None:
    assert list(values_of(b"\0\x02\0\0\0\x02ab\xff\xff\xff\xff")) == [b"ab", None]
    for bad in (b"", b"\0", b"\0\x01", b"\0\x01\0\0\0\x05ab", b"\0\x01\0\0\0\x01ab", b"\xff\xff\xff\xff\xff\xff"):
        with pytest.raises(ProtocolError):
            values_of(bad)


def test_an_error_without_a_sqlstate_has_none() -> None:
    assert sqlstate_of(b"SERROR\0Mno state\0\0") == ""
    assert sqlstate_of(b"") == ""
    assert sqlstate_of(b"C\xff\xfe\0") == "\ufffd\ufffd"
