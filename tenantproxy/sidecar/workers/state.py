"""Where is a worker in its life? States, and the table of what leads from one to the other."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from tenantproxy.wire.states import Table

__all__ = ["WORKER", "WorkerEvent", "WorkerState"]


class WorkerState(StrEnum):
    """Of one place of a worker."""

    STARTING = "starting"
    READY = "ready"
    LEAVING = "leaving"
    DRAINING = "draining"
    WAITING = "waiting"
    GONE = "gone"


class WorkerEvent(StrEnum):
    """What happens to it."""

    OPENED = "it accepts"
    RELIEVED = "others take its clients"
    RECALLED = "none came to take them"
    TOLD_TO_END = "told to end"
    CRASHED = "ended by itself"
    BACKED_OFF = "pause is over"
    ENDED = "ended as told"


_S, _E = WorkerState, WorkerEvent

WORKER: Final[Table[WorkerState, WorkerEvent]] = {
    (_S.STARTING, _E.OPENED): _S.READY,
    (_S.STARTING, _E.TOLD_TO_END): _S.DRAINING,
    (_S.STARTING, _E.CRASHED): _S.WAITING,
    (_S.READY, _E.RELIEVED): _S.LEAVING,
    (_S.READY, _E.TOLD_TO_END): _S.DRAINING,
    (_S.READY, _E.CRASHED): _S.WAITING,
    (_S.LEAVING, _E.RECALLED): _S.READY,
    (_S.LEAVING, _E.TOLD_TO_END): _S.DRAINING,
    (_S.LEAVING, _E.CRASHED): _S.WAITING,
    (_S.WAITING, _E.BACKED_OFF): _S.STARTING,
    (_S.WAITING, _E.TOLD_TO_END): _S.GONE,
    (_S.DRAINING, _E.ENDED): _S.GONE,
}
"""A worker whose place is WAITING is started again, as another process with the same number."""
