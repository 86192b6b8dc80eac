"""Which backups may go? Pure."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from tenantproxy.lifecycle.backup.manifest import StoredBackup

__all__ = ["expendable"]


def expendable(backups: Iterable[StoredBackup], *, keep: int, keep_days: int, now: datetime) -> list[StoredBackup]:
    """Of each tenant all but the newest `keep`, those younger than `keep_days`, and the newest that was verified.

    0: that rule keeps none; without both none goes. The oldest first.
    """
    if not (keep or keep_days):
        return []
    of_each: dict[str, list[StoredBackup]] = {}
    for backup in sorted(backups, key=lambda each: each.manifest.snapshot_at, reverse=True):
        of_each.setdefault(backup.path.parent.name, []).append(backup)
    gone = []
    for mine in of_each.values():
        verified = next((each for each in mine if each.verified_at is not None), None)
        for place, backup in enumerate(mine):
            is_young = bool(keep_days) and now - backup.manifest.snapshot_at < timedelta(days=keep_days)
            if place >= keep and not is_young and backup is not verified:
                gone.append(backup)
    return gone[::-1]
