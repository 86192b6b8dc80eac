"""What if clients are slow to speak, slow to read, or die in the middle?"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time

import psutil  # type: ignore[import-untyped]
import pytest

from tenantproxy.raw.exchange import SYNC_NOW, query, statement
from tenantproxy.sidecar.pg.relay import Relay
from tenantproxy.wire.frames import COPY_DATA, frame
from tests.fault.conftest import Figure
from tests.support.database import Database
from tests.support.faults import frozen
from tests.support.port_house import PortHouse, a_port
from tests.support.waiting import SLACK, until
from tests.support.wire_client import PASSWORD, Refused, WireClient, raw, startup
from tests.support.world import World

COUNT = "SELECT count(*) FROM projects"
MEGABYTE = 2**20
BIG = "SELECT repeat('x', 100000) FROM generate_series(1, 10000)"  # a gigabyte
USERS = ("all", "session")


def memory() -> int:
    return int(psutil.Process().memory_info().rss)


# --- slow to speak ---------------------------------------------------------------------------------------------------
async def test_strangers_that_send_a_byte_now_and_then_are_ended_in_time_and_others_come_in_meanwhile(
    lasting: World, figure: Figure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tenantproxy.sidecar.pg.login.LOGIN_SECONDS", 4.0)
    hello = startup("all", "row1", application_name="x" * 200)
    async with a_port(lasting) as house:
        before, began = memory(), time.monotonic()
        strangers = [await raw(house.number) for _ in range(200)]
        came = time.monotonic() - began
        ended = 0

        async def dribble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal ended
            at = 0
            end = asyncio.ensure_future(reader.read())
            while not end.done() and at < len(hello) - 1:
                writer.write(hello[at : at + 1])
                at += 1
                await asyncio.wait([end], timeout=0.5)
            await asyncio.wait([end])
            end.exception()
            ended += 1
            writer.transport.abort()

        slow = [asyncio.create_task(dribble(*each)) for each in strangers]
        while ended < len(slow):
            async with house.a_client("row1") as client:
                assert (await client.query(COUNT)).value == "3"
        await asyncio.gather(*slow)
        figure("seconds", time.monotonic() - began)
        figure("megabytes", (memory() - before) / MEGABYTE)
        assert not house.listener._startups
        assert time.monotonic() - began < came + 4.0 + SLACK * 3
        assert memory() - before < 60 * MEGABYTE


async def test_a_login_whose_server_takes_too_long_is_told_so(lasting: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tenantproxy.sidecar.pg.login.LOGIN_SECONDS", 3.0)
    async with a_port(lasting, pools={"max_size": 1, "acquire_timeout": 40.0}) as house:
        holder = await house.client("database1")
        await holder.query("BEGIN")
        with pytest.raises(Refused) as refused:
            await house.client("database1", application_name="one that no client had before")
        assert refused.value.sqlstate == "53300"
        assert "login" in refused.value.fields["M"]
        assert house.pool("database1").stats().waiting == 0


async def test_a_client_that_is_slow_in_the_middle_of_a_message_holds_no_backend(lasting: World) -> None:
    async with a_port(lasting, pools={"shared_size": 1}) as house:
        slow, other = await house.client("row1"), await house.client("row2")
        message = statement("SELECT $1::text", [b"slow"]) + SYNC_NOW
        slow.send(message[:12])
        for _ in range(3):
            assert (await other.query(COUNT)).value == "3"
        slow.send(message[12:])
        assert (await slow.answer()).value == "slow"


async def test_a_client_that_says_much_while_it_waits_is_not_read_any_further(lasting: World, figure: Figure) -> None:
    async with a_port(lasting, pools={"max_size": 1, "acquire_timeout": 40.0}) as house:
        holder, eager = await house.client("database1"), await house.client("database1")
        await holder.query("BEGIN")
        before, count = memory(), 2000
        for _ in range(count):
            eager.send(query(f"SELECT 1 -- {'x' * 5000}"))
        await until(lambda: _relay(house, eager)._forwarder.inbox.is_paused, "it is not read any more")
        figure("megabytes", (memory() - before) / MEGABYTE)
        assert _relay(house, eager)._forwarder.inbox.size < MEGABYTE
        await holder.query("COMMIT")
        for _ in range(count):
            assert (await eager.answer()).value == "1"


# --- slow to read ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("user", USERS)
async def test_a_big_result_that_nobody_reads_stays_at_the_server_and_others_are_served(
    lasting: World, figure: Figure, user: str
) -> None:
    async with a_port(lasting, pools={"shared_size": 3}) as house:
        readers = [await house.client("row1", user, receive_buffer=4096) for _ in range(2)]
        before = memory()
        for reader in readers:
            reader.send(query(BIG))
        await until(lambda: _paused(house) == 2, "the server is not read any more")
        other = await house.client("row2")
        for _ in range(20):
            assert (await other.query(COUNT)).value == "3"
        figure("megabytes", (memory() - before) / MEGABYTE)
        assert memory() - before < 40 * MEGABYTE
        for _ in range(50):  # it goes on as it is read
            kind, _ = await readers[0].message()
            assert chr(kind) in "TD"


def _paused(house: PortHouse) -> int:
    return sum(one.is_paused for one in house.lending.backends())


@pytest.mark.parametrize("user", USERS)
async def test_a_result_that_is_read_late_is_whole(lasting: World, user: str) -> None:
    async with a_port(lasting, pools={"shared_size": 1}) as house:
        client = await house.client("row1", user, receive_buffer=4096)
        client.send(query("SELECT n, repeat('x', 1000) FROM generate_series(1, 8000) AS n"))
        await until(lambda: _paused(house), "the server is not read any more")
        rows = (await client.answer()).rows
        assert [row[0] for row in rows] == [str(n) for n in range(1, 8001)]
        assert not _paused(house)


async def test_a_client_that_is_ended_while_it_reads_nothing_keeps_no_connection(
    lasting: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tenantproxy.sidecar.pg.relay._LINGER_SECONDS", 0.5)
    async with a_port(lasting) as house:
        client = await house.client("row1", receive_buffer=4096)
        relay, gone = _relay(house, client), asyncio.Event()
        monkeypatch.setattr(Relay, "connection_lost", lambda lost, _: gone.set() if lost is relay else None)
        client.send(query(BIG))
        await until(lambda: _paused(house), "the server is not read any more")
        relay.kill()
        await until(gone.is_set, "its connection is closed")


@pytest.mark.both_paths
async def test_a_copy_in_that_the_server_takes_slowly_does_not_pile_up_here(lasting: World, figure: Figure) -> None:
    async with a_port(lasting) as house:
        client = await house.client("database1")
        client.send(query("COPY projects (name) FROM STDIN"))
        await client.message()
        backend = _relay(house, client).backend
        assert backend is not None
        with frozen(backend.pid):
            before = memory()
            data = frame(COPY_DATA, b"never\n" * 10_000)
            sent = 0

            async def send() -> None:
                nonlocal sent
                while sent < 64 * MEGABYTE:
                    client.send(data)
                    await client.writer.drain()
                    sent += len(data)

            sending = asyncio.create_task(send())
            await until(lambda: _relay(house, client)._forwarder.inbox.is_paused, "the client is not read any more")
            figure("megabytes_of_memory", (memory() - before) / MEGABYTE)
            assert memory() - before < 30 * MEGABYTE
            assert not sending.done()
            sending.cancel()
            await asyncio.wait([sending])
        client.abort()
        await until(lambda: house.is_quiet, "its backend is ended")
        async with house.a_client("database1") as after:
            assert (await after.query(COUNT)).value == "3"


def _relay(house: PortHouse, client: WireClient) -> Relay:
    relay = house.listener._clients[client.pid].relay
    assert relay is not None
    return relay


# --- dying -----------------------------------------------------------------------------------------------------------
DIES = """
import sys, psycopg
port, user, password, tenant, insert, where = sys.argv[1:]
conn = psycopg.connect(host="127.0.0.1", port=port, user=user, dbname=tenant, password=password, sslmode="disable")
conn.execute("SET work_mem = '77kB'")
conn.execute("SELECT pg_advisory_xact_lock(4711)")
conn.execute(insert)
if where == "copy":
    with conn.cursor().copy("COPY projects (name) FROM STDIN") as copy:
        copy.write(b"left behind\\n" * 10000)
        print("ready", flush=True)
        sys.stdin.read()
print("ready", flush=True)
if where == "query":
    conn.execute("SELECT pg_sleep(60)")
sys.stdin.read()
"""
INSERTS = {
    "row1": "INSERT INTO projects (tenant_id, name) VALUES ('row1', 'left behind')",
    "database1": "INSERT INTO projects (name) VALUES ('left behind')",
}


@pytest.mark.parametrize(
    ("tenant", "next_tenant", "where"),
    [("row1", "row2", "idle"), ("row1", "row2", "query"), ("database1", "database1", "copy")],
    ids=["idle", "query", "copy"],
)
@pytest.mark.parametrize("user", USERS)
async def test_a_client_process_that_is_killed_in_its_transaction_leaves_nothing(
    lasting: World, figure: Figure, user: str, tenant: str, next_tenant: str, where: str
) -> None:
    async with a_port(lasting, pools={"shared_size": 1, "max_size": 1}) as house:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", DIES, str(house.number), user, PASSWORD, tenant, INSERTS[tenant], where,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        try:
            assert process.stdout is not None
            assert (await process.stdout.readline()).strip() == b"ready"
            if where == "query":
                await until(lambda: _is_asleep(lasting), "its query runs")
        finally:
            process.kill()
            killed_at = time.monotonic()
            await process.wait()
        next_one = await house.client(next_tenant)
        assert (await next_one.query(COUNT)).value == "3"
        figure("seconds_until_the_next_is_served", time.monotonic() - killed_at)
        assert time.monotonic() - killed_at < 5.0 + SLACK
        state = "SELECT current_setting('work_mem') = '77kB', (SELECT count(*) FROM pg_locks WHERE objid = 4711)"
        assert (await next_one.query(state)).rows == [["f", "0"]]
        await next_one.close()
        async with house.a_client(tenant) as again:
            assert (await again.query("SELECT count(*) FROM projects WHERE name = 'left behind'")).value == "0"


async def _is_asleep(world: World) -> bool:
    async with Database(server=world.server, name="postgres").connect() as admin:
        return bool(await admin.fetchval("SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep')"))
