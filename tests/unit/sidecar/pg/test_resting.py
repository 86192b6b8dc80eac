"""Does a client that idles cost little, and find all as it was when it goes on?"""

from __future__ import annotations

import gc
import tracemalloc

import pytest

from tenantproxy.config import Pg
from tenantproxy.sidecar.pg.forwarder import Forwarder
from tenantproxy.wire import answers
from tests.support import model_server as pg
from tests.support.model_server import SYNC, ModelServer, query
from tests.support.relay_desk import Client, Lender

READY = answers.ready_for_query()
LATER = 1e6  # seconds: later than any start of a clock
KEEPS = {
    "a statement": pg.parse(b"s", b"rows 1") + SYNC,
    "a statement without a name": pg.parse(b"", b"rows 1") + SYNC,
    "an open transaction": query(b"begin"),
    "the beginning of a segment": pg.parse(b"", b"rows 1"),
    "the beginning of a message": query(b"rows 1")[:3],
}


def sweep(client: Client, now: float, **limits: float) -> object:
    return client.relay.overdue(now, Pg(**{"idle_transaction_timeout": 0.0} | limits))


def rests(client: Client) -> bool:
    """As soon as it may."""
    client.relay.rest_if_idle(LATER)
    return client.relay._awake is None


async def test_a_client_that_idles_rests_and_goes_on_as_before() -> None:
    lender = Lender()
    client = Client(lender)
    for _ in range(3):
        assert client.ask(query(b"rows 2")) == ModelServer().feed(query(b"rows 2"))
        assert rests(client)
        assert (client.relay.backend, client.relay.is_active, client.relay.prepared_statements) == (None, False, 0)
    assert lender.destroyed == 0


@pytest.mark.parametrize("sent", KEEPS.values(), ids=KEEPS)
async def test_a_client_that_keeps_something_does_not_rest(sent: bytes) -> None:
    client = Client(Lender())
    client.ask(sent)
    assert not rests(client)


async def test_what_a_client_has_set_is_kept_while_it_rests() -> None:
    lender = Lender()
    client = Client(lender)
    client.relay.kept.now = ((b"TimeZone", b"UTC"),)
    client.ask(query(b"rows 1"))
    assert rests(client)
    client.send(query(b"rows 1"))
    assert client.backend.session == ((b"TimeZone", b"UTC"),)


async def test_a_client_that_rests_is_ended_by_the_idle_timeout_and_not_before() -> None:
    client = Client(Lender())
    assert sweep(client, LATER, client_idle_timeout=60.0) is None, "it has only logged in"
    assert sweep(client, LATER + 59, client_idle_timeout=60.0) is None
    client.ask(query(b"rows 1"))
    assert sweep(client, LATER + 100, client_idle_timeout=60.0) is None
    assert rests(client)
    assert sweep(client, LATER + 159, client_idle_timeout=60.0) is None
    assert client.relay._awake is None
    client.ask(query(b"rows 1"))
    assert sweep(client, LATER + 1000, client_idle_timeout=60.0) is None, "it has asked for something"
    assert sweep(client, LATER + 1061, client_idle_timeout=60.0) is not None


@pytest.mark.parametrize("how", ["drain", "kill", "leave"])
async def test_a_client_that_rests_ends_once_and_is_read_no_more(how: str) -> None:
    lender = Lender()
    client = Client(lender)
    client.ask(query(b"rows 1"))
    assert rests(client)
    client.leave() if how == "leave" else getattr(client.relay, how)()
    client.relay.data_received(query(b"rows 1"))
    assert client.ends == 1
    assert not lender.waiting
    assert len(lender.idle) == 1
    assert (b"57P01" in client.take()) == (how != "leave")


async def test_what_a_client_that_rests_lets_go_of_is_free_at_once() -> None:
    """And not when garbage is collected: thousands of clients may rest until then."""
    gc.collect()
    gc.disable()
    try:
        client = Client(Lender())
        client.ask(query(b"rows 1"))
        assert rests(client)
        assert not [each for each in gc.get_objects() if isinstance(each, Forwarder) and each._owner is client.relay]
    finally:
        gc.enable()


async def test_a_client_that_has_only_logged_in_is_small() -> None:
    """With 1,100 bytes of the test's own; without its transport and its place in the listener."""
    lender = Lender()
    shared = Client(lender).relay._parts
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        clients = [Client(lender, statements=shared.statements) for _ in range(100)]
        size = (tracemalloc.get_traced_memory()[0] - before) / len(clients)
    finally:
        tracemalloc.stop()
    assert size < 2500
