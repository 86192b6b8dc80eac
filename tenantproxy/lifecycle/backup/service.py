"""How is a tenant saved, and how does it come back? What commands and other parts of the lifecycle call."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import asyncpg

from tenantproxy.config import Settings
from tenantproxy.config.version import VERSION
from tenantproxy.errors import ConfigurationError, TenantProxyError
from tenantproxy.lifecycle.access import admin_connect, opened
from tenantproxy.lifecycle.backup.crypt import Identities, Recipients
from tenantproxy.lifecycle.backup.deadline import in_time, time_to_save
from tenantproxy.lifecycle.backup.dumped import Saved, save_dump
from tenantproxy.lifecycle.backup.errors import BackupFailed
from tenantproxy.lifecycle.backup.manifest import BackupKind, BackupManifest, StoredBackup
from tenantproxy.lifecycle.backup.rows import save_rows
from tenantproxy.lifecycle.backup.sessions import RowSessions
from tenantproxy.lifecycle.backup.store import MAIN, Draft, folder_of
from tenantproxy.lifecycle.backup.streams import save_text
from tenantproxy.lifecycle.backup.verify import verify
from tenantproxy.lifecycle.failures import said
from tenantproxy.lifecycle.provisioner import ConnectTo
from tenantproxy.model import Isolation, Placement, Tenant, TenantStatus

__all__ = ["BackupWriter", "backup_tenant", "verify_backup"]

_Work = Callable[[Draft], Awaitable[BackupManifest]]
_SIZE: Final = "SELECT pg_catalog.pg_database_size(pg_catalog.current_database())"
_RIGHTS: Final = (
    "the admin user must read all of it: as a member of the role that owns it (GRANT ... TO ... WITH ADMIN OPTION), by"
    " GRANT SELECT, and where row security holds for the owner too by ALTER TABLE ... NO FORCE ROW LEVEL SECURITY"
)
# ValueError: a name in the place that cannot be printed or read. It is that tenant's failure, and no other's.
_FAILURES: Final = (
    TenantProxyError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError, ValueError
)  # fmt: skip


class BackupWriter:
    """Writes backups into one folder. `open` it: row tenants' sessions are kept meanwhile.

    Raises ConfigurationError without a folder, for keys that are none, and where encryption is not installed.
    """

    def __init__(
        self,
        settings: Settings,
        connect: ConnectTo | None = None,
        *,
        into: str | os.PathLike[str] | None = None,
        recipients: Sequence[str] = (),
    ) -> None:
        self.folder = folder_of(settings, into)
        self._settings = settings
        self._connect = connect or admin_connect(settings)
        self._recipients = Recipients.of(settings, recipients)
        self._sessions = RowSessions(settings)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[BackupWriter]:
        """Within it, backups may be made."""
        try:
            yield self
        finally:
            await self._sessions.close()

    async def save(self, tenant: Tenant) -> StoredBackup:
        """A backup of `tenant`, finished. Raises BackupFailed, ConfigurationError: what was begun is gone again."""
        if tenant.status is TenantStatus.PROVISIONING:
            raise BackupFailed(f"the tenant {tenant.id} is being made", hint="save it when it is active")
        return await self._written(tenant.id, lambda draft: self._save(tenant, draft))

    async def save_main(self) -> StoredBackup:
        """A backup of the main database. Raises as `save`."""
        return await self._written(MAIN, self._save_main)

    async def _written(self, name: str, work: _Work) -> StoredBackup:
        draft = Draft(self.folder, name)
        try:
            try:
                await asyncio.to_thread(draft.make)
                return await asyncio.to_thread(draft.finish, await work(draft))
            except BaseException:
                await asyncio.shield(asyncio.to_thread(draft.discard))
                raise
        except (BackupFailed, ConfigurationError):
            raise
        except OSError as exc:
            raise _of_disk(exc, self.folder) from exc
        except asyncpg.InsufficientPrivilegeError as exc:
            raise BackupFailed(f"{_whose(name)} could not be saved: {said(exc)}", hint=_RIGHTS) from exc
        except _FAILURES as exc:
            raise BackupFailed(f"{_whose(name)} could not be saved: {said(exc)}", hint="try again") from exc

    async def _save(self, tenant: Tenant, draft: Draft) -> BackupManifest:
        place = tenant.placement
        async with self._in_time(tenant.id, place):
            if place.isolation is Isolation.ROW:
                saved = await save_rows(self._sessions, self._connect, tenant, draft.path, self._recipients)
            else:
                schemas = None if place.schema is None else [place.schema, *tenant.systems.values()]
                saved = await self._dump(place, draft, schemas)
        return await self._manifest(draft, saved, place, BackupKind(place.isolation.value), tenant)

    async def _save_main(self, draft: Draft) -> BackupManifest:
        main = self._settings.main
        place = Placement(isolation=Isolation.DATABASE, server=main.server, database=main.database)
        async with self._in_time(MAIN, place):
            saved = await self._dump(place, draft, None)
        return await self._manifest(draft, saved, place, BackupKind.MAIN, None)

    @asynccontextmanager
    async def _in_time(self, name: str, place: Placement) -> AsyncIterator[None]:
        """By the size of its database: that of a schema would be asked of tables that someone may have locked."""
        async with opened(self._connect, place.server, place.database) as conn:
            size: int = await conn.fetchval(_SIZE)
        async with in_time(time_to_save(self._settings, size), f"saving {_whose(name)}"):
            yield

    async def _dump(self, place: Placement, draft: Draft, schemas: Sequence[str] | None) -> Saved:
        return await save_dump(self._settings, self._connect, place, draft.path, self._recipients, schemas=schemas)

    async def _manifest(
        self, draft: Draft, saved: Saved, place: Placement, kind: BackupKind, tenant: Tenant | None
    ) -> BackupManifest:
        """What it says of itself; what it holds is written into a file as the rest is."""
        name = f"content.json{'.age' if self._recipients else ''}"
        content = await save_text(draft.path / name, saved.content.as_json(), self._recipients)
        return BackupManifest(
            tenant=tenant.id if tenant is not None else place.database,
            kind=kind,
            server=place.server,
            database=place.database,
            schema=place.schema,
            role=place.role or self._settings.servers[place.server].user,
            tier=tenant.tier if tenant is not None else "",
            region=tenant.region if tenant is not None else None,
            systems=tuple(tenant.systems.items()) if tenant is not None else (),
            snapshot_at=saved.snapshot_at.astimezone(UTC),
            finished_at=datetime.now(UTC),
            server_version=saved.server_version,
            pg_dump=saved.pg_dump,
            tenantproxy=VERSION,
            migrations=saved.migrations,
            system_migrations=tuple(zip(tenant.systems, saved.further, strict=True))
            if saved.further and tenant
            else (),
            encrypted=bool(self._recipients),
            content=name,
            files=(*saved.files, content),
            tables=len(saved.content.tables),
            rows=sum(each.rows for each in saved.content.tables),
        )


def _of_disk(error: OSError, folder: Path) -> BackupFailed:
    if error.errno == errno.ENOSPC:
        return BackupFailed(f"no space is left in {folder}", hint="make room, or prune: tenantproxy backup prune")
    return BackupFailed(f"the backup could not be written to {folder}: {error.strerror or type(error).__name__}")


def _whose(name: str) -> str:
    return "the main database" if name == MAIN else f"the tenant {name}"


async def backup_tenant(
    settings: Settings,
    tenant: Tenant,
    *,
    connect: ConnectTo | None = None,
    into: str | os.PathLike[str] | None = None,
    recipients: Sequence[str] = (),
) -> StoredBackup:
    """Save one tenant, whatever its status is, into the configured folder, or `into`.

    Raises BackupFailed and ConfigurationError; then, and when cancelled, nothing is left of it.
    """
    async with BackupWriter(settings, connect, into=into, recipients=recipients).open() as writer:
        return await writer.save(tenant)


async def verify_backup(
    settings: Settings, backup: StoredBackup, *, connect: ConnectTo | None = None, key_files: Sequence[str] = ()
) -> StoredBackup:
    """Restore it into a scratch place and compare; the same with `verified_at`, which is written next to it.

    Raises BackupDamaged where it is not what was saved, RestoreRefused on an older server, ConfigurationError without
    a key or programs for it, BackupFailed where the place could not be made. Nothing of it stays.
    """
    identities = Identities.of(settings, key_files)
    try:
        return await verify(settings, connect or admin_connect(settings), backup, identities)
    except TenantProxyError:
        raise
    except _FAILURES as exc:
        raise BackupFailed(f"the backup {backup.id} could not be tried: {said(exc)}", hint="try again") from exc
