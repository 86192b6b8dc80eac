"""Which clients of the port read from a replica, and where do they read when it cannot serve them?"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio

from tenantproxy.model import Isolation
from tenantproxy.raw.exchange import query
from tests.support.chaos import ChaosProxy
from tests.support.database import Database
from tests.support.port_house import a_port, users
from tests.support.standby import REPLICA, Replicated, a_replicated_world, keys_of, paused
from tests.support.waiting import until
from tests.support.wire_client import PASSWORD, Refused
from tests.support.world import SERVER

PORT = "SELECT inet_server_port()"
LOST = "SELECT count(*) FROM projects WHERE name = 'lost'"
OWN = {
    Isolation.ROW: "INSERT INTO projects (tenant_id, name) VALUES (current_setting('app.current_tenant_id'), 'lost')",
    Isolation.SCHEMA: "INSERT INTO projects (name) VALUES ('lost')",
    Isolation.DATABASE: "INSERT INTO projects (name) VALUES ('lost')",
}
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
            async with paused(lasting.standby):
                await until(is_left, "it is too far behind")
            await until(is_read, "it has caught up")


async def test_a_reader_sees_what_was_written_before_the_position_that_it_names(lasting: Replicated) -> None:
    """On a replica that replays nothing it reads from the primary, and from the replica once that has come so far."""
    world = lasting.world
    ports = {True: str(lasting.standby.port), False: str(world.server.port)}
    real = {SERVER: world.server, REPLICA: lasting.standby}
    async with a_port(world, real=real, servers=lasting.servers(), pools={"shared_size": 1}) as house:
        for tenant in world.tenants:
            async with house.a_client(tenant.id) as writer, house.a_client(tenant.id) as reader:
                await reader.query("SET tenantproxy.replica = on")
                assert (await reader.query(PORT)).value == ports[True]
                async with paused(lasting.standby):
                    await writer.query(OWN[tenant.placement.isolation])
                    written = (await writer.query("SELECT pg_current_wal_insert_lsn()")).value
                    assert (await reader.query(LOST)).value == "0", "the replica has it although it replays nothing"
                    answer = await reader.query(f"SET tenantproxy.after = '{written}'")
                    assert (answer.tags, answer.status) == (["SET"], "I")
                    for _ in range(2):
                        assert (await reader.query(LOST)).value == "1"
                        assert (await reader.query(PORT)).value == ports[False]
                    assert (await reader.query("RESET tenantproxy.after")).tags == ["RESET"]
                    assert (await reader.query(PORT)).value == ports[True]
                    options = f"-c tenantproxy.replica=on -c tenantproxy.after={written}"
                    async with house.a_client(tenant.id, options=options) as late:
                        assert (await late.query(LOST)).value == "1"
                    await reader.query(f"SET tenantproxy.after TO '{written}';")
                    await reader.query("DISCARD ALL")
                    assert (await reader.query(LOST)).value == "1"
                await lasting.standby.catch_up()
                for _ in range(2):
                    assert (await reader.query(PORT)).value == ports[True]
                    assert (await reader.query(LOST)).value == "1"
                await reader.query("SET tenantproxy.after = 'FFFFFFFF/FFFFFFFF'")  # of another server, or made up
                assert (await reader.query(PORT)).value == ports[False]
                await writer.query("DELETE FROM projects WHERE name = 'lost'")
        assert house.router.stats().resets["failed"] == 0
        assert house.router.stats().closed.get("error", 0) == 0


async def test_a_client_that_leaves_while_its_replica_is_asked_keeps_nothing(lasting: Replicated) -> None:
    real = {SERVER: lasting.world.server, REPLICA: lasting.standby}
    async with ChaosProxy(lasting.standby.host, lasting.standby.port) as proxy:
        servers = lasting.servers() | {REPLICA: keys_of(lasting.standby) | {"port": proxy.port}}
        async with a_port(lasting.world, real=real, servers=servers) as house:
            client = await house.client("database1")
            await client.query("SET tenantproxy.replica = on")
            assert (await client.query(PORT)).value == str(lasting.standby.port)
            await client.query("SET tenantproxy.after = 'FFFFFFFF/0'")
            (served,) = house.listener._clients.values()
            assert served.relay is not None
            checkout = served.relay._forwarder.checkout
            proxy.delay = 0.1
            client.send(query(PORT))
            await until(lambda: checkout._asked is not None, "a backend is asked")
            asked = checkout._asked
            client.abort()
            await until(lambda: house.is_at_rest, "the client has gone, and its backend")
            assert asked not in list(house.lending.backends())


@pytest.mark.parametrize(
    ("sql", "state"),
    [
        ("SET tenantproxy.after = 'yesterday'", "22023"),
        ("SET tenantproxy.after = '1/2/3'", "22023"),
        ("SET tenantproxy.after = '123456789/0'", "22023"),
        ("SET tenantproxy.after = 5", "22023"),
        ("SET tenantproxy.afer = '0/0'", "22023"),
        ("SET LOCAL tenantproxy.after = '0/0'", "0A000"),
        ("SET tenantproxy.replica = on; SELECT 1", "0A000"),
        ("SET tenantproxy.after = '0/0', '0/1'", "0A000"),
        ("RESET tenantproxy.after; SELECT 1", "0A000"),
    ],
)
async def test_a_wish_to_read_that_is_not_understood_is_refused_and_never_ignored(
    lasting: Replicated, sql: str, state: str
) -> None:
    async with a_port(lasting.world) as house, house.a_client("database1") as client:
        answer = await client.query(sql)
        assert (answer.sqlstate, answer.status, answer.rows) == (state, "I", [])
        assert answer.errors[0].get("H")
        assert (await client.query("SELECT 1")).value == "1"


async def test_a_client_in_a_transaction_on_a_replica_that_is_promoted_writes_nothing_there() -> None:
    """Whatever it says to write all the same: it hears of the promotion once, and reads elsewhere."""
    escapes = ("SET TRANSACTION READ WRITE", "SET transaction_read_only = off", "COMMIT; BEGIN READ WRITE", "SELECT 1")
    async with a_replicated_world(rows=1, schemas=0, databases=1) as replicated:
        world, standby = replicated.world, replicated.standby
        real = {SERVER: world.server, REPLICA: standby}
        pools = {"shared_size": 10, "acquire_timeout": 30.0}
        pg = {"users": users(reader=READER)}
        async with a_port(world, real=real, servers=replicated.servers(), pg=pg, pools=pools) as house:
            readers = [
                (tenant, escape, await house.client(tenant.id, "reader"))
                for tenant in world.tenants
                for escape in escapes
            ]
            for _, _, reader in readers:
                await reader.query("BEGIN")
                await reader.query("SET LOCAL lock_timeout = 0")  # it is on the replica, and has no snapshot
            await asyncio.to_thread(standby.promote)
            for tenant, escape, reader in readers:
                told = await reader.query(escape)
                told = told if told.errors else await reader.query(OWN[tenant.placement.isolation])
                assert told.sqlstate in ("57P01", "25006"), escape
            async with house.a_client(world.tenants[0].id, "reader") as late:
                assert (await late.query(PORT)).value == str(world.server.port)
            for tenant in world.tenants:
                async with Database(server=standby, name=tenant.placement.database).connect() as admin:
                    assert await admin.fetchval(LOST) == 0
