"""Where are accounts? In the tenants' own tables, asked in their own sessions, or through an installed function.

What PostgreSQL says of a failed question goes no further than its class and SQLSTATE: its text may hold an address.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import replace
from typing import Final, Protocol, TypeAlias

import asyncpg

from tenantproxy.auth.accounts import Account, AccountsDenied, Candidate, Place, SharedDatabase
from tenantproxy.auth.base import AuthDatabase
from tenantproxy.auth.directory import Directory
from tenantproxy.auth.login import LoginService
from tenantproxy.auth.passwords import Passwords
from tenantproxy.config import Settings
from tenantproxy.connect.failures import describe
from tenantproxy.driver.connector import LOGIN_PROFILE
from tenantproxy.errors import (
    ConfigurationError,
    ConnectFailed,
    IsolationError,
    LoginUnavailable,
    PoolError,
    Problem,
    RegistryUnavailable,
    TenantError,
    TenantNotFound,
    TenantPaused,
)
from tenantproxy.events import LoginSearchFailed, Observer, ignore
from tenantproxy.model import Isolation, PoolKey, Route, Session, Tenant, TenantId, TenantStatus, tenant_id
from tenantproxy.scope import LeaseSource, Scope, TenantScope

__all__ = ["FixedScope", "PausedTenants", "TenantAccounts", "Tenants", "new_login"]

_LOGIN: Final = TenantId("_login")  # no tenant can be called so
_LOOKUP: Final = "SELECT tenant_id FROM tenantproxy.login_candidates($1)"
_DOWN: Final = (
    PoolError, RegistryUnavailable, IsolationError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError,
    TimeoutError,
)  # fmt: skip
_DOWN_CLASSES: Final = frozenset({"08", "53", "57", "58", "XX"})  # of SQLSTATEs: the server, not the statement
_DENIED: Final = frozenset({"28P01", "28000", "3D000", "42501"})  # of one tenant: its role, its database, its grants
_ROWS: Final = 4
_PAGE: Final = 1000
_PLACES_SECONDS: Final = 10.0


class FixedScope(Scope):
    """The scope of a `route` for which no tenant has to be looked up: what the router itself asks."""

    __slots__ = ("route",)

    def __init__(self, source: LeaseSource, route: Route) -> None:
        super().__init__(source)
        self.route = route


class Tenants(Protocol):
    """All tenants; the router's registry is one."""

    def tenants(self, *, status: TenantStatus | None = None) -> AsyncIterator[Tenant]:
        """See `registry.Registry`."""
        ...


PausedTenants: TypeAlias = "Callable[[TenantId], AbstractAsyncContextManager[Scope]]"
"""The scope of a tenant that is paused, for one question. Raises TenantPaused where there must not even be that."""


class TenantAccounts:
    """See `auth.accounts.Accounts`. `source` is the router; `paused` gives its way to a tenant that is not served."""

    def __init__(
        self,
        settings: Settings,
        *,
        source: LeaseSource,
        tenants: Tenants,
        paused: PausedTenants | None = None,
        observer: Observer = ignore,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._source = source
        self._paused = paused
        self._tenants = tenants
        self._observer = observer
        self._clock = clock
        self._places: tuple[Place, ...] | None = None
        self._places_until = 0.0
        self._listing = asyncio.Lock()
        self._scopes: dict[SharedDatabase, Scope] = {}

    def adopt(self, settings: Settings) -> None:
        """Look for accounts on the servers of `settings` from now on."""
        self._settings = settings
        self._places = None
        self._scopes.clear()

    async def of_tenant(self, tenant: TenantId, email: str, *, timeout: float) -> Sequence[Candidate]:
        """See `Accounts`."""
        query = self._settings.login.account_query or ""
        try:
            rows = await self._ask(tenant, TenantScope(self._source, tenant), query, email, timeout=timeout)
        except TenantPaused:
            # Only who has the right password may hear that it is paused: so it is read like that of any other tenant.
            return await self._of_paused(tenant, query, email, timeout=timeout)
        return [self._candidate(tenant, row) for row in rows[:_ROWS]]

    async def _of_paused(self, tenant: TenantId, query: str, email: str, *, timeout: float) -> Sequence[Candidate]:
        """A paused tenant that cannot be asked is as it always was: closed to all. Raises TenantPaused."""
        if self._paused is None:
            raise _closed()
        try:
            async with self._paused(tenant) as scope:
                rows = await scope.fetch(query, email, timeout=timeout)
        except (*_DOWN, asyncpg.PostgresError):
            raise _closed() from None
        return [replace(self._candidate(tenant, row), is_paused=True) for row in rows[:_ROWS]]

    async def in_shared(self, place: SharedDatabase, email: str, *, timeout: float) -> Sequence[TenantId]:
        """See `Accounts`."""
        rows = await self._ask(place, self._shared(place), _LOOKUP, email, timeout=timeout)
        found: list[TenantId] = []
        for row in rows:
            with suppress(TenantNotFound):
                found.append(tenant_id(row["tenant_id"]))
        return found

    async def store_hash(self, account: Account, password_hash: str, *, former: str, timeout: float) -> None:
        """See `Accounts`."""
        query = self._settings.login.rehash_query
        if query is not None:
            scope = TenantScope(self._source, account.tenant)
            values = (account.user, password_hash, former)[: 3 if "$3" in query else 2]
            await self._ask(account.tenant, scope, query, *values, timeout=timeout)

    async def claims_of(self, tenant: TenantId, user: str, *, timeout: float) -> Mapping[str, object] | None:
        """See `Standing`; by `[login] session_query`, in the tenant's own session."""
        query = self._settings.login.session_query or ""
        try:
            rows = await TenantScope(self._source, tenant).fetch(query, user, timeout=timeout)
        except TenantPaused:
            raise  # who asks has a session there: it may be told
        except TenantError:
            raise _unavailable() from None  # who is gone for good is refused before
        except (*_DOWN, asyncpg.PostgresError) as exc:  # also what the tenant broke: it is unknown whose account it is
            raise self._down(tenant, _told(exc)) from None
        if len(rows) > 1:
            raise self._down(tenant, "login.session_query gives more than one row")
        return _claims(dict(rows[0])) if rows else None

    async def pages(self, tenant: TenantId) -> AsyncIterator[list[tuple[str, str]]]:
        """All accounts of a tenant as (e-mail, user), in pages, by `[login] list_query`. Errors are the database's."""
        scope, after = TenantScope(self._source, tenant), ""
        while True:
            rows = await scope.fetch(self._settings.login.list_query or "", after, _PAGE)
            yield [(row["email"], str(row["user_id"])) for row in rows if row["email"] is not None]
            if len(rows) < _PAGE:
                return
            before, after = after, str(rows[-1]["user_id"])
            if after == before:
                fix = "it must give the accounts after the user_id $1 in order, at most $2"
                problem = "gives the same page again"
                raise ConfigurationError([Problem(key="login.list_query", problem=problem, fix=fix)])

    async def _ask(
        self, place: Place, scope: Scope, query: str, *args: str, timeout: float
    ) -> Sequence[asyncpg.Record]:
        try:
            return await scope.fetch(query, *args, timeout=timeout)
        except (*_DOWN, asyncpg.PostgresError) as exc:
            # A shared database has our function and our role: whatever it says, many tenants were not searched.
            if isinstance(place, SharedDatabase) or not _is_denied(exc):
                raise self._down(place, _told(exc)) from None
            self._observer(LoginSearchFailed(place=str(place), error=_told(exc), is_down=False))
            raise AccountsDenied("the accounts of the tenant cannot be asked") from None

    def _down(self, place: Place, error: str) -> LoginUnavailable:
        self._observer(LoginSearchFailed(place=str(place), error=error, is_down=True))
        return _unavailable()

    def _candidate(self, tenant: TenantId, row: asyncpg.Record) -> Candidate:
        values = dict(row)
        if "user_id" not in values or "password_hash" not in values or values["user_id"] is None:
            raise self._down(tenant, "login.account_query gives no user_id and password_hash")
        user, stored = str(values.pop("user_id")), values.pop("password_hash")
        if isinstance(stored, bytes):
            stored = stored.decode("ascii", "replace")
        if not isinstance(stored, str):
            stored = None  # a tenant may have made a column of numbers of it: no user's password, and no error
        return Candidate(account=Account(tenant=tenant, user=user, claims=_claims(values)), password_hash=stored)

    def _shared(self, place: SharedDatabase) -> Scope:
        if (scope := self._scopes.get(place)) is None:
            login = self._settings.servers[place.server].login
            user = login.user if login is not None else None
            key = PoolKey(server=place.server, database=place.database, user=user, profile=LOGIN_PROFILE)
            route = Route(tenant=_LOGIN, isolation=Isolation.DATABASE, pool=key, session=Session())
            scope = self._scopes[place] = FixedScope(self._source, route)
        return scope

    async def places(self) -> Sequence[Place] | None:
        """See `Accounts`; a list of a few seconds ago."""
        async with self._listing:
            if self._clock() >= self._places_until:
                self._places = await self._list_places()
                self._places_until = self._clock() + _PLACES_SECONDS
            return self._places

    async def _list_places(self) -> tuple[Place, ...] | None:
        places: dict[Place, None] = {}
        async for tenant in self._tenants.tenants(status=TenantStatus.ACTIVE):
            places[self._place(tenant)] = None
            if len(places) > self._settings.login.fan_out_limit:
                return None
        return tuple(places)

    def _place(self, tenant: Tenant) -> Place:
        """Row tenants one by one where their server has no user that may look them up together."""
        place = tenant.placement
        server = self._settings.servers.get(place.server)
        if place.isolation is Isolation.ROW and server is not None and server.login is not None:
            return SharedDatabase(server=place.server, database=place.database)
        return tenant.id


def _is_denied(error: BaseException) -> bool:
    """Whether a server that is up refuses this one tenant, or the tenant's own tables do."""
    if isinstance(error, ConnectFailed):
        return error.refusal in _DENIED
    return isinstance(error, asyncpg.PostgresError) and (error.sqlstate or "XX")[:2] not in _DOWN_CLASSES


def _told(error: BaseException) -> str:
    """What an event says of it: classes and codes."""
    state = error.refusal if isinstance(error, ConnectFailed) else None
    return f"{type(error).__name__} {state}" if state else describe(error)


def _closed() -> TenantPaused:
    return TenantPaused("the tenant is paused by an operator", hint="it comes back: try again later", retry_after=5.0)


def _unavailable() -> LoginUnavailable:
    return LoginUnavailable("logging in is not possible at the moment", hint="try again", retry_after=1.0)


def _claims(values: Mapping[str, object]) -> dict[str, object]:
    """The columns that an access token takes: all but who it is, and never a hash."""
    values = {name: value for name, value in values.items() if name not in ("user_id", "password_hash")}
    return {name: _plain(value) for name, value in values.items() if value is not None}


def _plain(value: object) -> object:
    """A value that JSON has."""
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, dict):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, str | int | float) else str(value)


def new_login(
    settings: Settings, *, main: AuthDatabase, accounts: TenantAccounts, observer: Observer = ignore
) -> LoginService:
    """Login as `[login]` says. Raises ConfigurationError where it says nothing, or a package is missing."""
    login = settings.login
    if login.account_query is None or login.pepper is None:
        fix = "add account_query and pepper_file to [login]"
        raise ConfigurationError([Problem(key="login", problem="is not configured", fix=fix)])
    directory = Directory(main, pepper=login.pepper.read_bytes())
    return LoginService(login, directory=directory, accounts=accounts, passwords=Passwords(), observer=observer)
