"""What do the tests of the PostgreSQL port stand on? A sidecar per worker, tenants of all kinds, and seats at it."""

from __future__ import annotations

import asyncio
import json
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tenantproxy.embedded import EmbeddedPostgres
from tests.e2e.pg.seats import KINDS, MODES, Seat, build, seats

pytest.register_assert_rewrite("tests.e2e.pg.checks")

_SEATS = [(mode, kind) for mode in MODES for kind in KINDS]


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """A running sidecar with a PostgreSQL port, and the server behind it."""

    process: subprocess.Popen[str]
    server: EmbeddedPostgres
    host: str
    port: int
    log: Path


@pytest.fixture(scope="session")
def pg_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Port]:
    """This worker's."""
    folder = tmp_path_factory.mktemp("pg")
    with EmbeddedPostgres(version=18, durable=False, max_connections=120) as server:
        config = asyncio.run(build(server, folder))
        with _served(config, folder / "sidecar.log", server) as port:
            yield port


@pytest.fixture(params=_SEATS, ids=lambda seat: f"{seat[0]}-{seat[1]}")
def seat(request: pytest.FixtureRequest, pg_port: Port) -> Seat:
    """Each kind of isolation in each mode."""
    mode, kind = request.param
    return next(each for each in seats(mode, pg_port.host, pg_port.port) if each.kind == kind)


@contextmanager
def _served(config: Path, log: Path, server: EmbeddedPostgres) -> Iterator[Port]:
    with log.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "tenantproxy", "serve", "--config", str(config)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    try:
        line = _line(process, within=40.0)
        assert line, f"the sidecar did not come up: {log.read_text()}"
        host, _, port = json.loads(line)["pg"].rpartition(":")
        yield Port(process=process, server=server, host=host, port=int(port), log=log)
    finally:
        process.terminate()
        try:
            process.communicate(timeout=40)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise


def _line(process: subprocess.Popen[str], *, within: float) -> str:
    assert process.stdout is not None
    deadline = time.monotonic() + within
    while process.poll() is None and time.monotonic() < deadline:
        if select.select([process.stdout], [], [], 0.1)[0]:
            return process.stdout.readline()
    return ""
