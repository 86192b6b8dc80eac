"""How does an operator save tenants and get them back? The commands `backup create|list|verify|restore|prune`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from tenantproxy.cli.output import progress_of
from tenantproxy.config import Settings
from tenantproxy.errors import ConfigurationError, Problem
from tenantproxy.lifecycle.backup import (
    BackupKind,
    SaveRequest,
    StoredBackup,
    find_backup,
    plan_restore,
    prune_backups,
    restore_backup,
    restore_main,
    save_all,
    verify_all,
)
from tenantproxy.lifecycle.backup.fleet import folders_of
from tenantproxy.lifecycle.backup.store import folder_of, scan
from tenantproxy.lifecycle.provision import Wanted

__all__ = ["SaveRequest", "create", "has_failed", "listing", "prune", "restore", "verify"]


async def create(settings: Settings, request: SaveRequest, *, dry_run: bool = False) -> list[dict[str, Any]]:
    """A row for each that was to be saved, with its error where it could not be; for `dry_run` what would be.

    Raises as `save_all`.
    """
    with progress_of("saving") as progress:
        outcomes = await save_all(settings, request, dry_run=dry_run, progress=progress)
    return [{"tenant": each.name, "state": each.state, "backup": each.backup, "error": each.error} for each in outcomes]


def listing(settings: Settings, tenants: Sequence[str], into: str | None) -> list[dict[str, Any]]:
    """A row for each finished backup, the oldest of a tenant first, and for each that cannot be read."""
    found, damaged = scan(folder_of(settings, into), folders_of(tenants) or None)
    return [*map(_row, found), *({**dict.fromkeys(_row_keys()), "error": str(each)} for each in damaged)]


def _row_keys() -> tuple[str, ...]:
    return ("backup", "kind", "snapshot_at", "rows", "bytes", "encrypted", "version", "verified_at", "error")


def _row(backup: StoredBackup, error: str | None = None) -> dict[str, Any]:
    manifest = backup.manifest
    return {
        "backup": backup.id,
        "kind": str(manifest.kind),
        "snapshot_at": _moment(manifest.snapshot_at),
        "rows": manifest.rows,
        "bytes": backup.bytes,
        "encrypted": manifest.encrypted,
        "version": manifest.version,
        "verified_at": _moment(backup.verified_at),
        "error": error,
    }


def _moment(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat(timespec="seconds")


async def verify(
    settings: Settings, names: Sequence[str], *, into: str | None, key_files: Sequence[str], dry_run: bool
) -> list[dict[str, Any]]:
    """Try those named, or the newest of each tenant, one after the other; a row for each, with its error."""
    with progress_of("verifying") as progress:
        tried = await verify_all(
            settings, names, into=into, key_files=key_files, dry_run=dry_run, progress=progress
        )  # fmt: skip
    return [_row(each.backup, each.error) for each in tried]


async def restore(
    settings: Settings, name: str, *, as_id: str | None, server: str | None, domain: str | None, into: str | None,
    key_files: Sequence[str], dry_run: bool,
) -> dict[str, Any]:  # fmt: skip
    """Where it is now, and what to look at. Raises what the library raises."""
    backup = find_backup(folder_of(settings, into), name)
    if backup.manifest.kind is BackupKind.MAIN:
        return await _restore_main(settings, backup, as_id, key_files, dry_run=dry_run)
    if dry_run:
        want = await plan_restore(settings, backup, as_id=as_id, server=server, domain=domain, key_files=key_files)
        return _restored(backup, want, "would_restore", ())
    done = await restore_backup(settings, backup, as_id=as_id, server=server, domain=domain, key_files=key_files)
    return _restored(backup, done.saga.wanted, "restored", done.notes)


async def _restore_main(
    settings: Settings, backup: StoredBackup, database: str | None, key_files: Sequence[str], *, dry_run: bool
) -> dict[str, Any]:
    if database is None:
        problem, fix = "is missing: the main database is restored into a new one", "name it: --as DATABASE"
        raise ConfigurationError([Problem(key="--as", problem=problem, fix=fix)])
    notes: Sequence[str] = ()
    if not dry_run:
        notes = await restore_main(settings, backup, database=database, key_files=key_files)
    state = "would_restore" if dry_run else "restored"
    return {"backup": backup.id, "state": state, "database": database, "notes": "; ".join(notes)}


def _restored(backup: StoredBackup, want: Wanted, state: str, notes: Sequence[str]) -> dict[str, Any]:
    return {
        "backup": backup.id,
        "state": state,
        "tenant": want.id,
        "server": want.server,
        "database": want.database,
        "schema": want.schema,
        "role": want.role,
        "notes": "; ".join(notes),
    }


async def prune(
    settings: Settings, tenants: Sequence[str], *, into: str | None, keep: int | None, keep_days: int | None,
    dry_run: bool,
) -> list[dict[str, Any]]:  # fmt: skip
    """Remove what the rules let go, and what was begun a day ago and never finished; a row for each."""
    gone = await prune_backups(
        settings, tenants, into=into, keep=keep, keep_days=keep_days, dry_run=dry_run
    )  # fmt: skip
    return [{"backup": name, "state": "would_remove" if dry_run else "removed"} for name in gone]


def has_failed(rows: Sequence[dict[str, Any]]) -> bool:
    """Whether any row has an error."""
    return any(row["error"] for row in rows)
