"""What if a single backend freezes or dies?"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time

import asyncpg
import pytest

from tenantproxy import PoolError, Router
from tests.fault.conftest import Figure
from tests.support.checked import CheckedRouter, activity, checked
from tests.support.database import Database
from tests.support.faults import frozen
from tests.support.waiting import SLACK, until
from tests.support.world import World

KINDS = ("database1", "schema1", "row1")


async def pid_of(router: Router, tenant: str) -> int:
    pid: int = await router.tenant(tenant).fetchval("SELECT pg_backend_pid()")
    return pid


async def slowest(router: CheckedRouter, tenant: str, stop: asyncio.Event) -> float:
    """The longest call of a tenant that goes on working until `stop`."""
    worst = 0.0
    while not stop.is_set():
        began = time.monotonic()
        await router.tenant(tenant).fetchval("SELECT count(*) FROM projects")
        worst = max(worst, time.monotonic() - began)
    return worst


async def permits_cover(router: CheckedRouter, world: World) -> bool:
    """A connection may come between the two readings; one that is frozen stays, and counts in both."""
    backends = await activity(world.server)
    return router.stats().servers[0].connections >= backends


@pytest.mark.parametrize("tenant", KINDS)
async def test_a_frozen_backend_fails_its_query_at_the_deadline_and_nobody_else_notices(
    lasting: World, figure: Figure, tenant: str
) -> None:
    settings = lasting.settings(pools={"max_size": 3, "acquire_timeout": 15.0})
    async with checked(settings, lasting) as router:
        stop = asyncio.Event()
        pid = await pid_of(router, tenant)
        await until(lambda: router.is_at_rest, "its reset is over")
        async with asyncio.TaskGroup() as tasks:
            other = tasks.create_task(slowest(router, "database2", stop))
            with frozen(pid):
                began = time.monotonic()
                with pytest.raises(TimeoutError):
                    await router.tenant(tenant).fetchval("SELECT count(*) FROM projects", timeout=0.3)
                failed_after = time.monotonic() - began
                # The tenant has a second connection, and this frozen one must not hold it up.
                assert await asyncio.wait_for(pid_of(router, tenant), 5.0 + SLACK) != pid
                async with (
                    router.tenant(tenant).connection(timeout=15.0),
                    router.tenant(tenant).connection(timeout=15.0),
                ):
                    replaced_after = time.monotonic() - began
                    await until(lambda: permits_cover(router, lasting), "no permit is back before its backend is gone")
                stop.set()
        figure("seconds_to_fail", failed_after)
        figure("seconds_to_replace", replaced_after)
        figure("others_slowest_seconds", other.result())
        assert failed_after < 0.3 + SLACK
        assert replaced_after < 8.0 + SLACK
        assert other.result() < SLACK  # the frozen one is waited for longer


@pytest.mark.parametrize("tenant", KINDS)
async def test_a_backend_that_freezes_in_its_reset_does_not_hold_up_its_tenant(
    lasting: World, figure: Figure, tenant: str
) -> None:
    settings = lasting.settings(pools={"max_size": 2, "shared_size": 2, "acquire_timeout": 10.0})
    async with checked(settings, lasting) as router:
        async with router.tenant(tenant).connection() as conn:
            pid = conn.get_server_pid()
            os.kill(pid, signal.SIGSTOP)
        try:
            await until(lambda: any(pool.resetting for pool in router.stats().pools), "the reset hangs")
            began = time.monotonic()
            assert await pid_of(router, tenant) != pid
            figure("seconds_held_up", time.monotonic() - began)
            assert time.monotonic() - began < 3.5 + SLACK
        finally:
            os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("tenant", KINDS)
async def test_a_terminated_backend_is_a_typed_error_for_its_user_and_for_nobody_after(
    lasting: World, figure: Figure, tenant: str
) -> None:
    async with (
        Database(server=lasting.server, name="postgres").connect() as admin,
        checked(lasting.settings(pools={"max_size": 1}), lasting) as router,
    ):
        db = router.tenant(tenant)
        async with db.connection() as conn:
            sleeping = asyncio.ensure_future(conn.fetchval("SELECT pg_sleep(30)"))
            pid = conn.get_server_pid()
            asleep = "SELECT wait_event = 'PgSleep' FROM pg_stat_activity WHERE pid = $1"
            await until(lambda: admin.fetchval(asleep, pid), "it sleeps")
            await admin.execute("SELECT pg_terminate_backend($1)", pid)
            with pytest.raises(asyncpg.PostgresError) as caught:
                await sleeping
        assert caught.value.sqlstate in ("57P01", "08003")  # the driver tells whichever it reads first
        began = time.monotonic()
        assert await db.fetchval("SELECT count(*) FROM projects") == 3
        figure("recovery_seconds", time.monotonic() - began)


@pytest.mark.parametrize("tenant", KINDS)
async def test_idle_backends_that_were_terminated_cost_no_caller_an_error(lasting: World, tenant: str) -> None:
    async with (
        Database(server=lasting.server, name="postgres").connect() as admin,
        checked(lasting.settings(pools={"max_size": 4}), lasting) as router,
    ):
        db = router.tenant(tenant)
        async with contextlib.AsyncExitStack() as leases:
            pids = [(await leases.enter_async_context(db.connection())).get_server_pid() for _ in range(4)]
        assert len(set(pids)) == 4
        await until(lambda: router.is_at_rest, "all are idle")
        for pid in pids:
            await admin.execute("SELECT pg_terminate_backend($1, 5000)", pid)
        ended = [one for pool in router._parts.manager for one in pool.connections() if one.pid in pids]
        await until(
            lambda: all(one.con.is_closed() for one in ended),
            "the driver has read the end, not only the FATAL error",
        )
        names = await asyncio.gather(*(db.fetchval("SELECT min(name) FROM projects") for _ in range(12)))
        assert set(names) == {f"{tenant} 1"}


async def test_a_killed_backend_restarts_the_server_and_no_slot_is_lost(own: World, figure: Figure) -> None:
    settings = own.settings(pools={"max_size": 3, "acquire_timeout": 20.0})
    async with checked(settings, own) as router:
        errors: list[BaseException] = []
        served = dict.fromkeys(("database1", "row1"), 0)
        all_died_at = float("inf")
        served_at = dict.fromkeys(served, 0.0)

        async def work(tenant: str) -> None:
            while served_at[tenant] <= all_died_at:
                began = time.monotonic()
                try:
                    await router.tenant(tenant).fetchval("SELECT count(*) FROM projects", timeout=20.0)
                except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, PoolError) as exc:
                    errors.append(exc)
                    await asyncio.sleep(0.01)
                else:
                    served[tenant] += 1
                    served_at[tenant] = began

        async with asyncio.TaskGroup() as tasks:
            for tenant in served:
                for _ in range(6):
                    tasks.create_task(work(tenant))
            await until(lambda: min(served.values()) > 10, "every tenant is served")
            victim = next(iter(router.lent), None) or next(iter(router.all_pools[-1].connections()))
            open_then = [backend for pool in router.all_pools for backend in pool.connections()]
            killed_at = time.monotonic()
            os.kill(victim.pid, signal.SIGKILL)
            # Calls are served until the server has noticed, which may take it a while.
            await until(lambda: all(one.con.is_closed() for one in open_then), "the server ended every backend")
            all_died_at = time.monotonic()
        figure("errors", len(errors))
        figure("recovery_seconds", time.monotonic() - killed_at)
        assert time.monotonic() - killed_at < 15.0 + SLACK
