"""What do the tests of the middleware share? Tenants of every kind, a watched router that signs and reads tokens."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from tenantproxy.embedded import EmbeddedPostgres
from tests.support.checked import CheckedRouter, checked
from tests.support.lasting import a_lasting_world
from tests.support.web import AUTH, Caller
from tests.support.world import World


@pytest.fixture(scope="session")
def lasting(postgres: EmbeddedPostgres) -> Iterator[World]:
    with a_lasting_world(postgres) as world:
        yield world


@pytest.fixture
async def router(lasting: World) -> AsyncIterator[CheckedRouter]:
    """Open; at the end nothing may be lent."""
    async with checked(lasting.settings(auth=AUTH), lasting) as router:
        yield router


@pytest.fixture
def caller(router: CheckedRouter) -> Caller:
    return Caller.of(router)
