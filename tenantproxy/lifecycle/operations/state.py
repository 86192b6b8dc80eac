"""How far is an operation? States, and the table of what leads from one to the next."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from tenantproxy.wire.states import Table

__all__ = ["OPERATION", "OperationEvent", "OperationState"]


class OperationState(StrEnum):
    """`interrupted`: its process ended, or has said nothing for long; what it did is gone on with by the next try."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    CANCELLED = "cancelled"


class OperationEvent(StrEnum):
    """What has become of it."""

    SUCCEEDED = "all of it is done"
    FAILED = "refused, or a part of it failed"
    STOPPED = "its process ended, or is silent"
    CALLED_OFF = "ended as it was asked to, whole or undone"
    ASKED_AGAIN = "asked for again with its key"


_S, _E = OperationState, OperationEvent

OPERATION: Final[Table[OperationState, OperationEvent]] = {
    (_S.RUNNING, _E.SUCCEEDED): _S.DONE,
    (_S.RUNNING, _E.FAILED): _S.FAILED,
    (_S.RUNNING, _E.CALLED_OFF): _S.CANCELLED,
    (_S.RUNNING, _E.STOPPED): _S.INTERRUPTED,
    (_S.INTERRUPTED, _E.ASKED_AGAIN): _S.RUNNING,
}
"""One that is done, failed or cancelled is over: its key gives what came of it, and a new try has a new key."""
