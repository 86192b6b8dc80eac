"""Is nothing lost and nothing left half done, at whichever await a caller is cancelled or a server fails?"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import asyncpg
import pytest

from tenantproxy.errors import (
    ConnectFailed,
    IsolationError,
    PoolClosed,
    PoolTimeout,
    TenantProxyError,
)
from tenantproxy.model import Limits, Route
from tenantproxy.pools.resets import RESET_SECONDS
from tests.support.fake_sessions import LendingHouse, route_of, session_of
from tests.support.faults import Moment, cancel_at
from tests.support.waiting import until

ACME, OTHER = route_of("acme"), route_of("other")
ALONE = route_of("acme", shared=False)
IN_CONTEXT = route_of("acme", context=(("app.user_id", "7"),))
MOST_AWAITS = 20

Prepare = Callable[[LendingHouse], Awaitable[None]]


async def nothing(house: LendingHouse) -> None:
    """A cold pool."""


async def own_idle(house: LendingHouse) -> None:
    """An idle session that is this tenant's still."""
    await house.use(ACME)
    await house.settled()


async def others_idle(house: LendingHouse) -> None:
    """An idle session that is another tenant's."""
    await house.use(OTHER)
    await house.settled()


async def dies_when_entered(house: LendingHouse) -> None:
    """The first session that is entered is lost, the second is good."""
    house.server.fail_at = {1: ConnectionResetError("lost")}


async def lent_soon_back(house: LendingHouse) -> None:
    """The only session is lent, and comes back while others wait."""
    backend = await house.acquire(OTHER)
    asyncio.get_running_loop().call_later(0.005, house.lender.release, backend, OTHER)


ACQUIRES: list[tuple[Prepare, Route]] = [
    (nothing, ACME),
    (nothing, ALONE),
    (nothing, IN_CONTEXT),
    (own_idle, ACME),
    (own_idle, IN_CONTEXT),
    (others_idle, ACME),
    (others_idle, IN_CONTEXT),
    (dies_when_entered, ACME),
    (lent_soon_back, ACME),
]


def named(value: object) -> str:
    return value.__name__ if callable(value) else f"{value.pool.database}{'+' * bool(value.session.context)}"  # type: ignore[attr-defined]


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize(("prepare", "route"), ACQUIRES, ids=named)
async def test_an_acquire_that_is_cancelled_at_any_await_leaves_nothing_behind(
    prepare: Prepare, route: Route, moment: Moment
) -> None:
    cancelled = 0
    for k in range(MOST_AWAITS):
        house = LendingHouse()
        await prepare(house)
        if not await cancel_at(take_and_give(house, route), k, moment):
            break
        cancelled += 1
        await house.all_back()
        await house.audit()
        for again in (ACME, OTHER, ALONE):
            await house.use(again)
            await house.settled()
        await house.audit()
    else:
        raise AssertionError(f"more than {MOST_AWAITS} awaits")
    assert cancelled or (prepare is own_idle and route is ACME), "it never waited"


async def take_and_give(house: LendingHouse, route: Route) -> None:
    backend = await house.acquire(route)
    house.lender.release(backend, route)


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_a_session_that_was_being_entered_when_its_caller_left_is_ended(moment: Moment) -> None:
    house = LendingHouse()
    await others_idle(house)
    (before,) = house.server.sessions
    assert await cancel_at(take_and_give(house, ACME), 1, moment)  # the first one is for the pool to reset it
    await house.settled()
    assert before.is_closed()
    assert before not in house.server.sessions
    assert (house.counters.resets["failed"], house.counters.bind_failures) == (0, 0), "its caller left: nothing failed"


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_a_caller_that_leaves_while_the_pool_resets_a_session_ends_neither(moment: Moment) -> None:
    house = LendingHouse()
    await others_idle(house)
    (before,) = house.server.sessions
    assert await cancel_at(take_and_give(house, ACME), 0, moment)
    await house.settled()
    assert list(house.server.sessions) == [before]
    assert (before.tenant, house.counters.resets) == (None, {"ok": 2, "failed": 0})
    await house.audit()


async def test_a_session_that_was_handed_over_in_the_step_in_which_its_caller_left_goes_to_the_next() -> None:
    house = LendingHouse()
    backend = await house.acquire(ALONE)
    leaves = asyncio.create_task(take_and_give(house, ALONE))
    stays = asyncio.create_task(house.acquire(ALONE))
    await until(lambda: house.pool(ALONE).stats().waiting == 2, "both wait")
    session_of(backend).is_dirty = False
    house.pool(ALONE).ready(backend, None)
    leaves.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaves
    assert await stays is backend
    house.lender.release(backend, ALONE)
    await house.audit()


async def test_a_caller_that_leaves_the_queue_is_out_of_it_at_once_and_counted() -> None:
    house = LendingHouse()
    backend = await house.acquire(ALONE)
    waits = asyncio.create_task(house.acquire(ALONE))
    await until(lambda: house.pool(ALONE).has_waiting, "it waits")
    waits.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waits
    assert not house.pool(ALONE).has_waiting
    assert house.counters.acquires["acme"]["cancelled"] == 1
    house.lender.release(backend, ALONE)
    await house.audit()


async def test_a_caller_that_leaves_while_its_pool_closes_leaves_nothing_behind() -> None:
    house = LendingHouse()
    backend = await house.acquire(ALONE)
    waits = asyncio.create_task(house.acquire(ALONE))
    await until(lambda: house.pool(ALONE).has_waiting, "it waits")
    pool = house.pool(ALONE)
    house.manager.remove(ALONE.tenant, [ALONE.pool])
    waits.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waits
    house.lender.release(backend, ALONE)
    await until(lambda: pool.is_empty, "its connection has ended")
    assert house.budget.in_use == 0


# --- resets ----------------------------------------------------------------------------------------------------------
def dirty(house: LendingHouse, *, settle: bool, taint: bool) -> None:
    """The session that is lent was left in this state."""
    (session,) = house.server.sessions
    session.must_settle, session.is_tainted = settle, taint


@pytest.mark.parametrize("route", [ACME, ALONE], ids=named)
@pytest.mark.parametrize(("settle", "taint"), [(False, False), (True, False), (False, True), (True, True)])
async def test_a_reset_that_fails_at_any_call_ends_the_session_and_nothing_is_lost(
    route: Route, *, settle: bool, taint: bool
) -> None:
    for k in range(MOST_AWAITS):
        house = LendingHouse()
        backend = await house.acquire(route)
        dirty(house, settle=settle, taint=taint)
        calls = len(house.server.calls)
        house.server.fail_at = {calls + k: asyncpg.PostgresError("boom")}
        house.lender.release(backend, route)
        await house.settled()
        if len(house.server.calls) <= calls + k:
            break
        assert session_of(backend) not in house.server.sessions
        assert house.counters.resets["failed"] == 1
        assert house.counters.closed["reset_failed"] == 1
        await house.audit()
        house.server.fail_at = {}
        await house.use(OTHER)
        await house.audit()
    assert k == 1 + settle * 1 + taint * 2 or (taint and not settle and k == 4), k


@pytest.mark.parametrize("route", [ACME, ALONE], ids=named)
@pytest.mark.parametrize(("settle", "taint"), [(False, False), (True, True)])
async def test_a_session_that_is_retired_at_any_moment_of_its_reset_ends_and_nothing_is_lost(
    route: Route, *, settle: bool, taint: bool
) -> None:
    for rounds in range(MOST_AWAITS):
        house = LendingHouse()
        backend = await house.acquire(route)
        dirty(house, settle=settle, taint=taint)
        house.lender.release(backend, route)
        for _ in range(rounds):
            await asyncio.sleep(0)
        was_resetting = house.pool(route).stats().resetting
        house.pool(route).retire(backend, "evicted")
        await house.settled()
        assert session_of(backend) not in house.server.sessions
        await house.audit()
        if not was_resetting:
            return
    raise AssertionError("the reset never ended")


@pytest.mark.parametrize("rounds", range(1, 8))
async def test_a_reset_task_that_somebody_cancels_ends_the_session_and_nothing_is_lost(rounds: int) -> None:
    house = LendingHouse()
    backend = await house.acquire(ACME)
    dirty(house, settle=True, taint=True)
    house.lender.release(backend, ACME)
    for _ in range(rounds):
        await asyncio.sleep(0)
    assert backend.task is not None
    if not backend.task.done():
        backend.task.cancel()
    await house.settled()
    await house.audit()
    await house.use(OTHER)
    await house.audit()


async def test_a_reset_that_was_cancelled_before_it_began_is_noticed_by_the_sweeper() -> None:
    house = LendingHouse()
    backend = await house.acquire(ACME)
    dirty(house, settle=True, taint=True)
    house.lender.release(backend, ACME)
    assert backend.task is not None
    backend.task.cancel()
    await asyncio.sleep(0)
    house.later = RESET_SECONDS + 1.0
    house.manager.sweep()
    await house.audit()
    assert session_of(backend) not in house.server.sessions


async def test_an_answer_that_is_not_the_resets_ends_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    house = LendingHouse()
    backend = await house.acquire(ACME)

    async def other_answer(sql: str, timeout: float | None) -> str:
        await asyncio.get_running_loop().run_in_executor(None, int)
        return "ROLLBACK"

    monkeypatch.setattr(session_of(backend), "simple", other_answer)
    house.lender.release(backend, ACME)
    await house.settled()
    assert session_of(backend) not in house.server.sessions
    await house.audit()


@pytest.mark.parametrize("what", ["has_foreign_codecs", "is_doubtful", "under_way"])
async def test_a_session_that_no_reset_can_clean_is_ended(what: str) -> None:
    house = LendingHouse()
    backend = await house.acquire(ACME)
    setattr(session_of(backend), what, True)
    house.lender.release(backend, ACME)
    await house.audit()
    assert session_of(backend) not in house.server.sessions


async def test_a_session_that_died_while_it_was_lent_is_not_reset() -> None:
    house = LendingHouse()
    backend = await house.acquire(ACME)
    backend.con.terminate()
    calls = len(house.server.calls)
    house.lender.release(backend, ACME)
    await house.audit()
    assert len(house.server.calls) == calls


async def test_without_resets_between_leases_of_one_tenant_a_session_stays_his() -> None:
    house = LendingHouse(always_reset=False)
    first = await house.acquire(ACME)
    session_of(first).is_dirty = False
    house.lender.release(first, ACME)
    calls = len(house.server.calls)
    assert await house.acquire(ACME) is first
    assert len(house.server.calls) == calls
    session_of(first).is_dirty = False
    house.lender.release(first, ACME)
    assert await house.acquire(OTHER) is first
    assert house.server.calls[calls:] == ["reset", "enter"]


async def test_a_session_that_stays_with_its_tenant_needs_no_entering_again() -> None:
    house = LendingHouse()
    await own_idle(house)
    calls = len(house.server.calls)
    assert house.lender.acquire_nowait(house.pool(ACME), ACME) is not None
    assert len(house.server.calls) == calls


async def test_what_has_to_be_entered_is_not_had_at_once() -> None:
    house = LendingHouse()
    await others_idle(house)
    assert house.lender.acquire_nowait(house.pool(ACME), ACME) is None
    assert house.lender.acquire_nowait(house.pool(IN_CONTEXT), IN_CONTEXT) is None
    await house.audit()


# --- a server that fails while a session is entered ------------------------------------------------------------------
def sqlstate(state: str) -> asyncpg.PostgresError:
    error: asyncpg.PostgresError = asyncpg.PostgresError.new({"C": state, "M": "hunter2", "S": "ERROR"})
    return error


@pytest.mark.parametrize(
    ("fault", "kind", "sessions"),
    [
        (ConnectionResetError("hunter2"), ConnectFailed, 3),
        (asyncpg.InterfaceError("hunter2"), ConnectFailed, 3),
        (sqlstate("57P01"), ConnectFailed, 3),
        (sqlstate("08006"), ConnectFailed, 3),
        (sqlstate("XX000"), IsolationError, 3),
        (sqlstate("42501"), IsolationError, 1),
        (TimeoutError("hunter2"), PoolTimeout, 1),
    ],
    ids=lambda case: type(case).__name__ + getattr(case, "sqlstate", "") if isinstance(case, BaseException) else "",
)
async def test_a_session_that_cannot_be_entered_is_ended_and_its_caller_hears_why_but_not_the_servers_words(
    fault: BaseException, kind: type[TenantProxyError], sessions: int
) -> None:
    house = LendingHouse()
    house.server.fail_at = dict.fromkeys(range(1, 100), fault)
    for connect in range(0, 100, 2):
        house.server.fail_at.pop(connect, None)
    with pytest.raises(kind) as failed:
        await house.acquire(ACME)
    assert "hunter2" not in str(failed.value)
    assert "server 'one', database 'shared'" in str(failed.value)
    assert failed.value.__suppress_context__
    await house.settled()
    assert house.server.calls == ["connect", "enter"] * sessions
    assert not house.server.sessions
    await house.audit()


async def test_a_session_lost_while_it_was_entered_is_replaced_without_the_caller_noticing() -> None:
    house = LendingHouse()
    await dies_when_entered(house)
    backend = await house.acquire(ACME)
    assert house.server.calls == ["connect", "enter", "connect", "enter"]
    house.lender.release(backend, ACME)
    await house.audit()


async def test_a_session_that_answers_with_another_tenant_is_ended_and_counted() -> None:
    house = LendingHouse()
    house.server.wrong_answer = "other"
    with pytest.raises(IsolationError, match="another tenant"):
        await house.acquire(ACME)
    await house.settled()
    assert not house.server.sessions
    assert house.counters.violations["bind"] == 1


async def test_an_error_that_nobody_foresaw_ends_the_session_too() -> None:
    house = LendingHouse()
    house.server.fail_at = {1: ZeroDivisionError("never thought of")}
    with pytest.raises(ZeroDivisionError):
        await house.acquire(ACME)
    await house.settled()
    assert not house.server.sessions
    await house.audit()


# --- time ------------------------------------------------------------------------------------------------------------
async def test_a_caller_waits_no_longer_than_it_said_and_leaves_nothing_behind() -> None:
    house = LendingHouse()
    backend = await house.acquire(ALONE)
    with pytest.raises(PoolTimeout, match="max_size = 1"):
        await house.acquire(ALONE, timeout=0.01)
    assert house.counters.acquires["acme"]["timeout"] == 1
    house.lender.release(backend, ALONE)
    await house.audit()


async def test_entering_a_session_of_a_silent_server_ends_with_the_callers_patience() -> None:
    house = LendingHouse()
    await house.use(ACME)
    await house.settled()
    (idle,) = house.pool(ACME).connections()
    idle.bound_until = 0.0  # its proof has ended: nothing but entering takes time
    house.server.hang_at = len(house.server.calls)
    with pytest.raises(PoolTimeout, match="silent"):
        await house.acquire(ACME, timeout=0.01)
    await house.settled()
    assert not house.server.sessions
    await house.audit()


async def test_a_tenants_own_patience_wins_over_the_configured_one() -> None:
    house = LendingHouse(acquire_timeout=60.0)
    backend = await house.acquire(ALONE)
    hasty = replace(ALONE, limits=Limits(acquire_timeout=0.01))
    with pytest.raises(PoolTimeout, match=r"0\.01 s"):
        await house.acquire(hasty)
    house.lender.release(backend, ALONE)
    await house.audit()


async def test_a_closed_pool_lends_nothing_to_those_who_come_and_those_who_wait() -> None:
    house = LendingHouse()
    backend = await house.acquire(ALONE)
    waits = asyncio.create_task(house.acquire(ALONE))
    await until(lambda: house.pool(ALONE).has_waiting, "it waits")
    pool = house.pool(ALONE)
    house.manager.close()
    with pytest.raises(PoolClosed):
        await waits
    with pytest.raises(PoolClosed):
        await house.lender.acquire(pool, ALONE)
    house.lender.release(backend, ALONE)
    await until(lambda: pool.is_empty, "its connection has ended")
    assert house.budget.in_use == 0
