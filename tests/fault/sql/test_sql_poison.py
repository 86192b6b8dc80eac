"""What one request leaves in its session, does the next one meet it on the same backend? As on the port."""

from __future__ import annotations

import asyncio

import pytest

from tenantproxy.lifecycle.prove.poisons import GONE, STATE, hidden_poisons
from tenantproxy.raw.exchange import SYNC_NOW
from tests.fault.pg.test_poison import _execute, _parse
from tests.integration.test_raw_poison import POISONS
from tests.support.sql_house import SqlHouse, a_sql_house
from tests.support.world import World

pytestmark = pytest.mark.asyncio

PID = "SELECT pg_backend_pid()"
NAMES = "SELECT name FROM projects ORDER BY id"
HIDDEN = hidden_poisons(other="row2", schema="schema1")


def of(tenant: str) -> list[list[str | None]]:
    return [[f"{tenant} {n}"] for n in (1, 2, 3)]


async def test_what_a_request_leaves_neither_the_next_tenant_nor_its_own_next_request_meets(lasting: World) -> None:
    """Each poison in turn, as statements and as a batch, on the only backend."""
    async with a_sql_house(lasting, pools={"shared_size": 1}) as house:
        clean = await house.batch(STATE, tenant="row2")
        pid, kept = None, 0
        for number, poison in enumerate(POISONS + HIDDEN):
            for as_batch in (False, True):
                if as_batch:
                    await house.batch(*poison.statements, tenant="row1")
                else:
                    for sql in poison.statements:
                        await house.ask(sql, tenant="row1")
                # A change of tenant resets whatever is known of the session: its own next request comes first at times.
                for tenant in ("row2", "row1") if (number + as_batch) % 2 else ("row1", "row2"):
                    now = await _look(house, tenant, clean.body, poison.name)
                    kept += now == pid
                    pid = now
        assert kept >= 2 * len(POISONS), "they hardly ever shared a backend"
        assert house.port.router.stats().resets["failed"] == 0


async def _look(house: SqlHouse, tenant: str, clean: object, poison: str) -> str | None:
    state = await house.batch(STATE, tenant=tenant)
    assert state.body == clean, (poison, tenant)
    seen = await house.batch(NAMES, "SELECT tenantproxy.bound_tenant()", PID, tenant=tenant)
    names, bound, pid = (each["rows"] for each in seen.body["results"])
    assert names == of(tenant), (poison, tenant)
    assert bound == [[tenant]], (poison, tenant)
    gone = await house.ask(GONE, tenant=tenant)
    assert gone.code == "26000", (poison, tenant)
    assert pid[0][0]
    return str(pid[0][0])


async def test_two_tenants_alternating_on_one_backend_never_see_each_others_rows(lasting: World) -> None:
    async with a_sql_house(lasting, pools={"shared_size": 1}) as house:

        async def ask(number: int) -> None:
            tenant = ("row1", "row2")[number % 2]
            found = await (house.ask(NAMES, tenant=tenant) if number % 3 else house.batch(NAMES, tenant=tenant))
            rows = found.body["rows"] if number % 3 else found.body["results"][0]["rows"]
            assert rows == of(tenant)

        await asyncio.gather(*(ask(number) for number in range(40)))
        trespass = "SELECT set_config('app.current_tenant_id', 'row2', true), (SELECT count(*) FROM projects)"
        assert (await house.ask(trespass)).code == "42501"
        assert (await house.ask(NAMES)).rows == of("row1")


async def test_what_a_port_client_prepared_is_not_what_a_request_runs(lasting: World) -> None:
    """They share backends: the statement without a name, and names in SQL."""
    async with a_sql_house(lasting, pools={"shared_size": 1}) as house, house.port.a_client("row1") as client:
        client.send(_parse(b"", "SELECT 'of the client'") + SYNC_NOW)
        await client.answer()
        assert (await house.ask("SELECT 'of the request'")).value == "of the request"
        client.send(_execute(b"") + SYNC_NOW)
        answer = await client.answer()
        assert answer.rows != [["of the request"]]
