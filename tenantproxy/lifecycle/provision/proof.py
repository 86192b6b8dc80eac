"""Does a new tenant get a connection that is its own? Asked of the router itself, with all its checks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from tenantproxy.config import Settings
from tenantproxy.errors import IsolationError
from tenantproxy.lifecycle.own_router import own_router
from tenantproxy.lifecycle.provision.admin import FirstAdmin, ensure_admin
from tenantproxy.lifecycle.provision.wanted import Wanted
from tenantproxy.model import Isolation, TenantStatus
from tenantproxy.registry import MemoryRegistry
from tenantproxy.router import Router

__all__ = ["Prover"]

_SEEN: Final = (
    "SELECT current_user::text AS role, current_database()::text AS database, current_schema()::text AS schema"
)


class Prover:
    """A router that knows the new tenants alone, opened at the first one.

    Its connections are made as those of every process are: what the role must not be or reach is refused there.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._known = MemoryRegistry()
        self._router: Router | None = None
        self._turn = asyncio.Lock()

    async def prove(self, wanted: Wanted) -> None:
        """Raises IsolationError and all that the router raises when it does not come to what is its own."""
        user = wanted.role or self._settings.servers[wanted.server].user
        async with self._knowing(wanted) as router:
            for system, schema in ((None, wanted.schema), *wanted.systems):
                row = await router.tenant(wanted.id, system=system).fetchrow(_SEEN)
                if row is None or (row["role"], row["database"]) != (user, wanted.database):
                    raise IsolationError(f"the session of the new tenant {wanted.id} is not its own")
                if wanted.isolation is Isolation.SCHEMA and row["schema"] != schema:
                    raise IsolationError(f"the session of the new tenant {wanted.id} is not in its schema")

    async def add_admin(self, wanted: Wanted, admin: FirstAdmin) -> str:
        """See `ensure_admin`."""
        async with self._knowing(wanted) as router:
            return await ensure_admin(router.tenant(wanted.id), self._settings, admin)

    @asynccontextmanager
    async def _knowing(self, wanted: Wanted) -> AsyncIterator[Router]:
        async with self._turn:
            if self._router is None:
                few = self._settings.provision.parallel + self._settings.main.max_size
                router = own_router(self._settings, self._known, most=few)
                await router.open()
                self._router = router
        self._known.add(wanted.tenant(TenantStatus.ACTIVE))
        try:
            yield self._router
        finally:
            self._known.remove(wanted.id)

    async def close(self) -> None:
        """Closes the router."""
        if self._router is not None:
            await self._router.close()
