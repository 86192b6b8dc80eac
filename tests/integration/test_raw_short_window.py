"""Does a session client work with a proof that lives shorter than any constant of tenantproxy's?"""

from __future__ import annotations

import asyncio

from tests.support.port_house import a_port
from tests.support.waiting import PATIENCE
from tests.support.world import World


async def test_a_session_outlives_many_short_proofs_and_is_not_bound_anew_for_ever(world: World) -> None:
    async with a_port(world, row={"proof_window": 5.0}) as house, house.a_client("row1", "session") as client:
        async with asyncio.timeout(PATIENCE):
            for _ in range(3):
                for _ in range(5):
                    answer = await client.query("SELECT count(*) FROM projects")
                    assert not answer.errors
                (backend,) = [one for one in house.lending.backends() if one.bound == "row1"]
                backend.bound_until = 0.0  # its proof is about to end
