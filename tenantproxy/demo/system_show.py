"""How is a reference platform run and shown? Its service on a PostgreSQL of its own, and its day as a tour."""

from __future__ import annotations

import asyncio
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Protocol

import aiohttp
from rich.console import Console

from tenantproxy.demo import bitnexus, buildflow, nexus, prismicx, productions
from tenantproxy.demo.productions_stage import productions_stage
from tenantproxy.demo.show import show_lines
from tenantproxy.demo.stage import Seen
from tenantproxy.demo.system_serve import Service, served
from tenantproxy.demo.system_stage import SystemStage
from tenantproxy.demo.system_world import SystemWorld, build_system
from tenantproxy.demo.tour import SystemStep, walk
from tenantproxy.embedded import EmbeddedPostgres
from tenantproxy.metrics.logging import LogObserver
from tenantproxy.router import Router
from tenantproxy.sidecar.app import Sidecar

__all__ = ["SYSTEMS", "System", "run_system", "staged"]

_DRAIN_SECONDS: Final = 5.0


class Staging(Protocol):
    """Makes the stage of a platform that has more than a server and an aiohttp service."""

    def __call__(self, *, port: int = 0, size: int) -> AbstractAsyncContextManager[SystemStage]:
        """See `staged`."""
        ...


@asynccontextmanager
async def _nothing_else() -> AsyncIterator[Mapping[str, Any]]:
    yield {}


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """A platform: its service from its own files, its day, and what a user may try while it serves.

    `prepare`: what else its operator does before it is first served. `stage`: makes all, in the place of `service`.

    Without both it is the sidecar of its configuration, with `/sql` and the PostgreSQL port.
    """

    title: str
    size: int
    service: Callable[[SystemWorld, Router], Service] | None = None
    stage: Staging | None = None
    steps: Sequence[SystemStep[SystemStage]]
    invite: Callable[[SystemStage], Sequence[str]]
    prepare: Callable[[SystemWorld], Awaitable[None]] | None = None
    around: Callable[[], AbstractAsyncContextManager[Mapping[str, Any]]] = _nothing_else
    """What it needs besides a PostgreSQL, for as long as it serves; gives what its files cannot know of it."""


SYSTEMS: Final = {
    "buildflow": System(
        title="BuildFlow, a database for each agency", size=25, service=buildflow.service, steps=buildflow.STEPS,
        invite=buildflow.invite,
    ),
    "nexus": System(
        title="NEXUS, one database for all", size=1, service=nexus.service, steps=nexus.STEPS, invite=nexus.invite,
        prepare=nexus.prepare,
    ),
    "productions": System(
        title="Productions, organizations and workspaces in shared tables", size=6, stage=productions_stage,
        steps=productions.STEPS, invite=productions.invite,
    ),
    "bitnexus": System(
        title="BitNexus, shared tables for Elixir and JavaScript", size=4, steps=bitnexus.STEPS,
        invite=bitnexus.invite,
    ),
    "prismicx": System(
        title="PrismicX, tenants of MongoDB's registry with systems in schemas", size=20, service=prismicx.service,
        steps=prismicx.STEPS, invite=prismicx.invite, around=prismicx.around,
    ),
}  # fmt: skip


async def run_system(console: Console, name: str, *, once: bool) -> int:
    """Serve the platform until Ctrl-C, or (`once`) play its day; the exit code: 0, or 1 when it saw something else."""
    started, system = time.monotonic(), SYSTEMS[name]
    async with staged(name, port=0 if once else 8000) as stage:
        if not once:
            async with _until_interrupted():
                for line in (f"{name} serves at {stage.url}; Ctrl-C ends it all.", *system.invite(stage)):
                    console.print(line, soft_wrap=True, markup=False, highlight=False)
            return 0
        lines: list[Seen] = []
        good = await walk(stage, lines.append, system.steps)
        show_lines(console, system.title, lines)
    console.print(f"{'all as expected' if good else 'NOT as expected'}, {time.monotonic() - started:.1f} s")
    return 0 if good else 1


@asynccontextmanager
async def staged(name: str, *, port: int = 0, size: int | None = None) -> AsyncIterator[SystemStage]:
    """The platform's service in this process, on `port` of loopback (0: any), in a folder that is gone afterwards.

    `size`: how many tenants its day has; None: as many as the platform.
    """
    system = SYSTEMS[name]
    if system.stage is not None:
        async with system.stage(port=port, size=size or system.size) as stage:
            yield stage
        return
    with tempfile.TemporaryDirectory(prefix="tenantproxy-demo-") as folder:
        async with (
            SYSTEMS[name].around() as also,
            EmbeddedPostgres(durable=False, max_connections=200) as server,
        ):
            world = await build_system(server, Path(folder), name, also=also)
            if (prepare := SYSTEMS[name].prepare) is not None:
                await prepare(world)
            if system.service is None:
                places = {"http.listen": f"127.0.0.1:{port}", "pg.listen": "127.0.0.1:0"}
                world = replace(world, overrides={**world.overrides, **places})
            router = Router(world.settings, observer=LogObserver())
            async with _served(name, world, router, port) as (url, pg):
                watch = await world.connect()
                try:
                    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=120)) as http:
                        yield SystemStage(
                            world=world, router=router, url=url, pg=pg, http=http, watch=watch,
                            size=size or system.size,
                        )  # fmt: skip
                finally:
                    await watch.close()


@asynccontextmanager
async def _served(name: str, world: SystemWorld, router: Router, port: int) -> AsyncIterator[tuple[str, str]]:
    """Its URL, and where its PostgreSQL port listens."""
    if (service := SYSTEMS[name].service) is not None:
        async with served(service(world, router), port) as url:
            yield url, ""
        return
    async with Sidecar(router, drain_timeout=_DRAIN_SECONDS) as sidecar:
        yield str(sidecar.public_url), str(sidecar.pg_address)


@asynccontextmanager
async def _until_interrupted() -> AsyncIterator[None]:
    """Ends with SIGINT or SIGTERM, also where that comes inside."""
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    for each in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(each, ended.set)
    try:
        yield
        await ended.wait()
    finally:
        for each in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(each)
