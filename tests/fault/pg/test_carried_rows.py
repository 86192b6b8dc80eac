"""Are row tenants, which share backends, as far apart on the compiled path as on Python's, in either form?"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from functools import partial
from typing import Any, Final

import pytest

from tenantproxy._native import why_not
from tenantproxy.embedded import EmbeddedPostgres
from tenantproxy.errors import TenantSuspended
from tenantproxy.model import TenantId, tenant_id
from tenantproxy.raw.backend import RawBackend
from tenantproxy.raw.exchange import query
from tenantproxy.sidecar.pg.traffic import Traffic
from tests.support.lasting import a_lasting_world
from tests.support.model_server import SYNC, bind, execute, parse
from tests.support.port_house import PortHouse, a_port
from tests.support.trusting import trust
from tests.support.waiting import until
from tests.support.wire_client import Answer, WireClient
from tests.support.world import World

pytestmark = [
    pytest.mark.skipif(why_not() is not None, reason=f"the compiled data path is not there: {why_not()}"),
    pytest.mark.parametrize("form", ["bound", "trusted"]),
]

SHOWN: Final = b"D\0\0\0\x06P\0" + execute() + SYNC
WHOSE: Final = "SELECT tenantproxy.bound_tenant(), string_agg(name, ',' ORDER BY id) FROM projects"
ASYNCPG: Final = "SELECT pg_advisory_unlock_all();\nCLOSE ALL;\nUNLISTEN *;\nRESET ALL;"  # at each release


@pytest.fixture(scope="module")
def lasting(postgres: EmbeddedPostgres) -> Iterator[World]:
    """One for all of these tests."""
    with a_lasting_world(postgres, each=3) as world:
        asyncio.run(trust(world))
        yield world


def carried() -> int:
    return int(asyncio.get_running_loop().pump.carried)  # type: ignore[attr-defined]


def own(tenant: str) -> list[list[str | None]]:
    return [[tenant, ",".join(f"{tenant} {n}" for n in (1, 2, 3))]]


def unnamed(sql: str) -> bytes:
    return parse(b"", sql.encode()) + bind(b"") + SHOWN


def only(house: PortHouse) -> RawBackend:
    (backend,) = house.pool("row1").connections()
    return backend


def is_carrying(house: PortHouse, client: WireClient) -> bool:
    relay: Any = house.listener._clients[client.pid].relay
    return bool(relay._conn.is_carrying)


def reaches(traffic: Traffic, received: int) -> bool:
    return traffic.received >= received


async def asked(client: WireClient, data: bytes) -> Answer:
    client.send(data)
    return await client.answer()


async def test_a_row_tenants_straight_transaction_of_each_shape_needs_no_python(lasting: World, form: str) -> None:
    async with a_port(lasting, row={"form": form}) as house:
        client = await house.client("row1")
        await asked(client, parse(b"s", WHOSE.encode()) + SYNC)
        await asked(client, bind(b"s") + SHOWN)
        before = carried()
        for data in (query(WHOSE), unnamed(WHOSE), bind(b"s") + SHOWN):
            assert (await asked(client, data)).rows == own("row1")
        for sql in ("BEGIN", "SELECT 1", "COMMIT"):
            await client.query(sql)
        assert carried() == before + 4


# What a client sends on the backend that it shares; the next tenant asks as soon as that is free.
ODD: Final = {
    "two queries": query("SELECT 1") + query("SELECT 2"),
    "an error behind an answer": query("SELECT 1; SELECT 1/0"),
    "half a message": query("SELECT 1") + query("SELECT 2")[:7],
    "a pipeline without its end": parse(b"", WHOSE.encode()) + bind(b"") + execute(),
    "a Flush instead": parse(b"", WHOSE.encode()) + bind(b"") + execute() + b"H\0\0\0\4",
    "a statement with a name": parse(b"mine", WHOSE.encode()) + bind(b"mine") + SHOWN,
    "an open transaction": query("BEGIN") + query(WHOSE),
    "a failed transaction": query("BEGIN") + query("SELECT 1/0"),
    "a chain of transactions": query("BEGIN") + query("COMMIT AND CHAIN"),
    "a reset": query("RESET ALL") + query(WHOSE),
    "a reset among others": query("SELECT 1; RESET ALL; SELECT 2"),
    "all discarded": query("DISCARD ALL") + query(WHOSE),
    "sequences discarded": unnamed("DISCARD SEQUENCES") + query("SELECT 1"),
    "another's name": query("SELECT set_config('app.current_tenant_id', 'row2', false)"),
    "another's name in the other form": query("SELECT set_config('backtrace_functions', '9999999999row2', false)"),
    "it by the extended protocol": unnamed("SELECT set_config('app.current_tenant_id', 'row2', false)"),
    "a cursor that is held": query("BEGIN") + query("DECLARE c CURSOR WITH HOLD FOR SELECT 1") + query("COMMIT"),
    "a lock": query("SELECT pg_advisory_lock(77)"),
    "rows until it leaves": query("SELECT repeat('x', 10000) FROM generate_series(1, 1000)"),
    "a copy": query("COPY projects (name) FROM STDIN"),
    "a reset behind what stays": query("PREPARE mine AS SELECT name FROM projects")
    + query(ASYNCPG)
    + query("SELECT 1"),
    "a reset that is undone": query("BEGIN") + query(ASYNCPG) + query("ROLLBACK") + query("SELECT 1"),
    "a reset to another's name": query(f"{ASYNCPG} SET app.current_tenant_id = 'row2'") + query("SELECT 1"),
}


@pytest.mark.parametrize("goes", [query("ROLLBACK") + b"X\0\0\0\4", b""], ids=["it goes", "it is cut off"])
async def test_whatever_one_tenant_sends_the_next_one_on_its_backend_is_itself(
    lasting: World, form: str, goes: bytes
) -> None:
    async with a_port(lasting, pools={"shared_size": 1}, row={"form": form}) as house:
        begun, victim = carried(), await house.client("row2")
        for name, data in ODD.items():
            hostile = await house.client("row1")
            for _ in range(2):
                assert (await hostile.query(WHOSE)).rows == own("row1"), name
            traffic = house.listener.traffic[tenant_id("row1")]
            expected = traffic.received + len(data)
            hostile.send(data + goes)
            victim.send(query(WHOSE) + unnamed(WHOSE))
            if not goes:
                await until(partial(reaches, traffic, expected), name)
                hostile.abort()
            for _ in range(2):
                assert (await victim.answer()).rows == own("row2"), name
            for _ in range(2):
                assert (await victim.query(WHOSE)).rows == own("row2"), name
            assert (await victim.query("EXECUTE mine")).sqlstate == "26000", name
            hostile.abort()
        assert carried() > begun + 2 * len(ODD)


async def test_a_binding_about_to_end_is_renewed_before_the_next_transaction_and_cuts_none(
    lasting: World, form: str
) -> None:
    async with a_port(lasting, pools={"shared_size": 1}, row={"form": form}) as house:
        client = await house.client("row1")
        for sql in (WHOSE, "BEGIN"):
            assert not (await client.query(sql)).errors
        only(house).bound_until = house.lending.lender.clock() + 1
        ends, before = only(house).bound_until, carried()
        assert (await client.query(WHOSE)).rows == own("row1")
        assert is_carrying(house, client)
        assert (await client.query("COMMIT")).tags == ["COMMIT"]
        assert carried() == before + 1
        assert only(house).bound_until == ends
        assert (await client.query(WHOSE)).rows == own("row1")
        assert carried() == before + 1, "nothing is carried on a binding that is about to end"
        assert only(house).bound_until > ends + 10
        assert (await client.query(WHOSE)).rows == own("row1")
        assert carried() == before + 2


async def test_a_backend_that_its_client_has_reset_is_its_tenants_again_without_another_reset(
    lasting: World, form: str
) -> None:
    async with a_port(lasting, pools={"shared_size": 1}, row={"form": form}) as house:
        client, other = await house.client("row1"), await house.client("row1")
        await asked(client, parse(b"s", WHOSE.encode()) + SYNC)
        for _ in range(2):
            assert (await asked(client, bind(b"s") + SHOWN)).rows == own("row1")
        backend, resets, before = only(house), house.router.stats().resets["ok"], carried()
        for _ in range(3):
            assert (await client.query(ASYNCPG)).tags[-1] == "RESET"
            assert (await other.query(WHOSE)).rows == own("row1")
            assert (await asked(client, bind(b"s") + SHOWN)).rows == own("row1")
        assert only(house) is backend
        assert house.router.stats().resets["ok"] == resets
        assert carried() >= before + 6
        neighbour = await house.client("row2")
        assert (await client.query(ASYNCPG)).tags[-1] == "RESET"
        assert (await neighbour.query(WHOSE)).rows == own("row2")
        assert only(house) is backend
        assert house.router.stats().resets["ok"] == resets + 1


async def test_a_backend_whose_tenant_cannot_be_entered_behind_its_reset_is_ended(lasting: World, form: str) -> None:
    async with (
        a_port(lasting, pools={"shared_size": 1}, row={"form": form}) as house,
        lasting.shared.connect() as admin,
    ):
        client = await house.client("row1")
        for _ in range(2):
            assert (await client.query(WHOSE)).rows == own("row1")
        backend = only(house)
        await admin.execute("INSERT INTO tenantproxy.fenced_tenant (tenant_id, reason) VALUES ('row1', 'it moves')")
        try:
            assert (await client.query(ASYNCPG)).tags[-1] == "RESET"
            await until(lambda: backend.is_closed, "it is ended")
        finally:
            await admin.execute("DELETE FROM tenantproxy.fenced_tenant")
        assert (await client.query(WHOSE)).rows == own("row1")
        assert house.router.stats().bind_failures == 1


async def test_nothing_is_carried_for_a_tenant_that_is_not_served_any_more(
    lasting: World, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_port(lasting, row={"form": form}) as house:
        suspended: set[str] = set()
        known, find = house.lending.known, house.lending.find

        def knowing(tenant: TenantId, **asked: Any) -> object:
            return None if tenant in suspended else known(tenant, **asked)

        async def finding(tenant: TenantId, **asked: Any) -> object:
            if tenant in suspended:
                raise TenantSuspended("the tenant is suspended")
            return await find(tenant, **asked)

        monkeypatch.setattr(house.lending, "known", knowing)
        monkeypatch.setattr(house.lending, "find", finding)
        client, neighbour = await house.client("row1"), await house.client("row2")
        for each in (client, neighbour, client, neighbour):
            assert not (await each.query(WHOSE)).errors
        before = carried()
        suspended.add("row1")
        client.send(query(WHOSE))
        answer = await client.rest()
        assert (answer.rows, answer.sqlstate) == ([], "28000")
        assert carried() == before
        assert (await neighbour.query(WHOSE)).rows == own("row2")
        assert carried() == before + 1


async def test_a_session_that_wants_a_backend_as_at_its_start_gets_one_that_was_used(lasting: World, form: str) -> None:
    async with a_port(lasting, pools={"shared_size": 1}, row={"form": form}) as house:
        client = await house.client("row1")
        assert (await client.query(WHOSE)).rows == own("row1")
        backend, resets = only(house), house.router.stats().resets["ok"]
        session = await house.client("row1", "session")
        assert (await session.query(WHOSE)).rows == own("row1")
        assert only(house) is backend
        assert house.router.stats().resets["ok"] == resets + 1
        assert house.router.stats().bind_failures == 0
