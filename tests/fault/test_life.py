"""What if pools and routers end while they are in use?"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import asyncpg
import pytest

from tenantproxy import PoolClosed, PoolError, RegistryUnavailable, TenantSuspended
from tenantproxy.errors import TenantEnded
from tenantproxy.events import PoolEvicted
from tenantproxy.model import Tenant, TenantId, TenantStatus
from tenantproxy.registry import MemoryRegistry
from tests.fault.conftest import Figure
from tests.support.chaos import ChaosProxy
from tests.support.checked import CheckedRouter, activity, audit_closed, checked
from tests.support.faults import AtAwait, Moment, cancel_at
from tests.support.waiting import PATIENCE, SLACK, until
from tests.support.world import World

COUNT = "SELECT count(*) FROM projects"
KINDS = ("database1", "schema1", "row1")


def pools_of(router: CheckedRouter) -> dict[str, Any]:
    return {pool.label: pool for pool in router.stats().pools}


async def pid(router: CheckedRouter, tenant: str) -> int:
    found: int = await router.tenant(tenant).fetchval("SELECT pg_backend_pid()")
    return found


# --- eviction --------------------------------------------------------------------------------------------------------
async def test_the_least_recently_used_quiet_pool_goes_and_its_tenant_is_served_anew(lasting: World) -> None:
    async with checked(lasting.settings(pools={"max_pools": 2}), lasting) as router:
        before = await pid(router, "database1")  # the shared pool of the row tenants is the other one
        await pid(router, "row1")
        await until(lambda: router.is_at_rest, "all is quiet")
        await pid(router, "database2")
        evicted = [event for event in router.events if isinstance(event, PoolEvicted)]
        assert [(event.pool, event.reason) for event in evicted] == [("database1", "lru")]
        assert len(router.stats().pools) == 1 + 2
        assert await pid(router, "database1") != before
        assert router.stats().opened["reopen"] == 1


async def test_a_pool_is_not_evicted_while_leased_waited_for_or_connecting(lasting: World) -> None:
    async with checked(lasting.settings(pools={"max_pools": 1, "max_size": 1}), lasting) as router:
        async with router.tenant("database1").connection() as conn:
            waiting = asyncio.ensure_future(pid(router, "database1"))
            await until(lambda: pools_of(router)["database1"].waiting == 1, "a waiter is queued")
            others = [asyncio.ensure_future(pid(router, name)) for name in ("database2", "schema1", "row2")]
            await asyncio.gather(*others)
            assert await conn.fetchval("SELECT 1") == 1
            assert not waiting.done()
            held = conn.get_server_pid()
        assert await waiting == held, "the pool was evicted under its waiter"
        await until(lambda: len(router.stats().pools) <= 1 + 1, "the overshoot is gone")


async def test_connections_that_are_told_to_expire_close_at_once_when_idle_and_on_return_when_lent(
    lasting: World,
) -> None:
    for tenant in KINDS:
        async with checked(lasting.settings(), lasting) as router:
            async with router.tenant(tenant).connection() as conn:
                async with router.tenant(tenant).connection() as second:
                    idle = second.get_server_pid()
                await until(lambda: any(pool.idle for pool in router.stats().pools if pool.used), "one is idle")
                await router.expire_connections(tenant)
                lent = conn.get_server_pid()
                assert await conn.fetchval(COUNT) == 3
            await until(lambda: router.is_at_rest, "both are gone")
            assert await pid(router, tenant) not in (idle, lent)


async def test_a_tenant_suspended_while_leased_and_waited_for_ends_at_once(lasting: World) -> None:
    registry = MemoryRegistry(lasting.tenants)
    tenant = next(one for one in lasting.tenants if one.id == "database1")
    settings = lasting.settings(pools={"max_size": 1, "acquire_timeout": 10.0})
    async with checked(settings, lasting, registry=registry) as router:
        async with router.tenant("database1").connection() as conn:
            waiting = asyncio.ensure_future(pid(router, "database1"))
            await until(lambda: pools_of(router)["database1"].waiting == 1, "a waiter is queued")
            registry.add(replace(tenant, status=TenantStatus.SUSPENDED))
            began = time.monotonic()
            with pytest.raises(TenantSuspended):
                await pid(router, "database1")
            with pytest.raises(TenantEnded):
                await waiting
            assert time.monotonic() - began < 1.0 + SLACK  # not when the wait for a connection is over
            with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError)):
                await conn.fetchval(COUNT)
        await until(lambda: router.is_at_rest, "the pool's last connection is gone")
        assert "database1" not in pools_of(router)
        registry.add(tenant)
        assert await router.tenant("database1").fetchval(COUNT) == 3


class AskedTwice(MemoryRegistry):
    """Answers the first question for a tenant only when told to, with what was true when it was asked."""

    def __init__(self, tenants: Iterable[Tenant], slow: str) -> None:
        super().__init__(tenants)
        self.slow = slow
        self.answer = asyncio.Event()
        self.asked = 0

    async def get(self, tenant: TenantId) -> Tenant:
        found = await super().get(tenant)
        if tenant == self.slow:
            self.asked += 1
            if self.asked == 1:
                await self.answer.wait()
        return found


async def test_an_answer_from_before_a_suspension_serves_who_asked_before_it_and_nobody_after(lasting: World) -> None:
    registry = AskedTwice(lasting.tenants, "database1")
    tenant = next(one for one in lasting.tenants if one.id == "database1")
    async with checked(lasting.settings(), lasting, registry=registry) as router:
        before = asyncio.ensure_future(pid(router, "database1"))
        await until(lambda: registry.asked, "the registry is asked")
        registry.add(replace(tenant, status=TenantStatus.SUSPENDED))
        with pytest.raises(TenantSuspended):
            await pid(router, "database1")
        registry.answer.set()
        assert await before
        with pytest.raises(TenantSuspended):
            await pid(router, "database1")


async def test_a_pool_that_is_connecting_to_a_silent_server_does_not_hold_up_the_end_of_its_tenant(
    lasting: World,
) -> None:
    registry = MemoryRegistry(lasting.tenants)
    tenant = next(one for one in lasting.tenants if one.id == "schema1")
    async with ChaosProxy(lasting.server.host, lasting.server.port) as proxy:
        settings = lasting.settings(servers={"primary": {"port": proxy.port, "connect_timeout": 1.0}})
        async with checked(settings, lasting, registry=registry) as router:
            proxy.unresponsive = True
            waiting = asyncio.ensure_future(pid(router, "schema1"))
            await until(lambda: "schema1" in pools_of(router) and pools_of(router)["schema1"].opening, "it connects")
            registry.add(replace(tenant, status=TenantStatus.SUSPENDED))
            with pytest.raises(TenantSuspended):
                await pid(router, "schema1")
            with pytest.raises(TenantEnded):
                await waiting
            proxy.heal()


# --- closing ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("tenant", KINDS)
@pytest.mark.parametrize("work", ["idle", "busy", "transaction"])
async def test_closing_with_leases_out_ends_them_after_the_grace_and_their_users_hear_of_it(
    lasting: World, figure: Figure, tenant: str, work: str
) -> None:
    router = CheckedRouter(lasting.settings())
    await router.open()
    leased = asyncio.Event()

    async def user() -> None:
        async with router.tenant(tenant).connection() as conn:
            if work == "transaction":
                await conn.execute("BEGIN")
            leased.set()
            if work == "busy":
                await conn.execute("SELECT pg_sleep(30)")
            else:
                await closed.wait()
                await conn.execute("SELECT 1")

    closed = asyncio.Event()
    task = asyncio.create_task(user())
    await leased.wait()
    began = time.monotonic()
    await router.close(timeout=0.2)
    figure("seconds_to_close", time.monotonic() - began)
    assert time.monotonic() - began < 1.5 + SLACK
    closed.set()
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
        await task
    await audit_closed(router, [lasting.server])


async def test_closing_lets_short_work_finish_and_refuses_new_work(lasting: World) -> None:
    async with checked(lasting.settings(), lasting) as router:
        working = [asyncio.ensure_future(router.tenant(one).fetchval(COUNT + ", pg_sleep(0.2)")) for one in KINDS]
        await until(lambda: len(router.lent) == 3, "all work")
        closing = asyncio.ensure_future(router.close())
        await until(lambda: not router.is_open, "it closes")
        with pytest.raises(PoolClosed):
            await router.tenant("row1").fetchval(COUNT)
        assert await asyncio.gather(*working) == [3, 3, 3]
        await closing


async def test_closing_fails_those_who_wait_at_once(lasting: World) -> None:
    async with checked(lasting.settings(pools={"max_size": 1, "shared_size": 1}), lasting) as router:
        async with contextlib.AsyncExitStack() as leases:
            for tenant in KINDS:
                await leases.enter_async_context(router.tenant(tenant).connection())
            waiting = [asyncio.ensure_future(pid(router, one)) for one in KINDS for _ in range(3)]
            await until(lambda: sum(pool.waiting for pool in router.stats().pools) == 9, "nine wait")
            closing = asyncio.ensure_future(router.close())
            answers = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 1.0 + SLACK)
            assert all(isinstance(answer, PoolClosed) for answer in answers), answers
        await closing


async def test_closing_while_connecting_does_not_wait_for_a_silent_server_and_leaves_nothing(
    lasting: World, figure: Figure
) -> None:
    async with ChaosProxy(lasting.server.host, lasting.server.port) as proxy:
        settings = lasting.settings(servers={"primary": {"port": proxy.port, "connect_timeout": 30.0}})
        async with checked(settings, lasting) as router:
            await router.tenant("row1").fetchval(COUNT)
            await until(lambda: router.is_at_rest, "all is quiet")
            proxy.unresponsive = True
            waiting = [asyncio.ensure_future(pid(router, one)) for one in ("database1", "schema1")]
            await until(lambda: sum(pool.opening for pool in router.stats().pools) == 2, "two connect")
            began = time.monotonic()
            await router.close(timeout=0.2)
            figure("seconds_to_close", time.monotonic() - began)
            assert time.monotonic() - began < 2.0 + SLACK
            for one in waiting:
                with pytest.raises(PoolError):
                    await one


async def test_closing_at_any_await_of_open_ends_both_and_leaves_nothing(lasting: World, figure: Figure) -> None:
    async with ChaosProxy(lasting.server.host, lasting.server.port) as proxy:
        proxy.delay = 0.0005
        settings = lasting.settings(registry="postgres", servers={"primary": {"port": proxy.port}})
        for k in range(40):
            router = CheckedRouter(settings)
            closing: list[asyncio.Task[None]] = []

            def close(router: CheckedRouter = router, closing: list[asyncio.Task[None]] = closing) -> None:
                closing.append(asyncio.create_task(router.close(timeout=0.5)))

            with contextlib.suppress(PoolError, RegistryUnavailable):
                await AtAwait(router.open(), k, close)
            if not closing:
                await router.close()
            await asyncio.gather(*closing)
            assert not router.is_open
            await audit_closed(router, [lasting.server])
            if not closing:
                break
        figure("awaits", k)
        assert 3 < k < 39


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_open_that_is_cancelled_at_any_await_leaves_nothing(
    lasting: World, figure: Figure, moment: Moment
) -> None:
    async with ChaosProxy(lasting.server.host, lasting.server.port) as proxy:
        proxy.delay = 0.0005
        settings = lasting.settings(registry="postgres", servers={"primary": {"port": proxy.port}})
        for k in range(40):
            router = CheckedRouter(settings)
            was_cancelled = await cancel_at(router.open(), k, moment)
            await router.close()
            await audit_closed(router, [lasting.server])
            if not was_cancelled:
                break
        figure("awaits", k)
        assert 3 < k < 39


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_a_close_that_is_cancelled_at_any_await_goes_on_to_its_end(lasting: World, moment: Moment) -> None:
    for k in range(10):
        router = CheckedRouter(lasting.settings(registry="postgres"))
        await router.open()
        assert await router.tenant("row2").fetchval(COUNT) == 3
        was_cancelled = await cancel_at(router.close(), k, moment)
        assert not router.is_open
        await router.close()
        await audit_closed(router, [lasting.server])
        if not was_cancelled:
            return
    raise AssertionError("close has more awaits than it should")


async def test_closing_leaves_nothing_of_a_tenant_whose_leases_a_suspension_has_ended(lasting: World) -> None:
    registry = MemoryRegistry(lasting.tenants)
    tenant = next(one for one in lasting.tenants if one.id == "database1")
    router = CheckedRouter(lasting.settings(), registry=registry)
    await router.open()
    async with router.tenant("database1").connection() as conn:
        registry.add(replace(tenant, status=TenantStatus.SUSPENDED))
        with pytest.raises(TenantSuspended):
            await pid(router, "database1")
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError)):
            await conn.fetchval(COUNT)
        await router.close(timeout=0.1)
    await audit_closed(router, [lasting.server])


async def test_a_router_that_is_opened_while_it_closes_is_open_afterwards(lasting: World) -> None:
    router = CheckedRouter(lasting.settings())
    await router.open()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(router.close())
        await asyncio.sleep(0)
        tasks.create_task(router.open())
    assert router.is_open
    assert await router.tenant("row2").fetchval(COUNT) == 3
    await router.close()
    await audit_closed(router, [lasting.server])


class OpensWhenTold(MemoryRegistry):
    """Its first opening waits, and then fails if it was told to."""

    def __init__(self, tenants: Iterable[Tenant], *, fails: bool) -> None:
        super().__init__(tenants)
        self.may_open = asyncio.Event()
        self.fails = fails
        self.opened = 0

    async def open(self) -> None:
        self.opened += 1
        if self.opened == 1:
            await self.may_open.wait()
            if self.fails:
                raise RegistryUnavailable("not now")


@pytest.mark.parametrize("fails", [False, True])
async def test_who_opens_a_router_that_is_being_opened_waits_until_it_is_open(lasting: World, fails: bool) -> None:
    registry = OpensWhenTold(lasting.tenants, fails=fails)
    router = CheckedRouter(lasting.settings(), registry=registry)
    first = asyncio.ensure_future(router.open())
    await until(lambda: registry.opened, "it is being opened")
    second = asyncio.ensure_future(router.open())
    await until(lambda: router.is_open, "the first has begun")
    assert not second.done()
    registry.may_open.set()
    answers = await asyncio.gather(first, second, return_exceptions=True)
    assert [type(answer) for answer in answers] == [RegistryUnavailable if fails else type(None), type(None)]
    assert (router.is_open, registry.opened) == (True, 2 if fails else 1)
    assert await router.tenant("row2").fetchval(COUNT) == 3
    await router.close()
    await audit_closed(router, [lasting.server])


# --- more than one ---------------------------------------------------------------------------------------------------
async def test_two_routers_in_one_process_know_nothing_of_each_other(lasting: World) -> None:
    async with CheckedRouter(lasting.settings()) as first:
        async with CheckedRouter(lasting.settings()) as second:
            assert await first.tenant("row1").fetchval(COUNT) == await second.tenant("row2").fetchval(COUNT) == 3
            ours = sum(server.connections for one in (first, second) for server in one.stats().servers)
            await until(lambda: first.is_at_rest and second.is_at_rest, "all is quiet")
            assert await activity(lasting.server) == ours
        assert await first.tenant("row2").fetchval("SELECT min(name) FROM projects") == "row2 1"
    for router in (first, second):
        await audit_closed(router, [lasting.server])


async def test_a_closed_router_opens_again_and_its_counters_go_on(lasting: World) -> None:
    router = CheckedRouter(lasting.settings())
    for turn in (1, 2, 3):
        await router.open()
        for tenant in ("database1", "schema1", "row2"):
            assert await router.tenant(tenant).fetchval(COUNT) == 3
            assert router.stats().acquires[tenant]["ok"] == turn
        await router.close()
        await audit_closed(router, [lasting.server])
        with pytest.raises(PoolClosed, match="not open"):
            await router.tenant("row1").fetchval(COUNT)


def test_a_router_belongs_to_the_event_loop_that_opened_it_until_it_is_closed(lasting: World) -> None:
    router = CheckedRouter(lasting.settings())

    async def use() -> int:
        count: int = await router.tenant("row1").fetchval(COUNT)
        return count

    async def open_and_hold(ready: threading.Event, done: threading.Event) -> None:
        async with router:
            assert await use() == 3
            ready.set()
            await asyncio.to_thread(done.wait, 10)
        await audit_closed(router, [lasting.server])

    ready, done = threading.Event(), threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(open_and_hold(ready, done)))
    thread.start()
    assert ready.wait(PATIENCE)
    try:
        with pytest.raises(PoolClosed, match="another event loop"):
            asyncio.run(use())
        with pytest.raises(PoolClosed, match="another event loop"):
            asyncio.run(router.main().fetchval("SELECT 1"))
    finally:
        done.set()
        thread.join(PATIENCE)

    async def again() -> None:
        async with router:
            assert await use() == 3
        await audit_closed(router, [lasting.server])

    asyncio.run(again())
