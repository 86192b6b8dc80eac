"""How does every HTTP answer look? With a request id, errors as RFC 9457 problem+json, and counted."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import re
import secrets
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from tenantproxy.errors import AccessDenied, TenantNotFound, TenantProxyError, problem_json
from tenantproxy.metrics.listeners import Requests

__all__ = ["MAX_BODY_BYTES", "MAX_HEADER_BYTES", "REQUEST_ID", "answering"]

MAX_HEADER_BYTES: Final = 16 * 1024
MAX_BODY_BYTES: Final = 1024 * 1024
REQUEST_ID: Final = web.RequestKey("request_id", str)

_UNMATCHED: Final = "unmatched"
_GIVEN_ID: Final = re.compile(r"[A-Za-z0-9._\-]{1,64}")
logger = logging.getLogger("tenantproxy")


def answering(requests: Requests) -> Middleware:
    """The outermost middleware of a listener: caps the head, names the request, turns errors into problems, counts."""

    @web.middleware
    async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
        loop = asyncio.get_running_loop()
        started = loop.time()
        request[REQUEST_ID] = _request_id(request)
        code = 499  # nobody waits for the answer any more: the client went away while the handler ran
        try:
            response = await _answer(request, handler)
            code = response.status
        finally:
            requests.observe(route=_route(request), method=request.method, code=code, seconds=loop.time() - started)
        response.headers["X-Request-Id"] = request[REQUEST_ID]
        return response

    return answer


async def _answer(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        if (refused := _too_large(request)) is not None:
            return refused
        return await handler(request)
    except web.HTTPException as exc:
        if exc.status < 400:
            raise
        return _plain_problem(request, exc.status, exc.reason, allow=exc.headers.get("Allow"))
    except TenantProxyError as exc:
        return _problem(request, exc)
    except Exception:
        # The rim: what PostgreSQL or a driver says is for the log, never for strangers.
        logger.exception("request %s failed", request[REQUEST_ID], extra={"request_id": request[REQUEST_ID]})
        return _plain_problem(request, 500, "internal error")


def _too_large(request: web.Request) -> web.Response | None:
    head = len(request.raw_path) + sum(len(name) + len(value) + 4 for name, value in request.raw_headers)
    if head > MAX_HEADER_BYTES:
        return _plain_problem(request, 431, "request header fields too large")
    if request.content_length is not None and request.content_length > MAX_BODY_BYTES:
        return _plain_problem(request, 413, "request body too large")
    return None


def _problem(request: web.Request, error: TenantProxyError) -> web.Response:
    # To a stranger an unknown tenant looks like one that is not his.
    shown = AccessDenied("not allowed") if isinstance(error, TenantNotFound) else error
    response = _json(problem_json(shown, request_id=request[REQUEST_ID]), shown.http_status)
    if shown.retry_after is not None:
        response.headers["Retry-After"] = str(max(1, math.ceil(shown.retry_after)))
    if shown.http_status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


def _plain_problem(request: web.Request, status: int, title: str, *, allow: str | None = None) -> web.Response:
    body = {
        "type": "about:blank",
        "title": title,
        "status": status,
        "code": re.sub(r"\W+", "_", title.lower()),
        "request_id": request[REQUEST_ID],
    }
    response = _json(body, status)
    if allow is not None:
        response.headers["Allow"] = allow
    return response


def _json(body: dict[str, object], status: int) -> web.Response:
    return web.Response(
        body=json.dumps(body).encode(),
        status=status,
        content_type="application/problem+json",
        headers={"Cache-Control": "no-store"},
    )


def _request_id(request: web.Request) -> str:
    given = request.headers.get("X-Request-Id", "")
    return given if _GIVEN_ID.fullmatch(given) else secrets.token_hex(16)


def _route(request: web.Request) -> str:
    resource = request.match_info.route.resource
    return _UNMATCHED if resource is None else resource.canonical
