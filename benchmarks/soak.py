"""A day in 20 minutes: tenants come and go at all doors, while operators look and everything goes wrong at times.

What a day adds must be gone again: memory does not grow behind the warm-up, descriptors, tasks, series and backends
are bounded, and no row was ever seen by another tenant. Every row is marked by its tenant's name.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import aiohttp
import asyncpg

from benchmarks.program import machine
from benchmarks.soak_doors import DOORS, Session, console, remembered, stranger
from benchmarks.soak_watch import Look, Slope, Watch, grown, look, slope_of
from benchmarks.soak_world import BUDGET, Kind, Resident, SoakWorld, log_of, open_soak_world, reloaded
from benchmarks.table import Verdict, figure, loud, render, verdicts
from tenantproxy.demo.world import LOGIN_ROLE

__all__ = ["main"]

SECONDS: Final = 1200
TENANTS: Final = 10_000  # in so many seconds; fewer in a shorter run
FIRST: Final = 20  # that come before anything is looked at
DAY: Final = 86_400
KINDS: Final[dict[Kind, float]] = {"database": 0.015, "schema": 0.03, "made row": 0.03}  # the rest: `row`
STAY_SECONDS: Final = 15.0  # of a tenant, on the average
LONGEST_SECONDS: Final = 60.0
PAUSE_SECONDS: Final = 1.2  # between two uses by one tenant
MOST_PRESENT: Final = 400
MOST_MAKING: Final = (
    8  # at once with admin credentials; while there are as many, `row` tenants come: what a machine bears
)
VIEWERS: Final = 3
GROWS_KB: Final = 4.0  # a second, at the upper end of the interval: a leak of half a KB a tenant
TOOLS: Final = 6  # backends of tools that make and remove tenants, which come on top of the budget
MORE: Final = 1.2  # the second half of the run, to the first one behind the warm-up
_REST_SECONDS: Final = 90.0
_EXPECTED: Final = {
    "57014": "cancelled",
    "57P01": "its backend was ended, or an operator ended it",
    "57P03": "the tenant is paused",
    "tenant_paused": "the tenant is paused",
    "08006": "the connection to the server was lost",
    "08001": "no connection to the server",
    "connect_failed": "no connection to the server",
    "53300": "no connection in time",
    "28000": "the tenant is suspended",
    "tenant_suspended": "the tenant is suspended",
    "tenant_ended": "the tenant is removed",
    "token_expired": "its token is of before it was suspended",
    "3D000": "there is no such tenant, or not any more",
    "28P01": "the same, for who may not know it",
    "login 401": "a stranger's login",
    "login 429": "too many of them",
    "login 503": "its lookup lost its backend",
    "port closed": "the connection ended without a word",
    "connection_failure": "the backend was ended under the library",
}


# --- tenants ---------------------------------------------------------------------------------------------------------
async def _life(world: SoakWorld, number: int) -> None:
    """One tenant from its beginning to its end. What fails is noted, and the others go on."""
    rng = random.Random(number)
    name, kind = f"t{number:06}", _kind(rng) if world.making < MOST_MAKING else "row"
    resident: Resident | None = None
    try:
        resident = await world.come(name, kind)
        session = Session(world, resident, rng)
        await session.fill()
        until = time.monotonic() + min(rng.expovariate(1 / STAY_SECONDS), LONGEST_SECONDS)
        while time.monotonic() < until:
            if rng.random() < 0.45:
                await session.use()
            else:
                await _used(world, resident, rng)
            await asyncio.sleep(rng.expovariate(1 / PAUSE_SECONDS))
        await session.leave(abruptly=rng.random() < 0.3)
    except Exception as exc:  # noqa: BLE001 - told at the end
        world.failed.append(f"{name} ({kind}): {type(exc).__name__}: {exc}"[:500])
    finally:
        if resident is not None:
            while resident.is_stopped:  # noqa: ASYNC110 - by another task
                await asyncio.sleep(0.05)
            with suppress(KeyError):
                await _gone(world, resident)


async def _gone(world: SoakWorld, resident: Resident) -> None:
    try:
        await world.go(resident)
    except Exception as exc:  # noqa: BLE001 - told at the end
        world.failed.append(f"{resident.id} did not go: {type(exc).__name__}: {exc}"[:500])


def _kind(rng: random.Random) -> Kind:
    drawn = rng.random()
    for kind, part in KINDS.items():
        if (drawn := drawn - part) < 0:
            return kind
    return "row"


async def _used(world: SoakWorld, resident: Resident, rng: random.Random) -> None:
    try:
        await rng.choice(DOORS)(world, resident, rng)
    except (aiohttp.ClientError, TimeoutError, OSError):
        world.errors["HTTP closed"] += 1


async def _lives(world: SoakWorld, seconds: float, tenants: int, *, first: int = 0) -> None:
    """All of them, at a steady pace; returns when the last one has gone."""
    room, began = asyncio.Semaphore(MOST_PRESENT), time.monotonic()

    async def one(number: int) -> None:
        try:
            await _life(world, number)
        finally:
            room.release()

    async with asyncio.TaskGroup() as group:
        for number in range(tenants):
            await asyncio.sleep(max(0.0, began + number * seconds / tenants - time.monotonic()))
            await room.acquire()
            group.create_task(one(first + number))


# --- operators, and what goes wrong ----------------------------------------------------------------------------------
async def _viewer(world: SoakWorld, number: int) -> None:
    """Looks at the page, and leaves: in order, or in the middle of a picture that it does not take."""
    rng = random.Random(f"viewer {number}")
    headers = {"Authorization": f"Bearer {world.admin_token}"}
    while True:
        with suppress(aiohttp.ClientError, TimeoutError, OSError):
            async with asyncio.timeout(rng.uniform(1, 20)):
                async with world.http.get(f"{world.sidecar.admin}/v1/events", headers=headers) as response:
                    if rng.random() < 0.1:
                        await asyncio.sleep(20)  # takes nothing
                    async for _ in response.content.iter_any():
                        world.done["frames seen"] += 1
        for path in ("/", "/page/page.js", "/v1/pools", "/v1/servers"):
            status, _ = await world.ask("GET", path)
            if status != 200:
                world.failed.append(f"{path}: {status}")


async def _trouble(world: SoakWorld) -> None:
    """One thing after the other, some a second."""
    rng, number = random.Random("trouble"), 0
    while True:
        await asyncio.sleep(rng.expovariate(4.0))
        number += 1
        kind, someone = rng.random(), rng.choice(list(world.present.values())) if world.present else None
        try:
            if kind < 0.45:
                await world.main.execute(
                    "SELECT pg_terminate_backend(pid) FROM (SELECT pid FROM pg_stat_activity WHERE backend_type ="
                    " 'client backend' AND usename <> session_user AND usename <> $1 ORDER BY random() LIMIT 1) one",
                    LOGIN_ROLE,
                )
                world.done["backend ended"] += 1
            elif kind < 0.6 and someone is not None and not someone.is_stopped:
                await world.stop(someone, rng)
            elif kind < 0.75 and someone is not None:
                status, _ = await world.ask("POST", f"/v1/tenants/{someone.id}/evict", {})
                world.done[f"evict: {status}"] += 1
            elif kind < 0.8 and someone is not None:
                await console(world, f'PAUSE "{someone.id}"', "SHOW POOLS", f'RESUME "{someone.id}"')
                world.done["paused and resumed"] += 1
            elif kind < 0.85:
                reloaded(world)
                status, said = await world.ask("POST", "/v1/reload", {})
                world.done["reload"] += 1
                if status != 200:
                    world.failed.append(f"reload: {status} {said[:200]!r}")
            else:
                await stranger(world, number)
        except (aiohttp.ClientError, asyncpg.PostgresError, OSError, TimeoutError) as exc:
            world.failed.append(f"trouble: {type(exc).__name__}: {exc}"[:300])


@asynccontextmanager
async def _meanwhile(*works: Awaitable[None]) -> AsyncIterator[None]:
    """They run for the block. What one of them raises is raised at its end."""
    tasks = [asyncio.ensure_future(each) for each in works]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
    for end in ends:
        if isinstance(end, Exception):
            raise end


# --- all of it -------------------------------------------------------------------------------------------------------
async def _played(world: SoakWorld, seconds: float, tenants: int) -> tuple[Watch, Look, Look, dict[str, int]]:
    """The looks; how it is at rest before and afterwards; and objects by type at the end of the load."""
    await _lives(world, 2.0, FIRST - 1, first=TENANTS * 10)  # what is made once is there
    known = await world.come(f"t{TENANTS * 11}", "row")
    await remembered(world, known)
    await world.go(known)
    before = await _at_rest(world, None)
    watch = Watch(world, seconds)
    viewers = [_viewer(world, number) for number in range(VIEWERS)]
    async with _meanwhile(watch.run(), _trouble(world), *viewers):
        lives = asyncio.ensure_future(_lives(world, seconds, tenants))
        await asyncio.wait([lives], timeout=seconds)
        types = await world.sidecar.ask("types")
        watch.is_over = True  # fewer and fewer tenants are there now: that is no load to be measured
        await lives
    return watch, before, await _at_rest(world, before), types


async def _at_rest(world: SoakWorld, former: Look | None) -> Look:
    """When nothing is asked any more, as soon as there is no more of anything than `former`, or the patience ends."""
    deadline = time.monotonic() + (_REST_SECONDS if former is not None else 6.0)
    while True:
        now = await look(world, 0.0)
        is_calm = former is not None and now.tasks <= former.tasks and now.descriptors <= former.descriptors
        if is_calm or time.monotonic() > deadline:
            return now
        await asyncio.sleep(0.5)


def _judged(world: SoakWorld, watch: Watch, before: Look, after: Look, slope: Slope, *, tenants: int) -> list[Verdict]:
    unexpected = {state: count for state, count in world.errors.items() if state not in _EXPECTED}
    kilobytes = [each / 1024 for each in (slope.per_second, slope.low, slope.high)]
    came = sum(count for name, count in world.done.items() if name.startswith("came"))
    went = sum(count for name, count in world.done.items() if name.startswith("went"))
    half = (1 + 0.3) / 2
    bounded = [
        _most(f"most {of} of the second half, to the first one behind the warm-up",
              watch.most(of, from_=half), MORE * watch.most(of, from_=0.3, to=half))
        for of in ("descriptors", "tasks", "series")
    ]  # fmt: skip
    spent = log_of(world).count("Traceback")
    return [
        _most("rows of another tenant, or missing ones", len(world.wrong), 0),
        _most("errors that nothing explains", sum(unexpected.values()), 0),
        _most("what failed that must not, tracebacks in the log", len(world.failed) + spent, 0),
        Verdict(target="tenants that came and went", wanted=f"{tenants:,}", measured=f"{came:,} and {went:,}",
                met=came == went == tenants),
        Verdict(target="growth of memory behind the warm-up, 95 %", wanted=f"<= {GROWS_KB:g} KB/s",
                measured=f"{kilobytes[0]:.2f} [{kilobytes[1]:.2f} to {kilobytes[2]:.2f}] KB/s",
                met=kilobytes[2] <= GROWS_KB),
        *bounded,
        _most("backends at once, those of tools on top", watch.most("backends"), BUDGET + TOOLS),
        _most("tasks at rest, to those before", after.tasks, before.tasks),
        _most("descriptors at rest, to those before", after.descriptors, before.descriptors),
    ]  # fmt: skip


def _most(target: str, count: float, most: float) -> Verdict:
    return Verdict(target=target, wanted=f"<= {most:.0f}", measured=f"{count:.0f}", met=count <= most)


def _told(world: SoakWorld, watch: Watch, slope: Slope, types: dict[str, int], seconds: float) -> str:
    looks = watch.looks
    parts = [looks[int(len(looks) * share)] for share in (0.0, 0.3, 0.5, 0.75)] + [looks[-1]]
    rows = [
        (f"{each.at:.0f} s", figure(each.memory / 2**20), *(str(getattr(each, of)) for of in _COLUMNS))
        for each in parts
    ]
    lines = [
        f"{seconds:.0f} s for a day: {DAY / seconds:.0f} times as fast."
        f" {sum(world.answers.values()):,} answers with rows: "
        + ", ".join(f"{door} {count:,}" for door, count in world.answers.most_common()),
        ", ".join(f"{name} {count:,}" for name, count in sorted(world.done.items())),
        render(("SQLSTATE, code", "answers", "why"), [
            (state, f"{count:,}", _EXPECTED.get(state, "NOT EXPECTED")) for state, count in world.errors.most_common()
        ]),
        render(("", "memory MB", *_COLUMNS), rows),
        f"Memory a day at that pace: {slope.per_second * seconds / 2**20:.1f} MB"
        f" [{slope.low * seconds / 2**20:.1f} to {slope.high * seconds / 2**20:.1f}].",
        "Objects of which there were more at the end than after the warm-up:",
        render(
            ("type", "then", "at the end"),
            [(name, f"{then:,}", f"{end:,}") for name, then, end in grown(watch.warm_types, types)],
        ),
        *(f"WRONG: {each}" for each in world.wrong[:10]),
        *(f"FAILED: {each}" for each in world.failed[:20]),
    ]  # fmt: skip
    return "\n\n".join(lines)


_COLUMNS: Final = ("descriptors", "tasks", "series", "backends", "pools", "tenants")


async def _run(seconds: float, tenants: int, postgres: int) -> tuple[list[Verdict], str, dict[str, Any]]:
    async with open_soak_world(version=postgres) as world:
        watch, before, after, types = await _played(world, seconds, tenants)
        slope = slope_of(watch.memory)
        judged = _judged(world, watch, before, after, slope, tenants=tenants + FIRST)
        data = {
            "seconds": seconds, "tenants": tenants, "answers": world.answers, "errors": world.errors,
            "done": world.done, "wrong": world.wrong, "failed": world.failed, "memory": watch.memory,
            "looks": [asdict(each) for each in watch.looks], "slope": asdict(slope),
            "at_rest": {"before": asdict(before), "after": asdict(after)},
            "types": {"warm": watch.warm_types, "end": types},
        }  # fmt: skip
        return judged, _told(world, watch, slope, types, seconds), data


def main(arguments: Sequence[str]) -> int:
    """Run it, print what was found and the verdicts; 0 also when a target is missed, which is printed loudly."""
    parser = argparse.ArgumentParser(prog="scripts/bench soak", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"for a day (default {SECONDS})")
    parser.add_argument("--postgres", type=int, default=18, metavar="MAJOR", help="version of the server (default 18)")
    asked = parser.parse_args(arguments)
    if sys.platform == "win32":
        print("measured on Linux: it looks into /proc", file=sys.stderr)
        return 2
    import uvloop

    print(", ".join(f"{name} {value}" for name, value in machine().items()), flush=True)
    tenants = max(1, round(TENANTS * asked.seconds / SECONDS))
    judged, text, data = uvloop.run(_run(asked.seconds, tenants, asked.postgres))
    print(f"\n{text}\n\n## Targets\n\n{verdicts(judged)}\n\n{loud(judged)}")
    if asked.json is not None:
        stored = {**data, "verdicts": [asdict(one) | {"verdict": one.word} for one in judged]}
        asked.json.write_text(json.dumps(stored, indent=1) + "\n")
    return 0
