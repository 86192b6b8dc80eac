"""Which passwords are hashed, and which are right without it? Threads, no server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tenantproxy.auth.trust import Trust
from tenantproxy.sidecar.pg.passwords import PasswordChecks
from tenantproxy.wire.scram import Verifier
from tests.support.token_desk import Clock


class CountedVerifier(Verifier):
    """Which counts how often it hashes."""

    hashed = 0

    def matches(self, password: str) -> bool:
        type(self).hashed += 1
        return super().matches(password)


@pytest.fixture
def verifier() -> CountedVerifier:
    CountedVerifier.hashed = 0
    return CountedVerifier.of_password("right", iterations=1)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def checks(clock: Clock) -> Iterator[PasswordChecks]:
    made = PasswordChecks(threads=1, max_waiting=2, clock=clock)
    yield made
    made.close()


async def test_more_logins_at_once_than_may_wait_are_let_in_with_one_password(
    checks: PasswordChecks, verifier: CountedVerifier
) -> None:
    found = await asyncio.gather(*(checks.is_right(verifier, "right", Trust.STRANGER) for _ in range(50)))
    assert found == [True] * 50
    assert verifier.hashed == 1


async def test_a_password_that_was_right_is_hashed_again_behind_a_minute(
    checks: PasswordChecks, verifier: CountedVerifier, clock: Clock
) -> None:
    for _ in range(3):
        assert await checks.is_right(verifier, "right", Trust.STRANGER)
    clock.now += 61
    assert await checks.is_right(verifier, "right", Trust.STRANGER)
    assert verifier.hashed == 2


async def test_a_wrong_password_is_hashed_each_time_it_is_tried(
    checks: PasswordChecks, verifier: CountedVerifier
) -> None:
    assert await checks.is_right(verifier, "right", Trust.STRANGER)
    for _ in range(2):
        assert not await checks.is_right(verifier, "wrong", Trust.STRANGER)
    assert verifier.hashed == 3


async def test_the_former_password_is_wrong_for_the_verifier_of_the_next_one(checks: PasswordChecks) -> None:
    assert await checks.is_right(Verifier.of_password("right", iterations=1), "right", Trust.STRANGER)
    assert not await checks.is_right(Verifier.of_password("next", iterations=1), "right", Trust.STRANGER)


async def test_a_check_goes_on_for_others_where_one_who_asks_is_cancelled(
    checks: PasswordChecks, verifier: CountedVerifier
) -> None:
    both = [asyncio.create_task(checks.is_right(verifier, "right", Trust.STRANGER)) for _ in range(2)]
    await asyncio.sleep(0)
    both[0].cancel()
    first, second = await asyncio.gather(*both, return_exceptions=True)
    assert isinstance(first, asyncio.CancelledError)
    assert second is True
    assert verifier.hashed == 1
