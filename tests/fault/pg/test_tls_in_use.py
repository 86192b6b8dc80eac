"""What do clients with TLS see of cancels, of certificates that change meanwhile, and of ends on one side alone?"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl

import pytest

from tenantproxy.lifecycle.prove.port_client import cancel_request
from tenantproxy.raw.exchange import query
from tenantproxy.sidecar.tls import listener_tls
from tests.support.authority import Authority, Pair
from tests.support.port_house import PortHouse, a_port
from tests.support.waiting import until
from tests.support.wire_client import WireClient, raw, startup
from tests.support.world import World

pytestmark = pytest.mark.both_paths

COUNT = "SELECT min(name), count(*)::text FROM projects"
ASLEEP = "SELECT count(*) = $1 FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(600)' AND state = 'active'"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def server(authority: Authority) -> Pair:
    return authority.certificate("localhost", "localhost", file="first")


def context_of(authority: Authority) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(authority.root))


async def joined(house: PortHouse, authority: Authority, tenant: str) -> WireClient:
    client = WireClient(*await raw(house.number))
    house.clients.append(client)
    await client.secure(context_of(authority))
    client.send(startup("all", tenant))
    await client.log_in()
    return client


async def cancel_by_tls(number: int, context: ssl.SSLContext, pid: int, secret: bytes) -> None:
    client = WireClient(*await raw(number))
    try:
        await client.secure(context)
        client.send(cancel_request(pid, secret))
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            assert await client.reader.read(1) == b""
    finally:
        client.abort()


async def test_cancels_by_tls_under_load_hit_the_clients_that_they_are_for(
    lasting: World, authority: Authority, server: Pair
) -> None:
    context = context_of(authority)
    async with a_port(lasting, pg=server.listener) as house:
        clients = [await joined(house, authority, f"database{1 + number % 2}") for number in range(12)]
        asleep, at_work = clients[:6], clients[6:]
        stop = asyncio.Event()

        async def works(client: WireClient) -> None:
            while not stop.is_set():
                answer = await client.query(COUNT)
                assert answer.errors == [], "a cancel hit another one"

        async with lasting.main.connect() as admin, asyncio.TaskGroup() as group:
            for client in at_work:
                group.create_task(works(client))
            for _ in range(3):
                for client in asleep:
                    client.send(query("SELECT pg_sleep(600)"))
                await until(lambda: admin.fetchval(ASLEEP, len(asleep)), "all sleep")
                hit, missed = asleep[::2], asleep[1::2]
                right = [(one.pid, one.secret) for one in hit]
                wrong = [(one.pid, other.secret) for one, other in zip(missed, hit, strict=True)]
                await asyncio.gather(*(cancel_by_tls(house.number, context, *each) for each in (*right, *wrong)))
                for client in hit:
                    assert (await client.answer()).sqlstate == "57014"
                assert await admin.fetchval(ASLEEP, len(missed)), "another one's secret opens nothing"
                await asyncio.gather(*(cancel_by_tls(house.number, context, o.pid, o.secret) for o in missed))
                for client in missed:
                    assert (await client.answer()).sqlstate == "57014"
            stop.set()


async def test_certificates_that_change_while_handshakes_are_under_way_fail_none_of_them(
    lasting: World, authority: Authority, server: Pair
) -> None:
    second = authority.certificate("localhost", "localhost", file="second")
    context = context_of(authority)
    async with a_port(lasting, pg=server.listener) as house:
        pg = house.router.settings.pg

        async def come() -> set[bytes]:
            seen = set()
            for _ in range(15):
                client = WireClient(*await raw(house.number))
                await client.secure(context)
                seen.add(client.writer.get_extra_info("ssl_object").getpeercert(binary_form=True))
                client.abort()
            return seen

        coming = asyncio.gather(*(come() for _ in range(4)))
        turn = 0
        while not coming.done():
            turn += 1
            changed = pg.model_copy(update=(server, second)[turn % 2].listener)
            house.listener.reload(changed, listener_tls(changed, "pg"))
            await asyncio.sleep(0)
        assert len(set().union(*await coming)) == 2, "both were shown"


async def test_a_client_that_ends_its_side_of_the_connection_alone_leaves_nothing_that_runs(
    lasting: World, authority: Authority, server: Pair
) -> None:
    """With TLS there is no half-closed session: with or without a close_notify before it, the client is gone."""
    async with a_port(lasting, pg=server.listener) as house, lasting.main.connect() as admin:
        for says_goodbye in (False, True):
            client = await joined(house, authority, "database1")
            client.send(query("SELECT pg_sleep(600)"))
            await until(lambda: admin.fetchval(ASLEEP, 1), "it sleeps")
            if says_goodbye:
                client.writer.close()  # close_notify, and it waits for that of the server
            else:
                with socket.socket(fileno=os.dup(client.writer.get_extra_info("socket").fileno())) as sock:
                    sock.shutdown(socket.SHUT_WR)
            await until(lambda: admin.fetchval(ASLEEP, 0), "its query is cancelled")
            await until(lambda: house.is_at_rest, "and its place is free")
