"""Does a lease that lasts too long end while others wait for its connection, whatever its holder set?"""

from __future__ import annotations

import asyncio

import pytest

from tenantproxy.errors import LeaseExpired
from tenantproxy.events import LeaseEnded
from tests.fault.test_budget import COUNT
from tests.support.checked import checked
from tests.support.model_server import FLUSH, parse, query
from tests.support.port_house import a_port
from tests.support.waiting import until
from tests.support.world import World

FOR_LONG = "SET idle_in_transaction_session_timeout = 0"
ONE = {"max_size": 1, "shared_size": 1, "max_hold": 0.3, "acquire_timeout": 30.0}


@pytest.mark.parametrize("tenant", ["database1", "row1"])
@pytest.mark.parametrize("statement", [COUNT, "SELECT pg_sleep(60)"])
async def test_a_holder_beyond_max_hold_hears_why_and_its_waiter_is_served(
    lasting: World, tenant: str, statement: str
) -> None:
    async with checked(lasting.settings(pools=ONE), lasting) as router:
        db = router.tenant(tenant)
        waiters = []

        async def hold() -> None:
            async with db.transaction() as conn:
                await conn.execute(FOR_LONG)
                waiters.append(asyncio.ensure_future(db.fetchval(COUNT)))
                if statement == COUNT:
                    await until(lambda: router.count(LeaseEnded), "the lease is ended")
                await conn.fetchval(statement)

        with pytest.raises(LeaseExpired, match=r"max_hold = 0\.3 s"):
            await hold()
        assert await waiters[0] == 3
        assert router.stats().closed["max_hold"] == 1


async def test_a_lease_lasts_for_as_long_as_nobody_waits(lasting: World) -> None:
    async with checked(lasting.settings(pools=ONE), lasting) as router:
        async with router.tenant("row1").transaction() as conn:
            await conn.fetchval("SELECT pg_sleep(1.5)")
            assert await conn.fetchval(COUNT) == 3
        assert not router.count(LeaseEnded)


@pytest.mark.parametrize("user", ["all", "session"])
async def test_a_client_of_the_port_that_idles_in_a_transaction_is_closed_with_25p03(lasting: World, user: str) -> None:
    pools = {"max_size": 1, "shared_size": 1, "acquire_timeout": 30.0}
    async with a_port(lasting, pools=pools, pg={"idle_transaction_timeout": 0.5}) as house:
        idle = await house.client("row1", user)
        assert not (await idle.query(FOR_LONG)).errors
        assert not (await idle.query("BEGIN")).errors
        other = await house.client("row1", user)  # in session mode it waits for the backend in its login
        assert (await other.query(COUNT)).value == "3"
        assert [(error["S"], error["C"]) for error in (await idle.rest()).errors] == [("FATAL", "25P03")]


@pytest.mark.parametrize(
    "begun",
    [
        parse(b"", b"SELECT 1") + FLUSH,
        query(b"SELECT " + b"1" * 70_000)[:66_000],
        query(b"COPY projects (name) FROM STDIN"),
    ],
    ids=["a segment", "a message", "a COPY"],
)
async def test_a_client_that_begins_something_and_falls_silent_does_not_keep_others_waiting(
    lasting: World, begun: bytes
) -> None:
    pools = {"max_size": 1, "acquire_timeout": 30.0}
    async with a_port(lasting, pools=pools, pg={"idle_transaction_timeout": 0.5}) as house:
        silent, other = await house.client("database1"), await house.client("database1")
        silent.send(begun)
        await until(
            lambda: any(client.holds_backend for client in house.listener._clients.values()), "it has the backend"
        )
        assert (await other.query(COUNT)).value == "3"
        assert [error["C"] for error in (await silent.rest()).errors] == ["25P03"]


async def test_max_hold_ends_the_lease_of_a_client_of_the_port(lasting: World) -> None:
    async with a_port(lasting, pools=ONE) as house:
        holder = await house.client("database1", "session")
        assert (await holder.query(COUNT)).value == "3"
        other = await house.client("database1", "session")  # its login waits until the lease is ended
        assert (await other.query(COUNT)).value == "3"
        assert house.router.count(LeaseEnded) == 1
