"""What can be wrong with a backup?"""

from __future__ import annotations

from tenantproxy.errors import TenantProxyError

__all__ = ["BackupDamaged", "BackupFailed", "BackupNotFound", "RestoreRefused"]


class BackupFailed(TenantProxyError):
    """A backup could not be made; what was begun of it is gone again."""

    code = "backup_failed"


class BackupNotFound(TenantProxyError):
    """There is no such backup, or it was never finished."""

    code = "backup_not_found"


class BackupDamaged(TenantProxyError):
    """A backup is not what was written: changed, cut off, missing a file, or it cannot be read with these keys."""

    code = "backup_damaged"


class RestoreRefused(TenantProxyError):
    """A backup cannot be restored there; nothing was begun."""

    code = "restore_refused"
