"""What do the tests of sessions and revocations share? A main database, and a process that follows it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.support.database import Database
from tests.support.sessions_world import Process, a_process, install_main


@pytest.fixture
async def main(database: Database) -> Database:
    """As `tenantproxy install` leaves it."""
    await install_main(database)
    return database


@pytest.fixture
async def here(main: Database) -> AsyncIterator[Process]:
    """The process that a test acts in."""
    async with a_process(main) as process:
        yield process
