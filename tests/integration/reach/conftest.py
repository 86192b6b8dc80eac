"""One shared database for all tests here: each changes it in a transaction of its own, as the superuser."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio

from tenantproxy.embedded import EmbeddedPostgres
from tests.support.world import World, a_world


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=(18, 16), ids=("pg18", "pg16"))
async def row_world(request: pytest.FixtureRequest, cluster: Callable[[int], EmbeddedPostgres]) -> AsyncIterator[World]:
    """Row tenants alone."""
    async with a_world(cluster(request.param), schemas=0, databases=0) as made:
        yield made
