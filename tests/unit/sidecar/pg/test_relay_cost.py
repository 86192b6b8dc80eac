"""Does it cost no more to serve a client's next message because it has sent many? Counted in lines, not in time."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytest

from tenantproxy.wire.pipeline import MAX_OUTSTANDING
from tests.support import model_server as pg
from tests.support.model_server import DONE, FLUSH, SYNC, query, run
from tests.support.relay_desk import Client, Lender, settle

DEALLOCATE_ALL = pg.parse(b"", b"DEALLOCATE ALL") + run()
BAD = pg.parse(b"", b"bad")
FAILS = pg.parse(b"", b"fail") + run()


def named(count: int) -> bytes:
    return b"".join(pg.parse(b"s%d" % n, b"rows 1") for n in range(count))


INPUTS: dict[str, Callable[[int], bytes]] = {
    "parses that are skipped, then syncs": lambda n: BAD + pg.parse(b"", b"rows 1") * n + SYNC + SYNC * n,
    "syncs, then ends of a copy": lambda n: SYNC * n + DONE * n,
    "queries that fail": lambda n: query(b"bad") * n,
    "segments that fail": lambda n: (BAD + SYNC) * n,
    "names that are skipped": lambda n: FAILS + named(n) + SYNC,
    "names that are taken back one by one": lambda n: named(n) + pg.close(b"s1") * n + SYNC,
    "names that are taken back all at once": lambda n: FAILS + (pg.parse(b"s", b"a") + DEALLOCATE_ALL) * n + SYNC,
    "statements thrown away": lambda n: named(n) + SYNC + query(b"DISCARD ALL") * n,
    "queries behind open messages": lambda n: (pg.parse(b"", b"rows 1") + query(b"rows 1")) * n,
    "flushes of a client without a backend": lambda n: FLUSH * n,
    "copies in one go": lambda n: (query(b"copy in") + pg.data() + DONE) * n,
    "statements": lambda n: (pg.parse(b"", b"rows 1") + run() + SYNC) * n,
}


@contextmanager
def counted() -> Iterator[list[int]]:
    """How many lines of the package are run in the block, in one item."""
    lines = [0]

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        if "/tenantproxy/" not in frame.f_code.co_filename or "/tests/" in frame.f_code.co_filename:
            return None
        lines[0] += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield lines
    finally:
        sys.settrace(before)


def is_held(client: Client) -> bool:
    """Whether bytes of it wait."""
    return client.relay._forwarder.inbox.hold != "nothing"


async def cost(sent: bytes) -> int:
    """The lines it takes to serve this to the end, when the server answers late."""
    lender = Lender()
    client = Client(lender)
    with counted() as lines:
        client.send(sent)
        for _ in range(1000):
            if not is_held(client):
                break
            await asyncio.sleep(0)
            if client.relay._forwarder.inbox.hold != "turn":
                settle(lender)
        assert not is_held(client), "it is not served to the end"
        settle(lender)
    return lines[0]


@pytest.mark.parametrize("made", INPUTS.values(), ids=INPUTS)
async def test_twice_as_much_costs_twice_as_much(made: Callable[[int], bytes]) -> None:
    once, twice = [await cost(made(count)) for count in (150, 300)]
    assert twice <= 2.2 * once


async def test_a_client_that_owes_many_answers_is_not_read_until_some_have_come() -> None:
    lender = Lender()
    client = Client(lender, is_session=True)
    client.ask(SYNC)
    count = 2 * MAX_OUTSTANDING
    for _ in range(count // 64):
        client.send(SYNC * 64)
        await asyncio.sleep(0)
    client.send(SYNC * 60_000)
    for _ in range(40):
        await asyncio.sleep(0)
    assert client.relay._forwarder.pipeline.outstanding < MAX_OUTSTANDING + 300
    assert client.line.is_reading_paused
    answers = 0
    for _ in range(10_000):
        settle(lender)
        answers += client.take().count(b"Z\0\0\0\5I")
        if answers == count + 60_000:
            break
        await asyncio.sleep(0)
    assert answers == count + 60_000
    assert not client.line.is_reading_paused


async def test_a_client_that_sends_without_end_leaves_the_others_their_turns() -> None:
    """Between two of its turns the loop comes round once."""
    lender = Lender()
    flooder = Client(lender)
    flooder.send(FLUSH * 1000)
    turns = 0
    while is_held(flooder):
        await asyncio.sleep(0)
        turns += 1
    assert turns >= 3
    assert flooder.ask(query(b"rows 1")) == pg.ModelServer().feed(query(b"rows 1"))
