"""Is a statement known by what it says, and is it known what a backend has?"""

from __future__ import annotations

import gc

from tenantproxy.wire.frames import length_of
from tenantproxy.wire.statements import MAX_PREPARED_BYTES, NAME_PREFIX, ServerStatements, Statement, Statements


def body(text: str) -> bytes:
    return text.encode() + b"\0\0\0"


def test_the_same_text_is_one_statement_whoever_says_it() -> None:
    shared = Statements()
    first = shared.of(body("SELECT 1"))
    assert shared.of(body("SELECT 1")) is first
    assert shared.of(body("SELECT 2")) is not first
    assert shared.of(b"SELECT 1\0\0\1\0\0\0\x17") is not first, "it has other parameters"


def test_a_statement_that_nobody_has_is_forgotten_and_its_name_is_not_used_again() -> None:
    shared = Statements()
    statement = shared.of(body("SELECT 1"))
    name = statement.name
    del statement
    gc.collect()
    assert len(shared) == 0
    assert shared.of(body("SELECT 1")).name != name


def test_its_messages_are_framed_and_its_text_is_not_shown() -> None:
    statement = Statements().of(body("SELECT 'secret'"))
    assert length_of(statement.parse, 0) == len(statement.parse)
    assert length_of(statement.close, 0) == len(statement.close)
    assert statement.name.startswith(NAME_PREFIX)
    assert "secret" not in repr(statement)


def test_a_statement_that_says_nothing_is_like_no_other() -> None:
    shared = Statements()
    assert shared.nothing().name != shared.nothing().name
    assert len(shared) == 0


def filled(limit: int) -> tuple[ServerStatements, list[Statement]]:
    shared, server = Statements(), ServerStatements(limit)
    statements = [shared.of(body(f"SELECT {n}")) for n in range(limit + 1)]
    for statement in statements[:limit]:
        assert server.add(statement) == []
    return server, statements


def test_the_one_not_used_for_longest_makes_room() -> None:
    server, statements = filled(3)
    assert server.use(statements[0])
    assert server.add(statements[3]) == [statements[1]]
    assert not server.use(statements[1])
    assert all(server.use(statement) for statement in (statements[0], statements[2], statements[3]))


def test_what_was_not_closed_after_all_is_there_again() -> None:
    server, statements = filled(2)
    (out,) = server.add(statements[2])
    server.forget(statements[2])
    server.put_back(out)
    assert server.use(out)
    assert not server.use(statements[2])


def test_what_is_cleared_is_gone_and_what_is_doubted_may_be_there() -> None:
    server, statements = filled(2)
    server.clear()
    assert len(server) == 0
    assert not server.is_doubtful
    server.add(statements[0])
    server.doubt()
    assert not server.use(statements[0])
    assert server.is_doubtful


def test_long_texts_make_room_for_each_other_before_they_fill_our_memory() -> None:
    shared, server = Statements(), ServerStatements()
    long = [shared.of(body(f"{n}" + "x" * (MAX_PREPARED_BYTES // 4))) for n in range(9)]
    assert [len(server.add(each)) for each in long] == [0, 0, 0, 1, 1, 1, 1, 1, 1]
    server.forget(long[-1])
    server.forget(long[-1])
    server.put_back(long[-1])
    server.put_back(long[-1])
    assert len(server.add(long[0])) == 1
    assert len(server) == 3
