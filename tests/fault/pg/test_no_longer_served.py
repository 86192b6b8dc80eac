"""Does a client keep what its tenant has lost? A tenant is suspended, or moves, while its clients hold backends."""

from __future__ import annotations

import pytest

from tenantproxy.errors import TenantSuspended
from tenantproxy.model import TenantId
from tests.support.port_house import a_port
from tests.support.waiting import until
from tests.support.world import World


@pytest.mark.parametrize("held", ["a session", "a transaction"])
async def test_a_client_that_holds_a_backend_is_ended_when_its_tenant_is_suspended(
    held: str, lasting: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_port(lasting) as house:
        client = await house.client("database1", "session" if held == "a session" else "all")
        neighbour = await house.client("database2", "session" if held == "a session" else "all")
        for each in (client, neighbour):
            assert not (await each.query("SELECT 1" if held == "a session" else "BEGIN")).errors
        known, find = house.lending.known, house.lending.find

        async def refusing(tenant: TenantId) -> object:
            if tenant == "database1":
                raise TenantSuspended("the tenant is suspended")
            return await find(tenant)

        monkeypatch.setattr(house.lending, "known", lambda tenant: None if tenant == "database1" else known(tenant))
        monkeypatch.setattr(house.lending, "find", refusing)
        await until(lambda: len(list(house.listener.clients())) == 1, "the suspended tenant's client is ended")
        assert not (await neighbour.query("SELECT 1")).errors
