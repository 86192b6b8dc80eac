"""What if one tenant, user or address, or silent connections, take all the places that the port has?"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tenantproxy.config import Settings
from tenantproxy.errors import ConfigurationError
from tenantproxy.raw.exchange import query
from tests.support.port_house import PortHouse, a_port, port_settings, users
from tests.support.waiting import until
from tests.support.wire_client import PASSWORD, Refused, WireClient, cancel, raw, startup
from tests.support.world import World

COUNT = "SELECT count(*) FROM projects"
SSL_REQUEST = struct.pack("!II", 8, 80877103)
OPS = {"password": PASSWORD, "console": True}


@asynccontextmanager
async def limited(world: World, **pg: Any) -> AsyncIterator[PortHouse]:
    """A port with these limits, and an operator `ops`."""
    async with a_port(world, pg={"users": users(ops=OPS), **pg}) as house:
        yield house


async def refusal(house: PortHouse, tenant: str, user: str = "all") -> dict[str, str]:
    """What one more client is told. AssertionError where it is admitted."""
    try:
        client = await house.client(tenant, user)
    except Refused as exc:
        return exc.fields
    raise AssertionError(f"{client} was admitted")


def refused(house: PortHouse, name: str) -> int:
    """How often this limit was met."""
    return {each.name: each.refused for each in house.listener.limits()}[name]


async def works(house: PortHouse, tenant: str) -> None:
    async with house.a_client(tenant) as client:
        assert (await client.query(COUNT)).value == "3"


# --- of tenants, users and addresses ---------------------------------------------------------------------------------
async def test_a_tenant_that_takes_all_it_can_leaves_others_and_the_operator_in(lasting: World) -> None:
    async with limited(lasting, max_clients=12) as house:
        for _ in range(6):
            await house.client("row1")
        for _ in range(6):
            fields = await refusal(house, "row1")
            assert (fields["C"], fields["D"]) == ("53300", "[pg] max_clients_per_tenant = 6")
            assert fields["H"] == "close idle connections, or raise [pg] max_clients_per_tenant"
        await works(house, "row2")
        console = await house.client("tenantproxy", "ops")
        rows = {row[0]: row[1:] for row in (await console.query("SHOW LIMITS")).rows}
        assert rows["max_clients_per_tenant"] == ["6", "6", "row1", "6"]
        assert house.listener.logins["limited"] == 6


async def test_an_operator_logs_in_when_max_clients_are_connected(lasting: World) -> None:
    async with limited(lasting, max_clients=2, max_clients_per_tenant=0) as house:
        clients = [await house.client("row1") for _ in range(2)]
        assert (await refusal(house, "row2"))["D"] == "[pg] max_clients = 2"
        for database in ("tenantproxy", "pgbouncer", "tenantproxy"):
            console = await house.client(database, "ops")
            assert (await console.query("SHOW VERSION")).value
        assert (await refusal(house, "tenantproxy", "ops"))["D"] == "[pg] max_clients = 2"
        assert (await refusal(house, "tenantproxy", "all"))["C"] == "28P01"  # the reserve is not for those
        await clients.pop().close()
        await until(lambda: len(house.listener._clients) == 4, "there is room")
        await works(house, "row2")


async def test_one_user_can_be_limited_whatever_tenants_it_reaches(lasting: World) -> None:
    few = {"password": PASSWORD, "tenants": "*", "max_clients": 1}
    async with limited(lasting, users=users(few=few), max_clients_per_user=2) as house:
        await house.client("row1", "few")
        assert (await refusal(house, "database1", "few"))["D"] == "[pg.users.few] max_clients = 1"
        for tenant in ("row1", "row2"):
            await house.client(tenant)
        assert (await refusal(house, "row3"))["D"] == "[pg] max_clients_per_user = 2"
        await house.client("row1", "session")


async def test_one_address_can_be_limited(lasting: World) -> None:
    async with limited(lasting, max_clients_per_address=2) as house:
        for tenant in ("row1", "row2"):
            await house.client(tenant)
        fields = await refusal(house, "row3")
        assert (fields["C"], fields["D"]) == ("53300", "[pg] max_clients_per_address = 2")
        assert "127.0.0.1" in fields["M"]


async def test_a_login_that_fails_takes_no_place(lasting: World) -> None:
    async with limited(lasting, max_clients=2, max_clients_per_tenant=1) as house:
        for _ in range(5):
            client = WireClient(*await raw(house.number))
            client.send(startup("all", "row1"))
            with pytest.raises(Refused):
                await client.log_in("wrong")
            client.abort()
        with pytest.raises(Refused):  # when its place is taken already
            await house.client("schema1", search_path="another")
        assert [each.used for each in house.listener.limits()] == [0] * 9
        await works(house, "schema1")


async def test_limits_are_taken_over_at_a_reload_and_nothing_else_is(
    lasting: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with limited(lasting, max_clients=1, max_clients_per_tenant=0) as house:

        def configured(**pg: Any) -> Settings:
            return port_settings(lasting, pg={"users": users(ops=OPS), "max_clients_per_tenant": 0, **pg})

        await house.client("row1")
        assert (await refusal(house, "row2"))["C"] == "53300"
        monkeypatch.setattr(house.port, "_reread", lambda: configured(max_clients=2))
        console = await house.client("tenantproxy", "ops")
        assert (await console.query("RELOAD")).tags == ["RELOAD"]
        await house.client("row2")
        shown = {row[0]: row for row in (await console.query("SHOW CONFIG")).rows}
        assert shown["pg.max_clients"][1:] == ["2", "10000", "yes"]
        monkeypatch.setattr(house.port, "_reread", lambda: configured(max_clients=9, listen="127.0.0.1:1"))
        with pytest.raises(ConfigurationError):
            await house.port.reload()
        assert house.listener.stats().limit == 2


# --- connections that have not logged in -----------------------------------------------------------------------------
@pytest.mark.parametrize("said", [b"", SSL_REQUEST, startup("all", "row1")], ids=["nothing", "tls", "startup"])
async def test_connections_that_do_not_log_in_lock_nobody_out(lasting: World, said: bytes) -> None:
    async with limited(lasting, max_clients=12, max_unauthenticated=20) as house:
        silent = [WireClient(*await raw(house.number)) for _ in range(60)]
        for each in silent:
            with contextlib.suppress(ConnectionError):
                each.send(said)
        await works(house, "row1")
        console = await house.client("tenantproxy", "ops")
        shown = {row[0]: row[1:] for row in (await console.query("SHOW LIMITS")).rows}
        assert int(shown["max_unauthenticated"][1] or 0) <= 20
        await until(lambda: refused(house, "max_unauthenticated") >= 40, "the oldest have made room")
        for each in silent:
            each.abort()


async def test_the_oldest_is_told_why_it_makes_room(lasting: World) -> None:
    async with limited(lasting, max_unauthenticated=1) as house:
        oldest = WireClient(*await raw(house.number))
        await until(lambda: house.listener.unauthenticated == 1, "it is there")
        await works(house, "row1")
        (error,) = (await oldest.rest()).errors
        assert (error["C"], error["D"]) == ("53300", "[pg] max_unauthenticated = 1")
        oldest.abort()


async def test_a_cancel_request_is_heard_when_no_place_is_left(lasting: World) -> None:
    async with limited(lasting, max_clients=1, max_clients_per_tenant=0, max_unauthenticated=3) as house:
        client = await house.client("row1")
        silent = [WireClient(*await raw(house.number)) for _ in range(6)]
        client.send(query("SELECT pg_sleep(60)"))
        while not client.reader._buffer:  # type: ignore[attr-defined]
            await cancel(house.number, client.pid, client.secret)  # PostgreSQL forgets one that comes too early
        assert (await client.answer()).sqlstate == "57014"
        for each in silent:
            each.abort()
