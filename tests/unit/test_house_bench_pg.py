"""Can the benchmark of the PostgreSQL port be believed? What it counts, what it compares, and what it says aloud."""

from __future__ import annotations

import os
import sys
import time
import tomllib
from configparser import ConfigParser
from pathlib import Path

import pytest

from benchmarks.pg_noisy import Waits
from benchmarks.pg_noisy import verdicts as noisy_verdicts
from benchmarks.pg_pgbench import Bench, Figures, read_report
from benchmarks.pg_process import cpu_seconds, free_port, memory_bytes, running
from benchmarks.pg_rounds import AGAIN, Series, Subject, take_turns
from benchmarks.pg_select import DATABASE_TENANT, PLAIN_POLICY, PLAIN_ROWS, ROW_TENANT, verdicts
from benchmarks.pg_targets import DIRECT, PGBOUNCER, SHARED_SIZE, Target, pgbouncer_ini, sidecar_toml
from benchmarks.pg_turns import together
from benchmarks.pg_world import DATABASE, ROW, SCHEMA, PgWorld
from benchmarks.table import loud, trust
from tenantproxy.config import Settings
from tenantproxy.embedded import EmbeddedPostgres
from tenantproxy.lifecycle.verifier import scram_verifier

REPORT = """pgbench (18.4)
transaction type: <builtin: select only>
number of clients: 16
number of transactions actually processed: 700
number of failed transactions: 0 (0.000%)
latency average = 1.500 ms
initial connection time = 40.000 ms
tps = 233.333333 (without initial connection time)
"""
PROGRESS = "progress: 1.0 s, 100.0 tps, lat 1.500 ms stddev 0.1, 0 failed"


@pytest.fixture
def world() -> PgWorld:
    return PgWorld(server=EmbeddedPostgres(dsn="postgresql://postgres@127.0.0.1:5432"), scale=2, pool=20)


def target(name: str = "somewhere", *, pid: int | None = None) -> Target:
    return Target(name=name, port=5432, user="bench", password="secret", pid=pid)


def program(folder: Path, *, report: str = REPORT, status: int = 0) -> Path:
    """Says what pgbench says."""
    (folder / "report").write_text(report)
    path = folder / "pgbench"
    path.write_text(f"#!/bin/sh\necho '{PROGRESS}' >&2\ncat '{folder}/report'\nexit {status}\n")
    path.chmod(0o755)
    return path


def figures(per_second: float, cpu_us: float) -> list[Figures]:
    return [Figures(per_second=per_second, cpu_us=cpu_us, latency_ms=1.0)]


def test_programs_that_ran_together_have_the_cpu_of_the_proxy_once() -> None:
    alone = Figures(per_second=100.0, cpu_us=40.0, latency_ms=2.0)  # of 4 ms a second
    found = together([alone, Figures(per_second=300.0, cpu_us=40.0 / 3, latency_ms=6.0)])
    assert (found.per_second, found.cpu_us, found.latency_ms) == pytest.approx((400.0, 10.0, 5.0))


def test_a_report_of_pgbench_is_read() -> None:
    report = read_report(REPORT)
    assert (report.transactions, report.failed, report.per_second, report.latency_ms) == (700, 0, 233.333333, 1.5)
    assert round(report.seconds, 3) == 3.0


@pytest.mark.parametrize("text", ["", "pgbench: error: connection failed", REPORT.replace("700", "0")])
def test_what_is_no_report_gives_no_figures(text: str) -> None:
    with pytest.raises(ValueError, match="no report"):
        read_report(text)


async def test_the_first_second_is_not_counted(tmp_path: Path) -> None:
    bench = Bench(program=program(tmp_path), arguments=[], seconds=2)
    found = await bench.run(target(pid=os.getpid()), "db")
    assert round(found.per_second) == 300
    assert found.cpu_us >= 0
    assert (await bench.run(target(), "db")).cpu_us == 0


async def test_a_failed_transaction_is_no_result(tmp_path: Path) -> None:
    report = REPORT.replace("transactions: 0", "transactions: 3")
    with pytest.raises(RuntimeError, match="3 transactions failed at somewhere"):
        await Bench(program=program(tmp_path, report=report), arguments=[], seconds=2).run(target(), "db")
    with pytest.raises(RuntimeError, match="pgbench failed at somewhere"):
        await Bench(program=program(tmp_path, status=2), arguments=[], seconds=2).run(target(), "db")


async def test_the_password_is_not_on_the_command_line(tmp_path: Path) -> None:
    path = program(tmp_path)
    path.write_text(path.read_text().replace("#!/bin/sh\n", f'#!/bin/sh\necho "$@ $PGPASSWORD" >"{tmp_path}/said"\n'))
    await Bench(program=path, arguments=[], seconds=2).run(target(), "db")
    arguments, _, password = (tmp_path / "said").read_text().strip().rpartition(" ")
    assert password == "secret"
    assert "secret" not in arguments
    assert "secret" not in repr(target())


async def test_all_take_turns_forwards_and_backwards(tmp_path: Path) -> None:
    order: list[str] = []

    class Noted(Bench):
        async def run(self, target: Target, database: str) -> Figures:
            order.append(target.name)
            return figures(1.0, 1.0)[0]

    bench = Noted(program=tmp_path, arguments=[], seconds=1)
    subjects = [Subject(name=name, target=target(name), database="db", bench=bench) for name in "abc"]
    series = await take_turns(subjects, 3)
    assert "".join(order) == "abccbaabc"
    assert {name: len(found) for name, found in series.items()} == {"a": 3, "b": 3, "c": 3}


def test_the_cpu_of_a_process_is_its_own() -> None:
    before = time.process_time()
    seen = cpu_seconds(os.getpid())
    assert before - 0.011 <= seen <= time.process_time() + 0.011
    assert memory_bytes(os.getpid()) > 2**20


SERVER = "import socket, sys, time; s = socket.create_server(('127.0.0.1', int(sys.argv[1]))); time.sleep(600)"


async def test_a_process_is_there_when_its_port_answers_and_gone_after_the_block(tmp_path: Path) -> None:
    port = free_port()
    async with running([sys.executable, "-c", SERVER, str(port)], port=port, log=tmp_path / "log") as pid:
        os.kill(pid, 0)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_a_process_that_does_not_come_up_is_told_in_its_own_words(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "raise SystemExit('no such key')"]
    with pytest.raises(RuntimeError, match="proxy ended with 1; it wrote: no such key"):
        async with running(command, port=free_port(), log=tmp_path / "proxy.log"):
            pass


@pytest.mark.parametrize(("version", "prepares"), [((1, 18, 0), False), ((1, 21), True), ((1, 25, 1), True)])
def test_pgbouncer_pools_transactions_and_prepares_where_it_can(
    world: PgWorld, version: tuple[int, ...], prepares: bool
) -> None:
    parser = ConfigParser(interpolation=None)
    parser.read_string(pgbouncer_ini(world, port=6432, users=Path("users.txt"), version=version))
    assert parser["pgbouncer"]["pool_mode"] == "transaction"
    assert parser["pgbouncer"]["auth_type"] == "scram-sha-256"
    assert ("max_prepared_statements" in parser["pgbouncer"]) is prepares
    assert f"pool_size={world.pool}" in parser["databases"][DATABASE].split()


def test_our_configuration_is_a_good_one_with_the_same_number_of_server_connections(world: PgWorld) -> None:
    text = sidecar_toml(world, port=6432, verifier=scram_verifier("secret"))
    settings = Settings.from_mapping(tomllib.loads(text))
    assert {settings.tenants[name].max_size for name in (DATABASE, SCHEMA, ROW)} == {world.pool}
    assert settings.pools.shared_size == SHARED_SIZE
    assert settings.pg.listen == "127.0.0.1:6432"
    ini = ConfigParser(interpolation=None)
    ini.read_string(pgbouncer_ini(world, port=6433, users=Path("users.txt"), version=(1, 18)))
    near = [name for name in ini["databases"] if name.startswith("near_")]
    total = sum(int(ini["databases"][name].rpartition("pool_size=")[2]) for name in near)
    assert total == settings.servers["near"].max_connections
    assert {settings.tenants[name].server for name in near} == {"near"}


def test_a_proxy_that_costs_too_much_misses() -> None:
    series: Series = {
        PGBOUNCER: figures(100, 10),
        AGAIN: figures(100, 10),
        DATABASE_TENANT: figures(101, 10.1),
        ROW_TENANT: figures(86, 13),
        PLAIN_ROWS: figures(102, 13),
        PLAIN_POLICY: figures(90, 13),
    }
    told = {one.target: one.word for one in trust(verdicts("simple", series, peer_can=True))}
    assert told["simple: CPU of a transaction, database tenant against PgBouncer"] == "MISSED"
    assert told["simple: throughput, database tenant against PgBouncer"] == "met"
    assert told["simple: throughput, signed row tenant against a database tenant"] == "met"
    assert told["simple: throughput, signed row tenant against that table without a policy"] == "MISSED"
    assert told["simple: throughput, signed row tenant against a policy on a plain setting"] == "met"
    series[AGAIN] = figures(150, 10)
    assert "A CONTROL IS BROKEN" in loud(trust(verdicts("simple", series, peer_can=True)))


def test_without_a_pgbouncer_its_targets_are_not_met() -> None:
    series: Series = {
        DIRECT: figures(200, 0),
        AGAIN: figures(200, 0),
        DATABASE_TENANT: figures(100, 10),
        ROW_TENANT: figures(90, 12),
        PLAIN_ROWS: figures(90, 12),
        PLAIN_POLICY: figures(90, 12),
    }
    found = trust(verdicts("simple", series, peer_can=True))
    assert [one.word for one in found] == ["holds", "MISSED", "MISSED", "met", "met", "met"]
    assert "no pgbouncer on PATH" in loud(found)
    assert [one.word for one in trust(verdicts("prepared", series, peer_can=False))] == ["holds", "met", "met", "met"]


def test_a_neighbour_that_is_heard_misses() -> None:
    quiet, heard, slow = (Waits(alone=[alone], during=[during]) for alone, during in ((2, 8.0), (2, 8.1), (20, 8)))
    assert [one.word for one in trust(noisy_verdicts("rows", quiet, quiet))] == ["met", "met", "holds"]
    assert [one.word for one in trust(noisy_verdicts("rows", heard, quiet))] == ["MISSED", "met", "holds"]
    assert [one.word for one in trust(noisy_verdicts("rows", slow, quiet))] == ["met", "MISSED", "holds"]
    assert [one.word for one in trust(noisy_verdicts("rows", quiet, None))] == ["met", "MISSED", "holds"]


def test_a_p99_that_varies_by_itself_proves_nothing() -> None:
    unsteady = Waits(alone=[1.0, 1.0, 4.0, 9.0], during=[2.0])
    words = [one.word for one in trust(noisy_verdicts("rows", unsteady, unsteady))]
    assert words == ["unproven", "unproven", "BROKEN"]
