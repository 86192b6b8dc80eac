"""Are clients of the PostgreSQL port served through a PgBouncer that the configuration names? By drivers and bytes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import psycopg
import pytest
import pytest_asyncio

from tenantproxy import Router
from tenantproxy.config import SqlSettings
from tenantproxy.embedded import EmbeddedPostgres
from tenantproxy.model import Isolation, Tenant
from tenantproxy.raw.exchange import parse, query, run
from tenantproxy.registry import MemoryRegistry
from tenantproxy.sidecar.auth import AuthDesk
from tenantproxy.sidecar.pg import PgPort
from tenantproxy.wire import frames
from tenantproxy.wire.frames import frame
from tests.integration.test_behind_pooler import names, sleepers, through
from tests.support.pooler import PGBOUNCER, PgBouncer, a_pooler
from tests.support.port_house import users
from tests.support.sql_house import a_sql_client
from tests.support.waiting import until
from tests.support.wire_client import PASSWORD, Refused, WireClient, cancel
from tests.support.world import World, a_world

pytestmark = pytest.mark.skipif(PGBOUNCER is None, reason="apt-get install pgbouncer")
NAMES = "SELECT name FROM projects ORDER BY 1"
SYNC = frame(frames.SYNC)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lasting(postgres: EmbeddedPostgres) -> AsyncIterator[World]:
    async with a_world(postgres) as made:
        async with made.shared.connect() as admin:
            for role in ("of_schema1", "of_schema2"):
                await admin.execute(f"ALTER ROLE {role} IN DATABASE {made.shared.name} SET search_path = ''")
        yield made


@pytest.fixture(scope="module")
def pooler(postgres: EmbeddedPostgres) -> Any:
    with a_pooler(postgres, default_pool_size=1) as made:
        yield made


@asynccontextmanager
async def a_port(world: World, way: Any, **keys: Any) -> AsyncIterator[int]:
    """Where the tenants of `world` are served, whose server is at the port of `way`."""
    settings = through(world, way.port, pg={"listen": "127.0.0.1:0", "users": users()}, **keys)
    async with Router(settings, registry=MemoryRegistry(world.tenants)) as router:
        desk = AuthDesk(router)
        port = PgPort(router, desk, drain_timeout=1.0, version="of the tests")
        await port.open()
        try:
            yield port.listener.address[1]
        finally:
            await port.close()
            await desk.close()


@asynccontextmanager
async def a_client(port: int, tenant: Tenant) -> AsyncIterator[WireClient]:
    client = await WireClient.connect(port, tenant.id, "all")
    try:
        yield client
    finally:
        client.abort()


def by_asyncpg(port: int, tenant: Tenant, **options: Any) -> Any:
    return asyncpg.connect(
        host="127.0.0.1", port=port, user="all", password=PASSWORD, database=tenant.id, ssl=False, **options
    )


async def test_requests_of_sql_over_http_are_transactions_of_their_tenant(lasting: World, pooler: PgBouncer) -> None:
    """On the pooler's only connection, with clients that go and batches that fail."""
    settings = through(lasting, pooler.port, pg={"listen": "", "users": users()})
    settings = settings.model_copy(update={"sql": SqlSettings(enabled=True)})
    async with Router(settings, registry=MemoryRegistry(lasting.tenants)) as router:
        port = PgPort(router, AuthDesk(router), drain_timeout=1.0, version="of the tests")
        await port.open()
        async with a_sql_client(port, router) as client:
            for _ in range(2):
                for tenant in lasting.tenants:
                    found = await client.ask(NAMES, tenant=tenant.id)
                    assert [name for (name,) in found.rows] == names(tenant)
                    failed = await client.batch(NAMES, "SELECT 1/0", tenant=tenant.id)
                    assert failed.code == "22012"
                    modes = {"Neon-Batch-Isolation-Level": "Serializable", "Neon-Batch-Read-Only": "true"}
                    batch = await client.batch(NAMES, "SHOW transaction_isolation", tenant=tenant.id, headers=modes)
                    own, level = (each["rows"] for each in batch.body["results"])
                    assert [name for (name,) in own] == names(tenant)
                    assert level == [["serializable"]]
                    assert (await client.ask("SELECT 1; SELECT 2", tenant=tenant.id)).code == "42601"
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):
                    await client.ask("SELECT pg_sleep(60)", tenant=lasting.tenants[0].id)
            assert (await client.ask("SELECT 1", tenant=lasting.tenants[0].id)).value == "1"
        await port.close()


@pytest.mark.parametrize("kind", list(Isolation))
async def test_simple_and_extended_clients_of_tenants_alternate(
    lasting: World, pooler: PgBouncer, kind: Isolation
) -> None:
    async with a_port(lasting, pooler) as port:
        for _ in range(2):
            for tenant in lasting.of(kind):
                conn = await by_asyncpg(port, tenant)
                for _ in range(3):
                    assert [row["name"] for row in await conn.fetch(NAMES)] == names(tenant)  # prepared by name
                assert await conn.execute("SELECT 1; " + NAMES) == "SELECT 3"
                async with conn.transaction(isolation="serializable", readonly=True):
                    assert await conn.fetchval("SHOW transaction_isolation") == "serializable"
                    assert await conn.fetchval("SHOW transaction_read_only") == "on"
                    assert len(await conn.fetch("SELECT name FROM projects WHERE name <> $1", "none")) == 3
                await conn.close()


def prepared(name: str, sql: str) -> bytes:
    return parse(sql, [], name.encode())


def executed(name: str = "", *, rows: int = 0) -> bytes:
    bound = frame(frames.BIND, b"\0" + name.encode() + b"\0" + bytes(6))
    return bound + frame(frames.EXECUTE, b"\0" + rows.to_bytes(4, "big"))


def described(name: str) -> bytes:
    return frame(frames.DESCRIBE, b"S" + name.encode() + b"\0")


def closed(name: str) -> bytes:
    return frame(frames.CLOSE, b"S" + name.encode() + b"\0")


COPY = b"".join(frame(frames.COPY_DATA, line) for line in (b"a\n", b"b\n")) + frame(frames.COPY_DONE)
# Each is one write; after it as many answers are read as it has of Sync and Query.
SCRIPTS: dict[str, list[bytes]] = {
    "single": [query("SELECT 1"), query("SELECT 2; SELECT 3"), query(""), query(";"), query("SELECT 1/0")],
    "a block": [query("BEGIN"), query("INSERT INTO t VALUES (1)"), query("SELECT * FROM t"), query("COMMIT")],
    "a block undone": [query("BEGIN"), query("INSERT INTO t VALUES (2)"), query("ROLLBACK"), query("SELECT * FROM t")],
    "a failed block": [query("BEGIN"), query("SELECT 1/0"), query("SELECT 1"), query("COMMIT"), query("SELECT 4")],
    "a block in one text": [query("BEGIN; INSERT INTO t VALUES (3); COMMIT"), query("SELECT * FROM t")],
    "a block that a text begins": [query("BEGIN; SELECT 1"), query("SELECT 2"), query("SELECT 1; COMMIT")],
    "an implicit block": [query("INSERT INTO t VALUES (4); SELECT 1/0"), query("SELECT count(*) FROM t WHERE a = 4")],
    "modes": [query("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY"), query("SHOW transaction_isolation"),
              query("DELETE FROM t"), query("ROLLBACK"), query("START TRANSACTION READ WRITE"), query("COMMIT")],
    "modes by a statement": [prepared("", "BEGIN ISOLATION LEVEL SERIALIZABLE") + executed() + SYNC,
                             prepared("", "SHOW transaction_isolation") + executed() + SYNC,
                             prepared("", "COMMIT") + executed() + SYNC],
    "savepoints": [query("BEGIN"), query("SAVEPOINT a"), query("SELECT 1/0"), query("ROLLBACK TO a"), query("SELECT 5"),
                   query("RELEASE a"), query("COMMIT")],
    "deferred": [query("INSERT INTO d VALUES (1, 9)"), query("SELECT count(*) FROM d"),
                 prepared("", "INSERT INTO d VALUES (1, 9)") + executed() + SYNC, query("SELECT count(*) FROM d")],
    "extended": [prepared("", "SELECT 1") + described("") + executed() + SYNC,
                 prepared("", "SELECT 1/0") + executed() + prepared("", "SELECT 2") + executed() + SYNC,
                 query("SELECT 6")],
    "names": [prepared("a", "SELECT 1") + prepared("b", "SELECT 2") + SYNC, executed("a") + executed("b") + SYNC,
              executed("b") + executed("a") + executed("a") + SYNC, described("b") + executed("a") + SYNC,
              closed("a") + SYNC, executed("b") + SYNC, executed("a") + SYNC, executed("b") + SYNC,
              closed("b") + prepared("b", "SELECT 3") + executed("b") + SYNC, executed("b") + SYNC],
    "names in a block": [query("BEGIN"), prepared("a", "SELECT 1") + SYNC, prepared("b", "SELECT 2") + SYNC,
                         executed("a") + executed("b") + SYNC, query("COMMIT"), executed("a") + SYNC],
    "the unnamed one": [prepared("", "SELECT 7") + SYNC, executed() + SYNC, query("SELECT 1"), executed() + SYNC],
    "pipelined": [prepared("", "INSERT INTO t VALUES (8)") + executed() + SYNC
                  + prepared("", "SELECT 1/0") + executed() + SYNC
                  + prepared("", "SELECT count(*) FROM t WHERE a = 8") + executed() + SYNC,
                  query("SELECT 1") + query("BEGIN") + query("SELECT 2") + query("COMMIT") + query("SELECT 3")],
    "portals": [query("BEGIN"), prepared("", "SELECT generate_series(1, 5)") + executed(rows=2)
                + frame(frames.EXECUTE, b"\0" + (2).to_bytes(4, "big")) + SYNC, query("COMMIT"),
                prepared("", "SELECT generate_series(1, 5)") + executed(rows=2) + SYNC,
                frame(frames.EXECUTE, b"\0" + bytes(4)) + SYNC],
    "cursors": [query("BEGIN"), query("DECLARE c CURSOR FOR SELECT generate_series(1, 5)"), query("FETCH 2 FROM c"),
                query("COMMIT"), query("FETCH 2 FROM c")],
    "copy out": [query("COPY (SELECT generate_series(1, 3)) TO STDOUT"), query("SELECT 1")],
    "copy in": [query("COPY c FROM STDIN") + COPY, query("SELECT count(*) FROM c"),
                prepared("", "COPY c FROM STDIN") + executed() + COPY + SYNC, query("SELECT count(*) FROM c")],
    "failed copy": [query("COPY c FROM STDIN") + frame(frames.COPY_FAIL, b"no\0"), query("SELECT count(*) FROM c")],
    "large": [query("SELECT repeat('x', 300000)"), query(f"SELECT length('{'y' * 200000}')"),
              parse("SELECT length($1)", [25]) + run([b"z" * 200000]) + SYNC],
    "settings": [query("SET timezone = 'Asia/Tokyo'"), query("SHOW timezone"), query("BEGIN"),
                 query("SET LOCAL timezone = 'UTC'"), query("COMMIT"), query("SHOW timezone"), query("RESET timezone"),
                 query("SHOW timezone"), query("SET application_name = 'mine'"), query("SHOW application_name"),
                 query("SET work_mem = '5MB'"), query("SHOW work_mem")],
    "settings in a block": [query("BEGIN"), query("SET timezone = 'Asia/Tokyo'"), query("ROLLBACK"),
                            query("SHOW timezone"), query("BEGIN"), query("SET DateStyle = 'German'"), query("COMMIT"),
                            query("SELECT '2024-01-02'::date")],
    "errors of the protocol": [executed("nothing") + SYNC, query("SELECT 1"), described("b") + SYNC,
                               prepared("a", "SELECT 1") + executed() + SYNC, executed("a") + SYNC],
}  # fmt: skip


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("kind", [Isolation.DATABASE, Isolation.SCHEMA])
async def test_a_client_is_answered_as_without_the_pooler(
    lasting: World, pooler: PgBouncer, script: str, kind: Isolation
) -> None:
    """Byte by byte the same kinds of messages, rows, tags, errors and states; and the settings that it was told."""
    tenant = lasting.of(kind)[0]
    heard = []
    direct = type("Direct", (), {"port": lasting.server.port})
    for way, keys in ((direct, {"pooler": ""}), (pooler, {})):
        async with lasting.database(tenant).connect() as admin:
            schema = tenant.placement.schema or "public"
            await admin.execute(
                f"SET search_path = {schema}; DROP TABLE IF EXISTS t, c, d;"
                f" CREATE TABLE t (a int); CREATE TABLE c (b text);"
                f" CREATE TABLE d (id int PRIMARY KEY, of int REFERENCES d DEFERRABLE INITIALLY DEFERRED);"
                f" GRANT ALL ON t, c, d TO {lasting.role_of(tenant)}"
            )
        async with a_port(lasting, way, **keys) as port, a_client(port, tenant) as client:
            answers: list[Any] = []
            for write in SCRIPTS[script]:
                client.send(write)
                for _ in range(ends_in(write)):
                    one = await client.answer()
                    answers.append(
                        (bytes(one.kinds), one.rows, one.tags, [each["C"] for each in one.errors], one.status)
                    )
            notices = [each["C"] for each in client.notices]
            heard.append((answers, notices, {k: v for k, v in client.parameters.items() if k != "is_superuser"}))
    for without, behind in zip(heard[0][0], heard[1][0], strict=True):
        assert behind == without
    assert heard[1][1:] == heard[0][1:]


def ends_in(data: bytes) -> int:
    at, ends = 0, 0
    while at < len(data):
        ends += data[at] in (frames.QUERY, frames.SYNC)
        at += 1 + int.from_bytes(data[at + 1 : at + 5], "big")
    return ends


@pytest.mark.parametrize("kind", [Isolation.ROW, Isolation.SCHEMA])
async def test_no_statement_behind_the_end_of_its_transaction_sees_a_row(
    lasting: World, pooler: PgBouncer, kind: Isolation
) -> None:
    """In a text, hidden in a long text, chained, by a pipeline, in a block that a text begins again."""
    tenant, other = lasting.of(kind)
    hidden = f"SELECT '{'x' * 9000}'"
    async with a_port(lasting, pooler) as port, a_client(port, tenant) as client, a_client(port, other) as neighbour:
        for end in ("COMMIT", "ROLLBACK", "END", "ABORT"):
            await neighbour.query(NAMES)
            for text in (
                f"{end}; {NAMES}",
                f"{end} AND CHAIN; {NAMES}",
                f"{hidden}; {end}; {NAMES}",
                f"{hidden}; {end}; BEGIN; {NAMES}",
                f"{hidden}; {end} AND CHAIN; {NAMES}",
                f"BEGIN; {end}; {NAMES}",
            ):
                answer = await client.query(text)
                assert answer.sqlstate in ("42501", "42P01", "0A000"), (text[-60:], answer)
                assert not any(tenant.id in (row[0] or "") or other.id in (row[0] or "") for row in answer.rows)
                await client.query("ROLLBACK")
            client.send(
                prepared("", NAMES) + executed() + prepared("e", end) + executed("e") + prepared("", NAMES) + executed()
                + SYNC
            )  # fmt: skip
            answer = await client.answer()
            assert len(answer.rows) == 3  # those before it
            assert answer.sqlstate in ("42883", "42501", "42P01")
            # A block of which a text has begun another one: no tenant is left in it.
            answer = await client.query(f"{hidden}; {end}; BEGIN")
            assert answer.status == "T"
            assert (await client.query(NAMES)).sqlstate in ("42501", "42P01")
            await client.query("ROLLBACK")
            answer = await client.query(NAMES)
            assert [row[0] for row in answer.rows] == names(tenant)


async def test_what_needs_a_session_is_refused_in_its_place(lasting: World, pooler: PgBouncer) -> None:
    tenant = lasting.of(Isolation.ROW)[0]
    async with a_port(lasting, pooler) as port, a_client(port, tenant) as client:
        for text in (
            "LISTEN news", "PREPARE p AS SELECT 1", "EXECUTE p", "DEALLOCATE ALL", "DISCARD ALL", "LOAD 'x'",
            "CREATE TEMP TABLE t (a int)", "SELECT pg_advisory_lock(1)", "COMMIT AND CHAIN", "COMMIT; SELECT 1",
            "DECLARE c CURSOR WITH HOLD FOR SELECT 1", "SET app.x = '4'", "SELECT 1; LISTEN news",
        ):  # fmt: skip
            for write in (query(text), prepared("", text) + executed() + SYNC):
                if ";" in text and write[0] != frames.QUERY:
                    continue
                client.send(write)
                answer = await client.answer()
                assert answer.sqlstate == "0A000", (text, answer)
                assert answer.errors[0]["H"]
                assert answer.status == "I"
                assert [row[0] for row in (await client.query(NAMES)).rows] == names(tenant)
        with pytest.raises(Refused) as caught:
            await WireClient.connect(port, tenant.id, "session")
        assert "pool_mode" in caught.value.fields["H"]


async def test_equal_names_of_statements_of_two_tenants_are_two(lasting: World, pooler: PgBouncer) -> None:
    tenant, other = lasting.of(Isolation.ROW)
    async with a_port(lasting, pooler) as port, a_client(port, tenant) as one, a_client(port, other) as two:
        one.send(prepared("s", "SELECT name || ' of one' FROM projects ORDER BY 1") + SYNC)
        two.send(prepared("s", "SELECT name || ' of two' FROM projects ORDER BY 1") + SYNC)
        await one.answer()
        await two.answer()
        for _ in range(5):
            for client, whose, word in ((one, tenant, "one"), (two, other, "two")):
                client.send(executed("s") + SYNC)
                assert [row[0] for row in (await client.answer()).rows] == [f"{n} of {word}" for n in names(whose)]


async def test_drivers_work_through_the_port_and_the_pooler(lasting: World, pooler: PgBouncer) -> None:
    tenant = lasting.of(Isolation.ROW)[0]
    async with a_port(lasting, pooler) as port:
        dsn = f"host=127.0.0.1 port={port} user=all password={PASSWORD} dbname={tenant.id}"
        async with await psycopg.AsyncConnection.connect(dsn) as conn:
            conn.prepare_threshold = 0
            async with conn.transaction():
                found = await (await conn.execute(NAMES)).fetchall()
            assert [row[0] for row in found] == names(tenant)
            async with conn.pipeline():
                cursors = [await conn.execute("SELECT name FROM projects WHERE name = %s", [n]) for n in names(tenant)]
                assert [(await cursor.fetchone() or ("",))[0] for cursor in cursors] == names(tenant)
            async with conn.cursor("c") as cursor:
                await cursor.execute(NAMES)
                assert [row[0] async for row in cursor] == names(tenant)
            await conn.commit()
        pool = await asyncpg.create_pool(
            host="127.0.0.1", port=port, user="all", password=PASSWORD, database=tenant.id, ssl=False, min_size=2
        )
        async with pool:
            answers = await asyncio.gather(*(pool.fetch(NAMES) for _ in range(20)))
        assert all([row["name"] for row in rows] == names(tenant) for rows in answers)


async def test_a_client_that_cancels_or_leaves_ends_its_statement_on_the_server(
    lasting: World, pooler: PgBouncer
) -> None:
    tenant, other = lasting.of(Isolation.ROW)
    async with a_port(lasting, pooler) as port, a_client(port, other) as neighbour:
        async with a_client(port, tenant) as client:
            client.send(query("SELECT pg_sleep(600)"))
            await until(lambda: sleepers(lasting), "it runs")
            await cancel(port, client.pid, client.secret)
            assert (await client.answer()).sqlstate == "57014"
            assert [row[0] for row in (await neighbour.query(NAMES)).rows] == names(other)
            assert [row[0] for row in (await client.query(NAMES)).rows] == names(tenant)
            client.send(query("SELECT pg_sleep(600)"))
            await until(lambda: sleepers(lasting), "it runs")
        assert [row[0] for row in (await neighbour.query(NAMES)).rows] == names(other)
        assert await sleepers(lasting) == 0


async def test_a_client_that_sends_without_reading_does_not_fill_the_memory(lasting: World, pooler: PgBouncer) -> None:
    tenant = lasting.of(Isolation.DATABASE)[0]
    async with a_port(lasting, pooler) as port, a_client(port, tenant) as client:
        one = parse("SELECT length($1)", [25]) + run([b"z" * 100_000]) + SYNC
        for _ in range(100):
            client.send(one)
        answers = [await client.answer() for _ in range(100)]
        assert all(answer.value == "100000" for answer in answers)


async def test_a_paused_pooler_is_an_error_and_not_the_end_of_the_client(lasting: World) -> None:
    tenant = lasting.of(Isolation.ROW)[0]
    with a_pooler(lasting.server) as paused:
        async with (
            a_port(lasting, paused, connect_timeout=1.0) as port,
            a_client(port, tenant) as client,
            paused.console() as console,
        ):
            assert (await client.query("SELECT 1")).value == "1"
            await console.say("PAUSE")
            answer = await client.query(NAMES)
            assert answer.status == "I"
            assert "paused" in answer.errors[0]["H"]
            await console.say("RESUME")
            assert [row[0] for row in (await client.query(NAMES)).rows] == names(tenant)
