"""Do clients of the PostgreSQL port get TLS as they ask for it, and nothing by a handshake that failed?"""

from __future__ import annotations

import asyncio
import ctypes
import ssl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tenantproxy.raw.exchange import query
from tenantproxy.sidecar.pg import login
from tenantproxy.sidecar.tls import listener_tls
from tenantproxy.wire.frames import PASSWORD as PASSWORD_MESSAGE
from tenantproxy.wire.frames import frame
from tests.fault.pg.test_bad_clients import drop_in
from tests.support.authority import Authority, Pair
from tests.support.port_house import PortHouse, a_port, users
from tests.support.waiting import PATIENCE, until
from tests.support.wire_client import PASSWORD, SSL_REQUEST, Refused, WireClient, raw, startup
from tests.support.world import World

pytestmark = pytest.mark.both_paths

DOMAIN = "db.example.com"
COUNT = "SELECT min(name), count(*)::text FROM projects"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def server(authority: Authority) -> Pair:
    return authority.certificate("localhost", "localhost", "127.0.0.1", f"*.{DOMAIN}")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """An authority that the port does not know."""
    return Authority(tmp_path_factory.mktemp("stranger"), "stranger")


def libpq(house: PortHouse, authority: Authority, **changes: str) -> list[Any]:
    """What a client of libpq reads, its last answer whether it has TLS."""
    place: dict[str, Any] = {"host": "localhost", "hostaddr": "127.0.0.1", "port": house.number}
    place |= {"user": "all", "password": PASSWORD, "dbname": "database1", "connect_timeout": 20}
    place |= {"sslmode": "verify-full", "sslrootcert": str(authority.root), "gssencmode": "disable"}
    with psycopg.connect(**(place | changes)) as conn:
        row = conn.execute(COUNT).fetchone()
        assert row is not None
        conn.commit()
        assert conn.execute("SELECT length(%s), repeat('x', 300000)", ["y" * 300_000]).fetchone() == (
            300_000,
            "x" * 300_000,
        )
        return [*row, bool(conn.pgconn.ssl_in_use)]


async def refused(house: PortHouse, authority: Authority, **changes: str) -> str:
    with pytest.raises(psycopg.OperationalError) as caught:
        await asyncio.to_thread(libpq, house, authority, **changes)
    return str(caught.value)


async def test_each_sslmode_of_libpq_means_what_it_says(lasting: World, authority: Authority, server: Pair) -> None:
    pair = authority.certificate("elsewhere", "elsewhere.example.com")
    async with a_port(lasting, pg=server.listener) as house:
        for mode in ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"):
            seen = await asyncio.to_thread(libpq, house, authority, sslmode=mode)
            assert seen == ["database1 1", "3", mode not in ("disable", "allow")], mode
        for more in (
            {"sslnegotiation": "direct"},
            {"channel_binding": "require"},
            {"ssl_max_protocol_version": "TLSv1.2"},
        ):
            assert (await asyncio.to_thread(libpq, house, authority, **more))[2], more
        assert house.listener.encryption.results["ok"] == 7
    async with a_port(lasting, pg=pair.listener) as house:
        assert (await asyncio.to_thread(libpq, house, authority, sslmode="verify-ca"))[2]
        assert "does not match host name" in await refused(house, authority)


@pytest.mark.parametrize("kind", ["expired", "of a stranger", "self-signed"])
async def test_a_client_that_verifies_refuses_a_bad_certificate_of_the_port(
    lasting: World, authority: Authority, stranger: Authority, kind: str
) -> None:
    names = ("localhost", "localhost", "127.0.0.1")
    pair = {
        "expired": lambda: authority.certificate(*names, days=-1, file="expired"),
        "of a stranger": lambda: stranger.certificate(*names),
        "self-signed": lambda: Authority(authority.folder, "self").certificate(*names),
    }[kind]()
    async with a_port(lasting, pg=pair.listener) as house:
        assert "certificate verify failed" in await refused(house, authority)
        await until(lambda: house.listener.encryption.results["certificate"] == 1, "it is counted by its reason")
        unproven = {"sslmode": "require", "sslrootcert": "/dev/null/none"}
        assert (await asyncio.to_thread(libpq, house, authority, **unproven))[2], "no proof was asked for"


async def test_the_tenant_of_the_server_name_and_of_the_startup_packet_must_agree(
    lasting: World, authority: Authority, server: Pair
) -> None:
    async with a_port(lasting, pg={**server.listener, "ssl_tenant_domain": DOMAIN}) as house:
        for host in (f"database1.{DOMAIN}", f"DATABASE1.{DOMAIN}", "localhost"):
            assert (await asyncio.to_thread(libpq, house, authority, host=host))[0] == "database1 1"
        # A client that sends no server name.
        assert (await asyncio.to_thread(libpq, house, authority, sslsni="0"))[0] == "database1 1"
        for wrong in (f"database2.{DOMAIN}", f"nothing.{DOMAIN}"):
            told = await refused(house, authority, host=wrong)
            assert ("there is no such tenant" if "nothing" in wrong else "password authentication failed") in told
        console = users(ops={"password": PASSWORD, "console": True})
    async with a_port(lasting, pg={**server.listener, "ssl_tenant_domain": DOMAIN, "users": console}) as house:
        told = await refused(house, authority, host=f"database1.{DOMAIN}", user="ops", dbname="tenantproxy")
        assert "password authentication failed" in told


async def test_a_client_without_tls_is_refused_where_it_is_required(lasting: World, server: Pair) -> None:
    async with a_port(lasting, pg={**server.listener, "ssl_required": "always"}) as house:
        with pytest.raises(Refused) as caught:
            await house.client("database1")
        assert caught.value.sqlstate == "28000"
        assert "must be encrypted" in caught.value.fields["M"]
        assert not list(house.lending.backends())


def context_of(authority: Authority, shown: Pair | None = None, **changes: Any) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(authority.root))
    if shown is not None:
        context.load_cert_chain(shown.certificate, shown.key)
    for name, value in changes.items():
        setattr(context, name, value)
    return context


CERTIFIED = {"certified": {"cert": True, "tenants": "*"}, "both": {"cert": True, "password": PASSWORD, "tenants": "*"}}


async def test_a_certificate_opens_the_user_whose_name_is_in_it_and_no_other(
    lasting: World, authority: Authority, stranger: Authority, server: Pair
) -> None:
    revoked = authority.certificate("certified", file="revoked")
    named = users(named={"cert": True, "cert_names": ["service.example.com"], "tenants": "*"}, **CERTIFIED)
    pg = {**server.listener, "ssl_client_ca_file": str(authority.root), "ssl_crl_file": str(authority.crl(revoked))}
    good, other = authority.certificate("certified"), authority.certificate("service", "service.example.com")

    def shown(pair: Pair, user: str) -> dict[str, str]:
        return {"sslcert": str(pair.certificate), "sslkey": str(pair.key), "user": user}

    async with a_port(lasting, pg={**pg, "users": named}) as house:
        both = authority.certificate("both")
        for pair, user in ((good, "certified"), (other, "named"), (both, "both"), (other, "all")):
            assert (await asyncio.to_thread(libpq, house, authority, **shown(pair, user)))[2], user
        wrong = [
            {"user": "certified"},  # none shown
            {"user": "certified", "sslmode": "disable"},
            shown(other, "certified"),
            shown(good, "named"),
            shown(both, "both") | {"password": "a guess"},
            shown(good, "both"),
        ]
        for changes in wrong:
            told = await refused(house, authority, **changes)
            assert f'password authentication failed for user "{changes["user"]}"' in told
        before = house.listener.encryption.results["ok"]
        bad = {
            "certificate revoked": revoked,
            "certificate expired": authority.certificate("certified", days=-1, file="old"),
            "unknown ca": stranger.certificate("certified"),
        }
        for alert, pair in bad.items():
            assert alert in (await refused(house, authority, **shown(pair, "certified"))).replace("_", " ")
        results = house.listener.encryption.results
        assert (results["ok"], results["certificate"]) == (before, len(bad))
        assert not house.listener.unauthenticated


async def test_a_certificate_opens_no_user_whose_name_it_only_resembles(
    lasting: World, authority: Authority, server: Pair
) -> None:
    pg = {**server.listener, "ssl_client_ca_file": str(authority.root), "users": users(**CERTIFIED)}
    async with a_port(lasting, pg=pg) as house:
        for number, names in enumerate(
            (
                ["Certified"],
                ["certified\0.example.com"],
                ["*"],
                ["certified "],
                ["other", "*"],
                ["other", "certified.com"],
            )
        ):
            pair = authority.certificate(*names, file=f"resembles{number}")
            shown = {"sslcert": str(pair.certificate), "sslkey": str(pair.key), "user": "certified"}
            assert "password authentication failed" in await refused(house, authority, **shown), names
        pair = authority.certificate("other", "certified", file="alternative")
        shown = {"sslcert": str(pair.certificate), "sslkey": str(pair.key), "user": "certified"}
        assert (await asyncio.to_thread(libpq, house, authority, **shown))[2]


INJECTED = startup("all", "database1")


@pytest.mark.parametrize("behind", [INJECTED, b"\x16", b"Q"], ids=["a startup packet", "a record", "a byte"])
async def test_nothing_counts_that_came_in_the_clear_before_tls(
    lasting: World, authority: Authority, server: Pair, behind: bytes
) -> None:
    """CVE-2021-23214: it would be taken for what the client says inside."""
    async with a_port(lasting, pg=server.listener) as house:
        told = await drop_in(house, SSL_REQUEST + behind)
        assert told[:1] == b"E", "TLS was begun"
        late = WireClient(*await raw(house.number))  # behind the answer it is no TLS
        late.send(SSL_REQUEST)
        assert await late.reader.readexactly(1) == b"S"
        late.send(INJECTED)
        assert b"SCRAM" not in await late.reader.read()
        late.abort()
        twice = WireClient(*await raw(house.number))
        await twice.secure(context_of(authority))
        twice.send(SSL_REQUEST + INJECTED)
        assert (await twice.rest()).sqlstate == "08P01"
        twice.abort()


async def test_tls_without_a_request_needs_the_name_of_the_protocol(
    lasting: World, authority: Authority, server: Pair
) -> None:
    async with a_port(lasting, pg=server.listener) as house:
        for names, good in ((["postgresql"], True), (["http/1.1"], False), ([], False)):
            context = context_of(authority)
            if names:
                context.set_alpn_protocols(names)
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", house.number, ssl=context, server_hostname="localhost"
            )
            client = WireClient(reader, writer)
            client.send(startup("all", "database1"))
            if good:
                await client.log_in()
                assert (await client.query(COUNT)).rows == [["database1 1", "3"]]
            else:
                assert (await client.rest()).sqlstate == "08P01"
            client.abort()
    async with a_port(lasting) as house:
        assert (await drop_in(house, b"\x16\x03\x01\0\x05hello"))[:1] == b"E"


async def byte_by_byte(house: PortHouse, authority: Authority) -> list[list[str | None]]:
    """A login and a query whose records come in pieces of one byte, each with a turn of the port behind it."""
    reader, writer = await raw(house.number)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    session = context_of(authority).wrap_bio(incoming, outgoing, server_hostname="localhost")
    plain = asyncio.StreamReader()

    async def send() -> None:
        for byte in outgoing.read():
            writer.write(bytes([byte]))
            await asyncio.sleep(0)

    async def step(do: Callable[[], Any]) -> Any:
        while True:
            try:
                return do()
            except ssl.SSLWantReadError:
                await send()
                incoming.write(await reader.read(65536))
            finally:
                await send()

    class Writer:
        def write(self, data: bytes) -> None:
            session.write(data)

        def is_closing(self) -> bool:
            return writer.is_closing()

    client = WireClient(plain, Writer())  # type: ignore[arg-type]

    async def hear() -> None:
        while True:
            plain.feed_data(await step(lambda: session.read(65536)))

    writer.write(SSL_REQUEST)
    assert await reader.readexactly(1) == b"S"
    await step(session.do_handshake)
    hearing = asyncio.create_task(hear())
    try:
        client.send(startup("all", "database1"))
        await send()
        login_task = asyncio.create_task(client.log_in())
        while not login_task.done():
            await send()
            await asyncio.sleep(0.001)
        await login_task
        asked = asyncio.create_task(client.query(COUNT))
        while not asked.done():
            await send()
            await asyncio.sleep(0.001)
        return asked.result().rows
    finally:
        hearing.cancel()
        writer.transport.abort()


async def test_records_may_come_one_byte_at_a_time(lasting: World, authority: Authority, server: Pair) -> None:
    async with a_port(lasting, pg=server.listener) as house:
        async with asyncio.timeout(PATIENCE):
            assert await byte_by_byte(house, authority) == [["database1 1", "3"]]


async def test_a_client_that_stops_in_its_handshake_loses_its_place_in_time(
    lasting: World, server: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(login, "LOGIN_SECONDS", 0.3)
    async with a_port(lasting, pg=server.listener) as house:
        client = WireClient(*await raw(house.number))
        client.send(SSL_REQUEST)
        assert await client.reader.readexactly(1) == b"S"
        client.send(b"\x16\x03\x01\x02\0\x01")  # the beginning of a hello
        assert house.listener.unauthenticated == 1
        assert await client.ended()
        await until(lambda: not house.listener.unauthenticated, "its place is free")
        assert house.listener.encryption.results["timeout"] == 1
        client.abort()


async def herd(number: int, context: ssl.SSLContext, count: int) -> None:
    """So many handshakes at once, and nothing more of them."""

    async def comes() -> None:
        client = WireClient(*await raw(number))
        await client.secure(context)
        client.abort()

    await asyncio.gather(*(comes() for _ in range(count)))


async def test_many_handshakes_at_once_do_not_stop_those_who_work(
    lasting: World, authority: Authority, server: Pair
) -> None:
    count, seen = 150, set()
    async with a_port(lasting, pg=server.listener) as house:
        worker = WireClient(*await raw(house.number))
        await worker.secure(context_of(authority))
        worker.send(startup("all", "database2"))
        await worker.log_in()
        before = house.listener.encryption.results["ok"]
        coming = asyncio.create_task(asyncio.to_thread(asyncio.run, herd(house.number, context_of(authority), count)))
        while not coming.done():
            assert (await worker.query(COUNT)).rows == [["database2 1", "3"]]
            seen.add(house.listener.encryption.results["ok"] - before)
        await coming
        worker.abort()
        assert len({done for done in seen if 0 < done < count}) >= 3, f"answered after so many handshakes: {seen}"


async def test_a_working_client_stays_when_the_certificate_changes_and_new_ones_see_the_new_one(
    lasting: World, authority: Authority, stranger: Authority, server: Pair
) -> None:
    async with a_port(lasting, pg=server.listener) as house:
        client = WireClient(*await raw(house.number))
        await client.secure(context_of(authority))
        client.send(startup("all", "database1"))
        await client.log_in()
        pg = house.router.settings.pg
        other = stranger.certificate("localhost", "localhost", file="new")
        changed = pg.model_copy(update=other.listener)
        house.listener.reload(changed, listener_tls(changed, "pg"))
        assert (await client.query(COUNT)).rows == [["database1 1", "3"]]
        assert "certificate verify failed" in await refused(house, authority)
        assert (await asyncio.to_thread(libpq, house, stranger))[2]
        client.abort()


async def test_a_client_that_does_not_read_waits_inside_tls_and_then_gets_all(
    lasting: World, authority: Authority, server: Pair
) -> None:
    async with a_port(lasting, pg=server.listener) as house:
        client = WireClient(*await raw(house.number, receive_buffer=8192))
        await client.secure(context_of(authority))
        client.send(startup("all", "database1"))
        await client.log_in()
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        client.send(query("SELECT repeat('x', 1000) FROM generate_series(1, 20000)"))
        (one,) = house.listener.clients()
        relay = one.relay
        assert relay is not None

        def is_stopped() -> bool:
            return relay.backend is not None and relay.backend.is_paused

        await until(is_stopped, "its backend is not read any more")
        assert relay._transport.get_write_buffer_size() < 2_000_000
        client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        answer = await client.answer()
        assert (len(answer.rows), answer.status) == (20_000, "I")
        assert all(row == ["x" * 1000] for row in answer.rows)
        client.abort()


def openssl(house: PortHouse, *options: str, said: bytes = b"") -> str:
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{house.number}", "-starttls", "postgres", *options]
    done = subprocess.run(command, input=said, capture_output=True, timeout=60, check=False)
    return (done.stdout + done.stderr).decode("utf-8", "replace")


async def test_there_is_neither_renegotiation_nor_early_data(
    lasting: World, server: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(login, "LOGIN_SECONDS", 0.5)  # after which the port closes, and openssl with it
    async with a_port(lasting, pg=server.listener) as house:
        said = await asyncio.to_thread(openssl, house, "-tls1_2", said=b"R\n")
        assert "no renegotiation" in said, said[-600:]
        kept = tmp_path / "session"
        said = await asyncio.to_thread(openssl, house, "-tls1_3", "-sess_out", str(kept), "-ign_eof")
        text = await asyncio.to_thread(
            subprocess.run, ["openssl", "sess_id", "-in", str(kept), "-text", "-noout"], capture_output=True, check=True
        )
        assert b"Max Early Data: 0" in text.stdout, text.stdout


async def test_a_token_is_a_password_inside_tls_and_a_bearer_token_needs_no_password(
    lasting: World, authority: Authority, server: Pair
) -> None:
    issuer = "https://id.example.com/"
    pg = {**server.listener, "jwt": True, "oauth_issuer": issuer, "oauth_scope": "openid db"}
    async with a_port(lasting, pg=pg, auth={"key": "k" * 32}) as house:
        tokens = house.port._desk.tokens
        assert tokens is not None
        token = tokens.issue(tenant=lasting.tenants[-1], user="ann")
        tenant = lasting.tenants[-1].id
        assert (await asyncio.to_thread(libpq, house, authority, user="jwt", password=token, dbname=tenant))[2]

        async def bearer(text: str, *more: bytes) -> WireClient:
            client = WireClient(*await raw(house.number))
            await client.secure(context_of(authority))
            client.send(startup("oauth", tenant))
            assert await client.message() == (ord("R"), b"\0\0\0\x0aOAUTHBEARER\0\0")
            first = b"n,,\x01auth=" + text.encode() + b"\x01\x01"
            client.send(frame(PASSWORD_MESSAGE, b"OAUTHBEARER\0" + len(first).to_bytes(4, "big") + first))
            for each in more:
                client.send(frame(PASSWORD_MESSAGE, each))
            return client

        client = await bearer(f"Bearer {token}")
        assert (await client.answer()).status == "I"
        assert (await client.query(COUNT)).rows == [[f"{tenant} 1", "3"]]
        client.abort()
        for text in ("", f"Bearer {token[:-2]}"):
            client = await bearer(text)
            kind, payload = await client.message()
            assert (kind, payload[:4]) == (ord("R"), b"\0\0\0\x0b")
            assert b'"https://id.example.com/.well-known/openid-configuration"' in payload
            client.send(frame(PASSWORD_MESSAGE, b"\x01"))
            answer = await client.rest()
            assert answer.errors[0]["M"] == 'password authentication failed for user "oauth"'
            client.abort()


class _BearerRequest(ctypes.Structure):
    """PGoauthBearerRequest of libpq 18."""

    _fields_ = (
        ("openid_configuration", ctypes.c_char_p),
        ("scope", ctypes.c_char_p),
        ("async_", ctypes.c_void_p),
        ("cleanup", ctypes.c_void_p),
        ("token", ctypes.c_char_p),
        ("user", ctypes.c_void_p),
    )


_HOOK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.POINTER(_BearerRequest))
_BEARER_TOKEN = 1  # PQAUTHDATA_OAUTH_BEARER_TOKEN


@contextmanager
def bearing(token: str) -> Iterator[list[tuple[bytes, bytes]]]:
    """Let psycopg's libpq, which must be 18, have `token` where it needs one; yields what it was told to get it by."""
    found = list(Path(psycopg.__file__).parents[1].glob("psycopg_binary.libs/libpq-*.so*"))
    if not found or psycopg.pq.version() < 180000:
        pytest.skip("needs the libpq 18 of psycopg[binary] 3.3")
    libpq, asked = ctypes.CDLL(str(found[0])), []
    kept = token.encode()

    def give(kind: int, connection: int, request: Any) -> int:
        if kind != _BEARER_TOKEN:
            return 0
        asked.append((request.contents.openid_configuration, request.contents.scope))
        request.contents.token = kept
        return 1

    hook = _HOOK(give)
    libpq.PQgetAuthDataHook.restype = ctypes.c_void_p
    libpq.PQsetAuthDataHook.argtypes = (ctypes.c_void_p,)
    before = libpq.PQgetAuthDataHook()
    libpq.PQsetAuthDataHook(ctypes.cast(hook, ctypes.c_void_p))
    try:
        yield asked
    finally:
        libpq.PQsetAuthDataHook(before)


async def test_libpq_brings_a_bearer_token_for_which_it_is_told_where_to_go(
    lasting: World, authority: Authority, server: Pair
) -> None:
    issuer = "https://id.example.com"
    pg = {**server.listener, "oauth_issuer": issuer, "oauth_scope": "openid db"}
    async with a_port(lasting, pg=pg, auth={"key": "k" * 32}) as house:
        tokens = house.port._desk.tokens
        assert tokens is not None
        tenant = lasting.tenants[-1]
        place = {
            "user": "oauth",
            "dbname": tenant.id,
            "oauth_issuer": issuer,
            "oauth_client_id": "tests",
            "password": "",
        }
        with bearing(tokens.issue(tenant=tenant, user="ann")) as asked:
            seen = await asyncio.to_thread(libpq, house, authority, **place)
        assert seen[0] == f"{tenant.id} 1"
        assert asked == [(f"{issuer}/.well-known/openid-configuration".encode(), b"openid db")]
        with bearing("forged.token.x"):
            assert 'failed for user "oauth"' in await refused(house, authority, **place)
