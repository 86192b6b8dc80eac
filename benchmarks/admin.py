"""What does it cost to be looked at? Scrapes, viewers of the operator page, and what a browser does with it.

A sidecar in a process of its own (`benchmarks.probed`), with 500 open pools, 100 named tenants and clients at work.
"""

from __future__ import annotations

import asyncio
import platform
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from typing import Final

import aiohttp

from benchmarks.admin_page import paint, scroll
from benchmarks.admin_world import NAMED, PACE, POOLS, AdminWorld, open_admin_world
from benchmarks.measure import Spread
from benchmarks.part import Options, Part
from benchmarks.pg_process import allow_many_files, cpu_seconds
from benchmarks.program import Done, in_turn, machine, parser_of, run
from benchmarks.table import at_most, figure, render, spread, trust

__all__ = ["main"]

SCRAPE_MS: Final = 50.0
HOLD_MS: Final = 5.0
SCRAPES: Final = 20  # in each round
VIEWER_PERCENT: Final = 1.0  # of a core
VIEWERS: Final = (0, 1, 10)
_FORMATS: Final = {"text": "text/plain", "OpenMetrics": "application/openmetrics-text;version=1.0.0"}
_QUIET_SECONDS: Final = 1.0  # without scrapes, for what the loop is held by itself
_BETWEEN: Final = 0.02
_WORK_MS: Final = 15.0  # of this process's own processor, for the control: about what a scrape takes
_WORK_CLOCK_MS: Final = 25.0


async def scrape(world: AdminWorld, options: Options) -> Part:
    """Over HTTP while tenants are at work: how long each takes, and how long it holds the event loop at once.

    Holds are those of the sidecar's own processor time, its garbage collector included; of the clock they count what
    others on the machine took as well, which the same clients without a scrape show.
    """
    took: dict[str, list[float]] = {name: [] for name in _FORMATS}
    cpu: dict[str, list[float]] = {name: [] for name in _FORMATS}
    holds: dict[str, list[dict[str, float]]] = {name: [] for name in ("no scrape", *_FORMATS)}
    sizes: dict[str, int] = {}
    worked: list[float] = []
    tenants = 0
    async with world.at_work():
        for _ in range(options.rounds):
            quiet: dict[str, float] = {}
            async with world.sidecar.held(quiet):
                await asyncio.sleep(_QUIET_SECONDS)
            holds["no scrape"].append(quiet)
            worked += [_work() for _ in range(5)]
            for name, accept in _FORMATS.items():
                await _scrapes(world, accept, took[name], cpu[name])
                seen: dict[str, float] = {}
                async with world.sidecar.held(seen):
                    body = await _scrapes(world, accept, [], [])
                holds[name].append(seen)
                sizes[name] = len(body)
                tenants = len(
                    {line for line in body.split(b"\n") if line.startswith(b"tenantproxy_pool_acquires_total")}
                )
    own = {name: Spread.of(each["own_ms"] for each in found) for name, found in holds.items()}
    wall = {name: Spread.of(each["wall_ms"] for each in found) for name, found in holds.items()}
    rows = []
    for name, found in holds.items():
        size, times = "", ("", "", "")
        if name in took:
            size = figure(sizes[name] / 1e3)
            times = (spread(Spread.of(took[name])), figure(max(took[name])), spread(Spread.of(cpu[name])))
        rows.append(
            (name, size, *times, spread(own[name]), figure(max(each["own_ms"] for each in found)), spread(wall[name]))
        )
    head = (
        "", "kB", "ms by the clock", "longest", "CPU ms of the process", "longest hold, own ms", "of all rounds",
        "by the clock ms",
    )  # fmt: skip
    collections = [each for name in _FORMATS for each in holds[name]]
    text = (
        f"{await world.pools()} pools, {tenants} samples of acquires by tenant and result; {SCRAPES} scrapes a round."
        f" Garbage collections: {sum(each['collections'] for each in collections):.0f}, the longest"
        f" {figure(max(each['collection_ms'] for each in collections))} ms; a full one would take"
        f" {figure(max(each['full_collection_ms'] for each in collections))} ms."
    )
    return Part(
        title=f"A scrape with {POOLS} open pools and {NAMED} named tenants",
        text=f"{text}\n\n{render(head, rows)}",
        data={"took_ms": took, "cpu_ms": cpu, "holds": holds, "bytes": sizes, "worked_ms": worked},
        verdicts=trust(
            [
                *(at_most(f"a scrape, {name}", SCRAPE_MS, Spread.of(took[name]), "ms") for name in _FORMATS),
                *(
                    at_most(f"longest hold of the loop in a scrape, {name}", HOLD_MS,
                            max(each["own_ms"] for each in holds[name]), "ms")
                    for name in _FORMATS
                ),
                replace(
                    at_most(f"{_WORK_MS:g} ms of work, by the clock", _WORK_CLOCK_MS, Spread.of(worked), "ms"),
                    control=True,
                ),
                replace(
                    at_most("longest hold of the loop without a scrape", HOLD_MS, own["no scrape"], "ms"), control=True
                ),
            ]
        ),
    )  # fmt: skip


def _work() -> float:
    """How long, by the clock, a little work takes on this machine: others may have its processors meanwhile."""
    started, until = time.perf_counter(), time.thread_time() + _WORK_MS / 1e3
    while time.thread_time() < until:
        pass
    return (time.perf_counter() - started) * 1e3


async def _scrapes(world: AdminWorld, accept: str, took: list[float], cpu: list[float]) -> bytes:
    """Some, one after the other; the text of the last one. The CPU is without what clients at work cost meanwhile."""
    sidecar, body = world.sidecar, b""
    idle = await _spending(world, SCRAPES * _BETWEEN)
    for _ in range(SCRAPES):
        await asyncio.sleep(_BETWEEN)
        spent, started = cpu_seconds(sidecar.pid), time.perf_counter()
        async with sidecar.http.get(f"{sidecar.admin}/metrics", headers={"Accept": accept}) as response:
            response.raise_for_status()
            body = await response.read()
        seconds = time.perf_counter() - started
        took.append(seconds * 1e3)
        cpu.append((cpu_seconds(sidecar.pid) - spent - idle * seconds) * 1e3)
    return body


async def _spending(world: AdminWorld, seconds: float) -> float:
    """CPU seconds a second of the sidecar, as it is."""
    before, started = cpu_seconds(world.sidecar.pid), time.perf_counter()
    await asyncio.sleep(seconds)
    return (cpu_seconds(world.sidecar.pid) - before) / (time.perf_counter() - started)


# --- viewers ---------------------------------------------------------------------------------------------------------
async def viewers(world: AdminWorld, options: Options) -> Part:
    """CPU of the sidecar while none, one and ten look at the page; in turns, at one pace of the clients at work."""
    spent: dict[int, list[float]] = {count: [] for count in VIEWERS}
    got: dict[int, list[float]] = {count: [] for count in VIEWERS}
    async with world.at_work():
        for number in range(options.rounds):
            for count in VIEWERS if number % 2 == 0 else reversed(VIEWERS):
                frames: list[int] = []
                async with _looking(world, count, frames):
                    await _all_see(frames, count)
                    before, asked = sum(frames), world.asked
                    spent[count].append(100 * await _spending(world, options.seconds))
                    got[count].append((sum(frames) - before) / options.seconds / 1e3)
                    if world.asked == asked:
                        raise RuntimeError("the clients at work have stopped")
    each = {
        count: Spread.of((seen - none) / count for none, seen in zip(spent[0], spent[count], strict=True))
        for count in VIEWERS
        if count
    }
    rows = [
        (str(count), spread(Spread.of(spent[count])), spread(each[count]) if count else "",
         figure(Spread.of(got[count]).median))
        for count in VIEWERS
    ]  # fmt: skip
    return Part(
        title=f"Viewers of the operator page with {POOLS} pools, {PACE:g} statements a second of {NAMED} tenants",
        text=render(("viewers", "CPU of the sidecar, % of a core", "for each viewer, %", "kB a second to all"), rows),
        data={"percent": spent, "kilobytes": got},
        verdicts=tuple(
            at_most(f"CPU for a viewer, of {count}", VIEWER_PERCENT, found, "% of a core")
            for count, found in each.items()
        ),
    )


async def _all_see(frames: list[int], count: int) -> None:
    """Everyone has had the first picture."""
    async with asyncio.timeout(30):
        while len(frames) < count:  # noqa: ASYNC110 - told by other tasks
            await asyncio.sleep(0.02)
    await asyncio.sleep(1.0)


@asynccontextmanager
async def _looking(world: AdminWorld, count: int, frames: list[int]) -> AsyncIterator[None]:
    """So many read the stream for the block; `frames` has the bytes of each read."""

    async def look() -> None:
        async with http.get(f"{world.sidecar.admin}/v1/events") as response:
            response.raise_for_status()
            async for data in response.content.iter_any():
                frames.append(len(data))  # noqa: PERF401 - each as it comes

    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)) as http:
        tasks = [asyncio.create_task(look()) for _ in range(count)]
        try:
            yield
        finally:
            ended = [task for task in tasks if task.done()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if ended:
                raise RuntimeError(f"{len(ended)} viewers were let go")


PARTS: Final[dict[str, Callable[[AdminWorld, Options], Awaitable[Part]]]] = {
    "scrape": scrape,
    "viewers": viewers,
    "paint": paint,
    "scroll": scroll,
}


def main(arguments: Sequence[str]) -> int:
    """See `program.run`."""
    parser = parser_of("admin", __doc__, PARTS, rounds=7)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each turn of viewers (default 5)")
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of clients, for a quick look")
    asked = parser.parse_args(arguments)
    options = Options(rounds=asked.rounds, seconds=asked.seconds, scale=asked.scale)
    allow_many_files()
    return run(asked, PARTS, partial(_run, options, asked.postgres), {"rounds": asked.rounds, "seconds": asked.seconds})


async def _run(options: Options, postgres: int, names: Sequence[str]) -> Done:
    async with open_admin_world(pools=POOLS, named=NAMED, version=postgres) as world:
        environment = {
            "PostgreSQL": world.registry.server.version,
            "Python": platform.python_version(),
            **{name: version(name) for name in ("aiohttp", "uvloop", "prometheus-client")},
            **machine(),
        }
        return environment, await in_turn(names, PARTS, world, options, environment)
