"""Is an earlier answer still good? Keeps what a registry said, asks once for many, and remembers the last known good.

State: `_entries` (found), `_refused` (not found, unusable) and `_flights` (being looked up), changed by lookups and
`invalidate` alone, all in the event loop's thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Final, TypeVar

from cachetools import TTLCache

from tenantproxy.config.redis_section import RedisCacheSettings
from tenantproxy.errors import RegistryUnavailable, TenantNotFound, TenantProxyError
from tenantproxy.events import Event, Histogram, Observer, RegistryDegraded, RegistryRecovered, TenantUnusable, ignore
from tenantproxy.model import InvalidTenant, Isolation, Tenant, TenantId, TenantStatus
from tenantproxy.registry.base import (
    Announces,
    Answer,
    AsksMany,
    Given,
    ListsFrom,
    Registry,
    RegistryBusy,
    SharedTenant,
    TenantMisconfigured,
)
from tenantproxy.registry.file import FileRegistry
from tenantproxy.registry.lookups import Lookup, LookupQueue, LookupSource, closed
from tenantproxy.registry.memory import MemoryRegistry
from tenantproxy.registry.redis import RedisEntries
from tenantproxy.registry.sealed import Seal
from tenantproxy.registry.shared import SharedLookups
from tenantproxy.registry.unusable import TellsUnusable

__all__ = ["CachedRegistry", "Entry"]

_log = logging.getLogger(__name__)
_PROBE: Final = TenantId("_probe")  # no tenant can be called so
_OPEN_TIMEOUT: Final = 30.0  # seconds for a registry to open, and to list one more tenant
_CLOSE_TIMEOUT: Final = 5.0


class Entry:
    """A tenant that was found: to be given out unasked until `fresh_until`, and while `round` is the cache's own.

    A caller that keeps one asks `CachedRegistry.is_fresh` before each use.
    """

    __slots__ = ("fresh_until", "round", "tenant")

    def __init__(self, tenant: Tenant, fresh_until: float, round: int) -> None:  # noqa: A002
        self.tenant = tenant
        self.fresh_until = fresh_until
        self.round = round


class CachedRegistry:
    """`inner` behind a cache of `ttl` seconds (`negative_ttl` for unknown tenants) and `max_entries` entries.

    While the source cannot be asked, a tenant is served as last known for up to `stale_for` seconds beyond its `ttl`.
    A lookup belongs to no single caller: one who leaves does not cancel it for the others.
    """

    def __init__(
        self,
        inner: Registry,
        *,
        ttl: float = 30.0,
        negative_ttl: float = 5.0,
        max_entries: int = 20_000,
        stale_for: float = 3600.0,
        lookup_timeout: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        observer: Observer = ignore,
    ) -> None:
        self.inner = inner
        self._ttl = ttl
        self._max_entries = max_entries
        self._negative_ttl = negative_ttl
        self._stale_for = stale_for
        self._lookup_timeout = lookup_timeout
        self._clock = clock
        self._wall = wall
        self._observer = observer
        # One store serves both: an entry stays for ttl + stale_for, and is given out unasked while it is fresh.
        self._entries: TTLCache[str, Entry] = TTLCache(max_entries, ttl + stale_for, timer=clock)
        self._refused: TTLCache[str, TenantProxyError] = TTLCache(max_entries, negative_ttl, timer=clock)
        self._round = 0  # counts the times when everything was invalidated
        # The lookup that later callers may join and that may write to the cache; an invalidation takes it out.
        self._flights: dict[str, Lookup] = {}
        # Under way when everything was invalidated: the last known good, unless something newer is heard before.
        self._across: dict[str, Lookup] = {}
        self._queue = LookupQueue(self._many, timeout=lookup_timeout, settle=self._settle)
        self._tasks: set[asyncio.Task[None]] = set()  # of a source that is asked for one tenant at a time
        self._unsubscribe: Callable[[], None] | None = None
        self._closed = False
        self._down_since: float | None = None  # when the source stopped answering
        self._hits = 0
        self._lookups: dict[tuple[str, str], int] = {}
        self.lookup_seconds: dict[str, Histogram] = {inner.source: Histogram()}
        self.last_success: float | None = None
        """When the source last answered, as a unix timestamp."""
        self._hear_of_unusable()
        self.on_invalidate: Callable[[str | None], None] | None = None
        """Called, when it is set, with what `invalidate` was, after it."""
        self.shared: SharedLookups | None = None
        """What is asked ahead of the source, where `share` was called."""

    def share(self, redis: RedisCacheSettings, seal: Seal) -> None:
        """Share what is looked up with other processes, from now on. Raises ConfigurationError without redis-py."""
        self.shared = SharedLookups(
            RedisEntries(redis, ttl=self._ttl, clock=self._clock, tell=self._tell),
            seal,
            max_entries=self._max_entries,
            clock=self._clock,
            wall=self._wall,
            tell=self._tell,
            count=lambda result: self._count("redis", result),
        )

    def _hear_of_unusable(self) -> None:
        if isinstance(self.inner, TellsUnusable):
            self.inner.tell_unusable(lambda tenant, reason: self._tell(TenantUnusable(tenant=tenant, reason=reason)))

    @property
    def unusable(self) -> Mapping[str, str]:
        """By id, why an entry cannot be used, as far as entries were read; of a source that knows that."""
        return self.inner.unusable if isinstance(self.inner, TellsUnusable) else {}

    def tell_unusable(self, told: Callable[[str, str], None], /) -> None:
        """See `unusable.TellsUnusable`."""
        if isinstance(self.inner, TellsUnusable):
            self.inner.tell_unusable(told)

    def counts(self) -> Mapping[tuple[Isolation, TenantStatus], int] | None:
        """How many tenants there are of each kind and status; None where the source would have to be asked."""
        return self.inner.counts() if isinstance(self.inner, MemoryRegistry | FileRegistry) else None

    @property
    def source(self) -> str:
        """That of the registry behind."""
        return self.inner.source

    def _many(self) -> LookupSource:
        assert isinstance(self.inner, AsksMany)
        return self.inner if self.shared is None else self.shared.ahead_of(self.inner)

    @property
    def lookups(self) -> Mapping[tuple[str, str], int]:
        """By (source, result): `cache` hit, negative, stale; the source's found, not_found, invalid, busy, error."""
        return {("cache", "hit"): self._hits, **self._lookups}

    @property
    def degraded(self) -> bool:
        """Whether the source failed to answer when it was last asked."""
        return self._down_since is not None

    def peek(self, tenant: str) -> Tenant | None:
        """The tenant if a fresh answer is at hand; None says nothing about whether it exists."""
        entry = self.entry(tenant)
        return entry.tenant if entry is not None and self.is_fresh(entry) else None

    def entry(self, tenant: str) -> Entry | None:
        """What is kept of the tenant, fresh or not."""
        entry: Entry | None = self._entries.get(tenant)
        return entry

    def is_fresh(self, entry: Entry) -> bool:
        """Whether `entry` may be given out unasked."""
        if self._clock() < entry.fresh_until and entry.round == self._round:
            self._hits += 1
            return True
        return False

    async def get(self, tenant: TenantId) -> Tenant:
        """See `base.Registry`."""
        found = self.peek(tenant)
        if found is not None:
            return found
        refusal = self._refused.get(tenant)
        if refusal is not None:
            self._count("cache", "negative")
            raise _again(refusal)
        if self._closed:
            raise closed()
        lookup = self._flights.get(tenant) or self._begin(tenant)
        # The shield keeps the lookup from the cancellation of any one of those who wait for it.
        answer = await asyncio.shield(lookup.answer)
        if isinstance(answer, Tenant):
            return answer
        raise _again(answer)

    async def ask(self, tenant: TenantId) -> Tenant:
        """What the source says of it now, whatever the cache has; nothing of it is remembered. Raises as `get`."""
        answer = _checked(tenant, await self._ask(tenant))
        if isinstance(answer, Tenant):
            return answer
        raise answer

    async def probe(self) -> None:
        """Ask the source for a tenant that cannot be, so that `last_success` is set. Raises RegistryUnavailable."""
        answer = await asyncio.shield((self._flights.get(_PROBE) or self._begin(_PROBE)).answer)
        if isinstance(answer, RegistryUnavailable) and not isinstance(answer, TenantMisconfigured):
            raise _again(answer)

    def _begin(self, tenant: TenantId) -> Lookup:
        """Start a lookup that later callers of `tenant` join."""
        if isinstance(self.inner, AsksMany):
            lookup = self._queue.put(tenant)
        else:
            loop = asyncio.get_running_loop()
            lookup = Lookup(tenant, loop, timeout=self._lookup_timeout)
            lookup.is_sent = True
            # An empty context: the connection that a lookup may open would keep that of the caller.
            task = loop.create_task(
                self._look_up(lookup), name="tenantproxy registry lookup", context=contextvars.Context()
            )
            self._tasks.add(task)
            task.add_done_callback(lambda done: self._asked(lookup, done))
        self._flights[tenant] = lookup
        return lookup

    def _asked(self, lookup: Lookup, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not lookup.answer.done():  # cancelled by `close` before its first step
            self._settle(lookup, closed())

    async def _look_up(self, lookup: Lookup) -> None:
        """Ask a source that looks up one tenant at a time."""
        try:
            ask, one = self._ask, lookup.tenant
            answer: Given = await (ask(one) if self.shared is None else self.shared.look_up(one, ask))
        except asyncio.CancelledError:
            answer = (
                closed()
            )  # only `close` cancels a lookup; to those who wait it is a failure, not their cancellation
        self._settle(lookup, answer)

    async def _ask(self, tenant: TenantId) -> Answer:
        try:
            async with asyncio.timeout(self._lookup_timeout):
                return await self.inner.get(tenant)
        except (TenantNotFound, RegistryUnavailable) as exc:
            return exc
        except InvalidTenant as exc:
            return _unusable(str(exc))
        except TimeoutError:
            error: str = f"no answer within {self._lookup_timeout:g} s"
        except Exception as exc:  # noqa: BLE001  # a boundary: a registry of the user's own may raise anything
            error = f"{self.source}: {type(exc).__name__}"
        return RegistryUnavailable("the tenant could not be looked up", detail=error, retry_after=1.0)

    def _settle(self, lookup: Lookup, given: Given) -> None:
        """Remember an answer and tell those who wait for it."""
        shared = given if isinstance(given, SharedTenant) else None
        tenant, answer = (
            lookup.tenant,
            _checked(lookup.tenant, given.tenant if isinstance(given, SharedTenant) else given),
        )
        if shared is None:
            self.lookup_seconds[self.source].observe(lookup.answer.get_loop().time() - lookup.began)
        # Once invalidated, the answer is good for those who asked before; later callers ask again.
        current = self._flights.get(tenant) is lookup
        if current:
            del self._flights[tenant]
        is_across = self._across.get(tenant) is lookup
        if is_across or (current and (isinstance(answer, Tenant | TenantNotFound | TenantMisconfigured))):
            self._across.pop(tenant, None)
        if not lookup.answer.done():
            if shared is None:
                answer = self._judge(tenant, answer, current=current)
            elif current and isinstance(answer, Tenant):
                self._keep(answer, shared.seconds)
            lookup.answer.set_result(answer)
            if is_across and isinstance(answer, Tenant) and tenant not in self._entries:
                # Asked before a gap in what is announced: not given out unasked, but the last known good.
                self._entries[tenant] = Entry(answer, float("-inf"), self._round)

    def _judge(self, tenant: TenantId, answer: Answer, *, current: bool) -> Answer:
        """What those who wait for `tenant` are told; `current`: the answer may be remembered."""
        if isinstance(answer, RegistryBusy):
            self._count(self.source, "busy")
            return answer
        if isinstance(answer, RegistryUnavailable) and not isinstance(answer, TenantMisconfigured):
            return answer if self._closed else self._source_failed(tenant, answer, current=current)
        self._source_answered()
        if isinstance(answer, Tenant):
            self._count(self.source, "found")
            if current:
                self._keep(answer, self._ttl)
            return answer
        self._count(self.source, "not_found" if isinstance(answer, TenantNotFound) else "invalid")
        if current:
            _drop(self._entries, tenant)
            self._refused[tenant] = _again(answer)  # a copy: this one will carry the tracebacks of its waiters
        return answer

    def _keep(self, tenant: Tenant, seconds: float) -> None:
        self._entries[tenant.id] = Entry(tenant, self._clock() + seconds, self._round)
        _drop(self._refused, tenant.id)

    def _source_answered(self) -> None:
        self.last_success = self._wall()
        if self._down_since is not None:
            seconds, self._down_since = self._clock() - self._down_since, None
            self._tell(RegistryRecovered(source=self.source, seconds=seconds))

    def _source_failed(self, tenant: str, error: RegistryUnavailable, *, current: bool) -> Tenant | TenantProxyError:
        self._count(self.source, "error")
        now = self._clock()
        if self._down_since is None:
            self._down_since = now
            reason = error.detail or type(error).__name__
            self._tell(RegistryDegraded(source=self.source, error=reason, seconds_left=self._stale_for))
        entry = self._entries.get(tenant) if current else None
        if entry is None:
            return error
        self._count("cache", "stale")
        # A source that is down is not asked for every request.
        entry.fresh_until, entry.round = now + self._negative_ttl, self._round
        return entry.tenant

    def invalidate(self, tenant: str | None) -> None:
        """What is known of `tenant` may be wrong now: ask again. None: of any tenant.

        A tenant that is named has changed, and is not served as last known either. After None everything is asked
        again, and stays the last known good in case the source is down.
        """
        if self.shared is not None:
            self.shared.heard(tenant)
        if tenant is not None:
            self._invalidate_one(tenant)
        else:
            self._round += 1
            self._refused.clear()
            self._across |= {name: flight for name, flight in self._flights.items() if flight.is_sent}
            self._flights = {name: flight for name, flight in self._flights.items() if not flight.is_sent}
        if self.on_invalidate is not None:
            self.on_invalidate(tenant)

    def _invalidate_one(self, tenant: str) -> None:
        self._across.pop(tenant, None)
        _drop(self._entries, tenant)
        _drop(self._refused, tenant)
        flight = self._flights.get(tenant)
        if flight is not None and flight.is_sent:  # one that is not will see the change
            del self._flights[tenant]

    def tenants(self, *, status: TenantStatus | None = None) -> AsyncIterator[Tenant]:
        """See `base.Registry`. Always asks the source. Raises RegistryUnavailable when it hangs."""
        return self._listed(self.inner.tenants(status=status))

    async def tenants_after(self, after: str, /) -> AsyncGenerator[Tenant, None]:
        """See `base.ListsFrom`; of a registry that is none of these, the ones before it are read and left out."""
        if isinstance(self.inner, ListsFrom):
            async for tenant in self._listed(self.inner.tenants_after(after)):
                yield tenant
            return
        async for tenant in self._listed(self.inner.tenants()):
            if tenant.id > after:
                yield tenant

    async def _listed(self, listing: AsyncIterator[Tenant]) -> AsyncIterator[Tenant]:
        source = aiter(listing)
        while True:
            found = await _bounded(_next_of(source), _OPEN_TIMEOUT, "list its tenants")
            if found is None:
                return
            if not isinstance(found, Tenant):
                raise _unusable(f"it listed a {type(found).__name__}, not a Tenant")
            yield found

    async def open(self) -> None:
        """Open the registry behind, and listen to it if it announces changes.

        Raises RegistryUnavailable when it hangs or fails.
        """
        await _bounded(self.inner.open(), _OPEN_TIMEOUT, "open")
        if isinstance(self.inner, Announces) and self._unsubscribe is None:
            self._unsubscribe = self.inner.subscribe(self.invalidate)

    def renew(self, inner: Registry) -> None:
        """Stand in front of `inner` from now on, with nothing remembered: after `close`, before it is opened again.

        Holders of this registry (a verifier of tokens) need not be told.
        """
        self.inner = inner
        self._hear_of_unusable()
        self.lookup_seconds.setdefault(inner.source, Histogram())
        self.invalidate(None)
        self._flights.clear()
        self._across.clear()
        self._entries.clear()
        self._refused.clear()
        self._closed = False

    def forget_loop(self) -> None:
        """The event loop in which it was open has ended, and every lookup in it: be as closed, without waiting."""
        self._closed = True
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None
        self._queue = LookupQueue(self._many, timeout=self._lookup_timeout, settle=self._settle)
        if self.shared is not None:
            self.shared.forget_loop()
        self._tasks.clear()
        self._flights.clear()
        self._across.clear()

    async def stop(self) -> None:
        """End the lookups under way: those who wait get RegistryUnavailable, and so does every later caller."""
        self._closed = True
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None
        await self._queue.close()
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_CLOSE_TIMEOUT)
        if self.shared is not None:
            await self.shared.close()

    async def close(self) -> None:
        """`stop`, and close the registry behind. One that hangs is left alone after some seconds; errors are logged."""
        await self.stop()
        try:
            await _bounded(self.inner.close(), _CLOSE_TIMEOUT, "close")
        except Exception:  # noqa: BLE001 - a boundary: it is the user's, and none of our work waits for it
            _log.exception("the registry did not close")

    def _count(self, source: str, result: str) -> None:
        self._lookups[source, result] = self._lookups.get((source, result), 0) + 1

    def _tell(self, event: Event) -> None:
        try:
            self._observer(event)
        except Exception:  # noqa: BLE001  # a boundary: an observer must not break a lookup
            _log.exception("an observer failed")


_T = TypeVar("_T")


async def _bounded(call: Awaitable[_T], seconds: float, what: str) -> _T:
    """The result of `call`, a registry's. Raises RegistryUnavailable when it takes longer than `seconds`, or fails.

    It is not waited for after that: a registry may swallow its cancellation.
    """
    task = asyncio.ensure_future(call)
    try:
        await asyncio.wait([task], timeout=seconds)
    except asyncio.CancelledError:
        task.cancel()
        raise
    if not task.done():
        task.cancel()
        raise RegistryUnavailable(f"the registry did not {what} within {seconds:g} s")
    try:
        return task.result()
    except TenantProxyError:
        raise
    except Exception as exc:
        raise RegistryUnavailable(
            f"the registry could not {what}", detail=f"{type(exc).__name__}: {exc}", hint="see its own log"
        ) from exc


async def _next_of(source: AsyncIterator[object]) -> object | None:
    return await anext(source, None)


def _checked(asked: TenantId, answer: object) -> Answer:
    """`answer` when it can be the answer to `asked`: what a registry says is believed for that tenant alone."""
    if isinstance(answer, TenantProxyError):
        return answer
    if not isinstance(answer, Tenant):
        return _unusable(f"it answered with a {type(answer).__name__}, not a Tenant (unknown: raise TenantNotFound)")
    if answer.id != asked:
        _log.error("the registry was asked for %s and answered with %s", asked, answer.id)
        return _unusable("it answered with another tenant")
    return answer


def _unusable(why: str) -> TenantMisconfigured:
    return TenantMisconfigured(
        "the registry's answer for this tenant cannot be used", detail=why, hint="correct the registry"
    )


def _drop(cache: TTLCache[str, Any], key: str) -> None:
    """Take `key` out; `pop` alone raises when the entry expires between its own look and its deletion."""
    with contextlib.suppress(KeyError):
        kept = cache[key]
        if isinstance(kept, Entry):
            kept.fresh_until = float("-inf")  # a caller may have kept it
        del cache[key]


def _again(error: TenantProxyError) -> TenantProxyError:
    """A copy to raise: one exception raised for many callers would collect the tracebacks of them all."""
    copy = type(error)(error.message, detail=error.detail, hint=error.hint, retry_after=error.retry_after)
    copy.__cause__ = error.__cause__
    return copy
