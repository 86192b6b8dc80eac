"""How is a PostgreSQL of our own started, stopped, and gone when we are? Only this class changes its state.

A new cluster in a temporary folder, on 127.0.0.1 and a free port, with passwords (scram-sha-256), ready in well under a
second. Linux and macOS.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Self, TypedDict
from urllib.parse import unquote, urlsplit

from tenantproxy.embedded.binaries import (
    Binaries,
    SystemAccount,
    as_user,
    find_binaries,
    readable_by,
    unprivileged_account,
)
from tenantproxy.errors import TenantProxyError

__all__ = ["ConnectArgs", "EmbeddedPostgres"]

_SUPERVISOR: Final = Path(__file__).with_name("supervisor.py")
# Below every system's ephemeral range: there, while the server restarts, an outgoing connection of another program
# could be given our port, and a client that keeps trying such a port on loopback can end up connected to itself.
_PORTS: Final = range(15_000, 32_000)
_POLL_SECONDS: Final = 0.005
_MEMORY: Final = Path("/dev/shm")
_ROOM: Final = 4 << 30  # of memory that must be free: containers have 64 MB there, and a full one would stop the server


class ConnectArgs(TypedDict, total=False):
    """Keyword arguments of `asyncpg.connect`."""

    host: str
    port: int
    database: str
    user: str
    password: str
    ssl: Literal[False]


class EmbeddedPostgres:
    """A PostgreSQL server of our own; `start()` and `stop()` block, `async with` does not.

    `dsn`: use that running server instead, start nothing. `version`: the major version to look for. `durable=False`:
    for data that need not survive a crash of the machine: no fsync, and in memory where there is room for it and
    TMPDIR names no other place. `settings` go to the server's command line.
    Raises ConfigurationError when there are no binaries.
    """

    def __init__(
        self,
        *,
        version: int | None = None,
        dsn: str | None = None,
        max_connections: int = 100,
        durable: bool = True,
        trust: bool = False,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.host = "127.0.0.1"
        self.port = 0  # 0 until the first start, then the same for good
        self.superuser = "postgres"
        self.password = secrets.token_urlsafe(24)
        self._given = dsn is not None
        self._binaries: Binaries | None = None
        self._account: SystemAccount | None = None
        self._trust = trust
        self._durable = durable
        self._settings = _settings(max_connections, durable=durable) | dict(settings or {})
        self._directory: Path | None = None  # set from the first start to close()
        self._supervisor: subprocess.Popen[bytes] | None = None  # set while the server runs
        self._finalizer: Callable[[], object] | None = None
        if dsn is not None:
            self._use(dsn)
        else:
            self._account = unprivileged_account()
            self._binaries = readable_by(find_binaries(version), self._account)

    def _use(self, dsn: str) -> None:
        parts = urlsplit(dsn)
        self.host = parts.hostname or self.host
        self.port = parts.port or 5432
        self.superuser = unquote(parts.username or self.superuser)
        self.password = unquote(parts.password or "")

    def __repr__(self) -> str:
        state = "given" if self._given else "running" if self.is_running else "stopped"
        return f"<EmbeddedPostgres {self.host}:{self.port} {state}>"

    @property
    def is_running(self) -> bool:
        """Whether the server is up, as far as its process tells; always so for a given one."""
        return self._given or (self._supervisor is not None and self._supervisor.poll() is None)

    @property
    def version(self) -> int:
        """The major version of the binaries."""
        return self._found.version

    @property
    def bin_dir(self) -> Path:
        """The folder with `psql`, `pg_dump` and the rest, in the server's version."""
        return self._found.bin_dir

    @property
    def _found(self) -> Binaries:
        if self._binaries is None:
            raise TenantProxyError("the server was given by its DSN: where its binaries are is not known here")
        return self._binaries

    @property
    def data_dir(self) -> Path:
        """The data directory; there is one from the first start on."""
        return self._folder / "data"

    @property
    def log_file(self) -> Path:
        """What the server writes to its standard error."""
        return self._folder / "log"

    @property
    def _folder(self) -> Path:
        if self._directory is None:
            raise TenantProxyError("the server has not been started")
        return self._directory

    @property
    def postmaster_pid(self) -> int:
        """The process id of the server; TenantProxyError when it does not run."""
        lines = self._status()
        if not self.is_running or not lines:
            raise TenantProxyError("the server does not run")
        return int(lines[0])

    def connect_args(
        self, database: str = "postgres", user: str | None = None, password: str | None = None
    ) -> ConnectArgs:
        """Arguments for `asyncpg.connect`: as the superuser, or as `user`."""
        args = ConnectArgs(host=self.host, port=self.port, database=database, user=user or self.superuser)
        if not self._given:
            args["ssl"] = False  # it has none: asking costs a round trip
        secret = self.password if user is None else password
        if secret:
            args["password"] = secret
        return args

    def start(self, *, timeout: float = 30.0) -> Self:
        """Start the server and wait until it takes connections; again after `stop()`: same data, same port.

        Raises TenantProxyError with the end of the server's log when it does not come up.
        """
        if self.is_running:
            return self
        self.stop()  # lets go of a server that died by itself
        deadline = time.monotonic() + timeout
        if self._directory is None:
            self._create()
        if self.port:
            self._launch(deadline)
            return self
        for attempt in range(10):
            self.port = _free_port()
            try:
                self._launch(deadline)
            except TenantProxyError as error:
                taken = "Address already in use" in (error.detail or "")
                self.port = 0
                if not taken or attempt == 9:
                    self.close()
                    raise
            else:
                break
        return self

    def stop(self, mode: Literal["fast", "immediate"] = "fast", *, timeout: float = 10.0) -> None:
        """Stop the server and wait until it is gone; the data stay for the next `start()`.

        `fast` ends every session and writes everything; `immediate` is a crash, with recovery at the next start. A fast
        stop that takes longer than `timeout` (a frozen backend) becomes an immediate one. A given server is left alone.
        """
        supervisor, self._supervisor = self._supervisor, None
        if supervisor is None:
            return
        with supervisor:
            for byte in (b"f", b"i") if mode == "fast" else (b"i",):
                if _ended(supervisor, byte, timeout):
                    return
        # Leaving the block closed the pipe: the supervisor has killed the server by now.

    def close(self) -> None:
        """Stop the server and remove its data."""
        self.stop("immediate")
        if self._finalizer is not None:
            self._finalizer()
        self._directory = self._finalizer = None

    def _create(self) -> None:
        folder = Path(tempfile.mkdtemp(prefix="tenantproxy-pg-", dir=None if self._durable else _in_memory()))
        self._directory = folder
        self._finalizer = weakref.finalize(self, _remove, folder, os.getpid())
        password_file = folder / "password"
        password_file.touch(mode=0o600)
        password_file.write_text(self.password)
        if self._account is not None:
            for path in (folder, password_file):
                os.chown(path, self._account.uid, self._account.gid)
        command = [str(self.bin_dir / "initdb"), "-D", str(self.data_dir), "-U", self.superuser]
        command += ["-A", "trust" if self._trust else "scram-sha-256", f"--pwfile={password_file}"]
        command += ["-E", "UTF8", "--no-locale", "--no-sync", "--no-instructions"]
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=_environment(), cwd=folder,
                check=False, timeout=120, **as_user(self._account),
            )  # fmt: skip
        finally:
            password_file.unlink()
        if done.returncode != 0:
            self.close()
            raise TenantProxyError("initdb failed", detail=done.stderr.strip()[-2000:])

    def _launch(self, deadline: float) -> None:
        command = [str(self.bin_dir / "postgres"), "-D", str(self.data_dir), "-c", f"port={self.port}"]
        for name, value in self._settings.items():
            command += ["-c", f"{name}={value}"]
        spec = {"command": command, "directory": str(self._folder), "as_user": as_user(self._account)}
        stale = self._status()  # left by a server that was killed
        with self.log_file.open("ab") as log:
            started = log.tell()
            self._supervisor = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_SUPERVISOR), json.dumps(spec)],
                stdin=subprocess.PIPE, stdout=log, stderr=log, env=_environment(), cwd=self._folder,
                bufsize=0, start_new_session=True,  # Ctrl-C at the terminal is for the program, not for its server
            )  # fmt: skip
        while (lines := self._status()) == stale or len(lines) < 8 or lines[7].strip() != "ready":
            if not self.is_running or time.monotonic() > deadline:
                self.stop("immediate")
                raise TenantProxyError("PostgreSQL did not start", detail=self._log_since(started))
            time.sleep(_POLL_SECONDS)

    def _status(self) -> list[str]:
        """The lines of postmaster.pid: process id first, the eighth says `ready` (as pg_ctl reads it)."""
        try:
            return (self.data_dir / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return []

    def _log_since(self, position: int) -> str:
        with self.log_file.open("rb") as log:
            log.seek(position)
            return log.read()[-2000:].decode(errors="replace").strip()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return await asyncio.to_thread(self.start)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.close)


def _settings(max_connections: int, *, durable: bool) -> dict[str, str]:
    settings = {
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": "",
        "max_connections": str(max_connections),
        "max_prepared_transactions": "0",  # sessions of one role could finish each other's
        "log_parameter_max_length": "0",  # parameters hold proofs
        "log_parameter_max_length_on_error": "0",
    }
    if not durable:
        # Not synchronous_commit: without it even an immediate stop would lose what was acknowledged.
        settings |= {"fsync": "off", "full_page_writes": "off", "max_wal_size": "256MB"}
    return settings


def _remove(folder: Path, creator: int) -> None:
    if os.getpid() == creator:  # a forked child that ends must not take our data along
        shutil.rmtree(folder, ignore_errors=True)


def _in_memory() -> Path | None:
    """Where a new database costs 20 ms and not, as on a busy disk, 500."""
    if "TMPDIR" in os.environ or not os.access(_MEMORY, os.W_OK) or shutil.disk_usage(_MEMORY).free < _ROOM:
        return None
    return _MEMORY


def _environment() -> dict[str, str]:
    """Ours, without what would point the server elsewhere. TZ spares initdb its search through all time zones."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_", "LANG"))}
    return kept | {"LC_ALL": "C", "TZ": "UTC"}


def _free_port() -> int:
    while True:
        port = random.choice(_PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def _ended(supervisor: subprocess.Popen[bytes], byte: bytes, timeout: float) -> bool:
    """Whether the server is gone within `timeout` of being told to."""
    assert supervisor.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        supervisor.stdin.write(byte)
    try:
        supervisor.wait(timeout)
    except subprocess.TimeoutExpired:
        return False
    return True
