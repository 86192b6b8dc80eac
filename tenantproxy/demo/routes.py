"""What does the demo's application do? One route behind an access token, as a service in front of the library would."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import asyncpg
from aiohttp import web

from tenantproxy.auth.base import TokenVerifier
from tenantproxy.auth.caller import header_texts
from tenantproxy.errors import AuthError
from tenantproxy.middleware.gate import Gate
from tenantproxy.router import Router

__all__ = ["PROJECTS", "demo_routes"]

PROJECTS: Final = "/demo/projects"


def demo_routes(router: Router, tokens: Callable[[], TokenVerifier]) -> list[web.AbstractRouteDef]:
    """`GET /demo/projects`: the projects of the tenant that the access token was issued for.

    `tokens` is called at each request: the sidecar makes it when it opens.
    """

    async def projects(request: web.Request) -> web.Response:
        scope = await Gate(router, tokens=tokens()).admit(
            method=request.method,
            path=request.path,
            headers=header_texts(request.raw_headers),
            peer=request.remote,
        )
        if scope is None:
            raise AuthError("an access token is needed", hint="log in: POST /auth/login")
        rows = await scope.fetch("SELECT id, name FROM projects ORDER BY name")
        return web.json_response({"tenant": scope.id, "projects": [_project(row) for row in rows]})

    return [web.get(PROJECTS, projects)]


def _project(row: asyncpg.Record) -> dict[str, object]:
    return {"id": row["id"], "name": row["name"]}
