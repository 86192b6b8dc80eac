"""What happens to one request of SQL over HTTP? It leases a backend, is sent as one segment, read to its end, released.

All of it is callbacks, of the lender, the server and a timer; who asked is told by one. No byte goes out before
the lender has said that the backend is its tenant's, and a backend in doubt is destroyed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextvars import Context
from time import monotonic
from typing import Final, NamedTuple

from tenantproxy._native import why_not
from tenantproxy.config import SqlSettings
from tenantproxy.context import REQUEST_ID
from tenantproxy.errors import (
    ConnectFailed,
    NotSupported,
    OutOfMemory,
    ProtocolError,
    TenantProxyError,
)
from tenantproxy.model import Proof, Route, TenantId
from tenantproxy.pools.pool import Pool
from tenantproxy.raw.backend import RawBackend
from tenantproxy.raw.exchange import SYNC_NOW, statement
from tenantproxy.raw.lender import Acquire, RawLender
from tenantproxy.sidecar.pg.traffic import Traffic
from tenantproxy.sidecar.sql.deadlines import Deadlines
from tenantproxy.sidecar.sql.kept import Kept
from tenantproxy.sidecar.sql.request import SqlRequest
from tenantproxy.sidecar.sql.states import (
    RUN,
    ServerSaid,
    SqlRunEvent,
    SqlRunState,
    ended_itself,
    left_open,
    no_copy,
    not_utf8,
    shut,
    too_late,
    too_much,
)
from tenantproxy.sidecar.sql.texts import SqlTexts, preparing
from tenantproxy.watch import StatementOver, Watch
from tenantproxy.wire.answers import read_error
from tenantproxy.wire.commands import changes_meanings, leaves_state
from tenantproxy.wire.frames import IDLE, IN_TRANSACTION
from tenantproxy.wire.responses import is_unexpected
from tenantproxy.wire.results import RowsAnswered, SegmentReader, StatementResult
from tenantproxy.wire.settings import NO_SETTINGS
from tenantproxy.wire.statements import Statement
from tenantproxy.wire.traceparent import traceparent_in

__all__ = ["SqlRun", "SqlRuns", "compiled_reader"]

_SETTLE_SECONDS: Final = 1.0  # that a statement which is cancelled has to end, while its caller waits to be told
_GONE_SECONDS: Final = 0.1  # and when there is no one to be told
_COMMIT, _ROLLBACK = statement("COMMIT") + SYNC_NOW, statement("ROLLBACK") + SYNC_NOW
_READ_ONLY: Final = b"\0C25006\0"
_MAY_CHANGE: Final = (b"COMMIT PREPARED", b"PREPARE TRANSACTION", b"DO")  # what a block has changed it does not tell
_OUT_OF_DATE: Final = (b"\0C0A", b"\0C22", b"\0C26", b"\0C42", b"\0CXX")
"""What a change of tables may be the cause of. Of another error, code may have run: the CHECK of a domain, say."""
_OF_ROWS: Final = frozenset((b"SELECT", b"INSERT", b"UPDATE", b"DELETE"))  # how most tags begin
_SET: Final = b"SET"
_S, _E = SqlRunState, SqlRunEvent


class SqlRuns(NamedTuple):
    """What all requests have in common, until limits are others."""

    lender: RawLender
    limits: SqlSettings
    texts: SqlTexts
    deadlines: Deadlines
    rows_answered: RowsAnswered | None  # the compiled one, where there is one


class SqlRun:
    """One request. `told` is called with it, once it is over: from the loop, never from within `begin`, `gone`, `kill`.

    Then it has `results`, or an `error`, or it `is_gone`: there is no one to be told. Invariant: `_backend` is set
    exactly in RUNNING, ENDING and SETTLING.
    """

    __slots__ = (
        "_acquire", "_backend", "_deadlines", "_failure", "_is_lost", "_is_parsing", "_is_told", "_kept", "_lender",
        "_limits", "_loop", "_reader", "_request", "_route", "_since", "_state", "_statement", "_texts", "_timer",
        "_told", "_traffic", "error", "is_gone", "parent", "request_id", "results", "tenant",
    )  # fmt: skip

    def __init__(
        self,
        tenant: TenantId,
        request: SqlRequest,
        runs: SqlRuns,
        traffic: Traffic,
        kept: Kept,
        told: Callable[[SqlRun], None],
    ) -> None:
        self.tenant = tenant
        self.parent = ""  # W3C's traceparent of its request, where statements are looked at
        self.request_id = ""
        self.results: Sequence[StatementResult] = ()
        self.error: TenantProxyError | ServerSaid | None = None
        self.is_gone = False
        self._request = request
        self._lender, limits, self._texts, self._deadlines, rows_answered = runs
        self._limits = limits
        self._traffic = traffic
        self._kept = kept
        self._told = told
        self._is_told = False
        self._state = _S.ASKED
        is_named = not request.modes.as_array
        self._reader = SegmentReader(limits.max_rows, limits.max_result, is_named=is_named, rows_answered=rows_answered)
        self._backend: RawBackend | None = None
        self._route: Route | None = None
        self._acquire: Acquire | None = None
        self._statement: Statement | None = None  # by which it was sent, while that may turn out to be out of date
        self._is_parsing = False  # it was parsed with that
        self._is_lost = False  # its session has other statements than we know of
        self._failure: TenantProxyError | None = None  # what it is answered, once what runs has settled
        self._since = 0.0
        self._timer: asyncio.TimerHandle | None = None  # in SETTLING
        self._loop = asyncio.get_running_loop()

    def __repr__(self) -> str:
        return f"<SqlRun {self._state}, {self._backend!r}>"

    def _move(self, event: SqlRunEvent) -> None:
        self._state = RUN[self._state, event]

    @property
    def holds_backend(self) -> bool:
        """See `guests.Guest`."""
        return self._backend is not None

    # --- out ---------------------------------------------------------------------------------------------------------
    def begin(self, pool: Pool[RawBackend], route: Route) -> None:
        """Lease a backend, and send. Raises TenantProxyError where none can be had."""
        if self._is_told:
            return  # its caller has gone, or an operator has ended it
        binding = route.session.binding
        if binding is not None and binding.proof is Proof.PLAIN:
            raise NotSupported("a tenant whose context is not signed cannot be reached with SQL of others")
        self._route = route
        self._since = monotonic()
        backend = self._lender.lease_nowait(pool, route, NO_SETTINGS)
        if backend is not None:
            self._send(backend)
            return
        self._move(_E.WANTED)
        token = REQUEST_ID.set(self.request_id)  # of what is logged when it gets none, by a timer too
        try:
            self._acquire = self._lender.acquire(pool, route, NO_SETTINGS, self)
        finally:
            REQUEST_ID.reset(token)

    def entering(self) -> None:
        """See `raw.acquire.Lessee`."""

    def leased(self, backend: RawBackend) -> None:
        """See `raw.acquire.Lessee`."""
        self._acquire = None
        self._traffic.wait_seconds += monotonic() - self._since
        self._send(backend)

    def refused(self, error: TenantProxyError) -> None:
        """See `raw.acquire.Lessee`."""
        self._acquire = None
        self._end(error)

    def _send(self, backend: RawBackend) -> None:
        self._move(_E.LENT)
        self._traffic.leases += 1
        self._backend = backend
        backend.sink, backend.on_lost = self._from_server, self._lost
        self._deadlines.add(self)
        backend.write(self._message(backend))

    def _message(self, backend: RawBackend) -> bytes:
        """What is sent for the request: its statement by its name, where that is or shall be prepared there."""
        request, route = self._request, self._route
        if not request.values or backend.wire is not None:  # behind a pooler no session lasts
            return request.message
        assert route is not None
        statement = self._texts.of(backend.pool, route).of(self.tenant, request.texts[0])
        if statement is None:
            return request.message
        self._statement = statement
        before, message = preparing(backend.prepared, statement, backend.leased_at), request.message_for(statement.name)
        if before is None:
            return message
        self._is_parsing = True
        return before + message

    # --- from the server ---------------------------------------------------------------------------------------------
    def _from_server(self, data: bytes) -> None:
        reader, room = self._reader, self._reader.room
        try:
            is_ready = reader.feed(data)
        except ProtocolError as exc:
            self._destroy(ConnectFailed("the server broke the protocol", detail=exc.message))
            return
        except UnicodeDecodeError:
            self._destroy(not_utf8())
            return
        if reader.is_copying:
            self._destroy(no_copy())
        elif is_ready:
            self._ready(reader.status)
        elif not self._keep(room - reader.room):
            pass  # it is being cancelled
        elif reader.is_over and self._failure is None and self._state is _S.RUNNING:
            self._cancel(too_much(self._limits), _SETTLE_SECONDS)

    def _keep(self, size: int) -> bool:
        """So many bytes of rows came; whether they may be kept."""
        if self._state is _S.RUNNING:
            try:
                self._kept.add_rows(size)
            except OutOfMemory as exc:
                self._cancel(exc, _SETTLE_SECONDS)
                return False
        return True

    def _ready(self, status: int) -> None:
        """The segment is over."""
        reader = self._reader
        if reader.is_over and self._failure is None and self._state is _S.RUNNING:  # else it was as it was committed
            self._failure = too_much(self._limits)
        if self._statement is not None and reader.error is not None and self._is_sent_again(reader, status):
            return
        if status == IDLE:
            if self._state is _S.RUNNING and self._request.is_batch and reader.error is None and not self._failure:
                self._failure = ended_itself()
            self._finish()
        elif self._state is _S.RUNNING:
            if not self._request.is_batch and reader.error is None and self._failure is None:
                self._failure = left_open()
            self._move(_E.ANSWERED)
            commits = status == IN_TRANSACTION and reader.error is None and self._failure is None
            reader.again()
            assert self._backend is not None
            self._backend.write(_COMMIT if commits else _ROLLBACK)
        else:  # what we have cancelled is open still, or does not end
            self._destroy(self._failure or shut("the transaction could not be ended"))

    def _is_sent_again(self, reader: SegmentReader, status: int) -> bool:
        """An error came of a statement with a name. Whether it is sent once more, without one.

        What was prepared may be out of date, or not be there: tables have changed, or code of its own tenant has run.
        Only where nothing of it has run, for it was not bound; its caller hears of neither.
        """
        backend, error = self._backend, reader.error
        statement, self._statement = self._statement, None
        assert backend is not None
        assert statement is not None
        assert error is not None
        if self._is_parsing and not reader.is_parsed:
            backend.prepared.forget(statement)
        is_lost = is_unexpected(error)
        if self._is_parsing and not is_lost:
            return False  # without a name it would mean the same
        if reader.is_bound or status != IDLE or self._failure is not None or self._state is not _S.RUNNING:
            return False
        if not any(each in error for each in _OUT_OF_DATE):
            return False  # code of its own said so, or an operator, or a cancel
        if is_lost:
            self._is_lost = True
            backend.prepared.doubt()
        backend.prepared.forget(statement)
        reader.start_over()
        backend.write(statement.close + self._request.message)
        return True

    def _finish(self) -> None:
        """Nothing is under way: give the backend back, and tell the results."""
        backend, route, reader = self._backend, self._route, self._reader
        assert backend is not None
        assert route is not None
        self._backend = None
        error = reader.error
        if error is not None and _READ_ONLY in error:
            backend.saw_read_only = True
        has_commands = False
        for result in reader.results:
            if result.tag[:6] not in _OF_ROWS:
                has_commands = True
                self._note_changes(backend)
                break
        is_dirty = self._is_dirty(error, has_commands=has_commands)
        if self._lender.watch is not None:
            self._tell_statement(self._lender.watch, backend, error)
        traffic, held = self._traffic, self._lender.release(backend, route, is_dirty=is_dirty)
        traffic.transactions += 1
        traffic.queries += len(self._request.texts)
        traffic.transaction_seconds += held
        traffic.query_seconds += held
        traffic.received += len(self._request.message)
        traffic.sent += reader.size
        self._move(_E.DONE)
        if self._failure is not None:
            self._over(self._and_what_became_of_it(self._failure))
        elif error is not None:
            self._over(ServerSaid(error))
        else:
            results = reader.results
            self.results = results[1 : len(self._request.texts) + 1] if self._request.is_batch else results
            self._over(None)
        if not self._is_told:
            self._is_told = True
            self._told(self)

    def _note_changes(self, backend: RawBackend) -> None:
        """Tables, types or functions may be others for the next who asks, of the port too."""
        tags = [result.tag for result in self._reader.results]
        if any(changes_meanings(tag) or tag in _MAY_CHANGE for tag in tags):
            assert self._route is not None
            self._texts.of(backend.pool, self._route).changed(is_delayed=b"PREPARE TRANSACTION" in tags)

    def _tell_statement(self, watch: Watch, backend: RawBackend, error: bytes | None) -> None:
        pool, text = backend.pool, b";".join(self._request.texts).decode(errors="replace")
        parent, state = self.parent or traceparent_in(text), "" if error is None else read_error(error)["C"]
        backend.told = backend.told[0], parent, self.request_id
        seconds = self._lender.clock() - backend.leased_at
        watch.statement(
            StatementOver(pool.key.server, pool.label, self.tenant, text, seconds, state, parent, self.request_id)
        )

    def _is_dirty(self, error: bytes | None, *, has_commands: bool) -> bool:
        """Whether the session holds more than its tenant: a word, a tag, a report or an error said so."""
        request, reader = self._request, self._reader
        if request.leaves or reader.is_touched or self._is_lost or self._state is _S.SETTLING:
            return True
        if error is not None and is_unexpected(error):
            return True
        if not has_commands:
            return False
        own = 1 if request.is_batch else 0  # the BEGIN before the first
        for number, result in enumerate(reader.results):
            tag = result.tag
            if tag and leaves_state(tag):
                index = number - own
                is_local = tag == _SET and 0 <= index < len(request.texts) and request.is_local_set(index)
                if not is_local:
                    return True
        return False

    # --- what ends it early ------------------------------------------------------------------------------------------
    def gone(self) -> None:
        """Who asked is no longer there."""
        if self._is_told:
            return
        self.is_gone = True
        self._tell_soon()
        if self._acquire is not None:
            self._acquire.cancel()
            self._acquire = None
        if self._state is _S.RUNNING:
            self._cancel(shut("the client has gone"), _GONE_SECONDS)
        elif self._backend is None and self._state is not _S.OVER:
            self._move(_E.FAILED)  # else the transaction is being ended, and may

    def kill(self, why: TenantProxyError) -> None:
        """See `guests.Guest`."""
        if self._state is not _S.OVER:
            if self._acquire is not None:
                self._acquire.cancel()
                self._acquire = None
            self._destroy(why)

    def late(self) -> None:
        """See `deadlines.Timed`."""
        if self._state is _S.OVER:
            return
        error = too_late(self._limits)
        if self._state is _S.RUNNING:
            self._cancel(error, _SETTLE_SECONDS)
        elif self._state is _S.ENDING:
            hint = "whether the transaction was committed is unknown"
            self._destroy(
                self._failure or ConnectFailed("the end of a transaction was not answered in time", hint=hint)
            )
        else:
            self._destroy(error)

    def _cancel(self, error: TenantProxyError, seconds: float) -> None:
        """Cancel what runs; what has not ended by then is destroyed, and its caller hears `error` in any case."""
        backend = self._backend
        assert backend is not None
        self._move(_E.CANCELLED)
        self._failure = error
        self._deadlines.discard(self)
        self._timer = self._loop.call_later(seconds, self._destroy, error, context=_NO_CONTEXT)
        self._lender.cancel_request(backend, _nothing)

    def _lost(self, exc: Exception | None) -> None:
        """The backend is gone. What the server said of it comes first."""
        said = self._reader.error
        if isinstance(exc, TenantProxyError):
            self._destroy(exc)
        elif self._failure is not None:
            self._destroy(self._failure)
        elif said is not None:
            self._destroy(ServerSaid(said))
        else:
            hint = "whether what ran has taken effect is unknown if it changes something"
            self._destroy(ConnectFailed("the server closed the connection unexpectedly", hint=hint))

    def _destroy(self, error: TenantProxyError | ServerSaid) -> None:
        backend, self._backend = self._backend, None
        if backend is not None:
            self._note_changes(backend)  # whether they hold is not known
            self._lender.destroy(backend)
        self._end(error)

    def _end(self, error: TenantProxyError | ServerSaid) -> None:
        if self._state is not _S.OVER:
            self._move(_E.FAILED)
        self._over(error)
        self._tell_soon()

    def _over(self, error: TenantProxyError | ServerSaid | None) -> None:
        self._deadlines.discard(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.error = error

    def _tell_soon(self) -> None:
        if not self._is_told:
            self._is_told = True
            self._loop.call_soon(self._told, self, context=_NO_CONTEXT)

    def _and_what_became_of_it(self, error: TenantProxyError) -> TenantProxyError:
        """With what is known of a statement that may have changed something before it was too much or too late."""
        is_done = self._reader.error is None and not self._request.is_batch and bool(self._reader.results)
        if is_done and not self._reader.results[-1].tag.startswith(b"SELECT"):
            error.detail = f"{error.detail}; the statement had ended: what it changed is kept"
        return error


def compiled_reader() -> RowsAnswered | None:
    """What reads answers that are rows alone; None: all of it is Python."""
    if why_not() is not None:
        return None
    from tenantproxy._native.core import rows_answered

    return rows_answered


_NO_CONTEXT: Final = Context()


def _nothing() -> None:
    pass
