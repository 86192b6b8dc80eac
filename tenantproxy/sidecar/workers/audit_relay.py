"""How does what the supervisor is asked get into the audit log? A worker writes it, which has the main database.

State: the events that no worker has taken yet, in a bounded queue; what does not fit is in the log alone.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import asdict
from typing import Any, Final

from tenantproxy.auth.audit import AUDITED, AuditTable
from tenantproxy.errors import TenantProxyError
from tenantproxy.events import Event

__all__ = ["AuditRelay", "record"]

_MAX_QUEUED: Final = 1000
_KINDS: Final[Mapping[str, type[Event]]] = {each.__name__: each for each in AUDITED}


class AuditRelay:
    """An observer of the supervisor: passes audited events to a worker, in order, each until one has taken it.

    `ask` lets a worker `record` what was told, and raises TenantProxyError while none does; `spawn` runs a task.
    """

    def __init__(
        self,
        ask: Callable[[Mapping[str, Any]], Awaitable[object]],
        spawn: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        self._ask = ask
        self._spawn = spawn
        self._queue: deque[tuple[float, Event]] = deque(maxlen=_MAX_QUEUED)
        self._passing = asyncio.Lock()

    def __call__(self, event: Event) -> None:
        """Pass it on, as soon as a worker is there. Needs the running loop."""
        if isinstance(event, AUDITED):
            self._queue.append((time.time(), event))
            self._spawn(self.flush())

    async def flush(self) -> None:
        """Pass on what is left; what no worker takes stays for the next time."""
        async with self._passing:
            while self._queue:
                at, event = entry = self._queue[0]
                told = {"kind": type(event).__name__, "at": at, "fields": asdict(event)}
                try:
                    await self._ask(told)
                except TenantProxyError:
                    return
                if self._queue and self._queue[0] is entry:  # else the queue was full, and it made room
                    self._queue.popleft()


def record(table: AuditTable | None, told: Mapping[str, Any]) -> None:
    """In a worker: what the supervisor told of one event. Nothing where no table is kept."""
    if table is not None:
        table(_KINDS[told["kind"]](**told["fields"]), at=told["at"])
