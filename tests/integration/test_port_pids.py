"""Does a process id that the port told a client mean that client, in SQL and in notifications, and no other one?"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import psycopg
import pytest
import pytest_asyncio

from tenantproxy.embedded import EmbeddedPostgres
from tenantproxy.model import Isolation
from tenantproxy.raw.exchange import query
from tenantproxy.sidecar.pg.signals import FIRST_TOLD
from tenantproxy.wire.frames import NOTICE
from tests.support.port_house import PortHouse, a_port, users
from tests.support.waiting import until
from tests.support.wire_client import PASSWORD, Refused, WireClient
from tests.support.world import APP_ROLE, World, a_world

SLEEP = "SELECT pg_sleep(60)"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(postgres: EmbeddedPostgres) -> AsyncIterator[World]:
    async with a_world(postgres, databases=2) as made:
        for tenant in made.of(Isolation.DATABASE):  # what provisioning takes from PUBLIC
            async with made.database(tenant).connect() as admin:
                await admin.execute(
                    "GRANT EXECUTE ON FUNCTION pg_catalog.pg_terminate_backend(int, bigint),"
                    f" pg_catalog.pg_cancel_backend(int) TO {APP_ROLE}"
                )
        yield made


def login(house: PortHouse, user: str, tenant: str = "database1") -> dict[str, Any]:
    return {"host": "127.0.0.1", "port": house.number, "user": user, "password": PASSWORD, "database": tenant}


# --- session mode ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("tenant", ["row1", "schema1", "database1"])
async def test_a_session_is_told_the_process_id_of_its_backend(world: World, tenant: str) -> None:
    async with a_port(world) as house, house.a_client(tenant, "session", TimeZone="Asia/Tokyo") as client:
        assert house.pool(tenant).stats().used == 1, "it has it from its login on"
        assert (await client.query("SELECT pg_backend_pid()")).value == str(client.pid)
        assert (await client.query("SHOW TimeZone")).value == client.parameters["TimeZone"] == "Asia/Tokyo"


async def test_a_session_that_gets_no_backend_in_time_hears_so_at_its_login(world: World) -> None:
    async with a_port(world, pools={"max_size": 1, "acquire_timeout": 0.2}) as house:
        async with house.a_client("database1", "session"):
            with pytest.raises(Refused) as refused:
                await house.client("database1", "session")
            assert refused.value.sqlstate == "53300"
            assert "query_wait_timeout" in refused.value.fields["M"]
        async with house.a_client("database1", "session") as client:
            assert (await client.query("SELECT 1")).value == "1"


async def test_without_the_option_a_session_takes_its_backend_at_its_first_query(world: World) -> None:
    async with a_port(world, pg={"users": users(), "session_backend_at_login": False}) as house:
        async with house.a_client("database1", "session") as client:
            assert house.pool("database1").stats().used == 0
            assert (await client.query("SELECT pg_backend_pid()")).value != str(client.pid)


async def test_a_client_that_leaves_while_it_waits_for_its_session_takes_no_backend(world: World) -> None:
    async with a_port(world, pools={"max_size": 1}) as house:
        async with house.a_client("database1", "session"):
            waiting = asyncio.create_task(house.client("database1", "session"))
            await until(lambda: house.pool("database1").has_waiting, "it waits")
            waiting.cancel()
            await until(lambda: not house.pool("database1").has_waiting, "it has left")
        async with house.a_client("database1", "session") as client:
            assert (await client.query("SELECT 1")).value == "1"


async def test_a_process_id_that_another_servers_client_was_told_is_told_to_no_second_one(world: World) -> None:
    async with a_port(world) as house, house.a_client("database1", "session") as client:
        relay = house.listener._clients[client.pid].relay
        assert relay is not None
        assert house.listener._new_pid(relay.backend) >= FIRST_TOLD
        assert client.pid < FIRST_TOLD


async def test_a_session_ends_another_one_by_its_process_id(world: World) -> None:
    async with a_port(world) as house:
        async with house.a_client("database1", "session") as one, house.a_client("database1", "session") as other:
            assert (await one.query(f"SELECT pg_terminate_backend({other.pid})")).value == "t"
            told = await other.rest()
            assert told.sqlstate == "57P01"


async def test_a_notification_names_the_session_that_sent_it(world: World) -> None:
    async with a_port(world) as house:
        conn = await asyncpg.connect(**login(house, "session"))
        heard: asyncio.Queue[int] = asyncio.Queue()
        await conn.add_listener("here", lambda _, pid, *__: heard.put_nowait(pid))
        async with house.a_client("database1", "session") as other:
            await other.query("NOTIFY here")
            assert await heard.get() == other.pid
            await conn.execute("NOTIFY here")
            assert await heard.get() == conn.get_server_pid()
        await conn.close()


# --- transaction mode ------------------------------------------------------------------------------------------------
async def test_a_notification_of_ones_own_names_what_one_was_told(world: World) -> None:
    async with a_port(world) as house:
        conn = await asyncpg.connect(**login(house, "all"))
        heard: asyncio.Queue[int] = asyncio.Queue()
        await conn.add_listener("here", lambda _, pid, *__: heard.put_nowait(pid))
        await conn.execute("NOTIFY here")
        assert await heard.get() == conn.get_server_pid()
        await conn.close()


async def _psycopg(house: PortHouse, pid: int, function: str) -> Any:
    conn = await psycopg.AsyncConnection.connect(
        **{("dbname" if key == "database" else key): value for key, value in login(house, "all").items()},
        sslmode="disable",
        autocommit=True,
    )
    async with conn:
        row = await (await conn.execute(f"select {function}(%s)", (pid,))).fetchone()
        assert row is not None
        return row[0]


async def _psycopg_binary(house: PortHouse, pid: int, function: str) -> Any:
    conn = await psycopg.AsyncConnection.connect(
        **{("dbname" if key == "database" else key): value for key, value in login(house, "all").items()},
        sslmode="disable",
        autocommit=True,
    )
    async with conn:
        row = await (await conn.execute(f"select {function}(%s)", (pid,), binary=True, prepare=True)).fetchone()
        assert row is not None
        return row[0]


async def _asyncpg(house: PortHouse, pid: int, function: str) -> Any:
    conn = await asyncpg.connect(**login(house, "all"))
    try:
        return await conn.fetchval(f"SELECT {function}($1)", pid)
    finally:
        await conn.close()


async def _uncached(house: PortHouse, pid: int, function: str) -> Any:
    conn = await asyncpg.connect(**login(house, "all"), statement_cache_size=0)
    try:
        async with conn.transaction():
            return await conn.fetchval(f"SELECT {function}($1)", pid)
    finally:
        await conn.close()


async def _simple(house: PortHouse, pid: int, function: str) -> Any:
    async with house.a_client("database1") as client:
        return (await client.query(f"select pg_catalog.{function}({pid});")).value == "t"


WAYS = pytest.mark.parametrize("way", [_simple, _psycopg, _psycopg_binary, _asyncpg, _uncached])


@WAYS
async def test_a_client_is_ended_by_the_process_id_that_it_was_told(world: World, way: Any) -> None:
    async with a_port(world) as house:
        idle, busy = await house.client("database1"), await house.client("database1")
        busy.send(query(SLEEP))
        await until(lambda: house.listener._clients[busy.pid].holds_backend, "it runs")
        for client in (idle, busy):
            assert await way(house, client.pid, "pg_terminate_backend") is True
            told = await client.rest()
            assert (told.sqlstate, told.errors[0]["S"]) == ("57P01", "FATAL")
            await until(lambda pid=client.pid: pid not in house.listener._clients, "it is gone")  # type: ignore[misc]
            assert await way(house, client.pid, "pg_terminate_backend") is False


@WAYS
async def test_what_runs_is_cancelled_by_the_process_id_that_its_client_was_told(world: World, way: Any) -> None:
    async with a_port(world) as house, house.a_client("database1") as busy:
        busy.send(query(SLEEP))
        answer = asyncio.create_task(busy.answer())
        while not answer.done():  # PostgreSQL forgets a request that comes before its statement
            assert await way(house, busy.pid, "pg_cancel_backend") is True
            await asyncio.wait([answer], timeout=0.1)
        assert answer.result().sqlstate == "57014"
        assert (await busy.query("SELECT 1")).value == "1"


async def test_a_client_that_ends_itself_hears_so(world: World) -> None:
    async with a_port(world) as house:
        client = await house.client("database1")
        told = await client.query(f"select pg_terminate_backend({client.pid})")
        assert told.sqlstate == "57P01"
        assert await client.ended()


async def test_a_process_id_of_another_tenant_or_user_is_none_of_the_servers(world: World) -> None:
    everywhere = {"password": PASSWORD, "tenants": "*"}
    async with a_port(world, pg={"users": users(other=everywhere)}) as house:
        strangers = [await house.client("database2"), await house.client("database1", "other")]
        async with house.a_client("database1") as client:
            nobody = await _said_of(client, 2**31 - 1)
            for stranger in strangers:
                for function in ("pg_terminate_backend", "pg_cancel_backend"):
                    assert await _said_of(client, stranger.pid, function) == nobody
                assert (await stranger.query("SELECT 1")).value == "1"


async def _said_of(client: WireClient, pid: int, function: str = "pg_terminate_backend") -> bytes:
    """All bytes of the answer, without the id and the function's name."""
    client.send(query(f"SELECT {function}({pid})"))
    said = b""
    while not said.endswith(b"I"):
        kind, payload = await client.message()
        said += bytes([kind]) + payload
    return said.replace(str(pid).encode(), b"PID").replace(function.encode(), b"function")


@pytest.mark.parametrize("sql", ["SELECT pg_terminate_backend({0}), 1", "SELECT pg_terminate_backend({0}) AS x"])
async def test_what_is_not_alone_in_its_statement_is_the_servers(world: World, sql: str) -> None:
    async with a_port(world) as house, house.a_client("database1") as idle, house.a_client("database1") as client:
        assert (await client.query(sql.format(idle.pid))).value == "f"
        assert (await idle.query("SELECT 1")).value == "1"


async def test_a_tenant_that_may_not_signal_on_its_server_may_not_here(world: World) -> None:
    async with a_port(world) as house, house.a_client("row1") as idle, house.a_client("row1") as client:
        assert (await client.query(f"SELECT pg_terminate_backend({idle.pid})")).sqlstate == "42501"
        assert (await idle.query("SELECT 1")).value == "1"


async def test_no_secret_that_cancels_follows_from_a_process_id(world: World) -> None:
    async with a_port(world) as house:
        clients = [await house.client("database1", user) for user in ("all", "session") * 3]
        assert len({client.secret for client in clients}) == len(clients)
        assert len({client.pid for client in clients}) == len(clients)
        for client in clients:
            assert client.pid.to_bytes(4, "big") != client.secret


# --- one statement, many signals -------------------------------------------------------------------------------------
UNUSED_PID = 2_000_000_000


@pytest.mark.parametrize(
    ("sql", "rows"),
    [
        (f"SELECT pg_cancel_backend(n) FROM generate_series({UNUSED_PID}, {UNUSED_PID} + 9999) AS n", 10_000),
        (f"SELECT pg_cancel_backend({UNUSED_PID});" * 2000, 2000),
    ],
    ids=["one statement", "many"],
)
async def test_thousands_of_signals_to_nobody_end_no_client(world: World, sql: str, rows: int) -> None:
    async with a_port(world) as house, house.a_client("database1") as client:
        answer = await client.query(sql)
        assert (answer.errors, answer.status, answer.kinds.count(NOTICE)) == ([], "I", rows)
        assert answer.rows == [["f"]] * rows


async def test_many_signals_to_one_client_in_one_query_are_all_true(world: World) -> None:
    async with a_port(world) as house, house.a_client("database1") as client, house.a_client("database1") as other:
        answer = await client.query(f"SELECT pg_cancel_backend({other.pid});" * 90)
        assert (answer.errors, answer.rows) == ([], [["t"]] * 90)
