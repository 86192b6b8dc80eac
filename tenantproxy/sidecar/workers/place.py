"""One worker's place: the process that is in it now, where that is in its life, and what it was granted.

Changed by its supervisor alone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from tenantproxy.sidecar.pg.console.view import WorkerRow
from tenantproxy.sidecar.workers.budgets import Grant
from tenantproxy.sidecar.workers.child import Child
from tenantproxy.sidecar.workers.link import LinkLost
from tenantproxy.sidecar.workers.merged import FamilyData
from tenantproxy.sidecar.workers.state import WORKER, WorkerEvent, WorkerState

__all__ = ["WorkerPlace"]


class WorkerPlace:
    """The worker `number`. `settled` is set when it is ready for the first time, or will never be."""

    def __init__(self, number: int, granted: Grant) -> None:
        self.number = number
        self.granted = granted  # connections by server: what it holds at most
        self.state = WorkerState.STARTING
        self.child: Child | None = None
        self.task: asyncio.Task[None] | None = None  # keeps it running
        self.restarts = 0
        self.version = ""
        self.member = ""  # its id in the fleet; "": it is in none, or not ready
        self.failure: str | None = None  # why it did not start
        self.settled = asyncio.Event()
        self.gone = asyncio.Event()
        self.round = 0  # of the configuration that it has
        self.paused: frozenset[str] = frozenset()  # tenants that it knows to be paused
        self.told: Sequence[FamilyData] = ()  # its metrics, as last heard
        self.unheard = 0  # how often it was asked for a sign of life since it gave the last one
        self.began()

    def began(self) -> None:
        """Another process is in this place."""
        self._started_at, self._began_at = time.time(), time.monotonic()
        self.unheard = 0

    def happened(self, event: WorkerEvent) -> None:
        """Raises KeyError for what cannot happen in this state."""
        self.state = WORKER[self.state, event]
        if self.state in (WorkerState.READY, WorkerState.GONE):
            self.settled.set()
        if self.state is WorkerState.GONE:
            self.gone.set()

    @property
    def is_active(self) -> bool:
        """It serves, or will again."""
        return self.state not in (WorkerState.DRAINING, WorkerState.GONE)

    @property
    def is_up(self) -> bool:
        """Something can be asked of it."""
        return self.state in (WorkerState.READY, WorkerState.LEAVING, WorkerState.DRAINING)

    @property
    def age(self) -> float:
        """Seconds since its process was started."""
        return time.monotonic() - self._began_at

    async def ask(self, verb: str, body: Any = None, *, timeout: float | None = None) -> Any:
        """See `Link.ask`."""
        if self.child is None:
            raise LinkLost("the worker is not running")
        return await self.child.link.ask(verb, body, timeout=timeout)

    def row(self) -> WorkerRow:
        """For the console."""
        return WorkerRow(
            number=self.number,
            pid=0 if self.child is None else self.child.pid,
            state=self.state,
            started_at=self._started_at,
            restarts=self.restarts,
            version=self.version,
        )

    def __repr__(self) -> str:
        return f"WorkerPlace({self.number}, {self.state})"
