"""How long may one backup take? So that a tenant whose code or locks never end holds up none that come behind it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from tenantproxy.config import Settings
from tenantproxy.lifecycle.backup.errors import BackupFailed
from tenantproxy.lifecycle.backup.manifest import StoredBackup

__all__ = ["in_time", "time_to_read", "time_to_save"]

_MIB: Final = 1024 * 1024


def time_to_read(settings: Settings, backup: StoredBackup) -> float | None:
    """The seconds that `backup` may take to be read in and compared; None: as many as it needs."""
    least = settings.backup.timeout
    return least + backup.bytes / _MIB + backup.manifest.rows / 1000 if least else None


def time_to_save(settings: Settings, size: int) -> float | None:
    """The seconds in which a tenant must be saved whose database has `size` bytes; None: as many as it needs."""
    least = settings.backup.timeout
    return least + size / (10 * _MIB) if least else None


@asynccontextmanager
async def in_time(limit: float | None, what: str) -> AsyncIterator[None]:
    """Cancel the block where it takes longer than `limit` seconds.

    Raises BackupFailed then, behind all that the block does when it is cancelled.
    """
    bound = asyncio.timeout(limit)
    try:
        async with bound:
            yield
    except TimeoutError:
        if not bound.expired():
            raise
        raise BackupFailed(
            f"{what} was ended: it took longer than {limit:.0f} s",
            hint="look for what never ends: a function that its checks, generated columns, indexes or materialized"
            " views call, or a session that keeps a lock; or raise [backup] timeout",
        ) from None
