"""Do workers share by the fleet, also while one takes the place of another? As processes."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import psutil  # type: ignore[import-untyped]

from tenantproxy.demo.world import World
from tests.e2e.conftest import Command
from tests.e2e.test_upgrade import House, gone
from tests.support.sidecar import Served
from tests.support.traffic import traffic
from tests.support.waiting import PATIENCE, until

TOKEN = "an admin token for tests"
CAP = "SELECT min(cap) FROM tenantproxy.fleet_share"
CONNECTIONS = (
    "SELECT count(*) FROM pg_stat_activity a JOIN pg_roles r ON r.oid = a.usesysid"
    " WHERE NOT r.rolsuper AND backend_type = 'client backend'"
)
PROCESSES = "SELECT array_agg(DISTINCT process) FROM tenantproxy.fleet_share"


async def test_workers_are_replaced_in_a_fleet_and_neither_its_cap_nor_a_client_suffers(
    own_world: World, tmp_path: Path, command: Command, serve: Callable[..., Served]
) -> None:
    config = own_world.config.with_name("fleet.toml")
    config.write_text(own_world.config.read_text())
    installed = await asyncio.to_thread(command, "install", "--config", str(config))
    assert installed.returncode == 0, installed.stderr
    watch = await own_world.connect("demo_main")
    served = serve(config, "--workers", "2")
    dsn = f"postgresql://demo:{own_world.pg_password}@{served.pg}/wayne?sslmode=disable"
    caps: set[int] = set()

    def workers() -> set[int]:
        return {process.pid for process in psutil.Process(served.process.pid).children()}

    async def are_others(former: set[int]) -> bool:
        caps.add(await watch.fetchval(CAP))
        return len(workers()) == 2 and not workers() & former

    try:
        async with traffic(dsn, served.public, port_clients=6, http_clients=0) as seen:
            await until(lambda: seen.transactions > 50, "clients work")
            former = workers()
            served.process.send_signal(signal.SIGUSR1)
            await until(lambda: are_others(former), "all workers are others")
            now = seen.transactions
            await until(lambda: seen.transactions > now + 50, "clients work")
        assert seen.failed == []
        assert caps - {None} == {37}, "of 40, one for a census and two for processes that start"
    finally:
        await watch.close()
    served.process.terminate()
    await asyncio.to_thread(served.process.wait, PATIENCE)


async def test_what_a_killed_worker_had_is_free_long_before_ten_ttl(
    own_world: World, command: Command, serve: Callable[..., Served]
) -> None:
    config = own_world.config.with_name("fleet.toml")
    config.write_text(own_world.config.read_text() + "\n[fleet]\nttl = 3.0\ninterval = 0.3\n")
    installed = await asyncio.to_thread(command, "install", "--config", str(config))
    assert installed.returncode == 0, installed.stderr
    watch = await own_world.connect("demo_main")
    served = serve(config, "--workers", "2")
    try:
        former = set(await watch.fetchval(PROCESSES))
        clock = "SELECT clock_ms FROM tenantproxy.fleet"
        before = await watch.fetchval(clock)
        psutil.Process(served.process.pid).children()[0].kill()
        left = "SELECT count(*) FROM tenantproxy.fleet_share WHERE process = ANY ($1) HAVING count(*) = 1"
        await until(lambda: watch.fetchval(left, former), "its share is forgotten")
        assert await watch.fetchval(clock) - before < 25_000, "no ten ttl of 3 s"
    finally:
        await watch.close()


async def test_an_upgrade_in_a_fleet_exceeds_no_budget_fails_no_client_and_leaves_no_share(
    own_world: World, tmp_path: Path, command: Command, serve: Callable[..., Served]
) -> None:
    config = own_world.config.with_name("fleet.toml")
    config.write_text(own_world.config.read_text())
    installed = await asyncio.to_thread(command, "install", "--config", str(config))
    assert installed.returncode == 0, installed.stderr
    watch = await own_world.connect("demo_main")
    it = House(serve(config, "--workers", "2"), config, tmp_path / "sidecar.log", own_world)
    most = 0

    async def is_renewed() -> bool:
        nonlocal most
        most = max(most, await watch.fetchval(CONNECTIONS))
        return it.is_renewed

    try:
        former = set(await watch.fetchval(PROCESSES))
        with gone(it):
            async with traffic(it.dsn, it.served.public, port_clients=6, http_clients=2) as seen:
                await until(lambda: seen.transactions > 50 and seen.requests > 50, "clients work")
                it.upgrade()
                await until(is_renewed, "the old process is gone")
                now = seen.transactions
                await until(lambda: seen.transactions > now + 50, "clients work")
            assert seen.failed == []
            assert most <= 40
            assert not former & set(await watch.fetchval(PROCESSES)), "those that left said so"
    finally:
        await watch.close()


async def named_by(watch: asyncpg.Connection, change: str, count: int) -> list[dict[str, Any]]:
    """What the audit log says that a change was done to; nothing before it is so much."""
    found = await watch.fetch(
        "SELECT jsonb_array_elements(detail->'acted_on')::text FROM tenantproxy.audit_log"
        " WHERE kind = 'admin_acted_on' AND tenant = 'wayne' AND detail->>'change' = $1",
        change,
    )
    return [json.loads(row[0]) for row in found] if len(found) == count else []


async def test_the_page_and_the_audit_log_speak_for_all_workers_and_what_was_done_to_them(
    own_world: World, command: Command, serve: Callable[..., Served]
) -> None:
    config = own_world.config.with_name("fleet.toml")
    more = '\n[audit]\ntable = true\n[pg.users.ops]\npassword = "ops"\nconsole = true\n'
    text = own_world.config.read_text().replace("[admin]\n", f'[admin]\ntoken = "{TOKEN}"\n')
    config.write_text(text + more)
    installed = await asyncio.to_thread(command, "install", "--config", str(config))
    assert installed.returncode == 0, installed.stderr
    watch = await own_world.connect("demo_main")
    served = serve(config, "--workers", "2")
    seen: dict[str, Any] = {"events": [], "last": {}}
    async with aiohttp.ClientSession(served.admin, headers={"Authorization": f"Bearer {TOKEN}"}) as http:
        looking = asyncio.ensure_future(look_on(http, seen))
        dsn = f"postgresql://demo:{own_world.pg_password}@{served.pg}/wayne?sslmode=disable"
        named = {"application_name": "a job"}
        clients = [await asyncpg.connect(dsn, timeout=PATIENCE, server_settings=named) for _ in range(6)]
        try:
            for each in clients:
                await each.fetchval("SELECT 1")
            await until(lambda: seen["last"].get("counts", {}).get("clients", {}).get("pg", [0])[0] == 6, "all clients")
            await until(lambda: {row[2] for row in seen.get("processes", ())} == {True}, "both are of this service")
            assert len({row[1] for row in seen["processes"]}) == 2
            async with http.post("/v1/pools/wayne/pause", json={}) as answer:
                assert (answer.status, await answer.json()) == (200, {"paused": True, "idle": True})
            await until(lambda: seen["last"]["paused"] == ["wayne"], "the page says so")
            waits = [asyncio.ensure_future(each.fetchval("SELECT 1")) for each in clients]
            async with http.post("/v1/pools/wayne/resume", json={}) as answer:
                assert answer.status == 200
            assert await asyncio.gather(*waits) == [1] * 6
            numbers = [each.get_server_pid() for each in clients]
            async with http.delete(f"/v1/clients/{numbers.pop()}") as answer:
                assert answer.status == 200
            console = await asyncpg.connect(f"postgresql://ops:ops@{served.pg}/tenantproxy?sslmode=disable")
            await console.execute("KILL wayne")
            await console.execute("RESUME wayne")
            await console.close()
            served.process.send_signal(signal.SIGHUP)
            rows = "SELECT kind, detail->>'by' AS by, detail->>'change' AS change, tenant FROM tenantproxy.audit_log"
            wanted = {
                ("admin_change_answered", "admin", "POST /v1/pools/{tenant}/pause", "wayne"),
                ("admin_change_answered", "admin", "POST /v1/pools/{tenant}/resume", "wayne"),
                ("service_commanded", "console", "kill", "wayne"),
                ("service_commanded", "console", "resume", "wayne"),
                ("service_commanded", "SIGHUP", "reload", None),
            }

            async def are_written() -> bool:
                return wanted <= {tuple(row) for row in await watch.fetch(rows)}

            await until(are_written, "the audit log has all of it")
            await until(lambda: named_by(watch, "DELETE /v1/clients/{client}", 1), "which client was ended")
            killed = await named_by(watch, "kill", 5)
            assert {each["client"] for each in killed} == set(numbers), "the numbers that they were told"
            assert {each["application_name"] for each in killed} == {"a job"}
            assert all(each["address"].startswith("127.0.0.1:") and each["connected_at"] for each in killed)
            assert {each["worker"] for each in killed} <= {1, 2}
            await until(lambda: heard(seen, "service_commanded", "kill"), "the page has what a worker was asked")
            await until(lambda: heard(seen, "service_commanded", "reload"), "and what the supervisor was")
            served.process.terminate()
            await asyncio.to_thread(served.process.wait, PATIENCE)
            assert ("service_commanded", "SIGTERM", "drain", None) in {tuple(row) for row in await watch.fetch(rows)}
        finally:
            looking.cancel()
            for each in clients:
                each.terminate()
            await watch.close()


def heard(seen: dict[str, Any], kind: str, change: str) -> bool:
    return any(each["kind"] == kind and each["fields"].get("change") == change for each in seen["events"])


async def look_on(http: aiohttp.ClientSession, seen: dict[str, Any]) -> None:
    """Put what the page is sent into `seen`: the last frame, all events, and the processes of the fleet."""
    async with http.get("/v1/events", timeout=aiohttp.ClientTimeout(total=None)) as answer:
        while line := await answer.content.readline():
            if line.startswith(b"data: "):
                frame = json.loads(line.removeprefix(b"data: "))
                if "counts" in frame:
                    seen["last"] = frame
                    seen["events"] += frame["events"]
                    seen["processes"] = frame.get("processes", seen.get("processes", ()))
