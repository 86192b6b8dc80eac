"""Why did a caller get no connection? Names the limit that was met, and counts it. Changes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

from tenantproxy.errors import PoolError, PoolTimeout
from tenantproxy.events import ExhaustCause, Exhausted
from tenantproxy.pools import exhaustion
from tenantproxy.pools.context import PoolContext
from tenantproxy.pools.openings import Openings
from tenantproxy.pools.queue import Ticket, Turn
from tenantproxy.pools.state import PoolState

if TYPE_CHECKING:
    from tenantproxy.pools.pool import Pool

__all__ = ["Shortage"]

C = TypeVar("C")


class Shortage(Generic[C]):
    """Explains and counts the acquires of one pool that failed."""

    __slots__ = ("_counters", "_observer", "_openings", "_pool", "_state")

    def __init__(self, pool: Pool[C], state: PoolState[C], openings: Openings[C], context: PoolContext[C]) -> None:
        self._pool = pool
        self._state = state
        self._openings = openings
        self._observer = context.observer
        self._counters = context.counters

    def note(self, cause: ExhaustCause, turn: Turn[C], limit: int) -> None:
        """Count that a caller of `turn` got none, and say why; `limit`: the value that was met."""
        self._counters.exhausted(turn.tenant, cause)
        self._observer(
            Exhausted(cause=cause, tenant=turn.tenant, pool=self._pool.label, limit=limit, waiting=len(turn.waiting))
        )

    def check_may_wait(self, turn: Turn[C], now: float) -> None:
        """Raises PoolFull when `max_waiting` of the tenant wait; what connects fail with while none can succeed."""
        if self._pool.budget.is_down and not self._state.slots:
            self._counters.count(turn.tenant, "error")
            self.note("connect", turn, 0)
            raise self._openings.error
        refusal = self._openings.backoff.refusal(now)
        if refusal is not None:
            self._counters.count(turn.tenant, "error")
            self.note("connect", turn, 0)
            raise refusal.again()
        if len(turn.waiting) + self._state.ahead.get(turn.tenant, 0) >= turn.max_waiting:
            self._counters.count(turn.tenant, "rejected")
            self.note("queue_full", turn, turn.max_waiting)
            raise exhaustion.queue_full(
                max_waiting=turn.max_waiting, leased=turn.leased - turn.returning, max_size=turn.max_size
            )

    def timed_out(self, ticket: Ticket[C], timeout: float) -> PoolError:
        """The error for a waiter whose time is over: which limit, its value, how many wait, what to do."""
        state, turn = self._state, ticket.turn
        waiting = len(turn.waiting)
        failed = self._openings.backoff.error is not None
        if failed and not state.used:
            self.note("connect", turn, 0)
            return self._openings.error
        if turn.leased >= turn.ceiling:
            self.note("tenant_limit", turn, turn.max_size)
            return exhaustion.tenant_spent(
                timeout,
                max_size=turn.max_size,
                leased=turn.leased - turn.returning,
                closing=turn.returning - turn.lingering,
                lingering=turn.lingering,
                waiting=waiting,
            )
        if state.opening or state.resetting:
            self.note("connect", turn, 0)
            return self._not_ready(timeout, waiting)
        if len(state.slots) >= state.limit:
            self.note("tenant_limit", turn, state.limit)
            return exhaustion.pool_spent(timeout, limit=state.limit, waiting=waiting)
        if failed:
            self.note("connect", turn, 0)
            return self._openings.error
        limit = self._pool.budget.limit
        self.note("server_budget", turn, limit)
        return exhaustion.budget_spent(timeout, limit=limit, most=self._pool.budget.most, waiting=waiting)

    def _not_ready(self, timeout: float, waiting: int) -> PoolTimeout:
        state = self._state
        error = exhaustion.not_ready(timeout, opening=state.opening, resetting=state.resetting, waiting=waiting)
        error.is_server_slow = state.opening > 0 and state.permits < state.limit
        return error
