"""Does a client on the compiled path see anything else than it would alone? Clients moved one step at a time.

What is looked at between two steps must not change what a client sees. `MUTATIONS[name]()` is a block in which one rule
does not hold of those by which Python and the compiled path hand a client to each other; `found_within(name, tries)`
plays in it.
"""

from __future__ import annotations

import asyncio
import random
from math import inf
from typing import Any, Final

from tenantproxy._native.loop import NativeLoop
from tenantproxy.sidecar.pg.carried import CarriedRelay
from tenantproxy.sidecar.pg.forwarder import Forwarder
from tenantproxy.wire.prepared import Prepared
from tenantproxy.wire.statements import ServerStatements, Statements
from tests.support import model_server as pg
from tests.support.model_server import SYNC, ModelServer, query
from tests.support.native_desk import Desk, NativeClient, NativeLender, new_desk, turn
from tests.support.relay_desk import Backend
from tests.support.relay_mutations import Block, instead, nothing

__all__ = ["MUTATIONS", "STRAIGHT", "a_game", "found_within", "together"]

STRAIGHT: Final = (
    query(b"rows 1"), query(b"rows 3"), query(b"fail"), query(b"rows 1;rows 2"), query(b"rows 300"),
    pg.parse(b"", b"rows 2") + pg.shown(b"") + SYNC, pg.parse(b"", b"fail") + pg.shown(b"") + SYNC,
    pg.parse(b"", b"bad") + pg.shown(b"") + SYNC, pg.shown(b"a") + SYNC, pg.shown(b"b") + SYNC, pg.run() + SYNC,
    query(b"begin"), query(b"commit"),
)  # fmt: skip
# In a transaction that has failed, a server would not parse what is only said to be there.
_PREPARING: Final = tuple(
    (query(b"rollback"), pg.parse(name, text) + SYNC) for name, text in ((b"a", b"rows 1"), (b"b", b"rows 3"))
)
_STEPS: Final = (*((one,) for one in STRAIGHT), *_PREPARING, (pg.close(b"a") + SYNC,))
ENDED: Final = (query(b"rollback"), query(b"rollback"))  # else one client keeps the others waiting forever
_LENGTH: Final = 24  # steps of one client


async def step_of(client: NativeClient, rng: random.Random) -> None:
    """Something of it is looked at, which settles what is carried."""
    kind = rng.randrange(13)
    if kind == 0:
        assert client.relay.backend is None or not client.relay.backend.is_closed
    elif kind == 3:
        assert client.relay.is_waiting or not client.conn.waiting_since
    elif kind == 1:
        client.relay.rest_if_idle(inf)
    elif kind == 2:
        await turn()


def _some_arrives(busy: list[NativeClient], answering: list[Backend], rng: random.Random) -> None:
    """A piece of what a client or a server sends."""
    if busy and (not answering or rng.random() < 0.5):
        rng.choice(busy).push(rng.choice((1, 5, 11, 60, None, None, None, None)))
    elif answering:
        rng.choice(answering).deliver(rng.choice((1, 5, 7, 30, None, None, None)))


def _pool_changes(desk: Desk, rng: random.Random) -> None:
    """What a pool has to do besides: others want it, what is idle does not suit, and lanes are made again."""
    desk.lender.is_busy = rng.random() < 0.03
    desk.is_refusing = rng.random() < 0.05
    if rng.random() < 0.02:
        desk.patience = rng.choice((0.0, 1e-4, inf, inf, inf))
        desk.renew()


async def together(
    given_scripts: list[list[bytes]], *, size: int, seed: int, limit: int, leaves: float = 0.0, most: int = 0
) -> Desk:
    """What was carried. AssertionError: a client sees something else than alone.

    `leaves`: how probably the first client hangs up at a step, wherever it is then. `most`: clients that may wait in a
    lane; the pool changes meanwhile where there are any.
    """
    lender, statements = NativeLender(size), Statements()
    for backend in lender.backends:
        backend.prepared = ServerStatements(limit)
    desk = new_desk(lender)
    desk.most, lender.hands_on = most, most > 0
    clients = [NativeClient(lender, statements=statements, desk=desk) for _ in given_scripts]
    try:
        await _play(desk, clients, [[*script, *ENDED] for script in given_scripts], random.Random(seed), leaves)
        assert len(lender.idle) == len(lender.backends), "a backend was kept by a client that is gone"
        assert not desk.waiting, "a client that is gone waits"
        lender.check()
    finally:
        for client in clients:
            client.conn.abort()
            client.far.close()
        await turn()  # they give back what they have
        lender.close()
        await turn()
    return desk


async def _play(
    desk: Desk, clients: list[NativeClient], left: list[list[bytes]], rng: random.Random, leaves: float
) -> None:
    lender = desk.lender
    servers, expected = [ModelServer() for _ in clients], [b"" for _ in clients]
    for _ in range(20_000):
        for n, client in enumerate(clients):
            if not client.sending and left[n] and client.received == expected[n]:
                client.sending = left[n].pop(0)
                expected[n] += servers[n].feed(client.sending)
        busy = [client for client in clients if client.sending]
        answering = [each for each in lender.backends if each.answers and not each.is_paused]
        is_over = not (busy or answering or any(left))
        _some_arrives(busy, answering, rng)
        if is_over:
            lender.is_busy = desk.is_refusing = False
        elif desk.most:
            _pool_changes(desk, rng)
        if rng.random() < 0.7 or is_over:
            await turn()
        lender.grant()
        assert desk.waiting == sum(bool(client.conn.waiting_since) for client in clients), "the pool believes otherwise"
        await step_of(rng.choice(clients), rng)
        if len(clients) > 1 and rng.random() < leaves:
            leaves = 0.0
            await clients[0].leave()
            del clients[0], left[0], servers[0], expected[0]
        lender.hear()
        for n, client in enumerate(clients):
            client.hear()
            assert expected[n].startswith(client.received), (n, client.received, expected[n])
        if is_over and all(client.received == expected[n] for n, client in enumerate(clients)):
            break
    for n, client in enumerate(clients):
        assert client.received == expected[n]
        assert not client.conn.is_closing()
        await client.leave()
    await turn()


def _of_hold(original: Any) -> Any:
    def hold(self: Forwarder, backend: Any, route: Any, since: float, is_open: bool, has_begun: bool) -> None:
        original(self, backend, route, since, False, has_begun)

    return hold


MUTATIONS: Final[dict[str, Block]] = {
    "what Python has under way comes before what is carried": instead(
        Forwarder, "may_be_carried", lambda original: True
    ),
    "Python hears of the statement without a name that was parsed meanwhile": instead(Prepared, "carried", nothing),
    "Python hears of transactions that were carried": instead(CarriedRelay, "carried", nothing),
    "a transaction that is handed over is open": instead(Forwarder, "hold", _of_hold),
    "what was acknowledged before a request is handed over is not expected again": instead(
        Forwarder,
        "go_on",
        lambda original: lambda self, *args, **more: original(self, *args, **{**more, "has_parsed": False}),
    ),
    "a request that is handed over goes out once": instead(
        Forwarder,
        "go_on",
        lambda original: lambda self, backend, data, sent, **more: self.received(data),
    ),
    "who waits in a lane is seen to wait": instead(CarriedRelay, "is_waiting", lambda original: False),
    "a statement is carried to a backend that has it": instead(
        ServerStatements, "serves", lambda original: lambda self, statement, told: True
    ),
}


async def a_game(seed: int) -> Desk:
    """That of `seed`: see `together`."""
    rng = random.Random(seed)
    given = [[step for _ in range(_LENGTH) for step in rng.choice(_STEPS)] for _ in range(rng.choice((1, 2, 3, 4)))]
    size, limit, most = rng.choice((1, 2)), rng.choice((1, 500)), rng.choice((0, 1, 9))
    return await together(given, size=size, seed=seed, limit=limit, leaves=0.05 * (seed % 2), most=most)


def found_within(name: str, tries: int) -> int | None:
    """At which try a client sees that the rule does not hold; None: at none."""
    with MUTATIONS[name](), asyncio.Runner(loop_factory=NativeLoop) as runner:
        uncaught: list[object] = []
        runner.get_loop().set_exception_handler(lambda loop, context: uncaught.append(context))
        for seed in range(tries):
            try:
                runner.run(a_game(seed))
                assert not uncaught
            except Exception:  # noqa: BLE001 - whatever fails, it is found
                return seed
    return None
