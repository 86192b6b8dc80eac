"""How does one HTTP connection behave beyond what aiohttp does? The only module that touches aiohttp's private names.

What a peer sends that is no HTTP is answered in fixed words and logged without its content: it may hold a token.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from typing import Any, Final

from aiohttp import web
from aiohttp.http_exceptions import LineTooLong

from tenantproxy.middleware.problems import request_id

__all__ = ["HttpProtocol", "fixed_problem", "unmarked"]

logger = logging.getLogger("tenantproxy")

_TITLES: Final = {
    400: "malformed request",
    417: "expectation failed",
    431: "request header fields too large",
    504: "gateway timeout",
}


def fixed_problem(status: int) -> bytes:
    """A problem+json body in which nothing comes from the request."""
    title = _TITLES.get(status, "internal error")
    return json.dumps(
        {"type": "about:blank", "title": title, "status": status, "code": title.replace(" ", "_")}
    ).encode()


async def unmarked(request: web.Request, response: web.StreamResponse) -> None:
    """For `on_response_prepare`: no `Server` header, and no words of aiohttp's about an `Expect` that it refused."""
    response.headers.pop("Server", None)
    if isinstance(response, web.HTTPExpectationFailed):
        response.body = fixed_problem(417)
        response.headers["Content-Type"] = "application/problem+json"
        response.headers["Content-Length"] = str(len(fixed_problem(417)))
        if response._payload_writer is not None:  # it took the former length already
            response._payload_writer.length = len(fixed_problem(417))


class _Refusal(web.Response):
    """The answer to what is no request: no application, so no signal, sees it."""

    async def _prepare_headers(self) -> None:
        await super()._prepare_headers()
        self.headers.pop("Server", None)


class HttpProtocol(web.RequestHandler):
    """aiohttp's protocol, which also says when a connection waits for its next request.

    `on_idle` is called after each answer when no further request has arrived; `heads` counts the heads that are
    complete, malformed ones included.
    """

    tunnel: asyncio.BaseProtocol | None = None
    """What is told of a WebSocket's backpressure, and of its bytes as they come."""
    on_gone: Callable[[], None] | None = None
    """Called when the connection is lost, while a request is being answered that set it."""
    is_passed = False
    """Whether a request is under way that went past aiohttp, for which the connection only seems to be idle."""

    def __init__(
        self,
        manager: web.Server,
        *,
        loop: asyncio.AbstractEventLoop,
        on_idle: Callable[[], None],
        on_known: Callable[[bool], bool] = lambda is_reader: True,
        **options: Any,
    ) -> None:
        super().__init__(manager, loop=loop, **options)
        self._on_idle = on_idle
        self.on_known = on_known
        """To be called with whether who asks may only look, when a request has shown it; False: no place for one more.
        """

    def connection_lost(self, exc: BaseException | None) -> None:
        """See asyncio.Protocol."""
        gone, self.on_gone = self.on_gone, None
        super().connection_lost(exc)
        if gone is not None:
            gone()

    def passed(self, *, is_under_way: bool) -> None:
        """A request that goes past aiohttp begins, or is over: the connection is kept alive."""
        self.is_passed = is_under_way
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout

    def _process_keepalive(self) -> None:
        if self.is_passed:
            self.passed(is_under_way=True)
        super()._process_keepalive()

    def pause_writing(self) -> None:
        """See asyncio.Protocol."""
        super().pause_writing()
        if isinstance(self.tunnel, asyncio.Protocol):
            self.tunnel.pause_writing()

    def resume_writing(self) -> None:
        """See asyncio.Protocol."""
        super().resume_writing()
        if isinstance(self.tunnel, asyncio.Protocol):
            self.tunnel.resume_writing()

    @property
    def heads(self) -> int:
        """How many requests have begun."""
        return self._request_count

    @property
    def is_waiting(self) -> bool:
        """Whether the last request is done with and the next has not begun."""
        return self._waiter is not None and not self._waiter.done()

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send the answer; see RequestHandler."""
        finished = await super().finish_response(request, resp, start_time)
        if not self._messages:
            self._on_idle()
        return finished

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to a request that could not be read. `exc` and `message` quote it: neither is used but by kind."""
        if status == 400 and isinstance(exc, LineTooLong):
            status = 431
        name, what = request_id(()), type(exc).__name__
        logger.warning(
            "a request from %s was answered %d (%s)", request.remote, status, what, extra={"request_id": name}
        )
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun already")
        refusal = _Refusal(status=status, body=fixed_problem(status), content_type="application/problem+json")
        refusal.headers["Cache-Control"] = "no-store"
        refusal.headers["X-Request-Id"] = name
        refusal.force_close()
        return refusal
