"""What does a pool know of each connection, and which idle one suits whom?"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from enum import StrEnum
from typing import Final, Generic, TypeVar

from tenantproxy.model import TenantId
from tenantproxy.pools.queue import Turn
from tenantproxy.wire.states import Table

__all__ = ["SLOT", "IdleSlots", "Slot", "SlotEvent", "State"]

C = TypeVar("C")


class State(StrEnum):
    """Where a connection is; in exactly one of these."""

    IDLE = "idle"
    USED = "used"
    RESETTING = "resetting"
    RETIRING = "retiring"


class SlotEvent(StrEnum):
    """What happens to a connection."""

    LENT = "lent, to a waiter first"
    RESET = "reset and bind begin"
    READY = "ready, and no caller waits"
    RETIRED = "too old, not needed, or in doubt"


SLOT: Final[Table[State, SlotEvent]] = {
    (State.IDLE, SlotEvent.READY): State.IDLE,  # a new one
    (State.IDLE, SlotEvent.LENT): State.USED,
    (State.IDLE, SlotEvent.RESET): State.RESETTING,
    (State.IDLE, SlotEvent.RETIRED): State.RETIRING,
    (State.USED, SlotEvent.LENT): State.USED,
    (State.USED, SlotEvent.RESET): State.RESETTING,
    (State.USED, SlotEvent.READY): State.IDLE,
    (State.USED, SlotEvent.RETIRED): State.RETIRING,
    (State.RESETTING, SlotEvent.LENT): State.USED,
    (State.RESETTING, SlotEvent.RESET): State.RESETTING,
    (State.RESETTING, SlotEvent.READY): State.IDLE,
    (State.RESETTING, SlotEvent.RETIRED): State.RETIRING,
}
"""Where a connection goes. The parts of the pool move it, each by its own call; tests hold them to this."""


class Slot(Generic[C]):
    """One connection, as its pool sees it. Only the pool changes it."""

    __slots__ = (
        "aimed",
        "bound_to",
        "conn",
        "expires_at",
        "has_moved",
        "is_late",
        "opened_at",
        "owner",
        "retire_on_release",
        "since",
        "state",
        "streak",
        "turn",
    )

    def __init__(self, conn: C, *, now: float, lifetime: float) -> None:
        self.conn = conn
        self.opened_at = now
        self.expires_at = now + lifetime
        self.since = now  # when it became idle, or its reset began
        self.bound_to: TenantId | None = None
        self.owner: Turn[C] | None = None  # of that tenant; it may have left the pool since
        self.turn: Turn[C] | None = None  # of the tenant that it counts for
        self.aimed: Turn[C] | None = None  # of the tenant whose it becomes by the reset that is under way
        self.state = State.IDLE
        self.streak = 0  # leases in a row of the tenant it was bound to, while others waited
        self.is_late = False  # its reset takes suspiciously long
        self.retire_on_release = False
        self.has_moved = False  # its server is another host by now, where its backend does not count


class IdleSlots(Generic[C]):
    """The idle connections of a pool: longest idle first, and by what they are bound to, latest last."""

    __slots__ = ("_of", "all")

    def __init__(self) -> None:
        self.all: Final[OrderedDict[C, Slot[C]]] = OrderedDict()
        """To be looked at, not changed: to ask a dict whether it is empty costs a tenth of asking us."""
        self._of: dict[TenantId | None, list[Slot[C]]] = {}

    def __len__(self) -> int:
        return len(self.all)

    def __contains__(self, conn: C) -> bool:
        return conn in self.all

    def __iter__(self) -> Iterator[Slot[C]]:
        """Longest idle first."""
        return iter(self.all.values())

    def add(self, slot: Slot[C]) -> None:
        """`slot` is idle from now on."""
        self.all[slot.conn] = slot
        stack = self._of.get(slot.bound_to)
        if stack is None:
            stack = self._of[slot.bound_to] = []
        stack.append(slot)

    def remove(self, slot: Slot[C]) -> None:
        """`slot` is not idle any more."""
        del self.all[slot.conn]
        self._of[slot.bound_to].remove(slot)

    def take(self, tenant: TenantId) -> Slot[C]:
        """One that is bound to `tenant`, else an unbound one, else the longest idle. There must be one."""
        stack = self._of.get(tenant) or self._of.get(None)
        if stack:
            slot = stack.pop()
            del self.all[slot.conn]
            return slot
        _, slot = self.all.popitem(last=False)
        self._of[slot.bound_to].remove(slot)
        return slot

    def has_of(self, tenant: TenantId | None) -> bool:
        """Whether one is bound to `tenant`; None: an unbound one."""
        return bool(self._of.get(tenant))

    def purge(self) -> None:
        """Forget tenants to which none is bound."""
        self._of = {bound: slots for bound, slots in self._of.items() if slots}
