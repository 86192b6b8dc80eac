"""What does Npgsql, the driver of .NET, hear? Its messages, in the writes in which it sends them.

A reset of a pooled connection, and BEGIN, stand before the next command in its write; types are loaded by statements
in one simple query; a batch is many statements with one Sync; it prepares by itself under names that it uses again.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

import pytest

from tenantproxy.wire.frames import BIND, CLOSE, DESCRIBE, EXECUTE, PARSE, QUERY, SYNC, frame
from tests.e2e.pg.seats import PASSWORD, Seat
from tests.support.wire_client import Answer, WireClient, cancel, raw, startup

TYPES: Final = """
SELECT ns.nspname, t.oid, t.typname, t.typtype, t.typnotnull
FROM pg_type AS t -- arrays are told by what receives them
JOIN pg_namespace AS ns ON (ns.oid = t.typnamespace)
LEFT JOIN pg_proc AS proc ON proc.oid = t.typreceive
WHERE t.typtype IN ('b', 'r', 'm', 'e', 'd') OR (t.typtype = 'p' AND t.typname IN ('record', 'void', 'unknown'))
ORDER BY CASE WHEN proc.proname = 'array_recv' THEN 1 ELSE 0 END;
-- the fields of composite types
SELECT typ.oid, att.attname FROM pg_type AS typ JOIN pg_attribute AS att ON (att.attrelid = typ.typrelid)
WHERE typ.typtype = 'c' AND attnum > 0 AND NOT attisdropped AND typ.typnamespace = 0 ORDER BY typ.oid, att.attnum;
-- the labels of enums
SELECT oid, enumlabel FROM pg_enum ORDER BY oid, enumsortorder;"""
DISCARD: Final = frame(QUERY, b"DISCARD ALL\0")
RESET: Final = frame(
    QUERY,
    b"SET SESSION AUTHORIZATION DEFAULT;RESET ALL;CLOSE ALL;UNLISTEN *;SELECT pg_advisory_unlock_all();"
    b"DISCARD SEQUENCES;DISCARD TEMP\0",
)
BEGIN: Final = frame(QUERY, b"BEGIN TRANSACTION ISOLATION LEVEL READ COMMITTED\0")
NAMES: Final = "SELECT name FROM projects ORDER BY name"
TEXT: Final = 25
END: Final = frame(SYNC)


def parse(sql: str, types: Sequence[int] = (), name: bytes = b"") -> bytes:
    """A Parse message."""
    oids = b"".join(struct.pack("!I", each) for each in types)
    return frame(PARSE, name + b"\0" + sql.encode() + b"\0" + struct.pack("!H", len(types)) + oids)


def execute(values: Sequence[str] = (), name: bytes = b"", *, describes: bool = True) -> bytes:
    """Bind, Describe, Execute: text here, where Npgsql takes binary forms."""
    given = b"".join(struct.pack("!I", len(each.encode())) + each.encode() for each in values)
    bind = frame(BIND, b"\0" + name + b"\0" + struct.pack("!HH", 0, len(values)) + given + struct.pack("!H", 0))
    return bind + (frame(DESCRIBE, b"P\0") if describes else b"") + frame(EXECUTE, b"\0" + struct.pack("!I", 0))


def once(sql: str, *values: str) -> bytes:
    """A statement without a name."""
    return parse(sql, [TEXT] * len(values)) + execute(values)


@asynccontextmanager
async def connection(seat: Seat, tenant: str = "") -> AsyncIterator[WireClient]:
    """Asks for TLS, logs in, loads types."""
    client = WireClient(*await raw(seat.port))
    try:
        client.send(struct.pack("!II", 8, 80877103))
        assert await client.reader.readexactly(1) == b"N"
        client.send(startup(seat.user, tenant or seat.tenant, client_encoding="UTF8", application_name="matrix"))
        await client.log_in(PASSWORD)
        client.send(frame(QUERY, b"SELECT version();\0") + frame(QUERY, TYPES.encode() + b"\0"))
        assert (await client.answer()).tags == ["SELECT 1"]
        types = await client.answer()
        assert len(types.tags) == 3
        assert len(types.rows) > 100
        yield client
        await client.close()
    finally:
        client.abort()


async def ask(client: WireClient, *messages: bytes, answers: int = 1) -> list[Answer]:
    """One write, that many answers."""
    client.send(b"".join(messages))
    return [await client.answer() for _ in range(answers)]


@pytest.mark.parametrize("reset", [DISCARD, RESET], ids=["discard", "reset"])
async def test_a_reset_before_the_next_command_in_its_write_keeps_the_tenant(reset: bytes, seat: Seat) -> None:
    async with connection(seat) as client:
        await ask(client, frame(QUERY, b"SET TimeZone TO 'Asia/Tokyo'\0"))
        for _ in range(3):
            done, names = await ask(client, reset, once(NAMES), END, answers=2)
            assert not done.errors
            assert not names.errors
            assert [name for (name,) in names.rows] == list(seat.rows)
        (shown,) = await ask(client, once("SELECT current_setting('TimeZone')"), END)
        assert shown.value != "Asia/Tokyo"


async def test_a_statement_prepared_before_a_reset_that_spares_it_is_there(seat: Seat) -> None:
    async with connection(seat, seat.crowded) as client, connection(seat, seat.crowded) as other:
        both = ((client, "1"), (other, "2"))
        for each, number in both:
            sql = f"SELECT name FROM projects WHERE name = $1 AND {number} = {number}"
            (answer,) = await ask(each, parse(sql, [TEXT], b"_p1"), frame(DESCRIBE, b"S_p1\0"), END)
            assert not answer.errors
        for turn in range(3):
            for each, number in both:
                wanted = f"{seat.crowded} {number}"
                done, found = await ask(each, RESET, execute([wanted], b"_p1", describes=False), END, answers=2)
                assert not done.errors
                assert found.value == wanted, turn


async def test_a_batch_is_undone_as_a_whole_and_the_connection_goes_on(seat: Seat) -> None:
    insert = once("INSERT INTO notes (body) VALUES ($1)", "of a batch")
    count = once("SELECT count(*) FROM notes WHERE body = $1", "of a batch")
    async with connection(seat) as client:
        (done,) = await ask(client, insert, insert, count, END)
        assert done.tags == ["INSERT 0 1", "INSERT 0 1", "SELECT 1"]
        assert done.rows[-1] == ["2"]
        (failed,) = await ask(client, insert, once("SELECT 1 / $1::text::int", "0"), count, END)
        assert (failed.sqlstate, failed.status) == ("22012", "I")
        (left,) = await ask(client, count, END)
        assert left.value == "2"
        await ask(client, once("DELETE FROM notes WHERE body = $1", "of a batch"), END)


async def test_a_begin_in_the_write_of_its_first_command_holds_a_transaction(seat: Seat) -> None:
    insert = once("INSERT INTO notes (body) VALUES ($1)", "of a transaction")
    count = once("SELECT count(*) FROM notes WHERE body = $1", "of a transaction")
    async with connection(seat) as client:
        for reset in ((), (DISCARD,)):
            *_, begun, inserted = await ask(client, *reset, BEGIN, insert, END, answers=2 + len(reset))
            assert (begun.status, inserted.tags, inserted.status) == ("T", ["INSERT 0 1"], "T")
            (inside,) = await ask(client, count, END)
            assert inside.value == "1"
            (undone,) = await ask(client, frame(QUERY, b"ROLLBACK\0"))
            assert undone.status == "I"
            (outside,) = await ask(client, count, END)
            assert outside.value == "0"


async def test_a_name_is_closed_and_prepared_again_in_one_pipeline(seat: Seat) -> None:
    """As it does when all places of its automatic statements are taken."""
    async with connection(seat, seat.crowded) as client:
        for turn in range(6):
            sql = f"SELECT name, {turn} FROM projects WHERE name = $1"
            closing = frame(CLOSE, b"S_auto0\0") if turn else b""
            messages = parse(sql, [TEXT], b"_auto0") + execute([f"{seat.crowded} 1"], b"_auto0")
            (answer,) = await ask(client, closing, messages, END)
            assert not answer.errors
            assert answer.rows == [[f"{seat.crowded} 1", str(turn)]]


async def test_a_command_that_is_cancelled_ends_and_the_next_one_runs(seat: Seat) -> None:
    async with connection(seat) as client:
        client.send(once("SELECT pg_sleep(60)::text") + END)
        answering = asyncio.create_task(client.answer())
        while not answering.done():  # PostgreSQL forgets a request that comes before its statement
            await cancel(seat.port, client.pid, client.secret)
        assert (await answering).sqlstate == "57014"
        (answer,) = await ask(client, once(NAMES), END)
        assert [name for (name,) in answer.rows] == list(seat.rows)
