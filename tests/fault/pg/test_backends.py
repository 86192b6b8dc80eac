"""What does a client of the port see when its backend freezes or dies?"""

from __future__ import annotations

import asyncio
import os
import signal
import time

import pytest

from tenantproxy.events import ResetFailed
from tenantproxy.raw.exchange import query
from tests.fault.conftest import Figure
from tests.support.checked import activity
from tests.support.database import Database
from tests.support.faults import frozen
from tests.support.port_house import PortHouse, a_port
from tests.support.waiting import SLACK, until
from tests.support.wire_client import Refused, WireClient
from tests.support.world import World

KINDS = ("database1", "schema1", "row1")
COUNT = "SELECT count(*) FROM projects"
PID = "SELECT pg_backend_pid()"


async def pid_of(client: WireClient) -> int:
    return int((await client.query(PID)).value or 0)


async def slowest(house: PortHouse, tenant: str, stop: asyncio.Event) -> float:
    """The longest query of a tenant that goes on working until `stop`."""
    worst = 0.0
    async with house.a_client(tenant) as client:
        while not stop.is_set():
            began = time.monotonic()
            assert (await client.query(COUNT)).value == "3"
            worst = max(worst, time.monotonic() - began)
    return worst


async def permits_cover(house: PortHouse, world: World) -> bool:
    backends = await activity(world.server)
    return house.router.stats().servers[0].connections >= backends


@pytest.mark.parametrize("tenant", ["database1", "row1"])
async def test_a_frozen_backend_costs_its_client_alone_and_is_replaced_when_that_one_leaves(
    lasting: World, figure: Figure, tenant: str
) -> None:
    async with a_port(lasting, pools={"max_size": 3, "shared_size": 4}) as house:
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            other = tasks.create_task(slowest(house, "database2", stop))
            stuck, next_one, third = [await house.client(tenant) for _ in range(3)]
            await stuck.query("BEGIN")
            pid = await pid_of(stuck)
            with frozen(pid):
                began = time.monotonic()
                stuck.send(query("SELECT 1"))
                assert await pid_of(next_one) != pid  # the tenant has a second backend
                stuck.abort()
                await next_one.query("BEGIN")
                await third.query("BEGIN")
                replaced_after = time.monotonic() - began
                await until(lambda: permits_cover(house, lasting), "no permit is back before its backend is gone")
                assert pid not in {await pid_of(next_one), await pid_of(third)}
                stop.set()
        figure("seconds_to_replace", replaced_after)
        figure("others_slowest_seconds", other.result())
        assert replaced_after < 5.0 + SLACK
        assert other.result() < SLACK  # the frozen one is waited for longer


@pytest.mark.parametrize("tenant", ["database1", "row1"])
async def test_a_backend_that_freezes_in_its_reset_is_not_lent_again_and_does_not_hold_up_its_tenant(
    lasting: World, figure: Figure, tenant: str
) -> None:
    async with a_port(lasting, pools={"max_size": 2, "shared_size": 2}) as house:
        first, second = await house.client(tenant, "session"), await house.client(tenant)
        pid = await pid_of(first)
        with frozen(pid):
            await first.close()
            await until(lambda: house.pool(tenant).stats().resetting, "the reset hangs")
            began = time.monotonic()
            assert await pid_of(second) != pid
            figure("seconds_held_up", time.monotonic() - began)
            assert time.monotonic() - began < 3.5 + SLACK
            await until(lambda: house.router.count(ResetFailed) == 1, "the reset is given up")
        assert pid not in {one.pid for one in house.lending.backends() if not one.is_ending}


@pytest.mark.parametrize("user", ["all", "session"])
@pytest.mark.parametrize("tenant", KINDS)
async def test_a_client_hears_that_its_backend_was_terminated_in_the_servers_own_words(
    lasting: World, tenant: str, user: str
) -> None:
    async with (
        Database(server=lasting.server, name="postgres").connect() as admin,
        a_port(lasting, pools={"max_size": 1, "shared_size": 1}) as house,
    ):
        victim = await house.client(tenant, user)
        await victim.query("BEGIN")
        pid = await pid_of(victim)
        victim.send(query("SELECT pg_sleep(60)"))
        asleep = "SELECT wait_event = 'PgSleep' FROM pg_stat_activity WHERE pid = $1"
        await until(lambda: admin.fetchval(asleep, pid), "it sleeps")
        await admin.execute("SELECT pg_terminate_backend($1)", pid)
        told = await victim.rest()
        (error,) = told.errors
        assert (error["S"], error["C"]) == ("FATAL", "57P01")
        assert error["M"] == "terminating connection due to administrator command"
        assert error["R"] == "ProcessInterrupts"  # only a server names its routines
        async with house.a_client(tenant) as after:
            assert (await after.query(COUNT)).value == "3"


async def test_a_transaction_that_idles_hears_of_its_end_before_it_says_the_next_word(lasting: World) -> None:
    async with (
        Database(server=lasting.server, name="postgres").connect() as admin,
        a_port(lasting) as house,
    ):
        victim = await house.client("row1")
        await victim.query("BEGIN")
        await admin.execute("SELECT pg_terminate_backend($1)", await pid_of(victim))
        assert (await victim.rest()).sqlstate == "57P01"


@pytest.mark.parametrize("tenant", KINDS)
async def test_idle_backends_that_were_terminated_cost_no_client_an_error(lasting: World, tenant: str) -> None:
    async with (
        Database(server=lasting.server, name="postgres").connect() as admin,
        a_port(lasting, pools={"max_size": 4, "shared_size": 4}) as house,
    ):
        clients = [await house.client(tenant) for _ in range(4)]
        for client in clients:
            await client.query("BEGIN")
        pids = [await pid_of(client) for client in clients]
        assert len(set(pids)) == 4
        for client in clients:
            await client.query("COMMIT")
        await until(lambda: house.is_quiet, "all are idle")
        for pid in pids:
            await admin.execute("SELECT pg_terminate_backend($1, 5000)", pid)
        await until(lambda: not any(one.pid in pids for one in house.lending.backends()), "their end is known")
        answers = await asyncio.gather(*(client.query("SELECT min(name) FROM projects") for client in clients))
        assert {answer.value for answer in answers} == {f"{tenant} 1"}


async def test_a_killed_backend_restarts_the_server_and_no_permit_is_lost(own: World, figure: Figure) -> None:
    async with a_port(own, pools={"max_size": 3, "acquire_timeout": 20.0}) as house:
        served_at = dict.fromkeys(("database1", "row1"), 0.0)
        killed_at = all_died_at = float("inf")
        ends: list[str] = []
        strange: list[object] = []

        async def work(tenant: str) -> None:
            client: WireClient | None = None
            while served_at[tenant] <= all_died_at:
                began = time.monotonic()
                try:
                    client = client or await house.client(tenant)
                    answer = await client.query(COUNT)
                except Refused as exc:
                    ends.append(exc.sqlstate)
                except (OSError, asyncio.IncompleteReadError):
                    client = None
                else:
                    if answer.errors:
                        ends.append(answer.errors[0]["C"])
                        if not answer.status:
                            client = None
                    elif answer.status:
                        if answer.value != "3":
                            strange.append(answer)
                        served_at[tenant] = began
                    else:
                        client = None
                await asyncio.sleep(0.005)

        async with asyncio.TaskGroup() as tasks:
            for tenant in served_at:
                for _ in range(4):
                    tasks.create_task(work(tenant))
            await until(lambda: min(served_at.values()), "every tenant is served")
            open_then = list(house.lending.backends())
            killed_at = time.monotonic()
            os.kill(open_then[0].pid, signal.SIGKILL)
            # Queries are answered until the server has noticed, which may take it a while.
            await until(lambda: all(one.is_closed for one in open_then), "the server ended every backend")
            all_died_at = time.monotonic()
        figure("errors", len(ends))
        figure("recovery_seconds", time.monotonic() - killed_at)
        assert not strange
        assert set(ends) <= {"57P02", "57P01", "57P03", "08001", "53300"}, ends
        assert time.monotonic() - killed_at < 15.0 + SLACK
