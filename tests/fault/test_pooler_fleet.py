"""Do processes share the connections that a PgBouncer has for them, also when one of them dies? A real one."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from tests.fault.test_fleet import QUICK, install
from tests.support.fleet_process import a_process
from tests.support.pooler import PGBOUNCER, PgBouncer, a_pooler
from tests.support.standby import keys_of
from tests.support.waiting import until
from tests.support.world import SERVER, World

pytestmark = pytest.mark.skipif(PGBOUNCER is None, reason="apt-get install pgbouncer")

POOLED = 16
GRANTED = "SELECT coalesce(sum(granted), 0)::int FROM tenantproxy.fleet_share WHERE server = $1 AND process = $2"
GHOSTS = "SELECT ghosts FROM tenantproxy.fleet_server WHERE server = $1"
IS_SILENT = "SELECT bool_or(silent) FROM tenantproxy.fleet_share WHERE process = $1"


def through(world: World, port: int) -> dict[str, Any]:
    """A configuration: the tenants' server is behind the pooler at `port`, and main, which keeps the fleet, is not."""
    mapping = world.mapping(fleet=QUICK, pools={"max_size": 14, "shared_size": 14})
    pooled = {**keys_of(world.server), "port": port, "pooler": "pgbouncer", "max_connections": POOLED}
    mapping["servers"] = {SERVER: pooled, "direct": keys_of(world.server)}
    mapping["main"] = {**mapping["main"], "server": "direct"}
    mapping["tenants"] = {name: {**tenant, "server": SERVER} for name, tenant in mapping["tenants"].items()}
    return dict(mapping)


async def look(pooler: PgBouncer, database: str, seen: list[int]) -> None:
    """How many clients PgBouncer has for a database, until it is cancelled."""
    server = pooler.server
    where = f"host=127.0.0.1 port={pooler.port} dbname=pgbouncer user={server.superuser} password={server.password}"
    async with await psycopg.AsyncConnection.connect(
        where, autocommit=True, prepare_threshold=None, row_factory=dict_row
    ) as console:
        while True:
            rows = await (await console.execute("SHOW CLIENTS")).fetchall()
            seen.append(sum(row["database"] == database for row in rows))
            await asyncio.sleep(0.02)


async def test_a_fleet_behind_a_pooler_shares_its_connections_and_misses_none_of_the_dead(own: World) -> None:
    """PgBouncer keeps its own connections to the server, which are none that a dead process has left."""
    tenant = own.tenants[-1]
    with ExitStack() as stack:
        pooler = stack.enter_context(a_pooler(own.server, default_pool_size=10, max_client_conn=100))
        mapping = through(own, pooler.port)
        await install(own, own.settings(fleet=QUICK))
        (_, first), (other, second) = (stack.enter_context(a_process(mapping, tenant.id, 12)) for _ in range(2))
        async with own.main.connect() as admin:
            clients: list[int] = []
            looking = asyncio.ensure_future(look(pooler, tenant.placement.database, clients))
            try:

                async def has(process: str, least: int) -> bool:
                    return int(await admin.fetchval(GRANTED, SERVER, process)) >= least

                await until(lambda: has(first, 5), "the first has its part")
                await until(lambda: has(second, 5), "so has the second")
                other.kill()
                await until(lambda: admin.fetchval(IS_SILENT, second), "the killed one is missed")
                await until(lambda: has(first, POOLED - 5), "what it had is free, but for a burst")
                assert await admin.fetchval(GHOSTS, SERVER) == 0
            finally:
                looking.cancel()
                await asyncio.wait([looking])
    assert looking.cancelled(), "it looked until the end"
    assert len(clients) > 10
    assert max(clients) <= POOLED
