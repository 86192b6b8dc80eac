"""What do the reference platforms rest on, what does it cost, and does it hold?

`policy`: one that goes through the workspace. `faults`: mixed operations of many tenants while everything goes wrong.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from benchmarks import systems_policy, systems_run
from benchmarks.part import Options, Part
from benchmarks.program import Done, in_turn, machine, parser_of, run
from benchmarks.systems_platforms import PLATFORMS
from benchmarks.systems_run import OPERATIONS, Load

__all__ = ["main"]

_PARTS: Final = ("policy", "faults")


def main(arguments: list[str]) -> int:
    """Run what was asked for; the exit status."""
    parser = parser_of("systems", __doc__, _PARTS, rounds=3)
    parser.add_argument("--operations", type=int, default=OPERATIONS, help=f"of each platform (default {OPERATIONS})")
    parser.add_argument("--platforms", metavar="NAME,...", help=f"of {', '.join(PLATFORMS)}")
    parser.add_argument("--tenants", type=int, default=0, help="of each platform (default: 25 agencies, 12, 12)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--plant", action="store_true", help="take away what keeps tenants apart: foreign rows must be reported"
    )
    asked = parser.parse_args(arguments)
    platforms = asked.platforms.split(",") if asked.platforms else tuple(PLATFORMS)
    if unknown := [name for name in platforms if name not in PLATFORMS]:
        parser.error(f"no platform {', '.join(unknown)}; there are {', '.join(PLATFORMS)}")
    load = Load(
        operations=asked.operations, platforms=platforms, tenants=asked.tenants, seed=asked.seed, plant=asked.plant
    )

    async def policy(world: None, options: Options) -> Part:
        return await systems_policy.run(rounds=options.rounds)

    async def faults(world: None, options: Options) -> Part:
        return await systems_run.run(load)

    parts: Mapping[str, Callable[[None, Options], Awaitable[Part]]] = {"policy": policy, "faults": faults}

    async def work(names: Sequence[str]) -> Done:
        environment = machine()
        return environment, await in_turn(names, parts, None, Options(rounds=asked.rounds), environment)

    options = {"rounds": asked.rounds, "operations": load.operations, "plant": load.plant, "seed": load.seed}
    return run(asked, parts, work, options)
