"""Whose turn is it? One FIFO of waiters per tenant, tenants served in turn, each within its own limits.

With one FIFO for all, a flooding tenant takes everybody's latency; with quota and turns only its own.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator
from typing import Generic, TypeVar

from tenantproxy.model import TenantId
from tenantproxy.pools.base import AcquireResult, Waiter

__all__ = ["AcquireCounts", "Ticket", "Turn", "Turns"]

C = TypeVar("C")

AcquireCounts = dict[AcquireResult, int]
"""How the acquires of a tenant ended; outlives pools, so that counters never go backwards."""


class Ticket(Generic[C]):
    """A place in a tenant's queue. `since` is when the wait began."""

    __slots__ = ("since", "turn", "waiter")

    def __init__(self, turn: Turn[C], waiter: Waiter[C], since: float) -> None:
        self.turn = turn
        self.waiter = waiter
        self.since = since


class Turn(Generic[C]):
    """One tenant in one pool: what it holds, who waits, what it may.

    Only `Turns` and the pool change it. Invariant: it is in the ring when somebody waits and `leased < max_size`.
    """

    __slots__ = ("counts", "in_ring", "leased", "max_size", "max_waiting", "tenant", "waiting")

    def __init__(self, tenant: TenantId, *, max_size: int, max_waiting: int, counts: AcquireCounts) -> None:
        self.tenant = tenant
        self.max_size = max_size
        self.max_waiting = max_waiting
        self.counts = counts
        self.leased = 0
        self.waiting: OrderedDict[Ticket[C], None] = OrderedDict()  # FIFO with removal from anywhere
        self.in_ring = False

    @property
    def oldest_since(self) -> float | None:
        """When the wait of the first in the queue began."""
        return next(iter(self.waiting)).since if self.waiting else None


class Turns(Generic[C]):
    """The tenants of one pool."""

    __slots__ = ("_by_tenant", "_ring", "waiting")

    def __init__(self) -> None:
        self._by_tenant: dict[TenantId, Turn[C]] = {}
        self._ring: deque[Turn[C]] = deque()
        self.waiting = 0  # tickets in all queues

    def get(self, tenant: TenantId) -> Turn[C] | None:
        """The turn of `tenant`, if it has one."""
        return self._by_tenant.get(tenant)

    def add(self, turn: Turn[C]) -> None:
        """A tenant comes to this pool."""
        self._by_tenant[turn.tenant] = turn

    def __iter__(self) -> Iterator[Turn[C]]:
        return iter(self._by_tenant.values())

    def purge(self) -> None:
        """Forget tenants that hold nothing and wait for nothing."""
        for turn in [turn for turn in self._by_tenant.values() if not turn.leased and not turn.waiting]:
            del self._by_tenant[turn.tenant]

    def enqueue(self, ticket: Ticket[C]) -> None:
        """Put a waiter at the end of its tenant's queue."""
        ticket.turn.waiting[ticket] = None
        self.waiting += 1
        self.refresh(ticket.turn)

    def cancel(self, ticket: Ticket[C]) -> bool:
        """Take a waiter out; False when it is not in the queue any more."""
        if ticket not in ticket.turn.waiting:
            return False
        del ticket.turn.waiting[ticket]
        self.waiting -= 1
        self.refresh(ticket.turn)
        return True

    def refresh(self, turn: Turn[C]) -> None:
        """Restore the invariant after a change of `turn`. Leaving the ring is the business of `next`."""
        if not turn.in_ring and turn.waiting and turn.leased < turn.max_size:
            turn.in_ring = True
            self._ring.append(turn)

    def peek(self) -> Turn[C] | None:
        """Whose turn is next, None when nobody waits who may have one more."""
        ring = self._ring
        while ring:
            turn = ring[0]
            if turn.waiting and turn.leased < turn.max_size:
                return turn
            ring.popleft()
            turn.in_ring = False
        return None

    def next(self) -> Ticket[C] | None:
        """Take the next waiter out of its queue, and give its tenant's turn to the one behind."""
        turn = self.peek()
        if turn is None:
            return None
        ticket, _ = turn.waiting.popitem(last=False)
        self.waiting -= 1
        self._ring.popleft()
        turn.in_ring = False
        return ticket

    def eligible(self) -> int:
        """How many of those who wait may be served within their tenants' limits."""
        if not self._ring:
            return 0
        return sum(
            min(len(turn.waiting), turn.max_size - turn.leased) for turn in self._ring if turn.leased < turn.max_size
        )

    def anyone_below(self, guaranteed: int) -> bool:
        """Whether a tenant waits that holds fewer than `guaranteed`."""
        return any(turn.waiting and turn.leased < guaranteed for turn in self._ring)

    def drain(self) -> Iterator[Ticket[C]]:
        """Empty all queues."""
        for turn in self._by_tenant.values():
            while turn.waiting:
                ticket, _ = turn.waiting.popitem(last=False)
                self.waiting -= 1
                yield ticket
            turn.in_ring = False
        self._ring.clear()
