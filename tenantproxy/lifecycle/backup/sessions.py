"""How is a row tenant's data read and written? In a session of its own, bound as that of each of its requests is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import asyncpg

from tenantproxy.config import Settings
from tenantproxy.lifecycle.own_router import own_router
from tenantproxy.model import Tenant, TenantStatus
from tenantproxy.registry import MemoryRegistry
from tenantproxy.router import Router

__all__ = ["RowSessions"]


class RowSessions:
    """Transactions of row tenants, whatever their status is: who is suspended is saved too. `close` it at the end.

    State: a router, opened at the first transaction, and the tenants that it knows, those that have one at the moment.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._known = MemoryRegistry()
        self._router: Router | None = None
        self._turn = asyncio.Lock()

    @asynccontextmanager
    async def transaction(self, tenant: Tenant, *, readonly: bool) -> AsyncIterator[asyncpg.Connection]:
        """One snapshot of what is the tenant's; committed at its end, rolled back when the block raises.

        Raises what the router raises. One at a time for each tenant.
        """
        router = await self._opened()
        self._known.add(replace(tenant, status=TenantStatus.ACTIVE))
        try:
            scope = router.tenant(tenant.id)
            async with scope.transaction(isolation="repeatable_read", readonly=readonly) as conn:
                yield conn
        finally:
            self._known.remove(tenant.id)

    async def _opened(self) -> Router:
        async with self._turn:
            if self._router is None:
                backup, most = self._settings.backup, self._settings.main.max_size
                # Nothing cuts a long COPY off, or a transaction that waits for the disk.
                router = own_router(
                    self._settings, self._known, most=backup.parallel + most, statement_timeout=0.0,
                    idle_in_transaction_timeout=0.0,
                )  # fmt: skip
                await router.open()
                self._router = router
        return self._router

    async def close(self) -> None:
        """Closes the router."""
        if self._router is not None:
            await self._router.close()
