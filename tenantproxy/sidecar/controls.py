"""What can be done to the process over the admin listener? Reload, upgrade, restart, drain; with the admin token."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection

from aiohttp import web

from tenantproxy.config import Admin
from tenantproxy.errors import ConfigurationError, NotSupported
from tenantproxy.sidecar.admin_roles import check_may_change
from tenantproxy.sidecar.service import Controls, ReloadRefused

__all__ = ["control_routes"]


def control_routes(
    now: Callable[[], Admin], reload: Callable[[], Awaitable[Collection[str]]], controls: Controls | None
) -> list[web.RouteDef]:
    """The routes; refused with 403 where `[admin]`, as it is `now`, has no token.

    `controls` None: reload alone is possible.
    """

    def able() -> Controls:
        check_may_change(now())
        if controls is None:
            raise NotSupported("this process cannot be replaced", hint="start it with `tenantproxy serve`")
        return controls

    async def reloads(request: web.Request) -> web.Response:
        check_may_change(now())
        try:
            changed = await reload()
        except ConfigurationError as exc:  # to the operator, who has the token
            raise ReloadRefused("nothing was changed", detail=exc.message) from exc
        return web.json_response({"changed": sorted(changed)})

    async def upgrades(request: web.Request) -> web.Response:
        return web.json_response({"pid": await able().upgrade()})

    async def restarts(request: web.Request) -> web.Response:
        await able().restart()
        return web.json_response({})

    async def drains(request: web.Request) -> web.Response:
        able().drain()
        return web.json_response({})

    return [
        web.post("/v1/reload", reloads),
        web.post("/v1/upgrade", upgrades),
        web.post("/v1/restart", restarts),
        web.post("/v1/drain", drains),
    ]
