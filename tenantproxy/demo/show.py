"""How is the demo run and shown? Starts everything in a temporary folder, prints what to try or the tour, cleans up."""

from __future__ import annotations

import socket
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aiohttp
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tenantproxy.config import load
from tenantproxy.demo.life_commands import life_commands
from tenantproxy.demo.life_tour import LIFE_STEPS
from tenantproxy.demo.life_world import build_life_world
from tenantproxy.demo.people import tokens_of
from tenantproxy.demo.routes import demo_routes
from tenantproxy.demo.stage import Seen, Stage
from tenantproxy.demo.tour import STEPS, Step, take_tour
from tenantproxy.demo.tryouts import tryouts
from tenantproxy.demo.world import World, build_world
from tenantproxy.embedded import EmbeddedPostgres
from tenantproxy.metrics.logging import LogObserver
from tenantproxy.router import Router
from tenantproxy.sidecar.app import Sidecar
from tenantproxy.sidecar.process import serve_until_signalled

__all__ = ["Tour", "run_demo", "show_lines"]

_DRAIN_SECONDS = 5.0


Invite = Callable[[Console, World, Sidecar], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tour:
    """A world, what is tried in it one after the other, and how a user is invited to try it."""

    title: str
    build: Callable[..., Awaitable[World]]
    steps: Sequence[Step]
    invite: Invite


async def run_demo(console: Console, *, once: bool, tour: str = "isolation") -> int:
    """Run the demo until Ctrl-C, or (`once`) its tour; the exit code: 0, or 1 when the tour saw something else.

    `tour`: isolation or lifecycle.
    """
    started, chosen = time.monotonic(), _TOURS[tour]
    listen, admin_listen, pg_listen = ("127.0.0.1:0",) * 3 if once else map(_address, (8080, 8081, 6432))
    async with _world(chosen, listen, admin_listen, pg_listen) as world:
        router = Router(load(world.config), observer=LogObserver())
        routes = demo_routes(router, lambda: sidecar.auth.tokens)
        sidecar = Sidecar(router, routes=routes, drain_timeout=_DRAIN_SECONDS)
        if once:
            async with sidecar:
                good = await _tour(console, chosen, world, sidecar)
        else:
            await serve_until_signalled(sidecar, lambda: chosen.invite(console, world, sidecar))
            good = True
    if once:
        console.print(f"{'all as expected' if good else 'NOT as expected'}, {time.monotonic() - started:.1f} s")
    return 0 if good else 1


@asynccontextmanager
async def _world(tour: Tour, listen: str, admin_listen: str, pg_listen: str) -> AsyncIterator[World]:
    with tempfile.TemporaryDirectory(prefix="tenantproxy-demo-") as folder:
        async with EmbeddedPostgres(durable=False) as server:
            yield await tour.build(server, Path(folder), listen=listen, admin_listen=admin_listen, pg_listen=pg_listen)


def _address(wanted: int) -> str:
    """`wanted` on loopback, or a free port when it is in use."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return f"127.0.0.1:{probe.getsockname()[1]}"
    raise OSError("no free port on 127.0.0.1")


async def _tour(console: Console, tour: Tour, world: World, sidecar: Sidecar) -> bool:
    lines: list[Seen] = []
    watch = await world.connect()
    try:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as http:
            tokens = await _tokens(world, sidecar, http)
            stage = Stage(
                world=world, router=sidecar.router, tokens=tokens, http=http, watch=watch,
                public_url=str(sidecar.public_url), admin_url=str(sidecar.admin_url),
                pg_address=str(sidecar.pg_address),
            )  # fmt: skip
            good = await take_tour(stage, lines.append, steps=tour.steps)
    finally:
        await watch.close()
    show_lines(console, tour.title, lines)
    return good


def show_lines(console: Console, title: str, lines: list[Seen]) -> None:
    """What a tour saw, as a table, and behind it what was not as expected."""
    console.print(_table(title, lines))
    for line in lines:
        if not line.ok:
            console.print(f"[red]failed[/]: {escape(line.what)}: {escape(line.expected)}; saw {escape(line.saw)}")


def _table(title: str, lines: list[Seen]) -> Table:
    table = Table("", title=f"tenantproxy: {title}", title_justify="left")
    for name in ("what", "expected", "saw"):
        table.add_column(name, overflow="fold")
    for line in lines:
        mark = "[green]ok[/]" if line.ok else "[red]NO[/]"
        table.add_row(mark, escape(line.what), escape(line.expected), escape(line.saw))
    return table


async def _tokens(world: World, sidecar: Sidecar, http: aiohttp.ClientSession) -> dict[str, str]:
    return await tokens_of(
        http, str(sidecar.public_url), [tenant.id for tenant in world.tenants], world.people_password
    )


async def _invite(console: Console, world: World, sidecar: Sidecar) -> None:
    """What to try, ready to be copied: one line each, no colour inside a command."""
    async with aiohttp.ClientSession() as http:
        tokens = await _tokens(world, sidecar, http)
    public, admin, pg = _say_where(console, sidecar)
    for tryout in tryouts(world, tokens, public_url=public, admin_url=admin, pg_address=pg):
        console.print(f"[dim]# {escape(tryout.about)}[/]", highlight=False)
        console.print(tryout.line(), soft_wrap=True, markup=False, highlight=False)


async def _invite_to_life(console: Console, world: World, sidecar: Sidecar) -> None:
    """The commands of a tenant's life, in their order."""
    public, _, pg = _say_where(console, sidecar)
    for command in life_commands(world, public_url=public, pg_address=pg).values():
        console.print(f"[dim]# {escape(command.about)}[/]", highlight=False)
        console.print(command.line(), soft_wrap=True, markup=False, highlight=False)


def _say_where(console: Console, sidecar: Sidecar) -> tuple[str, str, str]:
    public, admin, pg = str(sidecar.public_url), str(sidecar.admin_url), str(sidecar.pg_address)
    console.print(
        f"tenantproxy serves at {public}, PostgreSQL's protocol at {pg}, admin at {admin}; Ctrl-C ends it all.\n"
        f"The operator page: {admin}/\n",
        highlight=False,
        soft_wrap=True,
    )
    return public, admin, pg


_TOURS: Final = {
    "isolation": Tour(title="the tour", build=build_world, steps=STEPS, invite=_invite),
    "lifecycle": Tour(title="a tenant's life", build=build_life_world, steps=LIFE_STEPS, invite=_invite_to_life),
}
