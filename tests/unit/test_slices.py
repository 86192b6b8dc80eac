"""Does work in slices let others run as soon as a slice is over, and no sooner?"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tenantproxy.slices import in_slices
from tests.support.turns import SliceClock, counting_turns


@pytest.mark.parametrize(("part", "most"), [(1.0, 1), (0.4, 3), (3.0, 1)])
async def test_no_more_than_a_slice_of_work_is_done_between_two_yields(
    part: float, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SliceClock(monkeypatch)
    done = 0

    def steps() -> Iterator[None]:
        nonlocal done
        for _ in range(30):
            clock.work(part)
            done += 1
            yield

    with counting_turns(lambda: done) as turns:
        await in_slices(steps())
    assert done == 30
    assert turns.most == most


async def test_work_that_fits_into_a_slice_is_done_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    SliceClock(monkeypatch)
    steps = iter([None] * 1000)
    with counting_turns(lambda: 0) as turns:
        await in_slices(steps)
    assert len(turns.steps) == 2  # as the block began, and as it ended
