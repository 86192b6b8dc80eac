"""Does the day of each reference platform go as its tour expects, line by line?"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tenantproxy.cli.commands.tries import SystemName
from tenantproxy.demo.stage import Seen
from tenantproxy.demo.system_show import SYSTEMS, staged
from tenantproxy.demo.tour import walk
from tenantproxy.embedded.pgbouncer import PGBOUNCER
from tests.e2e.pg.programs import NODE
from tests.support.waiting import PATIENCE, until, wait_until

IN_ELIXIR = "the accounts service in Elixir"  # no test machine has Ecto: see tests/e2e/pg/test_ecto.py
FEW = 3  # of the platform's 25 agencies: the same lines


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that the unprivileged user of an embedded server can pass through, unlike pytest's own."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_each_platform_can_be_named_on_the_command_line() -> None:
    assert {each.value for each in SystemName} == set(SYSTEMS)


@pytest.mark.parametrize("name", SYSTEMS)
async def test_the_day_of_a_platform_is_as_its_tour_expects(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "productions" and PGBOUNCER is None:
        pytest.skip("apt-get install pgbouncer")
    monkeypatch.setenv("BITNEXUS_NODE_MODULES", str(NODE / "node_modules"))
    lines: list[Seen] = []
    async with staged(name, size=FEW) as stage:
        good = await walk(stage, lines.append, SYSTEMS[name].steps)
    assert good, [line for line in lines if not line.ok]
    assert len(lines) > 20
    assert {line.what for line in lines if line.saw.startswith("not tried")} <= {IN_ELIXIR}


ORDER = {"name": "Arch", "domain": "arch.example", "adminEmail": "ann@arch.example", "adminPassword": "a long one"}


async def test_an_agency_whose_founding_died_is_made_by_the_same_key(tmp_path: Path) -> None:
    async with staged("buildflow", size=1) as stage:
        config = stage.world.config
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        dying = await asyncio.create_subprocess_exec(
            sys.executable, str(config.parent / "app.py"), stdout=asyncio.subprocess.DEVNULL,
            env={**os.environ, **stage.world.environment, "TENANTPROXY_CONFIG": str(config), "PORT": str(port)},
        )  # fmt: skip
        headers = {"X-Platform-Key": stage.world.secret("platform_key"), "Idempotency-Key": "order 7"}
        main = await stage.world.connect(stage.router.settings.main.database)

        async def asked() -> bool:
            with suppress(aiohttp.ClientConnectorError):
                async with stage.http.post(f"http://127.0.0.1:{port}/api/agencies", json=ORDER, headers=headers):
                    return True
            return False

        async def is_begun() -> bool:
            return bool(await main.fetchval("SELECT count(*) FROM tenantproxy.sagas WHERE state <> 'requested'"))

        try:
            asking = asyncio.ensure_future(until(asked, "it answers"))
            await until(is_begun, "it is being made")
            dying.kill()
            await dying.wait()
            with suppress(aiohttp.ClientError):
                await asking
            assert await main.fetchval("SELECT status FROM agencies") == "provisioning"
            await main.execute("UPDATE tenantproxy.sagas SET seen_at = seen_at - interval '1 hour'")
            told: list[tuple[int, Any]] = []

            async def is_made() -> bool:
                told.append(await stage.ask("POST", "/api/agencies", ORDER, **headers))
                return told[-1][0] in (200, 201)

            await until(is_made, "it goes on")
            assert told[-1][0] == 201, told
            assert await stage.ask("POST", "/api/agencies", ORDER, **headers) == (200, told[-1][1]), "made once"
            other = {**ORDER, "domain": "other.example"}
            assert (await stage.ask("POST", "/api/agencies", other, **headers))[0] == 409
            assert await main.fetchval("SELECT string_agg(status, ' ') FROM agencies") == "active"
            login = {"email": ORDER["adminEmail"], "password": ORDER["adminPassword"]}
            assert (await stage.ask("POST", "/api/auth/login", login))[0] == 200
        finally:
            with suppress(ProcessLookupError):
                dying.kill()
            await dying.wait()
            await main.close()


def test_a_platform_serves_until_it_is_interrupted_and_leaves_nothing(open_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with out.open("w") as to_out:
        process = subprocess.Popen(
            [sys.executable, "-m", "tenantproxy", "demo", "--system", "buildflow"],
            env={**os.environ, "TMPDIR": str(open_folder)},
            stdin=subprocess.DEVNULL,
            stdout=to_out,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_until(lambda: "api/projects" in out.read_text() or process.poll() is not None, "it is up")
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=PATIENCE) == 0, out.read_text()
    finally:
        process.kill()
        process.wait()
    assert list(open_folder.iterdir()) == []
