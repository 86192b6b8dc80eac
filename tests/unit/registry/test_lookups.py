"""Are lookups that wait asked together, and is a lack of our own connections never taken for an outage?"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

import pytest

from tenantproxy.errors import RegistryUnavailable, TenantNotFound, TenantProxyError
from tenantproxy.events import Event
from tenantproxy.model import Isolation, Placement, Tenant, TenantId, TenantStatus, tenant_id
from tenantproxy.registry import CachedRegistry
from tenantproxy.registry.base import Answer, Ask, ConnectionLost, RegistryBusy
from tenantproxy.registry.lookups import BATCH
from tests.support.waiting import until


def a_tenant(name: str, *, epoch: int = 0) -> Tenant:
    place = Placement(isolation=Isolation.DATABASE, server="primary", database=name)
    return Tenant(id=tenant_id(name), placement=place, epoch=epoch)


class FakeSource:
    """Answers many at once, while `gate` is open; `fails` is raised instead, once for each of its errors."""

    source = "source"

    def __init__(self) -> None:
        self.asked: list[list[TenantId]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.connection = asyncio.Event()
        self.connection.set()
        self.fails: list[Exception] = []
        self.no_connection: Exception | None = None
        self.epoch = 0

    async def get(self, tenant: TenantId) -> Tenant:
        raise AssertionError("one at a time")

    @asynccontextmanager
    async def asking(self, timeout: float | None, /) -> AsyncIterator[Ask]:
        await self.connection.wait()
        if self.no_connection is not None:
            raise self.no_connection
        yield self._ask

    async def _ask(self, tenants: Sequence[TenantId]) -> Mapping[TenantId, Answer]:
        self.asked.append(list(tenants))
        epoch = self.epoch
        await self.gate.wait()
        if self.fails:
            raise self.fails.pop(0)
        return {
            name: TenantNotFound("no") if name.startswith("unknown") else a_tenant(name, epoch=epoch)
            for name in tenants
            if not name.startswith("forgotten")
        }

    async def tenants(self, *, status: TenantStatus | None = None) -> AsyncIterator[Tenant]:
        yield a_tenant("acme")

    async def open(self) -> None: ...

    async def close(self) -> None: ...


@pytest.fixture
def source() -> FakeSource:
    return FakeSource()


@pytest.fixture
def events() -> list[Event]:
    return []


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def cached(source: FakeSource, clock: Clock, events: list[Event]) -> AsyncIterator[CachedRegistry]:
    registry = CachedRegistry(source, ttl=30, lookup_timeout=40, clock=clock, observer=events.append)
    yield registry
    await registry.close()


def lookups(cached: CachedRegistry, names: Sequence[str]) -> list[asyncio.Task[Tenant]]:
    return [asyncio.ensure_future(cached.get(tenant_id(name))) for name in names]


async def refusal(cached: CachedRegistry, name: str) -> TenantProxyError:
    with pytest.raises(TenantProxyError) as caught:
        await cached.get(tenant_id(name))
    return caught.value


async def test_lookups_that_wait_are_asked_in_batches(cached: CachedRegistry, source: FakeSource) -> None:
    names = [f"t{number}" for number in range(3 * BATCH)]
    found = await asyncio.gather(*lookups(cached, names * 2))
    assert [tenant.id for tenant in found] == names * 2
    assert sorted(len(batch) for batch in source.asked) == [BATCH] * 3


async def test_each_lookup_of_a_batch_gets_its_own_answer(cached: CachedRegistry) -> None:
    found, unknown, forgotten = await asyncio.gather(
        *lookups(cached, ["acme", "unknown", "forgotten"]), return_exceptions=True
    )
    assert isinstance(found, Tenant)
    assert isinstance(unknown, TenantNotFound)
    assert isinstance(forgotten, RegistryUnavailable)


async def test_a_lookup_without_a_free_connection_is_neither_an_outage_nor_served_stale(
    cached: CachedRegistry, source: FakeSource, clock: Clock, events: list[Event]
) -> None:
    await cached.get(tenant_id("acme"))
    clock.now += 31
    source.no_connection = RegistryBusy("none was free")
    assert isinstance(await refusal(cached, "acme"), RegistryBusy)
    assert (events, cached.degraded) == ([], False)
    assert cached.lookups["source", "busy"] == 1
    source.no_connection = None
    assert (await cached.get(tenant_id("acme"))).id == "acme"


async def test_an_outage_is_one_whichever_lookup_meets_it(
    cached: CachedRegistry, source: FakeSource, clock: Clock
) -> None:
    known = await cached.get(tenant_id("acme"))
    clock.now += 31
    source.no_connection = RegistryUnavailable("down")
    assert await cached.get(tenant_id("acme")) is known
    assert isinstance(await refusal(cached, "globex"), RegistryUnavailable)
    assert cached.degraded


async def test_a_connection_that_breaks_is_replaced_once(
    cached: CachedRegistry, source: FakeSource, events: list[Event]
) -> None:
    source.fails = [ConnectionLost("broke")]
    assert (await cached.get(tenant_id("acme"))).id == "acme"
    assert (source.asked, events) == ([["acme"], ["acme"]], [])
    source.fails = [ConnectionLost("broke"), ConnectionLost("broke again")]
    assert isinstance(await refusal(cached, "globex"), ConnectionLost)
    assert cached.degraded


async def test_a_source_that_raises_what_it_must_not_is_an_outage(cached: CachedRegistry, source: FakeSource) -> None:
    source.fails = [KeyError("secret")]
    error = await refusal(cached, "acme")
    assert isinstance(error, RegistryUnavailable)
    assert "secret" not in str(error)


async def test_a_lookup_that_was_not_sent_yet_sees_the_change(cached: CachedRegistry, source: FakeSource) -> None:
    source.connection.clear()
    (before,) = lookups(cached, ["acme"])
    await until(lambda: cached._queue.waiting, "it waits for a connection")
    cached.invalidate("acme")
    source.epoch = 1
    (after,) = lookups(cached, ["acme"])
    source.connection.set()
    assert (await before).epoch == (await after).epoch == 1
    assert source.asked == [["acme"]]


async def test_a_lookup_that_was_sent_before_a_change_is_not_joined(cached: CachedRegistry, source: FakeSource) -> None:
    source.gate.clear()
    (before,) = lookups(cached, ["acme"])
    await until(lambda: source.asked, "it was sent")
    cached.invalidate("acme")
    source.epoch = 1
    (after,) = lookups(cached, ["acme"])
    await until(lambda: len(source.asked) == 2, "the second was sent")
    source.gate.set()
    assert ((await before).epoch, (await after).epoch) == (0, 1)
    known = cached.peek("acme")
    assert known is not None
    assert known.epoch == 1


async def test_a_source_that_is_silent_is_given_up_after_the_lookup_timeout(source: FakeSource) -> None:
    source.gate.clear()
    registry = CachedRegistry(source, lookup_timeout=0.05)
    names = [f"t{number}" for number in range(5 * BATCH)]
    errors = await asyncio.gather(*lookups(registry, names), return_exceptions=True)
    assert {type(error) for error in errors} == {RegistryUnavailable}
    await registry.close()


@pytest.mark.parametrize("sent", [True, False])
async def test_closing_answers_all_who_wait(source: FakeSource, *, sent: bool) -> None:
    registry = CachedRegistry(source)
    (source.gate if sent else source.connection).clear()
    callers = lookups(registry, ["acme", "globex"])
    await until(lambda: source.asked if sent else registry._queue.waiting, "they wait")
    await registry.close()
    for error in await asyncio.gather(*callers, return_exceptions=True):
        assert isinstance(error, RegistryUnavailable)
    assert not [task for task in asyncio.all_tasks() if "lookups" in task.get_name()]
