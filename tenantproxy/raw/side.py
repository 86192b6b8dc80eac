"""What leases raw backends in addition to a router's own connections? Matching pools, connector and lender."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tenantproxy.config import Settings
from tenantproxy.connect.hosts import Hosts
from tenantproxy.events import Observer
from tenantproxy.pools.base import Clock
from tenantproxy.pools.budget import ServerBudget
from tenantproxy.pools.counters import Counters
from tenantproxy.pools.manager import ManagerSettings, PoolManager
from tenantproxy.raw.backend import RawBackend
from tenantproxy.raw.connector import RawConnector
from tenantproxy.raw.lender import RawLender
from tenantproxy.watch import Watch

__all__ = ["new_raw_side"]


def new_raw_side(
    settings: Settings,
    budgets: Mapping[str, ServerBudget],
    counters: Counters,
    clock: Clock,
    observer: Observer,
    *,
    family: list[PoolManager[Any]] | None = None,
    hosts: Mapping[str, Hosts] | None = None,
    limits: ManagerSettings | None = None,
    watch: Watch | None = None,
) -> tuple[PoolManager[RawBackend], RawLender, RawConnector]:
    """Create them under the budgets and counters of a router, next to the managers of its `family`.

    `limits`: what the pools keep to, in place of `[pools]` of the settings.
    """
    connector = RawConnector(settings, observer=observer, violations=counters.violations, hosts=hosts)
    manager: PoolManager[RawBackend] = PoolManager(
        budgets=budgets,
        settings=limits or settings.pools,
        connector=connector,
        clock=clock,
        observer=observer,
        counters=counters,
        family=family,
    )
    lender = RawLender(
        connector,
        counters=counters,
        observer=observer,
        clock=clock,
        acquire_timeout=settings.pools.acquire_timeout,
        proof_window=settings.row.proof_window,
        watch=watch,
    )
    connector.reset = lender.begin_reset
    return manager, lender, connector
