"""Who takes clients of the port while workers are started again, one after the other? Workers are fakes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from tenantproxy.errors import TenantProxyError
from tenantproxy.sidecar.service import WorkerNotFound
from tenantproxy.sidecar.workers import allotment
from tenantproxy.sidecar.workers.state import WorkerState
from tests.support.fake_workers import BornWorkers

Born = Callable[[int, int], Awaitable[BornWorkers]]


@pytest.fixture
async def born(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Born]:
    """So many workers that serve, of one server with so many connections."""
    made: list[BornWorkers] = []
    monkeypatch.setattr(allotment, "_YIELD_SECONDS", 0.02)

    async def start(workers: int, max_connections: int) -> BornWorkers:
        made.append(BornWorkers(monkeypatch, workers, max_connections))
        await made[-1].supervisor.open()
        return made[-1]

    yield start
    for house in made:
        await house.supervisor.close()


def takers(house: BornWorkers) -> list[set[int]]:
    """Who took clients each time that one was told to drain."""
    now: set[int] = set()
    found = []
    for number, verb in house.said:
        if verb in ("ready", "recall"):
            now.add(number)
        elif verb in ("relieve", "drain"):
            now.discard(number)
        if verb == "drain":
            found.append(set(now))
    return found


def budgets(house: BornWorkers) -> list[int]:
    return [place.granted["primary"] for place in house.places]


@pytest.mark.parametrize(("workers", "connections"), [(1, 6), (2, 40), (3, 18), (3, 12)])
async def test_a_client_that_is_sent_away_meets_no_former_worker(born: Born, workers: int, connections: int) -> None:
    house = await born(workers, connections)
    former = house.in_state(WorkerState.READY)
    await house.supervisor.restart()
    assert house.in_state(WorkerState.READY) == {number + workers for number in former}, "all are others"
    met = takers(house)
    assert len(met) == workers
    assert all(met), "there is one that takes clients"
    assert not any(former & each for each in met)


async def test_all_new_workers_take_clients_before_one_is_sent_away(born: Born) -> None:
    house = await born(3, 18)
    await house.supervisor.restart()
    assert takers(house) == [{4, 5, 6}] * 3
    assert budgets(house) == [6, 6, 6]


async def test_one_worker_is_started_again_behind_a_new_one_and_no_other(born: Born) -> None:
    house = await born(3, 24)
    assert await house.supervisor.restart(2) == [4]
    assert takers(house) == [{1, 3, 4}]
    assert [row.number for row in house.supervisor.workers()] == [1, 3, 4]
    assert house.in_state(WorkerState.READY) == {1, 3, 4}
    with pytest.raises(WorkerNotFound, match="no worker 2"):
        await house.supervisor.restart(2)
    house.failing = {5}
    with pytest.raises(TenantProxyError, match="it cannot start"):
        await house.supervisor.restart(3)
    assert house.in_state(WorkerState.READY) == {1, 3, 4}, "it serves on"


async def test_with_no_budget_for_one_more_a_worker_ends_before_another_starts(born: Born) -> None:
    house = await born(2, 7)
    await house.supervisor.restart()
    assert takers(house) == [{2}, {3}], "those who are left must serve"
    assert house.in_state(WorkerState.READY) == {3, 4}


async def test_a_new_worker_that_does_not_start_leaves_all_as_they_were(born: Born) -> None:
    house = await born(2, 40)
    house.failing = {4}
    with pytest.raises(TenantProxyError, match="it cannot start"):
        await house.supervisor.restart()
    assert house.in_state(WorkerState.READY) == {1, 2}
    assert len(house.places) == 2
    assert not [number for number, verb in house.said if verb == "relieve"]
    assert budgets(house) == [20, 20]


async def test_former_workers_take_clients_again_when_no_other_comes_for_them(born: Born) -> None:
    house = await born(3, 12)
    house.failing = {5}
    with pytest.raises(TenantProxyError, match="it cannot start"):
        await house.supervisor.restart()
    assert [number for number, verb in house.said if verb == "recall"] == [2, 3]
    assert house.in_state(WorkerState.READY) == {2, 3, 4}
    assert len(house.places) == 4, "the one that failed is tried again"


async def test_workers_that_use_too_much_for_all_new_ones_make_room_first(born: Born) -> None:
    house = await born(2, 40)
    house.holds = {1: 20, 2: 14}
    await house.supervisor.restart()
    assert takers(house) == [{3}, {3, 4}]
    assert house.in_state(WorkerState.READY) == {3, 4}
