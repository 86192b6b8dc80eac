"""Over which requests does an operator see what a tenant holds, pause it at the port, and end what it has there?"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Final, TypeVar

from aiohttp import web

from tenantproxy.errors import TenantError, TenantNotFound, TenantProxyError
from tenantproxy.sidecar.admin_gate import ACTED_ON
from tenantproxy.sidecar.live import Live
from tenantproxy.sidecar.pg.colleagues import TenantVerb

__all__ = ["live_routes"]

VERBS: Final[tuple[TenantVerb, ...]] = ("pause", "resume", "kill")
_MAX_PID: Final = 2**31 - 1
T = TypeVar("T")


class TenantNotKnown(TenantProxyError):
    """There is no such tenant, or there can be none; or it cannot be served, and has no connections."""

    http_status, sqlstate, code = 404, "3D000", "tenant_not_known"


class ClientNotFound(TenantProxyError):
    """The PostgreSQL port has no client of this number."""

    http_status, sqlstate, code = 404, "42704", "client_not_found"


def live_routes(live: Live, *, has_port: bool = True) -> list[web.RouteDef]:
    """The routes. The gate of the listener looks at roles, and tells of each change.

    `has_port`: those too that are about clients of the PostgreSQL port.
    """

    async def shown(request: web.Request) -> web.Response:
        return web.json_response(await _known(live.tenant(request.match_info["tenant"])))

    async def told(request: web.Request) -> web.Response:
        return web.json_response(await _known(live.statements(request.match_info["tenant"])))

    async def evicted(request: web.Request) -> web.Response:
        request[ACTED_ON] = ("", await _known(live.evict(request.match_info["tenant"])))
        return web.json_response({})

    async def ended(request: web.Request) -> web.Response:
        given = request.match_info["client"]
        is_number = given.isascii() and given.isdecimal() and len(given) <= 10 and int(given) <= _MAX_PID
        ended = await live.end_client(int(given)) if is_number else None
        if ended is None:
            raise ClientNotFound("the PostgreSQL port has no such client")
        request[ACTED_ON] = (ended[0], [ended[1]])
        return web.json_response({})

    async def drained(request: web.Request) -> web.Response:
        request[ACTED_ON] = ("", await _known(live.drain(request.match_info["tenant"])))
        return web.json_response({})

    def stops(verb: TenantVerb) -> web.RouteDef:
        async def stopped(request: web.Request) -> web.Response:
            is_idle, things = await _known(live.stop(request.match_info["tenant"], verb))
            request[ACTED_ON] = ("", things)
            return web.json_response({"paused": verb != "resume", "idle": verb != "resume" and is_idle})

        return web.post(f"/v1/pools/{{tenant}}/{verb}", stopped)

    routes = [
        web.get("/v1/pools/{tenant}", shown),
        web.get("/v1/pools/{tenant}/statements", told),
        web.post("/v1/tenants/{tenant}/evict", evicted),
    ]
    if has_port:
        routes += [
            web.delete("/v1/clients/{client}", ended),
            web.post("/v1/pools/{tenant}/drain", drained),
            *map(stops, VERBS),
        ]
    return routes


async def _known(work: Awaitable[T]) -> T:
    try:
        return await work
    except TenantNotFound as exc:
        raise TenantNotKnown(exc.message, detail=exc.detail, hint=exc.hint) from exc
    except TenantError as exc:
        raise TenantNotKnown(exc.message) from exc
