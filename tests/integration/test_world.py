"""Do the tests' own tenants hold what other tests count on?"""

from __future__ import annotations

import asyncpg
import pytest

from tenantproxy.model import Isolation
from tests.support.world import World


async def test_database_and_schema_tenants_hold_only_their_own_projects(each_world: World) -> None:
    for tenant in (*each_world.of(Isolation.SCHEMA), *each_world.of(Isolation.DATABASE)):
        async with each_world.as_role_of(tenant) as conn:
            schema = tenant.placement.schema or "public"
            names = [row["name"] for row in await conn.fetch(f"SELECT name FROM {schema}.projects ORDER BY id")]
        assert names == [f"{tenant.id} {n}" for n in (1, 2, 3)]


async def test_shared_rows_are_not_readable_without_a_tenant(each_world: World) -> None:
    async with each_world.app(each_world.shared) as conn:
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="no valid tenant context"):
            await conn.fetch("SELECT * FROM public.projects")


async def test_the_settings_and_the_registry_name_the_same_tenants(world: World) -> None:
    settings = world.settings(pools={"max_size": 3}, servers={"primary": {"max_connections": 7}})
    assert (settings.pools.max_size, settings.servers["primary"].max_connections) == (3, 7)
    assert set(settings.tenants) == {tenant.id for tenant in world.tenants}
    async with world.app(world.main) as conn:
        registered = await conn.fetch("SELECT id FROM tenantproxy.tenants")
    assert {row["id"] for row in registered} == set(settings.tenants)
    assert world.settings(registry="postgres").tenants == {}
