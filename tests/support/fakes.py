"""What stands in for connections, their openers, waiters and time? Fakes that keep books of their own.

Nothing here answers by itself: a test says when a connect succeeds, when a connection has ended and what time it is.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Final, Literal, TypeVar

from tenantproxy.config import Pools
from tenantproxy.errors import ConnectFailed, LeaseExpired, TenantProxyError
from tenantproxy.events import Event, Observer
from tenantproxy.isolation import DatabasePlan, Plan, RowPlan, SchemaPlan
from tenantproxy.model import Isolation, Limits, Placement, PoolKey, Route, Tenant, TenantId, tenant_id
from tenantproxy.pools.backoff import Failure
from tenantproxy.pools.base import ServerProcess
from tenantproxy.pools.budget import ServerBudget
from tenantproxy.pools.counters import Counters
from tenantproxy.pools.lingering import UNKNOWN, Lingering
from tenantproxy.pools.manager import PoolManager
from tenantproxy.pools.pool import Pool
from tenantproxy.pools.queue import Ticket

STATES: Final = ("new", "idle", "used", "resetting", "retiring", "gone")
E = TypeVar("E", bound=Event)

NO_LIMITS: Final = Limits()
PLANS: Final[Mapping[Isolation, Plan]] = {
    Isolation.DATABASE: DatabasePlan(),
    Isolation.SCHEMA: SchemaPlan(),
    Isolation.ROW: RowPlan(),
}


class FakeClock:
    """Monotonic seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Events(list[Event]):
    """An observer that remembers."""

    def __call__(self, event: Event) -> None:
        self.append(event)

    def of(self, kind: type[E]) -> list[E]:
        """Those of one kind, in order."""
        return [event for event in self if isinstance(event, kind)]


@dataclass(eq=False, slots=True)
class Link:
    """A connection in name only. `state`, `user` and `bound` are what the books say, not what the pool believes."""

    number: int
    pool: Pool[Link]
    opened_at: float
    state: str = "new"  # one of STATES
    user: TenantId | None = None  # who uses it
    charged: TenantId | None = None  # who used it last, until it is clean or gone
    bound: TenantId | None = None  # whose session it still is
    alive: bool = True
    ends: int = 0  # how often it was told to end
    reset_at: float = 0.0  # when its last reset began
    idle_at: float = 0.0  # since when it is idle
    used_at: float = 0.0  # since when it is lent

    def __repr__(self) -> str:
        return f"<Link {self.number} {self.state}>"


@dataclass(eq=False, slots=True)
class Caller:
    """A waiter. `gone`: it was cancelled, and takes nothing any more."""

    tenant: TenantId
    gone: bool = False
    link: Link | None = None
    error: TenantProxyError | None = None
    refused: int = 0  # offers it did not take
    ticket: Ticket[Link] | None = None

    def offer(self, conn: Link, /) -> bool:
        """See `base.Waiter`."""
        assert self.link is None, "a caller was offered two connections"
        assert self.error is None, "a caller that was told an error was offered a connection"
        assert conn.state in ("new", "idle", "returned"), f"{conn} was offered"
        assert conn.user is None, f"{conn} has two owners"
        assert conn.charged is None, f"{conn} is charged to one that released it"
        assert not conn.pool.is_closed, "a closed pool lends"
        if self.gone:
            self.refused += 1
            return False
        self.link = conn
        conn.user, conn.state, conn.used_at = self.tenant, "used", conn.pool._clock()
        return True

    def fail(self, error: TenantProxyError, /) -> None:
        """See `base.Waiter`."""
        assert self.link is None, "a caller that has a connection was told an error"
        assert self.error is None, "a caller was told two errors"
        self.error = error

    @property
    def waits(self) -> bool:
        """Whether it has heard nothing yet."""
        return self.link is None and self.error is None


@dataclass(eq=False, slots=True)
class FakeConnector:
    """Opens and ends links when told to."""

    clock: FakeClock
    opening: list[Pool[Link]] = field(default_factory=list)  # connects under way, oldest first
    links: dict[Link, None] = field(default_factory=dict)  # all that exist on a server, in order of opening
    ended: int = 0
    resets_first: bool = False  # what another tenant left, before it is lent
    expired: list[Link] = field(default_factory=list)  # whose leases were ended
    lingering: list[Lingering] = field(default_factory=list)  # whose ends were silent, oldest first
    timers: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    _numbers: count[int] = field(default_factory=count)

    # --- Connector ---------------------------------------------------------------------------------------------------
    def open(self, pool: Pool[Link]) -> None:
        """See `pool.Connector`."""
        assert not pool.is_closed, "a closed pool opens a connection"
        self.opening.append(pool)

    def retire(self, pool: Pool[Link], conn: Link) -> None:
        """See `pool.Connector`."""
        assert conn.pool is pool
        assert conn.state not in ("retiring", "gone"), f"{conn} ends twice"
        conn.state, conn.user = "retiring", None
        conn.ends += 1

    def expire(self, conn: Link, error: LeaseExpired) -> None:
        """See `pool.Connector`."""
        assert conn.state == "used", f"the lease of {conn} was ended"
        conn.charged = conn.user
        self.expired.append(conn)

    @property
    def reset(self) -> Callable[[Link], None] | None:
        """See `pool.Connector`."""
        return self._reset if self.resets_first else None

    def _reset(self, conn: Link) -> None:
        assert conn.state in ("idle", "returned"), f"{conn} is reset"
        assert conn.user is None
        assert conn.bound is not None, f"{conn} is no tenant's, and is reset"
        conn.state, conn.charged = "resetting", conn.bound
        conn.reset_at = self.clock.now

    def is_usable(self, conn: Link) -> bool:
        """See `pool.Connector`."""
        return conn.alive

    def later(self, delay: float, call: Callable[[], None]) -> None:
        """See `pool.Connector`."""
        assert delay >= 0
        heapq.heappush(self.timers, (self.clock.now + delay, next(self._numbers), call))

    # --- what a test lets happen -------------------------------------------------------------------------------------
    def succeed(self, pool: Pool[Link] | None = None) -> Link:
        """The oldest connect (of `pool`) succeeds."""
        pool = self._next(pool)
        link = Link(next(self._numbers), pool, self.clock.now)
        self.links[link] = None
        pool.opened(link)
        settle(link)
        return link

    def fail(
        self,
        pool: Pool[Link] | None = None,
        failure: Failure = "refused",
        *,
        error: TenantProxyError | None = None,
        silent: bool = False,
    ) -> None:
        """The oldest connect (of `pool`) fails."""
        pool = self._next(pool)
        error = error or ConnectFailed("no connection", detail=f"it is {failure}")
        known = set(pool.budget.lingering)
        pool.open_failed(error, failure, "FakeError", silent=silent, lingers=UNKNOWN if silent else None)
        self.lingering += [one for one in pool.budget.lingering if one not in known]

    def _next(self, pool: Pool[Link] | None) -> Pool[Link]:
        pool = pool or self.opening[0]
        self.opening.remove(pool)
        return pool

    def end(self, link: Link, *, silent: bool = False) -> None:
        """The server side of `link`, which is being ended, is gone, or silent."""
        assert link.state == "retiring", link
        link.state = "gone"
        self.ended += 1
        del self.links[link]
        one = link.pool.retired(link, lingers=ServerProcess(pid=link.number + 1, started=0.0) if silent else None)
        if one is not None:
            self.lingering.append(one)

    def pass_time(self, seconds: float) -> None:
        """Time passes; timers that come due are called at their moments."""
        until = self.clock.now + seconds
        while self.timers and self.timers[0][0] <= until:
            due, _, call = heapq.heappop(self.timers)
            self.clock.now = max(self.clock.now, due)
            call()
        self.clock.now = until

    def of(self, pool: Pool[Link], state: str) -> list[Link]:
        """The links of `pool` in one state."""
        return [link for link in self.links if link.pool is pool and link.state == state]


def settle(link: Link) -> None:
    """After a link was given to its pool: it was neither leased nor closed, so it is idle."""
    if link.state in ("new", "returned"):
        link.state, link.idle_at = "idle", link.pool._clock()


def lease(pool: Pool[Link], tenant: str, limits: Limits = NO_LIMITS, *, bound_only: bool = False) -> Link | None:
    """`lease_nowait`, noted in the books."""
    link = pool.lease_nowait(tenant_id(tenant), limits, bound_only=bound_only)
    if link is not None:
        assert link.state == "idle", f"{link} was lent"
        assert link.user is None
        link.user, link.state = tenant_id(tenant), "used"
    return link


def ask(pool: Pool[Link], tenant: str, limits: Limits = NO_LIMITS) -> Caller:
    """As the lender asks: a connection now, or a place in the queue. Raises PoolError."""
    caller = Caller(tenant_id(tenant))
    caller.link = lease(pool, tenant, limits)
    if caller.link is None:
        caller.ticket = pool.wait(caller.tenant, limits, caller)
    return caller


def reset(link: Link, *, now: float = 0.0) -> None:
    """Its user gave it back, its reset begins."""
    link.charged, link.user, link.state = link.user, None, "resetting"
    link.reset_at = now
    link.pool.resetting(link)


def reset_ahead(pool: Pool[Link], *, now: float = 0.0) -> Link | None:
    """The pool has one reset before it is needed, if it has one to spare."""
    link = pool.take_to_reset(pool._clock(), idle_seconds=0.0)
    if link is not None:
        assert link.state == "idle", f"{link} was taken"
        link.state = "resetting"
        link.reset_at = now
    return link


def ready(link: Link, bound: str | None = None) -> None:
    """Its reset is over, or its user gave it back clean."""
    link.user = link.charged = None
    if link.state in ("used", "resetting"):
        link.state = "returned"
    link.bound = tenant_id(bound) if bound is not None else None
    link.pool.ready(link, link.bound)
    settle(link)


def held(caller: Caller) -> Link:
    """The link it got."""
    assert caller.link is not None, f"the caller of {caller.tenant} got {caller.error or 'nothing yet'}"
    return caller.link


def retire(link: Link, reason: Literal["error", "reset_failed"] = "error") -> None:
    """It must not be used again."""
    link.charged = link.charged or link.user
    link.user = None
    link.pool.retire(link, reason)


class House:
    """Pools of everything that a router has, on fakes: budgets, a manager, its counters."""

    def __init__(
        self,
        *,
        servers: Mapping[str, int] | None = None,
        settings: Pools | None = None,
        max_tenants: int = 100,
        observer: Observer | None = None,
    ) -> None:
        self.clock = FakeClock()
        self.events = Events()
        self.connector = FakeConnector(self.clock)
        self.counters = Counters(max_tenants=max_tenants)
        self.settings = settings or Pools()
        self.observer = observer or self.events
        self.budgets = {
            name: ServerBudget(
                name,
                limit=limit,
                clock=self.clock,
                observer=self.observer,
                guaranteed=self.settings.guaranteed,
            )
            for name, limit in (servers or {"one": 20}).items()
        }
        self.manager = self.new_manager([])

    def new_manager(self, family: list[PoolManager[Any]]) -> PoolManager[Link]:
        """One more over the same servers, with `family` to share places with."""
        return PoolManager(
            budgets=self.budgets,
            settings=self.settings,
            connector=self.connector,
            clock=self.clock,
            observer=self.observer,
            counters=self.counters,
            family=family,
        )

    @property
    def budget(self) -> ServerBudget:
        """The first server's."""
        return next(iter(self.budgets.values()))

    def main(self, size: int = 20) -> Pool[Link]:
        """The main pool, on the first server."""
        return self.manager.main(PoolKey(server=self.budget.server, database="main"), size=size)

    def pool(self, route: Route) -> Pool[Link]:
        """The open pool of `route`."""
        return self.manager.pool(route)

    def alone(self, tenant: str, **limits: int) -> Pool[Link]:
        """The pool of a tenant with a database of its own, on the first server."""
        return self.pool(route(tenant, limits=Limits(max_size=limits.get("max_size"))))

    def shared(self, database: str = "shared") -> Pool[Link]:
        """The pool of the row tenants of `database`, on the first server."""
        return self.pool(route("any", "row", database=database))

    def filled(self, pool: Pool[Link], tenant: str, size: int) -> list[Link]:
        """`size` links of `pool`, opened for and lent to `tenant`."""
        callers = [ask(pool, tenant) for _ in range(size)]
        while any(caller.waits for caller in callers):
            self.connector.succeed(pool)
        return [held(caller) for caller in callers]

    def idle(self, pool: Pool[Link], size: int, tenant: str = "former") -> list[Link]:
        """`size` idle unbound links of `pool`."""
        links = self.filled(pool, tenant, size)
        for link in links:
            ready(link)
        return links


def route(
    tenant: str,
    isolation: Literal["database", "schema", "row"] = "database",
    *,
    server: str = "one",
    database: str | None = None,
    limits: Limits = NO_LIMITS,
) -> Route:
    """The plan of a request of `tenant`, as the three kinds make it, without a session to enter."""
    kind = Isolation(isolation)
    placement = Placement(
        isolation=kind,
        server=server,
        database=database or (tenant if kind is Isolation.DATABASE else "shared"),
        schema=tenant if kind is Isolation.SCHEMA else None,
    )
    plans: dict[Isolation, Plan] = {
        Isolation.DATABASE: DatabasePlan(),
        Isolation.SCHEMA: SchemaPlan(),
        Isolation.ROW: RowPlan(),
    }
    return plans[kind].plan(Tenant(id=tenant_id(tenant), placement=placement, limits=limits))
