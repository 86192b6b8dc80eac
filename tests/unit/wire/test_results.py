"""What does a segment's answer hold, however its bytes are cut, and what of it is left out? Of bytes alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantproxy.errors import ProtocolError
from tenantproxy.wire import answers
from tenantproxy.wire.columns import columns_of
from tenantproxy.wire.frames import (
    BIND_COMPLETE,
    CLOSE_COMPLETE,
    COPY_OUT,
    DATA_ROW,
    EMPTY_QUERY,
    ERROR,
    IDLE,
    IN_TRANSACTION,
    NO_DATA,
    NOTICE,
    PARSE_COMPLETE,
    ROW_DESCRIPTION,
    frame,
)
from tenantproxy.wire.results import SegmentReader

BEGUN = frame(PARSE_COMPLETE) + frame(BIND_COMPLETE)
ROWS: list[list[str | bytes | None]] = [["a", None], ["ü", ""], ["x" * 300, "1"]]
ANSWER = (
    BEGUN
    + answers.row_description(["name", "n"], [25, 23])
    + b"".join(answers.data_row(row) for row in ROWS)
    + frame(NOTICE, b"SNOTICE\0\0")
    + answers.command_complete("SELECT 3")
    + BEGUN
    + frame(NO_DATA)
    + answers.command_complete("INSERT 0 1")
    + BEGUN
    + frame(NO_DATA)
    + frame(EMPTY_QUERY)
    + answers.ready_for_query()
)


def a_reader(max_rows: int = 100, max_bytes: int = 10_000) -> SegmentReader:
    return SegmentReader(max_rows, max_bytes)


@given(st.lists(st.integers(0, len(ANSWER)), max_size=12))
def test_results_are_the_same_however_their_bytes_are_cut(cuts: list[int]) -> None:
    reader, at, is_ready = a_reader(), 0, False
    for cut in [*sorted(cuts), len(ANSWER)]:
        is_ready = reader.feed(ANSWER[at:cut])
        at = cut
    assert is_ready
    assert reader.status == IDLE
    first, second, third = reader.results
    assert (first.rows, first.tag) == (ROWS, b"SELECT 3")
    assert [(column.name, column.type) for column in first.columns] == [("name", 25), ("n", 23)]
    assert (second.columns, second.rows, second.tag) == ((), [], b"INSERT 0 1")
    assert third.tag == b""
    assert (reader.is_over, reader.is_touched, reader.is_copying) == (False, False, False)
    assert reader.error is None


@pytest.mark.parametrize("size", [1, 7, 64, 10_000])
def test_what_is_beyond_the_limits_is_not_kept(size: int) -> None:
    head = BEGUN + answers.row_description(["x"])
    many = head + answers.data_row(["v"]) * 50 + answers.command_complete("SELECT 50") + answers.ready_for_query()
    large = head + answers.data_row(["v" * 5000]) + answers.command_complete("SELECT 1") + answers.ready_for_query()
    for answer, limits in ((many, {"max_rows": 49}), (large, {"max_bytes": 1000}), (many, {"max_bytes": 100})):
        reader, is_ready = a_reader(**limits), False
        for at in range(0, len(answer), size):
            is_ready = reader.feed(answer[at : at + size])
            assert sum(map(len, reader._parts)) <= 1000 + size
        assert is_ready
        assert reader.is_over


def test_names_columns_and_notices_count_as_what_they_are_told_with() -> None:
    """A row of NULLs is short, and its names are not; a batch describes columns as often as it has statements."""
    described = BEGUN + answers.row_description(["n" * 50])
    rows = answers.data_row([None]) * 50 + answers.command_complete("SELECT 50")
    notice = frame(NOTICE, b"SNOTICE\0M" + b"x" * 90 + b"\0\0")
    for said, is_named, is_over in (
        (described + rows, False, False),
        (described + rows, True, True),
        ((described + answers.command_complete("SELECT 0")) * 20, False, True),
        (described + answers.data_row(["\x01" * 400]) + answers.command_complete("SELECT 1"), False, True),
        (described + answers.data_row(["x\n" * 200]) + answers.command_complete("SELECT 1"), False, False),
        (BEGUN + notice * 30, False, True),
        (BEGUN + notice * 10, False, False),
    ):
        reader = SegmentReader(100, 2000, is_named=is_named)
        assert reader.feed(said + answers.ready_for_query())
        assert reader.is_over is is_over


def test_an_error_a_report_and_a_copy_are_told() -> None:
    reader = a_reader()
    status = answers.parameter_status(b"TimeZone", b"UTC")
    error = answers.error_response(ProtocolError("no"))
    assert not reader.feed(error + status)
    assert not reader.feed(answers.ready_for_query(IN_TRANSACTION)[:-1])
    assert reader.feed(b"T")
    assert reader.is_touched
    assert reader.error == error[5:]
    assert reader.status == IN_TRANSACTION
    reader.again()
    assert reader.feed(BEGUN + answers.command_complete("ROLLBACK") + answers.ready_for_query())
    assert reader.results[-1].tag == b"ROLLBACK"
    copying = a_reader()
    copying.feed(BEGUN + frame(COPY_OUT, b"\0\0\1\0\0"))
    assert copying.is_copying


@pytest.mark.parametrize(
    "said",
    [
        answers.ready_for_query() + answers.ready_for_query(),
        frame(ord("Z"), b"X"),
        frame(ord("?"), b""),
        b"D\0\0\0\3",
        answers.data_row(["a"]),  # nothing was described
        frame(ROW_DESCRIPTION, b"\0\1a"),
        frame(ROW_DESCRIPTION, b"\0\0more"),
        answers.row_description(["x"]) + frame(DATA_ROW, b"\0\1\0\0\0\5ab"),
        answers.row_description(["x"]) + frame(DATA_ROW, b"\0\1\0"),
        frame(ord("E"), b"x" * 100)[:1] + b"\x3f\xff\xff\xff",
    ],
)
def test_what_no_server_answers_is_refused(said: bytes) -> None:
    with pytest.raises(ProtocolError):
        a_reader().feed(said)


def test_rows_that_are_not_utf8_are_refused() -> None:
    with pytest.raises(UnicodeDecodeError):
        a_reader().feed(answers.row_description(["x"]) + answers.data_row([b"\xfc"]))
    with pytest.raises(UnicodeDecodeError):
        columns_of(b"\0\1\xfc\0" + bytes(18))


def test_a_segment_that_failed_before_it_ran_is_read_as_if_it_had_not_come() -> None:
    reader = a_reader()
    assert reader.feed(frame(CLOSE_COMPLETE) + frame(ERROR, b"SERROR\0C26000\0\0") + answers.ready_for_query())
    assert (reader.is_parsed, reader.is_bound) == (False, False)
    reader.start_over()
    assert not reader.feed(frame(PARSE_COMPLETE))
    assert (reader.is_parsed, reader.is_bound) == (True, False)
    assert reader.feed(frame(BIND_COMPLETE) + answers.command_complete("SELECT 0") + answers.ready_for_query())
    assert reader.is_bound
    assert reader.error is None
    assert [result.tag for result in reader.results] == [b"SELECT 0"]
