"""What do tests of failovers do with a replicated world? End its primary, write as each tenant, count what is where."""

from __future__ import annotations

import asyncio
from typing import Final

from tenantproxy.embedded import EmbeddedPostgres
from tenantproxy.model import Isolation
from tests.support.database import Database
from tests.support.port_house import PortHouse
from tests.support.standby import Replicated
from tests.support.world import World

PORT: Final = "SELECT inet_server_port()"
WRITES: Final = {
    Isolation.ROW: "INSERT INTO projects (tenant_id, name) VALUES ('row1', 'new')",
    Isolation.SCHEMA: "INSERT INTO projects (name) VALUES ('new')",
    Isolation.DATABASE: "INSERT INTO projects (name) VALUES ('new')",
}


async def fail_over(replicated: Replicated) -> None:
    """The primary stops, with all of its log at the standby, and that is promoted."""
    await replicated.standby.catch_up()
    await end_and_promote(replicated)


async def end_and_promote(replicated: Replicated) -> None:
    """The same for a primary that takes no new sessions any more."""
    await asyncio.to_thread(replicated.world.server.stop, "fast")
    await asyncio.to_thread(replicated.standby.promote)


async def write(house: PortHouse, world: World) -> None:
    """One row for each tenant, by the library and by the port."""
    for tenant in world.tenants:
        sql = WRITES[tenant.placement.isolation]
        assert await house.router.tenant(tenant.id).execute(sql) == "INSERT 0 1"
        async with house.a_client(tenant.id) as client:
            assert (await client.query(sql)).tags == ["INSERT 0 1"]


async def rows_of(server: EmbeddedPostgres, world: World) -> int:
    """How many rows the database tenant has on this server."""
    (tenant,) = world.of(Isolation.DATABASE)
    async with Database(server=server, name=tenant.placement.database).connect() as admin:
        count: int = await admin.fetchval("SELECT count(*) FROM projects")
        return count
