"""What does a tenant notice of another one that leaves its backends of their shared pool as bad as it can?"""

from __future__ import annotations

from tenantproxy.wire.frames import FLUSH, frame
from tests.support.chaos import ChaosProxy
from tests.support.model_server import query
from tests.support.port_house import a_port
from tests.support.waiting import until
from tests.support.world import World

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
