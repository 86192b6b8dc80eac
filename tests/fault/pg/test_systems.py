"""Does a client of a tenant with several schemas have the one of the system that it asks for, and no other?"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from tenantproxy.embedded import EmbeddedPostgres
from tenantproxy.registry import MemoryRegistry
from tests.support.lasting import lasting as in_thread
from tests.support.port_house import a_port
from tests.support.sql_house import a_sql_client
from tests.support.wire_client import PASSWORD, Refused
from tests.support.world import World, a_world

NAME = "SELECT name FROM projects ORDER BY 1 LIMIT 1"
SYSTEMS = {"crm": "schema2", "billing": "schema3"}


@asynccontextmanager
async def a_world_of_systems(server: EmbeddedPostgres) -> AsyncIterator[World]:
    """The role of the tenant schema1 reaches two more schemas; each has rows of its own."""
    async with a_world(server, rows=3, schemas=3, databases=3) as world:
        async with world.shared.connect() as admin:
            for schema in SYSTEMS.values():
                await admin.execute(
                    f"GRANT USAGE ON SCHEMA {schema} TO of_schema1; GRANT SELECT ON {schema}.projects TO of_schema1"
                )
        yield world


@pytest.fixture(scope="module")
def systems(postgres: EmbeddedPostgres) -> Iterator[World]:
    with in_thread(a_world_of_systems(postgres)) as world:
        yield world


def registry(world: World) -> MemoryRegistry:
    crm = next(tenant for tenant in world.tenants if tenant.id == "schema1")
    return MemoryRegistry([*world.tenants, replace(crm, systems=SYSTEMS)])


def asking(system: str | None) -> dict[str, str]:
    return {} if system is None else {"options": f"-c tenantproxy.system={system}"}


async def test_clients_have_the_schema_of_their_system_at_the_same_time(systems: World) -> None:
    async with a_port(systems, known=registry(systems)) as house:
        wanted = {None: "schema1", "crm": "schema2", "billing": "schema3"}
        for user in ("all", "session"):
            clients = {system: await house.client("schema1", user, **asking(system)) for system in wanted}
            for _ in range(2):
                for system, schema in wanted.items():
                    assert (await clients[system].query(NAME)).value == f"{schema} 1"
                    assert (await clients[system].query("SHOW search_path")).value == f'"{schema}"'
            for client in clients.values():
                await client.close()


@pytest.mark.parametrize(
    ("tenant", "system"), [("schema1", "hr"), ("schema2", "crm"), ("row1", "crm"), ("database1", "crm")]
)
async def test_a_system_that_the_tenant_does_not_have_is_refused(systems: World, tenant: str, system: str) -> None:
    async with a_port(systems, known=registry(systems)) as house:
        for user in ("all", "session"):
            with pytest.raises(Refused) as refused:
                await house.client(tenant, user, **asking(system))
            assert refused.value.sqlstate == "3D000"


async def test_a_client_cannot_change_its_system_later(systems: World) -> None:
    async with a_port(systems, known=registry(systems)) as house:
        async with house.a_client("schema1", "all", **asking("crm")) as client:
            await client.query("SET tenantproxy.system = 'billing'")
            await client.query("SELECT set_config('tenantproxy.system', 'billing', false)")
            assert (await client.query(NAME)).value == "schema2 1"
            await client.query("SET tenantproxy.replica = off")
            assert (await client.query(NAME)).value == "schema2 1"


async def test_statements_over_http_run_in_the_system_of_the_connection_string(systems: World) -> None:
    async with a_port(systems, known=registry(systems), sql={"enabled": True}) as house:
        async with a_sql_client(house.port, house.router) as client:
            for _ in range(3):
                for system, schema in (("crm", "schema2"), ("billing", "schema3"), (None, "schema1")):
                    options = "" if system is None else f"?options=-c%20tenantproxy.system%3D{system}"
                    string = f"postgresql://all:{PASSWORD}@h/schema1{options}"
                    answer = await client.ask(NAME, headers={"Neon-Connection-String": string})
                    assert answer.value == f"{schema} 1"
            wrong = f"postgresql://all:{PASSWORD}@h/schema1?options=-c%20tenantproxy.system%3Dhr"
            assert (await client.ask(NAME, headers={"Neon-Connection-String": wrong})).code == "3D000"
