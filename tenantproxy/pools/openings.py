"""When does a pool open a connection, and what follows from one that failed? Changed by the pool alone."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from tenantproxy.errors import PoolError, TenantProxyError
from tenantproxy.events import ConnectFailure, LimitLowered
from tenantproxy.pools import exhaustion
from tenantproxy.pools.backoff import Backoff, Failure
from tenantproxy.pools.budget import CALM_SECONDS
from tenantproxy.pools.context import PoolContext
from tenantproxy.pools.limits import MOST, NO_LIMIT, lowest
from tenantproxy.pools.slots import Slot
from tenantproxy.pools.state import PoolState

if TYPE_CHECKING:
    from tenantproxy.pools.pool import Pool

__all__ = ["Openings"]

C = TypeVar("C")

_LIFETIME_JITTER: Final = 0.1  # connections opened together must not end together


class Openings(Generic[C]):
    """Opens the connections of one pool: as many as waiters need, its limits allow and the budget has permits for."""

    __slots__ = (
        "_allowed",
        "_asks_again",
        "_budget",
        "_clock",
        "_configured",
        "_connector",
        "_observer",
        "_pool",
        "_settings",
        "_state",
        "backoff",
    )

    def __init__(self, pool: Pool[C], state: PoolState[C], context: PoolContext[C]) -> None:
        self._pool = pool
        self._state = state
        self._budget = pool.budget
        self._clock = context.clock
        self._connector = context.connector
        self._observer = context.observer
        self._settings = context.settings
        self._configured = state.limit
        self._allowed = MOST  # by the database or the role, as far as known
        self._asks_again = False  # a timer runs
        self.backoff = Backoff()

    # --- limits ------------------------------------------------------------------------------------------------------
    def configure(self, limit: int) -> None:
        """The pool may have `limit` connections now, or less, where its database or role allows no more."""
        self._configured = limit
        self._state.limit = min(limit, self._allowed)

    def learn(self, *, role_limit: int = NO_LIMIT, database_limit: int = NO_LIMIT) -> None:
        """What a connect found: limits that concern this pool, and not the whole server."""
        self._allowed, source = lowest(MOST, (("role", role_limit), ("database", database_limit)))
        limit = min(self._configured, self._allowed)
        if limit == self._state.limit:
            return
        self._state.limit = limit
        if limit < self._configured:
            server, pool = self._pool.key.server, self._pool.label
            self._observer(LimitLowered(server=server, pool=pool, configured=self._configured, limit=limit, by=source))

    # --- connects ----------------------------------------------------------------------------------------------------
    @property
    def need(self) -> int:
        """How many more connections the pool would open now."""
        return 0 if self._pool.is_closed else self._state.need

    def refill(self, most: int) -> None:
        """Begin as many connects as are needed and permitted, at most `most`."""
        need = self.need
        if need <= 0:
            self._budget.unwant(self._pool)
            return
        if self.backoff.is_trying and (self._state.opening or self.backoff.holds_back(self._clock())):
            self._budget.unwant(self._pool)  # no other pool need stand back for it meanwhile
            return  # after a failure one connect at a time tries, when its time has come
        if self.backoff.is_trying:
            need = 1
        for _ in range(min(need, most)):
            if not self._budget.take(self._pool):
                break
            need -= 1
            self._state.opening += 1
            self._connector.open(self._pool)
        if need:
            self._budget.want(self._pool)
        else:
            self._budget.unwant(self._pool)

    def look_again(self) -> None:
        """Refill in a moment."""
        if not self._asks_again:
            self._asks_again = True
            self._connector.later(CALM_SECONDS, self._ask_again)

    def _ask_again(self) -> None:
        self._asks_again = False
        self._pool.refill()

    def succeeded(self, conn: C) -> Slot[C]:
        """A connect succeeded: the slot of the new connection, which is in no state yet."""
        self._state.opening -= 1
        self._budget.connect_ended()
        self.backoff.succeeded()
        lifetime = self._settings.max_lifetime * (1 - _LIFETIME_JITTER * random.random())
        slot = Slot(conn, now=self._clock(), lifetime=lifetime)
        self._state.slots[conn] = slot
        self._budget.opened(self._pool)
        return slot

    def failed(self, error: TenantProxyError, failure: Failure, what: str) -> None:
        """A connect failed and is retried later. Its permit is still taken."""
        self._state.opening -= 1
        self._budget.connect_ended()
        delay = self.backoff.failed(error, failure, self._clock())
        server, pool = self._pool.key.server, self._pool.label
        self._observer(ConnectFailure(server=server, pool=pool, error=what, retry_in=delay))
        self._connector.later(delay, self._pool.refill)
        if failure == "full":
            self._budget.refused_as_full(self._pool, self._budget.in_use - 1)

    def report(self, error: TenantProxyError, failure: Failure, what: str, *, silent: bool) -> None:
        """Tell the budget what the failed connect says of the server."""
        if failure == "refused":
            self._budget.refused(what, exhaustion.without_place(error, self._pool.key.server))
        elif failure == "unfit":
            self._budget.unfit(what)
        elif silent:
            self._budget.unanswered(what)
        else:
            self._budget.reached()

    @property
    def error(self) -> PoolError:
        """What callers hear while no connection can be opened."""
        error = self.backoff.error
        if not isinstance(error, PoolError):  # this pool did not try: another one of the server did
            error = self._budget.failure or exhaustion.unreachable(f"server {self._pool.key.server!r}")
        return error.again()
