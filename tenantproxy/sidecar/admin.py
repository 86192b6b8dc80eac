"""What may an operator ask? Alive, ready, metrics, pools, servers. Nothing here changes anything."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import asdict, fields
from typing import Any, Final

from aiohttp import web
from aiohttp.typedefs import Middleware
from prometheus_client import CollectorRegistry

from tenantproxy.metrics.exposition import exposition_in_slices
from tenantproxy.metrics.listeners import HttpRequests
from tenantproxy.pools.base import PoolStats, ServerStats, Stats, TenantPoolStats
from tenantproxy.sidecar.admin_gate import CALLER, own_pattern
from tenantproxy.sidecar.admin_openapi import description
from tenantproxy.sidecar.admin_routes import ROUTES
from tenantproxy.sidecar.answers import MAX_BODY_BYTES, answering
from tenantproxy.sidecar.http_protocol import unmarked
from tenantproxy.sidecar.page.feed import FOR_OPERATORS, MAX_VIEWERS
from tenantproxy.slices import Slices

__all__ = ["ADMIN_CLIENTS", "MOST_READERS", "MOST_UNKNOWN", "Readiness", "admin_app", "pools_json", "server_json"]

_POOL_FIELDS: Final = [each.name for each in fields(PoolStats) if each.name not in ("key", "tenants")]
_TENANT_FIELDS: Final = [each.name for each in fields(TenantPoolStats)]

MOST_UNKNOWN: Final = 100
"""Connections of the admin listener that have shown no token."""
MOST_READERS: Final = MAX_VIEWERS
"""Those that have shown a token which may only look."""
ADMIN_CLIENTS: Final = MOST_READERS + MOST_UNKNOWN + FOR_OPERATORS
"""All of its connections: so many are left for tokens that may do something."""

Readiness = Mapping[str, bool]
"""Each thing that must hold before traffic may come, in words, and whether it does."""


def admin_app(
    requests: HttpRequests,
    *,
    readiness: Callable[[], Awaitable[Readiness]],
    metrics: Callable[[], Awaitable[CollectorRegistry]],
    pools: Callable[[], Awaitable[bytes]],
    servers: Callable[[], Awaitable[list[dict[str, Any]]]],
    gate: Middleware,
    routes: Iterable[web.AbstractRouteDef] = (),
) -> web.Application:
    """The application of the admin listener; `gate` decides who may ask (`admin_gate`).

    `routes`: what changes something; each asks `changing` for leave.
    """

    async def livez(request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(request: web.Request) -> web.Response:
        return _ready(await readiness(), verbose="verbose" in request.query)

    async def scrape(request: web.Request) -> web.Response:
        body, content_type = await exposition_in_slices(await metrics(), request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def list_pools(request: web.Request) -> web.Response:
        return web.Response(body=await pools(), content_type="application/json", charset="utf-8")

    async def list_servers(request: web.Request) -> web.Response:
        return web.json_response({"servers": await servers()})

    app = web.Application(middlewares=[answering(requests), gate], client_max_size=MAX_BODY_BYTES)
    app.on_response_prepare.append(unmarked)
    app.router.add_get("/livez", livez)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", scrape)
    app.router.add_get("/v1/pools", list_pools)
    app.router.add_get("/v1/servers", list_servers)
    app.router.add_get("/v1/me", _me)
    app.router.add_get("/v1/openapi.json", _described)
    app.add_routes(list(routes))
    return app


async def _me(request: web.Request) -> web.Response:
    caller = request[CALLER]
    return web.json_response({"name": caller.by, "role": caller.role.value})


async def _described(request: web.Request) -> web.Response:
    """Of the routes that this application has: the supervisor of several workers has fewer."""
    routes = request.app.router.routes()
    has = {(each.method, own_pattern(request.app, each.resource)) for each in routes if each.resource is not None}
    verbs = {(method, path.removesuffix("/{verb}")) for method, path in has if path.endswith("/{verb}")}
    known = [
        each
        for each in ROUTES
        if (each.method, each.path) in has or (each.method, each.path.rpartition("/")[0]) in verbs
    ]
    return web.json_response(description(known))


def _ready(checks: Readiness, *, verbose: bool) -> web.Response:
    failed = [name for name, holds in checks.items() if not holds]
    lines = [f"not ready: {', '.join(failed)}" if failed else "ok"]
    if verbose:
        lines[:0] = [f"[{'+' if holds else '-'}] {name}" for name, holds in checks.items()]
    return web.Response(text="\n".join(lines) + "\n", status=503 if failed else 200)


async def pools_json(stats: Stats) -> bytes:
    """The answer of `/v1/pools`. Written in slices: there may be thousands of pools, and of tenants in one of them."""
    slices = Slices()
    pieces = ['{"pools": [']
    for number, pool in enumerate(stats.pools):
        pieces += (", " if number else "", _head(pool))
        for place, tenant in enumerate(pool.tenants):
            pieces += (", " if place else "", json.dumps({name: getattr(tenant, name) for name in _TENANT_FIELDS}))
            await slices.pause()
        pieces.append("]}")
        await slices.pause()
    pieces.append(f'], "limit": {stats.pools_limit}}}')
    return "".join(pieces).encode()


def _head(pool: PoolStats) -> str:
    """A pool, up to the tenants in it."""
    key = {name: value for name, value in asdict(pool.key).items() if not name.startswith("_")}
    shown = {"key": key} | {name: getattr(pool, name) for name in _POOL_FIELDS}
    return f'{json.dumps(shown)[:-1]}, "tenants": ['


def server_json(server: ServerStats) -> dict[str, Any]:
    """A server in the answer of `/v1/servers`."""
    shown = asdict(server)
    del shown["open_seconds"]  # a histogram: /metrics has it
    return shown
