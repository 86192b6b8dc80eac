"""What does a backup say of itself? Values, and JSON both ways. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from tenantproxy.lifecycle.backup.errors import BackupDamaged
from tenantproxy.lifecycle.migrate.plan import Applied

__all__ = ["BackupColumn", "BackupFile", "BackupKind", "BackupManifest", "Content", "SavedTable", "StoredBackup"]

_FORMAT: Final = 1
_PLAIN: Final = re.compile(r"[a-z0-9][a-z0-9_.]{0,99}")  # no name of a manifest leads out of its folder


class BackupKind(StrEnum):
    """Of what it is a backup: a tenant of one of the three kinds, or the main database."""

    DATABASE = "database"
    SCHEMA = "schema"
    ROW = "row"
    MAIN = "main"


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupFile:
    """A file as it is on disk, encrypted or not."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupColumn:
    """A column of a row tenant's table; `type` as `format_type` writes it."""

    name: str
    type: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedTable:
    """One table in the snapshot. `checksum`: of its rows in any order, see `content`.

    Of a row tenant: `file` has its rows (None: it has none), `columns` are those in the file, in order, and
    `tenant_column` is the one that is not, for it says whose they are.
    """

    schema: str
    name: str
    rows: int
    checksum: str
    file: str | None = None
    columns: tuple[BackupColumn, ...] = ()
    tenant_column: BackupColumn | None = None

    @property
    def full_name(self) -> str:
        """For people."""
        return f"{self.schema}.{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """What is in a backup, to compare with; encrypted as the rest is.

    `sequences`: (schema, name, last value, increment) at the beginning. `extensions`: (name, schema). `owners`: the
    roles that own what is in it; `admin`: the one that made it, `has_definers`: a function runs as its owner.
    """

    tables: tuple[SavedTable, ...]
    sequences: tuple[tuple[str, str, int, int], ...] = ()
    extensions: tuple[tuple[str, str], ...] = ()
    owners: tuple[str, ...] = ()
    admin: str = ""
    admin_is_superuser: bool = False
    has_definers: bool = False

    def as_json(self) -> str:
        """For its file."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Content:
        """What `as_json` wrote. Raises BackupDamaged."""
        with _Reading():
            row = json.loads(text)
            row.pop("makers", None)  # of older ones
            return cls(
                **{
                    **row,
                    "tables": tuple(map(_table, row["tables"])),
                    "sequences": tuple(map(tuple, row["sequences"])),
                    "extensions": tuple(map(tuple, row["extensions"])),
                    "owners": tuple(row["owners"]),
                }
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupManifest:
    """A finished backup. `tenant`: its identifier; of the main database, its name. `files`: all but this one.

    `server_version` as `server_version_num`; `pg_dump`: its version, None where rows were copied. `migrations`: the
    journal of its place, by version; `systems`: (name, schema) of each, and
    `system_migrations` their journals by name. `snapshot_at`: the moment that it shows, and
    `tables`, `rows` how much there is.
    """

    tenant: str
    kind: BackupKind
    server: str
    database: str
    schema: str | None
    role: str | None
    tier: str
    region: str | None
    systems: tuple[tuple[str, str], ...]
    snapshot_at: datetime
    finished_at: datetime
    server_version: int
    pg_dump: str | None
    tenantproxy: str
    migrations: tuple[Applied, ...]
    system_migrations: tuple[tuple[str, tuple[Applied, ...]], ...] = ()
    encrypted: bool
    content: str
    files: tuple[BackupFile, ...]
    tables: int
    rows: int

    def as_json(self) -> str:
        """For `manifest.json`."""
        row = {"format": _FORMAT, **asdict(self)}
        return json.dumps(row, indent=2, ensure_ascii=False, default=str) + "\n"

    @classmethod
    def from_json(cls, text: str) -> BackupManifest:
        """What `as_json` wrote. Raises BackupDamaged."""
        with _Reading():
            row = json.loads(text)
            if (written := row.pop("format")) != _FORMAT:
                hint = "read it with the release that wrote it"
                raise BackupDamaged(f"the manifest has the format {written}, and {_FORMAT} is known here", hint=hint)
            files = tuple(BackupFile(**file) for file in row["files"])
            if bad := [each.name for each in files if not _PLAIN.fullmatch(each.name)]:
                raise BackupDamaged(f"the manifest names the file {bad[0]!r}, which no backup has")
            if row["content"] not in {each.name for each in files}:
                raise BackupDamaged("the manifest does not say what the backup holds")
            return cls(
                **{
                    **row,
                    "kind": BackupKind(row["kind"]),
                    "snapshot_at": datetime.fromisoformat(row["snapshot_at"]),
                    "finished_at": datetime.fromisoformat(row["finished_at"]),
                    "migrations": tuple(Applied(**line) for line in row["migrations"]),
                    "system_migrations": tuple(
                        (name, tuple(Applied(**line) for line in lines))
                        for name, lines in row.get("system_migrations", ())
                    ),
                    "files": files,
                    "systems": tuple((name, schema) for name, schema in row["systems"]),
                }
            )

    @property
    def version(self) -> int | None:
        """Of the newest migration; None: none was applied."""
        return self.migrations[-1].version if self.migrations else None

    def file(self, name: str) -> BackupFile:
        """The file of that name. Raises BackupDamaged where the manifest has none."""
        found = next((each for each in self.files if each.name == name), None)
        if found is None:
            raise BackupDamaged(f"the manifest lacks the file {name}")
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredBackup:
    """A finished backup in its folder. `verified_at`: when `verify` last restored it and found it equal."""

    path: Path
    manifest: BackupManifest
    verified_at: datetime | None = None

    @property
    def id(self) -> str:
        """By which commands name it: the tenant and the moment."""
        return f"{self.path.parent.name}/{self.path.name}"

    @property
    def bytes(self) -> int:
        """On disk."""
        return sum(each.bytes for each in self.manifest.files)


class _Reading:
    """What is not of the form becomes BackupDamaged."""

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if isinstance(error, (ValueError, TypeError, KeyError, AttributeError, RecursionError)):
            raise BackupDamaged("what the backup says of itself cannot be read: it was changed or cut off") from None


def _table(row: Mapping[str, Any]) -> SavedTable:
    columns: Sequence[Mapping[str, Any]] = row["columns"]
    owner = row["tenant_column"]
    return SavedTable(
        **{
            **row,
            "columns": tuple(BackupColumn(**column) for column in columns),
            "tenant_column": None if owner is None else BackupColumn(**owner),
        }
    )
