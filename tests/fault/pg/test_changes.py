"""Is who prepares a text behind a change of tables, types or functions told what it means now?"""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import asyncpg
import pytest
from asyncpg.prepared_stmt import PreparedStatement

from tenantproxy.model import tenant_id
from tests.support.model_server import SYNC, bind, describe, execute, parse
from tests.support.port_house import PortHouse, a_port
from tests.support.wire_client import PASSWORD, WireClient
from tests.support.world import World

TEXT = "SELECT kind($1)"
BEFORE, AFTER = ["int8"], ["float8"]
_IS: Final = "RETURNS text IMMUTABLE LANGUAGE sql AS $$ SELECT 'a number' $$"
MADE = f"CREATE FUNCTION kind(int8) {_IS}; CREATE FUNCTION kind_of(float8) {_IS}; CREATE FUNCTION kind_of(text) {_IS}"
# What was prepared before runs on, for an int8 is a float8 too: no error of the server's tells that it is out of date.
CHANGED = "DROP FUNCTION kind(int8); ALTER FUNCTION kind_of(float8) RENAME TO kind"
BROKEN = CHANGED.replace("float8", "text")
ANY_CHANGE = "CREATE TABLE unrelated ()"


@asynccontextmanager
async def driver(house: PortHouse, tenant: str) -> AsyncIterator[asyncpg.Connection]:
    """A new client, as an application has it."""
    conn = await asyncpg.connect(
        host="127.0.0.1", port=house.number, user="all", password=PASSWORD, database=tenant, ssl=False
    )
    try:
        yield conn
    finally:
        await conn.close()


async def told(house: PortHouse, tenant: str, value: object = 1) -> list[str]:
    """The types of parameters that a new client hears, which can go by them."""
    async with driver(house, tenant) as conn:
        return [each.name for each in (await prepared(conn, value)).get_parameters()]


async def prepared(conn: asyncpg.Connection, value: object = 1) -> PreparedStatement:
    """Prepared and run: then the backend is free."""
    statement = await conn.prepare(TEXT)
    assert await statement.fetchval(value) == "a number"
    return statement


async def done(client: WireClient, sql: str, protocol: str) -> None:
    """Run each statement."""
    if protocol == "simple":
        answer = await client.query(sql)
        assert not answer.errors
        return
    for each in sql.split(";"):
        client.send(parse(b"", each.encode()) + bind(b"") + execute() + SYNC)
        assert not (await client.answer()).errors


@asynccontextmanager
async def changing(world: World, tenant: str, schema: str = "public") -> AsyncIterator[asyncpg.Connection]:
    """The superuser in a tenant's database, where its role may change things, and `kind` is there."""
    place = next(each for each in world.tenants if each.id == tenant_id(tenant))
    role, database = world.role_of(place), world.database(place).name
    async with world.database(place).connect() as admin:
        await admin.execute(f"SET search_path = {schema}; {MADE}; ALTER FUNCTION kind(int8) OWNER TO {role}")
        await admin.execute(f"ALTER FUNCTION kind_of(float8) OWNER TO {role}")
        await admin.execute(f'GRANT CREATE ON SCHEMA {schema} TO {role}; GRANT TEMP ON DATABASE "{database}" TO {role}')
        try:
            yield admin
        finally:
            await admin.execute(
                f'REVOKE CREATE ON SCHEMA {schema} FROM {role}; REVOKE TEMP ON DATABASE "{database}" FROM {role};'
                "DROP FUNCTION IF EXISTS kind, kind_of(float8), kind_of(text); DROP TABLE IF EXISTS unrelated"
            )


@pytest.mark.parametrize("protocol", ["simple", "extended"])
async def test_a_new_client_is_told_the_types_behind_a_change_by_another_client(lasting: World, protocol: str) -> None:
    async with changing(lasting, "database1"), a_port(lasting, pools={"max_size": 1}) as house:
        async with driver(house, "database1") as lasting_client:
            held = await prepared(lasting_client)
            assert await told(house, "database1") == BEFORE
            await done(await house.client("database1"), CHANGED, protocol)
            assert await told(house, "database1") == AFTER
            assert await held.fetchval(1) == "a number"  # as with a server: an int8 is a float8 too
        assert await told(house, "database1") == AFTER


async def test_a_client_in_session_mode_changes_what_others_are_told(lasting: World) -> None:
    async with changing(lasting, "database1"), a_port(lasting, pools={"max_size": 2}) as house:
        session = await house.client("database1", "session")
        await session.query("SELECT 1")  # it has its backend, and the other has all else
        async with driver(house, "database1") as lasting_client:
            await prepared(lasting_client)
            await done(session, CHANGED, "simple")
            assert await told(house, "database1") == AFTER


@pytest.mark.parametrize("protocol", ["simple", "extended"])
async def test_a_change_in_a_transaction_holds_for_others_from_its_commit_on(lasting: World, protocol: str) -> None:
    async with changing(lasting, "database1"), a_port(lasting, pools={"max_size": 2}) as house:
        async with driver(house, "database1") as lasting_client:
            await prepared(lasting_client)
            client = await house.client("database1")
            await done(client, f"BEGIN; {CHANGED}", protocol)
            client.send(parse(b"own", TEXT.encode()) + describe(b"own") + SYNC)
            assert (await described(client)) == 701
            assert await told(house, "database1") == BEFORE
            await done(client, "COMMIT", protocol)
            assert await told(house, "database1") == AFTER


async def described(client: WireClient) -> int:
    """The type of the first parameter, as its number."""
    kind, payload = await client.message()
    while kind != ord("t"):
        kind, payload = await client.message()
    await client.answer()
    return int.from_bytes(payload[2:6], "big")


async def test_a_change_holds_from_a_commit_on_that_begins_the_next_transaction(lasting: World) -> None:
    async with changing(lasting, "database1"), a_port(lasting, pools={"max_size": 2}) as house:
        async with driver(house, "database1") as lasting_client:
            client = await house.client("database1")
            await done(client, "BEGIN", "simple")  # it has its backend, and the other has all else
            await prepared(lasting_client)
            await done(client, f"{CHANGED}; COMMIT AND CHAIN", "simple")
            assert await told(house, "database1") == AFTER
            await done(client, "ROLLBACK", "simple")


async def test_behind_a_change_that_was_rolled_back_everything_is_as_it_was(lasting: World) -> None:
    async with changing(lasting, "database1"), a_port(lasting, pools={"max_size": 2}) as house:
        async with driver(house, "database1") as lasting_client:
            held = await prepared(lasting_client)
            client = await house.client("database1")
            await done(client, f"BEGIN; {CHANGED}", "simple")
            client.send(parse(b"own", TEXT.encode()) + describe(b"own") + SYNC)
            assert (await described(client)) == 701
            await done(client, "ROLLBACK", "simple")
            assert await told(house, "database1") == BEFORE
            assert await held.fetchval(1) == "a number"


@pytest.mark.parametrize(("tenant", "schema"), [("schema2", "schema2"), ("row1", "public")])
async def test_a_change_by_one_tenant_is_one_for_all_in_its_database(lasting: World, tenant: str, schema: str) -> None:
    """Of the two, only that by `schema1` is seen at the port; the other tenant has another pool and another role."""
    async with (
        changing(lasting, "schema1", "schema1"),
        changing(lasting, tenant, schema) as admin,
        a_port(lasting) as house,
        driver(house, tenant) as lasting_client,
    ):
        await prepared(lasting_client)
        await admin.execute(CHANGED)
        assert await told(house, tenant) == BEFORE
        await done(await house.client("schema1"), ANY_CHANGE, "simple")
        assert await told(house, tenant) == AFTER


async def test_a_temporary_table_is_no_change_for_others(lasting: World) -> None:
    async with changing(lasting, "database1"), a_port(lasting, pools={"max_size": 2}) as house:
        client = await house.client("database1")
        client.send(parse(b"s", TEXT.encode()) + SYNC)
        await client.answer()
        (statements,) = house.listener._statements.values()
        await done(client, "CREATE TEMP TABLE own (n int)", "simple")
        await done(client, "CREATE INDEX ON own (n)", "simple")
        await done(client, "DISCARD ALL", "simple")
        assert statements.definitions.generation == 0
        await done(client, "CREATE TEMP TABLE own (n int); CREATE TABLE unrelated ()", "simple")
        assert statements.definitions.generation == 1


async def test_a_text_that_cannot_be_run_any_more_is_parsed_again_for_a_new_client(lasting: World) -> None:
    """The port has not seen the change: the first client hears of it, and the next one does not."""
    async with (
        changing(lasting, "database1") as admin,
        a_port(lasting, pools={"max_size": 1}) as house,
        driver(house, "database1") as first,
    ):
        held = await prepared(first)
        await admin.execute(BROKEN)
        with pytest.raises(asyncpg.UndefinedFunctionError):
            await held.fetchval(1)
        assert await told(house, "database1", "1") == ["text"]


async def test_a_text_with_a_type_that_is_gone_is_parsed_again_for_a_new_client(lasting: World) -> None:
    text = b"SELECT $1::mood::text"
    made = "CREATE TYPE mood AS ENUM ('glad')"
    one = bind(b"s", values=struct.pack("!HHI", 0, 1, 4) + b"glad" + b"\0\0") + execute() + SYNC
    async with changing(lasting, "database1") as admin, a_port(lasting, pools={"max_size": 1}) as house:
        try:
            await admin.execute(made)
            first = await house.client("database1")
            first.send(parse(b"s", text) + one)
            assert (await first.answer()).value == "glad"
            await admin.execute(f"DROP TYPE mood; {made}")
            first.send(one)
            assert (await first.answer()).sqlstate == "XX000"
            latest = await house.client("database1")
            latest.send(parse(b"s", text) + one)
            assert (await latest.answer()).value == "glad"
        finally:
            await admin.execute("DROP TYPE mood")
