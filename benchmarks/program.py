"""What do the programs that run parts on an embedded server share? What was asked for, what is printed and stored."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import sys
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol, TypeAlias, TypeVar

import asyncpg

from benchmarks.part import Options, Part
from benchmarks.table import loud, verdicts

__all__ = ["Done", "in_turn", "machine", "parser_of", "run", "until_quiet"]

Done: TypeAlias = tuple[Mapping[str, object], Mapping[str, Part]]
"""The environment, and what each part handed back."""


class Administered(Protocol):
    """A world whose server can be asked."""

    async def admin(self) -> asyncpg.Connection:
        """A superuser's connection; the caller closes it."""
        ...


W = TypeVar("W")


def parser_of(name: str, description: str | None, parts: Collection[str], *, rounds: int) -> argparse.ArgumentParser:
    """What can be said to each program."""
    parser = argparse.ArgumentParser(prog=f"scripts/bench {name}", description=description)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    parser.add_argument(
        "--rounds", type=int, default=rounds, help=f"rounds in which all take their turn (default {rounds})"
    )
    parser.add_argument("--only", metavar="PART,...", help=f"of {', '.join(parts)}")
    parser.add_argument("--postgres", type=int, default=18, metavar="MAJOR", help="version of the server (default 18)")
    return parser


def run(
    asked: argparse.Namespace,
    parts: Collection[str],
    work: Callable[[Sequence[str]], Coroutine[Any, Any, Done]],
    options: Mapping[str, object],
) -> int:
    """Run the parts, print their tables and the verdicts; 0 also when a target is missed, which is printed loudly."""
    names = asked.only.split(",") if asked.only else list(parts)
    unknown = [name for name in names if name not in parts]
    if unknown:
        print(f"no part {', '.join(unknown)}; there are {', '.join(parts)}", file=sys.stderr)
        return 2
    if sys.platform == "win32":
        print("measured on uvloop: Linux or macOS only", file=sys.stderr)
        return 2
    import uvloop

    environment, done = uvloop.run(work(names))
    found = [verdict for part in done.values() for verdict in part.verdicts]
    print(f"\n## Targets\n\n{verdicts(found)}\n\n{loud(found)}")
    if asked.json is not None:
        stored = {
            "environment": environment,
            "options": options,
            "parts": {name: part.data for name, part in done.items()},
            "verdicts": [asdict(one) | {"verdict": one.word} for one in found],
        }
        asked.json.write_text(json.dumps(stored, indent=1) + "\n")
    return 0


async def in_turn(
    names: Sequence[str],
    parts: Mapping[str, Callable[[W, Options], Awaitable[Part]]],
    world: W,
    options: Options,
    environment: Mapping[str, object],
    *,
    after: Callable[[W], Awaitable[None]] | None = None,
) -> dict[str, Part]:
    """One part after the other, each printed when it is done; `after` each of them."""
    done: dict[str, Part] = {}
    print(", ".join(f"{name} {value}" for name, value in environment.items()), flush=True)
    for name in names:
        start = time.monotonic()
        done[name] = part = await parts[name](world, options)
        print(f"\n## {part.title}\n\n{part.text}\n\n({time.monotonic() - start:.0f} s)", flush=True)
        if after is not None:
            await after(world)
    return done


def machine() -> dict[str, object]:
    """What it runs on."""
    return {
        "processors": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "load at start": round(os.getloadavg()[0], 1),
    }


async def until_quiet(world: Administered) -> None:
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
