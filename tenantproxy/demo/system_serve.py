"""How is a platform's service run in this process? One of aiohttp by aiohttp, any other one, of ASGI, by uvicorn."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, TypeAlias

from aiohttp import web

from tenantproxy.errors import ConfigurationError, Problem

__all__ = ["Service", "served"]

Service: TypeAlias = "web.Application | Callable[[Any, Any, Any], Awaitable[None]]"

_POLL: Final = 0.01


@asynccontextmanager
async def served(service: Service, port: int) -> AsyncIterator[str]:
    """Its URL, on `port` of loopback (0: any). It is stopped behind the block.

    Raises ConfigurationError where uvicorn is needed and missing.
    """
    if isinstance(service, web.Application):
        runner = web.AppRunner(service, access_log=None)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", port).start()
            host, bound = runner.addresses[0][:2]
            yield f"http://{host}:{bound}"
        finally:
            await runner.cleanup()
        return
    try:
        import uvicorn
    except ModuleNotFoundError:
        fix = "pip install fastapi uvicorn"
        raise ConfigurationError([Problem(key="demo", problem="this platform needs uvicorn", fix=fix)]) from None
    config = uvicorn.Config(
        service, host="127.0.0.1", port=port, log_config=None, access_log=False, lifespan="on",
        timeout_graceful_shutdown=5,
    )  # fmt: skip
    server = uvicorn.Server(config)
    running = asyncio.create_task(server.serve())
    try:
        while not server.started:
            if running.done():
                await running
                raise RuntimeError("uvicorn did not start")
            await asyncio.sleep(_POLL)
        bound = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{bound}"
    finally:
        server.should_exit = True
        await running
