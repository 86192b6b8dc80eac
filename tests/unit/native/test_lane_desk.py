"""When has a client no lane, and when may a backend not go on in one?"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, Final, cast

import pytest

from tenantproxy.raw.backend import RawBackend
from tenantproxy.raw.lender import RawLender
from tenantproxy.sidecar.pg import lanes
from tenantproxy.sidecar.pg.lanes import LaneDesk, Lanes
from tenantproxy.sidecar.pg.traffic import Traffic
from tenantproxy.wire.settings import NO_SETTINGS
from tenantproxy.wire.statements import Statements
from tests.support.fakes import route
from tests.support.native_desk import NativeClient, NativeLender, new_desk, pump, turn

LENDER: Final = cast("RawLender", SimpleNamespace(renewal=20.0, acquire_timeout=5.0))
EXPIRES: Final = 100.0
FLAGS: Final = ("is_doubtful", "cancels", "lost_tenant", "saw_read_only")


class AskedPool:
    """A pool as lanes see it: by default no caller waits, and `room` may."""

    hold_seconds = SimpleNamespace(bounds=(1.0,))

    def __init__(
        self, *, room: int = 5, waits: bool = False, is_closed: bool = False, is_pressed: bool = False
    ) -> None:
        self.room = room
        self.has_waiting = waits
        self.is_closed = is_closed
        self.budget = SimpleNamespace(is_pressed=is_pressed)
        self.lends_on = True

    def room_ahead(self, tenant: str, own: int | None = None) -> int:
        return self.room

    def expires_at(self, backend: RawBackend) -> float:
        return EXPIRES

    def lend_on(self, backend: RawBackend, since: float) -> bool:
        return self.lends_on


class AskedSource:
    """Knows one tenant, whose pool this is."""

    def __init__(self, pool: AskedPool) -> None:
        self.found = cast("Any", pool), route("row1", "row")

    def known(self) -> Any:
        return self.found

    def fresh_until(self) -> float:
        return EXPIRES


def of(these: Lanes, pool: AskedPool) -> Any:
    return these.of(cast("Any", AskedSource(pool)), NO_SETTINGS, Traffic())


def desk_of(pool: AskedPool) -> LaneDesk:
    return LaneDesk(LENDER, cast("Any", pool), route("row1", "row"), NO_SETTINGS, Traffic())


def a_backend(**more: object) -> RawBackend:
    return cast("RawBackend", SimpleNamespace(**dict.fromkeys(FLAGS, False), bound_until=float("inf"), **more))


# --- the pool --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("flag", FLAGS)
async def test_a_backend_that_is_not_as_it_should_be_goes_back_to_its_pool(flag: str) -> None:
    desk, backend = desk_of(AskedPool()), a_backend()
    assert desk.keep(backend, 0.0) == EXPIRES
    setattr(backend, flag, True)
    assert not desk.keep(backend, 0.0)


async def test_a_backend_that_its_pool_has_another_use_for_goes_back_to_it() -> None:
    pool = AskedPool()
    pool.lends_on = False
    assert not desk_of(pool).keep(a_backend(), 0.0)


@pytest.mark.parametrize("more", [{"is_closed": True}, {"is_pressed": True}, {"waits": True, "room": 0}])
async def test_no_lane_is_there_where_others_have_a_say_in_what_is_leased(more: dict[str, Any]) -> None:
    assert of(Lanes(pump(), LENDER), AskedPool(**more)) is None


@pytest.mark.parametrize("waits", [True, False])
async def test_a_lane_leases_nothing_from_a_pool_for_which_its_tenant_waits_in_python(waits: bool) -> None:
    lane = of(Lanes(pump(), LENDER), AskedPool(waits=waits))
    assert lane.lends is not waits


async def test_no_client_waits_in_a_lane_for_a_pool_that_others_press() -> None:
    assert desk_of(AskedPool()).room == 5
    assert not desk_of(AskedPool(is_pressed=True)).room


@pytest.mark.parametrize("more", [{"is_closed": True}, {"is_pressed": True}, {"waits": True}])
async def test_what_is_given_back_is_told_to_those_who_want_it(more: dict[str, Any]) -> None:
    assert not desk_of(AskedPool()).is_wanted
    assert desk_of(AskedPool(**more)).is_wanted


async def test_lanes_of_pools_that_may_be_gone_are_not_kept_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "_MOST", 3)
    these = Lanes(pump(), LENDER)
    for _ in range(7):
        assert of(these, AskedPool()) is not None
    assert len(these._known) <= 3


# --- the client ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("state", ["is_draining", "_is_over", "is_dirty", "left", "has_returned"])
async def test_a_client_of_which_python_has_something_to_say_has_no_lane(state: str) -> None:
    lender = NativeLender()
    client = NativeClient(lender, statements=Statements(), desk=new_desk(lender))
    relay = client.relay
    assert relay.lane() is not None
    assert relay.resets_nothing
    owner = relay if hasattr(relay, state) else relay.kept
    setattr(owner, state, True)
    assert relay.lane() is None
    assert relay.resets_nothing is (owner is relay)
    setattr(owner, state, False)
    await client.leave()
    lender.close()
    await turn()


async def test_a_reset_tells_something_where_a_client_began_with_settings_of_its_own() -> None:
    lender = NativeLender()
    client = NativeClient(lender, statements=Statements(), desk=new_desk(lender))
    client.relay.kept._start = ((b"application_name", b"one"),)
    assert client.relay.lane() is not None
    assert not client.relay.resets_nothing
    await client.leave()
    lender.close()
    await turn()
