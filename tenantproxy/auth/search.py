"""Where else may the account be? A fan-out over all tenants that is bounded in number, rate and time.

State: which tenants could not be asked and what was searched for recently; both bounded and forgotten in seconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextvars import Context
from dataclasses import dataclass, field
from typing import Final

from cachetools import TTLCache

from tenantproxy.auth.accounts import Accounts, Candidate, Place, SharedDatabase
from tenantproxy.auth.share import KeyedSlots
from tenantproxy.auth.throttle import Buckets
from tenantproxy.config import LoginSettings
from tenantproxy.errors import LoginUnavailable, TenantError, TenantNotFound, TooManyAttempts
from tenantproxy.model import TenantId

__all__ = ["MAX_CANDIDATES", "Breakers", "Search", "Searched"]

MAX_CANDIDATES: Final = 4
"""Passwords verified in one attempt."""

_BREAK_SECONDS: Final = 10.0
_REMEMBERED: Final = 10_000
_MAX_TENANTS: Final = 64  # remembered of one address
_MAX_OF_SHARED: Final = 16  # row tenants of one database that one search asks
_AT_ONCE: Final = 2  # questions of logins to one tenant: an attempt is a stranger's, and the tenant has work to do


class Breakers:
    """Who could not be asked is left alone for some seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._until: dict[Place, float] = {}

    def failed(self, place: Place) -> None:
        """It could not be asked now."""
        self._until[place] = self._clock() + _BREAK_SECONDS

    def worked(self, place: Place) -> None:
        """It answered."""
        self._until.pop(place, None)

    def is_open(self, place: Place) -> bool:
        """Whether it is to be left alone."""
        return self._clock() < self._until.get(place, 0.0)

    def any_open(self) -> bool:
        """Whether any is."""
        if self._until:
            now = self._clock()
            self._until = {place: until for place, until in self._until.items() if until > now}
        return bool(self._until)


@dataclass(slots=True)
class Searched:
    """What one fan-out found. `is_complete`: every place was asked and answered. `is_cut`: not every tenant."""

    candidates: list[Candidate] = field(default_factory=list)
    asked: int = 0
    is_complete: bool = True
    is_cut: bool = False


class Search:
    """Asks tenants for accounts. At most `fan_out_concurrency` questions of all fan-outs are under way at once."""

    def __init__(self, accounts: Accounts, settings: LoginSettings, *, clock: Callable[[], float]) -> None:
        self._accounts = accounts
        self._settings = settings
        self._patience = settings.fan_out_timeout / 2  # with one: who is dead is known before the whole time is over
        self._slots = asyncio.Semaphore(settings.fan_out_concurrency)
        rate = settings.fan_outs_per_second
        self._bucket = Buckets(burst=2 * rate, per_second=rate, clock=clock)
        self._found: TTLCache[bytes, tuple[TenantId, ...]] = TTLCache(_REMEMBERED, settings.negative_ttl, timer=clock)
        self.breakers = Breakers(clock)
        self._of_tenant = KeyedSlots(_AT_ONCE)
        self._turn = 0  # where the next search begins among many row tenants

    def remembered(self, key: bytes) -> tuple[TenantId, ...] | None:
        """Who had an account when this address was last searched for, recently and completely; None: it was not."""
        found: tuple[TenantId, ...] | None = self._found.get(key)
        return found

    def forget(self, key: bytes) -> None:
        """Let the next fan-out search for this address again."""
        self._found.pop(key, None)

    async def ask(self, tenant: TenantId, email: str) -> Sequence[Candidate]:
        """One tenant, when no more than one other attempt asks it. Raises LoginUnavailable, at once while its breaker
        is open, and TenantError.
        """
        limit = self._settings.fan_out_timeout
        try:
            async with asyncio.timeout(limit) as patience, self._of_tenant.hold(tenant):
                patience.reschedule(None)  # from here on the question has a time of its own
                return await self._ask(tenant, email, limit)
        except TimeoutError:
            raise _unavailable() from None  # others were before it: that says nothing of the tenant

    async def _ask(self, tenant: TenantId, email: str, timeout: float) -> Sequence[Candidate]:
        if self.breakers.is_open(tenant):
            raise _unavailable()
        try:
            found = await self._accounts.of_tenant(tenant, email, timeout=timeout)
        except LoginUnavailable:
            self.breakers.failed(tenant)
            raise
        self.breakers.worked(tenant)
        return found

    async def everywhere(self, key: bytes, email: str, *, asked: Iterable[TenantId]) -> Searched | None:
        """All tenants but those that were `asked` already; None: there are too many to search.

        Raises TooManyAttempts when fan-outs come too fast, RegistryUnavailable. What a dead or slow tenant leaves out
        makes the result incomplete; who else was asked is in it.
        """
        try:
            async with asyncio.timeout(self._settings.fan_out_timeout):
                places = await self._accounts.places()
        except TimeoutError:
            return Searched(is_complete=False)
        if not places:
            return None
        if (wait := self._bucket.wait(b"")) > 0:
            raise TooManyAttempts("too many searches for accounts at once", hint="try again", retry_after=wait)
        self._bucket.take(b"")
        before, searched = frozenset(asked), Searched()
        try:
            async with asyncio.timeout(self._settings.fan_out_timeout):
                await self._fan_out(places, email, before, searched)
        except TimeoutError:
            searched.is_complete = False
        if searched.is_complete and not searched.is_cut:
            tenants = (candidate.account.tenant for candidate in searched.candidates)
            self._found[key] = tuple(dict.fromkeys(tenants))[:_MAX_TENANTS]
        return searched

    async def _fan_out(
        self, places: Sequence[Place], email: str, before: frozenset[TenantId], searched: Searched
    ) -> None:
        left = iter([place for place in places if place not in before])

        async def work() -> None:
            for place in left:
                async with self._slots:
                    await self._one(place, email, before, searched)

        async with asyncio.TaskGroup() as group:
            for _ in range(min(self._settings.fan_out_concurrency, len(places))):
                # An empty context: what the search opens must not belong to the request that happened to need it.
                group.create_task(work(), context=Context())

    async def _one(self, place: Place, email: str, before: frozenset[TenantId], searched: Searched) -> None:
        searched.asked += 1
        try:
            tenants = await self._tenants(place, email)
            if len(tenants) > _MAX_OF_SHARED:
                searched.is_cut = True
                start = self._turn = (self._turn + _MAX_OF_SHARED) % len(tenants)
                tenants = [*tenants[start:], *tenants[:start]][:_MAX_OF_SHARED]
            for tenant in tenants:
                if tenant not in before:
                    searched.candidates += await self._ask(tenant, email, self._patience)
        except LoginUnavailable:
            searched.is_complete = False
        except TenantNotFound:
            pass  # gone since the places were listed
        except TenantError:
            pass  # paused or suspended: it serves no logins

    async def _tenants(self, place: Place, email: str) -> Sequence[TenantId]:
        if not isinstance(place, SharedDatabase):
            return (place,)
        if self.breakers.is_open(place):
            raise _unavailable()
        try:
            found = await self._accounts.in_shared(place, email, timeout=self._patience)
        except LoginUnavailable:
            self.breakers.failed(place)
            raise
        self.breakers.worked(place)
        return found


def _unavailable() -> LoginUnavailable:
    return LoginUnavailable("logging in is not possible at the moment", hint="try again", retry_after=_BREAK_SECONDS)
