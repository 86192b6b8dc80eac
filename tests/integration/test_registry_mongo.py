"""Does a registry in MongoDB hear of changes, and serve what it knew while MongoDB is down?"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tenantproxy import RegistryUnavailable, Router, TenantNotFound, TenantSuspended
from tenantproxy.config import Settings
from tenantproxy.errors import TenantEnded
from tenantproxy.events import Event, RegistryDegraded, RegistryRecovered
from tenantproxy.model import Isolation, tenant_id
from tenantproxy.registry import CachedRegistry, MongoRegistry, TenantMisconfigured, unusable
from tests.support.mongo import MongoServer, mongo_server
from tests.support.waiting import until
from tests.support.world import World

PLACE = {"type": "dedicated", "connection_string": "postgresql://db.internal/one"}


def document(name: str, **changed: Any) -> dict[str, Any]:
    return {"_id": name, "tenant_id": name, "name": name, "status": "active", "database_config": PLACE, **changed}


def settings(server: MongoServer, **registry: object) -> Settings:
    return Settings.from_mapping({
        "main": {"server": "primary", "database": "main"},
        "servers": {"primary": {"host": "db.internal", "user": "app", "password": "x"}},
        "mongo": {"clusters": {"main": {"hosts": [server.address], "connect_timeout": 0.5, "timeout": 1.0}}},
        "registry": {"source": "mongodb", "mongodb": {"poll": 0.05, **registry}},
    })  # fmt: skip


@pytest.fixture
async def server() -> AsyncIterator[MongoServer]:
    async with mongo_server() as server:
        yield server


def tenants(server: MongoServer) -> Any:
    return server.data["tenant_registry"]["tenants"]


class Open:
    """A registry behind its cache, with what it told."""

    def __init__(self, server: MongoServer, **cache: Any) -> None:
        self.inner = MongoRegistry(settings(server))
        self.events: list[Event] = []
        self.cached = CachedRegistry(self.inner, observer=self.events.append, **cache)

    async def __aenter__(self) -> Open:
        await self.cached.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.cached.close()

    async def status(self, name: str) -> str:
        return (await self.cached.get(tenant_id(name))).status.value


@pytest.mark.parametrize("streams", [True, False])
async def test_a_change_is_heard_by_a_stream_or_by_looking_again(streams: bool) -> None:
    async with mongo_server(streams=streams) as server:
        tenants(server).insert_many([document("one"), document("two")])
        async with Open(server, ttl=3600.0, negative_ttl=3600.0) as registry:
            await until(lambda: registry.inner.changes.follows == ("stream" if streams else "poll"), "it follows")
            assert [await registry.status(name) for name in ("one", "two")] == ["active", "active"]
            with pytest.raises(TenantNotFound):
                await registry.status("three")
            tenants(server).update_one({"tenant_id": "one"}, {"$set": {"status": "suspended"}})
            tenants(server).insert_one(document("three"))
            server.changed("update", document("one", status="suspended"))
            server.changed("insert", document("three"))

            async def heard() -> bool:
                try:
                    return (await registry.status("one"), await registry.status("three")) == ("suspended", "active")
                except TenantNotFound:
                    return False

            await until(heard, "the change is heard")
            tenants(server).delete_one({"tenant_id": "two"})
            server.changed("delete", document("two"))

            async def gone() -> bool:
                try:
                    await registry.status("two")
                except TenantNotFound:
                    return True
                return False

            await until(gone, "the deletion is heard")


async def test_a_stream_that_breaks_is_opened_again_and_nothing_is_missed() -> None:
    async with mongo_server(streams=True) as server:
        tenants(server).insert_one(document("one"))
        async with Open(server, ttl=3600.0) as registry:
            await until(lambda: registry.inner.changes.follows == "stream", "it follows")
            assert await registry.status("one") == "active"
            await server.stop()
            tenants(server).update_one({"tenant_id": "one"}, {"$set": {"status": "suspended"}})  # no stream tells
            await server.start()

            async def heard() -> bool:
                return await registry.status("one") == "suspended"

            await until(heard, "what changed meanwhile is asked for")


async def test_known_tenants_are_served_while_mongodb_is_down(server: MongoServer) -> None:
    now = [0.0]
    tenants(server).insert_one(document("one"))
    async with Open(server, ttl=30.0, negative_ttl=5.0, clock=lambda: now[0]) as registry:
        await until(lambda: registry.inner.changes.follows == "poll", "it follows")
        assert await registry.status("one") == "active"
        await server.stop()
        now[0] += 31.0
        assert await registry.status("one") == "active"
        with pytest.raises(RegistryUnavailable) as caught:
            await registry.status("two")
        assert server.address not in str(caught.value)
        assert [type(each) for each in registry.events] == [RegistryDegraded]
        assert registry.cached.lookups["mongodb", "error"] == 2
        assert registry.cached.lookups["cache", "stale"] == 1
        tenants(server).update_one({"tenant_id": "one"}, {"$set": {"status": "suspended"}})
        await server.start()
        now[0] += 6.0
        assert await registry.status("one") == "suspended"
        assert isinstance(registry.events[-1], RegistryRecovered)


async def test_a_server_that_is_silent_is_not_waited_for_longer_than_its_timeout(server: MongoServer) -> None:
    async with Open(server, lookup_timeout=0.5) as registry:
        server.silent = True
        with pytest.raises(RegistryUnavailable):
            await registry.status("one")
        server.silent = False


async def test_a_document_that_cannot_be_used_fails_for_its_tenant_alone(server: MongoServer) -> None:
    tenants(server).insert_many([
        document("good"), document("bad", status="enabled"), document("odd", database_config="postgresql://x"),
        {"_id": 1, "tenant_id": 7}, document("twice"), {**document("twice"), "_id": 2},
    ])  # fmt: skip
    async with Open(server) as registry:
        assert await registry.status("good") == "active"
        for name in ("bad", "odd", "twice"):
            with pytest.raises(TenantMisconfigured):
                await registry.status(name)
        assert "two documents" in registry.cached.unusable["twice"]
        assert [one.id async for one in registry.cached.tenants()] == ["good", "twice"]
        assert {*await unusable(registry.cached)} == {"bad", "odd", "7"}
        tenants(server).update_one({"tenant_id": "bad"}, {"$set": {"status": "active"}})
        registry.cached.invalidate("bad")
        assert await registry.status("bad") == "active"
        assert "bad" not in registry.cached.unusable


async def test_an_identifier_is_asked_for_as_text_whatever_the_collections_collation(server: MongoServer) -> None:
    tenants(server).insert_one(document("one"))
    async with Open(server) as registry:
        await registry.status("one")
    asked = [each for each in server.heard if each.get("find") == "tenants" and each.get("filter")]
    assert asked[0]["filter"] == {"tenant_id": "one"}
    assert asked[0]["collation"]["locale"] == "simple"


async def test_a_router_serves_by_what_mongodb_says(world: World, server: MongoServer) -> None:
    given = world.of(Isolation.DATABASE)[0]
    own = world.settings()
    primary = own.servers["primary"]
    connection = f"postgresql://ignored:secret@{primary.host}:{primary.port}/{given.placement.database}"
    config = {"type": "dedicated", "connection_string": connection, "role": given.placement.role}
    tenants(server).insert_one(document(given.id, database_config=config))
    cluster = {"clusters": {"main": {"hosts": [server.address]}}}
    source = {"source": "mongodb", "cache_ttl": 3600.0, "mongodb": {"poll": 0.05}}
    async with Router(Settings.from_mapping({**_mapping(world), "mongo": cluster, "registry": source})) as router:
        assert await router.tenant(given.id).fetchval("SELECT count(*) FROM projects") == 3
        assert [one.id async for one in router.tenants()] == [given.id]
        tenants(server).update_one({"tenant_id": given.id}, {"$set": {"status": "suspended"}})

        async def refused() -> bool:
            try:
                await router.tenant(given.id).fetchval("SELECT 1")
            except (TenantSuspended, TenantEnded):  # the latter in the middle of it
                return True
            return False

        await until(refused, "the suspension is heard")


def _mapping(world: World) -> dict[str, Any]:
    return {key: value for key, value in world.mapping().items() if key not in ("tenants", "registry")}
