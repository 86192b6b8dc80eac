"""Which server serves behind a name that changes what it means?

The servers are real. A name is looked up as the process would, but for the answers of `Names`.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from tenantproxy.embedded import EmbeddedPostgres
from tenantproxy.errors import ConnectFailed
from tenantproxy.events import ServerMovedTo
from tenantproxy.model import Isolation
from tests.support.chaos import ChaosProxy
from tests.support.failovers import PORT, WRITES, rows_of, write
from tests.support.port_house import a_port
from tests.support.standby import Replicated, a_replicated_world
from tests.support.waiting import until
from tests.support.world import SERVER

NAME = "db.tenantproxy.test"

pytestmark = pytest.mark.timeout(180)  # a base backup and a promotion, on a machine that may be busy


class Names:
    """What NAME means: one of the loopback's addresses, or another one each time that it is asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.address = ""  # it does not resolve
        self.in_turn: Iterator[str] | None = None
        self._real = socket.getaddrinfo
        monkeypatch.setattr(socket, "getaddrinfo", self)

    def __call__(self, host: Any, *args: Any, **kwargs: Any) -> Any:
        if host != NAME:
            return self._real(host, *args, **kwargs)
        if self.in_turn is not None:
            self.address = next(self.in_turn)
        if not self.address:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return self._real(self.address, *args, **kwargs)


class Addresses:
    """Each server at an address of its own, and all at one port."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self.port = 0
        self._stack = stack

    async def add(self, address: str, server: EmbeddedPostgres) -> ChaosProxy:
        """What passes everything on to `server`."""
        proxy = ChaosProxy(server.host, server.port)
        proxy.host, proxy.port = address, self.port
        await self._stack.enter_async_context(proxy)
        self.port = proxy.port
        return proxy


@pytest.fixture
async def replicated() -> AsyncIterator[Replicated]:
    """Two to fail over between."""
    async with a_replicated_world(rows=0, schemas=0, databases=1) as made:
        yield made


# --- a name that changes ---------------------------------------------------------------------------------------------
async def test_callers_wait_until_a_name_leads_to_the_new_primary(
    replicated: Replicated, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a managed service: the old primary is a standby first, and its name leads there for some time."""
    world, standby = replicated.world, replicated.standby
    names = Names(monkeypatch)
    async with AsyncExitStack() as stack:
        places = Addresses(stack)
        await places.add("127.0.0.2", world.server)
        await places.add("127.0.0.3", standby)
        names.address = "127.0.0.2"
        servers = {SERVER: {"hosts": [f"{NAME}:{places.port}"]}}
        async with a_port(world, real={SERVER: standby}, servers=servers, pools={"acquire_timeout": 60.0}) as house:
            await write(house, world)
            idle = await house.client(world.tenants[0].id)
            assert (await idle.query("SELECT 1")).value == "1"
            names.address = "127.0.0.3"  # where a standby answers, that is promoted only later
            await standby.catch_up()
            await asyncio.to_thread(world.server.stop, "fast")
            waiting = asyncio.create_task(write(house, world))
            hosts = house.router.hosts[SERVER]
            await until(lambda: hosts.serving is None, "the standby is seen, and does not serve")
            names.address = ""
            await until(lambda: isinstance(hosts._errors[0], OSError), "the name does not resolve")
            names.address = "127.0.0.3"
            await asyncio.to_thread(standby.promote)
            await waiting
            assert (await idle.query(PORT)).value == str(standby.port)


async def test_a_watch_leaves_a_standby_that_its_name_has_left_and_stays_with_a_primary_found_half_of_the_time(
    replicated: Replicated, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As behind HAProxy while that takes two servers for the primary: the connection to the wrong one is a good one."""
    world, standby = replicated.world, replicated.standby
    names = Names(monkeypatch)
    async with AsyncExitStack() as stack:
        places = Addresses(stack)
        await places.add("127.0.0.2", world.server)
        await places.add("127.0.0.3", standby)
        names.address = "127.0.0.3"
        servers = {SERVER: {"hosts": [f"{NAME}:{places.port}"]}}
        later = asyncio.get_running_loop().call_later
        later(0.5, lambda: setattr(names, "address", "127.0.0.2"))
        async with a_port(world, servers=servers, pools={"acquire_timeout": 60.0}) as house:
            await write(house, world)
            (tenant,) = world.tenants
            hosts = house.router.hosts[SERVER]
            busy = await house.client(tenant.id)
            await busy.query("BEGIN")
            assert (await busy.query(PORT)).value == str(world.server.port)
            names.in_turn = itertools.cycle(["127.0.0.3", "127.0.0.2"])
            looks = hosts._looks[0]
            for _ in range(6):
                await house.router.expire_connections(tenant.id)
                await write(house, world)
            await until(lambda: hosts._looks[0] > looks + 5, "it was looked at again and again")
            assert (await busy.query("COMMIT")).tags == ["COMMIT"], "what works is not ended"
            assert house.router.count(ServerMovedTo) == 1


async def test_a_name_that_leaves_a_primary_that_lives_on_is_followed_by_the_next_connect(
    replicated: Replicated, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, standby = replicated.world, replicated.standby
    (tenant,) = world.tenants
    names = Names(monkeypatch)
    async with AsyncExitStack() as stack:
        places = Addresses(stack)
        await places.add("127.0.0.2", world.server)
        await places.add("127.0.0.3", standby)
        names.address = "127.0.0.2"
        servers = {SERVER: {"hosts": [f"{NAME}:{places.port}"]}}
        async with a_port(world, real={SERVER: standby}, servers=servers, pools={"acquire_timeout": 60.0}) as house:
            await write(house, world)
            busy = await house.client(tenant.id)
            await busy.query("BEGIN")
            assert (await busy.query(PORT)).value == str(world.server.port)
            await standby.catch_up()
            await asyncio.to_thread(standby.promote)
            names.address = "127.0.0.3"
            async with house.a_client(tenant.id) as other:
                assert (await other.query(PORT)).value == str(standby.port)
            (error,) = (await busy.rest()).errors
            assert error["C"] == "57P01"
            before = await rows_of(world.server, world)
            await write(house, world)
            names.address = "127.0.0.2"  # back to the former primary: no write may go there
            await asyncio.to_thread(standby.stop, "fast")
            with pytest.raises(ConnectFailed, match=r"refused|former"):
                await house.router.tenant(tenant.id).execute(WRITES[Isolation.DATABASE], timeout=2.0)
            assert await rows_of(world.server, world) == before
            names.address = "127.0.0.3"
            await asyncio.to_thread(standby.start)
            await write(house, world)
