"""How is all that a tenant has removed, and nothing that is others'? Step by step, each written down when done.

What dies in between is gone on with by the next call: each step looks first. What was not provably made for the tenant
is left, and told.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, Final

import asyncpg

from tenantproxy.config import Settings
from tenantproxy.errors import ConfigurationError, Problem
from tenantproxy.lifecycle.change_store import ChangeStore, TenantChange
from tenantproxy.lifecycle.failures import said
from tenantproxy.lifecycle.provision import places
from tenantproxy.lifecycle.provision.wanted import temporary_name
from tenantproxy.lifecycle.provisioner import Connect, ConnectTo
from tenantproxy.lifecycle.status.backups import LastBackups
from tenantproxy.lifecycle.status.closing import PlaceDoor
from tenantproxy.lifecycle.status.entry import change_status, look_up
from tenantproxy.lifecycle.status.erase import erase_rows, forget_tenant
from tenantproxy.lifecycle.status.older import moment_of, until_none_is_older
from tenantproxy.lifecycle.status.removal_state import REMOVAL, RemovalEvent, RemovalState
from tenantproxy.lifecycle.tenant_roles import roles_of_tenants, schemas_of_tenants
from tenantproxy.model import Isolation, Tenant, TenantStatus

__all__ = ["Removal"]

PATIENCE: Final = 10.0
"""Seconds for transactions to end that began before a row tenant was fenced."""

_MAINTENANCE: Final = "postgres"
_IS_THERE: Final = {
    Isolation.DATABASE: "SELECT true FROM pg_database WHERE datname = $1",
    Isolation.SCHEMA: "SELECT true FROM pg_namespace WHERE nspname = $1",
}


class Removal:
    """Goes on with the sagas `delete` and `archive` behind their grace. `main`: the main database's connection."""

    def __init__(
        self, settings: Settings, connect: ConnectTo, main: asyncpg.Connection, store: ChangeStore,
        backups: LastBackups | None,
    ) -> None:  # fmt: skip
        self._settings = settings
        self._connect = connect
        self._main = main
        self._store = store
        self._door = PlaceDoor(settings, connect)
        self._backups = backups

    async def run(self, change: TenantChange, *, no_backup: bool) -> TenantChange:
        """From where a held saga is to its end. What fails leaves it there, for the next call; raises what that is."""
        try:
            if change.state == RemovalState.WAITING:
                change = await self._back_up(await self._settled(change), no_backup=no_backup)
            if change.state == RemovalState.BACKED_UP:
                left = await self._remove(change)
                change = await self._moved(change, RemovalEvent.PLACE_REMOVED, notes={"left": left})
            return await self._end(change)
        except Exception as exc:
            await self._store.leave(change, said(exc))
            raise
        except BaseException:
            await asyncio.shield(self._store.leave(change, "interrupted"))
            raise

    async def _moved(self, change: TenantChange, event: RemovalEvent, **more: Any) -> TenantChange:
        return await self._store.move(change, REMOVAL[RemovalState(change.state), event], **more)

    async def _settled(self, change: TenantChange) -> TenantChange:
        """What is saved from now on holds all that was written, also by who did not see the fence of a row tenant."""
        wanted = change.wanted
        await until_none_is_older(self._settings, self._connect, wanted, patience=PATIENCE)
        if wanted.isolation is not Isolation.ROW:  # they would hold what is saved, and nothing can commit them
            async with self._opened(wanted.server, _MAINTENANCE) as conn:
                await places.undo_prepared_of(conn, wanted, change.database, self._connecting(wanted.server))
        if "closed_at" in change.notes or change.wanted.isolation is not Isolation.ROW:
            return change
        notes = {"closed_at": await moment_of(self._connect, change.wanted)}
        return await self._store.move(change, RemovalState.WAITING, notes=notes)

    async def _back_up(self, change: TenantChange, *, no_backup: bool) -> TenantChange:
        if no_backup:
            return await self._moved(change, RemovalEvent.BACKUP_VERIFIED, notes={"backup": None})
        if self._backups is None:
            problem = "there is no backup of it, and none can be made here"
            fix = f"name [backup] folder; --no-backup --yes-i-mean-it {change.tenant} removes it without one, for good"
            raise ConfigurationError([Problem(key=f"tenant {change.tenant}", problem=problem, fix=fix)])
        async with self._store.turn:
            tenant = await look_up(self._main, self._settings, change.tenant)
        name, closed_at = None, change.notes.get("closed_at")
        if closed_at is not None:  # else who began this died before its place was closed
            name = await self._backups.newest_verified(tenant, since=datetime.fromisoformat(closed_at))
        if name is None:
            name = await self._take(tenant, self._backups)
        return await self._moved(change, RemovalEvent.BACKUP_VERIFIED, notes={"backup": name})

    async def _take(self, tenant: Tenant, backups: LastBackups) -> str:
        """A row tenant is saved in a session of its own, which its fence would refuse: processes do so meanwhile."""
        if tenant.placement.isolation is not Isolation.ROW:
            return await backups.take(tenant)
        try:
            async with self._store.turn:
                await self._door.open(self._main, tenant)
            return await backups.take(tenant)
        finally:
            async with self._store.turn:
                await self._door.close(self._main, tenant, reason=tenant.status)

    async def _remove(self, change: TenantChange) -> list[str]:
        """Remove the place; what is left of it, as it was not made by us."""
        wanted, left = change.wanted, []
        if wanted.isolation is Isolation.ROW:
            await self._erase(change)
            return []
        if wanted.isolation is Isolation.SCHEMA:
            async with self._opened(wanted.server, wanted.database) as conn:
                await places.drop_schemas(conn, wanted, change.schema)
                if await conn.fetchval(_IS_THERE[Isolation.SCHEMA], wanted.schema):
                    left.append(f"schema {wanted.database}.{wanted.schema}")
        connect = self._connecting(wanted.server)
        async with self._opened(wanted.server, _MAINTENANCE) as conn:
            if wanted.isolation is Isolation.DATABASE:
                temporary, final = temporary_name(wanted.mark), wanted.database
                await places.drop_database(conn, temporary, change.database, connect=connect, final=final)
                if await conn.fetchval(_IS_THERE[Isolation.DATABASE], wanted.database):
                    left.append(f"database {wanted.database}")
            await places.drop_role(conn, wanted, connect)
            if await conn.fetchval("SELECT true FROM pg_roles WHERE rolname = $1", wanted.role):
                left.append(f"role {wanted.role}")
        return left

    async def _erase(self, change: TenantChange) -> None:
        place = change.wanted
        await until_none_is_older(self._settings, self._connect, place, patience=PATIENCE)
        default = self._settings.main.server
        async with self._opened(place.server, place.database) as conn:
            async with self._store.turn:
                schemas = await schemas_of_tenants(
                    self._main, default=default, server=place.server, database=place.database
                )
                roles = await roles_of_tenants(self._main, conn, default=default, server=place.server)
            # Its fence stays: nothing is written under this name again.
            await erase_rows(
                conn, place.id, self._settings.migrations.column, own_schemas=schemas, own_roles=roles
            )  # fmt: skip

    async def _end(self, change: TenantChange) -> TenantChange:
        async def entry_gone(conn: asyncpg.Connection) -> None:
            await forget_tenant(conn, change.tenant)
            await conn.execute("DELETE FROM tenantproxy.tenants WHERE id = $1", change.tenant)

        async def entry_kept(conn: asyncpg.Connection) -> None:
            tenant = await look_up(conn, self._settings, change.tenant)
            await change_status(conn, self._settings, tenant, TenantStatus.INACTIVE)

        within = entry_gone if change.kind == "delete" else entry_kept
        return await self._moved(change, RemovalEvent.ENTRY_CHANGED, within=within, is_ended=True)

    def _connecting(self, server: str) -> Connect:
        """What opens connections to databases of `server`."""
        return lambda database: self._connect(server, database)

    @asynccontextmanager
    async def _opened(self, server: str, database: str) -> AsyncIterator[asyncpg.Connection]:
        conn = await self._connect(server, database)
        try:
            yield conn
        finally:
            await conn.close()
