"""How is a tenant stopped, and how does it go? Suspended and resumed, archived, deleted with a grace, and removed."""

from tenantproxy.lifecycle.status.backups import LastBackups
from tenantproxy.lifecycle.status.may import would
from tenantproxy.lifecycle.status.operations import archive, delete, delete_due, resume, suspend, undelete
from tenantproxy.lifecycle.status.results import Removed, StatusChanged
from tenantproxy.lifecycle.status.saved import FolderBackups

__all__ = [
    "FolderBackups",
    "LastBackups",
    "Removed",
    "StatusChanged",
    "archive",
    "delete",
    "delete_due",
    "resume",
    "suspend",
    "undelete",
    "would",
]
