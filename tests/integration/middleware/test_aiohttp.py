"""Does the aiohttp middleware do what the ASGI one does, in aiohttp's own words?"""

from __future__ import annotations

import asyncio

import aiohttp
import pytest
from aiohttp import web
from pytest_aiohttp import AiohttpClient

import tenantproxy
from tenantproxy import PoolTimeout, Router
from tenantproxy.auth.resolvers import SubdomainResolver
from tenantproxy.middleware.aiohttp import IDENTITY, ROUTER, TENANT, setup
from tests.support.checked import CheckedRouter
from tests.support.web import AUTH, HEADER, Caller
from tests.support.world import World


class Counted:
    """Remembers what was observed."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, int]] = []

    def observe(self, *, route: str, method: str, code: int, seconds: float) -> None:
        self.seen.append((route, method, code))


async def who(request: web.Request) -> web.Response:
    scope = request[TENANT]
    assert scope is tenantproxy.current()
    assert (request[IDENTITY].tenant, request[IDENTITY].claims["tid"]) == (scope.id, scope.id)
    assert request[IDENTITY].user == request[IDENTITY].claims["sub"]
    assert request.app[ROUTER].is_open
    return web.Response(text=f"{scope.id} {await scope.fetchval('SELECT count(*) FROM projects')}")


async def public(request: web.Request) -> web.Response:
    assert (TENANT in request) is (IDENTITY in request)
    return web.Response(text=str(request.get(TENANT)))


async def begun(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    raise PoolTimeout("too late to say", retry_after=1.0)


async def late(request: web.Request) -> web.Response:
    raise PoolTimeout("no connection became free", retry_after=0.2)


async def redirect(request: web.Request) -> web.Response:
    raise web.HTTPFound("/public")


async def own(request: web.Request) -> web.Response:
    raise web.HTTPConflict(text="mine")


def app_of(router: Router, counted: Counted | None = None) -> web.Application:
    app = web.Application()
    handlers = {"who": who, "public": public, "begun": begun, "late": late, "redirect": redirect, "own": own}
    app.add_routes([web.get(f"/{name}", handler) for name, handler in handlers.items()])
    app.add_routes([web.get("/items/{id}", public)])
    setup(app, router=router, tokens=Caller.of(router).tokens, requests=counted)
    return app


async def test_handlers_find_their_tenant_under_its_key(
    router: CheckedRouter, caller: Caller, aiohttp_client: AiohttpClient
) -> None:
    client = await aiohttp_client(app_of(router))
    for name in ("row1", "schema1", "database1"):
        answer = await client.get("/who", headers=dict(await caller.headers(name)))
        assert (answer.status, await answer.text()) == (200, f"{name} 3")


async def test_an_earlier_request_on_the_connection_leaves_nothing(
    router: CheckedRouter, caller: Caller, aiohttp_client: AiohttpClient
) -> None:
    client = await aiohttp_client(app_of(router))
    assert (await client.get("/who", headers=dict(await caller.headers("row1")))).status == 200
    assert await (await client.get("/public")).text() == "None"


@pytest.mark.parametrize(
    ("headers", "status"),
    [([(HEADER, "row1")], 401), ([(HEADER, "row1"), (HEADER, "row1")], 400), ([("Authorization", "Bearer x")], 401)],
)
async def test_what_does_not_prove_its_tenant_is_refused(
    router: CheckedRouter, aiohttp_client: AiohttpClient, headers: list[tuple[str, str]], status: int
) -> None:
    client = await aiohttp_client(app_of(router))
    answer = await client.get("/public", headers=headers)
    problem = await answer.json(content_type="application/problem+json")
    assert (answer.status, problem["request_id"]) == (status, answer.headers["X-Request-ID"])


async def test_bytes_that_are_no_ascii_do_not_agree(
    router: CheckedRouter, caller: Caller, aiohttp_client: AiohttpClient
) -> None:
    client = await aiohttp_client(app_of(router))
    answer = await client.get("/public", headers=[*(await caller.headers("row1"))[:1], (HEADER, "row1é")])
    assert (answer.status, (await answer.json(content_type=None))["title"]) == (403, "tenant mismatch")


async def test_errors_become_problems_and_the_applications_own_pass(
    router: CheckedRouter, aiohttp_client: AiohttpClient
) -> None:
    counted = Counted()
    client = await aiohttp_client(app_of(router, counted))
    late_answer = await client.get("/late", headers={"X-Request-ID": "r-1"})
    assert (late_answer.status, late_answer.headers["Retry-After"]) == (503, "1")
    assert late_answer.headers["X-Request-ID"] == "r-1"
    own_answer = await client.get("/own")
    assert (own_answer.status, await own_answer.text()) == (409, "mine")
    assert len(own_answer.headers["X-Request-ID"]) == 32
    assert (await client.get("/redirect", allow_redirects=False)).status == 302
    assert (await client.get("/nowhere/secret")).status == 404
    assert (await client.get("/items/7")).status == 200
    with pytest.raises(aiohttp.ClientError):
        await (await client.get("/begun")).read()
    assert counted.seen == [
        ("/late", "GET", 503), ("/own", "GET", 409), ("/redirect", "GET", 302), ("unmatched", "GET", 404),
        ("/items/{id}", "GET", 200), ("/begun", "GET", 500),
    ]  # fmt: skip


async def test_the_router_lives_as_long_as_the_application(lasting: World, aiohttp_client: AiohttpClient) -> None:
    router = Router(lasting.settings(auth=AUTH))
    client = await aiohttp_client(app_of(router))
    assert router.is_open
    assert (await client.get("/public")).status == 200
    await client.close()
    await asyncio.sleep(0)
    still: bool = router.is_open
    assert not still


async def test_an_open_router_is_left_alone(router: CheckedRouter, aiohttp_client: AiohttpClient) -> None:
    client = await aiohttp_client(app_of(router))
    await client.close()
    assert router.is_open


async def test_a_mounted_application_may_not_change_the_tenant(
    router: CheckedRouter, caller: Caller, aiohttp_client: AiohttpClient
) -> None:
    inner = web.Application()
    inner.add_routes([web.get("/who", who)])
    setup(inner, router=router, resolver=SubdomainResolver("test"))
    outer = app_of(router)
    outer.add_subapp("/inner", inner)
    client = await aiohttp_client(outer)
    token = (await caller.headers("row1"))[0]
    for host, status in (("row1.test", 200), ("row2.test", 403), ("other", 200)):
        answer = await client.get("/inner/who", headers=[token, ("Host", host)])
        assert answer.status == status, await answer.text()
