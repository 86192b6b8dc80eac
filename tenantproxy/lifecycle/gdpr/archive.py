"""Where does an export go? Into a folder that has its name when it is whole: JSON lines, a manifest, a signed report.

Until then it is called `NAME.part`, which the next export of that name removes. Readable by its user alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import AsyncIterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from tenantproxy.errors import ConfigurationError, Problem

__all__ = ["BATCH", "ExportFolder"]

BATCH: Final = 500
"""Rows that are fetched and written at once."""


class ExportFolder:
    """One export. State: the files that were written, each with its rows and checksum."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._part = path.with_name(f"{path.name}.part")
        self.files: dict[str, dict[str, Any]] = {}

    def check(self) -> None:
        """As `begin`, and nothing is made."""
        if self._path.exists():
            problem, fix = f"{self._path} exists already", "name a folder that is not there yet"
            raise ConfigurationError([Problem(key="--into", problem=problem, fix=fix)])

    def begin(self) -> None:
        """Raises ConfigurationError where there is something of that name."""
        self.check()
        if self._part.exists():
            shutil.rmtree(self._part)
        self._part.mkdir(mode=0o700, parents=True)

    def discard(self) -> None:
        """Nothing is left of what was written until now."""
        shutil.rmtree(self._part, ignore_errors=True)

    def _add(self, tenant: str, name: str, lines: Sequence[str]) -> None:
        path = f"{tenant}/{quote(name, safe='')}.jsonl"  # a table may be called as it likes
        known = self.files.setdefault(path, {"rows": 0, "sha256": hashlib.sha256()})
        data = "".join(f"{line}\n" for line in lines).encode()
        (self._part / tenant).mkdir(mode=0o700, exist_ok=True)
        with open(self._part / path, "ab", opener=_private) as file:
            file.write(data)
        known["rows"] += len(lines)
        known["sha256"].update(data)

    async def fill(self, tenant: str, name: str, rows: AsyncIterable[Sequence[str]]) -> int:
        """All `rows`, each with the text of a JSON value, of one thing that a tenant holds; how many there were."""
        count, lines = 0, list[str]()
        async for row in rows:
            lines.append(row[0])
            if len(lines) >= BATCH:
                self._add(tenant, name, lines)
                count, lines = count + len(lines), []
        self._add(tenant, name, lines)
        return count + len(lines)

    def manifest(self) -> dict[str, Any]:
        """Each file with its rows and its SHA-256."""
        return {
            name: {"rows": each["rows"], "sha256": each["sha256"].hexdigest()}
            for name, each in sorted(self.files.items())
        }

    def finish(self, report: str) -> None:
        """It is whole: the manifest and the report are written, and the folder gets its name."""
        texts: Mapping[str, str] = {
            "manifest.json": json.dumps(self.manifest(), indent=2) + "\n",
            "report.json": report,
        }
        for name, text in texts.items():
            with open(self._part / name, "w", encoding="utf-8", opener=_private) as file:
                file.write(text)
        self._part.rename(self._path)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
