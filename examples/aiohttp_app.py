"""How does an aiohttp application become multi-tenant?"""

from __future__ import annotations

import os

from aiohttp import web

from tenantproxy import Router, current
from tenantproxy.auth.tokens import Tokens
from tenantproxy.middleware.aiohttp import setup


async def projects(request: web.Request) -> web.Response:
    """The tenant's projects. `request[TENANT]` is the same scope, where the request has a tenant."""
    rows = await current().fetch("SELECT name FROM projects ORDER BY name")
    return web.json_response([row["name"] for row in rows])


def make_app() -> web.Application:
    """The application, with the router that lives as long as it does."""
    router = Router.from_file(os.environ.get("TENANTPROXY_CONFIG", "tenantproxy.toml"))
    app = web.Application()
    app.add_routes([web.get("/projects", projects)])
    setup(app, router=router, tokens=Tokens(router.settings.auth, tenants=router.registry))
    return app


if __name__ == "__main__":
    web.run_app(make_app(), host="127.0.0.1", port=int(os.environ.get("PORT", "8000")))
