"""Are requests counted by what the application calls its routes, whatever paths and methods strangers make up?"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

import aiohttp
import pytest
from aiohttp import web
from fastapi import APIRouter, FastAPI
from litestar import Litestar, get
from litestar import Router as LitestarRouter
from litestar.params import FromPath
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

import tenantproxy
from tenantproxy import Router, TenantUnresolved
from tenantproxy.metrics.listeners import HttpRequests
from tenantproxy.middleware.aiohttp import setup
from tenantproxy.middleware.asgi import TenantMiddleware
from tests.integration.middleware import ways
from tests.support.checked import CheckedRouter
from tests.support.web import served, served_aiohttp

Serve = Callable[[Router, HttpRequests], AbstractAsyncContextManager[str]]


def fastapi(router: Router, requests: HttpRequests) -> AbstractAsyncContextManager[str]:
    app, inner = FastAPI(openapi_url=None), APIRouter(prefix="/api")

    @inner.get("/items/{item}")
    async def item(item: str) -> str:
        return item

    app.include_router(inner)
    app.add_middleware(TenantMiddleware, router=router, requests=requests)
    return served(app)


def starlette(router: Router, requests: HttpRequests) -> AbstractAsyncContextManager[str]:
    async def item(request: Request) -> PlainTextResponse:
        return PlainTextResponse(request.path_params["item"])

    app = Starlette(routes=[Mount("/api", routes=[Route("/items/{item}", item)])])
    app.add_middleware(TenantMiddleware, router=router, requests=requests)
    return served(app)


def litestar(router: Router, requests: HttpRequests) -> AbstractAsyncContextManager[str]:
    @get("/items/{item:str}")
    async def an_item(item: FromPath[str]) -> str:
        return item

    app = Litestar([LitestarRouter("/api", route_handlers=[an_item])], openapi_config=None)
    return served(TenantMiddleware(app, router=router, requests=requests))


def django(router: Router, requests: HttpRequests) -> AbstractAsyncContextManager[str]:
    app = ways.django_app(router, None)
    from django.http import HttpResponse
    from django.urls import include, path

    async def item(request: Any, item: str) -> Any:
        return HttpResponse(item)

    def fails(request: Any) -> Any:
        raise TenantUnresolved("name a tenant")

    ways.urlpatterns[:] = [path("api/", include([path("items/<str:item>", item), path("fails", fails)]))]
    return served(TenantMiddleware(app, router=router, requests=requests))


def by_aiohttp(router: Router, requests: HttpRequests) -> AbstractAsyncContextManager[str]:
    async def item(request: web.Request) -> web.Response:
        return web.Response(text=request.match_info["item"])

    app = web.Application()
    app.router.add_get("/api/items/{item}", item)
    setup(app, router=router, requests=requests)
    return served_aiohttp(app)


TEMPLATES: Final[dict[Serve, set[str]]] = {
    fastapi: {"/api/items/{item}", "/items/{item}"},
    starlette: {"/api/items/{item}", "/items/{item}"},
    litestar: {"/api/items/{item:str}", "/api/items/{item}"},
    django: {"/api/items/<str:item>"},
    by_aiohttp: {"/api/items/{item}"},
}


@pytest.mark.parametrize("serve", list(TEMPLATES))
async def test_many_paths_of_one_route_and_many_of_none_are_two_labels(router: CheckedRouter, serve: Serve) -> None:
    requests = HttpRequests()
    async with serve(router, requests) as url, aiohttp.ClientSession() as http:
        for number in range(20):
            async with http.get(f"{url}/api/items/{number}") as answer:
                assert (answer.status, (await answer.text()).strip('"')) == (200, str(number))
            async with http.get(f"{url}/made/up/{number}") as answer:
                assert answer.status == 404
            async with http.request(f"MADE{number}", f"{url}/made/up/{number}") as answer:
                assert answer.status in (400, 404, 405, 501)
    labels = {(route, method) for route, method, _ in requests.codes}
    (template,) = {route for route, _ in labels} - {"unmatched"}
    assert template in TEMPLATES[serve]
    assert labels <= {(template, "GET"), ("unmatched", "GET"), ("unmatched", "other")}
    assert requests.codes[template, "GET", "200"] == 20


async def test_a_sync_view_of_django_that_fails_is_counted_by_its_route(router: CheckedRouter) -> None:
    requests = HttpRequests()
    async with django(router, requests) as url, aiohttp.ClientSession() as http, http.get(f"{url}/api/fails") as answer:
        assert (answer.status, (await answer.json(content_type=None))["code"]) == (400, "tenant_unresolved")
    assert requests.codes == {("/api/fails", "GET", "400"): 1}


async def test_djangos_test_client_hears_an_error_of_ours_without_a_scope(router: CheckedRouter) -> None:
    ways.django_app(router, None)
    from django.http import HttpResponse
    from django.test import Client
    from django.urls import path

    def by_tenant(request: Any) -> HttpResponse:
        tenantproxy.current()
        return HttpResponse()

    ways.urlpatterns[:] = [path("of-a-tenant", by_tenant), path("of-none", lambda request: HttpResponse("ok"))]
    client = Client()
    assert (await asyncio.to_thread(client.get, "/of-none")).content == b"ok"
    answer = await asyncio.to_thread(client.get, "/of-a-tenant")
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["request_id"]
