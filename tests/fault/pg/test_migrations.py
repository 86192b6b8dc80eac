"""Are a client's values stored as what they are when the tables change between two uses of its statement?"""

from __future__ import annotations

import struct

from tenantproxy.model import tenant_id
from tenantproxy.wire import frames
from tenantproxy.wire.frames import frame
from tests.support.model_server import SYNC, close, describe, execute, parse
from tests.support.port_house import PortHouse, a_port
from tests.support.waiting import until
from tests.support.wire_client import WireClient
from tests.support.world import World

PREPARED = parse(b"s", b"INSERT INTO moved VALUES ($1)") + describe(b"s") + SYNC
INT8, FLOAT8 = 20, 701


def values(packed: bytes) -> bytes:
    """Run `s` with one value in binary, as a driver that knows its type."""
    bind = b"\0s\0" + struct.pack("!HHHI", 1, 1, 1, len(packed)) + packed + b"\0\0"
    return frame(frames.BIND, bind) + execute() + SYNC


async def told(client: WireClient) -> int:
    """The type of the first parameter."""
    kind, payload = await client.message()
    while kind != frames.PARAMETER_DESCRIPTION:
        kind, payload = await client.message()
    await client.answer()
    return int.from_bytes(payload[2:6], "big")


async def elsewhere(house: PortHouse) -> WireClient:
    """One that keeps the only backend for itself."""
    client = await house.client("database1")
    await client.query("BEGIN")
    return client


async def test_a_value_of_the_type_that_a_statement_had_is_not_stored_as_another(lasting: World) -> None:
    tenant = next(each for each in lasting.tenants if each.id == tenant_id("database1"))
    async with (
        a_port(lasting, pools={"max_size": 2}) as house,
        lasting.database(tenant).connect() as admin,
    ):
        await admin.execute("CREATE TABLE moved (n bigint); GRANT ALL ON moved TO PUBLIC")
        try:
            client = await house.client("database1")
            client.send(PREPARED)
            assert await told(client) == INT8
            holder = await elsewhere(house)
            await admin.execute("ALTER TABLE moved ALTER n TYPE double precision")
            client.send(values(struct.pack("!q", 1)))
            answer = await client.answer()
            assert answer.sqlstate == "0A000"
            assert answer.errors[0]["R"] == "RevalidateCachedQuery"
            assert await admin.fetchval("SELECT count(*) FROM moved") == 0
            client.send(close(b"s") + PREPARED)
            assert await told(client) == FLOAT8
            client.send(values(struct.pack("!d", 1.5)))
            assert (await client.answer()).tags == ["INSERT 0 1"]
            assert await admin.fetchval("SELECT n FROM moved") == 1.5
            await holder.query("ROLLBACK")
        finally:
            await admin.execute("DROP TABLE moved")


async def test_a_text_that_a_change_broke_is_parsed_again_for_the_next_client(lasting: World) -> None:
    """PostgreSQL cannot plan a statement again whose parameter has got another type: it says so at each Bind."""
    tenant = next(each for each in lasting.tenants if each.id == tenant_id("database1"))
    text = b"INSERT INTO moved (n) VALUES ($1) RETURNING n::text || '!'"
    async with (
        a_port(lasting, pools={"max_size": 1}) as house,
        lasting.database(tenant).connect() as admin,
    ):
        await admin.execute("CREATE TABLE moved (n text); GRANT ALL ON moved TO PUBLIC")
        try:
            client, other = await house.client("database1"), await house.client("database1")
            one = frame(frames.BIND, b"\0s\0" + struct.pack("!HHI", 0, 1, 1) + b"1" + b"\0\0") + execute() + SYNC
            for each in (client, other):
                each.send(parse(b"s", text) + one)
                assert (await each.answer()).value == "1!"
            await admin.execute("ALTER TABLE moved ALTER n TYPE int USING n::int")
            client.send(one)
            assert (await client.answer()).sqlstate == "42804"
            latest = await house.client("database1")
            for each in (client, latest):
                each.send(close(b"s") + parse(b"s", text) + one)
                assert (await each.answer()).value == "1!"
            other.send(one)  # it has not prepared again
            assert (await other.answer()).sqlstate == "42804"
        finally:
            await admin.execute("DROP TABLE moved")


async def test_the_values_of_a_bind_that_is_refused_in_pieces_are_not_read_as_messages(lasting: World) -> None:
    tenant = next(each for each in lasting.tenants if each.id == tenant_id("database1"))
    async with (
        a_port(lasting, pools={"max_size": 2}) as house,
        lasting.database(tenant).connect() as admin,
    ):
        await admin.execute("CREATE TABLE moved (n text); GRANT ALL ON moved TO PUBLIC")
        try:
            client = await house.client("database1")
            client.send(PREPARED)
            await client.answer()
            holder = await elsewhere(house)
            await admin.execute("ALTER TABLE moved ALTER n TYPE bytea USING n::bytea")
            smuggled = SYNC + frame(frames.QUERY, b"INSERT INTO moved VALUES ('smuggled')\0")
            whole = values(b"x" * 70_000 + smuggled)
            before = whole.index(smuggled)
            client.send(whole[:before])
            kind, said = await client.message()  # before the rest has come
            assert kind == frames.ERROR
            assert b"\0C0A000\0" in said
            client.send(whole[before:])
            answer = await client.answer()
            assert (answer.rows, answer.tags, answer.errors) == ([], [], [])
            assert (await client.query("SELECT 'next'")).rows == [["next"]]
            assert await admin.fetchval("SELECT count(*) FROM moved") == 0
            await holder.query("ROLLBACK")
        finally:
            await admin.execute("DROP TABLE moved")


async def test_a_client_that_made_its_answers_doubtful_is_ended_where_its_statement_must_be_compared(
    lasting: World,
) -> None:
    tenant = next(each for each in lasting.tenants if each.id == tenant_id("database1"))
    async with (
        a_port(lasting, pools={"max_size": 2}) as house,
        lasting.database(tenant).connect() as admin,
    ):
        await admin.execute("CREATE TABLE moved (n bigint); GRANT ALL ON moved TO PUBLIC")
        try:
            client = await house.client("database1")
            client.send(PREPARED)
            await client.answer()
            holder = await elsewhere(house)
            await admin.execute("ALTER TABLE moved DROP n")
            client.send(parse(b"", b"SELECT 1") + frame(frames.COPY_DATA, b"x") + frame(frames.FLUSH))
            client.send(values(b"1234567\n"))
            assert [error["C"] for error in (await client.rest()).errors] == ["08P01"]
            await holder.query("ROLLBACK")
        finally:
            await admin.execute("DROP TABLE moved")


async def test_a_deallocate_that_comes_in_two_pieces_is_the_clients_own(lasting: World) -> None:
    async with a_port(lasting, pools={"max_size": 1}) as house:
        client = await house.client("database1")
        client.send(parse(b"s", b"SELECT 1") + SYNC)
        await client.answer()
        assert not (await client.query("BEGIN")).errors
        said = frame(frames.QUERY, b"DEALLOCATE s\0")
        before = house.listener.traffic[tenant_id("database1")].received
        client.send(said[:9])
        await until(lambda: house.listener.traffic[tenant_id("database1")].received > before, "a part was read")
        client.send(said[9:])
        answer = await client.answer()
        assert (answer.tags, answer.errors) == (["DEALLOCATE"], [])
