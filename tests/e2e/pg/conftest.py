"""What do the tests of the PostgreSQL port stand on? A sidecar per worker, tenants of all kinds, and seats at it."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tenantproxy.embedded import EmbeddedPostgres
from tests.e2e.pg.seats import KINDS, MODES, Seat, build, seats
from tests.support.sidecar import a_sidecar

pytest.register_assert_rewrite("tests.e2e.pg.checks")

_SEATS = [(mode, kind) for mode in MODES for kind in KINDS]


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """A running sidecar with a PostgreSQL port, and the server behind it."""

    process: subprocess.Popen[str]
    server: EmbeddedPostgres
    host: str
    port: int
    public: str  # host:port, of SQL over HTTP
    log: Path


@pytest.fixture(scope="session")
def pg_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Port]:
    """This worker's."""
    folder = tmp_path_factory.mktemp("pg")
    with EmbeddedPostgres(version=18, durable=False, max_connections=120) as server:
        config = asyncio.run(build(server, folder))
        log = folder / "sidecar.log"
        with a_sidecar(config, log) as served:
            host, _, port = served.pg.rpartition(":")
            public = served.public.removeprefix("http://")
            yield Port(process=served.process, server=server, host=host, port=int(port), public=public, log=log)


@pytest.fixture(params=_SEATS, ids=lambda seat: f"{seat[0]}-{seat[1]}")
def seat(request: pytest.FixtureRequest, pg_port: Port) -> Seat:
    """Each kind of isolation in each mode."""
    mode, kind = request.param
    return next(each for each in seats(mode, pg_port.host, pg_port.port) if each.kind == kind)
