"""Does the guide to point-in-time recovery work as it is written? Each of its commands is run, and none other."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tenantproxy.embedded.binaries import as_user, unprivileged_account
from tests.support.waiting import PATIENCE

GUIDE: Final = Path(__file__).parents[2] / "docs" / "backup.md"
BIN: Final = Path("/usr/lib/postgresql/15/bin")
LACKING: Final = not (BIN / "initdb").exists() or shutil.which("pgbackrest") is None


@pytest.fixture
def folder() -> Iterator[Path]:
    """Of the account that runs PostgreSQL, which may be another one; short, for a socket is in it."""
    account = unprivileged_account()
    made = Path(tempfile.mkdtemp(prefix="tp-guide-"))
    if account is not None:
        os.chown(made, account.uid, account.gid)
    yield made
    for data in ("data", "then"):
        run(made, f"{BIN}/pg_ctl stop -s -m immediate -D {made / data}", check=False)
    shutil.rmtree(made)


def run(folder: Path, script: str, *, check: bool = True, port: int = 0) -> str:
    environment = {
        "PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "PGHOST": str(folder), "PGDATA": str(folder / "data"),
        "PGPORT": str(port), "REPO": str(folder / "repo"), "THEN": str(folder / "then"),
        "PGBACKREST_CONFIG": str(folder / "pgbackrest.conf"),
    }  # fmt: skip
    done = subprocess.run(
        ["/bin/sh", "-euc", script], env=environment, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, timeout=PATIENCE, check=False, **as_user(unprivileged_account()),
    )  # fmt: skip
    assert done.returncode == 0 or not check, done.stdout
    return done.stdout


def two_free_ports() -> int:
    """A port, and the next one, where no one listens."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as first:
            port = int(first.getsockname()[1])
            try:
                socket.create_server(("127.0.0.1", port + 1)).close()
            except OSError:
                continue
            return port


@pytest.mark.skipif(LACKING, reason="needs Debian's packages postgresql-15 and pgbackrest")
def test_the_guide_to_pgbackrest_brings_back_what_a_mistake_removed(folder: Path) -> None:
    text = GUIDE.read_text()
    blocks = re.findall(r"```sh\n(.*?)```", text[text.index("## Point-in-time recovery") :], re.S)
    assert len(blocks) == 5
    port = two_free_ports()
    settings = f"unix_socket_directories = '{folder}'\nlisten_addresses = ''\nfsync = off\n"
    run(
        folder,
        f'{BIN}/initdb -A trust --no-sync >made.log; printf %s "{settings}" >>$PGDATA/postgresql.conf',
        port=port,
    )
    run(folder, f"{BIN}/pg_ctl start -w -s -l start.log", port=port)
    said = run(folder, "\n".join(blocks), port=port)
    assert "stanza: tenants" in said
    assert "full backup" in said
    assert "(1 row)" in said.rpartition("DROP TABLE")[2], "what was dropped is in the copy"
    assert "pg1-port" in (folder / "pgbackrest.conf").read_text()
    assert (folder / "pgbackrest.conf").stat().st_mode & 0o077 == 0, "the key of the archive is in it"
