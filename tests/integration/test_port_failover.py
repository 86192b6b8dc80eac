"""What do clients of the port hear of a failover, of a server that ends, and of two primaries? On both data paths."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator

import pytest

from tenantproxy.errors import ConnectFailed
from tenantproxy.events import ServerMovedTo
from tenantproxy.model import Isolation
from tests.support.failovers import PORT, WRITES, end_and_promote, fail_over, rows_of, write
from tests.support.port_house import a_port
from tests.support.standby import Replicated, Standby, a_replicated_world, address_of
from tests.support.waiting import until
from tests.support.world import SERVER

WRITE = WRITES[Isolation.DATABASE]

pytestmark = [
    pytest.mark.both_paths,
    pytest.mark.timeout(180),  # a base backup and a promotion, on a machine that may be busy
]


@pytest.fixture
async def replicated() -> AsyncIterator[Replicated]:
    """Two to fail over between."""
    async with a_replicated_world(rows=1, schemas=1, databases=1) as made:
        yield made


async def test_in_a_failover_idle_clients_notice_nothing_and_transactions_hear_57p01_once(
    replicated: Replicated,
) -> None:
    world, standby = replicated.world, replicated.standby
    servers = {SERVER: replicated.hosts()}
    async with a_port(world, real={SERVER: standby}, servers=servers, pools={"acquire_timeout": 60.0}) as house:
        await write(house, world)
        idle = [await house.client(tenant.id) for tenant in world.tenants]
        busy = [await house.client(tenant.id) for tenant in world.tenants]
        for client in idle:
            assert (await client.query("SELECT 1")).value == "1"
        for client in busy:
            assert (await client.query("BEGIN")).status == "T"
            assert (await client.query("SELECT 1")).value == "1"
        await fail_over(replicated)
        for client in idle:
            assert (await client.query(PORT)).value == str(standby.port)
        for client in busy:
            (error,) = (await client.rest()).errors
            assert error["C"] == "57P01"
        await write(house, world)
        (server,) = house.router.stats().servers
        assert (server.host, server.failovers, server.up) == (address_of(standby), 1, True)
        assert [event.host for event in house.router.events if isinstance(event, ServerMovedTo)][-1] == server.host


# --- a server that is ending -----------------------------------------------------------------------------------------
async def test_behind_a_server_that_shuts_down_callers_wait_for_the_next_one(replicated: Replicated) -> None:
    """57P03 to each new connection, while those that are there go on."""
    world, standby = replicated.world, replicated.standby
    (tenant,) = world.of(Isolation.DATABASE)
    servers = {SERVER: replicated.hosts()}
    async with a_port(world, real={SERVER: standby}, servers=servers, pools={"acquire_timeout": 60.0}) as house:
        await write(house, world)
        busy = await house.client(tenant.id)
        await busy.query("BEGIN")
        assert (await busy.query("SELECT 1")).value == "1"
        await standby.catch_up()
        os.kill(world.server.postmaster_pid, signal.SIGTERM)  # smart: it waits for its sessions

        async def is_refused() -> bool:
            try:
                async with world.main.connect():
                    return False
            except Exception as exc:  # noqa: BLE001 - the server's own word
                return getattr(exc, "sqlstate", "") == "57P03"

        await until(is_refused, "it takes no new session")
        clients = [await house.client(tenant.id) for _ in range(3)]
        waiting = [asyncio.create_task(client.query(PORT)) for client in clients]
        pool = house.pool(tenant.id)
        await until(
            lambda: sum(each.done() for each in waiting) + pool.stats().waiting == 3, "they wait, or are served"
        )
        assert pool.has_waiting
        assert (await busy.query("SELECT 2")).value == "2", "what is there goes on"
        await end_and_promote(replicated)
        told = {(await each).value for each in waiting}
        assert str(standby.port) in told
        assert told <= {str(world.server.port), str(standby.port)}
        (error,) = (await busy.rest()).errors
        assert error["C"] == "57P01"
        await write(house, world)


# --- two primaries ---------------------------------------------------------------------------------------------------
class Twin(Standby):
    """A copy of a primary that takes itself for the primary, on the same timeline."""

    def _create(self) -> None:
        super()._create()
        (self.data_dir / "standby.signal").unlink()


async def test_two_primaries_of_one_timeline_get_no_write_until_one_is_gone(replicated: Replicated) -> None:
    world = replicated.world
    (tenant,) = world.of(Isolation.DATABASE)
    with Twin(world.server) as twin:
        servers = {SERVER: {"hosts": [address_of(twin), address_of(world.server)]}}
        await asyncio.to_thread(twin.stop, "fast")
        async with a_port(world, servers=servers, pools={"acquire_timeout": 60.0}) as house:
            await write(house, world)
            busy = await house.client(tenant.id)
            await busy.query("BEGIN")
            assert (await busy.query(WRITE)).tags == ["INSERT 0 1"]
            before = await rows_of(world.server, world)
            await asyncio.to_thread(twin.start)
            (error,) = (await busy.rest()).errors
            assert error["C"] == "57P01"
            with pytest.raises(ConnectFailed, match="both say that they are its primary"):
                await house.router.tenant(tenant.id).execute(WRITE, timeout=2.0)
            client = asyncio.create_task(house.client(tenant.id))
            assert (await rows_of(world.server, world), await rows_of(twin, world)) == (before, before - 2)
            await asyncio.to_thread(twin.stop, "fast")
            assert (await (await client).query(WRITE)).tags == ["INSERT 0 1"]
            await write(house, world)
            assert await rows_of(world.server, world) == before + 3
