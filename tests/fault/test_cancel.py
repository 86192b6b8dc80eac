"""What does a caller leave behind who goes away, at any moment?"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import asyncpg
import pytest

from tenantproxy import PoolError
from tests.fault.conftest import Figure
from tests.support.chaos import ChaosProxy
from tests.support.checked import CheckedRouter, checked
from tests.support.database import Database
from tests.support.faults import Moment, cancel_at
from tests.support.waiting import until
from tests.support.world import World

KINDS = ("database1", "schema1", "row1")
COUNT = "SELECT count(*) FROM projects"
INSERTS = {
    "database1": "INSERT INTO projects (name) VALUES ('left behind')",
    "schema1": "INSERT INTO projects (name) VALUES ('left behind')",
    "row1": "INSERT INTO projects (tenant_id, name) VALUES ('row1', 'left behind')",
}
MOST_AWAITS = 40  # more than any of the jobs has; a job that needs them all would go on unnoticed

Job = Callable[[CheckedRouter, str], Awaitable[None]]


async def query(router: CheckedRouter, tenant: str) -> None:
    await router.tenant(tenant).fetchval(COUNT)


async def query_with_timeout(router: CheckedRouter, tenant: str) -> None:
    await router.tenant(tenant).fetchval(COUNT, timeout=5.0)


async def a_block(router: CheckedRouter, tenant: str) -> None:
    async with router.tenant(tenant).connection() as conn:
        await conn.execute("SET statement_timeout = '77s'")
        await conn.execute("SELECT pg_advisory_lock(4711)")
        await conn.fetch("SELECT name FROM projects")


async def a_transaction(router: CheckedRouter, tenant: str) -> None:
    with contextlib.suppress(KeyError):
        async with router.tenant(tenant).transaction() as conn:
            await conn.execute(INSERTS[tenant])
            async with conn.transaction():
                await conn.execute("SET LOCAL statement_timeout = '77s'")
                async for _ in conn.cursor("SELECT name FROM projects"):
                    pass
            raise KeyError("never committed")


async def copying(router: CheckedRouter, tenant: str) -> None:
    async def take(_: bytes) -> None:
        await asyncio.sleep(0)

    await router.tenant(tenant).copy_from_query("SELECT * FROM generate_series(1, 5000)", output=take)


async def copying_in(router: CheckedRouter, tenant: str) -> None:
    async def records() -> AsyncIterator[tuple[str]]:
        for n in range(2000):
            if n % 500 == 0:
                await asyncio.sleep(0)
            yield (f"left behind {n}",)

    with contextlib.suppress(KeyError):
        async with router.tenant(tenant).transaction() as conn:
            await conn.copy_records_to_table("projects", records=records(), columns=["name"])
            raise KeyError("never committed")


JOBS: tuple[Job, ...] = (query, query_with_timeout, a_block, a_transaction, copying, copying_in)


async def next_one_is_clean(router: CheckedRouter, tenant: str) -> None:
    """The same tenant, on the only connection there may be, finds its rows and nothing else."""
    async with router.tenant(tenant).connection(timeout=15.0) as conn:
        assert not conn.is_in_transaction()
        names = await conn.fetch("SELECT name FROM projects")
        assert sorted(row["name"] for row in names) == [f"{tenant} {n}" for n in (1, 2, 3)]
        assert await conn.fetchval("SHOW statement_timeout") == "30s"
        assert await conn.fetchval("SELECT pg_try_advisory_xact_lock(4711)")


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("tenant", KINDS)
@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.__name__)
@pytest.mark.parametrize("start", ["warm", "cold"])
async def test_a_caller_cancelled_at_any_await_leaves_nothing(
    lasting: World,
    figure: Figure,
    caplog: pytest.LogCaptureFixture,
    start: str,
    job: Job,
    tenant: str,
    moment: Moment,
) -> None:
    if job is copying_in and tenant == "row1":
        return  # PostgreSQL refuses COPY FROM into a table with policies
    other = tenant[:-1] + "2"
    async with ChaosProxy(lasting.server.host, lasting.server.port) as proxy:
        proxy.delay = 0.0005  # each message arrives in a step of the loop of its own
        settings = lasting.settings(
            servers={"primary": {"port": proxy.port, "max_connections": 6}}, pools={"max_size": 1, "shared_size": 1}
        )
        async with checked(settings, lasting) as router:
            for k in range(MOST_AWAITS):
                if start == "cold":
                    await router.expire_connections(tenant)
                else:
                    await query(router, other)  # for row tenants: the one connection is another tenant's
                    await until(lambda: router.is_at_rest, "its reset is over")
                if not await cancel_at(_awaited(job, router, tenant), k, moment):
                    break
                await next_one_is_clean(router, tenant)
                assert router.acquired == router.released
            else:
                raise AssertionError(f"a job of more than {MOST_AWAITS} awaits")
            figure("awaits", k)
            assert k > 0
    assert not caplog.records, "the driver failed in the dark"


async def _awaited(job: Job, router: CheckedRouter, tenant: str) -> None:
    await job(router, tenant)


@pytest.mark.parametrize("tenant", KINDS)
async def test_a_task_killed_in_a_transaction_is_rolled_back_and_its_connection_reset_before_the_next(
    lasting: World, tenant: str
) -> None:
    async with checked(lasting.settings(pools={"max_size": 1, "shared_size": 1}), lasting) as router:
        pids = set()
        for work in ("SELECT pg_sleep(30)", None):
            began = asyncio.Event()

            async def client(work: str | None = work, began: asyncio.Event = began) -> None:
                async with router.tenant(tenant).transaction() as conn:
                    pids.add(conn.get_server_pid())
                    await conn.execute(INSERTS[tenant])
                    await conn.execute("SET app.left_behind = 'yes'")
                    began.set()
                    if work is not None:
                        await conn.execute(work)
                    await asyncio.Event().wait()

            task = asyncio.create_task(client())
            await began.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            async with router.tenant(tenant).connection() as conn:
                assert not await conn.fetchval("SELECT current_setting('app.left_behind', true)")
                pids.add(conn.get_server_pid())
            await next_one_is_clean(router, tenant)
        assert len(pids) == 1


async def test_eighty_impatient_clients_never_put_more_backends_on_the_server_than_allowed(
    lasting: World, figure: Figure
) -> None:
    settings = lasting.settings(servers={"primary": {"max_connections": 10}}, pools={"max_waiting": 80})
    names = [tenant.id for tenant in lasting.tenants]
    ended: dict[str, int] = {}

    async def client(router: CheckedRouter, n: int) -> None:
        db = router.tenant(names[n % len(names)])
        for turn in range(4):
            try:
                async with asyncio.timeout(0.01 * ((n + turn) % 7 + 1)):
                    await db.fetchval("SELECT pg_sleep(0.5)", timeout=0.05 if turn % 2 else None)
                how = "served"
            except (TimeoutError, PoolError, asyncpg.QueryCanceledError) as exc:
                how = type(exc).__name__
            ended[how] = ended.get(how, 0) + 1

    most = samples = 0
    async with (
        checked(settings, lasting) as router,
        Database(server=lasting.server, name="postgres").connect() as admin,
    ):
        clients = asyncio.gather(*(client(router, n) for n in range(80)))
        while not clients.done() or samples < 20:
            count = await admin.fetchval("SELECT count(*) FROM pg_stat_activity WHERE usename = 'app'")
            most, samples = max(most, count), samples + 1
        await clients
        await until(lambda: router.is_at_rest, "nothing is under way")
        for name in names:
            assert await router.tenant(name).fetchval(COUNT, timeout=15.0) == 3
    figure("most_backends", most)
    figure("samples", samples)
    figure("ended", ended)
    assert most <= 10
