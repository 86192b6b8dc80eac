"""What PrismicX has in MongoDB: indexes of its collections, the registry of tenants, and what is written there."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from pymongo import ASCENDING

Database = Any  # pymongo's AsyncDatabase and AsyncMongoClient: the platform's own client, not a tenant's

REGISTRY = {
    "tenants": [("tenant_id", True), ("name", False), ("status", False), ("region", False)],
    "tenant_databases": [("database_name", True), ("type", False), ("status", False), ("region", False)],
}
SHARED = {
    "task_repository.tasks": [
        ("task_id", True), ("tenant_id", False), ("service_id", False), ("status", False), ("type", False),
        ("created_at", False), ("tenant_id,status", False), ("tenant_id,type", False),
    ],
    "category_repository.categories": [
        ("category_id", True), ("tenant_id", False), ("parent_id", False), ("tenant_id,name", False),
    ],
}  # fmt: skip
OWN = {"user_insights": [("user_id", True), ("topics.name", False), ("updated_at", False)]}


def now() -> datetime:
    """As documents have it."""
    return datetime.now(UTC)


async def make_indexes(client: Any) -> None:
    """Those of the registry and of what all tenants share, as the operator; again is well."""
    for name, indexes in {**{f"tenant_registry.{each}": REGISTRY[each] for each in REGISTRY}, **SHARED}.items():
        database, _, collection = name.partition(".")
        for fields, is_unique in indexes:
            keys = [(field, ASCENDING) for field in fields.split(",")]
            await client[database][collection].create_index(keys, unique=is_unique)


def tenant_document(tenant: str, name: str, *, server: str, schema: str, role: str | None) -> dict[str, Any]:
    """A tenant that is being made."""
    return {
        "tenant_id": tenant, "name": name, "status": "provisioning", "created_at": now(), "updated_at": now(),
        "tier": "standard", "region": "eu", "settings": {"systems": {}},
        "database_config": {
            "type": "shared", "connection_string": server, "database_name": "management_system_repository",
            "shard_key": "tenant_id", "schema": schema, "role": role,
        },
    }  # fmt: skip


def database_document(name: str, tenant: str, server: str) -> dict[str, Any]:
    """Its database of documents."""
    return {
        "database_name": name, "type": "dedicated", "tenants": [tenant], "status": "active", "created_at": now(),
        "server": server, "region": "eu",
    }  # fmt: skip
