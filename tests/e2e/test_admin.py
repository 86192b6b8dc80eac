"""Does the admin listener answer only who has its token, by its own name? Real sockets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry
from typer.testing import CliRunner

from tenantproxy.cli.main import app
from tenantproxy.config import Admin
from tenantproxy.demo.world import World
from tenantproxy.metrics.listeners import HttpRequests
from tenantproxy.pools.base import Stats
from tenantproxy.sidecar.admin import Readiness, admin_app, pools_json
from tenantproxy.sidecar.admin_gate import admin_gate
from tenantproxy.sidecar.listener import HttpListener
from tenantproxy.sidecar.page.feed import PageFeed
from tenantproxy.sidecar.page.recent import RecentEvents
from tenantproxy.sidecar.page.routes import page_routes
from tenantproxy.sidecar.page.rows import Look
from tests.support.command import command
from tests.support.sidecar import Served
from tests.support.waiting import PATIENCE

TOKEN = "a token of more than sixteen bytes"
BARE = """
main = {{ server = "primary", database = "main" }}
servers = {{ primary = {{ user = "app", password = "" }} }}
registry = {{ source = "file" }}
admin = {{ listen = "{listen}", token_file = "{token}" }}
"""
OPEN = ("/livez", "/readyz")
CLOSED = ("/metrics", "/v1/pools", "/v1/servers", "/v1/nothing", "/")
STATS = Stats(
    pools=(), servers=(), pools_limit=1, acquires={}, exhaustions={}, acquire_wait={}, hold={}, closed={}, opened={},
    evicted={}, resets={}, violations={}, lookups={}, lookup_seconds={}, registry_last_success=None,
)  # fmt: skip


async def _metrics() -> CollectorRegistry:
    return CollectorRegistry()


async def _pools() -> bytes:
    return await pools_json(STATS)


async def _servers() -> list[dict[str, Any]]:
    return []


@asynccontextmanager
async def an_admin_listener(
    *, ready: bool = True, max_unknown: int = 0, max_readers: int | None = None, idle_grace: float = 60.0,
    routes: Iterable[web.AbstractRouteDef] = (), **keys: Any,
) -> AsyncIterator[str]:  # fmt: skip
    async def readiness() -> Readiness:
        return {"up": ready}

    admin = Admin.model_validate({"listen": "127.0.0.1:0", **keys})
    served = admin_app(
        HttpRequests(),
        readiness=readiness,
        metrics=_metrics,
        pools=_pools,
        servers=_servers,
        gate=admin_gate(lambda: admin),
        routes=routes,
    )
    listener = HttpListener(
        served, protocol="admin", host="127.0.0.1", port=0, max_clients=10, drain_timeout=5.0, head_timeout=60.0,
        max_unknown=max_unknown, max_readers=max_readers, idle_grace=idle_grace,
    )  # fmt: skip
    await listener.open()
    try:
        yield listener.url
    finally:
        await listener.close()


async def ask(url: str, path: str, *headers: str, host: str | None = "127.0.0.1") -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body; `headers` as they go over the wire."""
    lines = [f"GET {path} HTTP/1.1", *headers, "Connection: close"]
    if host is not None:
        lines.insert(1, f"Host: {host}")
    reader, writer = await asyncio.open_connection(urlsplit(url).hostname, urlsplit(url).port)
    try:
        writer.write("\r\n".join((*lines, "", "")).encode())
        head, _, body = (await asyncio.wait_for(reader.read(), 30)).partition(b"\r\n\r\n")
    finally:
        writer.close()
    first, *rest = head.decode().split("\r\n")
    return (
        int(first.split()[1]),
        {name.lower(): value for name, _, value in (one.partition(": ") for one in rest)},
        body,
    )


def bearer(token: str) -> str:
    return f"Authorization: Bearer {token}"


# --- places -----------------------------------------------------------------------------------------------------------
SLOW: Final = b"GET /v1/pools HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: "


async def test_slow_heads_without_a_token_keep_no_one_out_who_has_one() -> None:
    asked = f"GET /v1/servers HTTP/1.1\r\nHost: 127.0.0.1\r\n{bearer(TOKEN)}\r\n\r\n".encode()
    async with an_admin_listener(token=TOKEN, max_unknown=4) as url, AsyncExitStack() as stack:

        async def opened(data: bytes) -> asyncio.StreamReader:
            reader, writer = await asyncio.open_connection(urlsplit(url).hostname, urlsplit(url).port)
            stack.callback(writer.close)
            writer.write(data)
            writers[reader] = writer
            return reader

        writers: dict[asyncio.StreamReader, asyncio.StreamWriter] = {}
        known = [await opened(asked) for _ in range(5)]
        for each in known:
            assert b"200 OK" in await asyncio.wait_for(each.readuntil(b'{"servers": []}'), PATIENCE)
        slow = [await opened(SLOW) for _ in range(30)]
        for each in slow[:26]:
            with suppress(ConnectionResetError):
                assert await asyncio.wait_for(each.read(), PATIENCE) == b"", "the oldest made room"
        assert (await ask(url, "/v1/servers", bearer(TOKEN)))[0] == 200
        for each in known:
            writers[each].write(asked)
            assert b"200 OK" in await asyncio.wait_for(each.readuntil(b'{"servers": []}'), PATIENCE)


async def test_a_wrong_token_makes_no_connection_a_known_one() -> None:
    wrong = f"GET /v1/servers HTTP/1.1\r\nHost: 127.0.0.1\r\n{bearer('wrong')}\r\n\r\n".encode()
    async with an_admin_listener(token=TOKEN, max_unknown=1) as url:
        reader, writer = await asyncio.open_connection(urlsplit(url).hostname, urlsplit(url).port)
        writer.write(wrong)
        assert b" 401 " in await asyncio.wait_for(reader.readline(), PATIENCE)
        assert (await ask(url, "/v1/servers", bearer(TOKEN)))[0] == 200
        with suppress(ConnectionResetError):
            await asyncio.wait_for(reader.read(), PATIENCE)
        writer.close()


READING: Final = "another token of more than sixteen bytes"
TOKENS: Final[dict[str, Any]] = {"token": TOKEN, "tokens": {"wall": {"token": READING, "role": "read"}}}


async def asking(url: str, path: str, token: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, int]:
    """A connection that stays, and the status of its first answer."""
    reader, writer = await asyncio.open_connection(urlsplit(url).hostname, urlsplit(url).port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{bearer(token)}\r\n\r\n".encode())
    return reader, writer, int((await asyncio.wait_for(reader.readline(), PATIENCE)).split()[1])


async def no_look() -> Look:
    return Look(stats=STATS)


@pytest.mark.parametrize("limited", ["connections", "viewers"])
async def test_those_who_only_look_leave_places_to_those_who_may_act(limited: str) -> None:
    feed = PageFeed(no_look, RecentEvents(), max_viewers=3 if limited == "viewers" else 100)
    most = 3 if limited == "connections" else 100
    async with an_admin_listener(routes=page_routes(feed), max_unknown=4, max_readers=most, **TOKENS) as url:
        open_ = [await asking(url, "/v1/events", READING) for _ in range(5)]
        assert [status for *_, status in open_] == [200] * 3 + [503] * 2
        reader = open_[-1][0]
        told = (await asyncio.wait_for(reader.readuntil(b'"request_id"'), PATIENCE)).decode()
        assert ("too_many_readers" if limited == "connections" else "too_many_viewers") in told
        acting = [await asking(url, "/v1/events", TOKEN) for _ in range(2)]
        assert [status for *_, status in acting] == [200, 200], "they find places"
        assert (await ask(url, "/livez"))[0] == 200
        for _, writer, _ in (*open_, *acting):
            writer.close()
        await feed.close()


async def test_a_reader_that_waits_for_nothing_makes_room_for_the_next_one() -> None:
    async with an_admin_listener(max_unknown=4, max_readers=2, idle_grace=0.0, **TOKENS) as url:
        first = await asking(url, "/v1/servers", READING)
        others = [await asking(url, "/v1/servers", READING) for _ in range(3)]
        assert [status for *_, status in (first, *others)] == [200] * 4
        with suppress(ConnectionResetError):
            await asyncio.wait_for(first[0].read(), PATIENCE)
        for _, writer, _ in (first, *others):
            writer.close()


# --- the token -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "header",
    [
        (),
        (bearer("wrong"),),
        (bearer(""),),
        (bearer(TOKEN[:-1]),),
        (f"Authorization: Basic {TOKEN}",),
        (f"Authorization: {TOKEN}",),
        (bearer(TOKEN), bearer(TOKEN)),
    ],
)
@pytest.mark.parametrize("path", CLOSED)
async def test_without_the_token_nothing_but_health_is_answered(path: str, header: tuple[str, ...]) -> None:
    async with an_admin_listener(token=TOKEN) as url:
        status, headers, body = await ask(url, path, *header)
        assert status == 401
        assert headers["www-authenticate"] == "Bearer"
        assert headers["content-type"] == "application/problem+json"
        assert json.loads(body)["code"] == "invalid_credentials"
        assert TOKEN.encode() not in body


async def test_with_the_token_everything_is_answered() -> None:
    async with an_admin_listener(token=TOKEN) as url:
        for path in (*OPEN, *CLOSED[:3]):
            assert (await ask(url, path, bearer(TOKEN)))[0] == 200
        assert (await ask(url, "/v1/nothing", bearer(TOKEN)))[0] == 404


@pytest.mark.parametrize("path", OPEN)
async def test_a_health_probe_needs_no_token_and_may_send_any_host(path: str) -> None:
    async with an_admin_listener(token=TOKEN) as url:
        assert (await ask(url, path))[0] == 200
        assert (await ask(url, path, host="probe.example"))[0] == 200


async def test_metrics_can_be_public_and_nothing_else() -> None:
    async with an_admin_listener(token=TOKEN, metrics_public=True) as url:
        assert (await ask(url, "/metrics"))[0] == 200
        assert (await ask(url, "/v1/pools"))[0] == 401
        assert (await ask(url, "/metrics/../v1/pools"))[0] in (401, 404)


async def test_a_token_that_was_rotated_counts_at_the_next_request(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    async with an_admin_listener(token_file=str(file)) as url:
        assert (await ask(url, "/v1/pools", bearer(TOKEN)))[0] == 200
        file.write_text("another token of many bytes\n")
        assert (await ask(url, "/v1/pools", bearer(TOKEN)))[0] == 401
        assert (await ask(url, "/v1/pools", bearer("another token of many bytes")))[0] == 200


@pytest.mark.parametrize("content", [None, "", "\n", "short"])
async def test_while_the_token_cannot_be_used_no_request_is_accepted(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "token"
    async with an_admin_listener(token_file=str(file)) as url:
        if content is not None:
            file.write_text(content)
        for header in ((), (bearer(""),), (bearer("short"),)):
            assert (await ask(url, "/v1/pools", *header))[0] in (401, 500)


# --- the Host header -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("keys", [{}, {"token": TOKEN}])
@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "10.1.2.3", "", None, "127.0.0.1@evil"])
@pytest.mark.parametrize("path", CLOSED)
async def test_a_request_addressed_to_another_host_is_refused(
    path: str, host: str | None, keys: dict[str, Any]
) -> None:
    async with an_admin_listener(**keys) as url:
        status, _, body = await ask(url, path, bearer(TOKEN), host=host)
        assert status in (400, 421)
        assert b"pools" not in body


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST:9", "localhost.", "127.0.0.1:8081", "[::1]:8081", "ops.internal", "OPS.internal:80"],
)
async def test_its_own_names_are_answered_with_any_port(host: str) -> None:
    async with an_admin_listener(hosts=["ops.internal"]) as url:
        assert (await ask(url, "/v1/pools", host=host))[0] == 200


# --- the command line ------------------------------------------------------------------------------------------------
def test_the_pools_command_sends_the_token_of_the_configuration(
    demo_world: World, serve: Callable[..., Served], tmp_path: Path
) -> None:
    (tmp_path / "token").write_text(TOKEN)
    config = demo_world.config.with_name("with_token.toml")
    text = demo_world.config.read_text()
    assert "[admin]\n" in text
    config.write_text(text.replace("[admin]\n", f'[admin]\ntoken_file = "{tmp_path / "token"}"\n'))
    served = serve(config)
    right = CliRunner().invoke(app, ["pools", "--url", served.admin, "--config", str(config), "--json"])
    assert right.exit_code == 0
    assert json.loads(right.stdout)
    wrong = CliRunner().invoke(app, ["pools", "--url", served.admin, "--config", str(demo_world.config)])
    assert wrong.exit_code == 1
    assert "answers 401" in wrong.stderr
    assert "token_file" in wrong.stderr


async def asked(*args: str) -> tuple[int, str, str]:
    done = await command("health", *args)
    return done.returncode, done.stdout, done.stderr


async def test_health_exits_with_0_when_ready_and_needs_no_token(tmp_path: Path) -> None:
    async with an_admin_listener(token=TOKEN) as url:
        config = tmp_path / "tenantproxy.toml"
        config.write_text(BARE.format(listen=url.removeprefix("http://"), token=tmp_path / "unreadable"))
        assert await asked("--config", str(config)) == (0, "ok\n", "")


@pytest.mark.parametrize(("option", "code"), [((), 1), (("--live",), 0)])
async def test_health_exits_with_1_when_not_ready_and_says_why(option: tuple[str, ...], code: int) -> None:
    async with an_admin_listener(ready=False, token=TOKEN) as url:
        status, out, error = await asked("--url", url, *option)
        assert status == code
        assert ("not ready: up" in error) == bool(code)
        assert bool(out) != bool(code)


async def _answer_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    writer.close()


async def _answer_as_another(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    await writer.drain()
    writer.close()


@pytest.mark.parametrize(
    ("answer", "told"), [(_answer_nothing, "no answer within 0.2 s"), (_answer_as_another, "is not tenantproxy's")]
)
async def test_health_exits_with_1_where_no_sidecar_answers(answer: Any, told: str) -> None:
    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        status, out, error = await asked("--url", f"http://127.0.0.1:{port}", "--timeout", "0.2")
        assert (status, out) == (1, "")
        assert told in error
