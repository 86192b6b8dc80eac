"""How long does a login take without knowing the tenant, and what does it tell strangers? On one embedded server."""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import platform
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Final

from benchmarks import login_directory, login_fanout, login_strangers
from benchmarks.login_world import LoginWorld, database_name, open_login_world
from benchmarks.part import Options, Part
from benchmarks.table import loud, verdicts

__all__ = ["main"]

PARTS: Final[dict[str, Callable[[LoginWorld, Options], Awaitable[Part]]]] = {
    "directory": login_directory.run,
    "fan-out": login_fanout.run,
    "strangers": login_strangers.run,
}
DATABASES: Final = 50
_PACKAGES: Final = ("asyncpg", "argon2-cffi", "uvloop")


def main(arguments: Sequence[str]) -> int:
    """Run the parts, print their tables and the verdicts; 0 also when a target is missed, which is printed loudly."""
    asked = _parser().parse_args(arguments)
    names = asked.only.split(",") if asked.only else list(PARTS)
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        print(f"no part {', '.join(unknown)}; there are {', '.join(PARTS)}", file=sys.stderr)
        return 2
    if sys.platform == "win32":
        print("measured on uvloop: Linux or macOS only", file=sys.stderr)
        return 2
    import uvloop

    options = Options(rounds=asked.rounds, scale=asked.scale)
    environment, parts = uvloop.run(_run(names, options, asked.postgres))
    found = [verdict for part in parts.values() for verdict in part.verdicts]
    print(f"\n## Targets\n\n{verdicts(found)}\n\n{loud(found)}")
    if asked.json is not None:
        stored = {
            "environment": environment,
            "options": {"rounds": options.rounds, "scale": options.scale},
            "parts": {name: part.data for name, part in parts.items()},
            "verdicts": [asdict(one) | {"verdict": one.word} for one in found],
        }
        asked.json.write_text(json.dumps(stored, indent=1) + "\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/bench login", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    parser.add_argument("--rounds", type=int, default=9, help="rounds in which all take their turn (default 9)")
    parser.add_argument("--scale", type=float, default=1.0, help="of tenants and attempts, for a quick look")
    parser.add_argument("--only", metavar="PART,...", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--postgres", type=int, default=18, metavar="MAJOR", help="version of the server (default 18)")
    return parser


async def _run(names: Sequence[str], options: Options, postgres: int) -> tuple[dict[str, object], dict[str, Part]]:
    databases = [database_name(number) for number in range(max(login_directory.FEW, round(DATABASES * options.scale)))]
    attempts = max(100, round(login_strangers.ATTEMPTS * options.scale))
    parts: dict[str, Part] = {}
    async with open_login_world(databases, people=math.ceil(attempts / len(databases)), version=postgres) as world:
        environment = _environment(world)
        print(", ".join(f"{name} {value}" for name, value in environment.items()), flush=True)
        for name in names:
            start = time.monotonic()
            parts[name] = part = await PARTS[name](world, options)
            print(f"\n## {part.title}\n\n{part.text}\n\n({time.monotonic() - start:.0f} s)", flush=True)
            await _quiet(world)
    return environment, parts


def _environment(world: LoginWorld) -> dict[str, object]:
    return {
        "PostgreSQL": world.server.version,
        "Python": platform.python_version(),
        **{name: version(name) for name in _PACKAGES},
        "processors": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "load at start": round(os.getloadavg()[0], 1),
    }


async def _quiet(world: LoginWorld) -> None:
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
