"""Does every registry keep the contract of `registry.base.Registry`? One suite, run on each of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack

import pytest

from tenantproxy.config import Settings
from tenantproxy.config.redis_section import RedisCacheSettings
from tenantproxy.config.secret import Secret
from tenantproxy.embedded import EmbeddedPostgres
from tenantproxy.errors import TenantNotFound
from tenantproxy.model import Isolation, Placement, Tenant, TenantStatus, tenant_id
from tenantproxy.registry import (
    SCHEMA_SQL,
    CachedRegistry,
    FileRegistry,
    MemoryRegistry,
    MongoRegistry,
    PostgresRegistry,
    Registry,
    RowReader,
)
from tenantproxy.registry.by_database import ByDatabase
from tenantproxy.registry.sealed import Seal
from tests.contracts.main_database import MainDatabase
from tests.support.database import Database, fresh_database
from tests.support.mongo import MongoPlace, mongo_place
from tests.support.redis_server import PASSWORD, RedisServer

PAGE = 2  # so that five tenants take three pages

TENANTS = [
    Tenant(
        id=tenant_id(name),
        placement=Placement(isolation=Isolation.DATABASE, server="primary", database=f"{name}_db"),
        status=status,
    )
    for name, status in [
        ("globex", TenantStatus.ACTIVE),
        ("acme", TenantStatus.ACTIVE),
        ("initech", TenantStatus.SUSPENDED),
        ("Umbrella", TenantStatus.ACTIVE),
        ("a.b-c_1", TenantStatus.PAUSED),
    ]
]

FOREIGN = """
    create table agencies (
        id uuid primary key default gen_random_uuid(), name text, code text not null unique,
        database_name text not null, subscription_plan text, status text not null);
"""
# Folds case, as a citext column or a collation would; the tenant asked for is still another one.
_SELECT = """select code as id, 'database' as isolation, database_name as database,
    case status when 'enabled' then 'active' else status end as status from agencies"""
FOREIGN_QUERY = f"{_SELECT} where lower(code) = lower($1)"
FOREIGN_LIST = f'{_SELECT} where code collate "C" > $1 order by code collate "C" limit $2'

Remove = Callable[[str], Awaitable[None]]


async def _memory() -> tuple[Registry, Remove]:
    registry = MemoryRegistry(TENANTS)

    async def remove(name: str) -> None:
        registry.remove(name)

    return registry, remove


def _settings(tenants: list[Tenant]) -> Settings:
    return Settings.from_mapping(
        {
            "main": {"server": "primary", "database": "main"},
            "servers": {"primary": {"user": "app", "password": "x"}},
            "registry": {"source": "file"},
            "tenants": {
                one.id: {"isolation": "database", "database": one.placement.database, "status": one.status}
                for one in tenants
            },
        }
    )


async def _file() -> tuple[Registry, Remove]:
    registry = FileRegistry(_settings(TENANTS))

    async def remove(name: str) -> None:
        registry.reload(_settings([one for one in TENANTS if one.id != name]))

    return registry, remove


async def _own_table(database: Database) -> tuple[Registry, Remove]:
    async with database.connect() as conn:
        await conn.execute(SCHEMA_SQL)
        await conn.executemany(
            "insert into tenantproxy.tenants (id, isolation, database, status) values ($1, 'database', $2, $3)",
            [(one.id, one.placement.database, one.status) for one in TENANTS],
        )

    async def remove(name: str) -> None:
        async with database.connect() as conn:
            await conn.execute("delete from tenantproxy.tenants where id = $1", name)

    reader = RowReader(default_server="primary", servers={"primary"})
    return PostgresRegistry(MainDatabase(database), reader=reader, page=PAGE), remove


async def _foreign_table(database: Database) -> tuple[Registry, Remove]:
    async with database.connect() as conn:
        await conn.execute(FOREIGN)
        await conn.executemany(
            "insert into agencies (code, database_name, status) values ($1, $2, $3)",
            [(one.id, one.placement.database, one.status.replace("active", "enabled")) for one in TENANTS],
        )

    async def remove(name: str) -> None:
        async with database.connect() as conn:
            await conn.execute("delete from agencies where code = $1", name)

    registry = PostgresRegistry(
        MainDatabase(database),
        reader=RowReader(default_server="primary"),
        query=FOREIGN_QUERY,
        list_query=FOREIGN_LIST,
        page=PAGE,
    )
    return registry, remove


async def _documents(place: MongoPlace) -> tuple[Registry, Remove]:
    await place.tenants.insert_many([
        {
            "tenant_id": one.id, "name": one.id, "status": one.status.value,
            "database_config": {
                "type": "dedicated", "connection_string": f"postgresql://db.internal/{one.placement.database}",
            },
        }
        for one in TENANTS
    ])  # fmt: skip

    async def remove(name: str) -> None:
        await place.tenants.delete_one({"tenant_id": name})

    servers = {"primary": {"host": "db.internal", "user": "app", "password": "x"}}
    main = {"server": "primary", "database": "main"}
    return MongoRegistry(Settings.from_mapping({"main": main, "servers": servers, **place.sections()})), remove


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as exits:
        yield exits


@pytest.fixture(params=["memory", "file", "own table", "foreign table", "documents", "cached", "shared"])
async def world(
    request: pytest.FixtureRequest, stack: AsyncExitStack, postgres: EmbeddedPostgres
) -> AsyncIterator[tuple[Registry, Remove]]:
    match request.param:
        case "memory":
            registry, remove = await _memory()
        case "file":
            registry, remove = await _file()
        case "cached":
            inner, remove = await _memory()
            registry = CachedRegistry(inner)
        case "shared":
            database = await stack.enter_async_context(fresh_database(postgres))
            inner, remove = await _own_table(database)
            registry = CachedRegistry(inner, ttl=0.001, negative_ttl=0.001)
            server = request.getfixturevalue("redis_server")
            settings = _settings([])
            redis = RedisCacheSettings(address=server.address, password=Secret.inline(PASSWORD), key=Secret.inline("k"))
            registry.share(redis, Seal(b"k" * 32, settings))
        case "documents":
            registry, remove = await _documents(await stack.enter_async_context(mongo_place()))
        case kind:
            database = await stack.enter_async_context(fresh_database(postgres))
            registry, remove = await (_own_table if kind == "own table" else _foreign_table)(database)
    await registry.open()
    yield registry, remove
    await registry.close()


@pytest.fixture
def registry(world: tuple[Registry, Remove]) -> Registry:
    return world[0]


async def test_a_registered_tenant_is_found_as_it_was_registered(registry: Registry) -> None:
    for tenant in TENANTS:
        assert await registry.get(tenant.id) == tenant


async def test_an_unknown_tenant_is_not_found_also_when_it_differs_only_by_case(registry: Registry) -> None:
    for name in ("unknown", "umbrella", "ACME", "acme_db", "acm", "a.b-c_2"):
        with pytest.raises(TenantNotFound) as caught:
            await registry.get(tenant_id(name))
        assert name not in str(caught.value), "what a stranger sent is not repeated"


async def test_all_tenants_are_listed_once_in_order_of_their_identifiers(registry: Registry) -> None:
    assert [tenant async for tenant in registry.tenants()] == sorted(TENANTS, key=lambda one: one.id)


async def test_a_listing_can_be_limited_to_a_status(registry: Registry) -> None:
    assert [one.id async for one in registry.tenants(status=TenantStatus.SUSPENDED)] == ["initech"]
    assert [one.id async for one in registry.tenants(status=TenantStatus.DELETING)] == []


@pytest.mark.parametrize("after", ["", "Umbrella", "b", "globex", "zzz"])
async def test_a_list_begins_behind_any_identifier_there_or_not(registry: Registry, after: str) -> None:
    listed = CachedRegistry(registry).tenants_after(after)
    behind = sorted(one.id for one in TENANTS if one.id > after)
    assert [one.id async for one in listed] == behind


async def test_a_removed_tenant_is_not_found_any_more(world: tuple[Registry, Remove]) -> None:
    registry, remove = world
    await registry.get(tenant_id("acme"))
    await remove("acme")
    with pytest.raises(TenantNotFound):
        await registry.get(tenant_id("acme"))
    assert "acme" not in [one.id async for one in registry.tenants()]


async def test_many_lookups_at_once_get_each_its_own_answer(registry: Registry) -> None:
    wanted = TENANTS * 4
    assert await asyncio.gather(*(registry.get(one.id) for one in wanted)) == wanted


async def test_a_cancelled_lookup_leaves_the_registry_usable(registry: Registry) -> None:
    for steps in range(6):
        task = asyncio.ensure_future(registry.get(tenant_id("acme")))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
    assert (await registry.get(tenant_id("acme"))).id == "acme"


async def test_a_database_name_finds_the_tenant_that_has_it_to_itself_and_nobody_once_he_is_gone(
    world: tuple[Registry, Remove], request: pytest.FixtureRequest
) -> None:
    registry, remove = world
    tenants = registry if isinstance(registry, CachedRegistry) else CachedRegistry(registry)
    found = await ByDatabase(tenants).find("Umbrella_db")
    if request.node.callspec.params["world"] == "foreign table":
        assert found is None, "an operator's own queries find tenants by their ids alone"
        return
    assert found is not None
    assert found.id == "Umbrella"
    for name in ("umbrella_db", "Umbrella", "nothing", ""):
        assert await ByDatabase(tenants).find(name) is None
    await remove("Umbrella")
    tenants.invalidate("Umbrella")
    assert await ByDatabase(tenants).find("Umbrella_db") is None


async def test_its_source_is_a_short_name(registry: Registry) -> None:
    assert registry.source in ("memory", "file", "postgres", "mongodb")
