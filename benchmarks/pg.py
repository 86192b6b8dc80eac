"""What does the PostgreSQL port cost? Ours beside PgBouncer in transaction mode and a direct connection, in one run."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Final

from benchmarks import pg_connects, pg_idle, pg_noisy, pg_rows, pg_select
from benchmarks.part import Options, Part
from benchmarks.pg_process import allow_many_files
from benchmarks.pg_targets import pgbouncer_version
from benchmarks.pg_world import PgWorld, open_pg_world
from benchmarks.table import loud, verdicts

__all__ = ["main"]

PARTS: Final[dict[str, Callable[[PgWorld, Options], Awaitable[Part]]]] = {
    "select": pg_select.run,
    "rows": pg_rows.run,
    "connects": pg_connects.run,
    "idle": pg_idle.run,
    "noisy": pg_noisy.run,
}
SCALE: Final = 5  # pgbench's: 100,000 rows each
POOL: Final = 20  # PgBouncer's own default


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

    allow_many_files()
    options = Options(rounds=asked.rounds, seconds=asked.seconds, scale=asked.scale)
    environment, parts = uvloop.run(_run(names, options, asked.pool, asked.postgres))
    found = [verdict for part in parts.values() for verdict in part.verdicts]
    print(f"\n## Targets\n\n{verdicts(found)}\n\n{loud(found)}")
    if asked.json is not None:
        stored = {
            "environment": environment,
            "options": {**asdict(options), "pool": asked.pool},
            "parts": {name: part.data for name, part in parts.items()},
            "verdicts": [asdict(one) | {"verdict": one.word} for one in found],
        }
        asked.json.write_text(json.dumps(stored, indent=1) + "\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/bench pg", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    parser.add_argument("--rounds", type=int, default=5, help="rounds in which all take their turn (default 5)")
    parser.add_argument("--seconds", type=int, default=2, help="of each turn, behind a second to warm up (default 2)")
    parser.add_argument("--scale", type=float, default=1.0, help="of rows and idle clients, for a quick look")
    parser.add_argument(
        "--pool", type=int, default=POOL, help=f"server connections of a proxy for one tenant (default {POOL})"
    )
    parser.add_argument("--only", metavar="PART,...", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--postgres", type=int, default=18, metavar="MAJOR", help="version of the server (default 18)")
    return parser


async def _run(
    names: Sequence[str], options: Options, pool: int, postgres: int
) -> tuple[dict[str, object], dict[str, Part]]:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)  # what we started ends with us
    parts: dict[str, Part] = {}
    async with open_pg_world(scale=max(1, round(SCALE * options.scale)), pool=pool, version=postgres) as world:
        environment = _environment(world)
        print(", ".join(f"{name} {value}" for name, value in environment.items()), flush=True)
        for name in names:
            start = time.monotonic()
            parts[name] = part = await PARTS[name](world, options)
            print(f"\n## {part.title}\n\n{part.text}\n\n({time.monotonic() - start:.0f} s)", flush=True)
    return environment, parts


def _environment(world: PgWorld) -> dict[str, object]:
    peer = pgbouncer_version()
    pgbench = [str(world.server.bin_dir / "pgbench"), "--version"]
    return {
        "PostgreSQL": world.server.version,
        "PgBouncer": "not on PATH" if peer is None else ".".join(map(str, peer)),
        "pgbench": subprocess.run(pgbench, capture_output=True, text=True, check=True, timeout=10).stdout.split()[-1],
        "Python": platform.python_version(),
        "uvloop": version("uvloop"),
        "processors": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "load at start": round(os.getloadavg()[0], 1),
    }
