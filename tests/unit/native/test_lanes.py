"""Whose is a lane, and for how long is what lies parked in it lent on?"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from time import sleep
from types import SimpleNamespace
from typing import Any, Final, cast

import pytest

from tenantproxy.isolation.row import RowPlan
from tenantproxy.model import Binding, Proof, Route, Tenant, tenant_id
from tenantproxy.raw.backend import RawBackend
from tenantproxy.raw.lender import RawLender
from tenantproxy.sidecar.pg.carried import CarriedRelay
from tenantproxy.sidecar.pg.lanes import LaneDesk, Lanes
from tenantproxy.sidecar.pg.traffic import Traffic
from tenantproxy.wire import frames
from tenantproxy.wire.frames import frame
from tenantproxy.wire.settings import NO_SETTINGS
from tenantproxy.wire.statements import Statements
from tests.support import model_server as pg
from tests.support.fakes import route
from tests.support.model_server import query
from tests.support.native_desk import NativeBackend, NativeClient, NativeLender, new_desk, pump, turn, without_python
from tests.support.waiting import PATIENCE

LENDER: Final = cast("RawLender", SimpleNamespace(renewal=20.0, acquire_timeout=5.0))
ANSWER: Final = pg.tag(b"SELECT 1") + frame(frames.READY, b"I")
SHORTLY: Final = 0.05


class FakeSource:
    """One tenant of a pool that is `one`'s."""

    replica = False
    after = 0

    def __init__(self, plan: Route, pool: Any) -> None:
        self.plan = plan
        self.pool = pool

    def known(self) -> tuple[Any, Route]:
        return self.pool, self.plan

    def fresh_until(self) -> float:
        return 7.0

    async def find(self) -> tuple[Any, Route]:
        return self.known()

    def reading(self, *, replica: bool, after: int = 0) -> FakeSource:
        return self


def a_pool() -> Any:
    """As lanes see one for which no caller waits."""
    quiet = SimpleNamespace(has_waiting=False, is_closed=False, budget=SimpleNamespace(is_pressed=False))
    quiet.hold_seconds = SimpleNamespace(bounds=(1.0,))
    return quiet


def with_binding(plan: Route, binding: Binding) -> Route:
    return replace(plan, session=replace(plan.session, binding=binding))


async def test_two_tenants_of_one_pool_never_share_a_lane() -> None:
    lanes, pool, traffic = Lanes(pump(), LENDER), a_pool(), Traffic()
    routes = [route("row1", "row"), route("row2", "row"), route("row1", "row")]  # the third: looked up again
    assert routes[0].pool == routes[1].pool
    found = [lanes.of(FakeSource(each, pool), NO_SETTINGS, traffic) for each in routes]
    assert len({id(lane) for lane in found}) == len(routes)
    for lane, its in zip(found, routes, strict=True):
        assert lane is not None
        assert lane.desk.route is its
        assert lane.desk.is_bound
        assert lane.until == 7.0
    assert lanes.of(FakeSource(routes[0], pool), NO_SETTINGS, traffic) is found[0]


@pytest.mark.parametrize("proof", [Proof.PLAIN, Proof.CARRIED])
async def test_what_a_tenant_can_undo_in_a_select_has_no_lane(proof: Proof) -> None:
    plain = with_binding(route("row1", "row"), Binding(tenant=tenant_id("row1"), proof=proof, setting="app.id"))
    assert Lanes(pump(), LENDER).of(FakeSource(plain, a_pool()), NO_SETTINGS, Traffic()) is None


async def test_a_row_tenant_on_a_replica_has_no_lane() -> None:
    placement = SimpleNamespace(server="one", database="shared", schema=None, role=None)
    tenant = cast("Tenant", SimpleNamespace(id=tenant_id("row1"), placement=placement, limits=route("row1").limits))
    plan = RowPlan().plan(tenant, replica="two")
    assert Lanes(pump(), LENDER).of(FakeSource(plan, a_pool()), NO_SETTINGS, Traffic()) is None


@pytest.mark.parametrize(("bound_until", "expected"), [(90.0, 70.0), (150.0, 100.0), (float("inf"), 100.0)])
async def test_a_lane_keeps_a_backend_until_its_lifetime_or_its_binding_is_to_end(
    bound_until: float, expected: float
) -> None:
    pool = cast("Any", SimpleNamespace(expires_at=lambda backend: 100.0))
    desk = LaneDesk(LENDER, pool, route("row1", "row"), NO_SETTINGS, Traffic())
    assert desk.expires_at(cast("RawBackend", SimpleNamespace(bound_until=bound_until))) == expected


async def test_whom_python_serves_comes_behind_those_who_asked_before_it_though_no_python_has_run() -> None:
    """Else it lies parked until Python runs, which may not be soon."""
    lender = NativeLender()
    lender.hands_on = True
    desk = new_desk(lender)
    desk.most = 9
    holder, first, second = (NativeClient(lender, statements=Statements(), desk=desk) for _ in range(3))
    backend = lender.backends[0]
    assert isinstance(backend, NativeBackend)
    asked = query(b"rows 1")
    for client in (holder, first):
        client.sending = asked
        client.push()
        await turn()
    assert first.conn.waiting_since
    second.sending = asked
    second.push(5)
    await turn()
    second.push()
    await turn()
    assert [bool(client.conn.waiting_since) for client in (first, second)] == [True, False]
    this, epochs = pump(), list[int]()

    def peer() -> None:
        for client in (holder, first, second):
            assert backend.far.recv(100)
            epochs.append(this.epoch)
            sleep(SHORTLY)  # the loop waits for it by now
            backend.far.sendall(ANSWER)
            assert client.far.recv(100)

    await without_python(peer, backend.far, *(client.far for client in (holder, first, second)))
    assert len(epochs) == 3
    assert epochs[2] > epochs[1]
    for client in (holder, first, second):
        await client.leave()
    lender.close()
    await turn()


async def test_who_goes_to_a_lane_that_was_made_again_comes_before_those_who_came_there_later() -> None:
    lender = NativeLender()
    desk = new_desk(lender)
    desk.most = 9
    holder, first, second = (NativeClient(lender, statements=Statements(), desk=desk) for _ in range(3))
    (backend,) = lender.backends
    assert isinstance(backend, NativeBackend)
    for n, client in enumerate((holder, first, second)):
        if client is second:
            desk.renew()
        client.sending = query(b"rows %d" % (n + 1))
        client.push()
        await turn()
    assert first.conn.waiting_since
    assert second.conn.waiting_since
    for client, each in ((holder, b"rows 1"), (first, b"rows 2"), (second, b"rows 3")):
        assert each in backend.far.recv(1000)
        backend.far.sendall(ANSWER)
        await turn()
        client.hear()
        assert client.received == ANSWER
    for client in (holder, first, second):
        await client.leave()
    lender.close()
    await turn()


@pytest.mark.parametrize("asked", ["lane", "statement"])
@pytest.mark.parametrize("is_carried", [True, False])
async def test_a_relay_that_fails_when_its_turn_comes_costs_its_own_client_alone(
    monkeypatch: pytest.MonkeyPatch, asked: str, is_carried: bool
) -> None:
    """Neither the one whose answer has just come, nor its backend, nor the next who waits."""
    failed: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failed.append(context["exception"]))
    lender = NativeLender()
    desk = new_desk(lender)
    desk.most = 9
    holder, first, second = (NativeClient(lender, statements=Statements(), desk=desk) for _ in range(3))
    (backend,) = lender.backends
    assert isinstance(backend, NativeBackend)
    for client, data in ((holder, query(b"rows 1")), (first, pg.shown(b"s") + pg.SYNC), (second, query(b"rows 3"))):
        client.sending = data
        if client is holder and not is_carried:
            client.push(5)
            await turn()
        client.push()
        await turn()
    assert first.conn.waiting_since < second.conn.waiting_since
    assert first.conn.waiting_since
    original, fault = getattr(CarriedRelay, asked), RuntimeError("its relay failed")

    def fail(self: CarriedRelay, *args: Any) -> Any:
        if self is first.relay:
            raise fault
        return original(self, *args)

    monkeypatch.setattr(CarriedRelay, asked, fail)
    for client, each in ((holder, b"rows 1"), (second, b"rows 3")):
        assert each in backend.far.recv(1000)
        backend.far.sendall(ANSWER)
        await turn()
        client.hear()
        assert client.received == ANSWER
        assert not client.conn.is_closing()
    assert failed == [fault]
    assert first.conn.is_closing()
    assert not backend.is_closed
    await turn()
    assert not desk.waiting
    assert len(lender.idle) == 1
    for client in (holder, first, second):
        await client.leave()
    lender.close()
    await turn()


async def test_who_has_waited_for_too_long_is_pythons_though_nothing_else_happens() -> None:
    lender = NativeLender()
    desk = new_desk(lender)
    desk.most, desk.patience = 9, SHORTLY
    desk.renew()
    holder, client = (NativeClient(lender, statements=Statements(), desk=desk) for _ in range(2))
    is_pythons, acquire = asyncio.Event(), lender.acquire

    def acquired(*args: Any) -> Any:
        is_pythons.set()
        return acquire(*args)

    lender.acquire = acquired  # type: ignore[method-assign, assignment]
    for each in (holder, client):
        each.sending = query(b"rows 1")
        each.push()
    async with asyncio.timeout(PATIENCE):
        await is_pythons.wait()
    assert not client.conn.waiting_since
    assert len(lender.waiting) == 1
    for each in (holder, client):
        await each.leave()
    lender.close()
    await turn()
