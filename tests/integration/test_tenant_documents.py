"""Can what a tenant asks of MongoDB reach the documents of another one? Every method, against marked documents."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
from pymongo.errors import DuplicateKeyError, OperationFailure

from tenantproxy import TenantNotFound, TenantSuspended
from tenantproxy.config import Settings
from tenantproxy.config.mongo_section import MongoCluster, MongoSettings
from tenantproxy.errors import ConfigurationError, DocumentRefused, DocumentsUnavailable, TenantProxyError
from tenantproxy.model import Isolation, Placement, Tenant, TenantId, TenantStatus, tenant_id
from tenantproxy.mongo import MongoClusters, TenantDocuments
from tenantproxy.mongo.collection import MongoFound, TenantCollection
from tenantproxy.router import Router
from tests.support.mongo import MongoPlace, mongo_place, mongo_server

MINE, OTHER = "tenant-001", "tenant-002"
METHODS = {name for name in vars(TenantCollection) if not name.startswith("_")} - {"is_shared"}


class World:
    """Two tenants, three tasks each, of which each says whose it is twice: in the key and in `mark`."""

    def __init__(self, place: MongoPlace) -> None:
        self.place = place
        self.tasks = f"{place.name}_tasks.tasks"
        settings = MongoSettings(
            clusters={"main": MongoCluster(**place.cluster)},
            database=f"{place.name[-8:]}_{{id}}",
            shared={self.tasks: "tenant_id"},
        )
        self.clusters = MongoClusters(settings, reserved=frozenset({f"{place.name}_registry"}))
        self.statuses = {MINE: TenantStatus.ACTIVE, OTHER: TenantStatus.ACTIVE}
        self.settings: dict[str, dict[str, str]] = {}

    def of(self, tenant: str) -> TenantDocuments:
        name = tenant_id(tenant)
        return TenantDocuments(name, clusters=self.clusters, served=lambda: self._served(name))

    async def _served(self, tenant: TenantId) -> Tenant:
        if tenant not in self.statuses:
            raise TenantNotFound("there is no such tenant")
        place = Placement(isolation=Isolation.DATABASE, server="primary", database="x")
        return Tenant(id=tenant, placement=place, settings=self.settings.get(tenant, {}))

    async def all_tasks(self) -> list[dict[str, Any]]:
        database, _, collection = self.tasks.partition(".")
        return await self.place.client[database][collection].find({}).sort("_id").to_list(None)

    async def fill(self) -> None:
        for tenant in (MINE, OTHER):
            mine = self.of(tenant)
            await mine.shared(self.tasks).insert_many(
                [{"_id": f"{tenant}-{n}", "n": n, "tags": [n], "mark": tenant, "status": "pending"} for n in range(3)]
            )
            await mine["user_insights"].insert_one({"_id": "u1", "mark": tenant})


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with mongo_place() as place:
        world = World(place)
        try:
            await world.fill()
            yield world
        finally:
            await world.clusters.close()
            for name in (f"{place.name}_tasks", *(f"{place.name[-8:]}_tenant_00{n}" for n in (1, 2))):
                await place.client.drop_database(name)


async def _marks(found: Any) -> set[str]:
    return {each["mark"] for each in await found.to_list()}


async def test_reading_finds_the_tenants_own_documents_alone(world: World) -> None:
    tasks = world.of(MINE).shared(world.tasks)
    assert await _marks(tasks.find()) == {MINE}
    assert await _marks(tasks.find({"$or": [{"mark": OTHER}, {"n": 1}]})) == {MINE}
    assert await tasks.find({"_id": f"{OTHER}-1"}).to_list() == []
    assert await tasks.find_one({"mark": OTHER}) is None
    assert [each["n"] async for each in tasks.find({}, ["n"], sort=[("n", -1)], skip=1, limit=1)] == [1]
    assert await tasks.count_documents() == 3
    assert await tasks.distinct("mark") == [MINE]
    assert await tasks.distinct("tenant_id") == [MINE]
    assert await _marks(tasks.aggregate([{"$match": {"n": {"$gte": 0}}}])) == {MINE}
    counted = await tasks.aggregate([{"$group": {"_id": "$mark", "n": {"$sum": 1}}}]).to_list()
    assert counted == [{"_id": MINE, "n": 3}]


Attack = Callable[[TenantCollection], Awaitable[Any]]
WRITES: dict[str, Attack] = {
    "update_one": lambda it: it.update_one({"mark": OTHER}, {"$set": {"mark": "stolen"}}),
    "update_many": lambda it: it.update_many({"_id": {"$regex": "."}}, {"$set": {"status": "mine"}}),
    "replace_one": lambda it: it.replace_one({"mark": OTHER}, {"mark": "stolen"}),
    "delete_one": lambda it: it.delete_one({"_id": f"{OTHER}-0"}),
    "delete_many": lambda it: it.delete_many({}),
    "find_one_and_update": lambda it: it.find_one_and_update({"mark": OTHER}, {"$set": {"mark": "stolen"}}),
    "find_one_and_replace": lambda it: it.find_one_and_replace({"mark": OTHER}, {"mark": "stolen"}),
    "find_one_and_delete": lambda it: it.find_one_and_delete({"mark": OTHER}),
    "rename": lambda it: it.update_many({}, {"$rename": {"n": "m"}}),
    "push": lambda it: it.update_many({"tags": 1}, {"$push": {"tags": 9}}),
}


@pytest.mark.parametrize("attack", WRITES.values(), ids=WRITES)
async def test_writing_leaves_the_documents_of_others_as_they_were(world: World, attack: Attack) -> None:
    before = [each for each in await world.all_tasks() if each["tenant_id"] == OTHER]
    await attack(world.of(MINE).shared(world.tasks))
    after = await world.all_tasks()
    assert [each for each in after if each["tenant_id"] == OTHER] == before
    assert {each["tenant_id"] for each in after} <= {MINE, OTHER}


UPSERTS: dict[str, Attack] = {
    "update_one": lambda it: it.update_one({"_id": f"{OTHER}-1"}, {"$set": {"mark": "stolen"}}, upsert=True),
    "update_many": lambda it: it.update_many({"_id": f"{OTHER}-1"}, {"$set": {"mark": "stolen"}}, upsert=True),
    "replace_one": lambda it: it.replace_one({"_id": f"{OTHER}-1"}, {"mark": "stolen"}, upsert=True),
    "find_one_and_update": lambda it: it.find_one_and_update(
        {"_id": f"{OTHER}-1"}, {"$set": {"mark": "stolen"}}, upsert=True
    ),
    "insert_one": lambda it: it.insert_one({"_id": f"{OTHER}-1", "mark": "stolen"}),
}


@pytest.mark.parametrize("attack", UPSERTS.values(), ids=UPSERTS)
async def test_an_upsert_under_the_key_of_another_does_not_take_it_over(world: World, attack: Attack) -> None:
    before = [each for each in await world.all_tasks() if each["tenant_id"] == OTHER]
    with suppress(DuplicateKeyError, OperationFailure):  # in which of them, depends on the server
        await attack(world.of(MINE).shared(world.tasks))
    assert [each for each in await world.all_tasks() if each["tenant_id"] == OTHER] == before


async def test_what_is_written_is_the_tenants_also_when_it_was_not_there(world: World) -> None:
    tasks = world.of(MINE).shared(world.tasks)
    await tasks.insert_one({"_id": "new-1", "mark": MINE})
    await tasks.replace_one({"_id": "new-2"}, {"mark": MINE}, upsert=True)
    await tasks.update_one({"_id": "new-3"}, {"$set": {"mark": MINE}}, upsert=True)
    await tasks.replace_one({"_id": f"{MINE}-0"}, {"mark": MINE})
    found = await tasks.find_one_and_update({"_id": f"{MINE}-1"}, {"$set": {"status": "running"}}, after=True)
    assert found is not None
    assert found["status"] == "running"
    gone = await tasks.find_one_and_replace({"_id": f"{MINE}-2"}, {"mark": MINE, "n": 9}, ["n"])
    assert gone == {"_id": f"{MINE}-2", "n": 2}
    mine = [each for each in await world.all_tasks() if each["mark"] == MINE]
    assert {each["tenant_id"] for each in mine} == {MINE}
    assert len(mine) == 6


@pytest.mark.parametrize(
    "name",
    ["database", "client", "watch", "bulk_write", "drop", "rename", "with_options", "aggregate_raw_batches", "options",
     "find_raw_batches", "estimated_document_count", "drop_index", "create_search_index", "list_indexes"],
)  # fmt: skip
async def test_everything_else_of_the_drivers_collection_is_refused_by_name(world: World, name: str) -> None:
    for collection in (world.of(MINE).shared(world.tasks), world.of(MINE)["user_insights"]):
        with pytest.raises(DocumentRefused, match=name):
            getattr(collection, name)


async def test_no_method_takes_an_option_that_is_not_known(world: World) -> None:
    tasks = world.of(MINE).shared(world.tasks)
    for option in ("collation", "session", "hint", "let", "min", "max", "bypass_document_validation"):
        with pytest.raises(TypeError):
            tasks.find({}, **{option: 1})
        with pytest.raises(TypeError):
            await tasks.update_one({}, {"$set": {"a": 1}}, **{option: True})
    with pytest.raises(DocumentRefused):
        await tasks.create_index("tenant_id", unique=True)


async def test_each_operation_compares_identifiers_byte_for_byte() -> None:
    async with mongo_server() as server:
        settings = MongoSettings(
            clusters={"main": MongoCluster(hosts=(server.address,))}, shared={"a.tasks": "tenant_id"}
        )
        clusters = MongoClusters(settings)
        tasks = TenantDocuments(tenant_id(MINE), clusters=clusters, served=_nothing).shared("a.tasks")
        await tasks.find().to_list()
        await tasks.count_documents()
        await tasks.distinct("a")
        await tasks.aggregate([]).to_list()
        await tasks.find_one_and_delete({})
        await tasks.find_one_and_update({}, {"$set": {"a": 1}})
        await tasks.find_one_and_replace({}, {})
        await tasks.update_one({}, {"$set": {"a": 1}})
        await tasks.update_many({}, {"$set": {"a": 1}})
        await tasks.replace_one({}, {})
        await tasks.delete_one({})
        await tasks.delete_many({})
        await clusters.close()
        sent = [part for command in server.heard for part in command.get("updates", command.get("deletes", [command]))]
        assert len(sent) == 12
        assert {(part.get("collation") or {}).get("locale") for part in sent} == {"simple"}


async def _nothing() -> Tenant:
    return Tenant(id=tenant_id(MINE), placement=Placement(isolation=Isolation.DATABASE, server="primary", database="x"))


async def test_a_tenants_own_database_is_its_alone(world: World) -> None:
    one, other = world.of(MINE), world.of(OTHER)
    assert (await one["user_insights"].find_one({}))["mark"] == MINE  # type: ignore[index]
    assert (await other["user_insights"].find_one({}))["mark"] == OTHER  # type: ignore[index]
    await one["user_insights"].delete_many({})
    await one["notes"].create_index([("a", 1)], unique=True)
    await one["notes"].insert_one({"a": 1})
    assert "notes" in await one.collections()
    assert await other.collections() == ["user_insights"]
    assert await other["user_insights"].count_documents() == 1
    for name in ("system.users", "$cmd", "a$b", "", "a..b", ".a", "a\0b", "../x", 7):
        with pytest.raises(DocumentRefused):
            one[name]  # type: ignore[index]


async def test_a_registry_entry_cannot_make_the_operators_databases_a_tenants(world: World) -> None:
    for name in (
        "admin",
        "Admin",
        "config",
        "local",
        f"{world.place.name}_tasks",
        f"{world.place.name}_registry",
        "a.b",
        "a b",
    ):
        world.settings[MINE] = {"mongo_database": name}
        with pytest.raises(DocumentRefused):
            await world.of(MINE)["user_insights"].find_one({})
    world.settings[MINE] = {"mongo_cluster": "elsewhere"}
    with pytest.raises(ConfigurationError, match="elsewhere"):
        await world.of(MINE)["user_insights"].find_one({})


async def test_a_collection_that_is_not_named_in_the_configuration_is_not_shared(world: World) -> None:
    for name in ("admin.users", "tasks", f"{world.place.name}_registry.tenants", f"{world.tasks}.x"):
        with pytest.raises(DocumentRefused):
            world.of(MINE).shared(name)


async def test_every_operation_asks_first_whether_the_tenant_is_served(world: World) -> None:
    unknown = world.of("tenant-003")
    for collection in (unknown.shared(world.tasks), unknown["user_insights"]):
        calls: dict[str, tuple[Any, ...]] = {
            "find": (), "aggregate": ([],), "insert_many": ([{}],), "distinct": ("a",), "create_index": ("a",),
            **dict.fromkeys(("find_one", "count_documents", "insert_one"), ({},)),
            **dict.fromkeys(("delete_one", "delete_many", "find_one_and_delete"), ({},)),
            **dict.fromkeys(("update_one", "update_many", "find_one_and_update"), ({}, {"$set": {"a": 1}})),
            **dict.fromkeys(("replace_one", "find_one_and_replace"), ({}, {})),
        }  # fmt: skip
        assert calls.keys() == METHODS
        for name, arguments in calls.items():
            expected = DocumentRefused if name == "create_index" and collection.is_shared else TenantNotFound
            with pytest.raises(expected):
                await _done(getattr(collection, name)(*arguments))


async def _done(asked: Any) -> Any:
    return await (asked.to_list() if isinstance(asked, MongoFound) else asked)


async def test_a_router_gives_the_documents_of_its_tenants_and_of_no_other() -> None:
    async with mongo_server() as server:
        mapping = {
            "main": {"server": "primary", "database": "main"},
            "servers": {"primary": {"user": "app", "password": "x", "host": "127.0.0.1", "port": 1}},
            "registry": {"source": "file"},
            "tenants": {
                MINE: {"isolation": "database", "database": "one"},
                OTHER: {"isolation": "database", "database": "two", "status": "suspended"},
            },
            "mongo": {
                "clusters": {"main": {"hosts": [server.address], "connect_timeout": 0.5, "timeout": 1.0}},
                "shared": {"task_repository.tasks": "tenant_id"},
            },
        }
        async with Router(Settings.from_mapping(mapping)) as router:
            mine = router.tenant(MINE).mongo()
            await mine["user_insights"].insert_one({"a": 1})
            await mine.shared("task_repository.tasks").insert_one({"a": 1})
            assert server.data["tenant_001_db"]["user_insights"].count_documents({}) == 1
            assert server.data["task_repository"]["tasks"].count_documents({"tenant_id": MINE}) == 1
            with pytest.raises(TenantSuspended):
                await router.tenant(OTHER).mongo()["user_insights"].find_one({})
            with pytest.raises(TenantNotFound):
                await router.tenant("tenant-003").mongo()["user_insights"].find_one({})
            await server.stop()
            with pytest.raises(DocumentsUnavailable) as caught:
                await mine["user_insights"].find_one({})
            assert server.address not in str(caught.value)
        with pytest.raises(TenantProxyError):
            await mine["user_insights"].find_one({})
