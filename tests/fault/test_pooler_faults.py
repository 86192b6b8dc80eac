"""What do callers hear of a PgBouncer that is paused, killed or started again? And do tenants mix then?"""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from tenantproxy import Router
from tenantproxy.connect.failures import LOST
from tenantproxy.embedded import EmbeddedPostgres
from tenantproxy.errors import PoolError, PoolTimeout, TenantProxyError
from tenantproxy.model import Isolation, Tenant
from tenantproxy.raw.exchange import SYNC_NOW, parse, query, run
from tests.integration.test_behind_pooler import a_router, sleepers
from tests.integration.test_port_behind_pooler import a_port
from tests.support.pooler import PGBOUNCER, PgBouncer, a_pooler
from tests.support.waiting import until
from tests.support.wire_client import Refused, WireClient, cancel
from tests.support.world import World, a_world

pytestmark = pytest.mark.skipif(PGBOUNCER is None, reason="apt-get install pgbouncer")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lasting(postgres: EmbeddedPostgres) -> AsyncIterator[World]:
    async with a_world(postgres) as made:
        async with made.shared.connect() as admin:
            for role in ("of_schema1", "of_schema2"):
                await admin.execute(f"ALTER ROLE {role} IN DATABASE {made.shared.name} SET search_path = ''")
        yield made


async def own_rows(router: Router, tenant: Tenant) -> int:
    rows = await router.tenant(tenant.id).fetch("SELECT name FROM projects")
    assert {row["name"] for row in rows} == {f"{tenant.id} {n}" for n in (1, 2, 3)}
    return len(rows)


async def test_a_paused_pooler_is_a_clean_error_and_serves_again(lasting: World) -> None:
    tenant = lasting.of(Isolation.ROW)[0]
    with a_pooler(lasting.server) as pooler:
        async with a_router(lasting, pooler, connect_timeout=1.0) as router, pooler.console() as console:
            await own_rows(router, tenant)
            await console.say("PAUSE")
            with pytest.raises(PoolTimeout, match=r"did not begin the transaction in time.*paused"):
                await own_rows(router, tenant)
            await console.say("RESUME")
            await own_rows(router, tenant)


async def test_a_killed_pooler_is_a_clean_error_and_serves_again(lasting: World) -> None:
    tenant = lasting.of(Isolation.ROW)[0]
    with a_pooler(lasting.server) as pooler:
        async with a_router(lasting, pooler) as router:
            with pytest.raises(LOST):  # noqa: PT012
                async with router.tenant(tenant.id).transaction() as conn:
                    await conn.execute("INSERT INTO projects (tenant_id, name) VALUES ($1, 'undone')", tenant.id)
                    pooler.kill()
                    pooler.start()
                    await conn.fetch("SELECT 1")
            await until_served(router, tenant)


async def until_served(router: Router, tenant: Tenant) -> None:
    for _ in range(200):
        with suppress(PoolError, *LOST):
            await own_rows(router, tenant)
            return
        await asyncio.sleep(0.05)
    await own_rows(router, tenant)


@pytest.mark.parametrize("ends", ["by a timeout", "by its task"])
async def test_a_cancelled_statement_ends_on_the_server_behind_the_pooler(lasting: World, ends: str) -> None:
    tenant, other = lasting.of(Isolation.ROW)
    with a_pooler(lasting.server, default_pool_size=1) as pooler:
        async with a_router(lasting, pooler) as router:
            scope = router.tenant(tenant.id)
            if ends == "by a timeout":
                with pytest.raises(TimeoutError):
                    await scope.fetch("SELECT pg_sleep(600)", timeout=0.3)
            else:
                task = asyncio.create_task(scope.fetch("SELECT pg_sleep(600)"))
                await until(lambda: sleepers(lasting), "it runs")
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            await own_rows(router, other)  # on the one server connection that there is
            assert await sleepers(lasting) == 0


async def test_a_server_that_ends_a_transaction_is_a_clean_error(lasting: World) -> None:
    tenant = lasting.of(Isolation.ROW)[0]
    with a_pooler(lasting.server) as pooler:
        async with a_router(lasting, pooler) as router, lasting.main.connect() as admin:
            with pytest.raises(LOST):  # noqa: PT012
                async with router.tenant(tenant.id).transaction() as conn:
                    pid = await conn.fetchval("SELECT pg_backend_pid()")
                    await admin.execute(f"SELECT pg_terminate_backend({pid})")
                    await conn.fetch("SELECT 1")
            await own_rows(router, tenant)


# --- all at once -----------------------------------------------------------------------------------------------------
CLEAN = (TenantProxyError, *LOST, asyncio.CancelledError, TimeoutError)


class Traffic:
    """Callers of all tenants, who look at every row that they get."""

    def __init__(self, router: Router, tenants: tuple[Tenant, ...], seed: int) -> None:
        self.router = router
        self.tenants = tenants
        self.random = random.Random(seed)
        self.served = 0
        self.ended = False

    async def run(self) -> None:
        while not self.ended:
            tenant = self.random.choice(self.tenants)
            call = self.random.choice((self.fetch, self.transaction, self.leave, self.transaction))
            task = asyncio.create_task(call(tenant))
            if self.random.random() < 0.3:
                await asyncio.sleep(self.random.random() * 0.01)
                task.cancel()
            try:
                await task
            except CLEAN:
                pass

    def see(self, tenant: Tenant, rows: list[asyncpg.Record]) -> None:
        assert len(rows) == 3, rows
        assert all(row["name"].startswith(f"{tenant.id} ") for row in rows), (tenant, rows)
        self.served += 1

    async def fetch(self, tenant: Tenant) -> None:
        self.see(tenant, await self.router.tenant(tenant.id).fetch("SELECT name FROM projects", timeout=5))

    async def transaction(self, tenant: Tenant) -> None:
        async with self.router.tenant(tenant.id).transaction() as conn:
            for _ in range(self.random.randint(1, 3)):
                self.see(tenant, await conn.fetch("SELECT name FROM projects", timeout=5))

    async def leave(self, tenant: Tenant) -> None:
        """What nothing reads for: a long text with a COMMIT, and rows behind it."""
        async with self.router.tenant(tenant.id).connection() as conn:
            text = f"SELECT '{'x' * 9000}'; COMMIT; SELECT 1/(count(*) - count(*)) FROM projects"
            with pytest.raises(CLEAN):
                await conn.execute(text)


async def test_tenants_never_mix_whatever_happens_to_the_pooler(lasting: World) -> None:
    tenants = (*lasting.of(Isolation.ROW), *lasting.of(Isolation.SCHEMA))
    with a_pooler(lasting.server, default_pool_size=1, server_reset_query="") as pooler:
        async with a_router(lasting, pooler, connect_timeout=2.0) as router, lasting.main.connect() as admin:
            traffic = [Traffic(router, tenants, seed) for seed in range(6)]
            tasks = [asyncio.create_task(each.run()) for each in traffic]
            try:
                for disturb in disturbances(lasting, pooler, admin):
                    await served_again(pooler, traffic, disturb)
                    assert not any(task.done() for task in tasks)
            finally:
                for each in traffic:
                    each.ended = True
                await asyncio.gather(*tasks)
            for tenant in tenants:
                await until_served(router, tenant)


async def served_again(
    pooler: PgBouncer, traffic: Sequence[Traffic], disturb: Callable[[], Coroutine[Any, Any, None]]
) -> None:
    """Disturb, and wait until all goes on.

    PgBouncer 1.18 may crash or turn in a loop at what is said to it while clients log in and cancel: then it is started
    again, as one more disturbance.
    """
    enough = sum(each.served for each in traffic) + 20
    with suppress(*LOST):
        await disturb()
    for last in (False,) * 7 + (True,):
        try:
            await until(lambda: enough <= sum(each.served for each in traffic), "they are served again", timeout=15)
            return
        except AssertionError:
            if last:
                raise
            await pooler.revive()


def disturbances(
    world: World, pooler: PgBouncer, admin: asyncpg.Connection
) -> list[Callable[[], Coroutine[Any, Any, None]]]:
    def say(*commands: str) -> Callable[[], Coroutine[Any, Any, None]]:
        async def said() -> None:
            async with pooler.console() as console:
                for command in commands:
                    await console.say(command)

        return said

    async def end_sessions() -> None:
        await admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", world.shared.name
        )

    async def cancel_all() -> None:
        await admin.execute("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE datname = $1", world.shared.name)

    async def restart() -> None:
        pooler.kill(signal.SIGKILL)
        pooler.start()

    async def other_size() -> None:
        pooler.write(default_pool_size=2, server_reset_query="DISCARD ALL", server_reset_query_always=1)
        await say("RELOAD")()

    name = world.shared.name
    return [
        say("RELOAD"), say("RECONNECT"), say("PAUSE", "RESUME"), end_sessions, cancel_all, restart,
        say(f"KILL {name}", f"RESUME {name}"), other_size, end_sessions, restart,
    ]  # fmt: skip


class PortTraffic(Traffic):
    """The same by clients of the port, who say what they like."""

    def __init__(self, port: int, tenants: tuple[Tenant, ...], seed: int) -> None:
        self.port = port
        self.tenants = tenants
        self.random = random.Random(seed)
        self.served = 0
        self.ended = False

    async def run(self) -> None:
        while not self.ended:
            tenant = self.random.choice(self.tenants)
            with suppress(Refused, OSError, asyncio.IncompleteReadError):
                client = await WireClient.connect(self.port, tenant.id, "all")
                try:
                    await self.use(client, tenant)
                finally:
                    client.abort()

    async def use(self, client: WireClient, tenant: Tenant) -> None:
        names = "SELECT name FROM projects"
        hidden = f"SELECT '{'x' * 9000}'; "
        pipelined = (parse(names, []) + run() + SYNC_NOW) * 3
        for _ in range(self.random.randint(1, 8)):
            setting = self.random.choice(("app.current_tenant_id", "search_path", "app.tenant_proof"))
            said, answers = self.random.choice(
                [
                    (query(names), 1),
                    (query("BEGIN") + query(names) + query("COMMIT"), 3),
                    (query("BEGIN ISOLATION LEVEL SERIALIZABLE, READ ONLY") + query(names) + query("ROLLBACK"), 3),
                    (pipelined, 3),
                    (parse("COMMIT", []) + run() + parse(names, []) + run() + SYNC_NOW, 1),
                    (query(f"{hidden}COMMIT; {names}"), 1),
                    (query(f"{hidden}ROLLBACK; BEGIN; {names}") + query(names) + query("COMMIT"), 3),
                    (query(f"SELECT set_config('{setting}', '', false)"), 1),
                    (query("SELECT pg_sleep(0.01)") + query(names), 2),
                ]
            )  # fmt: skip
            client.send(said)
            if self.random.random() < 0.15:
                await asyncio.sleep(self.random.random() * 0.01)
                return  # it leaves in the middle
            if self.random.random() < 0.15:
                await cancel(self.port, client.pid, client.secret)
            for _ in range(answers):
                answer = await client.answer()
                assert all(
                    (row[0] or "").startswith(f"{tenant.id} ") or len(row[0] or "") > 8000 or not row[0]
                    for row in answer.rows
                ), (tenant, answer)
                if not answer.status:
                    return
                self.served += bool(answer.rows)


async def test_clients_of_the_port_never_mix_whatever_happens_to_the_pooler(lasting: World) -> None:
    tenants = (*lasting.of(Isolation.ROW), *lasting.of(Isolation.SCHEMA))
    with a_pooler(lasting.server, default_pool_size=1, server_reset_query="") as pooler:
        async with a_port(lasting, pooler, connect_timeout=2.0) as port, lasting.main.connect() as admin:
            traffic = [PortTraffic(port, tenants, seed) for seed in range(6)]
            tasks = [asyncio.create_task(each.run()) for each in traffic]
            try:
                for disturb in disturbances(lasting, pooler, admin):
                    await served_again(pooler, traffic, disturb)
                    assert not any(task.done() for task in tasks)
            finally:
                for each in traffic:
                    each.ended = True
                await asyncio.gather(*tasks)
