"""How does an aiohttp application become multi-tenant? `setup(app, router=..., tokens=...)`.

`request[TENANT]` and `tenantproxy.current()` are the scope of the request, `request[IDENTITY]` is who asks,
`app[ROUTER]` is the router.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler

from tenantproxy.auth.base import Identity, Resolver, TokenVerifier
from tenantproxy.auth.caller import SUBPROTOCOL, Headers, carries_token, header_texts, unwrap_token
from tenantproxy.auth.resolvers import mismatch
from tenantproxy.context import REQUEST_ID as CURRENT_REQUEST
from tenantproxy.context import begin
from tenantproxy.errors import TenantUnresolved
from tenantproxy.middleware.gate import Gate, RequestCounter, SystemOf
from tenantproxy.middleware.life import life_of
from tenantproxy.middleware.problems import GONE, OURS, ProblemAnswer, request_id
from tenantproxy.router import Router
from tenantproxy.scope import TenantScope
from tenantproxy.watch import PARENT

__all__ = ["IDENTITY", "REQUEST_ID", "ROUTER", "TENANT", "as_response", "route_of", "setup"]

ROUTER: Final = web.AppKey("tenantproxy_router", Router)
TENANT: Final = web.RequestKey("tenantproxy_tenant", TenantScope)
IDENTITY: Final = web.RequestKey("tenantproxy_identity", Identity)
REQUEST_ID: Final = web.RequestKey("tenantproxy_request_id", str)

_SUBPROTOCOL: Final = web.RequestKey("tenantproxy_subprotocol", str)
_BEGUN: Final = web.RequestKey("tenantproxy_begun", bool)
_UNMATCHED: Final = "unmatched"


def setup(
    app: web.Application,
    *,
    router: Router,
    resolver: Resolver | None = None,
    tokens: TokenVerifier | None = None,
    requests: RequestCounter | None = None,
    system: SystemOf | None = None,
) -> None:
    """Make `app` multi-tenant; call it before the application starts.

    The parameters are those of `middleware.asgi.TenantMiddleware`. The router is opened and closed with the
    application, unless it is open already. Handlers of requests that name no tenant have no `request[TENANT]` and no
    `request[IDENTITY]`, and `current()` raises TenantUnresolved there. Errors of tenantproxy and lost
    connections become problem+json.
    """
    gate = Gate(router, resolver=resolver, tokens=tokens, system=system)
    life = life_of(router)
    life.keep_up(tokens)

    async def alive(_: web.Application) -> AsyncIterator[None]:
        await life.start()
        try:
            yield
        finally:
            await life.stop()

    @web.middleware
    async def tenancy(request: web.Request, handler: Handler) -> web.StreamResponse:
        loop = asyncio.get_running_loop()
        started = loop.time()
        request[REQUEST_ID] = name = request_id(request.headers.getall("X-Request-ID", ()))
        token = CURRENT_REQUEST.set(name)
        code = GONE
        try:
            response = await _answer(gate, request, handler)
            code = response.status
        except web.HTTPException as exc:
            code = exc.status
            raise
        except Exception:
            code = 500
            raise
        finally:
            CURRENT_REQUEST.reset(token)
            if requests is not None:
                requests.observe(
                    route=route_of(request), method=request.method, code=code, seconds=loop.time() - started
                )
        return response

    app[ROUTER] = router
    app.middlewares.append(tenancy)
    app.on_response_prepare.append(_prepared)
    app.cleanup_ctx.append(alive)


async def _prepared(request: web.Request, response: web.StreamResponse) -> None:
    """An answer begins, whichever handler made it."""
    request[_BEGUN] = True
    if (name := request.get(REQUEST_ID)) is not None:
        response.headers.setdefault("X-Request-ID", name)
    if (chosen := request.get(_SUBPROTOCOL)) is not None and response.status == 101:
        response.headers.setdefault("Sec-WebSocket-Protocol", chosen)


async def _answer(gate: Gate, request: web.Request, handler: Handler) -> web.StreamResponse:
    headers, token = unwrap_token(header_texts(request.raw_headers))
    try:
        if token:
            request = _without_token(request)
        PARENT.set(gate.parent(headers))
        await _admit(gate, request, headers + token)
        return await handler(request)
    except OURS as exc:
        if _BEGUN in request:  # it can only be cut
            raise
        tenant = request[TENANT].id if TENANT in request else ""
        return as_response(gate.answer(headers + token, exc, request[REQUEST_ID], tenant=tenant))


def _without_token(request: web.Request) -> web.Request:
    """The same for the application: aiohttp logs subprotocols that it does not know."""
    offered = [each.strip() for each in ",".join(request.headers.getall("Sec-WebSocket-Protocol")).split(",")]
    headers = request.headers.copy()
    del headers["Sec-WebSocket-Protocol"]
    if others := [each for each in offered if each != SUBPROTOCOL and not carries_token(each)]:
        headers["Sec-WebSocket-Protocol"] = ", ".join(others)
    try:
        shown = request.clone(headers=headers)
    except UnicodeEncodeError:
        raise TenantUnresolved("a header of the request is not text") from None
    if SUBPROTOCOL in offered:
        shown[_SUBPROTOCOL] = SUBPROTOCOL
    return shown


async def _admit(gate: Gate, request: web.Request, headers: Headers) -> None:
    outer = request.get(TENANT)  # of an application that this one is mounted in
    entered = await gate.enter(
        method=request.method,
        path=request.path,
        headers=headers,
        peer=request.remote,
    )
    found = None if entered is None else entered[0]
    if outer is not None and found is not None and outer.id != found.id:
        raise mismatch()
    if found is None or (outer is not None and outer.read_only):
        found = outer  # an inner one, that verifies no token, gives no rights that the outer one did not
    if entered is not None and (outer is None or entered[1].claims):  # else the outer one knows better who asks
        request[IDENTITY] = entered[1]
    if found is not None:
        request[TENANT] = found
    # It is not ended: aiohttp gives each request a task, and writes the body there after all middlewares have returned.
    begin(found)


def as_response(problem: ProblemAnswer) -> web.Response:
    """A problem, as aiohttp sends it."""
    return web.Response(status=problem.status, headers=dict(problem.headers), body=problem.body)


def route_of(request: web.Request) -> str:
    """The pattern that matched, never the path itself: a stranger chooses paths."""
    resource = request.match_info.route.resource
    return _UNMATCHED if resource is None else resource.canonical
