"""How does an application show the operator page, and answer the admin API, of the router that it has?

`app.mount("/admin", tenantproxy.admin.asgi_app(router, auth=...))` in Starlette, FastAPI and others;
`app.add_subapp("/admin", tenantproxy.admin.aiohttp_app(router, auth=...))` in aiohttp. The page is at `/admin/`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from tenantproxy.router import Router
from tenantproxy.sidecar.admin_roles import AdminCaller, Role

if TYPE_CHECKING:
    from aiohttp import web

__all__ = ["AdminCaller", "Role", "aiohttp_app", "asgi_app"]

_Auth = Callable[[Mapping[str, str]], AdminCaller | Awaitable[AdminCaller | None] | None]


def asgi_app(router: Router, *, auth: _Auth | None = None) -> Callable[[Any, Any, Any], Awaitable[None]]:
    """An ASGI application to be mounted. It neither opens nor closes `router`. Needs the extra `sidecar`.

    `auth` is given the headers of each request, names in lower case, and says who asks:
    `AdminCaller(by="ann", role=Role.OPERATE)`, or None, which is answered 401; it may be a coroutine function. By
    default the tokens of `[admin]` are asked for. `role` is what `[admin.tokens.NAME] role` is; `by` is what the audit
    log has. What a browser sends by itself for a page of another origin is refused.
    """
    from tenantproxy.sidecar.asgi_bridge import AsgiBridge
    from tenantproxy.sidecar.mounted import mounted_app

    return AsgiBridge(mounted_app(router, auth))


def aiohttp_app(router: Router, *, auth: _Auth | None = None) -> web.Application:
    """The same for `add_subapp` of an aiohttp application."""
    from tenantproxy.sidecar.mounted import mounted_app

    return mounted_app(router, auth)
