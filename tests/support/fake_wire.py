"""What stands in for a server where the lender of raw backends is tried? Transports that answer when told to.

Each backend has a transport that remembers what was written to it. Nothing answers by itself: a test says what comes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Any

from tenantproxy.config import Pools
from tenantproxy.errors import LeaseExpired
from tenantproxy.events import Event
from tenantproxy.isolation import Signer
from tenantproxy.model import Route
from tenantproxy.pools.budget import ServerBudget
from tenantproxy.pools.counters import Counters
from tenantproxy.pools.manager import PoolManager
from tenantproxy.pools.pool import Pool
from tenantproxy.raw.backend import RawBackend
from tenantproxy.raw.backend import Settings as SessionSettings
from tenantproxy.raw.exchange import READY_IDLE, answer_of, reset, row
from tenantproxy.raw.lender import RawLender, raw_route
from tenantproxy.wire.frames import ERROR, frame
from tests.support.fakes import route
from tests.support.raw_house import Client

NONCE = b"0123456789abcdef0123456789abcdef"  # that all conversations of these tests have
RESET, RESET_ANSWER = reset(NONCE)


class FakeTransport(asyncio.Transport):
    """Remembers what was written, and whether it was ended."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.is_reading_paused = False

    def write(self, data: Any) -> None:
        self.written.append(bytes(data))

    def pause_reading(self) -> None:
        self.is_reading_paused = True

    def resume_reading(self) -> None:
        self.is_reading_paused = False


class FakeRawConnector:
    """Opens backends when told to; what it is told to end stays among `ending` until a test lets it go."""

    def __init__(self) -> None:
        self.opening: list[Pool[RawBackend]] = []
        self.ending: list[RawBackend] = []
        self.cancels: list[tuple[RawBackend, Callable[[], None]]] = []
        self.reset: Callable[[RawBackend], None] | None = None  # set by the lender

    def open(self, pool: Pool[RawBackend]) -> None:
        """See `pool.Connector`."""
        self.opening.append(pool)

    def succeed(self) -> RawBackend:
        """The oldest connect succeeds."""
        pool = self.opening.pop(0)
        backend = RawBackend(pool)
        backend.connection_made(FakeTransport())
        backend.pid = 4711
        backend.signer = Signer(b"k" * 32, database="shared")
        backend.rest()
        pool.opened(backend)
        return backend

    def retire(self, pool: Pool[RawBackend], conn: RawBackend) -> None:
        """See `pool.Connector`."""
        holder = conn.on_lost
        conn.leave(lambda _: None)
        conn.is_closed = True
        self.ending.append(conn)
        asyncio.get_running_loop().call_soon(holder, ConnectionAbortedError("ended"))

    def end_all(self) -> None:
        """The server sides of all that end are gone."""
        while self.ending:
            backend = self.ending.pop()
            backend.pool.retired(backend)

    def cancel(self, backend: RawBackend, done: Callable[[], None]) -> None:
        """As RawConnector's."""
        self.cancels.append((backend, done))

    def expire(self, conn: RawBackend, error: LeaseExpired) -> None:
        """See `pool.Connector`."""

    def is_usable(self, conn: RawBackend) -> bool:
        """See `pool.Connector`."""
        return not conn.is_closed

    def later(self, delay: float, call: Callable[[], None]) -> None:
        """See `pool.Connector`."""


class WireHouse:
    """A raw lender over real pools and fake transports."""

    def __init__(self, *, size: int = 1, acquire_timeout: float = 5.0) -> None:
        self.later = 0.0
        self.events: list[Event] = []
        self.counters = Counters(max_tenants=100)
        self.connector = FakeRawConnector()
        self.budget = ServerBudget("one", limit=size + 2, clock=self.clock, observer=self.events.append)
        self.manager: PoolManager[RawBackend] = PoolManager(
            budgets={"one": self.budget},
            settings=Pools(max_size=size, shared_size=size),
            connector=self.connector,
            clock=self.clock,
            observer=self.events.append,
            counters=self.counters,
        )
        self.lender = RawLender(
            self.connector,
            counters=self.counters,
            observer=self.events.append,
            clock=self.clock,
            acquire_timeout=acquire_timeout,
            proof_window=60.0,
            nonce=lambda: NONCE,
        )
        self.connector.reset = self.lender.begin_reset

    def clock(self) -> float:
        """The loop's own time, and as much later as a test says."""
        return monotonic() + self.later

    def route(self, tenant: str, *, shared: bool = True) -> Route:
        """The plan of a row tenant's client, or of one with a database of its own."""
        return raw_route(route(tenant, "row" if shared else "database"))

    def pool(self, tenant: str, *, shared: bool = True) -> Pool[RawBackend]:
        """Its pool."""
        return self.manager.pool(self.route(tenant, shared=shared))

    def ask_for(self, tenant: str, session: SessionSettings = (), *, shared: bool = True) -> Client:
        """A client that wants a backend."""
        client, plan = Client(), self.route(tenant, shared=shared)
        client.acquire = self.lender.acquire(self.manager.pool(plan), plan, session, client)
        return client

    def opened_for(self, tenant: str) -> RawBackend:
        """A backend that was opened for, bound to and lent to a row tenant."""
        client = self.ask_for(tenant)
        backend = self.connector.succeed()
        backend.data_received(bound(tenant))
        assert client.backend is backend
        assert backend.bound == tenant
        return backend


def transport_of(backend: RawBackend) -> FakeTransport:
    """The fake behind `backend`."""
    assert isinstance(backend.transport, FakeTransport)
    return backend.transport


def said(backend: RawBackend) -> list[bytes]:
    """What was written since this was last asked."""
    transport = transport_of(backend)
    written, transport.written = transport.written, []
    return written


def bound(tenant: str, settings: int = 0, *, nonce: bytes = NONCE) -> bytes:
    """What a server says to the bind of a fresh session."""
    answer = answer_of("SELECT 1", row(tenant.encode(), nonce))
    return answer + (answer_of("SELECT 1", row(*[b"f"] * settings)) if settings else b"") + READY_IDLE


def bound_again(tenant: str, *, on_lease: bool = False) -> bytes:
    """What it says to the bind of a session that was used; `on_lease`: by a client that has it still."""
    said = ("BEGIN", ()), ("SELECT 1", (row(tenant.encode(), NONCE),)), ("COMMIT", ())
    return b"".join(answer_of(text, *rows, is_named=on_lease) for text, rows in said) + READY_IDLE


def error(sqlstate: str) -> bytes:
    """An ErrorResponse."""
    return frame(ERROR, b"SERROR\0VERROR\0C" + sqlstate.encode() + b"\0Mno text of it is passed on\0\0")


def is_reset(written: list[bytes]) -> bool:
    """Whether exactly a reset was said."""
    return written == [RESET]


__all__ = [
    "NONCE",
    "RESET_ANSWER",
    "FakeRawConnector",
    "FakeTransport",
    "WireHouse",
    "bound",
    "bound_again",
    "error",
    "is_reset",
]
