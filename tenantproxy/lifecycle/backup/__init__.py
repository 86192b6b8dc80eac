"""What if a tenant, or a server, is lost? Each tenant is saved, tried, and restored by itself, encrypted if wanted."""

from tenantproxy.lifecycle.backup.content_filler import BackupContent
from tenantproxy.lifecycle.backup.errors import BackupDamaged, BackupFailed, BackupNotFound, RestoreRefused
from tenantproxy.lifecycle.backup.fleet import SaveRequest, TriedBackup, prune_backups, save_all, verify_all
from tenantproxy.lifecycle.backup.manifest import BackupKind, BackupManifest, StoredBackup
from tenantproxy.lifecycle.backup.restore import Restored, plan_restore, restore_backup, restore_main
from tenantproxy.lifecycle.backup.retention import expendable
from tenantproxy.lifecycle.backup.run import BackupOutcome, begin_run, resume_run, run_all
from tenantproxy.lifecycle.backup.service import BackupWriter, backup_tenant, verify_backup
from tenantproxy.lifecycle.backup.store import find_backup, list_backups, newest_verified

__all__ = [
    "BackupContent",
    "BackupDamaged",
    "BackupFailed",
    "BackupKind",
    "BackupManifest",
    "BackupNotFound",
    "BackupOutcome",
    "BackupWriter",
    "RestoreRefused",
    "Restored",
    "SaveRequest",
    "StoredBackup",
    "TriedBackup",
    "backup_tenant",
    "begin_run",
    "expendable",
    "find_backup",
    "list_backups",
    "newest_verified",
    "plan_restore",
    "prune_backups",
    "restore_backup",
    "restore_main",
    "resume_run",
    "run_all",
    "save_all",
    "verify_all",
    "verify_backup",
]
