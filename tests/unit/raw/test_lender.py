"""Does nothing of a client go out before its session is confirmed, and does every backend that is in doubt end?"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from functools import partial

import pytest

from tenantproxy.errors import ConnectFailed, IsolationError, PoolClosed, PoolFull, PoolTimeout, ProtocolError
from tenantproxy.events import IsolationViolation, ResetFailed
from tenantproxy.raw.backend import RawBackend
from tenantproxy.raw.exchange import READY_IDLE, answer_of, row, tag
from tenantproxy.wire.statements import Statements
from tests.support.fake_wire import (
    NONCE,
    RESET_ANSWER,
    WireHouse,
    bound,
    bound_again,
    error,
    is_reset,
    said,
    transport_of,
)
from tests.support.raw_house import Client
from tests.support.waiting import until

TOKYO = ((b"TimeZone", b"Asia/Tokyo"),)


@pytest.fixture
async def house() -> WireHouse:
    """Room for one backend."""
    return WireHouse()


def lend(house: WireHouse, tenant: str) -> RawBackend:
    """A bound backend in the hands of `tenant`, what was said on it forgotten."""
    backend = house.opened_for(tenant)
    said(backend)
    return backend


def release(house: WireHouse, backend: RawBackend, tenant: str, *, is_dirty: bool = False) -> None:
    house.lender.release(backend, house.route(tenant, shared=backend.pool.key.shared), is_dirty=is_dirty)


def refusal(client: Client) -> Exception:
    assert client.calls == 1
    assert client.backend is None
    assert client.error is not None
    return client.error


# --- out -------------------------------------------------------------------------------------------------------------
async def test_a_client_hears_of_its_backend_when_the_bind_is_confirmed_and_not_before(house: WireHouse) -> None:
    client = house.ask_for("acme")
    backend = house.connector.succeed()
    (message,) = said(backend)
    assert b"SELECT tenantproxy.bind($1, $2), $3\0" in message
    answer = bound("acme")
    for at in range(len(answer)):
        assert not client.calls
        backend.data_received(answer[at : at + 1])
    assert client.backend is backend
    assert backend.bound == "acme"


async def test_the_proof_is_a_parameter_and_never_a_part_of_the_statement(house: WireHouse) -> None:
    house.ask_for("acme")
    (message,) = said(house.connector.succeed())
    assert message.startswith(b"P")
    assert message.count(b"v1.1.") == 1
    parse = message[: int.from_bytes(message[1:5], "big") + 1]
    assert b"v1.1." not in parse
    assert b"acme" not in parse


async def test_a_backend_that_is_the_tenants_already_is_lent_at_once_and_nothing_is_said(house: WireHouse) -> None:
    backend = lend(house, "acme")
    release(house, backend, "acme")
    assert house.lender.lease_nowait(house.pool("acme"), house.route("acme"), ()) is backend
    assert not said(backend)
    assert house.counters.acquires["acme"]["ok"] == 2


async def test_another_tenants_backend_is_not_lent_at_once(house: WireHouse) -> None:
    backend = lend(house, "acme")
    release(house, backend, "acme")
    assert house.lender.lease_nowait(house.pool("other"), house.route("other"), ()) is None
    assert house.pool("acme").stats().idle == 1


async def test_a_backend_whose_proof_is_about_to_end_or_whose_settings_are_others_is_not_lent_at_once(
    house: WireHouse,
) -> None:
    backend = lend(house, "acme")
    release(house, backend, "acme")
    assert house.lender.lease_nowait(house.pool("acme"), house.route("acme"), TOKYO) is None
    house.later = 45.0
    assert house.lender.lease_nowait(house.pool("acme"), house.route("acme"), ()) is None
    assert house.counters.acquires["acme"]["ok"] == 1
    assert house.pool("acme").stats().idle == 1


async def test_a_stranger_gets_a_bound_backend_after_a_confirmed_reset_and_then_a_bind(house: WireHouse) -> None:
    backend = lend(house, "acme")
    backend.prepared.add(Statements().of(b"SELECT 1\0\0\0"))
    release(house, backend, "acme")
    client = house.ask_for("other")
    assert is_reset(said(backend))
    assert backend.bound == "acme"
    backend.data_received(RESET_ANSWER)
    (message,) = said(backend)
    assert b"tenantproxy.bind" in message
    assert not client.calls
    assert len(backend.prepared) == 0
    backend.data_received(bound("other"))
    assert client.backend is backend
    assert house.counters.resets == {"ok": 1, "failed": 0}


async def test_a_backend_with_an_own_database_needs_nothing_said_and_its_client_is_not_called_at_once(
    house: WireHouse,
) -> None:
    client = house.ask_for("data", shared=False)
    backend = house.connector.succeed()
    assert not client.calls
    await asyncio.sleep(0)
    assert client.backend is backend
    assert not said(backend)


async def test_tracked_settings_are_applied_by_parameters_and_taken_back_for_one_who_has_none(house: WireHouse) -> None:
    client = house.ask_for("data", TOKYO, shared=False)
    backend = house.connector.succeed()
    (message,) = said(backend)
    assert b"set_config($1, $2, false) IS NULL, $3\0" in message
    assert message.count(b"Asia/Tokyo") == 1
    backend.data_received(answer_of("SELECT 1", row(b"f", NONCE)) + READY_IDLE)
    assert client.backend is backend
    assert backend.session == TOKYO
    release(house, backend, "data")
    plan, pool = house.route("data", shared=False), house.pool("data", shared=False)
    assert house.lender.lease_nowait(pool, plan, TOKYO) is backend
    release(house, backend, "data")
    other = house.ask_for("data", shared=False)
    (message,) = said(backend)
    assert b"Asia/Tokyo" not in message
    assert b"TimeZone\xff\xff\xff\xff" in message  # NULL: back to what it was at start-up
    backend.data_received(answer_of("SELECT 1", row(b"f", NONCE)) + READY_IDLE)
    assert other.backend is backend
    assert not backend.session


async def test_bind_and_settings_go_out_in_one_write_with_one_sync(house: WireHouse) -> None:
    client = house.ask_for("acme", (*TOKYO, (b"DateStyle", b"German")))
    backend = house.connector.succeed()
    (message,) = said(backend)
    assert message.count(b"S\0\0\0\x04") == 1
    assert message.endswith(b"S\0\0\0\x04")
    backend.data_received(bound("acme", settings=2))
    assert client.backend is backend


async def test_a_renewal_on_an_idle_backend_is_a_transaction_that_may_write(house: WireHouse) -> None:
    """Its tenant may have made the session read only."""
    backend = lend(house, "acme")
    release(house, backend, "acme")
    house.later = 45.0
    client = house.ask_for("acme")
    (message,) = said(backend)
    assert message.index(b"BEGIN READ WRITE") < message.index(b"tenantproxy.bind") < message.index(b"COMMIT")
    backend.data_received(bound_again("acme"))
    assert client.backend is backend
    assert backend.bound_until > house.clock() + 59


# --- refusals --------------------------------------------------------------------------------------------------------
WRONG = {
    "another tenant": bound("evil"),
    "what could be foreseen": answer_of("SELECT 1", row(b"acme")) + READY_IDLE,
    "another nonce": bound("acme", nonce=b"0" * 32),
    "no row": answer_of("SELECT 1") + READY_IDLE,
    "an error of the server": error("XX000") + READY_IDLE,
    "a stray ReadyForQuery": READY_IDLE + bound("acme"),
    "garbage": b"\xff" * 20,
    "a transaction that is open": bound("acme")[:-1] + b"T",
    "more than the answer": bound("acme") + READY_IDLE,
}


@pytest.mark.parametrize("answer", WRONG.values(), ids=WRONG)
async def test_a_bind_that_is_not_confirmed_ends_the_backend_and_is_tried_on_others_three_times_in_all(
    house: WireHouse, answer: bytes
) -> None:
    client = house.ask_for("acme")
    for attempt in range(3):
        assert not client.calls
        assert len(house.connector.opening) == 1, f"attempt {attempt}"
        backend = house.connector.succeed()
        backend.data_received(answer)
        assert house.connector.ending == [backend]
        house.connector.end_all()
    assert isinstance(refusal(client), IsolationError)
    assert house.counters.violations["bind"] == 1
    assert [event.check for event in house.events if isinstance(event, IsolationViolation)] == ["bind"]
    assert house.budget.in_use == 0


async def test_a_tenant_that_the_database_refuses_is_refused_without_another_try(house: WireHouse) -> None:
    client = house.ask_for("acme")
    backend = house.connector.succeed()
    backend.data_received(error("42501") + READY_IDLE)
    assert isinstance(refusal(client), IsolationError)
    assert house.connector.ending == [backend]
    assert not house.connector.opening


async def test_a_setting_that_the_server_refuses_is_the_clients_fault_and_not_tried_again(house: WireHouse) -> None:
    client = house.ask_for("acme", TOKYO)
    backend = house.connector.succeed()
    backend.data_received(answer_of("SELECT 1", row(b"acme", NONCE)) + error("22023") + READY_IDLE)
    assert isinstance(refusal(client), ProtocolError)
    assert house.counters.violations["bind"] == 0
    assert not house.connector.opening


async def test_a_connection_that_is_lost_while_it_is_entered_is_replaced_by_another(house: WireHouse) -> None:
    client = house.ask_for("acme")
    house.connector.succeed().connection_lost(None)
    house.connector.end_all()
    second = house.connector.succeed()
    second.data_received(bound("acme"))
    assert client.backend is second


async def test_connections_that_are_all_lost_are_told_as_lost(house: WireHouse) -> None:
    client = house.ask_for("acme")
    for _ in range(3):
        house.connector.succeed().connection_lost(None)
        house.connector.end_all()
    assert isinstance(refusal(client), ConnectFailed)
    assert house.counters.violations["bind"] == 0


@pytest.mark.parametrize(
    "answer",
    [
        error("57014") + READY_IDLE,
        READY_IDLE + RESET_ANSWER,
        tag("DISCARD ALL") + READY_IDLE,
        RESET_ANSWER + READY_IDLE,
    ],
    ids=["cancelled", "a stray ReadyForQuery", "in another order", "more than the answer"],
)
async def test_a_reset_on_a_strangers_path_that_is_not_confirmed_is_no_ones_bind(
    house: WireHouse, answer: bytes
) -> None:
    backend = lend(house, "acme")
    release(house, backend, "acme")
    client = house.ask_for("other")
    assert is_reset(said(backend))
    backend.data_received(answer)
    assert not said(backend), "something was said on a backend whose reset failed"
    assert house.connector.ending == [backend]
    house.connector.end_all()
    second = house.connector.succeed()
    second.data_received(bound("other"))
    assert client.backend is second
    assert house.counters.resets["failed"] == 1
    assert len([event for event in house.events if isinstance(event, ResetFailed)]) == 1


async def test_resets_that_a_stranger_made_fail_do_not_count_as_attempts_of_the_next_client() -> None:
    house = WireHouse(size=5)
    used = [house.opened_for("acme") for _ in range(5)]
    for backend in used:
        said(backend)
        release(house, backend, "acme")
    client = house.ask_for("other")
    for _ in range(5):
        (backend,) = [one for one in used if said(one)]
        backend.data_received(error("53200") + READY_IDLE)
        used.remove(backend)
        house.connector.end_all()
    house.connector.succeed().data_received(bound("other"))
    assert client.backend is not None


async def test_one_who_waits_in_vain_is_told_which_limit_it_was(house: WireHouse) -> None:
    house = WireHouse(acquire_timeout=0.01)
    backend = lend(house, "acme")
    client = house.ask_for("acme")
    with pytest.raises(PoolTimeout, match="max_size = 1"):
        await client.answer()
    assert house.counters.acquires["acme"]["timeout"] == 1
    release(house, backend, "acme")
    assert client.calls == 1


async def test_one_whose_bind_is_not_answered_in_time_is_told_and_the_backend_ends(house: WireHouse) -> None:
    house = WireHouse(acquire_timeout=0.01)
    client = house.ask_for("acme")
    backend = house.connector.succeed()
    with pytest.raises(PoolTimeout, match="in time"):
        await client.answer()
    assert house.connector.ending == [backend]
    backend.data_received(bound("acme"))
    assert client.calls == 1


async def test_refusals_of_the_pool_reach_the_client_after_acquire_has_returned() -> None:
    house = WireHouse()
    clients = [house.ask_for("acme") for _ in range(101)]
    assert not clients[100].calls
    await asyncio.sleep(0)
    assert isinstance(refusal(clients[100]), PoolFull)
    pool, plan = house.pool("acme"), house.route("acme")
    house.manager.close()
    await asyncio.sleep(0)
    assert all(isinstance(refusal(client), PoolClosed) for client in clients[:100])
    late = Client()
    house.lender.acquire(pool, plan, (), late)
    await asyncio.sleep(0)
    assert isinstance(refusal(late), PoolClosed)


# --- those who leave -------------------------------------------------------------------------------------------------
async def test_one_who_leaves_the_queue_is_not_called_and_takes_nothing(house: WireHouse) -> None:
    backend = lend(house, "acme")
    gone, waits = house.ask_for("acme"), house.ask_for("acme")
    assert gone.acquire is not None
    gone.acquire.cancel()
    gone.acquire.cancel()
    release(house, backend, "acme")
    assert (gone.calls, waits.calls) == (0, 1)
    assert house.counters.acquires["acme"]["cancelled"] == 1


@pytest.mark.parametrize("during", ["its bind", "a reset before it"])
async def test_a_client_that_leaves_while_the_end_of_its_backend_is_on_the_way_to_it_is_not_told(
    house: WireHouse, during: str, caplog: pytest.LogCaptureFixture
) -> None:
    if during == "its bind":
        client = house.ask_for("acme")
        backend = house.connector.succeed()
    else:
        backend = lend(house, "acme")
        release(house, backend, "acme")
        client = house.ask_for("other")
        assert is_reset(said(backend))
    assert client.acquire is not None
    backend.pool.retire(backend, "error")  # a suspended tenant's, say
    client.acquire.cancel()
    await asyncio.sleep(0)
    assert not client.calls
    assert not caplog.records, "a callback failed"
    assert house.connector.ending == [backend]


async def test_one_who_leaves_while_its_session_is_entered_ends_the_backend(house: WireHouse) -> None:
    client = house.ask_for("acme")
    backend = house.connector.succeed()
    assert client.acquire is not None
    client.acquire.cancel()
    assert house.connector.ending == [backend]
    backend.data_received(bound("acme"))
    await asyncio.sleep(0)
    assert not client.calls


async def test_one_who_leaves_before_it_knows_of_its_backend_gives_it_back(house: WireHouse) -> None:
    client, other = (house.ask_for("data", shared=False) for _ in range(2))
    backend = house.connector.succeed()
    assert client.acquire is not None
    client.acquire.cancel()
    await asyncio.sleep(0)
    assert client.calls == 0
    assert other.backend is backend


async def test_a_backend_that_dies_before_its_client_knows_of_it_is_replaced(house: WireHouse) -> None:
    client = house.ask_for("data", shared=False)
    first = house.connector.succeed()
    first.connection_lost(None)
    await asyncio.sleep(0)
    assert not client.calls
    house.connector.end_all()
    second = house.connector.succeed()
    await asyncio.sleep(0)
    assert client.backend is second


# --- back ------------------------------------------------------------------------------------------------------------
async def test_the_next_in_turn_of_the_same_tenant_has_it_in_the_same_step_and_nothing_is_said(
    house: WireHouse,
) -> None:
    backend = lend(house, "acme")
    client = house.ask_for("acme")
    release(house, backend, "acme")
    assert client.backend is backend
    assert not said(backend)


async def test_a_backend_that_another_tenant_waits_for_is_reset_at_once_then_bound(house: WireHouse) -> None:
    backend = lend(house, "acme")
    client = house.ask_for("other")
    release(house, backend, "acme")
    assert is_reset(said(backend))
    assert house.pool("acme").stats().resetting == 1
    backend.data_received(RESET_ANSWER)
    assert b"tenantproxy.bind" in said(backend)[0]
    backend.data_received(bound("other"))
    assert client.backend is backend


async def test_a_dirty_backend_is_reset_and_belongs_to_nobody_then(house: WireHouse) -> None:
    backend = lend(house, "acme")
    backend.session = TOKYO
    old = backend.prepared
    release(house, backend, "acme", is_dirty=True)
    assert is_reset(said(backend))
    assert house.lender.lease_nowait(house.pool("acme"), house.route("acme"), ()) is None
    backend.data_received(RESET_ANSWER)
    assert (backend.bound, len(backend.session), backend.prepared is old) == (None, 0, False)
    assert house.pool("acme").bound_to(backend) is None


@pytest.mark.parametrize(
    "answer",
    [
        error("57014"),
        READY_IDLE + RESET_ANSWER,
        tag("DISCARD ALL") + READY_IDLE,
        RESET_ANSWER + READY_IDLE,
        RESET_ANSWER.replace(NONCE, b"0" * 32),
        b"\0" * 9,
    ],
    ids=["cancelled", "a stray ReadyForQuery", "in another order", "too much", "another nonce", "garbage"],
)
async def test_a_reset_that_is_not_confirmed_ends_the_backend(house: WireHouse, answer: bytes) -> None:
    backend = lend(house, "acme")
    release(house, backend, "acme", is_dirty=True)
    backend.data_received(answer)
    assert house.connector.ending == [backend]
    assert house.counters.resets == {"ok": 0, "failed": 1}
    assert house.counters.closed["reset_failed"] == 1


async def test_a_reset_that_is_not_answered_is_ended_by_the_sweeper(house: WireHouse) -> None:
    backend = lend(house, "acme")
    release(house, backend, "acme", is_dirty=True)
    house.later = 6.0
    house.manager.sweep()
    await asyncio.sleep(0)
    assert house.connector.ending == [backend]
    assert house.counters.resets == {"ok": 0, "failed": 1}
    backend.data_received(RESET_ANSWER)
    assert house.counters.resets == {"ok": 0, "failed": 1}


async def test_a_backend_in_doubt_or_lost_is_not_lent_again(house: WireHouse) -> None:
    for spoil in ("is_doubtful", "is_closed"):
        backend = lend(house, "acme")
        setattr(backend, spoil, True)
        release(house, backend, "acme")
        assert house.connector.ending == [backend]
        house.connector.end_all()


async def test_a_backend_that_was_destroyed_is_ended_once(house: WireHouse) -> None:
    backend = lend(house, "acme")
    for _ in range(2):
        house.lender.destroy(backend)
    release(house, backend, "acme")
    assert house.connector.ending == [backend]
    assert house.counters.closed["error"] == 1


async def test_one_that_is_ended_by_others_is_told_so(house: WireHouse) -> None:
    backend = lend(house, "acme")
    losses: list[Exception | None] = []
    backend.on_lost = losses.append
    backend.pool.retire(backend, "shutdown")
    await asyncio.sleep(0)
    assert isinstance(losses[0], ConnectionAbortedError)


async def test_reading_goes_on_when_a_backend_comes_back_that_was_paused_for_a_slow_client(house: WireHouse) -> None:
    backend = lend(house, "acme")
    backend.pause_reading()
    assert transport_of(backend).is_reading_paused
    release(house, backend, "acme")
    assert not transport_of(backend).is_reading_paused


async def test_of_several_idle_backends_one_that_nobody_used_for_a_while_is_reset_ahead_for_a_stranger() -> None:
    house = WireHouse(size=2)
    first, second = lend(house, "acme"), lend(house, "other")
    release(house, first, "acme")
    assert not said(first), "the only idle backend was taken from its tenant"
    release(house, second, "other")
    assert not said(first), "it was taken from a tenant in the middle of its work"
    assert house.lender.lease_nowait(second.pool, house.route("other"), ()) is second
    house.later = 1.0
    release(house, second, "other")
    assert is_reset(said(first))
    assert not said(second)
    first.data_received(RESET_ANSWER)
    stranger = house.ask_for("stranger")
    assert b"tenantproxy.bind" in said(first)[0], "a stranger had to wait for a reset"
    first.data_received(bound("stranger"))
    assert stranger.backend is first


# --- again on a lease ------------------------------------------------------------------------------------------------
async def test_a_lease_is_renewed_by_one_conversation_and_goes_on_as_it_was(house: WireHouse) -> None:
    backend = lend(house, "acme")
    heard: list[bytes] = []
    losses: list[Exception | None] = []
    backend.sink, backend.on_lost = heard.append, losses.append
    done: list[Exception | None] = []
    house.later = 45.0
    house.lender.enter(backend, house.route("acme"), (), done.append)
    (message,) = said(backend)
    assert b"BEGIN READ WRITE" in message
    backend.data_received(bound_again("acme", on_lease=True))
    assert done == [None]
    assert backend.bound_until > house.clock() + 59
    backend.data_received(b"for the client")
    backend.connection_lost(None)
    assert (heard, losses) == ([b"for the client"], [None])


@pytest.mark.parametrize(
    "answer", [error("42501"), bound("acme"), bound_again("evil", on_lease=True), b"\0" * 9], ids=range(4)
)
async def test_a_renewal_that_is_not_confirmed_destroys_the_backend_before_the_client_hears_of_it(
    house: WireHouse, answer: bytes
) -> None:
    backend = lend(house, "acme")
    ended: list[bool] = []
    house.lender.enter(backend, house.route("acme"), (), lambda error: ended.append(backend.is_ending))
    backend.data_received(answer)
    assert ended == [True]


async def test_a_client_that_left_during_a_renewal_hears_nothing(house: WireHouse) -> None:
    backend = lend(house, "acme")
    done: list[Exception | None] = []
    house.lender.enter(backend, house.route("acme"), (), done.append)
    house.lender.destroy(backend)
    backend.data_received(bound_again("acme", on_lease=True))
    await asyncio.sleep(0)
    assert not done


async def test_entering_again_where_nothing_has_to_be_said_is_done_in_the_next_step(house: WireHouse) -> None:
    house.ask_for("data", shared=False)
    backend = house.connector.succeed()
    await asyncio.sleep(0)
    done: list[Exception | None] = []
    house.lender.enter(backend, house.route("data", shared=False), (), done.append)
    assert not done
    await asyncio.sleep(0)
    assert done == [None]
    assert not said(backend)


# --- cancelling ------------------------------------------------------------------------------------------------------
def ends_of_cancels(house: WireHouse) -> Iterator[None]:
    while house.connector.cancels:
        house.connector.cancels.pop(0)[1]()
        yield


async def test_a_backend_is_reset_and_lent_when_a_request_to_cancel_is_over_and_not_before(house: WireHouse) -> None:
    backend = lend(house, "acme")
    house.lender.cancel_request(backend, lambda: None)
    waits = house.ask_for("acme")
    release(house, backend, "acme")
    assert not said(backend), "a late request may end the reset, or hit the next client"
    assert not waits.calls
    next(ends_of_cancels(house))
    assert is_reset(said(backend))
    backend.data_received(RESET_ANSWER)
    backend.data_received(bound("acme"))
    assert waits.backend is backend


async def test_a_lease_is_renewed_when_a_request_to_cancel_is_over_and_not_before(house: WireHouse) -> None:
    backend = lend(house, "acme")
    done: list[Exception | None] = []
    house.lender.cancel_request(backend, lambda: None)
    house.lender.enter(backend, house.route("acme"), (), done.append)
    assert not said(backend), "a late request would end the client"
    next(ends_of_cancels(house))
    assert len(said(backend)) == 1
    backend.data_received(bound_again("acme", on_lease=True))
    assert done == [None]


async def test_what_is_left_is_asked_when_a_request_to_cancel_is_over_and_not_before(house: WireHouse) -> None:
    backend = lend(house, "acme")
    house.lender.cancel_request(backend, lambda: None)
    house.lender.look(backend, house.route("acme"), lambda found, error: None, settings=True)
    assert not said(backend)
    next(ends_of_cancels(house))
    assert len(said(backend)) == 1


async def test_a_storm_of_requests_to_cancel_is_one_at_a_time_and_one_more(house: WireHouse) -> None:
    backend, told = lend(house, "acme"), list[int]()
    for number in range(1000):
        house.lender.cancel_request(backend, partial(told.append, number))
    assert len(house.connector.cancels) == 1
    ends = ends_of_cancels(house)
    next(ends)
    assert len(house.connector.cancels) == 1
    assert told == [0], "the others are on their way only now"
    next(ends)
    assert not house.connector.cancels
    assert backend.cancels == 0
    assert told == list(range(1000))


async def test_all_who_asked_to_cancel_are_told_when_the_backend_was_given_back(house: WireHouse) -> None:
    backend, told = lend(house, "acme"), list[int]()
    for number in range(3):
        house.lender.cancel_request(backend, partial(told.append, number))
    release(house, backend, "acme")
    assert not told
    next(ends_of_cancels(house))
    assert told == [0, 1, 2]
    assert not house.connector.cancels


async def test_who_asks_to_cancel_on_a_backend_that_ends_is_told_at_once_or_with_the_rest(house: WireHouse) -> None:
    backend, told = lend(house, "acme"), list[int]()
    for number in range(3):
        house.lender.cancel_request(backend, partial(told.append, number))
    house.lender.destroy(backend)
    house.lender.cancel_request(backend, partial(told.append, 3))
    assert told == [3]
    next(ends_of_cancels(house))
    assert told == [3, 0, 1, 2]


async def test_no_request_to_cancel_goes_out_for_a_backend_that_ends(house: WireHouse) -> None:
    backend = lend(house, "acme")
    house.lender.destroy(backend)
    house.lender.cancel_request(backend, lambda: None)
    assert not house.connector.cancels


async def test_a_crowd_is_served_in_turn_and_a_client_that_gives_back_at_once_does_not_nest(house: WireHouse) -> None:
    """Each is told from a loop, not from within the one before it."""
    order: list[int] = []

    class Brief(Client):
        def __init__(self, number: int) -> None:
            super().__init__()
            self.number = number

        def leased(self, backend: RawBackend) -> None:
            order.append(self.number)
            house.lender.release(backend, plan, is_dirty=False)

    plan, pool = house.route("data", shared=False), house.pool("data", shared=False)
    for number in range(100):
        house.lender.acquire(pool, plan, (), Brief(number))
    house.connector.succeed()
    await until(lambda: len(order) == 100, "all were served")
    assert order == list(range(100))
