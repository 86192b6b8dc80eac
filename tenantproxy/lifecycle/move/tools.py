"""What does every part of a move work with? The connections, the store, and the door of the old place."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import asyncpg

from tenantproxy.config import Settings
from tenantproxy.errors import TenantProxyError
from tenantproxy.lifecycle.change_store import ChangeStore
from tenantproxy.lifecycle.move.state import MoveState
from tenantproxy.lifecycle.provisioner import Connect, ConnectTo
from tenantproxy.lifecycle.status.closing import PlaceDoor
from tenantproxy.lifecycle.tenant_roles import roles_of_tenants
from tenantproxy.model import Isolation, Placement

__all__ = ["MAINTENANCE", "MoveFailed", "MoveOptions", "MoveTools", "Moved", "Told"]

MAINTENANCE: Final = "postgres"

Told = Callable[[MoveState], Awaitable[None] | None]
"""Called with each state of a move, behind it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveOptions:
    """Where to, and how. None: as it is.

    `drop_old`: remove the old place behind the move, where it was made for the tenant by us. `catch_up`: seconds for a
    new database to follow; `drain`: seconds for transactions to end; `replicate`: False copies the rows while the
    tenant is paused.
    """

    server: str | None = None
    isolation: Isolation | None = None
    drop_old: bool = False
    catch_up: float = 3600.0
    drain: float = 1.0
    replicate: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """A tenant at its new place. `paused_seconds`: for which its requests waited. `left`: of the old place, closed."""

    tenant: str
    placement: Placement
    rows: int
    paused_seconds: float
    followed: bool
    left: tuple[str, ...]


class MoveFailed(TenantProxyError):
    """A tenant could not be moved. Its old place serves it as before, unless the detail says otherwise."""

    code = "move_failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveTools:
    """Of an open mover. `main`: the main database's connection, one user at a time by `store.turn`."""

    settings: Settings
    connect: ConnectTo
    main: asyncpg.Connection
    store: ChangeStore
    door: PlaceDoor
    told: Told = field(default=lambda state: None)

    async def roles_of_tenants(self, conn: asyncpg.Connection, server: str) -> list[str]:
        """Those of all tenants on `server`, to which `conn` is."""
        async with self.store.turn:
            return await roles_of_tenants(self.main, conn, default=self.settings.main.server, server=server)

    def connecting(self, server: str) -> Connect:
        """What opens connections to databases of `server`, with admin credentials."""
        return lambda database: self.connect(server, database)

    @asynccontextmanager
    async def opened(self, server: str, database: str) -> AsyncIterator[asyncpg.Connection]:
        """A connection with admin credentials, for the block."""
        conn = await self.connect(server, database)
        try:
            yield conn
        finally:
            await conn.close()
