"""What do the reference platforms rest on, and what does it cost? `policy`: one that goes through the workspace."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from benchmarks import systems_policy
from benchmarks.part import Options, Part
from benchmarks.program import Done, in_turn, machine, parser_of, run

__all__ = ["main"]


async def _policy(world: None, options: Options) -> Part:
    return await systems_policy.run(rounds=options.rounds)


_PARTS: Final[Mapping[str, Callable[[None, Options], Awaitable[Part]]]] = {"policy": _policy}


def main(arguments: list[str]) -> int:
    """Run what was asked for; the exit status."""
    asked = parser_of("systems", __doc__, _PARTS, rounds=3).parse_args(arguments)

    async def work(names: Sequence[str]) -> Done:
        environment = machine()
        return environment, await in_turn(names, _PARTS, None, Options(rounds=asked.rounds), environment)

    return run(asked, _PARTS, work, {"rounds": asked.rounds})
