"""What is a pool told and what does it use? The connector, settings, clock and counters of all pools of a manager."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from tenantproxy.errors import LeaseExpired
from tenantproxy.events import Observer
from tenantproxy.pools.base import Clock
from tenantproxy.pools.counters import Counters
from tenantproxy.pools.presence import Presence

if TYPE_CHECKING:
    from tenantproxy.pools.pool import Pool

__all__ = ["Connector", "PoolContext", "PoolSettings"]

C = TypeVar("C")


class Connector(Protocol[C]):
    """Who opens and ends connections. All calls return at once; the answers come to the pool later."""

    @property
    def reset(self) -> Callable[[C], None] | None:
        """Begins to reset a connection that another tenant left, for the next caller; answered as `resetting` is.

        None: the lender resets such a connection on the next lease.
        """
        ...

    def open(self, pool: Pool[C]) -> None:
        """Begin a connect; answer with `pool.opened(conn)` or `pool.open_failed(...)`. Never cancelled by a waiter."""
        ...

    def retire(self, pool: Pool[C], conn: C) -> None:
        """End `conn`, a busy one by cancelling first; answer with `pool.retired` when its server side is gone.

        A server side that stays silent is left, and told as lingering.
        """
        ...

    def expire(self, conn: C, error: LeaseExpired) -> None:
        """The lease of `conn` is over for `error`, which its holder has to hear: `retire` follows."""
        ...

    def is_usable(self, conn: C) -> bool:
        """Whether `conn` is not known to be dead. No I/O."""
        ...

    def later(self, delay: float, call: Callable[[], None]) -> None:
        """Call `call` after `delay` seconds."""
        ...


class PoolSettings(Protocol):
    """What a pool is told; the same object for all pools."""

    @property
    def max_size(self) -> int:
        """Leases of one tenant."""
        ...

    @property
    def shared_size(self) -> int:
        """Connections of a pool that tenants share."""
        ...

    @property
    def max_waiting(self) -> int:
        """Waiters of one tenant."""
        ...

    @property
    def idle_timeout(self) -> float:
        """Seconds after which an idle connection is closed."""
        ...

    @property
    def max_lifetime(self) -> float:
        """Seconds after which a connection is closed."""
        ...

    @property
    def max_hold(self) -> float:
        """Seconds that a lease may last while others wait; 0: no limit."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolContext(Generic[C]):
    """What the pools of one manager have in common."""

    connector: Connector[C]
    settings: PoolSettings
    clock: Clock
    observer: Observer
    counters: Counters
    presence: Presence[C]
