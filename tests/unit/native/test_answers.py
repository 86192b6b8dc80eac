"""Does the compiled reader of answers read what the reference reads, and nothing that it would not?"""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tenantproxy._native import why_not
from tenantproxy.errors import ProtocolError
from tenantproxy.wire import answers
from tenantproxy.wire.frames import (
    BIND_COMPLETE,
    CLOSE_COMPLETE,
    DATA_ROW,
    IN_TRANSACTION,
    NOTICE,
    PARSE_COMPLETE,
    ROW_DESCRIPTION,
    frame,
)
from tenantproxy.wire.results import RowsAnswered, SegmentReader
from tests.support.fuzzing import IS_TRIED

if why_not() is not None:
    pytest.skip("there is no compiled one", allow_module_level=True)

from tenantproxy._native.core import rows_answered

VALUES = st.none() | st.text(max_size=5) | st.binary(max_size=3)


def an_answer(rows: list[list[str | bytes | None]], count: int, *, is_parsed: bool = False) -> bytes:
    begun = (frame(PARSE_COMPLETE) if is_parsed else b"") + frame(BIND_COMPLETE)
    described = answers.row_description([f"c{n}" for n in range(count)])
    told = b"".join(answers.data_row(row) for row in rows)
    return begun + described + told + answers.command_complete(f"SELECT {len(rows)}") + answers.ready_for_query()


def read(data: bytes, compiled: RowsAnswered | None) -> object:
    """All that a reader knows then, or what it raises."""
    reader = SegmentReader(100, 1_000_000, rows_answered=compiled)
    try:
        is_ready = reader.feed(data)
    except (ProtocolError, UnicodeDecodeError) as exc:
        return type(exc)
    flags = reader.is_parsed, reader.is_bound, reader.is_over, reader.is_touched, reader.is_copying
    return is_ready, reader.results, reader.error, reader.status, reader.size, flags


@IS_TRIED
@given(st.integers(0, 4).flatmap(lambda n: st.tuples(st.just(n), st.lists(st.lists(VALUES, min_size=n, max_size=n)))))
def test_an_answer_that_is_whole_is_read_as_the_reference_reads_it(
    of: tuple[int, list[list[str | bytes | None]]],
) -> None:
    count, rows = of
    for is_parsed in (False, True):
        data = an_answer(rows, count, is_parsed=is_parsed)
        assert read(data, rows_answered) == read(data, None)


@IS_TRIED
@given(st.integers(0, 120), st.integers(0, 255), st.integers(0, 120))
@example(0, 0, 120)
def test_an_answer_that_is_not_well_made_is_left_to_the_reference(at: int, byte: int, cut: int) -> None:
    whole = bytearray(an_answer([["a", None], ["ü", "x" * 9]], 2, is_parsed=True))
    whole[at % len(whole)] = byte
    for data in (bytes(whole), bytes(whole[: len(whole) - cut]), bytes(whole[cut:])):
        assert read(data, rows_answered) == read(data, None)


@pytest.mark.parametrize("count", [1664, 32_768, 65_535])
def test_more_columns_than_a_server_has_are_read_or_refused_alike(count: int) -> None:
    column, value = b"\0" * 19, b"\xff" * 4
    head = count.to_bytes(2, "big")
    told = frame(BIND_COMPLETE) + frame(ROW_DESCRIPTION, head + column * count) + frame(DATA_ROW, head + value * count)
    data = told + answers.command_complete("SELECT 1") + answers.ready_for_query()
    found, reader = rows_answered(data), SegmentReader(100, 1_000_000_000)
    assert reader.feed(data)
    assert found is not None
    assert list(reader.results[0].rows) == found[2] == [[None] * count]


def test_the_commonest_answers_are_read_at_once_and_no_others() -> None:
    usual = an_answer([["a"]], 1)
    assert rows_answered(usual) is not None
    assert rows_answered(an_answer([], 0, is_parsed=True)) is not None
    others = [
        b"",
        frame(CLOSE_COMPLETE) + usual,
        usual[:5] + frame(NOTICE, b"SNOTICE\0\0") + usual[5:],
        usual[:-1] + bytes((IN_TRANSACTION,)),
        usual + usual,
        an_answer([["a"] * 2], 1),
    ]
    assert [rows_answered(each) for each in others] == [None] * len(others)
    assert not SegmentReader(0, 1_000_000, rows_answered=rows_answered)._is_read_at_once(usual), "too many rows"
    assert not SegmentReader(9, 1000, rows_answered=rows_answered)._is_read_at_once(usual), "perhaps too large"
