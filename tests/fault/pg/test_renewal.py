"""Does a renewal of the binding, between two messages of a client, change nothing else of what the client has?"""

from __future__ import annotations

import pytest

from tenantproxy.raw.backend import RawBackend
from tenantproxy.raw.exchange import query
from tests.support.model_server import SYNC, bind, execute, parse
from tests.support.port_house import PortHouse, a_port
from tests.support.world import World


def due(house: PortHouse) -> RawBackend:
    """The backend that the only client keeps; its binding is to be renewed before it is used again."""
    (client,) = house.listener._clients.values()
    assert client.relay is not None
    backend = client.relay.backend
    assert backend is not None
    backend.bound_until = house.lending.lender.clock() + 1
    return backend


@pytest.mark.parametrize("user", ["all", "session"])
async def test_a_statement_without_a_name_is_still_the_clients_after_a_renewal(lasting: World, user: str) -> None:
    async with a_port(lasting, pools={"shared_size": 1}) as house:
        client = await house.client("row1", user)
        await client.query("LISTEN news")  # so it keeps its backend
        client.send(parse(b"", b"SELECT 'mine'") + SYNC)
        await client.answer()
        backend = due(house)
        until = backend.bound_until
        client.send(bind(b"") + execute() + SYNC)
        answer = await client.answer()
        assert (answer.rows, answer.errors) == ([["mine"]], [])
        assert backend.bound_until > until + 10


async def test_a_sync_that_the_server_waits_for_does_not_wait_for_a_renewal(lasting: World) -> None:
    async with a_port(lasting, pools={"shared_size": 1}) as house:
        client = await house.client("row1")
        client.send(parse(b"", b"SELECT 1/0") + bind(b"") + execute() + query("SELECT 'skipped'"))
        kind, _ = await client.message()
        while kind != ord("E"):
            kind, _ = await client.message()
        due(house)
        client.send(SYNC + query("SELECT 'mine'"))
        assert (await client.answer()).kinds == b"Z"
        assert (await client.query("SELECT 2")).rows == [["mine"]]
