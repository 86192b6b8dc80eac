"""By which addresses does the page reach a browser, and what may it do there? Fixed files, and a stream of events.

The files hold nothing of the service, so that they need no token: the page asks for it, keeps it in its memory alone
and sends it with each request. No cookie is ever set.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Final

from aiohttp import web

from tenantproxy.sidecar.admin_gate import CALLER
from tenantproxy.sidecar.admin_roles import ANYONE, Role
from tenantproxy.sidecar.admin_routes import INDEX
from tenantproxy.sidecar.page.feed import PageFeed

__all__ = ["FILES", "page_routes"]

_FOLDER: Final = Path(__file__).with_name("static")
FILES: Final[Mapping[str, str]] = {
    "index.html": "text/html",
    "page.css": "text/css",
    "page.js": "text/javascript",
    "dom.js": "text/javascript",
    "drawer.js": "text/javascript",
    "shares.js": "text/javascript",
    "rows.js": "text/javascript",
    "table.js": "text/javascript",
    "lines.js": "text/javascript",
    "uplot.js": "text/javascript",
    "uplot.css": "text/css",
    "uplot.LICENSE": "text/plain",
    "icon.svg": "image/svg+xml",
}
"""What is served, and nothing else of the folder."""

_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self';"
    " img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
_STREAM_SECONDS: Final = 900.0  # then the viewer asks again, with a token that is still good


def page_routes(feed: PageFeed, *, stream_seconds: float = _STREAM_SECONDS) -> list[web.RouteDef]:
    """The routes of the page; its actions are those of the admin API. After `stream_seconds` a viewer asks again."""
    files = {name: (_FOLDER / name).read_bytes() for name in FILES}
    tags = {name: f'"{sha256(content).hexdigest()[:16]}"' for name, content in files.items()}

    def answer(request: web.Request, name: str) -> web.Response:
        headers = {**_HEADERS, "ETag": tags[name]}
        if request.headers.get("If-None-Match") == tags[name]:
            return web.Response(status=304, headers=headers)
        return web.Response(body=files[name], content_type=FILES[name], charset="utf-8", headers=headers)

    async def index(request: web.Request) -> web.Response:
        return answer(request, "index.html")

    async def file(request: web.Request) -> web.Response:
        name = request.match_info["file"]
        if name not in files:
            raise web.HTTPNotFound
        return answer(request, name)

    async def events(request: web.Request) -> web.StreamResponse:
        transport, task = request.transport, asyncio.current_task()

        def drop() -> None:  # what waits to be written would never be
            if transport is not None:
                transport.abort()
            elif task is not None:
                task.cancel()

        is_operator = request.get(CALLER, ANYONE).role.includes(Role.OPERATE)
        async with feed.viewer(drop, is_operator=is_operator) as viewer:
            response = web.StreamResponse(headers={"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"})
            response.content_type, response.charset = "text/event-stream", "utf-8"
            await response.prepare(request)
            try:
                async with asyncio.timeout(stream_seconds):
                    async for frame in viewer.frames():
                        await response.write(frame)
            except (TimeoutError, ConnectionError):
                return response
            return response

    return [
        web.get("/", index, name=INDEX),
        web.get("/page/{file}", file),
        web.get("/v1/events", events, allow_head=False),  # it has no end, and HEAD no body
    ]
