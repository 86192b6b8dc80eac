"""How do bytes get from a process or a connection into a file, encrypted on the way, and back?

What blocks runs in a thread of its own, joined to the event loop by a pipe: it holds a few chunks, whatever the size.
A thread ends with its block: the other side of its pipe is closed then.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeVar

from tenantproxy.lifecycle.backup.crypt import Identities, Recipients
from tenantproxy.lifecycle.backup.errors import BackupDamaged
from tenantproxy.lifecycle.backup.manifest import BackupFile, StoredBackup

__all__ = ["Sink", "read_text", "reading", "reading_lines", "save_text", "saving"]

T = TypeVar("T")
_LONGEST_LINE: Final = 2**30  # a row of PostgreSQL is not longer


class _Target:
    """What is written to, all of it at each call, its size and digest. Keeps an error that the caller may not pass."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest = hashlib.sha256()
        self.size = 0
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        left = memoryview(data)
        try:
            while left:
                left = left[self._file.write(left) :]
        except OSError as exc:
            self.error = exc
            raise
        self.digest.update(data)
        self.size += len(data)
        return len(data)

    def flush(self) -> None:
        """Nothing is kept back."""


def _copy(work: Callable[[_Target], None], file: BinaryIO) -> _Target:
    target = _Target(file)
    try:
        work(target)
    except Exception:
        if target.error is None:
            raise
    if target.error is not None:  # encryption passes it on as another one, or, of its last chunk, not at all
        raise target.error
    return target


def _save(path: Path, source: int, recipients: Recipients) -> BackupFile:
    with os.fdopen(source, "rb", buffering=0) as pipe:
        opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(opened, "wb", buffering=0) as file:
            done = _copy(lambda target: recipients.write(pipe, target), file)
            os.fsync(file.fileno())
    return BackupFile(name=path.name, bytes=done.size, sha256=done.digest.hexdigest())


def _read(path: Path, target: int, identities: Identities, encrypted: bool) -> None:
    with os.fdopen(target, "wb", buffering=0) as pipe, path.open("rb") as file:
        _copy(lambda copied: identities.read(file, copied, encrypted=encrypted), pipe)


def _in_thread(function: Callable[..., T], *args: Any) -> asyncio.Future[T]:
    """In a thread that no other work waits for: those of asyncio are few, and could all be waiting for each other."""
    executor = ThreadPoolExecutor(1, thread_name_prefix="tenantproxy-backup")
    future = asyncio.get_running_loop().run_in_executor(executor, function, *args)
    executor.shutdown(wait=False)
    return future


class Sink:
    """Where a block writes: `fileno` for a child process, or `write`. `file`: what was written, behind the block."""

    def __init__(self, fileno: int) -> None:
        self.fileno = fileno
        self.file: BackupFile | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def write(self, data: bytes) -> None:
        """As much as comes, waiting for the disk. Raises OSError when the other side has failed."""
        if self._writer is None:
            loop, reader = asyncio.get_running_loop(), asyncio.StreamReader()
            pipe = os.fdopen(os.dup(self.fileno), "wb", buffering=0)
            transport, protocol = await loop.connect_write_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
            self._writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        self._writer.write(data)
        await self._writer.drain()

    async def close(self, *, is_whole: bool) -> None:
        """What was written is with the other side, or, where it `is_whole` not, is given up."""
        if self._writer is None:
            return
        if is_whole:
            self._writer.close()
        else:
            self._writer.transport.abort()
        with suppress(OSError):
            await self._writer.wait_closed()


@asynccontextmanager
async def saving(path: Path, recipients: Recipients) -> AsyncIterator[Sink]:
    """A new file `path`, of what the block writes into the sink. Raises OSError of the disk rather than what it caused.

    A block that raises, or is cancelled, leaves a file that is not whole: its folder is to be discarded.
    """
    reader, writer = os.pipe()
    thread = _in_thread(_save, path, reader, recipients)
    sink = Sink(writer)
    try:
        yield sink
        await sink.close(is_whole=True)
        os.close(writer)
    except BaseException as exc:
        await sink.close(is_whole=False)
        os.close(writer)
        await _end(thread, exc)
        raise
    sink.file = await thread


async def _end(thread: asyncio.Future[Any], seen: BaseException) -> None:
    """Wait for it. Raises what it met, from which what the block has `seen` follows, unless that is a cancellation."""
    await asyncio.wait([thread])
    error = thread.exception()
    if error is not None and not isinstance(error, BrokenPipeError) and isinstance(seen, Exception):
        raise error from None


async def save_text(path: Path, text: str, recipients: Recipients) -> BackupFile:
    """A new file with `text`. Raises OSError."""
    async with saving(path, recipients) as sink:
        await sink.write(text.encode())
    assert sink.file is not None
    return sink.file


@asynccontextmanager
async def reading(backup: StoredBackup, name: str, identities: Identities) -> AsyncIterator[int]:
    """A file descriptor from which a child process reads the plain text of a file; it need not read all.

    Raises BackupDamaged where the file is missing, cannot be read with these keys, or is damaged, which may be noticed
    at its end; OSError.
    """
    reader, writer = os.pipe()
    thread = _in_thread(_read, backup.path / name, writer, identities, backup.manifest.encrypted)
    try:
        try:
            yield reader
        except BaseException as exc:
            os.close(reader)
            await _end(thread, exc)
            raise
        os.close(reader)
        with suppress(BrokenPipeError):  # enough was read
            await thread
    except FileNotFoundError:
        raise BackupDamaged(f"the file {name} of the backup {backup.id} is missing") from None


@asynccontextmanager
async def reading_lines(backup: StoredBackup, name: str, identities: Identities) -> AsyncIterator[asyncio.StreamReader]:
    """The plain text of a file, by lines. Raises as `reading`; what comes before the damage has been read by then."""
    async with reading(backup, name, identities) as source:
        loop = asyncio.get_running_loop()
        stream = asyncio.StreamReader(limit=_LONGEST_LINE)
        pipe = os.fdopen(os.dup(source), "rb", buffering=0)
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stream), pipe)
        try:
            yield stream
        finally:
            transport.close()


async def read_text(backup: StoredBackup, name: str, identities: Identities) -> str:
    """All of a file. Raises as `reading`, BackupDamaged also for what is no text."""
    async with reading_lines(backup, name, identities) as stream:
        data = await stream.read()
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise BackupDamaged(f"the file {name} of the backup {backup.id} is no text") from None
