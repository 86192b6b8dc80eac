"""Is a statement that was prepared long ago still run in a transaction of its own?"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

import asyncpg
import pytest

from tenantproxy.driver.guard import Guard
from tests.support.leases import OWN_ROWS, ResetMode, one_connection, own_rows, rows_of
from tests.support.waiting import until
from tests.support.world import World

TENANT: Final = "row1"
Act = Callable[[], Awaitable[Any]]
Kind = Callable[[Guard], Awaitable[Act]]


async def _let_pass(world: World, seconds: float) -> None:
    async with world.shared.connect() as clock:
        end = await clock.fetchval("SELECT clock_timestamp() + make_interval(secs => $1)", seconds)
        await until(lambda: clock.fetchval("SELECT clock_timestamp() > $1", end), "time passes on the server")


async def preparing(conn: Guard) -> Act:
    statement = await conn.prepare(OWN_ROWS)
    return statement.fetch


async def failing_to_encode(conn: Guard) -> Act:
    with pytest.raises(asyncpg.DataError):
        await conn.fetch("SELECT $1::int", "no number")  # parsed, and never executed
    return lambda: conn.fetch(OWN_ROWS)


async def failing_to_encode_for_a_statement(conn: Guard) -> Act:
    statement = await conn.prepare("SELECT $1::int")
    with pytest.raises(asyncpg.DataError):
        await statement.fetch("no number")
    return lambda: conn.fetch(OWN_ROWS)


async def cancelled_after_the_parse(conn: Guard) -> Act:
    for steps in range(12):  # some of them fall between the answer to Parse and the Bind
        task = asyncio.create_task(conn.fetch(f"SELECT {steps}, $1::int", 1))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
    return lambda: conn.fetch(OWN_ROWS)


KINDS: Final[tuple[Kind, ...]] = (
    preparing, failing_to_encode, failing_to_encode_for_a_statement, cancelled_after_the_parse,
)  # fmt: skip
each_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)


@each_kind
async def test_a_proof_is_renewed_long_after_a_parse_without_execution(world: World, kind: Kind) -> None:
    async with one_connection(world, row={"proof_window": 1.0}, pools={"acquire_timeout": 10.0}) as router:
        async with router.tenant(TENANT).connection() as conn:
            act = await kind(conn)
            await _let_pass(world, 3.5)  # a proof may begin 2 s after its transaction
            assert [row["name"] for row in await act()] == rows_of(TENANT)
            assert not conn.is_closed()
        assert not any(router.stats().violations.values())


@each_kind
@pytest.mark.parametrize("tenant", ["row1", "schema1", "database1"])
async def test_statement_timeout_does_not_run_between_statements(world: World, kind: Kind, tenant: str) -> None:
    async with one_connection(world, pools={"acquire_timeout": 10.0}) as router:
        async with router.tenant(tenant).connection() as conn:
            await conn.execute("SET statement_timeout = '500ms'")
            act = await kind(conn)
            await _let_pass(world, 0.8)
            assert len(await act()) == 3


@pytest.mark.parametrize("reset", ["always", "on_tenant_change"])
async def test_no_implicit_transaction_reaches_the_next_lease(world: World, reset: ResetMode) -> None:
    async with one_connection(world, reset=reset) as router:
        scope = router.tenant(TENANT)
        with pytest.raises(asyncpg.DataError):
            await scope.fetch("SELECT $1::int", "no number")
        await until(lambda: _is_idle(router), "the connection is idle again")
        async with world.shared.connect() as admin:
            open_for = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app' AND xact_start IS NOT NULL"
            assert await admin.fetchval(open_for) == 0
        assert await own_rows(scope) == rows_of(TENANT)


async def _is_idle(router: Any) -> bool:
    return all(pool.used == 0 and pool.resetting == 0 for pool in router.stats().pools)


async def test_a_prepare_in_a_transaction_leaves_it_open(world: World) -> None:
    async with one_connection(world) as router, router.tenant(TENANT).connection() as conn:
        async with conn.transaction():
            statement = await conn.prepare(OWN_ROWS)
            assert conn.is_in_transaction()
            assert [row["name"] for row in await statement.fetch()] == rows_of(TENANT)


async def test_a_prepare_in_a_failed_transaction_says_so(world: World) -> None:
    async with one_connection(world) as router, router.tenant(TENANT).connection() as conn:
        transaction = conn.transaction()
        await transaction.start()
        with pytest.raises(asyncpg.DivisionByZeroError):
            await conn.fetch("SELECT 1/0")
        with pytest.raises(asyncpg.InFailedSQLTransactionError):
            await conn.prepare(OWN_ROWS)
        await transaction.rollback()
        assert await own_rows(conn) == rows_of(TENANT)
