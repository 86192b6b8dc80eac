"""What do the attacks run against? One world per version, shared because an attack that fails leaves nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import asyncpg
import pytest

from tenantproxy.embedded import EmbeddedPostgres
from tenantproxy.isolation.proof import Signer
from tests.support.entered import EnteredSession
from tests.support.trusting import trust
from tests.support.world import World, a_world


@pytest.fixture(scope="session")
def target(every_postgres: EmbeddedPostgres) -> Iterator[World]:
    """Row tenants `row1` and `row2`, left as they were found; what needs grants of its own takes `each_world`."""
    with asyncio.Runner() as runner:
        building = a_world(every_postgres, schemas=0, databases=0)
        yield runner.run(building.__aenter__())
        runner.run(building.__aexit__(None, None, None))


@pytest.fixture(scope="session")
def trusting(every_postgres: EmbeddedPostgres) -> Iterator[World]:
    """As `target`, with the trusted form installed."""
    with asyncio.Runner() as runner:
        building = a_world(every_postgres, schemas=0, databases=0)
        world = runner.run(building.__aenter__())
        runner.run(trust(world))
        yield world
        runner.run(building.__aexit__(None, None, None))


@pytest.fixture
async def trusted(trusting: World) -> AsyncIterator[EnteredSession]:
    """A session of the app role that is row1's, in the trusted form."""
    async with trusting.app(trusting.shared) as conn:
        session = await EnteredSession.of(conn, trusting.signer(), "first")
        await session.enter("row1")
        yield session


@pytest.fixture
def signer(target: World) -> Signer:
    return target.signer()


@pytest.fixture
async def conn(target: World) -> AsyncIterator[asyncpg.Connection]:
    """A session of the app role that is bound to no tenant yet."""
    async with target.app(target.shared) as conn:
        yield conn


@pytest.fixture
async def admin(target: World) -> AsyncIterator[asyncpg.Connection]:
    """A superuser in the shared database."""
    async with target.shared.connect() as conn:
        yield conn
