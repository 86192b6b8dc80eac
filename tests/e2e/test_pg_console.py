"""Do psql and PgBouncer's exporter work against the console of a running sidecar?"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncpg
import pytest
from prometheus_client.parser import text_string_to_metric_families as parse_text

from tenantproxy.demo.world import PG_USER, World
from tenantproxy.sidecar.pg.console.tables import TABLES
from tests.support.sidecar import Served
from tests.support.waiting import PATIENCE, wait_until

PSQL = shutil.which("psql")
EXPORTER = shutil.which("prometheus-pgbouncer-exporter")
PASSWORD = "for-the-console"

Serve = Callable[..., Served]

with_psql = pytest.mark.skipif(PSQL is None, reason="install psql: apt-get install postgresql-client")
with_exporter = pytest.mark.skipif(EXPORTER is None, reason="apt-get install prometheus-pgbouncer-exporter")


@pytest.fixture
def port(demo_world: World, tmp_path: Path, serve: Serve) -> int:
    """Where a sidecar serves the demo's world to an operator, an onlooker and the demo's own user."""
    path = demo_world.config.with_name(f"{tmp_path.name}-console.toml")
    users = "".join(
        f'[pg.users.{name}]\npassword = "{PASSWORD}"\nconsole = {console}\n'
        for name, console in (("ops", "true"), ("watcher", '"read"'))
    )
    path.write_text(f"{demo_world.config.read_text()}\n{users}")
    return int(serve(path).pg.rpartition(":")[2])


def psql(port: int, user: str, *commands: str, database: str = "tenantproxy") -> subprocess.CompletedProcess[str]:
    assert PSQL is not None
    given = [part for command in commands for part in ("-c", command)]
    return subprocess.run(
        [PSQL, "-X", "-A", "-t", "-h", "127.0.0.1", "-p", str(port), "-U", user, "-d", database, *given],
        env={"PATH": os.environ["PATH"], "PGPASSWORD": PASSWORD, "PGCONNECT_TIMEOUT": "20"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


@with_psql
def test_psql_shows_every_table_to_an_operator_and_to_an_onlooker(port: int) -> None:
    for user in ("ops", "watcher"):
        shown = psql(port, user, *(f"SHOW {name}" for name in TABLES))
        assert shown.returncode == 0, shown.stderr
        assert shown.stderr == "", "not even a warning about versions"
        assert "tenantproxy|" in shown.stdout


@with_psql
def test_an_onlooker_cannot_pause_and_an_operator_can(port: int, demo_world: World) -> None:
    tenant = demo_world.tenants[0].id
    refused = psql(port, "watcher", f"PAUSE {tenant}")
    assert "admin access needed" in refused.stderr
    paused = psql(port, "ops", f"PAUSE {tenant}", "SHOW TENANTS", f"RESUME {tenant}", "SHOW TENANTS")
    assert paused.returncode == 0, paused.stderr
    said = paused.stdout.splitlines()
    assert said[0] == "PAUSE"
    assert [line.split("|")[6] for line in said if line.startswith(f"{tenant}|")][:1] == ["1"]
    assert "RESUME" in said


@with_psql
def test_a_new_client_of_a_paused_tenant_hears_at_once_who_paused_it(port: int, demo_world: World) -> None:
    tenant = demo_world.tenants[0].id
    assert psql(port, "ops", f"PAUSE {tenant}").returncode == 0
    try:
        refused = subprocess.run(
            [str(PSQL), "-X", "-h", "127.0.0.1", "-p", str(port), "-U", PG_USER, "-d", tenant, "-c", "SELECT 1"],
            env={"PATH": os.environ["PATH"], "PGPASSWORD": demo_world.pg_password}, capture_output=True, text=True,
            timeout=PATIENCE, check=False,
        )  # fmt: skip
        assert "the tenant is paused by an operator" in refused.stderr
        assert "took too long" not in refused.stderr
    finally:
        psql(port, "ops", f"RESUME {tenant}")


@with_psql
def test_no_other_user_gets_a_console(port: int, demo_world: World) -> None:
    environment = {"PATH": os.environ["PATH"], "PGPASSWORD": demo_world.pg_password}
    for database in ("tenantproxy", "pgbouncer"):
        refused = subprocess.run(
            [str(PSQL), "-X", "-h", "127.0.0.1", "-p", str(port), "-U", PG_USER, "-d", database, "-c", "SHOW POOLS"],
            env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False,
        )  # fmt: skip
        assert refused.returncode == 2
        assert "POOLS" not in refused.stdout


async def test_what_clients_do_is_counted(port: int, demo_world: World) -> None:
    tenant = demo_world.tenants[0].id
    one = await asyncpg.connect(
        host="127.0.0.1", port=port, user=PG_USER, password=demo_world.pg_password, database=tenant, ssl=False
    )
    console = await asyncpg.connect(
        host="127.0.0.1", port=port, user="ops", password=PASSWORD, database="tenantproxy", ssl=False
    )
    try:
        before = {row["database"]: row for row in await console.fetch("SHOW STATS")}
        for _ in range(10):
            await one.fetch("SELECT 1")
        after = {row["database"]: row for row in await console.fetch("SHOW STATS")}
        was = before[tenant]["total_query_count"] if tenant in before else 0
        assert after[tenant]["total_query_count"] >= was + 10
        assert after[tenant]["total_sent"] > 0
        clients = {row["database"] for row in await console.fetch("SHOW CLIENTS")}
        assert {tenant, "tenantproxy"} <= clients
    finally:
        await one.close(timeout=PATIENCE)
        await console.close(timeout=PATIENCE)


@contextlib.contextmanager
def exporter(port: int) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        own = free.getsockname()[1]
    command = [
        str(EXPORTER), "--host", "127.0.0.1", "--port", str(own), "--pgbouncer-host", "127.0.0.1", "--pgbouncer-port",
        str(port), "--pgbouncer-user", "ops",
    ]  # fmt: skip
    environment = {"PATH": os.environ["PATH"], "PGPASSWORD": PASSWORD, "PGCONNECT_TIMEOUT": "20"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        url = f"http://127.0.0.1:{own}/metrics"
        wait_until(lambda: process.poll() is not None or answers(url), "the exporter answers")
        assert process.poll() is None
        yield url
    finally:
        process.terminate()
        process.wait(timeout=PATIENCE)


def scraped(port: int) -> str:
    with exporter(port) as url, urllib.request.urlopen(url, timeout=PATIENCE) as answer:
        text: str = answer.read().decode()
    return text


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE):
            return True
    except OSError:
        return False


@with_exporter
async def test_debians_exporter_scrapes_the_console(port: int, demo_world: World) -> None:
    tenant = demo_world.tenants[0].id
    one = await asyncpg.connect(
        host="127.0.0.1", port=port, user=PG_USER, password=demo_world.pg_password, database=tenant, ssl=False
    )
    try:
        await one.fetch("SELECT 1")
        families = {family.name: family for family in parse_text(await asyncio.to_thread(scraped, port))}
    finally:
        await one.close(timeout=PATIENCE)
    for name in ("requests_total", "received_bytes_total", "active_clients", "pool_size", "used_clients", "databases"):
        assert families[f"pgbouncer_{name}"].samples, name
    for family in families.values():
        labels = [(sample.name, *sorted(sample.labels.items())) for sample in family.samples]
        assert len(labels) == len(set(labels)), family.name
    requests = {sample.labels["database"]: sample.value for sample in families["pgbouncer_requests_total"].samples}
    assert requests[tenant] >= 1
