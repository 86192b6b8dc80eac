"""A MongoDB for tests: that of the demo, or the real one that TENANTPROXY_TEST_MONGO_URL names."""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import mongomock
from pymongo import AsyncMongoClient
from pymongo.uri_parser import parse_uri

from tenantproxy.demo.mongo_server import MongoServer

__all__ = ["REAL_URL", "MongoPlace", "MongoServer", "mongo_place", "mongo_server"]

REAL_URL: Final = os.environ.get("TENANTPROXY_TEST_MONGO_URL", "")


@asynccontextmanager
async def mongo_server(*, streams: bool = False) -> AsyncIterator[MongoServer]:
    """One of its own, empty."""
    server = MongoServer(mongomock.MongoClient(), streams=streams)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


@dataclass(frozen=True, slots=True, kw_only=True)
class MongoPlace:
    """A MongoDB, the real one if it is configured: `name` begins the names of the test's own databases there."""

    client: AsyncMongoClient[dict[str, Any]]
    cluster: Mapping[str, Any]
    name: str

    @property
    def tenants(self) -> Any:
        """The collection of the registry."""
        return self.client[f"{self.name}_registry"]["tenants"]

    def sections(self, **registry: object) -> dict[str, Any]:
        """`[mongo]` and `[registry]` of a configuration that reads it."""
        place = {"database": f"{self.name}_registry", "poll": 0.05, **registry}
        return {
            "mongo": {"clusters": {"main": self.cluster}},
            "registry": {"source": "mongodb", "mongodb": place},
        }


@asynccontextmanager
async def mongo_place() -> AsyncIterator[MongoPlace]:
    """Databases under a name of their own, gone afterwards."""
    if not REAL_URL:
        async with mongo_server() as server, _place(f"mongodb://{server.address}") as place:
            yield place
        return
    async with _place(REAL_URL) as place:
        yield place


@asynccontextmanager
async def _place(url: str) -> AsyncIterator[MongoPlace]:
    parts = parse_uri(url)
    cluster: dict[str, Any] = {"hosts": [f"{host}:{port}" for host, port in parts["nodelist"]]}
    if parts["username"]:
        cluster |= {"user": parts["username"], "password": parts["password"]}
    if "replicaSet" in parts["options"]:
        cluster["replica_set"] = parts["options"]["replicaSet"]
    name = f"tenantproxy_test_{secrets.token_hex(4)}"
    async with AsyncMongoClient[dict[str, Any]](url) as client:
        try:
            yield MongoPlace(client=client, cluster=cluster, name=name)
        finally:
            await client.drop_database(f"{name}_registry")
