"""Do honest logins get in while 65,536 networks flood the login with empty and with real passwords?"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable

import pytest

from tenantproxy.router import Router
from tests.support.logins import HASH, PASSWORD, add, failure, login_settings, populate
from tests.support.world import World

PER_SECOND = 100
HONEST = 12
ROUNDS = 3
LIMITS = {"attempts_per_account": 10, "attempts_per_address": 100, "attempts_per_second": 100, "fan_out_timeout": 20.0}

Password = Callable[[int], str]


def home(number: int) -> str:
    return f"192.0.{number}.7"


async def logs_in(router: Router, number: int) -> str:
    return await failure(router.login(f"user{number}@example.org", PASSWORD, address=home(number)))


async def flood(router: Router, password: Password, told: Counter[str]) -> None:
    """100 attempts a second, each from another /64 of 65,536 in 256 different /48, until cancelled."""
    drawn = random.Random(39)
    number = 0
    async with asyncio.TaskGroup() as group:
        while True:
            for _ in range(PER_SECOND // 20):
                address = f"2001:db8:{drawn.randrange(256):x}:{drawn.randrange(256):x}::{drawn.randrange(1, 999):x}"
                email = f"user{number % HONEST}@example.org" if number % 2 else f"guess{number}@example.org"
                group.create_task(attack(router, email, password(number), address, told))
                number += 1
            await asyncio.sleep(0.05)  # the rate of the flood, not a wait for anything


async def attack(router: Router, email: str, password: str, address: str, told: Counter[str]) -> None:
    told[await failure(router.login(email, password, address=address))] += 1


@pytest.mark.parametrize(
    ("kind", "password"), [("empty passwords", lambda _: ""), ("real passwords", lambda number: f"guess {number}")]
)
async def test_honest_logins_are_served_while_65536_networks_flood(
    kind: str, password: Password, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    await populate(world, {})
    tenant = world.tenants[-1]
    async with world.database(tenant).connect() as admin:
        for number in range(HONEST):
            await add(admin, tenant, f"u{number}", f"user{number}@example.org", stored=HASH)
    honest: Counter[str] = Counter()
    attackers: Counter[str] = Counter()
    async with Router(login_settings(world, login=LIMITS)) as router:
        for number in range(HONEST):  # within the last week
            assert await logs_in(router, number) == "none"
        flooding = asyncio.create_task(flood(router, password, attackers))
        try:
            while sum(attackers.values()) < PER_SECOND:
                await asyncio.sleep(0.01)
                assert not flooding.done()
            for _ in range(ROUNDS):
                for number in range(HONEST):
                    honest[await logs_in(router, number)] += 1
        finally:
            flooding.cancel()
            await asyncio.wait([flooding])
    with capsys.disabled():
        refused = honest["TooManyAttempts"]
        print(f"\n{kind}: {dict(attackers)} of the flood; honest {dict(honest)}, 429 of honest: {refused}")
    assert honest == {"none": HONEST * ROUNDS}
    assert "none" not in attackers
