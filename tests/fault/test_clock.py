"""What if the server's clock and ours disagree? A proof of a row tenant holds for a window of time."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from tenantproxy import IsolationError
from tenantproxy.events import IsolationViolation
from tests.support.checked import CheckedRouter, audit_closed, checked
from tests.support.waiting import until
from tests.support.world import World

COUNT = "SELECT count(*) FROM projects"

Skew = Callable[[float], None]


@pytest.fixture
def skew(monkeypatch: pytest.MonkeyPatch) -> Skew:
    """`skew(5.0)`: from now on our clock is five seconds ahead of the server's."""
    ahead = 0.0
    ours = SimpleNamespace(time=lambda: time.time() + ahead)
    for name in ("connector", "state"):  # where it is measured, and where proofs are made
        monkeypatch.setattr(f"tenantproxy.driver.{name}.time", ours)

    def by(seconds: float) -> None:
        nonlocal ahead
        ahead = seconds

    return by


@pytest.mark.parametrize("seconds", [-30.0, -2.0, 2.0, 30.0])
async def test_clocks_more_than_a_second_apart_are_refused_at_start_with_the_remedy(
    lasting: World, skew: Skew, seconds: float
) -> None:
    skew(seconds)
    router = CheckedRouter(lasting.settings())
    with pytest.raises(IsolationError, match=r"clock of the server is .* s from ours.*NTP") as caught:
        await router.open()
    assert caught.value.http_status == 500
    said = re.search(r"is ([+-][\d.]+) s from ours", str(caught.value))
    assert said is not None
    assert abs(float(said[1]) + seconds) < 1.5  # it is measured, over a network, on a busy machine
    assert router.count(IsolationViolation) == 1
    await audit_closed(router, [lasting.server])


@pytest.mark.parametrize("seconds", [-0.5, 0.5])
async def test_clocks_less_than_a_second_apart_are_made_up_for(lasting: World, skew: Skew, seconds: float) -> None:
    skew(seconds)
    async with checked(lasting.settings(), lasting) as router:
        for _ in range(3):
            for tenant in ("row1", "row2"):
                assert await router.tenant(tenant).fetchval(COUNT) == 3


@pytest.mark.parametrize("seconds", [-300.0, 300.0])
async def test_a_clock_that_jumps_later_refuses_row_tenants_and_only_until_it_is_right_again(
    lasting: World, skew: Skew, seconds: float
) -> None:
    settings = lasting.settings(pools={"shared_size": 1})
    async with checked(settings, lasting) as router:
        assert await router.tenant("row1").fetchval(COUNT) == 3
        skew(seconds)
        for _ in range(2):
            with pytest.raises(IsolationError):
                await router.tenant("row2").fetchval(COUNT)
        assert await router.tenant("database1").fetchval(COUNT) == 3
        assert await router.tenant("schema1").fetchval(COUNT) == 3
        skew(0.0)

        async def again() -> bool:
            try:
                return bool(await router.tenant("row2").fetchval(COUNT) == 3)
            except IsolationError:
                return False

        await until(again, "row tenants are served again")
