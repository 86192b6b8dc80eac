"""Does an entry of the registry that cannot be used say so everywhere, and not just vanish?"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tenantproxy import Router
from tenantproxy.events import Event, TenantUnusable
from tenantproxy.metrics.exposition import exposition, registry_of
from tenantproxy.metrics.prometheus import RouterCollector
from tenantproxy.registry import TenantMisconfigured, unusable
from tests.e2e.conftest import Command
from tests.support.world import World


async def break_two(world: World) -> None:
    async with world.main.connect() as admin:
        await admin.execute("UPDATE tenantproxy.tenants SET server = 'elsewhere' WHERE id IN ('row1', 'row2')")


async def test_a_listing_says_how_many_entries_it_left_out_and_why(
    world: World, command: Command, tmp_path: Path
) -> None:
    config = tmp_path / "tenantproxy.toml"
    config.write_text(world.toml())
    await break_two(world)
    listed = command("tenants", "list", "--json", "--config", str(config))
    assert listed.returncode == 0
    assert [row["id"] for row in json.loads(listed.stdout)] == ["database1", "database2", "schema1", "schema2"]
    assert "not listed: 2 that cannot be used" in listed.stderr
    assert "--unusable" in listed.stderr
    told = command("tenants", "list", "--unusable", "--json", "--config", str(config))
    rows = json.loads(told.stdout)
    assert [row["id"] for row in rows] == ["row1", "row2"]
    assert "column server: names 'elsewhere'" in rows[0]["reason"]


async def test_a_listing_of_good_entries_says_nothing_more(world: World, command: Command, tmp_path: Path) -> None:
    config = tmp_path / "tenantproxy.toml"
    config.write_text(world.toml())
    listed = command("tenants", "list", "--config", str(config))
    assert (listed.returncode, listed.stderr) == (0, "")
    assert "every entry can be used" in command("tenants", "list", "--unusable", "--config", str(config)).stderr


async def test_an_unusable_entry_is_told_once_for_each_reason_and_counted(world: World) -> None:
    await break_two(world)
    events: list[Event] = []
    settings = world.settings(registry="postgres")
    async with Router(settings, observer=events.append) as router:
        for _ in range(3):
            assert sorted(await unusable(router.registry)) == ["row1", "row2"]
            for name in ("row1", "row2"):
                with pytest.raises(TenantMisconfigured, match="column server"):
                    await router.tenant(name).fetchval("SELECT 1")
                router.registry.invalidate(name)
        told = [event for event in events if isinstance(event, TenantUnusable)]
        assert sorted(event.tenant for event in told) == ["row1", "row2"]
        text = exposition(registry_of(RouterCollector(router.stats, version="1")), "")[0].decode()
        assert "tenantproxy_tenants_unusable 2.0" in text
        async with world.main.connect() as admin:
            await admin.execute("UPDATE tenantproxy.tenants SET server = NULL")
        assert await unusable(router.registry) == {}
        assert router.stats().tenants_unusable == 0
