"""Does `/v1/pools` tell of every pool and tenant, and let others run between them?"""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from tenantproxy.model import PoolKey
from tenantproxy.pools.base import PoolStats, Stats, TenantPoolStats
from tenantproxy.sidecar.admin import pools_json
from tests.support.turns import counting_turns


def tenant(name: str) -> TenantPoolStats:
    return TenantPoolStats(tenant=name, leased=1, waiting=2, oldest_wait_seconds=0.25, max_size=3)


def pool(label: str, *tenants: TenantPoolStats) -> PoolStats:
    key = PoolKey(server="one", database=label, user="app")
    return PoolStats(
        key=key, label=label, limit=4, idle=1, used=2, opening=0, resetting=0, retiring=0, waiting=2, tenants=tenants
    )


def stats(*pools: PoolStats) -> Stats:
    return Stats(
        pools=pools, servers=(), pools_limit=7, acquires={}, exhaustions={}, acquire_wait={}, hold={}, closed={},
        opened={}, evicted={}, resets={}, violations={}, lookups={}, lookup_seconds={}, registry_last_success=None,
    )  # fmt: skip


@pytest.mark.parametrize("count", [0, 1, 3])
async def test_it_holds_every_figure_of_every_pool_and_tenant(count: int) -> None:
    pools = [pool(f"t{number}", *(tenant(f'"{each}"') for each in range(number))) for number in range(count)]
    told = json.loads(await pools_json(stats(*pools)))
    expected = [asdict(each) for each in pools]
    for each in expected:
        each["key"] = {name: value for name, value in each["key"].items() if not name.startswith("_")}
    assert told == json.loads(json.dumps({"pools": expected, "limit": 7}))


@pytest.mark.parametrize(("pools", "tenants"), [(300, 1), (1, 300)])
async def test_few_pools_and_tenants_are_written_in_one_turn_of_the_event_loop(
    monkeypatch: pytest.MonkeyPatch, pools: int, tenants: int
) -> None:
    monkeypatch.setattr("tenantproxy.slices.is_over", lambda _end: True)  # each step is a slice
    written = 0
    dumps = json.dumps

    def counted(value: object) -> str:
        nonlocal written
        written += 1
        return dumps(value)

    monkeypatch.setattr(json, "dumps", counted)
    found = stats(*(pool(f"t{number}", *(tenant(str(each)) for each in range(tenants))) for number in range(pools)))
    with counting_turns(lambda: written) as turns:
        await pools_json(found)
    assert written == pools * (1 + tenants)
    assert turns.most <= 2
