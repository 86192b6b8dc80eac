"""How does a FastAPI application become multi-tenant? Three lines and a dependency."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Depends, FastAPI, WebSocket
from fastapi.responses import StreamingResponse

from tenantproxy import Router, TenantScope
from tenantproxy.auth.tokens import Tokens
from tenantproxy.middleware.asgi import TenantMiddleware, tenant

router = Router.from_file(os.environ.get("TENANTPROXY_CONFIG", "tenantproxy.toml"))
app = FastAPI()
app.add_middleware(TenantMiddleware, router=router, tokens=Tokens(router.settings.auth, tenants=router.registry))

Db = Annotated[TenantScope, Depends(tenant)]


@app.get("/projects")
async def projects(db: Db) -> list[str]:
    """The tenant's projects; holds a connection for this one query."""
    return [row["name"] for row in await db.fetch("SELECT name FROM projects ORDER BY name")]


@app.get("/projects/stream")
async def stream(db: Db) -> StreamingResponse:
    """The same, row by row: the connection is held, and the tenant current, until the last one is sent."""

    async def lines() -> AsyncIterator[str]:
        async with db.transaction(readonly=True) as conn:
            async for row in conn.cursor("SELECT name FROM projects ORDER BY name"):
                yield f"{row['name']}\n"

    return StreamingResponse(lines(), media_type="text/plain")


@app.websocket("/projects/count")
async def count(socket: WebSocket, db: Db) -> None:
    """How many there are, at each request; no connection is held between."""
    await socket.accept()
    async for _ in socket.iter_text():
        await socket.send_json(await db.fetchval("SELECT count(*) FROM projects"))


@app.get("/health")
async def health() -> dict[str, bool]:
    """Needs no tenant: a request that names none has no tenant."""
    return {"open": router.is_open}
