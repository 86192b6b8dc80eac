"""How does a budget keep to its share? The quota of one server, in each of the ways in which there is one.

No I/O. A `SharedQuota` belongs to one share; `look` is to be called after each answer of main and now and then, since
shares grow old.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tenantproxy.fleet.share import Lease, Orders, Share

__all__ = ["FixedQuota", "SharedQuota"]

_EVERYTHING: Final = 1_000_000


class FixedQuota:
    """A number that does not change: while main has not been asked yet, or cannot be asked."""

    __slots__ = ("limit", "reserve")
    is_of_whole = False

    def __init__(self, limit: int, *, reserve: int = 0) -> None:
        self.limit = limit
        self.reserve = reserve

    def may_open(self, total: int, opening: int) -> bool:
        """See `pools.quota.Quota`."""
        return total < self.limit

    def is_over(self, total: int) -> bool:
        """See `pools.quota.Quota`. What exists is let be."""
        return False

    def excess(self, total: int, closing: int) -> int:
        """See `pools.quota.Quota`."""
        return total - closing - self.limit

    def wants(self) -> None:
        """See `pools.quota.Quota`."""

    def closed(self, total: int) -> None:
        """See `pools.quota.Quota`."""


class SharedQuota:
    """What a share says, less the connections to that server that are no budget's: `own` counts them."""

    __slots__ = ("_clock", "_own", "_share", "_top", "_wants", "is_main")
    is_of_whole = True

    def __init__(
        self,
        share: Share,
        *,
        clock: Callable[[], float],
        own: Callable[[], int],
        wants: Callable[[], None],
        is_main: bool,
    ) -> None:
        self._share = share
        self._clock = clock
        self._own = own
        self._wants = wants
        self.is_main = is_main  # the main database is on this server
        self._top = 0  # connections above it are closed as they become idle; as of the last `look`

    @property
    def limit(self) -> int:
        """See `pools.quota.Quota`."""
        return max(0, self._share.limit - self._own())

    @property
    def reserve(self) -> int:
        """One connection of main's own, where there is more than one at all."""
        return 1 if self.is_main and self.limit > 1 else 0

    def may_open(self, total: int, opening: int) -> bool:
        """See `pools.quota.Quota`."""
        return self._share.may_open(self._clock(), total=total + self._own(), opening=opening)

    def is_over(self, total: int) -> bool:
        """See `pools.quota.Quota`."""
        return self._share.is_over(self._clock(), total=total + self._own())

    def excess(self, total: int, closing: int) -> int:
        """See `pools.quota.Quota`."""
        return total - closing - self._top

    def wants(self) -> None:
        """See `pools.quota.Quota`."""
        self._wants()

    def closed(self, total: int) -> None:
        """See `pools.quota.Quota`."""
        self._share.tighten(total + self._own())
        if self._share.has_to_tell:
            self._wants()

    def look(self, total: int, closing: int) -> Orders:
        """What is to be closed now; idle connections are closed by the budget itself, by `excess`."""
        now, own, share = self._clock(), self._own(), self._share
        allowed = share.allowed(now)
        top = min(allowed, share.target) if share.lease(now) is Lease.FRESH else allowed
        self._top = max(0, top - own)
        orders = share.orders(now, total=total + own, closing=closing)
        return Orders(cancel_used=_EVERYTHING) if orders.close_all else orders
