"""What if a request to cancel is lost? PostgreSQL forgets one that comes before it has begun with the statement."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from tenantproxy import PoolTimeout
from tests.fault.conftest import Figure
from tests.support.checked import CheckedRouter, checked
from tests.support.database import Database
from tests.support.faults import CancelEater
from tests.support.waiting import until
from tests.support.world import World

KINDS = ("database1", "schema1", "row1")
LOST_ROWS = (
    "SELECT CASE WHEN n < 9999 THEN repeat('x', 99) ELSE pg_catalog.pg_sleep(120)::text END"
    " FROM generate_series(1, 9999) AS n"
)
LONG = "SELECT pg_catalog.pg_sleep(120)"  # longer than any of these tests may take
ASLEEP = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
BOUND = 60.0  # seconds; it takes 0.2 when one is lost and 2 when all are
LONG_BEGUN = 1.0  # seconds after which the server is certainly at it
PATIENCE = (
    "driver.ending.CANCEL_TIMEOUT",
    "driver.connector.END_TIMEOUT",
    "driver.lender.RESET_TIMEOUT",
    "scope.END_TIMEOUT",
)

Leaves = Callable[[CheckedRouter, str, Callable[[], Awaitable[None]]], Awaitable[None]]


@pytest.fixture
async def eater(lasting: World) -> AsyncIterator[CancelEater]:
    async with CancelEater(lasting.server.host, lasting.server.port) as proxy:
        yield proxy


@contextlib.asynccontextmanager
async def only_one(world: World, eater: CancelEater) -> AsyncIterator[CheckedRouter]:
    """A router that lends one connection of a tenant at a time."""
    settings = world.settings(
        servers={"primary": {"port": eater.port, "max_connections": 20, "statement_timeout": 0.0}},
        pools={"max_size": 1, "shared_size": 1, "acquire_timeout": BOUND},
    )
    async with checked(settings, world) as router:
        yield router


async def cancelled(work: Awaitable[Any], runs: Callable[[], Awaitable[None]]) -> None:
    task = asyncio.ensure_future(work)
    await runs()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def a_call(router: CheckedRouter, tenant: str, runs: Callable[[], Awaitable[None]]) -> None:
    await cancelled(router.tenant(tenant).fetchval(LONG), runs)


async def a_call_with_a_timeout(router: CheckedRouter, tenant: str, runs: Callable[[], Awaitable[None]]) -> None:
    with pytest.raises(TimeoutError):
        await router.tenant(tenant).fetchval(LONG, timeout=LONG_BEGUN)


async def a_block(router: CheckedRouter, tenant: str, runs: Callable[[], Awaitable[None]]) -> None:
    async def work() -> None:
        async with router.tenant(tenant).connection() as conn:
            await conn.execute(LONG)

    await cancelled(work(), runs)


async def a_transaction(router: CheckedRouter, tenant: str, runs: Callable[[], Awaitable[None]]) -> None:
    async def work() -> None:
        async with router.tenant(tenant).transaction() as conn:
            await conn.execute(LONG)

    await cancelled(work(), runs)


async def a_transaction_with_a_timeout(router: CheckedRouter, tenant: str, runs: Callable[[], Awaitable[None]]) -> None:
    with pytest.raises(TimeoutError):
        async with router.tenant(tenant).transaction() as conn, asyncio.timeout(LONG_BEGUN):
            await conn.execute(LONG)


async def a_transaction_within(router: CheckedRouter, tenant: str, runs: Callable[[], Awaitable[None]]) -> None:
    async def work() -> None:
        async with router.tenant(tenant).transaction() as conn, conn.transaction():
            await conn.execute(LONG)

    task = asyncio.ensure_future(work())
    await runs()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled() or task.exception()


async def a_statement_left_running(router: CheckedRouter, tenant: str, runs: Callable[[], Awaitable[None]]) -> None:
    async with router.tenant(tenant).connection() as conn:
        left = asyncio.ensure_future(conn.execute(LONG))
        await runs()
    await asyncio.wait([left])
    assert left.exception()


async def fail(_: bytes) -> None:
    raise OSError("the disk is full")


async def a_copy(router: CheckedRouter, tenant: str, runs: Callable[[], Awaitable[None]]) -> None:
    with pytest.raises(OSError, match="disk"):
        await router.tenant(tenant).copy_from_query(LOST_ROWS, output=fail)


async def a_copy_in_a_transaction(router: CheckedRouter, tenant: str, runs: Callable[[], Awaitable[None]]) -> None:
    with pytest.raises(OSError, match="disk"):
        async with router.tenant(tenant).transaction() as conn:
            await conn.copy_from_query(LOST_ROWS, output=fail)


WAYS: tuple[Leaves, ...] = (
    a_call,
    a_call_with_a_timeout,
    a_block,
    a_transaction,
    a_transaction_with_a_timeout,
    a_transaction_within,
    a_statement_left_running,
    a_copy,
    a_copy_in_a_transaction,
)


@pytest.mark.parametrize("tenant", KINDS)
@pytest.mark.parametrize("leaves", WAYS, ids=lambda way: way.__name__)
async def test_a_lost_request_to_cancel_holds_up_neither_the_caller_nor_the_next_one(
    lasting: World, eater: CancelEater, figure: Figure, monkeypatch: pytest.MonkeyPatch, leaves: Leaves, tenant: str
) -> None:
    for name in PATIENCE:  # it is not to be found silent only because this machine is busy
        monkeypatch.setattr(f"tenantproxy.{name}", BOUND)
    async with only_one(lasting, eater) as router, Database(server=lasting.server, name="postgres").connect() as admin:

        async def runs() -> None:
            await until(lambda: admin.fetchval(ASLEEP), "the statement runs")

        assert await router.tenant(tenant).fetchval("SELECT count(*) FROM projects") == 3  # a connection is open
        eater.swallow = 1
        began = time.monotonic()
        await leaves(router, tenant, runs)
        figure("seconds_to_leave", time.monotonic() - began)
        assert await router.tenant(tenant).fetchval("SELECT count(*) FROM projects") == 3
        await until(lambda: router.is_at_rest, "the permit is free again", timeout=BOUND)
        figure("seconds_to_be_free", time.monotonic() - began)
        assert time.monotonic() - began < BOUND
        assert eater.cancels >= 2


@pytest.mark.parametrize(
    ("leaves", "tenant"),
    [*((way, "row1") for way in WAYS), (a_transaction, "schema1"), (a_transaction, "database1")],
    ids=lambda given: getattr(given, "__name__", given),
)
async def test_when_every_request_to_cancel_is_lost_the_connection_ends_and_the_caller_goes_on(
    lasting: World, eater: CancelEater, figure: Figure, leaves: Leaves, tenant: str
) -> None:
    async with only_one(lasting, eater) as router, Database(server=lasting.server, name="postgres").connect() as admin:

        async def runs() -> None:
            await until(lambda: admin.fetchval(ASLEEP), "the statement runs")

        assert await router.tenant(tenant).fetchval("SELECT count(*) FROM projects") == 3  # a connection is open
        eater.swallow = 10_000
        began = time.monotonic()
        await leaves(router, tenant, runs)
        figure("seconds_to_leave", time.monotonic() - began)
        if next(each for each in lasting.tenants if each.id == tenant).placement.role is not None:
            # Our own role may not end a backend of the tenant's: its place stays taken as long as it works.
            with pytest.raises(PoolTimeout, match="still at work on the server"):
                await router.tenant(tenant).fetchval("SELECT 1", timeout=1.0)
            for row in await admin.fetch(ASLEEP):
                await admin.execute("SELECT pg_terminate_backend($1, 5000)", row["pid"])
        assert await router.tenant(tenant).fetchval("SELECT count(*) FROM projects") == 3
        figure("seconds_to_be_served", time.monotonic() - began)
        assert time.monotonic() - began < BOUND
        for row in await admin.fetch(ASLEEP):  # PostgreSQL does not notice that its client is gone
            await admin.execute("SELECT pg_terminate_backend($1, 5000)", row["pid"])
