"""Is each told that it is late, once, and no one who has ended?"""

from __future__ import annotations

import asyncio

import pytest

from tenantproxy.sidecar.sql.deadlines import Deadlines
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio


class Timed:
    def __init__(self) -> None:
        self.told: list[float] = []

    def late(self) -> None:
        self.told.append(asyncio.get_running_loop().time())


async def test_each_that_has_not_ended_is_told_once_and_not_early() -> None:
    loop, deadlines = asyncio.get_running_loop(), Deadlines(0.02)
    ended, first, second = Timed(), Timed(), Timed()
    deadlines.add(ended)
    deadlines.add(first)
    deadlines.discard(ended)
    deadlines.discard(ended)
    await asyncio.sleep(0.005)
    began = loop.time()
    deadlines.add(second)
    await until(lambda: bool(second.told), "the last is told")
    assert (len(ended.told), len(first.told), len(second.told)) == (0, 1, 1)
    assert second.told[0] >= began + 0.02 - 1e-3
    third = Timed()
    deadlines.add(third)
    await until(lambda: bool(third.told), "one that comes later is told, too")
    assert len(first.told) == 1


async def test_one_timer_is_enough_for_all_and_none_is_left_at_the_end() -> None:
    deadlines = Deadlines(60.0)
    many = [Timed() for _ in range(100)]
    deadlines.add(many[0])
    timer = deadlines._timer
    for each in many[1:]:
        deadlines.add(each)
    assert deadlines._timer is timer
    deadlines.close()
    assert timer is not None
    assert timer.cancelled()
    assert not deadlines._until
