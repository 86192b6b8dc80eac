"""Does the model of a server, by which the relay is judged, answer as PostgreSQL does? The same bytes to both."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Final

import pytest

from tenantproxy.wire import frames
from tenantproxy.wire.frames import HEADER, frame, length_of
from tests.integration.test_when_ready import STRUCK
from tests.support import model_server as pg
from tests.support.database import Database
from tests.support.model_server import SYNC, ModelServer
from tests.support.wire_client import WireClient, raw, startup

SQL: Final = {
    b"rows 1": b"SELECT 1",
    b"rows 3": b"SELECT generate_series(1, 3)",
    b"fail": b"SELECT 1 / (random() * 0)::int",
    b"bad": b"SELEC 1",
    b"begin": b"BEGIN",
    b"commit": b"COMMIT",
    b"rollback": b"ROLLBACK",
    b"copy in": b"COPY taken FROM STDIN",
    b"copy out": b"COPY (SELECT 1) TO STDOUT",
    b"SET": b"SET work_mem = '5MB'",
    b"": b"",
    b"DEALLOCATE a": b"DEALLOCATE a",
    b"DEALLOCATE ALL": b"DEALLOCATE ALL",
}
ONCE: Final = [text for text in SQL if text != b"copy in"]
NAMES: Final = (b"a", b"b", b"")
ROUNDS: Final = 300
FUNCTION: Final = frame(frames.FUNCTION_CALL, b"\0\0\7\xea\0\0\0\0\0\0")  # pg_backend_pid()
NOT_COMPARED: Final = b"TnNSA"  # a simple query describes its rows; notices and reports
Both = tuple[bytes, bytes]


def both(make: Callable[[bytes], bytes], text: bytes) -> Both:
    """For the model, for PostgreSQL."""
    return make(text), make(b";".join(SQL[each] for each in text.split(b";")))


def messages(rng: random.Random) -> Both:
    """Some of one segment."""
    name, text = rng.choice(NAMES), rng.choice(ONCE)
    parsed = both(lambda sql: pg.parse(name, sql), text)
    same = rng.choice(
        (
            pg.run(name),
            pg.describe(name),
            pg.close(name),
            pg.FLUSH,
            pg.data(),
            pg.DONE,
            pg.fail(),
            frame(frames.FLUSH, b"x"),
        )
    )
    kind = rng.randrange(6)
    if kind < 2:
        return same, same
    if kind < 3:
        return parsed
    if kind < 5:
        return parsed[0] + pg.run(name), parsed[1] + pg.run(name)
    return both(pg.query, rng.choice(ONCE)) if rng.random() < 0.3 else (pg.describe(name), pg.describe(name))


def segment(rng: random.Random) -> Both:
    """What a client may send in one go. A COPY is ended in it, or goes wrong in it."""
    kind = rng.randrange(10)
    end = rng.choice((pg.DONE, pg.data(b"wrong\n"), pg.fail(), pg.data() + pg.DONE, pg.query(b""), pg.run()))
    if kind < 5:
        parts = [messages(rng) for _ in range(rng.randrange(5))]
        return b"".join(part[0] for part in parts) + SYNC, b"".join(part[1] for part in parts) + SYNC
    if kind < 7:
        return both(pg.query, b";".join(rng.choice(ONCE) for _ in range(rng.choice((1, 1, 1, 3)))))
    if kind < 8:
        return pg.function(), FUNCTION
    copying = pg.data() * rng.randrange(3) + rng.choice((b"", SYNC, pg.FLUSH)) + end
    if kind < 9:
        model, real = both(pg.query, rng.choice((b"copy in", b"copy in;rows 1", b"rows 1;copy in;fail")))
        return model + copying, real + copying
    model, real = both(lambda sql: pg.parse(b"", sql) + pg.run(), b"copy in")
    return model + SYNC + copying + SYNC, real + SYNC + copying + SYNC


def kinds_of(data: bytes) -> str:
    found = ""
    while data:
        length = length_of(data, 0)
        if data[0] not in NOT_COMPARED:
            found += chr(data[0]) + (data[HEADER:length].decode() if data[0] == frames.READY else "")
        data = data[length:]
    return found


async def heard(client: WireClient) -> str:
    """All up to the answer to the last query, which tells that there is no more; or up to the end."""
    found = b""
    while b"the end" not in found:
        try:
            kind, payload = await client.message()
        except (asyncio.IncompleteReadError, ConnectionError):
            return kinds_of(found)
        found += frame(kind, payload)
    await client.answer()
    return kinds_of(found[: found.rindex(b"T\0\0\0")])


@pytest.mark.parametrize("seed", range(2))
async def test_random_segments_are_answered_alike(each_database: Database, seed: int) -> None:
    rng, server = random.Random(seed), each_database.server
    async with each_database.connect() as admin:
        await admin.execute("CREATE TABLE taken (n int)")
    client: WireClient | None = None
    model = ModelServer()
    for number in range(ROUNDS):
        if client is None:
            client, model = WireClient(*await raw(server.port)), ModelServer(is_18=server.version >= 18)
            client.send(startup(server.superuser, each_database.name))
            await client.log_in(server.password)
        parts = [segment(rng) for _ in range(rng.choice((1, 1, 2, 4)))]
        tail = SYNC + pg.query(b"rollback")
        client.send(b"".join(part[1] for part in parts) + tail + pg.query(b"SELECT 'the end'"))
        expected = kinds_of(model.feed(b"".join(part[0] for part in parts) + tail))
        said = await heard(client)
        assert said == expected, (number, [part[0] for part in parts])
        if model.is_closed:
            client.abort()
            client = None
    if client is not None:
        client.abort()


def test_a_timeout_strikes_the_model_as_it_strikes_postgresql() -> None:
    for name, (sent, expected) in STRUCK.items():
        model = ModelServer()
        answered = model.feed(pg.parse(b"", b"rows 1") + pg.FLUSH)
        model.pass_time()
        answered += model.feed(sent.replace(b"SELECT 1", b"rows 1") if sent[0] != frames.QUERY else pg.query(b"rows 1"))
        answered += model.feed(SYNC)
        assert kinds_of(answered).replace("ZI", "Z") == expected + "Z", name
