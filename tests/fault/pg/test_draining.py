"""Is a client of a port that drains still one of its clients: cancelled, shown and killed as before?"""

from __future__ import annotations

import asyncio

from tenantproxy.model import TenantId
from tests.support.port_house import a_port
from tests.support.waiting import until
from tests.support.wire_client import gone
from tests.support.world import World


async def test_clients_of_a_draining_port_are_shown_cancelled_and_killed(lasting: World) -> None:
    async with a_port(lasting, drain_timeout=60.0) as house:
        client, other = await house.client("database1"), await house.client("database2")
        for each in (client, other):
            assert not (await each.query("BEGIN")).errors
        (one,) = house.listener.clients(TenantId("database1"))
        asking = asyncio.create_task(client.query("SELECT pg_sleep(600)"))
        await until(lambda: one.relay is not None and one.relay.backend is not None, "it runs")
        closing = asyncio.create_task(house.port.close())
        await until(lambda: not house.port.is_open, "it takes no clients any more")
        assert house.port.has_listener
        assert {row.tenant for row in house.port.view.snapshot().clients} == {"database1", "database2"}

        async def is_cancelled() -> bool:
            await house.listener.cancel_here(one.pid, one.secret)
            return asking.done()

        await until(is_cancelled, "it is cancelled")
        assert [error["C"] for error in (await asking).errors] == ["57014"]
        await client.query("ROLLBACK")
        await house.port.view.kill_here(TenantId("database2"))
        await gone(other)
        await gone(client)
        await closing
        assert not house.port.has_listener
