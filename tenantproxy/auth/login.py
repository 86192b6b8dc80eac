"""The login service: limits, the search for the account, padding, counts and events of each attempt.

State: counts, limits and what the finder remembers, in this process alone.
"""

from __future__ import annotations

import asyncio
import hmac
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final

from tenantproxy.auth.accounts import Account, Accounts
from tenantproxy.auth.devices import DeviceTokens
from tenantproxy.auth.directory import Directory, normalised
from tenantproxy.auth.finder import Attempt, Finder, refused
from tenantproxy.auth.hashes import Kind
from tenantproxy.auth.login_counts import RESULTS, LoginCounts, Result
from tenantproxy.auth.passwords import Passwords, password_bytes
from tenantproxy.auth.throttle import Throttle, limit_of
from tenantproxy.auth.trust import Trust
from tenantproxy.config import LoginSettings as Settings
from tenantproxy.errors import (
    InvalidCredentials,
    LoginUnavailable,
    TenantPaused,
    TenantProxyError,
    TooManyAttempts,
)
from tenantproxy.events import LoginFailed, LoginLocked, LoginSucceeded, Observer, PasswordHashUnusable, ignore
from tenantproxy.model import TenantId

__all__ = ["RESULTS", "LoginCounts", "LoginService", "Result"]

_MAX_TOLD: Final = 1_000  # kinds of hashes by tenant, and locks, that are remembered as told
_LOCK_SECONDS: Final = 60.0


class LoginService:
    """Finds the accounts of an e-mail address whose password is right. For the loop in which it is used first."""

    def __init__(
        self,
        settings: Settings,
        *,
        directory: Directory,
        accounts: Accounts,
        passwords: Passwords,
        observer: Observer = ignore,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.counts = LoginCounts()
        self.directory = directory
        self.devices = DeviceTokens(directory.derived(b"devices"))
        self._settings = settings
        self._accounts = accounts
        self._passwords = passwords
        self._observer = observer
        self._clock = clock
        self._sleep = sleep
        self._audit_key = directory.derived(b"audit")
        self._told: set[tuple[TenantId, Kind]] = set()  # bounded: see `_unusable`
        self._locks: dict[tuple[str, str], float] = {}  # told at; bounded: see `_locked`
        self._finder = Finder(
            settings,
            directory=directory,
            accounts=accounts,
            passwords=passwords,
            unusable=self._unusable,
            clock=clock,
        )
        self._throttle = Throttle(
            per_account=settings.attempts_per_account,
            per_address=settings.attempts_per_address,
            per_second=settings.attempts_per_second,
            clock=clock,
        )

    async def login(
        self,
        email: str,
        password: str,
        *,
        address: str | None = None,
        tenant: str | None = None,
        device: str | None = None,
    ) -> tuple[Account, ...]:
        """The accounts, at most six, whose password this is; one, unless a person has it in several tenants.

        `tenant` looks at that one alone. `address` is the client's, for its limits; `device` a token of `devices` that
        a former login gave. Answers at a multiple of `pad_to` seconds. Raises InvalidCredentials, TooManyAttempts,
        LoginUnavailable, none of which says whether there is an account; TenantPaused where the password is right in a
        paused tenant.
        """
        started = self._clock()
        name, raw = normalised(email), password_bytes(password)
        key = self.directory.key(name or "")
        attempt: Attempt | None = None
        failure: TenantProxyError | None = None
        result: Result = "error"
        try:
            try:
                if name is None or raw is None:
                    self._throttle.take_impossible(address)  # no account can be meant: none is counted
                else:
                    attempt = self._admit(name, key, raw, address, device)
            except TooManyAttempts as exc:
                result = "throttled"
                self._locked(exc, key, address)
                raise
            try:
                if attempt is None:
                    raise refused()
                await self._finder.find(attempt, tenant)
                result = "ok" if len(attempt.right) == 1 else "selection"
            except (InvalidCredentials, TooManyAttempts, LoginUnavailable, TenantPaused) as exc:
                failure = exc
                result = _result(exc)
            if attempt is not None and attempt.right:
                self._throttle.forgive(key, address, device=attempt.device)
        finally:
            self.counts.observe(result, self._clock() - started, 0 if attempt is None else attempt.searched)
        await self._pad(started)
        if failure is not None or attempt is None:
            self._observer(LoginFailed(account=self._audited(key), address=address or "", reason=result))
            raise failure or refused()
        return self._succeeded(attempt, address)

    def device_token(self, email: str) -> str:
        """A token for a device on which `email` has just logged in, see `login`."""
        return self.devices.issue(self.directory.key(normalised(email) or ""))

    def close(self) -> None:
        """Let its threads end."""
        self._passwords.close()

    def _admit(self, email: str, key: bytes, raw: bytes, address: str | None, device: str | None) -> Attempt:
        proven = self._device(device, key)
        trust: Trust = self._throttle.take(key, address, device=proven)
        self._passwords.check_room(trust)  # before anything is asked: who is refused here learns nothing
        return Attempt(email=email, key=key, raw=raw, trust=trust, device=proven)

    def _device(self, token: str | None, key: bytes) -> bytes | None:
        return self.devices.check(token, key) if token is not None and self._throttle.allows_device(key) else None

    def _succeeded(self, attempt: Attempt, address: str | None) -> tuple[Account, ...]:
        accounts = tuple(replace(candidate.account, as_of=attempt.as_of) for candidate, _ in attempt.right)
        for account in accounts:
            self._observer(
                LoginSucceeded(
                    account=self._audited(attempt.key),
                    address=address or "",
                    tenant=account.tenant,
                    user=account.user,
                )
            )
        return accounts

    def _locked(self, error: TooManyAttempts, key: bytes, address: str | None) -> None:
        """Tell it once a minute for an account or an address: a flood must not become one of events."""
        limit, account = limit_of(error), self._audited(key)
        what = {"account": account, "address": address or ""}.get(limit, "")
        now = self._clock()
        if now < self._locks.get((limit, what), -math.inf) + _LOCK_SECONDS:
            return
        if len(self._locks) >= _MAX_TOLD:
            self._locks = {each: at for each, at in self._locks.items() if now < at + _LOCK_SECONDS}
            if len(self._locks) >= _MAX_TOLD:
                return
        self._locks[limit, what] = now
        self._observer(
            LoginLocked(account=account, address=address or "", limit=limit, retry_after=error.retry_after or 0.0)
        )

    def _unusable(self, tenant: TenantId, kind: Kind) -> None:
        self.counts.unusable[kind] += 1
        if (tenant, kind) not in self._told and len(self._told) < _MAX_TOLD:
            self._told.add((tenant, kind))
            self._observer(PasswordHashUnusable(tenant=tenant, format=kind))

    def _audited(self, key: bytes) -> str:
        """What stands for an account in events: another keyed hash than the directory's."""
        return hmac.digest(self._audit_key, key, "sha256")[:16].hex()

    async def _pad(self, started: float) -> None:
        slot = self._settings.pad_to
        if slot > 0:
            passed = self._clock() - started
            await self._sleep(max(1, math.ceil(passed / slot)) * slot - passed)


def _result(failure: TenantProxyError) -> Result:
    if isinstance(failure, InvalidCredentials):
        return "refused"
    return "throttled" if isinstance(failure, TooManyAttempts) else "unavailable"
