"""What is a text that is to run in a transaction which was begun for it, and what becomes of its statements?"""

from __future__ import annotations

import pytest

from tenantproxy.raw.exchange import parse
from tenantproxy.wire import frames
from tenantproxy.wire.frames import frame
from tenantproxy.wire.reported import ReportedSettings
from tenantproxy.wire.segments import begins_with, cannot_run, ends, instead
from tenantproxy.wire.transaction_only import needs_session
from tenantproxy.wire.unnamed import UnnamedStatements


@pytest.mark.parametrize(
    ("text", "mode"),
    [
        ("BEGIN", ""),
        (" begin transaction ;", ""),
        ("START TRANSACTION READ ONLY", " READ ONLY"),
        ("BEGIN ISOLATION LEVEL\nSERIALIZABLE, READ WRITE", " ISOLATION LEVEL SERIALIZABLE READ WRITE"),
        ("BEGIN; SELECT 1", None),
        ("BEGIN -- READ ONLY", None),
        ("BEGIN 'x'", None),
        ("BEGINS", None),
    ],
)
def test_a_begin_is_read_with_its_modes(text: str, mode: str | None) -> None:
    assert begins_with(text.encode()) == mode


@pytest.mark.parametrize(
    ("text", "is_end"),
    [
        ("COMMIT", True), ("end work", True), ("ROLLBACK", True), ("ABORT", True), ("PREPARE TRANSACTION 'x'", True),
        ("ROLLBACK TO a", False), ("rollback work to savepoint a", False), ("SELECT 1", False), ("ENDLESS", False),
    ],
)  # fmt: skip
def test_what_ends_a_transaction_is_known_by_its_first_words(text: str, is_end: bool) -> None:
    assert ends(text.encode()) is is_end


@pytest.mark.parametrize(
    "text", ["LISTEN a", "SELECT 1; discard all", "/* */ PREPARE p AS SELECT 1", "COMMIT; SELECT 1"]
)
def test_what_cannot_run_is_replaced_by_a_text_that_says_so(text: str) -> None:
    refusal = cannot_run(text.encode())
    assert refusal is not None
    said = instead(refusal).decode()
    assert "0A000" in said
    assert said.count("$tenantproxy$") == 2


@pytest.mark.parametrize(
    "text",
    ["SELECT 'LISTEN; COMMIT; SELECT 1'", "SET LOCAL a = 1", "SELECT $$;LISTEN$$", "ROLLBACK TO a; SELECT 1", ""],
)
def test_what_only_looks_so_may_run(text: str) -> None:
    assert cannot_run(text.encode()) is None
    assert needs_session(text) is None


def bind(name: bytes) -> bytes:
    return frame(frames.BIND, b"\0" + name + b"\0" + bytes(6))


def test_a_statement_is_said_again_only_where_another_came_between() -> None:
    statements = UnnamedStatements()
    one, two = parse("SELECT 1", [], b"one"), parse("SELECT 2", [], b"two")
    unnamed = parse("SELECT 1", []), parse("SELECT 2", [])
    assert [statements.as_sent(each, len(each)) for each in (one, two)] == list(unnamed)
    assert statements.is_clients(frames.PARSE_COMPLETE)
    assert statements.is_clients(frames.PARSE_COMPLETE)
    again = bind(b"one")
    assert statements.as_sent(again, len(again)) == unnamed[0] + bind(b"")
    assert not statements.is_clients(frames.PARSE_COMPLETE)
    assert statements.as_sent(again, len(again)) == bind(b"")
    unknown = bind(b"three")
    said = statements.as_sent(unknown, len(unknown))
    assert b'EXECUTE "three_' in said, "a name that no statement can have"
    assert [statements.is_clients(frames.BIND_COMPLETE) for _ in range(3)] == [True, True, False]
    statements.segment_ended(lasts=False)
    assert statements.as_sent(again, len(again)) == unnamed[0] + bind(b""), "its transaction took it along"


def test_what_was_set_for_the_transaction_is_not_told_at_its_end() -> None:
    reported = ReportedSettings({b"intervalstyle": b"postgres"})
    reported.begin({b"IntervalStyle": b"postgres"})
    reported.hear(b"IntervalStyle\0iso_8601\0", is_end=False)
    assert b"iso_8601" in reported.news()
    reported.hear(b"IntervalStyle\0sql_standard\0", is_end=True)
    assert b"IntervalStyle\0postgres" in reported.news()
    assert reported.news() == b""
