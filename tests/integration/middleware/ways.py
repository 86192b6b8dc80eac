"""In which ways do frameworks run code? One small application for each framework, a route for each way.

Each route answers with whom the code that ran there takes the request for; `/rows` asks the database too. `LATER` is
what background tasks saw, by the id of their request.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any, Final

from aiohttp import web
from fastapi import BackgroundTasks, Depends, FastAPI, Request, WebSocket
from fastapi.responses import PlainTextResponse, StreamingResponse
from litestar import Litestar, get, websocket
from litestar.background_tasks import BackgroundTask as LitestarBackgroundTask
from litestar.connection import Request as LitestarRequest
from litestar.connection import WebSocket as LitestarSocket
from litestar.di import NamedDependency, Provide
from litestar.response import Response as LitestarResponse
from litestar.response import Stream
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request as StarletteRequest
from starlette.responses import PlainTextResponse as StarletteText
from starlette.responses import StreamingResponse as StarletteStream
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket as StarletteSocket

import tenantproxy
from tenantproxy import Router, TenantProxyError, TenantScope
from tenantproxy.auth.base import TokenVerifier
from tenantproxy.middleware.aiohttp import REQUEST_ID, setup
from tenantproxy.middleware.asgi import TenantMiddleware, answer_to, tenant
from tests.support.web import App

ROW: Final = "SELECT name FROM projects ORDER BY name LIMIT 1"
LATER: Final[dict[str, str]] = {}


def me() -> str:
    """Whose code this is."""
    return str(tenantproxy.current().id)


async def later_me() -> str:
    """The same after others ran."""
    await asyncio.sleep(0)
    return me()


async def rows(db: TenantScope) -> str:
    """Before, in the database, and after."""
    before = me()
    name = str(await db.fetchval(ROW))
    await asyncio.sleep(0)
    return f"{before} {name.split()[0]} {me()}"


async def chunks() -> AsyncIterator[str]:
    for _ in range(3):
        yield f"{await later_me()} "


def sync_chunks() -> Iterator[str]:
    for _ in range(3):
        yield f"{me()} "


def note(request: str) -> None:
    LATER[request] = me()


async def note_later(request: str) -> None:
    LATER[request] = await later_me()


# --- FastAPI ---------------------------------------------------------------------------------------------------------
Db = Annotated[TenantScope, Depends(tenant)]


def sync_dependency() -> str:
    return me()


async def async_dependency(db: Db) -> str:
    assert db.id == me()
    return await later_me()


def fastapi_app(router: Router, tokens: TokenVerifier) -> App:
    app = FastAPI()
    app.add_middleware(TenantMiddleware, router=router, tokens=tokens)

    @app.get("/async", response_class=PlainTextResponse)
    async def by_async(db: Db) -> str:
        return f"{db.id} {me()}"

    @app.get("/rows", response_class=PlainTextResponse)
    async def by_rows(db: Db) -> str:
        return await rows(db)

    @app.get("/async-dependency", response_class=PlainTextResponse)
    async def by_async_dependency(who: Annotated[str, Depends(async_dependency)]) -> str:
        return who

    @app.get("/sync-dependency", response_class=PlainTextResponse)
    async def by_sync_dependency(who: Annotated[str, Depends(sync_dependency)]) -> str:
        return who

    @app.get("/thread", response_class=PlainTextResponse)
    def by_thread() -> str:
        return me()

    @app.get("/task", response_class=PlainTextResponse)
    async def by_task() -> str:
        return await asyncio.create_task(later_me())

    @app.get("/background", response_class=PlainTextResponse)
    async def by_background(request: Request, tasks: BackgroundTasks, kind: str = "sync") -> str:
        tasks.add_task(note if kind == "sync" else note_later, request.state.request_id)
        return me()

    @app.get("/stream")
    async def by_stream() -> StreamingResponse:
        return StreamingResponse(chunks())

    @app.get("/stream-thread")
    async def by_stream_in_thread() -> StreamingResponse:
        return StreamingResponse(sync_chunks())

    @app.websocket("/ws")
    async def by_websocket(socket: WebSocket, db: Db) -> None:
        await socket.accept()
        async for _ in socket.iter_text():
            await socket.send_text(await rows(db))

    return app


# --- Starlette -------------------------------------------------------------------------------------------------------
def starlette_app(router: Router, tokens: TokenVerifier) -> App:
    async def by_async(request: StarletteRequest) -> StarletteText:
        return StarletteText(f"{request.state.tenant.id if hasattr(request.state, 'tenant') else ''} {me()}".strip())

    async def by_rows(request: StarletteRequest) -> StarletteText:
        return StarletteText(await rows(tenantproxy.current()))

    def by_thread(request: StarletteRequest) -> StarletteText:
        return StarletteText(me())

    async def by_pool(request: StarletteRequest) -> StarletteText:
        return StarletteText(await run_in_threadpool(me))

    async def by_task(request: StarletteRequest) -> StarletteText:
        return StarletteText(await asyncio.create_task(later_me()))

    async def by_background(request: StarletteRequest) -> StarletteText:
        kind = note if request.query_params.get("kind", "sync") == "sync" else note_later
        return StarletteText(me(), background=BackgroundTask(kind, request.state.request_id))

    async def by_stream(request: StarletteRequest) -> StarletteStream:
        return StarletteStream(chunks())

    async def by_socket(socket: StarletteSocket) -> None:
        who = me()
        await socket.accept()
        async for _ in socket.iter_text():
            await socket.send_text(f"{who} {await rows(tenantproxy.current())}".partition(" ")[2])

    ways = {
        "async": by_async, "rows": by_rows, "thread": by_thread, "pool": by_pool, "task": by_task,
        "background": by_background, "stream": by_stream,
    }  # fmt: skip
    app = Starlette(routes=[*(Route(f"/{name}", way) for name, way in ways.items()), WebSocketRoute("/ws", by_socket)])
    app.add_middleware(TenantMiddleware, router=router, tokens=tokens)
    return app


# --- Litestar --------------------------------------------------------------------------------------------------------
def litestar_problem(request: LitestarRequest[Any, Any, Any], error: TenantProxyError) -> LitestarResponse[bytes]:
    problem = answer_to(request.scope, error)
    return LitestarResponse(problem.body, status_code=problem.status, headers=dict(problem.headers))


async def litestar_dependency() -> str:
    return await later_me()


def litestar_app(router: Router, tokens: TokenVerifier) -> App:
    @get("/async")
    async def by_async() -> str:
        return me()

    @get("/rows")
    async def by_rows() -> str:
        return await rows(tenantproxy.current())

    @get("/thread", sync_to_thread=True)
    def by_thread() -> str:
        return me()

    @get("/async-dependency", dependencies={"who": Provide(litestar_dependency)})
    async def by_async_dependency(who: NamedDependency[str]) -> str:
        return who

    @get("/sync-dependency", dependencies={"who": Provide(sync_dependency, sync_to_thread=True)})
    async def by_sync_dependency(who: NamedDependency[str]) -> str:
        return who

    @get("/task")
    async def by_task() -> str:
        return await asyncio.create_task(later_me())

    @get("/background")
    async def by_background(request: LitestarRequest[Any, Any, Any]) -> LitestarResponse[str]:
        task = note if request.query_params.get("kind") == "sync" else note_later
        return LitestarResponse(me(), background=LitestarBackgroundTask(task, request.scope["state"]["request_id"]))

    @get("/stream")
    async def by_stream() -> Stream:
        return Stream(chunks())

    @websocket("/ws")
    async def by_socket(socket: LitestarSocket[Any, Any, Any]) -> None:
        who = me()
        await socket.accept()
        async for _ in socket.iter_data(mode="text"):
            assert who == me()
            await socket.send_text(await rows(tenantproxy.current()))

    ways = [by_async, by_rows, by_thread, by_async_dependency, by_sync_dependency, by_task, by_background, by_stream]
    app = Litestar([*ways, by_socket], exception_handlers={TenantProxyError: litestar_problem}, openapi_config=None)
    return TenantMiddleware(app, router=router, tokens=tokens)


# --- aiohttp ---------------------------------------------------------------------------------------------------------
KEPT: Final[set[asyncio.Task[None]]] = set()


async def aio_async(request: web.Request) -> web.Response:
    return web.Response(text=me())


async def aio_rows(request: web.Request) -> web.Response:
    return web.Response(text=await rows(tenantproxy.current()))


async def aio_thread(request: web.Request) -> web.Response:
    return web.Response(text=await asyncio.to_thread(me))


async def aio_executor(request: web.Request) -> web.Response:
    # Runs without the request's context: an error, not another request's tenant.
    return web.Response(text=await asyncio.get_running_loop().run_in_executor(None, me))


async def aio_task(request: web.Request) -> web.Response:
    return web.Response(text=await asyncio.create_task(later_me()))


async def aio_background(request: web.Request) -> web.Response:
    task = asyncio.create_task(note_later(request[REQUEST_ID]))
    KEPT.add(task)
    task.add_done_callback(KEPT.discard)
    return web.Response(text=me())


async def aio_stream(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    async for chunk in chunks():
        await response.write(chunk.encode())
    return response


async def aio_payload(request: web.Request) -> web.Response:
    async def payload() -> AsyncIterator[bytes]:  # written when the middleware has returned
        async for chunk in chunks():
            yield chunk.encode()

    return web.Response(body=payload())


async def aio_socket(request: web.Request) -> web.WebSocketResponse:
    me()
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    async for _ in socket:
        await socket.send_str(await rows(tenantproxy.current()))
    return socket


def aiohttp_app(router: Router, tokens: TokenVerifier) -> web.Application:
    ways = {
        "async": aio_async, "rows": aio_rows, "thread": aio_thread, "executor": aio_executor, "task": aio_task,
        "background": aio_background, "stream": aio_stream, "payload": aio_payload, "ws": aio_socket,
    }  # fmt: skip
    app = web.Application()
    app.add_routes([web.get(f"/{name}", way) for name, way in ways.items()])
    setup(app, router=router, tokens=tokens)
    return app


# --- Django ----------------------------------------------------------------------------------------------------------
urlpatterns: list[Any] = []


def django_app(router: Router, tokens: TokenVerifier | None) -> App:
    import django
    from asgiref.sync import async_to_sync
    from django.conf import settings
    from django.core.asgi import get_asgi_application
    from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
    from django.urls import path

    if not settings.configured:
        settings.configure(
            SECRET_KEY="of the tests", ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], LOGGING_CONFIG=None,
            MIDDLEWARE=["tenantproxy.middleware.django.TenantErrors"],
        )  # fmt: skip
        django.setup()

    async def by_async(request: HttpRequest) -> HttpResponse:
        return HttpResponse(me())

    async def by_rows(request: HttpRequest) -> HttpResponse:
        return HttpResponse(await rows(tenantproxy.current()))

    def by_thread(request: HttpRequest) -> HttpResponse:
        return HttpResponse(me())

    def by_sync_rows(request: HttpRequest) -> HttpResponse:
        return HttpResponse(async_to_sync(rows)(tenantproxy.current()))

    async def by_task(request: HttpRequest) -> HttpResponse:
        return HttpResponse(await asyncio.create_task(later_me()))

    async def by_stream(request: HttpRequest) -> StreamingHttpResponse:
        return StreamingHttpResponse(chunks())

    ways = {
        "async": by_async, "rows": by_rows, "thread": by_thread, "sync-rows": by_sync_rows, "task": by_task,
        "stream": by_stream,
    }  # fmt: skip
    urlpatterns[:] = [path(name, way) for name, way in ways.items()]
    return TenantMiddleware(get_asgi_application(), router=router, tokens=tokens)
