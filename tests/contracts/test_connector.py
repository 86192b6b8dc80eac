"""Do both connectors open and end connections alike? Mistakes of an operator, sockets and ends, on one real server."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from tenantproxy.connect.keepalive import IDLE_SECONDS
from tenantproxy.embedded import EmbeddedPostgres
from tenantproxy.errors import ConnectFailed, TenantProxyError
from tenantproxy.events import ConnectionOpened
from tenantproxy.model import Isolation
from tests.contracts.sides import SIDES, a_side, settled
from tests.support.lasting import a_lasting_world
from tests.support.waiting import until
from tests.support.world import SERVER, World

each_side = pytest.mark.parametrize("name", SIDES)


@pytest.fixture(scope="module")
def lasting(postgres: EmbeddedPostgres) -> Iterator[World]:
    """One for all of these tests."""
    with a_lasting_world(postgres, each=1) as world:
        yield world


def free_port() -> int:
    """Where no one listens: the socket is closed again."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


MISTAKES: dict[str, dict[str, Any]] = {
    "a wrong password": {"password": "wrong"},
    "a role that is not there": {"user": "no_such_role"},
    "no one listens": {"port": free_port()},
    "a name that does not resolve": {"host": "no-such-host.invalid"},
    "TLS that the server does not offer": {"ssl": "require"},
}


async def refusal_of(name: str, world: World, mistake: dict[str, Any]) -> tuple[TenantProxyError, object]:
    tenant = world.of(Isolation.ROW)[0]
    settings = world.settings(servers={SERVER: mistake}, pools={"acquire_timeout": 5.0})
    async with a_side(name, settings) as side:
        with pytest.raises(TenantProxyError) as refused:
            await side.lease(tenant, timeout=5.0)
        return refused.value, dict(side.counters.exhaustions)


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES)
async def test_a_mistake_in_the_configuration_is_told_in_the_same_words_by_both(
    lasting: World, mistake: dict[str, Any]
) -> None:
    (one, counted), (other, counted_too) = [await refusal_of(name, lasting, mistake) for name in SIDES]
    assert isinstance(one, ConnectFailed)
    assert (type(one), one.message, one.detail, one.hint, one.retry_after) == (
        type(other), other.message, other.detail, other.hint, other.retry_after
    )  # fmt: skip
    assert counted == counted_too


@each_side
async def test_an_open_connection_is_told_and_counted_once_on_both_ends(lasting: World, name: str) -> None:
    tenant = lasting.of(Isolation.DATABASE)[0]
    async with a_side(name, lasting.settings()) as side, lasting.database(tenant).connect() as admin:
        conn = await side.lease(tenant)
        count = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        assert (await admin.fetchval(count), side.budgets[SERVER].in_use) == (1, 1)
        assert sum(isinstance(event, ConnectionOpened) for event in side.events) == 1
        side.release(conn, tenant)


@each_side
async def test_the_kernel_looks_after_each_connection(lasting: World, name: str) -> None:
    tenant = lasting.of(Isolation.ROW)[0]
    async with a_side(name, lasting.settings()) as side:
        conn = await side.lease(tenant)
        sock = side.transport(conn).get_extra_info("socket")
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == IDLE_SECONDS
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 10_000
        side.release(conn, tenant)


@each_side
async def test_a_permit_returns_when_the_server_side_is_gone(lasting: World, name: str) -> None:
    tenant = lasting.of(Isolation.DATABASE)[0]
    async with a_side(name, lasting.settings()) as side:
        conn = await side.lease(tenant)
        pool = side.manager.pool(side.route(tenant))
        pool.retire(conn, "error")
        assert side.budgets[SERVER].in_use == 1
        await settled(side)
        assert side.budgets[SERVER].in_use == 0
        async with lasting.database(tenant).connect() as admin:
            assert not await admin.fetchval("SELECT count(*) FROM pg_stat_activity WHERE pid = $1", conn.pid)


@each_side
async def test_a_silent_backend_keeps_its_permit_until_its_end_is_heard(
    lasting: World, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("driver.connector", "driver.ending", "raw.close", "raw.cancel"):
        for constant in ("END_TIMEOUT", "CANCEL_TIMEOUT"):
            monkeypatch.setattr(f"tenantproxy.{module}.{constant}", 0.1, raising=False)
    tenant = lasting.of(Isolation.DATABASE)[0]
    async with a_side(name, lasting.settings()) as side:
        conn = await side.lease(tenant)
        os.kill(conn.pid, signal.SIGSTOP)
        try:
            side.manager.pool(side.route(tenant)).retire(conn, "error")
            await settled(side)
            budget = side.budgets[SERVER]
            assert (budget.in_use, [one.process.pid for one in budget.lingering]) == (1, [conn.pid])
        finally:
            os.kill(conn.pid, signal.SIGCONT)
        await until(lambda: not budget.in_use, "the server has closed it")
