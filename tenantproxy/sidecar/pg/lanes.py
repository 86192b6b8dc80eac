"""Where may the compiled path carry a client's transaction, and how does it lease a backend there?

A lane is one tenant's, for clients whose sessions have the same settings. It exists for a second or so: whatever has
changed since is looked up again.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from tenantproxy._native import why_not
from tenantproxy.errors import TenantProxyError
from tenantproxy.model import Route, Session
from tenantproxy.pools.pool import Pool
from tenantproxy.raw.again import enter_again
from tenantproxy.raw.backend import RawBackend
from tenantproxy.raw.bind import WRITTEN
from tenantproxy.raw.lender import RawLender
from tenantproxy.sidecar.pg.checkout import Source
from tenantproxy.sidecar.pg.traffic import Traffic
from tenantproxy.wire.settings import Settings

if TYPE_CHECKING:
    from tenantproxy._native.core import Lane, Pump

__all__ = ["LaneDesk", "Lanes", "lanes_on"]

_MOST: Final = 10_000
_PATIENCE: Final = 0.1  # seconds that a client waits in a lane at most, before it waits in its pool's own queue
_OF_TIMEOUT: Final = 0.1  # or as much of the time that it has for its lease, where that is less


class LaneDesk:
    """Speaks for the pool of one lane; see `core.Lane`. Nothing here calls a client, or makes one wait."""

    __slots__ = ("_lender", "_settings", "_traffic", "_waiting", "patience", "pool", "route")

    def __init__(
        self, lender: RawLender, pool: Pool[RawBackend], route: Route, settings: Settings, traffic: Traffic
    ) -> None:
        self.route = route
        self.pool = pool
        self.patience = min(_PATIENCE, _OF_TIMEOUT * (route.limits.acquire_timeout or lender.acquire_timeout))
        self._lender = lender
        self._settings = settings
        self._traffic = traffic
        self._waiting = 0  # as its pool was told

    @property
    def is_bound(self) -> bool:
        """Whether a RESET takes the tenant from the sessions of these backends."""
        return self.route.session.binding is not None

    @property
    def is_wanted(self) -> bool:
        """Whether what is given back may go to others at once, who are told."""
        pool = self.pool
        return pool.has_waiting or pool.is_closed or pool.budget.is_pressed

    @property
    def room(self) -> int:
        """How many clients may wait in the lane for what its own clients release; 0: others have a say in that."""
        return 0 if self.pool.budget.is_pressed else self.pool.room_ahead(self.route.tenant, self._waiting)

    @property
    def room_behind(self) -> int:
        """How many may wait in the lane where clients in others wait already, who come first."""
        return self.pool.room_behind(self.route.tenant, self._waiting)

    def lease(self) -> RawBackend | None:
        """A backend that is idle and bound to the tenant, with the settings of the lane; None: not at once."""
        try:
            return self._lender.lease_nowait(self.pool, self.route, self._settings)
        except TenantProxyError:
            return None  # the relay will hear it too, and tells its client

    def unlease(self, backend: RawBackend) -> None:
        """Nothing was sent on it."""
        self.pool.wait_seconds.counts[0] -= 1  # as if it had not been leased
        self.pool.uncount(backend)
        self._lender.release_unused(backend)

    def keep(self, backend: RawBackend, since: float) -> float:
        """Until when it may go on in the lane, for a client that has waited there since `since`; 0: its pool is to have
        it, for a caller that has waited longer, or to end it."""
        if backend.is_doubtful or backend.cancels or backend.lost_tenant or backend.saw_read_only:
            return 0.0
        return self.expires_at(backend) if self.pool.lend_on(backend, since) else 0.0

    def waits(self, count: int) -> None:
        """So many clients wait in the lane now."""
        self.pool.wait_ahead(self.route.tenant, count - self._waiting)
        self._waiting = count

    def expires_at(self, backend: RawBackend) -> float:
        """Until when it may be lent as it is, which its binding bounds too; monotonic."""
        return min(self.pool.expires_at(backend), backend.bound_until - self._lender.renewal)

    def take_back(self, backend: RawBackend) -> None:
        """It has been used, and that was accounted for."""
        self._lender.release(backend, self.route, is_dirty=False, is_counted=True)

    def enter_again(self, backend: RawBackend) -> None:
        """It has been used, and a reset of its client took the tenant from it: what `is_bound` is about."""
        enter_again(self._lender, backend, self.route)

    def destroy(self, backend: RawBackend) -> None:
        """Its state is in doubt."""
        self._lender.destroy(backend)

    def account(
        self,
        reused: int,
        transactions: int,
        seconds: float,
        held: dict[int, int],
        queries: int,
        query_seconds: float,
        received: int,
        sent: int,
        waits: dict[int, int],
        wait_seconds: float,
    ) -> None:
        """So many transactions were carried to their end, `seconds` in all; `held`: by bucket of lease times.

        `reused`: begun on a backend that was leased before. `queries`: answered. `received`, `sent`: bytes, of clients.
        `waits`: of those that have begun, the ones whose clients had waited for it, by bucket of wait times.
        """
        self.pool.lent_again(self.route.tenant, reused, seconds, held)
        if waits:
            self.pool.waited_ahead(waits, wait_seconds)
        traffic = self._traffic
        traffic.wait_seconds += wait_seconds
        traffic.leases += transactions
        traffic.transactions += transactions
        traffic.queries += queries
        traffic.transaction_seconds += seconds
        traffic.query_seconds += query_seconds
        traffic.received += received
        traffic.sent += sent


class Lanes:
    """The lanes of one listener on `pump`. `forget` them now and then: they hold pools and routes that may be gone."""

    def __init__(self, pump: Pump, lender: RawLender) -> None:
        self._pump = pump
        self._lender = lender
        self._known: dict[tuple[int, int, int, int], Lane] = {}

    def of(self, source: Source, settings: Settings, traffic: Traffic) -> Lane | None:
        """That of a client of the tenant of `source`; None: Python does it. The answer holds until Python has run."""
        found = source.known()
        if found is None:
            return None
        pool, route = found
        if pool.is_closed or pool.budget.is_pressed or (pool.has_waiting and not pool.room_ahead(route.tenant)):
            return None
        # By identity: all of them live as long as the lane does, whose desk has them.
        key = id(pool), id(route), id(settings), id(traffic)
        lane = self._known.get(key)
        if lane is None:
            if not _may_be_carried(route.session):
                return None
            lane = self._new(LaneDesk(self._lender, pool, route, settings, traffic), pool)
            self._known[key] = lane
        lane.until = source.fresh_until()
        lane.lends = not pool.has_waiting
        return lane

    def _new(self, desk: LaneDesk, pool: Pool[RawBackend]) -> Lane:
        from tenantproxy._native.core import Lane

        if len(self._known) >= _MOST:
            self._known.clear()
        return Lane(self._pump, desk, pool.hold_seconds.bounds)

    @property
    def carried(self) -> int:
        """How many transactions needed no Python so far."""
        return self._pump.carried

    def forget(self) -> None:
        """Make them again."""
        self._known.clear()


def _may_be_carried(session: Session) -> bool:
    """Whether what is bound and set once holds for each transaction until then, whatever clients do in their own."""
    binding = session.binding
    return not session.is_set_each_time and (binding is None or binding.proof in WRITTEN)


def lanes_on(loop: asyncio.AbstractEventLoop, lender: RawLender) -> Lanes | None:
    """Those of a listener on `loop`; None where that is not of the compiled path."""
    if why_not() is not None:
        return None
    from tenantproxy._native.loop import pump_of

    pump = pump_of(loop)
    return None if pump is None else Lanes(pump, lender)
