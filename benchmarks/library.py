"""How does it do inside a service, beside what people embed today? All parts in one run, on one embedded server."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Final

from benchmarks import fairness, memory, small, steady, storm
from benchmarks.part import Options, Part
from benchmarks.table import loud, verdicts
from benchmarks.world import World, open_world

__all__ = ["main"]

PARTS: Final[dict[str, Callable[[World, Options], Awaitable[Part]]]] = {
    "steady": steady.run,
    "small": small.run,
    "memory": memory.run,
    "fairness": fairness.run,
    "storm": storm.run,
}
_PACKAGES: Final = ("asyncpg", "psycopg", "psycopg-pool", "uvloop")


def main(arguments: Sequence[str]) -> int:
    """Run the parts, print their tables and the verdicts; 0 also when a target is missed, which is printed loudly."""
    asked = _parser().parse_args(arguments)
    names = asked.only.split(",") if asked.only else list(PARTS)
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        print(f"no part {', '.join(unknown)}; there are {', '.join(PARTS)}", file=sys.stderr)
        return 2
    options = Options(rounds=asked.rounds, seconds=asked.seconds, scale=asked.scale)
    if sys.platform == "win32":
        print("measured on uvloop: Linux or macOS only", file=sys.stderr)
        return 2
    import uvloop

    environment, parts = uvloop.run(_run(names, options, asked.postgres))
    found = [verdict for part in parts.values() for verdict in part.verdicts]
    print(f"\n## Targets\n\n{verdicts(found)}\n\n{loud(found)}")
    if asked.json is not None:
        stored = {
            "environment": environment,
            "options": {"rounds": options.rounds, "seconds": options.seconds, "scale": options.scale},
            "parts": {name: part.data for name, part in parts.items()},
            "verdicts": [asdict(one) | {"verdict": one.word} for one in found],
        }
        asked.json.write_text(json.dumps(stored, indent=1) + "\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/bench library", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    parser.add_argument("--rounds", type=int, default=9, help="rounds in which all take their turn (default 9)")
    parser.add_argument("--seconds", type=float, default=0.3, help="of each measurement (default 0.3)")
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of tenants, for a quick look")
    parser.add_argument("--only", metavar="PART,...", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--postgres", type=int, default=18, metavar="MAJOR", help="version of the server (default 18)")
    return parser


async def _run(names: Sequence[str], options: Options, postgres: int) -> tuple[dict[str, object], dict[str, Part]]:
    parts: dict[str, Part] = {}
    async with open_world(version=postgres) as world:
        environment = _environment(world)
        print(", ".join(f"{name} {value}" for name, value in environment.items()), flush=True)
        for name in names:
            start = time.monotonic()
            parts[name] = part = await PARTS[name](world, options)
            print(f"\n## {part.title}\n\n{part.text}\n\n({time.monotonic() - start:.0f} s)", flush=True)
            await _quiet(world)
    return environment, parts


def _environment(world: World) -> dict[str, object]:
    return {
        "PostgreSQL": world.server.version,
        "Python": platform.python_version(),
        **{name: version(name) for name in _PACKAGES},
        "processors": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "load at start": round(os.getloadavg()[0], 1),
    }


async def _quiet(world: World) -> None:
    """Wait until the server has none of the last part's connections any more: the next one starts alone."""
    conn = await world.admin()
    try:
        deadline = time.monotonic() + 10
        while await conn.fetchval(
            "select count(*) from pg_stat_activity where backend_type = 'client backend' and usename <> session_user"
        ):
            if time.monotonic() > deadline:
                raise TimeoutError("connections were left open by a part that is over")
            await asyncio.sleep(0.02)
    finally:
        await conn.close()
