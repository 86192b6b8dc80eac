"""`/metrics` of a library's router in the application's own web server: ASGI, or a handler of aiohttp.

    app.mount("/metrics", tenantproxy.metrics.asgi_app(router))                     # Starlette, FastAPI
    app.router.add_get("/metrics", tenantproxy.metrics.aiohttp_handler(router))     # aiohttp

Both need the extra `prometheus`. They show every tenant's name: let only the scraper reach them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

from tenantproxy.config.version import VERSION
from tenantproxy.metrics.exposition import exposition_in_slices, registry_of
from tenantproxy.metrics.logins import LoginCollector
from tenantproxy.metrics.prometheus import RouterCollector
from tenantproxy.pools.base import Stats
from tenantproxy.router import Router

if TYPE_CHECKING:
    from aiohttp import web

__all__ = ["aiohttp_handler", "asgi_app"]

_Scrape = Callable[[str], Awaitable[tuple[bytes, str]]]
_METHODS: Final = ("GET", "HEAD")


def _scraper(router: Router) -> _Scrape:
    stats: Stats | None = None
    series = registry_of(
        RouterCollector(
            lambda: router.stats() if stats is None else stats, version=VERSION, tenants=router.registry.counts
        ),
        LoginCollector(lambda: router.login_counts, lambda: 0),
    )

    async def scrape(accept: str) -> tuple[bytes, str]:
        nonlocal stats
        stats = await router.scrape()
        return await exposition_in_slices(series, accept)

    return scrape


def asgi_app(router: Router) -> Callable[[Any, Any, Any], Awaitable[None]]:
    """An ASGI application that answers GET and HEAD with the series of `router`, whatever the path."""
    scrape = _scraper(router)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"the metrics are served over http alone, not {scope['type']}")
        if scope["method"] not in _METHODS:
            await _send(send, 405, b"", [(b"allow", b"GET, HEAD")])
            return
        accept = b",".join(value for name, value in scope["headers"] if name == b"accept")
        body, content_type = await scrape(accept.decode("latin-1"))
        headers = [(b"content-type", content_type.encode()), (b"content-length", str(len(body)).encode())]
        await _send(send, 200, b"" if scope["method"] == "HEAD" else body, headers)

    return app


async def _send(send: Any, status: int, body: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def aiohttp_handler(router: Router) -> Callable[[web.Request], Awaitable[web.Response]]:
    """A handler for aiohttp's `add_get`."""
    from aiohttp import web

    scrape = _scraper(router)

    async def handler(request: web.Request) -> web.Response:
        body, content_type = await scrape(",".join(request.headers.getall("Accept", [])))
        return web.Response(body=body, headers={"Content-Type": content_type})

    return handler
