"""Do thousands of changed tenants leave the event loop to others?"""

from __future__ import annotations

from tenantproxy.changes import Changes
from tenantproxy.model import TenantId
from tests.support.turns import counting_turns
from tests.support.waiting import until

NAMES = [TenantId(f"t{number}") for number in range(300)]


async def test_few_changed_tenants_are_followed_in_one_turn_of_the_event_loop() -> None:
    followed: list[TenantId] = []

    async def follow(tenant: TenantId) -> None:
        followed.append(tenant)

    changes = Changes(follow=follow, is_concerned=lambda _: True, concerned=lambda: NAMES)
    with counting_turns(lambda: len(followed)) as turns:
        changes.announce(None)
        await until(lambda: len(followed) >= len(NAMES), "all were followed")
    assert sorted(followed) == sorted(NAMES)
    assert turns.most <= 10
