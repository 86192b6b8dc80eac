"""Which connections does a pool have, in which state, and how many more does it need? Counts; no decisions, no effects.

Changed by the pool and its parts alone: `Handover`, `Resets`, `Openings` and `Endings`.
"""

from __future__ import annotations

from typing import Generic, TypeVar

from tenantproxy.model import TenantId
from tenantproxy.pools.queue import Turns
from tenantproxy.pools.slots import IdleSlots, Slot

__all__ = ["PoolState"]

C = TypeVar("C")


class PoolState(Generic[C]):
    """The connections of one pool by their state, and the queues for them.

    Invariant: each of `slots` is in exactly one state, so that those in use are what the other states leave over.
    """

    __slots__ = (
        "ahead",
        "idle",
        "is_shared",
        "late",
        "limit",
        "lingering",
        "opening",
        "resetting",
        "retiring",
        "slots",
        "turns",
    )

    def __init__(self, *, limit: int, is_shared: bool, turns: Turns[C]) -> None:
        self.limit = limit  # of all connections of the pool
        self.is_shared = is_shared  # by several tenants
        self.slots: dict[C, Slot[C]] = {}  # all but those being opened
        self.idle: IdleSlots[C] = IdleSlots()
        self.turns = turns
        self.ahead: dict[TenantId, int] = {}  # callers that wait in front of the queues: see `Pool.room_ahead`
        self.opening = 0
        self.resetting = 0
        self.late = 0  # of them; 0 <= late <= resetting
        self.retiring = 0
        self.lingering = 0  # closed; their backends may still run

    @property
    def used(self) -> int:
        """Connections that are lent."""
        return len(self.slots) - len(self.idle.all) - self.resetting - self.retiring

    @property
    def open(self) -> int:
        """Connections that are not being closed."""
        return len(self.slots) - self.retiring

    @property
    def permits(self) -> int:
        """How many permits of the budget are taken for them."""
        return len(self.slots) + self.opening

    @property
    def coming(self) -> int:
        """Connections that will be available soon."""
        return self.opening + self.resetting - self.late

    @property
    def need(self) -> int:
        """How many more should be opened: for waiters that may be served, within the pool's own limit."""
        if not self.turns.waiting:
            return 0
        # In a pool of one tenant what lingers is its own; the tenants of a shared one must not pay for another's.
        room = self.limit - len(self.slots) - self.opening - (0 if self.is_shared else self.lingering)
        coming = self.coming
        return min(room, self.turns.eligible(room + coming) - coming) if room > 0 else 0

    @property
    def unserved(self) -> int:
        """How many waiters may be served and have no connection coming."""
        coming = self.coming
        return self.turns.eligible(self.limit + coming) - coming

    def discharge(self, slot: Slot[C]) -> None:
        """Stop counting `slot` for the tenant that used it last."""
        turn = slot.turn
        if turn is None:
            return
        slot.turn = None
        turn.leased -= 1
        if turn.waiting:
            self.turns.refresh(turn)
