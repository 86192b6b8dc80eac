"""In which pools is each tenant? So that what ends a tenant looks at its own pools, however many are open.

Changed by the pools' turns alone: one comes when a tenant first asks there, and goes when it is forgotten.
"""

from __future__ import annotations

from collections.abc import KeysView
from typing import TYPE_CHECKING, Generic, TypeVar

from tenantproxy.model import TenantId

if TYPE_CHECKING:
    from tenantproxy.pools.pool import Pool

__all__ = ["Presence"]

C = TypeVar("C")


class Presence(Generic[C]):
    """The pools of one manager, open or closing, that have a turn for a tenant. A tenant is in few."""

    __slots__ = ("_pools",)

    def __init__(self) -> None:
        self._pools: dict[TenantId, tuple[Pool[C], ...]] = {}

    def come(self, tenant: TenantId, pool: Pool[C]) -> None:
        """`pool` has a turn for it from now on."""
        self._pools[tenant] = (*self._pools.get(tenant, ()), pool)

    def go(self, tenant: TenantId, pool: Pool[C]) -> None:
        """`pool` has none any more."""
        left = tuple(each for each in self._pools.get(tenant, ()) if each is not pool)
        if left:
            self._pools[tenant] = left
        else:
            self._pools.pop(tenant, None)

    def of(self, tenant: TenantId) -> tuple[Pool[C], ...]:
        """Where it holds or waits for something, or did a moment ago."""
        return self._pools.get(tenant, ())

    def clear(self) -> None:
        """Forget all."""
        self._pools.clear()

    @property
    def tenants(self) -> KeysView[TenantId]:
        """Those that are in any pool."""
        return self._pools.keys()
