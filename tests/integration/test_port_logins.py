"""What is a client of the PostgreSQL port told when it logs in, and what does it hear where that cannot be?"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tenantproxy.embedded import EmbeddedPostgres
from tenantproxy.lifecycle.provisioner import provision_database
from tenantproxy.wire.frames import TERMINATE, frame
from tests.support.database import Database
from tests.support.port_house import a_port
from tests.support.waiting import until
from tests.support.wire_client import Refused, raw, startup
from tests.support.world import APP_ROLE, World, a_world

SSL_REQUEST = struct.pack("!II", 8, 80877103)
REPORTED = ("is_superuser", "session_authorization", "server_version", "server_encoding", "in_hot_standby", "TimeZone")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(postgres: EmbeddedPostgres) -> AsyncIterator[World]:
    async with a_world(postgres) as made:
        yield made


@pytest.mark.parametrize("user", ["all", "session"])
@pytest.mark.parametrize("tenant", ["row1", "schema1", "database1"])
async def test_a_client_is_told_what_its_own_backend_reports(world: World, tenant: str, user: str) -> None:
    async with a_port(world) as house, house.a_client(tenant, user) as client:
        for name in REPORTED:
            assert client.parameters[name] == (await client.query(f"SHOW {name}")).value
        assert client.parameters["session_authorization"] == (await client.query("SELECT session_user")).value


@pytest.mark.parametrize("user", ["all", "session"])
async def test_application_name_is_empty_where_the_client_gave_none(world: World, user: str) -> None:
    async with a_port(world) as house:
        async with house.a_client("row1", user) as client:
            assert client.parameters["application_name"] == ""
            assert (await client.query("SHOW application_name")).value == ""
        async with house.a_client("row1", user, application_name="mine") as client:
            assert client.parameters["application_name"] == "mine"


@pytest.mark.parametrize("before", [b"", SSL_REQUEST, startup("all", "row1")], ids=["first", "after N", "in the login"])
async def test_a_terminate_in_place_of_a_login_closes_without_a_word(world: World, before: bytes) -> None:
    async with a_port(world) as house:
        reader, writer = await raw(house.number)
        writer.write(before)
        if before:
            assert await reader.read(4096)
        head, tail = frame(TERMINATE)[:3], frame(TERMINATE)[3:]
        writer.write(head)
        await asyncio.sleep(0)
        writer.write(tail)
        said = await reader.read()
        assert not said
        writer.close()
        await until(lambda: not house.listener._startups, "it is gone")
        assert not any(house.listener.logins.values())


@pytest.mark.parametrize("user", ["all", "session"])
async def test_a_login_to_a_database_that_is_gone_hears_3d000(world: World, user: str) -> None:
    async with a_port(world, tenants={"gone": {"isolation": "database", "database": "of_gone"}}) as house:
        with pytest.raises(Refused) as refused:
            await house.client("gone", user)
        assert refused.value.sqlstate == "3D000"


@pytest.mark.parametrize("user", ["all", "session"])
async def test_a_login_to_a_database_that_was_dropped_since_hears_3d000(world: World, user: str) -> None:
    name = f"passing_{user}"
    await provision_database(
        lambda database: Database(server=world.server, name=database).open(), database=name, role=APP_ROLE
    )
    async with a_port(world, tenants={"passing": {"isolation": "database", "database": name}}) as house:
        async with house.a_client("passing", user) as client:
            assert (await client.query("SELECT 1")).value == "1"
        async with Database(server=world.server, name="postgres").connect() as admin:
            await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
        pool = house.pool("passing")
        await until(lambda: pool.is_empty and pool.is_quiet, "its backends are gone")
        with pytest.raises(Refused) as refused:
            await house.client("passing", user)
        assert refused.value.sqlstate == "3D000"


async def test_a_login_after_a_promotion_hears_that_its_server_is_no_standby(world: World) -> None:
    """As after an upgrade: what was remembered of a server is not told of another one."""
    async with a_port(world) as house:
        async with house.a_client("row1"):
            pass
        for key, reported in house.listener._greetings._reported.items():
            house.listener._greetings._reported[key] = dict(reported) | {b"in_hot_standby": b"on"}
        async with house.a_client("row1") as client:
            assert client.parameters["in_hot_standby"] == "off"


# --- how long a statement may take -----------------------------------------------------------------------------------
@pytest.mark.parametrize("user", ["all", "session"])
async def test_no_statement_of_the_port_times_out_unless_the_server_is_told_so(world: World, user: str) -> None:
    async with a_port(world) as house:
        async with house.a_client("row1", user) as client:
            assert (await client.query("SHOW statement_timeout")).value == "0"
        assert await house.router.tenant("row1").fetchval("SHOW statement_timeout") == "30s"
    async with a_port(world, servers={"primary": {"statement_timeout": 7.0}}) as house:
        async with house.a_client("row1", user) as client:
            assert (await client.query("SHOW statement_timeout")).value == "7s"
