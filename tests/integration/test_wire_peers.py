"""Do real servers and real clients understand us as we understand them?"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import product

import asyncpg
import psycopg
import pytest
from psycopg import pq

from tenantproxy.embedded import EmbeddedPostgres
from tenantproxy.errors import ProtocolError, TenantProxyError
from tenantproxy.wire import answers
from tenantproxy.wire.client_auth import ClientAuth, Verdict
from tenantproxy.wire.commands import ALL, deallocate_of
from tenantproxy.wire.frames import HEADER, QUERY
from tenantproxy.wire.scram import Verifier
from tenantproxy.wire.server_auth import METHODS, BackendLogin
from tenantproxy.wire.settings import checked, read_set
from tenantproxy.wire.startup import (
    REFUSED,
    REQUEST_SIZE,
    First,
    SessionWish,
    Startup,
    negotiate,
    options,
    read_first,
    wanted,
)
from tenantproxy.wire.values import _ENCODINGS, _ORDERS, _STYLES, CHECKS
from tests.support.database import Database

PASSWORDS = ("pencil", "größe²", "a\u00a0b")


# --- we log in at a server --------------------------------------------------------------------------------------------
async def logged_in(server: EmbeddedPostgres, login: BackendLogin) -> BackendLogin:
    """`login`, done or refused."""
    where = server.connect_args("postgres")
    reader, writer = await asyncio.open_connection(where["host"], where["port"])
    try:
        writer.write(login.begin)
        while not login.is_done and login.refusal is None:
            data = await reader.read(65536)
            assert data, "the server closed the connection without an error"
            writer.write(login.receive(data))
        return login
    finally:
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize("password", PASSWORDS)
async def test_a_server_takes_our_verifier_and_our_proof(each_database: Database, password: str) -> None:
    server, role = each_database.server, f"scram_{each_database.name}"
    async with each_database.connect() as admin:
        await admin.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{Verifier.of_password(password).text()}'")
        try:
            parameters = {"user": role, "database": each_database.name, "TimeZone": "Asia/Tokyo"}
            login = await logged_in(server, BackendLogin(parameters, lambda: password))
            assert login.is_done
            assert login.pid
            assert login.parameters[b"TimeZone"] == b"Asia/Tokyo"
            async with each_database.connect(role, password):
                pass  # a driver that has its own idea of the password's bytes has the same
            wrong = await logged_in(server, BackendLogin(parameters, lambda: password + "x"))
            assert wrong.refusal is not None
            assert wrong.refusal.sqlstate == "28P01"
            elsewhere = await logged_in(server, BackendLogin(parameters | {"database": "nowhere"}, lambda: password))
            assert elsewhere.refusal is not None
            assert elsewhere.refusal.sqlstate == "3D000"
        finally:
            await admin.execute(f"DROP ROLE {role}")


HBA = """
host all md5_user 127.0.0.1/32 md5
host all password_user 127.0.0.1/32 password
host all trusted_user 127.0.0.1/32 trust
"""


@pytest.mark.filterwarnings("ignore")  # newer servers warn of md5
async def test_the_weaker_ways_to_log_in_work_where_they_are_allowed(own_postgres: EmbeddedPostgres) -> None:
    admin = await asyncpg.connect(**own_postgres.connect_args("postgres"))
    try:
        await admin.execute("SET password_encryption = 'md5'")
        await admin.execute("CREATE ROLE md5_user LOGIN PASSWORD 'pencil'")
        await admin.execute("RESET password_encryption")
        await admin.execute("CREATE ROLE password_user LOGIN PASSWORD 'größe'")
        await admin.execute("CREATE ROLE trusted_user LOGIN")
    finally:
        await admin.close()
    own_postgres.stop()
    hba = own_postgres.data_dir / "pg_hba.conf"
    hba.write_text(HBA + hba.read_text())
    own_postgres.start()
    passwords = {"md5_user": "pencil", "password_user": "größe", "trusted_user": ""}

    def login(user: str, *methods: str) -> BackendLogin:
        return BackendLogin({"user": user, "database": "postgres"}, lambda: passwords[user], methods=methods)

    for method, user in (("md5", "md5_user"), ("password", "password_user"), ("none", "trusted_user")):
        assert (await logged_in(own_postgres, login(user, method))).is_done
        with pytest.raises(ProtocolError, match="not allowed"):
            await logged_in(own_postgres, login(user, *(other for other in METHODS if other != method)))


# --- what we believe of a server's settings ---------------------------------------------------------------------------
class Session:
    """A session of libpq's, which takes and gives bytes as they are."""

    def __init__(self, conn: pq.abc.PGconn) -> None:
        self._conn = conn

    def run(self, sql: bytes, *args: bytes) -> list[bytes | None]:
        """The first row; AssertionError with the server's words for an error."""
        result = self._conn.exec_params(sql, list(args)) if args else self._conn.exec_(sql)
        assert result.status in (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK), result.error_message
        return [result.get_value(0, column) for column in range(result.nfields)] if result.ntuples else []

    def setting(self, name: bytes) -> bytes | None:
        """What it is now."""
        return self.run(b"SELECT pg_catalog.current_setting($1)", name)[0]

    def prepare(self, name: bytes) -> None:
        """A statement of the protocol's."""
        assert self._conn.prepare(name, b"SELECT 1").status == pq.ExecStatus.COMMAND_OK


@contextmanager
def session(server: EmbeddedPostgres, **more: str) -> Iterator[Session]:
    where = server.connect_args("postgres")
    conninfo = psycopg.conninfo.make_conninfo(
        host=where["host"],
        port=where["port"],
        user=where["user"],
        password=where["password"],
        dbname="postgres",
        client_encoding="UTF8",
        options=more.get("options", ""),
    )
    conn = pq.PGconn.connect(conninfo.encode())
    assert conn.status == pq.ConnStatus.OK, conn.error_message
    conn.notice_handler = None
    try:
        yield Session(conn)
    finally:
        conn.finish()


SWITCHES = (
    b"array_nulls",
    b"default_transaction_deferrable",
    b"default_transaction_read_only",
    b"jit",
    b"standard_conforming_strings",
    b"synchronous_commit",
    b"transform_null_equals",
)
VALUES: list[tuple[bytes, bytes]] = [
    *((b"client_encoding", name) for name in _ENCODINGS),
    *((b"DateStyle", style + b"," + order) for style, order in product(_STYLES, _ORDERS)),
    *((b"DateStyle", word) for word in (*_STYLES, *_ORDERS)),
    *((b"statement_timeout", b"7" + unit) for unit in (b"", b"us", b"ms", b"s", b"min", b"h", b"d", b" ms")),
    *((b"lock_timeout", value) for value in (b"2147483647", b"24d", b"596h", b"0.5s", b"1.000001 min", b"0")),
    *((b"idle_in_transaction_session_timeout", value) for value in (b"60s", b"0")),
    *((b"extra_float_digits", value) for value in (b"-15", b"+3", b"0")),
    *((b"search_path", value) for value in (b"", b'""', b'a, "B""c"', b"$user,PUBLIC", "größe".encode(), b'" "')),
    *((b"application_name", value) for value in (b"", b"x" * 1024, "größe".encode(), b"it's")),
    *((b"TimeZone", value) for value in (b"UTC", b"Europe/Berlin", b"<+03>-3", b"-7", b"America/Argentina/Ushuaia")),
    *((b"IntervalStyle", value) for value in (b"postgres", b"postgres_verbose", b"sql_standard", b"ISO_8601")),
    *((b"client_min_messages", value) for value in b"debug5 debug1 debug log info notice warning error".split()),
    *((b"default_transaction_isolation", value) for value in (b"serializable", b"Repeatable Read", b"read committed")),
    *((b"synchronous_commit", value) for value in (b"local", b"remote_write", b"REMOTE_APPLY")),
    *((b"work_mem", value) for value in (b"64", b"64kB", b"0.5 MB", b"65536B", b"1GB", b"2147483647", b"1TB")),
    *((b"bytea_output", value) for value in (b"escape", b"HEX")),
    *((name, value) for name in SWITCHES for value in b"on OFF true no 1 0".split()),
]


def test_a_server_takes_every_value_that_passes_our_checks_as_the_same(each_postgres: EmbeddedPostgres) -> None:
    assert {name for name, _ in VALUES} == set(CHECKS)
    with session(each_postgres) as server:
        for name, value in VALUES:
            seen = []
            for sent in (value, checked(name, value)[1]):
                server.run(b"SELECT pg_catalog.set_config($1, $2, false)", name, sent)
                seen.append(server.setting(name))
                server.run(b"RESET ALL")
            assert seen[0] == seen[1], (name, value)


def test_a_tenant_and_its_proof_are_the_same_bytes_under_every_encoding(each_postgres: EmbeddedPostgres) -> None:
    args = (b"Acme_1.x-y", b"v1.1.0000012345.1234567890123456." + b"0123456789abcdef" * 4)
    with session(each_postgres) as server:
        for encoding, strings in product(sorted(set(_ENCODINGS.values())), (b"on", b"off")):
            server.run(b"SELECT pg_catalog.set_config('client_encoding', $1, false)", encoding)
            server.run(b"SELECT pg_catalog.set_config('standard_conforming_strings', $1, false)", strings)
            assert server.run(b"SELECT $1::text, $2::text", *args) == list(args)
            server.run(b"DISCARD ALL")


READ = [
    b"SET extra_float_digits = -3",
    b"SET SESSION search_path TO a, B, \"C d\", 'e,f', '\"g\"'",
    b"SET search_path = ''",
    b"SET search_path = '$user'",
    b"SET statement_timeout = '5 s'",
    b"SET statement_timeout = 1500.5",
    b"SET lock_timeout TO 7;",
    b"SET application_name = 'it''s \"me\"'",
    b"SET application_name = Me",
    b'SET application_name = "Me"',
    b"SET TIME ZONE 'Asia/Tokyo'",
    b"SET TIME ZONE utc",
    b"SET TIME ZONE -7",
    b"SET TIME ZONE +5.5",
    b"SET NAMES 'latin1'",
    b"SET client_encoding TO 'iso-8859-15'",
    b"SET datestyle TO SQL, DMY",
    b"SET datestyle = 'german'",
    b"SET intervalstyle = iso_8601",
    b"SET jit = ON",
    b"SET client_min_messages TO WARNING",
    b"SET default_transaction_isolation = 'repeatable read'",
    b"SET standard_conforming_strings = off",
    b"SET idle_in_transaction_session_timeout = 60000",
    b"RESET extra_float_digits",
    b"RESET TIME ZONE",
    b"SET TIME ZONE LOCAL",
    b"SET TIME ZONE DEFAULT",
    b"SET search_path TO DEFAULT",
]


@pytest.mark.parametrize("sql", READ, ids=bytes.decode)
def test_what_is_read_of_a_set_has_the_same_effect_elsewhere(each_postgres: EmbeddedPostgres, sql: bytes) -> None:
    found = read_set(sql)
    assert found is not None
    name, value = found
    with session(each_postgres) as said, session(each_postgres) as applied:
        said.run(sql)
        if value is not None:
            applied.run(b"SELECT pg_catalog.set_config($1, $2, false)", name, value)
        assert applied.setting(name) == said.setting(name)


@pytest.mark.parametrize(
    "value",
    [
        rb"-c application_name=a\ b\\c --search-path=x -cextra_float_digits=2 -c  statement-timeout=5s",
        rb"  --application_name=a=b\=c" + b"\t-c lock_timeout=7",
        rb"-c application_name=\-c\ x --intervalstyle=iso_8601 ",
    ],
    ids=["three forms", "equals", "escaped"],
)
def test_options_mean_what_they_mean_to_a_server(each_postgres: EmbeddedPostgres, value: bytes) -> None:
    with session(each_postgres, options=value.decode()) as given, session(each_postgres) as applied:
        for name, said in options(value):
            applied.run(b"SELECT pg_catalog.set_config($1, $2, false)", *checked(name, said))
            assert given.setting(name) == applied.setting(name)


@pytest.mark.parametrize(
    "sql",
    [b"DEALLOCATE Foo", b'DEALLOCATE PREPARE "Foo"', b"DEALLOCATE prepare", b"deallocate ALL;", b'DEALLOCATE"a""b"'],
    ids=bytes.decode,
)
def test_a_deallocate_frees_the_name_that_was_read_of_it(each_postgres: EmbeddedPostgres, sql: bytes) -> None:
    names = {b"foo", b"Foo", b"prepare", b'a"b'}
    with session(each_postgres) as server:
        for name in names:
            server.prepare(name)
        server.run(sql)
        (left,) = server.run(
            b"SELECT pg_catalog.array_to_string(pg_catalog.array_agg(name), '|') FROM pg_prepared_statements"
        )
        found = deallocate_of(sql)
        assert set((left or b"").split(b"|")) - {b""} == (set() if found is ALL else names - {found})


# --- clients come in --------------------------------------------------------------------------------------------------
PENCIL = Verifier.of_password("pencil")
NOBODYS = Verifier(4096, bytes(16), bytes(32), bytes(32))


class Door:
    """The listener's part of a session's beginning, on a loop: what a client wanted, and whether it came in."""

    def __init__(self, verifiers: dict[bytes, Verifier]) -> None:
        self._verifiers = verifiers
        self.startups: list[Startup] = []
        self.wishes: list[SessionWish] = []
        self.passwords: list[str] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._let_in(reader, writer)
            await self._answer(reader, writer)
        except TenantProxyError as error:
            writer.write(answers.error_response(error, fatal=True))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _let_in(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        startup, buffer = await self._startup(reader, writer)
        self.startups.append(startup)
        writer.write(negotiate(startup))
        wish = wanted(startup)
        self.wishes.append(wish)
        if wish.user == b"jwt":
            auth = ClientAuth("cleartext", user=wish.user)
        else:
            verifier = self._verifiers.get(wish.user, NOBODYS)
            auth = ClientAuth("scram-sha-256", verifier, user=wish.user)
        writer.write(auth.challenge)
        verdict = Verdict.MORE
        while verdict is Verdict.MORE:
            message = auth.read(buffer)
            if message is None:
                buffer += await read_some(reader)
                continue
            buffer = buffer[message.size :]
            step = auth.feed(message.payload)
            writer.write(step.send)
            verdict = step.verdict
            self.passwords += [step.password] if step.password else []
        writer.write(answers.AUTHENTICATION_OK)
        for name, value in {b"server_version": b"18.0", b"client_encoding": b"UTF8", b"TimeZone": b"UTC"}.items():
            writer.write(answers.parameter_status(name, value))
        writer.write(answers.backend_key_data(7, b"key!") + answers.ready_for_query())

    async def _startup(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> tuple[Startup, bytes]:
        buffer = b""
        answered: list[First] = []
        while True:
            first = read_first(buffer, answered=answered)
            if isinstance(first, Startup):
                return first, buffer[first.size :]
            if first is not None:
                answered.append(first)
                buffer = buffer[REQUEST_SIZE:]
                writer.write(REFUSED)
            else:
                buffer += await read_some(reader)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await reader.readexactly(HEADER)
            await reader.readexactly(struct.unpack("!I", head[1:])[0] - 4)
            if head[0] != QUERY:
                return
            writer.write(
                answers.row_description(["name", "größe"])
                + answers.data_row(["acme", None])
                + answers.command_complete("SHOW")
                + answers.ready_for_query()
            )


async def read_some(reader: asyncio.StreamReader) -> bytes:
    data = await reader.read(3)  # messages come in pieces
    if not data:
        raise ConnectionResetError
    return data


@asynccontextmanager
async def door() -> AsyncIterator[tuple[Door, int]]:
    standing = Door({b"billing": PENCIL})
    server = await asyncio.start_server(standing.serve, "127.0.0.1", 0)
    try:
        yield standing, server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()


def conninfo(port: int, **more: str) -> str:
    known = {"host": "127.0.0.1", "port": str(port), "user": "billing", "password": "pencil", "dbname": "acme"}
    return psycopg.conninfo.make_conninfo("", **{**known, "client_encoding": "utf8", **more})


async def test_libpq_comes_in_by_scram_and_reads_our_rows() -> None:
    async with door() as (standing, port):
        asked = conninfo(port, require_auth="scram-sha-256", options=r"-c tenant=acme -c TimeZone=Asia/Tokyo")
        async with await psycopg.AsyncConnection.connect(asked, autocommit=True) as conn:
            assert await (await conn.execute("SHOW TENANTS")).fetchall() == [("acme", None)]
            assert conn.info.parameter_status("TimeZone") == "UTC"
        (wish,) = standing.wishes
        assert (wish.user, wish.database, wish.tenants) == (b"billing", b"acme", (b"acme",))
        assert wish.settings == ((b"client_encoding", b"UTF8"), (b"TimeZone", b"Asia/Tokyo"))


@pytest.mark.skipif(pq.version() < 180000, reason="libpq speaks 3.2 since 18")
async def test_a_libpq_that_wants_3_2_is_content_with_3_0() -> None:
    async with door() as (standing, port):
        async with await psycopg.AsyncConnection.connect(conninfo(port, max_protocol_version="3.2"), autocommit=True):
            assert standing.startups[0].version == (3, 2)
        with pytest.raises(psycopg.OperationalError):
            await psycopg.AsyncConnection.connect(conninfo(port, min_protocol_version="3.2"))


async def test_asyncpg_comes_in_by_scram_with_its_quoted_encoding() -> None:
    async with door() as (standing, port):
        conn = await asyncpg.connect(
            host="127.0.0.1",
            port=port,
            user="billing",
            password="pencil",
            database="acme",
            server_settings={"jit": "off", "application_name": "x"},
        )
        conn.terminate()
        assert standing.wishes[0].settings == (
            (b"client_encoding", b"UTF8"),
            (b"application_name", b"x"),
            (b"jit", b"off"),
        )


@pytest.mark.parametrize(("user", "password"), [("billing", "pencils"), ("nobody", "pencil")])
async def test_a_driver_sees_a_wrong_password_and_an_unknown_user_as_postgresqls_own(user: str, password: str) -> None:
    async with door() as (_, port):
        with pytest.raises(asyncpg.InvalidPasswordError, match=f'password authentication failed for user "{user}"'):
            await asyncpg.connect(host="127.0.0.1", port=port, user=user, password=password, database="acme")
        with pytest.raises(psycopg.OperationalError, match=f'password authentication failed for user "{user}"'):
            await psycopg.AsyncConnection.connect(conninfo(port, user=user, password=password))


async def test_a_token_comes_as_a_cleartext_password() -> None:
    token = "e30." + "x" * 8000
    async with door() as (standing, port):
        conn = await asyncpg.connect(host="127.0.0.1", port=port, user="jwt", password=token, database="acme")
        conn.terminate()
        async with await psycopg.AsyncConnection.connect(conninfo(port, user="jwt", password=token), autocommit=True):
            assert standing.passwords == [token, token]


async def test_a_driver_is_told_which_settings_it_may_ask_for() -> None:
    async with door() as (_, port):
        with pytest.raises(psycopg.OperationalError, match=r"row_security.*cannot be set") as caught:
            await psycopg.AsyncConnection.connect(conninfo(port, options="-c row_security=off"))
        assert "statement_timeout" in str(caught.value)
