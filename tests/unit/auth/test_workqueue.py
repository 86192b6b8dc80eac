"""Is the work of known accounts done while strangers fill the queue, and does a cancelled caller leave it?"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from tenantproxy.auth.trust import Trust
from tenantproxy.auth.workqueue import WorkQueue
from tenantproxy.errors import TooManyAttempts


@pytest.fixture
def gate() -> threading.Event:
    return threading.Event()


@pytest.fixture
def queue(gate: threading.Event) -> Iterator[WorkQueue]:
    made = WorkQueue(threads=1, max_waiting=8, name="test")
    yield made
    gate.set()
    made.close()


async def fill(queue: WorkQueue, gate: threading.Event, trust: Trust, done: list[str]) -> list[asyncio.Future[None]]:
    """As many of that trust as are let in; the first of all holds the thread until the gate opens."""
    tasks: list[asyncio.Future[None]] = []
    while True:
        try:
            queue.check_room(trust)
        except TooManyAttempts:
            return tasks
        number = len(tasks)

        def work(name: str = f"{trust.name} {number}") -> None:
            assert gate.wait(30)
            done.append(name)

        tasks.append(asyncio.ensure_future(queue.run(work, trust)))
        await asyncio.sleep(0)


async def test_strangers_fill_half_of_the_queue_and_the_known_find_room(
    queue: WorkQueue, gate: threading.Event
) -> None:
    done: list[str] = []
    waiting = [await fill(queue, gate, trust, done) for trust in (Trust.STRANGER, Trust.FAMILIAR, Trust.PROVEN)]
    assert list(map(len, waiting)) == [1 + 4, 2, 2]
    with pytest.raises(TooManyAttempts):
        await queue.run(lambda: None, Trust.PROVEN)
    gate.set()
    await asyncio.gather(*(task for tasks in waiting for task in tasks))
    assert done[0] == "STRANGER 0"
    assert done[1:4] == ["PROVEN 0", "PROVEN 1", "FAMILIAR 0"]
    assert queue.under_way == 0


async def test_strangers_have_their_turn_among_the_known(queue: WorkQueue, gate: threading.Event) -> None:
    done: list[str] = []
    stranger = asyncio.ensure_future(queue.run(lambda: gate.wait(30), Trust.STRANGER))
    await asyncio.sleep(0)
    late = asyncio.ensure_future(queue.run(lambda: done.append("stranger"), Trust.STRANGER))
    await asyncio.sleep(0)
    known = await fill(queue, gate, Trust.PROVEN, done)
    gate.set()
    await asyncio.gather(stranger, late, *known)
    assert done.index("stranger") < len(known)


async def test_who_is_cancelled_while_waiting_leaves_the_queue(queue: WorkQueue, gate: threading.Event) -> None:
    done: list[str] = []
    first, *others = await fill(queue, gate, Trust.PROVEN, done)
    for task in others[1:]:
        task.cancel()
    await asyncio.wait(others[1:])
    assert queue.under_way == 2
    gate.set()
    await asyncio.gather(first, others[0])
    assert done == ["PROVEN 0", "PROVEN 1"]
    assert queue.under_way == 0


async def test_an_error_of_the_work_gives_the_thread_back(queue: WorkQueue, gate: threading.Event) -> None:
    for _ in range(20):
        with pytest.raises(ZeroDivisionError):
            await queue.run(lambda: 1 // 0, Trust.STRANGER)
    assert await queue.run(lambda: 7, Trust.STRANGER) == 7
    assert queue.under_way == 0
