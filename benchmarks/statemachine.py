"""Do the pools hold what they promise for a million random steps? Not a race: one failure is a failure.

Needs no server: the state machine of the tests (`tests/support/pool_machine.py`) in batches, each with its own seed.
"""

from __future__ import annotations

import argparse
import json
import time
import traceback
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Final

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.support.pool_machine import PoolMachine, steps_done

__all__ = ["main"]

EXAMPLES, STEPS_EACH = 250, 100  # of a batch; hypothesis remembers a batch, so that its memory grows with it
PATIENCE: Final = 30.0  # seconds between two lines of progress

_SETTINGS: Final = settings(
    max_examples=EXAMPLES,
    stateful_step_count=STEPS_EACH,
    database=None,
    deadline=None,
    phases=(Phase.generate, Phase.shrink),
    suppress_health_check=list(HealthCheck),
)


def main(arguments: Sequence[str]) -> int:
    """Run batches until there were enough steps; 1 when an invariant broke, with the shortest way to it."""
    asked = _parser().parse_args(arguments)
    start = told = time.monotonic()
    failed: int | None = None
    for number in count(asked.seed):
        if steps_done() >= asked.steps:
            break
        if not _holds(number):
            failed = number
            break
        if time.monotonic() - told >= PATIENCE:
            told = time.monotonic()
            print(f"  {steps_done():>9,} of {asked.steps:,} steps, {told - start:.0f} s", flush=True)
    seconds = time.monotonic() - start
    result = "every invariant held" if failed is None else f"!!! BROKEN with --seed {failed}"
    print(f"{steps_done():,} steps in {seconds:.0f} s from seed {asked.seed}: {result}")
    if asked.json is not None:
        told_data = {"steps": steps_done(), "seconds": seconds, "seed": asked.seed, "failed_seed": failed}
        asked.json.write_text(json.dumps(told_data, indent=1) + "\n")
    return 0 if failed is None else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/bench statemachine", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--steps", type=int, default=1_000_000, help="after which each invariant is checked")
    parser.add_argument("--seed", type=int, default=1, help="of the first batch; the next ones count on")
    return parser


def _holds(number: int) -> bool:
    machine = seed(number)(type("PoolMachine", (PoolMachine,), {}))
    try:
        run_state_machine_as_test(machine, settings=_SETTINGS)
    except (AssertionError, ExceptionGroup):
        traceback.print_exc()
        return False
    return True
