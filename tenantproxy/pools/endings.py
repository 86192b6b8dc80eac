"""How does a connection leave its pool, and what counts until its backend is gone? Changed by the pool alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Generic, TypeVar

from tenantproxy.events import BackendLingers, CloseReason, ConnectionClosed
from tenantproxy.pools.base import ServerProcess
from tenantproxy.pools.context import PoolContext
from tenantproxy.pools.lingering import Lingering
from tenantproxy.pools.queue import Turn
from tenantproxy.pools.slots import Slot, State
from tenantproxy.pools.state import PoolState

if TYPE_CHECKING:
    from tenantproxy.pools.pool import Pool

__all__ = ["Endings"]

C = TypeVar("C")


class Endings(Generic[C]):
    """Ends the connections of one pool, and keeps what they count for. Serves no waiter: its caller does."""

    __slots__ = ("_budget", "_clock", "_closed_counts", "_connector", "_observer", "_pool", "_state")

    def __init__(self, pool: Pool[C], state: PoolState[C], context: PoolContext[C]) -> None:
        self._pool = pool
        self._state = state
        self._budget = pool.budget
        self._clock = context.clock
        self._connector = context.connector
        self._observer = context.observer
        self._closed_counts = context.counters.closed

    # --- idle connections --------------------------------------------------------------------------------------------
    def unidle(self, slot: Slot[C]) -> None:
        """`slot` is not idle any more; the caller decides what it is instead."""
        self._state.idle.remove(slot)
        if not self._state.idle.all:
            self._budget.is_idle(self._pool, idle=False)

    def end_idle(self, slot: Slot[C], reason: CloseReason) -> None:
        """Close an idle connection."""
        self.unidle(slot)
        self.begin(slot, reason)

    def found_dead(self, slot: Slot[C]) -> None:
        """`slot`, just taken from the idle ones, is dead: so, most likely, is every idle one opened before it."""
        self.begin(slot, "error")
        for other in [other for other in self._state.idle if other.opened_at <= slot.opened_at]:
            self.end_idle(other, "error")

    def sweep_idle(self, now: float, idle_timeout: float) -> None:
        """Close idle connections that are dead, too old, or idle for too long."""
        idle = self._state.idle
        for slot in list(idle):
            if slot.conn not in idle:
                continue  # an older one was found dead, and this one was closed with it
            if slot.since <= now - idle_timeout:
                self.end_idle(slot, "idle")
            elif now >= slot.expires_at:
                self.end_idle(slot, "lifetime")
            elif not self._connector.is_usable(slot.conn):
                self.unidle(slot)
                self.found_dead(slot)

    def expire(self) -> list[C]:
        """Close the idle connections now, mark the others to be closed when they are released; which they all are."""
        slots = list(self._state.slots.values())
        for slot in slots:
            if slot.state is State.IDLE:
                self.end_idle(slot, "evicted")
            else:
                slot.retire_on_release = True
        return [slot.conn for slot in slots]

    # --- any connection ----------------------------------------------------------------------------------------------
    def begin(self, slot: Slot[C], reason: CloseReason) -> None:
        """Close `slot`, which is counted in no other state any more. Answered with `Pool.retired`."""
        slot.state = State.RETIRING
        self._state.retiring += 1
        self._budget.closing += 1
        self._closed_counts[reason] += 1
        self._observer(ConnectionClosed(server=self._pool.key.server, pool=self._pool.label, reason=reason))
        if reason == "error":
            self._budget.doubted()
        self._connector.retire(self._pool, slot.conn)

    def over(self, conn: C) -> Slot[C]:
        """`conn` is closed. Its permit and what it counts for are still taken: `free` them, or let it `linger`."""
        slot = self._state.slots.pop(conn)
        assert slot.state is State.RETIRING, slot.state
        self._state.retiring -= 1
        self._budget.closing -= 1
        return slot

    def free(self, slot: Slot[C]) -> None:
        """The backend of `slot` is gone: its tenant and the budget may have another one."""
        if slot.turn is not None:
            slot.turn.returning -= 1
        self._state.discharge(slot)
        self._budget.give_back(self._pool)

    def linger(self, process: ServerProcess, slot: Slot[C] | None, then: Callable[[], None]) -> Lingering:
        """The backend of `slot` (None: of a failed connect) may still run: keep what it counts for until it is gone.

        `then` is called when it is.
        """
        turn = slot.turn if slot is not None else None
        self._state.lingering += 1
        if turn is not None:
            turn.linger(+1)
            self._state.turns.refresh(turn)

        def release() -> None:
            self._state.lingering -= 1
            if slot is not None and turn is not None:
                turn.linger(-1)
                turn.returning -= 1
                self._state.discharge(slot)
            self._budget.give_back(self._pool)
            then()

        one = Lingering(process, key=self._pool.key, since=self._clock(), release=release)
        tenant = turn.tenant if turn is not None else ""
        server, pool = self._pool.key.server, self._pool.label
        self._observer(BackendLingers(server=server, pool=pool, tenant=tenant, pid=process.pid))
        self._budget.linger(one)
        return one

    # --- leases ------------------------------------------------------------------------------------------------------
    def longest_leases(self, most: int) -> list[tuple[Slot[C], Turn[C]]]:
        """At most so many leases, longest first."""
        used = [(slot, slot.turn) for slot in self._state.slots.values() if slot.state is State.USED]
        found = [(slot, turn) for slot, turn in used if turn is not None]
        return sorted(found, key=lambda each: each[0].since)[:most]

    def long_leases(self, now: float, max_hold: float) -> Iterator[tuple[Slot[C], Turn[C]]]:
        """Leases to end as they last longer than `max_hold` seconds, longest first: one for each waiter they block.

        Never those of the main database: what listens there holds a connection all the time. Each must be ended before
        the next is asked for.
        """
        if self._pool.is_main:
            return
        turns = self._state.turns
        elsewhere = sum(pool is not self._pool for pool in self._budget.wanting) - self._budget.closing
        wanted = turns.waiting + max(0, elsewhere)
        if not wanted:
            return
        slots = self._state.slots.values()
        long = [slot for slot in slots if slot.state is State.USED and now - slot.since > max_hold]
        for slot in sorted(long, key=lambda each: each.since)[:wanted]:
            turn = slot.turn
            assert turn is not None
            # A tenant at its own limit waits for its own leases alone.
            if turn.waiting or elsewhere > 0 or turns.peek() is not None:
                yield slot, turn
