"""A PostgreSQL cluster as many run it: Debian's Patroni with etcd, and HAProxy in front of the primary. All real.

Everything listens on free ports of 127.0.0.1 and runs as an unprivileged account, in a temporary folder.
Only `Cluster` starts, ends and kills these processes.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp
import asyncpg

from tenantproxy.embedded import EmbeddedPostgres
from tenantproxy.embedded.binaries import as_user, find_binaries, unprivileged_account
from tenantproxy.embedded.server import _free_port, _in_memory
from tests.support.waiting import until

__all__ = ["Cluster", "Node", "a_cluster", "missing"]

VERSION: Final = 15
_PATH: Final = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"
_TOOLS: Final = {"patroni": "patroni", "etcd": "etcd-server", "haproxy": "haproxy"}
_TTL_SECONDS: Final = 20  # the least that Patroni takes
_SETTLE_SECONDS: Final = 120.0
_HAPROXY: Final = """
global
    maxconn 500
defaults
    mode tcp
    retries 2
    timeout connect 4s
    timeout client 30m
    timeout server 30m
    timeout check 5s
listen primary
    bind 127.0.0.1:{port}
    option httpchk OPTIONS /primary
    http-check expect status 200
    default-server inter 3s fall 3 rise 2 on-marked-down shutdown-sessions
{servers}
"""
"""As Patroni ships it (its haproxy template), with its intervals: a change is seen after up to nine seconds."""


def missing() -> str:
    """What is to be installed first; "" when all is there."""
    packages = [package for tool, package in _TOOLS.items() if shutil.which(tool, path=_PATH) is None]
    if not Path(f"/usr/lib/postgresql/{VERSION}/bin/postgres").exists():
        packages.append(f"postgresql-{VERSION}")
    return f"apt-get install {' '.join(packages)}" if packages else ""


@dataclass(slots=True, eq=False)
class Node:
    """One PostgreSQL and its Patroni. `process`: Patroni's, set while it runs."""

    name: str
    port: int
    rest: int
    folder: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """`host:port` of its PostgreSQL."""
        return f"127.0.0.1:{self.port}"

    @property
    def postmaster(self) -> int:
        """The process id of its PostgreSQL. Raises OSError when it has none."""
        return int((self.folder / "data" / "postmaster.pid").read_text().split("\n", 1)[0])

    def is_up(self) -> bool:
        """Whether its PostgreSQL runs."""
        with suppress(OSError, ValueError):
            os.kill(self.postmaster, 0)
            return True
        return False

    def kill_postgres(self) -> None:
        """`kill -9` of the server process: its children end when they notice."""
        os.kill(self.postmaster, signal.SIGKILL)

    def kill_patroni(self) -> None:
        """`kill -9`: PostgreSQL goes on without it."""
        process, self.process = self.process, None
        assert process is not None
        process.kill()
        process.wait()


@dataclass(slots=True, eq=False)
class Cluster:
    """Three nodes, etcd, HAProxy. `primary_port`: where HAProxy leads to the primary."""

    folder: Path
    etcd: int
    primary_port: int
    password: str
    nodes: list[Node]
    _daemons: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def server(self) -> EmbeddedPostgres:
        """The primary, by way of HAProxy, for what a superuser does."""
        return EmbeddedPostgres(dsn=f"postgresql://postgres:{self.password}@127.0.0.1:{self.primary_port}/postgres")

    async def connect(self, node: Node | None = None, database: str = "postgres") -> asyncpg.Connection:
        """As the superuser to a node, or to the primary by way of HAProxy."""
        conn: asyncpg.Connection = await asyncpg.connect(
            host="127.0.0.1", port=self.primary_port if node is None else node.port, user="postgres",
            password=self.password, database=database, ssl=False, timeout=5.0,
        )  # fmt: skip
        return conn

    # --- processes ---------------------------------------------------------------------------------------------------
    def start(self) -> None:
        """All of it; returns before it works."""
        url = f"http://127.0.0.1:{self.etcd}"
        peer = f"http://127.0.0.1:{_free_port()}"
        self._daemons.append(
            self._run(
                "etcd", "--name", "one", "--data-dir", str(self.folder / "etcd"), "--listen-client-urls", url,
                "--advertise-client-urls", url, "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
                "--initial-cluster", f"one={peer}", "--unsafe-no-fsync",
            )
        )  # fmt: skip
        for node in self.nodes:
            self._write(node.folder / "patroni.json", json.dumps(self._patroni(node), indent=1))
            self.start_patroni(node)
        servers = "\n".join(
            f"    server {node.name} 127.0.0.1:{node.port} maxconn 100 check port {node.rest}" for node in self.nodes
        )
        config = self.folder / "haproxy.cfg"
        self._write(config, _HAPROXY.format(port=self.primary_port, servers=servers))
        self._daemons.append(self._run("haproxy", "-db", "-f", str(config)))

    def start_patroni(self, node: Node) -> None:
        """One that was killed, or was never there."""
        node.process = self._run("patroni", str(node.folder / "patroni.json"), log=f"{node.name}.log")

    def close(self) -> None:
        """End all processes. `kill -9` for those that take long."""
        for node in self.nodes:
            if node.process is not None:
                node.process.terminate()
        for process in [*(node.process for node in self.nodes if node.process is not None), *self._daemons]:
            process.terminate()
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for node in self.nodes:
            if node.is_up():
                node.kill_postgres()

    def _run(self, tool: str, *arguments: str, log: str = "") -> subprocess.Popen[bytes]:
        path = shutil.which(tool, path=_PATH)
        assert path is not None, missing()
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "PATRONI_"))}
        with (self.folder / (log or f"{tool}.log")).open("ab") as output:
            return subprocess.Popen(
                [path, *arguments], stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=self.folder,
                env=environment | {"PATH": _PATH, "LC_ALL": "C"}, **as_user(unprivileged_account()),
            )  # fmt: skip

    def _write(self, path: Path, text: str) -> None:
        path.write_text(text)
        account = unprivileged_account()
        if account is not None:
            os.chown(path, account.uid, account.gid)
        path.chmod(0o600)

    def _patroni(self, node: Node) -> dict[str, Any]:
        login = {"username": "postgres", "password": self.password}
        return {
            "scope": "failover",
            "name": node.name,
            "restapi": {"listen": f"127.0.0.1:{node.rest}", "connect_address": f"127.0.0.1:{node.rest}"},
            "etcd3": {"host": f"127.0.0.1:{self.etcd}"},
            "bootstrap": {
                "dcs": {
                    "ttl": _TTL_SECONDS,
                    "loop_wait": 1,
                    "retry_timeout": 3,
                    "master_start_timeout": 0,  # do not wait for a crashed primary to recover
                    "synchronous_mode": True,
                    "postgresql": {
                        "use_pg_rewind": True,
                        "parameters": {"max_connections": 100, "wal_log_hints": "on", "fsync": "off"},
                    },
                },
                "initdb": [{"encoding": "UTF8"}, {"locale": "C"}, "data-checksums"],
            },
            "postgresql": {
                "listen": node.address,
                "connect_address": node.address,
                "data_dir": str(node.folder / "data"),
                "bin_dir": str(find_binaries(VERSION).bin_dir),
                "pgpass": str(node.folder / "pgpass"),
                "remove_data_directory_on_rewind_failure": True,
                "remove_data_directory_on_diverged_timelines": True,
                "authentication": {
                    "superuser": login,
                    "replication": {"username": "replicator", "password": self.password},
                    "rewind": login,
                },
                "parameters": {"unix_socket_directories": ""},
                "pg_hba": [
                    "host replication all 127.0.0.1/32 scram-sha-256",
                    "host all all 127.0.0.1/32 scram-sha-256",
                ],
            },
        }

    # --- what it does ------------------------------------------------------------------------------------------------
    async def ask(self, node: Node, path: str, body: object = None) -> tuple[int, Any]:
        """Patroni's REST API of `node`: status and JSON or text; (0, None) when it does not answer."""
        method = "GET" if body is None else "POST" if path == "switchover" else "PATCH"
        timeout = aiohttp.ClientTimeout(total=60 if body is not None else 2)
        with suppress(aiohttp.ClientError, OSError, TimeoutError):
            async with (
                aiohttp.ClientSession(timeout=timeout) as http,
                http.request(method, f"http://127.0.0.1:{node.rest}/{path}", json=body) as answer,
            ):
                text = await answer.text()
                return answer.status, json.loads(text) if text.startswith(("{", "[")) else text
        return 0, None

    async def primary(self) -> Node | None:
        """The node that has the leader's lock."""
        for node in self.nodes:
            if node.process is not None and (await self.ask(node, "primary"))[0] == 200:
                return node
        return None

    async def settled(self, *, is_synchronous: bool) -> Node:
        """Wait until all nodes follow one primary, and HAProxy leads to it. Returns the primary."""
        found: list[Node] = []

        async def is_settled() -> bool:
            primary = await self.primary()
            if primary is None:
                return False
            _, told = await self.ask(primary, "cluster")
            members = told["members"] if isinstance(told, dict) else []
            followers = [one for one in members if one["role"] in ("replica", "sync_standby")]
            synchronous = [one for one in followers if one["role"] == "sync_standby"]
            timelines = {one.get("timeline") for one in members}
            running = all(one["state"] in ("running", "streaming") for one in members)
            if len(followers) != 2 or bool(synchronous) != is_synchronous or len(timelines) != 1 or not running:
                return False
            if not all(
                [await self._leads_to(primary) for _ in self.nodes]
            ):  # one each time, of those that it takes for it
                return False
            found[:] = [primary]
            return True

        await until(is_settled, "the cluster has a primary and two standbys", timeout=_SETTLE_SECONDS)
        return found[0]

    async def _leads_to(self, node: Node) -> bool:
        """Whether HAProxy does."""
        try:
            conn = await self.connect()
            try:
                return bool(await conn.fetchval("SELECT inet_server_port()") == node.port)
            finally:
                await conn.close()
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError):
            return False

    async def set_synchronous(self, *, is_synchronous: bool) -> Node:
        """Whether a commit waits for a standby. Returns the primary once it is so."""
        primary = await self.settled_any()
        await self.ask(primary, "config", {"synchronous_mode": is_synchronous})
        return await self.settled(is_synchronous=is_synchronous)

    async def settled_any(self) -> Node:
        """Wait for a primary. Returns it."""
        found: list[Node] = []

        async def is_there() -> bool:
            found[:] = [node for node in [await self.primary()] if node is not None]
            return bool(found)

        await until(is_there, "a node is the primary", timeout=_SETTLE_SECONDS)
        return found[0]

    async def switch_over(self, primary: Node) -> None:
        """As `patronictl switchover` does. AssertionError with what Patroni says when it refuses."""
        status, told = await self.ask(primary, "switchover", {"leader": primary.name})
        assert status == 200, told


@asynccontextmanager
async def a_cluster(tell: Callable[[str], object] = lambda _: None) -> AsyncIterator[Cluster]:
    """A cluster that works, gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="tenantproxy-patroni-", dir=_in_memory()))
    account = unprivileged_account()
    nodes = [Node(f"node{n}", _free_port(), _free_port(), folder / f"node{n}") for n in (1, 2, 3)]
    for path in (folder, *(node.folder for node in nodes)):
        path.mkdir(exist_ok=True)
        if account is not None:
            os.chown(path, account.uid, account.gid)
    cluster = Cluster(folder, _free_port(), _free_port(), secrets.token_hex(16), nodes)
    try:
        tell(f"a cluster of three in {folder}")
        await asyncio.to_thread(cluster.start)
        await cluster.settled(is_synchronous=True)
        yield cluster
    finally:
        await asyncio.to_thread(cluster.close)
        shutil.rmtree(folder, ignore_errors=True)
