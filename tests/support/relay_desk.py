"""How is a relay tried without a network? Clients and backends in one hand, moved a few bytes at a time.

The lender here lends what is idle and keeps books: it takes no backend back on which anything is unanswered.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Any, cast

from tenantproxy.errors import TenantProxyError
from tenantproxy.model import Route, tenant_id
from tenantproxy.pools.pool import Pool
from tenantproxy.raw.backend import RawBackend, Settings
from tenantproxy.raw.lender import Lessee, RawLender, raw_route
from tenantproxy.sidecar.pg.relay import Relay
from tenantproxy.sidecar.pg.traffic import Traffic
from tenantproxy.wire.memory import TenantMemory
from tenantproxy.wire.session_settings import KeptSettings
from tenantproxy.wire.statements import ServerStatements, Statements
from tests.support.fakes import route
from tests.support.model_server import ModelServer


class Backend(RawBackend):
    """A raw backend whose server is a model. `answers` are on their way from it."""

    def __init__(self, model: ModelServer) -> None:
        super().__init__(cast("Pool[RawBackend]", None))
        self.model = model
        self.answers = b""
        self.is_leased = False
        self.tenant = ""  # whose it was last, where there are several
        self.wrote_while_idle = b""
        self.transport = cast("asyncio.Transport", None)
        self.write = self._write

    def _write(self, data: bytes) -> None:
        if not self.is_leased:
            self.wrote_while_idle += data
        self.answers += self.model.feed(data)

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False

    def deliver(self, size: int | None = None) -> None:
        """So many bytes of its answers arrive (None: all)."""
        data, self.answers = self.answers[:size], self.answers[size:] if size is not None else b""
        if data:
            self.data_received(data)
        if self.model.is_closed and not self.answers and not self.is_closed:
            self.connection_lost(None)


class _Waiting:
    """A client that waits for a backend."""

    def __init__(self, lender: Lender, lessee: Lessee) -> None:
        self.lessee = lessee
        self.since = monotonic()
        self._lender = lender

    def cancel(self) -> None:
        """It left."""
        if self in self._lender.waiting:
            self._lender.waiting.remove(self)


class Lender:
    """Lends `size` backends; `is_busy`: none for now, a client waits until `grant`."""

    renewal = 20.0
    watch = None

    def __init__(self, size: int = 1) -> None:
        self.idle: deque[Backend] = deque()
        self.backends: list[Backend] = []
        self.waiting: list[_Waiting] = []
        self.entering: list[tuple[Backend, Callable[[TenantProxyError | None], None]]] = []
        self.cancelled: list[RawBackend] = []
        self.is_busy = False
        self.released = self.destroyed = 0
        for _ in range(size):
            self._open()

    def _open(self) -> Backend:
        backend = Backend(ModelServer())
        self.idle.append(backend)
        self.backends.append(backend)
        return backend

    def lease_nowait(self, pool: object, route: Route, session: Settings) -> RawBackend | None:
        if self.is_busy or not self.idle:
            return None
        return self._lend(session)

    def _lend(self, session: Settings) -> Backend:
        backend = self.idle.popleft()
        assert backend.model.is_quiet
        backend.is_leased = True
        backend.session = session
        return backend

    def acquire(self, pool: object, route: Route, session: Settings, lessee: Lessee) -> _Waiting:
        self.waiting.append(_Waiting(self, lessee))
        return self.waiting[-1]

    def grant(self) -> bool:
        """The first who waits gets a backend, if there is one."""
        if not (self.waiting and self.idle):
            return False
        self.waiting.pop(0).lessee.leased(self._lend(()))
        return True

    def refuse(self, error: TenantProxyError) -> None:
        """The first who waits gets none."""
        self.waiting.pop(0).lessee.refused(error)

    def release(self, backend: Backend, route: Route, *, is_dirty: bool) -> float:
        assert backend.is_leased
        assert backend.model.is_quiet, "released in the middle of something"
        assert not backend.answers, "released with answers on their way"
        self.released += 1
        backend.is_leased = False
        backend.sink = self._stray
        backend.on_lost = lambda exc: None
        backend.on_writable = lambda is_writable: None
        if is_dirty:
            backend.model = ModelServer()
            backend.prepared = ServerStatements()
        self.idle.append(backend)
        return 0.0

    def destroy(self, backend: Backend, reason: str = "error") -> None:
        if not backend.is_leased:
            return
        self.destroyed += 1
        backend.is_leased = False
        backend.is_closed = True
        backend.sink = lambda data: None
        backend.on_lost = lambda exc: None
        backend.on_writable = lambda is_writable: None
        backend.write = lambda data: None
        self.backends.remove(backend)
        self._open()

    def enter(
        self,
        backend: Backend,
        route: Route,
        session: Settings,
        done: Callable[[TenantProxyError | None], None],
        *,
        start: Settings = (),
    ) -> None:
        self.entering.append((backend, done))

    def entered(self) -> None:
        """The first who is entered again, is."""
        backend, done = self.entering.pop(0)
        backend.bound_until = monotonic() + 60
        done(None)

    def look(
        self,
        backend: Backend,
        route: Route,
        done: Callable[[int, TenantProxyError | None], None],
        *,
        settings: bool,
    ) -> None:
        """Nothing is left, says the server, before anything else can happen."""
        done(0, None)

    def cancel_request(self, backend: RawBackend, done: Callable[[], None]) -> None:
        self.cancelled.append(backend)
        done()

    @staticmethod
    def _stray(data: bytes) -> None:
        raise AssertionError(f"bytes came for no client: {data!r}")

    def check(self) -> None:
        """No byte was written to an idle backend."""
        for backend in self.backends:
            assert not backend.wrote_while_idle


class Source:
    """One tenant, on a server without replicas."""

    replica = False
    after = 0

    def __init__(self, tenant: str = "acme") -> None:
        self._route = raw_route(route(tenant_id(tenant), "row"))

    def known(self) -> tuple[Any, Route]:
        return None, self._route

    def fresh_until(self) -> float:
        return float("inf")

    async def find(self) -> tuple[Any, Route]:
        return self.known()

    def reading(self, *, replica: bool, after: int = 0) -> Source:
        return self


class Line(asyncio.Transport):
    """A client's connection as the relay sees it. `received` is what the client got."""

    def __init__(self) -> None:
        super().__init__()
        self.received = b""
        self.is_closed = False
        self.is_reading_paused = False

    def write(self, data: Any) -> None:
        self.received += bytes(data)

    def close(self) -> None:
        self.is_closed = True

    def write_eof(self) -> None:
        self.is_closed = True  # its client closes when it reads that

    def is_closing(self) -> bool:
        return self.is_closed

    def get_write_buffer_size(self) -> int:
        return 0  # it reads all at once

    def pause_reading(self) -> None:
        self.is_reading_paused = True

    def resume_reading(self) -> None:
        self.is_reading_paused = False


class Client:
    """One client behind its login. `sending` has not reached the relay yet."""

    def __init__(
        self,
        lender: Lender,
        *,
        is_session: bool = False,
        statements: Statements | None = None,
        source: Source | None = None,
    ) -> None:
        self.lender = lender
        self.line = Line()
        self.ends = 0
        self.sending = b""
        self.memory = TenantMemory()  # of its own, so that nothing may be left of it
        self.relay = Relay(
            self.line,
            source=source or Source(),
            lender=cast("RawLender", lender),
            statements=statements if statements is not None else Statements(),
            kept=KeptSettings((), {}),
            is_session=is_session,
            traffic=Traffic(),
            on_end=self._ended,
            memory=self.memory,
        )

    def _ended(self) -> None:
        self.ends += 1

    @property
    def backend(self) -> Backend:
        """What it holds."""
        assert isinstance(self.relay.backend, Backend)
        return self.relay.backend

    def send(self, data: bytes, *, size: int | None = None) -> None:
        """The relay gets `data`, in pieces of `size`."""
        step = size or max(1, len(data))
        for at in range(0, len(data), step):
            self.sending += data[at : at + step]
            self.push()

    def push(self, size: int | None = None) -> None:
        """So many bytes of `sending` reach the relay."""
        data, self.sending = self.sending[:size], self.sending[size:] if size is not None else b""
        if data and not self.line.is_closed:
            self.relay.data_received(data)

    def leave(self) -> None:
        """The connection is gone."""
        self.line.is_closed = True
        self.relay.connection_lost(None)
        assert not self.memory.used, "something that it made us keep is left"

    def take(self) -> bytes:
        """What came since it was last asked."""
        received, self.line.received = self.line.received, b""
        return received

    def ask(self, data: bytes) -> bytes:
        """Send `data`, let everything settle, and what came."""
        self.send(data)
        settle(self.lender)
        return self.take()


def settle(lender: Lender) -> None:
    """Let all answers arrive."""
    is_moving = True
    while is_moving:
        is_moving = False
        for backend in list(lender.backends):
            if backend.answers or (backend.is_leased and backend.model.is_closed and not backend.is_closed):
                backend.deliver()
                is_moving = True
        if not lender.is_busy and lender.grant():
            is_moving = True
    lender.check()
