"""Is the number of a tenant's series bounded over the life of the process, in every scrape and all series together?"""

from __future__ import annotations

from contextlib import AsyncExitStack

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tenantproxy.metrics.exposition import exposition, registry_of
from tenantproxy.metrics.pg import PgCollector
from tenantproxy.metrics.prometheus import RouterCollector
from tenantproxy.router import Router
from tests.support.port_house import a_port
from tests.support.turns import counting_turns
from tests.support.world import World

COUNT = "SELECT count(*) FROM projects"


def labels(text: str, name: str) -> set[str]:
    return {
        sample.labels[name]
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if name in sample.labels
    }


async def test_tenants_come_and_go_and_the_labels_stay_the_first_ones(world: World) -> None:
    names = [tenant.id for tenant in world.tenants]
    seen: set[str] = set()
    async with a_port(world, metrics={"max_tenants": 2}, pools={"max_pools": 2}) as house:
        router = house.router
        collectors = (RouterCollector(router.stats, version="1"), PgCollector(house.port.pg_stats))
        for name in names:
            async with house.a_client(name) as client:
                await client.query(COUNT)
            await router.tenant(name).fetchval(COUNT)
            stats = await router.scrape()
            sliced = exposition(registry_of(RouterCollector(lambda: stats, version="1")), "")[0].decode()  # noqa: B023
            for text in (exposition(registry_of(*collectors), "")[0].decode(), sliced):
                seen |= labels(text, "tenant")
        assert {name for name in seen if not name.startswith("_")} == set(names[:2])
        assert "_other" in seen


async def test_a_scrape_sums_up_what_a_snapshot_lists(world: World) -> None:
    async with Router(world.settings(metrics={"max_tenants": 1})) as router, AsyncExitStack() as held:
        for tenant in world.tenants:  # while they hold something, no sweep forgets them
            await held.enter_async_context(router.tenant(tenant.id).connection())
        scraped, listed = await router.scrape(), router.stats()
        assert [pool.label for pool in scraped.pools] == [pool.label for pool in listed.pools]
        shared = next(pool for pool in scraped.pools if pool.key.shared)
        assert [tenant.tenant for tenant in shared.tenants] == ["row1", "_other"]
        assert [len(pool.tenants) for pool in listed.pools if pool.key.shared] == [2]


async def test_a_snapshot_in_slices_lists_every_tenant_as_one_in_a_step_does(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tenantproxy.parts._TENANTS_A_STEP", 1)
    monkeypatch.setattr("tenantproxy.slices.is_over", lambda _end: True)  # each step is a slice
    async with Router(world.settings(metrics={"max_tenants": 1})) as router:
        for tenant in world.tenants:
            await router.tenant(tenant.id).fetchval(COUNT)
        with counting_turns(lambda: 0) as turns:
            sliced = await router.snapshot()
        assert sliced.pools == router.stats().pools
        assert len(turns.steps) > len(sliced.pools) + 2
