"""What does a supervisor do with workers that come, hang or die while it is asked something? Workers are fakes."""

from __future__ import annotations

import asyncio
import time

import pytest

from tenantproxy.errors import ConfigurationError, Problem
from tenantproxy.sidecar.pg.keys import new_pid
from tenantproxy.sidecar.workers import staff
from tenantproxy.sidecar.workers.state import WorkerEvent
from tests.support.fake_workers import KeptWorkers, never, values
from tests.support.waiting import until


@pytest.fixture
async def kept() -> KeptWorkers:
    return KeptWorkers()


async def test_a_tenant_paused_while_a_worker_starts_is_paused_there(kept: KeptWorkers) -> None:
    await kept.worker()
    late = await kept.worker(is_ready=False)
    await kept.supervisor._command("pause", "acme")
    await kept.get_ready()
    assert ("kill", "acme") in late.asked


async def test_a_tenant_resumed_while_a_worker_starts_is_resumed_there(kept: KeptWorkers) -> None:
    await kept.worker()
    await kept.supervisor._command("pause", "acme")
    late = await kept.worker(is_ready=False)
    await kept.supervisor._command("resume", "acme")
    await kept.get_ready()
    assert ("resume", "acme") in late.asked


async def test_a_worker_that_gets_ready_during_a_reload_has_the_new_configuration(kept: KeptWorkers) -> None:
    first = await kept.worker()
    late = await kept.worker(is_ready=False)
    kept.values = values(max_connections=30)
    first.hangs.clear()
    reloading = asyncio.ensure_future(kept.supervisor.reload())
    await until(lambda: any(verb == "prepare" for verb, _ in first.asked), "the first one prepares")
    getting_ready = asyncio.ensure_future(kept.get_ready())
    await asyncio.sleep(0)
    first.hangs.set()
    assert "servers.primary.max_connections" in await reloading
    await getting_ready
    assert [verb for verb, _ in late.asked if verb != "resize"] == ["prepare", "commit"]


async def test_a_worker_that_does_not_answer_a_reload_is_started_again(
    kept: KeptWorkers, monkeypatch: pytest.MonkeyPatch
) -> None:
    await kept.worker()
    hung = await kept.worker()
    hung.ask = never  # type: ignore[method-assign]
    kept.values = values(max_connections=30)
    await kept.supervisor.reload()
    assert hung.was_killed


async def test_a_reload_under_way_does_not_undo_what_an_upgrade_takes(kept: KeptWorkers) -> None:
    await kept.worker()
    kept.may_read.clear()
    reloading = asyncio.ensure_future(kept.supervisor.reload())
    await asyncio.sleep(0)
    yielding = asyncio.ensure_future(kept.supervisor.yield_budgets())
    await asyncio.sleep(0)
    kept.may_read.set()
    await asyncio.wait([reloading])
    assert await yielding == {"primary": 20}
    assert kept.supervisor._staff.allotment.total == {"primary": 20}


async def test_a_worker_that_hangs_does_not_delay_readiness(kept: KeptWorkers) -> None:
    hung = await kept.worker()
    hung.hangs.clear()
    await kept.worker({"readiness": {"registry": True}})
    async with asyncio.timeout(1.0):
        assert await kept.supervisor.readiness() == {"registry": True, "not draining": True}


@pytest.mark.parametrize("is_ready", [True, False])
async def test_a_worker_that_hangs_is_killed_before_it_is_ready_too(
    kept: KeptWorkers, monkeypatch: pytest.MonkeyPatch, is_ready: bool
) -> None:
    monkeypatch.setattr(staff, "_PING_SECONDS", 0.01)
    other = await kept.worker()
    hung = await kept.worker(is_ready=is_ready)
    hung.hangs.clear()
    watching = asyncio.ensure_future(kept.supervisor._staff._watch())
    await until(lambda: hung.was_killed, "it is killed")
    assert not other.was_killed
    watching.cancel()


async def test_a_supervisor_that_was_stopped_kills_no_worker(
    kept: KeptWorkers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staff, "_PING_SECONDS", 0.01)
    child = await kept.worker()
    watching = asyncio.ensure_future(kept.supervisor._staff._watch())
    for _ in range(3):
        before = len(child.asked)
        time.sleep(0.2)  # noqa: ASYNC251 - as after SIGSTOP: all of the silence was this process's
        await until(lambda n=before: len(child.asked) > n + 2, "again")  # type: ignore[misc]
    assert not child.was_killed
    watching.cancel()


async def test_what_a_worker_counted_stays_counted_when_it_is_gone(kept: KeptWorkers) -> None:
    family = ["tenantproxy_things", "Things.", "counter", [["tenantproxy_things_total", {}, 5.0]]]
    gauge = ["tenantproxy_level", "Level.", "gauge", [["tenantproxy_level", {}, 2.0]]]
    await kept.worker({"metrics": [family, gauge]})
    (place,) = kept.places
    assert await total(kept) == {"tenantproxy_things_total": 5.0, "tenantproxy_level": 2.0}
    place.happened(WorkerEvent.CRASHED)
    kept.supervisor._bury(place)
    assert await total(kept) == {"tenantproxy_things_total": 5.0}
    place.happened(WorkerEvent.BACKED_OFF)
    place.happened(WorkerEvent.OPENED)
    assert await total(kept) == {"tenantproxy_things_total": 10.0, "tenantproxy_level": 2.0}, "of both"


async def total(kept: KeptWorkers) -> dict[str, float]:
    registry = await kept.supervisor._metrics()
    found = {one.name: one.value for family in registry.collect() for one in family.samples}
    return {name: value for name, value in found.items() if name in ("tenantproxy_things_total", "tenantproxy_level")}


async def test_a_worker_that_died_is_told_to_the_living_and_to_the_next_if_none_lives(kept: KeptWorkers) -> None:
    living = await kept.worker()
    await kept.worker(is_ready=False)
    place = kept.places[-1]
    await kept.supervisor._answer(place, "ready", "its-id")
    place.happened(WorkerEvent.CRASHED)
    living.ask = never  # type: ignore[method-assign]
    kept.supervisor._bury(place)
    await asyncio.sleep(0)
    late = await kept.worker()
    await until(lambda: ("bury", ["its-id"]) in late.asked, "it hears of it")
    await until(lambda: not kept.supervisor._dead, "all have been told")
    after = await kept.worker()
    await asyncio.sleep(0.01)
    assert not any(verb == "bury" for verb, _ in after.asked), "once is enough"


# --- budgets ---------------------------------------------------------------------------------------------------------
def parts(kept: KeptWorkers) -> list[int]:
    return [place.granted["primary"] for place in kept.places]


async def test_what_a_worker_still_holds_is_given_to_no_other(kept: KeptWorkers) -> None:
    holds = await kept.worker({"resize": {"primary": 17}})
    await kept.worker()
    await kept.worker()
    kept.places[2].granted = {}
    await kept.supervisor._staff.allotment.level()
    assert holds.asked[-1] == ("resize", {"primary": 14})
    assert parts(kept) == [17, 13, 10]


async def test_a_worker_that_does_not_say_what_it_holds_may_hold_all_it_had(kept: KeptWorkers) -> None:
    hung = await kept.worker()
    await kept.worker()
    await kept.worker()
    kept.places[2].granted = {}
    hung.ask = never  # type: ignore[method-assign]
    await kept.supervisor._staff.allotment.level()
    assert parts(kept) == [20, 13, 7]


async def test_the_parts_of_workers_that_drain_or_start_again_are_not_given_away(kept: KeptWorkers) -> None:
    await kept.worker()
    await kept.worker()
    await kept.worker()
    kept.places[2].granted = {}
    kept.places[0].happened(WorkerEvent.TOLD_TO_END)
    await kept.supervisor._staff.allotment.level()
    assert parts(kept) == [20, 10, 10]
    kept.places[1].happened(WorkerEvent.CRASHED)
    await kept.supervisor._staff.allotment.level()
    assert parts(kept) == [20, 10, 10]


# --- what is asked of all --------------------------------------------------------------------------------------------
async def test_a_reload_moves_the_budgets_of_all_workers(kept: KeptWorkers) -> None:
    await kept.worker()
    await kept.worker()
    kept.values = values(max_connections=30)
    await kept.supervisor.reload()
    assert parts(kept) == [15, 15]


async def test_a_configuration_that_one_worker_refuses_is_taken_over_by_none(kept: KeptWorkers) -> None:
    wrong = ConfigurationError([Problem(key="a.b", problem="is wrong", fix="write c")])
    first = await kept.worker()
    other = await kept.worker({"prepare": wrong})
    kept.values = values(max_connections=30)
    with pytest.raises(ConfigurationError, match="is wrong"):
        await kept.supervisor.reload()
    assert first.verbs == other.verbs == ["prepare", "abort"]
    assert parts(kept) == [20, 20]


async def test_a_budget_that_is_too_small_for_the_workers_is_refused(kept: KeptWorkers) -> None:
    await kept.worker()
    kept.values = values(max_connections=5)
    with pytest.raises(ConfigurationError, match="each of 2 workers needs 3"):
        await kept.supervisor.reload()


async def test_a_cancel_request_is_passed_to_the_worker_of_its_number_alone(kept: KeptWorkers) -> None:
    first, second = await kept.worker({"cancel": True}), await kept.worker({"cancel": True})
    assert await kept.supervisor.cancel(new_pid(2), b"secret")
    assert (first.verbs, second.verbs) == ([], ["cancel"])
    assert await kept.supervisor.cancel(4_000_000, b"secret"), "of a server's own number any may know"
    assert first.verbs == ["cancel"]


async def test_a_cancel_request_of_a_worker_that_died_goes_nowhere(kept: KeptWorkers) -> None:
    first, second = await kept.worker({"cancel": True}), await kept.worker({"cancel": True})
    kept.places[1].happened(WorkerEvent.CRASHED)
    assert not await kept.supervisor.cancel(new_pid(2), b"secret")
    assert (first.verbs, second.verbs) == ([], [])
