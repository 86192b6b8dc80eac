"""How does a whole tenant go, its backups too? By its deletion, and then what that keeps; with a signed report.

A deletion can be taken back, by its grace or from the last backup. An erasure is a deletion whose grace is over, behind
which the backups go: there is one way in which a tenant is removed, and the same rules hold for what is others'.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import asyncpg

from tenantproxy.config import Settings
from tenantproxy.errors import TenantNotFound
from tenantproxy.lifecycle.access import admin_connection
from tenantproxy.lifecycle.backup import find_backup, list_backups
from tenantproxy.lifecycle.backup.errors import BackupDamaged, BackupNotFound
from tenantproxy.lifecycle.backup.store import MAIN, drop_backups_of, folder_of
from tenantproxy.lifecycle.gdpr.answer import KIND, moment
from tenantproxy.lifecycle.install import as_keeper
from tenantproxy.lifecycle.operations.progress import Progress, silent
from tenantproxy.lifecycle.signing import check_signing, signed_json
from tenantproxy.lifecycle.status import FolderBackups, Removed, delete
from tenantproxy.model import tenant_id

__all__ = ["TenantErased", "erase_tenant"]

_GONE: Final = """
SELECT state, notes->>'backup' AS backup, ARRAY(SELECT jsonb_array_elements_text(coalesce(notes->'left', '[]'))) AS left
FROM tenantproxy.sagas WHERE tenant = $1 AND kind = 'delete' AND state = 'cleaned' ORDER BY id DESC LIMIT 1
"""
_STEPS: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantErased:
    """What went, and what stays. `state`: erased, or would_erase. `rows`, `tables`: of the last backup, None: unknown.

    `backups`: those that were removed; `main_backups`: of the main database, which may hold its entries. `left`: what
    was not made for the tenant by us. `audit_entries`: in the audit table, which stay, as its name does.
    """

    tenant: str
    state: str
    tables: int | None
    rows: int | None
    backups: tuple[str, ...]
    kept_backups: tuple[str, ...]
    main_backups: tuple[str, ...]
    left: tuple[str, ...]
    audit_entries: int

    @property
    def is_complete(self) -> bool:
        """Nothing that is known of holds what the tenant had."""
        return self.state == "erased" and not (self.left or self.kept_backups or self.main_backups)


async def erase_tenant(
    settings: Settings, tenant: str, *, keep_backups: bool = False, no_backup: bool = False, dry_run: bool = False,
    progress: Progress = silent,
) -> tuple[TenantErased, str]:  # fmt: skip
    """Remove the tenant now, as `delete` with no grace does, then all its backups; and the signed report of it.

    A last backup is made and verified first, and goes when the place is gone, so that no failure on the way loses what
    was not to go; `no_backup` does without. Called again, goes on. With `dry_run` nothing is done. Raises as `delete`,
    OSError, ConfigurationError without a key that signs.
    """
    check_signing(settings)
    tenant = tenant_id(tenant)
    folder = folder_of(settings) if settings.backup.folder else None
    backups = FolderBackups(settings) if folder is not None and not no_backup else None
    progress(0, _STEPS, "removing what it has")
    try:
        removed = await delete(
            settings, tenant, grace_days=0, no_backup=no_backup, backups=backups, dry_run=dry_run
        )  # fmt: skip
    except TenantNotFound:
        if (found := await _removed_before(settings, tenant)) is None:
            raise
        removed = found
    size = await asyncio.to_thread(_size, settings, removed.backup)
    progress(1, _STEPS, "removing its backups")
    own = [] if folder is None else await asyncio.to_thread(list_backups, folder, [tenant])
    of_main = [] if folder is None else await asyncio.to_thread(list_backups, folder, [MAIN])
    names = tuple(each.id for each in own)
    if folder is not None and not keep_backups and not dry_run:
        names = await asyncio.to_thread(drop_backups_of, folder, tenant)
    progress(2, _STEPS, "writing the report")
    erased = TenantErased(
        tenant=tenant, state="would_erase" if dry_run else "erased", tables=size.get("tables"), rows=size.get("rows"),
        backups=() if keep_backups else names, kept_backups=names if keep_backups else (),
        main_backups=tuple(each.id for each in of_main), left=removed.left,
        audit_entries=await _audit_entries(settings, tenant),
    )  # fmt: skip
    progress(_STEPS, _STEPS)
    return erased, signed_json(KIND, _values(erased), settings)


def _values(erased: TenantErased) -> dict[str, Any]:
    what = "erase tenant" if erased.state == "erased" else "dry run"
    shown = {name: getattr(erased, name) for name in TenantErased.__slots__ if name != "state"}
    lists = {name: list(value) if isinstance(value, tuple) else value for name, value in shown.items()}
    return {"what": what, "at": moment(), "is_complete": erased.is_complete, **lists}


def _size(settings: Settings, backup: str | None) -> Mapping[str, int]:
    """What the last backup held: that is what was removed."""
    if backup is None:
        return {}
    try:
        manifest = find_backup(folder_of(settings), backup).manifest
    except (BackupNotFound, BackupDamaged):
        return {}  # it went in an earlier try
    return {"tables": manifest.tables, "rows": manifest.rows}


async def _removed_before(settings: Settings, tenant: str) -> Removed | None:
    async with admin_connection(settings, settings.main.server, settings.main.database) as conn:
        row = await conn.fetchrow(_GONE, tenant)
    if row is None:
        return None
    return Removed(tenant=tenant, state=row["state"], backup=row["backup"], left=tuple(row["left"]))


async def _audit_entries(settings: Settings, tenant: str) -> int:
    async with admin_connection(settings, settings.main.server, settings.main.database) as conn:
        if not await conn.fetchval("SELECT to_regclass('tenantproxy.audit_log') IS NOT NULL"):
            return 0
        try:
            async with conn.transaction(), as_keeper(conn):
                found: int = await conn.fetchval("SELECT count(*) FROM tenantproxy.audit_log WHERE tenant = $1", tenant)
        except asyncpg.InsufficientPrivilegeError:
            return 0
    return found
