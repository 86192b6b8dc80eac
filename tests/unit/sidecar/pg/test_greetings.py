"""Is a backend that was only looked at released, whenever the login leaves that waited for it?"""

from __future__ import annotations

import asyncio

import pytest

from tenantproxy.sidecar.pg.greetings import Greetings
from tenantproxy.wire.settings import NO_SETTINGS
from tests.support.fake_wire import WireHouse, bound


async def asking(house: WireHouse) -> asyncio.Task[object]:
    """A login that waits for a backend which is being opened."""
    plan = house.route("acme")
    coming = Greetings(house.lender).ask(house.pool("acme"), plan, NO_SETTINGS)
    task: asyncio.Task[object] = asyncio.create_task(coming)
    await asyncio.sleep(0)
    return task


@pytest.mark.parametrize("is_cancelled_first", [False, True])
async def test_a_login_that_leaves_as_its_backend_comes_keeps_none(is_cancelled_first: bool) -> None:
    """Both in one turn of the loop: the task has not gone on yet."""
    house = WireHouse()
    task = await asking(house)
    backend = house.connector.succeed()
    if is_cancelled_first:
        task.cancel()
    backend.data_received(bound("acme"))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    stats = house.pool("acme").stats()
    assert stats.used == 0
    assert stats.idle == 1
