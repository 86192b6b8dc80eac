"""Are the rows of many tenants read a few at a time?"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from tenantproxy.model import Tenant, tenant_id
from tenantproxy.registry import CachedRegistry, PostgresRegistry, RowReader
from tenantproxy.registry.lookups import BATCH
from tests.support.turns import counting_turns


class FakeDatabase:
    """Has a row for every tenant that is asked for."""

    @asynccontextmanager
    async def connection(self, *, timeout: float | None = None) -> AsyncIterator[Any]:
        yield self

    async def fetch(self, sql: str, ids: Sequence[str], *, timeout: float | None = None) -> Any:
        return [{"id": each, "isolation": "database", "database": each} for each in ids]


class CountingReader:
    """Counts the rows that were read."""

    default_server = "primary"
    servers = None

    def __init__(self) -> None:
        self.reader = RowReader(default_server="primary")
        self.count = 0

    def read(self, row: Mapping[str, Any]) -> Tenant:
        self.count += 1
        return self.reader.read(row)


async def test_few_rows_are_read_in_one_turn_of_the_event_loop() -> None:
    reader: Any = CountingReader()
    database: Any = FakeDatabase()
    cached = CachedRegistry(PostgresRegistry(database, reader=reader))
    names = [tenant_id(f"t{number}") for number in range(BATCH)]
    with counting_turns(lambda: reader.count) as turns:
        found = await asyncio.gather(*(cached.get(name) for name in names))
    assert [tenant.id for tenant in found] == names
    assert reader.count == len(names)
    assert turns.most <= BATCH / 2
    await cached.close()
