"""What do bad clients of SQL over HTTP do to others? Oversized, slow, malformed, gone in each state."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from functools import partial

import aiohttp
import pytest

from tenantproxy.model import tenant_id
from tenantproxy.sidecar.sql.door import _settle
from tenantproxy.sidecar.sql.kept import Kept
from tenantproxy.sidecar.sql.request import reading_request
from tenantproxy.sidecar.sql.run import SqlRun
from tenantproxy.slices import found_in_slices
from tenantproxy.wire.memory import TenantMemory
from tests.support.sql_house import SqlHouse, a_sql_house, connection_string
from tests.support.waiting import until
from tests.support.world import World

pytestmark = pytest.mark.asyncio

HEADERS = {"Host": "x", "Neon-Connection-String": connection_string("row1"), "Neon-Array-Mode": "true"}


async def connected(house: SqlHouse) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = house.listener.url.removeprefix("http://").split(":")
    return await asyncio.open_connection(host, int(port))


def head(*more: str, **headers: str) -> bytes:
    lines = [f"{name}: {value}" for name, value in (HEADERS | headers).items()]
    return "\r\n".join(["POST /sql HTTP/1.1", *lines, *more, "", ""]).encode()


def request(query: str, tenant: str = "row1") -> bytes:
    body = json.dumps({"query": query}).encode()
    return head(f"Content-Length: {len(body)}", **{"Neon-Connection-String": connection_string(tenant)}) + body


async def answered(house: SqlHouse, sent: bytes | Sequence[bytes]) -> bytes:
    reader, writer = await connected(house)
    for part in [sent] if isinstance(sent, bytes) else sent:
        writer.write(part)
        await writer.drain()
    line = await reader.readline()
    writer.close()
    return line


async def test_what_is_no_request_is_refused_and_others_are_served(lasting: World) -> None:
    async with a_sql_house(lasting) as house:
        body = b'{"query":"SELECT 1"}'
        both = head(f"Content-Length: {len(body)}", "Transfer-Encoding: chunked") + b"0\r\n\r\n"
        assert b" 400 " in await answered(house, both)
        assert b" 431 " in await answered(house, head(**{f"X-{n}": "y" * 4000 for n in range(5)}))
        assert b" 431 " in await answered(house, head(f"X-Long: {'z' * 9000}"))
        assert b" 405 " in await answered(house, b"GET /sql HTTP/1.1\r\nHost: x\r\n\r\n")
        cut = [
            head("Transfer-Encoding: chunked"),
            b'8\r\n{"query"\r\n',
            b'b\r\n:"SELECT 1"\r\n',
            b"1\r\n}\r\n0\r\n\r\n",
        ]
        assert b" 200 " in await answered(house, cut)
        for wrong in (
            b"", b"{", b"[]", b"null", b'"x"', b"{}", b'{"query": 1}', b'{"query": "SELECT 1", "params": 1}',
            b'{"query": null}', b'{"queries": [1]}', b'{"queries": [{"params": []}]}', b'{"query": "a", "queries": []}',
            b'{"query": "SELECT \\u0000"}', b'{"query": "SELECT $1", "params": ["\\ud800"]}', b"\xff\xfe",
            b"[" * 100_000,
            b'{"query": "SELECT $1", "params": [[[[[[[[1]]]]]]]]}', b'{"query": "SELECT $1", "params": ["\\u0000"]}',
            b'{"query": "SELECT $1", "params": ["\xff"]}', b'{"query": "SELECT $1", "params": [{"a": "\xff"}]}',
            b'{"query": "SELECT $1", "params": [[1e99999999999999999999]]}',
        ):  # fmt: skip
            refused = await house.post(wrong)
            assert (refused.status, refused.code) == (400, "08P01"), wrong
            assert refused.body["hint"]
        zipped = await house.post(b"{}", headers={"Content-Encoding": "deflate"})
        assert zipped.status == 400
        flag = await house.ask("SELECT 1", headers={"Neon-Array-Mode": "perhaps"})
        assert flag.code == "22023"
        assert (await house.ask("SELECT 1")).value == "1"
        assert house.port.is_quiet


async def test_an_unknown_caller_makes_us_keep_no_body(lasting: World) -> None:
    """It is refused before its body is read."""
    async with a_sql_house(lasting) as house:
        reader, writer = await connected(house)
        wrong = {"Neon-Connection-String": connection_string("row1", "all", "guess")}
        writer.write(head("Content-Length: 1000000", **wrong))
        assert b" 400 " in await reader.readline()
        writer.close()


@pytest.mark.parametrize("state", ["body", "queued", "running", "batch", "ending"])
async def test_a_client_that_goes_leaves_nothing_behind_in_any_state(lasting: World, state: str) -> None:
    async with a_sql_house(lasting, sql={"statement_timeout": 3600}, pools={"max_size": 1}) as house:
        tenant, sleep = "database1", "SELECT pg_sleep(60) AS of_one_who_goes"
        batch = json.dumps({"queries": [{"query": "SELECT 1"}, {"query": sleep}]}).encode()
        sent = {
            "body": head("Content-Length: 100") + b"{",
            "queued": request("SELECT 1", tenant),
            "running": request(sleep, tenant),
            "batch": head(f"Content-Length: {len(batch)}", **{"Neon-Connection-String": connection_string(tenant)})
            + batch,
            "ending": request("BEGIN", tenant),
        }[state]
        holder = await house.port.client(tenant) if state == "queued" else None
        if holder is not None:
            await holder.query("BEGIN")
        _, writer = await connected(house)
        writer.write(sent)
        await writer.drain()
        guests = house.port.listener.guests
        if state in ("running", "batch"):
            await until(lambda: any(guest.holds_backend for guest in guests), "it runs")
        elif state == "queued":
            await until(lambda: bool(guests), "it waits")
        writer.transport.abort()
        await until(lambda: not guests, "no request is left")
        if holder is not None:
            await holder.query("ROLLBACK")
            await holder.close()
        await until(lambda: house.port.is_quiet, "nothing is under way")
        assert (await house.ask("SELECT 1", tenant=tenant)).value == "1"
        async with lasting.main.connect() as admin:
            busy = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%of_one_who_goes%' AND state = 'active'"
            assert await admin.fetchval(busy + " AND pid <> pg_backend_pid()") == 0


async def test_a_killed_backend_is_told_as_the_server_said_it(lasting: World) -> None:
    async with a_sql_house(lasting) as house:
        running = asyncio.create_task(house.ask("SELECT pg_sleep(60) AS of_one_who_dies", tenant="database1"))
        kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%of_one_who_dies'"
        async with lasting.main.connect() as admin:
            while not await admin.fetchval(kill):
                pass
        assert (await running).code == "57P01"
        assert (await house.ask("SELECT 1", tenant="database1")).value == "1"


async def test_while_the_port_drains_the_next_request_of_a_busy_client_is_served(lasting: World) -> None:
    """Its connection is told to close, and until it has it may ask once more."""
    async with a_sql_house(lasting) as house:
        await house.ask("SELECT 1")
        await house.port.port.drain()
        assert not house.port.port.is_open
        assert (await house.ask("SELECT 1")).value == "1"
        with pytest.raises(aiohttp.WSServerHandshakeError, match="503"):
            await house.http.ws_connect(f"{house.listener.url}/v2")


async def test_canaries_of_statements_and_passwords_are_in_no_log(
    lasting: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    async with a_sql_house(lasting, sql={"statement_timeout": 0.3}) as house:
        await house.ask("SELECT 'canary-1', $1", ["canary-2"])
        await house.ask("SELEC 'canary-3'")
        await house.ask("SELECT 'canary-4', pg_sleep(5)")
        await house.post(b'{"query": "SELECT canary-5"')
        await house.ask("SELECT 1", headers={"Neon-Connection-String": connection_string("row1", "all", "canary-6")})
        await house.ask("SELECT 1", headers={"Authorization": "Bearer canary-7"})
    assert "canary" not in caplog.text


async def test_who_goes_in_the_turn_in_which_its_tenant_is_found_leases_nothing(lasting: World) -> None:
    """Its request is over: a backend that it leased then would be given back by no one."""
    found = asyncio.Event()

    class Source:
        async def find(self) -> object:
            await found.wait()
            return "a pool and a route"

    async with a_sql_house(lasting) as house:
        runs = house.door.runs
        limits = runs.limits
        request = await found_in_slices(reading_request(b'{"query": "SELECT 1"}', {}, limits))
        tenant, traffic = tenant_id("row1"), house.port.listener.traffic_of(tenant_id("row1"))
        future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        told = partial(_settle, future)  # type: ignore[arg-type]
        run = SqlRun(tenant, request, runs, traffic, Kept(TenantMemory()), told)
        finding = asyncio.create_task(house.door._found(Source(), tenant, future))  # type: ignore[arg-type]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        found.set()
        run.gone()
        with pytest.raises(asyncio.CancelledError):
            await finding
        run.begin(None, None)  # type: ignore[arg-type]
        assert not run.holds_backend


async def test_results_that_are_not_read_count_as_what_the_tenant_makes_us_keep(lasting: World) -> None:
    """Else one tenant could have as many as it has connections, each as large as a result may be."""
    large = "SELECT repeat('x', 10000) FROM generate_series(1, 800)"  # more than sockets take
    async with a_sql_house(lasting, pg={"max_memory": 128_000_000}) as house:
        memory = house.port.listener._memory
        writers: list[asyncio.StreamWriter] = []
        while len(writers) < 10 and not memory.refused:
            _, writer = await connected(house)
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            writer.write(request(large, "database1"))
            writers.append(writer)
            least = len(writers) * 16_000_000  # bytes of rows count twice
            await until(lambda least=least: memory.used > least or bool(memory.refused), "it is kept")  # type: ignore[misc]
        assert 2 <= len(writers) < 5
        refused = await house.ask(large, tenant="database1")
        assert refused.code == "53200"
        assert (await house.ask("SELECT 1", tenant="database1")).value == "1"
        assert len((await house.ask(large, tenant="database2")).rows) == 800
        for writer in writers:
            writer.transport.abort()
        await until(lambda: not memory.used, "nothing is kept")
        assert len((await house.ask(large, tenant="database1")).rows) == 800
        assert not memory.used
