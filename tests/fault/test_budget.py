"""Is the server's limit kept, and everybody served, when far more is asked for than there is?"""

from __future__ import annotations

import asyncio
import time

from tenantproxy.pools.base import TenantPoolStats
from tests.fault.conftest import Figure
from tests.support.checked import CheckedRouter, checked
from tests.support.database import Database
from tests.support.waiting import until
from tests.support.world import World, a_world

COUNT = "SELECT count(*) FROM projects"


async def most_backends(world: World, work: asyncio.Future[list[bool]]) -> tuple[int, int]:
    """The highest count that `pg_stat_activity` showed while `work` went on, and how often it was asked."""
    most = samples = 0
    async with Database(server=world.server, name="postgres").connect() as admin:
        while not work.done():
            count = await admin.fetchval("SELECT count(*) FROM pg_stat_activity WHERE usename = 'app'")
            most, samples = max(most, count), samples + 1
            await asyncio.sleep(0.005)
    return most, samples


async def test_a_storm_of_cold_tenants_is_served_within_the_budget_without_an_error_of_the_server(
    lasting: World, figure: Figure
) -> None:
    async with a_world(lasting.server, rows=10, schemas=5, databases=20) as world:
        settings = world.settings(
            servers={"primary": {"max_connections": 12}},
            pools={"acquire_timeout": 40.0, "max_pools": 15},
        )
        async with checked(settings, world) as router:

            async def call(n: int) -> bool:
                tenant = world.tenants[n % len(world.tenants)]
                names = await router.tenant(tenant.id).fetch("SELECT name FROM projects, pg_sleep(0.001)")
                return sorted(row["name"] for row in names) == [f"{tenant.id} {k}" for k in (1, 2, 3)]

            began = time.monotonic()
            storm = asyncio.gather(*(call(n) for n in range(600)))
            most, samples = await most_backends(world, storm)
            seconds = time.monotonic() - began
            assert all(await storm)
            figure("seconds", seconds)
            figure("most_backends", most)
            figure("samples", samples)
            figure("closed", dict(router.stats().closed))
            assert most <= 12
            assert samples > 5
            assert sum(counts["ok"] for counts in router.stats().acquires.values()) >= 600


async def test_a_noisy_tenant_of_a_shared_pool_leaves_the_others_served(lasting: World, figure: Figure) -> None:
    settings = lasting.settings(pools={"max_size": 4, "shared_size": 8, "max_waiting": 300})
    async with checked(settings, lasting) as router:
        alone = await latencies(router, rounds=30)
        quiet = asyncio.Event()

        async def shout() -> None:
            while not quiet.is_set():
                await router.tenant("row1").fetchval("SELECT pg_sleep(0.05)")

        noise = [asyncio.ensure_future(shout()) for _ in range(200)]
        await until(lambda: row1(router).waiting > 150, "it is noisy")
        with_noise = await latencies(router, rounds=30)
        assert row1(router).waiting > 150
        figure("p99_alone", alone[-1])
        figure("p99_with_noise", with_noise[-1])
        # Behind them all it would be 2.5 seconds each time, behind one of them 0.05.
        assert with_noise[len(with_noise) // 2] < 1.0
        assert row1(router).leased <= 4
        quiet.set()
        await asyncio.gather(*noise)


def row1(router: CheckedRouter) -> TenantPoolStats:
    """What the noisy tenant holds and waits for."""
    return next(one for pool in router.stats().pools for one in pool.tenants if one.tenant == "row1")


async def latencies(router: CheckedRouter, *, rounds: int) -> list[float]:
    """Seconds of each call of two polite tenants, sorted."""
    seconds = []
    for _ in range(rounds):
        for tenant in ("row2", "row3"):
            began = time.monotonic()
            assert await router.tenant(tenant).fetchval(COUNT) == 3
            seconds.append(time.monotonic() - began)
    return sorted(seconds)
