"""How are all tenants saved, tried and pruned at once? What the command line, programs and requests ask for alike."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from tenantproxy.config import Settings
from tenantproxy.errors import ConfigurationError, Problem, TenantProxyError
from tenantproxy.lifecycle.access import registered
from tenantproxy.lifecycle.backup.manifest import StoredBackup
from tenantproxy.lifecycle.backup.retention import expendable
from tenantproxy.lifecycle.backup.run import BackupOutcome, BackupRun, begin_run, keyed_run, resume_run, run_all
from tenantproxy.lifecycle.backup.service import BackupWriter, verify_backup
from tenantproxy.lifecycle.backup.store import MAIN, drop_backup, find_backup, folder_of, list_backups, unfinished
from tenantproxy.lifecycle.operations.progress import Progress, silent
from tenantproxy.model import Tenant, TenantStatus

__all__ = ["NAME_OF_MAIN", "SaveRequest", "TriedBackup", "folders_of", "prune_backups", "save_all", "verify_all"]

NAME_OF_MAIN: Final = "main"
"""What people call the main database; its folder is `MAIN`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveRequest:
    """Whom to save: these `tenants` (`main` is the main database, where no tenant is called so), or `everything`.

    `resume`: go on with the newest run instead. `into`: a folder; None, the configured one.
    """

    tenants: tuple[str, ...] = ()
    everything: bool = False
    resume: bool = False
    into: str | None = None
    recipients: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TriedBackup:
    """A backup that was tried, and why it is not good; None: it is."""

    backup: StoredBackup
    error: str | None = None


async def save_all(
    settings: Settings, request: SaveRequest, *, key: str | None = None, dry_run: bool = False,
    progress: Progress = silent,
) -> list[BackupOutcome]:  # fmt: skip
    """What became of each, or for `dry_run` whom it would save. With a `key` of before it goes on with that run.

    Raises ConfigurationError for tenants that are not registered, and with what forbids all of them; BackupNotFound and
    BackupFailed as `resume_run`; OSError of the journal. Cancelled, what is whole stays, and nothing of the others.
    """
    if sum((bool(request.tenants), request.everything, request.resume)) != 1:
        fix = "name tenants, or --all for them and the main database, or --resume for the newest run"
        raise ConfigurationError([Problem(key="backup create", problem="it is not clear what to save", fix=fix)])
    writer = BackupWriter(settings, into=request.into, recipients=request.recipients)
    known: dict[str, Tenant] = {each.id: each for each in await registered(settings)}
    if dry_run and not request.resume:
        return [BackupOutcome(tenant=name) for name in _names(request, known)]
    async with _run_of(writer, request, known, key) as run:
        if dry_run:
            return [BackupOutcome(tenant=name) for name in run.targets if name not in run.done]
        done = 0

        def told(outcome: BackupOutcome) -> None:
            nonlocal done
            done += 1
            progress(done, len(run.targets), outcome.name)

        progress(0, len(run.targets), "saving")
        async with writer.open():
            return await run_all(settings, writer, run, known, told=told)


@asynccontextmanager
async def _run_of(
    writer: BackupWriter, request: SaveRequest, known: Mapping[str, Tenant], key: str | None
) -> AsyncIterator[BackupRun]:
    if request.resume:
        opening = resume_run(writer.folder)
    elif key is not None:
        opening = keyed_run(writer.folder, _names(request, known), key)
    else:
        opening = begin_run(writer.folder, _names(request, known))
    async with opening as run:
        yield run


def _names(request: SaveRequest, known: Mapping[str, Tenant]) -> list[str]:
    if request.everything:
        return [MAIN, *(name for name, each in known.items() if each.status is not TenantStatus.PROVISIONING)]
    named = [MAIN if each == NAME_OF_MAIN and each not in known else each for each in request.tenants]
    if unknown := sorted(set(named) - known.keys() - {MAIN}):
        fix = "tenantproxy tenants list shows those that are registered"
        raise ConfigurationError(
            [Problem(key=f"tenant {name}", problem="is not registered", fix=fix) for name in unknown]
        )
    return list(dict.fromkeys(named))


async def verify_all(
    settings: Settings, names: Sequence[str] = (), *, into: str | None = None, key_files: Sequence[str] = (),
    dry_run: bool = False, progress: Progress = silent,
) -> list[TriedBackup]:  # fmt: skip
    """Try those named, or the newest of each tenant, one after the other; the failure of one is its error.

    Raises ConfigurationError for what forbids all of them, BackupNotFound, BackupDamaged where one cannot be read.
    """
    folder = folder_of(settings, into)
    backups = await asyncio.to_thread(lambda: [find_backup(folder, name) for name in names])
    if not names:
        found = await asyncio.to_thread(list_backups, folder)
        backups = list({each.path.parent.name: each for each in found}.values())
    if dry_run:
        return [TriedBackup(backup=each) for each in backups]
    tried = []
    for number, backup in enumerate(backups):
        progress(number, len(backups), backup.id)
        try:
            tried.append(TriedBackup(backup=await verify_backup(settings, backup, key_files=key_files)))
        except ConfigurationError:
            raise
        except TenantProxyError as exc:
            tried.append(TriedBackup(backup=backup, error=str(exc)))
    progress(len(backups), len(backups))
    return tried


async def prune_backups(
    settings: Settings, tenants: Sequence[str] = (), *, into: str | None = None, keep: int | None = None,
    keep_days: int | None = None, dry_run: bool = False, progress: Progress = silent,
) -> list[str]:  # fmt: skip
    """Remove what the rules let go (None: those of `[backup]`), and what was begun a day ago and never finished.

    The names of what went. Raises ConfigurationError without a folder, OSError.
    """
    folder, rules = folder_of(settings, into), settings.backup
    keep = rules.keep if keep is None else keep
    keep_days = rules.keep_days if keep_days is None else keep_days

    def look() -> list[str]:
        found = list_backups(folder, folders_of(tenants) or None)
        old = [each.path for each in expendable(found, keep=keep, keep_days=keep_days, now=datetime.now(UTC))]
        return [f"{path.parent.name}/{path.name}" for path in (*old, *unfinished(folder))]

    gone = await asyncio.to_thread(look)
    for number, name in enumerate(gone if not dry_run else ()):
        progress(number, len(gone), name)
        await asyncio.to_thread(drop_backup, folder / name)
    return gone


def folders_of(tenants: Sequence[str]) -> list[str]:
    """By which names their backups are kept."""
    return [MAIN if each == NAME_OF_MAIN else each for each in tenants]
