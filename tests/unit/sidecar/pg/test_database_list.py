"""What becomes of a tool's texts behind the database `postgres`? Only what asks for databases is changed."""

from __future__ import annotations

import asyncio
import time
from typing import Any, cast

import pytest

from tenantproxy.sidecar.pg.database_list import DatabaseList
from tenantproxy.sidecar.pg.maintenance import MaintenanceTransport
from tenantproxy.wire.frames import BIND, PARSE, QUERY, frame
from tests.support.waiting import SLACK

LIST = DatabaseList(["acme"])
FROM = LIST._source.decode()
SELF = "(SELECT 'postgres'::pg_catalog.name AS current_database)"


@pytest.mark.parametrize(
    ("text", "changed"),
    [
        ("SELECT datname FROM pg_database", f"SELECT datname FROM {FROM} AS pg_database"),
        ("select 1 from PG_CATALOG . pg_Database AS d", f"select 1 from {FROM} AS d"),
        ('SELECT 1 FROM "pg_catalog"."pg_database" d', f"SELECT 1 FROM {FROM} d"),
        ("SELECT 1 FROM a, pg_database WHERE x", f"SELECT 1 FROM a, {FROM} AS pg_database WHERE x"),
        ("SELECT 1 FROM a LEFT JOIN pg_database d ON x", f"SELECT 1 FROM a LEFT JOIN {FROM} d ON x"),
        ("SELECT 1 FROM (pg_database d JOIN b ON y)", f"SELECT 1 FROM ({FROM} d JOIN b ON y)"),
        ("SELECT (SELECT 1 FROM pg_database d), x", f"SELECT (SELECT 1 FROM {FROM} d), x"),
        ("SELECT pg_database.oid FROM pg_database", f"SELECT pg_database.oid FROM {FROM} AS pg_database"),
        ("SELECT 1 FROM pg_database; SELECT 2", f"SELECT 1 FROM {FROM} AS pg_database; SELECT 2"),
        ("SELECT current_database(), a", f"SELECT {SELF}, a"),
        ("SELECT pg_catalog.CURRENT_DATABASE ( )", f"SELECT {SELF}"),
    ],
)
def test_a_text_that_asks_for_databases_asks_for_the_list(text: str, changed: str) -> None:
    assert LIST.changed(text.encode()).decode() == changed


@pytest.mark.parametrize(
    "text",
    [
        "SELECT 'pg_database'::regclass", "SELECT 1 -- FROM pg_database", "SELECT 1 /* FROM pg_database */",
        "SELECT $$ FROM pg_database $$", "SELECT $a$ $$ FROM pg_database $a$", "SELECT E'\\' FROM pg_database'",
        'SELECT "current_database()" FROM pg_database_x', "SELECT 1 FROM my.pg_database_of",
        "SELECT 'x FROM pg_database", "SELECT $a$ FROM pg_database $b$", "SELECT 1 /* FROM pg_database",
        'SELECT "FROM pg_database', "DELETE FROM t WHERE x = 'current_database'", "SELECT pg_database_size('a')",
        "SELECT /* /* */ FROM pg_database */ 1", "SELECT E'a'\n'\\' FROM pg_database WHERE \\''",
        "SELECT '\\' FROM pg_database WHERE \\''",
        "SELECT 1 FROM pg_database" + ", pg_database" * 8, "SELECT 1 FROM pg_database" + " " * 65_536,
    ],
)  # fmt: skip
def test_any_other_text_stays_as_it_is(text: str) -> None:
    assert LIST.changed(text.encode()) == text.encode()


@pytest.mark.parametrize("part", ["$a", "$a%d$", "/*", "'", '"', "e'\\", "(", "pg_catalog . ", "$$ ", "e'", "--"])
def test_a_hostile_text_takes_time_that_grows_with_its_length_alone(part: str) -> None:
    def seconds(size: int) -> float:
        text = "".join(part % number if "%" in part else part for number in range(size // len(part)))
        began = time.process_time()
        LIST.changed(f"SELECT current_catalog {text}"[:size].encode())
        return time.process_time() - began

    assert seconds(64_000) < SLACK


def test_names_of_tenants_cannot_be_read_as_sql() -> None:
    hostile = ["a'b", 'c"d', "e\\f", "g;--", "ü", "$$"]
    source = DatabaseList(hostile)._source.decode()
    assert source.isascii()
    assert not any(name in source for name in hostile if name.isascii())
    assert source.count("'") == FROM.count("'")


def test_what_is_a_character_in_one_encoding_ends_no_literal() -> None:
    """In Shift JIS the backslash is the second half of the first character, and the quote behind it ends the text."""
    text = b"SELECT E'\x95\\', ' FROM pg_database WHERE ' -- '"
    assert LIST.changed(text) == text


class _Inner:
    """The protocol behind the transport. `reads`: bytes, from which on it has enough; 0: never."""

    def __init__(self, transport: MaintenanceTransport, reads: int = 0) -> None:
        self.got = b""
        self.largest = 0
        self.transport = transport
        self.reads = reads

    def data_received(self, data: bytes) -> None:
        self.got += data
        self.largest = max(self.largest, len(data))
        if self.reads and len(self.got) > self.reads:
            self.transport.pause_reading()


class _Real:
    """The transport in front."""

    def __init__(self) -> None:
        self.is_reading, self.is_over = True, False

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def is_closing(self) -> bool:
        return self.is_over

    def pause_reading(self) -> None:
        self.is_reading = False

    def resume_reading(self) -> None:
        self.is_reading = True


def _connected(databases: DatabaseList, reads: int = 0) -> tuple[_Real, _Inner]:
    real = _Real()
    transport = MaintenanceTransport(cast("Any", real), databases)
    inner = _Inner(transport, reads)
    transport.set_protocol(cast("Any", inner))
    return real, inner


def _through(data: bytes, step: int) -> bytes:
    real, inner = _connected(LIST)
    for at in range(0, len(data), step):
        real.protocol.data_received(data[at : at + step])
    return inner.got


def test_messages_are_changed_alike_however_they_are_cut() -> None:
    text = b"SELECT datname FROM pg_database"
    now = LIST.changed(text)
    sent = [
        (frame(QUERY, text + b"\0"), frame(QUERY, now + b"\0")),
        (frame(PARSE, b"name\0" + text + b"\0\0\1\0\0\0\x19"), frame(PARSE, b"name\0" + now + b"\0\0\1\0\0\0\x19")),
        (frame(BIND, text + b"\0"),) * 2,
        (frame(PARSE, text),) * 2,
        (frame(QUERY, b"SELECT '" + b"x" * 70_000 + b"' FROM pg_database\0"),) * 2,
        (frame(b"S"[0]),) * 2,
    ]
    data, expected = (b"".join(parts) for parts in zip(*sent, strict=True))
    for step in (1, 2, 3, 5, 7, 64, 4096, len(data)):
        assert _through(data, step) == expected


def test_a_length_that_is_none_reaches_the_side_that_refuses_it() -> None:
    for length in (b"\0\0\0\0", b"\0\0\0\3", b"\xff\xff\xff\xff"):
        assert _through(b"Q" + length + b"rest", 4096).startswith(b"Q" + length)


MANY = DatabaseList([f"tenant{number}" for number in range(200)])
ASKED = frame(QUERY, b"SELECT 1 FROM " + b", ".join([b"pg_database"] * 8) + b"\0")
TOLD = len(MANY.changed(ASKED[5:-1])) + 6


async def _turns() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_texts_that_grow_are_changed_as_fast_as_they_are_read() -> None:
    """Else 256 kB of them would be gigabytes at once, which no limit of memory has heard of."""
    real, inner = _connected(MANY, reads=300_000)
    assert 500 * len(ASKED) < TOLD
    sent = ASKED * 100 + frame(QUERY, b"SELECT 2\0")
    real.protocol.data_received(sent)
    await _turns()
    assert inner.largest < 2 * TOLD + 65_536
    assert len(inner.got) < 300_000 + 2 * TOLD + 65_536
    assert not real.is_reading
    inner.reads = 0
    inner.transport.resume_reading()
    real.protocol.data_received(ASKED)  # what comes all the same comes behind it
    for _ in range(20):
        await _turns()
    assert inner.got == frame(QUERY, MANY.changed(ASKED[5:-1]) + b"\0") * 100 + sent[-14:] + inner.got[-TOLD:]
    assert real.is_reading


async def test_texts_of_a_client_that_is_ended_are_not_changed_any_more() -> None:
    real, inner = _connected(MANY)
    real.protocol.data_received(ASKED * 100)
    got, real.is_over = len(inner.got), True
    await _turns()
    assert len(inner.got) == got < 50 * TOLD
