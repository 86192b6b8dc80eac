"""What do the tests stand on? A real PostgreSQL per worker and version, started when needed; a database per test."""

from __future__ import annotations

import gc
import os
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from typing import Any
from unittest.mock import patch

import pytest

from tenantproxy.embedded import EmbeddedPostgres, all_binaries
from tests.support.database import Database, fresh_database
from tests.support.world import World, a_world

DEFAULT_VERSION = int(os.environ.get("TESTED_POSTGRES", "18"))  # what most tests use
# The two of the wheel are always asked for, so that a missing one fails; others join where they are installed.
EVERY_VERSION = sorted({18, 16, DEFAULT_VERSION} | {found.version for found in all_binaries()}, reverse=True)
NEWEST_AND_OLDEST = (EVERY_VERSION[0], EVERY_VERSION[-1])

Cluster = Callable[[int], EmbeddedPostgres]


def pytest_collection_finish() -> None:
    """What is there by now stays to the end: looking through it for garbage took a tenth of the time."""
    gc.freeze()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> Generator[None, None, None]:
    """Where a hook chooses the loop, pytest-asyncio lets it last for one test, and ends what a module shares."""
    parametrize = metafunc.parametrize

    def lasting(names: str, *args: Any, **options: Any) -> None:
        parametrize(names, *args, **options | ({"scope": "module"} if names == "_asyncio_loop_factory" else {}))

    with patch.object(metafunc, "parametrize", lasting):
        return (yield)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """`cluster(18)`: this worker's server of that major version."""
    running: dict[int, EmbeddedPostgres] = {}

    def of(version: int) -> EmbeddedPostgres:
        if version not in running:
            server = EmbeddedPostgres(version=version, durable=False, max_connections=200)
            running[version] = server.start()
        return running[version]

    yield of
    for server in running.values():
        server.close()


@pytest.fixture(scope="session")
def postgres(cluster: Cluster) -> EmbeddedPostgres:
    """The worker's PostgreSQL, 18 by default. Shared: stop and restart one of your own (`own_postgres`) instead."""
    return cluster(DEFAULT_VERSION)


@pytest.fixture(scope="session")
def postgres16(cluster: Cluster) -> EmbeddedPostgres:
    """The worker's PostgreSQL 16."""
    return cluster(16)


@pytest.fixture(scope="session", params=EVERY_VERSION, ids=lambda version: f"pg{version}")
def every_postgres(request: pytest.FixtureRequest, cluster: Cluster) -> EmbeddedPostgres:
    """Runs the test on every version there is: for attacks on the SQL that isolates."""
    version: int = request.param
    return cluster(version)


@pytest.fixture(scope="session", params=NEWEST_AND_OLDEST, ids=lambda version: f"pg{version}")
def each_postgres(request: pytest.FixtureRequest, cluster: Cluster) -> EmbeddedPostgres:
    """Runs the test on the newest and the oldest version there is."""
    version: int = request.param
    return cluster(version)


@pytest.fixture
def own_postgres() -> Iterator[EmbeddedPostgres]:
    """A started server for this test alone, to stop, kill and restart."""
    with EmbeddedPostgres(version=DEFAULT_VERSION, durable=False) as server:
        yield server


@pytest.fixture(params=NEWEST_AND_OLDEST, ids=lambda version: f"pg{version}")
def each_own_postgres(request: pytest.FixtureRequest) -> Iterator[EmbeddedPostgres]:
    """As `own_postgres`, on every version: for roles and settings of the whole server."""
    with EmbeddedPostgres(version=request.param, durable=False) as server:
        yield server


@pytest.fixture
async def database(postgres: EmbeddedPostgres) -> AsyncIterator[Database]:
    """An empty database for this test alone."""
    async with fresh_database(postgres) as fresh:
        yield fresh


@pytest.fixture
async def each_database(each_postgres: EmbeddedPostgres) -> AsyncIterator[Database]:
    """An empty database on the newest and the oldest version."""
    async with fresh_database(each_postgres) as fresh:
        yield fresh


@pytest.fixture
async def world(postgres: EmbeddedPostgres) -> AsyncIterator[World]:
    """Two tenants of each kind, on PostgreSQL 18, for this test alone."""
    async with a_world(postgres) as made:
        yield made


@pytest.fixture
async def each_world(each_postgres: EmbeddedPostgres) -> AsyncIterator[World]:
    """Two tenants of each kind, on the newest and the oldest version."""
    async with a_world(each_postgres) as made:
        yield made
