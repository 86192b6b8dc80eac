"""Does code know its tenant in every way that a framework runs it, and never another's?"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

import aiohttp
import pytest

from tenantproxy.auth.base import TokenVerifier
from tenantproxy.embedded import EmbeddedPostgres
from tests.integration.middleware import ways
from tests.support.checked import CheckedRouter, checked
from tests.support.lasting import a_lasting_world
from tests.support.waiting import until
from tests.support.web import AUTH, HEADER, Caller, served, served_aiohttp
from tests.support.world import World

FRAMEWORKS: Final[dict[str, Callable[[CheckedRouter, TokenVerifier], Any]]] = {
    "fastapi": ways.fastapi_app,
    "starlette": ways.starlette_app,
    "litestar": ways.litestar_app,
    "aiohttp": ways.aiohttp_app,
    "django": ways.django_app,
}
HTTP: Final = {
    "fastapi": ("async", "rows", "async-dependency", "sync-dependency", "thread", "task", "stream", "stream-thread"),
    "starlette": ("async", "rows", "thread", "pool", "task", "stream"),
    "litestar": ("async", "rows", "async-dependency", "sync-dependency", "thread", "task", "stream"),
    "aiohttp": ("async", "rows", "thread", "task", "stream", "payload"),
    "django": ("async", "rows", "thread", "sync-rows", "task", "stream"),
}
ALL_WAYS: Final = [(framework, way) for framework, names in HTTP.items() for way in names]
WITH_SOCKETS: Final = ("fastapi", "starlette", "litestar", "aiohttp")
TENANTS: Final = 20
TASKS: Final = 200
REQUESTS: Final = 800


def serve(framework: str, router: CheckedRouter, caller: Caller) -> AbstractAsyncContextManager[str]:
    app = FRAMEWORKS[framework](router, caller.tokens)
    return served_aiohttp(app) if framework == "aiohttp" else served(app)


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        yield session


@pytest.mark.parametrize(("framework", "way"), ALL_WAYS)
async def test_code_knows_its_tenant_or_says_that_there_is_none(
    router: CheckedRouter, caller: Caller, http: aiohttp.ClientSession, framework: str, way: str
) -> None:
    async with serve(framework, router, caller) as url:
        for name in ("row1", "schema1", "database1", "row1"):
            async with http.get(f"{url}/{way}", headers=dict(await caller.headers(name))) as answer:
                assert answer.status == 200
                assert set((await answer.text()).split()) == {name}
        if way.startswith(("stream", "payload")):
            return  # they fail when the answer has begun: below
        # On the same connection: what an earlier request left in the server would show here.
        async with http.get(f"{url}/{way}") as answer:
            problem = await answer.json(content_type=None)
            assert (answer.status, problem["code"]) == (401, "unauthorized")
            assert answer.headers["WWW-Authenticate"] == "Bearer"
            assert "middleware" not in str(problem)
            assert "tenantproxy" not in str(problem)


@pytest.mark.parametrize("framework", WITH_SOCKETS)  # Django leaves the body's file to the garbage collector then
async def test_a_stream_of_nobodys_is_cut_and_shows_nothing(
    router: CheckedRouter, caller: Caller, http: aiohttp.ClientSession, framework: str
) -> None:
    async with serve(framework, router, caller) as url:
        async with http.get(f"{url}/stream", headers=dict(await caller.headers("row1"))) as answer:
            await answer.read()
        seen = b""
        with pytest.raises(aiohttp.ClientError):  # noqa: PT012  # the error may come with the head or with the body
            async with http.get(f"{url}/stream") as answer:
                seen = await answer.content.read()
                answer.raise_for_status()
        assert b"row1" not in seen


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("framework", ["fastapi", "starlette", "litestar", "aiohttp"])
async def test_a_background_task_runs_for_the_tenant_of_its_request(
    router: CheckedRouter, caller: Caller, http: aiohttp.ClientSession, framework: str, kind: str
) -> None:
    async with serve(framework, router, caller) as url:
        asked = {f"{framework}-{kind}-{name}": name for name in ("row1", "schema1", "database1")}
        for request, name in asked.items():
            headers = {**dict(await caller.headers(name)), "X-Request-ID": request}
            async with http.get(f"{url}/background?kind={kind}", headers=headers) as answer:
                assert (answer.status, await answer.text()) == (200, name)
        await until(lambda: asked.keys() <= ways.LATER.keys(), "the background tasks ran")
        assert {request: ways.LATER[request] for request in asked} == asked


@pytest.mark.parametrize("framework", WITH_SOCKETS)
async def test_a_websocket_belongs_to_its_tenant_for_all_its_messages(
    router: CheckedRouter, caller: Caller, http: aiohttp.ClientSession, framework: str
) -> None:
    async with serve(framework, router, caller) as url:
        names = ("row1", "schema1", "database1")
        sockets = [await http.ws_connect(f"{url}/ws", headers=dict(await caller.headers(name))) for name in names]
        for _ in range(3):
            for socket, name in zip(sockets, names, strict=True):
                await socket.send_str("?")
                assert await socket.receive_str() == f"{name} {name} {name}"
        for socket in sockets:
            await socket.close()


@pytest.mark.parametrize("framework", WITH_SOCKETS)
async def test_a_websocket_without_a_tenant_is_refused(
    router: CheckedRouter, caller: Caller, http: aiohttp.ClientSession, framework: str
) -> None:
    async with serve(framework, router, caller) as url:
        for headers, status in (({}, {401, 403, 500}), ({HEADER: "row1"}, {401})):
            with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
                await http.ws_connect(f"{url}/ws", headers=headers)
            assert caught.value.status in status


@pytest.mark.parametrize("framework", WITH_SOCKETS)
async def test_a_browser_sends_its_token_as_a_subprotocol_and_nobody_says_it_again(
    router: CheckedRouter,
    caller: Caller,
    http: aiohttp.ClientSession,
    framework: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    token = await caller.token("row1")
    with caplog.at_level(logging.INFO):
        async with serve(framework, router, caller) as url:
            offered = ("tenantproxy", f"tenantproxy.bearer.{token}")
            async with http.ws_connect(f"{url}/ws", protocols=offered) as socket:
                assert socket.protocol == "tenantproxy"
                assert token not in str(socket._response.headers)
                await socket.send_str("?")
                assert await socket.receive_str() == "row1 row1 row1"
            for wrong in (f"{token}x", "", "a b", f"{token}, tenantproxy.bearer.{token}"):
                headers = {"Sec-WebSocket-Protocol": f"tenantproxy, tenantproxy.bearer.{wrong}"}
                with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
                    await http.ws_connect(f"{url}/ws", headers=headers)
                assert caught.value.status in {400, 401}  # 400: of the server itself
                assert token not in str(caught.value.headers)
    assert token not in caplog.text


async def test_a_thread_without_the_requests_context_has_no_tenant(
    router: CheckedRouter, caller: Caller, http: aiohttp.ClientSession
) -> None:
    async with serve("aiohttp", router, caller) as url:
        async with http.get(f"{url}/executor", headers=dict(await caller.headers("row1"))) as answer:
            problem = await answer.json(content_type=None)
            assert (answer.status, problem["code"], problem["title"]) == (500, "internal_error", "internal error")
            assert "detail" not in problem


# --- many at once ----------------------------------------------------------------------------------------------------
@pytest.fixture(scope="session")
def wide(postgres: EmbeddedPostgres) -> Iterator[World]:
    with a_lasting_world(postgres, each=7) as world:
        yield world


# On a machine that does much else it takes longer than a test may by itself: then it is cut in the middle of a write,
# which looks like a lost connection.
@pytest.mark.timeout(300)
@pytest.mark.parametrize("framework", list(FRAMEWORKS))
async def test_no_request_of_many_at_once_sees_another_tenant(
    wide: World, http: aiohttp.ClientSession, framework: str
) -> None:
    names = [str(tenant.id) for tenant in wide.tenants[:TENANTS]]
    assert len(set(names)) == TENANTS
    # 200 at once wait for each other: on a slow machine longer than an application should let them.
    async with checked(wide.settings(auth=AUTH, pools={"acquire_timeout": 200.0}), wide) as router:
        caller = Caller.of(router)
        headers = {name: dict(await caller.headers(name)) for name in names}
        numbers = itertools.count()
        wrong: list[str] = []

        async def client(url: str) -> None:
            while (number := next(numbers)) < REQUESTS:
                name = names[number % TENANTS]
                async with http.get(f"{url}/rows", headers=headers[name]) as answer:
                    text = await answer.text()
                if text != f"{name} {name} {name}":
                    wrong.append(f"{name}: {answer.status} {text}")

        async with serve(framework, router, caller) as url, asyncio.TaskGroup() as group:
            tasks = [group.create_task(client(url)) for _ in range(TASKS)]
            await asyncio.wait(tasks)
    assert wrong == []
    assert next(numbers) >= REQUESTS
