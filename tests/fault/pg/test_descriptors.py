"""What if strangers take every file descriptor that the sidecar may have?"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import psutil  # type: ignore[import-untyped]
import pytest

from tests.fault.conftest import Figure
from tests.support.waiting import until
from tests.support.wire_client import PASSWORD, Answer, Refused, WireClient, raw
from tests.support.world import APP_PASSWORD, APP_ROLE, ROLE_SECRET, ROW_SECRET, World

COUNT = "SELECT count(*) FROM projects"
DESCRIPTORS = 256
START_SECONDS = 90.0


@dataclass(frozen=True, slots=True)
class Process:
    """A sidecar that may have only so many descriptors."""

    popen: subprocess.Popen[str]
    ports: dict[str, int]

    @property
    def seconds(self) -> float:
        """Of a processor, that it has used."""
        used = psutil.Process(self.popen.pid).cpu_times()
        return float(used.user + used.system)

    @property
    def descriptors(self) -> int:
        """That it has open."""
        return int(psutil.Process(self.popen.pid).num_fds())

    async def client(self, tenant: str) -> WireClient:
        """One that has logged in."""
        return await WireClient.connect(self.ports["pg"], tenant)

    async def livez(self) -> int:
        """The status of a new connection to the admin listener."""
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{self.ports['admin']}/livez") as response,
        ):
            return response.status


def config_of(world: World) -> str:
    """The configuration of `world`, as its operator would write it."""
    sections: dict[str, dict[str, Any]] = {
        "main": {"server": "primary", "database": world.main.name},
        "servers.primary": {
            "host": world.server.host, "port": world.server.port, "user": APP_ROLE, "password": APP_PASSWORD,
            "ssl": "disable", "max_connections": 20,
        },
        "registry": {"source": "file"},
        "row": {"key": ROW_SECRET.decode()},
        "tenant_roles": {"key": ROLE_SECRET.decode()},
        "pools": {"acquire_timeout": 20.0},
        **{name: {"listen": "127.0.0.1:0"} for name in ("http", "admin", "pg")},
        "pg.users.all": {"password": PASSWORD, "tenants": "*"},
    }  # fmt: skip
    for tenant in world.tenants:
        place = tenant.placement
        entry = {"isolation": place.isolation.value, "database": place.database, "schema": place.schema}
        entry["role"] = place.role
        sections[f"tenants.{tenant.id}"] = {key: value for key, value in entry.items() if value is not None}
    return "\n".join(
        f"[{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in keys.items())
        for name, keys in sections.items()
    )


@contextlib.asynccontextmanager
async def short_of_descriptors(world: World, folder: Path) -> AsyncIterator[Process]:
    """Ended afterwards, by SIGTERM and without a complaint."""
    config = folder / "tenantproxy.toml"
    config.write_text(config_of(world))
    command = f'ulimit -n {DESCRIPTORS}; exec "$0" -m tenantproxy serve --drain-timeout 5 --config "$1"'
    with (folder / "log").open("w") as log:
        popen = subprocess.Popen(  # noqa: ASYNC220 - it takes no time
            ["sh", "-c", command, sys.executable, str(config)], stdout=subprocess.PIPE, stderr=log, text=True
        )
    try:
        assert popen.stdout is not None
        async with asyncio.timeout(START_SECONDS):
            where = json.loads(await asyncio.to_thread(popen.stdout.readline))
        ports = {name: int(where[name].rstrip("/").rpartition(":")[2]) for name in ("public", "admin", "pg")}
        yield Process(popen, ports)
        assert popen.poll() is None, "it has crashed"
        popen.terminate()
        assert await asyncio.to_thread(popen.wait, 30) == 0
    finally:
        popen.kill()
        popen.communicate()
    assert "Traceback" not in (folder / "log").read_text()


@pytest.mark.timeout(180)  # a process has to start
@pytest.mark.parametrize("listener", ["pg", "public"])
async def test_strangers_who_take_all_descriptors_neither_stop_nor_busy_the_sidecar(
    lasting: World, tmp_path: Path, figure: Figure, listener: str
) -> None:
    async with short_of_descriptors(lasting, tmp_path) as process:
        first, second = await process.client("row1"), await process.client("row1")
        before = process.descriptors
        process.popen.send_signal(signal.SIGSTOP)  # all of them are to be accepted at once, as when it has much to do
        strangers = [await raw(process.ports[listener]) for _ in range(DESCRIPTORS + 150)]
        process.popen.send_signal(signal.SIGCONT)
        ends = [asyncio.ensure_future(reader.read()) for reader, _ in strangers]
        await until(lambda: sum(end.done() for end in ends) >= 150, "those that are too many are closed")
        figure("descriptors", process.descriptors)
        began, used = time.monotonic(), process.seconds
        for _ in range(20):
            assert (await first.query(COUNT)).value == "3"
        await asyncio.sleep(max(0.0, began + 1.0 - time.monotonic()))  # what is measured is what it does in a while
        figure("processor_share", (process.seconds - used) / (time.monotonic() - began))
        assert (process.seconds - used) / (time.monotonic() - began) < 0.5
        await first.query("BEGIN")
        answer: Answer = await second.query(COUNT)  # on one more backend
        assert (answer.sqlstate, answer.rows) == (None, [["3"]])
        assert await process.livez() == 200
        await first.query("COMMIT")
        for end, (_, writer) in zip(ends, strangers, strict=True):
            writer.transport.abort()
            with contextlib.suppress(ConnectionError):
                await end
        await until(lambda: process.descriptors <= before + 8, "they are all gone")
        await until(lambda: comes_in(process), "others come in again")
        for client in (first, second):
            await client.close()


async def comes_in(process: Process) -> bool:
    with contextlib.suppress(Refused, ConnectionError, asyncio.IncompleteReadError):
        client = await process.client("database1")
        assert (await client.query(COUNT)).value == "3"
        await client.close()
        return True
    return False
