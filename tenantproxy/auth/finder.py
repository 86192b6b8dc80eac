"""Finds the accounts of an e-mail address whose password is right: the directory first, a bounded search second.

What a stranger must not learn is who has an account. So each attempt reads the directory once, asks at least one tenant
(a decoy where the directory knows none) and verifies a password (a dummy where none is known). If nothing fitted it
searches on, once in a while for an address, and verifies once more. All failures are the same error; while a tenant
cannot be asked, it is LoginUnavailable.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Final

import asyncpg

from tenantproxy.auth.accounts import Accounts, Candidate
from tenantproxy.auth.directory import Directory, DirectoryEntry, Found
from tenantproxy.auth.hashes import Kind, Refusal, StoredHash, read_hash
from tenantproxy.auth.passwords import Passwords, PasswordVerdict
from tenantproxy.auth.rotation import Rotation
from tenantproxy.auth.search import MAX_CANDIDATES, Search
from tenantproxy.auth.trust import Trust
from tenantproxy.config import LoginSettings as Settings
from tenantproxy.errors import (
    InvalidCredentials,
    LoginUnavailable,
    PoolError,
    RegistryUnavailable,
    TenantError,
    TenantNotFound,
    TenantPaused,
    TenantProxyError,
    TooManyAttempts,
)
from tenantproxy.model import TenantId, tenant_id

__all__ = ["DATABASE_ERRORS", "Attempt", "Finder", "Proven", "refused"]

DATABASE_ERRORS: Final = (PoolError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError)
_IGNORED: Final = (*DATABASE_ERRORS, TooManyAttempts)  # where the directory is repaired: the next login does it

_MAX_ASKED: Final = 16  # tenants of one address in one attempt, where most have no hash that could match
_MIN_AFTER_SEARCH: Final = 2  # passwords that may be verified after it, whatever was verified before

Proven = tuple[Candidate, PasswordVerdict]
Unusable = Callable[[TenantId, Kind], None]


@dataclass(slots=True)
class Attempt:
    """What is known in the course of one attempt."""

    email: str = field(repr=False)
    key: bytes = field(repr=False)
    raw: bytes = field(repr=False)
    trust: Trust
    device: bytes | None = field(default=None, repr=False)  # that it was counted for
    asked: dict[TenantId, None] = field(default_factory=dict)
    verified: int = 0
    right: list[Proven] = field(default_factory=list)
    searched: int = 0
    as_of: str = ""
    is_remembered: bool = False  # when it began, a recent search had said who has the address
    is_known: bool = False  # the directory, or a recent search, named a tenant
    is_complete: bool = True  # every tenant that should have been asked was
    is_throttled: TooManyAttempts | None = None


class Finder:
    """For the loop in which it is used first. `unusable` is told of stored hashes that can match nothing."""

    def __init__(
        self,
        settings: Settings,
        *,
        directory: Directory,
        accounts: Accounts,
        passwords: Passwords,
        unusable: Unusable,
        clock: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._directory = directory
        self._accounts = accounts
        self._passwords = passwords
        self._unusable = unusable
        self._search = Search(accounts, settings, clock=clock)
        self._rotation = Rotation(clock=clock)
        self._decoy: TenantId | None = None  # for addresses behind all others in the directory

    async def find(self, attempt: Attempt, chosen: str | None) -> None:
        """Put into `attempt.right` the accounts whose password is right, at least one.

        `chosen`: the tenant that is looked at alone. Raises InvalidCredentials, TooManyAttempts, LoginUnavailable,
        and TenantPaused where the password is right in tenants that are paused alone.
        """
        try:
            found = await self._directory.look_up(attempt.key, timeout=self._settings.fan_out_timeout)
        except DATABASE_ERRORS:
            raise _unavailable() from None
        attempt.as_of = found.as_of
        await self._ask(attempt, found, chosen)
        # An address that is not in the directory may have more accounts than the one that a decoy had.
        if chosen is None and self._settings.fan_out and not (attempt.right and attempt.is_known):
            await self._fan_out(attempt)
        if not attempt.right:
            raise self._failure(attempt)
        served = [proven for proven in attempt.right if not proven[0].is_paused]
        if not served:
            raise TenantPaused(
                "the tenant is paused by an operator", hint="it comes back: try again later", retry_after=5.0
            )
        attempt.right = served
        await self._repair(attempt, found.entries)

    def _tenants(self, attempt: Attempt, found: Found, chosen: str | None) -> Sequence[TenantId]:
        """Who is asked before anything is searched."""
        if chosen is not None:
            with suppress(TenantNotFound):
                return (tenant_id(chosen),)
            return ()
        remembered = self._search.remembered(attempt.key)
        attempt.is_remembered = remembered is not None
        return self._rotation.ordered(attempt.key, [*(entry.tenant for entry in found.entries), *(remembered or ())])

    async def _ask(self, attempt: Attempt, found: Found, chosen: str | None) -> None:
        """Ask at least one tenant: a decoy, where none is known or can be asked, so that all take the same time.

        As many are asked as passwords are verified: one whose hash can match nothing takes no place of another.
        """
        candidates: list[Candidate] = []
        noted = {entry.tenant for entry in found.entries}
        tenants = self._tenants(attempt, found, chosen)
        for number, tenant in enumerate(tenants):
            if number == _MAX_ASKED or len({each.account.tenant for each in candidates}) == MAX_CANDIDATES:
                self._rotation.stopped(attempt.key, number)
                break
            attempt.is_known = True
            here = await self._ask_one(attempt, tenant, noted)
            candidates += self._usable(here or ())
            if here is not None and not here and chosen is None:
                self._search.forget(attempt.key)  # what was known is not so any more
        if not attempt.asked and (decoy := found.decoy or self._decoy) is not None:
            others = await self._ask_one(attempt, decoy, ())
            # It is not known who has the account: the decoy may have it.
            candidates += self._usable(others or ()) if chosen is None else ()
        if found.decoy is not None:
            self._decoy = found.decoy
        await self._verify(attempt, candidates, MAX_CANDIDATES)

    def _usable(self, candidates: Iterable[Candidate]) -> list[Candidate]:
        """Those that some password can match; the others are reported, unless they are meant to have none."""
        found: list[Candidate] = []
        for candidate in candidates:
            stored = read_hash(candidate.password_hash)
            if not isinstance(stored, Refusal):
                found.append(candidate)
            elif stored.kind is not None:
                self._unusable(candidate.account.tenant, stored.kind)
        return found

    async def _ask_one(
        self, attempt: Attempt, tenant: TenantId, noted: Iterable[TenantId]
    ) -> Sequence[Candidate] | None:
        """Who has the address there; None: that tenant cannot be asked for now."""
        try:
            candidates = await self._search.ask(tenant, attempt.email)
        except LoginUnavailable:
            attempt.is_complete = False
            return ()
        except TenantNotFound:
            candidates = ()
        except TenantError:
            return None  # suspended, or its database refuses us: the account may well be there
        else:
            attempt.asked[tenant] = None
        if not candidates and tenant in noted:
            with suppress(*_IGNORED):
                await self._directory.remove(attempt.key, tenant, timeout=self._settings.fan_out_timeout)
        return candidates

    async def _fan_out(self, attempt: Attempt) -> None:
        if (remembered := self._search.remembered(attempt.key)) is not None:
            if not attempt.is_remembered:  # another attempt searched meanwhile: what it found is asked too
                await self._ask_more(attempt, remembered)
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
            candidates = self._usable(searched.candidates)
            room = max(_MIN_AFTER_SEARCH, MAX_CANDIDATES - attempt.verified)
            ordered = self._rotation.ordered(attempt.key, sorted(each.account.tenant for each in candidates))
            if len(ordered) > room:
                self._rotation.stopped(attempt.key, room)
            await self._verify(attempt, sorted(candidates, key=lambda each: ordered.index(each.account.tenant)), room)

    async def _ask_more(self, attempt: Attempt, tenants: Iterable[TenantId]) -> None:
        """Ask those that were not asked before, and verify once more."""
        candidates: list[Candidate] = []
        for tenant in self._rotation.ordered(attempt.key, tenants)[:_MAX_ASKED]:
            if tenant not in attempt.asked:
                candidates += self._usable(await self._ask_one(attempt, tenant, ()) or ())
        await self._verify(attempt, candidates, max(_MIN_AFTER_SEARCH, MAX_CANDIDATES - attempt.verified))

    async def _verify(self, attempt: Attempt, candidates: Sequence[Candidate], room: int) -> None:
        """Once after asking and once after searching, in the same order for all; a dummy where there is no account."""
        chosen = _alternating(candidates)[:room]
        attempt.verified += len(chosen)
        stored: list[StoredHash] = [read_hash(candidate.password_hash) for candidate in chosen]
        if not stored:
            await self._passwords.verify(attempt.raw, None, trust=attempt.trust)
            return
        checks = (self._passwords.verify(attempt.raw, each, trust=attempt.trust) for each in stored)
        for candidate, verdict in zip(chosen, await asyncio.gather(*checks), strict=True):
            if verdict.matches:
                attempt.right.append((candidate, verdict))

    def _failure(self, attempt: Attempt) -> TenantProxyError:
        """One for every login that fails now."""
        if not attempt.is_complete or self._search.breakers.any_open():
            return _unavailable()
        return attempt.is_throttled or refused()

    async def _repair(self, attempt: Attempt, entries: Sequence[DirectoryEntry]) -> None:
        """Write what was proven into the directory, and new hashes for old; a login does not fail for it."""
        self._search.forget(attempt.key)  # that there was a search must not show in the next attempt
        self._rotation.was_right(attempt.key, [candidate.account.tenant for candidate, _ in attempt.right])
        for candidate, verdict in attempt.right:
            account, former = candidate.account, candidate.password_hash or ""
            timeout = self._settings.fan_out_timeout
            if DirectoryEntry(tenant=account.tenant, user=account.user) not in entries:
                with suppress(*_IGNORED):
                    await self._directory.add(attempt.key, account.tenant, account.user, timeout=timeout)
            if verdict.rehash and self._settings.rehash_query is not None:
                with suppress(TooManyAttempts, TenantError, LoginUnavailable):
                    new = await self._passwords.hash(attempt.raw.decode())
                    await self._accounts.store_hash(account, new, former=former, timeout=timeout)


def _alternating(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The first of each tenant, then the second ...: a tenant that has many rows of an address crowds out no other."""
    before: Counter[TenantId] = Counter()
    ranks: list[int] = []
    for candidate in candidates:
        ranks.append(before[candidate.account.tenant])
        before[candidate.account.tenant] += 1
    return [candidate for _, candidate in sorted(zip(ranks, candidates, strict=True), key=itemgetter(0))]


def refused() -> InvalidCredentials:
    """The one answer to every wrong login."""
    return InvalidCredentials("e-mail or password is wrong")


def _unavailable() -> LoginUnavailable:
    return LoginUnavailable("logging in is not possible at the moment", hint="try again", retry_after=10.0)
