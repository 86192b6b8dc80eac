"""Who looks at the page, and what does each get? One look a second for all viewers, what has changed sent to each.

State: the viewers, each with a bounded queue, and the rows of the last look. Without viewers nothing is looked at.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from contextvars import Context
from typing import Any, Final

from tenantproxy.errors import TenantProxyError
from tenantproxy.sidecar.page.recent import RecentEvents
from tenantproxy.sidecar.page.rows import (
    COLUMNS,
    Look,
    PoolRow,
    changes,
    counts_of,
    fleet_of,
    pool_rows,
    processes_of,
    server_row,
    waits_of,
)
from tenantproxy.slices import Slices

__all__ = ["FOR_OPERATORS", "MAX_VIEWERS", "PageFeed", "TooManyViewers", "Viewer"]

MAX_VIEWERS: Final = 200
FOR_OPERATORS: Final = 50
"""More of them, who may do something: others do not keep them from it."""
_SECONDS: Final = 1.0  # between two looks
_MAX_QUEUED: Final = 10  # frames that a viewer may be behind
_STARVED: Final = 100

logger = logging.getLogger("tenantproxy")


class TooManyViewers(TenantProxyError):
    """So many look at the page that one more is not served."""

    http_status, sqlstate, code, retryable = 503, "53300", "too_many_viewers", True


class Viewer:
    """One that looks on. `drop` is called when it has not taken what was sent for too long."""

    def __init__(self, drop: Callable[[], None], most: int) -> None:
        self._queue: asyncio.Queue[bytes | None] = asyncio.Queue(most)
        self._drop = drop
        self.has_all = False  # it was sent a whole picture, and needs changes alone

    def put(self, frame: bytes | None) -> None:
        """Send it `frame`; None: it is over."""
        try:
            self._queue.put_nowait(frame)
        except asyncio.QueueFull:
            self._drop()

    async def frames(self) -> AsyncIterator[bytes]:
        """What is to be written, as it comes; ends with the feed."""
        while (frame := await self._queue.get()) is not None:
            yield frame


class PageFeed:
    """`look` says what there is. Frames are server-sent events: `all`, then `more`; `trouble` while it fails."""

    def __init__(
        self,
        look: Callable[[], Awaitable[Look]],
        recent: RecentEvents,
        *,
        seconds: float = _SECONDS,
        max_viewers: int = MAX_VIEWERS,
        max_queued: int = _MAX_QUEUED,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._look = look
        self._recent = recent
        self._seconds = seconds
        self._max_viewers = max_viewers
        self._max_queued = max_queued
        self._clock = clock
        self._viewers: set[Viewer] = set()
        self._rows: dict[str, PoolRow] = {}  # of the last look
        self._processes: list[list[Any]] = []  # likewise
        self._told = 0  # the number of the last event that was sent
        self._task: asyncio.Task[None] | None = None  # there is one while there are viewers
        self._is_closed = False
        self.looks = 0
        """How often it has looked, for all viewers together."""

    def __len__(self) -> int:
        return len(self._viewers)

    @asynccontextmanager
    async def viewer(self, drop: Callable[[], None], *, is_operator: bool = False) -> AsyncIterator[Viewer]:
        """One more, who gets everything first. Raises TooManyViewers."""
        most = self._max_viewers + (FOR_OPERATORS if is_operator else 0)
        if self._is_closed or len(self._viewers) >= most:
            raise TooManyViewers("too many look at the page", detail=f"at most {most}", retry_after=5.0)
        one = Viewer(drop, self._max_queued)
        self._viewers.add(one)
        if self._task is None:
            loop = asyncio.get_running_loop()
            self._task = loop.create_task(self._run(), name="tenantproxy page", context=Context())
        try:
            yield one
        finally:
            self._viewers.discard(one)
            if not self._viewers and self._task is not None:
                self._task.cancel()
                self._task, self._rows = None, {}

    async def close(self) -> None:
        """Let all viewers go. Safe to call again."""
        self._is_closed = True
        for one in tuple(self._viewers):
            one.put(None)
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def _run(self) -> None:
        while True:
            try:
                await self._tick()
            except Exception as exc:  # a boundary: viewers see that it fails, and go on when it does not
                if not isinstance(exc, TenantProxyError):
                    logger.exception("the page could not look")
                said = exc.message if isinstance(exc, TenantProxyError) else "it could not be looked at"
                frame = _frame("trouble", json.dumps({"message": said}))
                for one in tuple(self._viewers):
                    one.put(frame)
            await asyncio.sleep(self._seconds)

    async def _tick(self) -> None:
        slices = Slices()
        look, now = await self._look(), self._clock()
        self.looks += 1
        rows: dict[str, PoolRow] = {}
        for name, row in pool_rows(look.stats, now, self._rows):
            rows[name] = row
            await slices.pause()
        changed, gone = changes(self._rows, rows)
        await slices.pause()
        new = [one for one in self._viewers if not one.has_all]
        self._rows = rows
        news = self._recent.since(self._told)
        self._told = self._recent.last
        rest = self._rest(look, now)
        former, self._processes = self._processes, processes_of(look)
        other = {} if self._processes == former else {"processes": self._processes}
        await slices.pause()
        if len(new) < len(self._viewers):
            more = _frame("more", _whole(rest, changed, gone=gone, events=news, **other))
            for one in tuple(self._viewers):
                if one.has_all:
                    one.put(more)
        if new:
            await slices.pause()
            kept = {"columns": COLUMNS, "events": self._recent.since(0), "processes": self._processes}
            every = _frame("all", _whole(rest, rows, **kept))
            for one in new:
                one.has_all = True
                one.put(every)

    def _rest(self, look: Look, now: float) -> dict[str, Any]:
        return {
            "at": round(now, 3),
            "servers": [server_row(each) for each in look.stats.servers],
            "fleet": fleet_of(look),
            "counts": counts_of(look),
            "waits": waits_of(look.stats),
            "starved": self._recent.starved(_STARVED),
            "paused": sorted(look.paused),
            "workers": [
                [each.number, each.pid, str(each.state), round(each.started_at), each.restarts, each.version]
                for each in look.workers
            ],
        }


def _whole(rest: Mapping[str, Any], rows: Mapping[str, PoolRow], **more: Any) -> str:
    """The rows are JSON already."""
    pools = ",".join(f"{json.dumps(name)}:{row.text}" for name, row in rows.items())
    return f'{json.dumps({**rest, **more})[:-1]},"pools":{{{pools}}}}}'


def _frame(event: str, data: str) -> bytes:
    return f"event: {event}\ndata: {data}\n\n".encode()
