"""Has another process asked the source already? Looks into Redis ahead of it, and believes only what it can prove.

An entry stands in for a lookup of our own: it was read after the last news of its tenant that came to this process,
after this process began, and less than `ttl` ago. So each change works here as soon as it would without Redis.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

from cachetools import LRUCache

from tenantproxy.errors import TenantNotFound
from tenantproxy.events import Event, RegistryCacheRefused
from tenantproxy.model import Tenant, TenantId
from tenantproxy.registry.base import Answer, Ask, AsksMany, Given, GivenAsk, SharedTenant, TenantMisconfigured
from tenantproxy.registry.horizon import Horizon
from tenantproxy.registry.redis import RedisEntries
from tenantproxy.registry.sealed import MAX_BYTES, Forged, Seal

__all__ = ["SKEW", "SharedLookups"]

SKEW: Final = 2.0
"""Seconds by which the clocks of two processes may differ."""

_AGAIN: Final = 0.001  # the same entry may be read again, and none that is older by more than this
_TELL_EVERY: Final = 60.0
_LATE: Final = 0.05  # seconds that are kept to say that there was no connection, before the lookup itself is late


class SharedLookups:
    """What stands between the lookups of a `CachedRegistry` and its source.

    `count` is told of each tenant looked for: `hit`, `miss`, `old`, `refused`, `error`.
    """

    def __init__(
        self,
        entries: RedisEntries,
        seal: Seal,
        *,
        max_entries: int,
        clock: Callable[[], float],
        wall: Callable[[], float],
        tell: Callable[[Event], None],
        count: Callable[[str], None],
    ) -> None:
        self._entries = entries
        self._seal = seal
        self._ttl = entries.ttl
        self.clock = clock
        self.wall = wall
        self._tell = tell
        self._count = count
        self._horizon = Horizon(keep=self._ttl + SKEW, max_entries=max_entries)
        self._epochs: LRUCache[TenantId, int] = LRUCache(max_entries)
        self._salt = os.urandom(8)
        self._refused = 0  # since that was told last
        self._told = float("-inf")
        self._horizon.saw_all(wall())  # what changed before was not heard here

    def adopt(self, seal: Seal) -> None:
        """Sign, and read, by another configuration from now on."""
        self._seal = seal

    def heard(self, tenant: str | None) -> None:
        """`tenant` changed; None: any may have."""
        now = self.wall()
        if tenant is None:
            self._horizon.saw_all(now)
        else:
            self._horizon.saw(tenant, now)

    async def close(self) -> None:
        """End the connections; a later lookup opens others."""
        await self._entries.close()

    def forget_loop(self) -> None:
        """The event loop has ended, and the connections in it."""
        self._entries.forget_loop()

    def ahead_of(self, source: AsksMany) -> _Ahead:
        """What to ask in place of `source`."""
        return _Ahead(self, source)

    async def read(self, tenants: Sequence[TenantId]) -> dict[TenantId, SharedTenant]:
        """Those of `tenants` that another process looked up, and that are as good as looked up now. Raises nothing."""
        kept = await self._entries.read([self._seal.name(tenant) for tenant in tenants])
        found = {}
        for tenant, entry in zip(tenants, kept or (None,) * len(tenants), strict=True):
            result, shared = ("error", None) if kept is None else self._judge(tenant, entry)
            self._count(result)
            if shared is not None:
                found[tenant] = shared
        return found

    def _judge(self, tenant: TenantId, entry: object) -> tuple[str, SharedTenant | None]:
        if entry is None or entry == b"":
            return "miss", None
        now = self.wall()
        try:
            if not isinstance(entry, bytes):
                raise Forged("not text")
            known, read_at = self._seal.open(tenant, entry)
            if read_at > now + SKEW:
                raise Forged("from the future: do the clocks agree?")
        except Forged as exc:
            self._refuse(tenant, str(exc))
            return "refused", None
        left = read_at + self._limit(tenant) - now
        is_newer = self._horizon.allows(tenant, read_at, margin=SKEW)
        if left <= 0 or not is_newer or known.epoch < self._epochs.get(tenant, known.epoch):
            return "old", None
        self._horizon.saw(tenant, read_at - SKEW - _AGAIN)
        self._epochs[tenant] = known.epoch
        return "hit", SharedTenant(known, min(left, self._ttl))

    def _limit(self, tenant: TenantId) -> float:
        """Seconds for which an entry is good: each process asks the source at another time, the first one for all."""
        return self._ttl * (0.5 + hash((self._salt, tenant)) % 1000 / 2000)

    def _refuse(self, tenant: TenantId, reason: str) -> None:
        self._refused += 1
        if self.clock() >= self._told + _TELL_EVERY:
            self._tell(RegistryCacheRefused(tenant=tenant, reason=reason, count=self._refused))
            self._told, self._refused = self.clock(), 0

    async def look_up(self, tenant: TenantId, ask: Callable[[TenantId], Awaitable[Answer]]) -> Given:
        """What is known of one tenant, by `ask` where it is not shared."""
        known = (await self.read([tenant])).get(tenant)
        if known is not None:
            return known
        asked_at = self.wall()
        answer = await ask(tenant)
        self.learned(tenant, answer, asked_at)
        return answer

    def learned(self, tenant: TenantId, answer: Answer, asked_at: float) -> None:
        """The source, asked at `asked_at`, said this."""
        if not isinstance(answer, Tenant | TenantNotFound | TenantMisconfigured):
            return  # it said nothing
        # A change that was heard meanwhile may be in the answer or not.
        if isinstance(answer, Tenant) and answer.id == tenant and self._horizon.allows(tenant, asked_at):
            entry = self._seal.seal(answer, asked_at)
            if len(entry) <= MAX_BYTES:
                self._entries.write(self._seal.name(tenant), entry)
        if isinstance(answer, Tenant):
            self._epochs[tenant] = answer.epoch
        else:
            self._epochs.pop(tenant, None)
        self._horizon.saw(tenant, asked_at)


class _Ahead:
    """An `AsksMany` that takes a connection of the source only when Redis leaves something to ask."""

    def __init__(self, shared: SharedLookups, source: AsksMany) -> None:
        self._shared = shared
        self._source = source

    @asynccontextmanager
    async def asking(self, timeout: float | None, /) -> AsyncIterator[GivenAsk]:
        """See `base.AsksMany`; RegistryBusy comes when it asks."""
        async with AsyncExitStack() as stack:
            source: list[Ask] = []

            async def ask(tenants: Sequence[TenantId]) -> Mapping[TenantId, Given]:
                began = self._shared.clock()
                known = await self._shared.read(tenants)
                rest = [tenant for tenant in tenants if tenant not in known]
                if not rest:
                    return known
                if not source:
                    spent = self._shared.clock() - began + _LATE
                    left = None if timeout is None else max(0.001, timeout - spent)
                    source.append(await stack.enter_async_context(self._source.asking(left)))
                asked_at = self._shared.wall()
                return _SharedOrAsked(self._shared, known, await source[0](rest), asked_at)

            yield ask


class _SharedOrAsked(Mapping[TenantId, Given]):
    """Both together; the source's are read, and passed on to others, when they are looked at."""

    def __init__(
        self,
        shared: SharedLookups,
        known: Mapping[TenantId, SharedTenant],
        answers: Mapping[TenantId, Answer],
        asked_at: float,
    ) -> None:
        self._shared = shared
        self._known = known
        self._answers = answers
        self._asked_at = asked_at

    def __getitem__(self, tenant: TenantId) -> Given:
        if tenant in self._known:
            return self._known[tenant]
        answer = self._answers[tenant]
        self._shared.learned(tenant, answer, self._asked_at)
        return answer

    def __iter__(self) -> Iterator[TenantId]:
        yield from self._known
        yield from self._answers

    def __len__(self) -> int:
        return len(self._known) + len(self._answers)
