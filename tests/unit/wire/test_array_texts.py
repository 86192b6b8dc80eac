"""Are arrays read and written as PostgreSQL does?"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantproxy.wire.array_texts import reading_array, writing_array
from tests.support.steps import steps_of


def read_array(text: str, element: Callable[[str], Any]) -> list[Any]:
    return steps_of(reading_array(text, element))[0]


def write_array(values: Sequence[Any], element: Callable[[Any], str | None]) -> str:
    return steps_of(writing_array(values, element))[0]


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("{}", []),
        ("{1,NULL,3}", ["1", None, "3"]),
        ('{"NULL",a b,"x,\\"\\\\}"}', ["NULL", "a b", 'x,"\\}']),
        ("{{1,2},{3,4}}", [["1", "2"], ["3", "4"]]),
        ("[0:1][1:2]={{1,2},{3,4}}", [["1", "2"], ["3", "4"]]),
        ('{"",null}', ["", "null"]),
    ],
)
def test_an_array_is_read_as_the_server_writes_it(text: str, values: list[Any]) -> None:
    assert read_array(text, str) == values


@pytest.mark.parametrize("text", ["", "1", "{", "{1", "{1}}", "{}{}", "{1}x", "}"])
def test_what_is_no_array_is_refused_in_words(text: str) -> None:
    with pytest.raises(ValueError, match="array"):
        read_array(text, str)


@given(st.lists(st.none() | st.text(), max_size=8), st.integers(0, 3))
def test_what_is_written_is_read_again(values: list[Any], depth: int) -> None:
    nested: list[Any] = values
    for _ in range(depth):
        nested = [nested, nested]
    assert read_array(write_array(nested, lambda value: None if value is None else str(value)), str) == nested


def test_seven_dimensions_are_too_many() -> None:
    deep: list[Any] = [1]
    for _ in range(6):
        deep = [deep]
    with pytest.raises(ValueError, match="6 dimensions"):
        write_array(deep, str)


def test_a_long_element_is_read_in_no_more_memory_than_a_few_times_its_own() -> None:
    text = '{"' + "x" * 1_000_000 + '\\"' * 1000 + '"}'
    tracemalloc.start()
    try:
        (found,) = read_array(text, str)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found == "x" * 1_000_000 + '"' * 1000
    assert peak < 10 * len(text)
