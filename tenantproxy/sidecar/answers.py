"""How does every HTTP answer look? With a request id, errors as RFC 9457 problem+json, and counted."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Collection
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from tenantproxy.context import REQUEST_ID as CURRENT_REQUEST
from tenantproxy.context import SERVED_TENANT
from tenantproxy.metrics.listeners import HttpRequests
from tenantproxy.middleware.aiohttp import REQUEST_ID, as_response, route_of
from tenantproxy.middleware.problems import GONE, OURS, answer_to, problem_answer, request_id

__all__ = ["MAX_BODY_BYTES", "MAX_HEADER_BYTES", "REQUEST_ID", "answering"]

MAX_HEADER_BYTES: Final = 16 * 1024
MAX_BODY_BYTES: Final = 1024 * 1024

logger = logging.getLogger("tenantproxy")


def answering(
    requests: HttpRequests, *, mismatch_text: Callable[[], str] = str, own_limits: Collection[str] = ()
) -> Middleware:
    """The outermost middleware of a listener: caps the head, names the request, turns errors into problems, counts.

    `own_limits`: routes that look at the size of a body themselves.
    """

    @web.middleware
    async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
        loop = asyncio.get_running_loop()
        started = loop.time()
        request[REQUEST_ID] = name = request_id(request.headers.getall("X-Request-ID", ()))
        token, served = CURRENT_REQUEST.set(name), SERVED_TENANT.set("")
        code = GONE
        try:
            response = await _answer(request, handler, mismatch_text(), own_limits)
            code = response.status
        finally:
            SERVED_TENANT.reset(served)
            CURRENT_REQUEST.reset(token)
            requests.observe(route=route_of(request), method=request.method, code=code, seconds=loop.time() - started)
        response.headers["X-Request-Id"] = request[REQUEST_ID]
        return response

    return answer


async def _answer(
    request: web.Request, handler: Handler, mismatch_text: str, own_limits: Collection[str]
) -> web.StreamResponse:
    try:
        if (refused := _too_large(request, own_limits)) is not None:
            return refused
        return await handler(request)
    except web.HTTPException as exc:
        if exc.status < 400:
            raise
        return _plain_problem(request, exc.status, exc.reason, allow=exc.headers.get("Allow"))
    except OURS as exc:
        return as_response(answer_to(exc, request[REQUEST_ID], mismatch_text=mismatch_text))
    except web.RequestPayloadError:
        # What it says may quote the body, and with it a password.
        return _plain_problem(request, 400, "malformed request body")
    except Exception:
        # The rim: what PostgreSQL or a driver says is for the log, never for strangers.
        logger.exception("request %s failed", request[REQUEST_ID], extra={"request_id": request[REQUEST_ID]})
        return _plain_problem(request, 500, "internal error")


def _too_large(request: web.Request, own_limits: Collection[str]) -> web.Response | None:
    head = len(request.raw_path) + sum(len(name) + len(value) + 4 for name, value in request.raw_headers)
    if head > MAX_HEADER_BYTES:
        return _plain_problem(request, 431, "request header fields too large")
    size = request.content_length
    if size is not None and size > MAX_BODY_BYTES and route_of(request) not in own_limits:
        return _plain_problem(request, 413, "request body too large")
    return None


def _plain_problem(request: web.Request, status: int, title: str, *, allow: str | None = None) -> web.Response:
    body = {
        "type": "about:blank",
        "title": title,
        "status": status,
        "code": re.sub(r"\W+", "_", title.lower()),
        "request_id": request[REQUEST_ID],
    }
    response = as_response(problem_answer(status, body))
    if allow is not None:
        response.headers["Allow"] = allow
    return response
