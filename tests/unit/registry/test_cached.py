"""Does the cache ask once, forget in time, and never keep an answer that was invalidated while it was on its way?"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import tracemalloc
from collections.abc import AsyncIterator, Awaitable

import pytest

from tenantproxy.errors import RegistryUnavailable, TenantNotFound, TenantProxyError
from tenantproxy.events import Event, RegistryDegraded, RegistryRecovered
from tenantproxy.model import Isolation, Placement, Tenant, TenantId, TenantStatus, tenant_id
from tenantproxy.registry import CachedRegistry, MemoryRegistry, RowReader, TenantMisconfigured
from tests.support.waiting import until

ACME = tenant_id("acme")
OTHER = tenant_id("globex")


def a_tenant(name: str = "acme", *, epoch: int = 0) -> Tenant:
    place = Placement(isolation=Isolation.DATABASE, server="primary", database=name)
    return Tenant(id=tenant_id(name), placement=place, epoch=epoch)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Source:
    """A registry whose answers the test gives: a lookup waits at the gate and answers as of its beginning."""

    source = "source"

    def __init__(self) -> None:
        self.answer: Tenant | Exception = a_tenant()
        self.asked: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.cancelled = 0
        self.context: contextvars.Context | None = None

    async def get(self, tenant: TenantId) -> Tenant:
        answer = self.answer
        self.asked.append(tenant)
        self.context = contextvars.copy_context()
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def tenants(self, *, status: TenantStatus | None = None) -> AsyncIterator[Tenant]:
        if isinstance(self.answer, Tenant):
            yield self.answer

    async def open(self) -> None: ...

    async def close(self) -> None: ...


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def events() -> list[Event]:
    return []


@pytest.fixture
async def cached(source: Source, clock: Clock, events: list[Event]) -> AsyncIterator[CachedRegistry]:
    registry = CachedRegistry(
        source,
        ttl=30,
        negative_ttl=5,
        max_entries=3,
        stale_for=60,
        clock=clock,
        wall=lambda: 1.5e9,
        observer=events.append,
    )
    await registry.open()
    yield registry
    await registry.close()


async def refused(answer: Awaitable[Tenant]) -> TenantProxyError:
    with pytest.raises(TenantProxyError) as caught:
        await answer
    return caught.value


async def test_a_second_lookup_within_the_ttl_does_not_ask(
    cached: CachedRegistry, source: Source, clock: Clock
) -> None:
    assert cached.peek("acme") is None
    first = await cached.get(ACME)
    clock.now += 29.9
    assert await cached.get(ACME) is first is cached.peek("acme")
    clock.now += 0.1
    assert cached.peek("acme") is None
    await cached.get(ACME)
    assert source.asked == ["acme", "acme"]
    assert cached.lookups == {("cache", "hit"): 2, ("source", "found"): 2}
    assert sum(cached.lookup_seconds["source"].counts) == 2
    assert cached.last_success == 1.5e9


async def test_many_callers_of_a_cold_tenant_are_one_lookup(cached: CachedRegistry, source: Source) -> None:
    source.gate.clear()
    callers = [asyncio.ensure_future(cached.get(ACME)) for _ in range(50)]
    await until(lambda: source.asked, "the lookup is under way")
    source.gate.set()
    assert len({id(tenant) for tenant in await asyncio.gather(*callers)}) == 1
    assert source.asked == ["acme"]


async def test_a_cancelled_caller_does_not_cancel_the_lookup_of_the_others(
    cached: CachedRegistry, source: Source
) -> None:
    source.gate.clear()
    first, second = asyncio.ensure_future(cached.get(ACME)), asyncio.ensure_future(cached.get(ACME))
    await until(lambda: source.asked, "the lookup is under way")
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    source.gate.set()
    assert (await second).id == "acme"
    assert (source.asked, source.cancelled) == (["acme"], 0)


@pytest.mark.parametrize("failing", [False, True])
async def test_a_lookup_that_everybody_left_ends_by_itself_and_its_answer_is_kept(
    cached: CachedRegistry, source: Source, *, failing: bool
) -> None:
    if failing:
        source.answer = RegistryUnavailable("down")
    source.gate.clear()
    caller = asyncio.ensure_future(cached.get(ACME))
    await until(lambda: source.asked, "the lookup is under way")
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    source.gate.set()
    result = "error" if failing else "found"
    await until(lambda: cached.lookups.get(("source", result)), "the lookup ended")
    assert (cached.peek("acme") is None) is failing


async def test_a_lookup_does_not_see_the_context_of_the_caller(cached: CachedRegistry, source: Source) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("who")
    variable.set("a caller")
    await cached.get(ACME)
    assert source.context is not None
    assert variable not in source.context


async def test_an_unknown_tenant_is_asked_again_only_after_the_negative_ttl(
    cached: CachedRegistry, source: Source, clock: Clock
) -> None:
    source.answer = TenantNotFound("no", hint="look")
    first, second = await refused(cached.get(ACME)), await refused(cached.get(ACME))
    assert isinstance(second, TenantNotFound)
    assert (second.message, second.hint) == ("no", "look")
    assert second is not first, "one exception raised for many would collect their tracebacks"
    assert source.asked == ["acme"]
    source.answer = a_tenant()
    clock.now += 5
    assert (await cached.get(ACME)).id == "acme"
    assert cached.lookups[("cache", "negative")] == 1
    assert cached.lookups[("source", "not_found")] == 1


async def test_a_tenant_that_is_gone_is_not_served_as_last_known(
    cached: CachedRegistry, source: Source, clock: Clock
) -> None:
    await cached.get(ACME)
    clock.now += 31
    source.answer = TenantNotFound("gone")
    await refused(cached.get(ACME))
    clock.now += 6
    source.answer = RegistryUnavailable("down")
    assert isinstance(await refused(cached.get(ACME)), RegistryUnavailable)


async def test_an_unusable_entry_is_an_error_and_neither_stale_nor_an_outage(
    cached: CachedRegistry, source: Source, clock: Clock, events: list[Event]
) -> None:
    await cached.get(ACME)
    clock.now += 31
    source.answer = TenantMisconfigured("bad", detail="column status")
    assert (await refused(cached.get(ACME))).detail == "column status"
    assert isinstance(await refused(cached.get(ACME)), TenantMisconfigured)
    assert (cached.lookups[("source", "invalid")], events, cached.degraded) == (1, [], False)


async def test_a_known_tenant_is_served_as_last_known_while_the_source_is_down_and_no_longer(
    cached: CachedRegistry, source: Source, clock: Clock, events: list[Event]
) -> None:
    known = await cached.get(ACME)
    source.answer = RegistryUnavailable("down", detail="ConnectionRefusedError")
    clock.now += 31
    assert await cached.get(ACME) is known
    assert events == [RegistryDegraded(source="source", error="ConnectionRefusedError", seconds_left=60)]
    assert cached.degraded
    assert isinstance(await refused(cached.get(OTHER)), RegistryUnavailable)
    clock.now += 58.9
    assert await cached.get(ACME) is known
    clock.now += 0.1
    assert isinstance(await refused(cached.get(ACME)), RegistryUnavailable)
    assert len(events) == 1, "an outage is told once"
    assert cached.lookups[("cache", "stale")] == 2


async def test_a_source_that_is_down_is_not_asked_for_every_request(
    cached: CachedRegistry, source: Source, clock: Clock
) -> None:
    await cached.get(ACME)
    source.answer = RegistryUnavailable("down")
    clock.now += 31
    for _ in range(10):
        await cached.get(ACME)
    assert len(source.asked) == 2
    clock.now += 5
    await cached.get(ACME)
    assert len(source.asked) == 3


async def test_recovery_is_told_with_how_long_it_took(
    cached: CachedRegistry, source: Source, clock: Clock, events: list[Event]
) -> None:
    source.answer = RuntimeError("of a registry of one's own: secret text")
    error = await refused(cached.get(ACME))
    assert isinstance(error, RegistryUnavailable)
    assert "secret text" not in str(error)
    clock.now += 7
    source.answer = a_tenant()
    await cached.get(ACME)
    assert events[-1] == RegistryRecovered(source="source", seconds=7)
    assert not cached.degraded


async def test_an_unknown_answer_also_ends_an_outage(
    cached: CachedRegistry, source: Source, events: list[Event]
) -> None:
    source.answer = RegistryUnavailable("down")
    await refused(cached.get(ACME))
    source.answer = TenantNotFound("no")
    await refused(cached.get(ACME))
    assert isinstance(events[-1], RegistryRecovered)


async def test_a_source_that_never_answers_is_given_up(source: Source) -> None:
    source.gate.clear()
    registry = CachedRegistry(source, lookup_timeout=0.02)
    error = await refused(registry.get(ACME))
    assert isinstance(error, RegistryUnavailable)
    assert "0.02 s" in str(error)
    assert source.cancelled == 1


async def test_an_invalidated_tenant_is_asked_again_and_not_served_as_last_known(
    cached: CachedRegistry, source: Source
) -> None:
    await cached.get(ACME)
    cached.invalidate("acme")
    source.answer = RegistryUnavailable("down")
    assert isinstance(await refused(cached.get(ACME)), RegistryUnavailable)


async def test_a_lookup_across_a_gap_becomes_the_last_known_good(
    cached: CachedRegistry, source: Source, clock: Clock
) -> None:
    source.gate.clear()
    lookup = asyncio.create_task(cached.get(ACME))
    await until(lambda: source.asked, "the source is asked")
    cached.invalidate(None)  # the listener reconnects
    source.gate.set()
    assert await lookup == a_tenant()
    assert cached.peek(ACME) is None, "it may have changed in the gap"
    source.answer = RegistryUnavailable("down")
    assert await cached.get(ACME) == a_tenant()


async def test_a_lookup_across_a_gap_that_a_later_one_overtook_is_not_kept(
    cached: CachedRegistry, source: Source, clock: Clock
) -> None:
    answer, gate = source.answer, source.gate
    gate.clear()
    lookup = asyncio.create_task(cached.get(ACME))
    await until(lambda: source.asked, "the source is asked")
    cached.invalidate(None)
    source.answer, source.gate = TenantNotFound("deleted in the gap"), asyncio.Event()
    source.gate.set()
    assert isinstance(await refused(cached.get(ACME)), TenantNotFound)
    source.answer = answer
    gate.set()
    assert await lookup == a_tenant()
    source.answer = RegistryUnavailable("down")
    clock.now += 60.0  # what was not found is asked for again
    assert isinstance(await refused(cached.get(ACME)), RegistryUnavailable)


async def test_a_lookup_across_a_named_change_is_not_kept(cached: CachedRegistry, source: Source) -> None:
    source.gate.clear()
    lookup = asyncio.create_task(cached.get(ACME))
    await until(lambda: source.asked, "the source is asked")
    cached.invalidate(None)
    cached.invalidate(ACME)
    source.gate.set()
    assert await lookup == a_tenant()
    source.answer = RegistryUnavailable("down")
    with pytest.raises(RegistryUnavailable):
        await cached.get(ACME)


async def test_invalidating_everything_asks_again_and_keeps_the_last_known_good(
    cached: CachedRegistry, source: Source
) -> None:
    known = await cached.get(ACME)
    source.answer = TenantNotFound("no")
    await refused(cached.get(OTHER))
    cached.invalidate(None)
    assert cached.peek("acme") is None
    source.answer = RegistryUnavailable("down")
    assert await cached.get(ACME) is known
    assert isinstance(await refused(cached.get(OTHER)), RegistryUnavailable), "and forgets who was unknown"


@pytest.mark.parametrize("which", ["acme", None])
@pytest.mark.parametrize("old", [a_tenant(epoch=1), TenantNotFound("no")], ids=["found", "unknown"])
async def test_an_answer_that_was_invalidated_on_its_way_is_not_kept(
    cached: CachedRegistry, source: Source, which: str | None, old: Tenant | Exception
) -> None:
    source.answer = old
    source.gate.clear()
    before = asyncio.ensure_future(cached.get(ACME))
    await until(lambda: source.asked, "the first lookup is under way")
    cached.invalidate(which)
    source.answer = a_tenant(epoch=2)
    after = asyncio.ensure_future(cached.get(ACME))
    await until(lambda: len(source.asked) == 2, "who asks after the invalidation does not join the old lookup")
    source.gate.set()
    assert (await after).epoch == 2
    await asyncio.wait([before])
    known = cached.peek("acme")
    assert known is not None
    assert known.epoch == 2
    assert (await cached.get(ACME)).epoch == 2
    before.exception()


async def test_an_invalidation_on_the_way_is_heeded_when_nobody_asks_meanwhile(
    cached: CachedRegistry, source: Source
) -> None:
    source.gate.clear()
    before = asyncio.ensure_future(cached.get(ACME))
    await until(lambda: source.asked, "the lookup is under way")
    cached.invalidate("acme")
    source.gate.set()
    await before
    assert cached.peek("acme") is None


async def test_entries_are_bounded_and_the_least_recently_used_goes(cached: CachedRegistry, source: Source) -> None:
    for name in ("a", "b", "c", "a", "d"):
        source.answer = a_tenant(name)
        await cached.get(tenant_id(name))
    assert [name for name in "abcd" if cached.peek(name)] == ["a", "c", "d"]


@pytest.mark.parametrize("started", [True, False])
async def test_closing_fails_those_who_wait_and_does_not_look_like_their_cancellation(
    source: Source, *, started: bool
) -> None:
    registry = CachedRegistry(source)
    source.gate.clear()
    caller = asyncio.ensure_future(registry.get(ACME))
    if started:
        await until(lambda: source.asked, "the lookup is under way")
    else:
        await asyncio.sleep(0)
    await registry.close()
    assert isinstance(await refused(caller), RegistryUnavailable)
    assert isinstance(await refused(registry.get(ACME)), RegistryUnavailable)


async def test_an_observer_that_fails_does_not_break_a_lookup(source: Source, caplog: pytest.LogCaptureFixture) -> None:
    def broken(event: Event) -> None:
        raise RuntimeError("no")

    registry = CachedRegistry(source, observer=broken)
    source.answer = RegistryUnavailable("down")
    await refused(registry.get(ACME))
    assert "observer failed" in caplog.text


async def test_a_change_in_memory_is_seen_at_once_through_the_cache() -> None:
    memory = MemoryRegistry([a_tenant()])
    cached = CachedRegistry(memory)
    await cached.open()
    await cached.get(ACME)
    memory.add(a_tenant(epoch=5))
    assert (await cached.get(ACME)).epoch == 5
    memory.remove("acme")
    assert isinstance(await refused(cached.get(ACME)), TenantNotFound)
    await cached.close()


async def test_tenants_by_the_thousand_cost_less_than_two_kilobytes_each_with_their_cache_entries() -> None:
    reader = RowReader(default_server="primary")
    names = [tenant_id(f"tenant_{number:06d}") for number in range(2_000)]

    async def cost() -> int:
        gc.collect()
        tracemalloc.start()
        try:
            memory = MemoryRegistry(
                reader.read(
                    {"id": name, "isolation": "database", "database": f"{name}_db", "settings": {"plan": "gold"}}
                )
                for name in names
            )
            cached = CachedRegistry(memory)
            for name in names:
                await cached.get(name)
            return tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()

    # The least of three: what other threads of the process allocate meanwhile is counted too.
    assert min([await cost() for _ in range(3)]) / len(names) <= 1600
