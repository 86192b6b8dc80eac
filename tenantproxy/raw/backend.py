"""What is one connection to a PostgreSQL server, as bytes? A transport, its known session state, its callbacks.

Changed by the connector until it is open, then by the lender, and while it is leased by its holder (`sink`, `session`,
`prepared`). The holder sets `sink`; an idle backend handles what the server sends itself.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol, cast

from tenantproxy.config import Server
from tenantproxy.connect.keepalive import keep_alive
from tenantproxy.errors import LeaseExpired, ProtocolError, TenantProxyError
from tenantproxy.isolation.proof import Signer
from tenantproxy.isolation.transaction import TransactionEntry
from tenantproxy.model import Binding, Session, TenantId
from tenantproxy.pools.lingering import UNKNOWN
from tenantproxy.pools.pool import Pool
from tenantproxy.wire.frames import HEADER, NOTICE, PARAMETER_STATUS, length_of
from tenantproxy.wire.settings import NO_SETTINGS, Settings
from tenantproxy.wire.statements import ServerStatements

__all__ = ["Conversation", "RawBackend", "Settings", "discard", "ignore_loss"]


class Conversation(Protocol):
    """What we ourselves say on a backend. See `exchange.Exchange`."""

    def drop(self) -> None:
        """Stop: the result is no longer wanted."""
        ...


class TransactionWire(Protocol):
    """What makes each transaction the tenant's. See `pooled.PooledWire`."""

    entry_of: Callable[[Session, Settings], TransactionEntry]

    def begin(self, entry: TransactionEntry, done: Callable[[TenantProxyError | None], None]) -> None:
        """Begin the first one of a lease."""
        ...

    @property
    def is_over(self) -> bool:
        """Whether nothing is under way, and no transaction is open."""
        ...

    @property
    def is_unused(self) -> bool:
        """Whether one is open, and nothing has run in it."""
        ...

    def undo(self, done: Callable[[], None]) -> None:
        """End it then."""
        ...

    def rest(self) -> None:
        """The lease is over."""
        ...


def discard(data: bytes) -> None:
    """What comes on a connection that is being ended."""


def ignore_loss(exc: Exception | None) -> None:
    """The holder already knows that the connection is closing."""


def _ignore(writable: bool) -> None:
    """Nothing is written to a connection without a holder."""


class RawBackend(asyncio.Protocol):
    """One open connection. `bound_until` (monotonic) is when its proof ends, infinite where it needs none.

    `session` are the tracked settings as they are applied to it now, `()` as at start-up.
    """

    __slots__ = (
        "binding",
        "bound",
        "bound_until",
        "cancelling",
        "cancels",
        "connected_at",
        "conversation",
        "expired",
        "is_closed",
        "is_doubtful",
        "is_ending",
        "is_fresh",
        "is_paused",
        "leased_at",
        "lost_by",
        "lost_tenant",
        "must_set_path",
        "nonce",
        "offset",
        "on_cancelled",
        "on_lost",
        "on_writable",
        "parameters",
        "pid",
        "pool",
        "prepared",
        "process",
        "replayed",
        "resting_lost",
        "resting_sink",
        "saw_read_only",
        "secret",
        "server",
        "session",
        "signer",
        "sink", "told",
        "transport",
        "version",
        "wire",
        "write",
    )  # fmt: skip

    transport: asyncio.Transport
    server: Server  # where it goes, set when it is dialled: one host
    write: Callable[[bytes], None]

    def __init__(self, pool: Pool[RawBackend]) -> None:
        self.pool = pool
        self.pid = 0
        self.process = UNKNOWN  # what is known of it on the server
        self.secret = b""  # what a request to cancel must show
        self.parameters: dict[bytes, bytes] = {}  # as the server last reported them
        self.offset = 0.0  # the server's clock minus ours
        self.version = 0
        self.signer: Signer | None = None
        self.wire: TransactionWire | None = None  # behind a connection pooler
        self.nonce = 0  # the next proof of the trusted form is made for it
        self.bound: TenantId | None = None
        self.bound_until = float("inf")
        self.binding: Binding | None = None  # what it was last entered with
        self.connected_at = time.time()
        self.leased_at = 0.0
        self.told = (0.0, "", "")  # of its lease, where any is looked at: the wait, its traceparent, its request
        self.expired: LeaseExpired | None = None  # why its lease was ended
        self.is_closed = False
        self.is_doubtful = False  # its holder cannot say what the server will send next
        self.is_ending = False  # the connector ends it
        self.is_fresh = True  # no client has had it since it was opened or reset
        self.saw_read_only = False  # a write was refused: by a transaction that only reads, or by the server
        self.must_set_path = False  # a schema's, and the server does not report when a client changes search_path
        self.is_paused = False  # we do not read from it
        self.lost_by: Exception | None = None
        self.lost_tenant = False  # a RESET ALL of its client has taken the tenant from it, and all else that was set
        self.prepared = ServerStatements()
        self.replayed = 0  # of a standby: up to where it has at least replayed its primary's log, bytes
        self.session: Settings = NO_SETTINGS
        self.conversation: Conversation | None = None  # an internal one that is in progress
        self.cancels = 0  # cancel requests in progress: until they are over it must not serve another client
        self.cancelling: list[Callable[[], None]] = []  # whom to tell of those that are not on their way yet
        self.on_cancelled: Callable[[], None] | None = None  # when the last of them is
        # Kept, for they are set at each release: to make a bound method costs an allocation.
        self.resting_sink: Callable[[bytes], None] = self._rest_received
        self.resting_lost: Callable[[Exception | None], None] = self._rest_lost
        self.sink: Callable[[bytes], None] = self.resting_sink
        self.on_lost: Callable[[Exception | None], None] = self.resting_lost
        self.on_writable: Callable[[bool], None] = _ignore

    def __repr__(self) -> str:
        return f"<RawBackend pid={self.pid} pool={self.pool.label!r}>"

    # --- asyncio.Protocol --------------------------------------------------------------------------------------------
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio."""
        self.use(cast("asyncio.Transport", transport))  # uvloop's is none by its class

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        self.sink(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio."""
        self.is_closed = True
        self.lost_by = exc
        self.on_lost(exc)

    def pause_writing(self) -> None:
        """See asyncio."""
        self.on_writable(False)

    def resume_writing(self) -> None:
        """See asyncio."""
        self.on_writable(True)

    # --- flow control ------------------------------------------------------------------------------------------------
    def pause_reading(self) -> None:
        """Read nothing more from the server: the receiver is slow."""
        if not self.is_paused and not self.is_closed:
            self.is_paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Go on."""
        if self.is_paused:
            self.is_paused = False
            if not self.is_closed:
                self.transport.resume_reading()

    # --- idle --------------------------------------------------------------------------------------------------------
    def rest(self) -> None:
        """It has no holder and no outstanding request: anything but an asynchronous message ends it from now on."""
        self.sink = self.resting_sink
        self.on_lost = self.resting_lost
        self.on_writable = _ignore
        if self.is_paused:
            self.resume_reading()

    @property
    def is_resting(self) -> bool:
        """Whether nothing can be under way on it."""
        return self.sink is self.resting_sink

    def _rest_received(self, data: bytes) -> None:
        if not self._is_asynchronous(data):
            self.is_doubtful = True
            self.pool.retire(self, "error")

    def _rest_lost(self, exc: Exception | None) -> None:
        self.pool.retire(self, "error")

    def _is_asynchronous(self, data: bytes) -> bool:
        """Whether `data` are whole messages that a server may send at any time, and nothing else."""
        at, size = 0, len(data)
        while size - at >= HEADER:
            try:
                length = length_of(data, at)
            except ProtocolError:
                return False
            if size - at < length or data[at] not in (PARAMETER_STATUS, NOTICE):
                return False
            if data[at] == PARAMETER_STATUS:
                self.report(data[at + HEADER : at + length])
            at += length
        return at == size

    def report(self, payload: bytes) -> None:
        """Note what a ParameterStatus says."""
        name, _, rest = payload.partition(b"\0")
        self.parameters[name] = rest.partition(b"\0")[0]

    # --- the rest ----------------------------------------------------------------------------------------------------
    def use(self, transport: asyncio.Transport) -> None:
        """Speak through `transport` from now on."""
        self.transport = transport
        self.write = transport.write

    def catch_up(self) -> None:
        """A transaction that the compiled path carries on it becomes the relay's, which hears of what comes then."""
        settle = getattr(self.transport, "settle", None)  # of `_native.core.Conn`, which is below TLS as well
        if settle is not None:
            settle()

    def server_now(self) -> float:
        """The server's clock, unix seconds."""
        return time.time() + self.offset

    def set_user_timeout(self, seconds: float) -> None:
        """Let the kernel give up a peer that acknowledges nothing for so long, idle or not."""
        keep_alive(self.transport, seconds)

    def forget(self) -> None:
        """The session is as at start-up again: bound to no tenant, nothing set, nothing prepared."""
        self.bound = None
        self.bound_until = float("inf")
        self.lost_tenant = False
        self.session = NO_SETTINGS
        self.prepared = ServerStatements()
        self.replayed = 0  # of a standby: up to where it has at least replayed its primary's log, bytes
        self.is_fresh = True

    def detach(self) -> None:
        """Remove the holder's callbacks; the holder closes the connection."""
        if self.conversation is not None:
            self.conversation.drop()
            self.conversation = None
        self.on_cancelled = None
        self.sink = discard
        self.on_lost = ignore_loss
        self.on_writable = _ignore

    def leave(self, on_lost: Callable[[Exception | None], None]) -> None:
        """It is being closed: discard what the server sends, and report its end to `on_lost` alone."""
        self.conversation = None  # not dropped: the waiter for its answer has to be told
        self.detach()
        self.is_ending = self.is_doubtful = True
        self.on_lost = on_lost
        if self.is_paused:
            self.resume_reading()
