"""A streaming standby of an embedded server, made by its own pg_basebackup: to read from, or to promote."""

from __future__ import annotations

import os
import subprocess
import tempfile
import weakref
from pathlib import Path

from tenantproxy.embedded.binaries import as_user
from tenantproxy.embedded.server import EmbeddedPostgres, _environment, _in_memory, _remove
from tenantproxy.errors import TenantProxyError

__all__ = ["EmbeddedStandby"]


class EmbeddedStandby(EmbeddedPostgres):
    """A copy of a running `primary` that follows it until it is promoted. Started and closed as any embedded server."""

    def __init__(self, primary: EmbeddedPostgres) -> None:
        connections = int(primary._settings["max_connections"])  # a standby must have as many
        super().__init__(version=primary.version, durable=False, max_connections=connections)
        self.password = primary.password
        self._primary = primary

    def _create(self) -> None:
        folder = Path(tempfile.mkdtemp(prefix="tenantproxy-standby-", dir=_in_memory()))
        self._directory = folder
        self._finalizer = weakref.finalize(self, _remove, folder, os.getpid())
        if self._account is not None:
            os.chown(folder, self._account.uid, self._account.gid)
        self._run(
            "pg_basebackup", "-D", str(self.data_dir), "-h", self._primary.host, "-p", str(self._primary.port),
            "-U", self._primary.superuser, "-R", "-X", "stream", "-c", "fast", "--no-sync",
        )  # fmt: skip

    def promote(self) -> None:
        """Make it a primary; returns when it takes writes."""
        self._run("pg_ctl", "promote", "-D", str(self.data_dir), "-w", "-t", "60")

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [str(self.bin_dir / program), *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True,
            env=_environment() | {"PGPASSWORD": self._primary.password}, cwd=self._folder, check=False, timeout=120,
            **as_user(self._account),
        )  # fmt: skip
        if done.returncode != 0:
            raise TenantProxyError(f"{program} of the standby failed", detail=done.stderr[-2000:])
