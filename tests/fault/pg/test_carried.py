"""Does a transaction that the compiled path carries end as one of Python's, whatever happens while it is under way?"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from itertools import count, takewhile
from typing import Any, Final

import pytest

from tenantproxy._native import why_not
from tenantproxy.model import tenant_id
from tenantproxy.raw.exchange import query, statement
from tenantproxy.sidecar.pg.listener import Client
from tests.support.model_server import SYNC, bind, execute, parse
from tests.support.port_house import PortHouse, a_port
from tests.support.waiting import until
from tests.support.wire_client import Answer, Refused, WireClient, cancel
from tests.support.world import World

pytestmark = pytest.mark.skipif(why_not() is not None, reason=f"the compiled data path is not there: {why_not()}")

TENANT: Final = "database1"
SLEEP: Final = "SELECT pg_sleep(60)"
ENOUGH: Final = 50  # transactions of a crowd that were carried
SHOWN: Final = b"D\0\0\0\x06P\0" + execute() + SYNC


def pump() -> Any:
    return asyncio.get_running_loop().pump  # type: ignore[attr-defined]


def carried() -> int:
    return int(pump().carried)


def relay_of(house: PortHouse, client: WireClient) -> Any:
    return house.listener._clients[client.pid].relay


def conn_of(house: PortHouse, client: WireClient) -> Any:
    return relay_of(house, client)._conn


async def unnamed(client: WireClient, sql: str) -> Answer:
    client.send(parse(b"", sql.encode()) + bind(b"") + SHOWN)
    return await client.answer()


async def bound(client: WireClient, name: bytes) -> Answer:
    client.send(bind(name) + SHOWN)
    return await client.answer()


async def prepared(client: WireClient, name: bytes, sql: str) -> Answer:
    client.send(parse(name, sql.encode()) + SYNC)
    return await client.answer()


async def in_pieces(house: PortHouse, client: WireClient, data: bytes) -> Answer:
    """What Python reads, for it does not come whole."""
    relay = relay_of(house, client)
    client.send(data[:5])
    await until(lambda: relay._awake is not None and relay._awake.inbox.size == 5, "a piece has come")
    client.send(data[5:])
    return await client.answer()


@asynccontextmanager
async def sleeping(house: PortHouse, data: bytes = query(SLEEP)) -> AsyncIterator[WireClient]:
    """A client whose transaction is being carried."""
    client = await house.client(TENANT)
    assert (await client.query("SELECT 1")).value == "1"  # there is a backend now
    client.send(data)
    await until(lambda: conn_of(house, client).is_carrying, "it is carried")
    yield client


async def serves(house: PortHouse) -> None:
    """The tenant is served, and all its backends are."""
    clients = [await house.client(TENANT) for _ in range(3)]
    for client, answer in zip(
        clients, await asyncio.gather(*(each.query("SELECT 7") for each in clients)), strict=True
    ):
        assert answer.rows == [["7"]]
        await client.close()


async def test_a_straight_transaction_of_each_shape_needs_no_python(lasting: World) -> None:
    async with a_port(lasting) as house:
        client = await house.client(TENANT)
        await client.query("SELECT 1")
        assert not (await prepared(client, b"s", "SELECT 4")).errors
        await bound(client, b"s")  # prepared where it was not yet
        before = carried()
        assert (await client.query("SELECT 2")).rows == [["2"]]
        assert (await unnamed(client, "SELECT 3")).rows == [["3"]]
        assert (await bound(client, b"s")).rows == [["4"]]
        assert carried() == before + 3
        assert not pump().parked


async def test_the_answer_is_the_same_in_every_byte_on_both_paths(lasting: World) -> None:
    """Python reads what comes in two pieces."""
    requests = [
        query("SELECT 1, 'a'"), query(""), query("SELECT 1 WHERE false"), query("SELECT 1; SELECT 2"),
        query("SELECT 1/0"), query("DO $$ BEGIN RAISE NOTICE 'x'; END $$"), query("BEGIN; SELECT 1; COMMIT"),
        query("SELECT repeat('x', 100000)"), query("SELECT generate_series(1, 20000)"), query("SHOW work_mem"),
        parse(b"", b"SELECT 5") + bind(b"") + SHOWN, parse(b"", b"SELEC") + bind(b"") + SHOWN,
        parse(b"", b"SELECT 1/0") + bind(b"") + SHOWN, query("INSERT INTO projects SELECT FROM projects WHERE false"),
        query("SELECT pg_notify('c', 'x')"), query("SELECT * FROM nowhere"), query("VALUES (1), (2)"),
    ]  # fmt: skip
    async with a_port(lasting) as house:
        client = await house.client(TENANT)
        await client.query("SELECT 1")
        for data in requests:
            client.send(data)
            whole = await client.answer()
            assert await in_pieces(house, client, data) == whole, data


# --- while it is under way -------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "data", [query(SLEEP), parse(b"", SLEEP.encode()) + bind(b"") + SHOWN], ids=["simple", "parsed"]
)
async def test_a_request_to_cancel_finds_the_backend_that_carries_it(lasting: World, data: bytes) -> None:
    async with a_port(lasting) as house, sleeping(house, data) as client:
        await cancel(house.number, client.pid, client.secret)
        answer = await client.answer()
        assert answer.sqlstate == "57014"
        assert answer.status == "I"
        assert (await client.query("SELECT 2")).value == "2"
        await serves(house)


async def test_the_operator_sees_it_and_who_it_is_of(lasting: World) -> None:
    async with a_port(lasting) as house, sleeping(house) as client:
        relay = relay_of(house, client)
        assert relay.backend is not None
        assert relay.is_active
        assert relay.asked_at > 0
        assert not conn_of(house, client).is_carrying, "who asks makes it the relay's"
        await cancel(house.number, client.pid, client.secret)
        assert (await client.answer()).sqlstate == "57014"


async def test_a_pause_waits_for_its_end_and_no_other_is_carried_until_it_is_over(lasting: World) -> None:
    async with a_port(lasting) as house, sleeping(house, query("SELECT pg_sleep(0.3)")) as client:
        await house.listener.pause(tenant_id(TENANT))
        assert (await client.answer()).tags == ["SELECT 1"]
        before = carried()
        client.send(query("SELECT 5"))
        await until(lambda: relay_of(house, client).is_waiting, "it waits")
        house.listener.resume(tenant_id(TENANT))
        assert (await client.answer()).value == "5"
        assert carried() == before


async def test_a_tenant_that_is_killed_loses_what_is_carried(lasting: World) -> None:
    async with a_port(lasting) as house, sleeping(house) as client:
        house.listener.kill(tenant_id(TENANT))
        assert (await client.rest()).sqlstate == "57P01"
        house.listener.resume(tenant_id(TENANT))
        await serves(house)


async def test_a_client_that_leaves_takes_its_backend_along(lasting: World) -> None:
    async with a_port(lasting) as house, sleeping(house) as client:
        backend = next(iter(house.pool(TENANT).connections()))
        client.abort()
        await until(lambda: backend.is_closed, "its backend is ended")
        await serves(house)


async def test_a_drain_lets_it_end(lasting: World) -> None:
    async with a_port(lasting) as house, sleeping(house, query("SELECT pg_sleep(0.3)")) as client:
        closing = asyncio.create_task(house.port.close())
        answer = await client.rest()
        assert answer.tags == ["SELECT 1"]
        assert answer.sqlstate == "57P01"
        await closing


async def test_a_backend_that_dies_under_it_is_told_to_its_client_alone(lasting: World) -> None:
    async with a_port(lasting) as house, sleeping(house) as client:
        pid = next(backend.pid for backend in house.pool(TENANT).connections())
        async with lasting.shared.connect() as admin:
            await admin.fetchval("SELECT pg_terminate_backend($1)", pid)
        assert (await client.rest()).sqlstate == "57P01"
        await serves(house)


async def test_more_that_a_client_sends_behind_it_is_answered_in_order(lasting: World) -> None:
    async with a_port(lasting) as house, sleeping(house, query("SELECT pg_sleep(0.2)")) as client:
        client.send(query("SELECT 'second'") + query("SELECT 'third'"))
        answers = [await client.answer() for _ in range(3)]
        assert [answer.value for answer in answers] == ["", "second", "third"]


async def test_a_query_that_takes_too_long_is_cancelled(lasting: World) -> None:
    async with a_port(lasting, pg={"query_timeout": 0.5}) as house, sleeping(house) as client:
        answer = await client.answer()
        assert answer.sqlstate == "57014"
        assert "query timeout" in answer.errors[0]["M"]
        await serves(house)


async def test_a_client_that_is_busy_is_never_idle_and_one_that_stops_is(lasting: World) -> None:
    async with a_port(lasting, pg={"client_idle_timeout": 1.5}) as house:
        busy, idle = await house.client(TENANT), await house.client(TENANT)
        assert (await idle.query("SELECT 1")).value == "1"
        ending = asyncio.create_task(idle.rest())
        while not ending.done():
            assert (await busy.query("SELECT 1")).value == "1"
        assert ending.result().sqlstate == "57P05"


async def test_a_slow_reader_of_a_long_answer_holds_up_its_backend_and_gets_it_whole(lasting: World) -> None:
    async with a_port(lasting) as house:
        client = await house.client(TENANT, receive_buffer=4096)
        await client.query("SELECT 1")
        client.send(query("SELECT repeat('x', 1000) FROM generate_series(1, 20000)"))
        await until(lambda: relay_of(house, client).backend is not None, "it is being answered")
        await until(lambda: relay_of(house, client).backend.is_paused, "its backend is not read any more")
        assert conn_of(house, client).get_write_buffer_size() < 2**20
        answer = await client.answer()
        assert len(answer.rows) == 20000
        assert answer.status == "I"
        await serves(house)


# --- statements ------------------------------------------------------------------------------------------------------
async def test_a_statement_without_a_name_is_known_after_it_was_carried(lasting: World) -> None:
    """Bound again without being parsed, by Python, on any backend."""
    async with a_port(lasting) as house:
        client, other = await house.client(TENANT), await house.client(TENANT)
        assert (await unnamed(client, "SELECT 'mine'")).value == "mine"
        assert (await unnamed(other, "SELECT 'of another'")).value == "of another"
        assert (await bound(client, b"")).value == "mine"
        assert (await client.query("SELECT 1")).value == "1"
        assert (await bound(client, b"")).sqlstate == "26000", "a simple query has ended it"


async def test_a_statement_that_is_not_on_the_backend_is_prepared_there(lasting: World) -> None:
    async with a_port(lasting) as house:
        client, other = await house.client(TENANT), await house.client(TENANT)
        await prepared(client, b"s", "SELECT pg_backend_pid()")
        first = (await bound(client, b"s")).value
        async with holding(house, other):
            second = (await bound(client, b"s")).value
            before = carried()
            assert (await bound(client, b"s")).value == second
            assert carried() == before + 1
        assert first != second


@asynccontextmanager
async def holding(house: PortHouse, client: WireClient) -> AsyncIterator[None]:
    """It has the one backend that is idle."""
    assert (await client.query("BEGIN")).status == "T"
    yield
    assert (await client.query("COMMIT")).status == "I"


async def test_what_a_client_was_told_of_a_statement_is_compared_before_it_is_carried(lasting: World) -> None:
    tenant = next(each for each in lasting.tenants if each.id == tenant_id(TENANT))
    async with a_port(lasting) as house, lasting.database(tenant).connect() as admin:
        await admin.execute("CREATE TABLE told (a int); GRANT ALL ON told TO PUBLIC")
        try:
            client, other = await house.client(TENANT), await house.client(TENANT)
            client.send(parse(b"s", b"SELECT * FROM told") + b"D\0\0\0\x07Ss\0" + SYNC)
            assert not (await client.answer()).errors
            before = carried()
            assert not (await bound(client, b"s")).errors
            assert carried() == before + 1
            await admin.execute("ALTER TABLE told ADD b int")
            async with holding(house, other):
                for _ in range(3):
                    answer = await bound(client, b"s")
                    assert answer.sqlstate == "0A000", "its rows are of another shape elsewhere"
                assert carried() == before + 1
        finally:
            await admin.execute("DROP TABLE told")


async def test_what_sets_something_goes_along_and_is_not_carried(lasting: World) -> None:
    async with a_port(lasting) as house:
        client, other = await house.client(TENANT), await house.client(TENANT)
        await client.query("SET TimeZone = 'Asia/Tokyo'")
        for _ in range(3):
            assert (await client.query("SHOW TimeZone")).value == "Asia/Tokyo"
            assert (await other.query("SHOW TimeZone")).value != "Asia/Tokyo"
        await client.query("SELECT set_config('work_mem', '77kB', false)")
        for _ in range(3):
            assert (await other.query("SHOW work_mem")).value != "77kB"


# --- transactions of several statements ------------------------------------------------------------------------------
@asynccontextmanager
async def opened(house: PortHouse) -> AsyncIterator[WireClient]:
    """A client that has begun a transaction, of which Python knows nothing."""
    client = await house.client(TENANT)
    assert (await client.query("SELECT 1")).value == "1"
    assert (await client.query("BEGIN")).status == "T"
    assert (await client.query("SELECT 2")).status == "T"
    assert conn_of(house, client).is_carrying
    yield client


async def test_a_transaction_of_several_statements_needs_no_python(lasting: World) -> None:
    async with a_port(lasting) as house:
        before = carried()
        async with opened(house) as client:
            await prepared_there(client)
            assert (await client.query("COMMIT")).tags == ["COMMIT"]
        async with opened(house) as client:
            assert (await client.query("ROLLBACK")).status == "I"
        assert carried() >= before + 3
        await serves(house)


async def prepared_there(client: WireClient) -> None:
    assert (await unnamed(client, "SELECT 3")).rows == [["3"]]


async def test_what_asyncpg_sends_again_is_carried(lasting: World) -> None:
    async with a_port(lasting) as house:
        client = await house.client(TENANT)
        await prepared(client, b"s", "SELECT 4")
        await bound(client, b"s")
        before = carried()
        client.send(bind(b"s") + execute() + SYNC)
        assert (await client.answer()).rows == [["4"]]
        assert carried() == before + 1


async def test_an_open_transaction_is_its_clients_alone_and_goes_on_in_python(lasting: World) -> None:
    async with a_port(lasting, pools={"max_size": 1}) as house, opened(house) as client:
        other = await house.client(TENANT)
        other.send(query("SELECT 'other'"))
        await until(lambda: relay_of(house, other).is_waiting, "the other waits")
        backend = relay_of(house, client).backend
        assert backend is not None
        assert not conn_of(house, client).is_carrying
        assert (await client.query("SET LOCAL work_mem = '77kB'")).status == "T"
        assert (await client.query("SHOW work_mem")).value == "77kB"
        assert (await client.query("COMMIT")).status == "I"
        assert (await other.answer()).value == "other"
        assert (await client.query("SHOW work_mem")).value != "77kB"


async def test_an_error_in_an_open_transaction_is_the_clients_until_it_ends(lasting: World) -> None:
    async with a_port(lasting) as house, opened(house) as client:
        assert (await client.query("SELECT 1/0")).status == "E"
        assert (await client.query("SELECT 1")).sqlstate == "25P02"
        assert (await client.query("COMMIT")).tags == ["ROLLBACK"]
        await serves(house)


async def test_what_runs_in_an_open_transaction_can_be_cancelled(lasting: World) -> None:
    async with a_port(lasting) as house, opened(house) as client:
        client.send(query(SLEEP))
        await cancel(house.number, client.pid, client.secret)
        answer = await client.answer()
        assert (answer.sqlstate, answer.status) == ("57014", "E")
        assert (await client.query("ROLLBACK")).status == "I"


async def test_a_client_that_leaves_an_open_transaction_takes_its_backend_along(lasting: World) -> None:
    async with a_port(lasting) as house, opened(house) as client:
        (backend,) = house.pool(TENANT).connections()
        client.abort()
        await until(lambda: backend.is_closed, "its backend is ended")
        await serves(house)


async def test_an_open_transaction_without_a_word_is_ended_in_time(lasting: World) -> None:
    async with a_port(lasting, pg={"idle_transaction_timeout": 0.5}) as house, opened(house) as client:
        assert (await client.rest()).sqlstate == "25P03"
        await serves(house)


async def test_a_drain_waits_for_an_open_transaction(lasting: World) -> None:
    async with a_port(lasting) as house, opened(house) as client:
        relay = relay_of(house, client)
        closing = asyncio.create_task(house.port.close())
        await until(lambda: relay.is_draining, "it drains")
        client.send(query("COMMIT"))
        answer = await client.rest()
        assert answer.tags == ["COMMIT"]
        assert answer.sqlstate == "57P01"
        await closing


async def test_a_backend_that_dies_in_an_open_transaction_is_told_to_its_client(lasting: World) -> None:
    async with a_port(lasting) as house, opened(house) as client:
        (backend,) = house.pool(TENANT).connections()
        async with lasting.shared.connect() as admin:
            await admin.fetchval("SELECT pg_terminate_backend($1)", backend.pid)
        assert (await client.rest()).sqlstate == "57P01"
        await serves(house)


# --- counters --------------------------------------------------------------------------------------------------------
async def test_what_is_carried_counts_as_what_is_not(lasting: World) -> None:
    async with a_port(lasting) as house:
        client = await house.client(TENANT)
        await client.query("SELECT 1")

        def counts() -> dict[str, float]:
            stats = house.router.stats()
            found = {name: float(getattr(traffic(), name)) for name in traffic().__slots__ if "seconds" not in name}
            holds, waits = house.pool(TENANT).hold_seconds, house.pool(TENANT).wait_seconds
            return found | {
                "acquires": stats.acquires[TENANT]["ok"], "holds": sum(holds.counts), "waits": sum(waits.counts),
            }  # fmt: skip

        def traffic() -> Any:
            return house.listener.traffic[tenant_id(TENANT)]

        async def cost(send: Callable[[], Awaitable[Answer]]) -> dict[str, float]:
            before = counts()
            for _ in range(5):
                await send()
            await until(lambda: house.is_quiet, "all is back")
            return {name: count - before[name] for name, count in counts().items()}

        async def slowly() -> Answer:
            return await in_pieces(house, client, query("SELECT 1"))

        begin = carried()

        async def in_a_transaction() -> Answer:
            await client.query("BEGIN")
            await client.query("SELECT 1")
            return await client.query("COMMIT")

        async def slowly_in_a_transaction() -> Answer:
            await in_pieces(house, client, query("BEGIN"))
            await client.query("SELECT 1")
            return await client.query("COMMIT")

        longer = await cost(in_a_transaction)
        assert carried() == begin + 5
        assert longer == await cost(slowly_in_a_transaction)
        begin = carried()
        straight = await cost(lambda: client.query("SELECT 1"))
        assert carried() == begin + 5
        assert straight == await cost(slowly)
        assert carried() == begin + 5
        assert straight["acquires"] == straight["transactions"] == straight["leases"] == straight["queries"] == 5
        assert house.listener.pg_stats().carried == carried()


# --- everything at once ----------------------------------------------------------------------------------------------
CROWD: Final = ("database1", "row1", "row2", "database2", "row3")
FEW: Final[dict[str, Any]] = {"max_size": 3, "shared_size": 4}
WAITING: Final = ("database1", "database1", "row1")  # with many more clients than connections
FEWER: Final[dict[str, Any]] = {"max_size": 2, "shared_size": 2}


def told(label: str) -> str:
    """An expression that a row tenant's session alone has this value in."""
    tenant, _, rest = label.partition(" ")
    return f"tenantproxy.bound_tenant() || ' {rest}'" if tenant.startswith("row") else f"'{label}'"


class Crowd(threading.Thread):
    """Clients in a thread of their own, so that the port is often alone. Each knows which answers are its own."""

    def __init__(
        self,
        port: int,
        seed: int,
        *,
        clients: int,
        steps: int,
        goes_on: Callable[[], bool] = lambda: False,
        tenants: tuple[str, ...] = CROWD,
    ) -> None:
        """`steps` of each client, then more for as long as it `goes_on`."""
        super().__init__(daemon=True)
        self.tenants = tenants
        self.port, self.seed, self.number, self.steps, self.goes_on = port, seed, clients, steps, goes_on
        self.answered = self.lost = 0
        self.wrong: list[str] = []
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            asyncio.run(self._all())
        except BaseException as exc:  # noqa: BLE001 - told to the test
            self.failure = exc

    async def _all(self) -> None:
        await asyncio.gather(*(self._one(n) for n in range(self.number)))

    async def _one(self, n: int) -> None:
        rng = random.Random(f"{self.seed} {n}")
        tenant = self.tenants[n % len(self.tenants)]
        client: WireClient | None = None
        for step in takewhile(lambda step: step < self.steps or self.goes_on(), count()):
            label = f"{tenant} {n} {step}"
            while client is None:
                with suppress(Refused):  # an operator has paused it
                    client = await WireClient.connect(self.port, tenant)
                    await prepared(client, b"p", f"SELECT {told(f'{tenant} {n} p')}")
            answer = await self._step(client, rng, label, f"{tenant} {n} p")
            if answer is None or not answer.status:  # it left, or was ended
                self.lost += answer is not None
                client.abort()
                client = None
        if client is not None:
            await client.close()

    async def _block(self, client: WireClient, rng: random.Random, label: str) -> Answer:
        """A transaction of three statements; one of them may fail, and the client may go on in pieces."""
        answer = await client.query("BEGIN")
        for sql in (f"SELECT {told(label)}", rng.choice((f"SELECT {told(label)}", "SELECT 1/0")), "COMMIT"):
            if not answer.status:
                break
            answer = await client.query(sql)
            if any(row[0] != label for row in answer.rows):
                self.wrong.append(f"{label}: {answer.rows[:3]}")
        self.answered += 1
        return answer

    async def _step(self, client: WireClient, rng: random.Random, label: str, of_p: str) -> Answer | None:
        """What came; None: it left without a word."""
        kind, expected = rng.random(), label
        if kind < 0.3:
            client.send(query(f"SELECT {told(label)}"))
        elif kind < 0.5:
            client.send(parse(b"", f"SELECT {told(label)}".encode()) + bind(b"") + SHOWN)
        elif kind < 0.7:
            client.send(bind(b"p") + SHOWN)
            expected = of_p
        elif kind < 0.75:
            client.send(query(f"SELECT {told(label)} FROM pg_sleep({rng.random() / 50})"))
        elif kind < 0.8:
            client.send(query(f"SELECT {told(label)}, repeat('x', {rng.randrange(100_000)})"))
        elif kind < 0.84:
            return await self._block(client, rng, label)
        elif kind < 0.88:
            client.send(query(f"SELECT {told(label)} || 1/0"))
        elif kind < 0.91:
            client.send(query(f"SET application_name = '{label}'"))
        elif kind < 0.94:
            client.send(statement(f"SELECT {told(label)}") + SYNC)
        elif kind < 0.97:
            client.send(query(f"SELECT {told(label)} FROM pg_sleep(0.02)"))
            await cancel(self.port, client.pid, client.secret)
        else:
            client.send(query(f"SELECT {told(label)} FROM pg_sleep(0.01)"))
            return None
        answer = await client.answer()
        self.answered += 1
        if any(row[0] != expected for row in answer.rows):
            self.wrong.append(f"{expected}: {answer.rows[:3]}")
        return answer


@pytest.mark.parametrize(
    ("seed", "tenants", "sizes"), [(0, CROWD, FEW), (1, CROWD, FEW), (0, WAITING, FEWER), (1, WAITING, FEWER)]
)
async def test_each_client_of_a_crowd_gets_its_own_answers_while_an_operator_does_everything(
    lasting: World, seed: int, tenants: tuple[str, ...], sizes: dict[str, Any]
) -> None:
    rng = random.Random(seed)
    async with a_port(lasting, pools=sizes | {"acquire_timeout": 30.0}) as house:
        listener = house.listener
        native = pump()
        crowd = Crowd(
            house.number, seed, clients=10, steps=60, goes_on=lambda: native.carried < ENOUGH, tenants=tenants
        )
        crowd.start()

        def some() -> Client | None:
            clients = [each for each in listener._clients.values() if each.relay is not None]
            return rng.choice(clients) if clients else None

        async def do() -> None:
            one = some()
            kind = rng.random()
            if one is None or one.relay is None:
                return
            if kind < 0.5:
                assert one.relay.backend is None or not one.relay.backend.is_ending
            elif kind < 0.6:
                one.relay.cancel(lambda: None)
            elif kind < 0.63:
                one.kill()
            elif kind < 0.66:
                one.relay.drain()
            elif kind < 0.7 and one.relay.backend is not None:
                one.relay.backend.pool.expire()
            elif kind < 0.73 and one.relay.backend is not None:
                one.relay.backend.pool.retire(one.relay.backend, "error")
            elif kind < 0.75 and one.target.tenant is not None:
                await listener.pause(one.target.tenant)
                listener.resume(one.target.tenant)

        while crowd.is_alive():
            assert not pump().parked
            await do()
            await asyncio.sleep(rng.choice((0, 0, 0.001, 0.01)))
        assert crowd.failure is None, crowd.failure
        assert not crowd.wrong
        assert crowd.answered > 100
        assert pump().carried >= ENOUGH
        await until(lambda: house.is_at_rest, "all is back")
