"""Does the pattern find the ends of whole rows, and of nothing else?"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tenantproxy.wire.frames import COMMAND_COMPLETE, DATA_ROW, frame
from tenantproxy.wire.rows import LONGEST, end_of_rows

PAYLOADS = st.binary(min_size=2, max_size=LONGEST + 40)


def looped(data: bytes, at: int) -> int:
    """Where the rows end, looked at one by one."""
    while at + 5 <= len(data) and data[at] == DATA_ROW:
        end = at + 1 + int.from_bytes(data[at + 1 : at + 5], "big")
        if end > len(data):
            break
        at = end
    return at


@given(st.lists(PAYLOADS, max_size=20), st.binary(max_size=40), st.integers(6, LONGEST))
def test_it_never_goes_beyond_where_a_loop_would_and_stops_between_two_messages(
    payloads: list[bytes], behind: bytes, length: int
) -> None:
    data = b"".join(frame(DATA_ROW, payload) for payload in payloads) + behind
    ends, at = {0}, 0
    while (end := at + 1 + int.from_bytes(data[at + 1 : at + 5], "big")) <= looped(data, 0) and end > at:
        ends.add(end)
        at = end
    assert end_of_rows(data, 0, length) in ends


@given(st.integers(2, LONGEST - 4), st.integers(1, 50), st.data())
def test_rows_of_one_length_are_taken_all_at_once(size: int, count: int, chosen: st.DataObject) -> None:
    payloads = chosen.draw(st.lists(st.binary(min_size=size, max_size=size), min_size=count, max_size=count))
    data = b"".join(frame(DATA_ROW, payload) for payload in payloads)
    behind = frame(COMMAND_COMPLETE, b"SELECT 1\0")
    assert end_of_rows(data + behind, 0, size + 4) == len(data)
    assert end_of_rows(data[:-1], 0, size + 4) == len(data) - size - 5


def test_a_row_that_looks_like_the_end_of_an_answer_is_a_row() -> None:
    data = frame(DATA_ROW, b"\0\1\0\0\0\6" + b"Z\0\0\0\5I") * 3
    assert end_of_rows(data, 0, 16) == len(data)
