"""Are the rows of many tenants read in slices?"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tenantproxy.model import Tenant, tenant_id
from tenantproxy.registry import PostgresRegistry, RowReader
from tests.support.turns import SliceClock, counting_turns


class FakeDatabase:
    """Has a row for every tenant that is asked for."""

    @asynccontextmanager
    async def connection(self, *, timeout: float | None = None) -> AsyncIterator[Any]:
        yield self

    async def fetch(self, sql: str, ids: Sequence[str], *, timeout: float | None = None) -> Any:
        return [{"id": each, "isolation": "database", "database": each} for each in ids]


class SlowReader:
    """Takes a third of a slice for a row."""

    default_server = "primary"
    servers = None

    def __init__(self, clock: SliceClock) -> None:
        self.clock = clock
        self.reader = RowReader(default_server="primary")
        self.count = 0

    def read(self, row: Mapping[str, Any]) -> Tenant:
        self.count += 1
        self.clock.work(0.34)
        return self.reader.read(row)


async def test_rows_of_many_tenants_are_read_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    reader: Any = SlowReader(SliceClock(monkeypatch))
    database: Any = FakeDatabase()
    names = [tenant_id(f"t{number}") for number in range(100)]
    async with PostgresRegistry(database, reader=reader).asking(None) as ask:
        with counting_turns(lambda: reader.count) as turns:
            answers = await ask(names)
    assert [answer.id for answer in answers.values() if isinstance(answer, Tenant)] == names
    assert turns.most == 3
