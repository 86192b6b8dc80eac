"""Do many processes share a server as one would use it, and never too much of it?

Parts: `arrival` (a process begins next to an idle one), `workers` (four processes, and one with the whole budget),
`demand` (50 processes, 20 servers and 100,000 tenants on a virtual clock), `killed` (10 of them die), `machine` (a
million random steps with crashes, forks, SIGSTOP, lost messages, failovers, partitions and clock steps).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from benchmarks.fleet_demand import Demand, simulate
from benchmarks.table import Verdict, loud, render, verdicts
from tenantproxy.config import fleet_key
from tenantproxy.embedded import EmbeddedPostgres
from tenantproxy.lifecycle.fleet import install_fleet
from tests.support.database import fresh_database
from tests.support.fleet_mutations import MUTATIONS
from tests.support.fleet_world import FleetWorld, play, random_steps
from tests.support.world import APP_ROLE, World, a_world

__all__ = ["main"]

CAP: Final = 60  # max_connections of the server, of which three are a superuser's
TENANTS: Final = 48
QUERY: Final = 0.1  # seconds: connections are what is scarce, not processors
_COUNT: Final = (
    "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
)
Result = tuple[dict[str, Any], list[Verdict]]


def main(arguments: Sequence[str]) -> int:
    """Run the parts that are asked for; 0 also when a target is missed, which is printed loudly."""
    asked = _parser().parse_args(arguments)
    unknown = set(asked.only) - set(PARTS)
    if unknown:
        print(f"no part {', '.join(unknown)}; there are {', '.join(PARTS)}", file=sys.stderr)
        return 2
    results: dict[str, dict[str, Any]] = {}
    found: list[Verdict] = []
    for name in asked.only:
        data, judged = asyncio.run(PARTS[name](asked))
        results[name] = data
        found += judged
        shown = [(key, json.dumps(value)) for key, value in data.items()]
        print(f"\n## {name}\n\n{render(('figure', 'value'), shown)}", flush=True)
    print(f"\n{verdicts(found)}\n\n{loud(found)}")
    if asked.json is not None:
        stored = {"parts": results, "verdicts": [asdict(one) | {"verdict": one.word} for one in found]}
        asked.json.write_text(json.dumps(stored, indent=1) + "\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/bench fleet", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each load (default 10)")
    parser.add_argument("--steps", type=int, default=1_000_000, help="of the machine")
    parser.add_argument("--seed", type=int, default=1, help="of the machine")
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(PARTS), metavar="PART,...")
    return parser


# --- real processes --------------------------------------------------------------------------------------------------
class _Child:
    """A process with a router, which runs what it is told."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def tell(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(asked).encode() + b"\n")
        line = await self._process.stdout.readline()
        assert line, "the process ended"
        told: dict[str, Any] = json.loads(line)
        return told

    async def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()


@asynccontextmanager
async def _process(settings: Mapping[str, Any]) -> AsyncIterator[_Child]:
    child = _Child(
        await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "benchmarks.fleet_process",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
    )
    await child.tell({"settings": settings})
    try:
        yield child
    finally:
        await child.close()


@asynccontextmanager
async def _world() -> AsyncIterator[tuple[World, dict[str, Any]]]:
    async with (
        EmbeddedPostgres(version=18, durable=False, max_connections=CAP) as server,
        a_world(server, rows=1, schemas=TENANTS, databases=0) as world,
    ):
        settings = world.settings(registry="postgres", servers={"primary": {"max_connections": CAP}})
        key = fleet_key(settings.fleet, settings.row, settings.tenant_roles)
        assert key is not None
        async with world.main.connect() as admin:
            await install_fleet(admin, app_role=APP_ROLE, key=key)
        yield world, _mapping(world)


def _mapping(world: World) -> dict[str, Any]:
    """The configuration as a process reads it, with the secrets of this world in it."""
    return world.mapping(
        registry="postgres",
        servers={"primary": {"max_connections": CAP}},
        pools={"max_size": 12, "acquire_timeout": 30.0, "max_pools": 200},
    )


def _load(world: World, asked: argparse.Namespace, *, tasks: int, skew: float = 1.0, shift: int = 0) -> dict[str, Any]:
    names = [tenant.id for tenant in world.tenants[1:]]
    names = names[shift:] + names[:shift]
    return {"tenants": names, "tasks": tasks, "seconds": asked.seconds, "skew": skew, "query_seconds": QUERY}


async def _watch(world: World, work: Awaitable[Any]) -> tuple[Any, int, float]:
    """The result of `work`, the most connections that `pg_stat_activity` showed meanwhile, and how often a second."""
    task = asyncio.ensure_future(work)
    most = samples = 0
    began = time.monotonic()
    async with world.main.connect() as admin:
        while not task.done():
            most, samples = max(most, await admin.fetchval(_COUNT)), samples + 1
            await asyncio.sleep(0.03)
    return await task, most, samples / (time.monotonic() - began)


async def _arrival(asked: argparse.Namespace) -> Result:
    """A touched all tenants once, and holds their connections; B begins."""
    async with _world() as (world, settings):
        load = _load(world, asked, tasks=24)
        async with _process(settings) as alone:
            before = await alone.tell(load)
        async with _process(settings) as idle:
            await idle.tell(load | {"touch": True, "query_seconds": 0.0})
            began = time.monotonic()
            async with _process(settings) as late:
                opened = time.monotonic() - began
                after, most, rate = await _watch(world, late.tell(load))
    part = (after["answers"] / after["seconds"]) / (before["answers"] / before["seconds"])
    errors = sum(after["errors"].values())
    data = {"alone": before, "next to an idle one": after, "ratio": part, "most connections": most, "samples/s": rate}
    data["started and opened in"] = opened
    return data, [
        _verdict(
            "first answer of a process next to an idle one", "<= 1 s", f"{after['first']:.2f} s", after["first"] <= 1
        ),
        _verdict("it is refused nothing", "0", str(errors), errors == 0),
        _verdict("what it serves, to what it serves alone", ">= 0.9x", f"{part:.2f}x", part >= 0.9),
    ]


async def _workers(asked: argparse.Namespace) -> Result:
    """Four processes whose load is skewed, and one with all callers and the whole budget."""
    tasks = (48, 24, 16, 8)
    async with _world() as (world, settings):
        whole = settings | {"fleet": {"enabled": False}}
        async with _process(whole) as one:
            single, single_most, _ = await _watch(world, one.tell(_load(world, asked, tasks=sum(tasks))))
        async with AsyncExitStack() as stack:
            four = [await stack.enter_async_context(_process(settings)) for _ in tasks]
            loads = [_load(world, asked, tasks=n, shift=7 * k) for k, n in enumerate(tasks)]
            work = asyncio.gather(*(child.tell(load) for child, load in zip(four, loads, strict=True)))
            shared, most, rate = await _watch(world, work)
    together = sum(each["answers"] / each["seconds"] for each in shared)
    part = together / (single["answers"] / single["seconds"])
    full = sum(count for each in shared for error, count in each["errors"].items() if "53300" in error)
    errors = sum(count for each in shared for count in each["errors"].values())
    data = {
        "one": single,
        "four": shared,
        "ratio": part,
        "most connections": most,
        "of the one": single_most,
        "samples/s": rate,
        "calls/s": sum(each["calls"] for each in shared) / asked.seconds,
    }
    return data, [
        _verdict("four processes, to one with the whole budget", ">= 0.9x", f"{part:.2f}x", part >= 0.9),
        _verdict("SQLSTATE 53300", "0", f"{full} ({errors} errors)", full == 0),
        _verdict("most connections by pg_stat_activity", f"<= {CAP - 3}", str(most), most <= CAP - 3),
        _verdict("looked at", ">= 10 times/s", f"{rate:.0f}", rate >= 10),
    ]


# --- simulated -------------------------------------------------------------------------------------------------------
async def _simulated(demand: Demand) -> dict[str, Any]:
    def run() -> dict[str, Any]:
        with EmbeddedPostgres(version=18, durable=False, max_connections=30) as server:

            async def made() -> dict[str, Any]:
                async with fresh_database(server) as database:
                    found = await asyncio.to_thread(simulate, server, database.name, demand)
                    return {
                        "satisfied": statistics.mean(found.satisfied),
                        "satisfied, least": min(found.satisfied),
                        "static split": statistics.mean(found.static),
                        "above the cap": found.over,
                        "samples": found.samples,
                        "calls/s": found.calls / demand.seconds,
                        "call, median ms": statistics.median(found.call_seconds) * 1000,
                        "recovered in": found.recovered,
                    }

            return asyncio.run(made())

    return await asyncio.to_thread(run)


async def _demand(_asked: argparse.Namespace) -> Result:
    data = await _simulated(Demand())
    return data, [
        _verdict(
            "demand satisfied, moved every 10 s", ">= 0.95", f"{data['satisfied']:.3f}", data["satisfied"] >= 0.95
        ),
        _verdict(
            "samples above a cap", "0", f"{data['above the cap']} of {data['samples']}", not data["above the cap"]
        ),
        _verdict("calls to main", "<= 100/s", f"{data['calls/s']:.0f}/s", data["calls/s"] <= 100),
    ]


async def _killed(_asked: argparse.Namespace) -> Result:
    data = await _simulated(Demand(kill_at=20, seconds=50, shift_seconds=1000))
    after = data["recovered in"]
    told = "never" if after is None else f"{after:.1f} s"
    return data, [
        _verdict(
            "the living have what they want after 10 of 50 died", "<= 20 s", told, after is not None and after <= 20
        ),
        _verdict("samples above a cap", "0", str(data["above the cap"]), not data["above the cap"]),
    ]


async def _machine(asked: argparse.Namespace) -> Result:
    rng, done, found, began = random.Random(asked.seed), 0, 0, time.monotonic()
    told = began
    while done < asked.steps:
        size, cap = rng.choice((2, 3, 4, 6)), rng.choice((10, 20, 40))
        steps = random_steps(rng, 1500)
        broken = play(FleetWorld(size=size, cap=cap), steps)
        done += len(steps) if broken is None else broken[0]
        if broken is not None:
            found += 1
            print(f"  !!! {broken[1]} (size {size}, cap {cap})", flush=True)
        if time.monotonic() - told > 30:
            told = time.monotonic()
            print(f"  {done:,} of {asked.steps:,} steps, {told - began:.0f} s", flush=True)
    data = {
        "steps": done,
        "overshoots": found,
        "seconds": time.monotonic() - began,
        "rules with a trace": len(MUTATIONS),
    }
    return data, [_verdict("connections above the cap", f"0 in {asked.steps:,} steps", str(found), found == 0)]


def _verdict(target: str, wanted: str, measured: str, met: bool) -> Verdict:
    return Verdict(target=target, wanted=wanted, measured=measured, met=met)


PARTS: Final[dict[str, Callable[[argparse.Namespace], Coroutine[Any, Any, Result]]]] = {
    "arrival": _arrival,
    "workers": _workers,
    "demand": _demand,
    "killed": _killed,
    "machine": _machine,
}
