"""How do a client's bytes reach a backend that is its tenant's, and the answers the client?

A relay is one client after its login. It looks at kinds and lengths, not into values; what it must know of a message it
asks `wire`. It holds a backend from the first byte of a transaction (or of its session) to the ReadyForQuery that ends
it with nothing unanswered, and no byte of the client's goes out before the lender has said that the backend is its
tenant's. In any doubt the backend is destroyed, never lent again.
"""

from __future__ import annotations

import asyncio
import logging
import struct
from collections.abc import Callable
from contextvars import Context
from time import monotonic
from typing import Final, Protocol

from tenantproxy.errors import (
    ConnectFailed,
    LeaseExpired,
    PoolClosed,
    PoolError,
    ProtocolError,
    RegistryUnavailable,
    TenantPaused,
    TenantProxyError,
)
from tenantproxy.model import Route
from tenantproxy.pools.pool import Pool
from tenantproxy.raw.backend import RawBackend
from tenantproxy.raw.lender import Acquire, RawLender
from tenantproxy.sidecar.pg.kept import KeptSettings
from tenantproxy.sidecar.pg.traffic import Traffic
from tenantproxy.wire import answers, frames
from tenantproxy.wire.commands import ALL, WATCHED, deallocate_of, pins, unbinds
from tenantproxy.wire.frames import HEADER, IDLE, length_of
from tenantproxy.wire.pipeline import MAX_OUTSTANDING, Copy, Pipeline
from tenantproxy.wire.prepared import Prepared, is_described
from tenantproxy.wire.rows import LONGEST, end_of_rows
from tenantproxy.wire.statements import Statement, Statements

__all__ = ["Relay", "Source"]

logger = logging.getLogger("tenantproxy")

_LENGTH: Final = struct.Struct("!I").unpack_from
_STREAMED: Final = 65_536  # of a message that need not be seen whole; less is waited for before a backend is taken
_MAX_WHOLE: Final = 16 * 1024 * 1024  # a statement's text
_MAX_HELD: Final = 262_144  # bytes of a client that waits, before it is not read any further
_TURN: Final = 256  # messages of a client in one turn of the loop; then others have theirs
_TURN_BYTES: Final = 65_536
_LINGER_SECONDS: Final = 10.0  # that a client has for reading what was said last

# Kinds that the hot loops compare with.
_QUERY: Final = frames.QUERY
_BIND: Final = frames.BIND
_EXECUTE: Final = frames.EXECUTE
_SYNC: Final = frames.SYNC
_DATA_ROW: Final = frames.DATA_ROW
_READY: Final = frames.READY
_COMMAND_COMPLETE: Final = frames.COMMAND_COMPLETE
_COPYING: Final = frozenset((frames.COPY_DATA, frames.COPY_DONE, frames.COPY_FAIL))
_WITHOUT_SERVER: Final = _COPYING | {frames.TERMINATE, frames.FLUSH}  # nobody takes a backend for these
_LOOKED_AT: Final = frozenset(  # of the server's, whole; all others stream
    (
        _READY,
        _COMMAND_COMPLETE,
        frames.ERROR,
        frames.PARAMETER_STATUS,
        frames.COPY_IN,
        frames.PARSE_COMPLETE,
        frames.CLOSE_COMPLETE,
    )
)
_FIRST_KIND: Final = frames.PARSE_COMPLETE  # of all; a row that is shorter than itself leads to a byte below
_READY_SIZE: Final = 6
_SHORTEST_TAG: Final = 2  # DO
_STATUSES: Final = b"ITE"
_PASSED: Final = frozenset(  # of the server's: never looked at
    (
        frames.ROW_DESCRIPTION,
        frames.BIND_COMPLETE,
        frames.PARAMETER_DESCRIPTION,
        frames.NO_DATA,
        frames.COPY_DATA,
        frames.PORTAL_SUSPENDED,
        frames.EMPTY_QUERY,
        frames.NOTICE,
        frames.NOTIFICATION,
    )
)
_MANY: Final = 1024  # bytes of rows in which to look for their end at once
_MISSES: Final = 4
_MAX_LOOKED_AT: Final = 1024 * 1024  # an error with a long DETAIL
_IN_ONE_BREATH: Final = (  # how libpq ends a statement
    frames.frame(frames.DESCRIBE, b"P\0") + frames.frame(_EXECUTE, b"\0\0\0\0\0") + frames.frame(_SYNC)
)
_TRANSLATED: Final = {frames.PARSE: Prepared.parse, frames.DESCRIBE: Prepared.describe, frames.CLOSE: Prepared.close}
_DEALLOCATED: Final = frames.frame(_COMMAND_COMPLETE, b"DEALLOCATE\0")
_READ_ONLY: Final = b"\0C25006\0"
_STALE_PLAN: Final = b"RRevalidateCachedQuery\0"
# A statement is not there, or is; the session says that it is another's: a set_config in a SELECT shows nowhere else.
_NOT_AS_BELIEVED: Final = (b"C26000\0", b"C42P05\0", b"C42501\0Mtenantproxy: ")


class Source(Protocol):
    """Where a relay finds its tenant: the pool it has now and the plan that is good now."""

    def known(self) -> tuple[Pool[RawBackend], Route] | None:
        """Without asking anybody; None: `find` it."""
        ...

    async def find(self) -> tuple[Pool[RawBackend], Route]:
        """Ask the registry. Raises TenantError, RegistryUnavailable, PoolClosed."""
        ...


class Relay(asyncio.Protocol):
    """One client between its login and its end. `on_end` is called once, when nothing of it is left.

    Invariants: `_held` is a list exactly while the client's bytes must wait (for a lease, a renewal, the rest of a
    message); `backend.sink` is this relay's exactly while `backend` is set; a backend leaves it quiet, or destroyed.
    """

    __slots__ = (
        "_acquire",
        "_asking",
        "_client_is_slow",
        "_dropped",
        "_finding",
        "_held",
        "_held_size",
        "_is_draining",
        "_is_entering",
        "_is_healing",
        "_is_lost",
        "_is_over",
        "_is_quiet_after_rest",
        "_is_quiet_soon",
        "_is_reading_paused",
        "_is_session",
        "_lender",
        "_listens",
        "_needed",
        "_on_end",
        "_pipeline",
        "_prepared",
        "_replay",
        "_rest",
        "_route",
        "_server_rest",
        "_sink",
        "_skipping",
        "_source",
        "_status",
        "_tail",
        "_told_fatal",
        "_transport",
        "_waits_for_answers",
        "_waits_for_room",
        "_waits_for_turn",
        "answered_at",
        "asked_at",
        "backend",
        "is_waiting",
        "kept",
        "pin",
        "traffic",
        "waiting_since",
    )  # thousands of clients may be there, most of them idle

    def __init__(
        self,
        transport: asyncio.Transport,
        *,
        source: Source,
        lender: RawLender,
        statements: Statements,
        kept: KeptSettings,
        is_session: bool,
        traffic: Traffic,
        on_end: Callable[[], None],
    ) -> None:
        self.backend: RawBackend | None = None
        self.traffic = traffic
        self.kept = kept
        self.is_waiting = False  # for a backend
        self.waiting_since = 0.0
        self.pin = b""  # the tag of the command whose effect only this backend has: it is kept until the client leaves
        self._transport = transport
        self._source = source
        self._lender = lender
        self._pipeline = Pipeline()
        self._prepared = Prepared(statements, self._pipeline)
        self._is_session = is_session  # a backend of its own: its statements may keep their names
        self._on_end = on_end
        self._route: Route | None = None
        self._acquire: Acquire | None = None
        self._finding: asyncio.Task[None] | None = None
        self._held: list[bytes] | None = None
        self._held_size = 0
        self._needed = 0  # bytes held from which on it is worth looking again; 0: something else is waited for
        self._is_reading_paused = False
        self._waits_for_answers = False  # what is held may go when nothing is unanswered
        self._waits_for_room = False  # when fewer answers are outstanding
        self._waits_for_turn = False  # when the loop has been round
        self._is_entering = False
        self._rest = 0  # bytes of a message whose head has gone to the server
        self._is_quiet_after_rest = False
        self._dropped = 0  # bytes to come of a message that no server gets
        self._skipping = False  # an error was told in a server's place: nothing counts until Sync
        self.asked_at = 0.0  # when the first message was sent that is unanswered
        self.answered_at = 0.0  # when nothing was unanswered any more
        self._status = IDLE  # as the last ReadyForQuery said
        self._asking = b""  # the name of the statement that `kept` was last asked for, if it was parsed
        self._replay: bytes | None = None  # the segment under way, while it can be sent once more
        self._is_healing = False  # the client sees nothing of what comes, it will be sent once more
        self._tail = b""  # a frame of the server's that has not come whole
        self._server_rest = 0  # bytes to come of one that need not
        self._is_quiet_soon = False  # when that has come whole
        self._is_lost = False  # what is answered to the client cannot be known any more
        self._listens = 0  # how often it said LISTEN since it was pinned
        self._told_fatal = False  # the server said why it goes
        self._is_draining = False
        self._is_over = False
        self._client_is_slow = False
        self._sink = self._from_server

    # --- from the client ---------------------------------------------------------------------------------------------
    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        self.traffic.received += len(data)
        if self._held is not None:
            self._hold(data)
        elif (
            data[0] == _QUERY  # the commonest by far: one simple query, whole, that needs no second look
            and len(data) > HEADER
            and _LENGTH(data, 1)[0] + 1 == len(data)
            and data[5:8] not in WATCHED
            and not (self._rest or self._dropped or self._skipping or self._pipeline.is_open)
            and self._pipeline.outstanding < MAX_OUTSTANDING
        ):
            backend = self.backend
            if backend is None:
                backend = self._lease()
                if backend is None:
                    self._hold(data)
                    return
            elif backend.binding is not None and self._is_due(backend):
                self._hold(data)
                return
            pipeline = self._pipeline
            if not pipeline.outstanding:
                self.asked_at = monotonic()
            pipeline.queried()
            if self._prepared.unnamed is not None:
                self._prepared.queried()
            backend.write(data)
        elif not (
            data.endswith(_IN_ONE_BREATH)
            and not (self._rest or self._dropped or self._skipping or self._is_session)
            and not (self._pipeline.outstanding or self._pipeline.is_open)
            and self._breathed(data)
        ):
            self._forward(data)

    def _breathed(self, data: bytes) -> bool:
        """One statement as libpq sends it, Parse (unnamed, or none) Bind Describe Execute Sync; False: it is not that.

        Does what `_send` would do with it, which asks of each message what it is.
        """
        bind_at = 0
        if data[0] == frames.PARSE and not data[HEADER] and data[6:9] not in WATCHED:
            bind_at = 1 + _LENGTH(data, 1)[0]
        end = len(data) - len(_IN_ONE_BREATH)
        if bind_at + HEADER > end or data[bind_at] != _BIND or bind_at + 1 + _LENGTH(data, bind_at + 1)[0] != end:
            return False
        backend = self.backend
        if backend is None:
            backend = self._lease()
            if backend is None:
                self._hold(data)
                return True
        elif backend.binding is not None and self._is_due(backend):
            self._hold(data)
            return True
        prepared, kept = self._prepared, self.kept
        self.asked_at = monotonic()
        self._replay = data if self._status == IDLE else None
        try:
            if bind_at:
                kept.asked_for = None
                out = prepared.parse(data[:bind_at]) + prepared.bind(data[bind_at:end])
            else:
                out = prepared.bind(data[:end])
        except ProtocolError as exc:
            self._end(exc)
            return True
        bound = prepared.last_bound
        if bound is not None and (bound.watched is not None or kept.asked_for is not None):
            self._bound(bound, is_alone=not bind_at)
        self._pipeline.synced()
        backend.write(out + _IN_ONE_BREATH)
        return True

    def _forward(self, data: bytes) -> None:
        try:
            self._send(data)
        except ProtocolError as exc:
            self._pipeline.doubt()  # what was to be sent before it may not have been
            self._end(exc)

    def _send(self, data: bytes) -> None:  # noqa: C901 - a hot loop: each call in it costs as much as it does
        """Send what may go, message by message; hold what must wait. Raises ProtocolError."""
        size = len(data)
        begin, at = self._continue(data)  # what lies between the two goes out as it came
        if self._is_over:
            return
        pipeline, prepared = self._pipeline, self._prepared
        backend, is_session, kept = self.backend, self._is_session, self.kept
        if backend is not None and backend.binding is not None and at < size and self._is_due(backend):
            if begin < at:
                backend.write(data[begin:at])
            self._hold(data[at:])
            return
        if pipeline.outstanding >= MAX_OUTSTANDING and at < size:
            if begin < at and backend is not None:
                backend.write(data[begin:at])
            self._waits_for_room = True
            self._hold(data[at:])
            return
        is_quiet = pipeline.is_quiet
        if is_quiet:
            self.asked_at = monotonic()
            self._replay = data if not is_session and self._status == IDLE and not at else None
        else:
            self._replay = None
        out: list[bytes] = []
        is_answered = False  # something was, here
        left, turn_ends = _TURN, at + _TURN_BYTES
        while size - at >= HEADER:
            if not left or at >= turn_ends:
                self._waits_for_turn = True
                break
            left -= 1
            kind = data[at]
            end = at + length_of(data, at)
            if end - at != HEADER and kind in frames.WITHOUT_BODY:
                raise frames.has_body(kind, end - at)
            new: bytes | None = None  # what goes out in its place
            if backend is None or self._skipping or (pipeline.is_skipping and kind != _SYNC):
                if self._skipping or backend is not None or kind in _WITHOUT_SERVER:
                    if begin < at:
                        out.append(data[begin:at])
                    at = begin = self._dispose(kind, end, size)
                    if at < 0:
                        return
                    self._replay = None
                    continue
                if end > size and size - at < _STREAMED:
                    break
                backend = self._lease()
                if backend is None:
                    self._hold(data[at:])
                    return
            if end > size:
                new = self._begun(kind, data[at:], end - at)
                if new is None:
                    break
                self._rest = 0 if self._dropped else end - size
                end = size
            elif kind == _EXECUTE:
                pipeline.opened()
                if kept.asked_for is not None and data[at + HEADER]:
                    kept.asked_for = None  # a portal with a name: whose tag comes next is not known
            elif kind == _SYNC:
                pipeline.synced()
            elif kind == _BIND:
                pipeline.opened()
                if not is_session:
                    new = prepared.bind(data[at:end])
                    bound = prepared.last_bound
                    if bound is not None and (bound.watched is not None or kept.asked_for is not None):
                        self._bound(bound, is_alone=is_quiet and at == 0)
            elif kind == _QUERY:
                if is_session or data[at + 5 : at + 8] not in WATCHED or not self._watched(data[at + 5 : end - 1]):
                    if pipeline.is_open:
                        kept.asked_for = None
                    pipeline.queried()
                    if prepared.unnamed is not None:
                        prepared.queried()
                else:
                    new = b""
                    is_answered = True
            elif kind == frames.TERMINATE:
                self._transport.close()
                data, size = data[:at], at
                break
            else:
                new = self._translated(kind, data[at:end])
            if new is not None:
                if begin < at:
                    out.append(data[begin:at])
                if new:
                    out.append(new)
                begin = end
            at = end
        if begin < at:
            out.append(data[begin:at] if begin or at < size else data)
        if out:
            assert backend is not None
            backend.write(out[0] if len(out) == 1 else b"".join(out))
        if is_answered:
            self._replay = None
            if pipeline.is_quiet and self._status == IDLE:
                self._quiet(self._required())
        if at < size:
            self._replay = None
            if self._waits_for_turn:
                self._hold(data[at:])
                asyncio.get_running_loop().call_soon(self._next_turn)
            else:
                self._hold(data[at:], needed=self._enough(data, at))

    def _next_turn(self) -> None:
        self._waits_for_turn = False
        self._resume_if_held()

    def _enough(self, data: bytes, at: int) -> int:
        """How much there must be of the message that begins at `at`, before it is looked at again."""
        if len(data) - at < HEADER:
            return HEADER
        length = length_of(data, at)
        is_whole = data[at] == frames.PARSE and self.backend is not None
        return length if is_whole else min(length, _STREAMED)

    def _translated(self, kind: int, message: bytes) -> bytes | None:
        """What goes out for a message of a less common kind; None: the message as it is. Raises ProtocolError."""
        pipeline = self._pipeline
        translate = _TRANSLATED.get(kind)
        if translate is not None:
            is_alone = pipeline.is_quiet
            pipeline.opened()
            if self._is_session:
                return None
            if kind == frames.PARSE:
                text_begins = message.find(b"\0", HEADER) + 1
                if message[text_begins : text_begins + 3] in WATCHED:
                    return self._watched_parse(message, text_begins, is_alone=is_alone)
                self.kept.asked_for = None  # whose tag comes next is not known
            return translate(self._prepared, message)
        if kind in _COPYING:
            return None if pipeline.copies(kind) else b""
        if kind == frames.FUNCTION_CALL:
            pipeline.queried()
        elif kind != frames.FLUSH:
            raise ProtocolError("a client may not send such a message here", detail=f"kind {kind:#04x}")
        return None

    def _begun(self, kind: int, head: bytes, length: int) -> bytes | None:
        """What goes out of a message that has not come whole, so that the rest may follow; None: wait for it."""
        pipeline = self._pipeline
        self.kept.asked_for = None
        if kind == _QUERY:
            pipeline.queried()
            self._prepared.queried()
        elif kind == frames.FUNCTION_CALL:
            pipeline.queried()
        elif kind == _BIND and (self._is_session or _names_are_there(head)):
            pipeline.opened()
            return head if self._is_session else self._prepared.bind(head)
        elif kind == _BIND and len(head) < _STREAMED:
            return None
        elif kind in _COPYING:
            if not pipeline.copies(kind):
                self._dropped = length - len(head)
                return b""
        else:
            limit = _MAX_WHOLE if kind == frames.PARSE else _STREAMED
            if length > limit:
                what = f"{length} bytes of kind {kind:#04x}, at most {limit} are taken"
                raise ProtocolError("a message is too long", detail=what)
            return None
        return head

    def _continue(self, data: bytes) -> tuple[int, int]:
        """What of `data` belongs to a message whose head was dealt with: from, to."""
        if self._dropped:
            size = min(self._dropped, len(data))
            self._dropped -= size
            return size, size
        if self._rest:
            size = min(self._rest, len(data))
            self._rest -= size
            if not self._rest and self._is_quiet_after_rest:  # the server did not want it any more
                assert self.backend is not None
                self.backend.write(data[:size])
                self._quiet(self.backend)
                return size, size
            return 0, size
        return 0, 0

    def _dispose(self, kind: int, end: int, size: int) -> int:
        """A message that no server gets: where the next one begins, -1 when there is none."""
        if kind == frames.TERMINATE:
            self._transport.close()
            return -1
        if kind == _SYNC and self._skipping:
            self._skipping = False
            self._transport.write(answers.ready_for_query(IDLE))
        if end > size:
            self._dropped = end - size
            return size
        return end

    # --- what must wait ----------------------------------------------------------------------------------------------
    def _hold(self, data: bytes, *, needed: int = 0) -> None:
        """Keep `data` for `_resume`: behind what is held, or, with `needed`, until so many bytes are there."""
        if self._held is None:
            self._held = []
            self._needed = needed
        self._held.append(data)
        self._held_size += len(data)
        if self._needed:
            if self._held_size >= self._needed:
                self._resume()
        elif self._held_size > _MAX_HELD and not self._is_reading_paused:
            self._is_reading_paused = True
            self._transport.pause_reading()

    def _resume(self) -> None:
        data = self._unhold()
        if data:
            self._forward(data)

    def _unhold(self) -> bytes:
        held, self._held = self._held, None
        self._held_size = self._needed = 0
        if self._is_reading_paused:
            self._is_reading_paused = False
            if not self._transport.is_closing():
                self._transport.resume_reading()
        if not held:
            return b""
        return held[0] if len(held) == 1 else b"".join(held)

    def _is_due(self, backend: RawBackend) -> bool:
        """Whether what comes now must wait until the binding is renewed. A transaction is never cut, nor is a COPY."""
        pipeline = self._pipeline
        is_amid = pipeline.is_open or pipeline.copy is Copy.IN
        if backend.bound_until - monotonic() > self._lender.renewal or is_amid:
            return False
        if pipeline.is_doubtful:  # what is outstanding may never come
            return False
        if pipeline.outstanding:
            self._waits_for_answers = True
            return True
        if self._status != IDLE or self._rest or not (self._is_session or self.pin):
            return False
        self._enter(backend)
        return True

    def _enter(self, backend: RawBackend) -> None:
        assert self._route is not None
        self._held = []
        self._is_entering = True
        self._lender.enter(backend, self._route, self.kept.now, self._entered)

    def _entered(self, error: TenantProxyError | None) -> None:
        self._is_entering = False
        if self._is_over:
            self._give_back()
        elif error is not None:
            self.backend = None
            self._end(error)
        else:
            backend = self.backend
            assert backend is not None
            backend.sink = self._sink
            backend.on_lost = self._lost
            self._resume()

    # --- a lease -----------------------------------------------------------------------------------------------------
    def _lease(self) -> RawBackend | None:
        """A backend for the client now; None: it is being waited for, so hold what comes."""
        try:
            return self._lease_nowait()
        except TenantProxyError as exc:
            self._held = []
            self._waits()
            asyncio.get_running_loop().call_soon(self.refused, exc)
            return None

    def _lease_nowait(self) -> RawBackend | None:
        found = self._source.known()
        if found is None:
            self._held = []
            self._waits()
            self._finding = asyncio.get_running_loop().create_task(self._find(), context=Context())
            return None
        pool, route = found
        backend = self._lender.lease_nowait(pool, route, self.kept.now)
        if backend is not None:
            self._board(backend, route)
            return backend
        self._held = []
        self._waits()
        self._acquire_from(pool, route)
        return None

    def _waits(self) -> None:
        self.is_waiting = True
        self.waiting_since = monotonic()

    async def _find(self) -> None:
        try:
            pool, route = await self._source.find()
        except TenantProxyError as exc:
            self._finding = None
            self.refused(exc)
        except Exception:  # a rim: a client must not wait for ever, and a registry or plan may be somebody else's
            logger.exception("a tenant could not be found")
            self._finding = None
            self.refused(TenantProxyError("the tenant could not be looked up", hint="see the service's log"))
        else:
            self._finding = None
            self._acquire_from(pool, route)

    def _acquire_from(self, pool: Pool[RawBackend], route: Route) -> None:
        self._route = route
        try:
            self._acquire = self._lender.acquire(pool, route, self.kept.now, self)
        except TenantProxyError as exc:
            asyncio.get_running_loop().call_soon(self.refused, exc)

    def leased(self, backend: RawBackend) -> None:
        """See `raw_lender.Lessee`."""
        self._acquire = None
        self.is_waiting = False
        self.traffic.wait_seconds += monotonic() - self.waiting_since
        assert self._route is not None
        self._board(backend, self._route)
        self._resume()

    def refused(self, error: TenantProxyError) -> None:
        """See `raw_lender.Lessee`. What would have run has not; the client may try again."""
        self._acquire = None
        self.is_waiting = False
        if self._is_over:
            return
        data = self._unhold()
        if not data or not isinstance(error, (PoolError, RegistryUnavailable, TenantPaused)) or self._is_session:
            self._end(error)
            return
        self._transport.write(answers.error_response(error, fatal=False))
        self._skipping = True
        if data[0] in (_QUERY, frames.FUNCTION_CALL):  # these end by themselves, all others with a Sync
            size = length_of(data, 0)
            self._dropped = max(0, size - len(data))
            data = data[size:]
            self._skipping = False
            self._transport.write(answers.ready_for_query(IDLE))
        if data:
            self._forward(data)

    def _board(self, backend: RawBackend, route: Route) -> None:
        self.backend = backend
        self.traffic.leases += 1
        self._route = route
        self._status = IDLE
        self._tail = b""
        self._server_rest = 0
        self._is_quiet_soon = False
        backend.sink = self._sink
        backend.on_lost = self._lost
        backend.on_writable = self._server_writable
        self._prepared.board(backend.prepared)
        if self._client_is_slow:
            backend.pause_reading()

    def _quiet(self, backend: RawBackend) -> None:
        """The transaction is over and nothing is unanswered: the backend may go, unless it is kept for the session."""
        if self._is_session or self.pin:
            self.traffic.transactions += 1
            self.traffic.transaction_seconds += monotonic() - self.asked_at
            backend.session = self.kept.now
            if self._is_draining:
                self._end(_shutting_down())
            return
        if self._rest:  # the client is still sending what the server did not wait for
            self._is_quiet_after_rest = True
            return
        self._is_quiet_after_rest = False
        if self._client_is_slow or self._tail or self._pipeline.is_doubtful or self._pipeline.copy is Copy.IN:
            self._give_back()
        else:
            kept, traffic = self.kept, self.traffic
            self.backend = None
            is_dirty = kept.ended()
            backend.session = kept.now
            assert self._route is not None
            traffic.transactions += 1
            traffic.transaction_seconds += self._lender.release(backend, self._route, is_dirty=is_dirty)
        if self._is_draining:
            self._end(_shutting_down())

    def _give_back(self) -> None:
        """Part with the backend: to the lender when nothing is open on it, else for good."""
        backend, self.backend = self.backend, None
        if backend is None:
            return
        assert self._route is not None
        pipeline = self._pipeline
        kept_it = self._is_session or bool(self.pin)
        is_dirty = self.kept.ended() or kept_it
        self.pin = b""
        self._listens = 0
        if self._client_is_slow:
            backend.resume_reading()
        is_amid = self._rest or self._tail or self._server_rest or pipeline.copy is Copy.IN or pipeline.is_doubtful
        if pipeline.is_quiet and self._status == IDLE and not is_amid:
            backend.session = self.kept.now
            held = self._lender.release(backend, self._route, is_dirty=is_dirty)
            if not kept_it:
                self.traffic.transactions += 1
                self.traffic.transaction_seconds += held
        else:
            self._lender.destroy(backend, "error")
            self._rest = 0
            self._abandon()

    def _abandon(self) -> None:
        self._pipeline.abandon()
        self._prepared.abandon()

    # --- what is read of a few statements ----------------------------------------------------------------------------
    def _watched(self, sql: bytes) -> bool:
        """A simple query that may be SET, RESET or DEALLOCATE; True: it was answered here, no server gets it."""
        is_quiet = self._pipeline.is_quiet
        self.kept.asked(sql, is_alone=is_quiet)
        name = deallocate_of(sql)
        if name is ALL:
            self._prepared.deallocating_all()
        if not is_quiet or self._status not in (IDLE, frames.IN_TRANSACTION):
            return False
        if name is None or name is ALL or not self._prepared.names.forget(name):
            return False
        self._transport.write(_DEALLOCATED + answers.ready_for_query(self._status))
        return True

    def _watched_parse(self, message: bytes, text_begins: int, *, is_alone: bool) -> bytes:
        """A statement that may be SET, RESET or DEALLOCATE."""
        prepared = self._prepared
        sql = message[text_begins : message.find(b"\0", text_begins)]
        self.kept.asked(sql, is_alone=is_alone)
        self._asking = message[HEADER : text_begins - 1]
        name = deallocate_of(sql) if text_begins == HEADER + 1 else None
        if isinstance(name, bytes):
            return prepared.deallocate(name, message)
        return prepared.deallocate_all(message) if name is ALL else prepared.parse(message)

    def _bound(self, statement: Statement, *, is_alone: bool) -> None:
        """A named statement is bound: does the next tag tell of a SET that is known?"""
        if statement is self._prepared.names.get(self._asking):
            return  # the one that was parsed before it in the same breath
        self.kept.asked_for = None
        if statement.watched is not None:
            self.kept.asked(statement.watched, is_alone=is_alone)

    def _required(self) -> RawBackend:
        assert self.backend is not None
        return self.backend

    # --- from the server ---------------------------------------------------------------------------------------------
    def _from_server(self, data: bytes) -> None:
        self.traffic.sent += len(data)
        try:
            self._relay(data)
        except ProtocolError as exc:  # it said what it must not: whose answers these are nobody knows
            self._server_failed(exc)

    def _relay(self, data: bytes) -> None:  # noqa: C901 - a hot loop
        """Pass on what the server says, and look at what ends something. Raises ProtocolError."""
        at = 0
        if self._server_rest:
            at = min(self._server_rest, len(data))
            self._server_rest -= at
        elif self._tail:
            data = self._tail + data
            self._tail = b""
        size = len(data)
        last = size - HEADER  # where the last message could begin
        begin = 0  # what lies between here and `at` goes to the client as it came
        out: list[bytes] | None = None  # if something is not passed on as it came
        pipeline = self._pipeline
        misses = 0  # how often rows turned out to be of many lengths
        is_quiet = self._is_quiet_soon and pipeline.is_quiet
        self._is_quiet_soon = False
        while at <= last:
            kind = data[at]
            end = at + 1 + _LENGTH(data, at + 1)[0]
            if (kind == _DATA_ROW or kind in _PASSED) and at + HEADER <= end <= size:
                if size - end > _MANY and kind == _DATA_ROW and end - at <= LONGEST and misses < _MISSES:
                    at = end_of_rows(data, end, end - at - 1)
                    misses += at - end < _MANY
                else:
                    at = end
                continue
            if end > size:
                if self._is_waited_for(kind, end - at):
                    break
                if kind == frames.ERROR:
                    self._failed(data[at:], is_first=False)
                self._server_rest = end - size
                end = size
            elif kind == _READY:
                skipped = pipeline.ready()
                if skipped:
                    self._prepared.skipped(skipped)
                if end - at != _READY_SIZE or data[at + 5] not in _STATUSES:
                    raise ProtocolError("the server is ready in no way that there is")
                self._status = status = data[at + 5]
                is_quiet = False
                self.kept.asked_for = None
                traffic = self.traffic
                traffic.queries += 1
                if not pipeline.outstanding:
                    self.answered_at = now = monotonic()
                    traffic.query_seconds += now - self.asked_at
                    is_quiet = status == IDLE and not pipeline.is_open
                if self._is_healing:
                    out = [*(out or ()), data[begin:at]]
                    begin = end
                    is_quiet = False
                    self._send_again()
            elif kind == _COMMAND_COMPLETE:
                if not data.startswith(b"SELECT", at + 5):
                    self._completed(data[at + 5 : end - 1])
            elif kind in _LOOKED_AT:
                new = self._looked_at(kind, data[at:end], is_first=at == 0)
                if new is not None:
                    out = [*(out or ()), data[begin:at], new]
                    begin = end
            elif end - at < HEADER or kind < _FIRST_KIND:
                raise ProtocolError("the server sent a message of an impossible length")
            at = end
        if not self._is_healing:
            self._replay = None
        if at < size:
            self._tail = data[at:]
        if is_quiet and (self._tail or self._server_rest):
            is_quiet = False
            self._is_quiet_soon = True
        if out is not None:
            data = b"".join((*out, data[begin:at]))
        elif at < size:
            data = data[:at]
        if data:
            self._transport.write(data)
        if is_quiet:
            backend = self.backend
            if backend is not None:
                self._quiet(backend)
        if self._is_lost:
            self._end(
                ProtocolError(
                    "an error came amid messages that no Sync had ended before a simple query or a function call",
                    hint="end messages of the extended protocol with a Sync",
                )
            )
        elif self._waits_for_answers and not pipeline.outstanding:
            self._waits_for_answers = False
            self._resume_if_held()
        elif self._waits_for_room and pipeline.outstanding <= MAX_OUTSTANDING // 2:
            self._waits_for_room = False
            self._resume_if_held()

    def _is_waited_for(self, kind: int, length: int) -> bool:
        """Whether a message of the server's that has not come whole must, before it goes on to the client."""
        is_huge = kind in _LOOKED_AT and kind != frames.ERROR and length > _MAX_LOOKED_AT
        if is_huge or length > frames.MAX_FRAME + 1 or kind < _FIRST_KIND:
            raise ProtocolError("the server sent a message of an impossible length")
        return kind in _LOOKED_AT and length <= _MAX_LOOKED_AT

    def _looked_at(self, kind: int, message: bytes, *, is_first: bool) -> bytes | None:
        """What the client gets for it; None: the message as it is. Raises ProtocolError."""
        if len(message) < HEADER:
            raise ProtocolError("the server sent a message of an impossible length")
        if kind == frames.ERROR:
            return b"" if self._failed(message, is_first=is_first) else None
        if kind == frames.PARAMETER_STATUS:
            self._reported(message[HEADER:-1])
        elif kind == frames.COPY_IN:
            self._pipeline.copy_began()
            if self._waits_for_answers:  # it may be the very data that the server waits for now
                self._waits_for_answers = False
                asyncio.get_running_loop().call_soon(self._resume_if_held)
        elif not self._is_session:  # ParseComplete, CloseComplete
            shown = self._prepared.acknowledged(self._pipeline.acknowledged(kind))
            if shown != kind:
                return frames.frame(shown) if shown else b""
        return None

    def _completed(self, tag: bytes) -> None:
        """A command ended, other than a SELECT. Raises ProtocolError."""
        if len(tag) < _SHORTEST_TAG:
            raise ProtocolError("the server ended a command that there is not")
        self.kept.tagged(tag)
        if tag.startswith(b"COPY"):
            self._pipeline.copied()
        backend = self._required()
        if backend.binding is not None and unbinds(tag):
            backend.bound = None
            backend.bound_until = 0.0
        if self._is_session:
            return
        if tag in (b"DISCARD ALL", b"DEALLOCATE ALL"):
            self._prepared.deallocated_all()
        if pins(tag):
            self._listens += tag == b"LISTEN"
            if self.pin != b"PREPARE":  # that one goes with DISCARD ALL only
                self.pin = tag
        elif tag == b"DISCARD ALL" or (tag == b"UNLISTEN" and self.pin == b"LISTEN" and self._listens == 1):
            self.pin = b""  # of several channels it may have left one
            self._listens = 0

    def _failed(self, error: bytes, *, is_first: bool) -> bool:
        """The server said an error; True: the client need not hear of it, for what it sent is sent once more."""
        pipeline = self._pipeline
        if pipeline.is_quiet:  # of nothing that was asked: it may skip everything up to a Sync that no one sends
            pipeline.doubt()
        skipped = pipeline.failed()
        if skipped:
            self._prepared.skipped(skipped)
        if _READ_ONLY in error and self.backend is not None:
            self.backend.saw_read_only = True
        if b"\0VFATAL\0" in error or b"\0VPANIC\0" in error:  # no text that a user chose has a NUL before it
            self._told_fatal = True
            self._is_healing = False
        elif self._is_session:
            pass
        elif pipeline.is_lost:
            self._is_lost = True
        elif _STALE_PLAN in error:
            if is_first and self._replay is not None and is_described(self._replay):
                self._is_healing = pipeline.owes_one_sync
            if not self._is_healing:
                self._prepared.outdated()  # the driver may mend it, by preparing again
            elif self._held is None:
                self._held = []  # what comes now comes after it
        elif any(each in error for each in _NOT_AS_BELIEVED):
            self.kept.is_dirty = True
            self._prepared.lost()
        return self._is_healing

    def _send_again(self) -> None:
        """DDL made the plan of a prepared statement stale: prepare it anew, and run it where nothing has run yet."""
        data, self._replay = self._replay, None
        self._is_healing = False
        assert data is not None
        self._required().write(self._prepared.prepare_again())
        self._forward(data)
        self._resume_if_held()

    def _reported(self, status: bytes) -> None:
        name, _, value = status.partition(b"\0")
        self._required().parameters[name] = value
        self.kept.reported(name, value)

    def _resume_if_held(self) -> None:
        waits = self._acquire or self._finding or self._is_entering or self._needed or self._is_healing
        waits = waits or self._waits_for_turn or self._waits_for_room or self._waits_for_answers
        if self._held is not None and not waits and not self._is_over:
            self._resume()

    # --- too fast ----------------------------------------------------------------------------------------------------
    def pause_writing(self) -> None:
        """See asyncio.Protocol: the client does not read fast enough."""
        self._client_is_slow = True
        if self.backend is not None:
            self.backend.pause_reading()

    def resume_writing(self) -> None:
        """See asyncio.Protocol."""
        self._client_is_slow = False
        if self.backend is not None:
            self.backend.resume_reading()

    def _server_writable(self, is_writable: bool) -> None:
        if is_writable:
            if self._held is None or self._needed:
                self._is_reading_paused = False
                self._transport.resume_reading()
        elif not self._is_reading_paused:
            self._is_reading_paused = True
            self._transport.pause_reading()

    # --- the end -----------------------------------------------------------------------------------------------------
    @property
    def prepared_statements(self) -> int:
        """How many the client has."""
        return len(self._prepared.names)

    @property
    def is_active(self) -> bool:
        """Whether it has a backend, or waits for one."""
        return self.backend is not None or self.is_waiting

    def idle_in_transaction(self, now: float) -> float:
        """For how many seconds it has kept a transaction open without anything to do for the server."""
        if self.backend is None or self._status == IDLE or self._pipeline.outstanding:
            return 0.0
        return now - self.answered_at

    def cancel(self) -> None:
        """The client asks to cancel what runs for it now."""
        if self.backend is not None and not self._pipeline.is_quiet:
            self._lender.cancel_request(self.backend)

    def drain(self) -> None:
        """End as soon as nothing is under way."""
        self._is_draining = True
        if (not self.is_active and self._held is None) or (self.backend is not None and self._is_idle_session):
            self._end(_shutting_down())

    @property
    def _is_idle_session(self) -> bool:
        return bool(self._is_session or self.pin) and self._pipeline.is_quiet and self._status == IDLE

    def kill(self, why: TenantProxyError | None = None) -> None:
        """End now, whatever is under way; `why`: other than that the operator said so."""
        self._end(
            why
            or PoolClosed(
                "terminating connection due to administrator command", hint="the operator ended it: try again"
            )
        )

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol: the client is gone."""
        self._clean_up()

    def _lost(self, exc: Exception | None) -> None:
        """The backend is gone. What the server said of it has been passed on."""
        backend, self.backend = self.backend, None
        if backend is not None:
            self._lender.destroy(backend, "error")
        self._abandon()
        if isinstance(exc, LeaseExpired):
            self._end(exc)
        elif self._told_fatal:
            self._clean_up()
            self._close()
        else:
            self._end(
                ConnectFailed(
                    "the server closed the connection unexpectedly",
                    hint="whether what ran has taken effect is unknown if a COMMIT was under way",
                )
            )

    def _server_failed(self, error: ProtocolError) -> None:
        backend, self.backend = self.backend, None
        if backend is not None:
            self._lender.destroy(backend, "error")
        self._abandon()
        self._end(ConnectFailed("the server broke the protocol", detail=error.message))

    def _end(self, error: TenantProxyError) -> None:
        """Say why, and close."""
        if self._is_over:
            return
        if not self._server_rest:  # else the client would take it for the rest of a row
            self._transport.write(answers.error_response(error, fatal=True))
        self._clean_up()
        self._close()

    def _close(self) -> None:
        """Close, after what was written; not for ever after, where the client reads nothing of it."""
        self._transport.close()
        if self._transport.get_write_buffer_size():
            asyncio.get_running_loop().call_later(_LINGER_SECONDS, self._transport.abort, context=Context())

    def _clean_up(self) -> None:
        if self._is_over:
            return
        self._is_over = True
        self.is_waiting = False
        self._held = None
        if self._acquire is not None:
            self._acquire.cancel()
        if self._finding is not None:
            self._finding.cancel()
        if not self._is_entering:  # else when that is done
            self._give_back()
        self._on_end()


def _names_are_there(bind: bytes) -> bool:
    """Whether both names of a Bind message have come."""
    portal_ends = bind.find(b"\0", HEADER)
    return portal_ends >= 0 and bind.find(b"\0", portal_ends + 1) >= 0


def _shutting_down() -> TenantProxyError:
    return PoolClosed("terminating connection due to administrator command", hint="connect again")
