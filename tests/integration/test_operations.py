"""Is long work done once, and is it known what became of it, also when its process dies or others ask?"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tenantproxy import ConfigurationError
from tenantproxy.config import Settings
from tenantproxy.errors import TenantProxyError
from tenantproxy.events import Event, OperationEnded
from tenantproxy.lifecycle.operations import Finished, KeyReused, Operation, OperationRequest, Operations, Progress
from tenantproxy.lifecycle.operations.run import NotCancellable, TooManyOperations
from tests.support.lasting import lasting as kept
from tests.support.waiting import until
from tests.support.world import World, a_world


@pytest.fixture(scope="module")
def house(request: pytest.FixtureRequest) -> Iterator[World]:
    with kept(a_world(request.getfixturevalue("postgres"), rows=1, schemas=0, databases=1)) as world:
        yield world


class Desk:
    """The operations of one process, and work that ends when it is told to."""

    def __init__(self, settings: Settings) -> None:
        self.events: list[Event] = []
        self.operations = Operations(lambda: settings, self.events.append)
        self.begun = 0
        self.goes_on = asyncio.Event()

    async def work(self, progress: Progress) -> Finished:
        self.begun += 1
        progress(1, 3, "half of it")
        await self.goes_on.wait()
        progress(3, 3)
        return Finished(result={"rows": 7})

    async def begin(self, key: str | None, **asked: Any) -> Operation:
        request = OperationRequest(change="try", tenant="row1", key=key, asked=asked)
        return await self.operations.begin(request, self.work)

    async def ended(self, operation: Operation) -> Operation:
        found: list[Operation] = []

        async def is_over() -> bool:
            found[:] = [each for each in [await self.operations.find(operation.id)] if each is not None]
            return bool(found) and found[0].state != "running"

        await until(is_over, "it is over")
        return found[0]


@asynccontextmanager
async def a_desk(world: World) -> AsyncIterator[Desk]:
    made = Desk(world.settings())
    try:
        yield made
    finally:
        await made.operations.close(timeout=0)


async def test_an_operation_says_how_far_it_is_and_what_came_of_it(house: World) -> None:
    async with a_desk(house) as desk, a_desk(house) as other:
        begun = await desk.begin(None)
        assert (begun.state, begun.change, begun.tenant) == ("running", "try", "row1")

        async def is_told() -> bool:
            found = await other.operations.find(begun.id)
            return found is not None and (found.done, found.total, found.what) == (1, 3, "half of it")

        await until(is_told, "another process sees its progress")
        desk.goes_on.set()
        over = await other.ended(begun)
        assert (over.state, over.result, over.error, over.done) == ("done", {"rows": 7}, None, 3)
        assert over.ended_at is not None
        assert [(e.operation, e.outcome) for e in desk.events if isinstance(e, OperationEnded)] == [(begun.id, "done")]
        newest = await other.operations.newest(before=10**18, limit=1)
        assert [each.id for each in newest] == [begun.id]


async def test_the_same_key_is_done_once_in_all_processes_and_no_other_request_has_it(house: World) -> None:
    async with a_desk(house) as desk, a_desk(house) as other:
        numbers = {each.id for each in await asyncio.gather(*(each.begin("once", a=1) for each in (desk, other) * 3))}
        assert len(numbers) == 1
        await until(lambda: desk.begun + other.begun == 1, "one of them does it")
        for each in (desk, other):
            with pytest.raises(KeyReused):
                await each.begin("once", a=2)
            each.goes_on.set()
        over = await desk.ended(await desk.begin("once", a=1))
        assert over.state == "done"
        assert (await other.begin("once", a=1)).result == {"rows": 7}
        assert desk.begun + other.begun == 1


async def test_what_is_refused_or_half_done_is_told_and_is_not_tried_again(house: World) -> None:
    async def refused(progress: Progress) -> Finished:
        raise ChangeOfTheTest("it cannot be", hint="do something else")

    async def broken(progress: Progress) -> Finished:
        raise ValueError("a secret in it")

    async def half(progress: Progress) -> Finished:
        return Finished(result={"left": 1}, has_failed=True)

    async with a_desk(house) as desk:
        for key, work, error in (("r", refused, "it cannot be"), ("b", broken, "internal error"), ("h", half, None)):
            request = OperationRequest(change="try", key=key)
            over = await desk.ended(await desk.operations.begin(request, work))
            assert over.state == "failed"
            assert (over.error is None) == (error is None)
            assert error is None or (over.error is not None and error in over.error["title"])
            assert "secret" not in str(over.error)
            assert (await desk.operations.begin(request, desk.work)).state == "failed"
        assert desk.begun == 0


class ChangeOfTheTest(TenantProxyError):
    """What work of these tests refuses with."""


async def test_one_whose_process_ended_is_gone_on_with_by_its_key_in_another(house: World) -> None:
    async with a_desk(house) as other:
        async with a_desk(house) as desk:
            begun = await desk.begin("ends")
            await until(lambda: desk.begun == 1, "it works")
        found = await other.operations.find(begun.id)
        assert found is not None
        assert found.state == "interrupted"
        assert (await other.begin("ends")).id == begun.id
        other.goes_on.set()
        assert (await other.ended(begun)).state == "done"
        assert other.begun == 1


async def test_one_that_is_silent_is_taken_over_and_its_former_process_stops(house: World) -> None:
    async with a_desk(house) as desk, a_desk(house) as other:
        begun = await desk.begin("silent")
        await until(lambda: desk.begun == 1, "it works")
        async with house.main.connect() as admin:  # as one that was stopped for long, and goes on
            stop = "UPDATE tenantproxy.operations SET state = 'interrupted' WHERE id = $1"
            await admin.execute(stop, begun.id)
        other.goes_on.set()
        assert (await other.begin("silent")).id == begun.id
        assert (await other.ended(begun)).state == "done"
        await until(lambda: bool(desk.events), "the former one has stopped")
        assert not desk.goes_on.is_set()
        assert [event.outcome for event in desk.events if isinstance(event, OperationEnded)] == ["interrupted"]


async def test_a_cancelled_one_ends_in_its_process_and_what_it_left_is_undone(house: World) -> None:
    async def undo() -> None:
        undone.append(True)

    async def fails() -> None:
        raise ChangeOfTheTest("something is left")

    async with a_desk(house) as desk, a_desk(house) as other:
        for key, taking_back, state in (("c1", undo, "cancelled"), ("c2", fails, "failed"), ("c3", None, "cancelled")):
            undone: list[bool] = []
            request = OperationRequest(change="backup", key=key, undo=taking_back)
            begun = await desk.operations.begin(request, desk.work)
            asked = await other.operations.cancel(begun.id)
            assert asked is not None
            assert asked.cancel_at is not None
            over = await other.ended(begun)
            assert (over.state, undone) == (state, [True] * (taking_back is undo))
            assert over.error is not None
            assert over.error["code"] == ("cancelled" if state == "cancelled" else ChangeOfTheTest.code)
            assert (await desk.operations.begin(request, desk.work)).state == state, "its key does not begin it again"
            if state == "cancelled":
                assert (await other.operations.cancel(begun.id)) == over, "it is cancelled by now"
        assert [e.outcome for e in desk.events if isinstance(e, OperationEnded)] == ["cancelled", "failed", "cancelled"]


async def test_what_is_over_or_removes_something_is_not_cancelled(house: World) -> None:
    async with a_desk(house) as desk:
        removing = await desk.operations.begin(OperationRequest(change="erase"), desk.work)
        with pytest.raises(NotCancellable, match=r"what 'erase' has begun"):
            await desk.operations.cancel(removing.id)
        desk.goes_on.set()
        assert (await desk.ended(removing)).state == "done"
        with pytest.raises(NotCancellable, match="it is done"):
            await desk.operations.cancel(removing.id)
        assert await desk.operations.cancel(10**17) is None


async def test_a_process_has_a_bound_and_a_main_database_without_the_table_says_what_to_do(house: World) -> None:
    async with a_desk(house) as desk:
        for _ in range(8):
            await desk.begin(None)
        with pytest.raises(TooManyOperations):
            await desk.begin(None)
    async with a_desk(house) as desk:
        async with house.main.connect() as admin:
            await admin.execute("ALTER TABLE tenantproxy.operations RENAME TO operations_of_before")
            try:
                with pytest.raises(ConfigurationError, match="tenantproxy install"):
                    await desk.begin(None)
                assert await desk.operations.newest(before=10**18, limit=1) == []
            finally:
                await admin.execute("ALTER TABLE tenantproxy.operations_of_before RENAME TO operations")
