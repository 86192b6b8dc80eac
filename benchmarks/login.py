"""How long does a login take without knowing the tenant, and what does it tell strangers? On one embedded server."""

from __future__ import annotations

import math
import platform
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from importlib.metadata import version
from typing import Final

from benchmarks import login_directory, login_fanout, login_strangers
from benchmarks.login_world import LoginWorld, database_name, open_login_world
from benchmarks.part import Options, Part
from benchmarks.program import Done, in_turn, machine, parser_of, run, until_quiet

__all__ = ["main"]

PARTS: Final[dict[str, Callable[[LoginWorld, Options], Awaitable[Part]]]] = {
    "directory": login_directory.run,
    "fan-out": login_fanout.run,
    "strangers": login_strangers.run,
}
DATABASES: Final = 50
_PACKAGES: Final = ("asyncpg", "argon2-cffi", "uvloop")


def main(arguments: Sequence[str]) -> int:
    """See `program.run`."""
    parser = parser_of("login", __doc__, PARTS, rounds=9)
    parser.add_argument("--scale", type=float, default=1.0, help="of tenants and attempts, for a quick look")
    asked = parser.parse_args(arguments)
    options = Options(rounds=asked.rounds, scale=asked.scale)
    stored = {"rounds": options.rounds, "scale": options.scale}
    return run(asked, PARTS, partial(_run, options, asked.postgres), stored)


async def _run(options: Options, postgres: int, names: Sequence[str]) -> Done:
    databases = [database_name(number) for number in range(max(login_directory.FEW, round(DATABASES * options.scale)))]
    attempts = max(100, round(login_strangers.ATTEMPTS * options.scale))
    async with open_login_world(databases, people=math.ceil(attempts / len(databases)), version=postgres) as world:
        environment = _environment(world)
        return environment, await in_turn(names, PARTS, world, options, environment, after=until_quiet)


def _environment(world: LoginWorld) -> dict[str, object]:
    return {
        "PostgreSQL": world.server.version,
        "Python": platform.python_version(),
        **{name: version(name) for name in _PACKAGES},
        **machine(),
    }
