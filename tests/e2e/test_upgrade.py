"""What do clients see when a new process takes over, and what is left when that goes wrong? On real processes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import psycopg
import pytest

from tenantproxy.demo.world import World
from tests.e2e.conftest import get
from tests.support.sidecar import Served, a_sidecar
from tests.support.traffic import traffic
from tests.support.waiting import PATIENCE, until

SINGLE_AND_SEVERAL = pytest.mark.parametrize("workers", ["1", "2"])


class House:
    """A sidecar on its own configuration file, and all processes that follow from it."""

    def __init__(self, served: Served, config: Path, log: Path, world: World) -> None:
        self.served = served
        self.config = config
        self.log = log
        self.dsn = f"postgresql://demo:{world.pg_password}@{served.pg}/wayne?sslmode=disable"

    @property
    def mains(self) -> list[psutil.Process]:
        """The processes that run `tenantproxy serve` with this configuration."""
        return [
            process
            for process in psutil.process_iter(["cmdline", "status"])
            if str(self.config) in (process.info["cmdline"] or ()) and process.info["status"] != "zombie"
        ]

    @property
    def other(self) -> psutil.Process | None:
        """The new process, while there is one."""
        return next((each for each in self.mains if each.pid != self.served.process.pid), None)

    @property
    def is_renewed(self) -> bool:
        """The old process is gone, and the new one serves."""
        return self.served.process.poll() is not None and len(self.mains) == 1

    def upgrade(self) -> None:
        self.served.process.send_signal(signal.SIGUSR2)

    def logged(self, text: str) -> bool:
        return text in self.log.read_text()

    async def works(self) -> bool:
        conn = await psycopg.AsyncConnection.connect(self.dsn)
        await conn.execute("SELECT 1")
        await conn.close()
        return get(f"{self.served.public}/auth/check")[0] == 401


House_ = Callable[..., House]


@pytest.fixture
def house(demo_world: World, tmp_path: Path) -> Iterator[House_]:
    """`house(workers)`; everything that it started is ended with the test."""
    with ExitStack() as stack:

        def start(*options: str, variables: dict[str, str] | None = None) -> House:
            text = demo_world.config.read_text().replace('_file = "', f'_file = "{demo_world.config.parent}/')
            config, log = tmp_path / "upgraded.toml", tmp_path / "sidecar.log"
            config.write_text(text)
            served = stack.enter_context(a_sidecar(config, log, *options, variables=variables))
            made = House(served, config, log, demo_world)
            stack.enter_context(gone(made))
            return made

        yield start


@contextmanager
def gone(house: House) -> Iterator[None]:
    """At the end, all processes that followed from it are ended."""
    try:
        yield
    finally:
        left = [each for main in house.mains for each in (main, *main.children())]
        for process in house.mains:
            process.terminate()
        _, alive = psutil.wait_procs(left, timeout=PATIENCE)
        for process in alive:
            process.kill()
        assert not alive, "a process did not end"


@SINGLE_AND_SEVERAL
async def test_no_client_fails_while_a_new_process_takes_over(house: House_, workers: str) -> None:
    it = house("--workers", workers)
    async with traffic(it.dsn, it.served.public, port_clients=8, http_clients=4, websockets=3) as seen:
        await until(lambda: seen.transactions > 50 and seen.requests > 50, "clients work")
        it.upgrade()
        await until(lambda: it.is_renewed, "the old process is gone")
        now, then = seen.transactions, seen.requests
        await until(lambda: seen.transactions > now + 50 and seen.requests > then + 50, "clients work")
    assert seen.failed == []
    assert seen.ended
    assert set(seen.ended.values()) == {1}, "a client is asked to connect again once"
    assert it.served.process.returncode == 0


@SINGLE_AND_SEVERAL
async def test_a_new_process_that_cannot_start_leaves_the_old_one(house: House_, workers: str) -> None:
    it = house("--workers", workers)
    it.config.write_text(it.config.read_text() + "\n[polls]\nmax_size = 3\n")
    it.upgrade()
    await until(lambda: it.logged("the new process did not start"), "it is told")
    assert it.logged("polls")
    assert it.other is None
    assert await it.works()
    assert get(f"{it.served.admin}/readyz")[0] == 200


async def test_a_second_upgrade_at_once_is_refused(house: House_) -> None:
    it = house()
    it.upgrade()
    await until(lambda: it.other is not None, "the new process starts")
    it.upgrade()
    await until(lambda: it.logged("an upgrade is under way") or it.is_renewed, "it is refused")
    await until(lambda: it.is_renewed, "the first one goes on")
    assert await it.works()


@SINGLE_AND_SEVERAL
async def test_an_end_during_an_upgrade_ends_both(house: House_, workers: str) -> None:
    it = house("--workers", workers)
    it.upgrade()
    await until(lambda: it.other is not None, "the new process starts")
    new = it.other
    it.served.process.send_signal(signal.SIGTERM)
    await until(lambda: it.served.process.poll() is not None, "the old process is gone")
    await until(lambda: not it.mains, "both are gone") if new is not None else None


@SINGLE_AND_SEVERAL
async def test_the_new_process_serves_when_the_old_one_is_killed_during_an_upgrade(house: House_, workers: str) -> None:
    it = house("--workers", workers)
    it.upgrade()
    await until(lambda: it.other is not None, "the new process starts")
    new = it.other
    assert new is not None
    await until(lambda: len(new.net_connections(kind="tcp")) > 0, "it has the sockets")
    children = psutil.Process(it.served.process.pid).children(recursive=True)
    left = [each for each in children if each.pid != new.pid and new not in each.parents()]
    it.served.process.kill()
    await until(lambda: it.served.process.poll() is not None, "the old process is gone")
    # Its workers drain: one that still accepts asks the client to connect again, as it may.
    await until(lambda: not any(each.is_running() and each.status() != "zombie" for each in left), "its workers, too")
    assert await it.works(), "what connects meanwhile waits in the backlog"
    assert [each.pid for each in it.mains] == [new.pid]


async def test_workers_of_a_killed_process_keep_their_part_of_the_budget(house: House_) -> None:
    it = house("--workers", "2")
    conn = await psycopg.AsyncConnection.connect(it.dsn)
    await conn.execute("SELECT 1")  # it is in a transaction, for which its worker stays
    it.upgrade()
    await until(lambda: it.logged("has taken over"), "the new process serves")
    it.served.process.kill()
    await until(lambda: it.served.process.poll() is not None, "the old process is gone")
    limit = 'tenantproxy_server_connections_limit{server="primary"}'
    for _ in range(3):
        assert f"{limit} 20.0" in get(f"{it.served.admin}/metrics")[2], "the other half is still used"
    await conn.execute("SELECT 1")
    await conn.commit()
    await until(lambda: f"{limit} 40.0" in get(f"{it.served.admin}/metrics")[2], "it has all")
    await conn.close()


async def test_a_new_process_takes_over_though_nothing_reads_its_output(house: House_) -> None:
    it = house()
    assert it.served.process.stdout is not None
    it.served.process.stdout.close()
    it.served.process.stdout = None
    it.upgrade()
    await until(lambda: it.is_renewed, "the old process is gone")
    assert await it.works()
    assert it.logged("could not be told")


async def test_the_new_process_killed_before_it_is_ready_leaves_the_old_one(house: House_) -> None:
    it = house()
    it.upgrade()
    await until(lambda: it.other is not None, "the new process starts")
    new = it.other
    assert new is not None
    new.kill()
    await until(lambda: it.logged("upgrade failed"), "it is told")
    assert await it.works()


async def test_systemd_hands_over_sockets_and_hears_of_each_step(demo_world: World, tmp_path: Path) -> None:
    address = tmp_path / "notify"
    config, log = tmp_path / "activated.toml", tmp_path / "sidecar.log"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told, socket.create_server(("127.0.0.1", 0)) as given:
        told.bind(str(address))
        told.settimeout(PATIENCE)
        port = given.getsockname()[1]
        text = demo_world.config.read_text().replace('_file = "', f'_file = "{demo_world.config.parent}/')
        config.write_text(text.replace('[pg]\nlisten = "127.0.0.1:0"', f'[pg]\nlisten = "127.0.0.1:{port}"'))
        program = (
            "import os, sys; os.dup2(int(sys.argv[1]), 3); os.environ['LISTEN_PID'] = str(os.getpid());"
            " os.execv(sys.executable, [sys.executable, *sys.argv[2:]])"
        )
        command = [sys.executable, "-c", program, str(given.fileno()), "-m", "tenantproxy", "serve", "-c", str(config)]
        variables = {
            "NOTIFY_SOCKET": str(address),
            "LISTEN_FDS": "1",
            "LISTEN_FDNAMES": "pg",
            "WATCHDOG_USEC": "200000",
            "TENANTPROXY_HTTP__DRAIN_DELAY": "0",
        }
        with log.open("w") as errors:
            process = subprocess.Popen(  # noqa: ASYNC220
                command, env={**os.environ, **variables}, pass_fds=[given.fileno()], stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=errors, text=True,
            )  # fmt: skip
        try:
            assert _hears(told, "READY=1")["MAINPID"] == str(process.pid)
            assert process.stdout is not None
            where: dict[str, Any] = json.loads(process.stdout.readline())
            assert where["pg"] == f"127.0.0.1:{port}"
            dsn = f"postgresql://demo:{demo_world.pg_password}@127.0.0.1:{port}/wayne?sslmode=disable"
            async with await psycopg.AsyncConnection.connect(dsn) as conn:
                await conn.execute("SELECT 1")
            _hears(told, "WATCHDOG=1")
            process.send_signal(signal.SIGHUP)
            assert "MONOTONIC_USEC" in _hears(told, "RELOADING=1")
            _hears(told, "READY=1")
            process.terminate()
            _hears(told, "STOPPING=1")
            assert process.wait(PATIENCE) == 0
        finally:
            process.kill()
            process.communicate()


def _hears(sock: socket.socket, state: str) -> dict[str, str]:
    """The next message with this state."""
    while True:
        lines = sock.recv(4096).decode().splitlines()
        if state in lines:
            return dict(line.partition("=")[::2] for line in lines)
