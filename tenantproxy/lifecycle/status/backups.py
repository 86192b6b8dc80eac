"""What does a removal ask of backups? Whether a verified one holds all that it is about to remove."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol

from tenantproxy.model import Tenant

__all__ = ["LastBackups"]


class LastBackups(Protocol):
    """Backups of single tenants."""

    async def newest_verified(self, tenant: Tenant, *, since: datetime) -> str | None:
        """The name of the newest one that was begun after `since` and verified; None: no backup is."""
        ...

    async def take(self, tenant: Tenant) -> str:
        """Make one and verify it; its name. Raises TenantProxyError."""
        ...
