"""What if the network swallows bytes, or the peer accepts and never speaks?"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tenantproxy import ConnectFailed, PoolError
from tenantproxy.events import ConnectFailure, ServerDown, ServerUp
from tests.fault.conftest import Figure
from tests.support.chaos import ChaosProxy, Way
from tests.support.checked import CheckedRouter, checked
from tests.support.waiting import SLACK, until
from tests.support.world import World

COUNT = "SELECT count(*) FROM projects"
KINDS = ("database1", "schema1", "row1")


@pytest.fixture
async def proxy(lasting: World) -> AsyncIterator[ChaosProxy]:
    async with ChaosProxy(lasting.server.host, lasting.server.port) as proxy:
        yield proxy


def through(proxy: ChaosProxy, **pools: Any) -> dict[str, Any]:
    """Changes to the settings: by way of the proxy, impatient."""
    return {
        "servers": {"primary": {"port": proxy.port, "connect_timeout": 0.5}},
        "pools": {"acquire_timeout": 10.0, **pools},
    }


@pytest.mark.parametrize("tenant", KINDS)
@pytest.mark.parametrize("way", list(Way))
async def test_a_black_hole_fails_what_is_under_way_at_its_deadline_and_is_forgotten_when_healed(
    lasting: World, proxy: ChaosProxy, figure: Figure, tenant: str, way: Way
) -> None:
    async with checked(lasting.settings(**through(proxy)), lasting) as router:
        db = router.tenant(tenant)
        assert await db.fetchval(COUNT) == 3
        await until(lambda: router.is_at_rest, "its reset is over")
        proxy.stall(way)
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            await db.fetchval(COUNT, timeout=0.3)
        figure("seconds_to_fail", time.monotonic() - began)
        assert time.monotonic() - began < 0.3 + SLACK
        healed_at = time.monotonic()
        proxy.heal()
        proxy.reset_all()  # what was open across the black hole is dead
        assert await db.fetchval(COUNT) == 3
        figure("seconds_to_heal", time.monotonic() - healed_at)
        assert time.monotonic() - healed_at < 1.0 + SLACK


@pytest.mark.parametrize("tenant", KINDS)
async def test_a_black_hole_at_connect_fails_at_the_callers_deadline_and_works_when_healed(
    lasting: World, proxy: ChaosProxy, figure: Figure, tenant: str
) -> None:
    async with checked(lasting.settings(**through(proxy)), lasting) as router:
        await router.expire_connections(tenant)
        await until(lambda: router.is_at_rest, "the tenant has no connection")
        proxy.stall()
        for timeout in (0.2, 1.0):  # shorter and longer than the connect timeout
            began = time.monotonic()
            with pytest.raises(PoolError):
                await router.tenant(tenant).fetchval(COUNT, timeout=timeout)
            figure(f"seconds_to_fail_of_{timeout}", time.monotonic() - began)
            assert time.monotonic() - began < timeout + SLACK
        healed_at = time.monotonic()
        proxy.heal()
        await until(lambda: serves(router, tenant), "it works again")
        figure("seconds_to_heal", time.monotonic() - healed_at)
        assert time.monotonic() - healed_at < 2.5 + SLACK


async def serves(router: CheckedRouter, tenant: str) -> bool:
    """Whether it does; not while its server counts as down."""
    with contextlib.suppress(ConnectFailed):
        return bool(await router.tenant(tenant).fetchval(COUNT) == 3)
    return False


@pytest.mark.parametrize("hole", ["stalled", "unresponsive"])
async def test_after_three_connects_into_a_black_hole_callers_fail_at_once_until_it_is_healed(
    lasting: World, proxy: ChaosProxy, figure: Figure, hole: str
) -> None:
    async with checked(lasting.settings(**through(proxy, acquire_timeout=30.0)), lasting) as router:
        await until(lambda: router.is_at_rest, "it is open")
        if hole == "unresponsive":  # it is accepted, as by the kernel of a server that hangs
            proxy.unresponsive = True
        else:
            proxy.stall()
        began = time.monotonic()
        with pytest.raises(ConnectFailed, match="did not answer in time"):
            await router.tenant("database1").fetchval(COUNT)
        figure("seconds_to_find_out", time.monotonic() - began)
        assert time.monotonic() - began < 10.0 + SLACK  # not when the wait for a connection is over
        assert router.count(ServerDown) == 1
        assert not router.stats().servers[0].up
        accepted = proxy.accepted
        began = time.monotonic()
        for _ in range(20):
            with pytest.raises(ConnectFailed):
                await router.tenant("database2").fetchval(COUNT)
        assert time.monotonic() - began < SLACK
        assert proxy.accepted <= accepted + 10  # it is looked for, but not by each caller
        proxy.heal()
        proxy.reset_all()
        await until(lambda: router.count(ServerUp), "the breaker closed without a caller")
        await until(lambda: serves(router, "database2"), "it works again")


async def test_every_socket_gives_up_on_a_peer_that_acknowledges_nothing(lasting: World) -> None:
    if not hasattr(socket, "TCP_USER_TIMEOUT"):
        pytest.skip("TCP_USER_TIMEOUT is Linux's")
    async with checked(lasting.settings(), lasting) as router:
        for tenant in KINDS:
            await router.tenant(tenant).fetchval(COUNT)
        for backend in (backend for pool in router.all_pools for backend in pool.connections()):
            sock = backend.con._transport.get_extra_info("socket")
            assert 0 < sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) <= 30_000
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


async def test_a_peer_that_accepts_and_never_speaks_costs_the_connect_timeout(
    lasting: World, proxy: ChaosProxy, figure: Figure
) -> None:
    async with checked(lasting.settings(**through(proxy)), lasting) as router:
        proxy.unresponsive = True
        began = time.monotonic()
        calling = asyncio.ensure_future(router.tenant("database1").fetchval(COUNT, timeout=2.5))
        await until(lambda: router.count(ConnectFailure), "the connect failed")
        figure("seconds_to_give_up_a_connect", time.monotonic() - began)
        assert 0.4 < time.monotonic() - began < 0.5 + SLACK
        with pytest.raises(ConnectFailed, match="did not answer in time"):
            await calling
        proxy.heal()
