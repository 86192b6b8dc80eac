"""Which connections are being reset, and which of the resets take too long? Changed by the pool alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Generic, TypeVar

from tenantproxy.pools.context import Connector
from tenantproxy.pools.queue import Turn
from tenantproxy.pools.slots import Slot, State
from tenantproxy.pools.state import PoolState

__all__ = ["HUNG_SECONDS", "LATE_SECONDS", "RESET_SECONDS", "Resets"]

C = TypeVar("C")

RESET_SECONDS: Final = 5.0  # a reset that takes longer ends its connection
LATE_SECONDS: Final = 1.0  # one that takes so long is not waited for: another connection is taken or opened meanwhile
HUNG_SECONDS: Final = 2.0  # and one that takes so long is ended where callers wait and there is no place for another


class Resets(Generic[C]):
    """The resets of one pool. `look` is called again and again while callers wait and resets are under way."""

    __slots__ = ("_connector", "_is_watching", "_look", "_state")

    def __init__(self, state: PoolState[C], connector: Connector[C], look: Callable[[], None]) -> None:
        self._state = state
        self._connector = connector
        self._look = look
        self._is_watching = False  # a timer runs

    def begin(self, slot: Slot[C], now: float) -> None:
        """`slot`, which is not idle any more, is being reset from now on."""
        slot.state = State.RESETTING
        slot.since = now
        self._state.resetting += 1

    def begin_first(self, slot: Slot[C], now: float) -> bool:
        """Reset what another tenant left before `slot` is lent; until then it counts for the tenant that left it.

        False: the lender resets it on the lease.
        """
        reset, owner = self._connector.reset, slot.owner
        if reset is None or owner is None:
            return False
        turns = self._state.turns
        turn = turns.get(owner.tenant)
        if turn is None:
            turn = owner
            turns.add(turn)
        slot.turn = turn
        turn.leased += 1
        self.charge(turn)
        self.begin(slot, now)
        turns.refresh(turn)
        reset(slot.conn)
        self.watch()
        return True

    def charge(self, turn: Turn[C]) -> None:
        """A connection that counts for `turn` is being reset, and is expected to be available soon."""
        turn.returning += 1
        turn.coming += 1

    def aim(self, slot: Slot[C], turn: Turn[C] | None) -> None:
        """The reset of `slot` makes it that tenant's; None: it does not, or is over."""
        if slot.aimed is not None:
            slot.aimed.aimed -= 1
        slot.aimed = turn
        if turn is not None:
            turn.aimed += 1

    def leave(self, slot: Slot[C]) -> None:
        """The reset of `slot` is over, whatever its outcome."""
        self._state.resetting -= 1
        self.aim(slot, None)
        if slot.is_late:
            slot.is_late = False
            self._state.late -= 1
        elif slot.turn is not None:
            slot.turn.coming -= 1

    def take_spare(self, now: float, *, idle_seconds: float) -> Slot[C] | None:
        """The idle connection to reset ahead of need: see `Pool.take_to_reset`. The caller takes it out of `idle`."""
        idle = self._state.idle
        if self._state.resetting or self._state.turns.waiting or len(idle.all) < 2 or idle.has_of(None):
            return None
        slot = next(iter(idle))
        return slot if now - slot.since >= idle_seconds else None

    def watch(self) -> None:
        """Look at the resets in a moment: the sweeper comes too seldom for waiters."""
        if not self._is_watching:
            self._is_watching = True
            self._connector.later(LATE_SECONDS, self._time_is_over)

    def _time_is_over(self) -> None:
        self._is_watching = False
        self._look()
        if self._state.resetting and self._state.turns.waiting:
            self.watch()

    def expired(self, now: float) -> list[Slot[C]]:
        """Those that take longer than any reset may. Resets that are late are not waited for from now on."""
        if not self._state.resetting:
            return []
        resetting = [slot for slot in self._state.slots.values() if slot.state is State.RESETTING]
        for slot in resetting:
            if LATE_SECONDS <= now - slot.since <= RESET_SECONDS and not slot.is_late:
                slot.is_late = True
                self._state.late += 1
                if slot.turn is not None:
                    slot.turn.coming -= 1
        return [slot for slot in resetting if now - slot.since > RESET_SECONDS]

    def in_the_way(self, now: float) -> list[Slot[C]]:
        """Those that hang, longest first, as many as waiters need their places."""
        state = self._state
        if not state.resetting or not state.turns.waiting or state.idle.all:
            return []
        resetting = [slot for slot in state.slots.values() if slot.state is State.RESETTING]
        hung = [slot for slot in resetting if now - slot.since >= HUNG_SECONDS]
        if not hung:
            return []
        room = state.limit - state.open - state.opening
        return sorted(hung, key=lambda each: each.since)[: max(0, state.unserved - room)]
