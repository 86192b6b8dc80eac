"""What is every fault test of the PostgreSQL port held to? The audits of all, on the loop that the sidecar has."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import pytest

from tests.support.chaos import ChaosProxy
from tests.support.paths import loops_of
from tests.support.world import World


def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, Callable[[], Any]]:
    """The sidecar's loop: how it accepts, ends and fails differs from asyncio's own."""
    return loops_of(item)


@pytest.fixture
async def proxy(lasting: World) -> AsyncIterator[ChaosProxy]:
    """A bad network between the port and the server that all tests share."""
    async with ChaosProxy(lasting.server.host, lasting.server.port) as proxy:
        yield proxy
