"""Which replica does a tenant read from? The same in every process, and few tenants move when there is one more."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter

from tenantproxy.model import tenant_id
from tenantproxy.routes import _preferred

TENANTS = [tenant_id(f"tenant{n}") for n in range(1000)]


def choices(replicas: list[str]) -> dict[str, str]:
    return {tenant: _preferred(tenant, replicas)[0] for tenant in TENANTS}


def test_every_process_chooses_the_same_replica_for_a_tenant() -> None:
    code = "from tenantproxy.routes import _preferred\nprint([_preferred(f't{n}', ['a', 'b', 'c']) for n in range(20)])"
    seen = {
        subprocess.run(
            [sys.executable, "-c", code], env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(seen) == 1


def test_the_order_in_which_replicas_are_written_does_not_matter() -> None:
    assert choices(["a", "b", "c"]) == choices(["c", "a", "b"])


def test_one_more_replica_moves_only_the_tenants_that_it_takes_over() -> None:
    before, after = choices(["a", "b", "c"]), choices(["a", "b", "c", "d"])
    moved = {tenant for tenant in before if before[tenant] != after[tenant]}
    assert {after[tenant] for tenant in moved} == {"d"}
    assert 150 < len(moved) < 350  # a quarter


def test_tenants_spread_evenly_over_replicas() -> None:
    assert all(250 < count < 420 for count in Counter(choices(["a", "b", "c"]).values()).values())
