"""Where are backups on disk, and which are whole? A folder each; its manifest is written last, in one step.

`FOLDER/TENANT/MOMENT-random/`: what has no manifest was never finished. Only files that we made are removed.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from tenantproxy.config import Settings
from tenantproxy.errors import ConfigurationError, Problem
from tenantproxy.lifecycle.backup.errors import BackupDamaged, BackupNotFound
from tenantproxy.lifecycle.backup.manifest import BackupManifest, StoredBackup

__all__ = [
    "MAIN",
    "Draft",
    "check_files",
    "drop_backup",
    "drop_backups_of",
    "find_backup",
    "folder_of",
    "list_backups",
    "newest_verified",
    "note_verified",
    "scan",
    "unfinished",
]

MAIN: Final = "_main"
"""Of the main database: no tenant's identifier begins so."""

_MANIFEST: Final = "manifest.json"
_VERIFIED: Final = "verified.json"
_MOMENT: Final = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{8}")
_ABANDONED: Final = 24 * 3600.0  # seconds after which what has no manifest is left over from a process that died


def folder_of(settings: Settings, into: str | os.PathLike[str] | None = None) -> Path:
    """The folder of backups: `into`, or the configured one. Raises ConfigurationError without either."""
    given = into or settings.backup.folder
    if not given:
        fix = 'name a folder: [backup] folder = "/var/backups/tenants", or --into FOLDER'
        raise ConfigurationError([Problem(key="backup.folder", problem="is missing", fix=fix)])
    return Path(given)


class Draft:
    """A backup that is being written: files in a folder that has no manifest yet. `name`: whose, as a folder."""

    def __init__(self, folder: Path, name: str) -> None:
        moment = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
        self.path = folder / name / f"{moment}-{secrets.token_hex(4)}"

    def make(self) -> None:
        """Its folder, for this user alone. Raises OSError."""
        self.path.parent.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path.parent.mkdir(mode=0o700, exist_ok=True)
        self.path.mkdir(mode=0o700)

    def finish(self, manifest: BackupManifest) -> StoredBackup:
        """Write the manifest, behind all else, and only whole. Raises OSError."""
        _write(self.path / _MANIFEST, manifest.as_json())
        _sync(self.path.parent)
        return StoredBackup(path=self.path, manifest=manifest)

    def discard(self) -> None:
        """Remove what was written. A second call does nothing."""
        shutil.rmtree(self.path, ignore_errors=True)


def list_backups(folder: Path, names: Iterable[str] | None = None) -> list[StoredBackup]:
    """As `scan`, without those that cannot be read."""
    return scan(folder, names)[0]


def scan(folder: Path, names: Iterable[str] | None = None) -> tuple[list[StoredBackup], list[BackupDamaged]]:
    """The finished ones, of these tenants or of all, by tenant, the oldest first; and why others cannot be read.

    Raises OSError.
    """
    if not folder.is_dir():
        return [], []
    wanted = None if names is None else set(names)
    owners = sorted(each for each in folder.iterdir() if each.is_dir() and (wanted is None or each.name in wanted))
    found, damaged = [], []
    for path in (each for owner in owners for each in _moments(owner) if (each / _MANIFEST).exists()):
        try:
            found.append(_read(path))
        except BackupDamaged as exc:
            damaged.append(exc)
    return sorted(found, key=lambda each: (each.path.parent.name, each.manifest.snapshot_at)), damaged


def unfinished(folder: Path) -> list[Path]:
    """What was begun long ago and never finished: a process died."""
    if not folder.is_dir():
        return []
    left = [each for owner in folder.iterdir() if owner.is_dir() for each in _moments(owner)]
    old = time.time() - _ABANDONED
    return sorted(each for each in left if not (each / _MANIFEST).exists() and each.stat().st_mtime < old)


def _moments(owner: Path) -> list[Path]:
    return [each for each in owner.iterdir() if _MOMENT.fullmatch(each.name) and each.is_dir()]


def find_backup(folder: Path, name: str) -> StoredBackup:
    """The one that `name` says: `TENANT/MOMENT` as `list` shows it, its path, or a tenant for its newest.

    Raises BackupNotFound, BackupDamaged.
    """
    for path in (folder / name, Path(name)):
        if _MOMENT.fullmatch(path.name) and path.is_dir():
            if (path / _MANIFEST).exists():
                return _read(path)
            raise BackupNotFound(f"the backup {name} was never finished", hint="restore another one of the tenant")
    if "/" not in name and (found := list_backups(folder, [name])):
        if name == "main" and list_backups(folder, [MAIN]):
            hint = f"write {MAIN} for the main database, or main/MOMENT for the tenant"
            raise BackupNotFound("there are backups of the main database, and of a tenant called main", hint=hint)
        return found[-1]
    if name == "main" and (found := list_backups(folder, [MAIN])):
        return found[-1]
    raise BackupNotFound(f"there is no backup {name} in {folder}", hint="tenantproxy backup list shows those there are")


def _read(path: Path) -> StoredBackup:
    try:
        text = (path / _MANIFEST).read_text(encoding="utf-8")
        manifest = BackupManifest.from_json(text)
    except (BackupDamaged, UnicodeDecodeError) as exc:
        raise BackupDamaged(f"{path}: {exc}") from None
    return StoredBackup(path=path, manifest=manifest, verified_at=_verified_at(path, text))


def _verified_at(path: Path, manifest: str) -> datetime | None:
    try:
        row = json.loads((path / _VERIFIED).read_text(encoding="utf-8"))
        same = row["manifest"] == _digest(manifest)
        return datetime.fromisoformat(row["verified_at"]) if same else None
    except (OSError, ValueError, TypeError, KeyError):
        return None  # what cannot be read says nothing


def note_verified(backup: StoredBackup, moment: datetime) -> StoredBackup:
    """Write next to the manifest, and bound to it, when it was verified. Raises OSError."""
    text = (backup.path / _MANIFEST).read_text(encoding="utf-8")
    row = {"verified_at": moment.isoformat(), "manifest": _digest(text)}
    _write(backup.path / _VERIFIED, json.dumps(row) + "\n")
    return StoredBackup(path=backup.path, manifest=backup.manifest, verified_at=moment)


def check_files(backup: StoredBackup) -> None:
    """Whether each file is there and as it was written; reads all of them. Raises BackupDamaged that names one."""
    for file in backup.manifest.files:
        try:
            with (backup.path / file.name).open("rb") as opened:
                found = hashlib.file_digest(opened, "sha256").hexdigest()
        except OSError as exc:
            raise _damaged(backup, file.name, f"cannot be read: {exc.strerror or type(exc).__name__}") from None
        if found != file.sha256:
            raise _damaged(backup, file.name, "is not what was written: it was changed or cut off")


def _damaged(backup: StoredBackup, file: str, problem: str) -> BackupDamaged:
    return BackupDamaged(f"the file {file} of the backup {backup.id} {problem}", hint="restore another backup of it")


def drop_backup(path: Path) -> None:
    """Remove one. Its manifest first: what is half removed is no backup. Raises OSError."""
    (path / _MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(path)


def drop_backups_of(folder: Path, tenant: str) -> tuple[str, ...]:
    """Remove all that there is of a tenant, unfinished ones too; their names. Raises OSError."""
    owner = folder / tenant
    paths = sorted(_moments(owner)) if owner.is_dir() else []
    for path in paths:
        drop_backup(path)
    if paths and not any(owner.iterdir()):
        owner.rmdir()
    return tuple(f"{tenant}/{path.name}" for path in paths)


async def newest_verified(
    settings: Settings, tenant: str, *, into: str | os.PathLike[str] | None = None
) -> StoredBackup | None:
    """The newest backup of `tenant` that was restored and found equal, with its files still there; None: none.

    Their sizes are looked at, not their content. Raises ConfigurationError without a folder, OSError.
    """
    return await asyncio.to_thread(_newest_verified, folder_of(settings, into), tenant)


def _newest_verified(folder: Path, tenant: str) -> StoredBackup | None:
    good = [each for each in list_backups(folder, [tenant]) if each.verified_at is not None and _is_whole(each)]
    return good[-1] if good else None


def _is_whole(backup: StoredBackup) -> bool:
    try:
        return all((backup.path / file.name).stat().st_size == file.bytes for file in backup.manifest.files)
    except OSError:
        return False


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _write(path: Path, text: str) -> None:
    draft = path.with_suffix(".new")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.rename(path)
    _sync(path.parent)


def _sync(folder: Path) -> None:
    """What was renamed in it outlives a power failure."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
