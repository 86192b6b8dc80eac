"""Is it known who has heard an announcement, and who is silent?"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from tenantproxy.lifecycle.roll_call import until_heard
from tenantproxy.notifications import LISTENS, Listener
from tests.support.database import Database
from tests.support.waiting import PATIENCE


class Lent:
    """One connection, for who listens."""

    def __init__(self, conn: asyncpg.Connection) -> None:
        self._conn = conn

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[asyncpg.Connection]:
        """It stays open."""
        yield self._conn


async def test_a_roll_call_ends_when_all_have_heard_what_was_announced_before(database: Database) -> None:
    async with database.connect() as main, database.connect() as other, database.connect() as silent:
        heard: list[str | None] = []
        listener = Listener(Lent(other))
        listener.hear("news", heard.append)
        listener.start()
        await listener.listening.wait()
        for number in range(3):
            await main.execute(f"NOTIFY news, '{number}'")
            assert await until_heard(main, patience=PATIENCE)
            assert heard == [None, *map(str, range(number + 1))]
        await silent.execute(LISTENS)  # as a process that was stopped
        assert not await until_heard(main, patience=0.05)
        await silent.close()
        assert await until_heard(main, patience=PATIENCE)
        await listener.stop()
