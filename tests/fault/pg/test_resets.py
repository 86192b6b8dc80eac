"""What does a tenant notice of another one that leaves its backends of their shared pool as bad as it can?"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tenantproxy.pools import resets
from tenantproxy.wire.frames import FLUSH, frame
from tests.support.chaos import ChaosProxy
from tests.support.model_server import query
from tests.support.port_house import PortHouse, a_port
from tests.support.waiting import PATIENCE, until
from tests.support.wire_client import WireClient
from tests.support.world import APP_ROLE, World

COUNT = "SELECT count(*) FROM projects"


async def test_a_flush_with_a_body_ends_its_client_and_no_other_tenant_waits(lasting: World, proxy: ChaosProxy) -> None:
    """A server answers it by an error behind the last answer, and skips everything up to a Sync, our reset too."""
    pools = {"max_size": 2, "shared_size": 2, "acquire_timeout": 2.0}
    async with a_port(lasting, servers={"primary": {"port": proxy.port}}, pools=pools) as house:
        rude = [await house.client("row1") for _ in range(2)]
        for client in rude:
            await client.query("BEGIN")
        proxy.delay = 0.05  # what the server says comes in one piece
        for client in rude:
            client.send(query(b"COMMIT") + frame(FLUSH, b"x"))
        assert [(await client.rest()).sqlstate for client in rude] == ["08P01"] * 2
        proxy.delay = 0.0
        async with house.a_client("row2") as polite:
            assert (await polite.query(COUNT)).value == "3"
        await until(lambda: house.is_quiet, "nothing is being reset")
        assert house.router.stats().resets["failed"] == 0


async def test_while_all_that_a_tenant_left_is_stuck_in_resets_others_are_served_and_it_gets_no_more(
    lasting: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of its share nothing is left until they are over, and what others wait for is not charged to them."""
    monkeypatch.setattr(resets, "RESET_SECONDS", PATIENCE)
    pools = {"max_size": 2, "shared_size": 4, "acquire_timeout": 5.0}
    async with a_port(lasting, pools=pools) as house, stuck_backends(house, lasting, 2) as rude:
        polite = [await house.client("row2") for _ in range(3)]
        answers = await asyncio.gather(*(asked(client, 5) for client in polite))
        assert answers == [["3"] * 5] * 3
        found = house.pool("row1").stats()
        assert (found.resetting, found.used) == (2, 0)
        rude[0].send(query(COUNT.encode()))
        await until(lambda: waiting(house, "row1"), "it waits")
        assert await asked(polite[0], 5) == ["3"] * 5
        assert waiting(house, "row1") == 1


def waiting(house: PortHouse, tenant: str) -> int:
    """Its clients that wait for a backend."""
    return sum(one.waiting for one in house.pool(tenant).stats().tenants if one.tenant == tenant)


async def asked(client: WireClient, times: int) -> list[str | None]:
    return [(await client.query(COUNT)).value for _ in range(times)]


@asynccontextmanager
async def stuck_backends(house: PortHouse, world: World, count: int) -> AsyncIterator[list[WireClient]]:
    """So many idle backends of `row1` that answer no reset until the end of the block: it waits for a lock."""
    async with world.shared.connect() as admin:
        await admin.execute(f'GRANT TEMP ON DATABASE "{world.shared.name}" TO {APP_ROLE}')
        try:
            clients = [await house.client("row1") for _ in range(count)]
            for sql in ("BEGIN", r'SELECT 1 AS one INTO U&"\0070g_t\0065mp".left_behind', "COMMIT"):  # it does not show
                for client in clients:
                    assert not (await client.query(sql)).errors
            async with admin.transaction():
                tables = "SELECT oid::regclass::text FROM pg_class WHERE relname = 'left_behind'"
                for (table,) in await admin.fetch(tables):
                    await admin.execute(f"LOCK TABLE {table} IN ACCESS SHARE MODE")
                yield clients
        finally:
            await admin.execute(f'REVOKE TEMP ON DATABASE "{world.shared.name}" FROM {APP_ROLE}')
