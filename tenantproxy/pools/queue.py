"""Whose turn is it? One FIFO of waiters per tenant, tenants served in turn, each within its own limits.

With one FIFO for all, a flooding tenant spoils the latency of all; with quota and turns only its own. There are two
rings of turns: tenants that hold fewer than the guaranteed number are served before those that hold more.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Generic, TypeVar

from tenantproxy.model import Limits, TenantId
from tenantproxy.pools.base import Waiter

__all__ = ["Ticket", "Turn", "Turns"]

C = TypeVar("C")


class Ticket(Generic[C]):
    """A place in a tenant's queue. `since` is when the wait began."""

    __slots__ = ("since", "turn", "waiter")

    def __init__(self, turn: Turn[C], waiter: Waiter[C], since: float) -> None:
        self.turn = turn
        self.waiter = waiter
        self.since = since


class Turn(Generic[C]):
    """One tenant in one pool: what it holds, who waits, what it may.

    Only `Turns` and the pool change it. Invariant: it is in a ring exactly when there are waiters; it may be served
    while `leased < ceiling`.
    """

    __slots__ = (
        "acquired",
        "aimed",
        "ceiling",
        "coming",
        "leased",
        "limits",
        "lingering",
        "max_size",
        "max_waiting",
        "returning",
        "ring",
        "tenant",
        "waiting",
    )

    def __init__(self, tenant: TenantId, *, limits: Limits, max_size: int, max_waiting: int) -> None:
        self.tenant = tenant
        self.limits = limits  # of which the two below were made
        self.max_size = max_size
        self.max_waiting = max_waiting
        self.acquired = 0  # leases that are not in the counters yet: one addition is all that each costs
        self.leased = 0  # connections charged to it: lent, and those of `returning`
        self.returning = 0  # released and not usable yet: being reset, being closed, or lingering on the server
        self.coming = 0  # of them those whose reset is expected to end soon
        self.aimed = 0  # connections whose reset makes them its own, for those who wait
        self.lingering = 0  # of them those that were closed and whose backends may still run
        self.ceiling = max_size  # what `leased` may reach
        self.waiting: OrderedDict[Ticket[C], None] = OrderedDict()  # FIFO with removal from anywhere
        self.ring: Ring[C] | None = None  # where it stands

    def linger(self, change: int) -> None:
        """One more, or one less, lingers. A tenant that has half of its limit so gets no connection meanwhile."""
        self.lingering += change
        self.ceiling = self.max_size if 2 * self.lingering < self.max_size else 0

    @property
    def oldest_since(self) -> float | None:
        """When the wait of the first in the queue began."""
        return next(iter(self.waiting)).since if self.waiting else None


Ring = OrderedDict[Turn[C], None]
"""Turns in the order in which they come round, with removal from anywhere."""


class Turns(Generic[C]):
    """The tenants of one pool. Those below `guaranteed` leases come first.

    `came` and `went` are told of each tenant.
    """

    __slots__ = ("_below", "_came", "_full", "_guaranteed", "_ring", "_went", "by_tenant", "waiting")

    def __init__(
        self,
        guaranteed: int,
        *,
        came: Callable[[TenantId], None] = lambda tenant: None,
        went: Callable[[TenantId], None] = lambda tenant: None,
    ) -> None:
        self._guaranteed = guaranteed
        self._came = came
        self._went = went
        self.by_tenant: dict[TenantId, Turn[C]] = {}
        self._below: Ring[C] = OrderedDict()  # of those who hold fewer than guaranteed
        self._ring: Ring[C] = OrderedDict()  # of the others
        self._full: Ring[C] = OrderedDict()  # of those at their limit: not served
        self.waiting = 0  # tickets in all queues

    def get(self, tenant: TenantId) -> Turn[C] | None:
        """The turn of `tenant`, if it has one."""
        return self.by_tenant.get(tenant)

    def add(self, turn: Turn[C]) -> None:
        """A tenant comes to this pool."""
        self.by_tenant[turn.tenant] = turn
        self._came(turn.tenant)

    def __iter__(self) -> Iterator[Turn[C]]:
        return iter(self.by_tenant.values())

    def purge(self) -> None:
        """Forget tenants that hold nothing and wait for nothing."""
        for turn in [turn for turn in self.by_tenant.values() if not turn.leased and not turn.waiting]:
            del self.by_tenant[turn.tenant]
            self._went(turn.tenant)

    def leave(self) -> None:
        """The pool has ended: none of its tenants is here any more."""
        for tenant in self.by_tenant:
            self._went(tenant)
        self.by_tenant.clear()

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
        """Restore the invariant after a change of `turn`; who comes to a ring stands at its end."""
        ring: Ring[C] | None = None
        if turn.waiting:
            if turn.leased >= turn.ceiling:
                ring = self._full
            else:
                ring = self._below if turn.leased < self._guaranteed else self._ring
        if ring is not turn.ring:
            self._leave_ring(turn)
            if ring is not None:
                ring[turn] = None
                turn.ring = ring

    def _leave_ring(self, turn: Turn[C]) -> None:
        if turn.ring is not None:
            del turn.ring[turn]
            turn.ring = None

    def peek(self) -> Turn[C] | None:
        """Whose turn is next, None when no waiter may have one more."""
        return next(iter(self._below or self._ring), None)

    def prefer(self, tenant: TenantId | None) -> Turn[C] | None:
        """As `peek`, but `tenant` where it waits too and holds no more than the one whose turn it is."""
        turn = self.peek()
        if turn is None or tenant is None or turn.tenant == tenant:
            return turn
        own = self.eligible_of(tenant)
        return own if own is not None and own.leased <= turn.leased else turn

    def eligible_of(self, tenant: TenantId | None) -> Turn[C] | None:
        """The turn of `tenant` when it waits and may have one more."""
        own = self.by_tenant.get(tenant) if tenant is not None else None
        return own if own is not None and own.ring is not None and own.ring is not self._full else None

    def unaimed(self) -> Turn[C] | None:
        """Who comes next of those who wait and have no connection aimed at them; each tenant's first one first."""
        turns = chain(self._below, self._ring)
        first = next((turn for turn in turns if not turn.aimed), None)
        if first is not None:
            return first
        turns = chain(self._below, self._ring)
        return next((turn for turn in turns if turn.aimed < min(len(turn.waiting), turn.ceiling - turn.leased)), None)

    def next(self, turn: Turn[C] | None = None) -> Ticket[C] | None:
        """Take the first waiter of `turn` (None: `peek`) out of its queue; its tenant goes to the end of its ring."""
        turn = turn or self.peek()
        if turn is None:
            return None
        ticket, _ = turn.waiting.popitem(last=False)
        self.waiting -= 1
        self._leave_ring(turn)
        return ticket

    def eligible(self, most: int) -> int:
        """How many waiters may be served within their tenants' limits, once the resets under way are over.

        Counted up to `most`.
        """
        count = 0
        for turn in chain(self._below, self._ring, self._full):
            count += max(0, min(len(turn.waiting), turn.ceiling - turn.leased + turn.coming))
            if count >= most:
                return most
        return count

    @property
    def below(self) -> int:
        """How many tenants wait that hold fewer than guaranteed."""
        return len(self._below)

    def drain(self) -> Iterator[Ticket[C]]:
        """Empty all queues."""
        for turn in self.by_tenant.values():
            while turn.waiting:
                ticket, _ = turn.waiting.popitem(last=False)
                self.waiting -= 1
                yield ticket
            self._leave_ring(turn)
