"""Is a search bounded in number, rate and time, whatever the tenants do, and does it say when it is not complete?"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from tenantproxy.auth.accounts import Account, Candidate, Place, SharedDatabase
from tenantproxy.auth.search import Search
from tenantproxy.config import LoginSettings
from tenantproxy.errors import LoginUnavailable, TenantNotFound, TenantSuspended, TooManyAttempts
from tenantproxy.model import TenantId
from tests.support.waiting import PATIENCE, until

KEY = b"k" * 32
SHARED = SharedDatabase(server="primary", database="shared")


class FakeAccounts:
    """Tenants with one account each, under every address, unless `behave` says otherwise."""

    def __init__(self, places: Sequence[Place] | None) -> None:
        self._places = places
        self.asked: list[Place] = []
        self.most = 0
        self._now = 0
        self.behave: Callable[[TenantId], Any] = lambda tenant: None
        self.in_database: list[TenantId] = []

    async def of_tenant(self, tenant: TenantId, email: str, *, timeout: float) -> Sequence[Candidate]:
        self.asked.append(tenant)
        self._now += 1
        self.most = max(self.most, self._now)
        try:
            await asyncio.sleep(0)
            doing = self.behave(tenant)
            if asyncio.iscoroutine(doing):
                async with asyncio.timeout(timeout):
                    await doing
        except TimeoutError:
            raise LoginUnavailable("slow") from None
        finally:
            self._now -= 1
        return [Candidate(account=Account(tenant=tenant, user="1"), password_hash=None)]

    async def in_shared(self, place: SharedDatabase, email: str, *, timeout: float) -> Sequence[TenantId]:
        self.asked.append(place)
        return self.in_database

    async def places(self) -> Sequence[Place] | None:
        return self._places

    async def store_hash(self, account: Account, password_hash: str, *, former: str, timeout: float) -> None:
        raise AssertionError


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def tenants(count: int) -> list[TenantId]:
    return [TenantId(f"t{number}") for number in range(count)]


def search(accounts: FakeAccounts, clock: Clock | None = None, **login: Any) -> Search:
    return Search(accounts, LoginSettings(**{"fan_outs_per_second": 1000, **login}), clock=clock or Clock())


async def names(searching: Search, *, asked: Sequence[TenantId] = ()) -> list[str]:
    found = await searching.everywhere(KEY, "ann@example.org", asked=asked)
    assert found is not None
    return sorted(candidate.account.tenant for candidate in found.candidates)


async def test_everybody_is_asked_once_and_never_more_at_a_time_than_allowed() -> None:
    accounts = FakeAccounts(tenants(50))
    searching = search(accounts, fan_out_concurrency=8)
    found = await asyncio.gather(*(names(searching) for _ in range(4)))
    assert all(len(each) == 50 for each in found)
    assert len(accounts.asked) == 200
    assert accounts.most == 8


async def test_who_was_asked_before_is_not_asked_again() -> None:
    accounts = FakeAccounts([*tenants(3), SHARED])
    accounts.in_database = [TenantId("row1"), TenantId("t9")]
    assert await names(search(accounts), asked=[TenantId("t1"), TenantId("t9")]) == ["row1", "t0", "t2"]
    assert TenantId("t1") not in accounts.asked


async def test_a_shared_database_names_its_tenants_and_each_is_asked_itself() -> None:
    accounts = FakeAccounts([SHARED])
    accounts.in_database = [TenantId(f"row{number}") for number in range(10)]
    assert len(await names(search(accounts))) == 10


async def test_of_a_crowd_of_row_tenants_each_is_asked_by_some_search() -> None:
    accounts = FakeAccounts([SHARED])
    accounts.in_database = [TenantId(f"row{number}") for number in range(60)]
    searching, asked = search(accounts), set[str]()
    for _ in range(60):
        found = await names(searching)
        assert len(found) == 16
        asked |= set(found)
    assert len(asked) == 60
    assert searching.remembered(KEY) is None  # no search saw all of them


@pytest.mark.parametrize("error", [TenantNotFound("gone"), TenantSuspended("suspended")])
async def test_a_tenant_that_is_not_served_has_no_account_and_the_search_is_complete(error: Exception) -> None:
    accounts = FakeAccounts(tenants(3))

    def behave(tenant: TenantId) -> None:
        if tenant == "t1":
            raise error

    accounts.behave = behave
    found = await search(accounts).everywhere(KEY, "ann@example.org", asked=())
    assert found is not None
    assert found.is_complete
    assert len(found.candidates) == 2


async def test_a_dead_tenant_is_left_out_said_and_left_alone_for_a_while() -> None:
    accounts, clock = FakeAccounts(tenants(5)), Clock()

    def behave(tenant: TenantId) -> None:
        if tenant == "t3":
            raise LoginUnavailable("dead")

    accounts.behave = behave
    searching = search(accounts, clock)
    for _ in range(2):
        found = await searching.everywhere(KEY, "ann@example.org", asked=())
        assert found is not None
        assert not found.is_complete
        assert len(found.candidates) == 4
        assert searching.breakers.any_open()
        assert searching.remembered(KEY) is None
    assert accounts.asked.count(TenantId("t3")) == 1
    accounts.behave = lambda tenant: None
    clock.now += 11
    assert not searching.breakers.any_open()
    assert len(await names(searching)) == 5


async def test_slow_tenants_cost_no_more_than_the_time_of_one_search() -> None:
    accounts = FakeAccounts(tenants(40))
    accounts.behave = lambda tenant: asyncio.Event().wait() if int(tenant[1:]) % 2 else None
    searching = search(accounts, fan_out_timeout=0.2)
    loop = asyncio.get_running_loop()
    started = loop.time()
    found = await searching.everywhere(KEY, "ann@example.org", asked=())
    assert loop.time() - started < 2.0  # one after the other it would be 4
    assert found is not None
    assert not found.is_complete
    assert searching.breakers.any_open()


async def test_what_was_found_is_remembered_for_a_while_also_that_there_was_nothing() -> None:
    accounts, clock = FakeAccounts(tenants(6)), Clock()
    searching = search(accounts, clock, negative_ttl=30.0)
    assert searching.remembered(KEY) is None
    await names(searching)
    assert set(searching.remembered(KEY) or ()) == {f"t{number}" for number in range(6)}
    assert searching.remembered(b"o" * 32) is None
    clock.now += 31
    assert searching.remembered(KEY) is None


async def test_searches_come_at_a_bounded_rate() -> None:
    accounts, clock = FakeAccounts(tenants(2)), Clock()
    searching = search(accounts, clock, fan_outs_per_second=3)
    for _ in range(6):
        await names(searching)
    with pytest.raises(TooManyAttempts) as refused:
        await names(searching)
    assert refused.value.retry_after == pytest.approx(1 / 3)
    clock.now += 0.34
    await names(searching)


@pytest.mark.parametrize("places", [None, []])
async def test_where_there_are_too_many_or_none_nothing_is_asked(places: list[Place] | None) -> None:
    accounts = FakeAccounts(places)
    assert await search(accounts).everywhere(KEY, "ann@example.org", asked=()) is None
    assert accounts.asked == []


async def test_a_registry_that_does_not_list_its_tenants_holds_up_no_login(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never() -> Sequence[Place] | None:
        await asyncio.Event().wait()
        return None

    accounts = FakeAccounts(tenants(3))
    monkeypatch.setattr(accounts, "places", never)
    async with asyncio.timeout(PATIENCE):
        found = await search(accounts, fan_out_timeout=0.05).everywhere(KEY, "ann@example.org", asked=())
    assert found is not None
    assert (found.is_complete, found.candidates, accounts.asked) == (False, [], [])


async def test_a_search_that_is_cancelled_leaves_no_task_and_gives_its_places_back() -> None:
    accounts = FakeAccounts(tenants(30))
    accounts.behave = lambda tenant: asyncio.Event().wait()
    searching = search(accounts, fan_out_concurrency=4)
    before = len(asyncio.all_tasks())
    task = asyncio.ensure_future(searching.everywhere(KEY, "ann@example.org", asked=()))
    await until(lambda: len(accounts.asked) == 4, "four questions are under way")
    task.cancel()
    await asyncio.wait([task])
    assert len(asyncio.all_tasks()) == before
    accounts.behave = lambda tenant: None
    assert len(await names(searching)) == 30
