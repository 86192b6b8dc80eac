"""Can the soak and the bench of the admin listener be believed? What they take for growth, and what they compare."""

from __future__ import annotations

import math
import random
import tomllib
from collections import Counter

import pytest

from benchmarks.admin_page import _DRAWER, _NOTHING, _POOLS, Scrolled, _scroll_part
from benchmarks.probed import toml_text
from benchmarks.soak import KINDS, _kind
from benchmarks.soak_watch import grown, slope_of

WORK = {"TaskDuration": 1.0, "ScriptDuration": 1.0, "LayoutDuration": 1.0, "RecalcStyleDuration": 1.0}


def memory(*, leak: float = 0.0, warm: float = 0.0, seed: int = 1) -> list[tuple[float, float]]:
    """Bytes by seconds: a walk around 100 MB, and what is lost each second; `warm`: what comes in the first third."""
    rng, size, points = random.Random(seed), 0.0, []
    for at in range(1200):
        size = 0.9 * size + rng.gauss(0, 50_000)
        points.append((float(at), 1e8 + warm * min(at, 360) + leak * at + size))
    return points


@pytest.mark.parametrize("seed", range(5))
def test_the_interval_of_a_slope_has_the_leak_that_there_is(seed: int) -> None:
    for leak in (0.0, 2000.0):
        slope = slope_of(memory(leak=leak, warm=100_000, seed=seed))
        assert slope.low <= leak <= slope.high
        assert slope.low < slope.per_second < slope.high
        assert slope.high - slope.low < 400, "it is narrow enough to see half a KB"


def test_too_few_looks_say_nothing_of_a_slope() -> None:
    assert slope_of([(0.0, 1.0), (1.0, 1.0)]).high == math.inf


def test_what_grew_is_told_by_type_the_most_first() -> None:
    assert grown({"a": 1, "b": 5}, {"a": 3, "b": 5, "c": 9}) == [("c", 0, 9), ("a", 1, 3)]


def test_most_tenants_of_the_soak_share_rows_and_all_kinds_come() -> None:
    kinds = Counter(_kind(random.Random(number)) for number in range(2000))
    assert kinds.keys() == {"row", *KINDS}
    assert kinds["row"] > 0.85 * 2000


def test_a_configuration_is_written_as_it_is_read() -> None:
    mapping = {
        "main": {"server": "a"},
        "servers": {"a": {"port": 1, "admin": {"user": 'q"'}}},
        "pg": {"users": {"u": {}}},
    }
    assert tomllib.loads(toml_text(mapping)) == mapping


def test_a_long_frame_misses_unless_an_empty_page_has_one_too() -> None:
    def judged(pools: float, empty: float) -> list[str]:
        frames = {_NOTHING: empty, _POOLS: pools, _DRAWER: 20.0}
        seen = {name: [Scrolled([16.7, longest], [], WORK)] for name, longest in frames.items()}
        return [one.word for one in _scroll_part(1, seen).verdicts]

    assert judged(51.0, 20.0) == ["MISSED", "met", "holds"]
    assert judged(40.0, 60.0) == ["unproven", "unproven", "BROKEN"]
