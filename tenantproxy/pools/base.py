"""What does a pool ask of what it holds and of those who wait, and what does it tell of itself?"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

from tenantproxy.errors import TenantProxyError
from tenantproxy.events import CloseReason, EvictReason, ExhaustCause, OpenReason
from tenantproxy.model import Isolation, PoolKey

__all__ = [
    "AcquireResult",
    "Clock",
    "HistogramSnapshot",
    "PoolStats",
    "ServerStats",
    "Stats",
    "TenantPoolStats",
    "Waiter",
]

C_contra = TypeVar("C_contra", contravariant=True)

Clock = Callable[[], float]
"""Monotonic seconds; injected, so that a test can drive it."""

AcquireResult = Literal["ok", "timeout", "rejected", "cancelled", "error"]


class Waiter(Protocol[C_contra]):
    """Somebody who waits for a connection. Both calls come from the pool and must not re-enter it."""

    def offer(self, conn: C_contra, /) -> bool:
        """Take `conn`; False: gone, offer it to the next."""
        ...

    def fail(self, error: TenantProxyError, /) -> None:
        """Nothing will come: the pool closed, or its server refuses us for a reason that waiting does not mend."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class HistogramSnapshot:
    """Counts in buckets as `events.Histogram` keeps them; `bounds` in seconds."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantPoolStats:
    """One tenant in one pool, now."""

    tenant: str
    leased: int
    waiting: int
    oldest_wait_seconds: float
    max_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolStats:
    """One open pool, now. `label` is the tenant id, or `server/database` for a shared pool and for the main one."""

    key: PoolKey
    label: str
    limit: int
    idle: int
    used: int
    opening: int
    resetting: int
    retiring: int
    waiting: int
    tenants: tuple[TenantPoolStats, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerStats:
    """One server's budget, now. `connections` counts every permit taken, `held` those of peers that fell silent.

    `max_connections` is what the server itself reports (None until a first connection was opened).
    """

    server: str
    connections: int
    limit: int
    held: int
    waiting_pools: int
    up: bool
    max_connections: int | None
    open_seconds: HistogramSnapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """An immutable snapshot of the whole router; counters are monotonic from its start.

    `acquires[tenant][result]` holds the first `metrics.max_tenants` tenants, the rest add to `_other`. `places`: the
    labels of shared pools that have series of their own; None: all.
    """

    pools: tuple[PoolStats, ...]
    servers: tuple[ServerStats, ...]
    pools_limit: int
    acquires: Mapping[str, Mapping[AcquireResult, int]]
    exhaustions: Mapping[ExhaustCause, int]
    acquire_wait: Mapping[Isolation, HistogramSnapshot]
    hold: Mapping[Isolation, HistogramSnapshot]
    closed: Mapping[CloseReason, int]
    opened: Mapping[OpenReason, int]
    evicted: Mapping[EvictReason, int]
    resets: Mapping[str, int]
    violations: Mapping[str, int]
    lookups: Mapping[tuple[str, str], int]
    lookup_seconds: Mapping[str, HistogramSnapshot]
    registry_last_success: float | None
    tenants_unusable: int = 0
    places: Collection[str] | None = None
