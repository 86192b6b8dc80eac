"""What do the tests of the engine share? A world with notes per worker and version, a router and an engine per test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from tenantproxy.embedded import EmbeddedPostgres
from tenantproxy.sqlalchemy import create_async_engine
from tests.support.checked import CheckedRouter, checked
from tests.support.lasting import lasting
from tests.support.notes import a_world_with_notes
from tests.support.world import World


@pytest.fixture(scope="session")
def notes(postgres: EmbeddedPostgres) -> Iterator[World]:
    with lasting(a_world_with_notes(postgres)) as world:
        yield world


@pytest.fixture(scope="session")
def notes16(postgres16: EmbeddedPostgres) -> Iterator[World]:
    with lasting(a_world_with_notes(postgres16)) as world:
        yield world


@pytest.fixture
async def router(notes: World) -> AsyncIterator[CheckedRouter]:
    async with checked(notes.settings(), notes) as router:
        yield router


@pytest.fixture
async def narrow(notes: World) -> AsyncIterator[CheckedRouter]:
    """One connection per pool."""
    async with checked(notes.settings(pools={"max_size": 1, "shared_size": 1}), notes) as router:
        yield router


@pytest.fixture
def engine(router: CheckedRouter) -> AsyncEngine:
    return create_async_engine(router)
