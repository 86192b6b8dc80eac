"""Which connection, for whom, next? A pool that knows nothing of PostgreSQL and never awaits.

It is changed by the lender (`lease_nowait`, `wait`, `resetting`, `take_to_reset`, `ready`, `retire`), by the connector
(`opened`, `open_failed`, `retired`), by the budget (`refill`, `give_up_idle`, `server_down`), by the manager (`resize`,
`close`) and by the sweeper (`sweep`). What they say is carried out by the parts of the pool: `Handover` (who is next),
`Resets`, `Openings`, `Endings` and `Shortage` (why there was none), which share one `PoolState`.
Each connection is in exactly one state: idle, used, resetting or retiring; those being opened are only counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final, Generic, TypeVar

from tenantproxy.errors import LeaseExpired, PoolError, ServerMoved, TenantProxyError
from tenantproxy.events import CloseReason, ExhaustCause, LeaseEnded
from tenantproxy.model import Isolation, Limits, PoolKey, TenantId
from tenantproxy.pools import exhaustion
from tenantproxy.pools.backoff import Failure
from tenantproxy.pools.base import AcquireResult, PoolStats, ServerProcess, TenantPoolStats, Waiter
from tenantproxy.pools.budget import ServerBudget
from tenantproxy.pools.context import PoolContext
from tenantproxy.pools.endings import Endings
from tenantproxy.pools.handover import Handover
from tenantproxy.pools.limits import NO_LIMIT
from tenantproxy.pools.lingering import Lingering
from tenantproxy.pools.openings import Openings
from tenantproxy.pools.queue import Ticket, Turn, Turns
from tenantproxy.pools.resets import Resets
from tenantproxy.pools.shortage import Shortage
from tenantproxy.pools.slots import State
from tenantproxy.pools.state import PoolState

__all__ = ["Pool"]

C = TypeVar("C")

_USED: Final = State.USED  # to look it up costs, in what is done for each lease
_ALL: Final = 1_000_000  # permits: as many as are needed


class Pool(Generic[C]):
    """The connections of one PoolKey.

    `limit` bounds all its connections (`shared_size`, or the one tenant's `max_size`); each tenant has its own.
    """

    def __init__(
        self,
        key: PoolKey,
        context: PoolContext[C],
        *,
        label: str,
        limit: int,
        budget: ServerBudget,
        isolation: Isolation,
        is_main: bool = False,
    ) -> None:
        counters = context.counters
        self.key = key
        self.label = label
        self.budget = budget
        self.is_main = is_main
        self.is_closed = False
        self.closed_for: CloseReason | None = None  # once it is
        self.last_used = context.clock()
        self.wait_seconds = counters.acquire_wait[isolation]  # for the lender to count in
        self.hold_seconds = counters.hold[isolation]
        self._connector = context.connector
        self._settings = context.settings
        self._clock = context.clock
        self._observer = context.observer
        self._counters = counters
        presence = context.presence
        turns: Turns[C] = Turns(
            budget.guaranteed,
            came=lambda tenant: presence.come(tenant, self),
            went=lambda tenant: presence.go(tenant, self),
        )
        self._state: PoolState[C] = PoolState(limit=limit, is_shared=key.shared, turns=turns)
        self._slots, self._idle, self._turns = self._state.slots, self._state.idle, self._state.turns
        self._endings = Endings(self, self._state, context)
        self._openings = Openings(self, self._state, context)
        self._shortage = Shortage(self, self._state, self._openings, context)
        self._resets = Resets(self._state, context.connector, self._look_at_resets)
        self._handover = Handover(self, self._state, context, endings=self._endings, resets=self._resets)
        budget.join(self)
        counters.join(self)

    # --- lending -----------------------------------------------------------------------------------------------------
    def lease_nowait(self, tenant: TenantId, limits: Limits, *, bound_only: bool = False) -> C | None:
        """A connection for `tenant` now, or None when it has to `wait`.

        First an idle one that is bound to this tenant, then, unless `bound_only`, an unbound one, then the least
        recently used. `bound_to` tells what the lender has to do before it may be used; `last_used` is the time of
        the lease. Raises PoolClosed.
        """
        if self.is_closed:
            raise exhaustion.closed()
        turn = self._turns.by_tenant.get(tenant)
        if turn is None or turn.limits is not limits:
            turn = self._admit(tenant, limits)
        idle = self._idle
        if not idle.all or turn.leased >= turn.ceiling or turn.waiting:
            return None
        now = self._clock()
        while idle.all and not (bound_only and not idle.has_of(tenant)):
            slot = idle.take(tenant)
            if not idle.all:
                self.budget.is_idle(self, idle=False)
            if now < slot.expires_at and self._connector.is_usable(slot.conn):
                self.last_used = now
                if slot.bound_to is not None and slot.bound_to != tenant and self._resets.begin_first(slot, now):
                    return None
                turn.leased += 1
                turn.acquired += 1
                slot.turn = turn
                slot.state = _USED
                slot.since = now
                return slot.conn
            if now >= slot.expires_at:
                self._endings.begin(slot, "lifetime")
            else:
                self._endings.found_dead(slot)
        return None

    def expires_at(self, conn: C) -> float:
        """From when on `conn` is not lent any more, by the pool's clock."""
        return self._slots[conn].expires_at

    def lent_again(self, tenant: TenantId, count: int, seconds: float, held: Mapping[int, int]) -> None:
        """Leases of `tenant` that this was not asked for: a connection was lent on to the next, `count` times.

        `seconds` and `held`, by bucket of `hold_seconds`: of these and of those that it was asked for.
        """
        self.last_used = self._clock()
        self._counters.count(tenant, "ok", count)
        self.wait_seconds.counts[0] += count
        self.hold_seconds.total += seconds
        for bucket, leases in held.items():
            self.hold_seconds.counts[bucket] += leases

    # --- callers that wait in front of it ----------------------------------------------------------------------------
    def room_ahead(self, tenant: TenantId, own: int | None = None) -> int:
        """How many callers may wait for leases of `tenant` that end, and need not ask this for them.

        `own`: so many of those who wait ahead are among these, the others take their part; None: all are among these.
        0: what they wait for is not up to these leases alone: a connection may be opened, or other tenants wait too.
        """
        turn = self._turns.by_tenant.get(tenant)
        if turn is None or turn.leased < min(turn.ceiling, self.limit) or self._turns.waiting > len(turn.waiting):
            return 0
        return 0 if self.is_closed else self.room_behind(tenant, own)

    def room_behind(self, tenant: TenantId, own: int | None) -> int:
        """As `room_ahead`, where some of `tenant` wait ahead of them, for which this was asked."""
        turn = self._turns.by_tenant.get(tenant)
        others = 0 if own is None else self._state.ahead.get(tenant, 0) - own
        return 0 if turn is None else max(turn.max_waiting - len(turn.waiting) - others, 0)

    def wait_ahead(self, tenant: TenantId, change: int) -> None:
        """So many more callers wait there, or less. They count among those who wait."""
        ahead = self._state.ahead
        ahead[tenant] = ahead.get(tenant, 0) + change
        if not ahead[tenant]:
            del ahead[tenant]

    def waited_ahead(self, waits: Mapping[int, int], seconds: float) -> None:
        """Leases whose callers had waited there, by bucket of `wait_seconds`, had been counted as leased at once."""
        histogram = self.wait_seconds
        histogram.total += seconds
        for bucket, leases in waits.items():
            histogram.counts[0] -= leases
            histogram.counts[bucket] += leases

    def lend_on(self, conn: C, since: float) -> bool:
        """Lend `conn`, instead of its release, to a caller of the same tenant who waits there since `since`.

        False: it is to be released, for it ends then, or is another caller's.
        """
        slot, now, turns = self._slots.get(conn), self._clock(), self._turns
        if slot is None or slot.state is not _USED or slot.retire_on_release or now >= slot.expires_at:
            return False
        turn = slot.turn
        assert turn is not None
        if self.is_closed or self.budget.is_pressed or turn.leased > min(turn.ceiling, self.limit):
            return False
        oldest = turn.oldest_since
        if turns.waiting > len(turn.waiting) or (oldest is not None and oldest < since):
            return False
        slot.since = now
        return True

    def _admit(self, tenant: TenantId, limits: Limits) -> Turn[C]:
        """The turn of a tenant that has none, or other limits now."""
        turn = self._turns.get(tenant)
        if turn is None:
            max_size, max_waiting = self._limits_of(limits)
            turn = Turn(tenant, limits=limits, max_size=max_size, max_waiting=max_waiting)
            self._turns.add(turn)
        else:
            self._limit(turn, limits)
        return turn

    def max_size_of(self, limits: Limits) -> int:
        """How many connections a tenant with these limits may have here."""
        return min(limits.max_size or self._settings.max_size, self.limit)

    def _limits_of(self, limits: Limits) -> tuple[int, int]:
        return self.max_size_of(limits), limits.max_waiting or self._settings.max_waiting

    def _limit(self, turn: Turn[C], limits: Limits) -> None:
        former = turn.max_size
        turn.limits = limits
        turn.max_size, turn.max_waiting = self._limits_of(limits)
        turn.linger(0)
        if turn.max_size != former and turn.waiting:
            self._turns.refresh(turn)
            self._handover.lend_idle()

    def has_idle_of(self, tenant: TenantId) -> bool:
        """Whether an idle connection is bound to this tenant."""
        return self._idle.has_of(tenant)

    def bound_to(self, conn: C) -> TenantId | None:
        """Which tenant's session `conn` still is; None: no tenant's."""
        return self._slots[conn].bound_to

    def wait(self, tenant: TenantId, limits: Limits, waiter: Waiter[C]) -> Ticket[C]:
        """Queue `waiter`; it is offered a connection in its tenant's turn. `cancel` the ticket to leave.

        Raises PoolFull when `max_waiting` of this tenant wait, PoolClosed, ConnectFailed when the server is down, or
        what the last connect failed with while a new try is not due.
        """
        if self.is_closed:
            raise exhaustion.closed()
        turn = self._turns.by_tenant.get(tenant)
        if turn is None or turn.limits is not limits:
            turn = self._admit(tenant, limits)
        now = self._clock()
        self.last_used = now
        self._shortage.check_may_wait(turn, now)
        ticket = Ticket(turn, waiter, now)
        self._turns.enqueue(ticket)
        self._handover.reset_idle(now)
        if self._state.resetting:
            self._resets.watch()
        self.refill()
        return ticket

    def cancel(self, ticket: Ticket[C], result: AcquireResult) -> bool:
        """Leave the queue; False when the ticket was served or failed already."""
        if not self._turns.cancel(ticket):
            return False
        self._counters.count(ticket.turn.tenant, result)
        if self.budget.contended and self.need <= 0:
            self.budget.unwant(self)
        return True

    def timed_out(self, ticket: Ticket[C], timeout: float) -> PoolError:
        """The error for a waiter whose time is over: which limit, its value, how many wait, what to do."""
        return self._shortage.timed_out(ticket, timeout)

    @property
    def has_waiting(self) -> bool:
        """Whether a caller waits."""
        return self._turns.waiting > 0

    # --- what is released --------------------------------------------------------------------------------------------
    def uncount(self, conn: C) -> None:
        """The lease of `conn` does not count: it goes back in the same step, before the counter could be read."""
        turn = self._slots[conn].turn
        assert turn is not None
        turn.acquired -= 1

    def next_tenant(self, conn: C, bound_to: TenantId | None) -> TenantId | None:
        """Which tenant would be served if `conn` became ready now, bound to `bound_to`; None: no caller waits."""
        turn = self._handover.next_turn(self._slots[conn], bound_to) if self._turns.waiting else None
        return turn.tenant if turn is not None else None

    def aim(self, conn: C) -> TenantId | None:
        """For which tenant that waits `conn`, which is being reset, is to be made ready; None: no caller needs it.

        So that several that are reset at once are not all made the same tenant's. Who has it in the end, `ready` says.
        """
        slot = self._slots.get(conn)
        if slot is None or slot.state is not State.RESETTING:
            return None
        turn = self._turns.unaimed() if self._turns.waiting else None
        self._resets.aim(slot, turn)
        return turn.tenant if turn is not None else None

    def resetting(self, conn: C) -> None:
        """The lessee released `conn` and it is being reset; until that is over it counts for its tenant."""
        slot = self._slots[conn]
        assert slot.state is _USED, slot.state
        turn = slot.turn
        assert turn is not None
        turn.returning += 1
        turn.coming += 1
        self._resets.begin(slot, self._clock())
        if self._turns.waiting:
            self._resets.watch()

    def take_to_reset(self, now: float, *, idle_seconds: float) -> C | None:
        """The longest idle connection that is bound; it is resetting now, so that another tenant finds one ready.

        None while a caller waits, while an idle one is unbound or will be, when it is the only idle one, and while it
        has been idle for less than `idle_seconds`: its tenant may be in the middle of its work.
        """
        slot = self._resets.take_spare(now, idle_seconds=idle_seconds)
        if slot is None:
            return None
        self._endings.unidle(slot)
        self._resets.begin(slot, now)
        return slot.conn

    def ready(self, conn: C, bound_to: TenantId | None, now: float | None = None) -> None:
        """`conn` may be lent again: its session is clean, and still that of `bound_to`. `now`: the time, if known."""
        slot = self._slots.get(conn)
        if slot is None or slot.state is State.RETIRING:
            return  # too late: the pool was closed, or the sweeper timed the reset out
        turn = slot.turn
        if slot.state is not _USED:
            assert slot.state is State.RESETTING, slot.state
            self._resets.leave(slot)
            if turn is not None:
                turn.returning -= 1
        if bound_to is None:
            slot.owner = None
        elif turn is not None and turn.tenant == bound_to:
            slot.owner = turn
        else:
            slot.owner = self._turns.get(bound_to)
            slot.streak = -1  # its reset made it ready for this tenant, with which it does not stay at the next lease
        if turn is not None:
            slot.turn = None
            turn.leased -= 1
            if turn.waiting:
                self._turns.refresh(turn)
        slot.bound_to = bound_to
        self._handover.place(slot, self._clock() if now is None else now)
        if self._idle.all and self._turns.waiting:  # a tenant may be below its limit again
            self._handover.lend_idle()

    def is_retiring(self, conn: C) -> bool:
        """Whether `conn` is being closed, or is closed, although a caller may still hold it."""
        slot = self._slots.get(conn)
        return slot is None or slot.state is State.RETIRING

    def _look_at_resets(self) -> None:
        self._end_long_resets(self._clock())
        self._handover.serve_waiters()

    def _end_long_resets(self, now: float) -> None:
        for slot in self._resets.expired(now):
            self.retire(slot.conn, "reset_failed")
        for slot in self._resets.in_the_way(now):
            self.retire(slot.conn, "reset_failed")

    # --- the end of a connection -------------------------------------------------------------------------------------
    def retire(self, conn: C, reason: CloseReason) -> None:
        """`conn` must not be used again: close it. Safe in any state; a second call does nothing."""
        slot = self._slots.get(conn)
        if slot is None or slot.state is State.RETIRING:
            return
        if slot.state is _USED:
            if slot.turn is not None:
                slot.turn.returning += 1  # and counts for its tenant until it is gone
        elif slot.state is State.RESETTING:
            self._resets.leave(slot)
        else:
            self._endings.unidle(slot)
        self._handover.replace(slot, reason)

    def retired(self, conn: C, *, lingers: ServerProcess | None = None) -> Lingering | None:
        """`conn` is closed and its server side gone; `lingers`: the backend that may live on.

        Then its permit stays taken, and counts for the tenant that used it, until `budget.gone` of what this returns.
        """
        slot = self._endings.over(conn)
        if lingers is None or slot.has_moved:  # on a host that does not count any more
            self._endings.free(slot)
            self._handover.serve_waiters()
            return None
        one = self._endings.linger(lingers, slot, self._handover.serve_waiters)
        self.refill()
        return one

    def give_up_idle(self, idle_seconds: float) -> bool:
        """See `budget.Claimant`."""
        slot = next(iter(self._idle), None)
        if slot is None or self._clock() - slot.since < idle_seconds:
            return False
        self._endings.end_idle(slot, "evicted")
        return True

    def expire(self) -> list[C]:
        """Close every connection that exists now: idle ones at once, others when they come back; which they are."""
        return self._endings.expire()

    def end_leases(self, most: int) -> int:
        """See `budget.Claimant`."""
        now, ended = self._clock(), 0
        for slot, turn in self._endings.longest_leases(most):
            seconds = now - slot.since
            self._observer(LeaseEnded(server=self.key.server, pool=self.label, tenant=turn.tenant, seconds=seconds))
            self._connector.expire(slot.conn, exhaustion.fenced())
            self.retire(slot.conn, "fenced")
            ended += 1
        return ended

    def serves(self, tenant: TenantId) -> bool:
        """Whether the tenant holds a connection, or waits for one."""
        turn = self._turns.get(tenant)
        return turn is not None and bool(turn.leased or turn.waiting)

    def served(self) -> Iterator[TenantId]:
        """The tenants of which `serves` is true."""
        return (turn.tenant for turn in self._turns if turn.leased or turn.waiting)

    def end_tenant(self, tenant: TenantId, error: LeaseExpired) -> None:
        """The tenant is not served any more: who waits fails with `error`, what it holds is closed."""
        turn = self._turns.get(tenant)
        if turn is None:
            return
        for ticket in list(turn.waiting):
            if self.cancel(ticket, "error"):
                ticket.waiter.fail(error.again())
        for slot in list(self._slots.values()):
            if slot.turn is turn and slot.state is _USED:
                self._connector.expire(slot.conn, error.again())
                self.retire(slot.conn, "evicted")

    def moved(self, error: ServerMoved) -> None:
        """See `budget.Claimant`."""
        for slot in list(self._idle):  # first, so that none is lent in place of one that ends
            self._endings.end_idle(slot, "failover")
        for slot in list(self._slots.values()):
            slot.has_moved = True
            if slot.state is _USED:
                self._connector.expire(slot.conn, error.again())
            self.retire(slot.conn, "failover")

    def resize(self, tenant: TenantId, limits: Limits, limit: int) -> None:
        """The one tenant whose pool this is has other limits now; what exceeds them is closed once it is idle."""
        self._shrink(limit)
        turn = self._turns.get(tenant)
        if turn is not None:
            self._limit(turn, limits)
        self.refill()

    def reconfigure(self, limit: int) -> None:
        """Keep to `limit`, and each tenant to what the settings say now."""
        self._shrink(limit)
        for turn in list(self._turns):
            self._limit(turn, turn.limits)
        self.refill()

    def _shrink(self, limit: int) -> None:
        self._openings.configure(limit)
        for slot in list(self._idle):
            if self._state.open > self.limit and slot.conn in self._idle:
                self._endings.end_idle(slot, "evicted")

    def close(self, error: TenantProxyError, reason: CloseReason = "shutdown") -> None:
        """No more leases: waiters fail with `error`, idle connections close, the others when they come back."""
        if self.is_closed:
            return
        self.is_closed = True
        self.closed_for = reason
        self._fail_waiters(error)
        for slot in list(self._idle):
            self._endings.end_idle(slot, reason)
        self.settle()
        self.budget.leave(self)

    def forget(self) -> None:
        """Closed, and without a connection: no tenant is here any more."""
        self._turns.leave()

    # --- opening -----------------------------------------------------------------------------------------------------
    @property
    def need(self) -> int:
        """How many more connections it would open now: for waiters that may be served, within its own limit."""
        return self._openings.need

    def refill(self, most: int = _ALL) -> None:
        """Begin as many connects as are needed and permitted; called whenever either may have changed."""
        self._openings.refill(most)

    def look_again(self) -> None:
        """See `budget.Claimant`."""
        self._openings.look_again()

    def opened(self, conn: C) -> None:
        """A connect succeeded: the connection goes to the next waiter, whichever it was opened for."""
        slot = self._openings.succeeded(conn)
        if self.budget.is_over:  # what it was opened for has ended meanwhile
            self._endings.begin(slot, "evicted")
        else:
            self._handover.place(slot, self._clock())
        self.refill()
        self.budget.go_on()

    def open_failed(
        self,
        error: TenantProxyError,
        failure: Failure,
        what: str,
        *,
        silent: bool = False,
        lingers: ServerProcess | None = None,
    ) -> None:
        """A connect failed; retried later, callers that cannot be helped fail now.

        `what` is the class and SQLSTATE for events; `silent`: the server did not answer; `lingers`: the backend that
        may live on.
        """
        self._openings.failed(error, failure, what)
        if failure in ("denied", "unfit"):
            self._fail_waiters(error, "connect")
        if lingers is None:
            self.budget.give_back(self)
        else:
            self._endings.linger(lingers, None, self._handover.serve_waiters)
            self.refill()
        self._openings.report(error, failure, what, silent=silent)

    def learn(self, *, role_limit: int = NO_LIMIT, database_limit: int = NO_LIMIT) -> None:
        """What a connect found: limits that concern this pool, and not the whole server."""
        self._openings.learn(role_limit=role_limit, database_limit=database_limit)

    def server_down(self) -> None:
        """See `budget.Claimant`. With a connection left, waiters may still be served by it."""
        if self._turns.waiting and not (self._state.used or self._state.resetting):
            self._fail_waiters(self._openings.error, "connect")

    def server_up(self) -> None:
        """See `budget.Claimant`."""
        self._openings.backoff.server_up()
        self.refill()

    def _fail_waiters(self, error: TenantProxyError, cause: ExhaustCause | None = None) -> None:
        for ticket in self._turns.drain():
            self._counters.count(ticket.turn.tenant, "error")
            if cause is not None:
                self._shortage.note(cause, ticket.turn, 0)
            ticket.waiter.fail(error.again())
        self.budget.unwant(self)

    # --- time, and what is -------------------------------------------------------------------------------------------
    def sweep(self, now: float) -> None:
        """Close idle connections that are dead, too old or idle for too long; forget tenants that left."""
        self._endings.sweep_idle(now, self._settings.idle_timeout)
        self._end_long_resets(now)
        if self._settings.max_hold:
            self._end_long_leases(now, self._settings.max_hold)
        self.settle()
        self._turns.purge()
        self._idle.purge()
        self._handover.serve_waiters()

    def _end_long_leases(self, now: float, max_hold: float) -> None:
        """End leases that last longer than `max_hold` seconds while others wait for their connections."""
        for slot, turn in self._endings.long_leases(now, max_hold):
            seconds = now - slot.since
            self._observer(LeaseEnded(server=self.key.server, pool=self.label, tenant=turn.tenant, seconds=seconds))
            self._connector.expire(slot.conn, exhaustion.held_too_long(seconds, max_hold=max_hold))
            self.retire(slot.conn, "max_hold")

    @property
    def limit(self) -> int:
        """The most connections it may have: what is configured, or less, where its database or role allows no more."""
        return self._state.limit

    @property
    def starving(self) -> bool:
        """See `budget.Claimant`."""
        return self._turns.below > self._state.coming

    @property
    def wanted(self) -> int:
        """See `budget.Claimant`."""
        state = self._state
        return state.used + state.resetting + state.opening + max(0, self.need)

    @property
    def used(self) -> int:
        """Connections that are lent."""
        return self._state.used

    @property
    def is_quiet(self) -> bool:
        """No connection is lent, waited for, being opened or reset, and none lingers: a tenant stays charged for it."""
        state = self._state
        return not (self._turns.waiting or state.opening or state.resetting or state.lingering or state.used)

    @property
    def is_empty(self) -> bool:
        """It has no connection at all."""
        return not self._state.permits

    @property
    def permits(self) -> int:
        """How many permits of the budget it holds."""
        return self._state.permits

    def settle(self) -> None:
        """See `counters.LeaseCounter`."""
        for turn in self._turns:
            self._settle(turn)

    def _settle(self, turn: Turn[C]) -> None:
        if turn.acquired:
            acquired, turn.acquired = turn.acquired, 0
            self._counters.count(turn.tenant, "ok", acquired)

    def lent_at(self, conn: C) -> float:
        """Since when `conn`, which is open, is what it is: lent, or idle; by the pool's clock."""
        return self._slots[conn].since

    def connections(self) -> Iterator[C]:
        """All open connections, whatever their state."""
        return iter(self._slots)

    def tenant_stats(self) -> Iterator[TenantPoolStats]:
        """Each tenant that was here since the last sweep; the pool may change between two of them."""
        now = self._clock()
        for turn in list(self._turns):
            self._settle(turn)
            since = turn.oldest_since
            yield TenantPoolStats(
                tenant=turn.tenant,
                leased=turn.leased - turn.returning,
                waiting=len(turn.waiting) + self._state.ahead.get(turn.tenant, 0),
                oldest_wait_seconds=now - since if since is not None else 0.0,
                max_size=turn.max_size,
            )

    def stats(self, tenants: Iterable[TenantPoolStats] | None = None) -> PoolStats:
        """A snapshot; `tenants` instead of all of them."""
        state = self._state
        return PoolStats(
            key=self.key,
            label=self.label,
            limit=state.limit,
            idle=len(state.idle),
            used=state.used,
            opening=state.opening,
            resetting=state.resetting,
            retiring=state.retiring,
            lingering=state.lingering,
            waiting=self._turns.waiting + sum(state.ahead.values()),
            tenants=tuple(self.tenant_stats() if tenants is None else tenants),
            unused_seconds=self._clock() - self.last_used,
        )

    def held_by(self, tenant: TenantId) -> list[tuple[C, float]]:
        """The connections that are lent to the tenant, and for how many seconds each; the longest first."""
        turn, now = self._turns.by_tenant.get(tenant), self._clock()
        if turn is None or not turn.leased:
            return []
        held = (
            (conn, now - slot.since) for conn, slot in self._slots.items() if slot.turn is turn and slot.state is _USED
        )
        return sorted(held, key=lambda one: one[1], reverse=True)
