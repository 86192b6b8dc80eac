"""Is a client's session as it was at its start after a reset, whatever text resets it, before its next byte runs?"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from tenantproxy.model import tenant_id
from tenantproxy.raw.backend import RawBackend
from tenantproxy.raw.exchange import READY_IDLE
from tenantproxy.wire.frames import NOTIFICATION, frame
from tests.support.model_server import SYNC, parse, query, run
from tests.support.port_house import PortHouse, a_port
from tests.support.waiting import until
from tests.support.wire_client import PASSWORD, Answer, WireClient
from tests.support.world import World

START = {"TimeZone": "Asia/Tokyo", "statement_timeout": "77s", "application_name": "mine"}
CHANGED = {"TimeZone": "UTC", "statement_timeout": "9s", "application_name": "other"}
ASYNCPG = "SELECT pg_advisory_unlock_all();\nCLOSE ALL;\nUNLISTEN *;\nRESET ALL;"
NPGSQL = (
    "SET SESSION AUTHORIZATION DEFAULT;RESET ALL;CLOSE ALL;UNLISTEN *;SELECT pg_advisory_unlock_all();"
    "DISCARD SEQUENCES;DISCARD TEMP"
)
RESETS = ["RESET ALL", "discard all", ASYNCPG, NPGSQL, "BEGIN; RESET ALL; COMMIT", "/* the pool's */ RESET ALL -- now"]
RESETS += [" RESET ALL", "\n\tdiscard all"]
EXTENDED = ["DISCARD ALL", "RESET ALL", " RESET ALL", "\n\tdiscard all", "/* mine */ -- and\n RESET ALL"]
COUNT = "SELECT count(*) FROM projects"
WRITE = "INSERT INTO projects (name) VALUES ('not bound')"

Seat = tuple[str, str]
seats = pytest.mark.parametrize(
    "seat", [("row1", "all"), ("row1", "session"), ("database1", "all"), ("database1", "session")], ids=" ".join
)


@pytest.fixture
async def house(lasting: World) -> AsyncIterator[PortHouse]:
    async with a_port(lasting) as house:
        yield house


async def show(client: WireClient, *names: str) -> dict[str, str | None]:
    return {name: (await client.query(f"SHOW {name}")).value for name in names}


async def changed(house: PortHouse, seat: Seat) -> WireClient:
    """A client that has set each of `START` otherwise."""
    client = await house.client(*seat, **START)
    for name, value in CHANGED.items():
        assert not (await client.query(f"SET {name} = '{value}'")).errors
    return client


def extended(sql: str) -> bytes:
    return parse(b"", sql.encode()) + run() + SYNC


@seats
@pytest.mark.parametrize("sql", RESETS)
async def test_a_reset_of_all_returns_to_the_settings_of_the_clients_start(
    house: PortHouse, seat: Seat, sql: str
) -> None:
    client = await changed(house, seat)
    assert not (await client.query(sql)).errors
    assert {name: client.parameters.get(name, START[name]) for name in START} == START, "what it is told"
    assert await show(client, *START) == {**START, "statement_timeout": "77s"}


@seats
@pytest.mark.parametrize("sql", ["RESET ALL", "DISCARD ALL"])
async def test_a_reset_in_the_extended_protocol_returns_to_them_too(house: PortHouse, seat: Seat, sql: str) -> None:
    client = await changed(house, seat)
    client.send(extended(sql))
    assert not (await client.answer()).errors
    assert client.parameters["TimeZone"] == "Asia/Tokyo"
    assert await show(client, *START) == START


@seats
@pytest.mark.parametrize(
    ("sql", "returned"),
    [
        ("RESET TimeZone", "TimeZone"),
        ("SET TimeZone TO DEFAULT", "TimeZone"),
        ("SET TIME ZONE LOCAL", "TimeZone"),
        ("SELECT 1; SET LOCAL lock_timeout = 1; reset statement_timeout;", "statement_timeout"),
        ("SET statement_timeout TO DEFAULT", "statement_timeout"),
    ],
)
async def test_a_reset_of_one_setting_returns_that_one(house: PortHouse, seat: Seat, sql: str, returned: str) -> None:
    client = await changed(house, seat)
    assert not (await client.query(sql)).errors
    assert await show(client, *START) == CHANGED | {returned: START[returned]}
    reported = {
        name: value for name, value in (CHANGED | {returned: START[returned]}).items() if name in client.parameters
    }
    assert {name: client.parameters[name] for name in reported} == reported


@seats
async def test_a_reset_that_is_rolled_back_returns_nothing(house: PortHouse, seat: Seat) -> None:
    client = await changed(house, seat)
    await client.query("BEGIN")
    await client.query("RESET TimeZone")
    await client.query("ROLLBACK")
    assert (await show(client, "TimeZone"))["TimeZone"] == "UTC"
    assert client.parameters["TimeZone"] == "UTC"


@seats
async def test_what_is_set_behind_a_reset_in_one_text_is_in_force(house: PortHouse, seat: Seat) -> None:
    client = await changed(house, seat)
    assert not (await client.query("RESET ALL; SET TimeZone = 'Europe/Paris'; SET lock_timeout = '3s'")).errors
    assert await show(client, "TimeZone", "statement_timeout", "lock_timeout") == {
        "TimeZone": "Europe/Paris",
        "statement_timeout": "77s",
        "lock_timeout": "3s",
    }
    assert client.parameters["TimeZone"] == "Europe/Paris"


@seats
async def test_nothing_of_one_user_of_a_pool_stays_for_the_next_behind_its_reset(house: PortHouse, seat: Seat) -> None:
    client = await house.client(*seat)
    names = ("statement_timeout", "lock_timeout", "jit", "default_transaction_isolation", "search_path")
    before = await show(client, *names)
    for sql in (
        "SET statement_timeout = 4321; SET lock_timeout = '3s'; SET jit = off",
        "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE",
        "SELECT 1; SET search_path = pg_catalog",
    ):
        assert not (await client.query(sql)).errors
    assert await show(client, *names) == {
        "statement_timeout": "4321ms",
        "lock_timeout": "3s",
        "jit": "off",
        "default_transaction_isolation": "serializable",
        "search_path": "pg_catalog",
    }
    assert not (await client.query(ASYNCPG)).errors
    assert await show(client, *names) == before


@pytest.mark.parametrize("user", ["all", "session"])
async def test_the_settings_of_asyncpgs_pool_are_in_force_for_each_that_takes_a_connection(
    house: PortHouse, user: str
) -> None:
    async with asyncpg.create_pool(
        host="127.0.0.1",
        port=house.number,
        user=user,
        password=PASSWORD,
        database="row1",
        ssl=False,
        min_size=1,
        max_size=1,
        server_settings={"TimeZone": "Asia/Tokyo", "statement_timeout": "77s"},
    ) as pool:
        for _ in range(3):
            async with pool.acquire() as conn:
                assert await conn.fetchval("SHOW TimeZone") == "Asia/Tokyo"
                assert await conn.fetchval("SHOW statement_timeout") == "77s"
                assert conn.get_settings().TimeZone == "Asia/Tokyo"
                await conn.execute("SET TimeZone = 'UTC'; SET statement_timeout = '9s'")
                assert await conn.fetchval("SHOW statement_timeout") == "9s"


@pytest.mark.both_paths
@pytest.mark.parametrize("tenant", ["database1", "schema1", "row1"])
async def test_a_connection_that_asyncpgs_pool_has_reset_is_lent_on_as_it_is(house: PortHouse, tenant: str) -> None:
    async with asyncpg.create_pool(
        host="127.0.0.1", port=house.number, user="all", password=PASSWORD, database=tenant, ssl=False,
        min_size=1, max_size=1,
    ) as pool:  # fmt: skip
        assert await pool.fetchval(COUNT) == 3
        before, pids = house.router.stats().resets["ok"], set()
        for _ in range(5):
            async with pool.acquire() as conn:
                assert await conn.fetchval(COUNT) == 3
                pids.add(await conn.fetchval("SELECT pg_backend_pid()"))
        assert house.router.stats().resets["ok"] == before
        assert len(pids) == 1, "what is prepared there would be prepared again"


async def answers_of(client: WireClient, count: int) -> list[Answer]:
    return [await client.answer() for _ in range(count)]


@seats
@pytest.mark.parametrize(
    "reset",
    [*(query(sql.encode()) for sql in RESETS), *map(extended, EXTENDED)],
    ids=[*RESETS, *(f"extended {sql}" for sql in EXTENDED)],
)
@pytest.mark.parametrize("behind", [query(COUNT.encode()), extended(COUNT)], ids=["simple", "extended"])
async def test_what_comes_in_one_write_with_a_reset_is_the_tenants_and_has_its_settings(
    house: PortHouse, seat: Seat, reset: bytes, behind: bytes
) -> None:
    client = await changed(house, seat)
    zone = query(b"SHOW TimeZone")
    client.send(reset + behind + zone + reset + zone)
    answers = await answers_of(client, 5)
    assert not [answer.errors for answer in answers if answer.errors]
    assert answers[1].value == "3"
    assert answers[2].value == answers[4].value == "Asia/Tokyo"


@seats
async def test_what_comes_in_pieces_with_a_reset_is_the_tenants(house: PortHouse, seat: Seat) -> None:
    client = await changed(house, seat)
    traffic = house.listener.traffic[tenant_id(seat[0])]
    said = query(ASYNCPG.encode()) + extended(COUNT) + query(b"DISCARD ALL") + query(COUNT.encode())
    for size in (7, 40):
        for at in range(0, len(said), size):
            before = traffic.received
            client.send(said[at : at + size])
            await until(lambda before=before: traffic.received > before, "it was read")  # type: ignore[misc]
        answers = await answers_of(client, 4)
        assert [answer.value for answer in (answers[1], answers[3])] == ["3", "3"]
    assert (await show(client, "TimeZone"))["TimeZone"] == "Asia/Tokyo"


async def test_a_bind_that_fails_behind_a_reset_lets_nothing_run(house: PortHouse, lasting: World) -> None:
    client = await house.client("row1", "session")
    assert (await client.query(COUNT)).value == "3"
    async with lasting.shared.connect() as admin:
        await admin.execute("ALTER FUNCTION tenantproxy.bind(text, text) RENAME TO not_now")
        try:
            client.send(query(b"DISCARD ALL") + query(WRITE.encode()) + extended(WRITE))
            said = await client.rest()
            assert said.tags == ["DISCARD ALL"]
            assert len(said.errors) == 1
            assert said.errors[0]["S"] == "FATAL"
        finally:
            await admin.execute("ALTER FUNCTION tenantproxy.not_now(text, text) RENAME TO bind")
        assert await admin.fetchval("SELECT count(*) FROM projects WHERE name = 'not bound'") == 0


BELIEVED = "SELECT current_setting('extra_float_digits') || ' ' || current_setting('TimeZone')"


@pytest.mark.parametrize("setting", ["extra_float_digits = 0", "TimeZone = 'Asia/Tokyo'"])
async def test_what_an_error_undoes_in_the_same_breath_is_set_for_nobody(lasting: World, setting: str) -> None:
    async with a_port(lasting, pools={"max_size": 1}) as house:
        client = await house.client("database1")
        same = await house.client("database1", extra_float_digits="0", TimeZone="Asia/Tokyo")
        before, wanted = (await client.query(BELIEVED)).value, (await same.query(BELIEVED)).value
        assert (await client.query(f"SET {setting}; SELECT 1 / 0")).errors
        assert (await same.query(BELIEVED)).value == wanted == "0 Asia/Tokyo"
        assert (await client.query(BELIEVED)).value == before


async def test_what_the_server_says_behind_the_answer_to_a_reset_stays_whole(house: PortHouse) -> None:
    client = await house.client("row1", TimeZone="Asia/Tokyo")
    for sql in ("LISTEN said", "SET TimeZone = 'UTC'"):
        assert not (await client.query(sql)).errors
    (backend,) = house.pool("row1").connections()
    sink, came = backend.sink, bytearray()
    backend.sink = came.extend
    client.send(query(b"RESET ALL"))
    await until(lambda: came.endswith(READY_IDLE), "the server has answered")
    sink(bytes(came) + frame(NOTIFICATION, backend.pid.to_bytes(4, "big") + b"said\0of a listener\0"))
    assert (await client.answer()).tags == ["RESET"]
    answer = await client.query("SHOW TimeZone")
    assert (answer.value, client.parameters["TimeZone"]) == ("Asia/Tokyo", "Asia/Tokyo")
    assert answer.kinds.startswith(b"A")


@pytest.mark.parametrize("user", ["all", "session"])
async def test_a_notification_that_comes_while_the_binding_is_renewed_reaches_its_client(
    house: PortHouse, monkeypatch: pytest.MonkeyPatch, user: str
) -> None:
    """Any tenant of the database may send one: it must not end the session of another."""
    client = await house.client("row1", user)
    await client.query("LISTEN said")
    lender = house.lending.lender
    enter = lender.enter

    def entering(backend: RawBackend, *args: Any, **options: Any) -> None:
        enter(backend, *args, **options)
        backend.sink(frame(NOTIFICATION, backend.pid.to_bytes(4, "big") + b"said\0of another tenant\0"))

    monkeypatch.setattr(lender, "enter", entering)
    await client.query("RESET ALL")  # and then the tenant is bound again
    answer = await client.query(COUNT)
    assert (answer.errors, answer.kinds.count(NOTIFICATION)) == ([], 1)
    answer = await client.query(COUNT)
    assert (answer.value, answer.kinds.count(NOTIFICATION)) == ("3", 0)


async def test_a_client_that_makes_its_own_bind_fail_raises_no_alert_of_a_new_session(house: PortHouse) -> None:
    client = await house.client("row1", "session")
    client.send(query(b"SET app.current_tenant_id = 'row2'; DISCARD SEQUENCES") + query(COUNT.encode()))
    said = await client.rest()
    assert said.errors[-1]["S"] == "FATAL"
    violations = house.router.stats().violations
    assert (violations["rebind"], violations["bind"]) == (1, 0)
