"""Does a client of the PostgreSQL port get a backend that is its tenant's, on a real server?"""

from __future__ import annotations

import pytest

from tenantproxy.model import Isolation
from tests.support.raw_house import a_raw_house, ask, value
from tests.support.world import World


@pytest.mark.parametrize("kind", list(Isolation))
async def test_every_tenant_reads_its_own_rows_and_no_others_on_every_version(
    each_world: World, kind: Isolation
) -> None:
    async with a_raw_house(each_world.settings()) as house:
        for tenant in each_world.of(kind):
            async with house.leased(tenant) as backend:
                names = await ask(backend, "SELECT name FROM projects ORDER BY 1")
                assert names == [[f"{tenant.id} {n}"] for n in (1, 2, 3)]
                assert await value(backend, "SELECT pg_backend_pid()") == str(backend.pid)
