"""Is the registry built that the configuration asks for?"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Any

import asyncpg
import pytest

from tenantproxy.config import Settings
from tenantproxy.errors import ConfigurationError, TenantNotFound
from tenantproxy.model import tenant_id
from tenantproxy.registry import FileRegistry, MemoryRegistry, MongoRegistry, PostgresRegistry, build, cache
from tenantproxy.registry.base import AnyConnection

BASE = {
    "main": {"server": "primary", "database": "main"},
    "servers": {"primary": {"user": "app", "password": "x"}},
}


class NoDatabase:
    """For registries that must not ask one."""

    async def fetch(self, sql: str, *args: object, timeout: float | None = None) -> list[asyncpg.Record]:
        raise AssertionError("asked")

    def connection(self, *, timeout: float | None = None) -> AbstractAsyncContextManager[AnyConnection]:
        raise AssertionError("asked")


class OwnRegistry(MemoryRegistry):
    """What a user would write."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.settings = settings


def settings(**registry: object) -> Settings:
    clusters = {"main": {"hosts": ["mongo.internal"]}}
    return Settings.from_mapping({**BASE, "registry": registry, "mongo": {"clusters": clusters}})


@pytest.mark.parametrize(
    ("source", "kind"), [("file", FileRegistry), ("postgres", PostgresRegistry), ("mongodb", MongoRegistry)]
)
def test_a_source_has_its_registry(source: str, kind: type) -> None:
    registry = build(settings(source=source), NoDatabase())
    assert isinstance(registry, kind)
    assert registry.source == source


def test_a_class_of_ones_own_is_called_with_the_settings() -> None:
    wanted = settings(source=f"{__name__}:OwnRegistry")
    registry: Any = build(wanted, NoDatabase())
    assert type(registry).__name__ == "OwnRegistry"
    assert registry.settings is wanted


class HalfARegistry:
    """Forgot most of it."""

    def __init__(self, settings: Settings) -> None:
        self.source = "half"


@pytest.mark.parametrize(
    ("source", "word"),
    [
        ("nowhere.at_all:X", "cannot be imported"),
        ("json:Nothing", "has no Nothing"),
        (f"{__name__}:HalfARegistry", "has no get, tenants, open, close"),
    ],
)
def test_a_class_that_cannot_be_had_is_told(source: str, word: str) -> None:
    with pytest.raises(ConfigurationError, match=word):
        build(settings(source=source), NoDatabase())


async def test_a_reloaded_file_announces_what_changed_to_the_cache() -> None:
    def with_tenants(**entries: object) -> Settings:
        return Settings.from_mapping({**BASE, "registry": {"source": "file"}, "tenants": entries})

    one, two = {"isolation": "database", "database": "one"}, {"isolation": "database", "database": "two"}
    registry = FileRegistry(with_tenants(a=one, b=two))
    cached = cache(registry, with_tenants())
    await cached.open()
    assert (await cached.get(tenant_id("a"))).placement.database == "one"
    assert registry.reload(with_tenants(a={**one, "status": "suspended"}, c={**one, "database": "c"})) == {
        "a",
        "b",
        "c",
    }
    assert (await cached.get(tenant_id("a"))).status == "suspended"
    with pytest.raises(TenantNotFound):
        await cached.get(tenant_id("b"))
    await cached.close()


async def test_a_reload_that_cannot_be_taken_over_changes_nothing() -> None:
    memory = MemoryRegistry()
    file = FileRegistry(Settings.from_mapping({**BASE, "registry": {"source": "file"}}))
    tenant = Settings.from_mapping(
        {**BASE, "registry": {"source": "file"}, "tenants": {"a": {"isolation": "database", "database": "x"}}}
    ).tenants["a"]
    memory.add(tenant.to_tenant("a", "primary"))
    with pytest.raises(ValueError, match="only by case"):
        memory.replace([tenant.to_tenant("b", "primary"), tenant.to_tenant("B", "primary")])
    assert len(memory) == 1
    assert [one.id async for one in file.tenants()] == []
