"""Do workers share by the fleet, also while one takes the place of another? As processes."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from tenantproxy.demo.world import World
from tests.e2e.conftest import Command
from tests.support.sidecar import Served
from tests.support.traffic import traffic
from tests.support.waiting import PATIENCE, until

CAP = "SELECT min(cap) FROM tenantproxy.fleet_share"


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
