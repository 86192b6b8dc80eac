"""Can a library's user mount the operator page and the admin API, and say who may do what there?"""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from fastapi import FastAPI

from tenantproxy import Router
from tenantproxy.admin import AdminCaller, Role, aiohttp_app, asgi_app
from tenantproxy.events import AdminActedOn, AdminChangeAnswered, Event
from tenantproxy.sidecar.page.feed import PageFeed
from tests.support.waiting import until
from tests.support.web import served, served_aiohttp
from tests.support.world import World

ROLES = {f"{role.value}-cookie": AdminCaller(by=f"{role.value}.person", role=role) for role in Role}


async def by_cookie(headers: Mapping[str, str]) -> AdminCaller | None:
    """As an application would that has logged its people in."""
    return ROLES.get(headers.get("cookie", "").removeprefix("session="))


@asynccontextmanager
async def in_fastapi(router: Router, **options: Any) -> AsyncIterator[str]:
    app = FastAPI()
    app.mount("/ops/tenants", asgi_app(router, **options))
    async with served(app) as url:
        yield url


@asynccontextmanager
async def in_aiohttp(router: Router, **options: Any) -> AsyncIterator[str]:
    app = web.Application()
    app.add_subapp("/ops/tenants", aiohttp_app(router, **options))
    async with served_aiohttp(app) as url:
        yield url


Mounted = Callable[..., AbstractAsyncContextManager[str]]
EACH = pytest.mark.parametrize("mounted", [in_fastapi, in_aiohttp])


async def asked(
    http: aiohttp.ClientSession, path: str, role: str = "", method: str = "GET", **headers: str
) -> tuple[int, Any]:
    given = {**headers} | ({"Cookie": f"session={role}-cookie"} if role else {})
    async with http.request(method, f"/ops/tenants{path}", headers=given) as answer:
        return answer.status, await (answer.json() if "json" in answer.content_type else answer.text())


@EACH
async def test_the_mounted_page_and_its_api_are_answered_below_their_path(mounted: Mounted, world: World) -> None:
    async with (
        Router(world.settings()) as router,
        mounted(router, auth=by_cookie) as url,
        aiohttp.ClientSession(url) as http,
    ):
        code, page = await asked(http, "/")
        assert code == 200
        assert 'src="page/page.js"' in page
        assert (await asked(http, "/page/page.js"))[0] == 200
        assert await asked(http, "/v1/me", "read") == (200, {"name": "read.person", "role": "read"})
        async with router.tenant("row1").connection():
            code, held = await asked(http, "/v1/pools/row1", "read")
            assert (code, held["pools"][0]["used"], len(held["pools"][0]["held"])) == (200, 1, 1)
            assert (await asked(http, "/v1/pools", "read"))[1]["pools"]
        assert (await asked(http, "/v1/pools/..%2Fx", "read"))[0] == 404
        assert "tenantproxy_build_info" in (await asked(http, "/metrics", "read"))[1]
        assert (await asked(http, "/v1/nothing", "read"))[0] == 404
        described = (await asked(http, "/v1/openapi.json", "read"))[1]
        assert "/v1/tenants/{tenant}/evict" in described["paths"]
        assert "/v1/reload" not in described["paths"], "the application's process is not ours"
        assert "/v1/pools/{tenant}/pause" not in described["paths"], "there is no port at which it could be paused"


async def test_what_a_lease_runs_is_told_without_its_literals_and_by_no_one_else_s(world: World) -> None:
    async with (
        Router(world.settings()) as router,
        in_fastapi(router, auth=by_cookie) as url,
        aiohttp.ClientSession(url) as http,
        router.tenant("database1").connection() as conn,
        router.tenant("database2").connection(),
    ):
        pid = await conn.fetchval("SELECT pg_backend_pid() /* s3cr3t */ WHERE 's3cr3t' <> $1", "another")
        code, told = await asked(http, "/v1/pools/database1/statements", "read")
        assert (code, told["unseen"]) == (200, [])
        (only,) = told["held"]
        assert (only["backend"], only["client"]) == (f"primary/{pid}", None)
        assert (only["statement"], only["state"]) == ("SELECT pg_backend_pid() WHERE ? <> $1", "idle")
        held = (await asked(http, "/v1/pools/database1", "read"))[1]["pools"][0]["held"]
        assert [each["backend"] for each in held] == [only["backend"]]
        assert (await asked(http, "/v1/pools/row1/statements", "read"))[1]["held"] == [], "it holds nothing"
        assert (await asked(http, "/v1/pools/..%2Fx/statements", "read"))[0] == 404
        assert (await asked(http, "/v1/pools/database1/statements"))[0] == 401


@EACH
async def test_the_application_says_who_may_do_what_and_each_change_is_told(mounted: Mounted, world: World) -> None:
    told: list[Event] = []
    async with (
        Router(world.settings(), observer=told.append) as router,
        mounted(router, auth=by_cookie) as url,
        aiohttp.ClientSession(url) as http,
    ):
        assert (await asked(http, "/v1/pools"))[0] == 401
        assert (await asked(http, "/v1/pools", "none"))[0] == 401
        evict, own = "/v1/tenants/database1/evict", {"Origin": url}
        code, problem = await asked(http, evict, "read", "POST", **own)
        assert (code, problem["code"]) == (403, "role_needed")
        async with router.tenant("database1").connection() as conn:
            await conn.fetchval("SELECT 1")
        assert await asked(http, evict, "operate", "POST", **own) == (200, {})
        assert all(not pool.idle for pool in router.stats().pools if pool.label == "database1")
        assert (await asked(http, "/v1/tenants/nowhere/evict", "operate", "POST", **own))[0] == 404
    changes = [(each.by, each.status) for each in told if isinstance(each, AdminChangeAnswered)]
    assert changes == [("read.person", 403), ("operate.person", 200), ("operate.person", 404)]
    (which,) = [each for each in told if isinstance(each, AdminActedOn)]
    assert (which.by, which.tenant, which.count) == ("operate.person", "database1", 1)
    assert str(which.acted_on[0]["backend"]).startswith("primary/"), "its connection there was closed"
    assert which.request_id == next(
        each.request_id for each in told if isinstance(each, AdminChangeAnswered) and each.status == 200
    )


@EACH
async def test_a_cookie_alone_changes_nothing_for_another_site(mounted: Mounted, world: World) -> None:
    async with (
        Router(world.settings()) as router,
        mounted(router, auth=by_cookie) as url,
        aiohttp.ClientSession(url) as http,
    ):
        for headers in ({}, {"Origin": "https://evil.example"}, {"Origin": "null"}):
            code, problem = await asked(http, "/v1/tenants/database1/evict", "admin", "POST", **headers)
            assert (code, problem["code"]) == (403, "foreign_origin")


@EACH
async def test_behind_tls_a_page_of_its_name_in_clear_text_changes_nothing(mounted: Mounted, world: World) -> None:
    async with (
        Router(world.settings()) as router,
        mounted(router, auth=by_cookie) as url,
        aiohttp.ClientSession(url) as http,
    ):
        evict, secure = "/v1/tenants/database1/evict", url.replace("http:", "https:")
        for headers in ({"Origin": url, "X-Forwarded-Proto": "https"}, {"Origin": url, "Sec-Fetch-Site": "cross-site"}):
            code, problem = await asked(http, evict, "operate", "POST", **headers)
            assert (code, problem["code"]) == (403, "foreign_origin")
        for told in ({}, {"X-Forwarded-Proto": "https", "Sec-Fetch-Site": "same-origin"}):
            assert await asked(http, evict, "operate", "POST", **{"Origin": secure, **told}) == (200, {})


async def test_the_scheme_that_the_server_says_is_that_of_the_request(world: World) -> None:
    sent: list[Any] = []
    scope: dict[str, Any] = {
        "type": "http", "method": "GET", "path": "/v1/pools", "query_string": b"", "scheme": "https",
        "headers": [(b"host", b"app.example"), (b"origin", b"http://app.example"), (b"cookie", b"session=read-cookie")],
    }  # fmt: skip
    async with Router(world.settings()) as router:
        app: Any = asgi_app(router, auth=by_cookie)
        bodies = [{"type": "http.request"}]

        async def receive() -> Any:
            return bodies.pop() if bodies else await asyncio.Event().wait()

        async def send(message: Any) -> None:
            sent.append(message)

        await app(scope, receive, send)
        assert sent[0]["status"] == 403
        scope["headers"][1] = (b"origin", b"https://app.example")
        bodies.append({"type": "http.request"})
        sent.clear()
        await app(scope, receive, send)
        assert sent[0]["status"] == 200
        await app.close()


@EACH
async def test_without_an_auth_of_its_own_the_tokens_of_admin_are_asked_for(mounted: Mounted, world: World) -> None:
    token = "a token of more than sixteen bytes"
    async with (
        Router(world.settings(admin={"token": token})) as router,
        mounted(router) as url,
        aiohttp.ClientSession(url) as http,
    ):
        assert (await asked(http, "/v1/me"))[0] == 401
        assert await asked(http, "/v1/me", Authorization=f"Bearer {token}") == (200, {"name": "admin", "role": "admin"})
    async with Router(world.settings()) as router, mounted(router) as url, aiohttp.ClientSession(url) as http:
        assert (await asked(http, "/v1/me"))[0] == 403


@EACH
async def test_mounted_streams_are_live_and_end_with_their_client(mounted: Mounted, world: World) -> None:
    async with Router(world.settings()) as router, mounted(router, auth=by_cookie) as url:
        before = router.observer
        async with aiohttp.ClientSession(url) as http:
            async with http.get("/ops/tenants/v1/events", headers={"Cookie": "session=read-cookie"}) as answer:
                assert answer.content_type == "text/event-stream"
                event = await answer.content.readline()
                assert event == b"event: all\n"
                assert json.loads((await answer.content.readline()).removeprefix(b"data: "))["columns"]
        assert router.observer is before


async def test_a_body_that_is_too_large_is_refused_where_it_is_mounted(world: World) -> None:
    async with (
        Router(world.settings()) as router,
        in_fastapi(router, auth=by_cookie) as url,
        aiohttp.ClientSession(url) as http,
    ):
        headers = {"Cookie": "session=admin-cookie", "Origin": url, "Content-Type": "application/json"}

        async def endless() -> AsyncIterator[bytes]:
            for _ in range(40):
                yield b" " * 65536

        for data in (io.BytesIO(b" " * (2 << 20)), endless()):
            async with http.post("/ops/tenants/v1/tenants", data=data, headers=headers) as answer:
                assert answer.status in (400, 413)


async def test_viewers_are_gone_when_their_clients_are(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted at the feed, through the server of FastAPI."""
    feeds: list[PageFeed] = []

    def counted(*args: Any) -> PageFeed:
        feeds.append(PageFeed(*args))
        return feeds[-1]

    monkeypatch.setattr("tenantproxy.sidecar.mounted.PageFeed", counted)
    async with Router(world.settings()) as router, in_fastapi(router, auth=by_cookie) as url:
        async with aiohttp.ClientSession(url) as http:
            async with http.get("/ops/tenants/v1/events", headers={"Cookie": "session=read-cookie"}) as answer:
                await answer.content.readline()
                assert len(feeds[0]) == 1
        await until(lambda: len(feeds[0]) == 0, "the viewer is gone")
