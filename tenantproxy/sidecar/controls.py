"""What can be done to the process over the admin listener? Reload, upgrade, restart, drain; with the admin token."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from aiohttp import web

from tenantproxy.config import Admin
from tenantproxy.errors import ConfigurationError, NotSupported
from tenantproxy.sidecar.admin_gate import ACTED_ON
from tenantproxy.sidecar.admin_roles import check_may_change
from tenantproxy.sidecar.pg.console.view import WorkerRow
from tenantproxy.sidecar.service import Controls, ReloadRefused

__all__ = ["control_routes", "worker_json"]

_DIGITS: Final = 4


def control_routes(
    now: Callable[[], Admin],
    reload: Callable[[], Awaitable[Collection[str]]],
    controls: Controls | None,
    workers: Callable[[], Sequence[WorkerRow]] = tuple,
) -> list[web.RouteDef]:
    """The routes; refused with 403 where `[admin]`, as it is `now`, has no token.

    `controls` None: reload alone is possible. `workers`: those that there are; none where the process serves itself.
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

    async def drains(request: web.Request) -> web.Response:
        able().drain()
        return web.json_response({})

    return [
        web.post("/v1/reload", reloads),
        web.post("/v1/upgrade", upgrades),
        *_worker_routes(able, workers),
        web.post("/v1/drain", drains),
    ]


def _worker_routes(able: Callable[[], Controls], workers: Callable[[], Sequence[WorkerRow]]) -> list[web.RouteDef]:
    async def listed(request: web.Request) -> web.Response:
        return web.json_response({"workers": [worker_json(each) for each in workers()]})

    async def restarts(request: web.Request) -> web.Response:
        return await restarted(request, None)

    async def restarts_one(request: web.Request) -> web.Response:
        given = request.match_info["worker"]
        number = int(given) if given.isascii() and given.isdecimal() and len(given) <= _DIGITS else 0
        return await restarted(request, number)

    async def restarted(request: web.Request, number: int | None) -> web.Response:
        former = [worker_json(each) for each in workers() if number in (None, each.number)]
        new = await able().restart(number)
        request[ACTED_ON] = ("", former)
        return web.json_response({"workers": list(new)})

    return [
        web.post("/v1/restart", restarts),
        web.get("/v1/workers", listed),
        web.post("/v1/workers/{worker}/restart", restarts_one),
    ]


def worker_json(row: WorkerRow) -> dict[str, Any]:
    """A worker in an answer, and in the audit log."""
    return {
        "worker": row.number, "pid": row.pid, "state": str(row.state), "restarts": row.restarts, "version": row.version,
        "started_at": datetime.fromtimestamp(row.started_at, UTC).isoformat(timespec="seconds"),
    }  # fmt: skip
