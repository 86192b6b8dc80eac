"""What do clients of the port see when the whole server is away, restarts, or is full?"""

from __future__ import annotations

import asyncio
import time
from typing import Any, Literal

import pytest

from tenantproxy.config import role_password
from tenantproxy.events import ConnectFailure, ServerDown, ServerUp
from tenantproxy.lifecycle.provisioner import ensure_role
from tests.fault.conftest import Figure, own_world
from tests.support.chaos import ChaosProxy
from tests.support.faults import filled
from tests.support.outage import Outage
from tests.support.port_house import PortHouse, a_port
from tests.support.waiting import SLACK, until
from tests.support.wire_client import Refused, WireClient
from tests.support.world import ROLE_SECRET, World

COUNT = "SELECT count(*) FROM projects"
AWAY = {"57P01", "57P02", "57P03", "08001"}  # what a server says that goes, and we of one that is gone


@pytest.mark.parametrize("mode", ["fast", "immediate"])
async def test_clients_that_stay_connected_are_served_again_after_the_server_was_restarted(
    own: World, figure: Figure, mode: Literal["fast", "immediate"]
) -> None:
    async with a_port(own, pools={"acquire_timeout": 15.0}) as house:
        idle = [await house.client(tenant) for tenant in ("database1", "row1")]
        outage = Outage("database1", "row1")

        async def work(tenant: str) -> None:
            client: WireClient | None = None
            while outage.goes_on(tenant):
                client, error = await served(house, tenant, client)
                if error is None:
                    outage.served(tenant)
                else:
                    outage.errors.append(error)
                    await asyncio.sleep(0.01)

        assert await outage.measure(own.server, mode, work, figure, workers=4) < 2.5 + SLACK
        assert set(outage.errors) <= AWAY
        for client in idle:  # they have not even noticed
            assert (await client.query(COUNT)).value == "3"


async def served(house: PortHouse, tenant: str, client: WireClient | None) -> tuple[WireClient | None, str | None]:
    """One query, by a new client where the last one was ended: the client, if it is still there, and the error."""
    try:
        client = client or await house.client(tenant)
    except Refused as exc:
        return None, exc.sqlstate
    answer = await client.query(COUNT)
    if not answer.errors and answer.status:
        assert answer.value == "3"
        return client, None
    assert answer.errors, "a client is never dropped without a word"
    return (client if answer.status else None), answer.sqlstate


async def test_queries_that_come_while_the_server_is_away_for_a_moment_wait_and_are_served(
    lasting: World, proxy: ChaosProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tenantproxy.pools.budget.BREAKER_SECONDS", 60.0)  # a moment, however slow this machine is
    async with a_port(lasting, **through(proxy)) as house:
        clients = [await house.client(tenant) for tenant in ("database1", "schema1", "row1")]
        proxy.refusing = True
        proxy.reset_all()
        await until(lambda: not list(house.lending.backends()), "no backend is left")
        failed = house.router.count(ConnectFailure)
        answers = [asyncio.ensure_future(client.query(COUNT)) for client in clients]
        await until(lambda: house.router.count(ConnectFailure) >= failed + 3, "the connects failed")
        assert not any(answer.done() for answer in answers)
        proxy.heal()
        assert [(await answer).value for answer in answers] == ["3", "3", "3"]
        assert house.router.count(ServerDown) == 0


def through(proxy: ChaosProxy) -> dict[str, Any]:
    """By way of the proxy, patiently."""
    return {"servers": {"primary": {"port": proxy.port}}, "pools": {"acquire_timeout": 20.0}}


async def test_a_query_that_waited_in_vain_fails_alone_and_its_client_may_try_again(
    lasting: World, proxy: ChaosProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tenantproxy.pools.budget.BREAKER_SECONDS", 60.0)
    changes = through(proxy) | {"pools": {"acquire_timeout": 1.0}}
    async with a_port(lasting, **changes) as house:
        client = await house.client("row1")
        proxy.refusing = True
        proxy.reset_all()
        await until(lambda: not list(house.lending.backends()), "no backend is left")
        answer = await client.query(COUNT)
        assert (answer.sqlstate, answer.errors[0]["S"], answer.status) == ("08001", "ERROR", "I")
        proxy.heal()
        await until(lambda: is_served(client), "it is served again")


async def is_served(client: WireClient) -> bool:
    answer = await client.query(COUNT)
    assert answer.status == "I", answer
    return not answer.errors


async def test_a_server_filled_by_others_is_told_as_53300_with_a_hint_and_recovers(figure: Figure) -> None:
    async with own_world(max_connections=16, schemas=1) as own:
        async with a_port(own, pools={"max_size": 6, "acquire_timeout": 1.5}) as house:
            first, second = await house.client("database1"), await house.client("database1")
            other = await house.client("row1")
            # Idle connections would make room: so all that are open are in use.
            async with (
                filled(own.main) as taken,
                house.router.main().connection(),
                house.router.tenant("row1").connection(),
            ):
                await other.query("BEGIN")
                await first.query("BEGIN")  # on the backend that was open before
                answer = await second.query(COUNT)
                (error,) = answer.errors
                assert (error["C"], error["S"], answer.status) == ("53300", "ERROR", "I")
                assert "max_connections" in error["H"]
                with pytest.raises(Refused) as refused:
                    await house.client("schema1")
                assert (refused.value.sqlstate, refused.value.fields["S"]) == ("53300", "FATAL")
                assert refused.value.fields["H"]
                await first.query("COMMIT")
                assert (await second.query(COUNT)).value == "3"
                for conn in (taken.pop(), taken.pop(), taken.pop()):
                    await conn.close()
            began = time.monotonic()
            await first.query("BEGIN")
            await until(lambda: is_served(second), "there is room again")
            figure("recovery_seconds", time.monotonic() - began)
            await first.query("COMMIT")
            await until(lambda: comes_in(house, "schema1"), "others come in again")


async def comes_in(house: PortHouse, tenant: str) -> bool:
    client, error = await served(house, tenant, None)
    assert error in (None, "53300")
    if client is not None:
        await client.close()
    return error is None


async def test_a_connection_limit_on_one_role_limits_its_tenant_alone(figure: Figure) -> None:
    async with own_world(rows=1, schemas=1, databases=2) as own:
        limited = own.tenants[-1]
        async with own.database(limited).connect() as admin:
            await ensure_role(admin, "only", password=role_password(ROLE_SECRET, "primary", "only"))
            await admin.execute(
                'ALTER ROLE "only" CONNECTION LIMIT 2;'
                f' GRANT CONNECT ON DATABASE "{limited.placement.database}" TO "only";'
                ' GRANT USAGE ON SCHEMA public TO "only"; GRANT SELECT ON projects TO "only"'
            )
        changes: dict[str, Any] = {
            "pools": {"max_size": 6, "acquire_timeout": 15.0},
            "tenants": {limited.id: {"isolation": "database", "database": limited.placement.database, "role": "only"}},
        }
        errors: dict[str, list[str]] = {}
        async with a_port(own, **changes) as house:

            async def work(tenant: str) -> None:
                async with house.a_client(tenant) as client:
                    for _ in range(4):
                        answer = await client.query(COUNT + ", pg_sleep(0.01)")
                        if answer.sqlstate:
                            errors.setdefault(tenant, []).append(answer.sqlstate)

            await asyncio.gather(*(work(tenant.id) for tenant in own.tenants for _ in range(8)))
            figure("errors_of_the_limited", len(errors.get(limited.id, [])))
            assert not errors.keys() - {limited.id}, errors
            assert set(errors.get(limited.id, [])) <= {"53300"}
            await until(lambda: house.is_quiet, "all is quiet")
            assert 1 <= house.pool(limited.id).stats().idle <= 2


async def test_clients_of_a_stopped_server_fail_fast_and_its_breaker_closes_by_itself(
    own: World, figure: Figure
) -> None:
    async with a_port(own, pools={"acquire_timeout": 20.0}) as house:
        clients = {tenant: await house.client(tenant) for tenant in ("database1", "row1")}
        await asyncio.to_thread(own.server.stop)
        stopped_at = time.monotonic()
        answer = await clients["database1"].query(COUNT)
        figure("breaker_opens_after_seconds", time.monotonic() - stopped_at)
        assert (answer.sqlstate, answer.status) == ("08001", "I")
        assert time.monotonic() - stopped_at < 1.0 + SLACK
        assert house.router.count(ServerDown) == 1
        for client in clients.values():
            began = time.monotonic()
            answer = await client.query(COUNT)
            assert (answer.sqlstate, answer.status) == ("08001", "I")
            assert answer.errors[0]["M"]
            assert time.monotonic() - began < 0.1 + SLACK  # not when the wait for a connection is over
        with pytest.raises(Refused) as refused:
            await house.client("row1", application_name="a new one")
        assert refused.value.sqlstate == "08001"
        await asyncio.to_thread(own.server.start)
        back_at = time.monotonic()
        await until(lambda: house.router.count(ServerUp) == 1, "the breaker closed without a client")
        for client in clients.values():
            await until(lambda client=client: is_served(client), "it is served again")  # type: ignore[misc]
        figure("served_again_after_seconds", time.monotonic() - back_at)
        assert time.monotonic() - back_at < 3.0 + SLACK


async def test_a_port_does_not_wait_for_a_server_that_is_down_when_it_closes(own: World, figure: Figure) -> None:
    async with a_port(own) as house:
        client = await house.client("row1")
        await asyncio.to_thread(own.server.stop)
        await client.query(COUNT)
        await until(lambda: house.router.count(ServerDown), "the breaker is open")
        began = time.monotonic()
        await house.port.close()
        await house.router.close()
        figure("seconds_to_close", time.monotonic() - began)
        assert time.monotonic() - began < 1.0 + SLACK
