"""Do both lenders keep one policy? The same leases by asyncpg and as raw backends, on one real server."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from time import monotonic
from types import MappingProxyType
from typing import Any

import pytest

from tenantproxy.config import Settings
from tenantproxy.embedded import EmbeddedPostgres
from tenantproxy.errors import IsolationError, PoolTimeout, TenantProxyError
from tenantproxy.events import IsolationViolation, ResetFailed
from tenantproxy.model import Isolation, Tenant
from tenantproxy.pools import resets
from tests.contracts.sides import SIDES_AND_FORMS, Side, a_side, form_of, settled
from tests.support.lasting import a_lasting_world
from tests.support.trusting import trust
from tests.support.waiting import PATIENCE, until
from tests.support.world import World

each_side = pytest.mark.parametrize("name", SIDES_AND_FORMS)
NAMES = "SELECT name FROM projects ORDER BY 1"


@pytest.fixture(scope="module")
def lasting(postgres: EmbeddedPostgres) -> Iterator[World]:
    """One for all of these tests."""
    with a_lasting_world(postgres, each=2) as world:
        asyncio.run(trust(world))
        yield world


def one_connection(name: str, world: World) -> AbstractAsyncContextManager[Side]:
    return a_side(name, settings_of(name, world, pools={"max_size": 1, "shared_size": 1}))


def settings_of(name: str, world: World, *, pools: Mapping[str, Any] = MappingProxyType({})) -> Settings:
    """The form of row tenants is part of a side's name."""
    return world.settings(row={"form": form_of(name)}, pools=pools)


def rows_of(tenant: Tenant) -> list[list[str | None]]:
    return [[f"{tenant.id} {n}"] for n in (1, 2, 3)]


async def use(side: Side, tenant: Tenant) -> int:
    """Read what is the tenant's, and give the connection back; its process."""
    conn = await side.lease(tenant)
    assert await side.ask(conn, NAMES) == rows_of(tenant)
    side.release(conn, tenant)
    await settled(side)
    return int(conn.pid)


@asynccontextmanager
async def fenced(world: World, tenant: Tenant) -> AsyncIterator[None]:
    async with world.shared.connect() as admin:
        await admin.execute(
            "INSERT INTO tenantproxy.fenced_tenant (tenant_id, reason) VALUES ($1, 'a test')", tenant.id
        )
        yield
        await admin.execute("DELETE FROM tenantproxy.fenced_tenant")


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """A backend that answers nothing, until the end of the block."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@each_side
async def test_a_lease_reads_the_rows_of_its_tenant_and_no_others(lasting: World, name: str) -> None:
    async with a_side(name, settings_of(name, lasting)) as side:
        for tenant in lasting.tenants:
            await use(side, tenant)
        assert side.counters.resets["failed"] == side.counters.bind_failures == 0


@each_side
async def test_one_backend_serves_two_row_tenants_with_a_counted_reset_between(lasting: World, name: str) -> None:
    first, second = lasting.of(Isolation.ROW)
    async with one_connection(name, lasting) as side:
        assert await use(side, first) == await use(side, second)
        assert side.counters.resets == {"ok": 1, "failed": 0}
        assert side.counters.bind_failures == 0


@each_side
async def test_a_bind_that_the_database_refuses_is_a_violation_and_no_failed_reset(lasting: World, name: str) -> None:
    tenant = lasting.of(Isolation.ROW)[0]
    async with a_side(name, settings_of(name, lasting)) as side, fenced(lasting, tenant):
        with pytest.raises(IsolationError, match="refuses the proof"):
            await side.lease(tenant)
        assert side.counters.resets == {"ok": 0, "failed": 0}
        assert (side.counters.bind_failures, side.counters.violations["bind"]) == (1, 1), "it was tried again"
        assert [event for event in side.events if isinstance(event, IsolationViolation)]


@each_side
async def test_a_bind_without_an_answer_is_no_failed_reset(lasting: World, name: str) -> None:
    tenant = lasting.of(Isolation.ROW)[0]
    async with one_connection(name, lasting) as side:
        conn = await side.lease(tenant)
        conn.bound_until = 0.0  # its proof has ended: it is bound again before the next lease
        side.release(conn, tenant)
        with stopped(conn.pid), pytest.raises(PoolTimeout, match="could not be made the tenant's in time") as late:
            await side.lease(tenant, timeout=0.1)
        assert str(conn.pid) not in str(late.value)
        assert side.counters.resets == {"ok": 0, "failed": 0}
        assert (side.counters.bind_failures, side.counters.violations["bind"]) == (1, 0)
        await settled(side)


@each_side
async def test_a_reset_between_tenants_without_an_answer_is_a_failed_reset_alone(
    lasting: World, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = lasting.of(Isolation.ROW)
    async with one_connection(name, lasting) as side:
        pid = await use(side, first)
        with stopped(pid):
            with pytest.raises(PoolTimeout):
                await side.lease(second, timeout=0.1)
            monkeypatch.setattr(resets, "RESET_SECONDS", 0.0)
            side.manager.sweep()
            await until(lambda: side.counters.resets["failed"], "it was ended")
        assert side.counters.resets == {"ok": 0, "failed": 1}
        assert side.counters.bind_failures == 0
        assert sum(isinstance(event, ResetFailed) for event in side.events) == 1
        await settled(side)
        assert await use(side, second) != pid


@each_side
async def test_the_reset_of_what_a_tenant_left_costs_the_next_one_no_lease(
    lasting: World, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resets, "LATE_SECONDS", 0.05)
    first, second = lasting.of(Isolation.ROW)
    async with a_side(name, settings_of(name, lasting, pools={"max_size": 2, "shared_size": 2})) as side:
        conns = [await side.lease(first), await side.lease(first)]
        for conn in conns:
            side.release(conn, first)
        with stopped(conns[0].pid):
            conn = await side.lease(second, timeout=PATIENCE)
            assert conn is conns[1], "the first one's reset has no answer"
            assert await side.ask(conn, NAMES) == rows_of(second)
            (left,) = [one for one in side.manager if one.key.shared]
            assert left.stats().resetting == 1, "it is its former tenant's yet"
            side.release(conn, second)
        await settled(side)


@each_side
@pytest.mark.parametrize(("left", "is_renewed"), [(19.0, True), (25.0, False)])
async def test_a_proof_is_renewed_when_less_than_a_third_of_its_window_is_left(
    lasting: World, name: str, left: float, is_renewed: bool
) -> None:
    tenant = lasting.of(Isolation.ROW)[0]
    async with a_side(name, settings_of(name, lasting)) as side:
        conn = await side.lease(tenant)
        side.release(conn, tenant)
        conn.bound_until = monotonic() + left
        assert await side.lease(tenant) is conn
        assert (conn.bound_until > monotonic() + 40) == is_renewed
        side.release(conn, tenant)


@each_side
async def test_a_connection_that_ended_while_idle_costs_its_next_caller_another_one(lasting: World, name: str) -> None:
    first, second = lasting.of(Isolation.ROW)
    async with one_connection(name, lasting) as side:
        pid = await use(side, first)
        async with lasting.shared.connect() as admin:
            await admin.execute("SELECT pg_terminate_backend($1)", pid)
            assert await use(side, second) != pid
        assert side.counters.violations["bind"] == 0


@each_side
async def test_a_tenant_that_the_pool_refuses_hears_the_same_from_both(lasting: World, name: str) -> None:
    tenant = lasting.of(Isolation.DATABASE)[0]
    async with one_connection(name, lasting) as side:
        conn = await side.lease(tenant)
        with pytest.raises(TenantProxyError, match=r"no connection became free within 0\.05 s") as refused:
            await side.lease(tenant, timeout=0.05)
        assert (
            refused.value.detail == "all max_size = 1 connections of this tenant are lent, 0 more of this tenant wait"
        )
        side.release(conn, tenant)
        await until(lambda: side.manager.pool(side.route(tenant)).stats().idle, "it is idle again")
