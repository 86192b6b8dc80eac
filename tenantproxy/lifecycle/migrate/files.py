"""Which migrations are there? The numbered SQL files of a folder, read and checked."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tenantproxy.errors import ConfigurationError, Problem

__all__ = ["Migration", "read_folder"]

_NAME: Final = re.compile(r"(\d{1,9})[_-]([A-Za-z0-9_.-]+?)(\.down)?\.sql")
_ALONE: Final = re.compile(r"\A\s*--\s*tenantproxy:\s*no transaction\s*$", re.M)


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """One file. `undo`: what takes it back, None: nothing does. `is_alone`: one statement that no transaction takes."""

    version: int
    name: str
    sql: str
    undo: str | None

    @property
    def checksum(self) -> str:
        """By which it is noticed that a file was changed behind the time when it was applied."""
        return hashlib.sha256(self.sql.encode()).hexdigest()

    @property
    def is_alone(self) -> bool:
        """Whether its first line says `-- tenantproxy: no transaction`, as CREATE INDEX CONCURRENTLY needs."""
        return _ALONE.match(self.sql) is not None


def read_folder(folder: str) -> tuple[Migration, ...]:
    """The migrations of `folder`, by version. Raises ConfigurationError with everything that is wrong with its files.

    Files that do not end in `.sql` are passed over.
    """
    problems: list[Problem] = []
    texts: dict[tuple[int, bool], tuple[str, str]] = {}
    try:
        paths = sorted(Path(folder).iterdir())
    except OSError as exc:
        problem = f"{folder} cannot be read: {type(exc).__name__}"
        raise ConfigurationError([Problem(key="migrations.folder", problem=problem, fix="correct its name")]) from None
    for path in (each for each in paths if each.suffix == ".sql"):
        found = _NAME.fullmatch(path.name)
        if found is None:
            problems.append(_wrong(path, "has no number", "call it for example 0001_name.sql"))
            continue
        key = int(found[1]), found[3] is not None
        if key in texts:
            problems.append(_wrong(path, f"has the number of {texts[key][0]} too", "give it another one"))
            continue
        try:
            texts[key] = found[2], path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as exc:
            problems.append(_wrong(path, f"cannot be read: {type(exc).__name__}", "it must be UTF-8"))
    alone = sorted(version for version, is_undo in texts if is_undo and (version, False) not in texts)
    problems += [
        _wrong(Path(folder, f"{each}*.down.sql"), "takes back what is not there", "remove it") for each in alone
    ]
    if problems:
        raise ConfigurationError(problems)
    undone = {version: text for (version, is_undo), (_, text) in texts.items() if is_undo}
    return tuple(
        Migration(version=version, name=name, sql=text, undo=undone.get(version))
        for (version, is_undo), (name, text) in sorted(texts.items())
        if not is_undo
    )


def _wrong(path: Path, problem: str, fix: str) -> Problem:
    return Problem(key=str(path), problem=problem, fix=fix)
