"""Who does long work, and who hears of it? A task of this process, that says in the main database how far it is.

State: what is under way in this process. It goes on when who asked for it goes away, and is ended by `close`.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from contextvars import Context
from dataclasses import dataclass, field
from typing import Any, Final

import asyncpg

from tenantproxy.config import Settings
from tenantproxy.errors import TenantProxyError
from tenantproxy.events import Observer, OperationEnded
from tenantproxy.lifecycle.access import admin_connection
from tenantproxy.lifecycle.failures import said
from tenantproxy.lifecycle.operations import store
from tenantproxy.lifecycle.operations.progress import Progress
from tenantproxy.lifecycle.operations.state import OPERATION, OperationEvent, OperationState
from tenantproxy.lifecycle.operations.store import Operation

__all__ = ["Finished", "NotCancellable", "OperationRequest", "Operations", "TooManyOperations"]

_LOST: Final = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError)
_CANCELLABLE: Final = (
    "migrate", "roll_back", "move", "backup", "verify", "restore", "doctor", "doctor_fix", "prove", "export",
    "export_person", "count_person",
)  # fmt: skip
"""What can end whole or undone. What removes cannot: it goes on to its end, or is gone on with."""
_MOST: Final = 8  # under way in one process at once
_BEAT_SECONDS: Final = 1.0
_TRIES: Final = 10  # to write down how it ended, while the main database is down
_TIMEOUT: Final = 5.0

logger = logging.getLogger("tenantproxy")


class NotCancellable(TenantProxyError):
    """It is over, or no one can say how it would end in the middle."""

    http_status, sqlstate, code = 409, "55000", "change_refused"


class TooManyOperations(TenantProxyError):
    """This process has enough to do; what runs goes on."""

    http_status, sqlstate, code, retryable = 503, "53400", "too_many_operations", True


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationRequest:
    """What was asked for. `asked`: all that tells this request from others, as JSON; it is kept as a hash alone.

    `by`: whose token asked for it. `undo`: takes away what the work leaves that was cancelled.
    """

    change: str
    tenant: str | None = None
    key: str | None = field(default=None, repr=False)
    asked: Mapping[str, Any] = field(default_factory=dict, repr=False)
    by: str = ""
    address: str = ""
    undo: Callable[[], Awaitable[None]] | None = field(default=None, repr=False)

    def digest(self) -> bytes:
        """By which the same request is known again."""
        what = [self.key, self.change, self.tenant, self.asked]
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """What work came to. `has_failed`: the result tells of parts that failed."""

    result: Mapping[str, Any]
    has_failed: bool = False


Work = Callable[[Progress], Awaitable[Finished]]


class Operations:
    """The operations of one process, and a look at those of all. `settings`: as they are at each call."""

    def __init__(self, settings: Callable[[], Settings], observer: Observer) -> None:
        self._settings = settings
        self._observer = observer
        self._tasks = set[asyncio.Task[None]]()
        self._beginning = 0  # those of which it is being written down that they begin

    async def begin(self, request: OperationRequest, work: Work) -> Operation:
        """Begin it, unless it was with this key: then that one, which goes on if it was interrupted.

        Returns when it is written down, not when it is done. Raises KeyReused, TooManyOperations, ConfigurationError.
        """
        if len(self._tasks) + self._beginning >= _MOST:
            raise TooManyOperations(
                f"{_MOST} operations are under way in this process", hint="wait for one to end", retry_after=5.0
            )
        holder = uuid.uuid4()
        self._beginning += 1
        try:
            async with self._main() as conn:
                found, is_ours = await store.begin(
                    conn, holder, key=request.key, asked=request.digest(), change=request.change, tenant=request.tenant
                )
        finally:
            self._beginning -= 1
        if is_ours:
            running = _Running(self._main, found, holder)
            # An empty context: what it opens would keep that of the request.
            task = asyncio.get_running_loop().create_task(
                self._run(running, request, work), name=f"tenantproxy {request.change}", context=Context()
            )
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return found

    async def cancel(self, number: int) -> Operation | None:
        """Ask one to end at its next safe step, in whichever process it runs: whole or undone, then it is `cancelled`.

        Returns at once, as it is now; None: no operation has that number. Work that is done before it hears of it is
        done. Raises NotCancellable where it does not run, or removes something.
        """
        async with self._main() as conn:
            found = await store.cancel(conn, number, _CANCELLABLE)
        if found is not None and found.cancel_at is None:
            is_over = found.state is not OperationState.RUNNING
            why = f"it is {found.state}" if is_over else f"what {found.change!r} has begun is not taken back"
            hint = "look at what came of it" if is_over else f"wait for its end: GET /v1/operations/{number}"
            raise NotCancellable(f"operation {number} cannot be cancelled: {why}", hint=hint)
        return found

    async def find(self, number: int) -> Operation | None:
        """The one with this number, of whichever process."""
        async with self._main() as conn:
            return await store.find(conn, number)

    async def newest(self, *, before: int, limit: int) -> Sequence[Operation]:
        """Those with lower numbers than `before`, the newest first, at most `limit`."""
        async with self._main() as conn:
            return await store.newest(conn, before, limit)

    async def close(self, *, timeout: float) -> None:
        """Wait up to `timeout` seconds for what is under way, then interrupt it: its key goes on with it elsewhere."""
        tasks = set(self._tasks)
        if tasks:
            await asyncio.wait(tasks, timeout=timeout)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _main(self) -> Any:
        settings = self._settings()
        return admin_connection(settings, settings.main.server, settings.main.database)

    async def _run(self, running: _Running, request: OperationRequest, work: Work) -> None:
        event, result, error = OperationEvent.STOPPED, None, None
        doing = asyncio.ensure_future(work(running.progress))
        beating = asyncio.ensure_future(running.beat(doing))
        try:
            finished = await doing
            event = OperationEvent.FAILED if finished.has_failed else OperationEvent.SUCCEEDED
            result = finished.result
        except asyncio.CancelledError:
            doing.cancel()
            await asyncio.wait([doing])
            error = {"code": "interrupted", "title": "the process that worked on it ended, or was taken for dead"}
            if running.is_called_off:
                event, error = await _called_off(request)
        except Exception as exc:  # noqa: BLE001 - a boundary: it is told to who asks for the operation
            event, error = OperationEvent.FAILED, _told(exc)
        finally:
            beating.cancel()
            with suppress(asyncio.CancelledError):
                await beating
        state = OPERATION[OperationState.RUNNING, event]
        self._observer(
            OperationEnded(
                operation=running.operation.id, tenant=request.tenant or "", change=request.change,
                outcome=state.value, by=request.by, address=request.address,
            )
        )  # fmt: skip
        await running.end(state, result, error)


class _Running:
    """One that this process works on, and how far it is."""

    def __init__(self, main: Callable[[], Any], operation: Operation, holder: uuid.UUID) -> None:
        self.operation = operation
        self._main = main
        self._holder = holder
        self._so_far: tuple[int, int | None, str] = (0, None, "")
        self.is_called_off = False

    def progress(self, done: int, total: int | None, what: str = "", /) -> None:
        """See `Progress`."""
        self._so_far = (done, total, what or self._so_far[2])

    async def beat(self, doing: asyncio.Future[Any]) -> None:
        """Say every second how far it is; end `doing` when another process has taken it over,
        or someone asked for that.
        """
        while True:
            with suppress(*_LOST):  # the next try, with another connection
                async with self._main() as conn:
                    while True:
                        await asyncio.sleep(_BEAT_SECONDS)
                        async with asyncio.timeout(_TIMEOUT):
                            asked = await store.tell(conn, self.operation.id, self._holder, *self._so_far)
                        if (asked or asked is None) and not self.is_called_off:
                            self.is_called_off = bool(asked)
                            doing.cancel()
                        if asked is None:
                            return
            await asyncio.sleep(_BEAT_SECONDS)

    async def end(self, state: OperationState, result: Any, error: Any) -> None:
        """Write down what came of it; the main database may be away for some seconds."""
        done, total, what = self._so_far
        for _ in range(_TRIES):
            with suppress(*_LOST):
                async with self._main() as conn, asyncio.timeout(_TIMEOUT):
                    await store.tell(conn, self.operation.id, self._holder, done, total, what)
                    await store.end(conn, self.operation.id, self._holder, state, result, error)
                return
            await asyncio.sleep(_BEAT_SECONDS)
        logger.error("what came of operation %d could not be written down: %s", self.operation.id, state)


async def _called_off(request: OperationRequest) -> tuple[OperationEvent, dict[str, Any]]:
    """What became of one that was cancelled: what it left is gone, or it failed and says what is left."""
    try:
        if request.undo is not None:
            await request.undo()
    except Exception as exc:  # noqa: BLE001 - a boundary, as below
        return OperationEvent.FAILED, _told(exc)
    return OperationEvent.CALLED_OFF, {"code": "cancelled", "title": "it was cancelled, and ended whole or undone"}


def _told(error: Exception) -> dict[str, Any]:
    """As in a problem answer; what PostgreSQL said is about the operator's own SQL."""
    if isinstance(error, TenantProxyError):
        return {"code": error.code, "title": error.message, "detail": error.detail, "hint": error.hint}
    if isinstance(error, _LOST):
        return {"code": "failed", "title": said(error)}
    logger.error("an operation failed", exc_info=error)
    return {"code": "internal_error", "title": "internal error: see the log of the process"}
