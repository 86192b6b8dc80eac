"""What do end-to-end tests share? The demo's world on a PostgreSQL, and a sidecar as a process of its own."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tenantproxy.demo.world import World, build_world
from tenantproxy.embedded import EmbeddedPostgres
from tests.support.sidecar import Served, a_sidecar
from tests.support.waiting import PATIENCE

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def demo_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The demo's six tenants, on a server that no other tests use: to read and connect, not to stop or change."""
    with EmbeddedPostgres(durable=False) as server:
        yield asyncio.run(_build(server, tmp_path_factory.mktemp("demo")))


@pytest.fixture
async def own_world(own_postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> World:
    """The same for this test alone."""
    return await _build(own_postgres, tmp_path_factory.mktemp("own"))


async def _build(server: EmbeddedPostgres, folder: Path) -> World:
    return await build_world(server, folder, listen="127.0.0.1:0", admin_listen="127.0.0.1:0")


@pytest.fixture
def command(tmp_path: Path) -> Command:
    """`command("tenants", "list")` runs the command line and returns how it ended."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TENANTPROXY_")}

    def run(*args: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "tenantproxy", *args],
            env={**environment, "COLUMNS": "200", "NO_COLOR": "1", **variables},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=2 * PATIENCE,  # the demo takes a whole tour
            check=False,
        )

    return run


def get(url: str, **headers: str) -> tuple[int, str, str]:
    """Status, content type and body."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=PATIENCE) as answer:
            return answer.status, answer.headers["Content-Type"], answer.read().decode()
    except urllib.error.HTTPError as exc:
        with exc:
            return exc.code, exc.headers["Content-Type"], exc.read().decode()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Served]]:
    """`serve(config)` starts the sidecar and returns when it is ready; ended after the test whatever happens."""
    with ExitStack() as running:

        def start(config: Path, *options: str) -> Served:
            return running.enter_context(a_sidecar(config, tmp_path / "sidecar.log", *options))

        yield start
