"""What is measured? A direct connection, PgBouncer in transaction mode, and ours, each behind an address of its own."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks.pg_process import free_port, running
from benchmarks.pg_world import (
    DATABASE,
    MAIN,
    NEIGHBOURS,
    ROLE,
    ROW,
    SCHEMA,
    SCHEMAS,
    SERVER,
    SHARED,
    PgWorld,
    neighbour_databases,
    neighbour_rows,
)
from tenantproxy._native import SWITCH
from tenantproxy.embedded.binaries import SystemAccount, unprivileged_account
from tenantproxy.lifecycle.verifier import scram_verifier
from tests.support.authority import self_signed

__all__ = [
    "DIRECT",
    "NEAR_EACH",
    "NEAR_TOTAL",
    "OURS",
    "PGBOUNCER",
    "SHARED_SIZE",
    "Target",
    "Targets",
    "open_targets",
    "pgbouncer_ini",
    "pgbouncer_version",
    "running_pooler",
    "sidecar_toml",
]

DIRECT, PGBOUNCER, OURS = "direct", "PgBouncer", "ours"
SHARED_SIZE: Final = 20  # server connections of all row tenants together, and of the PgBouncer pool for them
NEAR_EACH: Final = 2  # of each neighbour with a database of its own, at PgBouncer
NEAR_TOTAL: Final = NEAR_EACH * NEIGHBOURS  # and of all of them together, at both

_NEAR_SERVER: Final = "near"
_PREPARES_SINCE: Final = (1, 21)
_MAX_CLIENTS: Final = 12_000
_MAX_WAITING: Final = 1000
_PATIENCE: Final = 60.0  # seconds that a client waits for a server connection, at both


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where a client connects. `pid`: of the proxy, None without one; `prepares`: can clients prepare there?"""

    name: str
    port: int
    user: str
    password: str = field(repr=False)
    pid: int | None = None
    prepares: bool = True
    host: str = "127.0.0.1"
    has_tls: bool = False

    def environment(self, database: str) -> dict[str, str]:
        """For a program of libpq."""
        return {
            "PGHOST": self.host,
            "PGPORT": str(self.port),
            "PGUSER": self.user,
            "PGPASSWORD": self.password,
            "PGDATABASE": database,
            "PGSSLMODE": "require" if self.has_tls else "disable",
            "PGGSSENCMODE": "disable",
            "PGCONNECT_TIMEOUT": "30",
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """Those of one part. `pgbouncer` is None where PATH has none."""

    direct: Target
    pgbouncer: Target | None
    ours: Target

    @property
    def proxies(self) -> tuple[Target, ...]:
        """Ours last."""
        return (self.ours,) if self.pgbouncer is None else (self.pgbouncer, self.ours)

    @property
    def all(self) -> tuple[Target, ...]:
        """The direct connection first."""
        return (self.direct, *self.proxies)


def pgbouncer_version() -> tuple[int, ...] | None:
    """Of the one that PGBOUNCER names, or that is on PATH, (1, 21, 0); None: not found."""
    program = _pgbouncer()
    if program is None:
        return None
    said = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=10, check=True).stdout
    found = re.search(r"PgBouncer (\d+(?:\.\d+)+)", said)
    if found is None:
        raise RuntimeError(f"{program} does not say its version: {said[:200]!r}")
    return tuple(map(int, found[1].split(".")))


def _pgbouncer() -> str | None:
    named = os.environ.get("PGBOUNCER")
    if named:
        return named
    return shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")  # a user's PATH has no sbin


@asynccontextmanager
async def open_targets(
    world: PgWorld, *, shared_size: int | None = None, tls: bool = False, pooler: int | None = None
) -> AsyncIterator[Targets]:
    """Fresh processes of both proxies; gone, with their files, when the block ends.

    `shared_size`: if not the usual. `tls`: clients must use it. `pooler`: the port of a PgBouncer between ours and the
    tenants' server.
    """
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tenantproxy-bench-")))
        pgbouncer = None
        if (version := pgbouncer_version()) is not None:
            pgbouncer = await stack.enter_async_context(_running_pgbouncer(world, folder, version, tls=tls))
        ours = await stack.enter_async_context(_running_sidecar(world, folder, shared_size, tls=tls, pooler=pooler))
        direct = Target(name=DIRECT, port=world.server.port, user=ROLE, password=world.password)
        yield Targets(direct=direct, pgbouncer=pgbouncer, ours=ours)


# --- PgBouncer -------------------------------------------------------------------------------------------------------
@asynccontextmanager
async def _running_pgbouncer(
    world: PgWorld, folder: Path, version: tuple[int, ...], *, tls: bool
) -> AsyncIterator[Target]:
    program, account, port = _pgbouncer(), unprivileged_account(), free_port()  # it refuses to be root
    assert program is not None
    own = folder / "pgbouncer"
    own.mkdir(mode=0o700)
    # Not a verifier: 1.18 takes the keys that a client proves by one for those of the user that it logs in as.
    _write(own / "users.txt", f'"{world.user}" "{world.client_password}"\n')
    text = pgbouncer_ini(world, port=port, users=own / "users.txt", version=version)
    if tls:
        pair = self_signed(own, "127.0.0.1", "localhost")
        text += "client_tls_sslmode = require\nclient_tls_protocols = tlsv1.3\n"
        text += f"client_tls_cert_file = {pair.certificate}\nclient_tls_key_file = {pair.key}\n"
    _write(own / "pgbouncer.ini", text)
    if account is not None:
        _give(folder, own, account)
    command = [program, "--quiet", str(own / "pgbouncer.ini")]
    async with running(command, port=port, log=folder / "pgbouncer.log", account=account) as pid:
        yield Target(
            name=PGBOUNCER, port=port, user=world.user, password=world.client_password, pid=pid,
            prepares=version >= _PREPARES_SINCE, has_tls=tls,
        )  # fmt: skip


@asynccontextmanager
async def running_pooler(world: PgWorld, folder: Path) -> AsyncIterator[int]:
    """The port of a PgBouncer as `[servers.X] pooler` wants it: databases and users by their own names."""
    program, account, port = _pgbouncer(), unprivileged_account(), free_port()
    if program is None:
        raise RuntimeError("needs a PgBouncer: apt install pgbouncer")
    own = folder / "pooler"
    own.mkdir(mode=0o700)
    _write(own / "users.txt", f'"{ROLE}" "{world.password}"\n')
    text = pgbouncer_ini(world, port=port, users=own / "users.txt", version=(1, 0))
    head, _, settings = text.partition("[pgbouncer]")
    everywhere = f"[databases]\n* = host={world.server.host} port={world.server.port} pool_size={world.pool}\n"
    assert head
    _write(own / "pgbouncer.ini", f"{everywhere}\n[pgbouncer]{settings}")
    if account is not None:
        _give(folder, own, account)
    command = [program, "--quiet", str(own / "pgbouncer.ini")]
    async with running(command, port=port, log=folder / "pooler.log", account=account):
        yield port


def _give(folder: Path, own: Path, account: SystemAccount) -> None:
    folder.chmod(0o711)  # it may pass through, and see nothing
    for path in (own, *own.iterdir()):
        os.chown(path, account.uid, account.gid)


def pgbouncer_ini(world: PgWorld, *, port: int, users: Path, version: tuple[int, ...]) -> str:
    """Its configuration: what it does for each client is what ours does, and nothing that ours does not."""
    server = f"host={world.server.host} port={world.server.port} user={ROLE} password={world.password}"
    sizes = {DATABASE: (DATABASE, world.pool), SHARED: (DATABASE, SHARED_SIZE)}
    sizes |= {database: (database, NEAR_EACH) for database in neighbour_databases()}
    databases = [f"{name} = {server} dbname={place} pool_size={size}" for name, (place, size) in sizes.items()]
    settings: dict[str, object] = {
        "listen_addr": "127.0.0.1",
        "listen_port": port,
        "unix_socket_dir": "",
        "auth_type": "scram-sha-256",
        "auth_file": users,
        "pool_mode": "transaction",
        "max_client_conn": _MAX_CLIENTS,
        "query_wait_timeout": int(_PATIENCE),
        "server_tls_sslmode": "disable",
        "log_connections": 0,
        "log_disconnections": 0,
        "log_stats": 0,
    }
    if version >= _PREPARES_SINCE:
        settings["max_prepared_statements"] = 200
    lines = ["[databases]", *databases, "", "[pgbouncer]", *(f"{key} = {value}" for key, value in settings.items())]
    return "\n".join([*lines, ""])


# --- ours ------------------------------------------------------------------------------------------------------------
@asynccontextmanager
async def _running_sidecar(
    world: PgWorld, folder: Path, shared_size: int | None, *, tls: bool, pooler: int | None
) -> AsyncIterator[Target]:
    port = free_port()
    own = folder / "ours"
    own.mkdir(mode=0o700)
    verifier = scram_verifier(world.client_password)
    more: dict[str, str] = {}
    if tls:
        pair = self_signed(own, "127.0.0.1", "localhost")
        more = {**pair.listener, "ssl_min_version": "1.3", "ssl_required": "always"}
    text = sidecar_toml(world, port=port, verifier=verifier, shared_size=shared_size, pooler=pooler, **more)
    _write(own / "tenantproxy.toml", text)
    environment = {
        name: value for name, value in os.environ.items() if name == SWITCH or not name.startswith("TENANTPROXY_")
    }
    command = [sys.executable, "-m", "tenantproxy", "serve", "--config", str(own / "tenantproxy.toml")]
    command += ["--log-level", "WARNING", "--drain-timeout", "1"]
    async with running(command, port=port, log=folder / "ours.log", environment=environment) as pid:
        yield Target(name=OURS, port=port, user=world.user, password=world.client_password, pid=pid, has_tls=tls)


def sidecar_toml(
    world: PgWorld,
    *,
    port: int,
    verifier: str,
    shared_size: int | None = None,
    pooler: int | None = None,
    **more: str,
) -> str:
    """Its configuration, with `more` in `[pg]`. `pooler`: see `open_targets`; the main database is reached directly.

    Neighbours with databases have a server entry of their own: its budget is their total.
    """
    server = {
        "host": world.server.host,
        "port": world.server.port,
        "user": ROLE,
        "password": world.password,
        "ssl": "disable",
    }
    there = {} if pooler is None else {"server": SERVER}  # else it is the main database's
    alone = {"max_size": world.pool, **there}
    through = {} if pooler is None else {"port": pooler, "pooler": "pgbouncer"}
    tables: dict[str, Mapping[str, Any]] = {
        "main": {"server": SERVER if pooler is None else _NEAR_SERVER, "database": MAIN},
        f"servers.{SERVER}": {**server, "max_connections": 200, **through},
        f"servers.{_NEAR_SERVER}": {**server, "max_connections": NEAR_TOTAL},
        "pools": {
            "shared_size": shared_size or max(SHARED_SIZE, world.pool),
            "max_waiting": _MAX_WAITING,
            "acquire_timeout": _PATIENCE,
        },
        "registry": {"source": "file"},
        "row": {"form": world.form, "key": world.row_key},
        "http": {"listen": ""},
        "admin": {"listen": ""},
        "pg": {"listen": f"127.0.0.1:{port}", "max_clients": _MAX_CLIENTS, "max_clients_per_tenant": 0, **more},
        f"pg.users.{world.user}": {"verifier": verifier, "tenants": "*"},
        f"tenants.{DATABASE}": {"isolation": "database", "database": DATABASE, **alone},
        f"tenants.{SCHEMA}": {"isolation": "schema", "database": SCHEMAS, "schema": SCHEMA, **alone},
        f"tenants.{ROW}": {"isolation": "row", "database": SHARED, **alone},
    }
    for tenant in neighbour_rows():
        tables[f"tenants.{tenant}"] = {"isolation": "row", "database": SHARED, **there}
    for tenant in neighbour_databases():
        tables[f"tenants.{tenant}"] = {"isolation": "database", "database": tenant, "server": _NEAR_SERVER}
    # JSON's strings and numbers are TOML's, as long as nothing is beyond ASCII.
    return "\n".join(
        "\n".join([f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items()), ""])
        for name, values in tables.items()
    )


def _write(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text)
