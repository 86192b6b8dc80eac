"""Are announcements passed on in slices, however many come at once?"""

from __future__ import annotations

from typing import Any

import pytest

from tenantproxy.notifications import Listener
from tests.support.turns import SliceClock, counting_turns
from tests.support.waiting import until


async def test_announcements_are_told_in_order_and_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SliceClock(monkeypatch)
    database: Any = None
    listener = Listener(database)
    told: list[str | None] = []

    def hear(payload: str | None) -> None:
        clock.work(0.3)
        told.append(payload)

    listener.hear("channel", hear)
    names = [str(number) for number in range(100)]
    with counting_turns(lambda: len(told)) as turns:
        for name in names:
            listener._announced(None, 1, "channel", name)
        await until(lambda: len(told) >= len(names), "all were told")
    assert told == names
    assert turns.most == 4
