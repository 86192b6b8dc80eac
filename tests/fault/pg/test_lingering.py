"""Is the server's limit kept when clients of the port leave while a statement that cannot be cancelled runs?"""

from __future__ import annotations

import asyncio

import pytest

from tenantproxy.events import BackendLingers
from tenantproxy.raw import cancel as raw_cancel
from tenantproxy.raw import close as raw_end
from tenantproxy.raw import connector as raw
from tenantproxy.raw.exchange import query
from tests.fault.conftest import Figure
from tests.fault.test_budget import COUNT, most_backends
from tests.fault.test_lingering import BUDGET, STUBBORN
from tests.support.port_house import PortHouse, a_port
from tests.support.waiting import until
from tests.support.world import World


async def leave_behind(house: PortHouse, tenant: str) -> bool:
    """Send the statement, and leave as soon as it runs or after a moment."""
    client = await house.client(tenant)
    client.send(query(STUBBORN))
    await asyncio.sleep(0.2)  # nothing hangs on it: whether it runs by then only decides how many linger
    client.abort()
    return True


async def test_clients_that_leave_what_cannot_be_cancelled_keep_the_server_within_its_budget(
    lasting: World, figure: Figure, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (raw, raw_cancel, raw_end):
        monkeypatch.setattr(module, "END_TIMEOUT", 0.2)
    pools = {"max_size": 4, "shared_size": 6, "max_waiting": 300}
    async with a_port(lasting, pools=pools, servers={"primary": {"max_connections": BUDGET}}) as house:
        for tenant in ("row1", "database1"):
            async with house.a_client(tenant) as client:  # so that a connection is there
                await client.query(COUNT)
        flood = asyncio.gather(*(leave_behind(house, name) for name in ("row1", "database1") * 10))
        most, samples = await most_backends(lasting, flood)
        await until(lambda: house.router.count(BackendLingers), "one lingers")
        async with house.a_client("row2") as polite:
            assert (await polite.query(COUNT)).value == "3"
        budget = house.router.budgets["primary"]
        await until(lambda: not budget.lingering, "each of them has ended, and was heard to", timeout=60.0)
        figure("most_backends", most)
        figure("samples", samples)
        figure("lingered", house.router.count(BackendLingers))
        assert most <= BUDGET
