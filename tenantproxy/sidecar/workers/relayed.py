"""How does the supervisor answer for tenants, operations and sessions, which it knows nothing of? A worker does.

The supervisor's gate looks at the token and the role; the worker audits what is changed.
"""

from __future__ import annotations

from typing import Final

from aiohttp import web

from tenantproxy.sidecar.admin_gate import AUDITED, CALLER
from tenantproxy.sidecar.admin_routes import ROUTES
from tenantproxy.sidecar.answers import REQUEST_ID
from tenantproxy.sidecar.bodies import raw_body
from tenantproxy.sidecar.workers.relay_desk import BY, ROLE
from tenantproxy.sidecar.workers.staff import Staff
from tenantproxy.sidecar.workers.state import WorkerState

__all__ = ["relayed_routes"]

_RELAYED: Final = tuple(
    f"/v1/{name}" for name in ("tenants", "operations", "migrations", "backups", "doctor", "prove", "persons")
)
_OWN: Final = "/v1/tenants/{tenant}/evict"  # asked of all workers
_HANDED_ON: Final = ("content-type", "idempotency-key", "prefer")


def relayed_routes(staff: Staff) -> list[web.RouteDef]:
    """The routes of the supervisor's listener: lines of the table, each answered by a worker that is ready."""

    async def relay(request: web.Request) -> web.Response:
        caller = request[CALLER]
        given = [(name, value) for name in _HANDED_ON for value in request.headers.getall(name, [])]
        ours = [("x-request-id", request[REQUEST_ID]), (BY, caller.by), (ROLE, caller.role.value)]
        asked = {
            "method": request.method,
            "path": _bytes(request.rel_url.raw_path),
            "query": _bytes(request.rel_url.raw_query_string),
            "headers": [(name, _bytes(value)) for name, value in (*given, *ours)],
            "body": await raw_body(request),
            "address": request.remote or "",
        }
        told = await staff.any_of(WorkerState.READY).ask("admin", asked)
        request[AUDITED] = True
        return web.Response(status=told["status"], headers=[(*each,) for each in told["headers"]], body=told["body"])

    lines = [each for each in ROUTES if each.path.startswith(_RELAYED) and each.path != _OWN]
    return [web.route(each.method, each.path, relay) for each in lines]


def _bytes(text: str) -> bytes:
    """As it came over the wire, where it may have been no UTF-8."""
    return text.encode("utf-8", "surrogateescape")
