"""What do those who work, and those who wait, see of a reload that takes their place away? On both data paths."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tenantproxy.config import Settings
from tenantproxy.errors import PoolClosed, TenantEnded, TenantNotFound
from tenantproxy.isolation.proof import derive_key
from tenantproxy.lifecycle.install import forget_keys, install
from tenantproxy.model import Isolation
from tests.support.chaos import ChaosProxy
from tests.support.port_house import PortHouse, a_port, port_settings, users
from tests.support.waiting import until
from tests.support.wire_client import Refused
from tests.support.world import APP_ROLE, ROW_SECRET, SERVER, World, row_key

NAMES = "SELECT name FROM projects ORDER BY 1"
COUNT = "SELECT count(*) FROM projects"


def reload(house: PortHouse, new: Settings, *, new_row_keys: bool = False) -> None:
    """As the sidecar does: first all get ready, then all take it over."""
    limits = {name: server.max_connections for name, server in new.servers.items()}
    router = house.router.prepare(new, limits=limits, new_row_keys=new_row_keys)
    port = house.port.prepare(new)
    router()
    port()


async def waits(house: PortHouse, count: int) -> None:
    await until(lambda: sum(pool.waiting for pool in house.router.stats().pools) == count, f"{count} wait")


@pytest.mark.parametrize("kind", list(Isolation))
async def test_a_server_that_a_reload_removes_with_its_tenants_ends_them_and_leaves_no_caller_waiting(
    world: World, kind: Isolation
) -> None:
    tenant = world.of(kind)[0]
    async with ChaosProxy(world.server.host, world.server.port) as place:
        keys = world.mapping()["servers"][SERVER] | {"host": place.host, "port": place.port}
        listed = {name: entry | {"server": SERVER} for name, entry in world.mapping()["tenants"].items()}
        listed[tenant.id]["max_size"] = 1
        changes: dict[str, Any] = {"main": {"server": "other"}, "servers": {"other": keys}}
        changes |= {"tenants": listed, "pools": {"shared_size": 1}}
        with_it = port_settings(world, **changes)
        without = with_it.model_copy(update={"servers": {"other": with_it.servers["other"]}, "tenants": {}})
        real = {SERVER: world.server, "other": world.server}
        async with a_port(world, real=real, **changes) as house:
            scope = house.router.tenant(tenant.id)
            busy = await house.client(tenant.id)
            await busy.query("BEGIN")
            begun, gone = asyncio.Event(), asyncio.Event()

            async def work() -> None:
                async with scope.transaction() as conn:
                    assert await conn.fetchval(COUNT) == 3
                    begun.set()
                    await gone.wait()
                    await conn.fetchval(COUNT)

            working = asyncio.ensure_future(work())
            await begun.wait()
            waiting = asyncio.ensure_future(scope.fetchval(COUNT))
            other = await house.client(tenant.id)
            other_waits = asyncio.ensure_future(other.query(COUNT))
            await waits(house, 2)
            reload(house, without)
            gone.set()
            with pytest.raises(TenantEnded):
                await working
            with pytest.raises((PoolClosed, TenantNotFound, TenantEnded)):
                await waiting
            assert (await busy.rest()).sqlstate == "57P01"
            answer = await other_waits
            assert answer.sqlstate in ("57P03", "28P01", "3D000", "57P01"), answer
            with pytest.raises(TenantNotFound):
                await scope.fetchval(COUNT)
            with pytest.raises(Refused):
                await house.client(tenant.id)
            await until(lambda: house.router.budgets[SERVER].in_use == 0, "its connections are closed")


async def test_a_server_that_comes_back_elsewhere_shares_the_budget_of_its_new_place(world: World) -> None:
    async with ChaosProxy(world.server.host, world.server.port) as place:
        there = world.mapping()["servers"][SERVER] | {"host": place.host, "port": place.port}
        before = port_settings(world, servers={"second": there})
        without = port_settings(world)
        after = port_settings(world, servers={"second": world.mapping()["servers"][SERVER]})
        real = {SERVER: world.server, "second": world.server}
        async with a_port(world, real=real, servers={"second": there}) as house:
            budgets = house.router.budgets
            first = budgets["second"]
            for new, is_first in ((without, True), (before, True), (without, True), (after, False)):
                reload(house, new)
                assert (budgets["second"] is first) is is_first
            assert budgets["second"] is budgets[SERVER], "one server, one budget"


async def test_keys_of_rows_rotate_while_two_tenants_share_one_backend(world: World, tmp_path: Path) -> None:
    """Before, while and after both are there: each answer is the tenant's own, whichever process signs."""
    one, two = world.of(Isolation.ROW)[:2]
    files = {}
    for kid in (1, 2):
        path = tmp_path / f"key{kid}"
        path.touch(mode=0o600)
        path.write_bytes(ROW_SECRET if kid == 1 else ROW_SECRET[::-1])
        files[str(kid)] = str(path)
    second = derive_key(ROW_SECRET[::-1], server=SERVER, database=world.shared.name, kid=2)
    keys = {1: row_key(world.shared.name), 2: second}
    row = dict(world.mapping()["row"])
    del row["key"]
    pools = {"shared_size": 1}

    def with_keys(*kids: str) -> Settings:
        mapping = world.mapping(pg={"listen": "127.0.0.1:0", "users": users()}, pools=pools)
        return Settings.from_mapping(mapping | {"row": row | {"key_files": {kid: files[kid] for kid in kids}}})

    async with a_port(world, pools=pools) as house:
        stop = asyncio.Event()
        rounds = 0

        async def work(tenant: str) -> None:
            nonlocal rounds
            own = [[f"{tenant} {number}"] for number in (1, 2, 3)]
            client = await house.client(tenant)
            while not stop.is_set():
                assert (await client.query(NAMES)).rows == own
                found = await house.router.tenant(tenant).fetch(NAMES)
                assert [[record["name"]] for record in found] == own
                rounds += 1
            await client.close()

        async def goes_on(why: str) -> None:
            before = rounds
            await until(lambda: rounds > before + 20, why)

        async with asyncio.TaskGroup() as group:
            for name in (one.id, two.id) * 2:
                group.create_task(work(name))
            async with world.shared.connect() as admin:
                await install(admin, app_role=APP_ROLE, keys=keys)
                for kids in (("1", "2"), ("2",)):
                    reload(house, with_keys(*kids), new_row_keys=True)
                    await goes_on("they work")
                await forget_keys(admin, [1])
                await goes_on("they work by the new key alone")
            stop.set()
        assert house.router.stats().resets["failed"] == 0
