"""Does a statement mean what its client's settings make of its text, whichever client prepared the same text?"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tenantproxy.model import tenant_id
from tests.support.model_server import SYNC, close, describe, parse, query, run
from tests.support.port_house import PortHouse, a_port
from tests.support.wire_client import Answer, WireClient
from tests.support.world import World

MIDNIGHT = "SELECT extract(epoch FROM '2024-06-01 00:00'::timestamptz)::bigint"
TOKYO, UTC = "1717167600", "1717200000"
USES = 6  # a server makes a plan for good at the sixth


@pytest.fixture
async def house(lasting: World) -> AsyncIterator[PortHouse]:
    """A port with one backend for each tenant with a database of its own."""
    async with a_port(lasting, pools={"max_size": 1}) as house:
        yield house


async def prepared(client: WireClient, text: str, name: bytes = b"s") -> str | None:
    client.send(close(name) + parse(name, text.encode()) + run(name) + SYNC)
    return (await client.answer()).value


async def said_to(client: WireClient, data: bytes) -> Answer:
    client.send(data)
    return await client.answer()


async def used(client: WireClient, name: bytes = b"s") -> str | None:
    client.send(run(name) + SYNC)
    return (await client.answer()).value


@pytest.mark.parametrize(
    ("setting", "one", "other", "text"),
    [
        ("TimeZone", "Asia/Tokyo", "UTC", MIDNIGHT),
        ("DateStyle", "DMY", "MDY", "SELECT '01/02/2024'::date - '2000-01-01'::date"),
        ("IntervalStyle", "sql_standard", "postgres", "SELECT extract(epoch FROM '-1 1:00'::interval)"),
        ("standard_conforming_strings", "off", "on", r"SELECT length('a\\b')"),
        ("client_encoding", "LATIN1", "UTF8", "SELECT length('\N{LATIN SMALL LETTER E WITH ACUTE}')"),
        ("extra_float_digits", "0", "3", "SELECT (0.1::float8 + 0.2::float8)::text"),
        ("bytea_output", "escape", "hex", r"SELECT ('abc'::bytea)::text"),
        ("transform_null_equals", "on", "off", "SELECT (NULL = 1) IS NULL"),
        ("array_nulls", "off", "on", "SELECT ('{null}'::text[])[1] IS NULL"),
    ],
)
async def test_each_client_gets_what_its_own_settings_make_of_one_text(
    house: PortHouse, setting: str, one: str, other: str, text: str
) -> None:
    clients = [await house.client("database1", **{setting: value}) for value in (one, other)]
    right = [(await client.query(text)).value for client in clients]
    assert right[0] != right[1]
    assert [await prepared(client, text) for client in clients] == right
    for _ in range(USES):
        assert [await used(client) for client in clients] == right


async def test_each_client_finds_what_its_own_search_path_leads_to(house: PortHouse, lasting: World) -> None:
    tenant = next(each for each in lasting.tenants if each.id == tenant_id("database1"))
    async with lasting.database(tenant).connect() as admin:
        await admin.execute(
            "CREATE SCHEMA here; CREATE SCHEMA there; GRANT USAGE ON SCHEMA here, there TO PUBLIC;"
            "CREATE FUNCTION here.f() RETURNS int LANGUAGE sql AS 'SELECT 1';"
            "CREATE FUNCTION there.f() RETURNS text LANGUAGE sql AS $$SELECT 'two'$$"
        )
        try:
            clients = [await house.client("database1", search_path=path) for path in ("here", "there")]
            for _ in range(USES):
                assert [await prepared(client, "SELECT f()") for client in clients] == ["1", "two"]
            await clients[0].query("BEGIN")
            await clients[0].query("SET LOCAL search_path = there")
            assert await prepared(clients[0], "SELECT f()", b"local") == "two"
            await clients[0].query("COMMIT")
            assert await prepared(clients[0], "SELECT f()", b"after") == "1"
            assert await used(clients[1]) == "two"
            async with house.a_client("database1") as last:  # the backend finds what it found at first
                await last.query("SELECT 1")
        finally:
            await admin.execute("DROP SCHEMA here, there CASCADE")


async def test_a_statement_that_was_prepared_before_a_set_means_what_it_does_now_on_each_backend(
    house: PortHouse,
) -> None:
    """A server reads it again too when it has to plan it again, so it must not depend on which backend it is."""
    client, other = await house.client("database1", TimeZone="UTC"), await house.client("database1", TimeZone="UTC")
    assert [await prepared(each, MIDNIGHT) for each in (client, other)] == [UTC, UTC]
    await client.query("SET TimeZone = 'Asia/Tokyo'")
    assert [await used(each) for each in (client, other)] == [TOKYO, UTC]
    await client.query("BEGIN")
    await client.query("SET LOCAL TimeZone = 'UTC'")
    assert await used(client) == UTC
    await client.query("ROLLBACK")
    assert [await used(each) for each in (client, other)] == [TOKYO, UTC]


@pytest.mark.parametrize("by_select", [False, True], ids=["by SET", "by set_config"])
@pytest.mark.parametrize("in_one_segment", [False, True], ids=["in a query before", "in the same segment"])
async def test_what_is_prepared_behind_a_set_that_is_not_answered_is_not_taken_for_what_others_mean(
    house: PortHouse, by_select: bool, in_one_segment: bool
) -> None:
    text = b"SELECT set_config('TimeZone', 'Asia/Tokyo', false)" if by_select else b"SET TimeZone = 'Asia/Tokyo'"
    client, other = await house.client("database1", TimeZone="UTC"), await house.client("database1", TimeZone="UTC")
    first = parse(b"", text) + run() if in_one_segment else query(text)
    client.send(first + parse(b"s", MIDNIGHT.encode()) + run(b"s") + SYNC)
    answers = [await client.answer() for _ in range(1 if in_one_segment else 2)]
    assert answers[-1].rows[-1] == [TOKYO]
    assert await prepared(other, MIDNIGHT) == UTC
    assert [await used(each) for each in (client, other)] == [TOKYO, UTC]
    if not by_select:
        await client.query("SET TimeZone = 'UTC'")
        client.send(first + parse(b"again", MIDNIGHT.encode()) + run(b"again") + SYNC)
        answers = [await client.answer() for _ in range(1 if in_one_segment else 2)]
        assert answers[-1].rows[-1] == [TOKYO], "the one that is there already was another's"


FLOAT = "SELECT (0.1::float8 + 0.2::float8)::text"  # by a setting that no server reports
SHORT, LONG = "0.3", "0.30000000000000004"


@pytest.mark.parametrize(
    "sql",
    [
        "SET LOCAL extra_float_digits = 0",
        'SET LOCAL "extra_float_digits" = 0',
        'SET LOCAL U&"extra_float_digits" TO 0',
        "SELECT set_config('extra_float_digits', '0', true)",
    ],
)
async def test_what_is_set_for_a_transaction_alone_gives_no_meaning_to_the_statements_of_others(
    house: PortHouse, sql: str
) -> None:
    client, other = await house.client("database1"), await house.client("database1")
    await client.query("BEGIN")
    assert not (await client.query(sql)).errors
    assert await prepared(client, FLOAT) == SHORT
    await client.query("COMMIT")
    assert await prepared(other, FLOAT) == LONG


@pytest.mark.parametrize("end", ["COMMIT AND CHAIN", "COMMIT; BEGIN", "ROLLBACK AND CHAIN", "ROLLBACK; BEGIN"])
async def test_it_ends_with_its_transaction_though_another_one_begins_at_once(house: PortHouse, end: str) -> None:
    client, other = await house.client("database1"), await house.client("database1", extra_float_digits="0")
    await client.query("BEGIN")
    await client.query("SET LOCAL extra_float_digits = 0")
    assert (await client.query(end)).status == "T"
    assert await prepared(client, FLOAT) == LONG
    await client.query("COMMIT")
    assert await prepared(other, FLOAT) == SHORT


async def test_what_is_set_for_good_stays_when_another_transaction_begins_at_once(house: PortHouse) -> None:
    client, other = await house.client("database1"), await house.client("database1")
    await client.query("BEGIN")
    await client.query("SET extra_float_digits = 0")
    await client.query("COMMIT AND CHAIN")
    await client.query("ROLLBACK")
    assert [await prepared(each, FLOAT) for each in (other, client)] == [LONG, SHORT]


@pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK"])
@pytest.mark.parametrize("is_query", [True, False], ids=["a query", "a segment"])
async def test_what_is_sent_behind_the_end_of_a_transaction_means_what_it_does_behind_it(
    house: PortHouse, is_query: bool, end: str
) -> None:
    client, other = await house.client("database1"), await house.client("database1", extra_float_digits="0")
    await client.query("BEGIN")
    await client.query("SET LOCAL extra_float_digits = 0")
    client.send(query(end.encode()) if is_query else parse(b"", end.encode()) + run() + SYNC)
    client.send(parse(b"s", FLOAT.encode()) + run(b"s") + SYNC)
    await client.answer()
    assert (await client.answer()).value == LONG
    assert await prepared(other, FLOAT) == SHORT


async def test_a_set_that_cannot_be_read_gives_texts_another_meaning_on_a_backend_that_is_kept(
    house: PortHouse,
) -> None:
    client = await house.client("database1")
    await client.query("LISTEN said")
    assert await prepared(client, FLOAT) == LONG
    await client.query("SET extra_float_digits = 0; SELECT $$no SET is read with such a literal$$")
    assert [await prepared(client, FLOAT) for _ in range(2)] == [SHORT, SHORT]
    await client.query("DISCARD ALL")
    assert await prepared(client, FLOAT) == LONG


async def test_what_is_prepared_behind_a_reset_before_the_settings_are_those_of_the_start_is_prepared_anew(
    house: PortHouse,
) -> None:
    client = await house.client("database1", extra_float_digits="0")
    for sql in ("LISTEN said", "BEGIN", "RESET ALL"):
        assert not (await client.query(sql)).errors
    await prepared(client, FLOAT)
    await client.query("COMMIT")
    assert (await client.query("SHOW extra_float_digits")).value == "0"
    assert await prepared(client, FLOAT) == SHORT


async def test_a_failed_transaction_still_knows_what_was_prepared_before_it(house: PortHouse) -> None:
    """The server describes there what gives no rows, and parses nothing but the end."""
    client = await house.client("database1")
    texts = {b"s": "SET extra_float_digits = 0", b"end": "ROLLBACK"}
    client.send(b"".join(parse(name, text.encode()) for name, text in texts.items()) + SYNC)
    assert not (await client.answer()).errors
    await client.query("BEGIN")
    await said_to(client, run(b"s") + SYNC)
    assert (await client.query("SELECT 1/0")).status == "E"
    assert (await said_to(client, describe(b"s") + SYNC)).kinds == b"tnZ"
    assert (await said_to(client, run(b"end") + SYNC)).tags == ["ROLLBACK"]
    assert await prepared(client, FLOAT) == LONG
