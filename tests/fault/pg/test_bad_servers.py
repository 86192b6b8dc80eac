"""What can a hostile server do? It costs its own tenants an error, and no others anything."""

from __future__ import annotations

import contextlib
import struct
import time
from collections.abc import AsyncIterator

import psutil  # type: ignore[import-untyped]
import pytest

from tenantproxy.raw.exchange import query
from tenantproxy.wire.frames import COMMAND_COMPLETE, COPY_IN, DATA_ROW, ERROR, PARAMETER_STATUS, READY, frame
from tests.fault.conftest import Figure
from tests.support import hostile
from tests.support.hostile import LyingProxy, Part, hostile_server, repeats, says
from tests.support.port_house import PortHouse, a_port
from tests.support.waiting import SLACK, until
from tests.support.wire_client import Refused
from tests.support.world import World

pytestmark = pytest.mark.both_paths

COUNT = "SELECT count(*) FROM projects"
MEGABYTE = 2**20
SESSION = hostile.LETS_IN + hostile.PARAMETER + b"K" + struct.pack("!III", 12, 7, 7) + b"Z\0\0\0\5I"

LOGINS: dict[str, Part] = {
    "it ends at once": says(b""),
    "it says nothing that can be read": says(b"\xff" * 4096),
    "it says half a message": says(hostile.ASKS_SCRAM[:10]),
    "a message of no length": says(b"R\0\0\0\0"),
    "a message of 2 GiB": says(b"R\x7f\xff\xff\xff" + b"x" * 100_000),
    "a message of 1 GiB without end": repeats(b"x" * 4096, first=b"E\x3f\xff\xff\xff"),
    "an error without an SQLSTATE": says(frame(ERROR, b"SFATAL\0Mgo away\0\0")),
    "an error without anything": says(frame(ERROR, b"")),
    "an error that does not end": says(frame(ERROR, b"SFATAL\0VFATAL\0C")),
    "an error of another kind each byte": says(frame(ERROR, bytes(range(1, 256)) * 4)),
    "notices without end": repeats(hostile.NOTICE),
    "parameters without end": repeats(hostile.PARAMETER, first=hostile.LETS_IN),
    "a nonce of 60 kB": says(hostile.ASKS_SCRAM, hostile.challenge(b"r=" + b"x" * 60_000 + b",s=c2FsdA==,i=4096")),
    "iterations without end": says(hostile.ASKS_SCRAM, hostile.challenge(b"r=x,s=c2FsdA==,i=4294967295")),
    "a challenge of nothing": says(hostile.ASKS_SCRAM, hostile.challenge(b"")),
    "it lets us in and knows no password": says(hostile.ASKS_SCRAM, SESSION),
    "it asks for the password itself": says(b"R" + struct.pack("!II", 8, 3)),
    "it asks nothing": says(SESSION),
    "results before there is a question": says(SESSION + frame(DATA_ROW, b"\0\0")),
    "it ends the session as it begins": says(SESSION + frame(ERROR, b"SFATAL\0VFATAL\0C57P01\0Mbye\0\0")),
}


def memory() -> int:
    return int(psutil.Process().memory_info().rss)


@pytest.mark.parametrize("part", LOGINS.values(), ids=LOGINS.keys())
async def test_a_hostile_login_costs_the_tenants_of_that_server_an_error_and_nobody_else_anything(
    lasting: World, figure: Figure, part: Part
) -> None:
    async with hostile_server(part) as port:
        tenants = {"victim": {"isolation": "database", "server": "hostile", "database": "anything"}}
        servers = {"hostile": {"port": port, "connect_timeout": 3.0, "user": "app", "password": "p", "ssl": "disable"}}
        before = memory()
        async with a_port(lasting, servers=servers, tenants=tenants, pools={"acquire_timeout": 15.0}) as house:
            began = time.monotonic()
            with pytest.raises(Refused) as refused:
                await house.client("victim")
            figure("seconds_to_refuse", time.monotonic() - began)
            assert refused.value.sqlstate == "08001"
            assert refused.value.fields["S"] == "FATAL"
            assert time.monotonic() - began < 5.0 + SLACK  # not when the wait for a connection is over
            async with house.a_client("row1") as other:
                assert (await other.query(COUNT)).value == "3"
        figure("megabytes", (memory() - before) / MEGABYTE)
        assert memory() - before < 50 * MEGABYTE


# --- in the middle of a session --------------------------------------------------------------------------------------
@contextlib.asynccontextmanager
async def lying(world: World) -> AsyncIterator[tuple[PortHouse, LyingProxy]]:
    """One backend of `database1`, by way of a proxy that may lie."""
    async with LyingProxy(world.server.host, world.server.port) as proxy:
        servers = {"primary": {"port": proxy.port}}
        async with a_port(world, servers=servers, pools={"max_size": 1}) as house:
            yield house, proxy


ANSWER = b"C" + struct.pack("!I", 4 + 9) + b"SELECT 1\0"
BROKEN = {
    "garbage": b"\xff" * 1000,
    "a message of no length": b"D\0\0\0\0" + b"x" * 100,
    "a message of less than itself": b"D\0\0\0\3" + b"x" * 100,
    "a message of 2 GiB": b"D\x7f\xff\xff\xff" + b"x" * 100,
    "a ParameterStatus of 1 GiB": b"S\x3f\xff\xff\xff" + b"x" * 100,
    "a CommandComplete of 100 MB": b"C\x05\xf5\xe1\x00" + b"x" * 100,
    "a ReadyForQuery that says nothing": ANSWER + b"Z\0\0\0\4",
    "a ReadyForQuery that says too much": ANSWER + b"Z\0\0\0\6II",
    "one ReadyForQuery too many": ANSWER + b"Z\0\0\0\5I" * 2,
    "a ParseComplete without a Parse": b"1\0\0\0\4",
}


@pytest.mark.parametrize("lie", BROKEN.values(), ids=BROKEN.keys())
async def test_a_server_that_breaks_the_protocol_loses_its_client_and_its_connection(
    lasting: World, lie: bytes
) -> None:
    async with lying(lasting) as (house, proxy):
        client = await house.client("database1")
        (backend,) = [one for one in house.lending.backends() if one.pool is house.pool("database1")]
        proxy.lie = lie
        client.send(query(COUNT))
        told = await client.rest()
        assert told.errors
        assert told.sqlstate == "08001"
        assert told.errors[0]["S"] == "FATAL"
        async with house.a_client("database1") as after:
            assert (await after.query(COUNT)).value == "3"
        assert backend.is_closed


ODD = {
    "a ReadyForQuery of no known status": ANSWER + b"Z\0\0\0\5?",
    "a tag that says nothing": b"C\0\0\0\4",
    "a tag of one letter": b"C\0\0\0\5S",
    "an error of nothing": frame(ERROR, b""),
    "an error that does not end": frame(ERROR, b"SERROR\0C"),
    "a report of nothing": frame(PARAMETER_STATUS, b""),
    "a report of nothing that is something": frame(PARAMETER_STATUS, b"\0\0"),
    "a report without an end": frame(PARAMETER_STATUS, b"TimeZone\0Nowhere"),
    "a report that is no text": frame(PARAMETER_STATUS, b"TimeZone\0\xff\xfe\0"),
    "an empty COPY": frame(COPY_IN, b""),
    "a tag that is no text": frame(COMMAND_COMPLETE, b"\xff\xfe\xfd\0"),
    "a tag without an end": frame(COMMAND_COMPLETE, b"SET"),
}


@pytest.mark.parametrize("lie", ODD.values(), ids=ODD.keys())
async def test_a_server_that_says_odd_things_brings_nobody_down(lasting: World, lie: bytes) -> None:
    async with lying(lasting) as (house, proxy):
        client = await house.client("database1")
        proxy.lie = lie + frame(READY, b"I")
        client.send(query(COUNT))
        told = await client.reader.readexactly(5)
        assert told[:1] in (lie[:1], b"E")
        client.abort()
        async with house.a_client("database1") as after:
            assert (await after.query(COUNT)).value == "3"


async def test_an_error_without_an_sqlstate_is_passed_on_and_the_session_goes_on(lasting: World) -> None:
    async with lying(lasting) as (house, proxy):
        client = await house.client("database1")
        proxy.lie = frame(ERROR, b"Mwhat?\0\0") + frame(READY, b"I")
        answer = await client.query(COUNT)
        assert (answer.errors[0]["M"], answer.status) == ("what?", "I")
        assert (await client.query(COUNT)).value == "3"


async def test_notices_without_end_reach_a_client_at_its_own_pace_and_end_with_it(
    lasting: World, figure: Figure
) -> None:
    async with lying(lasting) as (house, proxy):
        client, before = await house.client("database1", receive_buffer=4096), memory()
        proxy.lie, proxy.endless = hostile.NOTICE * 10, True
        client.send(query(COUNT))
        await until(lambda: _is_paused(house), "the server is not read any more")
        async with house.a_client("row1", "session") as other:
            assert (await other.query(COUNT)).status != ""
        figure("megabytes", (memory() - before) / MEGABYTE)
        assert memory() - before < 30 * MEGABYTE
        proxy.endless = False
        client.abort()


def _is_paused(house: PortHouse) -> bool:
    return any(one.is_paused for one in house.lending.backends())


@pytest.mark.parametrize("missing", [1, 40, 10_000])
async def test_a_row_that_was_cut_off_is_not_ended_by_words_of_ours(lasting: World, missing: int) -> None:
    """Else a client would take our error for the rest of its data."""
    row = frame(DATA_ROW, struct.pack("!HI", 1, 20_000) + b"y" * 20_000)
    async with lying(lasting) as (house, proxy):
        client = await house.client("database1")
        proxy.lie, proxy.then_ends = row[:-missing], True
        client.send(query(COUNT))
        told = await client.reader.read()
        assert told == row[:-missing]


async def test_a_session_that_was_cut_off_between_two_messages_hears_why(lasting: World) -> None:
    async with lying(lasting) as (house, proxy):
        client = await house.client("database1")
        proxy.lie, proxy.then_ends = frame(DATA_ROW, struct.pack("!HI", 1, 2) + b"yy"), True
        client.send(query(COUNT))
        told = await client.rest()
        assert told.rows == [["yy"]]
        assert (told.sqlstate, told.status) == ("08001", "")


async def test_what_a_server_says_in_its_sleep_ends_its_connection_and_reaches_nobody(lasting: World) -> None:
    async with a_port(lasting, pools={"max_size": 1}) as house:
        client = await house.client("database1")
        await until(lambda: house.is_quiet, "all is quiet")
        (backend,) = [one for one in house.lending.backends() if one.pool is house.pool("database1")]
        backend.data_received(frame(DATA_ROW, b"\0\0"))
        await until(lambda: backend.is_closed, "it is ended")
        answer = await client.query(COUNT)
        assert answer.rows == [["3"]]
