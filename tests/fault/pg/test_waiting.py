"""Is a client that waits in a lane of the compiled path served as one that waits in Python, whatever happens?"""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from tenantproxy._native import why_not
from tenantproxy.model import tenant_id
from tenantproxy.raw.exchange import query
from tenantproxy.sidecar.pg import lanes
from tests.fault.pg.test_carried import SHOWN, bound, carried, conn_of, in_pieces, prepared, relay_of
from tests.support.authority import Authority
from tests.support.model_server import bind
from tests.support.port_house import PortHouse, a_port
from tests.support.waiting import until
from tests.support.wire_client import WireClient, cancel, raw, startup
from tests.support.world import World

pytestmark = pytest.mark.skipif(why_not() is not None, reason=f"the compiled data path is not there: {why_not()}")

TENANT: Final = "database1"
ONE: Final[dict[str, Any]] = {"max_size": 1, "shared_size": 1}
LONG: Final = 600.0
MANY: Final = 10  # answers of each client: all are there, and all are warm


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits in a lane stays there."""
    monkeypatch.setattr(lanes, "_PATIENCE", LONG)
    monkeypatch.setattr(lanes, "_OF_TIMEOUT", LONG)


def is_in_lane(house: PortHouse, client: WireClient) -> bool:
    return bool(conn_of(house, client).waiting_since)


async def in_lane(house: PortHouse, data: bytes, tenant: str = TENANT) -> WireClient:
    """A client whose request waits in a lane."""
    client = await house.client(tenant)
    await ask_in_lane(house, client, data)
    return client


async def ask_in_lane(house: PortHouse, client: WireClient, data: bytes) -> None:
    client.send(data)
    await until(lambda: is_in_lane(house, client), "it waits in a lane")


@asynccontextmanager
async def held(
    lasting: World, tenant: str = TENANT, *, pools: dict[str, Any] | None = None
) -> AsyncIterator[tuple[PortHouse, WireClient]]:
    """A client has begun a transaction on the one connection that there may be, of which Python knows nothing."""
    async with a_port(lasting, pools=pools or ONE) as house:
        holder = await house.client(tenant)
        assert (await holder.query("SELECT 1")).value == "1"
        assert (await holder.query("BEGIN")).status == "T"
        assert conn_of(house, holder).is_carrying
        yield house, holder


async def pid_of(client: WireClient) -> str:
    value = (await client.query("SELECT pg_backend_pid()")).value
    assert value is not None
    return value


@pytest.mark.usefixtures("patient")
async def test_clients_that_wait_are_served_in_order_without_python_and_counted(lasting: World) -> None:
    async with held(lasting) as (house, holder):
        pool, traffic = house.pool(TENANT), house.listener.traffic[tenant_id(TENANT)]
        before, waited, acquired = carried(), traffic.wait_seconds, house.router.stats().acquires[TENANT]["ok"]
        waits, zero = pool.wait_seconds, pool.wait_seconds.counts[0]
        total, seconds = sum(waits.counts), waits.total
        clients = [await in_lane(house, query(f"SELECT {n}, clock_timestamp()")) for n in range(4)]
        assert (await holder.query("COMMIT")).status == "I"
        answers = [await client.answer() for client in clients]
        assert [answer.rows[0][0] for answer in answers] == ["0", "1", "2", "3"]
        times = [str(answer.rows[0][1]) for answer in answers]
        assert times == sorted(times)
        assert carried() == before + 5
        assert house.router.stats().acquires[TENANT]["ok"] == acquired + 4
        assert traffic.wait_seconds > waited
        assert sum(waits.counts) == total + 4
        assert waits.total > seconds
        assert waits.counts[0] <= zero + 4
        assert not pool.stats().waiting


@pytest.mark.usefixtures("patient")
async def test_an_operator_sees_who_waits_in_a_lane_and_it_goes_on_waiting_there(lasting: World) -> None:
    async with held(lasting) as (house, holder):
        pool = house.pool(TENANT)
        client = await in_lane(house, query("SELECT 2"))
        relay, (stats,) = relay_of(house, client), pool.stats().tenants
        assert relay.is_waiting
        assert relay.is_active
        assert relay.backend is None
        assert relay.asked_at == relay.waiting_since > 0
        assert stats.waiting == pool.stats().waiting == house.listener.pg_stats().waiting == 1
        (row,) = [row for row in house.port.view.clients() if row.id == client.pid]
        assert row.state == "waiting"
        assert row.waiting_seconds > 0
        assert is_in_lane(house, client)
        relay.rest_if_idle(LONG * 1e6)
        assert relay.overdue(LONG * 1e6, house.router.settings.pg) is None
        assert is_in_lane(house, client)
        assert (await holder.query("COMMIT")).status == "I"
        assert (await client.answer()).value == "2"
        assert not pool.stats().waiting


@pytest.mark.usefixtures("patient")
async def test_a_request_to_cancel_hits_no_other_while_its_client_waits(lasting: World) -> None:
    async with held(lasting) as (house, holder):
        client = await in_lane(house, query("SELECT 2"))
        await cancel(house.number, client.pid, client.secret)
        assert (await holder.query("SELECT 3")).value == "3"
        assert (await holder.query("COMMIT")).status == "I"
        assert (await client.answer()).value == "2"


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("how", ["abort", "terminate"])
async def test_a_client_that_leaves_while_it_waits_leaves_its_place_to_the_next(lasting: World, how: str) -> None:
    async with held(lasting) as (house, holder):
        pool = house.pool(TENANT)
        clients = [await in_lane(house, query(f"SELECT {n}")) for n in range(3)]
        if how == "abort":
            clients[1].abort()
        else:
            clients[1].send(b"X\0\0\0\x04")
        await until(lambda: len(house.listener._clients) == 3 or not is_in_lane(house, clients[1]), "it has left")
        assert (await holder.query("COMMIT")).status == "I"
        assert (await clients[0].answer()).value == "0"
        assert (await clients[2].answer()).value == "2"
        await until(lambda: len(house.listener._clients) == 3, "it is gone")
        assert not pool.stats().waiting


@pytest.mark.usefixtures("patient")
async def test_clients_that_leave_in_the_very_round_in_which_the_first_is_served_cost_no_other(lasting: World) -> None:
    async with held(lasting) as (house, holder):
        pool, answers = house.pool(TENANT), []
        clients = [await in_lane(house, query(f"SELECT {n}")) for n in range(9)]
        for client in clients[::2]:
            client.abort()
        holder.send(query("COMMIT"))
        assert (await holder.answer()).status == "I"
        for client in clients[1::2]:
            answers.append((await client.answer()).value)
            assert await pid_of(client)
        assert answers == ["1", "3", "5", "7"]
        await until(lambda: len(house.listener._clients) == 5, "they are gone")
        assert not pool.stats().waiting


@pytest.mark.usefixtures("patient")
async def test_a_client_with_tls_waits_in_a_lane_as_any_and_may_end_tls_there(lasting: World, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    context = ssl.create_default_context(cafile=str(authority.root))
    pair = authority.certificate("localhost", "localhost", "127.0.0.1")
    async with a_port(lasting, pools=ONE, pg=pair.listener) as house:
        clients = [WireClient(*await raw(house.number)) for _ in range(3)]
        house.clients.extend(clients)
        for client in clients:
            await client.secure(context)
            client.send(startup("all", TENANT))
            await client.log_in()
        assert (await clients[0].query("BEGIN")).status == "T"
        for n in (1, 2):
            await ask_in_lane(house, clients[n], query(f"SELECT {n}"))
        clients[1].writer.close()
        await until(lambda: len(house.listener._clients) == 2, "it has left")
        assert (await clients[0].query("COMMIT")).status == "I"
        assert (await clients[2].answer()).value == "2"
        assert not house.pool(TENANT).stats().waiting


@pytest.mark.usefixtures("patient")
async def test_more_that_a_client_sends_while_it_waits_is_answered_in_order(lasting: World) -> None:
    async with held(lasting) as (house, holder):
        pool = house.pool(TENANT)
        client = await in_lane(house, query("SELECT 'first'"))
        client.send(query("SELECT 'second'") + query("SELECT 'third'"))
        await until(lambda: pool.has_waiting, "it is Python's")
        assert (await holder.query("COMMIT")).status == "I"
        assert [(await client.answer()).value for _ in range(3)] == ["first", "second", "third"]


@pytest.mark.usefixtures("patient")
async def test_a_client_that_goes_from_a_lane_to_its_pools_queue_is_counted_once(lasting: World) -> None:
    """Else the one place that there is to wait would be taken, by itself."""
    async with held(lasting, pools=ONE | {"max_waiting": 1}) as (house, holder):
        pool = house.pool(TENANT)
        client = await in_lane(house, query("SELECT 'first'"))
        assert pool.stats().waiting == 1
        client.send(query("SELECT 'second'"))
        await until(lambda: not is_in_lane(house, client), "it is Python's")
        assert pool.has_waiting
        assert pool.stats().waiting == 1
        assert (await holder.query("COMMIT")).status == "I"
        assert [(await client.answer()).value for _ in range(2)] == ["first", "second"]


@pytest.mark.usefixtures("patient")
async def test_a_tenant_that_is_killed_loses_who_waits(lasting: World) -> None:
    async with held(lasting) as (house, holder):
        client = await in_lane(house, query("SELECT 2"))
        house.listener.kill(tenant_id(TENANT))
        assert (await client.rest()).sqlstate == "57P01"
        assert (await holder.rest()).sqlstate == "57P01"
        house.listener.resume(tenant_id(TENANT))
        assert (await (await house.client(TENANT)).query("SELECT 7")).value == "7"


@pytest.mark.usefixtures("patient")
async def test_who_waits_when_its_tenant_is_paused_waits_until_that_is_over(lasting: World) -> None:
    async with held(lasting) as (house, holder):
        client = await in_lane(house, query("SELECT 2"))
        pausing = asyncio.create_task(house.listener.pause(tenant_id(TENANT)))
        await until(lambda: not is_in_lane(house, client), "no lane serves a tenant that is paused")
        assert (await holder.query("COMMIT")).status == "I"
        await pausing
        assert relay_of(house, client).is_waiting
        house.listener.resume(tenant_id(TENANT))
        assert (await client.answer()).value == "2"


@pytest.mark.usefixtures("patient")
async def test_a_drain_lets_who_waits_have_its_answer_first(lasting: World) -> None:
    async with held(lasting) as (house, holder):
        client = await in_lane(house, query("SELECT 2"))
        relay = relay_of(house, client)
        closing = asyncio.create_task(house.port.close())
        await until(lambda: relay.is_draining, "it drains")
        holder.send(query("COMMIT"))
        assert (await holder.rest()).sqlstate == "57P01"
        answer = await client.rest()
        assert answer.rows == [["2"]]
        assert answer.sqlstate == "57P01"
        await closing


@pytest.mark.usefixtures("patient")
async def test_a_backend_that_its_pool_is_to_end_is_not_lent_on(lasting: World) -> None:
    async with held(lasting) as (house, holder):
        pid, pool = await pid_of(holder), house.pool(TENANT)
        clients = [await in_lane(house, query("SELECT pg_backend_pid()")) for _ in range(2)]
        pool.expire()
        assert (await holder.query("COMMIT")).status == "I"
        pids = {(await client.answer()).value for client in clients}
        assert pid not in pids
        assert len(pids) == 1


@pytest.mark.usefixtures("patient")
async def test_who_waits_for_a_backend_that_dies_gets_another_one(lasting: World) -> None:
    async with held(lasting) as (house, holder):
        pid = await pid_of(holder)
        clients = [await in_lane(house, query("SELECT pg_backend_pid()")) for _ in range(2)]
        async with lasting.shared.connect() as admin:
            await admin.fetchval("SELECT pg_terminate_backend($1)", int(pid))
        assert (await holder.rest()).sqlstate == "57P01"
        assert pid not in {(await client.answer()).value for client in clients}


@pytest.mark.usefixtures("patient")
async def test_a_statement_that_is_not_on_the_backend_waited_for_is_prepared_there(lasting: World) -> None:
    async with a_port(lasting, pools=ONE) as house:
        holder, client, other = [await house.client(TENANT) for _ in range(3)]
        for one in (client, other):
            assert not (await prepared(one, b"s", "SELECT pg_backend_pid()")).errors
        pid = (await bound(client, b"s")).value
        house.pool(TENANT).expire()
        assert (await holder.query("BEGIN")).status == "T"
        await ask_in_lane(house, client, bind(b"s") + SHOWN)
        await ask_in_lane(house, other, query("SELECT 5"))
        assert (await holder.query("COMMIT")).status == "I"
        assert (await client.answer()).value not in (None, "", pid)
        assert (await other.answer()).value == "5"


@pytest.mark.usefixtures("patient")
async def test_a_statement_that_is_not_on_the_backend_that_goes_on_is_prepared_there(lasting: World) -> None:
    async with a_port(lasting, pools={"max_size": 2, "shared_size": 2}) as house:
        client, other, one, two = [await house.client(TENANT) for _ in range(4)]
        assert not (await prepared(client, b"s", "SELECT pg_backend_pid()")).errors
        pid = (await bound(client, b"s")).value
        assert (await one.query("BEGIN")).status == "T"
        assert await pid_of(one) == pid
        second = await pid_of(two)
        assert second != pid
        assert (await two.query("BEGIN")).status == "T"
        assert conn_of(house, two).is_carrying
        await ask_in_lane(house, client, bind(b"s") + SHOWN)
        await ask_in_lane(house, other, query("SELECT 5"))
        assert (await two.query("COMMIT")).status == "I"
        assert (await client.answer()).value == second
        assert (await other.answer()).value == "5"


# --- what the pool has a say in --------------------------------------------------------------------------------------
async def test_who_waits_for_long_waits_in_the_pools_queue_and_hears_why_it_gets_none(lasting: World) -> None:
    async with held(lasting, pools=ONE | {"acquire_timeout": 1.0}) as (house, _):
        pool = house.pool(TENANT)
        client = await in_lane(house, query("SELECT 2"))
        await until(lambda: pool.has_waiting, "the pool knows of it")
        assert not is_in_lane(house, client)
        answer = await client.answer()
        assert answer.sqlstate == "53300"
        assert "max_size = 1" in answer.errors[0]["D"]
        assert not pool.stats().waiting


@pytest.mark.usefixtures("patient")
async def test_those_who_wait_in_a_lane_count_for_what_a_tenant_may_let_wait(lasting: World) -> None:
    async with held(lasting, pools=ONE | {"max_waiting": 2}) as (house, holder):
        clients = [await in_lane(house, query(f"SELECT {n}")) for n in range(2)]
        third = await house.client(TENANT)
        answer = await third.query("SELECT 3")
        assert answer.sqlstate == "53300"
        assert "max_waiting = 2" in answer.errors[0]["D"]
        assert all(is_in_lane(house, client) for client in clients)
        assert (await holder.query("COMMIT")).status == "I"
        assert [(await client.answer()).value for client in clients] == ["0", "1"]


@pytest.mark.usefixtures("patient")
async def test_those_who_wait_in_other_lanes_of_their_tenant_count_for_that_too(lasting: World) -> None:
    """Else a tenant lets as many wait as it has settings."""
    async with a_port(lasting, pools=ONE | {"max_waiting": 2}) as house:
        holder, *clients = [await house.client(TENANT, application_name=f"app{n}") for n in range(4)]
        assert (await holder.query("BEGIN")).status == "T"
        for n, client in enumerate(clients[:2]):
            await ask_in_lane(house, client, query(f"SELECT {n}"))
        third = asyncio.create_task(clients[2].query("SELECT 3"))
        await until(lambda: third.done() or is_in_lane(house, clients[2]), "it waits, or is refused")
        assert third.done()
        assert "max_waiting = 2" in third.result().errors[0]["D"]
        assert house.pool(TENANT).stats().waiting == 2
        assert (await holder.query("COMMIT")).status == "I"
        assert [(await client.answer()).value for client in clients[:2]] == ["0", "1"]


@pytest.mark.usefixtures("patient")
async def test_what_came_first_is_served_first_in_a_lane_or_in_python(lasting: World) -> None:
    async with held(lasting) as (house, holder):
        pool = house.pool(TENANT)
        first = await in_lane(house, query("SELECT 'first', clock_timestamp()"))
        second, asked = await house.client(TENANT), query("SELECT 'second', clock_timestamp()")
        second.send(asked[:5])
        await until(lambda: relay_of(house, second)._awake is not None, "Python has a piece of it")
        second.send(asked[5:])
        await until(lambda: pool.has_waiting, "Python waits")
        third = await in_lane(house, query("SELECT 'third', clock_timestamp()"))
        assert is_in_lane(house, first)
        assert (await holder.query("COMMIT")).status == "I"
        answers = [await client.answer() for client in (third, second, first)]
        by_time = sorted(answers, key=lambda answer: str(answer.rows[0][1]))
        assert [answer.value for answer in by_time] == ["first", "second", "third"]


@pytest.mark.usefixtures("patient")
async def test_a_lane_is_served_though_one_that_waits_in_another_tenants_has_waited_longer(lasting: World) -> None:
    async with held(lasting) as (house, holder):
        other = await house.client("database2")
        assert (await other.query("BEGIN")).status == "T"
        first = await in_lane(house, query("SELECT 1"))
        second = await in_lane(house, query("SELECT 2"), "database2")
        assert (await in_pieces(house, other, query("COMMIT"))).status == "I"
        assert (await second.answer()).value == "2"
        assert (await holder.query("COMMIT")).status == "I"
        assert (await first.answer()).value == "1"


@pytest.mark.usefixtures("patient")
async def test_who_waits_in_a_lane_makes_way_for_the_turns_of_another_tenant(lasting: World) -> None:
    async with held(lasting, "row1") as (house, holder):
        own = [await in_lane(house, query(f"SELECT {n}, clock_timestamp()"), "row1") for n in range(6)]
        other = await house.client("row2")
        other.send(query("SELECT 'other', clock_timestamp()"))
        await until(lambda: not any(is_in_lane(house, client) for client in own), "the pool's turns decide")
        assert (await holder.query("COMMIT")).status == "I"
        answers = [await client.answer() for client in (*own, other)]
        by_time = sorted(answers, key=lambda answer: str(answer.rows[0][1]))
        assert by_time[-1].value != "other", "a tenant has its turn before the other has all it wants"


# --- all want it all the time ----------------------------------------------------------------------------------------
class Straight(threading.Thread):
    """Clients in a thread of their own. Each asks again as soon as it is answered, until it is told to stop."""

    def __init__(self, port: int, *names: str, tenant: str = TENANT) -> None:
        super().__init__(daemon=True)
        self.port, self.names, self.tenant = port, names, tenant
        self.is_over = False
        self.answered = [0] * len(names)
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            asyncio.run(self._all())
        except BaseException as exc:  # noqa: BLE001 - told to the test
            self.failure = exc

    async def _all(self) -> None:
        await asyncio.gather(*(self._one(n, name) for n, name in enumerate(self.names)))

    async def _one(self, n: int, name: str) -> None:
        client = await WireClient.connect(self.port, self.tenant, "all", application_name=name)
        bound = "tenantproxy.bound_tenant()" if self.tenant.startswith("row") else f"'{self.tenant}'"
        while not self.is_over:
            answer = await client.query(f"SELECT {n}, {bound}, current_setting('application_name')")
            assert answer.rows == [[str(n), self.tenant, name]], answer
            self.answered[n] += 1
        await client.close()

    @asynccontextmanager
    async def busy(self) -> AsyncIterator[Straight]:
        """While it is."""
        self.start()
        await until(lambda: self.failure is not None or min(self.answered) > MANY, "all are served")
        try:
            yield self
        finally:
            self.is_over = True
            await until(lambda: not self.is_alive(), "all have left")
        assert self.failure is None, self.failure


async def test_many_clients_on_one_connection_are_served_alike_and_mostly_without_python(lasting: World) -> None:
    async with a_port(lasting, pools=ONE) as house, Straight(house.number, *["one"] * 8).busy() as crowd:
        before, answered = carried(), list(crowd.answered)
        await until(lambda: sum(crowd.answered) - sum(answered) > 400, "they go on")
        served = [after - before for after, before in zip(crowd.answered, answered, strict=True)]
        assert max(served) <= 3 * min(served)
        assert carried() - before > sum(served) / 2
        assert house.pool(TENANT).stats().limit == 1


async def test_clients_of_other_settings_share_with_those_who_never_let_go(lasting: World) -> None:
    """Each lane alone would keep the one connection for good."""
    names = ["one"] * 4 + ["two"] * 4
    async with a_port(lasting, pools=ONE) as house, Straight(house.number, *names).busy() as crowd:
        answered = list(crowd.answered)
        await until(lambda: sum(crowd.answered) - sum(answered) > 400, "they go on")
        served = [after - before for after, before in zip(crowd.answered, answered, strict=True)]
        assert sum(served[:4]) <= 5 * sum(served[4:])
        assert sum(served[4:]) <= 5 * sum(served[:4])


async def test_no_session_of_another_tenant_or_of_other_settings_goes_on_to_one_who_waits(lasting: World) -> None:
    """Each of them says whose it is."""
    names = ["one"] * 5 + ["two"]
    async with (
        a_port(lasting, pools={"max_size": 1, "shared_size": 2}) as house,
        Straight(house.number, *names, tenant="row1").busy() as crowd,
        Straight(house.number, *names, tenant="row2").busy() as other,
    ):
        answered = [sum(each.answered) for each in (crowd, other)]
        for n, each in enumerate((crowd, other)):
            await until(lambda each=each, n=n: sum(each.answered) - answered[n] > 200, "they go on")  # type: ignore[misc]


@pytest.mark.parametrize("tenant", ["row1", "row2"])
async def test_whom_python_serves_is_not_starved_by_those_who_wait_in_a_lane(lasting: World, tenant: str) -> None:
    """Of the same tenant, or of another one that shares the pool."""
    async with a_port(lasting, pools=ONE) as house, Straight(house.number, *["one"] * 8, tenant="row1").busy() as crowd:
        client = await house.client(tenant)
        for _ in range(20):
            before = sum(crowd.answered)
            assert (await in_pieces(house, client, query("SELECT 'python'"))).value == "python"
            assert sum(crowd.answered) - before < 200
        assert crowd.is_alive()
