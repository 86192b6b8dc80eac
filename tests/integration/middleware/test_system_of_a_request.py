"""Does a request reach the system of its tenant that it names, or is it refused?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import aiohttp
import pytest
from aiohttp import web

import tenantproxy
from tenantproxy.auth.base import RequestContext
from tenantproxy.middleware.aiohttp import TENANT, setup
from tenantproxy.middleware.asgi import TenantMiddleware
from tests.support.checked import CheckedRouter
from tests.support.web import Caller, ask, served_aiohttp

HEADER = "X-System"


def by_path(request: RequestContext) -> str | None:
    return request.path.strip("/") or None


async def application(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(tenantproxy.current().system).encode()})


@pytest.mark.parametrize(
    ("system", "path", "named", "wanted"),
    [
        (HEADER, "/", ["crm"], "crm"),
        (HEADER, "/crm", [], "None"),
        (HEADER, "/", [""], "None"),
        (by_path, "/crm", ["billing"], "crm"),
        (None, "/", ["crm"], "None"),
    ],
)
async def test_a_request_reaches_the_system_that_it_names(
    router: CheckedRouter,
    caller: Caller,
    system: str | Callable[[RequestContext], str | None] | None,
    path: str,
    named: list[str],
    wanted: str,
) -> None:
    app = TenantMiddleware(application, router=router, tokens=caller.tokens, system=system)
    headers = [*await caller.headers("schema1"), *((HEADER, each) for each in named)]
    assert (await ask(app, path, *headers)).body.decode() == wanted


async def test_two_headers_of_a_system_are_refused(router: CheckedRouter, caller: Caller) -> None:
    app = TenantMiddleware(application, router=router, tokens=caller.tokens, system=HEADER)
    answer = await ask(app, "/", *await caller.headers("schema1"), (HEADER, "crm"), (HEADER, "billing"))
    assert answer.status == 400


async def test_a_request_to_aiohttp_reaches_it_too(router: CheckedRouter, caller: Caller) -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(text=str(request[TENANT].system))

    app = web.Application()
    app.add_routes([web.get("/", handler)])
    setup(app, router=router, tokens=caller.tokens, system=HEADER)
    headers = dict([*await caller.headers("schema1"), (HEADER, "crm")])
    async with served_aiohttp(app) as url, aiohttp.ClientSession() as http, http.get(url, headers=headers) as response:
        assert await response.text() == "crm"
