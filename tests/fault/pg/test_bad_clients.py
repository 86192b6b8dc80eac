"""What can a hostile client do? It gets an error or is dropped, costs bounded memory, and costs no other client.

Bugs that other poolers and servers had, and the tests that hold us to be without them (of this file, if none is named):

| bug | tests |
|---|---|
| bytes behind SSLRequest (CVE-2021-3935, -23214, -23222) | test_nothing_counts_that_was_sent_behind_..., |
| | unit/wire/test_startup |
| unknown user served as the service user (CVE-2015-6817) | test_nothing_that_a_stranger_says_..., |
| | unit/sidecar/pg/test_users |
| search_path before authentication (CVE-2025-12819) | test_a_search_path_in_a_startup_packet_... |
| VALID UNTIL ignored (CVE-2025-2291) | test_a_role_whose_time_is_over_...; of tokens: unit/sidecar/pg/test_users |
| malformed SCRAM, length overflow (CVE-2026-6664) | test_nothing_that_a_stranger_says_..., |
| | unit/wire/test_scram, unit/wire/test_client_auth |
| long nonce, error without SQLSTATE (CVE-2026-6665, -6666) | test_bad_servers, unit/wire/test_server_auth |
| console authorisation (CVE-2026-6667) | test_the_console_is_closed_..., unit/sidecar/pg/console/test_console |
| password before startup | test_nothing_that_a_stranger_says_... |
| allocation from a length header | test_a_length_alone_costs_no_memory, unit/wire/test_startup |
| 32-bit wrap on encode (CVE-2024-27304) | unit/wire/test_answers: test_a_length_never_wraps_round |
| SET ROLE leaking to the next client | test_a_role_that_was_set_..., integration/test_raw_poison |
| stale cancel hitting the next client | test_crowds, unit/raw/test_lender |
| COPY abort leaving bytes for the next client | test_a_copy_that_was_broken_off_... |
| settings wrong after ROLLBACK TO SAVEPOINT | test_settings_are_what_the_server_says_... |
| abrupt disconnects overshooting the server's limit | test_crowds |
| SIGSEGV of PostgreSQL over a portal that failed | test_unbound_execute |
| counters going backwards when a pool is freed | test_no_counter_goes_back_...; each test of the folder watches |
"""

from __future__ import annotations

import asyncio
import struct

import psutil  # type: ignore[import-untyped]
import pytest

from tenantproxy.config import role_password
from tenantproxy.lifecycle.provisioner import ensure_role
from tenantproxy.model import tenant_id
from tenantproxy.raw.exchange import SYNC_NOW, query, statement
from tenantproxy.wire.frames import COPY_DATA, COPY_DONE, COPY_FAIL, PARSE, PASSWORD, TERMINATE, frame
from tests.fault.conftest import Figure
from tests.support.database import Database
from tests.support.port_house import PortHouse, a_port, users
from tests.support.waiting import until
from tests.support.wire_client import PASSWORD as RIGHT
from tests.support.wire_client import Refused, WireClient, raw, startup
from tests.support.world import World

COUNT = "SELECT count(*) FROM projects"
MEGABYTE = 2**20
SSL_REQUEST = struct.pack("!II", 8, 80877103)
GSS_REQUEST = struct.pack("!II", 8, 80877104)
HELLO = startup("all", "row1")


def sasl(text: bytes, mechanism: bytes = b"SCRAM-SHA-256") -> bytes:
    return frame(PASSWORD, mechanism + b"\0" + struct.pack("!I", len(text)) + text)


def memory() -> int:
    return int(psutil.Process().memory_info().rss)


# --- before they are let in ------------------------------------------------------------------------------------------
STRANGERS = {
    "nothing but its end": b"",
    "HTTP": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "TLS at once": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"x" * 100,
    "a password before the startup packet": frame(PASSWORD, b"secret\0"),
    "a query before the startup packet": query(COUNT),
    "a startup packet of no length": struct.pack("!II", 0, 196608),
    "a startup packet of 2 GiB": struct.pack("!II", 2**31 - 1, 196608) + b"x" * 100,
    "a startup packet of 4 GiB": b"\xff\xff\xff\xff\0\3\0\0",
    "protocol 2": struct.pack("!II", 296, 131072) + b"\0" * 288,
    "protocol 9": struct.pack("!II", 8, 9 << 16),
    "a startup packet without a user": struct.pack("!II", 9, 196608) + b"\0",
    "a name without a value": struct.pack("!II", 14, 196608) + b"user\0\0",
    "replication": startup("all", "row1", replication="database"),
    "an unknown user": startup("app", "row1") + sasl(b"n,,n=,r=abcdefghijklmnop"),
    "a query in place of its proof": HELLO + query(COUNT),
    "a password in clear text": HELLO + frame(PASSWORD, RIGHT.encode() + b"\0"),
    "another mechanism": HELLO + sasl(b"n,,n=,r=abcdefghijklmnop", b"SCRAM-SHA-1"),
    "channel binding without a channel": HELLO + sasl(b"p=tls-unique,,n=,r=abcdefghijklmnop"),
    "a nonce of nothing": HELLO + sasl(b"n,,n=,r="),
    "a nonce of 60 kB": HELLO + sasl(b"n,,n=,r=" + b"x" * 60_000),
    "a length inside that is too long": HELLO
    + frame(PASSWORD, b"SCRAM-SHA-256\0" + struct.pack("!I", 2**31 - 1) + b"n,,"),
    "a length inside of minus two": HELLO + frame(PASSWORD, b"SCRAM-SHA-256\0" + struct.pack("!i", -2) + b"n,,"),
    "a proof of 2 GiB": HELLO + b"p\x7f\xff\xff\xff" + b"x" * 100_000,
    "a proof of less than itself": HELLO + b"p\0\0\0\3" + b"x" * 100,
    "a proof before the challenge": HELLO + sasl(b"n,,n=,r=abcdefghijklmnop") + frame(PASSWORD, b"c=biws,r=abc,p=YQ=="),
    "100 kB while it waits for the challenge": HELLO + b"x" * 100_000,
    "bytes behind a request for encryption": SSL_REQUEST + HELLO,
    "bytes behind another request for encryption": GSS_REQUEST + HELLO,
    "two requests for encryption": SSL_REQUEST + SSL_REQUEST + HELLO,
    "a cancel request that is too long": struct.pack("!II", 1000, 80877102) + b"x" * 992,
    "a cancel request for an unknown process": struct.pack("!IIII", 16, 80877102, 4711, 4711),
}


async def test_nothing_that_a_stranger_says_opens_anything_or_reaches_a_server(lasting: World, figure: Figure) -> None:
    async with a_port(lasting) as house:
        before = memory()
        for name, said in STRANGERS.items():
            told = await drop_in(house, said)
            assert b"Z\0\0\0\5I" not in told, name
            assert not list(house.lending.backends()), name
            assert not house.listener._clients, name
        await asyncio.gather(*(drop_in(house, said) for said in STRANGERS.values() for _ in range(5)))
        await until(lambda: not house.listener._startups, "no stranger is left")
        figure("megabytes", (memory() - before) / MEGABYTE)
        assert memory() - before < 40 * MEGABYTE
        assert house.listener.logins["ok"] == 0
        async with house.a_client("row1") as client:
            assert (await client.query(COUNT)).value == "3"


async def drop_in(house: PortHouse, said: bytes) -> bytes:
    """What a stranger hears who says that, and then that he has nothing more to say."""
    reader, writer = await raw(house.number)
    told = b""
    try:
        writer.write(said)
        writer.write_eof()
        while chunk := await reader.read(65536):
            told += chunk
    except ConnectionError:
        pass
    finally:
        writer.transport.abort()
    return told


@pytest.mark.parametrize("request_", [SSL_REQUEST, GSS_REQUEST], ids=["ssl", "gss"])
async def test_nothing_counts_that_was_sent_behind_a_request_for_encryption_before_its_answer(
    lasting: World, request_: bytes
) -> None:
    """A man in the middle could inject it, and it would be taken for the client's own message."""
    async with a_port(lasting) as house:
        told = await drop_in(house, request_ + HELLO)
        assert b"SCRAM" not in told, "the startup packet was taken"
        honest = WireClient(*await raw(house.number))
        honest.send(request_)
        assert await honest.reader.readexactly(1) == b"N"
        honest.send(HELLO)
        await honest.log_in()
        await honest.close()


@pytest.mark.parametrize("asked", ["schema2", "schema1, schema2", "public", "pg_temp, schema1", "$user"])
async def test_a_search_path_in_a_startup_packet_leads_nowhere_before_the_login_and_nowhere_else_after_it(
    lasting: World, asked: str
) -> None:
    async with a_port(lasting) as house:
        stranger = WireClient(*await raw(house.number))
        stranger.send(startup("all", "schema1", search_path=asked))
        with pytest.raises(Refused) as refused:
            await stranger.log_in("a wrong password")
        assert refused.value.sqlstate == "28P01"
        stranger.abort()
        assert not list(house.lending.backends()), "a server has heard of it"
        with pytest.raises(Refused) as refused:
            await house.client("schema1", search_path=asked)
        assert refused.value.sqlstate != "28P01"
        assert not list(house.lending.backends())


async def test_a_role_whose_time_is_over_serves_nobody(lasting: World) -> None:
    tenant, key = lasting.tenants[-1], "k" * 32
    entry = {"isolation": "database", "database": tenant.placement.database, "role": "late"}
    admin_of = lasting.database(tenant).connect
    async with admin_of() as admin:
        await ensure_role(admin, "late", password=role_password(key.encode(), "primary", "late"))
        await admin.execute(f'GRANT CONNECT ON DATABASE "{tenant.placement.database}" TO late')
    try:
        async with a_port(lasting, tenants={tenant.id: entry}, tenant_roles={"key": key}) as house:
            async with house.a_client(tenant.id) as client:
                assert (await client.query("SELECT current_user")).value == "late"
            async with admin_of() as admin:
                await admin.execute("ALTER ROLE late VALID UNTIL '2000-01-01'")
                await admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'late'")
            pool = house.pool(tenant.id)
            await until(lambda: pool.is_empty and pool.is_quiet, "its backend is gone")
            with pytest.raises(Refused) as refused:
                await house.client(tenant.id)
            assert refused.value.sqlstate == "08001"
    finally:
        async with admin_of() as admin:
            await admin.execute("DROP OWNED BY late; DROP ROLE late")


async def test_the_console_is_closed_to_those_who_have_none(lasting: World) -> None:
    async with a_port(lasting, pg={"users": users(ops={"password": RIGHT, "console": "read"})}) as house:
        for user in ("all", "session"):
            with pytest.raises(Refused):
                await house.client("tenantproxy", user)
        reader = await house.client("tenantproxy", "ops")
        assert (await reader.query("SHOW VERSION")).rows
        for command in ("PAUSE row1", "RESUME row1", "KILL row1", "RELOAD"):
            answer = await reader.query(command)
            assert answer.sqlstate == "42501", command
        with pytest.raises(Refused):
            await house.client("row1", "ops")
        async with house.a_client("row1") as client:
            assert (await client.query(COUNT)).value == "3"


# --- when they are in ------------------------------------------------------------------------------------------------
BROKEN = {
    "garbage": b"\xff" * 1000,
    "nothing but NUL": b"\0" * 1000,
    "a message of no length": b"Q\0\0\0\0" + b"x" * 100,
    "a message of less than itself": b"S\0\0\0\3" + b"x" * 100,
    "a message of 4 GiB": b"Q\xff\xff\xff\xff" + b"x" * 100,
    "a message of 2 GiB": b"d\x7f\xff\xff\xff" + b"x" * 100,
    "a Parse of 100 MB": b"P\x05\xf5\xe1\x00" + b"x" * 100_000,
    "a Describe of 1 GiB": b"D\x3f\xff\xff\xff" + b"x" * 100_000,
    "a message of a server": b"Z\0\0\0\5I",
    "a password": frame(PASSWORD, b"again\0"),
    "a second startup packet": HELLO,
    "half a message": b"Q\0\0\1\0SELECT",
    "a statement's name without end": frame(PARSE, b"x" * 100),
    "a Bind of nothing": b"B\0\0\0\4" + SYNC_NOW,
    "a Describe of nothing": b"D\0\0\0\4" + SYNC_NOW,
    "a Close of nothing": b"C\0\0\0\4" + SYNC_NOW,
    "an Execute of nothing": b"E\0\0\0\4" + SYNC_NOW,
    "a function call of nothing": b"F\0\0\0\4",
    "a query without its NUL": b"Q\0\0\0\x0cSELECT 1",
    "data for no COPY": frame(COPY_DATA, b"1\n") * 3 + frame(COPY_DONE) + frame(COPY_FAIL, b"\0"),
    "Terminate and then some": frame(TERMINATE) + query("SELECT 1"),
}


@pytest.mark.parametrize("user", ["all", "session"])
async def test_a_client_that_breaks_the_protocol_harms_nobody_but_itself(lasting: World, user: str) -> None:
    """In a transaction and between two, on the only backend there is."""
    async with a_port(lasting, pools={"shared_size": 1, "max_size": 1}) as house:
        for name, said in BROKEN.items():
            for first in ("SELECT 1", "BEGIN"):
                bad = await house.client("row1", user)
                await bad.query(first)
                bad.send(said)
                bad.writer.write_eof()
                told = await bad.rest()
                assert all(error["C"] not in ("XX000", "57P01") for error in told.errors), (name, told.errors)
                bad.abort()
                async with house.a_client("row2") as good:
                    assert (await good.query("SELECT min(name), count(*) FROM projects")).rows == [["row2 1", "3"]], (
                        name
                    )


async def test_a_length_alone_costs_no_memory(lasting: World, figure: Figure) -> None:
    heads = [b"P\0\xff\xff\xff", b"D\0\0\xff\xff", b"C\0\0\xff\xff", b"B\0\xff\xff\xff", b"B\x3f\xff\xff\xff"]
    async with a_port(lasting) as house:
        clients = [await house.client("row1") for _ in range(20)]
        before = memory()
        for n, client in enumerate(clients):
            client.send(heads[n % len(heads)])
        await until(lambda: house.listener.traffic[tenant_id("row1")].received >= 5 * len(clients), "all have come")
        figure("megabytes", (memory() - before) / MEGABYTE)
        assert memory() - before < 16 * MEGABYTE
        async with house.a_client("row2") as good:
            assert (await good.query(COUNT)).value == "3"


COPIES = {
    "it dies among the data": frame(COPY_DATA, b"half a row"),
    "it dies in a message": frame(COPY_DATA, b"row1\tleft\n") + b"d\0\0\xff\xff" + b"x" * 100,
    "it gives up": frame(COPY_FAIL, b"no more\0"),
    "it sends what is no row, and goes on": frame(COPY_DATA, b"a\tb\tc\td\te\n") + frame(COPY_DATA, b"x\n" * 20_000),
    "it sends a query in between": frame(COPY_DATA, b"row1\tleft\n") + query("SELECT 'row1 was here'"),
}


@pytest.mark.parametrize("user", ["all", "session"])
@pytest.mark.parametrize("said", COPIES.values(), ids=COPIES.keys())
async def test_a_copy_that_was_broken_off_leaves_neither_rows_nor_bytes_behind(
    lasting: World, said: bytes, user: str
) -> None:
    async with a_port(lasting, pools={"shared_size": 1}) as house:
        bad, good = await house.client("row1", user), await house.client("row2")
        bad.send(query("COPY (SELECT 1) TO STDOUT"))
        await bad.answer()
        bad.send(query("CREATE TEMP TABLE taken (tenant_id text, name text)"))
        await bad.answer()
        bad.send(query("COPY projects (tenant_id, name) FROM STDIN"))
        bad.send(said)
        bad.writer.write_eof()
        await bad.rest()
        bad.abort()
        for _ in range(3):
            assert (await good.query("SELECT min(name), count(*) FROM projects")).rows == [["row2 1", "3"]]
        async with lasting.shared.connect() as admin:
            assert await admin.fetchval("SELECT count(*) FROM projects WHERE name = 'left'") == 0


@pytest.mark.parametrize("user", ["all", "session"])
async def test_a_role_that_was_set_is_not_the_next_clients(lasting: World, user: str) -> None:
    async with a_port(lasting, pools={"shared_size": 1, "max_size": 1}) as house:
        for tenant in ("row1", "schema1", "database1"):
            first = await house.client(tenant, user)
            await first.query("SET ROLE pg_read_all_settings")
            await first.query("SET ROLE none")
            await first.query("SET SESSION AUTHORIZATION app; SET work_mem = '77kB'")
            await first.close()
            async with house.a_client(tenant) as second:
                role = next(each.placement.role for each in lasting.tenants if each.id == tenant) or "app"
                assert (await second.query("SELECT current_user, session_user")).rows == [[role, role]]
                assert (await second.query("SHOW work_mem")).value != "77kB"


async def test_settings_are_what_the_server_says_after_a_rollback_to_a_savepoint(lasting: World) -> None:
    """On whichever backend the client's next transaction runs."""
    async with a_port(lasting, pools={"shared_size": 2, "max_size": 2}) as house:
        client, other = await house.client("row1", TimeZone="UTC"), await house.client("row1")
        default = (await other.query("SHOW TimeZone")).value
        steps = {
            "BEGIN; SAVEPOINT a; SET TimeZone = 'Asia/Tokyo'; ROLLBACK TO a; COMMIT": "UTC",
            "BEGIN; SET TimeZone = 'Asia/Tokyo'; SAVEPOINT a; SET TimeZone = 'Europe/Paris'; ROLLBACK TO a; COMMIT": (
                "Asia/Tokyo"
            ),
            "BEGIN; SET TimeZone = 'Europe/Paris'; ROLLBACK": "Asia/Tokyo",
            "BEGIN; SAVEPOINT a; SET TimeZone = 'Europe/Paris'; RELEASE a; COMMIT": "Europe/Paris",
            "BEGIN; SET LOCAL TimeZone = 'UTC'; COMMIT": "Europe/Paris",
        }
        for step, expected in steps.items():
            for messages in (step.split("; "), [step]):
                for sql in messages:
                    await client.query(sql)
                assert (await client.query("SHOW TimeZone")).value == expected, step
                await other.query("BEGIN")  # takes the backend that is at hand
                assert (await client.query("SHOW TimeZone")).value == expected, step
                await other.query("COMMIT")
                assert (await other.query("SHOW TimeZone")).value == default, step
        client.send(statement("SELECT nonsense") + SYNC_NOW)
        await client.answer()
        assert (await client.query("SHOW TimeZone")).value == "Europe/Paris"


async def test_no_counter_goes_back_when_pools_are_freed(lasting: World) -> None:
    async with (
        Database(server=lasting.server, name="postgres").connect() as admin,
        a_port(lasting, pools={"max_pools": 1}) as house,
    ):
        for _ in range(2):
            for tenant in ("database1", "row1", "schema1", "database2"):
                async with house.a_client(tenant) as client:
                    assert (await client.query(COUNT)).value == "3"
                await until(lambda: house.is_quiet, "all is quiet")
                house.lending._pools.sweep()
                house.audit_counters()
        evicted = house.router.stats().evicted
        assert sum(evicted.values()) >= 4
        for pid in [backend.pid for backend in house.lending.backends()]:
            await admin.execute("SELECT pg_terminate_backend($1, 5000)", pid)
        await until(lambda: not list(house.lending.backends()), "all are gone")
        house.audit_counters()


# --- and we ourselves ------------------------------------------------------------------------------------------------
async def test_a_mistake_in_our_own_code_leaves_no_client_waiting(
    lasting: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plan, a registry or a resolver may be a user's own, and raise anything."""

    async def mistaken(*_: object) -> None:
        raise RuntimeError("never thought of that")

    async with a_port(lasting) as house:
        with monkeypatch.context() as broken:
            broken.setattr(house.lending, "known", lambda _: None)
            client = await house.client("row1")
            broken.setattr(house.lending, "find", mistaken)
            client.send(query(COUNT))
            told = await client.rest()
            assert (told.sqlstate, told.errors[0]["S"]) == ("XX000", "FATAL")
            with pytest.raises(Refused) as refused:
                await house.client("row1")
            assert refused.value.sqlstate == "XX000"
            assert "never thought" not in str(refused.value)
        async with house.a_client("row1") as after:
            assert (await after.query(COUNT)).value == "3"
