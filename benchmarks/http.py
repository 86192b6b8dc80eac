"""What does it cost a web application, and does it keep tenants apart there?"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Final

from benchmarks import middleware
from benchmarks.part import Options, Part
from benchmarks.table import loud, trust, verdicts
from benchmarks.world import open_world

__all__ = ["main"]

PARTS: Final = {"cost": middleware.cost, "interleaved": middleware.interleaved}
_PACKAGES: Final = ("fastapi", "starlette", "litestar", "django", "aiohttp", "PyJWT", "uvloop")


def main(arguments: Sequence[str]) -> int:
    """Run the parts, print their tables and the verdicts; 0 also when a target is missed, which is printed loudly."""
    parser = argparse.ArgumentParser(prog="scripts/bench http", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    parser.add_argument("--rounds", type=int, default=9, help="of the cost (default 9)")
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of requests, for a quick look")
    parser.add_argument("--only", choices=sorted(PARTS), help="one part")
    asked = parser.parse_args(arguments)
    if sys.platform == "win32":
        print("measured on uvloop: Linux or macOS only", file=sys.stderr)
        return 2
    import uvloop

    options = Options(rounds=asked.rounds, scale=asked.scale)
    names = [asked.only] if asked.only else list(PARTS)
    environment = {
        "Python": platform.python_version(),
        **{name: version(name) for name in _PACKAGES},
        "processors": os.cpu_count(),
        "load at start": round(os.getloadavg()[0], 1),
    }
    print(", ".join(f"{name} {value}" for name, value in environment.items()), flush=True)
    parts = uvloop.run(_run(names, options))
    found = [verdict for part in parts.values() for verdict in trust(part.verdicts)]
    print(f"\n## Targets\n\n{verdicts(found)}\n\n{loud(found)}")
    if asked.json is not None:
        stored = {
            "environment": environment,
            "parts": {name: part.data for name, part in parts.items()},
            "verdicts": [asdict(one) | {"verdict": one.word} for one in found],
        }
        asked.json.write_text(json.dumps(stored, indent=1) + "\n")
    return 0


async def _run(names: Sequence[str], options: Options) -> dict[str, Part]:
    parts: dict[str, Part] = {}
    async with open_world() as world:
        for name in names:
            start = time.monotonic()
            parts[name] = part = await PARTS[name](world, options)
            print(f"\n## {part.title}\n\n{part.text}\n\n({time.monotonic() - start:.0f} s)", flush=True)
    return parts
