"""Does an application hear by itself of what another process revokes, as long as its router is open?"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from time import monotonic
from typing import Any

import aiohttp
import pytest
from aiohttp import web

import tenantproxy
from tenantproxy import Router
from tenantproxy.auth.tokens import NothingRevoked, Tokens
from tenantproxy.middleware.aiohttp import TENANT, setup
from tenantproxy.middleware.asgi import TenantMiddleware
from tenantproxy.model import tenant_id
from tests.support.checked import checked, no_task_left
from tests.support.database import Database
from tests.support.waiting import SLACK, until
from tests.support.web import AUTH, Caller, ask, served, served_aiohttp
from tests.support.world import World

Serving = Callable[[Router, Tokens], Any]


async def who(scope: Mapping[str, Any], receive: Any, send: Any) -> None:
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": tenantproxy.current().id.encode()})


def asgi(router: Router, tokens: Tokens) -> Any:
    return served(TenantMiddleware(who, router=router, tokens=tokens))


def by_aiohttp(router: Router, tokens: Tokens) -> Any:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(text=request[TENANT].id)

    app = web.Application()
    app.router.add_get("/", handler)
    setup(app, router=router, tokens=tokens)
    return served_aiohttp(app)


@asynccontextmanager
async def two_of(serve: Serving, world: World) -> AsyncIterator[tuple[tuple[Router, str], tuple[Router, str]]]:
    """Two applications as they would be in two processes: each with a router, tokens and a server of its own."""
    async with AsyncExitStack() as stack:
        both: list[tuple[Router, str]] = []
        for _ in range(2):
            router = Router(world.settings(auth=AUTH))
            both.append((router, await stack.enter_async_context(serve(router, Caller.of(router).tokens))))
        yield both[0], both[1]


async def status_of(http: aiohttp.ClientSession, url: str, token: str) -> int:
    async with http.get(url, headers={"Authorization": f"Bearer {token}"}) as answer:
        return answer.status


@pytest.mark.parametrize("serve", [asgi, by_aiohttp])
@pytest.mark.parametrize("what", ["token", "session", "tenant"])
async def test_what_one_application_revokes_the_other_refuses_within_a_second(
    lasting: World, serve: Serving, what: str
) -> None:
    async with two_of(serve, lasting) as ((here, url), (there, other)), aiohttp.ClientSession() as http:
        took: list[float] = []
        while len(took) < 5 and min(took, default=2.0) > 1.0:  # a busy machine may be late once, not each time
            took.append(await seconds_to_reach(http, what, (here, url), (there, other)))
    assert min(took) <= 1.0 + SLACK  # by asking it would be found out after five
    await no_task_left()


async def seconds_to_reach(
    http: aiohttp.ClientSession, what: str, here: tuple[Router, str], there: tuple[Router, str]
) -> float:
    """From a revocation through one application to the first time that the other refuses the token."""
    router, url = here
    tenant = await router.registry.get(tenant_id("database3"))  # no other test's: its epoch changes
    tokens = Tokens(router.settings.auth, tenants=router.registry, revoked=router.revocations)
    token = tokens.issue(tenant=tenant, user="user-7", session=secrets.token_hex(8))
    claims = await tokens.verify(token)
    revoke: dict[str, Callable[[], Awaitable[object]]] = {
        "token": lambda: router.revocations.revoke_token(claims["jti"]),
        "session": lambda: router.revocations.revoke_session(claims["sid"]),
        "tenant": lambda: router.revocations.revoke_tenant(tenant.id),
    }

    async def good() -> bool:
        return await status_of(http, there[1], token) == 200

    async def refused() -> bool:
        return await status_of(http, there[1], token) == 401

    await until(good, "the other application takes the token")
    assert await status_of(http, url, token) == 200
    await until(there[0].listener.listening.is_set, "the other one listens")
    await revoke[what]()
    started = monotonic()
    assert await status_of(http, url, token) == 401
    await until(refused, "the other application refuses the token")
    return monotonic() - started


async def test_who_opened_the_router_need_not_think_of_revocations_either(lasting: World) -> None:
    async with checked(lasting.settings(auth=AUTH), lasting) as router:
        caller = Caller.of(router)
        app = TenantMiddleware(who, router=router, tokens=caller.tokens)
        token = await caller.token("schema1")
        jti = (await caller.tokens.verify(token))["jti"]
        bearer = ("Authorization", f"Bearer {token}")
        assert (await ask(app, "/", bearer)).status == 200
        async with lasting.main.connect() as elsewhere:
            await elsewhere.execute("SELECT tenantproxy.revoke('token', $1, 900)", jti)

        async def refused() -> bool:
            return (await ask(app, "/", bearer)).status == 401

        await until(refused, "the token is refused")


async def test_a_router_that_was_closed_and_opened_again_knows_what_was_revoked_meanwhile(lasting: World) -> None:
    router = Router(lasting.settings(auth=AUTH))
    caller = Caller.of(router)
    app = TenantMiddleware(who, router=router, tokens=caller.tokens)
    async with router:
        token = await caller.token("schema2")
        bearer = ("Authorization", f"Bearer {token}")
        jti = (await caller.tokens.verify(token))["jti"]
        assert (await ask(app, "/", bearer)).status == 200
    assert not router.revocations.is_open
    async with lasting.main.connect() as elsewhere:
        await elsewhere.execute("SELECT tenantproxy.revoke('token', $1, 900)", jti)
    async with router:
        assert (await ask(app, "/", bearer)).status == 401
    await no_task_left()


async def test_many_who_open_at_once_follow_once(lasting: World) -> None:
    async with checked(lasting.settings(auth=AUTH), lasting) as router:
        await asyncio.gather(*(router.revocations.open() for _ in range(10)))
        following = [task for task in asyncio.all_tasks() if task.get_name() == "tenantproxy revocations"]
        assert len(following) == 1


class Bare:
    """A world whose main database was not installed into."""

    def __init__(self, world: World, empty: Database) -> None:
        self.settings = world.settings(auth=AUTH, main={"server": "primary", "database": empty.name})


@pytest.fixture
async def bare(lasting: World, database: Database) -> Bare:
    return Bare(lasting, database)


async def test_where_nothing_is_installed_the_application_says_what_to_run(bare: Bare) -> None:
    router = Router(bare.settings)
    app = TenantMiddleware(who, router=router, tokens=Tokens(router.settings.auth, tenants=router.registry))
    answer = await ask(app)
    assert (answer.status, answer.json()["code"]) == (500, "configuration_error")
    assert not router.is_open
    sent: list[str] = []

    async def startup() -> dict[str, str]:
        return {"type": "lifespan.startup"}

    async def send(message: Any) -> None:
        sent.append(f"{message['type']}: {message.get('message', '')}")

    await app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, startup, send)
    assert len(sent) == 1
    assert sent[0].startswith("lifespan.startup.failed")
    assert "tenantproxy install" in sent[0]
    assert not router.is_open
    await no_task_left()


async def test_who_never_revokes_needs_nothing_installed(bare: Bare) -> None:
    router = Router(bare.settings)
    tokens = Tokens(router.settings.auth, tenants=router.registry, revoked=NothingRevoked())
    app = TenantMiddleware(who, router=router, tokens=tokens)
    async with router:
        bearer = ("Authorization", f"Bearer {await Caller(router=router, tokens=tokens).token('row1')}")
        assert (await ask(app, "/", bearer)).body == b"row1"
        assert not router.revocations.is_open
