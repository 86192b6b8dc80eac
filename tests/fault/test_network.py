"""What if the network swallows bytes, or the peer accepts and never speaks?"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tenantproxy import ConnectFailed, PoolError
from tenantproxy.events import ConnectFailure
from tests.fault.conftest import Figure
from tests.support.chaos import ChaosProxy, Way
from tests.support.checked import checked
from tests.support.waiting import until
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
        "pools": {"acquire_timeout": 3.0, **pools},
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
        assert time.monotonic() - began < 0.6
        healed_at = time.monotonic()
        proxy.heal()
        proxy.reset_all()  # what was open across the black hole is dead
        assert await db.fetchval(COUNT) == 3
        figure("seconds_to_heal", time.monotonic() - healed_at)
        assert time.monotonic() - healed_at < 1.0


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
            assert time.monotonic() - began < timeout + 0.3
        healed_at = time.monotonic()
        proxy.heal()
        assert await router.tenant(tenant).fetchval(COUNT) == 3
        figure("seconds_to_heal", time.monotonic() - healed_at)
        assert time.monotonic() - healed_at < 2.5


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
        proxy.deaf = True
        began = time.monotonic()
        calling = asyncio.ensure_future(router.tenant("database1").fetchval(COUNT, timeout=1.2))
        await until(lambda: router.count(ConnectFailure), "the connect failed")
        figure("seconds_to_give_up_a_connect", time.monotonic() - began)
        assert 0.4 < time.monotonic() - began < 0.9
        with pytest.raises(ConnectFailed, match="did not answer in time"):
            await calling
        proxy.heal()
