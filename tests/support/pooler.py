"""A real PgBouncer between tenantproxy and its server, as an operator might put one there."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final, Literal

import asyncpg

from tenantproxy.config import role_password
from tenantproxy.embedded import EmbeddedPostgres
from tenantproxy.embedded.binaries import as_user, unprivileged_account
from tenantproxy.embedded.server import _free_port
from tests.support.waiting import wait_until
from tests.support.world import APP_PASSWORD, APP_ROLE, ROLE_SECRET, SERVER

PGBOUNCER: Final = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")

PINS: Final = (
    "search_path,row_security,app.current_tenant_id,app.tenant_proof,standard_conforming_strings,"
    "default_transaction_read_only,default_transaction_isolation,default_transaction_deferrable,statement_timeout,"
    "lock_timeout,idle_in_transaction_session_timeout,idle_session_timeout,exit_on_error,local_preload_libraries,"
    "transaction_timeout"
)
"""What an operator lists so that PgBouncer lets us in: all that we pin."""

NO_MORE: Final[Mapping[str, str]] = {}

Mode = Literal["transaction", "session", "statement"]


class PgBouncer:
    """One in front of `server`, for the roles of `a_world`. Its file and its process may be changed meanwhile."""

    def __init__(self, server: EmbeddedPostgres, folder: Path) -> None:
        self.server = server
        self.port = _free_port()
        self._folder = folder
        self._account = unprivileged_account()
        self._process: subprocess.Popen[bytes] | None = None

    def write(
        self,
        *,
        mode: Mode = "transaction",
        ignored: str = "",
        databases: str = "",
        users: Mapping[str, str] = NO_MORE,
        **options: object,
    ) -> None:
        """Its configuration. `ignored`: ignore_startup_parameters; `databases`: lines ahead of that for all others.

        `users`: more of them, with their passwords.
        """
        schemas = {role: role_password(ROLE_SECRET, SERVER, role) for role in ("of_schema1", "of_schema2")}
        users = {APP_ROLE: APP_PASSWORD, self.server.superuser: self.server.password} | schemas | dict(users)
        (self._folder / "users.txt").write_text("".join(f'"{name}" "{word}"\n' for name, word in users.items()))
        lines = {"default_pool_size": 4, "max_client_conn": 100, "pool_mode": mode, "server_check_delay": 0} | options
        lines["ignore_startup_parameters"] = f"extra_float_digits{',' + ignored if ignored else ''}"
        self.file.write_text(
            f"[databases]\n{databases}\n* = host={self.server.host} port={self.server.port}\n[pgbouncer]\n"
            f"listen_addr = 127.0.0.1\nlisten_port = {self.port}\nunix_socket_dir =\nauth_type = scram-sha-256\n"
            f"auth_file = {self._folder / 'users.txt'}\nadmin_users = {self.server.superuser}\n"
            + "".join(f"{name} = {value}\n" for name, value in lines.items())
        )
        if self._account is not None:
            for path in (self._folder, *self._folder.iterdir()):
                os.chown(path, self._account.uid, self._account.gid)

    def start(self) -> None:
        """Start it, and wait until it listens."""
        assert PGBOUNCER is not None, "apt-get install pgbouncer"
        with (self._folder / "log").open("ab") as log:
            process = self._process = subprocess.Popen(
                [PGBOUNCER, str(self.file)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self._folder, **as_user(self._account),
            )  # fmt: skip
        wait_until(lambda: process.poll() is not None or _listens(self.port), "PgBouncer listens", timeout=30.0)
        assert process.poll() is None, (self._folder / "log").read_text()

    @property
    def file(self) -> Path:
        """Its configuration."""
        return self._folder / "pgbouncer.ini"

    def kill(self, number: int = signal.SIGKILL) -> None:
        """End it by this signal."""
        if self._process is not None:
            self._process.send_signal(number)
            try:
                self._process.wait(timeout=30)
            except subprocess.TimeoutExpired:  # it turns in a loop (1.18, behind a KILL)
                self._process.kill()
                self._process.wait(timeout=30)
            self._process = None

    async def revive(self) -> bool:
        """Start it again if it died by itself or does not answer any more; whether it had to."""
        try:
            async with asyncio.timeout(15), self.console() as console:
                await console.say("RELOAD")
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            self.kill()
            self.start()
            return True
        return False

    @asynccontextmanager
    async def console(self) -> AsyncIterator[Console]:
        """Says commands to it."""
        conn = await asyncpg.connect(
            host="127.0.0.1", port=self.port, user=self.server.superuser, password=self.server.password,
            database="pgbouncer", statement_cache_size=0, ssl=False,
        )  # fmt: skip
        try:
            yield Console(conn)
        finally:
            conn.terminate()


class Console:
    """PgBouncer's console, which knows simple queries alone."""

    def __init__(self, conn: asyncpg.Connection) -> None:
        self._conn = conn

    async def say(self, command: str) -> None:
        """PAUSE, RESUME, KILL, RELOAD, RECONNECT and their like."""
        await self._conn.execute(command, timeout=15)


@contextmanager
def a_pooler(server: EmbeddedPostgres, **options: Any) -> Iterator[PgBouncer]:
    """A PgBouncer that runs; `options` as those of `PgBouncer.write`."""
    folder = Path(tempfile.mkdtemp(prefix="tenantproxy-pgbouncer-"))
    pooler = PgBouncer(server, folder)
    try:
        pooler.write(**options)
        pooler.start()
        yield pooler
    finally:
        pooler.kill(signal.SIGTERM)
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def a_pgbouncer(server: EmbeddedPostgres, *, mode: Mode = "transaction", ignored: str = PINS) -> Iterator[int]:
    """The port of one that lets our startup packet in."""
    with a_pooler(server, mode=mode, ignored=ignored) as pooler:
        yield pooler.port


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False
