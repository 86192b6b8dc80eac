"""Do processes keep to one budget when one is stopped, killed or reloaded, and main is not as it was?"""

from __future__ import annotations

import asyncio
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tenantproxy.driver import connector as driver_side
from tenantproxy.driver import lender
from tenantproxy.router import Router
from tests.fault.test_fleet import CAP, QUICK, granted, hold, install, settings_of
from tests.fault.test_lingering import leave_behind
from tests.support.chaos import ChaosProxy
from tests.support.fleet_process import a_process
from tests.support.waiting import until
from tests.support.world import World

BACKENDS = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app'"
GRANTED = "SELECT granted FROM tenantproxy.fleet_share WHERE process = $1 AND NOT silent"
IS_SILENT = "SELECT silent FROM tenantproxy.fleet_share WHERE process = $1"


@pytest.fixture
async def together(own: World) -> World:
    """A world whose main database keeps the budget of a fleet."""
    await install(own, settings_of(own))
    return own


@asynccontextmanager
async def watched(world: World) -> AsyncIterator[asyncpg.Connection[Any]]:
    """For the block, the server never has more connections than the budget; looked at all the time."""
    seen: list[int] = []

    async def look() -> None:
        async with world.main.connect() as admin:
            while True:
                seen.append(await admin.fetchval(BACKENDS))
                await asyncio.sleep(0.02)

    looking = asyncio.ensure_future(look())
    try:
        async with world.main.connect() as admin:
            yield admin
    finally:
        looking.cancel()
        await asyncio.wait([looking])
    assert max(seen) <= CAP
    assert len(seen) > 10


@asynccontextmanager
async def closing(proxy: ChaosProxy) -> AsyncIterator[None]:
    try:
        yield
    finally:
        await proxy.close()


async def test_a_process_stopped_for_longer_than_a_ttl_and_one_killed_exceed_nothing(together: World) -> None:
    tenant = together.tenants[-1].id
    mapping = together.mapping(servers={"primary": {"max_connections": CAP}}, fleet=QUICK, pools={"max_size": 20})
    with ExitStack() as stack:
        (stopped, first), (other, second) = (stack.enter_context(a_process(mapping, tenant, 15)) for _ in range(2))
        async with watched(together) as admin:

            async def have(least: int, *processes: str) -> bool:
                found = [await admin.fetchval(GRANTED, process) or 0 for process in processes]
                return min(found) >= least

            await until(lambda: have(8, first, second), "both have their part")
            stopped.send_signal(signal.SIGSTOP)
            await until(lambda: admin.fetchval(IS_SILENT, first), "the stopped one is missed")
            counted = "SELECT counted = epoch FROM tenantproxy.fleet_server"
            await until(lambda: admin.fetchval(counted), "what it has on the server was counted")
            stopped.send_signal(signal.SIGCONT)
            await until(lambda: have(8, first, second), "both have their part again")
            other.kill()
            await until(lambda: admin.fetchval(IS_SILENT, second), "the killed one is missed")
            await until(lambda: have(15, first), "what it had is free, but for a burst")


async def test_a_main_database_that_is_read_only_by_default_is_written_to(together: World) -> None:
    async with Router(settings_of(together)) as router, together.main.connect() as admin:
        await admin.execute("ALTER SYSTEM SET default_transaction_read_only = on")
        await admin.execute("SELECT pg_reload_conf()")
        await until(lambda: admin.fetchval("SHOW default_transaction_read_only"), "it is")
        await admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'")
        found = router.fleet
        assert found is not None
        await until(lambda: (router.fleet or found).last_renewal > found.last_renewal + 1, "reports are answered")
        await admin.execute("SET default_transaction_read_only = off")
        await admin.execute("ALTER SYSTEM RESET default_transaction_read_only")
        await admin.execute("SELECT pg_reload_conf()")


async def test_a_cap_that_is_lowered_below_what_is_used_is_come_down_to(together: World) -> None:
    pools = {"max_size": 8, "shared_size": 8}
    async with Router(settings_of(together, pools=pools)) as router, together.main.connect() as admin:
        work = asyncio.gather(*(hold(router, tenant.id, 80, 0.3) for tenant in together.tenants))
        await until(lambda: router.budgets["primary"].in_use >= 14, "it uses much")
        lower = together.settings(servers={"primary": {"max_connections": 8}}, fleet=QUICK, pools=pools)
        router.prepare(lower, limits={"primary": 8}, new_row_keys=False)()
        await until(lambda: router.budgets["primary"].in_use <= 5, "it comes down")
        assert not work.done(), "while callers wait"
        assert await admin.fetchval(BACKENDS) <= 8
        await work


async def test_a_server_that_a_reload_adds_has_its_part_of_the_fleet(together: World) -> None:
    tenant = together.tenants[-1]
    settings = settings_of(together)
    proxy = await ChaosProxy(together.server.host, together.server.port).open()  # a server by itself
    async with closing(proxy), Router(settings) as router:
        changes = {"host": proxy.host, "port": proxy.port, "max_connections": 10}
        second = settings.servers["primary"].model_copy(update=changes)
        entry = settings.tenants[tenant.id].model_copy(update={"server": "second"})
        new = settings.model_copy(
            update={
                "servers": {**settings.servers, "second": second},
                "tenants": {**settings.tenants, tenant.id: entry},
            }
        )
        router.prepare(new, limits={"second": 10}, new_row_keys=False)()
        assert router.budgets["second"].limit == 0, "nothing is granted yet"
        await hold(router, tenant.id, 3)
        found = router.fleet
        assert found is not None
        assert {each.server: 0 < each.granted < each.cap + 1 for each in found.servers} == {
            "primary": True,
            "second": True,
        }


async def test_what_lingers_when_a_process_closes_is_all_that_stays_reserved(
    together: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver_side, "END_TIMEOUT", 0.2)
    monkeypatch.setattr(lender, "RESET_TIMEOUT", 0.2)
    tenant = together.tenants[-1].id
    settings = settings_of(together, pools={"max_size": 15})
    async with together.main.connect() as admin:
        async with Router(settings) as router:
            await hold(router, tenant, 12)
            await leave_behind(router, tenant)
            await until(lambda: router.budgets["primary"].lingering, "one lingers")
            assert granted(router) >= 12
            process = (router.fleet or pytest.fail("no fleet")).process
        charge = "SELECT greatest(granted, used) FROM tenantproxy.fleet_share WHERE process = $1::text::uuid"
        assert (await admin.fetchval(charge, process) or 0) <= 3, "the one that lingers, and that of the report"


def _is_removed(folder: Path) -> bool:
    """As `rm -r` by hand: refused where a process writes a file between the last unlink and the rmdir."""
    shutil.rmtree(folder, ignore_errors=True)
    return not folder.exists()


@pytest.mark.parametrize("removed", ["folder", "ledger", "damaged"])
async def test_a_folder_emptied_by_hand_costs_neither_the_cap_nor_a_process(
    own: World, tmp_path: Path, removed: str
) -> None:
    folder = tmp_path / "fleet"
    settings = settings_of(own, fleet={"path": str(folder)}, pools={"max_size": 20})
    tenant = own.tenants[-1].id
    async with Router(settings) as first, Router(settings) as second, watched(own):
        work = asyncio.gather(*(hold(each, tenant, 30, 0.1) for each in (first, second) for _ in range(3)))
        await until(lambda: granted(first, second) >= CAP - 6, "they have most of it")
        if removed == "folder":
            await until(lambda: _is_removed(folder), "it is removed while they write into it")
        elif removed == "ledger":
            (folder / "default.ledger").unlink()
        else:
            (folder / "default.ledger").write_text("{")
        before = [(router.fleet or pytest.fail("no fleet")).calls for router in (first, second)]

        def has_heard(number: int, router: Router) -> bool:
            found = router.fleet
            return found is not None and found.calls - found.failures > before[number] + 5

        await until(lambda: has_heard(0, first) and has_heard(1, second), "both were answered again")
        assert granted(first, second) <= CAP
        assert {(each.fleet or pytest.fail("no fleet")).servers[0].processes for each in (first, second)} == {2}
        await work
