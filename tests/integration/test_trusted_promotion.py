"""Are row tenants of the trusted form as far apart on a standby, and on one that was promoted, as on its primary?"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import asyncpg
import pytest

from tenantproxy import Router
from tenantproxy.isolation.row import ENTER, window_us
from tenantproxy.model import Isolation, Proof
from tests.support.database import Database
from tests.support.entered import EnteredSession
from tests.support.leases import own_rows, rows_of
from tests.support.raw_house import a_raw_house, ask
from tests.support.sessions import READ, names
from tests.support.standby import a_replicated_world, keys_of
from tests.support.trusting import trust
from tests.support.world import APP_PASSWORD, APP_ROLE, SERVER

NO_TENANT = pytest.raises(asyncpg.InsufficientPrivilegeError, match="no valid tenant")


async def test_an_install_makes_sequences_again_that_a_promotion_has_emptied() -> None:
    """PostgreSQL (18.0 to 18.6 at least) loses the row of one that was created since the last restartpoint."""
    async with a_replicated_world(rows=0, schemas=0, databases=0) as made:
        await trust(made.world)
        await made.standby.catch_up()
        await asyncio.to_thread(made.standby.promote)
        promoted = Database(server=made.standby, name=made.world.shared.name)
        await trust(replace(made.world, server=made.standby, shared=promoted))
        async with promoted.connect(APP_ROLE, APP_PASSWORD) as conn:
            session = await EnteredSession.of(conn, made.world.signer(), "first")
            for tenant in ("row1", "row2"):
                await session.enter(tenant)
                assert await conn.fetchval("SELECT tenantproxy.bound_tenant()") == tenant
            bound = await EnteredSession.of(conn, made.world.signer())
            await bound.enter("row1")
            assert await conn.fetchval("SELECT tenantproxy.proved_tenant()") == "row1"


async def test_a_standby_lets_no_one_in_and_once_promoted_each_tenant_to_its_own_rows() -> None:
    async with a_replicated_world(rows=2, schemas=0, databases=0) as made:
        world, standby = made.world, made.standby
        await trust(world)
        for server in (world.server, standby):  # a restartpoint of the standby needs a checkpoint that it has replayed
            async with Database(server=server, name="postgres").connect() as admin:
                await admin.execute("CHECKPOINT")
            await standby.catch_up()
        shared = Database(server=standby, name=world.shared.name)
        async with shared.connect(APP_ROLE, APP_PASSWORD) as before:
            with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
                await before.fetchval("SELECT tenantproxy.hello()")
            with NO_TENANT:
                await before.fetch(READ)
            start, end = window_us(time.time(), 60)
            pid = before.get_server_pid()
            proof = world.signer().sign("row1", pid=pid, from_us=start, to_us=end)
            await before.execute(ENTER[Proof.CARRIED], "app.current_tenant_id", "row1", proof)
            assert await names(before) == rows_of("row1"), "a replica carries its proof, in this form too"
            await asyncio.to_thread(standby.promote)

            assert await names(before) == rows_of("row1"), "its proof is good for a while yet, and for this tenant"
            session = await EnteredSession.of(before, world.signer(), "first")
            await session.enter("row2")
            assert await names(before) == rows_of("row2")
            for hostile in ("SET backtrace_functions = '4102444800row1'", "SELECT tenantproxy.trust_again('row1', 1)"):
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await before.execute(hostile)
            await before.execute("RESET ALL")
            with NO_TENANT:
                await before.fetch(READ)
        settings = world.settings(servers={SERVER: keys_of(standby)}, row={"form": "trusted"}, pools={"shared_size": 1})
        async with Router(settings) as router, a_raw_house(settings) as house:
            for tenant in (*world.of(Isolation.ROW), *world.of(Isolation.ROW)):
                assert await own_rows(router.tenant(tenant.id)) == rows_of(tenant.id)
                async with house.leased(tenant) as backend:
                    seen = await ask(backend, "SELECT name FROM projects ORDER BY 1")
                    assert [row[0] for row in seen] == rows_of(tenant.id)
            assert not any(router.stats().violations.values())
