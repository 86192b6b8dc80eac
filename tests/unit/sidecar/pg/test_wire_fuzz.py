"""Does a small part of what `scripts/bench fuzz` tries break anything? The same inputs each time."""

from __future__ import annotations

import pytest

from benchmarks.fuzz import main
from tests.support.wire_fuzz import TARGETS, Fuzzer


@pytest.mark.parametrize("target", TARGETS)
async def test_no_bytes_of_a_stranger_break_a_parser(target: str) -> None:
    fuzzer = Fuzzer(seed=4711)
    for _ in range(1500):
        fuzzer.one(target)


def test_the_fuzzer_says_how_much_it_has_tried(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--inputs", "200", "--steps", "400", "--seed", "7"]) == 0
    said = capsys.readouterr().out
    assert "200 inputs" in said
    assert "400 steps" in said
