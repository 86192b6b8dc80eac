"""What would one write by hand? `python -m benchmarks.sql_peers constant|asyncpg PORT`; what it needs is in variables.

`constant` answers the same JSON to everything, `asyncpg` runs the request's SQL on a pool. Both on aiohttp and uvloop.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
from aiohttp import web

__all__ = ["ANSWER", "CALLER", "DSN"]

ANSWER, DSN, CALLER = "SQL_PEER_ANSWER", "SQL_PEER_DSN", "SQL_PEER_CALLER"


def _constant() -> web.Application:
    body = os.environ[ANSWER].encode()

    async def answer(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(body=body, content_type="application/json")

    return _with(answer)


def _asyncpg() -> web.Application:
    pools: list[asyncpg.Pool] = []
    good = {hashlib.blake2b(os.environ[CALLER].encode()).digest()}  # verified before, and remembered

    async def answer(request: web.Request) -> web.Response:
        caller = request.headers.get("Neon-Connection-String", "")
        if hashlib.blake2b(caller.encode()).digest() not in good:
            return web.json_response({"code": "28P01", "message": "password authentication failed"}, status=400)
        asked: dict[str, Any] = await request.json(loads=json.loads)
        try:
            rows = await pools[0].fetch(asked["query"], *asked["params"])
        except asyncpg.PostgresError as exc:
            return web.json_response({"code": exc.sqlstate, "message": str(exc)}, status=400)
        names = list(rows[0].keys()) if rows else []
        return web.json_response(
            {
                "rowAsArray": True,
                "fields": [{"name": name, "dataTypeID": 25, "format": "text"} for name in names],
                "rows": [[None if value is None else str(value) for value in row.values()] for row in rows],
                "command": "SELECT",
                "rowCount": len(rows),
            }
        )

    async def pool(_: web.Application) -> AsyncIterator[None]:
        async with asyncpg.create_pool(os.environ[DSN], min_size=10, max_size=10) as made:
            pools.append(made)
            yield

    app = _with(answer)
    app.cleanup_ctx.append(pool)
    return app


def _with(answer: Any) -> web.Application:
    app = web.Application()
    app.router.add_post("/sql", answer)
    return app


if __name__ == "__main__":
    import uvloop

    _, kind, port = sys.argv
    loop = uvloop.new_event_loop()
    app = {"constant": _constant, "asyncpg": _asyncpg}[kind]()
    web.run_app(app, host="127.0.0.1", port=int(port), access_log=None, print=None, loop=loop)
