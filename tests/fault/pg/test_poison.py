"""What one client leaves in its session, does the next one meet it on the same backend? By way of the port."""

from __future__ import annotations

import pytest

from tenantproxy.lifecycle.prove.poisons import GONE, STATE, hidden_poisons
from tenantproxy.raw.exchange import SYNC_NOW, query, statement
from tests.integration.test_raw_poison import POISONS
from tests.support.port_house import PortHouse, a_port
from tests.support.waiting import until
from tests.support.wire_client import Answer, Refused, WireClient
from tests.support.world import World

pytestmark = pytest.mark.both_paths

PID = "SELECT pg_backend_pid()"
NAMES = "SELECT name FROM projects ORDER BY id"
USERS = ("all", "session")
HOSTILE_TIMEOUTS = {poison.name for poison in POISONS if "hostile statement_timeout" in poison.name}
HIDDEN = hidden_poisons(other="row2", schema="schema1")


def of(tenant: str) -> list[list[str | None]]:
    return [[f"{tenant} {n}"] for n in (1, 2, 3)]


async def clean_of(house: PortHouse, tenant: str) -> tuple[str | None, list[list[str | None]]]:
    """Its backend, and what a session of this tenant is before its first statement."""
    async with house.a_client(tenant) as client:
        await client.query("BEGIN")
        pid, state = (await client.query(PID)).value, (await client.query(STATE)).rows
        await client.query("COMMIT")
        return pid, state


@pytest.mark.parametrize("user", USERS)
async def test_what_a_client_leaves_neither_the_next_tenant_nor_the_next_client_of_its_own_meets(
    lasting: World, user: str
) -> None:
    """Each poison in turn, on the only backend; one that was left in an open transaction is replaced."""
    async with a_port(lasting, pools={"shared_size": 1}) as house:
        pid, clean = await clean_of(house, "row2")
        kept, failed = 0, set()
        for poison in POISONS + HIDDEN:
            before = house.router.stats().resets["failed"]
            first = await house.client("row1", user)
            for sql in poison.statements:
                await first.query(sql)
            await first.close()
            for tenant in ("row2", "row1"):
                async with house.a_client(tenant, "all") as client:
                    await client.query("BEGIN")
                    now = (await client.query(PID)).value
                    assert (await client.query(STATE)).rows == clean, (poison.name, tenant)
                    assert (await client.query(NAMES)).rows == of(tenant), (poison.name, tenant)
                    bound = await client.query("SELECT tenantproxy.bound_tenant()")
                    assert bound.value == tenant, (poison.name, tenant)
                    gone = await client.query(GONE)
                    assert gone.sqlstate == "26000", (poison.name, tenant)
                    await client.query("ROLLBACK")
                    kept += now == pid
                    pid = now
            if house.router.stats().resets["failed"] > before:
                failed.add(poison.name)
        assert kept >= 2 * len(POISONS), "they hardly ever shared a backend"
        # The first statement of a reset is still under what was left: on a busy machine 1 ms can be too short for it.
        assert failed <= HOSTILE_TIMEOUTS


async def test_statements_without_a_name_and_names_of_others_are_not_shared(lasting: World) -> None:
    async with a_port(lasting, pools={"shared_size": 1}) as house:
        first, second = await house.client("row1"), await house.client("row2")
        for client in (first, second):
            client.send(_parse(b"mine", f"SELECT '{client is first}'") + _parse(b"", "SELECT 'nameless'") + SYNC_NOW)
            assert not (await client.answer()).errors
        for client, expected in ((first, "True"), (second, "False"), (first, "True")):
            client.send(_execute(b"mine") + SYNC_NOW)
            assert (await client.answer()).value == expected
        second.send(_parse(b"", "SELECT 'of the second'") + SYNC_NOW)
        await second.answer()
        first.send(_execute(b"") + SYNC_NOW)
        answer = await first.answer()
        assert answer.rows != [["of the second"]]
        third = await house.client("row3")
        third.send(_execute(b"mine") + SYNC_NOW)
        assert (await third.answer()).sqlstate == "26000"


def _parse(name: bytes, sql: str) -> bytes:
    payload = name + b"\0" + sql.encode() + b"\0\0\0"
    return b"P" + (len(payload) + 4).to_bytes(4, "big") + payload


def _execute(name: bytes) -> bytes:
    bind = b"\0" + name + b"\0\0\0\0\0\0\0"
    return b"B" + (len(bind) + 4).to_bytes(4, "big") + bind + b"E\0\0\0\x09\0\0\0\0\0"


async def test_a_tenant_whose_bind_is_refused_runs_nothing_and_the_others_go_on(lasting: World) -> None:
    fence = "INSERT INTO tenantproxy.fenced_tenant (tenant_id, reason) VALUES ('row2', 'it moves')"
    async with a_port(lasting, pools={"shared_size": 1}) as house, lasting.shared.connect() as admin:
        first, second = await house.client("row1"), await house.client("row2")
        assert (await second.query(NAMES)).rows == of("row2")
        assert (await first.query(NAMES)).rows == of("row1")  # the backend is his now
        await admin.execute(fence)
        try:
            for sent in (query(NAMES), statement(NAMES) + SYNC_NOW):
                told = await _told(house, second, sent)
                assert told.errors
                assert not told.rows
                assert not told.tags, "something of it has run"
            assert (await first.query(NAMES)).rows == of("row1")
        finally:
            await admin.execute("DELETE FROM tenantproxy.fenced_tenant")
        await until(lambda: house.is_quiet, "all is quiet")
        async with house.a_client("row2") as again:
            assert (await again.query(NAMES)).rows == of("row2")


async def _told(house: PortHouse, client: WireClient, sent: bytes) -> Answer:
    """What the client hears, or another one of its tenant if it was ended: as early as in its login."""
    if client.pid not in house.listener._clients:
        try:
            client = await house.client("row2")
        except Refused as refused:
            return Answer(errors=[refused.fields])
    client.send(sent)
    return await client.answer()
