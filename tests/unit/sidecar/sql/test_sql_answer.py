"""How is a result written, and how much of it at once? Without a server."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Sequence
from typing import Any

import pytest

from tenantproxy.config import SqlSettings
from tenantproxy.sidecar.sql.answer import answering
from tenantproxy.sidecar.sql.request import reading_request
from tenantproxy.wire.columns import Column
from tenantproxy.wire.results import Row, StatementResult
from tests.support.steps import steps_of

ARRAY_OF_INT4, ARRAY_OF_TEXT, INT4, TEXT = 1007, 1009, 23, 25
ONE, BATCH = b'{"query": "SELECT 1"}', b'{"queries": [{"query": "SELECT 1"}, {"query": "SELECT 2"}]}'
RAW = {"Neon-Raw-Text-Output": "true", "Neon-Array-Mode": "true"}


def result(rows: list[Row], *types: int) -> StatementResult:
    columns = tuple(Column(f"c{n}", 0, 0, kind, -1, -1) for n, kind in enumerate(types))
    return StatementResult(columns, rows, b"SELECT %d" % len(rows))


def answered(results: Sequence[StatementResult], body: bytes = ONE, **headers: str) -> tuple[Any, int]:
    """What is answered, and in how many steps."""
    request, _ = steps_of(reading_request(body, headers, SqlSettings()))
    text, steps = steps_of(answering(results, request))
    return json.loads(text), steps


def test_rows_are_the_same_in_however_many_steps_they_are_written() -> None:
    rows: list[Row] = [[str(n), None, f"{{{n},NULL}}"] for n in range(2500)]
    found, steps = answered([result(rows, INT4, TEXT, ARRAY_OF_INT4)])
    assert found["rows"] == [{"c0": n, "c1": None, "c2": [n, None]} for n in range(2500)]
    assert steps >= 7
    raw, _ = answered([result(rows, INT4, TEXT, ARRAY_OF_INT4), result([], INT4)], BATCH, **RAW)
    assert [each["rows"] for each in raw["results"]] == [rows, []]
    none, _ = answered([StatementResult((), [], b"")])
    assert (none["fields"], none["rows"], none["command"]) == ([], [], "")


def test_an_array_as_long_as_a_result_is_read_in_small_steps() -> None:
    text = "{" + ",".join(["1"] * 50_000) + "}"
    found, steps = answered([result([[text]], ARRAY_OF_INT4)])
    assert found["rows"] == [{"c0": [1] * 50_000}]
    assert steps >= 100


def test_numbers_in_a_list_stay_what_was_written() -> None:
    body = b'{"query": "SELECT $1", "params": [[0.1234567890123456789012345, 1e400, {"a": 1.50}]]}'
    request, _ = steps_of(reading_request(body, {}, SqlSettings()))
    assert b'{"0.1234567890123456789012345","1E+400","{\\"a\\":1.50}"}' in request.message


@pytest.mark.parametrize(
    "values", ["[" + ",".join(["1"] * 50_000) + "]", "[" + ",".join(["[{}]"] * 50_000) + "]", ",".join(["1"] * 50_000)]
)
def test_parameters_are_read_in_small_steps(values: str) -> None:
    body = b'{"query": "SELECT $1", "params": [%b]}' % values.encode()
    _, steps = steps_of(reading_request(body, {}, SqlSettings(max_parameters=60_000)))
    assert steps >= 50


def test_descriptions_of_many_columns_are_not_kept() -> None:
    """No limit of memory counts them, and they would stay until others have come in their place."""
    columns: tuple[Column, ...] = ()
    tracemalloc.start()
    try:
        for number in range(20):
            columns = tuple(Column(f"{number}_{at}" + "x" * 50, 0, 0, TEXT, -1, -1) for at in range(1600))
            answered([StatementResult(columns, [], b"SELECT 0")])
        columns = ()
        assert tracemalloc.get_traced_memory()[0] < 2_000_000
    finally:
        tracemalloc.stop()
