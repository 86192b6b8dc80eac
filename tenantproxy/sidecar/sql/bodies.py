"""How are the bodies of SQL over HTTP read and written with aiohttp? Within limits, and with no answer in a cache."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from aiohttp import StreamReader, web

from tenantproxy.errors import NotSupported
from tenantproxy.middleware.aiohttp import REQUEST_ID
from tenantproxy.sidecar.sql.answer import answering
from tenantproxy.sidecar.sql.kept import Kept
from tenantproxy.sidecar.sql.malformed import too_large
from tenantproxy.sidecar.sql.request import SqlRequest
from tenantproxy.slices import found_in_slices
from tenantproxy.wire.memory import FREE_BYTES
from tenantproxy.wire.results import StatementResult

__all__ = ["body_of", "refusal", "written"]

_BODY_SECONDS: Final = 10.0  # for all of a body
_NO_STORE: Final = {"Cache-Control": "no-store"}
_JSON: Final = "application/json"


async def body_of(request: web.Request, limit: int) -> bytes:
    """All of it. Raises StatementTooLong, ProtocolError, and HTTPRequestTimeout where it does not come."""
    if "Content-Encoding" in request.headers:
        raise NotSupported("a body is taken as it is: without Content-Encoding")
    size = request.content_length
    if size is not None and size > limit:
        raise too_large("bytes in the body", size, "max_body", limit)
    content = request.content
    if content.is_eof():
        data = content.read_nowait()
    else:
        try:
            async with asyncio.timeout(_BODY_SECONDS):
                data = await _all(content, limit)
        except TimeoutError:
            raise web.HTTPRequestTimeout from None
    if len(data) > limit:
        raise too_large("bytes in the body", len(data), "max_body", limit)
    return data


async def _all(content: StreamReader, limit: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    while size <= limit and (part := await content.readany()):
        parts.append(part)
        size += len(part)
    return b"".join(parts)


async def written(
    request: web.Request, sql: SqlRequest, results: Sequence[StatementResult], kept: Kept
) -> web.StreamResponse:
    """The answer with these results. One that is large has been read when this returns. Raises OutOfMemory."""
    body = await found_in_slices(answering(results, sql))
    kept.add(len(body))
    response = web.Response(body=body, content_type=_JSON, headers=_NO_STORE)
    if sql.echo:
        response.headers.update(sql.echo)
    if len(body) > FREE_BYTES:  # it is kept until it is read
        response.headers["X-Request-Id"] = request[REQUEST_ID]
        with suppress(ConnectionError):
            await response.prepare(request)
            await response.write_eof()
    return response


def refusal(body: bytes, retry: str | None = None) -> web.Response:
    """What everything that goes wrong is answered by."""
    response = web.Response(status=400, body=body, content_type=_JSON, headers=_NO_STORE)
    if retry is not None:
        response.headers["Retry-After"] = retry
    return response
