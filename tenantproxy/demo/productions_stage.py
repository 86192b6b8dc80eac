"""Where does the tour of Productions begin? A server with a standby, PgBouncer in front, the service on uvicorn."""

from __future__ import annotations

import asyncio
import socket
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp
import asyncpg

from tenantproxy.demo.system_stage import SystemStage
from tenantproxy.demo.system_world import SystemWorld, unpack
from tenantproxy.embedded import EmbeddedPostgres
from tenantproxy.embedded.pgbouncer import pgbouncer
from tenantproxy.embedded.standby import EmbeddedStandby
from tenantproxy.errors import TenantProxyError
from tenantproxy.lifecycle import install_auth, install_registry
from tenantproxy.lifecycle.provisioner import close_database, close_maintenance, ensure_database, ensure_role

__all__ = ["SERVER", "bearer", "build_productions", "productions_stage", "refresh", "running_pooler", "servers"]

NAME: Final = "productions"
SERVER: Final = "primary"
SHARED: Final = "productions"


@asynccontextmanager
async def productions_stage(*, port: int = 0, size: int) -> AsyncIterator[SystemStage]:
    """All of it, on `port` of loopback (0: any), in a folder that is gone afterwards. `kept` has both routers.

    Raises TenantProxyError where PgBouncer, or FastAPI and uvicorn, are not installed.
    """
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="tenantproxy-demo-"))
        server, standby = await stack.enter_async_context(servers())
        world = await build_productions(server, standby, Path(folder))
        address = await stack.enter_async_context(running_pooler(world))
        watch = await world.connect(SHARED)
        stack.push_async_callback(watch.close)
        module = _service(world)
        work, reports = module.routers(world.config, world.overrides, pooler=address)
        app = module.make_app(work, reports, world.secret("platform_key"))
        url = await stack.enter_async_context(_serving(app, port))
        http = await stack.enter_async_context(aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=120)))
        yield SystemStage(
            world=world, router=work, url=url, http=http, watch=watch, size=size,
            kept={"reports": reports, "standby": standby, "pooler": address},
        )  # fmt: skip


@asynccontextmanager
async def servers() -> AsyncIterator[tuple[EmbeddedPostgres, EmbeddedStandby]]:
    """A server, and a standby that follows it."""
    async with EmbeddedPostgres(durable=False, max_connections=200) as server:
        standby = EmbeddedStandby(server)
        await asyncio.to_thread(standby.start)
        try:
            yield server, standby
        finally:
            await asyncio.to_thread(standby.close)


async def build_productions(server: EmbeddedPostgres, standby: EmbeddedPostgres, folder: Path) -> SystemWorld:
    """The platform's files in `folder`, with secrets; its role and its two databases, the main one with its tables."""
    unpack(NAME, folder, server)
    overrides: dict[str, Any] = {"servers.standby.host": standby.host, "servers.standby.port": standby.port}
    for each in (SERVER, "registry"):
        overrides |= {f"servers.{each}.host": server.host, f"servers.{each}.port": server.port}
    overrides |= {f"servers.{each}.admin.user": server.superuser for each in (SERVER, "registry", "standby")}
    world = SystemWorld(server=server, config=folder / "tenantproxy.toml", overrides=overrides)
    main, user = world.settings.main.database, world.settings.servers[SERVER].user
    conn = await world.connect()
    try:
        await ensure_role(conn, user, password=world.secret("app_password"))
        for database in (main, SHARED):
            await ensure_database(conn, database)
            await close_database(conn, database, roles=[user])
        await close_maintenance(conn)
    finally:
        await conn.close()
    conn = await world.connect(main)
    try:
        for file in sorted((folder / "main").glob("*.sql")):
            await conn.execute(file.read_text())
        name = await conn.fetchval("SELECT pg_catalog.quote_ident($1)", user)
        await conn.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {name}")
        await install_registry(conn, app_role=user)
        await install_auth(conn, app_role=user)
    finally:
        await conn.close()
    return world


@asynccontextmanager
async def running_pooler(world: SystemWorld) -> AsyncIterator[str]:
    """PgBouncer in front of the world's server, for its one role: its address."""
    user = world.settings.servers[SERVER].user
    options = {"default_pool_size": 16, "query_wait_timeout": 5}
    async with pgbouncer(world.server, {user: world.secret("app_password")}, **options) as address:
        yield address


def _service(world: SystemWorld) -> Any:
    try:
        return world.module("app")
    except ModuleNotFoundError as exc:
        raise TenantProxyError(
            f"the service of this platform needs {exc.name}, which is not installed", hint="pip install fastapi uvicorn"
        ) from exc


@asynccontextmanager
async def _serving(app: Any, port: int) -> AsyncIterator[str]:
    """uvicorn in this loop; signals stay as they are."""
    import uvicorn

    bound = socket.create_server(("127.0.0.1", port))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="on", ws="none"))
    running = asyncio.ensure_future(server._serve([bound]))
    try:
        while not server.started:
            if running.done():
                await running
                raise TenantProxyError("the service did not start")
            await asyncio.sleep(0.01)
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"
    finally:
        server.should_exit = True
        await running
        bound.close()


async def refresh(watch: asyncpg.Connection) -> None:
    """What a job of the operator's does now and then."""
    await watch.execute("REFRESH MATERIALIZED VIEW CONCURRENTLY reports.workspace_totals")


def bearer(token: str) -> dict[str, str]:
    """The header of a request with that token."""
    return {"Authorization": f"Bearer {token}"}
