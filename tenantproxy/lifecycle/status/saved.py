"""Which backup holds all that a tenant had? Those of the configured folder, as `tenantproxy backup` makes them."""

from __future__ import annotations

from datetime import datetime

from tenantproxy.config import Settings
from tenantproxy.lifecycle.backup import backup_tenant, newest_verified, verify_backup
from tenantproxy.lifecycle.provisioner import ConnectTo
from tenantproxy.model import Tenant

__all__ = ["FolderBackups"]


class FolderBackups:
    """See `backups.LastBackups`. Raises ConfigurationError where `[backup]` names no folder."""

    def __init__(self, settings: Settings, connect: ConnectTo | None = None) -> None:
        self._settings = settings
        self._connect = connect

    async def newest_verified(self, tenant: Tenant, *, since: datetime) -> str | None:
        """See `backups.LastBackups`."""
        found = await newest_verified(self._settings, tenant.id)
        return found.id if found is not None and found.manifest.snapshot_at > since else None

    async def take(self, tenant: Tenant) -> str:
        """See `backups.LastBackups`."""
        made = await backup_tenant(self._settings, tenant, connect=self._connect)
        return (await verify_backup(self._settings, made, connect=self._connect)).id
