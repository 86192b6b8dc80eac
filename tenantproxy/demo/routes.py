"""How does the demo's one route know its tenant? By a secret of the tenant's, made at start; there is no default."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterable

import asyncpg
from aiohttp import web

from tenantproxy.errors import InvalidCredentials
from tenantproxy.router import Router

__all__ = ["Tokens", "demo_routes"]

PROJECTS = "/demo/projects"


class Tokens:
    """A bearer secret for each tenant, in memory only; gone with the process."""

    def __init__(self, tenants: Iterable[str]) -> None:
        self._by_tenant = {tenant: f"demo_{secrets.token_urlsafe(24)}" for tenant in tenants}
        self._digests = {tenant: _digest(token) for tenant, token in self._by_tenant.items()}

    def of(self, tenant: str) -> str:
        """The tenant's secret."""
        return self._by_tenant[tenant]

    def tenant(self, authorization: str | None) -> str:
        """Whose secret this header holds. Raises InvalidCredentials: missing, malformed and unknown look the same."""
        scheme, _, token = (authorization or "").partition(" ")
        given = _digest(token)
        # Every tenant is compared, in constant time: how long it takes says nothing about how much was right.
        matching = [tenant for tenant, digest in self._digests.items() if hmac.compare_digest(digest, given)]
        if scheme.lower() != "bearer" or not matching:
            raise InvalidCredentials("a valid bearer token is needed")
        return matching[0]


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def demo_routes(router: Router, tokens: Tokens) -> list[web.AbstractRouteDef]:
    """`GET /demo/projects`: the projects of the tenant whose token it is."""

    async def projects(request: web.Request) -> web.Response:
        given = request.headers.getall("Authorization", [])
        tenant = tokens.tenant(given[0] if len(given) == 1 else None)
        rows = await router.tenant(tenant).fetch("SELECT id, name FROM projects ORDER BY name")
        return web.json_response({"tenant": tenant, "projects": [_project(row) for row in rows]})

    return [web.get(PROJECTS, projects)]


def _project(row: asyncpg.Record) -> dict[str, object]:
    return {"id": row["id"], "name": row["name"]}
