"""Is it known what a command leaves behind, and is nothing taken for another text?"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantproxy.wire.commands import (
    ALL,
    Every,
    deallocate_of,
    deallocate_within,
    is_local,
    leaves_state,
    pins,
    unbinds,
)
from tests.support.fuzzing import IS_TRIED


@pytest.mark.parametrize(
    "tag",
    [
        b"SELECT 5",
        b"INSERT 0 1",
        b"UPDATE 3",
        b"DELETE 0",
        b"MERGE 2",
        b"COPY 10",
        b"BEGIN",
        b"START TRANSACTION",
        b"COMMIT",
        b"ROLLBACK",
        b"ROLLBACK PREPARED",
        b"SAVEPOINT",
        b"RELEASE",
        b"FETCH 3",
        b"CLOSE CURSOR",
        b"SHOW",
        b"NOTIFY",
        b"ALTER TABLE",
        b"DROP TABLE",
        b"SET CONSTRAINTS",
        b"PREPARE TRANSACTION",
    ],
)
def test_these_leave_a_session_as_it_was(tag: bytes) -> None:
    assert not leaves_state(tag)


@pytest.mark.parametrize(
    "tag",
    [
        b"SET",
        b"RESET",
        b"CREATE TABLE",
        b"CREATE VIEW",
        b"CREATE FUNCTION",
        b"DECLARE CURSOR",
        b"LISTEN",
        b"PREPARE",
        b"DEALLOCATE",
        b"DEALLOCATE ALL",
        b"DISCARD ALL",
        b"DISCARD TEMP",
        b"LOAD",
        b"DO",
        b"CALL",
        b"",
        b"NEW COMMAND OF POSTGRESQL 30",
        b"SELECTED",
        b"select 1",
    ],
)
def test_these_may_leave_something(tag: bytes) -> None:
    assert leaves_state(tag)


@pytest.mark.parametrize("tag", [b"RESET", b"DISCARD ALL", b"DISCARD SEQUENCES"])
def test_a_session_may_be_without_its_tenant_after_these(tag: bytes) -> None:
    assert unbinds(tag)
    assert leaves_state(tag)


@pytest.mark.parametrize("tag", [b"DISCARD TEMP", b"DISCARD PLANS", b"SET", b"SELECT 1", b"ROLLBACK"])
def test_a_session_keeps_its_tenant_after_these(tag: bytes) -> None:
    assert not unbinds(tag)


def test_who_listens_or_prepared_in_sql_waits_for_this_backend() -> None:
    assert pins(b"LISTEN")
    assert pins(b"PREPARE")
    assert not any(map(pins, (b"UNLISTEN", b"PREPARE TRANSACTION", b"SET", b"SELECT 1", b"DEALLOCATE")))


@pytest.mark.parametrize(
    ("sql", "name"),
    [
        (b"DEALLOCATE foo", b"foo"),
        (b"deallocate Foo;", b"foo"),
        (b' DEALLOCATE PREPARE "Foo""bar" ; ', b'Foo"bar'),
        (b'DEALLOCATE"x"', b"x"),
        (b'DEALLOCATE PREPARE"x"', b"x"),
        (b"DEALLOCATE prepare", b"prepare"),
        (b"DEALLOCATE prepared", b"prepared"),
        (b"DEALLOCATE pdo_stmt_00000001", b"pdo_stmt_00000001"),
        (b"DEALLOCATE ALL", ALL),
        (b"DEALLOCATE PREPARE all", ALL),
        (b'DEALLOCATE "all"', b"all"),
        (b"DEALLOCATE " + b"x" * 63, b"x" * 63),
        (b"DEALLOCATE " + b"x" * 64, None),
        (b"DEALLOCATE", None),
        (b"DEALLOCATEfoo", None),
        (b"DEALLOCATE a; SELECT 1", None),
        (b"DEALLOCATE a, b", None),
        (b"DEALLOCATE a b", None),
        (b"DEALLOCATE 1a", None),
        (b"DEALLOCATE -- x\n a", None),
        (b"SELECT 1", None),
        (b'DEALLOCATE ""', None),
        (b'DEALLOCATE "a', None),
    ],
)
def test_the_name_in_a_deallocate_is_what_the_server_takes_it_for(sql: bytes, name: bytes | Every | None) -> None:
    assert deallocate_of(sql) == name


@pytest.mark.parametrize(
    ("sql", "name"),
    [
        (b'SAVEPOINT _per_query_svp_;DEALLOCATE "_PLAN0x55";RELEASE _per_query_svp_', b"_PLAN0x55"),
        (b"savepoint A ; deallocate prepare b ; release savepoint a;", b"b"),
        (b'SAVEPOINT "A";DEALLOCATE b;RELEASE "A"', b"b"),
        (b'SAVEPOINT "A";DEALLOCATE b;RELEASE A', None),
        (b"SAVEPOINT a;DEALLOCATE b;RELEASE c", None),
        (b"SAVEPOINT a;DEALLOCATE ALL;RELEASE a", None),
        (b"SAVEPOINT a;DEALLOCATE b;DEALLOCATE c;RELEASE a", None),
        (b"SAVEPOINT a;DEALLOCATE b", None),
        (b"SAVEPOINT a;SELECT 1;RELEASE a", None),
        (b"SAVEPOINT a", None),
        (b"DEALLOCATE b", None),
    ],
)
def test_a_deallocate_is_recognised_within_a_savepoint_of_its_own(sql: bytes, name: bytes | None) -> None:
    assert deallocate_within(sql) == name


@pytest.mark.parametrize(
    "sql",
    [
        b"SET LOCAL statement_timeout = 5",
        b"set local x.y to 'a'; ",
        b"SET TRANSACTION READ ONLY",
        b"SET CONSTRAINTS ALL DEFERRED",
    ],
)
def test_what_is_set_for_a_transaction_only_is_recognised(sql: bytes) -> None:
    assert is_local(sql)


@pytest.mark.parametrize(
    "sql",
    [
        b"SET statement_timeout = 5",
        b"SET LOCAL x = 1; SET y = 2",
        b"SET LOCALE = 1",
        b"SET local = 1; SET y = 2",
        b"SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
        b"SET LOCAL x = 'a;b'",
        b"SET local .x = 1",
        b"SET transaction .x = 1",
        b"SET constraints /**/ .x = 1",
        b"",
    ],
)
def test_what_may_last_longer_is_not_taken_for_local(sql: bytes) -> None:
    assert not is_local(sql)


@IS_TRIED
@given(st.binary(max_size=500))
def test_any_tag_and_any_text_has_an_answer(data: bytes) -> None:
    leaves_state(data), unbinds(data), pins(data)
    (
        deallocate_of(b"DEALLOCATE " + data),
        deallocate_within(b"SAVEPOINT a;DEALLOCATE " + data),
        is_local(b"SET LOCAL " + data),
    )
