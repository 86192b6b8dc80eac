"""Do the parsers of the PostgreSQL port stand a million inputs of strangers? One failure is a failure.

Needs no server: `tests/support/wire_fuzz.py` makes the inputs from traces of real clients and servers, in batches, each
with its own seed, so that a failure is found again. Then the relay is played before a model of a server, step by step
(`tests/support/relay_machine.py`): no answer may be wrong, and no backend lent while anything is under way on it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from tests.support.relay_machine import Machine
from tests.support.relay_mutations import MUTATIONS, found_within
from tests.support.wire_fuzz import TARGETS, Fuzzer

__all__ = ["main"]

BATCH: Final = 2000
EPISODES: Final = 2000  # steps of one seed
PATIENCE: Final = 30.0  # seconds between two lines of progress
_TURNS: Final = ("client", "server", "client", "startup", "server", "proof", "login", "client")


@dataclass(slots=True)
class Result:
    """What was tried. `failed` are the seeds of batches in which something broke."""

    inputs: int = 0
    steps: int = 0
    step_seconds: float = 0.0
    bytes: int = 0
    by_target: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)
    seconds: float = 0.0
    grown_kb: int = 0


def main(arguments: Sequence[str]) -> int:
    """Try so many; 1 when one of them broke something."""
    asked = _parser().parse_args(arguments)
    if asked.mutations:
        return _mutated(asked.steps)
    result = asyncio.run(_tried(asked.inputs, asked.seed))
    asyncio.run(_played(result, asked.steps, asked.seed))
    print(f"{result.inputs:,} inputs, {result.bytes:,} bytes in {result.seconds:.0f} s from seed {asked.seed}")
    print("  " + ", ".join(f"{target} {result.by_target[target]:,}" for target in TARGETS))
    print(f"  memory grew by {result.grown_kb:,} KiB since the first batch")
    print(f"{result.steps:,} steps of the relay before a model in {result.step_seconds:.0f} s")
    for failure in result.failed:
        print(f"!!! BROKEN: {failure}")
    if not result.failed:
        print("  no wrong answer; none raised anything, and no backend came back that owed an answer")
    if asked.json is not None:
        asked.json.write_text(json.dumps(asdict(result), indent=1) + "\n")
    return 1 if result.failed else 0


def _mutated(steps: int) -> int:
    """1 when the model test does not fail without one of the rules."""
    missed = 0
    for rule in MUTATIONS:
        found = found_within(rule, steps)
        missed += found is None
        said = "!!! NOT FOUND" if found is None else f"found after {found[0]:,} steps: {found[1]}"
        print(f"without: {rule}\n  {said}", flush=True)
    return 1 if missed else 0


async def _tried(inputs: int, seed: int) -> Result:
    result, began = Result(), 0
    start = told = time.monotonic()
    while result.inputs < inputs and len(result.failed) < 10:
        _batch(result, seed, min(BATCH, inputs - result.inputs))
        seed += 1
        await asyncio.sleep(0)  # what was put off to the next turn of the loop
        began = began or _resident_kb()
        if time.monotonic() - told >= PATIENCE:
            told = time.monotonic()
            print(f"  {result.inputs:>9,} of {inputs:,}, {told - start:.0f} s", flush=True)
    result.seconds = time.monotonic() - start
    result.grown_kb = _resident_kb() - began
    return result


async def _played(result: Result, steps: int, seed: int) -> None:
    start = told = time.monotonic()
    while result.steps < steps and len(result.failed) < 10:
        machine = Machine(seed)
        try:
            await machine.play(min(EPISODES, steps - result.steps))
        except Exception:  # noqa: BLE001 - whatever it is, it is what we look for
            result.failed.append(f"seed {seed}, step {machine.done} of the relay\n{traceback.format_exc()}")
        result.steps += machine.done
        seed += 1
        if time.monotonic() - told >= PATIENCE:
            told = time.monotonic()
            print(f"  {result.steps:>9,} of {steps:,} steps, {told - start:.0f} s", flush=True)
    result.step_seconds = time.monotonic() - start


def _batch(result: Result, seed: int, size: int) -> None:
    fuzzer = Fuzzer(seed)
    for number in range(size):
        target = _TURNS[number % len(_TURNS)]
        result.inputs += 1
        result.by_target[target] += 1
        try:
            result.bytes += len(fuzzer.one(target))
        except Exception:  # noqa: BLE001 - whatever it is, it is what we look for
            result.failed.append(f"seed {seed}, input {number} on {target}\n{traceback.format_exc()}")
            return  # what comes behind it in its batch depends on it


def _resident_kb() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/bench fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=1_000_000, help="how many to try (%(default)s)")
    parser.add_argument("--steps", type=int, default=1_000_000, help="of the relay before a model (%(default)s)")
    parser.add_argument(
        "--mutations", action="store_true", help="take out one rule of the relay after the other instead"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the first batch (%(default)s)")
    parser.add_argument("--json", type=Path, help="write the result there, too")
    return parser
