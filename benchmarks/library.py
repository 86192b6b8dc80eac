"""How does it do inside a service, compared with what is used today? All parts in one run, on one embedded server."""

from __future__ import annotations

import platform
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from importlib.metadata import version
from typing import Final

from benchmarks import fairness, memory, rows, small, steady, storm, users
from benchmarks.part import Options, Part
from benchmarks.program import Done, in_turn, machine, parser_of, run, until_quiet
from benchmarks.world import World, open_world

__all__ = ["main"]

PARTS: Final[dict[str, Callable[[World, Options], Awaitable[Part]]]] = {
    "steady": steady.run,
    "users": users.run,
    "rows": rows.run,
    "small": small.run,
    "memory": memory.run,
    "fairness": fairness.run,
    "storm": storm.run,
}
_PACKAGES: Final = ("asyncpg", "psycopg", "psycopg-pool", "uvloop")


def main(arguments: Sequence[str]) -> int:
    """See `program.run`."""
    parser = parser_of("library", __doc__, PARTS, rounds=9)
    parser.add_argument("--seconds", type=float, default=0.3, help="of each measurement (default 0.3)")
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of tenants, for a quick look")
    asked = parser.parse_args(arguments)
    options = Options(rounds=asked.rounds, seconds=asked.seconds, scale=asked.scale)
    stored = {"rounds": options.rounds, "seconds": options.seconds, "scale": options.scale}
    return run(asked, PARTS, partial(_run, options, asked.postgres), stored)


async def _run(options: Options, postgres: int, names: Sequence[str]) -> Done:
    async with open_world(version=postgres) as world:
        environment = _environment(world)
        return environment, await in_turn(names, PARTS, world, options, environment, after=until_quiet)


def _environment(world: World) -> dict[str, object]:
    return {
        "PostgreSQL": world.server.version,
        "Python": platform.python_version(),
        **{name: version(name) for name in _PACKAGES},
        **machine(),
    }
