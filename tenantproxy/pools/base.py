"""What does a pool ask of what it holds and of those who wait, and what does it tell of itself?"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeVar

from tenantproxy.errors import TenantProxyError
from tenantproxy.events import CloseReason, EvictReason, ExhaustCause, OpenReason
from tenantproxy.model import Isolation, PoolKey

__all__ = [
    "AcquireResult",
    "Clock",
    "HistogramSnapshot",
    "PoolStats",
    "ServerProcess",
    "ServerStats",
    "Stats",
    "TenantPoolStats",
    "Waiter",
]

C_contra = TypeVar("C_contra", contravariant=True)

Clock = Callable[[], float]
"""Monotonic seconds; injected, so that a test can drive it."""

AcquireResult = Literal["ok", "timeout", "rejected", "cancelled", "error"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerProcess:
    """The backend that serves a connection.

    `pid` is 0 where the server had not told it yet; `started` is a moment at which it ran already (the server's clock,
    unix seconds; None: not known), so that a later process of the same id is told from it.
    """

    pid: int = 0
    started: float | None = None


class Waiter(Protocol[C_contra]):
    """A caller that waits for a connection. Both calls come from the pool and must not re-enter it."""

    def offer(self, conn: C_contra, /) -> bool:
        """Take `conn`; False: gone, offer it to the next."""
        ...

    def fail(self, error: TenantProxyError, /) -> None:
        """Nothing will come: the pool closed, or its server refuses us for a reason that waiting does not change."""
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
    """One open pool, now. `label` is the tenant id, or `server/database` for a shared pool and for the main one.

    `lingering`: closed connections whose backends may still run on the server. They are not part of `limit`.
    `unused_seconds`: since something was last leased; the pool of most is the first to be evicted.
    """

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
    lingering: int = 0
    unused_seconds: float = field(default=0.0, compare=False)  # goes on while it is looked at


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerStats:
    """One server's budget, now. `connections` counts every permit taken.

    `lingering` of them belong to closed connections whose backends are not known to be gone.

    `max_connections` is what the server itself reports (None until a first connection was opened). `limit` is what is
    `configured`, or less, where the server allows no more. `host` serves, of those that are configured; `lag`: seconds
    that a replica is behind its primary, where that is measured.
    """

    server: str
    connections: int
    limit: int
    waiting_pools: int
    up: bool
    max_connections: int | None
    open_seconds: HistogramSnapshot
    lingering: int = 0
    configured: int = 0
    host: str = ""
    failovers: int = 0
    lag: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """An immutable snapshot of the whole router; counters are monotonic from its start.

    `acquires[tenant][result]` holds the `metrics.max_tenants` tenants that matter most now, the rest add to `_other`;
    what those counted that are not among them any more is in `former_acquires`: together they make up all that there
    were. So it is with `exhaustions_by_tenant` and `former_exhaustions`; `exhaustions` are of all tenants. `places`:
    the labels of shared pools that have series of their own; None: all. `resets` has "ok" and "failed"; a session that
    was reset and could then not be made a tenant's counts in `bind_failures`.
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
    bind_failures: int = 0
    former_acquires: Mapping[AcquireResult, int] = field(default_factory=dict)
    exhaustions_by_tenant: Mapping[str, Mapping[ExhaustCause, int]] = field(default_factory=dict)
    former_exhaustions: Mapping[ExhaustCause, int] = field(default_factory=dict)
