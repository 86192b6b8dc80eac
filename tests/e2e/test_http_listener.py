"""Does an HTTP listener keep its limits, its manners and its promises to those it has already let in? Real sockets."""

from __future__ import annotations

import asyncio
import io
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
from aiohttp import web

from tenantproxy.config import Http
from tenantproxy.errors import InvalidCredentials, PoolTimeout, TenantNotFound
from tenantproxy.metrics.listeners import HttpRequests
from tenantproxy.sidecar.http import public_app
from tenantproxy.sidecar.listener import HttpListener
from tenantproxy.sidecar.tls import listener_tls
from tests.support.authority import Authority
from tests.support.waiting import PATIENCE, until

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def listening(
    *routes: web.AbstractRouteDef,
    max_clients: int = 50,
    requests: HttpRequests | None = None,
    drain_timeout: float = 5.0,
    head_timeout: float = 60.0,
    **options: Any,
) -> AsyncIterator[HttpListener]:
    app = public_app(requests or HttpRequests(), routes)
    listener = HttpListener(
        app,
        protocol="http",
        host="127.0.0.1",
        port=0,
        max_clients=max_clients,
        drain_timeout=drain_timeout,
        head_timeout=head_timeout,
        **options,
    )
    await listener.open()
    try:
        yield listener
    finally:
        await listener.close()


async def ok(request: web.Request) -> web.Response:
    return web.Response(text="fine")


def raising(error: Exception) -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        raise error

    return handler


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def raw(url: str, sent: bytes) -> bytes:
    host, port = urlsplit(url).hostname, urlsplit(url).port
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(sent)
        return await asyncio.wait_for(reader.read(), PATIENCE)
    finally:
        writer.close()


Opened = Callable[..., Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]


@pytest.fixture
async def opened() -> AsyncIterator[Opened]:
    """`opened(listener, sent)`: a connection that has sent this, until the end of the test."""
    writers: list[asyncio.StreamWriter] = []

    async def make(listener: HttpListener, sent: bytes = b"") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        parts = urlsplit(listener.url)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        writers.append(writer)
        writer.write(sent)
        return reader, writer

    yield make
    for writer in writers:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: "])
async def test_who_does_not_say_what_he_wants_keeps_no_place(sent: bytes) -> None:
    async with listening(web.get("/", ok), max_clients=1, head_timeout=0.05) as listener:
        with suppress(ConnectionResetError):  # it may be cut before all of it was read
            assert await raw(listener.url, sent) == b""
        await until(lambda: listener.stats().clients == 0, "no client is connected")


async def test_who_said_it_in_pieces_has_all_the_time_for_his_answer() -> None:
    told, leave = asyncio.Event(), asyncio.Event()

    async def slow(request: web.Request) -> web.Response:
        told.set()
        await leave.wait()
        return web.Response(text="fine")

    async with listening(web.get("/", slow), head_timeout=60.0) as listener:
        reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(listener.url).port)
        for piece in (b"GET / HTTP/1.1\r", b"\nHost: x\r\n\r", b"\n"):
            writer.write(piece)
            await writer.drain()
        await asyncio.wait_for(told.wait(), PATIENCE)
        (at_work,) = listener.places._taken
        assert at_work._timer is None
        leave.set()
        assert b"200 OK" in await asyncio.wait_for(reader.readline(), PATIENCE)
        writer.close()


async def test_every_answer_has_a_request_id_and_a_sensible_one_is_kept(client: aiohttp.ClientSession) -> None:
    async with listening(web.get("/", ok)) as listener:
        async with client.get(listener.url) as answer:
            assert len(answer.headers["X-Request-Id"]) == 32
        async with client.get(listener.url, headers={"X-Request-Id": "abc-1"}) as answer:
            assert answer.headers["X-Request-Id"] == "abc-1"
        async with client.get(listener.url, headers={"X-Request-Id": 'x"y z'}) as answer:
            assert len(answer.headers["X-Request-Id"]) == 32


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (InvalidCredentials("no"), 401, "invalid_credentials"),
        (TenantNotFound("no such tenant zeta"), 403, "tenant_mismatch"),
        (PoolTimeout("no connection", retry_after=0.2), 503, "pool_timeout"),
        (RuntimeError("password=hunter2"), 500, "internal_error"),
        (web.HTTPNotFound(), 404, "not_found"),
    ],
    ids=lambda value: str(value)[:12],
)
async def test_errors_are_problems(error: Exception, status: int, code: str, client: aiohttp.ClientSession) -> None:
    async with listening(web.get("/", raising(error))) as listener, client.get(listener.url) as answer:
        assert answer.status == status
        assert answer.content_type == "application/problem+json"
        text = await answer.text()
        problem = json.loads(text)
        assert (problem["code"], problem["status"]) == (code, status)
        assert problem["request_id"] == answer.headers["X-Request-Id"]
        assert "hunter2" not in text
        assert "zeta" not in text
        assert answer.headers.get("Retry-After") == ("1" if status == 503 else None)
        assert answer.headers.get("WWW-Authenticate") == ("Bearer" if status == 401 else None)


async def test_a_wrong_method_says_which_are_allowed(client: aiohttp.ClientSession) -> None:
    async with listening(web.get("/", ok)) as listener, client.delete(listener.url) as answer:
        assert answer.status == 405
        assert "GET" in answer.headers["Allow"]


async def test_a_head_beyond_16_kib_is_refused(client: aiohttp.ClientSession) -> None:
    big = {f"X-{number}": "v" * 6000 for number in range(3)}
    async with listening(web.get("/", ok)) as listener, client.get(listener.url, headers=big) as answer:
        assert answer.status == 431


async def test_a_body_beyond_1_mib_is_refused_with_and_without_a_length(client: aiohttp.ClientSession) -> None:
    async def read(request: web.Request) -> web.Response:
        return web.Response(text=str(len(await request.read())))

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b"x" * 65536

    async with listening(web.post("/", read)) as listener:
        async with client.post(listener.url, data=io.BytesIO(b"x" * (1024 * 1024))) as answer:
            assert await answer.text() == str(1024 * 1024)
        async with client.post(listener.url, data=io.BytesIO(b"x" * (1024 * 1024 + 1))) as answer:
            assert answer.status == 413
        async with client.post(listener.url, data=chunks()) as answer:
            assert answer.status == 413


async def test_a_client_too_many_is_refused_while_all_are_at_work(
    opened: Opened, client: aiohttp.ClientSession
) -> None:
    release = asyncio.Event()

    async def wait(request: web.Request) -> web.Response:
        await release.wait()
        return web.Response(text="done")

    async with listening(web.get("/", wait), max_clients=2) as listener:
        asked = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        held = [await opened(listener, asked) for _ in range(2)]
        await until(lambda: not waiting(listener), "both are at work")
        refused = await raw(listener.url, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert refused.startswith(b"HTTP/1.1 503")
        assert b"Retry-After" in refused
        assert json.loads(refused.partition(b"\r\n\r\n")[2])["code"] == "too_many_clients"
        assert listener.stats().clients == 2
        release.set()
        for reader, _ in held:
            assert b"done" in await asyncio.wait_for(reader.read(), 20)
        await until(lambda: not listener.stats().clients, "no client is connected")
        async with client.get(listener.url) as answer:
            assert answer.status == 200


def waiting(listener: HttpListener) -> int:
    return len(listener.places._idle)


async def test_idle_connections_give_way_the_longest_idle_first(opened: Opened) -> None:
    async with listening(web.get("/", ok), max_clients=3, idle_grace=0) as listener:
        held: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        for number in range(3):
            held.append(await opened(listener, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"))
            await asyncio.wait_for(held[number][0].readuntil(b"fine"), 20)
            await until(lambda: waiting(listener) == len(held), "the answer is done with")
        reader, writer = held[0]  # used again: now the second has waited longest
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.wait_for(reader.readuntil(b"fine"), 20)
        await until(lambda: waiting(listener) == 3, "the answer is done with")
        for closed in (1, 2, 0):
            held.append(await opened(listener, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"))
            assert b"200 OK" in await asyncio.wait_for(held[-1][0].readline(), 20)
            assert await asyncio.wait_for(held[closed][0].read(), 20) == b""
            assert listener.stats().clients <= 3


async def test_an_address_at_its_limit_leaves_the_other_places_alone(opened: Opened) -> None:
    release = asyncio.Event()

    async def wait(request: web.Request) -> web.Response:
        await release.wait()
        return web.Response(text="done")

    asked = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    async with listening(web.get("/", wait), max_clients=9, max_per_address=2) as listener:
        held = [await opened(listener, asked) for _ in range(2)]
        await until(lambda: listener.stats().clients == 2 and not waiting(listener), "both are at work")
        refused = await raw(listener.url, asked)
        assert refused.startswith(b"HTTP/1.1 429")
        assert json.loads(refused.partition(b"\r\n\r\n")[2])["code"] == "too_many_clients_of_this_address"
        release.set()
        for reader, _ in held:
            assert b"done" in await asyncio.wait_for(reader.read(), 20)


async def test_a_trusted_proxy_has_no_limit_of_its_own(opened: Opened) -> None:
    exempt = {"127.0.0.1"}
    async with listening(web.get("/", ok), max_per_address=1, is_exempt=exempt.__contains__) as listener:
        held = [await opened(listener) for _ in range(5)]
        await until(lambda: listener.stats().clients == 5, "all are in")
        assert len(held) == 5


@pytest.mark.parametrize("rest", [b"GET / HT", b"\r\n", b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: "])
async def test_the_head_of_a_second_request_has_its_time_too(opened: Opened, rest: bytes) -> None:
    async with listening(web.get("/", ok), head_timeout=0.05) as listener:
        reader, writer = await opened(listener, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.wait_for(reader.readuntil(b"fine"), 20)
        await until(lambda: waiting(listener) == 1, "the answer is done with")
        writer.write(rest)
        with suppress(ConnectionResetError):
            assert await asyncio.wait_for(reader.read(), 20) == b""
        await until(lambda: listener.stats().clients == 0, "no client is connected")


TOKEN = b"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiI3In0.c2VjcmV0LXNpZ25hdHVyZQ"
MALFORMED = {
    "a space before the colon": b"GET / HTTP/1.1\r\nHost: x\r\nAuthorization : Bearer %s\r\n\r\n" % TOKEN,
    "a line feed in the token": b"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\x01\n\r\n" % TOKEN,
    "a NUL": b"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\0\r\n\r\n" % TOKEN,
    "a header of 9 KB": b"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n\r\n" % (TOKEN * 160),
    "a request line of 9 KB": b"GET /?token=%s HTTP/1.1\r\nHost: x\r\n\r\n" % (TOKEN * 160),
    "no HTTP": b"Authorization: Bearer %s\r\n\r\n" % TOKEN,
    "two lengths": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: %s\r\n\r\n" % TOKEN,
    "an expectation": b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nExpect: %s\r\n\r\n" % TOKEN,
    "a chunk": b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n%s\r\n" % TOKEN,
}


@pytest.mark.parametrize("kind", MALFORMED)
async def test_a_malformed_request_is_quoted_neither_in_the_answer_nor_in_the_log(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def read(request: web.Request) -> web.Response:
        return web.Response(text=str(len(await request.read())))

    async with listening(web.get("/", ok), web.post("/", read)) as listener:
        answer = await raw(listener.url, MALFORMED[kind])
    head, _, body = answer.partition(b"\r\n\r\n")
    problem = json.loads(body)
    assert head.split(b" ")[1] == str(problem["status"]).encode()
    assert problem["status"] in (400, 417, 431)
    assert b"application/problem+json" in head
    assert b"\r\nserver:" not in head.lower()
    assert TOKEN[:20] not in answer
    assert len(body) < 200
    assert TOKEN[:20].decode() not in caplog.text
    assert "Traceback" not in caplog.text
    assert all(record.levelname != "ERROR" for record in caplog.records)
    assert len(caplog.records) <= 1


async def test_no_answer_says_which_server_made_it(client: aiohttp.ClientSession) -> None:
    async with listening(web.get("/", ok)) as listener:
        for path in ("/", "/nowhere"):
            async with client.get(listener.url + path) as answer:
                assert "Server" not in answer.headers


async def test_a_burst_never_gets_more_than_the_limit_in() -> None:
    release = asyncio.Event()
    inside = 0
    most = 0

    async def wait(request: web.Request) -> web.Response:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        await release.wait()
        inside -= 1
        return web.Response(text="done")

    async with listening(web.get("/", wait), max_clients=5, idle_grace=60) as listener:
        asked = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        calls = [asyncio.ensure_future(raw(listener.url, asked)) for _ in range(40)]
        await until(lambda: sum(call.done() for call in calls) == 35, "those too many were refused")
        release.set()
        answers = await asyncio.gather(*calls)
    assert most == 5
    assert sorted(answer[9:12] for answer in answers) == [b"200"] * 5 + [b"503"] * 35


async def test_closing_lets_a_running_request_finish_and_takes_no_new_one(client: aiohttp.ClientSession) -> None:
    started, release = asyncio.Event(), asyncio.Event()

    async def slow(request: web.Request) -> web.Response:
        started.set()
        await release.wait()
        return web.Response(text="finished")

    async with listening(web.get("/", slow)) as listener:
        url = listener.url
        running = asyncio.ensure_future(client.get(url))
        await started.wait()
        closing = asyncio.ensure_future(listener.close())
        await until(lambda: not listener.is_open, "it does not accept")
        with pytest.raises(OSError, match=r"."):
            await asyncio.open_connection(urlsplit(url).hostname, urlsplit(url).port)
        assert not closing.done()
        release.set()
        async with await running as answer:
            assert await answer.text() == "finished"
        await closing


async def test_closing_cuts_what_does_not_finish_in_time(client: aiohttp.ClientSession) -> None:
    started = asyncio.Event()

    async def stuck(request: web.Request) -> web.Response:
        started.set()
        await asyncio.Event().wait()
        return web.Response()

    async with listening(web.get("/", stuck), drain_timeout=0.05) as listener:
        running = asyncio.ensure_future(client.get(listener.url))
        await started.wait()
        async with asyncio.timeout(PATIENCE):
            await listener.close()
        with pytest.raises(aiohttp.ClientError):
            await running


async def test_requests_are_counted_by_pattern_and_never_by_path(client: aiohttp.ClientSession) -> None:
    requests = HttpRequests()
    async with listening(web.get("/t/{tenant}", ok), requests=requests) as listener:
        for path in ("/t/acme", "/t/globex", "/nowhere", "/else/where"):
            async with client.get(listener.url + path):
                pass
    assert requests.codes == {("/t/{tenant}", "GET", "200"): 2, ("unmatched", "GET", "404"): 2}


async def test_clients_that_come_and_go_in_any_way_leave_the_count_at_zero(client: aiohttp.ClientSession) -> None:
    async with listening(web.get("/", ok), max_clients=3) as listener:
        parts = urlsplit(listener.url)
        for number in range(30):
            _, writer = await asyncio.open_connection(parts.hostname, parts.port)
            if number % 3 == 0:
                writer.write(b"GET / HT")
            if number % 3 == 1:
                writer.write(b"\x16\x03\x01 not http\r\n\r\n")
            if number % 2:
                writer.transport.abort()
            else:
                writer.close()
        await until(lambda: listener.stats().clients == 0, "no client is connected")
        async with client.get(listener.url) as answer:
            assert answer.status == 200


async def test_who_reads_no_answer_is_cut_off() -> None:
    """Its place is taken by no one else meanwhile: an answer under way is no waiting."""

    async def large(request: web.Request) -> web.Response:
        return web.Response(body=bytes(32 * 1024 * 1024))

    async with listening(web.get("/large", large), max_clients=1, write_timeout=0.2) as listener:
        host, port = urlsplit(listener.url).hostname, urlsplit(listener.url).port
        _, writer = await asyncio.open_connection(host, port, limit=1024)
        try:
            writer.write(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
            await until(lambda: len(listener.places) == 1 and not listener.places._idle, "its answer begins")
            await until(lambda: len(listener.places) == 0, "it is cut off")
        finally:
            writer.close()


async def test_who_reads_slowly_gets_the_whole_answer() -> None:
    async def large(request: web.Request) -> web.Response:
        return web.Response(body=bytes(8 * 1024 * 1024))

    async with listening(web.get("/large", large), write_timeout=PATIENCE) as listener:
        answer = await raw(listener.url, b"GET /large HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert len(answer) > 8 * 1024 * 1024


# --- TLS -------------------------------------------------------------------------------------------------------------
async def test_a_listener_with_a_certificate_speaks_tls_alone_and_knows_it(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certified = listener_tls(Http(**authority.certificate("localhost", "127.0.0.1").listener), "http")

    async def scheme(request: web.Request) -> web.Response:
        return web.Response(text=f"{request.scheme} {len(await request.read())}")

    async with listening(web.post("/", scheme), tls=certified) as listener:
        assert listener.url.startswith("https://127.0.0.1:")
        assert listener.stats().certificate_expires_at is not None
        context = ssl.create_default_context(cafile=str(authority.root))
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session:
            for _ in range(2):
                async with session.post(listener.url, data=b"x" * 300_000) as answer:
                    assert await answer.text() == "https 300000"
        with suppress(ConnectionResetError):
            assert b"HTTP" not in await raw(listener.url, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await until(lambda: listener.stats().clients == 0, "no client is connected")


@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01\x02\x00\x01"])
async def test_who_stops_in_a_handshake_keeps_no_place(tmp_path: Path, sent: bytes) -> None:
    certified = listener_tls(Http(**Authority(tmp_path).certificate("localhost").listener), "http")
    async with listening(web.get("/", ok), tls=certified, max_clients=1, head_timeout=0.1) as listener:
        with suppress(ConnectionResetError):
            assert await raw(listener.url, sent) == b""
        await until(lambda: listener.stats().clients == 0, "no client is connected")


async def test_a_client_without_a_good_certificate_of_the_authority_is_not_served(tmp_path: Path) -> None:
    authority, stranger = Authority(tmp_path), Authority(tmp_path, "stranger")
    revoked = authority.certificate("client", file="revoked")
    keys = authority.certificate("localhost", "127.0.0.1").listener
    keys |= {"ssl_client_ca_file": str(authority.root), "ssl_crl_file": str(authority.crl(revoked))}
    bad = (None, revoked, authority.certificate("client", days=-1, file="old"), stranger.certificate("client"))
    async with listening(web.get("/", ok), tls=listener_tls(Http(**keys), "http")) as listener:
        for shown in (authority.certificate("client", file="good"), *bad):
            context = ssl.create_default_context(cafile=str(authority.root))
            if shown is not None:
                context.load_cert_chain(shown.certificate, shown.key)
            async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session:
                if shown in bad:
                    with pytest.raises(aiohttp.ClientError):
                        await session.get(listener.url)
                else:
                    async with session.get(listener.url) as answer:
                        assert answer.status == 200
