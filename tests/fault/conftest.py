"""What is every fault test held to? Its figure is recorded, its routers are audited, no task outlives it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import pytest

from tenantproxy.embedded import EmbeddedPostgres
from tests.support import checked
from tests.support.lasting import a_lasting_world
from tests.support.world import World, a_world

Figure = Callable[[str, object], None]


@pytest.fixture(autouse=True)
async def audited() -> AsyncIterator[None]:
    """Every router of the test went through the audit, and no task of tenantproxy's still runs."""
    checked.OPENED.clear()
    yield
    assert all(router.was_audited for router in checked.OPENED)
    await checked.no_task_left()
    checked.OPENED.clear()


@pytest.fixture
def figure(record_property: Callable[[str, object], None]) -> Figure:
    """`figure("recovery_seconds", 0.3)`: kept in the report and printed."""

    def record(name: str, value: object) -> None:
        shown = round(value, 4) if isinstance(value, float) else value
        record_property(name, shown)
        print(f"figure {name} = {shown}")

    return record


@pytest.fixture(scope="session")
def lasting(postgres: EmbeddedPostgres) -> Iterator[World]:
    """Three tenants of each kind for all tests of the worker that leave the server up; leave its data as they are."""
    with a_lasting_world(postgres) as world:
        yield world


@asynccontextmanager
async def own_world(
    max_connections: int = 60, *, rows: int = 1, schemas: int = 0, databases: int = 1
) -> AsyncIterator[World]:
    """A small world on a server of its own, to stop, kill and fill."""
    async with EmbeddedPostgres(version=18, durable=False, max_connections=max_connections) as server:
        async with a_world(server, rows=rows, schemas=schemas, databases=databases) as world:
            yield world


@pytest.fixture
async def own() -> AsyncIterator[World]:
    """One row and one database tenant on a server of the test's own."""
    async with own_world() as world:
        yield world
