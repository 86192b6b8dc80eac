"""Is every tenant found when many are looked up at once, whatever else uses the main database?"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from uuid import uuid4

import pytest

from tenantproxy import Router
from tenantproxy.config import Settings
from tenantproxy.errors import TenantNotFound, TenantProxyError, TenantSuspended
from tenantproxy.model import tenant_id
from tenantproxy.registry import CachedRegistry, PostgresRegistry, RowReader, TenantMisconfigured
from tests.contracts.main_database import MainDatabase
from tests.support.database import Database
from tests.support.port_house import a_port
from tests.support.waiting import until
from tests.support.world import APP_ROLE, World

MANY = 2_000
READER = RowReader(default_server="primary")


async def register(world: World, count: int) -> list[str]:
    """More row tenants in the shared database; they have no rows there."""
    names = [f"cold{number}" for number in range(count)]
    async with world.main.connect() as admin:
        await admin.execute(
            "INSERT INTO tenantproxy.tenants (id, isolation, database) SELECT id, 'row', $2 FROM unnest($1::text[]) id",
            names, world.shared.name,
        )  # fmt: skip
    return names


def patient(settings: Settings) -> Settings:
    """With time enough for a busy machine."""
    return settings.model_copy(update={"registry": settings.registry.model_copy(update={"lookup_timeout": 50.0})})


async def test_thousands_of_cold_tenants_at_once_are_all_found(world: World) -> None:
    names = await register(world, MANY)
    settings = world.settings(registry="postgres", pools={"max_waiting": 1}, main={"max_size": 3})
    async with Router(patient(settings)) as router:
        found = await asyncio.gather(*(router.registry.get(tenant_id(name)) for name in names))
        assert [tenant.id for tenant in found] == names
        assert router.registry.lookups["postgres", "found"] == MANY
        main = next(pool for pool in router.stats().pools if pool.label.endswith(world.main.name))
        assert main.idle + main.used <= 3


async def test_cold_tenants_are_served_whatever_the_waiting_limit_of_tenants(world: World) -> None:
    names = await register(world, 300)
    settings = world.settings(registry="postgres", pools={"max_waiting": 1, "acquire_timeout": 50.0})
    async with Router(patient(settings)) as router:
        asked = [router.tenant(name).fetchval("SELECT count(*) FROM projects") for name in names]
        assert set(await asyncio.gather(*asked)) == {0}
        assert router.stats().exhaustions["registry"] == 0


async def test_the_port_serves_as_many_cold_tenants_at_once(world: World) -> None:
    names = await register(world, 120)
    async with a_port(world, registry="postgres", pools={"max_waiting": 1, "acquire_timeout": 50.0}) as house:

        async def ask(name: str) -> str | None:
            async with house.a_client(name) as client:
                return (await client.query("SELECT count(*) FROM projects")).value

        assert set(await asyncio.gather(*(ask(name) for name in names))) == {"0"}
        assert house.router.stats().exhaustions["registry"] == 0


async def test_lookups_get_through_while_callers_fill_the_main_database(world: World) -> None:
    settings = world.settings(registry="postgres", main={"max_size": 4}, pools={"max_waiting": 5})
    async with Router(patient(settings)) as router, AsyncExitStack() as held:
        for _ in range(2):
            await held.enter_async_context(router.main().connection())
        waiting = [asyncio.ensure_future(router.main().fetchval("SELECT 1")) for _ in range(5)]
        await until(lambda: sum(pool.waiting for pool in router.stats().pools) == 5, "callers of main wait")
        assert (await router.registry.get(tenant_id("row1"))).id == "row1"
        assert await router.tenant("database1").fetchval("SELECT 1") == 1
        await held.aclose()
        assert await asyncio.gather(*waiting) == [1] * 5


async def test_one_update_of_thousands_of_tenants_costs_working_clients_no_error(world: World) -> None:
    await register(world, MANY)
    tenants = [world.tenants[number % len(world.tenants)].id for number in range(100)]
    settings = world.settings(registry="postgres", pools={"acquire_timeout": 50.0, "max_waiting": 1_000})
    async with Router(patient(settings)) as router:
        done, errors, stop = 0, [], asyncio.Event()

        async def work(name: str) -> None:
            nonlocal done
            while not stop.is_set():
                try:
                    await router.tenant(name).fetchval("SELECT count(*) FROM projects")
                except TenantProxyError as exc:
                    errors.append(str(exc))
                    return
                done += 1

        async with asyncio.TaskGroup() as group:
            for name in tenants:
                group.create_task(work(name))
            await until(lambda: done > 200, "the clients work")
            async with world.main.connect() as admin:
                await admin.execute("UPDATE tenantproxy.tenants SET tier = 'gold'")
                before = router.registry.lookups["postgres", "found"]
                await until(lambda: router.registry.lookups["postgres", "found"] > before, "the change was heard")
                await admin.execute("UPDATE tenantproxy.tenants SET status = 'suspended' WHERE id = 'row1'")
                await until(lambda: any("suspended" in error for error in errors), "a suspended tenant is refused")
            then = done
            await until(lambda: done > then + 200, "the others work on")
            stop.set()
        assert {error for error in errors if "suspended" not in error} == set()
        with pytest.raises(TenantSuspended):
            await router.tenant("row1").fetchval("SELECT 1")


@pytest.fixture
async def clients(database: Database) -> tuple[Database, list[str]]:
    """A table of the application's own, with uuids for ids."""
    names = [str(uuid4()) for _ in range(50)]
    async with database.connect() as conn:
        await conn.execute("CREATE TABLE clients (id uuid PRIMARY KEY, db text)")
        await conn.executemany("INSERT INTO clients VALUES ($1, 'd')", [(name,) for name in names])
    return database, names


QUERIES = {
    "plain": "select id, 'database' as isolation, db as database from clients where id = $1;",
    "comment": "select id, 'database' as isolation, db as database from clients where id = $1 -- the id",
    "no subquery": "with x as (update clients set db = db where id = $1 returning *)"
    " select id, 'database' as isolation, db as database from x",
}


@pytest.mark.parametrize("query", QUERIES.values(), ids=QUERIES)
async def test_a_configured_query_answers_for_each_of_many(clients: tuple[Database, list[str]], query: str) -> None:
    database, names = clients
    main = MainDatabase(database)
    cached = CachedRegistry(PostgresRegistry(main, reader=READER, query=query, list_query="select"))
    unknown, no_uuid = str(uuid4()), "acme"
    wanted = [*names[:25], unknown, no_uuid, *names[25:]]
    answers = await asyncio.gather(*(cached.get(tenant_id(name)) for name in wanted), return_exceptions=True)
    assert [type(answers[25]), type(answers[26])] == [TenantNotFound, TenantNotFound]
    assert [getattr(answer, "id", None) for answer in answers[:25] + answers[27:]] == names
    assert len(main.pids) <= 2
    await cached.close()


async def test_a_query_that_fails_for_one_tenant_fails_for_it_alone(clients: tuple[Database, list[str]]) -> None:
    database, names = clients
    async with database.connect() as conn:
        await conn.execute("ALTER TABLE clients ADD part int DEFAULT 1")
        await conn.execute("UPDATE clients SET part = 0 WHERE id = $1", names[7])
    query = "select id, 'database' as isolation, db as database, 1 / part as epoch from clients where id = $1"
    cached = CachedRegistry(PostgresRegistry(MainDatabase(database), reader=READER, query=query, list_query="select"))
    answers = await asyncio.gather(*(cached.get(tenant_id(name)) for name in names), return_exceptions=True)
    assert isinstance(answers[7], TenantMisconfigured)
    assert [getattr(answer, "id", None) for answer in answers[:7] + answers[8:]] == names[:7] + names[8:]
    await cached.close()


async def test_a_lookup_whose_connection_is_ended_is_asked_again(world: World) -> None:
    settings = world.settings(registry="postgres", main={"max_size": 3})
    async with Router(patient(settings)) as router, world.main.connect() as admin:
        await router.registry.get(tenant_id("row1"))
        async with admin.transaction():
            await admin.execute("LOCK TABLE tenantproxy.tenants IN ACCESS EXCLUSIVE MODE")
            lookup = asyncio.ensure_future(router.registry.get(tenant_id("row2")))

            async def blocked() -> int | None:
                pid: int | None = await admin.fetchval(
                    "SELECT pid FROM pg_stat_activity WHERE usename = $1 AND wait_event_type = 'Lock'"
                    " AND datname = current_database()", APP_ROLE,
                )  # fmt: skip
                return pid

            await until(blocked, "the lookup waits for the lock")
            await admin.execute("SELECT pg_terminate_backend($1, 5000)", await blocked())
        assert (await lookup).id == "row2"
        assert not router.registry.degraded
