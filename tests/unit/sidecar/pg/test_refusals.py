"""Does the log hear the true reason of a refused login, and no more than it can hold?"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tenantproxy.errors import RegistryUnavailable, TenantProxyError
from tenantproxy.events import Event, PortLoginRefused
from tenantproxy.sidecar.pg.refusals import LoginRefusals
from tenantproxy.wire.client_auth import failed
from tenantproxy.wire.startup import SessionWish


class FakeTransport(asyncio.BaseTransport):
    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("192.0.2.7", 5555) if name == "peername" else default


def _wish(user: bytes, database: bytes) -> SessionWish:
    return SessionWish(user=user, database=database)


def told(error: TenantProxyError, *, user: bytes = b"billing", known: bool = True) -> PortLoginRefused:
    heard: list[Event] = []
    refusals = LoginRefusals(heard.append, clock=lambda: 1.0)
    refusals.tell(_wish(user, b"acme"), FakeTransport(), error, is_known=lambda name: known)
    (event,) = heard
    assert isinstance(event, PortLoginRefused)
    return event


def test_a_wrong_password_names_user_database_address_and_reason() -> None:
    event = told(failed(b"billing"))
    assert (event.user, event.database, event.address) == ("billing", "acme", "192.0.2.7")
    assert event.reason == "the password is wrong"


def test_a_user_that_does_not_exist_is_told_to_the_log_alone() -> None:
    assert told(failed(b"unknown"), known=False).reason == "there is no such user"
    assert str(failed(b"unknown")) == str(failed(b"unknown", "there is no such user"))


def test_another_refusal_is_told_in_its_own_words() -> None:
    assert "registry_unavailable" in told(RegistryUnavailable("the tenant could not be looked up")).reason


def test_a_name_that_cannot_be_printed_is_escaped_and_cut() -> None:
    event = told(failed(b"x"), user=b"a\nb" + b"c" * 100)
    assert event.user.isprintable()
    assert len(event.user) < 80


def test_a_flood_is_told_so_many_times_a_second_and_counted() -> None:
    heard: list[Any] = []
    now = [1.0]
    refusals = LoginRefusals(heard.append, clock=lambda: now[0])
    for _ in range(500):
        refusals.tell(_wish(b"x", b"y"), FakeTransport(), failed(b"x"), is_known=lambda name: True)
    few = len(heard)
    assert 0 < few < 50
    now[0] = 2.0
    refusals.tell(_wish(b"x", b"y"), FakeTransport(), failed(b"x"), is_known=lambda name: True)
    assert heard[-1].untold == 500 - few


@pytest.mark.parametrize("reason", ["the password is wrong", "there is no such user"])
def test_what_a_client_hears_does_not_depend_on_the_reason(reason: str) -> None:
    assert reason not in str(failed(b"x", reason))
