"""Can each thread of a process have a loop and a router of its own?"""

from __future__ import annotations

import asyncio
import threading
from typing import Final

import pytest

from tenantproxy import Router
from tests.support.world import World

THREADS: Final = 4
LEASES: Final = 10_000
TASKS: Final = 8


async def _lease(world: World) -> int:
    """Read in turns as two row tenants; how often a row of the other one was seen."""
    wrong = 0
    pools = {"max_size": 4, "shared_size": 4, "acquire_timeout": 60.0}
    async with Router(world.settings(pools=pools)) as router:

        async def work(first: int) -> None:
            nonlocal wrong
            for n in range(LEASES // TASKS):
                tenant = f"row{1 + (first + n) % 2}"
                wrong += await router.tenant(tenant).fetchval("SELECT name FROM projects LIMIT 1") != f"{tenant} 1"

        async with asyncio.TaskGroup() as group:
            for n in range(TASKS):
                group.create_task(work(n))
        assert all(pool.used == 0 for pool in router.stats().pools)
    return wrong


@pytest.mark.timeout(600)
async def test_four_threads_with_a_loop_each_lease_without_an_error(world: World) -> None:
    failures: list[BaseException | int] = []

    def run() -> None:
        try:
            failures.append(asyncio.run(_lease(world)))
        except BaseException as exc:  # noqa: BLE001 - the thread's last word, told by the test
            failures.append(exc)

    threads = [threading.Thread(target=run) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        await asyncio.to_thread(thread.join)
    assert failures == [0] * THREADS
