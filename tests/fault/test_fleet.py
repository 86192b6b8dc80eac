"""Do several processes keep to one budget of a server, on good days and bad?"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tenantproxy import ConfigurationError
from tenantproxy.cli.fleet import fleet as fleet_rows
from tenantproxy.config import Settings, fleet_key
from tenantproxy.events import Event, FleetAlone, FleetFenced, FleetJoined, FleetSkipped, FleetUncounted
from tenantproxy.fleet.client import SIZE_VARIABLE
from tenantproxy.lifecycle.fleet import install_fleet
from tenantproxy.router import Router
from tests.support.chaos import ChaosProxy
from tests.support.waiting import until
from tests.support.world import APP_PASSWORD, APP_ROLE, World

QUICK = {"ttl": 3.0, "interval": 0.3}
CAP = 24
COUNT = "SELECT count(*) FROM projects"


def settings_of(
    world: World, fleet: Mapping[str, Any] | None = None, pools: Mapping[str, Any] | None = None
) -> Settings:
    servers = {"primary": {"max_connections": CAP}}
    return world.settings(servers=servers, fleet={**QUICK, **(fleet or {})}, pools=pools or {})


async def install(world: World, settings: Settings) -> None:
    key = fleet_key(settings.fleet, settings.row, settings.tenant_roles)
    assert key is not None
    async with world.main.connect() as admin:
        await install_fleet(admin, app_role=APP_ROLE, key=key, fleet=settings.fleet.id, ttl=settings.fleet.ttl)


@pytest.fixture
async def together(own: World) -> World:
    """A world whose main database keeps the budget of a fleet."""
    await install(own, settings_of(own))
    return own


async def hold(router: Router, tenant: str, count: int, seconds: float = 0.2) -> None:
    await asyncio.gather(*(router.tenant(tenant).fetchval("SELECT pg_sleep($1)", seconds) for _ in range(count)))


def granted(*routers: Router) -> int:
    found = [router.fleet for router in routers]
    return sum(each.servers[0].granted for each in found if each is not None)


async def test_without_the_tables_a_process_has_the_whole_budget(own: World) -> None:
    async with Router(settings_of(own)) as router:
        assert router.fleet is None
        assert router.budgets["primary"].limit == CAP


async def test_a_process_that_comes_is_served_although_another_one_had_everything(together: World) -> None:
    tenant = together.tenants[-1].id
    settings = settings_of(together, pools={"max_size": 20})
    async with Router(settings) as first:
        await hold(first, tenant, 20)
        await until(lambda: granted(first) > CAP // 2, "the first has most of it")
        async with Router(settings) as second:
            work = asyncio.gather(*(hold(each, tenant, 30, 0.02) for each in (first, second) for _ in range(3)))
            async with together.main.connect() as admin:
                while not work.done():
                    query = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app'"
                    assert await admin.fetchval(query) <= CAP
                    assert granted(first, second) <= CAP
                    await asyncio.sleep(0.01)
            await work
            assert granted(second) > 1
            seen = second.fleet
            assert seen is not None
            assert seen.servers[0].processes == 2
            rows = await fleet_rows(settings)
            assert {row["state"] for row in rows} == {"live"}
            assert len(rows) == 2


async def test_a_process_is_open_when_it_has_its_floor(together: World) -> None:
    tenant = together.tenants[-1].id
    settings = settings_of(together, pools={"max_size": 20})
    async with Router(settings) as first:
        work = asyncio.ensure_future(hold(first, tenant, 60, 0.3))
        await until(lambda: granted(first) >= CAP - 4, "the first has everything")
        async with Router(settings) as second:
            assert granted(second) >= 2, "one to main, and one for a tenant"
        await work


async def test_what_a_process_had_is_free_at_once_when_it_closes(together: World) -> None:
    async with Router(settings_of(together)) as router:
        await hold(router, together.tenants[-1].id, 3)
        await router.close()
        assert await fleet_rows(settings_of(together)) == [
            row for row in await fleet_rows(settings_of(together)) if row["process"] is None
        ]


async def test_what_looks_at_hosts_is_part_of_what_a_process_was_granted(together: World, unused_tcp_port: int) -> None:
    """The server never has more than the cap, and a census finds none of these connections unclaimed."""
    tenant, server = together.tenants[-1].id, together.server
    hosts = [f"{server.host}:{server.port}", f"127.0.0.1:{unused_tcp_port}"]
    settings = together.settings(
        servers={"primary": {"hosts": hosts, "max_connections": CAP}}, fleet=QUICK, pools={"max_size": 20}
    )
    async with AsyncExitStack() as stack, together.main.connect() as admin:
        routers = [await stack.enter_async_context(Router(settings)) for _ in range(3)]
        query = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app'"
        work = asyncio.gather(*(hold(each, tenant, 60, 0.02) for each in routers))
        while not work.done():
            assert await admin.fetchval(query) <= CAP
            await asyncio.sleep(0.01)
        await work
        for each in routers:
            share = each.fleet
            assert share is not None
            assert share.servers[0].used == each.budgets["primary"].in_use + 2, "the link, and what looks at the host"
        await admin.execute("DELETE FROM tenantproxy.fleet_share")
        await until(lambda: admin.fetchval("SELECT count(*) = 3 FROM tenantproxy.fleet_share"), "all are back")
        await until(lambda: admin.fetchval("SELECT bool_and(NOT blind) FROM tenantproxy.fleet_server"), "it is counted")
        assert await admin.fetchval("SELECT max(unclaimed) FROM tenantproxy.fleet_server") == 0


async def test_processes_of_one_host_share_by_a_folder_without_tables(own: World, tmp_path: Path) -> None:
    settings = settings_of(own, fleet={"path": str(tmp_path / "fleet")}, pools={"max_size": 20})
    tenant = own.tenants[-1].id
    async with Router(settings) as first, Router(settings) as second, own.main.connect() as admin:
        work = asyncio.gather(*(hold(each, tenant, 30, 0.02) for each in (first, second) for _ in range(3)))
        while not work.done():
            assert await admin.fetchval("SELECT count(*) FROM pg_stat_activity WHERE usename = 'app'") <= CAP
            assert granted(first, second) <= CAP
            await asyncio.sleep(0.01)
        await work
        assert min(granted(first), granted(second)) > 1


async def test_two_fleets_on_one_main_database_neither_count_nor_grant_each_other(together: World) -> None:
    other = settings_of(together, fleet={"id": "other"})
    await install(together, other)
    async with Router(settings_of(together)) as first, Router(other) as second, together.main.connect() as admin:
        for router in (first, second):
            await hold(router, together.tenants[-1].id, 3)
            found = router.fleet
            assert found is not None
            assert found.servers[0].processes == 1
        rows = await admin.fetch("SELECT fleet, count(*) FROM tenantproxy.fleet_share GROUP BY 1 ORDER BY 1")
        assert [tuple(row) for row in rows] == [("default", 1), ("other", 1)]
        assert {row["process"] for row in await fleet_rows(other) if row["process"]} == {str(second.fleet.process)}  # type: ignore[union-attr]


async def test_a_process_of_a_fleet_that_was_not_installed_does_not_open(together: World) -> None:
    with pytest.raises(ConfigurationError, match=r"fleet\.key: is not that of the fleet 'mistaken'"):
        async with Router(settings_of(together, fleet={"id": "mistaken"})):
            pass


async def test_a_process_with_another_key_does_not_open(together: World) -> None:
    settings = settings_of(together, fleet={"key": "x" * 40})
    with pytest.raises(ConfigurationError, match=r"fleet\.key: is not that of the fleet 'default'"):
        async with Router(settings):
            pass


async def test_a_process_with_another_ttl_does_not_open(together: World) -> None:
    with pytest.raises(ConfigurationError, match=r"ttl 3000 ms"):
        async with Router(settings_of(together, fleet={"ttl": 6.0})):
            pass


async def test_a_process_without_a_key_says_that_it_shares_nothing(together: World) -> None:
    events: list[Event] = []
    bare = settings_of(together).model_copy(update={"tenant_roles": None})
    bare = bare.model_copy(update={"row": bare.row.model_copy(update={"key": None})})
    fleet = Router(bare, observer=events.append)._parts.fleet
    fleet.begin()
    async with together.app(together.main) as conn:
        await fleet.open(conn)
    assert [type(event) for event in events] == [FleetSkipped]


async def test_rows_deleted_by_hand_are_reported_again_before_anything_is_granted(together: World) -> None:
    tenant = together.tenants[-1].id
    async with Router(settings_of(together)) as first, Router(settings_of(together)) as second:
        await hold(first, tenant, 8)
        async with together.main.connect() as admin:
            before = granted(first, second)
            await admin.execute("DELETE FROM tenantproxy.fleet_share")
            await until(lambda: admin.fetchval("SELECT count(*) = 2 FROM tenantproxy.fleet_share"), "both are back")
            assert await admin.fetchval("SELECT sum(greatest(granted, used)) FROM tenantproxy.fleet_share") <= before
            query = "SELECT bool_and(NOT blind) FROM tenantproxy.fleet_server"
            await until(lambda: admin.fetchval(query), "a census has been taken")
        await hold(second, tenant, 8)
        assert granted(first, second) <= CAP


@asynccontextmanager
async def behind(world: World, **fleet: Any) -> AsyncIterator[tuple[ChaosProxy, Settings]]:
    """The main database behind a proxy, which is a server by itself, and tenants where they were."""
    proxy = await ChaosProxy(world.server.host, world.server.port).open()
    main, listed = world.settings().servers["primary"], settings_of(world).tenants
    changed = world.settings(
        main={"server": "behind"},
        servers={
            "primary": {"max_connections": CAP},
            "behind": {
                "host": proxy.host,
                "port": proxy.port,
                "user": main.user,
                "password": APP_PASSWORD,
                "ssl": "disable",
                "connect_timeout": 1.0,
                "max_connections": CAP,
            },
        },
        tenants={
            tenant.id: {**entry.model_dump(by_alias=True, exclude_unset=True), "server": "primary"}
            for tenant, entry in ((each, listed[each.id]) for each in world.tenants)
        },
        fleet={**QUICK, **fleet},
    )
    await install(world, changed)
    try:
        yield proxy, changed
    finally:
        await proxy.close()


async def test_a_process_that_does_not_reach_main_keeps_its_floor_until_it_does(own: World) -> None:
    events: list[Event] = []
    tenant = own.tenants[-1].id
    async with behind(own, floor=2) as (proxy, settings), Router(settings, observer=events.append) as router:
        await until(lambda: router.budgets["primary"].limit > 2, "it has been granted something")
        await hold(router, tenant, 6)
        books = router._parts.fleet._books
        assert books is not None
        shares = [share for _, share in books]
        await until(lambda: all(share._owns_floor for share in shares), "main has known of its floor for a ttl")
        proxy.stall()
        await until(lambda: any(isinstance(each, FleetFenced) for each in events), "it is fenced")
        await until(lambda: router.budgets["primary"].in_use <= 2, "what is above the floor is closed")
        await hold(router, tenant, 6, 0.01)
        assert router.budgets["primary"].in_use <= 2
        proxy.heal()
        joined = [FleetJoined, FleetJoined]
        await until(lambda: [type(e) for e in events if isinstance(e, FleetJoined)] == joined, "it is back")
        await hold(router, tenant, 6)


async def test_a_server_is_counted_though_tenants_may_not_look_at_sessions_of_others(own: World) -> None:
    """In its tenants' databases that is closed to the role; where it is everywhere, that is told."""
    events: list[Event] = []
    is_blind = "SELECT blind FROM tenantproxy.fleet_server WHERE server = 'primary'"
    async with behind(own) as (_, settings), Router(settings, observer=events.append) as router:
        await hold(router, own.tenants[-1].id, 3)
        fleet, primary = router._parts.fleet, router.budgets["primary"]

        async def is_right() -> bool:
            there = await fleet._connections.count(primary, ("app",))
            ours = [pid for budget in router.budgets.values() for pid in fleet._connections.pids(budget)]
            assert fleet._link is not None
            return set(there) == {*ours, *fleet._link.pids}

        await until(is_right, "those of the pools and of the reports, and not the one that counts")
        async with own.main.connect() as admin:
            await admin.execute("REVOKE CONNECT ON DATABASE postgres FROM PUBLIC")
            await admin.execute("UPDATE tenantproxy.fleet_server SET blind = true WHERE server = 'primary'")
            await until(lambda: any(isinstance(each, FleetUncounted) for each in events), "it is told")
            assert await admin.fetchval(is_blind)
            await admin.execute("GRANT CONNECT ON DATABASE postgres TO app")
            await until(lambda: admin.fetchval(f"SELECT NOT ({is_blind})"), "it was counted")
        assert len([each for each in events if isinstance(each, FleetUncounted)]) == 1


async def test_a_process_that_starts_without_main_takes_its_part_of_the_fleet(
    own: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[Event] = []
    monkeypatch.setenv(SIZE_VARIABLE, "4")
    async with behind(own) as (proxy, settings):
        proxy.refusing = True
        async with Router(settings, observer=events.append) as router:
            assert router.budgets["primary"].limit == CAP // 4
            assert [event for event in events if isinstance(event, FleetAlone)] == [
                FleetAlone(error="ConnectFailed", size=4, assumed=False)
            ]
            await hold(router, own.tenants[-1].id, 8, 0.01)
            proxy.heal()
            await until(lambda: router.fleet is not None, "it has joined")


async def test_an_idle_process_has_one_connection_to_main_and_hears_by_it(together: World) -> None:
    settings = settings_of(together, pools={"idle_timeout": 0.5})
    async with Router(settings) as router, together.main.connect() as admin:
        await hold(router, together.tenants[-1].id, 3)
        query = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app'"
        await until(lambda: admin.fetchval(f"{query} HAVING count(*) = 1"), "one is left")
        heard: list[str | None] = []
        stop = router.listener.hear("news", heard.append)
        await until(lambda: heard == [None], "it listens")
        await admin.execute("NOTIFY news, 'hello'")
        await until(lambda: heard == [None, "hello"], "it has heard")
        stop()
        assert await admin.fetchval(query) == 1


async def test_reports_may_go_as_a_role_that_no_tenant_has(together: World) -> None:
    settings = settings_of(together, fleet={"user": "reporter", "password": "r" * 20})
    key = fleet_key(settings.fleet, settings.row, settings.tenant_roles)
    assert key is not None
    async with together.main.connect() as admin:
        await admin.execute(f"CREATE ROLE reporter LOGIN PASSWORD '{'r' * 20}'")
        await admin.execute(f'GRANT CONNECT ON DATABASE "{together.main.name}" TO reporter')
        await install_fleet(admin, app_role=APP_ROLE, reporter="reporter", key=key, ttl=settings.fleet.ttl)
        async with Router(settings) as router:
            assert router.fleet is not None
            assert len(await fleet_rows(settings)) == 1
            assert await admin.fetchval("SELECT count(*) FROM pg_stat_activity WHERE usename = 'reporter'") == 1
    with pytest.raises(ConfigurationError, match="may not call its function"):
        async with Router(settings_of(together)):
            pass


_FORKS = """
import asyncio, json, os, sys
from tenantproxy import Router
from tenantproxy.config import Settings

async def main():
    async with Router(Settings.from_mapping(json.load(sys.stdin))) as router:
        if (child := os.fork()) != 0:
            os.waitpid(child, 0)
        fleet = router.fleet
        print(json.dumps([fleet.process, fleet.servers[0].granted]), flush=True)
        if child == 0:
            os._exit(0)

asyncio.run(main())
"""


async def test_a_forked_child_is_another_process_and_has_nothing(together: World) -> None:
    mapping = together.mapping(servers={"primary": {"max_connections": CAP}}, fleet=QUICK)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _FORKS, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    told, _ = await process.communicate(json.dumps(mapping).encode())
    (one, granted_one), (other, granted_other) = (json.loads(line) for line in told.splitlines())
    assert one != other
    assert sorted((granted_one, granted_other))[0] == 0 < max(granted_one, granted_other)


async def test_the_role_of_tenants_cannot_read_the_budget(together: World) -> None:
    async with together.app(together.main) as conn:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await conn.fetch("SELECT * FROM tenantproxy.fleet_share")
