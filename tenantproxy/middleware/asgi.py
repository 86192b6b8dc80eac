"""How does an ASGI application become multi-tenant? `TenantMiddleware`: Starlette, FastAPI, Litestar, Django.

    app.add_middleware(TenantMiddleware, router=router, tokens=tokens)      # Starlette, FastAPI
    app = TenantMiddleware(app, router=router, tokens=tokens)               # Litestar, Django, anything

It needs no framework and holds no connection. Each request is its tenant's or no tenant's, whatever the server's own
context says; `tenantproxy.current()` is that tenant until the last byte and the last background task.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from functools import partial
from typing import Any, Final, TypeAlias

from tenantproxy.auth.base import Resolver, TokenVerifier
from tenantproxy.auth.caller import SUBPROTOCOL, carries_token, header_texts, unwrap_token
from tenantproxy.auth.resolvers import mismatch
from tenantproxy.context import REQUEST_ID as CURRENT_REQUEST
from tenantproxy.context import begin, current, end
from tenantproxy.errors import TenantProxyError
from tenantproxy.middleware.gate import Gate, RequestCounter, SystemOf
from tenantproxy.middleware.life import life_of
from tenantproxy.middleware.problems import GONE, OURS, ProblemAnswer, request_id
from tenantproxy.router import Router
from tenantproxy.scope import TenantScope
from tenantproxy.watch import PARENT

__all__ = ["ANSWER", "PATTERN", "TenantMiddleware", "answer_to", "tenant"]

PATTERN: Final = "path_template"
"""In an ASGI scope: the pattern that the request's path matched, where the application's framework says it."""

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Any, Any, Any], Awaitable[None]]  # each framework has its own types for the three

_OUTER: Final = "tenantproxy.scope"  # in an ASGI scope: what an outer TenantMiddleware resolved
ANSWER: Final = "tenantproxy.answer"
"""In an ASGI scope: what makes an answer of one of our errors and a request id, for code inside the application."""
_UNMATCHED: Final = "unmatched"

logger = logging.getLogger("tenantproxy")


async def tenant() -> TenantScope:
    """The scope of this request, as a FastAPI dependency: `db: Annotated[TenantScope, Depends(tenant)]`.

    Raises TenantUnresolved (400) where the request named none.
    """
    return current()


def answer_to(scope: Any, error: BaseException) -> ProblemAnswer:
    """The answer to an error of tenantproxy in an ASGI scope, where a framework answers its handlers' errors itself."""
    made: ProblemAnswer = scope[ANSWER](error, scope["state"]["request_id"])
    return made


class TenantMiddleware:
    """The middleware around `app`.

    `resolver` says which tenant a request names, by default as `[resolve]` does; `tokens` verifies access tokens, and
    hears of what is revoked as long as the router is open, unless it was given a `revoked` of its own;
    `requests` counts (`metrics.listeners.HttpRequests`); `system` says which of a tenant's several schemas a request is
    for, by a header of that name or a function of the request. A router that is not open is opened and closed with the
    application, or opened at the first request where the server has no lifespan. The scope's `state` gets `request_id`,
    and where there is a tenant `tenant`, its scope, and `identity`, who asks (`auth.base.Identity`). Errors
    of tenantproxy and lost connections become problem+json while nothing was sent.
    """

    def __init__(
        self,
        app: App,
        *,
        router: Router,
        resolver: Resolver | None = None,
        tokens: TokenVerifier | None = None,
        requests: RequestCounter | None = None,
        system: SystemOf | None = None,
    ) -> None:
        self.app = app
        self._gate = Gate(router, resolver=resolver, tokens=tokens, system=system)
        self._life = life_of(router)
        self._life.keep_up(tokens)
        self._requests = requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection of the server's."""
        kind = scope["type"]
        if kind == "http":
            await self._http(scope, receive, send)
        elif kind == "websocket":
            await self._websocket(scope, receive, send)
        elif kind == "lifespan":
            await _Lifespan(self.app, self._life.start, self._life.stop).run(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = header_texts(scope["headers"])
        request = request_id([value for name, value in headers if name == "x-request-id"])
        _name(scope, request)
        answer = _Answer(send, request)
        started = time.perf_counter()
        try:
            await self._run(scope, headers, receive, answer)
        except OURS as exc:
            if answer.status is not None:
                answer.failed = True
                raise
            await answer.refuse(self._gate.answer(headers, exc, request, tenant=_named(scope)))
        except Exception:
            answer.failed = True
            raise
        finally:
            if self._requests is not None:
                self._requests.observe(
                    route=_route(scope),
                    method=scope["method"],
                    code=500 if answer.failed else answer.status or GONE,
                    seconds=time.perf_counter() - started,
                )

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers, token = unwrap_token(header_texts(scope["headers"]))
        request = request_id([value for name, value in headers if name == "x-request-id"])
        _name(scope, request)
        offered = [each for each in scope.get("subprotocols") or () if not carries_token(each)]
        if token:  # it is for us: the application need not see it, and cannot choose it
            scope["headers"] = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
            scope["subprotocols"] = offered
        denies = "websocket.http.response" in (scope.get("extensions") or ())
        socket = _Socket(send, denies=denies, subprotocol=SUBPROTOCOL if SUBPROTOCOL in offered else None)
        try:
            await self._run(scope, headers + token, receive, socket)
        except OURS as exc:
            if socket.is_closed:
                raise
            await socket.refuse(self._gate.answer(headers + token, exc, request, tenant=_named(scope)))

    async def _run(self, scope: Scope, headers: tuple[tuple[str, str], ...], receive: Receive, send: Send) -> None:
        """The application, for the tenant of the request or for none."""
        await self._life.ready()
        client = scope.get("client")
        entered = await self._gate.enter(
            method=scope.get("method", "GET"), path=scope["path"], headers=headers, peer=client[0] if client else None
        )
        found = None if entered is None else entered[0]
        outer: TenantScope | None = scope.get(_OUTER)
        if outer is not None and found is not None and outer.id != found.id:
            raise mismatch()
        if found is None or (outer is not None and outer.read_only):
            found = outer  # an inner one, that verifies no token, gives no rights that the outer one did not
        if entered is not None and (outer is None or entered[1].claims):  # else an outer one knows better who asks
            scope["state"]["identity"] = entered[1]
        if found is not None:
            scope["state"]["tenant"] = scope[_OUTER] = found
        scope[ANSWER] = partial(self._gate.answer, headers, tenant=_named(scope))
        token, request = begin(found), CURRENT_REQUEST.set(scope["state"]["request_id"])
        parent = PARENT.set(self._gate.parent(headers))
        try:
            await self.app(scope, receive, send)
        finally:
            PARENT.reset(parent)
            CURRENT_REQUEST.reset(request)
            end(token)


def _named(scope: Scope) -> str:
    """The tenant that it was resolved to; empty: none."""
    found: TenantScope | None = scope.get(_OUTER)
    return "" if found is None else found.id


def _name(scope: Scope, request: str) -> None:
    """In place, as middlewares do: those around this one read there what the application leaves."""
    state = scope.setdefault("state", {})
    state["request_id"] = request
    if _OUTER not in scope:
        state.pop("tenant", None)
        state.pop("identity", None)  # what the application's lifespan left there is no request's


def _route(scope: Scope) -> str:
    """The pattern that matched, where the framework tells; never the path itself: a stranger chooses paths.

    FastAPI and Starlette put it under `route`, Litestar under PATTERN, Django's `TenantErrors` too.
    """
    pattern = getattr(scope.get("route"), "path", None) or scope.get(PATTERN)
    return pattern if isinstance(pattern, str) else _UNMATCHED


class _Answer:
    """`send` of a request: names it in the answer, and knows what was sent."""

    __slots__ = ("_request", "_send", "failed", "status")

    def __init__(self, send: Send, request: str) -> None:
        self._send = send
        self._request = (b"x-request-id", request.encode())
        self.status: int | None = None  # of the answer that was begun
        self.failed = False  # the application raised

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = list(message.get("headers") or ())
            if all(name.lower() != b"x-request-id" for name, _ in headers):
                headers.append(self._request)
            message = {**message, "headers": headers}
        await self._send(message)

    async def refuse(self, problem: ProblemAnswer) -> None:
        """The whole answer; nothing was sent before."""
        await self({"type": "http.response.start", "status": problem.status, "headers": _bytes(problem)})
        await self({"type": "http.response.body", "body": problem.body})


class _Socket:
    """`send` of a websocket. `denies`: the server can answer with HTTP while the handshake is not done.

    `subprotocol` is chosen where the application chooses none: browsers want one of those that they offered.
    """

    __slots__ = ("_denies", "_is_open", "_send", "_subprotocol", "is_closed")

    def __init__(self, send: Send, *, denies: bool, subprotocol: str | None) -> None:
        self._send = send
        self._denies = denies
        self._subprotocol = subprotocol
        self._is_open = False
        self.is_closed = False

    async def __call__(self, message: Message) -> None:
        kind = message["type"]
        if kind == "websocket.accept":
            self._is_open = True
            chosen = message.get("subprotocol")
            if chosen is None or carries_token(chosen):
                message = {**message, "subprotocol": self._subprotocol}
        elif kind in ("websocket.close", "websocket.http.response.start"):
            self.is_closed = True
        await self._send(message)

    async def refuse(self, problem: ProblemAnswer) -> None:
        """Answer the handshake with the problem, or close with its code."""
        if self._denies and not self._is_open:
            headers = _bytes(problem)
            await self({"type": "websocket.http.response.start", "status": problem.status, "headers": headers})
            await self({"type": "websocket.http.response.body", "body": problem.body})
            return
        again = any(name == "retry-after" for name, _ in problem.headers)
        code = 1013 if again else 1011 if problem.status >= 500 else 1008  # RFC 6455 7.4.1 and its registry
        await self({"type": "websocket.close", "code": code, "reason": problem.code})


def _bytes(problem: ProblemAnswer) -> list[tuple[bytes, bytes]]:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in problem.headers]


class _Lifespan:
    """The application's lifespan inside ours: the router is open before it starts and until the server shuts down.

    Answers for an application that has no lifespan, which the protocol lets it say by raising or returning before it
    has read the startup message. One that raises after that has failed to start, and the server is told so.
    """

    def __init__(self, app: App, start: Callable[[], Awaitable[None]], stop: Callable[[bool], Awaitable[None]]) -> None:
        self._app = app
        self._start = start
        self._stop = stop
        self._has_read = False  # the application took the startup message
        self._is_answered = False  # the application answered the startup, whichever way
        self._is_ending = False  # the server said that it shuts down
        self._is_over = False  # the server was told of the end

    async def run(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Until the server shuts down."""
        first: list[Message] = [await receive()]
        try:
            await self._start()
        except Exception as exc:
            # Any error: raising would tell the server that there is no lifespan here, and it would go on.
            is_told = isinstance(exc, TenantProxyError)  # and says what to do: a traceback would hide that
            logger.error("the router cannot be opened: %s", exc, exc_info=None if is_told else exc)
            await send({"type": "lifespan.startup.failed", "message": f"the router cannot be opened: {exc}"})
            return

        async def taken() -> Message:
            self._has_read = True
            return first.pop() if first else await self._next(receive)

        async def told(message: Message) -> None:
            self._is_answered = True
            if message["type"] != "lifespan.startup.complete":
                self._is_over = True
                await self._stop(True)
            await send(message)

        try:
            failure = await self._serve(scope, taken, told)
            if not self._is_over:
                await self._see_out(failure, receive, send)
            elif failure is not None:
                raise failure
        finally:
            # Cancelled without a shutdown: should a request come after all, it opens the router again.
            await self._stop(self._is_ending or self._is_over)

    async def _next(self, receive: Receive) -> Message:
        message = await receive()
        self._is_ending = self._is_ending or message["type"] == "lifespan.shutdown"
        return message

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> Exception | None:
        """Run the application's lifespan; what it raised."""
        try:
            await self._app(scope, receive, send)
        except Exception as exc:  # noqa: BLE001 - a boundary: what it means is decided by what was said before
            return exc
        return None

    async def _see_out(self, failure: Exception | None, receive: Receive, send: Send) -> None:
        """The application's lifespan has ended and the server's has not: serve on until it shuts down."""
        if not self._is_answered:
            if failure is not None and self._has_read:
                self._is_over = True
                await self._stop(True)
                logger.error("the application failed to start", exc_info=failure)
                await send({"type": "lifespan.startup.failed", "message": f"{type(failure).__name__}: {failure}"})
                return
            failure = None
            await send({"type": "lifespan.startup.complete"})
        if failure is not None:
            logger.error("the application's lifespan ended with an error; tenants are still served", exc_info=failure)
        while not self._is_ending:
            await self._next(receive)
        await self._stop(True)
        if failure is None:
            await send({"type": "lifespan.shutdown.complete"})
        else:
            await send({"type": "lifespan.shutdown.failed", "message": f"{type(failure).__name__}: {failure}"})
