"""Do idle connections of the port and the library stand in the way of a DROP DATABASE that comes through the port?"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import asyncpg
import psycopg
import pytest
import pytest_asyncio

from tenantproxy.embedded import EmbeddedPostgres
from tenantproxy.lifecycle.provisioner import provision_database
from tenantproxy.raw.exchange import query
from tests.support.database import Database
from tests.support.port_house import PortHouse, a_port, users
from tests.support.wire_client import PASSWORD
from tests.support.world import APP_ROLE, World, a_world

TENANTS: dict[str, Any] = {
    name: {"isolation": "database", "database": database}
    for name, database in (("maintenance", "for_maintenance"), ("passing", "of_passing"), ("Other", "Of Other"))
}
PG = {
    "users": users(
        session_of_all={"password": PASSWORD, "tenants": "*", "pool_mode": "session"},
        both={"password": PASSWORD, "tenants": ["maintenance", "passing"]},
        one={"password": PASSWORD, "tenants": ["maintenance"]},
    )
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(postgres: EmbeddedPostgres) -> AsyncIterator[World]:
    async with a_world(postgres) as made, Database(server=made.server, name="postgres").connect() as admin:
        await admin.execute(f"ALTER ROLE {APP_ROLE} CREATEDB")
        try:
            yield made
        finally:
            await admin.execute(f"ALTER ROLE {APP_ROLE} NOCREATEDB")
            for entry in TENANTS.values():
                await admin.execute(f'DROP DATABASE IF EXISTS "{entry["database"]}" WITH (FORCE)')


@pytest.fixture
async def house(world: World) -> AsyncIterator[PortHouse]:
    """The role of the tenants owns the database that is dropped, and it has idle connections on both sides."""
    for entry in TENANTS.values():
        name = entry["database"]
        await provision_database(
            lambda database: Database(server=world.server, name=database).open(), database=name, role=APP_ROLE
        )
        async with Database(server=world.server, name="postgres").connect() as admin:
            await admin.execute(f'ALTER DATABASE "{name}" OWNER TO {APP_ROLE}')
    async with a_port(world, tenants=TENANTS, pg=PG) as made:
        for tenant in ("passing", "Other"):
            async with made.a_client(tenant) as client:
                assert (await client.query("SELECT 1")).value == "1"
            assert await made.router.tenant(tenant).fetchval("SELECT 1") == 1
        yield made


def login(house: PortHouse, user: str) -> dict[str, Any]:
    return {"host": "127.0.0.1", "port": house.number, "user": user, "password": PASSWORD}


async def _simple(house: PortHouse, user: str, sql: str) -> None:
    async with house.a_client("maintenance", user) as client:
        answer = await client.query(sql)
        assert not answer.errors, answer.errors


async def _in_pieces(house: PortHouse, user: str, sql: str) -> None:
    async with house.a_client("maintenance", user) as client:
        said = query(sql)
        for at in range(0, len(said), 3):
            client.send(said[at : at + 3])
            await client.writer.drain()
        answer = await client.answer()
        assert not answer.errors, answer.errors


async def _psycopg(house: PortHouse, user: str, sql: str) -> None:
    conn = await psycopg.AsyncConnection.connect(
        **login(house, user), dbname="maintenance", sslmode="disable", autocommit=True
    )
    async with conn:
        await conn.execute(sql, prepare=True)


async def _asyncpg(house: PortHouse, user: str, sql: str) -> None:
    conn = await asyncpg.connect(**login(house, user), database="maintenance")
    try:
        await (await conn.prepare(sql)).fetch()
    finally:
        await conn.close()


@pytest.mark.parametrize("user", ["all", "session", "both"])
@pytest.mark.parametrize("way", [_simple, _in_pieces, _psycopg, _asyncpg])
async def test_a_drop_database_is_not_kept_by_our_idle_connections(
    house: PortHouse, user: str, way: Callable[..., Awaitable[None]]
) -> None:
    await way(house, user, "drop database of_passing")


@pytest.mark.parametrize(
    "sql",
    [
        'DROP DATABASE IF EXISTS "Of Other" ;',
        'ALTER DATABASE "Of Other" RENAME TO of_another',
        'CREATE DATABASE of_another TEMPLATE "Of Other" STRATEGY file_copy',
    ],
)
async def test_other_statements_that_need_a_database_alone_find_it_so(house: PortHouse, world: World, sql: str) -> None:
    try:
        await _simple(house, "all", sql)
    finally:
        async with Database(server=world.server, name="postgres").connect() as admin:
            await admin.execute("DROP DATABASE IF EXISTS of_another WITH (FORCE)")


async def test_a_user_who_may_not_reach_a_tenant_closes_none_of_its_connections(house: PortHouse) -> None:
    """And is told what the server says of a database that is in use."""
    async with house.a_client("maintenance", "one") as client, house.a_client("passing", "session") as user:
        before = set(house.pool("passing").connections())
        assert len(before) >= 1
        assert (await client.query("DROP DATABASE of_passing")).sqlstate == "55006"
        assert set(house.pool("passing").connections()) == before
        assert (await user.query("SELECT 1")).value == "1"
