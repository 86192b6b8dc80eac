"""Is a trace believed only where it is said once, and exactly as the standard has it?"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantproxy.wire.traceparent import traceparent_in, traceparent_of

GOOD = f"00-{'0af7651916cd43dd8448eb211c80319c'}-b7ad6b7169203331-01"
HOSTILE = [
    "", "00-zz", GOOD + "0", GOOD + "-more", GOOD + "\n", " " + GOOD, GOOD.upper(), "01" + GOOD[2:], "ff" + GOOD[2:],
    GOOD.replace("b7ad6b7169203331", "0" * 16), f"00-{'0' * 32}-b7ad6b7169203331-01", GOOD.replace("1", "\u0661"),
    GOOD * 1000, "\0" + GOOD, GOOD[:-1] + "\x7f",
]  # fmt: skip


def test_one_that_is_well_said_is_believed_whether_sampled_or_not() -> None:
    assert traceparent_of([GOOD]) == GOOD
    assert traceparent_of([GOOD[:-1] + "0"]) == GOOD[:-1] + "0"
    assert traceparent_in(f"SELECT 1 /*a='b',traceparent='{GOOD}'*/") == GOOD
    assert traceparent_in(f"/*traceparent='{GOOD}'*/ SELECT {'1, ' * 5000}1") == GOOD


@pytest.mark.parametrize("hostile", HOSTILE)
def test_what_is_not_exactly_one_is_none(hostile: str) -> None:
    assert traceparent_of([hostile]) == ""
    assert traceparent_in(f"SELECT 1 /*traceparent='{hostile}'*/") == ""


def test_several_are_none() -> None:
    assert traceparent_of([]) == ""
    assert traceparent_of([GOOD] * 10) == ""
    assert traceparent_in(f"/*traceparent='{GOOD}'*/ SELECT 1 /*traceparent='{GOOD[:-1]}0'*/") == ""


@given(st.text(max_size=200))
def test_no_text_of_a_client_raises_anything(text: str) -> None:
    assert traceparent_in(text) in ("", GOOD)
    assert traceparent_of([text]) in ("", GOOD)
