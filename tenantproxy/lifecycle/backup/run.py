"""How are the main database and all tenants saved in one run? What is whole is not repeated when the run is resumed.

A run has a journal next to the backups, a line for each that ended. Its process holds a lock on it, so that two of them
never work on one run.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TextIO

from tenantproxy.config import Settings
from tenantproxy.errors import TenantProxyError
from tenantproxy.lifecycle.backup.errors import BackupFailed, BackupNotFound
from tenantproxy.lifecycle.backup.manifest import StoredBackup
from tenantproxy.lifecycle.backup.service import BackupWriter
from tenantproxy.lifecycle.backup.store import MAIN
from tenantproxy.model import Tenant

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["BackupOutcome", "BackupRun", "begin_run", "keyed_run", "resume_run", "run_all"]

_KEPT: Final = 50  # journals: only the newest is gone on with
_PATIENCE: Final = 60.0  # seconds
_RUNS: Final = "_runs"  # no tenant's identifier begins so


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupOutcome:
    """What became of one tenant, or of the main database (`MAIN`). `again`: it was whole before the run was resumed."""

    tenant: str
    backup: str | None = None
    error: str | None = None
    again: bool = False

    @property
    def name(self) -> str:
        """For people."""
        return "main" if self.tenant == MAIN else self.tenant

    @property
    def state(self) -> str:
        """In a word."""
        if self.error is not None:
            return "failed"
        return "would_save" if self.backup is None else "whole_before" if self.again else "saved"


class BackupRun:
    """One run: whom it saves, and what is done. State: its journal, a file that this process holds."""

    def __init__(self, path: Path, file: TextIO, targets: Sequence[str], done: Mapping[str, str]) -> None:
        self.id = path.stem
        self.targets = tuple(targets)
        self.done = dict(done)
        self._file = file

    def note(self, outcome: BackupOutcome) -> None:
        """Write down how one of them ended. Raises OSError."""
        if outcome.backup is not None:
            self.done[outcome.tenant] = outcome.backup
        self._line({"tenant": outcome.tenant, "backup": outcome.backup, "error": outcome.error})

    def _line(self, row: Mapping[str, object]) -> None:
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())


@asynccontextmanager
async def begin_run(folder: Path, targets: Sequence[str], *, key: str | None = None) -> AsyncIterator[BackupRun]:
    """A new run of `targets`, for the block; `keyed_run` finds it again by `key`. Raises OSError."""
    runs = folder / _RUNS
    runs.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = runs / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}.jsonl"
    opened = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
    with os.fdopen(opened, "a+", encoding="utf-8") as file:
        _hold(file, path)
        run = BackupRun(path, file, targets, {})
        run._line({"targets": list(targets), "key": _digest(key)})
        for old in sorted(runs.glob("*.jsonl"))[:-_KEPT]:
            old.unlink(missing_ok=True)
        yield run


@asynccontextmanager
async def resume_run(folder: Path) -> AsyncIterator[BackupRun]:
    """The newest run, for the block.

    Raises BackupNotFound without one, BackupFailed while another process works on it.
    """
    found = sorted((folder / _RUNS).glob("*.jsonl"))
    if not found:
        hint = "begin one: tenantproxy backup create --all"
        raise BackupNotFound(f"there is no run in {folder} to go on with", hint=hint)
    async with _gone_on_with(found[-1], patience=0.0) as run:
        yield run


@asynccontextmanager
async def keyed_run(folder: Path, targets: Sequence[str], key: str) -> AsyncIterator[BackupRun]:
    """The run that was begun with `key`, gone on with as it was, or else a new one of `targets`, for the block.

    It waits a little for a process that was taken for dead to let go of it. Raises as `resume_run`, OSError.
    """
    for path in sorted((folder / _RUNS).glob("*.jsonl"), reverse=True):
        with path.open(encoding="utf-8") as file, suppress(ValueError):
            if json.loads(file.readline()).get("key") == _digest(key):
                break
    else:
        async with begin_run(folder, targets, key=key) as run:
            yield run
        return
    async with _gone_on_with(path, patience=_PATIENCE) as run:
        yield run


def _digest(key: str | None) -> str | None:
    return None if key is None else hashlib.sha256(key.encode()).hexdigest()


@asynccontextmanager
async def _gone_on_with(path: Path, *, patience: float) -> AsyncIterator[BackupRun]:
    loop = asyncio.get_running_loop()
    until = loop.time() + patience
    with path.open("a+", encoding="utf-8") as file:
        while True:
            try:
                _hold(file, path)
                break
            except BackupFailed:
                if loop.time() >= until:
                    raise
            await asyncio.sleep(0.2)
        targets, done = _read(file)
        file.write("\n")  # behind a line that may have been cut off
        yield BackupRun(path, file, targets, done)


def _hold(file: TextIO, path: Path) -> None:
    if fcntl is not None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            hint = "wait until it has ended"
            raise BackupFailed(f"another process works on the run {path.stem}", hint=hint) from None


def _read(file: TextIO) -> tuple[list[str], dict[str, str]]:
    """The last line may be cut off: its process died while it wrote it."""
    file.seek(0)
    targets: list[str] = []
    done: dict[str, str] = {}
    for line in file:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        targets = row.get("targets", targets)
        if row.get("backup"):
            done[row["tenant"]] = row["backup"]
    if not targets:
        raise BackupNotFound("the newest run was never begun", hint="begin another: tenantproxy backup create --all")
    return targets, done


async def run_all(
    settings: Settings,
    writer: BackupWriter,
    run: BackupRun,
    tenants: Mapping[str, Tenant],
    *,
    told: Callable[[BackupOutcome], None] = lambda outcome: None,
) -> list[BackupOutcome]:
    """Save each of `run` that is not whole yet, some at once on each server; the failure of one is its outcome.

    Raises OSError of the journal.
    """
    places = {
        name: asyncio.Semaphore(max(1, min(settings.backup.parallel, server.max_connections // 2)))
        for name, server in settings.servers.items()
    }

    async def one(name: str) -> BackupOutcome:
        if (whole := run.done.get(name)) is not None and (writer.folder / whole / "manifest.json").exists():
            return BackupOutcome(tenant=name, backup=whole, again=True)
        server = settings.main.server if name == MAIN else tenants[name].placement.server if name in tenants else None
        if server is None:
            outcome = BackupOutcome(tenant=name, error="it is not registered any more")
        else:
            async with places[server]:
                outcome = await _saved(writer, name, tenants)
        run.note(outcome)
        return outcome

    async def noted(name: str) -> BackupOutcome:
        outcome = await one(name)
        told(outcome)
        return outcome

    tasks = [asyncio.ensure_future(noted(name)) for name in run.targets]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def _saved(writer: BackupWriter, name: str, tenants: Mapping[str, Tenant]) -> BackupOutcome:
    try:
        backup: StoredBackup = await (writer.save_main() if name == MAIN else writer.save(tenants[name]))
    except TenantProxyError as exc:
        return BackupOutcome(tenant=name, error=str(exc))
    return BackupOutcome(tenant=name, backup=backup.id)
