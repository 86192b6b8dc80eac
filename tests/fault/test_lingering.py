"""Is the server's limit kept when callers leave statements behind that cannot be cancelled?"""

from __future__ import annotations

import asyncio

import pytest

from tenantproxy.connect.watch import keep_socket
from tenantproxy.driver import connector as driver_side
from tenantproxy.driver import lender
from tenantproxy.errors import PoolTimeout, TenantProxyError
from tenantproxy.events import BackendLingers, LookFailed
from tenantproxy.router import Router
from tests.fault.conftest import Figure
from tests.fault.test_budget import COUNT, most_backends
from tests.support.checked import checked
from tests.support.database import Database
from tests.support.faults import frozen
from tests.support.waiting import until
from tests.support.world import World

BUDGET = 8
STUBBORN = "SELECT strpos(repeat('a', 100000), 'b' || repeat('a', 50000))"  # seconds, without a look at interrupts
PID = "SELECT pg_backend_pid()"


@pytest.fixture
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend that has not ended in so short a time counts as lingering."""
    monkeypatch.setattr(driver_side, "END_TIMEOUT", 0.2)
    monkeypatch.setattr(lender, "RESET_TIMEOUT", 0.2)


async def leave_behind(router: Router, tenant: str) -> bool:
    """Whether a statement began whose caller left soon after."""
    try:
        async with router.tenant(tenant).connection() as conn:
            await conn.fetchval(STUBBORN, timeout=0.05)
    except TimeoutError:
        return True
    except TenantProxyError:
        return False
    return False


@pytest.mark.usefixtures("hurry")
async def test_statements_that_cannot_be_cancelled_leave_the_server_within_its_budget(
    lasting: World, figure: Figure
) -> None:
    settings = lasting.settings(
        servers={"primary": {"max_connections": BUDGET}},
        pools={"max_size": 4, "shared_size": 6, "acquire_timeout": 1.0, "max_waiting": 300},
    )
    async with checked(settings, lasting) as router:
        flood = asyncio.gather(*(leave_behind(router, name) for name in ("row1", "database1") for _ in range(20)))
        most, samples = await most_backends(lasting, flood)
        assert await flood
        assert router.count(BackendLingers) > 2
        assert {event.tenant for event in router.events if isinstance(event, BackendLingers)} <= {"row1", "database1"}
        figure("most_backends", most)
        figure("samples", samples)
        figure("lingered", router.count(BackendLingers))
        assert most <= BUDGET
        budget = router.budgets["primary"]
        await until(lambda: not budget.lingering, "each of them has ended, and was heard to", timeout=60.0)
        assert await router.tenant("row1").fetchval(COUNT, timeout=30.0) == 3


@pytest.mark.usefixtures("hurry")
async def test_a_tenant_that_left_half_of_its_limit_behind_waits_and_the_others_do_not(lasting: World) -> None:
    settings = lasting.settings(
        servers={"primary": {"max_connections": BUDGET}}, pools={"max_size": 2, "shared_size": 4}
    )
    async with checked(settings, lasting) as router:
        row1 = router.tenant("row1")
        pid = await row1.fetchval(PID)
        (pool,) = [pool for pool in router.all_pools if pool.key.shared]
        await until(lambda: pool.stats().idle, "it is reset")
        with frozen(pid):
            with pytest.raises(TimeoutError):
                await row1.fetchval(COUNT, timeout=0.1)
            await until(lambda: pool.stats().lingering, "it lingers")
            with pytest.raises(PoolTimeout, match="1 still at work on the server"):
                async with row1.connection(timeout=0.1):
                    pass
            assert await router.tenant("row2").fetchval(COUNT) == 3
        await until(lambda: not pool.stats().lingering, "it ended when it could")
        assert await row1.fetchval(COUNT) == 3


async def test_a_look_ends_backends_whose_connections_were_lost_without_a_word(lasting: World) -> None:
    settings = lasting.settings(servers={"primary": {"max_connections": BUDGET}})
    async with checked(settings, lasting) as router:
        async with router.tenant("row1").connection() as conn:
            assert await conn.fetchval(COUNT) == 3
        (pool,) = [pool for pool in router.all_pools if pool.key.shared]
        await until(lambda: pool.stats().idle, "it is reset")
        (backend,) = list(pool.connections())
        connections = router.budgets["primary"]
        # What a partition does: neither side hears of the other any more, and the server waits for its client.
        sock = keep_socket(backend.con._transport)
        assert sock is not None
        with sock:
            backend.abort()
            backend.con.drop_left()
            pool.retire(backend, "error")
            await until(lambda: pool.stats().lingering or pool.is_empty, "it is left")
            assert pool.stats().lingering == 1
            await until(lambda: not connections.lingering, "the server was asked, and said that it is gone")
            assert not await backends(lasting, backend.pid)
        assert not router.count(LookFailed)


async def backends(world: World, pid: int) -> bool:
    """Whether the server has a process of that id."""
    async with Database(server=world.server, name="postgres").connect() as admin:
        found: bool = await admin.fetchval("SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1)", pid)
        return found
