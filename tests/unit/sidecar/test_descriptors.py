"""Are enough descriptors kept from clients, and is the limit raised as far as it goes?"""

from __future__ import annotations

import asyncio
import resource
from typing import Any

import pytest

from tenantproxy.config import Server
from tenantproxy.sidecar.descriptors import ceiling, is_scarce, raise_limit

Limits = dict[str, tuple[int, int]]


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> Limits:
    """The process's limits, as a test wants them."""
    now: Limits = {"now": (1024, 4096)}
    monkeypatch.setattr(resource, "getrlimit", lambda _: now["now"])
    monkeypatch.setattr(resource, "setrlimit", lambda _, wanted: now.update(now=wanted))
    return now


def servers(*most: int) -> list[Server]:
    return [Server.model_validate({"user": "app", "max_connections": each}) for each in most]


class Connection(asyncio.BaseTransport):
    """One whose descriptor has this number."""

    def __init__(self, number: int) -> None:
        super().__init__({"socket": self})
        self._number = number

    def fileno(self) -> int:
        return self._number


def test_all_connections_to_servers_fit_in_above_those_of_clients(limits: Limits) -> None:
    assert ceiling(servers(200, 100)) == 1024 - 300 - 64


def test_clients_have_half_of_few_descriptors(limits: Limits) -> None:
    limits["now"] = (256, 256)
    assert ceiling(servers(200)) == 128


def test_without_a_limit_none_is_scarce(limits: Limits) -> None:
    limits["now"] = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    assert ceiling(servers(200)) is None
    assert not is_scarce(Connection(1_000_000), None)


@pytest.mark.parametrize(("number", "expected"), [(127, False), (128, True), (255, True)])
def test_a_connection_with_a_number_that_is_kept_is_one_too_many(number: int, expected: bool) -> None:
    assert is_scarce(Connection(number), 128) is expected


def test_the_limit_is_raised_as_far_as_it_goes(limits: Limits) -> None:
    raise_limit()
    assert limits["now"] == (4096, 4096)


def test_a_limit_that_cannot_be_raised_is_no_reason_not_to_start(
    limits: Limits, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise ValueError("not as high as that")

    monkeypatch.setattr(resource, "setrlimit", refuse)
    raise_limit()
    assert limits["now"] == (1024, 4096)
