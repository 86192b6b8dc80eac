"""Does each of many clients see exactly what it would see alone on a server of its own, however bytes are cut?

A few clients share a few backends. Scripts, cuts and turns are random; a model of a server says what is right. The
lender of these tests takes no backend back that owes an answer.
"""

from __future__ import annotations

import asyncio
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantproxy.wire.statements import ServerStatements, Statements
from tests.support import model_server as pg
from tests.support.fuzzing import IS_TRIED
from tests.support.model_server import SYNC, ModelServer, query
from tests.support.relay_desk import Client, Lender, settle
from tests.support.relay_scripts import alone, messages, scripts


def play(lender: Lender, clients: list[Client], scripts: list[list[bytes]], rng: random.Random) -> None:
    """All clients at once, in random turns and random pieces."""
    left = [list(script) for script in scripts]
    is_waiting = [False] * len(clients)
    for _ in range(100_000):
        busy = [n for n, client in enumerate(clients) if client.sending or left[n]]
        answering = [backend for backend in lender.backends if backend.answers]
        turns = len(busy) + len(answering) + bool(lender.waiting and lender.idle)
        if not turns:
            break
        turn = rng.randrange(turns)
        if turn < len(answering):
            answering[turn].deliver(rng.choice((1, 2, 5, 7, 30, None)))
        elif turn - len(answering) < len(busy):
            n = busy[turn - len(answering)]
            client = clients[n]
            if not client.sending:
                relay = client.relay
                owed = relay.backend is not None and client.backend.answers
                if is_waiting[n] and (owed or relay.is_waiting):
                    continue  # it waits for its answers
                client.sending, is_waiting[n] = left[n].pop(0), True
            client.push(rng.choice((1, 2, 5, 11, 60, None)))
        else:
            lender.grant()
    settle(lender)


async def together(given_scripts: list[list[bytes]], *, size: int, seed: int, is_session: bool, limit: int) -> None:
    lender, statements = Lender(size), Statements()
    for backend in lender.backends:
        backend.prepared = ServerStatements(limit)
    clients = [Client(lender, is_session=is_session, statements=statements) for _ in given_scripts]
    try:
        play(lender, clients, given_scripts, random.Random(seed))
        for client, script in zip(clients, given_scripts, strict=True):
            assert client.take() == alone(script)
            assert not client.line.is_closed
    finally:
        for client in clients:
            client.leave()
    assert len(lender.idle) == len(lender.backends), "a backend was kept by a client that is gone"
    lender.check()


@pytest.mark.parametrize("is_session", [False, True])
@IS_TRIED
@given(
    given_scripts=st.lists(scripts(), min_size=1, max_size=3),
    size=st.integers(1, 3),
    seed=st.integers(0, 2**32),
    limit=st.sampled_from((3, 500)),
)
def test_each_client_sees_what_it_would_see_alone(
    is_session: bool, given_scripts: list[list[bytes]], size: int, seed: int, limit: int
) -> None:
    if is_session:
        size = len(given_scripts)
    unfinished = [query(b"rollback"), query(b"rollback")]  # else one client keeps the others waiting forever
    ended = [[*script, *unfinished] for script in given_scripts]
    asyncio.run(together(ended, size=size, seed=seed, is_session=is_session, limit=limit))


@IS_TRIED
@given(script=scripts(), seed=st.integers(0, 2**32), at=st.floats(0, 1))
def test_a_client_that_leaves_at_any_byte_leaves_a_backend_that_owes_nothing(
    script: list[bytes], seed: int, at: float
) -> None:
    """Half of the answers have arrived. The lender says whether what it gets back is quiet."""

    async def case() -> None:
        lender = Lender()
        client, rng = Client(lender), random.Random(seed)
        sent = b"".join(script)
        for byte in range(int(len(sent) * at)):
            client.send(sent[byte : byte + 1])
            for backend in list(lender.backends):
                backend.deliver(rng.randrange(12))
        client.leave()
        settle(lender)
        assert len(lender.idle) == 1
        other = Client(lender)
        assert other.ask(query(b"rows 1")) == ModelServer().feed(query(b"rows 1"))

    asyncio.run(case())


@IS_TRIED
@given(
    garbage=st.lists(
        st.one_of(
            st.binary(max_size=40), messages(), st.sampled_from((SYNC, query(b"copy in"), pg.data(), pg.TERMINATE))
        ),
        max_size=8,
    ),
    size=st.sampled_from((1, 3, None)),
    is_session=st.booleans(),
)
def test_no_garbage_of_a_client_raises_anything_or_gives_back_a_backend_that_owes_something(
    garbage: list[bytes], size: int | None, is_session: bool
) -> None:
    async def case() -> None:
        lender = Lender()
        client = Client(lender, is_session=is_session)
        for piece in garbage:
            client.send(piece, size=size)
            settle(lender)
        client.leave()
        settle(lender)
        assert client.ends == 1
        assert len(lender.idle) == 1

    asyncio.run(case())


@IS_TRIED
@given(
    answers=st.lists(
        st.one_of(
            st.binary(max_size=30),
            st.sampled_from(
                (b"Z\0\0\0\5I", b"1\0\0\0\4", b"3\0\0\0\4", pg.G, pg.row(b"x"), pg.tag(b"SET"), pg.tag(b""))
            ),
            st.sampled_from(
                (pg.error(b"0A000"), pg.STALE_PLAN, pg.error(b"57P01", severity=b"FATAL"), b"E\xff\xff\xff\xff")
            ),
        ),
        max_size=8,
    ),
    sent=st.lists(messages(), max_size=3),
    is_session=st.booleans(),
)
def test_no_garbage_of_a_server_raises_anything(answers: list[bytes], sent: list[bytes], is_session: bool) -> None:
    async def case() -> None:
        lender = Lender()
        client = Client(lender, is_session=is_session)
        client.send(b"".join(sent) + SYNC)
        backend = client.backend
        backend.write = lambda data: None
        backend.answers = b""
        backend.model = ModelServer()
        for answer in answers:
            if backend.is_leased:  # else the pool ends it at once
                backend.data_received(answer)
        client.leave()
        assert client.ends == 1
        assert len(lender.idle) == 1

    asyncio.run(case())
