"""What if the whole server is away, restarts, is not ready, or is full?"""

from __future__ import annotations

import asyncio
import time
from typing import Literal

import asyncpg
import pytest

from tenantproxy import BudgetExhausted, ConnectFailed, PoolError
from tenantproxy.config import role_password
from tenantproxy.errors import problem_json
from tenantproxy.events import ConnectFailure, ServerDown, ServerUp
from tenantproxy.lifecycle.provisioner import ensure_role
from tests.fault.conftest import Figure, own_world
from tests.support.chaos import ChaosProxy
from tests.support.checked import CheckedRouter, checked
from tests.support.faults import NotReadyProxy, filled
from tests.support.outage import Outage
from tests.support.waiting import SLACK, until
from tests.support.world import ROLE_SECRET, World

# InternalClientError: the driver read the server's FATAL error on an idle connection, and its end not yet.
LOST = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, PoolError)
COUNT = "SELECT count(*) FROM projects"


@pytest.mark.parametrize("mode", ["fast", "immediate"])
async def test_work_goes_on_by_itself_after_the_server_was_restarted(
    own: World, figure: Figure, mode: Literal["fast", "immediate"]
) -> None:
    async with checked(own.settings(pools={"acquire_timeout": 10.0}), own) as router:
        outage = Outage("database1", "row1")

        async def work(tenant: str) -> None:
            while outage.goes_on(tenant):
                try:
                    assert await router.tenant(tenant).fetchval(COUNT, timeout=10.0) == 3
                except LOST as exc:
                    outage.errors.append(exc)
                    await asyncio.sleep(0.005)
                else:
                    outage.served(tenant)

        assert await outage.measure(own.server, mode, work, figure, workers=5) < 2.5 + SLACK


async def test_work_that_comes_while_the_server_is_away_for_a_moment_waits_and_is_served(
    lasting: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tenantproxy.pools.budget.BREAKER_SECONDS", 30.0)  # a moment, however slow this machine is
    async with ChaosProxy(lasting.server.host, lasting.server.port) as proxy:
        settings = lasting.settings(servers={"primary": {"port": proxy.port}}, pools={"acquire_timeout": 10.0})
        async with checked(settings, lasting) as router:
            proxy.refusing = True
            waiting = [asyncio.ensure_future(router.tenant(name).fetchval(COUNT)) for name in ("database1", "row1")]
            await until(lambda: router.count(ConnectFailure) >= 2, "the connects failed")
            proxy.heal()
            assert await asyncio.gather(*waiting) == [3, 3]
            assert router.count(ServerDown) == 0


async def test_a_server_that_is_starting_up_is_not_stormed_and_its_waiters_are_served(
    lasting: World, figure: Figure
) -> None:
    async with NotReadyProxy(lasting.server.host, lasting.server.port) as proxy:
        settings = lasting.settings(servers={"primary": {"port": proxy.port}}, pools={"acquire_timeout": 15.0})
        async with checked(settings, lasting) as router:
            proxy.answer = "57P03"
            tenants = [f"{kind}{n}" for kind in ("database", "schema", "row") for n in (1, 2, 3)]
            waiting = [asyncio.ensure_future(router.tenant(one).fetchval(COUNT)) for one in tenants for _ in range(20)]
            await until(lambda: proxy.answered and asyncio.get_running_loop().time() > proxy.answered[0] + 1.0, "1 s")
            proxy.answer = None
            assert set(await asyncio.gather(*waiting)) == {3}
            # At first each pool opens what it needs: six of ten and one of twenty. Then it tries one at a time,
            # after (0.05, 0.1, 0.2, 0.4, 0.8, ...) / 2 seconds or more: six times within 1 s at most.
            figure("callers", len(waiting))
            figure("connects_in_the_first_second", len(proxy.answered))
            assert len(proxy.answered) <= 80 + 7 * 6


async def test_callers_hear_that_a_server_is_starting_up(lasting: World) -> None:
    async with NotReadyProxy(lasting.server.host, lasting.server.port) as proxy:
        async with checked(lasting.settings(servers={"primary": {"port": proxy.port}}), lasting) as router:
            proxy.answer = "57P03"
            with pytest.raises(ConnectFailed, match="starting up") as caught:
                await router.tenant("database1").fetchval(COUNT, timeout=1.5)
            assert caught.value.retry_after
            proxy.answer = None


async def test_a_server_filled_by_others_is_a_503_and_recovers(figure: Figure) -> None:
    async with own_world(max_connections=16) as own:
        async with checked(own.settings(pools={"max_size": 6}), own) as router:
            async with filled(own.main) as taken:
                # Idle connections would make room: so all that are open are in use.
                async with router.main().connection(), router.tenant("row1").connection():
                    with pytest.raises(BudgetExhausted) as caught:
                        await router.tenant("database1").fetchval(COUNT, timeout=1.5)
                assert (caught.value.sqlstate, caught.value.http_status) == ("53300", 503)
                assert caught.value.retry_after
                assert problem_json(caught.value)["status"] == 503
                assert await router.tenant("row1").fetchval(COUNT) == 3  # on a connection that was open before
                for conn in (taken.pop(), taken.pop(), taken.pop(), taken.pop()):
                    await conn.close()
                for share, callers in (("100 %", 4), ("120 %", 5), ("500 %", 20)):
                    figure(f"success_rate_at_{share}", await success_rate(router, callers))
            began = time.monotonic()
            assert await router.tenant("database1").fetchval(COUNT) == 3
            figure("recovery_seconds", time.monotonic() - began)


async def success_rate(router: CheckedRouter, callers: int) -> float:
    """Of `callers` at a time, half of each tenant, who found the server nearly full."""

    async def call(n: int) -> int:
        tenant = "database1" if n % 2 else "row1"
        count: int = await router.tenant(tenant).fetchval(COUNT + ", pg_sleep(0.01)")
        return count

    answers = await asyncio.gather(*(call(n) for n in range(callers)), return_exceptions=True)
    assert set(answers) == {3}, answers
    return sum(answer == 3 for answer in answers) / callers


@pytest.mark.parametrize("limit", ["database", "role"])
async def test_a_connection_limit_on_one_database_or_role_limits_only_its_tenant(figure: Figure, limit: str) -> None:
    async with own_world(rows=1, schemas=1, databases=2) as own:
        limited = own.tenants[-1]
        database = limited.placement.database
        async with own.database(limited).connect() as admin:
            if limit == "database":
                await admin.execute(f'ALTER DATABASE "{database}" CONNECTION LIMIT 2')
            else:
                await ensure_role(admin, "only", password=role_password(ROLE_SECRET, "primary", "only"))
                await admin.execute(
                    f'ALTER ROLE "only" CONNECTION LIMIT 2; GRANT CONNECT ON DATABASE "{database}" TO "only"'
                )
                await admin.execute('GRANT USAGE ON SCHEMA public TO "only"; GRANT SELECT ON projects TO "only"')
        settings = own.settings(
            pools={"max_size": 6, "acquire_timeout": 10.0},
            tenants={
                limited.id: {"isolation": "database", "database": database}
                | ({"role": "only"} if limit == "role" else {})
            },
        )
        errors: dict[str, int] = {}

        async def call(router: CheckedRouter, tenant: str) -> None:
            try:
                await router.tenant(tenant).fetchval("SELECT count(*) FROM projects, pg_sleep(0.01)")
            except BudgetExhausted:
                errors[tenant] = errors.get(tenant, 0) + 1

        async with checked(settings, own) as router:
            for _ in range(2):
                await asyncio.gather(*(call(router, tenant.id) for tenant in own.tenants for _ in range(12)))
            figure("errors_of_others", sum(count for tenant, count in errors.items() if tenant != limited.id))
            figure("errors_of_the_limited", errors.get(limited.id, 0))
            assert not errors.keys() - {limited.id}
            pools = {pool.label: pool for pool in router.stats().pools}
            assert 1 <= pools[limited.id].idle + pools[limited.id].resetting <= 2


async def test_a_stopped_server_fails_callers_fast_and_its_breaker_closes_by_itself(own: World, figure: Figure) -> None:
    async with checked(own.settings(pools={"acquire_timeout": 10.0}), own) as router:
        assert await router.tenant("database1").fetchval(COUNT) == 3
        await asyncio.to_thread(own.server.stop)
        stopped_at = time.monotonic()
        with pytest.raises(ConnectFailed, match="cannot be reached"):
            await router.tenant("database1").fetchval(COUNT)
        figure("breaker_opens_after_seconds", time.monotonic() - stopped_at)
        assert time.monotonic() - stopped_at < 1.0 + SLACK
        assert router.count(ServerDown) == 1
        assert not router.stats().servers[0].up
        for tenant in ("database1", "row1"):
            began = time.monotonic()
            with pytest.raises(ConnectFailed):
                await router.tenant(tenant).fetchval(COUNT)
            figure(f"seconds_to_fail_{tenant}", time.monotonic() - began)
            assert time.monotonic() - began < 0.1 + SLACK  # not when the wait for a connection is over
        await asyncio.to_thread(own.server.start)
        back_at = time.monotonic()
        await until(lambda: router.count(ServerUp) == 1, "the breaker closed without a caller")
        figure("breaker_closes_after_seconds", time.monotonic() - back_at)
        for tenant in ("database1", "row1"):
            assert await router.tenant(tenant).fetchval(COUNT) == 3
        figure("served_again_after_seconds", time.monotonic() - back_at)
        assert time.monotonic() - back_at < 3.0 + SLACK


async def test_closing_does_not_wait_for_a_server_that_is_down(own: World, figure: Figure) -> None:
    async with checked(own.settings(), own) as router:
        await asyncio.to_thread(own.server.stop)
        with pytest.raises(ConnectFailed):
            await router.tenant("database1").fetchval(COUNT)
        await until(lambda: router.count(ServerDown), "the breaker is open")
        began = time.monotonic()
        await router.close()
        figure("seconds_to_close", time.monotonic() - began)
        assert time.monotonic() - began < 1.0 + SLACK
