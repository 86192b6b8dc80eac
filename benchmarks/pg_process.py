"""How is a proxy run as a process of its own? Started, ready when its port answers, measured, gone at the end."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import psutil  # type: ignore[import-untyped]

from tenantproxy.embedded.binaries import SystemAccount, as_user

__all__ = ["allow_many_files", "cpu_seconds", "free_port", "memory_bytes", "running"]

_PORTS: Final = range(15_000, 32_000)  # below every system's ephemeral range
_READY_SECONDS: Final = 40.0
_END_SECONDS: Final = 10.0


def free_port() -> int:
    """A free port on loopback."""
    while True:
        port = random.choice(_PORTS)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def allow_many_files() -> int:
    """Let this process and its children open as many files as the system allows; returns how many."""
    if sys.platform == "win32":
        return 512
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65_536 if hard == resource.RLIM_INFINITY else hard
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted


def cpu_seconds(pid: int) -> float:
    """CPU time of the process so far, all threads, user and system."""
    if sys.platform != "linux":
        times = psutil.Process(pid).cpu_times()
        return float(times.user + times.system)
    # What clock_getcpuclockid(3) makes of a pid. /proc counts in hundredths of a second, this in nanoseconds.
    return time.clock_gettime(~pid << 3 | 2)


def memory_bytes(pid: int) -> int:
    """Its resident memory."""
    return int(psutil.Process(pid).memory_info().rss)


@asynccontextmanager
async def running(
    command: Sequence[str],
    *,
    port: int,
    log: Path,
    account: SystemAccount | None = None,
    environment: Mapping[str, str] | None = None,
) -> AsyncIterator[int]:
    """Run `command`, as `account` if given, until the block ends; its process id, once `port` answers.

    Raises RuntimeError with the end of what it wrote when it does not get that far.
    """
    process = _start(command, log, account, environment)
    try:
        await _answering(process, port, log)
        yield process.pid
    finally:
        await asyncio.to_thread(_end, process)


def _start(
    command: Sequence[str], log: Path, account: SystemAccount | None, environment: Mapping[str, str] | None
) -> subprocess.Popen[bytes]:
    with log.open("wb") as written:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=written, stderr=written, cwd=log.parent,
            env=os.environ if environment is None else environment,
            start_new_session=True,  # Ctrl-C at the terminal is for us; we end it
            **as_user(account),
        )  # fmt: skip


async def _answering(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    while True:
        if await _answers(port):
            return
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(_why_not(process, log))
        await asyncio.sleep(0.02)


async def _answers(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


def _why_not(process: subprocess.Popen[bytes], log: Path) -> str:
    what = "did not answer in time" if process.poll() is None else f"ended with {process.returncode}"
    return f"{log.stem} {what}; it wrote: {log.read_text(errors='replace')[-2000:].strip() or 'nothing'}"


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
