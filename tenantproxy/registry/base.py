"""What is a registry? Anything that knows where a tenant lives."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, TypeAlias, runtime_checkable

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from tenantproxy.errors import RegistryUnavailable
from tenantproxy.model import Tenant, TenantId, TenantStatus

__all__ = ["Announces", "AnyConnection", "Database", "Registry", "TenantMisconfigured"]

AnyConnection: TypeAlias = "asyncpg.Connection[Any] | PoolConnectionProxy[Any]"


class TenantMisconfigured(RegistryUnavailable):
    """The registry answered, and what it says of this tenant cannot be used: names the column and the fix.

    Unlike its parent it does not mean that the source is down, so nothing older is served in its place.
    """

    http_status, sqlstate, code, retryable = 500, "XX000", "tenant_misconfigured", False


class Registry(Protocol):
    """Looks tenants up. Implementations: memory, file, postgres; `CachedRegistry` goes in front of any of them."""

    @property
    def source(self) -> str:
        """A short name for metrics: `memory`, `file`, `postgres`."""
        ...

    async def get(self, tenant: TenantId) -> Tenant:
        """The tenant, whatever its status.

        Raises TenantNotFound when there is none, RegistryUnavailable when that cannot be found out. Cancellation
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


class Database(Protocol):
    """The main database, as the registry needs it; the router's main scope is one."""

    async def fetch(self, sql: str, /, *args: object, timeout: float | None = None) -> list[asyncpg.Record]:
        """The rows of one statement."""
        ...

    def connection(self) -> AbstractAsyncContextManager[AnyConnection]:
        """One connection for the length of the block."""
        ...
