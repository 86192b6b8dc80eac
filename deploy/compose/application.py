"""An application that knows nothing of tenantproxy but the address of its port: each API key is a tenant's.

curl -H "Authorization: Bearer $(cat secrets/key_acme)" http://127.0.0.1:8000/projects
"""

from __future__ import annotations

import hmac
import os
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
from aiohttp import web

SECRETS = Path(os.environ.get("SECRETS", "/run/secrets"))
PORT = int(os.environ.get("PORT", "8000"))
TENANTS = ("acme", "globex")
pools: web.AppKey[dict[str, asyncpg.Pool]] = web.AppKey("pools")


def secret(name: str) -> str:
    """Read at each use: a new one needs no restart."""
    return (SECRETS / name).read_text().strip()


def tenant_of(request: web.Request) -> str:
    """Whose the API key is. Raises HTTPUnauthorized."""
    key = request.headers.get("Authorization", "").removeprefix("Bearer ").encode("utf-8", "surrogateescape")
    found = [tenant for tenant in TENANTS if hmac.compare_digest(key, secret(f"key_{tenant}").encode())]
    if len(found) != 1:
        raise web.HTTPUnauthorized
    return found[0]


async def projects(request: web.Request) -> web.Response:
    """The tenant's projects; the query does not name the tenant."""
    rows = await request.app[pools][tenant_of(request)].fetch("SELECT name FROM projects ORDER BY id")
    return web.json_response([row["name"] for row in rows])


async def connected(app: web.Application) -> AsyncIterator[None]:
    """A small pool for each tenant, whose name is that of the database. tenantproxy has the large one."""
    port = int(os.environ.get("PGPORT", "6432"))
    app[pools] = {
        tenant: await asyncpg.create_pool(
            host="127.0.0.1", port=port, user="app", password=secret("app"), database=tenant, ssl=False, min_size=0
        )
        for tenant in TENANTS
    }
    yield
    for pool in app[pools].values():
        await pool.close()


def main() -> None:
    """Serve until SIGTERM."""
    app = web.Application()
    app.router.add_get("/projects", projects)
    app.cleanup_ctx.append(connected)
    web.run_app(app, host=os.environ.get("HOST", "0.0.0.0"), port=PORT)  # only 127.0.0.1:8000 is published


if __name__ == "__main__":
    main()
