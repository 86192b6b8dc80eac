"""Do the workers of an ASGI server share one budget, each with its own router, and end in order?"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import aiohttp
import pytest

from tenantproxy.auth.tokens import Tokens
from tenantproxy.cli.fleet import fleet as fleet_rows
from tenantproxy.config import fleet_key, load
from tenantproxy.embedded import EmbeddedPostgres
from tenantproxy.lifecycle.fleet import install_fleet
from tests.support.lasting import a_lasting_world
from tests.support.waiting import PATIENCE, until
from tests.support.web import AUTH, HEADER
from tests.support.world import APP_ROLE, World

ROOT: Final = Path(__file__).parents[2]
APP: Final = "examples.fastapi_app:app"
WORKERS: Final = 2
CAP: Final = 20
SERVERS: Final[dict[str, tuple[str, ...]]] = {
    "uvicorn": ("uvicorn", "--workers", str(WORKERS), "--port", "{port}", APP),
    "gunicorn": (  # the module is imported before the fork
        "gunicorn", "--preload", "--worker-class", "asgi", "--workers", str(WORKERS), "--bind", "127.0.0.1:{port}", APP,
    ),
    "granian": ("granian", "--interface", "asgi", "--workers", str(WORKERS), "--port", "{port}", APP),
}  # fmt: skip


@pytest.fixture(scope="module")
def shared_world(postgres: EmbeddedPostgres) -> Iterator[World]:
    with a_lasting_world(postgres, each=2) as world:
        yield world


@pytest.fixture
async def config(shared_world: World, tmp_path: Path) -> Path:
    """A configuration whose main database keeps the budget of a fleet."""
    path = tmp_path / "tenantproxy.toml"
    path.write_text(f'{shared_world.toml()}[auth]\nkey = "{AUTH["key"]}"\n[fleet]\nttl = 3.0\ninterval = 0.3\n')
    settings = load(path)
    assert settings.servers["primary"].max_connections == CAP
    key = fleet_key(settings.fleet, settings.row, settings.tenant_roles)
    assert key is not None
    async with shared_world.main.connect() as admin:
        await install_fleet(admin, app_role=APP_ROLE, key=key, fleet=settings.fleet.id, ttl=settings.fleet.ttl)
    return path


def a_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def serving(name: str, config: Path) -> Iterator[str]:
    """The example under that server; its URL. It must end in order when it is asked to."""
    port, log = a_free_port(), config.with_name("server.log")
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", *(part.format(port=port) for part in SERVERS[name])],
            cwd=ROOT, env={**os.environ, "TENANTPROXY_CONFIG": str(config)}, stdout=out, stderr=out,
        )  # fmt: skip
    try:
        yield f"http://127.0.0.1:{port}"
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=PATIENCE) in (0, -signal.SIGTERM), log.read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    assert "Traceback" not in log.read_text(), log.read_text()


@pytest.mark.parametrize("name", SERVERS)
async def test_the_workers_of_a_server_share_the_budget_and_leave_nothing(
    shared_world: World, config: Path, name: str
) -> None:
    settings = load(config)
    tokens = Tokens(settings.auth, tenants=None)
    headers = {
        str(tenant.id): {"Authorization": f"Bearer {tokens.issue(tenant=tenant, user='user-7')}", HEADER: tenant.id}
        for tenant in shared_world.tenants
    }
    databases = [shared_world.main.name, *{tenant.placement.database for tenant in shared_world.tenants}]
    opened = "SELECT count(*) FROM pg_stat_activity WHERE datname = ANY($1) AND pid <> pg_backend_pid()"

    async def live() -> int:
        return sum(row["state"] == "live" for row in await fleet_rows(settings) if row["process"] is not None)

    async def all_live() -> bool:
        return await live() == WORKERS

    async with shared_world.main.connect() as admin, aiohttp.ClientSession() as http:

        async def answers() -> bool:
            try:
                async with http.get(f"{url}/health") as answer:
                    return answer.status == 200
            except aiohttp.ClientError:
                return False

        async def none_open() -> bool:
            return bool(await admin.fetchval(opened, databases) == 0)

        async def ask(number: int) -> None:
            tenant = list(headers)[number % len(headers)]
            async with http.get(f"{url}/projects", headers=headers[tenant]) as answer:
                assert (answer.status, await answer.json()) == (200, [f"{tenant} {n}" for n in (1, 2, 3)])

        with serving(name, config) as url:
            await until(answers, f"{name} answers")
            await until(all_live, "each worker is a process of the fleet")
            asked = asyncio.gather(*(ask(number) for number in range(200)))
            while not asked.done():
                assert await admin.fetchval(opened, databases) <= CAP
                await asyncio.sleep(0.01)
            await asked
        assert await live() == 0, "each has said that it leaves"
        await until(none_open, "no connection is left")
