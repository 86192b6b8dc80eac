"""What do tools find behind the database `postgres`? Their tenants as databases, and nothing more than before."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tenantproxy.config import Settings
from tenantproxy.errors import ConfigurationError
from tenantproxy.model import tenant_id
from tests.support.port_house import PortHouse, a_port, users
from tests.support.sql_house import a_sql_client, connection_string
from tests.support.tool_queries import FIRST, ITSELF, LISTS
from tests.support.wire_client import PASSWORD, WireClient
from tests.support.world import World

pytestmark = pytest.mark.asyncio

OWN = ["row1", "schema1"]
TOOL = {"password": PASSWORD, "maintenance": True}
USERS = users(
    tool=TOOL | {"tenants": OWN},
    every=TOOL | {"tenants": "*", "pool_mode": "session"},
    none=TOOL | {"tenants": ["row2"], "maintenance": False},
)


@pytest.fixture
async def house(each_world: World) -> AsyncIterator[PortHouse]:
    async with a_port(each_world, pg={"users": USERS}, sql={"enabled": True}) as house:
        yield house


def firsts(answer: Any) -> list[str | None]:
    assert not answer.errors, answer.errors
    return [row[0] for row in answer.rows]


async def test_tools_list_the_tenants_of_their_user_as_databases(house: PortHouse, each_world: World) -> None:
    every = sorted([*(tenant.id for tenant in each_world.tenants), "postgres"])
    for user, names in (("tool", ["postgres", *OWN]), ("every", every)):
        async with house.a_client("postgres", user) as client:
            for tool, query in LISTS.items():
                assert sorted(str(name) for name in firsts(await client.query(query))) == names, tool
            for tool, query in FIRST.items():
                assert not (await client.query(query)).errors, tool
            ((number, name, *_),) = (await client.query(ITSELF)).rows
            assert name == "postgres"
            of_one = f"SELECT db.datname FROM pg_catalog.pg_database db WHERE db.oid = {{}} AND {number} > 0"
            ((acme,),) = (await client.query("SELECT oid FROM pg_database WHERE datname = 'row1'")).rows
            assert firsts(await client.query(of_one.format(acme))) == ["row1"]


async def test_psql_lists_them_and_connects_to_one(house: PortHouse, each_world: World) -> None:
    psql = shutil.which("psql")
    if psql is None:
        pytest.skip("psql is not there: apt-get install postgresql-client")
    said = subprocess.run([psql, "--version"], capture_output=True, text=True, check=True).stdout  # noqa: ASYNC221
    is_new_enough = int(said.split()[2].partition(".")[0]) >= each_world.server.version
    shown = "\\l" if is_new_enough else LISTS["psql 15"]  # it asks for columns that newer servers do not have
    commands = f"{shown}\n\\c row1\nSELECT count(*) > 0 FROM projects;\n"
    process = await asyncio.create_subprocess_exec(
        psql, "-XAt", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-p", str(house.number), "-U", "tool", "postgres",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        env={"PGPASSWORD": PASSWORD, "PGSSLMODE": "disable"},
    )  # fmt: skip
    said = (await process.communicate(commands.encode()))[0].decode()
    assert process.returncode == 0, said
    listed = [line.partition("|")[0] for line in said.splitlines() if "|UTF8|" in line]
    assert listed == ["postgres", *OWN]
    assert said.splitlines()[-1] == "t"


async def test_such_a_client_is_its_first_tenants_and_reaches_nothing_more(house: PortHouse) -> None:
    """Whatever text gets round the list reads what any client of the tenant reads."""
    async with house.a_client("postgres", "tool") as client, house.a_client("row1", "tool") as ordinary:
        for query in (
            "SELECT tenantproxy.bound_tenant()", "SELECT name FROM projects ORDER BY id", "SELECT current_user",
            'SELECT datname FROM U&"pg\\005fdatabase" ORDER BY 1', "SELECT count(*) FROM pg_stat_database",
            "SELECT datname FROM pg_catalog.pg_stat_activity WHERE pid = pg_backend_pid()",
            "EXECUTE nothing", "CREATE DATABASE mine", "SET ROLE postgres", "DROP DATABASE row1",
            "DO $$ BEGIN PERFORM 1 FROM pg_database; END $$", "SELECT 1 FROM pg_database WHERE (((",
        ):  # fmt: skip
            mine, theirs = await client.query(query), await ordinary.query(query)
            assert mine.rows == theirs.rows, query
            assert [error["C"] for error in mine.errors] == [error["C"] for error in theirs.errors], query
        assert not (await client.query("SELECT datname FROM pg_database WHERE datname ~ '2$'")).rows


async def test_clients_that_list_the_same_share_the_list(house: PortHouse) -> None:
    async with house.a_client("postgres", "every"), house.a_client("postgres", "every"):
        async with house.a_client("postgres", "tool"):
            assert len(house.listener._lists) == 2


@pytest.mark.parametrize("user", ["none", "all", "unknown"])
async def test_other_users_find_no_database_of_that_name(house: PortHouse, user: str) -> None:
    refused = await _refusal(house, "postgres", user)
    assert refused == await _refusal(house, "nowhere", user)


async def _refusal(house: PortHouse, database: str, user: str) -> tuple[str, str]:
    with pytest.raises(Exception) as caught:
        await WireClient.connect(house.number, database, user)
    return type(caught.value).__name__, str(caught.value).replace(database, "it")


async def test_a_user_whose_tenants_are_not_served_is_refused(house: PortHouse) -> None:
    await house.listener.pause(tenant_id("row1"))
    assert "57P03" in str(await _refusal(house, "postgres", "tool"))
    house.listener.resume(tenant_id("row1"))


async def test_the_list_is_not_on_sql_over_http(house: PortHouse) -> None:
    async with a_sql_client(house.port, house.router, drains=False) as http:
        text = connection_string("postgres", "tool")
        assert (await http.ask("SELECT 1", headers={"Neon-Connection-String": text})).code == "28P01"


async def test_a_tenant_of_that_name_is_refused_with_such_a_user(each_world: World) -> None:
    mapping = each_world.mapping(pg={"users": {"tool": TOOL | {"tenants": "*"}}})
    mapping["tenants"]["postgres"] = dict(mapping["tenants"]["row1"])
    with pytest.raises(ConfigurationError, match=r"tenants\.postgres"):
        Settings.from_mapping(mapping)
