"""How does an operator save tenants and get them back? The commands `backup create|list|verify|restore|prune`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from tenantproxy.cli.output import progress_bar
from tenantproxy.config import Settings
from tenantproxy.errors import ConfigurationError, Problem, TenantProxyError
from tenantproxy.lifecycle.access import registered
from tenantproxy.lifecycle.backup import (
    BackupKind,
    BackupOutcome,
    BackupWriter,
    StoredBackup,
    begin_run,
    expendable,
    find_backup,
    list_backups,
    plan_restore,
    restore_backup,
    restore_main,
    resume_run,
    run_all,
    verify_backup,
)
from tenantproxy.lifecycle.backup.store import MAIN, drop_backup, folder_of, scan, unfinished
from tenantproxy.lifecycle.provision import Wanted
from tenantproxy.model import Tenant, TenantStatus

__all__ = ["SaveRequest", "create", "has_failed", "listing", "prune", "restore", "verify"]

_NAME_OF_MAIN: Final = "main"


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveRequest:
    """What was typed. `into`: None, the configured folder."""

    tenants: tuple[str, ...] = ()
    everything: bool = False
    resume: bool = False
    into: str | None = None
    recipients: tuple[str, ...] = ()


async def create(settings: Settings, request: SaveRequest, *, dry_run: bool = False) -> list[dict[str, Any]]:
    """A row for each that was to be saved, with its error where it could not be; for `dry_run` what would be.

    Raises ConfigurationError for tenants that are not registered, and with what forbids all of them.
    """
    if sum((bool(request.tenants), request.everything, request.resume)) != 1:
        fix = "name tenants, or --all for them and the main database, or --resume for the newest run"
        raise ConfigurationError([Problem(key="backup create", problem="it is not clear what to save", fix=fix)])
    writer = BackupWriter(settings, into=request.into, recipients=request.recipients)
    known = {each.id: each for each in await registered(settings)}
    if request.resume:
        async with resume_run(writer.folder) as run:
            return await _run(settings, writer, run, known, dry_run=dry_run)
    names = _names(request, known)
    if dry_run:
        return [_outcome(BackupOutcome(tenant=name), "would_save") for name in names]
    async with begin_run(writer.folder, names) as run:
        return await _run(settings, writer, run, known, dry_run=False)


def _names(request: SaveRequest, known: dict[Any, Tenant]) -> list[str]:
    if request.everything:
        return [MAIN, *(name for name, each in known.items() if each.status is not TenantStatus.PROVISIONING)]
    if unknown := sorted(set(request.tenants) - known.keys()):
        fix = "tenantproxy tenants list shows those that are registered"
        raise ConfigurationError(
            [Problem(key=f"tenant {name}", problem="is not registered", fix=fix) for name in unknown]
        )
    return list(dict.fromkeys(request.tenants))


async def _run(
    settings: Settings, writer: BackupWriter, run: Any, known: dict[Any, Tenant], *, dry_run: bool
) -> list[dict[str, Any]]:
    if dry_run:
        left = [name for name in run.targets if name not in run.done]
        return [_outcome(BackupOutcome(tenant=name), "would_save") for name in left]
    with progress_bar() as bar:
        task = bar.add_task("saving", total=len(run.targets))
        async with writer.open():
            outcomes = await run_all(settings, writer, run, known, told=lambda outcome: bar.advance(task))
    return [_outcome(each, "failed" if each.error else "whole_before" if each.again else "saved") for each in outcomes]


def _outcome(outcome: BackupOutcome, state: str) -> dict[str, Any]:
    return {
        "tenant": _NAME_OF_MAIN if outcome.tenant == MAIN else outcome.tenant,
        "state": state,
        "backup": outcome.backup,
        "error": outcome.error,
    }


def listing(settings: Settings, tenants: Sequence[str], into: str | None) -> list[dict[str, Any]]:
    """A row for each finished backup, the oldest of a tenant first, and for each that cannot be read."""
    found, damaged = scan(folder_of(settings, into), _folders(tenants) or None)
    return [*map(_row, found), *({**dict.fromkeys(_row_keys()), "error": str(each)} for each in damaged)]


def _folders(tenants: Sequence[str]) -> list[str]:
    return [MAIN if each == _NAME_OF_MAIN else each for each in tenants]


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
    folder = folder_of(settings, into)
    if names:
        backups = [find_backup(folder, name) for name in names]
    else:
        backups = list({each.path.parent.name: each for each in list_backups(folder)}.values())
    if dry_run:
        return [_row(each) for each in backups]
    rows = []
    with progress_bar() as bar:
        task = bar.add_task("verifying", total=len(backups))
        for backup in backups:
            try:
                rows.append(_row(await verify_backup(settings, backup, key_files=key_files)))
            except ConfigurationError:
                raise
            except TenantProxyError as exc:
                rows.append(_row(backup, str(exc)))
            bar.advance(task)
    return rows


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
    folder, rules = folder_of(settings, into), settings.backup
    keep = rules.keep if keep is None else keep
    keep_days = rules.keep_days if keep_days is None else keep_days
    found = list_backups(folder, _folders(tenants) or None)
    gone = [(each.path, each.id) for each in expendable(found, keep=keep, keep_days=keep_days, now=datetime.now(UTC))]
    gone += [(path, f"{path.parent.name}/{path.name}") for path in unfinished(folder)]
    if not dry_run:
        for path, _ in gone:
            await asyncio.to_thread(drop_backup, path)
    return [{"backup": name, "state": "would_remove" if dry_run else "removed"} for _, name in gone]


def has_failed(rows: Sequence[dict[str, Any]]) -> bool:
    """Whether any row has an error."""
    return any(row["error"] for row in rows)
