"""Is a tenant found by the name of its database only where that names exactly this one?"""

from __future__ import annotations

import pytest

from tenantproxy.errors import RegistryUnavailable
from tenantproxy.model import Isolation, Placement, Tenant, TenantId, tenant_id
from tenantproxy.registry import CachedRegistry, MemoryRegistry
from tenantproxy.registry.by_database import ByDatabase


def tenant(name: str, database: str, isolation: Isolation = Isolation.DATABASE, server: str = "primary") -> Tenant:
    schema = name if isolation is Isolation.SCHEMA else None
    place = Placement(isolation=isolation, server=server, database=database, schema=schema)
    return Tenant(id=tenant_id(name), placement=place)


class Counting(MemoryRegistry):
    """Counts how often it was asked for a database; fails while `is_down`."""

    asked = 0
    is_down = False

    async def of_database(self, database: str, /) -> tuple[TenantId, ...]:
        self.asked += 1
        if self.is_down:
            raise RegistryUnavailable("down")
        return await super().of_database(database)


async def found(names: ByDatabase, database: str) -> str | None:
    one = await names.find(database)
    return one.id if one is not None else None


async def test_a_database_that_tenants_share_names_none_of_them() -> None:
    registry = MemoryRegistry(
        [tenant("a", "shared", Isolation.ROW), tenant("b", "shared", Isolation.SCHEMA), tenant("c", "own")]
    )
    names = ByDatabase(CachedRegistry(registry))
    assert await found(names, "shared") is None
    assert await found(names, "own") == "c"


async def test_a_name_that_two_servers_have_names_nobody() -> None:
    registry = MemoryRegistry([tenant("a", "crm"), tenant("b", "crm", server="second")])
    assert await found(ByDatabase(CachedRegistry(registry)), "crm") is None
    registry.remove("b")
    assert await found(ByDatabase(CachedRegistry(registry)), "crm") == "a"


async def test_an_answer_is_remembered_and_what_it_does_not_know_too() -> None:
    registry = Counting([tenant("a", "crm")])
    now = 0.0
    names = ByDatabase(CachedRegistry(registry), ttl=5.0, clock=lambda: now)
    for _ in range(3):
        assert await found(names, "crm") == "a"
        assert await found(names, "erp") is None
    assert registry.asked == 2
    now = 5.1
    assert await found(names, "crm") == "a"
    assert registry.asked == 3


async def test_a_remembered_name_does_not_find_a_tenant_that_has_another_database_by_now() -> None:
    registry = MemoryRegistry([tenant("a", "crm")])
    cached = CachedRegistry(registry)
    await cached.open()
    names = ByDatabase(cached)
    assert await found(names, "crm") == "a"
    registry.add(tenant("a", "crm_2"))
    assert await found(names, "crm") is None
    registry.remove("a")
    assert await found(names, "crm") is None
    await cached.close()


async def test_a_source_that_fails_is_asked_again() -> None:
    registry = Counting([tenant("a", "crm")])
    names = ByDatabase(CachedRegistry(registry))
    registry.is_down = True
    with pytest.raises(RegistryUnavailable):
        await names.find("crm")
    registry.is_down = False
    assert await found(names, "crm") == "a"


async def test_what_is_remembered_is_bounded() -> None:
    registry = Counting()
    names = ByDatabase(CachedRegistry(registry), max_entries=10)
    for number in range(100):
        await names.find(f"made_up_{number}")
    await names.find("made_up_0")
    assert registry.asked == 101
