"""Does any mix of crashes, stops, lost messages, partitions and failovers lead a fleet above its cap?

Long runs: `scripts/bench fleet machine`. Here each rule's shortest way to an overshoot is played with and
without it; rules that are about a census are in `test_main`.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from tests.support.fleet_mutations import MUTATIONS
from tests.support.fleet_world import FleetWorld, Step, play, random_steps

TRACES: dict[str, dict[str, Any]] = json.loads((Path(__file__).parents[2] / "support/fleet_traces.json").read_text())


def test_no_random_walk_exceeds_the_cap() -> None:
    rng = random.Random(4)
    for _ in range(6):
        size, cap = rng.choice((2, 3, 4, 6)), rng.choice((10, 20, 40))
        steps = random_steps(rng, 500)
        assert play(FleetWorld(size=size, cap=cap), steps) is None, (size, cap, steps)


@pytest.mark.parametrize("rule", MUTATIONS)
def test_each_rule_is_what_keeps_the_cap(rule: str) -> None:
    trace, (block, without) = TRACES[rule], MUTATIONS[rule]
    steps: list[Step] = [(name, a, b) for name, a, b in trace["steps"]]
    assert play(FleetWorld(size=trace["size"], cap=trace["cap"]), steps) is None
    with block():
        assert play(FleetWorld(size=trace["size"], cap=trace["cap"], without=without), steps) is not None
