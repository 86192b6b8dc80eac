"""A real PgBouncer between tenantproxy and its server, as an operator might put one there."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal

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


@contextmanager
def a_pgbouncer(
    server: EmbeddedPostgres, *, mode: Literal["transaction", "session"] = "transaction", ignored: str = PINS
) -> Iterator[int]:
    """In front of `server`, for the roles of `a_world`; yields its port. `ignored`: ignore_startup_parameters."""
    assert PGBOUNCER is not None, "apt-get install pgbouncer"
    account = unprivileged_account()
    folder = Path(tempfile.mkdtemp(prefix="tenantproxy-pgbouncer-"))
    port = _free_port()
    schemas = {role: role_password(ROLE_SECRET, SERVER, role) for role in ("of_schema1", "of_schema2")}
    users = {APP_ROLE: APP_PASSWORD} | schemas
    (folder / "users.txt").write_text("".join(f'"{name}" "{password}"\n' for name, password in users.items()))
    (folder / "pgbouncer.ini").write_text(
        f"[databases]\n* = host={server.host} port={server.port}\n[pgbouncer]\n"
        f"listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = scram-sha-256\n"
        f"auth_file = {folder / 'users.txt'}\npool_mode = {mode}\ndefault_pool_size = 4\nmax_client_conn = 100\n"
        f"ignore_startup_parameters = extra_float_digits{',' + ignored if ignored else ''}\n"
    )
    if account is not None:
        for path in (folder, *folder.iterdir()):
            os.chown(path, account.uid, account.gid)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [PGBOUNCER, str(folder / "pgbouncer.ini")],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder, **as_user(account),
        )  # fmt: skip
    try:
        wait_until(lambda: process.poll() is not None or _listens(port), "PgBouncer listens", timeout=30.0)
        assert process.poll() is None, (folder / "log").read_text()
        yield port
    finally:
        process.terminate()
        process.wait(timeout=30)
        shutil.rmtree(folder, ignore_errors=True)


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False
