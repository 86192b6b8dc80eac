"""How do bytes go from a client to a backend and back? Forwarded, held, or answered here, as their meaning says.

What bytes mean is decided in `wire` (requests, responses, pipeline, prepared), which backend the client has in
`checkout`. No byte of the client's goes out before the lender has said that the backend is its tenant's, and none
leaves a backend in doubt for others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from time import monotonic
from typing import NamedTuple, Protocol

from tenantproxy.errors import (
    ConnectFailed,
    OutOfMemory,
    PoolClosed,
    PoolError,
    ProtocolError,
    RegistryUnavailable,
    TenantPaused,
    TenantProxyError,
)
from tenantproxy.model import Route
from tenantproxy.raw.backend import RawBackend
from tenantproxy.raw.lender import RawLender
from tenantproxy.sidecar.pg.checkout import Checkout, CheckoutState, Source
from tenantproxy.sidecar.pg.inbox import Hold, Inbox
from tenantproxy.sidecar.pg.keys import request_name
from tenantproxy.sidecar.pg.session import ClientSession
from tenantproxy.sidecar.pg.signals import ClientRights, ToldPid, TrueRow, signal_of
from tenantproxy.sidecar.pg.traffic import Traffic
from tenantproxy.watch import StatementOver, Watch
from tenantproxy.wire import answers
from tenantproxy.wire.definition_changes import DefinitionChanges
from tenantproxy.wire.fingerprint import text_of
from tenantproxy.wire.frames import IDLE, IN_TRANSACTION, PARSE_COMPLETE, QUERY, frame
from tenantproxy.wire.leftovers import ANYTHING, RELEASES, RESETS_ALL, SETTING
from tenantproxy.wire.memory import TenantMemory
from tenantproxy.wire.pipeline import MAX_OUTSTANDING, Certainty, Copy, Pipeline
from tenantproxy.wire.prepared import Prepared, is_described
from tenantproxy.wire.requests import Requests, RequestStream, Stop
from tenantproxy.wire.responses import ResponseStream
from tenantproxy.wire.session_features import SessionFeatures, no_place
from tenantproxy.wire.session_settings import KeptSettings
from tenantproxy.wire.statements import Statements
from tenantproxy.wire.traceparent import traceparent_in

__all__ = ["Forwarder"]

# To look up a member of an enumeration costs as much as ten attributes.
_NOTHING, _BACKEND, _BYTES, _TURN, _ROOM, _COMPARED, _ANSWERS, _CANCELLED = Hold
_BOUNDARY, _PASSING = Requests.BOUNDARY, Requests.PASSING
_IDLE, _HELD, _RETRYING = CheckoutState.IDLE, CheckoutState.HELD, CheckoutState.RETRYING
_END, _STOP_BOUNDARY, _STOP_BACKEND, _STOP_BYTES, _STOP_ANSWERS, _STOP_COMPARED, _STOP_TURN, _TERMINATED = Stop
_KNOWN, _UNFINISHED, _COPY_IN, _NO_COPY = Certainty.KNOWN, Certainty.UNFINISHED, Copy.IN, Copy.NONE


_READY_IDLE = answers.ready_for_query()
_PARSE_COMPLETE = frame(PARSE_COMPLETE)
_MAX_WARNINGS = 100  # about signals to no process, in what a server says at once, that are looked into


class Owner(Protocol):
    """The relay that a forwarder works for."""

    def end(self, error: TenantProxyError) -> None:
        """The client's connection cannot go on."""
        ...

    is_draining: bool
    """It ends as soon as nothing is under way: it is told when it `became_idle`."""

    def became_idle(self, *, asks: bool = False) -> None:
        """A transaction is over; `asks`: and the next one begins, which it is not to have."""
        ...

    def reads_from(self, source: Source) -> None:
        """Its client's next transactions go there."""
        ...

    def lost(self, exc: Exception | None) -> None:
        """The backend is gone."""
        ...


class ClientParts(NamedTuple):
    """What a forwarder is made of; all that is left of a client that rests. See `Relay`."""

    source: Source
    lender: RawLender
    statements: Statements
    kept: KeptSettings
    features: SessionFeatures
    is_session: bool
    traffic: Traffic
    memory: TenantMemory
    rights: ClientRights


class Forwarder:
    """One client's bytes, both ways. Changed by its relay, the backend and the checkout.

    Invariants: `inbox.hold` is NOTHING exactly while nothing is held; `backend.sink` is this one's exactly while it
    holds the backend; a backend leaves it with nothing outstanding, or destroyed.
    """

    __slots__ = (
        "_behind",
        "_bind_at",
        "_is_idle_after_rest",
        "_is_session",
        "_lender",
        "_on_lost",
        "_on_writable",
        "_owner",
        "_replay",
        "_reported",
        "_request",
        "_requests",
        "_returning",
        "_rights",
        "_short_size",
        "_sink",
        "_transport",
        "_watch",
        "answered_at",
        "asked_at",
        "checkout",
        "client_is_slow",
        "features",
        "heard",
        "inbox",
        "is_cancelling",
        "is_choked",
        "is_over",
        "kept",
        "pipeline",
        "prepared",
        "responses",
        "session",
        "traffic",
    )

    def __init__(self, transport: asyncio.Transport, owner: Owner, parts: ClientParts) -> None:
        _, lender, statements, kept, features, is_session, traffic, memory, rights = parts
        self.traffic = traffic
        self._rights = rights
        self.kept = kept
        self.asked_at = 0.0  # when the first message was sent that is unanswered
        self.answered_at = 0.0  # when nothing was unanswered any more
        self.heard = 0  # how often bytes came, from either side
        self.client_is_slow = False  # it does not read as fast as its server sends
        self.is_choked = False  # that, or its server does not read as fast as it sends
        self.is_over = False  # the client has gone
        self.is_cancelling = False  # our cancel request may still hit what runs for it
        self.inbox = Inbox(transport, memory)
        self.features = features
        self.checkout = Checkout(parts.source, lender, self, rights.pid)
        self.pipeline = pipeline = Pipeline()
        self.prepared = prepared = Prepared(statements, pipeline, kept, memory=memory)
        changes = DefinitionChanges(statements, prepared)
        self.session = ClientSession(kept, self.features, changes, is_session=is_session)
        self.responses = ResponseStream(pipeline, prepared, is_session=is_session)
        self.responses.pids = ToldPid(rights.pid, self.checkout)
        self._requests = RequestStream(
            pipeline,
            prepared,
            kept,
            features=self.features,
            changes=changes,
            chooses=True,
            is_session=is_session,
        )
        self._transport = transport
        self._owner = owner
        self._lender = lender
        self._is_session = is_session  # the client keeps its backend to its end
        self._is_idle_after_rest = False  # the rest of a message is still to be passed on
        self._behind: bytes | None = None  # what came behind a warning, while others of them are looked into
        # What waits, if it is one query or statement: bytes, and where its Bind begins.
        self._short_size, self._bind_at = 0, -1
        self._replay: bytes | None = None  # the segment under way, while it can be sent once more
        self._watch = lender.watch  # None: no statement is looked at, else this is the message that began what runs:
        self._request = b""
        self._returning: bytes | None = None  # answers that wait until the settings are those of the client's start
        self._reported: dict[bytes, bytes] = {}  # what the server had reported when that began
        # Kept, for they are set with each lease: to make a bound method costs an allocation.
        self._sink, self._on_lost, self._on_writable = self._from_server, self._lost, self._server_writable

    def forget(self) -> None:
        """It is not used again: its memory is free at once, and not when garbage is collected."""
        # All of these lead back here.
        del self.checkout, self.responses, self._sink, self._on_lost, self._on_writable

    def __repr__(self) -> str:
        return f"<Forwarder {self.checkout!r} {self.pipeline!r} {self._requests!r}, waits for {self.inbox.hold}>"

    @property
    def may_rest(self) -> bool:
        """Whether another forwarder, made of the same parts, would do the same from here on."""
        return self._is_at_rest and self._requests.is_at_rest and self.prepared.is_at_rest

    @property
    def may_be_carried(self) -> bool:
        """Whether nothing is under way or remembered that a straight transaction of the compiled path would change."""
        return self._is_at_rest and self._requests.may_be_carried and self.prepared.may_be_carried

    @property
    def _is_at_rest(self) -> bool:
        inbox = self.inbox
        return (
            self.checkout.state is _IDLE
            and inbox.hold is _NOTHING
            and not (inbox.is_paused or self.client_is_slow or self.is_unread or self.is_cancelling or self.is_over)
            and self._behind is self._returning is None
            and self.pipeline.is_at_rest
            and self.responses.is_at_rest
            and not (self.session.pin or self.session.changes.is_heard or self.features.has_place)
        )

    @property
    def is_idly_pinned(self) -> bool:
        """Whether it has nothing to do for the backend that it keeps for what it left there."""
        return bool(self.session.pin & ANYTHING) and self.pipeline.is_quiet and self.pipeline.status == IDLE

    @property
    def is_amid(self) -> bool:
        """Whether the client has begun what only it can end: a segment, a message or the data of a COPY."""
        return self.pipeline.is_open or self._requests.state is _PASSING or self.pipeline.copy is _COPY_IN

    @property
    def is_unread(self) -> bool:
        """Whether something that the client was sent is still here."""
        return self._transport.get_write_buffer_size() > 0

    # --- from the client ---------------------------------------------------------------------------------------------
    def received(self, data: bytes) -> None:
        """Bytes came from the client."""
        self.traffic.received += len(data)
        self.heard += 1
        if self.inbox.hold is _NOTHING:
            self._pass(data)
        else:
            self._keep(data)

    def _pass(self, data: bytes) -> None:
        """Send it the shortest way that is open to it; nothing waits."""
        requests, checkout = self._requests, self.checkout
        bind_at = requests.one_query(data) if data[0] == QUERY else requests.one_statement(data)
        backend = checkout.backend
        if bind_at < 0 or (backend is not None and self._obstacle() is not _NOTHING):
            self._forward(data)
            return
        if backend is None:
            backend = checkout.lease(self.kept.now)
            if backend is None:
                self._wait(_BACKEND, data, bind_at=bind_at)
                return
            self._board(backend)
        self._send(backend, data, bind_at)

    def _send(self, backend: RawBackend, data: bytes, bind_at: int) -> None:
        """Send one query, or one statement whose Bind begins at `bind_at`."""
        requests, is_query = self._requests, data[0] == QUERY
        if not self.pipeline.outstanding:
            self._asks(data, 0)
            if is_query:
                self.kept.asked_for = data
        if is_query:
            requests.queried()
            backend.write(data)
            return
        self._replay = None if bind_at or self.pipeline.status != IDLE else data
        try:
            backend.write(requests.statement(data, bind_at))
        except (ProtocolError, OutOfMemory) as exc:
            self._refuse(exc)
        if self.prepared.is_comparing:
            self._replay = None
            self._wait(_COMPARED, data[requests.at :])

    def _forward(self, data: bytes) -> None:
        """Send what may go; hold what must wait."""
        requests, pipeline = self._requests, self.pipeline
        at, size = 0, len(data)
        while at < size and not self.is_over:
            hold = self._obstacle()
            if hold is not _NOTHING:
                self._wait(hold, data[at:])
                return
            is_first = not at and pipeline.is_quiet
            if pipeline.is_quiet:
                self._asks(data, at)
            self._replay = None
            backend = self.checkout.backend
            try:
                out = requests.read(data, at, has_backend=backend is not None)
            except (ProtocolError, OutOfMemory) as exc:
                self._refuse(exc)
                return
            at = requests.at
            if requests.vacates is not None:
                self._rights.vacate(requests.vacates)
                requests.vacates = None
            if out and backend is not None:
                backend.write(out)
            if self.features.notice:
                self._notify()
            if requests.reply:
                self._choose_reads()
                self._transport.write(requests.reply)
                if backend is not None and pipeline.is_quiet and pipeline.status == IDLE:
                    self._idle(is_amid=self.responses.is_amid)
            elif is_first and at == size and pipeline.status == IDLE and requests.state is _BOUNDARY:
                self._replay = None if self._is_session else data
            if requests.stop is not _END and not self._goes_on(requests.stop, data, at):
                return

    def _asks(self, data: bytes, at: int) -> None:
        """Nothing is unanswered; what is behind `at` is to be."""
        self.asked_at = monotonic()
        if self._watch is not None:
            self._request = data[at:]

    def _choose_reads(self) -> None:
        """Its client may have said where it reads from its next transaction on."""
        wish, self._requests.wish = self._requests.wish, None
        if wish is None:
            return
        source = self.checkout.source
        replica = self._rights.starts_on_replica if wish.resets else wish.replica
        self.checkout.source = source.reading(
            replica=source.replica if replica is None else replica,
            after=source.after if wish.after is None else wish.after,
        )
        self._owner.reads_from(self.checkout.source)

    def _notify(self) -> None:
        """Tell the client what it is to know, unless that would be read as the rest of a row."""
        notice, self.features.notice = self.features.notice, b""
        if not self.responses.is_half_passed:
            self._transport.write(notice)

    def _goes_on(self, stop: Stop, data: bytes, at: int) -> bool:
        """Whether what is behind `at` may be read on, after the reading stopped there."""
        if stop is _STOP_BOUNDARY:
            if self._is_idle_after_rest:  # the server did not want it any more
                self._idle(is_amid=self.responses.is_amid)
        elif stop is _STOP_BACKEND:
            if self._owner.is_draining:
                self._owner.became_idle(asks=True)
                return False
            backend = self.checkout.lease(self.kept.now)
            if backend is None:
                self._wait(_BACKEND, data[at:])
                return False
            self._board(backend)
        elif stop is _STOP_BYTES:
            self._wait(_BYTES, data[at:], needed=self._requests.needed)
            return False
        elif stop is _STOP_ANSWERS:
            if self.pipeline.outstanding:
                self._wait(_ANSWERS, data[at:])
                return False
        elif stop is _STOP_COMPARED:
            self._wait(_COMPARED, data[at:])
            return False
        elif stop is _STOP_TURN:
            self._wait(_TURN, data[at:])
            asyncio.get_running_loop().call_soon(self._resume, _TURN)
            return False
        elif stop is _TERMINATED:
            self._transport.close()
            return False
        return True

    def _refuse(self, error: TenantProxyError) -> None:
        """The client said what it must not."""
        self.pipeline.doubt()  # what was to be sent before it may not have been
        self._owner.end(error)

    # --- what must wait ----------------------------------------------------------------------------------------------
    def _obstacle(self) -> Hold:
        """Why the client's next message must wait; a renewal of the binding begins here."""
        pipeline, checkout = self.pipeline, self.checkout
        if not checkout.may_forward:
            return _BACKEND
        backend = checkout.backend
        if backend is None or self._requests.state is _PASSING:
            return _NOTHING
        if self.is_cancelling:
            return _CANCELLED
        if pipeline.outstanding:
            if pipeline.outstanding >= MAX_OUTSTANDING:
                return _ROOM
            if self.kept.asked_for is not None and pipeline.will_be_idle and self.kept.may_set:
                return _ANSWERS
        if backend.binding is None or backend.bound_until - monotonic() > self._lender.renewal:
            return _NOTHING
        # A transaction is never cut, nor is a COPY; and what is outstanding may wait for a Sync, or never come.
        if pipeline.is_open or pipeline.copy is _COPY_IN or pipeline.is_doubtful:
            return _NOTHING
        if pipeline.outstanding:
            return _ANSWERS if pipeline.will_be_idle else _NOTHING
        if pipeline.status != IDLE or not (self._is_session or self.session.pin):
            return _NOTHING
        checkout.renew(self.kept.now)
        return _BACKEND

    def _wait(self, hold: Hold, data: bytes, *, needed: int = 0, bind_at: int = -1) -> None:
        """Keep `data` until `_resume(hold)`. `bind_at`: where it may be sent as it is, see `_pass`."""
        self._short_size, self._bind_at = (len(data), bind_at) if bind_at >= 0 else (0, -1)
        if not self.is_over:
            try:
                self.inbox.wait(hold, data, needed=needed)
            except OutOfMemory as exc:
                self._out_of_memory(exc)

    def _keep(self, data: bytes) -> None:
        """Keep what comes behind that."""
        try:
            is_enough = self.inbox.keep(data)
        except OutOfMemory as exc:
            self._out_of_memory(exc)
            return
        if is_enough:
            self._resume(_BYTES)

    def _out_of_memory(self, error: OutOfMemory) -> None:
        """There is no room for what must wait: a statement fails that has not come whole, all else ends the client."""
        requests, backend, is_begun = self._requests, self.checkout.backend, self.inbox.hold is _BYTES
        data = self.inbox.take()
        if not is_begun or not requests.begins_parse(data):
            self._owner.end(error)
            return
        if backend is not None:
            backend.write(requests.refuse_parse(data, error))
            at = requests.at
        else:
            at = requests.refuse(data)
            self._transport.write(answers.error_response(error))
        if data[at:]:  # its end may have come with what is behind it
            self._forward(data[at:])

    def _resume(self, hold: Hold) -> None:
        if self.inbox.hold is hold and not self.is_over:
            data = self.inbox.take()
            if data:
                self._pass(data)

    def cancel(self) -> None:
        """What runs took too long. What the client sends from now on waits until the request cannot hit it."""
        backend = self.checkout.backend
        if backend is not None:
            self.is_cancelling = True
            self._lender.cancel_request(backend, self._cancel_over)

    def _cancel_over(self) -> None:
        self.is_cancelling = False
        self._resume(_CANCELLED)

    # --- a lease: see `checkout.Holder` ------------------------------------------------------------------------------
    def adopt(self, backend: RawBackend, route: Route) -> None:
        """A session has its backend from its login on; it is leased, bound and set to what the client asked for."""
        self.checkout.adopt(backend, route)
        self._board(backend)
        if backend.pid == self._rights.pid:
            self.responses.pids = None

    def carried(self, heard: int, asked_at: float, answered_at: float, unnamed: bytes | None) -> None:
        """The compiled path has carried transactions, which are over. `unnamed`: see `Prepared.carried`."""
        self.heard += heard
        self.asked_at, self.answered_at = asked_at, answered_at
        if unnamed is not None:
            self.prepared.carried(unnamed)

    def hold(self, backend: RawBackend, route: Route, since: float, is_open: bool, has_begun: bool) -> None:
        """Have a backend that the compiled path leased at `since`, in a transaction where that `is_open`.

        `has_begun`: see `ResponseStream`.
        """
        backend.leased_at = since
        self.checkout.adopt(backend, route)
        self._board(backend)
        if is_open:
            self.pipeline.status = IN_TRANSACTION
        self.responses.has_begun = has_begun

    def go_on(
        self,
        backend: RawBackend,
        data: bytes,
        sent: bytes,
        *,
        asked_at: float,
        passed: int,
        has_parsed: bool,
    ) -> None:
        """Be as if `data` of the client had been sent by this at `asked_at`, for which `sent` went to its backend.

        `passed` bytes of the answer have gone to the client, whole messages of the kinds that are not looked at, and
        ParseComplete if it `has_parsed`. Where this would have sent something else, both ends are destroyed.
        """
        written: list[bytes] = []
        write, backend.write = backend.write, written.append
        try:
            self.received(data)
        finally:
            backend.write = write
        self.asked_at = asked_at
        if b"".join(written) != sent or self.inbox.hold is not _NOTHING:
            self._destroy(is_over=True)
            self._owner.end(ConnectFailed("the connection was closed", detail="what was sent for it is not known"))
            return
        if has_parsed:
            self.responses.scan(_PARSE_COMPLETE)  # the client has it
        if passed:
            self.traffic.sent += passed
            self._replay = None

    def _board(self, backend: RawBackend) -> None:
        self.traffic.leases += 1
        self.pipeline.status = IDLE
        backend.sink = self._sink
        backend.on_lost = self._on_lost
        backend.on_writable = self._on_writable
        self.prepared.board(backend.prepared)
        if self.client_is_slow:
            backend.pause_reading()

    def _server_writable(self, is_writable: bool) -> None:
        self.is_choked = not is_writable or self.client_is_slow
        if is_writable:
            self.inbox.resume()
        else:
            self.inbox.block()

    def checked_out(self, backend: RawBackend) -> None:
        """See `checkout.Holder`."""
        self.traffic.wait_seconds += monotonic() - self.checkout.waiting_since
        self._board(backend)
        if self._short_size and self._short_size == self.inbox.size and not self.is_over:  # nothing has come behind it
            self._send(backend, self.inbox.take(), self._bind_at)
        else:
            self._resume(_BACKEND)

    def not_checked_out(self, error: TenantProxyError) -> None:
        """See `checkout.Holder`. What would have run has not; the client may try again."""
        data = self.inbox.take()
        if not data or not isinstance(error, (PoolError, RegistryUnavailable, TenantPaused)) or self._is_session:
            self._owner.end(error)
            return
        at = self._requests.refuse(data)
        self._transport.write(answers.error_response(error, fatal=False) + self._requests.reply)
        if data[at:]:
            self._forward(data[at:])

    def renewed(self, error: TenantProxyError | None) -> None:
        """See `checkout.Holder`."""
        backend = self.checkout.backend
        if self.is_over:
            self._give_back()
        elif error is not None or backend is None:
            self._owner.end(error or PoolClosed("the connection was closed"))
        else:
            backend.sink = self._sink
            backend.on_lost = self._on_lost
            if self.client_is_slow:  # it is not paused again: the client's transport is full already
                backend.pause_reading()
            self._told(backend)
            left = self.kept.left
            if left and not self._is_session and self.session.must_look(left):
                self._look(left, is_amid=self.responses.is_amid)
            self._resume(_BACKEND)

    def _idle(self, *, is_amid: bool = False) -> None:
        """Nothing is outstanding, in no transaction: the backend may go, unless it is kept for the session.

        `is_amid`: the server has begun to say something more.
        """
        checkout, traffic, pipeline = self.checkout, self.traffic, self.pipeline
        backend = checkout.backend
        if backend is None:
            return
        kept = self.kept
        left = kept.left
        if self._is_session or self.session.pin or (left and left & ANYTHING and self.features.is_pinning):
            traffic.transactions += 1
            traffic.transaction_seconds += monotonic() - self.asked_at
            if kept.ended(is_kept=True) and not self._is_session:
                kept.is_dirty = True  # when it is given back at last
            backend.session = kept.now
            if left and not self._is_session and self.session.must_look(left):
                self._look(left, is_amid=is_amid or self._returning is not None)
        elif self._requests.state is _PASSING:  # the client is still sending what the server did not wait for
            self._is_idle_after_rest = True
            return
        elif is_amid or self.is_choked or pipeline.certainty is not _KNOWN or pipeline.copy is not _NO_COPY:
            is_unfinished = pipeline.certainty is _UNFINISHED
            self._give_back()
            if is_unfinished:
                self._owner.end(_perhaps_not_committed())
                return
        else:
            is_dirty, applied = False, kept.now
            if kept.staged or kept.is_dirty:
                is_dirty, applied = kept.ended(), kept.applied
            traffic.transactions += 1
            traffic.transaction_seconds += checkout.release(applied, is_dirty=is_dirty)
        self._is_idle_after_rest = False
        if self._owner.is_draining:
            self._owner.became_idle()

    def _look(self, left: int, *, is_amid: bool) -> None:
        """Ask the server what the client has left; where that cannot be now, all that it may have keeps its backend."""
        pipeline = self.pipeline
        is_passing = self._requests.state is _PASSING
        if is_passing or is_amid or pipeline.certainty is not _KNOWN or pipeline.copy is not _NO_COPY:
            self.session.pin |= left & ANYTHING
            self.kept.left = RELEASES | (left & RESETS_ALL)
        else:
            self.checkout.look(settings=bool((left | self.session.pin) & SETTING))

    def looked(self, found: int, error: TenantProxyError | None) -> None:
        """See `checkout.Holder`."""
        session, backend = self.session, self.checkout.backend
        was_pinned = session.pin & ANYTHING
        found = session.found(found)
        self.kept.left = 0
        if error is not None or backend is None:
            session.unpin()
            self._owner.end(error or PoolClosed("the connection was closed"))
        elif self.is_over:
            self._give_back()
        elif found and not (self.features.has_place or self.features.take()):
            self._owner.end(no_place(self.features.places.limit, found))
        else:
            self.traffic.pins += bool(found and not was_pinned)
            if self.client_is_slow:
                backend.pause_reading()
            if not session.pin:
                self._give_back(is_counted=True)
            if self._owner.is_draining:
                self._owner.became_idle()
            self._resume(_BACKEND)

    def _give_back(self, *, is_counted: bool = False) -> None:
        """Part with the backend: to the lender when nothing is open on it, else for good."""
        backend, pipeline = self.checkout.backend, self.pipeline
        if backend is None:
            return
        kept_it = is_counted or self._is_session or bool(self.session.pin)
        is_dirty = self.kept.ended() or kept_it
        self.session.unpin()
        if self.client_is_slow:
            backend.resume_reading()
        if self.inbox.is_paused:  # what the server has still to read of it is void: nothing will say when it has
            self.inbox.resume()
        self.is_choked = self.client_is_slow
        is_amid = self._requests.state is _PASSING or self.responses.is_amid or pipeline.copy is _COPY_IN
        if is_amid or not pipeline.is_quiet or pipeline.certainty is not _KNOWN or pipeline.status != IDLE:
            self._destroy(is_over=self.is_over)
            return
        held = self.checkout.release(self.kept.applied, is_dirty=is_dirty)
        if not kept_it:
            self.traffic.transactions += 1
            self.traffic.transaction_seconds += held

    def _destroy(self, *, is_over: bool) -> None:
        self.checkout.destroy(is_over=is_over)
        self.session.unpin()
        self.session.changes.lost()
        self.responses.abandon()
        self._requests.abandon()
        self.pipeline.abandon()
        self.prepared.abandon()

    # --- from the server ---------------------------------------------------------------------------------------------
    def _from_server(self, data: bytes) -> None:
        traffic, responses = self.traffic, self.responses
        traffic.sent += len(data)
        self.heard += 1
        try:
            out = responses.scan(data)
        except ProtocolError as exc:  # whose answers these are is not known
            is_of_client = self.pipeline.is_doubtful  # it has said what may be answered, or not
            self._destroy(is_over=True)
            broken = ConnectFailed("the server broke the protocol", detail=exc.message)
            self._owner.end(_unknown_answers() if is_of_client else broken)
            return
        if responses.is_plain and self.inbox.hold is _NOTHING and self.checkout.state is _HELD:
            traffic.queries += responses.readies
            self.answered_at = now = monotonic()
            traffic.query_seconds += now - self.asked_at
            if self._watch is not None:
                self._tell_statement(self._watch, now)
            kept = self.kept
            kept.asked_for = None
            if kept.has_returned:
                self._returned(out)
                return
            self._replay = None
            self._transport.write(out)
            self._idle()
        else:
            self._heard_more(out)

    def _tell_statement(self, watch: Watch, now: float) -> None:
        """What was asked is answered; of several statements at once the first stands for all."""
        request, self._request = self._request, b""
        backend = self.checkout.backend
        text = text_of(request) or self.prepared.text_bound
        if backend is not None and text:
            pool, told = backend.pool, text.decode(errors="replace")
            parent = traceparent_in(told)
            name = request_name(self._rights.pid)
            # That of the lease is the last that was said: a COMMIT seldom has a comment.
            backend.told = backend.told[0], parent or backend.told[1], name
            tenant, seconds = backend.bound or pool.label, now - self.asked_at
            watch.statement(
                StatementOver(pool.key.server, pool.label, tenant, told, seconds, parent=parent, request=name)
            )

    def _heard_more(self, out: bytes) -> None:
        """Something was said that is not just the end of what was asked. The client gets `out`."""
        traffic, responses, pipeline = self.traffic, self.responses, self.pipeline
        if responses.events and self._is_for_others(out):
            return
        if responses.readies:
            self.kept.asked_for = None
            traffic.queries += responses.readies
            if not pipeline.outstanding:
                self.answered_at = now = monotonic()
                traffic.query_seconds += now - self.asked_at
                if self._watch is not None:
                    self._tell_statement(self._watch, now)
        if (responses.is_stale or self.checkout.state is _RETRYING) and self._is_retried():
            return
        if responses.is_idle and self.kept.has_returned:
            self._returned(out)
        else:
            if out:
                self._replay = None
                self._transport.write(out)
            if responses.is_idle:
                self._idle()
        if pipeline.is_lost and not (self._is_session or responses.is_fatal):
            self._owner.end(_unknown_answers())
        elif self.inbox.hold is not _NOTHING:
            self._answered()

    def _is_for_others(self, out: bytes) -> bool:
        """Note what came. Whether it ends with a warning that concerns another client, and all of it was dealt with."""
        responses = self.responses
        if self.session.note(responses.take_events(), self.checkout.backend):
            self.prepared.meaning_changed(responses.readies)
        if self.session.changes.is_pending:  # until its end, which may come alone
            responses.tell_ready()
        if responses.is_copying_in and self.inbox.hold is _ANSWERS:  # it may be what the server waits for now
            asyncio.get_running_loop().call_soon(self._resume, _ANSWERS)
        if not responses.warning:
            return False
        self._not_signalled(out)
        return True

    def _returned(self, out: bytes) -> None:
        """Settings went back to what the backend has at its start, and the client has another one.

        A backend that is kept is set to that, and bound, before its client hears `out`, which ends with ReadyForQuery.
        """
        self._replay = None
        kept = self.kept
        returned = kept.returned()
        if not (self._is_session or self.session.pin):
            self._transport.write(_before_ready(out, returned))
            self._idle()
            return
        self._returning = out
        self._idle()
        backend = self.checkout.backend
        if backend is not None and not self.is_over:
            self._reported = dict(backend.parameters)
            self.checkout.renew(kept.now, start=kept.start)

    def take_returning(self) -> bytes:
        """What the client is not told before its settings are what they were at its start."""
        out, self._returning = self._returning, None
        return out or b""

    def _told(self, backend: RawBackend) -> None:
        """The settings are: tell it, and what the server has reported since."""
        if self._returning is None:
            return
        reported = [pair for pair in backend.parameters.items() if self._reported.get(pair[0]) != pair[1]]
        for name, value in reported:
            self.kept.reported(name, value)
        backend.session = self.kept.now
        self._reported = {}
        self._transport.write(_before_ready(self.take_returning(), reported))

    def _not_signalled(self, out: bytes) -> None:
        """The server warned that it knows no such process: it may be what another client, or this one, was told."""
        self._replay = None
        responses, backend = self.responses, self.checkout.backend
        self.traffic.queries += responses.readies
        warning, rest = responses.warning, responses.take_tail()
        self.traffic.sent -= len(rest)  # counted when it is scanned
        asked = signal_of(warning, out, self.prepared.text_bound if self.pipeline.owes_one_sync else b"")
        is_done = asked is not None and self._rights.signal(asked.pid, ends=asked.ends)
        if self.is_over:  # it ended itself
            return
        self._transport.write(out if is_done else out + warning)
        if backend is None:
            return
        if is_done:
            TrueRow(backend, self._sink)
        if self._behind is None:
            self._read_on(rest, backend)
        else:
            self._behind = rest

    def _read_on(self, rest: bytes, backend: RawBackend) -> None:
        """What came behind a warning. One statement may make thousands."""
        responses, pids = self.responses, self.responses.pids
        for count in range(_MAX_WARNINGS + 1):
            if not rest:
                break
            self._behind = b""
            if count == _MAX_WARNINGS:
                responses.pids = None
            backend.sink(rest)
            rest = self._behind
        self._behind, responses.pids = None, pids

    def _answered(self) -> None:
        """What waits for answers may go on."""
        if not self.prepared.is_comparing:
            self._resume(_COMPARED)
        if not self.pipeline.outstanding:
            self._resume(_ANSWERS)
        if self.pipeline.outstanding <= MAX_OUTSTANDING // 2:
            self._resume(_ROOM)

    def _is_retried(self) -> bool:
        """DDL made the plan of a statement stale. Whether the client is to see nothing of what came.

        The statement is prepared again and the segment sent once more, where nothing of it has run.
        """
        responses, checkout = self.responses, self.checkout
        if responses.is_stale:
            replay = self._replay if responses.is_retryable else None
            if replay is None or not is_described(replay):
                self.prepared.outdated()  # the driver may put it right, by preparing again
                return False
            checkout.retry()
            if self.inbox.hold is _NOTHING:
                self._wait(_BACKEND, b"")  # what comes now comes after it
        if responses.is_fatal:
            checkout.retried()
            return False
        if responses.readies:
            data, self._replay = self._replay, None
            checkout.retried()
            if checkout.backend is not None and data is not None:
                checkout.backend.write(self.prepared.prepare_again())
                self._forward(data)
            self._resume(_BACKEND)
        return True

    def _lost(self, exc: Exception | None) -> None:
        """The backend is gone. What the server said of it has been passed on."""
        self._destroy(is_over=True)
        self._owner.lost(exc)

    def close(self) -> None:
        """The client has gone."""
        self.is_over = True
        self.inbox.clear()
        if self.checkout.leave():
            self._give_back()
        self.prepared.leave()


def _before_ready(out: bytes, reported: Iterable[tuple[bytes, bytes]]) -> bytes:
    """`out`, in which ReadyForQuery is the last answer, with reports of these settings before that."""
    statuses = b"".join(answers.parameter_status(name, value) for name, value in reported)
    if out.endswith(_READY_IDLE):
        return out[: -len(_READY_IDLE)] + statuses + _READY_IDLE
    return out + statuses  # a notification came behind it: no other message ends like that


def _unknown_answers() -> ProtocolError:
    return ProtocolError(
        "what the server answers cannot be told any more: COPY messages outside of a COPY, or an error among messages"
        " that no Sync had ended before a simple query",
        hint="end messages of the extended protocol with a Sync",
    )


def _perhaps_not_committed() -> ProtocolError:
    return ProtocolError(
        "a simple query or a function call came among messages that no Sync had ended:"
        " whether the server has committed them is not known",
        hint="end messages of the extended protocol with a Sync",
    )
