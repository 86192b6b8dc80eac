"""A PgBouncer in front of an embedded server, as an operator might put one there: Debian's, in transaction mode."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from tenantproxy.embedded import EmbeddedPostgres
from tenantproxy.embedded.binaries import as_user, unprivileged_account
from tenantproxy.embedded.server import _free_port
from tenantproxy.errors import TenantProxyError

__all__ = ["PGBOUNCER", "pgbouncer"]

PGBOUNCER: Final = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
_PATIENCE: Final = 30.0  # seconds until it listens


@asynccontextmanager
async def pgbouncer(server: EmbeddedPostgres, users: Mapping[str, str], **options: object) -> AsyncIterator[str]:
    """Its address, `host:port`, for the block. `users` with their passwords; `options` of pgbouncer.ini.

    Raises TenantProxyError where none is installed, or it does not start.
    """
    if PGBOUNCER is None:
        raise TenantProxyError("there is no PgBouncer on this machine", hint="apt-get install pgbouncer")
    port = _free_port()
    folder, process = await asyncio.to_thread(_start, server, port, users, options)
    try:
        if not await _listening(process, port):
            log = await asyncio.to_thread((folder / "log").read_text, errors="replace")
            raise TenantProxyError("PgBouncer does not listen", detail=log[-2000:])
        yield f"127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            await asyncio.to_thread(process.wait, 10)
        except subprocess.TimeoutExpired:  # it turns in a loop (1.18)
            process.kill()
            process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _start(
    server: EmbeddedPostgres, port: int, users: Mapping[str, str], options: Mapping[str, object]
) -> tuple[Path, subprocess.Popen[bytes]]:
    assert PGBOUNCER is not None
    folder, account = Path(tempfile.mkdtemp(prefix="tenantproxy-pgbouncer-")), unprivileged_account()
    (folder / "users.txt").write_text("".join(f'"{name}" "{word}"\n' for name, word in users.items()))
    keys = {"listen_addr": "127.0.0.1", "listen_port": port, "unix_socket_dir": "", "auth_type": "scram-sha-256",
            "auth_file": folder / "users.txt", "pool_mode": "transaction", "max_client_conn": 200,
            "ignore_startup_parameters": "extra_float_digits", **options}  # fmt: skip
    lines = "".join(f"{name} = {value}\n" for name, value in keys.items())
    file = folder / "pgbouncer.ini"
    file.write_text(f"[databases]\n* = host={server.host} port={server.port}\n[pgbouncer]\n{lines}")
    if account is not None:
        for path in (folder, *folder.iterdir()):
            os.chown(path, account.uid, account.gid)
    with (folder / "log").open("wb") as log:
        return folder, subprocess.Popen(
            [PGBOUNCER, str(file)], stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder, **as_user(account)
        )


async def _listening(process: subprocess.Popen[bytes], port: int) -> bool:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _PATIENCE
    while process.poll() is None and loop.time() < deadline:
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            return True
        await asyncio.sleep(0.02)
    return False
