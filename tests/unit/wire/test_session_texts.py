"""Is it known what the statements of a text set, and does a hostile text cost no more than its length?"""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantproxy.wire.session_texts import MAX_READ, SetEffect, may_set, set_effects
from tenantproxy.wire.settings import ALL

TIMEOUT = SetEffect(b"statement_timeout", b"5")


@pytest.mark.parametrize(
    ("sql", "effects"),
    [
        (b"SET statement_timeout = 5", [TIMEOUT]),
        (b"SELECT ';'; set statement_timeout = 5; COMMIT", [TIMEOUT]),
        (b"/* SET jit = on; */ SET statement_timeout -- = 7;\n = 5;", [TIMEOUT]),
        (b"SELECT 1;CLOSE ALL;UNLISTEN *;RESET ALL;", [SetEffect(ALL, None)]),
        (b'SELECT "a;b", $1 - 2 / 1; RESET jit; SET jit TO DEFAULT', [SetEffect(b"jit", None)] * 2),
        (b"SET LOCAL search_path = a", [SetEffect(b"search_path", b"a", is_local=True)]),
        (b"SET LOCAL app.user = 'x'; SET CONSTRAINTS ALL DEFERRED", [SetEffect(b"", None, is_local=True)]),
        (b"SET app.user = 'x'; SET statement_timeout = 5; RESET app.user", [None, TIMEOUT, None]),
        (b"SET LOCAL search_path = some_function()", [None]),
        (b"", []),
    ],
)
def test_each_statement_that_sets_or_resets_is_read_in_order(sql: bytes, effects: list[SetEffect | None]) -> None:
    assert set_effects(sql) == effects


@pytest.mark.parametrize(
    "sql",
    [
        b"SELECT $$; SET jit = on; $$; RESET ALL",
        b"SELECT '\\'; SET jit = on; --'; RESET ALL",
        b"EXECUTE something; SET jit = on",
        b"/* /* */ SET jit = on; */ RESET ALL",
        b"SELECT 'open; SET jit = on",
        b"SELECT 1;" + b" " * MAX_READ + b"RESET ALL",
    ],
)
def test_a_text_that_may_mean_something_else_is_not_read(sql: bytes) -> None:
    assert set_effects(sql) is None


@pytest.mark.parametrize(
    "sql", [b"reset all", b" SET x = 1", b"SELECT 1;DISCARD ALL", b"/* a */RESET ALL", b"-- a\n-- b\nReset all"]
)
def test_what_may_set_something_is_waited_for(sql: bytes) -> None:
    assert may_set(sql)


@pytest.mark.parametrize(
    "sql", [b"UPDATE t SET a = 1; COMMIT", b"UPDATE t\nSET a = 1", b"SELECT 'RESET ALL'", b"SETTLE", b"-- RESET ALL"]
)
def test_what_only_has_such_a_word_is_not_waited_for(sql: bytes) -> None:
    assert not may_set(sql)


@given(st.text(alphabet="SETRj =';$\"-/*\n\\1a", max_size=60))
def test_any_text_is_read_or_not(text: str) -> None:
    set_effects(text.encode())
    may_set(text.encode())


@pytest.mark.parametrize(
    "piece", [b"-", b"- ", b"/*", b"'", b"'a' ", b'"', b"; ", b" ", b"--\n", b"$1", b"*/ ", b"SET "]
)
def test_a_text_four_times_as_long_costs_at_most_eight_times_as_much(piece: bytes) -> None:
    def seconds(size: int) -> float:
        sql = piece * (size // len(piece))
        best = 1e9
        for _ in range(9):
            began = time.thread_time()
            may_set(sql)
            set_effects(sql)
            best = min(best, time.thread_time() - began)
        return best

    assert seconds(MAX_READ) <= 8 * seconds(MAX_READ // 4) + 0.002
