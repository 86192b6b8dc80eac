"""Can the benchmark be believed? It counts what ran, and says what was missed."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

from benchmarks.measure import Spread, latency, percentile, throughput
from benchmarks.table import Verdict, at_least, at_most, loud, render, trust, verdicts
from tests.support.waiting import PATIENCE

ROOT = Path(__file__).parents[2]


class Counted:
    """Each call takes one turn of the loop."""

    name = "counted"
    tasks = 3

    def __init__(self) -> None:
        self.calls = 0
        self.seen: set[int] = set()

    async def open(self, size: int) -> None:
        """Nothing."""

    async def call(self, task: int, number: int) -> object:
        """Counts."""
        self.calls += 1
        self.seen.add(task)
        await asyncio.sleep(0)
        return number

    async def close(self) -> None:
        """Nothing."""


async def test_throughput_is_of_all_tasks_together() -> None:
    subject = Counted()
    pace = await throughput(subject, seconds=0.02)
    assert subject.seen == {0, 1, 2}
    assert pace.per_second > 100
    assert pace.cpu_us > 0


async def test_latency_times_each_call_by_the_clock() -> None:
    ticks = iter([0.0, *(n * 0.001 for n in range(1, 99)), 0.198, 9.0])
    measured = await latency(Counted(), seconds=1.0, clock=lambda: next(ticks))
    assert round(measured.p50_us) == 1000
    assert measured.p99_us > 100_000


def test_the_spread_is_the_middle_half_of_the_rounds() -> None:
    assert Spread.of([5.0, 1.0, 3.0, 2.0, 4.0]) == Spread(median=3.0, p25=2.0, p75=4.0)
    assert Spread.of([7.0]) == Spread(median=7.0, p25=7.0, p75=7.0)
    assert percentile([3.0, 1.0, 2.0], 99) == 3.0


def test_a_missed_target_is_said_aloud() -> None:
    slow = at_least("speed", 1.7, Spread(median=1.69, p25=1.0, p75=2.0))
    fast = at_least("speed", 1.7, Spread(median=1.7, p25=1.0, p75=2.0))
    assert (slow.met, fast.met) == (False, True)
    assert "!!! MISSED: speed: wanted >= 1.7x, measured 1.69x" in loud([slow, fast])
    assert "MISSED" in verdicts([slow])
    assert loud([fast]) == "every target is met"


def test_a_target_is_not_met_in_a_run_whose_control_is_broken() -> None:
    good = at_least("speed", 1.0, Spread(median=2.0, p25=2.0, p75=2.0))
    control = Verdict(target="control", wanted="1x", measured="0.6x", met=False, control=True)
    judged = trust([good, control])
    assert [one.word for one in judged] == ["unproven", "BROKEN"]
    assert "A CONTROL IS BROKEN" in loud(judged)
    assert "every target is met" not in loud(judged)


def test_a_figure_that_is_too_large_misses() -> None:
    assert at_most("memory", 2.0, 2.0, "KB").met
    assert not at_most("memory", 2.0, 2.01, "KB").met
    assert not at_most("latency", 0.65, Spread(median=0.66, p25=0.1, p75=0.7), "x", kind="ratio").met


def test_a_table_is_markdown_with_its_columns_aligned() -> None:
    text = render(("name", "n"), [("a", "1"), ("longer", "1000")])
    assert text.splitlines() == ["| name   |    n |", "|--------|-----:|", "| a      |    1 |", "| longer | 1000 |"]
    assert Verdict(target="t", wanted="w", measured="m", met=False).target in verdicts(
        [Verdict(target="t", wanted="w", measured="m", met=False)]
    )


def test_a_benchmark_that_does_not_exist_is_wrong_usage() -> None:
    command = [sys.executable, "-m", "benchmarks", "nothing"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 2
    assert "library" in done.stderr
