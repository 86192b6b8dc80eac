"""Whose e-mail and password are these? The directory first, a bounded search second, the same work for everybody.

What a stranger must not learn is who has an account. So each attempt reads the directory once, asks at least one tenant
(a decoy where the directory knows none) and verifies a password (a dummy where there is none). If nothing fitted it
searches on, once in a while for an address, and verifies once more. All failures are the same error; while a tenant
cannot be asked, it is LoginUnavailable.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Final, Literal

import asyncpg

from tenantproxy.auth.accounts import Account, Accounts, Candidate
from tenantproxy.auth.directory import Directory, Entry, Found, normalised
from tenantproxy.auth.passwords import Passwords, Verdict, password_bytes
from tenantproxy.auth.search import MAX_CANDIDATES, Search
from tenantproxy.auth.throttle import Throttle
from tenantproxy.config import Login as Settings
from tenantproxy.errors import (
    InvalidCredentials,
    LoginUnavailable,
    PoolError,
    RegistryUnavailable,
    TenantError,
    TenantNotFound,
    TenantProxyError,
    TooManyAttempts,
)
from tenantproxy.events import Histogram
from tenantproxy.model import TenantId, tenant_id

__all__ = ["RESULTS", "Login", "LoginCounts", "Result"]

Result = Literal["ok", "selection", "refused", "throttled", "unavailable", "error"]
RESULTS: Final[tuple[Result, ...]] = ("ok", "selection", "refused", "throttled", "unavailable", "error")

_DATABASE_ERRORS: Final = (PoolError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError)
_SEARCHED_BUCKETS: Final = (0.0, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0)


class LoginCounts:
    """Attempts by result, their seconds without padding, and how many databases each searched beyond the directory."""

    def __init__(self) -> None:
        self.results: dict[Result, int] = dict.fromkeys(RESULTS, 0)
        self.seconds: dict[Result, Histogram] = {result: Histogram() for result in RESULTS}
        self.searched = Histogram(_SEARCHED_BUCKETS)

    def observe(self, result: Result, seconds: float, searched: int) -> None:
        """Count one attempt."""
        self.results[result] += 1
        self.seconds[result].observe(seconds)
        self.searched.observe(searched)


@dataclass(slots=True)
class _Attempt:
    """What is known in the course of one attempt."""

    email: str = field(repr=False)
    key: bytes = field(repr=False)
    raw: bytes = field(repr=False)
    asked: dict[TenantId, None] = field(default_factory=dict)
    verified: int = 0
    right: list[tuple[Candidate, Verdict]] = field(default_factory=list)
    searched: int = 0
    is_known: bool = False  # the directory, or a search of lately, named a tenant
    is_complete: bool = True  # everybody who should have been asked was
    is_throttled: TooManyAttempts | None = None


class Login:
    """Finds the accounts of an e-mail address whose password is right. For the loop in which it is used first."""

    def __init__(
        self,
        settings: Settings,
        *,
        directory: Directory,
        accounts: Accounts,
        passwords: Passwords,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.counts = LoginCounts()
        self.directory = directory
        self._settings = settings
        self._accounts = accounts
        self._passwords = passwords
        self._clock = clock
        self._sleep = sleep
        self._search = Search(accounts, settings, clock=clock)
        self._throttle = Throttle(
            per_account=settings.attempts_per_account,
            per_address=settings.attempts_per_address,
            per_second=settings.attempts_per_second,
            clock=clock,
        )
        self._decoy: TenantId | None = None  # for addresses behind all others in the directory

    async def login(
        self, email: str, password: str, *, address: str | None = None, tenant: str | None = None
    ) -> tuple[Account, ...]:
        """The accounts, at most four, whose password this is; one, unless a person has it in several tenants.

        `tenant` looks at that one alone. `address` is the client's, for its limit. Answers at a multiple of `pad_to`
        seconds. Raises InvalidCredentials, TooManyAttempts, LoginUnavailable; none says whether there is an account.
        """
        started = self._clock()
        key = self.directory.key(normalised(email) or "")
        result: Result = "error"
        attempt: _Attempt | None = None
        try:
            try:
                self._throttle.take(key, address)
                self._passwords.check_room()  # before anything is asked: who is refused here learns nothing
            except TooManyAttempts:
                result = "throttled"
                raise
            attempt = _attempt(email, password, key)
            failure: TenantProxyError | None = None
            try:
                await self._find(attempt, tenant)
                result = "ok" if len(attempt.right) == 1 else "selection"
                self._throttle.forgive(key, address)
            except (InvalidCredentials, TooManyAttempts, LoginUnavailable) as exc:
                failure = exc
                result = _result(exc)
        finally:
            self.counts.observe(result, self._clock() - started, 0 if attempt is None else attempt.searched)
        await self._pad(started)
        if failure is not None:
            raise failure
        return tuple(candidate.account for candidate, _ in attempt.right)

    def close(self) -> None:
        """Let its threads end."""
        self._passwords.close()

    async def _find(self, attempt: _Attempt, chosen: str | None) -> None:
        if not attempt.email or not attempt.raw:
            raise _refused()  # whatever the account: nothing is asked
        try:
            found = await self.directory.look_up(attempt.key, timeout=self._settings.fan_out_timeout)
        except _DATABASE_ERRORS:
            raise _unavailable() from None
        await self._ask(attempt, found, chosen)
        # Who is not in the directory may have more accounts than the one that a decoy had.
        if chosen is None and self._settings.fan_out and not (attempt.right and attempt.is_known):
            await self._fan_out(attempt)
        if not attempt.right:
            raise self._failure(attempt)
        await self._repair(attempt, found.entries)

    def _tenants(self, attempt: _Attempt, found: Found, chosen: str | None) -> Sequence[TenantId]:
        """Who is asked before anything is searched, at most four."""
        if chosen is not None:
            with suppress(TenantNotFound):
                return (tenant_id(chosen),)
            return ()
        remembered = self._search.remembered(attempt.key) or ()
        return list(dict.fromkeys([*(entry.tenant for entry in found.entries), *remembered]))[:MAX_CANDIDATES]

    async def _ask(self, attempt: _Attempt, found: Found, chosen: str | None) -> None:
        """Ask at least one tenant: a decoy, where none is known or can be asked, so that all take the same time."""
        candidates: list[Candidate] = []
        noted = {entry.tenant for entry in found.entries}
        for tenant in self._tenants(attempt, found, chosen):
            attempt.is_known = True
            here = await self._ask_one(attempt, tenant, noted)
            candidates += here or ()
            if here is not None and not here and chosen is None:
                self._search.forget(attempt.key)  # what was known is not so any more
        if not attempt.asked and (decoy := found.decoy or self._decoy) is not None:
            others = await self._ask_one(attempt, decoy, ())
            candidates += (others or ()) if chosen is None else ()  # nobody knows: the decoy may have the account
        if found.decoy is not None:
            self._decoy = found.decoy
        await self._verify(attempt, candidates)

    async def _ask_one(
        self, attempt: _Attempt, tenant: TenantId, noted: Iterable[TenantId]
    ) -> Sequence[Candidate] | None:
        """Who has the address there; None: that tenant lets nobody in for now, whoever has an account."""
        try:
            candidates = await self._search.ask(tenant, attempt.email)
        except LoginUnavailable:
            attempt.is_complete = False
            return ()
        except TenantNotFound:
            candidates = ()
        except TenantError:
            return None  # paused, suspended, or its database refuses us: the account may well be there
        else:
            attempt.asked[tenant] = None
        if not candidates and tenant in noted:
            with suppress(*_DATABASE_ERRORS):
                await self.directory.remove(attempt.key, tenant, timeout=self._settings.fan_out_timeout)
        return candidates

    async def _fan_out(self, attempt: _Attempt) -> None:
        if self._search.remembered(attempt.key) is not None:
            return
        try:
            searched = await self._search.everywhere(attempt.key, attempt.email, asked=attempt.asked)
        except TooManyAttempts as exc:
            attempt.is_throttled = exc
            return
        except RegistryUnavailable:
            attempt.is_complete = False
            return
        if searched is not None:
            attempt.searched = searched.asked
            attempt.is_complete = attempt.is_complete and searched.is_complete
            await self._verify(attempt, searched.candidates)

    async def _verify(self, attempt: _Attempt, candidates: Sequence[Candidate]) -> None:
        """Once after asking and once after searching, in the same order for all; a dummy where there is nobody."""
        chosen = _in_turn(candidates)[: MAX_CANDIDATES - attempt.verified]
        attempt.verified += len(chosen)
        chosen = chosen or [_NOBODY]
        checks = (self._passwords.verify(attempt.raw, candidate.password_hash) for candidate in chosen)
        for candidate, verdict in zip(chosen, await asyncio.gather(*checks), strict=True):
            if verdict.matches:
                attempt.right.append((candidate, verdict))

    def _failure(self, attempt: _Attempt) -> TenantProxyError:
        """One for everybody whose login fails now."""
        if not attempt.is_complete or self._search.breakers.any_open():
            return _unavailable()
        return attempt.is_throttled or _refused()

    async def _repair(self, attempt: _Attempt, entries: Sequence[Entry]) -> None:
        """Write what was proven into the directory, and new hashes for old; a login does not fail for it."""
        self._search.forget(attempt.key)  # that there was a search must not show in the next attempt
        for candidate, verdict in attempt.right:
            account, former = candidate.account, candidate.password_hash or ""
            timeout = self._settings.fan_out_timeout
            if Entry(tenant=account.tenant, user=account.user) not in entries:
                with suppress(*_DATABASE_ERRORS):
                    await self.directory.add(attempt.key, account.tenant, account.user, timeout=timeout)
            if verdict.rehash and self._settings.rehash_query is not None:
                with suppress(TooManyAttempts, TenantError, LoginUnavailable):
                    new = await self._passwords.hash(attempt.raw.decode())
                    await self._accounts.store_hash(account, new, former=former, timeout=timeout)

    async def _pad(self, started: float) -> None:
        slot = self._settings.pad_to
        if slot > 0:
            passed = self._clock() - started
            await self._sleep(max(1, math.ceil(passed / slot)) * slot - passed)


def _in_turn(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The first of each tenant, then the second ...: a tenant that has many rows of an address crowds out no other."""
    before: Counter[TenantId] = Counter()
    ranks: list[int] = []
    for candidate in candidates:
        ranks.append(before[candidate.account.tenant])
        before[candidate.account.tenant] += 1
    return [candidate for _, candidate in sorted(zip(ranks, candidates, strict=True), key=itemgetter(0))]


_NOBODY: Final = Candidate(account=Account(tenant=TenantId(""), user=""), password_hash=None)


def _attempt(email: str, password: str, key: bytes) -> _Attempt:
    return _Attempt(email=normalised(email) or "", key=key, raw=password_bytes(password) or b"")


def _result(failure: TenantProxyError) -> Result:
    if isinstance(failure, InvalidCredentials):
        return "refused"
    return "throttled" if isinstance(failure, TooManyAttempts) else "unavailable"


def _refused() -> InvalidCredentials:
    return InvalidCredentials("e-mail or password is wrong")


def _unavailable() -> LoginUnavailable:
    return LoginUnavailable("logging in is not possible at the moment", hint="try again", retry_after=10.0)
