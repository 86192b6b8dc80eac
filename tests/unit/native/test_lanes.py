"""Whose is a lane, and for how long is what lies parked in it lent on?"""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from time import monotonic, sleep
from types import SimpleNamespace
from typing import Any, Final, cast

import pytest

from tenantproxy.isolation.row import RowPlan
from tenantproxy.model import Binding, Proof, Route, Tenant, tenant_id
from tenantproxy.raw.backend import RawBackend
from tenantproxy.raw.lender import RawLender
from tenantproxy.sidecar.pg.lanes import LaneDesk, Lanes
from tenantproxy.sidecar.pg.traffic import Traffic
from tenantproxy.wire import frames
from tenantproxy.wire.frames import frame
from tenantproxy.wire.settings import NO_SETTINGS
from tenantproxy.wire.statements import Statements
from tests.support import model_server as pg
from tests.support.fakes import route
from tests.support.model_server import query
from tests.support.native_desk import NativeBackend, NativeClient, NativeLender, new_desk, pump, turn
from tests.support.waiting import PATIENCE

ANSWER: Final = pg.tag(b"SELECT 1") + frame(frames.READY, b"I")
SHORTLY: Final = 0.05


class FakeSource:
    """One tenant of a pool that is `one`'s."""

    replica = False

    def __init__(self, plan: Route, pool: Any) -> None:
        self.plan = plan
        self.pool = pool

    def known(self) -> tuple[Any, Route]:
        return self.pool, self.plan

    def fresh_until(self) -> float:
        return 7.0

    async def find(self) -> tuple[Any, Route]:
        return self.known()

    def reading(self, *, replica: bool) -> FakeSource:
        return self

    def primary(self) -> None:
        return None


def a_pool() -> Any:
    """As lanes see one for which no caller waits."""
    quiet = SimpleNamespace(has_waiting=False, is_closed=False, budget=SimpleNamespace(is_pressed=False))
    quiet.hold_seconds = SimpleNamespace(bounds=(1.0,))
    return quiet


def with_binding(plan: Route, binding: Binding) -> Route:
    return replace(plan, session=replace(plan.session, binding=binding))


async def test_two_tenants_of_one_pool_never_share_a_lane() -> None:
    lanes, pool, traffic = Lanes(pump(), cast("RawLender", None)), a_pool(), Traffic()
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
    assert Lanes(pump(), cast("RawLender", None)).of(FakeSource(plain, a_pool()), NO_SETTINGS, Traffic()) is None


async def test_a_row_tenant_on_a_replica_has_no_lane() -> None:
    placement = SimpleNamespace(server="one", database="shared", schema=None, role=None)
    tenant = cast("Tenant", SimpleNamespace(id=tenant_id("row1"), placement=placement, limits=route("row1").limits))
    plan = RowPlan().plan(tenant, replica="two")
    assert Lanes(pump(), cast("RawLender", None)).of(FakeSource(plan, a_pool()), NO_SETTINGS, Traffic()) is None


@pytest.mark.parametrize(("bound_until", "expected"), [(90.0, 70.0), (150.0, 100.0), (float("inf"), 100.0)])
async def test_a_lane_keeps_a_backend_until_its_lifetime_or_its_binding_is_to_end(
    bound_until: float, expected: float
) -> None:
    lender = cast("RawLender", SimpleNamespace(renewal=20.0))
    pool = cast("Any", SimpleNamespace(expires_at=lambda backend: 100.0))
    desk = LaneDesk(lender, pool, route("row1", "row"), NO_SETTINGS, Traffic())
    assert desk.expires_at(cast("RawBackend", SimpleNamespace(bound_until=bound_until))) == expected


async def test_a_parked_backend_whose_binding_is_about_to_end_is_lent_no_more() -> None:
    """Though no Python has run since it was leased."""
    lender = NativeLender()
    desk = new_desk(lender)
    client = NativeClient(lender, statements=Statements(), desk=desk)
    backend = lender.backends[0]
    assert isinstance(backend, NativeBackend)
    loop, over, asked = asyncio.get_running_loop(), asyncio.Event(), query(b"rows 1")
    epochs: list[int] = []
    this = pump()

    def ask() -> None:
        client.far.sendall(asked)
        backend.far.recv(100)
        epochs.append(this.epoch)
        backend.far.sendall(ANSWER)
        client.far.recv(100)

    def peers() -> None:
        """In a thread: the loop waits meanwhile."""
        try:
            ask()
            while monotonic() < desk.expires:
                sleep(SHORTLY / 5)
            ask()
        finally:
            loop.call_soon_threadsafe(over.set)

    await turn()
    for far in (backend.far, client.far):
        far.settimeout(PATIENCE)
    desk.lasts = SHORTLY
    thread = threading.Thread(target=peers)
    thread.start()
    while not over.is_set():
        this.wait(PATIENCE)
        await asyncio.sleep(0)
    thread.join()
    assert epochs[1] > epochs[0], "the second is Python's"
    assert desk.transactions == 1
    await client.leave()
    lender.close()
    await turn()
