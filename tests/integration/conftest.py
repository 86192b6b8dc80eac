"""What do the integration tests stand on? asyncio's loop; those of the PostgreSQL port on that of the data path."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from tests.support.paths import loops_of


def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, Callable[[], Any]]:
    """See `paths`."""
    is_of_the_port = item.path.name.startswith(("test_port_", "test_raw_"))
    return loops_of(item) if is_of_the_port else {"asyncio": asyncio.new_event_loop}
