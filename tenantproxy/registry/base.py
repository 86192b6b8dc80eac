"""What is a registry? Anything that knows where a tenant lives."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from tenantproxy.errors import RegistryUnavailable, TenantProxyError
from tenantproxy.model import Tenant, TenantId, TenantStatus

__all__ = [
    "Announces",
    "Answer",
    "AnyConnection",
    "Ask",
    "AsksMany",
    "ConnectionLost",
    "Given",
    "GivenAsk",
    "ListsFrom",
    "Registry",
    "RegistryBusy",
    "RegistryDatabase",
    "SharedTenant",
    "TenantMisconfigured",
]

AnyConnection: TypeAlias = "asyncpg.Connection[Any] | PoolConnectionProxy[Any]"


class TenantMisconfigured(RegistryUnavailable):
    """The registry answered, and what it says of this tenant cannot be used: names the column and the fix.

    Unlike its parent it does not mean that the source is down, so nothing older is served in its place.
    """

    http_status, sqlstate, code, retryable = 500, "XX000", "tenant_misconfigured", False


class RegistryBusy(RegistryUnavailable):
    """This process had no connection to spare for the lookup within `lookup_timeout`.

    It says nothing about the source: it is not an outage, and nothing older is served in its place.
    """

    sqlstate, code = "53300", "registry_busy"


class ConnectionLost(RegistryUnavailable):
    """The connection broke while the source was asked; asking again on another one may help."""


Answer: TypeAlias = Tenant | TenantProxyError
"""A tenant, or the error that asking for it gave: TenantNotFound, TenantMisconfigured, RegistryUnavailable."""

Ask: TypeAlias = Callable[[Sequence[TenantId]], Awaitable[Mapping[TenantId, Answer]]]
"""Looks many tenants up in one question. Raises RegistryUnavailable when that fails for all of them."""


@dataclass(frozen=True, slots=True)
class SharedTenant:
    """A tenant as another process looked it up, good for `seconds` more."""

    tenant: Tenant
    seconds: float


Given: TypeAlias = Answer | SharedTenant
"""What a lookup is answered with: by the source, or by what processes share."""

GivenAsk: TypeAlias = Callable[[Sequence[TenantId]], Awaitable[Mapping[TenantId, Given]]]
"""As `Ask`."""


class Registry(Protocol):
    """Looks tenants up. Implementations: memory, file, postgres, mongo; `CachedRegistry` goes in front of any."""

    @property
    def source(self) -> str:
        """A short name for metrics: `memory`, `file`, `postgres`, `mongodb`."""
        ...

    async def get(self, tenant: TenantId) -> Tenant:
        """The tenant, whatever its status.

        Raises TenantNotFound when it does not exist, RegistryUnavailable when that cannot be found out. Cancellation
        leaves nothing.
        """
        ...

    def tenants(self, *, status: TenantStatus | None = None) -> AsyncIterator[Tenant]:
        """All tenants in order of their identifiers, read in pages; may be long."""
        ...

    async def open(self) -> None:
        """Load or connect what is needed; safe to call once."""
        ...

    async def close(self) -> None:
        """Let go of everything; the registry is not used afterwards."""
        ...


@runtime_checkable
class Announces(Protocol):
    """A registry that tells when a tenant changed."""

    def subscribe(self, listener: Callable[[str | None], None]) -> Callable[[], None]:
        """Call `listener` at once with the tenant that changed (None: any may have); returns how to stop that."""
        ...


@runtime_checkable
class AsksMany(Protocol):
    """A registry that can look many tenants up at once: then lookups that wait are asked together."""

    def asking(self, timeout: float | None, /) -> AbstractAsyncContextManager[Ask]:
        """What it takes to ask (a connection), for the length of the block; waits for it `timeout` seconds at most.

        Raises RegistryBusy when this process has none to spare, RegistryUnavailable when the source cannot be reached.
        """
        ...


@runtime_checkable
class ListsFrom(Protocol):
    """A registry that can begin its list anywhere: then a page of it costs what is on it, wherever it is."""

    def tenants_after(self, after: str, /) -> AsyncIterator[Tenant]:
        """Those behind the identifier `after`, in the same order as `tenants`; there need be none of that name."""
        ...


class RegistryDatabase(Protocol):
    """The main database, as the registry needs it; the router's main scope is one."""

    async def fetch(self, sql: str, /, *args: object, timeout: float | None = None) -> list[asyncpg.Record]:
        """The rows of one statement."""
        ...

    def connection(self, *, timeout: float | None = None) -> AbstractAsyncContextManager[AnyConnection]:
        """One connection for the length of the block; `timeout` bounds the wait for it, in seconds."""
        ...
