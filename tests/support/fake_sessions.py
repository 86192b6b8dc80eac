"""What stands in for a server when the lender is cancelled at every await? Sessions that remember whose they are.

Each call takes a round of the event loop and can be made to fail or to hang. What a session holds is what a server
would hold: a tenant, and what its last user left.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Final, TypeVar, cast

from tenantproxy.config import Pools
from tenantproxy.driver.connection import TenantConnection
from tenantproxy.driver.lender import Lender
from tenantproxy.driver.state import DriverConnection
from tenantproxy.errors import ConnectFailed, LeaseExpired
from tenantproxy.events import Event
from tenantproxy.isolation import Signer
from tenantproxy.isolation.base import FULL_RESET, KEEP_RESET
from tenantproxy.isolation.turn import Asked
from tenantproxy.model import Binding, Isolation, Limits, PoolKey, Proof, Route, Session, TenantId, tenant_id
from tenantproxy.pools.base import ServerProcess
from tenantproxy.pools.budget import ServerBudget
from tenantproxy.pools.counters import Counters
from tenantproxy.pools.manager import PoolManager
from tenantproxy.pools.pool import Pool
from tests.support.waiting import until

T = TypeVar("T")
SHARED: Final = PoolKey(server="one", database="shared", shared=True)
ALONE: Final = PoolKey(server="one", database="alone")


class FakeSession:
    """One connection and the session at its other end, with what the lender uses of `TenantConnection`."""

    def __init__(self, server: FakeServer, pid: int) -> None:
        self._server = server
        self._pid = pid
        self._is_closed = False
        self.tenant: str | None = None  # bound on the server
        self.is_dirty = False  # something of its last user is left
        self.must_settle = False
        self.is_tainted = False
        self.saw_read_only = False
        self.has_foreign_codecs = False
        self.is_doubtful = False
        self.expired = None  # no lease is ended here
        self.is_busy = False
        self.under_way = 0
        self.prepared = 0
        self.behind = None  # callers of these tests hold connections: no statement is known to be their last

    def get_server_pid(self) -> int:
        return self._pid

    def is_closed(self) -> bool:
        return self._is_closed

    def terminate(self) -> None:
        self._is_closed = True

    def take_back(self) -> None:
        pass

    def forget_listeners(self) -> None:
        pass

    def forget_strange(self) -> None:
        pass

    async def enter(self, args: tuple[str, ...]) -> str:
        """Bind, as `tenantproxy.bind` does: refused while the session is another tenant's."""

        def bind() -> str:
            assert self.tenant in (None, args[0]), "a session that is another tenant's was bound without a reset"
            assert not self.is_dirty, "a session that was not reset was bound"
            self.tenant = args[0]
            return self._server.wrong_answer or args[0]

        return await self._server.call("enter", bind, self)

    async def ask(self, asked: Asked) -> None:
        """A reset that leaves the session no tenant's."""

        def run() -> None:
            self.is_dirty = False
            self.tenant = None

        await self._server.call("reset", run, self)

    async def simple(self, sql: str, timeout: float | None) -> str:
        """A reset that leaves the session its tenant's, or a full one, and what the server answers to it."""

        def run() -> str:
            self.is_dirty = False
            if sql.startswith(KEEP_RESET + "; SET "):
                return "SET"
            assert sql == FULL_RESET
            self.tenant = None
            return "DISCARD ALL"

        return await self._server.call("reset", run, self)

    async def settle(self, timeout: float) -> None:
        def run() -> None:
            self.must_settle = False

        await self._server.call("settle", run, self)

    async def discarded_all(self, timeout: float) -> None:
        def run() -> None:
            self.is_tainted = False

        await self._server.call("discarded", run, self)

    async def fetch(self, sql: str, *args: object) -> list[object]:
        """The settings of the request."""
        return await self._server.call("context", list, self)


class FakeServer:
    """Opens and ends sessions as the connector does; its `n`-th call fails or hangs when told so."""

    def __init__(self) -> None:
        self.reset: Callable[[DriverConnection], None] | None = None  # the lender's
        self.calls: list[str] = []
        self.sessions: dict[FakeSession, None] = {}
        self.fail_at: dict[int, BaseException] = {}  # by the number of the call
        self.hang_at: int | None = None
        self.wrong_answer: str | None = None
        self._signer = Signer(b"k" * 32, database="shared")
        self._tasks: set[asyncio.Task[None]] = set()
        self._pid = 0

    async def call(self, name: str, run: Callable[[], T], session: FakeSession | None = None) -> T:
        """One round trip."""
        number = len(self.calls)
        self.calls.append(name)
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[None] = loop.create_future()
        if number != self.hang_at:
            loop.call_soon(_answer, answered)
        await answered
        if session is not None and session.is_closed():
            raise ConnectionResetError("the session was ended")
        if number in self.fail_at:
            raise self.fail_at[number]
        return run()

    # --- Connector ---------------------------------------------------------------------------------------------------
    def open(self, pool: Pool[DriverConnection]) -> None:
        """See `pool.Connector`."""
        self._spawn(self._open(pool))

    async def _open(self, pool: Pool[DriverConnection]) -> None:
        self._pid += 1
        session = FakeSession(self, self._pid)
        try:
            await self.call("connect", lambda: None)
        except OSError:
            pool.open_failed(ConnectFailed("refused", detail="by the fake"), "refused", "OSError")
            return
        self.sessions[session] = None
        con, process = cast(TenantConnection, session), ServerProcess(pid=self._pid)
        pool.opened(DriverConnection(con, pool, process=process, offset=0.0, version=180000, signer=self._signer))

    def retire(self, pool: Pool[DriverConnection], conn: DriverConnection) -> None:
        """See `pool.Connector`."""
        self._spawn(self._end(pool, conn))

    async def _end(self, pool: Pool[DriverConnection], conn: DriverConnection) -> None:
        if conn.task is not None and not conn.task.done() and conn.task is not asyncio.current_task():
            conn.task.cancel()
        conn.con.terminate()
        await asyncio.sleep(0)
        del self.sessions[session_of(conn)]
        pool.retired(conn)

    def expire(self, conn: DriverConnection, error: LeaseExpired) -> None:
        """See `pool.Connector`."""

    def is_usable(self, conn: DriverConnection) -> bool:
        """See `pool.Connector`."""
        return not conn.con.is_closed()

    def later(self, delay: float, call: Callable[[], None]) -> None:
        """See `pool.Connector`."""
        asyncio.get_running_loop().call_later(delay, call)

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _answer(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)


def session_of(backend: DriverConnection) -> FakeSession:
    """The fake behind `backend`."""
    return cast(FakeSession, backend.con)


class LendingHouse:
    """A lender over real pools on fake sessions."""

    def __init__(self, *, size: int = 1, always_reset: bool = True, acquire_timeout: float = 5.0) -> None:
        self.later = 0.0
        self.server = FakeServer()
        self.events: list[Event] = []
        self.counters = Counters(max_tenants=100)
        self.budget = ServerBudget("one", limit=size + 2, clock=self.clock, observer=self.events.append)
        self.manager: PoolManager[DriverConnection] = PoolManager(
            budgets={"one": self.budget},
            settings=Pools(max_size=size, shared_size=size),
            connector=self.server,
            clock=self.clock,
            observer=self.events.append,
            counters=self.counters,
        )
        self.lender = Lender(
            counters=self.counters,
            observer=self.events.append,
            reset="always" if always_reset else "on_tenant_change",
            acquire_timeout=acquire_timeout,
            proof_window=60.0,
        )
        self.server.reset = self.lender.begin_reset

    def clock(self) -> float:
        """The loop's own time, and as much later as a test says."""
        return monotonic() + self.later

    def pool(self, route: Route) -> Pool[DriverConnection]:
        """The pool of `route`."""
        return self.manager.pool(route)

    async def acquire(self, route: Route, timeout: float | None = None) -> DriverConnection:
        """As the router does, and the caller leaves something behind."""
        backend = await self.lender.acquire(self.pool(route), route, timeout)
        session = session_of(backend)
        if route.session.binding is not None:
            assert session.tenant == route.tenant, "the session is not the tenant's"
        assert not session.is_dirty, "something of its last user is left"
        session.is_dirty = True
        return backend

    async def use(self, route: Route) -> None:
        """One lease, and its end."""
        self.lender.release(await self.acquire(route), route)

    async def settled(self) -> None:
        """Wait until nothing is under way."""
        await until(self._is_settled, "connects, resets and ends are over")

    async def all_back(self) -> None:
        """Wait until every lease has ended."""
        await until(lambda: not any(pool.used for pool in self.manager), "every lease has ended")

    def _is_settled(self) -> bool:
        pools = [pool.stats() for pool in (*self.manager, *self.manager.closing())]
        return not any(pool.opening or pool.resetting or pool.retiring for pool in pools)

    async def audit(self) -> None:
        """No lease and no waiter; a permit for each session and no other; each clean, and whose it is said to be."""
        await self.settled()
        for pool in self.manager:
            stats = pool.stats()
            assert (stats.used, stats.waiting) == (0, 0), "a lease or a waiter was lost"
            assert not any(tenant.leased or tenant.waiting for tenant in stats.tenants)
            for backend in pool.connections():
                session = session_of(backend)
                assert session in self.server.sessions
                assert not session.is_dirty, "an idle session was not reset"
                assert session.tenant == pool.bound_to(backend), "an idle session is not whose it is said to be"
                assert backend.bound == session.tenant
        assert self.budget.in_use == len(self.server.sessions), "a permit was lost"


def route_of(tenant: str, *, shared: bool = True, context: tuple[tuple[str, str], ...] = ()) -> Route:
    """The plan of a row tenant's request, or of a tenant with a database of its own."""
    name: TenantId = tenant_id(tenant)
    binding = Binding(tenant=name, proof=Proof.BOUND) if shared else None
    return Route(
        tenant=name,
        isolation=Isolation.ROW if shared else Isolation.DATABASE,
        pool=SHARED if shared else ALONE,
        session=Session(binding=binding, context=context),
        limits=Limits(),
    )
