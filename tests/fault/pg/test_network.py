"""What do clients of the port see of a bad network between it and the server?"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tenantproxy.events import ServerDown, ServerUp
from tenantproxy.raw.exchange import SYNC_NOW, query, statement
from tests.fault.conftest import Figure
from tests.support.chaos import ChaosProxy, Way
from tests.support.database import Database
from tests.support.port_house import PortHouse, a_port
from tests.support.waiting import SLACK, until
from tests.support.wire_client import Refused, WireClient
from tests.support.world import World

COUNT = "SELECT count(*) FROM projects"
KINDS = ("database1", "schema1", "row1")
UNKNOWN = "whether what ran has taken effect is unknown if a COMMIT was under way"


def through(proxy: ChaosProxy, *, connect_timeout: float = 10.0, **pools: Any) -> dict[str, Any]:
    """By way of the proxy."""
    return {
        "servers": {"primary": {"port": proxy.port, "connect_timeout": connect_timeout}},
        "pools": {"acquire_timeout": 10.0, **pools},
    }


async def no_backend(house: PortHouse) -> None:
    await until(lambda: not list(house.lending.backends()), "no backend is left")


async def serves(client: WireClient) -> bool:
    answer = await client.query(COUNT)
    assert answer.status == "I", answer
    return answer.sqlstate is None and answer.value == "3"


# --- black holes -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("tenant", KINDS)
@pytest.mark.parametrize("way", list(Way))
async def test_a_client_can_leave_a_black_hole_and_the_dead_connection_is_not_lent_again(
    lasting: World, proxy: ChaosProxy, figure: Figure, tenant: str, way: Way
) -> None:
    async with a_port(lasting, **through(proxy, max_size=2, shared_size=2)) as house:
        stuck, after = await house.client(tenant), await house.client(tenant)
        proxy.stall(way)
        stuck.send(query(COUNT))
        await until(lambda: house.pool(tenant).stats().used, "it has a backend")
        stuck.abort()
        began = time.monotonic()
        await until(lambda: not house.pool(tenant).stats().used, "its backend is given up")
        figure("seconds_to_notice", time.monotonic() - began)
        proxy.heal()
        proxy.reset_all()  # what was open across the black hole is dead
        await no_backend(house)
        healed_at = time.monotonic()
        await until(lambda: serves(after), "others are served")
        figure("seconds_to_heal", time.monotonic() - healed_at)
        assert time.monotonic() - healed_at < 2.0 + SLACK


async def test_every_backend_gives_up_on_a_peer_that_acknowledges_nothing(lasting: World) -> None:
    async with a_port(lasting) as house:
        for tenant in KINDS:
            await house.client(tenant)
        for backend in house.lending.backends():
            sock = backend.transport.get_extra_info("socket")
            assert 0 < sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) <= 30_000
        for client in house.listener.clients():
            assert client.relay is not None
            sock = client.relay._transport.get_extra_info("socket")
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


async def test_a_half_open_connection_costs_one_client_an_error_and_nobody_a_wrong_answer(
    lasting: World, proxy: ChaosProxy
) -> None:
    """The server's side is gone, and we were not told."""
    async with (
        Database(server=lasting.server, name="postgres").connect() as admin,
        a_port(lasting, **through(proxy, shared_size=1)) as house,
    ):
        client = await house.client("row1")
        (backend,) = house.lending.backends()
        proxy.stall(Way.TO_CLIENT)
        await admin.execute("SELECT pg_terminate_backend($1, 5000)", backend.pid)
        client.send(query(COUNT))
        await until(lambda: house.pool("row1").stats().used, "it has the backend that is none")
        proxy.heal()
        answer = await client.answer()
        assert answer.sqlstate in ("57P01", "08001")
        assert not answer.rows
        async with house.a_client("row1") as after:
            assert await serves(after)


@pytest.mark.parametrize("hole", ["stalled", "unresponsive"])
async def test_after_three_connects_into_a_black_hole_clients_fail_at_once_until_it_is_healed(
    lasting: World, proxy: ChaosProxy, figure: Figure, hole: str
) -> None:
    async with a_port(lasting, **through(proxy, connect_timeout=1.0, acquire_timeout=40.0)) as house:
        clients = [await house.client(tenant) for tenant in ("database1", "row1")]
        proxy.reset_all()
        if hole == "unresponsive":  # it is accepted, as by the kernel of a server that hangs
            proxy.unresponsive = True
        else:
            proxy.stall()
        await no_backend(house)
        began = time.monotonic()
        answer = await clients[0].query(COUNT)
        assert (answer.sqlstate, answer.status) == ("08001", "I")
        figure("seconds_to_find_out", time.monotonic() - began)
        assert time.monotonic() - began < 15.0 + SLACK  # not when the wait for a connection is over
        assert house.router.count(ServerDown) == 1
        accepted = proxy.accepted
        began = time.monotonic()
        for _ in range(20):
            assert (await clients[1].query(COUNT)).sqlstate == "08001"
        assert time.monotonic() - began < SLACK
        assert proxy.accepted <= accepted + 10  # it is looked for, but not by each client
        proxy.heal()
        proxy.reset_all()
        await until(lambda: house.router.count(ServerUp), "the breaker closed without a client")
        for client in clients:
            await until(lambda client=client: serves(client), "it works again")  # type: ignore[misc]


async def test_a_server_that_accepts_and_never_speaks_costs_a_newcomer_its_wait_and_not_more(
    lasting: World, proxy: ChaosProxy, figure: Figure
) -> None:
    async with a_port(lasting, **through(proxy, connect_timeout=1.0, acquire_timeout=2.0)) as house:
        proxy.unresponsive = True
        began = time.monotonic()
        with pytest.raises(Refused) as refused:
            await house.client("database1")
        figure("seconds_to_fail", time.monotonic() - began)
        assert refused.value.sqlstate == "08001"
        assert refused.value.fields["S"] == "FATAL"
        assert time.monotonic() - began < 2.0 + SLACK
        proxy.heal()


# --- resets ----------------------------------------------------------------------------------------------------------
@contextlib.asynccontextmanager
async def ledger(world: World, tenant: str) -> AsyncIterator[Database]:
    """A table of the tenant's in which each number may stand once or more: what is doubled shows."""
    place = next(one for one in world.tenants if one.id == tenant).placement
    database = Database(server=world.server, name=place.database)
    table = f"{place.schema or 'public'}.ledger"
    async with database.connect() as admin:
        await admin.execute(f"CREATE TABLE {table} (n int); GRANT SELECT, INSERT ON {table} TO app")
    try:
        yield database
    finally:
        async with database.connect() as admin:
            await admin.execute(f"DROP TABLE {table}")


WRITES = {
    "simple": lambda n: query(f"INSERT INTO ledger VALUES ({n})"),
    "block": lambda n: query(f"BEGIN; INSERT INTO ledger VALUES ({n}); COMMIT"),
    "extended": lambda n: statement(f"INSERT INTO ledger VALUES ({n})") + SYNC_NOW,
    "steps": lambda n: query("BEGIN") + query(f"INSERT INTO ledger VALUES ({n})") + query("COMMIT"),
}
READIES = {"steps": 3}


@pytest.mark.parametrize("write", list(WRITES))
@pytest.mark.parametrize("way", list(Way))
async def test_of_writes_cut_anywhere_none_that_was_acknowledged_is_lost_and_none_is_done_twice(
    lasting: World, proxy: ChaosProxy, figure: Figure, way: Way, write: str
) -> None:
    """In the query and in the COMMIT, either way. What is not acknowledged is done once, or not at all."""
    done: set[int] = set()
    unknown: set[int] = set()
    length = len(WRITES[write](100)) if way is Way.TO_SERVER else 90
    async with ledger(lasting, "database1") as database, a_port(lasting, **through(proxy, max_size=2)) as house:
        for n, count in enumerate(range(1, length + 1, max(1, length // 16)), 100):
            async with house.a_client("database1") as client:
                await until(lambda client=client: serves(client), "a backend is there")  # type: ignore[misc]
                await until(lambda: house.is_quiet, "nothing is under way")
                proxy.reset_after(count, way)
                client.send(WRITES[write](n))
                answers = [await client.answer() for _ in range(READIES.get(write, 1))]
                is_done = all(answer.status and not answer.errors for answer in answers)
                (done if is_done else unknown).add(n)
                if not is_done:
                    told = [error for answer in answers for error in answer.errors]
                    assert told[-1]["C"] == "08001", told
                    assert told[-1]["H"] == UNKNOWN
                proxy.heal()
                proxy.reset_all()
                await no_backend(house)
        async with database.connect() as admin:
            found = [row["n"] for row in await admin.fetch("SELECT n FROM ledger")]
    figure("acknowledged", len(done))
    figure("unknown", len(unknown))
    assert unknown, "nothing was cut"
    assert len(found) == len(set(found)), "a write was done twice"
    assert done <= set(found), "an acknowledged write is lost"
    assert set(found) <= done | unknown


# --- slow ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("tenant", KINDS)
async def test_a_network_of_single_bytes_gives_the_same_answers(lasting: World, proxy: ChaosProxy, tenant: str) -> None:
    async with a_port(lasting, **through(proxy)) as house:
        client = await house.client(tenant)
        whole = await client.query("SELECT id, name FROM projects ORDER BY id")
        proxy.slice_size = 1
        sliced = await client.query("SELECT id, name FROM projects ORDER BY id")
        assert (sliced.rows, sliced.tags, sliced.kinds) == (whole.rows, whole.tags, whole.kinds)
        client.send(statement("SELECT $1::text", [b"each byte"]) + statement("SELECT nonsense") + SYNC_NOW)
        answer = await client.answer()
        assert answer.rows == [["each byte"]]
        assert answer.sqlstate == "42703"
        new = await house.client(tenant, application_name="bit by bit")
        assert (await new.query("SHOW application_name")).value == "bit by bit"


async def test_a_client_that_sends_single_bytes_is_understood(lasting: World) -> None:
    async with a_port(lasting) as house:
        client = await house.client("row1")
        sock = client.writer.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for message in (
            query(COUNT),
            statement("SELECT $1::text", [b"x" * 50]) + SYNC_NOW,
            query("SET work_mem='1MB'"),
        ):
            for at in range(len(message)):
                client.send(message[at : at + 1])
                await asyncio.sleep(0)
            answer = await client.answer()
            assert (answer.status, answer.sqlstate) == ("I", None)


async def test_a_slow_network_costs_time_and_no_processor(lasting: World, proxy: ChaosProxy, figure: Figure) -> None:
    """Code that polls instead of waiting would be busy all the time."""
    async with a_port(lasting, **through(proxy)) as house:
        clients = [await house.client(tenant) for tenant in KINDS]
        proxy.delay = 0.4
        began, used = time.monotonic(), _processor_seconds()
        answers = await asyncio.gather(*(client.query(COUNT) for client in clients))
        assert [answer.value for answer in answers] == ["3", "3", "3"]
        waited = time.monotonic() - began
        figure("processor_share", (_processor_seconds() - used) / waited)
        assert waited >= 0.8
        assert (_processor_seconds() - used) / waited < 0.7  # our own watching included
        proxy.heal()


def _processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
