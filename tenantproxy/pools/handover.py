"""Who gets a connection that no caller has? The next waiter in turn, another pool, or none: then it is idle.

Changed by the pool alone. What a connection was used for is settled before it comes here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Generic, TypeVar

from tenantproxy.events import CloseReason
from tenantproxy.model import TenantId
from tenantproxy.pools.context import PoolContext
from tenantproxy.pools.endings import Endings
from tenantproxy.pools.queue import Turn
from tenantproxy.pools.resets import Resets
from tenantproxy.pools.slots import Slot, State
from tenantproxy.pools.state import PoolState

if TYPE_CHECKING:
    from tenantproxy.pools.pool import Pool

__all__ = ["Handover"]

C = TypeVar("C")

_STREAK: Final = 4  # leases that a connection may stay with its tenant while others wait
_IDLE: Final = State.IDLE  # to look them up costs, in what is done for each lease
_USED: Final = State.USED


class Handover(Generic[C]):
    """Gives the connections of one pool to its waiters.

    Invariant, after each call: no waiter that may be served waits while an idle connection could serve it.
    """

    __slots__ = (
        "_budget", "_clock", "_connector", "_counters", "_endings", "_idle", "_pool", "_resets", "_state", "_turns",
    )  # fmt: skip

    def __init__(
        self,
        pool: Pool[C],
        state: PoolState[C],
        context: PoolContext[C],
        *,
        endings: Endings[C],
        resets: Resets[C],
    ) -> None:
        self._pool = pool
        self._state = state
        self._idle = state.idle
        self._turns = state.turns
        self._budget = pool.budget
        self._clock = context.clock
        self._connector = context.connector
        self._counters = context.counters
        self._endings = endings
        self._resets = resets

    def place(self, slot: Slot[C], now: float) -> None:
        """Hand `slot`, which is in no state, to the next waiter; without one it becomes idle."""
        pool, state, budget = self._pool, self._state, self._budget
        if pool.is_closed or slot.retire_on_release or len(state.slots) - state.retiring > state.limit:
            self.replace(slot, pool.closed_for or "evicted")
        elif now >= slot.expires_at:
            self.replace(slot, "lifetime")
        elif budget.is_pressed and self._must_yield(slot):
            self.replace(slot, "evicted")
        elif not (self._turns.waiting and self._hand_over(slot, now)):
            slot.state = _IDLE
            slot.since = now
            if not self._idle.all:
                budget.is_idle(pool, idle=True)
            self._idle.add(slot)
            if budget.is_pressed:
                budget.reclaim()

    def replace(self, slot: Slot[C], reason: CloseReason) -> None:
        """Close a connection, and serve waiters with others: its end may take seconds."""
        self._endings.begin(slot, reason)
        if self._turns.waiting:
            self.serve_waiters()

    def serve_waiters(self) -> None:
        """Lend what is idle, and open what is needed."""
        if self._idle.all and self._turns.waiting:
            self.lend_idle()
        self._pool.refill()

    def lend_idle(self) -> None:
        """Serve waiters that were at their tenant's limit until now, while connections were idle."""
        while self._idle.all and (turn := self._turns.peek()) is not None:
            is_ready = self._connector.reset is None or self._idle.has_of(turn.tenant) or self._idle.has_of(None)
            if not is_ready and self._state.unserved <= 0:
                return  # enough are being reset for those who wait
            slot = self._idle.take(turn.tenant)
            if not self._idle.all:
                self._budget.is_idle(self._pool, idle=False)
            if self._connector.is_usable(slot.conn):
                self.place(slot, self._clock())
            else:
                self._endings.found_dead(slot)

    def reset_idle(self, now: float) -> None:
        """Begin to reset as many idle connections as waiters need that cannot have them as they are."""
        while self._idle.all and self._state.unserved > 0:
            slot = next(iter(self._idle))
            self._endings.unidle(slot)
            if not self._connector.is_usable(slot.conn):
                self._endings.found_dead(slot)
                continue
            self.place(slot, now)
            if slot.conn in self._idle:
                return

    def next_turn(self, slot: Slot[C], bound_to: TenantId | None) -> Turn[C] | None:
        """Next tenant to serve with `slot`: the one whose reset made it ready, whose turn it was when that began.

        It may stay with its tenant for a few turns to avoid rebinding.
        """
        if slot.streak < 0:
            own = self._turns.eligible_of(bound_to)
            if own is not None:
                return own
        return self._turns.prefer(bound_to) if slot.streak < _STREAK else self._turns.peek()

    def _must_yield(self, slot: Slot[C]) -> bool:
        turn = self._turns.peek()
        return turn is not None and self._budget.should_yield(self._pool, slot.opened_at, next_holds=turn.leased)

    def _hand_over(self, slot: Slot[C], now: float) -> bool:
        while (turn := self.next_turn(slot, slot.bound_to)) is not None:
            if slot.bound_to is not None and slot.bound_to != turn.tenant and self._resets.begin_first(slot, now):
                return True
            ticket = self._turns.next(turn)
            assert ticket is not None
            turn.leased += 1
            slot.streak = slot.streak + 1 if turn.tenant == slot.bound_to else 0
            slot.turn = turn
            slot.state = _USED
            slot.since = now
            if ticket.waiter.offer(slot.conn):
                turn.acquired += 1
                self._pool.last_used = now
                self._turns.refresh(turn)
                if self._budget.contended and self._pool.need <= 0:
                    self._budget.unwant(self._pool)
                return True
            self._counters.count(turn.tenant, "cancelled")
            self._state.discharge(slot)
            self._turns.refresh(turn)
        return False
