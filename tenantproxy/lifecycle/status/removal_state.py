"""How far is the removal of what a tenant has? States, and the table of what leads from one to the next."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from tenantproxy.wire.states import Table

__all__ = ["REMOVAL", "RemovalEvent", "RemovalState"]


class RemovalState(StrEnum):
    """The last thing that is known to be done. What comes next may have been done as well: each step looks first."""

    WAITING = "waiting"
    BACKED_UP = "backed_up"
    REMOVED = "removed"
    CLEANED = "cleaned"
    ACTIVE = "active"


class RemovalEvent(StrEnum):
    """What has been done."""

    BACKUP_VERIFIED = "a last backup is verified, or was waived"
    PLACE_REMOVED = "what was made for it is gone"
    ENTRY_CHANGED = "its entry is gone, or says that it is archived"
    TAKEN_BACK = "taken back"


_S, _E = RemovalState, RemovalEvent

REMOVAL: Final[Table[RemovalState, RemovalEvent]] = {
    (_S.WAITING, _E.BACKUP_VERIFIED): _S.BACKED_UP,
    (_S.WAITING, _E.TAKEN_BACK): _S.ACTIVE,
    (_S.BACKED_UP, _E.PLACE_REMOVED): _S.REMOVED,
    (_S.REMOVED, _E.ENTRY_CHANGED): _S.CLEANED,
}
