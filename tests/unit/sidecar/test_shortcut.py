"""Which bytes of a connection go past aiohttp? Whole requests, and never a part of one that aiohttp has begun."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import pytest

from tenantproxy.sidecar.shortcut import Peer, Shortcut

REQUEST = b"POST 5\nabcde"
OTHER = b"GET /\n"


class FramedFake(NamedTuple):
    """A request of the toy protocol `POST length newline body`."""

    size: int


class RequestFake:
    """One that was taken."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def ended(self) -> None:
        self.events.append("ended")

    def lost(self) -> None:
        self.events.append("lost")


class DoorFake:
    """Takes all that it can read."""

    def __init__(self) -> None:
        self.taken: list[tuple[bytes, RequestFake]] = []
        self.takes = True

    def read(self, data: bytes, peer: Peer) -> FramedFake | None:
        head, newline, _ = data.partition(b"\n")
        return FramedFake(len(head) + 1 + int(head[5:])) if newline and head.startswith(b"POST ") else None

    def take(self, data: bytes, framed: Any, shortcut: Shortcut) -> RequestFake | None:
        if not self.takes:
            return None
        self.taken.append((data, RequestFake()))
        return self.taken[-1][1]


class TransportFake:
    """Records what is written."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.is_reading, self.is_aborted = True, False

    def get_extra_info(self, name: str) -> Any:
        return ("192.0.2.1", 4711) if name == "peername" else None

    def is_closing(self) -> bool:
        return self.is_aborted

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def abort(self) -> None:
        self.is_aborted = True

    def pause_reading(self) -> None:
        self.is_reading = False

    def resume_reading(self) -> None:
        self.is_reading = True


class ClientFake:
    """The connection, whose aiohttp only collects."""

    def __init__(self) -> None:
        self.door, self.transport = DoorFake(), TransportFake()
        self.shortcut = Shortcut(self.door, self, cast("Any", self.transport))
        self.theirs: list[bytes] = []
        self.is_idle = True
        self.waited = 0

    def is_between(self) -> bool:
        return self.is_idle

    def is_last(self) -> bool:
        return False

    def works(self) -> None:
        pass

    def waits(self) -> None:
        self.waited += 1

    def data_received(self, data: bytes) -> None:
        if not self.shortcut.offer(data):
            self.theirs.append(data)

    @property
    def taken(self) -> list[bytes]:
        return [data for data, _ in self.door.taken]


@pytest.fixture
def connection() -> ClientFake:
    return ClientFake()


def test_a_whole_request_is_taken_and_the_next_one_after_its_answer(connection: ClientFake) -> None:
    for _ in range(2):
        connection.data_received(REQUEST)
        connection.shortcut.over(b"answer")
    assert connection.taken == [REQUEST, REQUEST]
    assert connection.transport.written == [b"answer", b"answer"]
    assert [request.events for _, request in connection.door.taken] == [["ended"], ["ended"]]
    assert connection.theirs == []


@pytest.mark.parametrize("cut", range(1, len(REQUEST)))
def test_a_body_that_looks_like_a_request_is_never_taken(connection: ClientFake, cut: int) -> None:
    hidden = b"POST %d\n%b" % (len(REQUEST), REQUEST)
    parts = [hidden[: -len(REQUEST)], REQUEST] if cut == 1 else [hidden[:cut], hidden[cut:]]
    for part in parts:
        connection.data_received(part)
    assert connection.taken == []
    assert b"".join(connection.theirs) == hidden


def test_after_a_body_in_parts_the_next_request_is_taken(connection: ClientFake) -> None:
    for part in (b"POST 9\n12", b"345", b"6789", REQUEST):
        connection.data_received(part)
    assert connection.taken == [REQUEST]


@pytest.mark.parametrize(
    "sent",
    [(OTHER,), (b"POST",), (b"POST 5",), (REQUEST + OTHER,), (REQUEST + b"P",), (b"POST 9\n12", b"3456789P"),
     (b"POST 9\n12", b"345678" + REQUEST)],
)  # fmt: skip
def test_where_a_request_ends_elsewhere_all_that_follows_is_aiohttps(
    connection: ClientFake, sent: tuple[bytes, ...]
) -> None:
    for data in (*sent, REQUEST, REQUEST):
        connection.data_received(data)
    assert connection.taken == []
    assert b"".join(connection.theirs) == b"".join(sent) + REQUEST + REQUEST


def test_what_is_refused_or_comes_while_aiohttp_answers_is_aiohttps(connection: ClientFake) -> None:
    connection.door.takes = False
    connection.data_received(REQUEST)
    connection.door.takes, connection.is_idle = True, False
    connection.data_received(REQUEST)
    connection.is_idle = True
    connection.data_received(REQUEST)
    assert connection.theirs == [REQUEST, REQUEST]
    assert connection.taken == [REQUEST]


def test_what_comes_while_a_request_runs_waits_for_its_answer(connection: ClientFake) -> None:
    for data in (REQUEST, REQUEST, OTHER):
        connection.data_received(data)
    assert connection.taken == [REQUEST]
    connection.shortcut.over(b"1")
    assert connection.taken == [REQUEST, REQUEST]
    assert connection.theirs == []
    connection.shortcut.over(b"2")
    assert connection.theirs == [OTHER]


def test_too_much_behind_a_request_is_not_read_until_its_answer(connection: ClientFake) -> None:
    connection.data_received(REQUEST)
    connection.data_received(REQUEST)
    reads = [connection.transport.is_reading]  # so a client that goes is heard of
    connection.data_received(b"x" * 100_000)
    reads.append(connection.transport.is_reading)
    connection.shortcut.over(b"1")
    assert connection.taken == [REQUEST, REQUEST]
    reads.append(connection.transport.is_reading)
    connection.shortcut.over(b"2")
    assert connection.theirs == [b"x" * 100_000]
    assert [*reads, connection.transport.is_reading] == [True, False, False, True]


def test_an_answer_that_is_not_read_keeps_its_request_until_it_is(connection: ClientFake) -> None:
    connection.data_received(REQUEST)
    connection.shortcut.pause()
    connection.shortcut.over(b"large")
    (_, request), waited = connection.door.taken[0], connection.waited
    assert (request.events, waited) == ([], 0)
    connection.shortcut.resume()
    assert (request.events, connection.waited) == (["ended"], 1)


@pytest.mark.parametrize("is_answered", [True, False])
def test_a_request_hears_once_that_its_client_is_lost(connection: ClientFake, is_answered: bool) -> None:
    connection.data_received(REQUEST)
    if is_answered:
        connection.shortcut.pause()
        connection.shortcut.over(b"large")
    connection.shortcut.lost()
    connection.shortcut.lost()
    assert connection.door.taken[0][1].events == ["lost"]


def test_a_request_without_an_answer_ends_its_connection(connection: ClientFake) -> None:
    connection.data_received(REQUEST)
    connection.shortcut.over(b"")
    assert connection.transport.is_aborted
    assert connection.waited == 0
