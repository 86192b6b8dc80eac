"""Does a coroutine without a task stop where it is told to?"""

from __future__ import annotations

import asyncio

from tenantproxy.driver.detached import Detached


async def test_one_that_is_cancelled_goes_no_further_though_what_it_awaited_is_done() -> None:
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()
    went_on = False

    async def work() -> None:
        nonlocal went_on
        await future
        went_on = True

    detached = Detached(work(), later=loop)
    await asyncio.sleep(0)
    future.set_result(None)
    detached.cancel()
    await asyncio.sleep(0)
    assert detached.done()
    assert not went_on


async def test_one_that_is_cancelled_before_its_first_step_never_begins() -> None:
    began = False

    async def work() -> None:
        nonlocal began
        began = True
        await asyncio.sleep(0)

    detached = Detached(work(), later=asyncio.get_running_loop())
    detached.cancel()
    await asyncio.sleep(0)
    assert detached.done()
    assert not began


async def test_without_a_loop_to_wait_for_it_begins_at_once() -> None:
    began = False

    async def work() -> None:
        nonlocal began
        began = True

    assert Detached(work()).done()
    assert began
