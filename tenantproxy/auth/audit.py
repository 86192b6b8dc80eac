"""Writes audit events into a table of the main database, in batches and off the path of a login.

State: the events that are not written yet, in a bounded queue; what does not fit is lost, and counted.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from contextvars import Context
from dataclasses import fields
from typing import Final

import asyncpg

from tenantproxy.auth.base import AuthDatabase
from tenantproxy.errors import ConfigurationError, Problem
from tenantproxy.events import (
    AdminAccess,
    AdminActedOn,
    AdminChangeAnswered,
    Event,
    LoggedOut,
    LoginFailed,
    LoginLocked,
    LoginSucceeded,
    OperationEnded,
    RefreshTokenReused,
    ServiceCommanded,
    SessionEnded,
    TenantChangeAsked,
)

__all__ = ["AUDITED", "AuditTable"]

AUDITED: Final = (
    LoginSucceeded, LoginFailed, LoginLocked, LoggedOut, SessionEnded, RefreshTokenReused, AdminAccess,
    AdminActedOn, AdminChangeAnswered, TenantChangeAsked, OperationEnded, ServiceCommanded,
)  # fmt: skip
"""The events that are written."""

_BATCH: Final = 500
_MAX_QUEUED: Final = 10_000
_TIMEOUT: Final = 5.0
_RETRY_SECONDS: Final = 1.0
_CLOSE_SECONDS: Final = 2.0
_INSTALLED: Final = "SELECT to_regprocedure('tenantproxy.record_audit(jsonb)') IS NOT NULL"
_RECORD: Final = "SELECT tenantproxy.record_audit($1::text::jsonb)"
_REFUSED_CLASSES: Final = ("22", "23", "54")  # of SQLSTATEs: the same rows would be refused again
_MAX_TEXT: Final = 500  # characters: a user's id is its tenant's to choose, and a row of an index has 2,704 bytes
_WORD: Final = re.compile(r"(?<!^)(?=[A-Z])")
_COLUMNS: Final = {"tenant": "tenant", "user": "user_id", "account": "account", "address": "address"}


class AuditTable:
    """An observer that keeps the events of AUDITED. Between `open` and `close` it writes them.

    Calling it never waits and never fails. While the main database cannot be reached events queue up, 10,000 at most.
    """

    def __init__(
        self,
        database: AuthDatabase,
        *,
        max_queued: int = _MAX_QUEUED,
        retry_seconds: float = _RETRY_SECONDS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.written = 0
        """Events in the table."""
        self.lost = 0
        """Events that did not fit in the queue, that the table refused, or that were left at the end."""
        self._database = database
        self._max_queued = max_queued
        self._retry_seconds = retry_seconds
        self._clock = clock
        self._queue: deque[dict[str, object]] = deque()  # at most `max_queued`
        self._more = asyncio.Event()  # there may be something in the queue
        self._written_out = asyncio.Event()  # the queue is empty
        self._task: asyncio.Task[None] | None = None  # there is one from open to close

    def __call__(self, event: Event, *, at: float | None = None) -> None:
        """Keep `event` when it is one of AUDITED. `at`: unix time at which it happened; None: now."""
        if not isinstance(event, AUDITED):
            return
        if len(self._queue) >= self._max_queued:
            self.lost += 1
            return
        self._queue.append(_row(event, self._clock() if at is None else at))
        self._written_out.clear()
        self._more.set()

    async def open(self) -> None:
        """Begin to write. Raises ConfigurationError where the table is not installed."""
        if self._task is not None:
            return
        if not (await self._database.fetch(_INSTALLED, timeout=_TIMEOUT))[0][0]:
            problem = "the main database has no table for it"
            raise ConfigurationError([Problem(key="audit.table", problem=problem, fix="run: tenantproxy install")])
        self._more, self._written_out = asyncio.Event(), asyncio.Event()  # of the loop in which they are waited for
        self._more.set()
        loop = asyncio.get_running_loop()
        self._task = loop.create_task(self._write_on(), name="tenantproxy audit", context=Context())

    async def close(self, *, timeout: float = _CLOSE_SECONDS) -> None:
        """Write what is left, for `timeout` seconds at most, and stop. Safe to call again."""
        task, self._task = self._task, None
        if task is None:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._written_out.wait()
        task.cancel()
        await asyncio.wait([task])
        self.lost += len(self._queue)
        self._queue.clear()

    async def _write_on(self) -> None:
        while True:
            await self._more.wait()
            self._more.clear()
            while self._queue:
                if not await self._write(min(_BATCH, len(self._queue))):
                    await asyncio.sleep(self._retry_seconds)
            self._written_out.set()

    async def _write(self, count: int) -> bool:
        """Write the `count` oldest, which stay in the queue until they are; whether to go on at once."""
        batch = json.dumps([self._queue[number] for number in range(count)])
        try:
            await self._database.fetch(_RECORD, batch, timeout=_TIMEOUT)
        except asyncpg.PostgresError as exc:
            if (exc.sqlstate or "")[:2] not in _REFUSED_CLASSES:
                return False
            if count > 1:  # one row of them: the others are not lost for it
                return await self._write(count // 2)
            self.lost += count
        except Exception:  # noqa: BLE001 - a boundary: whatever keeps us from writing, the next try may succeed
            return False
        else:
            self.written += count
        for _ in range(count):
            self._queue.popleft()
        return True


def _row(event: Event, at: float) -> dict[str, object]:
    values = {field.name: _stored(getattr(event, field.name)) for field in fields(event)}
    row: dict[str, object] = {"at": at, "kind": _WORD.sub("_", type(event).__name__).lower()}
    for name, column in _COLUMNS.items():
        row[column] = values.pop(name, None) or None
    return {**row, "detail": values}


def _stored(value: object) -> object:
    """A value that jsonb takes: no NUL, no half of a surrogate pair, and no longer than an index takes."""
    if isinstance(value, Mapping):
        return {name: _stored(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_stored(each) for each in value]
    if isinstance(value, str):
        return value[:_MAX_TEXT].encode("utf-8", "replace").decode().replace("\0", "\ufffd")
    return value
