"""Who has a backend next, where several clients wait for it in lanes, and in which lane does it stay?

Clients ask for as many rows as their numbers, so that it is seen at the backend whose turn it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from math import inf
from time import monotonic, sleep
from typing import Any, Final

import pytest

from tenantproxy._native.core import Conn
from tenantproxy.sidecar.pg.carried import CarriedRelay
from tenantproxy.wire import frames
from tenantproxy.wire.frames import frame
from tenantproxy.wire.statements import Statements
from tests.support import model_server as pg
from tests.support.model_server import query
from tests.support.native_desk import (
    Desk,
    NativeBackend,
    NativeClient,
    NativeLender,
    new_desk,
    pump,
    turn,
    without_python,
)
from tests.support.waiting import PATIENCE

ANSWER: Final = pg.tag(b"SELECT 1") + frame(frames.READY, b"I")
STINT: Final = 0.015  # seconds, longer than a backend serves one lane while clients wait in another
SOON: Final = 0.05  # seconds
MUCH: Final = 16_000_000  # bytes, more than a socket takes at once


class Shared:
    """One pool, its lanes and their clients. `backends` say what they are told to."""

    def __init__(self, size: int) -> None:
        self.lender = NativeLender(size)
        self.desk = self.a_desk()
        self.clients: list[NativeClient] = []

    @property
    def backend(self) -> NativeBackend:
        """The first."""
        backend = self.lender.backends[0]
        assert isinstance(backend, NativeBackend)
        return backend

    def a_desk(self, *, shares: Desk | None = None, tenant: str = "acme") -> Desk:
        """Of another lane, in which clients may wait."""
        desk = new_desk(self.lender, shares=shares, tenant=tenant)
        desk.most = 9
        return desk

    def join(self, desk: Desk) -> NativeClient:
        """A client of the lane of `desk`."""
        self.clients.append(NativeClient(self.lender, statements=Statements(), desk=desk))
        return self.clients[-1]

    def ask(self, client: NativeClient) -> None:
        """It asks, and not all of it need have arrived."""
        client.far.sendall(self.asked(client))

    def asked(self, client: NativeClient) -> bytes:
        """What it asks."""
        return query(b"rows %d" % (self.clients.index(client) + 1))

    async def waits(self, client: NativeClient) -> None:
        """It asks, and waits in its lane."""
        self.ask(client)
        await turn()
        assert client.conn.waiting_since

    async def ask_python(self, client: NativeClient) -> None:
        """It asks in pieces, which Python looks into."""
        for piece in (self.asked(client)[:5], self.asked(client)[5:]):
            client.far.sendall(piece)
            await turn()

    def has(self, client: NativeClient, backend: NativeBackend | None = None) -> bool:
        """Whether its request is the one that has just come to the (first) backend, if one has."""
        try:
            return (backend or self.backend).far.recv(1000) == self.asked(client)
        except BlockingIOError:
            return False

    def answer(self, backend: NativeBackend | None = None) -> None:
        """The (first) backend answers what it was asked."""
        (backend or self.backend).far.sendall(ANSWER)

    def served(self, client: NativeClient) -> None:
        """In a thread: it has asked, and has its turn now."""
        assert self.has(client)
        self.answer()
        assert client.far.recv(1000) == ANSWER

    async def meanwhile(self, peers: Iterator[None]) -> None:
        """See `without_python`. Fails where Python has run between two `yield`."""
        this, epochs = pump(), set[int]()
        fars = [client.far for client in self.clients]
        fars += [each.far for each in self.lender.backends if isinstance(each, NativeBackend)]

        def run() -> None:
            for _ in peers:
                epochs.add(this.epoch)

        await without_python(run, *fars)
        assert len(epochs) == 1


@asynccontextmanager
async def shared(size: int = 1) -> AsyncIterator[Shared]:
    """All leave at the end, and nothing is left."""
    one = Shared(size)
    try:
        yield one
    finally:
        for client in one.clients:
            await client.leave()
        one.lender.close()
        await turn()


# --- where a backend stays -------------------------------------------------------------------------------------------
async def test_a_backend_stays_in_its_lane_for_as_long_as_no_other_client_wants_it() -> None:
    """Each return to its pool is Python's."""
    async with shared() as one:
        client = one.join(one.desk)

        def peers() -> Iterator[None]:
            for _ in range(4):
                one.ask(client)
                one.served(client)
                yield
                sleep(STINT)

        await one.meanwhile(peers())
        assert one.desk.reused == 3


async def test_a_parked_backend_whose_binding_is_about_to_end_is_lent_no_more() -> None:
    """Though no Python has run since it was leased."""
    async with shared() as one:
        client, this, epochs = one.join(one.desk), pump(), list[int]()
        one.desk.lasts = SOON

        def peers() -> None:
            while not epochs or not one.backend.is_leased:  # a busy machine: it was too old when it came back
                one.desk.lasts, one.desk.expires = 2 * one.desk.lasts, inf
                one.ask(client)
                one.served(client)
                epochs.append(this.epoch)
            while monotonic() < one.desk.expires:
                sleep(SOON / 5)
            one.ask(client)
            one.served(client)
            epochs.append(this.epoch)

        await without_python(peers, one.backend.far, client.far)
        assert epochs[-1] > epochs[-2], "the last is Python's"


def _stuck(conn: Conn) -> None:
    conn.write(bytes(MUCH))
    assert conn.get_write_buffer_size()


@pytest.mark.parametrize("state", [Conn.close, Conn.write_eof, Conn.pause_reading, _stuck])
async def test_nothing_is_carried_on_a_backend_that_cannot_have_or_answer_it(
    monkeypatch: pytest.MonkeyPatch, state: Callable[[Conn], None]
) -> None:
    async with shared() as one:
        client, looked_into = one.join(one.desk), list[bytes]()
        monkeypatch.setattr(CarriedRelay, "data_received", lambda self, data: looked_into.append(data))
        state(one.backend.conn)
        one.ask(client)
        await turn()
        assert looked_into == [one.asked(client)]
        assert not one.backend.is_leased
        assert not one.desk.transactions


async def test_no_pool_is_asked_whether_a_backend_may_go_on_while_all_who_want_it_wait_in_its_lane() -> None:
    async with shared() as one:
        clients = [one.join(one.desk) for _ in range(2)]

        def peers() -> Iterator[None]:
            one.ask(clients[0])
            assert one.has(clients[0])
            for n in range(4):
                now, behind = clients[n % 2], clients[1 - n % 2]
                one.ask(behind)
                sleep(STINT)  # it waits by then
                one.answer()
                assert one.has(behind)
                assert now.far.recv(1000) == ANSWER
                yield
            one.answer()
            assert clients[0].far.recv(1000) == ANSWER

        await one.meanwhile(peers())
        assert not one.desk.kept
        assert one.desk.waited == 4


async def test_a_backend_leaves_its_lane_for_a_client_that_waits_in_another_lane() -> None:
    """Though one of its own comes in the same moment."""
    async with shared() as one:
        other = one.a_desk(shares=one.desk)
        holder, late, waiting = one.join(one.desk), one.join(one.desk), one.join(other)
        one.ask(holder)
        await turn()
        assert one.has(holder)
        await one.waits(waiting)
        one.answer()
        one.ask(late)
        await turn()
        for client in (waiting, late):
            assert one.has(client)
            one.answer()
            await turn()


async def test_a_backend_goes_to_who_waits_longest_when_it_has_served_its_lane_for_long() -> None:
    async with shared() as one:
        other = one.a_desk(shares=one.desk)
        holder, first, second = one.join(one.desk), one.join(other), one.join(one.desk)

        def peers() -> Iterator[None]:
            one.ask(holder)
            assert one.has(holder)
            for client in (first, second):
                one.ask(client)
                sleep(STINT)  # it waits by then
            yield
            one.answer()
            one.served(first)
            one.served(second)
            yield

        await one.meanwhile(peers())
        assert [desk.waited for desk in (one.desk, other)] == [1, 1]


async def test_what_lies_parked_in_a_lane_is_had_by_who_comes_to_another_lane() -> None:
    """Though the pool has nothing to lend, and room for those who wait."""
    async with shared() as one:
        clients = [one.join(one.desk), one.join(one.a_desk(shares=one.desk))]

        def peers() -> Iterator[None]:
            for client in clients:
                one.ask(client)
                one.served(client)
                yield

        await one.meanwhile(peers())


async def test_what_another_tenant_waits_for_is_no_matter_in_a_lane() -> None:
    """That is up to its own leases alone."""
    async with shared(2) as one:
        other = one.a_desk(shares=one.desk, tenant="other")
        holder, waiting, client = one.join(other), one.join(other), one.join(one.desk)
        one.ask(holder)
        await turn()
        assert one.has(holder)
        backend = one.lender.backends[1]
        assert isinstance(backend, NativeBackend)

        def peers() -> Iterator[None]:
            for n in range(4):
                one.ask(client)
                assert one.has(client, backend)
                if not n:
                    one.ask(waiting)
                    sleep(SOON)  # it waits by then: the other's is not its own
                one.answer(backend)
                assert client.far.recv(1000) == ANSWER
                yield
            one.answer()
            one.served(waiting)

        await one.meanwhile(peers())
        assert one.desk.reused == 3


# --- who comes first -------------------------------------------------------------------------------------------------
async def test_who_comes_when_a_backend_is_free_comes_behind_those_who_wait() -> None:
    """Python has given it back in the same moment."""
    async with shared() as one:
        holder, waiting, late = (one.join(one.desk) for _ in range(3))
        await one.ask_python(holder)
        assert one.has(holder)
        await one.waits(waiting)
        one.answer()
        one.ask(late)
        await turn()
        for client in (waiting, late):
            assert one.has(client)
            one.answer()
            await turn()


async def test_those_who_wait_in_another_lane_take_their_part_of_the_room() -> None:
    """They came in the same moment, so that no Python has run since."""
    async with shared() as one:
        other = one.a_desk(shares=one.desk)
        one.desk.most = other.most = 3
        holder = one.join(one.desk)
        clients = [one.join(desk) for desk in (other, other, one.desk, one.desk)]
        one.ask(holder)
        await turn()
        for client in clients:
            one.ask(client)
        await turn()
        assert [bool(client.conn.waiting_since) for client in clients if client is not clients[2]] == [
            True,
            True,
            False,
        ]


async def test_those_who_wait_in_a_lane_are_pythons_as_soon_as_none_may_wait_there() -> None:
    """Though nothing happens but that one of another lane has waited for too long."""
    async with shared() as one:
        other = one.a_desk(shares=one.desk)
        other.patience = SOON
        other.renew()
        holder, first, second = one.join(one.desk), one.join(one.desk), one.join(other)
        are_pythons, acquire = asyncio.Event(), one.lender.acquire

        def acquired(*args: Any) -> Any:
            one.desk.most = 0
            if one.lender.waiting:
                are_pythons.set()
            return acquire(*args)

        one.lender.acquire = acquired  # type: ignore[method-assign, assignment]
        one.ask(holder)
        for client in (first, second):
            await one.waits(client)
        async with asyncio.timeout(PATIENCE):
            await are_pythons.wait()
        assert len(one.lender.waiting) == 2
