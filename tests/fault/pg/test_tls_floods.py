"""What does a peer that speaks TLS as no client does cost the port, and does it get anything by that?"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support.authority import Authority, Pair
from tests.support.openssl import Peer
from tests.support.port_house import PortHouse, a_port
from tests.support.wire_client import SSL_REQUEST, startup
from tests.support.world import World

pytestmark = pytest.mark.both_paths

SECONDS = 10.0  # a login may take longer: what ends then was not ended by the flood


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return Authority(tmp_path_factory.mktemp("authority")).certificate("localhost", "localhost", "127.0.0.1")


@contextmanager
def a_peer(number: int, server_name: bytes = b"") -> Iterator[tuple[socket.socket, Peer]]:
    """One whose handshake is done but for its last message."""
    with (
        socket.create_connection(("127.0.0.1", number), timeout=SECONDS) as sock,
        Peer(sock, server_name=server_name) as peer,
    ):
        sock.sendall(SSL_REQUEST)
        assert sock.recv(1) == b"S"
        peer.handshake()
        yield sock, peer


def all_of(sock: socket.socket, peer: Peer) -> bytes:
    """What comes until the port closes. TimeoutError when it does not."""
    said = b""
    try:
        while data := sock.recv(65536):
            said += peer.unseal(data)
    except ConnectionResetError:
        pass  # closed on what was not read
    return said


@pytest.mark.parametrize("for_both", [True, False], ids=["with an answer to each", "without answers"])
async def test_a_flood_of_new_keys_ends_the_connection(lasting: World, server: Pair, *, for_both: bool) -> None:
    """One costs as much as a query, and 2,400 of them are read at once: all others would wait a tenth of a second."""

    def flood(house: PortHouse) -> None:
        with a_peer(house.number) as (sock, peer):
            sock.sendall(peer.take() + peer.new_keys(100, for_both=for_both))
            all_of(sock, peer)

    async with a_port(lasting, pg=server.listener) as house:
        await asyncio.to_thread(flood, house)


async def test_a_client_may_change_its_keys_now_and_then(lasting: World, server: Pair) -> None:
    def change(house: PortHouse) -> bytes:
        with a_peer(house.number) as (sock, peer):
            sock.sendall(peer.take() + peer.new_keys(5) + peer.seal(startup("all", "database1")) + peer.new_keys(5))
            said = b""
            while b"SCRAM" not in said:
                said += peer.unseal(sock.recv(65536))
            return said

    async with a_port(lasting, pg=server.listener) as house:
        assert (await asyncio.to_thread(change, house))[:1] == b"R"


@pytest.mark.parametrize("is_whole", [False, True], ids=["of TLS", "of TCP"])
async def test_an_end_behind_the_handshake_is_heard_behind_what_came_before_it(
    lasting: World, server: Pair, *, is_whole: bool
) -> None:
    def end(house: PortHouse) -> bytes:
        with a_peer(house.number) as (sock, peer):
            sock.settimeout(5.0)  # the login's own limit is longer
            sock.sendall(peer.seal(startup("all", "database1")) + peer.end())
            if is_whole:
                sock.shutdown(socket.SHUT_WR)
            return all_of(sock, peer)

    async with a_port(lasting, pg=server.listener) as house:
        assert b"SCRAM" in await asyncio.to_thread(end, house)
