"""How far is a tenant's move? States, and the table of what leads from one to the next."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from tenantproxy.wire.states import Table

__all__ = ["MOVE", "MOVE_STEPS", "MoveEvent", "MoveState"]


class MoveState(StrEnum):
    """The last thing that is known to be done. Until it is `switched` or `active` the old place is the tenant's, and
    serves it again.

    `switched`: the new one serves, and the old one is being removed. `undoing`: what was made for the
    move goes. `cleaned`: all of it is gone.
    """

    REQUESTED = "requested"
    HAS_PLACE = "has_place"
    HAS_TABLES = "has_tables"
    FOLLOWS = "follows"
    PAUSED = "paused"
    COPIED = "copied"
    VERIFIED = "verified"
    SWITCHED = "switched"
    ACTIVE = "active"
    UNDOING = "undoing"
    CLEANED = "cleaned"


class MoveEvent(StrEnum):
    """What has been done, or has failed."""

    PLACE_MADE = "new place made"
    TABLES_MADE = "tables made there"
    CAUGHT_UP = "new place follows the old one"
    STOPPED = "tenant paused, old place closed"
    ROWS_COPIED = "rows and sequences are there"
    COMPARED = "counts and checksums are equal"
    SWITCHED = "registered at the new place"
    LEFT = "registered at the new place, the old one is to go"
    OLD_REMOVED = "old place removed"
    FAILED = "a step failed, or abandoned"
    UNDONE = "what was made is gone, old place serves"


_S, _E = MoveState, MoveEvent

MOVE: Final[Table[MoveState, MoveEvent]] = {
    (_S.REQUESTED, _E.PLACE_MADE): _S.HAS_PLACE,
    (_S.HAS_PLACE, _E.TABLES_MADE): _S.HAS_TABLES,
    (_S.HAS_TABLES, _E.CAUGHT_UP): _S.FOLLOWS,
    (_S.HAS_TABLES, _E.STOPPED): _S.PAUSED,
    (_S.FOLLOWS, _E.STOPPED): _S.PAUSED,
    (_S.PAUSED, _E.ROWS_COPIED): _S.COPIED,
    (_S.COPIED, _E.COMPARED): _S.VERIFIED,
    (_S.VERIFIED, _E.SWITCHED): _S.ACTIVE,
    (_S.VERIFIED, _E.LEFT): _S.SWITCHED,
    (_S.SWITCHED, _E.OLD_REMOVED): _S.ACTIVE,
    (_S.REQUESTED, _E.FAILED): _S.UNDOING,
    (_S.HAS_PLACE, _E.FAILED): _S.UNDOING,
    (_S.HAS_TABLES, _E.FAILED): _S.UNDOING,
    (_S.FOLLOWS, _E.FAILED): _S.UNDOING,
    (_S.PAUSED, _E.FAILED): _S.UNDOING,
    (_S.COPIED, _E.FAILED): _S.UNDOING,
    (_S.VERIFIED, _E.FAILED): _S.UNDOING,
    (_S.UNDOING, _E.UNDONE): _S.CLEANED,
}
"""A move that has switched is never undone: what was written since is at the new place alone."""

_WAY: Final = (_S.HAS_PLACE, _S.HAS_TABLES, _S.FOLLOWS, _S.PAUSED, _S.COPIED, _S.VERIFIED, _S.ACTIVE)
MOVE_STEPS: Final = {state: number for number, state in enumerate(_WAY, 1)}
"""How far one is that does not fail; a move that does not follow by replication leaves that step out."""
