"""Is it known where a client's backend is, and may bytes go out in no other state than those two?"""

from __future__ import annotations

from typing import cast

import pytest

from tenantproxy.errors import PoolTimeout, TenantProxyError
from tenantproxy.raw.backend import RawBackend
from tenantproxy.raw.lender import RawLender
from tenantproxy.sidecar.pg.checkout import CHECKOUT, Checkout, CheckoutEvent, CheckoutState
from tests.support.relay_desk import Lender, Source


class Client:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[object] = []

    def checked_out(self, backend: RawBackend) -> None:
        self.told.append(backend)

    def not_checked_out(self, error: TenantProxyError) -> None:
        self.told.append(error)

    def looked(self, found: int, error: TenantProxyError | None) -> None:
        raise AssertionError("nothing was asked")

    def renewed(self, error: TenantProxyError | None) -> None:
        self.told.append(error)


def wanted(lender: Lender) -> tuple[Checkout, Client]:
    client = Client()
    return Checkout(Source(), cast("RawLender", lender), client), client


async def test_a_client_goes_from_idle_to_held_and_back_and_its_state_is_shown() -> None:
    lender = Lender()
    checkout, _ = wanted(lender)
    assert repr(checkout).startswith("<Checkout idle")
    assert checkout.lease(()) is lender.backends[0]
    assert str(checkout.state) == "held"
    checkout.release((), is_dirty=False)
    assert str(checkout.state) == "idle"
    assert checkout.backend is None


async def test_a_client_that_waits_may_not_forward_until_it_has_a_backend_or_none() -> None:
    lender = Lender()
    checkout, client = wanted(lender)
    lender.is_busy = True
    for outcome in (PoolTimeout("none is free"), None):
        assert checkout.lease(()) is None
        assert checkout.is_waiting
        assert not checkout.may_forward
        if outcome is not None:
            lender.refuse(outcome)
        else:
            lender.waiting[0].lessee.entering()
            assert str(checkout.state) == "entering"
            lender.grant()
        assert checkout.may_forward
    assert [type(each).__name__ for each in client.told] == ["PoolTimeout", "Backend"]


async def test_nothing_goes_out_while_a_binding_is_renewed_or_a_segment_is_sent_again() -> None:
    lender = Lender()
    checkout, client = wanted(lender)
    checkout.lease(())
    may_forward = []
    for step in (checkout.retry, checkout.retried, lambda: checkout.renew(()), lender.entered):
        step()
        may_forward.append(checkout.may_forward)
    assert may_forward == [False, True, False, True]
    assert client.told == [None]


async def test_a_client_that_leaves_while_its_binding_is_renewed_gives_its_backend_back_later() -> None:
    lender = Lender()
    checkout, client = wanted(lender)
    checkout.lease(())
    checkout.renew(())
    assert not checkout.leave(), "the server is still being asked"
    lender.entered()
    assert client.told == [None]
    assert str(checkout.state) == "lost"


def test_bytes_may_go_on_in_two_states_and_each_state_can_be_left() -> None:
    checkout, _ = wanted(Lender())
    open_states = set()
    for state in CheckoutState:
        checkout.state = state
        if checkout.may_forward:
            open_states.add(state)
        assert CHECKOUT[state, CheckoutEvent.GONE] is CheckoutState.LOST
    assert open_states == {CheckoutState.IDLE, CheckoutState.HELD}


def test_what_the_table_does_not_know_does_not_happen() -> None:
    checkout, _ = wanted(Lender())
    with pytest.raises(KeyError):
        checkout.retry()
