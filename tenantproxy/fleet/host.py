"""Which processes of this host are dead for sure? A local folder with a file for each, locked as long as it lives.

The kernel lets go of a lock when its process ends, however that ends: another process that gets the lock of a file
knows that the process whose id is in it is dead. State: the file that this process holds, and the dead that were not
reported yet.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import UUID

from tenantproxy.errors import ConfigurationError, Problem

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["HostSlot", "locked"]

_MOST = 1024  # files that are looked at


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """The block of one process at a time, of all that name `path`. Raises OSError."""
    file = _locked_file(path)
    try:
        yield
    finally:
        os.close(file)


def _locked_file(path: Path) -> int:
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file), os.lstat(path)):  # it was not removed while this process waited
                    return file
        except BaseException:
            os.close(file)
            raise
        os.close(file)


class HostSlot:
    """The file of this process in `folder`. A forked child lets go of it."""

    def __init__(self, folder: str, fleet: str) -> None:
        self._folder = Path(folder)
        self._prefix = f"{fleet}."
        self._held: int | None = None
        self.dead: list[UUID] = []
        """Processes that are dead, for the next report; to be emptied when main has heard of them."""

    def claim(self, process: UUID) -> None:
        """Take a file for `process`, and find the dead. Raises ConfigurationError where the folder will not do."""
        if fcntl is None:
            raise self._problem("is of no use on this system", "leave it out")
        try:
            self._check_folder()
            if self._held is not None and os.fstat(self._held).st_nlink == 0:  # someone has removed it
                self.forget()
            self._look(process)
        except OSError as exc:
            raise self._problem(f"cannot be used ({exc.strerror})", "name a local folder of this user") from exc

    def alive(self) -> frozenset[UUID]:
        """The processes of this host that run, as far as their files say; this one is among them."""
        found = set()
        for number in self._known():
            with suppress(OSError, ValueError), self._path(number).open("rb") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    found.add(UUID(file.read(64).decode("ascii", "replace")))
        return frozenset(found)

    def rename(self, process: UUID) -> None:
        """This process has another id now; the former one is as good as dead."""
        if self._held is not None:
            self._write(self._held, str(process))

    def release(self) -> None:
        """This process holds nothing any more."""
        held, self._held = self._held, None
        if held is not None:
            self._write(held, "")
            os.close(held)

    def forget(self) -> None:
        """In a child: the file is the parent's, and so is the lock."""
        held, self._held = self._held, None
        self.dead.clear()
        if held is not None:
            with suppress(OSError):
                os.close(held)

    def _check_folder(self) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = self._folder.stat()
        if found.st_uid != os.geteuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise self._problem("may be written by other users", "name a folder of this user, with mode 700")

    def _look(self, process: UUID) -> None:
        known = self._known()
        for number in [*known, *range(_MOST)]:
            if self._held is not None and number not in known:
                return
            file = os.open(self._path(number), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:  # alive
                os.close(file)
                continue
            with suppress(ValueError):
                self.dead.append(UUID(os.pread(file, 64, 0).decode("ascii", "replace")))
            try:
                self._write(file, str(process) if self._held is None else "")
            except OSError:  # a full disk: this process is not to be alive without an id
                os.close(file)
                raise
            if self._held is None:
                self._held = file
            else:
                os.close(file)

    def _known(self) -> list[int]:
        names = (path.suffix[1:] for path in self._folder.glob(f"{self._prefix}*"))
        return sorted(int(name) for name in names if name.isdecimal())

    def _path(self, number: int) -> Path:
        return self._folder / f"{self._prefix}{number}"

    def _write(self, file: int, text: str) -> None:
        os.pwrite(file, text.encode(), 0)  # in the place of what was there, for which a full disk has room
        os.ftruncate(file, len(text))

    def _problem(self, problem: str, fix: str) -> ConfigurationError:
        return ConfigurationError([Problem(key="fleet.path", problem=problem, fix=fix)])
