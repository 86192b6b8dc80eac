"""Does a client hear an answer that the server gave to another one, ready when no Sync had asked it?"""

from __future__ import annotations

import pytest

from tenantproxy.raw.exchange import query
from tests.support.model_server import DONE, FLUSH, SYNC, data, fail, parse
from tests.support.port_house import PortHouse, a_port
from tests.support.waiting import until
from tests.support.wire_client import WireClient
from tests.support.world import World

PID = "SELECT pg_backend_pid()"
LATE = query("SELECT 'of the attacker' FROM pg_sleep(0.04)")


async def struck(house: PortHouse, world: World, client: WireClient) -> str | None:
    """The client's backend, on which a statement_timeout is due since a Parse."""
    pid = (await client.query(PID)).value
    client.send(parse(b"", b"SELECT 1") + FLUSH)
    async with world.shared.connect() as admin:

        async def is_due() -> bool:
            age = "clock_timestamp() - xact_start > '60ms'"
            return bool(await admin.fetchval(f"SELECT {age} FROM pg_stat_activity WHERE pid = {pid}"))

        await until(is_due, "the timeout is due")
    return pid


@pytest.mark.parametrize("tenant", ["row1", "row2"])
@pytest.mark.parametrize("message", [data(), DONE, fail()], ids=["data", "done", "fail"])
async def test_an_answer_that_no_sync_asked_for_gives_no_backend_to_the_next_client(
    lasting: World, message: bytes, tenant: str
) -> None:
    """PostgreSQL is ready twice here, and the attacker's query still runs when a count of Syncs says that none does."""
    async with a_port(lasting, pools={"shared_size": 1}) as house:
        settings = {"statement_timeout": "50ms"}  # of both: nothing of ours is said between them on one backend
        attacker, victim = await house.client("row1", **settings), await house.client(tenant, **settings)
        pid = await struck(house, lasting, attacker)
        attacker.send(message + SYNC + LATE)
        answer = await victim.query("SELECT 'of the victim', pg_backend_pid()")
        assert answer.value == "of the victim"
        assert answer.rows[0][1] != pid, "it was lent again while the attacker's query ran"
        assert house.router.stats().resets["failed"] == 0, "it was not even tried"
