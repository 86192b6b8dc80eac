"""What does an application get that mounts the operator page and the admin API? Those of a router, by its own auth."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from prometheus_client import CollectorRegistry

from tenantproxy.config.version import VERSION
from tenantproxy.errors import AccessDenied, InvalidCredentials
from tenantproxy.events import Observer
from tenantproxy.metrics.exposition import registry_of
from tenantproxy.metrics.fleet import FleetCollector
from tenantproxy.metrics.listeners import HttpRequests
from tenantproxy.metrics.logins import LoginCollector
from tenantproxy.metrics.prometheus import RouterCollector
from tenantproxy.router import Router
from tenantproxy.sidecar.admin import Readiness, admin_app, pools_json, server_json
from tenantproxy.sidecar.admin_desk import AdminDesk
from tenantproxy.sidecar.admin_gate import CALLER, ForeignOrigin, audited, check_own_origin, pattern_of
from tenantproxy.sidecar.admin_roles import ANYONE, AdminCaller, Role, bearer_of, check_role, known_by
from tenantproxy.sidecar.admin_routes import route_for
from tenantproxy.sidecar.deployment_routes import DeploymentRoutes
from tenantproxy.sidecar.live import LiveRouter
from tenantproxy.sidecar.live_routes import live_routes
from tenantproxy.sidecar.page.feed import PageFeed
from tenantproxy.sidecar.page.recent import RecentEvents
from tenantproxy.sidecar.page.routes import page_routes
from tenantproxy.sidecar.page.rows import Look
from tenantproxy.sidecar.page.shares import FleetShares
from tenantproxy.sidecar.session_routes import session_routes
from tenantproxy.sidecar.tenant_routes import TenantRoutes

__all__ = ["Auth", "mounted_app"]

Auth = Callable[[Mapping[str, str]], AdminCaller | Awaitable[AdminCaller | None] | None]
"""Who asks, by the headers of the request (names in lower case); None: no one who may look."""

_STREAM_SECONDS = 30.0  # a server that is told to end waits for its requests


def mounted_app(router: Router, auth: Auth | None) -> web.Application:
    """The application of aiohttp. `auth` None: by the tokens of `[admin]`; without any, nothing is answered."""
    recent = RecentEvents()
    remove = router.observer.add(recent)
    shares = FleetShares(router.fleet_processes)
    feed = PageFeed(lambda: _look(router, shares), recent)
    desk = AdminDesk(router, lambda: None)  # the gate has looked at roles
    series = registry_of(
        RouterCollector(router.stats, version=VERSION, tenants=router.registry.counts),
        LoginCollector(lambda: router.login_counts, lambda: 0, lambda: router.audit),
        FleetCollector(lambda: router.fleet),
    )

    async def readiness() -> Readiness:
        return {"router open": router.is_open}

    async def metrics() -> CollectorRegistry:
        return series

    async def pools() -> bytes:
        return await pools_json(await router.snapshot())

    async def servers() -> list[dict[str, object]]:
        return [server_json(each) for each in (await router.snapshot()).servers]

    app = admin_app(
        HttpRequests(),
        readiness=readiness,
        metrics=metrics,
        pools=pools,
        servers=servers,
        gate=mounted_gate(auth or (lambda headers: _by_token(router, headers)), router.observer),
        routes=[
            *live_routes(LiveRouter(router), has_port=False),  # before `{verb}`, of which it has one
            *TenantRoutes(desk).routes(),
            *DeploymentRoutes(desk).routes(),
            *session_routes(router),
            *page_routes(feed, stream_seconds=_STREAM_SECONDS),
        ],
    )

    async def end(_: web.Application) -> None:
        remove()
        await feed.close()
        await shares.close()
        await desk.close(timeout=_STREAM_SECONDS)

    app.on_shutdown.append(end)
    return app


def _by_name(headers: Iterable[tuple[str, str]]) -> Mapping[str, str]:
    """Names in lower case. One that came twice has both values, as RFC 9110 joins them.

    With one of them alone a client could send its own next to what a proxy in front says of it.
    """
    joined: dict[str, str] = {}
    for name, value in headers:
        name = name.lower()
        between = "; " if name == "cookie" else ", "
        joined[name] = f"{joined[name]}{between}{value}" if name in joined else value
    return joined


async def _look(router: Router, shares: FleetShares) -> Look:
    counts, fleet = router.login_counts, router.fleet
    logins = {} if counts is None else {str(name): count for name, count in counts.results.items()}
    stats = await router.snapshot()
    if fleet is None:
        return Look(stats=stats, logins=logins)
    return Look(stats=stats, fleet=fleet, logins=logins, processes=shares.latest(), own=(fleet.process,))


def _by_token(router: Router, headers: Mapping[str, str]) -> AdminCaller:
    admin = router.settings.admin
    if not admin.each_token:
        raise AccessDenied("[admin] has no token, and the application names no other way to know who asks")
    return known_by(admin, bearer_of([headers.get("authorization", "")]))


def mounted_gate(auth: Auth, observer: Observer) -> Middleware:
    """As `admin_gate`, in an application that knows by `auth` who asks, and which names it may be asked by.

    Where a browser sends a cookie by itself, its `Origin` tells whose page asks: what changes something must have one,
    or an `Authorization`, which no browser sends by itself.
    """

    @web.middleware
    async def gate(request: web.Request, handler: Handler) -> web.StreamResponse:
        pattern = pattern_of(request)
        route = route_for(request.method, pattern, request.match_info)
        check_own_origin(request, ())
        if route is not None and route.role is None:
            request[CALLER] = ANYONE
            return await handler(request)
        given = auth(_by_name(request.headers.items()))
        caller: object = await given if inspect.isawaitable(given) else given  # an application may not be typed
        if caller is None:
            raise InvalidCredentials("the application does not know who asks, or they may not look here")
        if not isinstance(caller, AdminCaller) or not isinstance(caller.role, Role):
            raise TypeError("auth gives None, or an AdminCaller whose role is a member of tenantproxy.admin.Role")
        request[CALLER] = caller
        needed = (route.role or Role.READ) if route is not None else Role.ADMIN if pattern else Role.READ
        if request.method in ("GET", "HEAD") or not pattern:
            check_role(caller, needed)
            return await handler(request)
        if "Origin" not in request.headers and "Authorization" not in request.headers:
            raise ForeignOrigin("what changes something needs an Origin or an Authorization header")
        return await audited(request, handler, pattern, caller, needed, observer)

    return gate
