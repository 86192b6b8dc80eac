"""How does a backend behind a connection pooler serve clients as any other? Each transaction is made the tenant's here.

Between a backend and its transport: what the backend writes for its client passes one segment at a time (up to a Sync,
a simple query or a function call), within a transaction that was begun, cleaned and proven before. A segment that
begins no transaction of its client's has one for itself, and is told of its end when that is committed. Nothing is left
prepared behind it: every statement runs as the one without a name.

State: `_phase`, and what is under way of a segment. Changed by what either side sends, and by the lender.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import StrEnum
from typing import Any, Final

from tenantproxy.connect.failures import Unconfirmed
from tenantproxy.errors import TenantProxyError
from tenantproxy.isolation.proof import Signer
from tenantproxy.isolation.transaction import TransactionEntry, in_full
from tenantproxy.model import Session
from tenantproxy.raw.backend import RawBackend, Settings
from tenantproxy.raw.exchange import query
from tenantproxy.raw.proving import Beginning, Refusal
from tenantproxy.wire import frames
from tenantproxy.wire.frames import HEADER, IDLE, IN_TRANSACTION, READY, frame, length_of
from tenantproxy.wire.reported import ReportedSettings
from tenantproxy.wire.segments import begins_with, cannot_run, instead, is_begun_already
from tenantproxy.wire.unnamed import UnnamedStatements, end_of_names

__all__ = ["PooledWire", "WirePhase"]

_PARSE, _BIND, _QUERY, _SYNC = frames.PARSE, frames.BIND, frames.QUERY, frames.SYNC
_COMPLETE, _NOTICE, _STATUS = frames.COMMAND_COMPLETE, frames.NOTICE, frames.PARAMETER_STATUS
_COPY_IN: Final = 0x47  # CopyInResponse
_COPIES: Final = frozenset((frames.COPY_DATA, frames.COPY_DONE, frames.COPY_FAIL))
_ENDS: Final = frozenset((_SYNC, _QUERY, frames.FUNCTION_CALL))
_SENT_WHOLE: Final = frozenset((_PARSE, frames.DESCRIBE, frames.CLOSE))
_READ_WHOLE: Final = frozenset(
    (_COMPLETE, frames.ERROR, _NOTICE, _STATUS, frames.PARSE_COMPLETE, frames.BIND_COMPLETE, frames.READY, _COPY_IN)
)
_OF_STATEMENTS: Final = frozenset((frames.PARSE_COMPLETE, frames.BIND_COMPLETE))
_LOOKED_AT: Final = 8192  # bytes of a query; a longer one is passed on as it comes
_HIGH, _LOW = 262_144, 65_536  # bytes of a client that wait for the end of a segment
_COMMIT, _ROLLBACK = query("COMMIT"), query("ROLLBACK")
_TERMINATE: Final = frame(frames.TERMINATE)
_READY_IDLE: Final = frame(READY, bytes([IDLE]))
_PLAIN: Final = in_full("")

EntryOf = Callable[[Session, Settings], TransactionEntry]
Done = Callable[[TenantProxyError | None], None]


class WirePhase(StrEnum):
    """What is under way on the connection."""

    RAW = "raw"  # what we ourselves say, or nothing: bytes pass as they are
    OPEN = "open"  # in a transaction that is the tenant's, with no segment under way
    RUNNING = "running"  # a segment is
    ENDING = "ending"  # its transaction is being ended
    OVER = "over"  # in no transaction; the next segment begins one


_RAW, _OPEN, _RUNNING, _ENDING, _OVER = WirePhase


class PooledWire(asyncio.Protocol):
    """The transport of one backend, and the protocol of its real transport."""

    def __init__(self, backend: RawBackend, *, entry_of: EntryOf, refusal: Refusal) -> None:
        self._real = backend.transport
        self._backend = backend
        self.entry_of = entry_of
        self._refusal = refusal
        self.signer: Signer | None = None
        self.timeout = 5.0
        self._entry: TransactionEntry | None = None
        self._phase = _RAW
        self._is_full = False  # its client waits until we have sent more
        self._is_blocked = False  # and we until the server reads
        self._why: TenantProxyError | None = None  # it could not be made the tenant's
        self._forget()

    def _forget(self) -> None:
        self._inbox = b""  # of the client, not sent yet
        self._passing = 0  # bytes of a client's message whose beginning was sent
        self._is_whole = False  # the segment under way has been sent to its end
        self._is_extended = False  # and that was a Sync
        self._is_query = False  # it is a simple query
        self._is_copying = False
        self._has_reverted = False  # what was set in the transaction, or since a savepoint, is not any more
        self._is_fresh = True  # nothing of the client has run in the transaction
        self._is_clients = False  # its client began it, and ends it
        self._mode = _PLAIN
        self._statements = UnnamedStatements()
        self._reported = ReportedSettings({})
        self._partial = b""  # of what the server says
        self._left = 0  # bytes of a server's message whose beginning was passed on
        self._held = b""  # CommandComplete, until the transaction is committed
        self._failed = b""  # an error, of the end of a transaction
        self._then: Callable[[], None] | None = None  # comes when the transaction was rolled back by us

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    # --- a lease -----------------------------------------------------------------------------------------------------
    def begin(self, entry: TransactionEntry, done: Done, mode: str = _PLAIN) -> None:
        """Begin a transaction that is the tenant's. With an error the connection must be ended."""
        self._forget()
        self._entry, self._mode = entry, mode
        names = ((name.lower(), value) for name, value in entry.settings)
        own = {name.encode(): value.encode() for name, value in names if name not in entry.kept}
        self._reported = ReportedSettings(own)
        self._make_tenants(done)

    def _make_tenants(self, done: Done) -> None:
        assert self._entry is not None
        self._phase = _RAW

        def begun(error: TenantProxyError | None) -> None:
            if error is None:
                self._phase, self._is_fresh, self._is_clients = _OPEN, True, False
                self._statements.segment_ended(lasts=False)
                self._reported.begin(self._backend.parameters)
            done(error)

        Beginning(
            self._backend,
            self._entry,
            mode=self._mode,
            signer=self.signer,
            write=self._real.write,
            refusal=self._refusal,
        ).begin(self.timeout, begun)

    def stay_raw(self) -> None:
        """What is said in the transaction is our own, and ends it."""
        self._phase, self._entry = _RAW, None

    @property
    def is_over(self) -> bool:
        """Whether nothing is under way, and no transaction is open: it may be lent to any client."""
        return self._phase is _OVER and not (self._inbox or self._partial or self._passing or self._left)

    @property
    def is_unused(self) -> bool:
        """Whether its transaction is open, and nothing has run in it."""
        is_still = not (self._inbox or self._partial or self._passing or self._left or self._is_clients)
        return self._phase is _OPEN and self._is_fresh and is_still

    def undo(self, done: Callable[[], None]) -> None:
        """End a transaction in which nothing has run; `done` is not called when the connection is lost."""
        self._roll_back(done)

    def _roll_back(self, then: Callable[[], None]) -> None:
        self._then, self._phase = then, _ENDING
        self._real.write(_ROLLBACK)

    def rest(self) -> None:
        """Its client has given it back."""
        self._forget()
        self._phase, self._entry = _RAW, None

    # --- from the client ---------------------------------------------------------------------------------------------
    def write(self, data: bytes) -> None:
        """What its backend writes."""
        if data == _TERMINATE or self._entry is None:
            self._real.write(data)
            return
        self._inbox += data
        self._pump()
        if len(self._inbox) > _HIGH and not self._is_full:
            self._is_full = True
            self._backend.pause_writing()

    def _pump(self) -> None:
        """Send what may go."""
        if self._backend.is_ending:
            return
        self._send_all()
        if self._is_full and len(self._inbox) <= _LOW:
            self._is_full = False
            if not self._is_blocked:
                self._backend.resume_writing()

    def _send_all(self) -> None:
        while self._inbox and self._phase in (_OPEN, _RUNNING, _OVER):
            if self._passing:
                part, self._inbox = self._inbox[: self._passing], self._inbox[self._passing :]
                self._passing -= len(part)
                self._real.write(part)
                continue
            if len(self._inbox) < HEADER or not self._may_go(self._inbox[0]):
                return
            if self._phase is _OVER:
                self._begin_again(_PLAIN)
                return
            if not self._send_one():
                return

    def _may_go(self, kind: int) -> bool:
        if self._phase is _RUNNING and self._is_whole:
            return self._is_copying and kind in _COPIES
        return True

    def _send_one(self) -> bool:
        """Send the first message of the inbox; False: it has not come far enough, or waits."""
        kind, length = self._inbox[0], length_of(self._inbox, 0)
        if len(self._inbox) < length and not self._may_begin(kind, length):
            return False
        if kind in (_PARSE, _QUERY) and length <= _LOOKED_AT:
            if self._waits_for_mode(length):
                return False
            length = length_of(self._inbox, 0)  # of what may be in its place now
        if self._phase is _OPEN:
            self._phase, self._held = _RUNNING, b""
            self._is_whole = self._is_query = self._is_copying = self._has_reverted = False
            self._statements.segment_begins()
        size = min(length, len(self._inbox))
        message, self._inbox = self._inbox[:size], self._inbox[size:]
        self._passing = length - size
        self._is_fresh = False
        self._real.write(self._statements.as_sent(message, length))
        if kind in _ENDS:
            self._is_whole, self._is_extended, self._is_query = True, kind == _SYNC, kind == _QUERY
        if kind == _QUERY:
            self._statements.queried()
        return True

    def _may_begin(self, kind: int, length: int) -> bool:
        """Whether so much of a message has come that it may be begun with."""
        if kind in _SENT_WHOLE or (kind == _QUERY and length <= _LOOKED_AT):
            return False
        return kind != _BIND or end_of_names(self._inbox) >= 0

    def _waits_for_mode(self, length: int) -> bool:
        """Look at a text: a BEGIN of another mode waits for its transaction, what cannot run is replaced."""
        data, is_query = self._inbox, self._inbox[0] == _QUERY
        at = HEADER if is_query else data.find(b"\0", HEADER, length) + 1
        text = data[at : data.find(b"\0", at, length)]
        mode = begins_with(text)
        if mode is not None and self._is_fresh and not self._is_clients and in_full(mode) != self._mode:
            self._begin_again(in_full(mode))
            return True
        refusal = cannot_run(text)
        if refusal is not None:
            said = data[HEADER:at] + instead(refusal) + (b"\0" if is_query else b"\0\0\0")
            self._inbox = frame(data[0], said) + data[length:]
        return False

    def _begin_again(self, mode: str) -> None:
        """Begin the transaction of the next segment, or the one that is open in another mode."""
        backend = self._backend
        listening, was_paused = (backend.sink, backend.on_lost, backend.on_writable), backend.is_paused
        is_open, self._mode = self._phase is _OPEN, mode
        backend.resume_reading()  # its client may be slow; the answer is ours

        def begun(error: TenantProxyError | None) -> None:
            if backend.is_ending:  # it hears what comes now
                return
            backend.sink, backend.on_lost, backend.on_writable = listening
            if error is not None:
                self._why = error
                self._real.abort()
                if backend.is_closed:
                    asyncio.get_running_loop().call_soon(backend.on_lost, error)
                return
            if was_paused:
                backend.pause_reading()
            self._pump()

        if is_open:
            self._roll_back(lambda: self._make_tenants(begun))
        else:
            self._make_tenants(begun)

    # --- from the server ---------------------------------------------------------------------------------------------
    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        if self._backend.is_ending:  # its client has gone: nothing more of it may run
            return
        if self._phase is _RAW:
            self._backend.data_received(data)
            return
        out = self._read(data)
        if out:
            self._backend.data_received(out)
        self._pump()

    def _read(self, data: bytes) -> bytes:
        """What its client may see of it."""
        out: list[bytes] = []
        if self._left:
            out.append(data[: self._left])
            passed = len(out[0])
            self._left -= passed
            data = data[passed:]
        data = self._partial + data
        at, size = 0, len(data)
        while size - at >= HEADER:
            kind, end = data[at], at + length_of(data, at)
            if kind not in _READ_WHOLE and self._phase is not _ENDING:
                if self._held:
                    out.append(self._held)
                    self._held = b""
                out.append(data[at:end])
                self._left = max(0, end - size)
                at = min(end, size)
                continue
            if end > size:
                break
            self._hear(kind, data[at:end], out)
            at = end
        self._partial = data[at:]
        return b"".join(out)

    def _hear(self, kind: int, message: bytes, out: list[bytes]) -> None:
        payload = message[HEADER:]
        if kind == _STATUS:
            self._reported.hear(payload, is_end=self._phase is _ENDING)
        elif kind == READY:
            self._ready(payload[0] if payload else 0, message, out)
        elif self._phase is _ENDING:
            if kind == frames.ERROR:
                self._failed = message
            elif kind == _NOTICE:
                out.append(message)
        elif kind == _COMPLETE:
            self._is_clients |= payload in (b"BEGIN\0", b"START TRANSACTION\0")
            self._has_reverted |= payload in (b"COMMIT\0", b"ROLLBACK\0")
            out.append(self._held)
            self._held = message
            if not self._is_query:  # the server too says so before it commits
                self._release_held(out)
        elif kind in _OF_STATEMENTS:
            if self._statements.is_clients(kind):
                out.append(message)
        elif kind != _NOTICE or self._is_clients or not is_begun_already(payload):  # which is that we began it
            if kind == _COPY_IN:
                self._is_copying = True
                self._is_whole &= not self._is_extended  # the server passes over that Sync
            self._release_held(out)
            out.append(message)

    def _release_held(self, out: list[bytes]) -> None:
        out.append(self._held)
        self._held = b""

    def _ready(self, status: int, message: bytes, out: list[bytes]) -> None:
        """The segment is over, or the end of its transaction."""
        self._statements.segment_ended(lasts=status == IN_TRANSACTION and self._is_clients)
        if self._phase is _ENDING:
            self._ended(status, out)
            return
        if status != IN_TRANSACTION or self._has_reverted:  # so this is what was in force before
            self._reported.revert()
        if status == IDLE:
            self._finish(out)
        elif self._is_clients:
            self._release_held(out)
            out += (self._reported.news(), message)
            self._phase = _OPEN
        else:
            self._phase, self._failed = _ENDING, b""
            self._real.write(_COMMIT if status == IN_TRANSACTION else _ROLLBACK)

    def _ended(self, status: int, out: list[bytes]) -> None:
        if status != IDLE:
            self._why = self._refusal(Unconfirmed(READY), False)
            self._real.abort()
            return
        then, self._then = self._then, None
        if then is not None:
            self._reported.forget()
            then()
            return
        if self._failed:
            self._held = self._failed
        self._finish(out)

    def _finish(self, out: list[bytes]) -> None:
        """In no transaction: its client hears the end of what it asked for."""
        self._release_held(out)
        out += (self._reported.news(), _READY_IDLE)
        self._phase, self._failed, self._is_clients, self._mode = _OVER, b"", False, _PLAIN

    # --- the rest of asyncio.Protocol --------------------------------------------------------------------------------
    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._backend.connection_lost(self._why or exc)

    def eof_received(self) -> bool | None:
        """See asyncio.Protocol."""
        return None

    def pause_writing(self) -> None:
        """See asyncio.Protocol."""
        self._is_blocked = True
        self._backend.pause_writing()

    def resume_writing(self) -> None:
        """See asyncio.Protocol."""
        self._is_blocked = False
        if not self._is_full:
            self._backend.resume_writing()
