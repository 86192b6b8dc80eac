"""Which clients of the port read from a replica, and where do they read when it cannot serve them?"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio

from tenantproxy.model import Isolation
from tests.support.database import Database
from tests.support.port_house import a_port, users
from tests.support.standby import REPLICA, Replicated, a_replicated_world, keys_of
from tests.support.waiting import until
from tests.support.wire_client import PASSWORD, Refused
from tests.support.world import SERVER

PORT = "SELECT inet_server_port()"
NAMES = "SELECT name FROM projects ORDER BY 1"
READER = {"password": PASSWORD, "tenants": "*", "replica": True}

pytestmark = pytest.mark.timeout(180)  # a base backup, on a machine that may be busy


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lasting() -> AsyncIterator[Replicated]:
    """A primary and its replica."""
    async with a_replicated_world(rows=2, schemas=1, databases=1) as made:
        yield made


async def test_a_client_reads_from_the_replica_while_it_asks_to(lasting: Replicated) -> None:
    world = lasting.world
    ports = {True: str(lasting.standby.port), False: str(world.server.port)}
    real = {SERVER: world.server, REPLICA: lasting.standby}
    pg = {"users": users(reader=READER)}
    async with a_port(world, real=real, servers=lasting.servers(), pg=pg, pools={"shared_size": 1}) as house:
        for tenant in (*world.tenants, *world.tenants):
            own = [[f"{tenant.id} {number}"] for number in (1, 2, 3)]
            async with house.a_client(tenant.id) as client, house.a_client(tenant.id, "reader") as reader:
                assert (await client.query(PORT)).value == ports[False]
                assert (await reader.query(PORT)).value == ports[True]
                for sql, tag, is_replica in (
                    ("SET tenantproxy.replica = on", "SET", True),
                    ("set session TenantProxy.replica to 'off' ;", "SET", False),
                    ("SET tenantproxy.replica TO true", "SET", True),
                ):
                    answer = await client.query(sql)
                    assert (answer.tags, answer.status) == ([tag], "I")
                    assert (await client.query(PORT)).value == ports[is_replica]
                    assert (await client.query(NAMES)).rows == own
                assert (await client.query("CREATE TABLE t ()")).sqlstate == "25006"
                assert (await client.query("SELECT pg_is_in_recovery()")).value == "t"
                assert (await client.query("RESET tenantproxy.replica")).tags == ["RESET"]
                assert (await client.query(PORT)).value == ports[False]
                await reader.query("SET tenantproxy.replica = off")
                assert (await reader.query(PORT)).value == ports[False]
                await reader.query("RESET tenantproxy.replica")
                assert (await reader.query(PORT)).value == ports[True]
            async with house.a_client(tenant.id, options="-c tenantproxy.replica=on") as client:
                assert (await client.query(PORT)).value == ports[True]
        assert house.router.stats().resets["failed"] == 0


async def test_a_wish_for_replicas_that_cannot_be_met_is_refused_and_says_why(lasting: Replicated) -> None:
    real = {SERVER: lasting.world.server, REPLICA: lasting.standby}
    async with a_port(lasting.world, real=real, servers=lasting.servers()) as house:
        async with house.a_client("database1") as client:
            assert (await client.query("SET tenantproxy.replica = perhaps")).sqlstate == "22023"
            await client.query("BEGIN")
            assert (await client.query("SET tenantproxy.replica = on")).sqlstate == "0A000"
            await client.query("ROLLBACK")
            assert (await client.query(PORT)).value == str(lasting.world.server.port)
        async with house.a_client("database1", "session") as client:
            assert (await client.query("SET tenantproxy.replica = on")).sqlstate == "0A000"
        with pytest.raises(Refused):
            await house.client("database1", options="-c tenantproxy.replica=perhaps")


async def test_a_reader_reads_from_the_primary_when_the_replica_is_gone(
    lasting: Replicated, unused_tcp_port_factory: Callable[[], int]
) -> None:
    world = lasting.world
    gone = keys_of(world.server) | {"port": unused_tcp_port_factory()}
    servers = {SERVER: {"replicas": [REPLICA]}, REPLICA: gone}
    async with a_port(world, servers=servers) as house:
        for tenant in world.tenants:
            async with house.a_client(tenant.id) as client:
                await client.query("SET tenantproxy.replica = on")
                for _ in range(3):
                    assert (await client.query(PORT)).value == str(world.server.port)


async def test_a_reader_leaves_a_replica_that_is_too_far_behind(lasting: Replicated) -> None:
    world, (tenant,) = lasting.world, lasting.world.of(Isolation.DATABASE)
    real = {SERVER: world.server, REPLICA: lasting.standby}
    async with a_port(world, real=real, servers=lasting.servers(max_replica_lag=0.5)) as house:
        async with house.a_client(tenant.id) as reader, house.a_client(tenant.id) as writer:
            await reader.query("SET tenantproxy.replica = on")

            async def is_read() -> bool:
                return (await reader.query(PORT)).value == str(lasting.standby.port)

            async def is_left() -> bool:
                await writer.query("INSERT INTO projects (name) VALUES ('gone')")
                await writer.query("DELETE FROM projects WHERE name = 'gone'")
                return not await is_read()

            await until(is_read, "its lag is measured, and it is read")
            async with Database(server=lasting.standby, name="postgres").connect() as admin:
                await admin.execute("SELECT pg_wal_replay_pause()")
                try:
                    await until(is_left, "it is too far behind")
                finally:
                    await admin.execute("SELECT pg_wal_replay_resume()")
            await until(is_read, "it has caught up")
