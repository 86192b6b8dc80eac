"""What does a caller of the port or of /sql get that belongs to the one before it, of the same tenant?"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import asyncpg
import pytest

from tenantproxy.model import tenant_id
from tests.fault.sql.test_sql_regions import elsewhere
from tests.support.port_house import users
from tests.support.sql_house import a_sql_house, connection_string
from tests.support.wire_client import PASSWORD
from tests.support.world import SERVER, World

pytestmark = pytest.mark.asyncio

OWN = "database1"
ONE: dict[str, Any] = {"shared_size": 1, "max_size": 1}
EVERYWHERE = {"password": PASSWORD, "tenants": "*"}
CITY = "SELECT length(current_setting('app.city'))"
NOW = "SELECT 'now'::timestamptz::text"


@pytest.mark.parametrize("signed", [{}, {"app.city": "claim:city"}])
@pytest.mark.parametrize("mode", ["transaction", "session"])
async def test_values_arrive_whatever_encoding_a_client_has(lasting: World, signed: dict[str, str], mode: str) -> None:
    swiss = EVERYWHERE | {"context": {"app.city": "value:Zürich"}, "pool_mode": mode}
    who = users(swiss=swiss, plain=EVERYWHERE | {"context": {"app.city": "value:Bern"}})
    async with a_sql_house(lasting, pools=ONE, signed_context=signed, pg={"users": who}) as house:
        for encoding in ("UTF8", "LATIN1", "SJIS"):
            async with house.port.a_client("row1", "plain", client_encoding=encoding) as other:
                assert (await other.query(CITY)).value == "4"
            assert (await house.ask(CITY, user="swiss")).value == "6"
            async with house.port.a_client("row1", "swiss", client_encoding=encoding) as client:
                for _ in range(3):
                    assert (await client.query(CITY)).value == "6"
                assert (await client.query("SHOW client_encoding")).value == encoding
        assert sum(house.port.router.stats().violations.values()) == 0


async def test_a_literal_now_is_the_time_of_each_request_and_client(lasting: World) -> None:
    async with a_sql_house(lasting, pools=ONE) as house:
        told = []
        for _ in range(3):
            told.append((await house.ask(NOW, tenant=OWN)).value)
            where: dict[str, Any] = {"host": "127.0.0.1", "port": house.port.number, "database": OWN, "ssl": False}
            conn = await asyncpg.connect(**where, user="all", password=PASSWORD)
            told.append(await conn.fetchval(NOW))
            await conn.close()
        assert len(set(told)) == 6


async def test_the_address_that_is_signed_is_the_clients_where_another_region_sent_it_on(lasting: World) -> None:
    seen = users(seen=EVERYWHERE | {"context": {"app.ip": "client:ip"}})
    there: dict[str, Any] = {"region": "us", "regions": {"us": "http://127.0.0.1:1"}}
    world: dict[str, Any] = {"servers": {SERVER: {"region": "us"}}, "http": {"trusted_proxies": ["127.0.0.1"]}}
    body = json.dumps({"query": "SELECT tenantproxy.context('app.ip')"})
    headers = {"Neon-Connection-String": connection_string("row1", "seen"), "Neon-Array-Mode": "true"}
    signed = {"app.ip": "client:ip"}
    async with (
        a_sql_house(lasting, sql=there, signed_context=signed, pg={"users": seen}, **world) as home,
        elsewhere(home, elsewhere="ask") as near,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(local_addr=("127.0.0.9", 0))) as http,
    ):
        for url in (home.url, near.url):
            async with http.post(url, data=body, headers=headers) as answer:
                assert (await answer.json())["rows"] == [["127.0.0.9"]]


async def test_the_check_of_a_domain_that_fails_is_run_once(lasting: World) -> None:
    tenant = next(each for each in lasting.tenants if each.id == tenant_id(OWN))
    async with a_sql_house(lasting, pools=ONE) as house, lasting.database(tenant).connect() as admin:
        await admin.execute(
            "CREATE SEQUENCE ran; GRANT ALL ON ran TO PUBLIC;"
            "CREATE FUNCTION runs(v text) RETURNS bool LANGUAGE sql AS $$ SELECT nextval('ran') > 0 AND v <> 'bad' $$;"
            "CREATE DOMAIN checked AS text CHECK (runs(VALUE))"
        )
        try:
            for value in ("a", "a", "a", "bad", "bad"):
                before = await admin.fetchval("SELECT nextval('ran')")
                answer = await house.ask("SELECT $1::checked", [value], tenant=OWN)
                assert answer.code == ("23514" if value == "bad" else None)
                assert await admin.fetchval("SELECT nextval('ran')") == before + 2, value
        finally:
            await admin.execute("DROP DOMAIN checked; DROP FUNCTION runs; DROP SEQUENCE ran")


async def test_a_do_block_that_changes_a_table_holds_at_once(lasting: World) -> None:
    tenant = next(each for each in lasting.tenants if each.id == tenant_id(OWN))
    add = "INSERT INTO told VALUES ($1) RETURNING n::text, pg_sleep(0.2)"
    two = {"shared_size": 2, "max_size": 2}
    async with a_sql_house(lasting, pools=two) as house, lasting.database(tenant).connect() as admin:
        await admin.execute("CREATE TABLE told (n date); GRANT ALL ON told TO PUBLIC")
        await admin.execute(f'ALTER TABLE told OWNER TO "{lasting.role_of(tenant)}"')
        try:
            for _ in range(3):
                await asyncio.gather(*(house.ask(add, ["2026-01-01"], tenant=OWN) for _ in range(2)))
            change = "DO $$ BEGIN ALTER TABLE told ALTER n TYPE timestamp; END $$"
            assert (await house.ask(change, tenant=OWN)).status == 200
            found = await asyncio.gather(*(house.ask(add, ["2026-01-01 12:30"], tenant=OWN) for _ in range(2)))
            assert [each.rows[0][0] for each in found] == ["2026-01-01 12:30:00"] * 2
        finally:
            await admin.execute("DROP TABLE told")


async def test_a_nul_in_a_connection_string_is_refused(lasting: World) -> None:
    given = users(given=EVERYWHERE | {"context": {"app.role": "startup"}})
    async with a_sql_house(lasting, signed_context={"app.role": "claim:role"}, pg={"users": given}) as house:
        for text in (
            connection_string("row1", "given", PASSWORD + "\0"),
            connection_string("row1", "given") + "?options=-c%20app.role%3D%00",
        ):
            assert (await house.ask("SELECT 1", headers={"Neon-Connection-String": text})).code == "08P01"
