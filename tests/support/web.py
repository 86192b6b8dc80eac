"""How does a test reach a web application? In its own loop, message by message, or through a real server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import uvicorn
from aiohttp import web

from tenantproxy import Router
from tenantproxy.auth.tokens import Tokens
from tenantproxy.model import tenant_id
from tests.support.waiting import until

AUTH: Final = {"key": "the key that the tests sign their tokens with"}
HEADER: Final = "X-Tenant-ID"

Message = MutableMapping[str, Any]
App = Callable[[Any, Any, Any], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body, read as JSON."""
        return json.loads(self.body)


async def ask(
    app: App,
    path: str = "/",
    *headers: tuple[str, str],
    method: str = "GET",
    scope: Mapping[str, Any] | None = None,
) -> Answer:
    """One HTTP request to `app`, without a server. Header values are latin-1 text."""
    sent: list[Message] = []
    asked = asyncio.Event()

    async def receive() -> Message:
        if asked.is_set():
            await asyncio.Event().wait()
        asked.set()
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    await app(http_scope(path, headers, method) | dict(scope or {}), receive, send)
    start = sent[0]
    assert [message["type"] for message in sent] == ["http.response.start"] + ["http.response.body"] * (len(sent) - 1)
    return Answer(
        status=start["status"],
        headers={name.decode().lower(): value.decode() for name, value in start["headers"]},
        body=b"".join(message.get("body", b"") for message in sent[1:]),
    )


def http_scope(path: str = "/", headers: Iterable[tuple[str, str]] = (), method: str = "GET") -> dict[str, Any]:
    """An ASGI scope as a server would make it."""
    raw = [(b"host", b"testserver"), *((name.lower().encode(), value.encode("latin-1")) for name, value in headers)]
    return {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.4"}, "http_version": "1.1", "method": method,
        "scheme": "http", "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "",
        "headers": raw, "client": ("192.0.2.7", 50000), "server": ("testserver", 80), "state": {}, "extensions": {},
    }  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Makes the headers of a user in a tenant."""

    router: Router
    tokens: Tokens

    @classmethod
    def of(cls, router: Router) -> Caller:
        """With the tests' own key; `router` is configured with `auth=AUTH`."""
        return cls(router=router, tokens=Tokens(router.settings.auth, tenants=router.registry))

    async def token(self, tenant: str, user: str = "user-7") -> str:
        """An access token."""
        return self.tokens.issue(tenant=await self.router.registry.get(tenant_id(tenant)), user=user)

    async def headers(self, tenant: str) -> tuple[tuple[str, str], ...]:
        """Token and header, agreeing."""
        return ("Authorization", f"Bearer {await self.token(tenant)}"), (HEADER, tenant)


@asynccontextmanager
async def served(app: App, **options: Any) -> AsyncIterator[str]:
    """`app` under uvicorn on a free port, in this loop; its URL. It is shut down in order at the end."""
    config = uvicorn.Config(
        app, host="127.0.0.1", port=0, log_config=None, access_log=False, timeout_graceful_shutdown=5, **options
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    try:
        await until(lambda: server.started or serving.done(), "the server listens")
        assert server.started, "the application did not start"
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        await serving


@asynccontextmanager
async def served_aiohttp(app: web.Application) -> AsyncIterator[str]:
    """As `served`, for aiohttp."""
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
