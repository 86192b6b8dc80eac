"""Which applications are measured? The same question in five frameworks: which tenant's row is it?"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final

import aiohttp
from aiohttp import web

import tenantproxy
from tenantproxy import Router
from tenantproxy.auth.base import TokenVerifier
from tenantproxy.middleware.aiohttp import setup
from tenantproxy.middleware.asgi import TenantMiddleware

__all__ = ["FRAMEWORKS", "App", "Asker", "asgi_call", "bare", "fastapi_app", "http_scope"]

App = Callable[[Any, Any, Any], Awaitable[None]]
Headers = Mapping[str, str]
Asker = Callable[[Headers], Awaitable[str]]
"""Makes one request with those headers; the body of the answer."""

SELECT: Final = "select tenant_id from items where id = $1"


async def whose() -> str:
    """The tenant before the query, in the database, and after others have run."""
    before = tenantproxy.current().id
    found = await tenantproxy.current().fetchval(SELECT, 1)
    await asyncio.sleep(0)
    return f"{before} {found} {tenantproxy.current().id}"


async def bare(scope: Any, receive: Any, send: Any) -> None:
    """The smallest application: what a middleware adds to it is all its own."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"ok"})


def http_scope(headers: Headers) -> dict[str, Any]:
    """As a server makes it for a request of a browser through a proxy."""
    usual = {"host": "app.example.com", "user-agent": "benchmark", "accept": "*/*", "accept-encoding": "gzip"}
    raw = [(name.encode(), value.encode()) for name, value in {**usual, **headers}.items()]
    return {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.4"}, "http_version": "1.1", "method": "GET",
        "scheme": "http", "path": "/", "raw_path": b"/", "query_string": b"", "root_path": "", "headers": raw,
        "client": ("127.0.0.1", 50000), "server": ("127.0.0.1", 8000), "extensions": {},
    }  # fmt: skip


async def asgi_call(app: App, scope: Mapping[str, Any]) -> bytes:
    """One request without a server: `scope` is copied, the body collected."""
    body: list[bytes] = []
    asked = False

    async def receive() -> dict[str, Any]:
        nonlocal asked
        if asked:  # the client stays until it has its answer
            await asyncio.get_running_loop().create_future()
        asked = True
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Mapping[str, Any]) -> None:
        if message["type"] == "http.response.body":
            body.append(message.get("body", b""))

    await app({**scope, "state": {}}, receive, send)
    return b"".join(body)


def _in_process(
    make: Callable[[Router, TokenVerifier], App],
) -> Callable[[Router, TokenVerifier], AbstractAsyncContextManager[Asker]]:
    @asynccontextmanager
    async def running(router: Router, tokens: TokenVerifier) -> AsyncIterator[Asker]:
        app = make(router, tokens)

        async def ask(headers: Headers) -> str:
            return (await asgi_call(app, http_scope(headers))).decode()

        yield ask

    return running


def fastapi_app() -> Any:
    """FastAPI with one route and no middleware."""
    from fastapi import FastAPI
    from fastapi.responses import PlainTextResponse

    app = FastAPI()

    @app.get("/", response_class=PlainTextResponse)
    async def get() -> str:
        return await whose()

    @app.get("/plain", response_class=PlainTextResponse)
    async def plain() -> str:
        return "ok"

    return app


def _fastapi(router: Router, tokens: TokenVerifier) -> App:
    app = fastapi_app()
    app.add_middleware(TenantMiddleware, router=router, tokens=tokens)
    made: App = app
    return made


def _starlette(router: Router, tokens: TokenVerifier) -> App:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    async def get(request: Request) -> PlainTextResponse:
        return PlainTextResponse(await whose())

    app = Starlette(routes=[Route("/", get)])
    app.add_middleware(TenantMiddleware, router=router, tokens=tokens)
    return app


def _litestar(router: Router, tokens: TokenVerifier) -> App:
    from litestar import Litestar, MediaType, get

    @get("/", media_type=MediaType.TEXT)
    async def handler() -> str:
        return await whose()

    return TenantMiddleware(Litestar([handler], openapi_config=None), router=router, tokens=tokens)


def _django(router: Router, tokens: TokenVerifier) -> App:
    import django
    from django.conf import settings
    from django.core.asgi import get_asgi_application
    from django.http import HttpRequest, HttpResponse
    from django.urls import path

    async def get(request: HttpRequest) -> HttpResponse:
        return HttpResponse(await whose())

    if not settings.configured:
        urls = type("Urls", (), {"urlpatterns": [path("", get)]})
        settings.configure(SECRET_KEY="bench", ROOT_URLCONF=urls, ALLOWED_HOSTS=["*"], MIDDLEWARE=[])
        django.setup()
    return TenantMiddleware(get_asgi_application(), router=router, tokens=tokens)


@asynccontextmanager
async def _aiohttp(router: Router, tokens: TokenVerifier) -> AsyncIterator[Asker]:
    """aiohttp has no in-process form: through its own server and client."""

    async def get(request: web.Request) -> web.Response:
        return web.Response(text=await whose())

    app = web.Application()
    app.add_routes([web.get("/", get)])
    setup(app, router=router, tokens=tokens)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

            async def ask(headers: Headers) -> str:
                async with session.get(url, headers=headers) as answer:
                    return await answer.text()

            yield ask
    finally:
        await runner.cleanup()


FRAMEWORKS: Final[Mapping[str, Callable[[Router, TokenVerifier], AbstractAsyncContextManager[Asker]]]] = {
    "FastAPI": _in_process(_fastapi),
    "Starlette": _in_process(_starlette),
    "Litestar": _in_process(_litestar),
    "Django": _in_process(_django),
    "aiohttp": _aiohttp,
}
