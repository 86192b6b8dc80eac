"""Do several workers serve as one? As processes: who is asked, who ends, what is left when one of them is killed."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import asyncpg
import psutil  # type: ignore[import-untyped]
import pytest

from tenantproxy.demo.world import World
from tests.e2e.conftest import get
from tests.support.sidecar import Served
from tests.support.traffic import traffic
from tests.support.waiting import PATIENCE, until

Serve = Callable[..., Served]
ADMIN_TOKEN = "an admin token for tests"


@pytest.fixture
def config(demo_world: World, tmp_path: Path) -> Path:
    """The demo's, with a console and an admin token."""
    text = demo_world.config.read_text()
    text = text.replace('_file = "', f'_file = "{demo_world.config.parent}/')
    text = text.replace("[admin]\n", f'[admin]\ntoken = "{ADMIN_TOKEN}"\n')
    text += '\n[pg.users.ops]\npassword = "ops"\nconsole = true\n'
    path = tmp_path / "workers.toml"
    path.write_text(text)
    return path


def dsn(served: Served, world: World, tenant: str = "wayne") -> str:
    return f"postgresql://demo:{world.pg_password}@{served.pg}/{tenant}?sslmode=disable"


async def console(served: Served, sql: str) -> list[dict[str, Any]]:
    conn = await asyncpg.connect(f"postgresql://ops:ops@{served.pg}/tenantproxy?sslmode=disable", timeout=PATIENCE)
    try:
        return [dict(row) for row in await conn.fetch(sql)]
    finally:
        await conn.close()


def workers(served: Served) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        return list(psutil.Process(served.process.pid).children())
    return []


@asynccontextmanager
async def closing(conn: asyncpg.Connection[Any]) -> Any:
    try:
        yield
    finally:
        await conn.close()


@asynccontextmanager
async def clients_of_each_worker(served: Served, world: World, most: int = 60) -> Any:
    """Connections to a tenant until each worker has one; by worker, from SHOW CLIENTS."""
    async with AsyncExitStack() as stack:
        conns: list[asyncpg.Connection[Any]] = []
        while len(conns) < most:
            conn = await asyncpg.connect(dsn(served, world, "acme"), timeout=PATIENCE)
            stack.push_async_callback(conn.close, timeout=5)
            conns.append(conn)
            rows = await console(served, "SHOW CLIENTS")
            if len({row["worker"] for row in rows if row["database"] == "acme"}) == 2:
                break
        yield conns


async def test_the_console_and_the_metrics_speak_for_all_workers(config: Path, demo_world: World, serve: Serve) -> None:
    served, watch = serve(config, "--workers", "2"), await demo_world.connect()
    async with closing(watch), clients_of_each_worker(served, demo_world) as conns:
        assert get(f"{served.admin}/readyz")[0] == 200
        shown = await console(served, "SHOW WORKERS")
        assert [row["state"] for row in shown] == ["ready", "ready"]
        assert {row["pid"] for row in shown} == {process.pid for process in workers(served)}
        clients = [row for row in await console(served, "SHOW CLIENTS") if row["database"] == "acme"]
        assert len(clients) == len(conns)
        headers = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
        metrics = get(f"{served.admin}/metrics", **headers)[2]
        assert f'tenantproxy_client_connections{{protocol="pg"}} {len(conns)}.0' in metrics
        assert 'tenantproxy_server_connections_limit{server="primary"} 40.0' in metrics
        # A cancel request comes to either worker, and has to find the one that has the client.
        for conn in [conn for conn in conns for _ in range(3)]:
            running = asyncio.ensure_future(conn.execute("SELECT pg_sleep(600)", timeout=PATIENCE))
            await until(lambda: is_running(watch), "the statement runs")
            await conn._cancel(asyncio.get_running_loop().create_future())  # as at a timeout: on a new connection
            with pytest.raises(asyncpg.QueryCanceledError):
                await running
        await console(served, "KILL acme")
        for conn in conns:
            with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, ConnectionError)):
                await conn.fetch("SELECT 1")
        assert {row["paused"] for row in await console(served, "SHOW TENANTS") if row["tenant"] == "acme"} == {1}
        await console(served, "RESUME acme")


async def is_running(watch: asyncpg.Connection[Any]) -> bool:
    return bool(await watch.fetchval("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"))


async def test_a_worker_that_is_killed_is_started_again_while_the_other_serves(
    config: Path, demo_world: World, serve: Serve, tmp_path: Path
) -> None:
    served = serve(config, "--workers", "2")
    victim = workers(served)[0]
    async with traffic(dsn(served, demo_world), served.public, port_clients=2, http_clients=0) as seen:
        await until(lambda: seen.transactions > 20, "clients work")
        headers = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
        victim.kill()
        await until(lambda: len(workers(served)) == 2 and victim not in workers(served), "there is another worker")
        now = seen.transactions
        await until(lambda: seen.transactions > now + 20, "clients work")
        await until(lambda: "worker_crashes_total 1.0" in get(f"{served.admin}/metrics", **headers)[2], "it is told")
    assert not any("Refused" in each for each in seen.failed), seen.failed
    before, former = queries(get(f"{served.admin}/metrics", **headers)[2]), set(workers(served))
    for each in former:
        each.kill()
    ready = 'tenantproxy_workers{state="ready"} 2.0'
    await until(lambda: len(workers(served)) == 2 and not (former & set(workers(served))), "there are others")
    await until(lambda: ready in get(f"{served.admin}/metrics", **headers)[2], "they are ready")
    assert queries(get(f"{served.admin}/metrics", **headers)[2]) >= before, "what was counted stays counted"


def queries(text: str) -> float:
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith("tenantproxy_pg_queries_total"))


async def test_no_process_is_left_when_the_supervisor_is_killed(config: Path, demo_world: World, serve: Serve) -> None:
    served = serve(config, "--workers", "2")
    left = workers(served)
    conn = await asyncpg.connect(dsn(served, demo_world), timeout=PATIENCE)
    work = conn.transaction()
    await work.start()
    served.process.kill()
    assert await conn.fetchval("SELECT 1") == 1, "what runs may end"
    await work.commit()
    await until(lambda: not any(each.is_running() and each.status() != "zombie" for each in left), "they are gone")
    conn.terminate()


async def test_no_process_is_left_when_the_supervisor_is_killed_during_a_restart(
    config: Path, demo_world: World, serve: Serve
) -> None:
    served = serve(config, "--workers", "2")
    conn = await asyncpg.connect(dsn(served, demo_world), timeout=PATIENCE)
    await conn.execute("BEGIN")  # its worker is yet to drain, however far the others are
    former = set(workers(served))
    served.process.send_signal(signal.SIGUSR1)
    await until(lambda: len(workers(served)) > 2, "there are new ones too")
    left = {*former, *workers(served)}
    served.process.kill()
    assert await conn.fetchval("SELECT 1") == 1, "what runs may end"
    await conn.execute("COMMIT")
    await until(lambda: not any(each.is_running() and each.status() != "zombie" for each in left), "they are gone")
    conn.terminate()


async def test_workers_are_started_again_and_each_client_is_sent_away_once(
    config: Path, demo_world: World, serve: Serve
) -> None:
    served = serve(config, "--workers", "2")
    former = {process.pid for process in workers(served)}
    where = dsn(served, demo_world)
    async with (
        traffic(where, served.public, port_clients=6, http_clients=4, websockets=2) as seen,
        traffic(where, served.public, port_clients=4, http_clients=0, websockets=2, pause=0.35) as pausing,
    ):
        await until(lambda: seen.transactions > 50 and seen.requests > 50 and pausing.transactions > 4, "clients work")
        served.process.send_signal(signal.SIGUSR1)
        await until(lambda: is_renewed(served, former), "all workers are others")
        now = seen.requests
        await until(lambda: seen.requests > now + 50, "clients work")
    assert seen.failed == pausing.failed == []
    for each in (seen, pausing):
        for kind in ("port", "WebSocket"):
            assert any(client.startswith(kind) for client in each.ended), "clients were asked to connect again"
        assert set(each.ended.values()) == {1}, "each once at most: where it came to, nothing was started again"


async def test_one_worker_is_started_again_by_name_and_no_request_fails(
    config: Path, demo_world: World, serve: Serve, command: Any, tmp_path: Path
) -> None:
    served = serve(config, "--workers", "2")
    token = tmp_path / "token"
    token.write_text(ADMIN_TOKEN)
    at = ("--url", served.admin, "--token-file", str(token))

    async def asked(*words: str) -> Any:
        ended = await asyncio.to_thread(command, *words, *at)
        assert ended.returncode == 0, ended.stderr
        return json.loads(ended.stdout) if ended.stdout else None

    before = {row["worker"]: row["pid"] for row in await asked("fleet", "workers", "--json")}
    assert set(before.values()) == {process.pid for process in workers(served)}
    async with traffic(dsn(served, demo_world), served.public, port_clients=4, http_clients=3, websockets=2) as seen:
        await until(lambda: seen.transactions > 50 and seen.requests > 50, "clients work")
        await asked("restart", "--worker", "1")
        now = {process.pid for process in workers(served)}
        assert len(now) == 2
        assert now & set(before.values()) == {before[2]}, "the other one is as it was"
        requests = seen.requests
        await until(lambda: seen.requests > requests + 50, "clients work")
    assert seen.failed == []
    assert set(seen.ended.values()) <= {1}, "no client was sent away twice"
    ended = await asyncio.to_thread(command, "restart", "--worker", "1", *at)
    assert (ended.returncode, "no worker 1" in ended.stderr) == (1, True), ended.stderr
    log = await asyncio.to_thread((tmp_path / "sidecar.log").read_text)
    assert f'"pid": {before[1]}' in log, "which process it was is told"


def is_renewed(served: Served, former: set[int]) -> bool:
    now = {process.pid for process in workers(served)}
    return len(now) == 2 and not now & former


async def test_more_workers_than_the_budget_has_room_for_are_refused(config: Path, command: Any) -> None:
    ended = command("serve", "--config", str(config), "--workers", "14")
    assert ended.returncode == 1
    assert "servers.primary.max_connections: is 40, and each of 14 workers needs 3" in ended.stderr
