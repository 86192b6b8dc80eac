"""Which pg_dump and pg_restore fit a server, and how are they run? Their passwords are in their environment alone."""

from __future__ import annotations

import asyncio
import functools
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tenantproxy.config import Server, Settings
from tenantproxy.embedded.binaries import bin_folders
from tenantproxy.errors import ConfigurationError, Problem, TenantProxyError
from tenantproxy.lifecycle.access import pinned_at
from tenantproxy.lifecycle.backup.loading import Loader

__all__ = ["DumpTools", "ToolFailed", "child_environment", "find_tools", "run_piped", "run_tool"]

_VERSION: Final = re.compile(r"\(PostgreSQL\) ((\d+)(?:\.(\d+))?\S*)")
_SAID: Final = 64 * 1024  # bytes of stderr that are kept: the last
_TIMEOUT: Final = 10.0  # seconds for a tool that was told to end
_KEPT: Final = ("PATH", "LANG", "LC_ALL", "LC_MESSAGES", "TMPDIR", "HOME", "SYSTEMROOT")


class ToolFailed(TenantProxyError):
    """pg_dump or pg_restore ended with an error."""

    code = "tool_failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class DumpTools:
    """One installation. `version` as the program says it, `major` its first number."""

    pg_dump: str
    pg_restore: str
    version: str
    major: int
    minor: int


def find_tools(settings: Settings, server_version: int, *, written_by: str | None = None) -> DumpTools:
    """Those that are nearest to the server (`server_version_num`) and not older, or the configured ones.

    `written_by`: the version of pg_dump whose file is to be read; no older pg_restore can. A much newer one sets what
    an older server does not know. Raises ConfigurationError that says what was found.
    """
    least = max(server_version // 10000, int(written_by.partition(".")[0]) if written_by is not None else 0)
    if (path := settings.backup.pg_dump) and (given := _tools(path)) is not None and given.major >= least:
        return given
    if path:
        problem = f"{path} is {given.version}" if given else f"{path} is no pg_dump, or pg_restore is not next to it"
        fix = f"name one of PostgreSQL {least} or newer, or leave it out"
        raise ConfigurationError([Problem(key="backup.pg_dump", problem=problem, fix=fix)])
    known = list(filter(None, map(_tools, _candidates())))
    fit = [each for each in known if each.major >= least]
    if not fit:
        have = ", ".join(sorted({each.version for each in known})) or "none"
        problem = f"no pg_dump of PostgreSQL {least} or newer is found, and the server or the backup needs it"
        fix = f"install its client programs, or name one (found: {have})"
        raise ConfigurationError([Problem(key="backup.pg_dump", problem=problem, fix=fix)])
    return min(fit, key=lambda each: (each.major, -each.minor))


def _candidates() -> Iterator[str]:
    yield from (str(folder / "pg_dump") for folder in bin_folders())
    if (found := shutil.which("pg_dump")) is not None:  # of Debian it is a script that looks for a cluster: the last
        yield found


@functools.lru_cache(maxsize=32)
def _tools(pg_dump: str) -> DumpTools | None:
    pg_restore = str(Path(pg_dump).with_name("pg_restore"))
    try:
        done = subprocess.run([pg_dump, "--version"], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    found = _VERSION.search(done.stdout)
    if found is None or not os.access(pg_restore, os.X_OK):
        return None
    return DumpTools(
        pg_dump=pg_dump, pg_restore=pg_restore, version=found[1], major=int(found[2]),
        minor=int(found[3] or 0),
    )  # fmt: skip


def child_environment(server: Server, database: str, *, loader: Loader | None = None) -> dict[str, str]:
    """Where a tool connects to, with the admin credentials of `server`, or as `loader`: no argument, no file, only its
    environment.
    """
    assert server.admin is not None
    hosts = server.each_host
    own = {
        "PGHOST": ",".join(each.host for each in hosts),
        "PGPORT": ",".join(str(each.port) for each in hosts),
        "PGUSER": server.admin.user if loader is None else loader.name,
        "PGDATABASE": database,
        "PGSSLMODE": server.ssl,
        "PGCONNECT_TIMEOUT": str(max(2, round(server.connect_timeout))),
        "PGAPPNAME": "tenantproxy backup",
        "PGCLIENTENCODING": "UTF8",  # what is written is read here too, whatever the database has
        "PGPASSFILE": os.devnull,
    }
    pinned = {name: value.replace(" ", "\\ ") for name, value in pinned_at(server).items()}
    own["PGOPTIONS"] = " ".join(f"-c {name}={value}" for name, value in pinned.items())
    if len(hosts) > 1:
        own["PGTARGETSESSIONATTRS"] = "read-write"
    if loader is not None:
        own["PGPASSWORD"] = loader.password
    elif server.admin.password is not None:
        own["PGPASSWORD"] = server.admin.password.read()
    is_checked = server.ssl in ("verify-ca", "verify-full")
    for name, path in (
        ("PGSSLROOTCERT", server.ssl_root_cert_file or ("system" if is_checked else "")),
        ("PGSSLCRL", server.ssl_crl_file),
        ("PGSSLCERT", server.ssl_cert_file),
        ("PGSSLKEY", server.ssl_key_file),
    ):
        if path:
            own[name] = str(path)
    return {**{name: os.environ[name] for name in _KEPT if name in os.environ}, **own}


async def run_tool(
    command: Sequence[str],
    environment: Mapping[str, str],
    *,
    stdin: int = asyncio.subprocess.DEVNULL,
    stdout: int = asyncio.subprocess.DEVNULL,
    pass_fds: Sequence[int] = (),
    started: Callable[[], None] = lambda: None,
) -> bytes:
    """Run it to its end; what it wrote to `stdout` where that is PIPE. Cancelled, it is ended, and waited for.

    `started` is called when it has been given its files, or could not be started. Raises ToolFailed with what it said.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *command, env=dict(environment), stdin=stdin, stdout=stdout, stderr=asyncio.subprocess.PIPE,
            pass_fds=pass_fds,
        )  # fmt: skip
    finally:
        started()
    assert process.stderr is not None
    try:
        said, output, code = await asyncio.gather(_last_of(process.stderr), _all_of(process.stdout), process.wait())
    except BaseException:
        await _kill(process)
        raise
    if code:
        raise ToolFailed(f"{Path(command[0]).name} failed: {_last_words(said, code)}")
    return output


async def _last_of(stream: asyncio.StreamReader) -> bytes:
    """All is read, and no more is kept than an error needs: what is restored can warn without end."""
    kept = bytearray()
    while data := await stream.read(_SAID):
        kept += data
        del kept[:-_SAID]
    return bytes(kept)


async def _all_of(stream: asyncio.StreamReader | None) -> bytes:
    return b"" if stream is None else await stream.read()


Command = tuple[Sequence[str], Mapping[str, str]]
"""What is run, and its environment."""


async def run_piped(first: Command, second: Command) -> None:
    """Run both, the second reading what the first one writes. Raises ToolFailed of the one that failed first."""
    reader, writer = (os.fdopen(number, mode) for number, mode in zip(os.pipe(), ("rb", "wb"), strict=True))
    tasks = [
        asyncio.ensure_future(run_tool(*first, stdout=writer.fileno(), started=writer.close)),
        asyncio.ensure_future(run_tool(*second, stdin=reader.fileno(), started=reader.close)),
    ]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        reader.close()
        writer.close()


async def _kill(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(asyncio.shield(process.wait()), _TIMEOUT)
        except TimeoutError:
            process.kill()
            await process.wait()


def _last_words(said: bytes, code: int) -> str:
    lines = [line.strip() for line in said.decode(errors="replace").splitlines() if line.strip()]
    told = [line for line in lines if any(word in line.lower() for word in ("error:", "detail:", "hint:"))] or lines
    return "; ".join(told[:4]) or (f"exit status {code}" if code > 0 else f"signal {-code}")
