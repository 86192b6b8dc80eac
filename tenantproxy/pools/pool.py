"""Which connection, for whom, next? A pool that knows nothing of PostgreSQL and never awaits.

It is changed by the lender (`lease_nowait`, `wait`, `resetting`, `take_to_reset`, `ready`, `retire`), by the connector
(`opened`, `open_failed`, `retired`), by the budget (`refill`, `give_up_idle`, `server_down`), by the manager (`resize`,
`close`) and by the sweeper (`sweep`).
Each connection is in exactly one state: idle, used, resetting or retiring; those being opened are only counted.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from typing import Final, Generic, TypeVar

from tenantproxy.errors import (
    PoolError,
    TenantProxyError,
)
from tenantproxy.events import (
    BackendLingers,
    CloseReason,
    ConnectFailure,
    ConnectionClosed,
    ExhaustCause,
    Exhausted,
    LeaseEnded,
    LimitLowered,
)
from tenantproxy.model import Isolation, Limits, PoolKey, TenantId
from tenantproxy.pools import exhaustion
from tenantproxy.pools.backoff import Backoff, Failure
from tenantproxy.pools.base import AcquireResult, PoolStats, ServerProcess, TenantPoolStats, Waiter
from tenantproxy.pools.budget import CALM_SECONDS, ServerBudget
from tenantproxy.pools.context import PoolContext
from tenantproxy.pools.limits import MOST, NO_LIMIT, lowest
from tenantproxy.pools.lingering import Lingering
from tenantproxy.pools.queue import Ticket, Turn, Turns
from tenantproxy.pools.slots import IdleSlots, Slot, State

__all__ = ["Pool"]

C = TypeVar("C")

RESET_SECONDS: Final = 5.0  # a reset that takes longer ends its connection
LATE_SECONDS: Final = 1.0  # one that takes so long is not waited for: another connection is taken or opened meanwhile
HUNG_SECONDS: Final = 2.0  # and one that takes so long is ended where callers wait and there is no place for another
_STREAK: Final = 4  # leases that a connection may stay with its tenant while others wait
_IDLE: Final = State.IDLE  # to look them up costs, in what is done for each lease
_USED: Final = State.USED
_LIFETIME_JITTER: Final = 0.1  # connections opened together must not end together


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
        self._configured = limit
        self.limit = limit  # or less, where its database or role allows no more
        self._allowed = MOST  # by them, as far as known
        self.budget = budget
        self.is_main = is_main
        self.is_closed = False
        self._closed_for: CloseReason = "shutdown"  # once it is
        self.last_used = context.clock()
        self.wait_seconds = counters.acquire_wait[isolation]  # for the lender to count in
        self.hold_seconds = counters.hold[isolation]
        self._connector = context.connector
        self._settings = context.settings
        self._clock = context.clock
        self._observer = context.observer
        self._counts_of = counters.acquires_of
        self._closed_counts = counters.closed
        self._exhausted_counts = counters.exhaustions
        self._slots: dict[C, Slot[C]] = {}  # all but those being opened
        self._idle: IdleSlots[C] = IdleSlots()
        self._turns: Turns[C] = Turns(budget.guaranteed)
        self._used = 0
        self._resetting = 0
        self._late = 0  # of them; 0 <= late <= resetting
        self._retiring = 0
        self._lingering = 0
        self._opening = 0
        self._asks_again = False  # a timer runs
        self._watches = False  # another one does
        self._backoff = Backoff()
        budget.join(self)

    # --- lending -----------------------------------------------------------------------------------------------------
    def lease_nowait(self, tenant: TenantId, limits: Limits, *, bound_only: bool = False) -> C | None:
        """A connection for `tenant` now, or None when it has to `wait`.

        First an idle one that is bound to this tenant, then, unless `bound_only`, an unbound one, then the least
        recently used. `bound_to` tells what the lender has to do before anybody may use it; `last_used` is the time of
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
                if slot.bound_to is not None and slot.bound_to != tenant and self._reset_first(slot, now):
                    return None
                turn.leased += 1
                turn.counts["ok"] += 1
                slot.turn = turn
                slot.state = _USED
                slot.since = now
                self._used += 1
                return slot.conn
            if now >= slot.expires_at:
                self._retire(slot, "lifetime")
            else:
                self._found_dead(slot)
        return None

    def _admit(self, tenant: TenantId, limits: Limits) -> Turn[C]:
        """The turn of a tenant that has none, or other limits now."""
        turn = self._turns.get(tenant)
        if turn is None:
            max_size, max_waiting = self._limits_of(limits)
            turn = Turn(
                tenant, limits=limits, max_size=max_size, max_waiting=max_waiting, counts=self._counts_of(tenant)
            )
            self._turns.add(turn)
        else:
            self._limit(turn, limits)
        return turn

    def _limits_of(self, limits: Limits) -> tuple[int, int]:
        max_size = min(limits.max_size or self._settings.max_size, self.limit)
        return max_size, limits.max_waiting or self._settings.max_waiting

    def _limit(self, turn: Turn[C], limits: Limits) -> None:
        former = turn.max_size
        turn.limits = limits
        turn.max_size, turn.max_waiting = self._limits_of(limits)
        turn.linger(0)
        if turn.max_size != former and turn.waiting:
            self._turns.refresh(turn)
            self._lend_idle()

    def resize(self, tenant: TenantId, limits: Limits, limit: int) -> None:
        """The one tenant whose pool this is has other limits now; what exceeds them is closed once it is idle."""
        self._configured = limit
        self.limit = min(limit, self._allowed)
        for slot in list(self._idle):
            if self._has_too_many and slot.conn in self._idle:
                self._unidle(slot)
                self._retire(slot, "evicted")
        turn = self._turns.get(tenant)
        if turn is not None:
            self._limit(turn, limits)
        self.refill()

    @property
    def _has_too_many(self) -> bool:
        return len(self._slots) - self._retiring > self.limit

    def _pick(self, tenant: TenantId) -> Slot[C]:
        slot = self._idle.take(tenant)
        if not self._idle:
            self.budget.is_idle(self, idle=False)
        return slot

    def _found_dead(self, slot: Slot[C]) -> None:
        """One idle connection is dead: so, most likely, is every one that was there before it."""
        self._retire(slot, "error")
        for other in [other for other in self._idle if other.opened_at <= slot.opened_at]:
            self._unidle(other)
            self._retire(other, "error")

    def _unidle(self, slot: Slot[C]) -> None:
        self._idle.remove(slot)
        if not self._idle:
            self.budget.is_idle(self, idle=False)

    def has_idle_of(self, tenant: TenantId) -> bool:
        """Whether an idle connection is bound to this tenant."""
        return self._idle.has_of(tenant)

    def bound_to(self, conn: C) -> TenantId | None:
        """Which tenant's session `conn` still is; None: nobody's."""
        return self._slots[conn].bound_to

    def wait(self, tenant: TenantId, limits: Limits, waiter: Waiter[C]) -> Ticket[C]:
        """Queue `waiter`; it is offered a connection in its tenant's turn. `cancel` the ticket to leave.

        Raises PoolFull when `max_waiting` of this tenant wait, PoolClosed, ConnectFailed when the server is down, or
        what the last connect failed with while a new try is not due.
        """
        if self.is_closed:
            raise exhaustion.closed()
        turn = self._turns.get(tenant)
        if turn is None or turn.limits is not limits:
            turn = self._admit(tenant, limits)
        now = self._clock()
        self.last_used = now
        if self.budget.is_down and not self._slots:
            turn.counts["error"] += 1
            self._note("connect", turn, 0)
            raise self._connect_failed()
        refusal = self._backoff.refusal(now)
        if refusal is not None:
            turn.counts["error"] += 1
            self._note("connect", turn, 0)
            raise refusal.again()
        if len(turn.waiting) >= turn.max_waiting:
            turn.counts["rejected"] += 1
            self._note("queue_full", turn, turn.max_waiting)
            raise exhaustion.queue_full(
                max_waiting=turn.max_waiting, leased=turn.leased - turn.returning, max_size=turn.max_size
            )
        ticket = Ticket(turn, waiter, now)
        self._turns.enqueue(ticket)
        self._reset_idle(now)
        if self._resetting:
            self._watch_resets()
        self.refill()
        return ticket

    def cancel(self, ticket: Ticket[C], result: AcquireResult) -> bool:
        """Leave the queue; False when the ticket was served or failed already."""
        if not self._turns.cancel(ticket):
            return False
        ticket.turn.counts[result] += 1
        if self.budget.contended and self.need <= 0:
            self.budget.unwant(self)
        return True

    # --- what comes back ---------------------------------------------------------------------------------------------
    @property
    def has_waiting(self) -> bool:
        """Whether anybody waits."""
        return self._turns.waiting > 0

    def uncount(self, conn: C) -> None:
        """The lease of `conn` does not count: it goes back in the same step, before anybody could read the counter."""
        turn = self._slots[conn].turn
        assert turn is not None
        turn.counts["ok"] -= 1

    def next_tenant(self, conn: C, bound_to: TenantId | None) -> TenantId | None:
        """Who would be served if `conn` became ready now, bound to `bound_to`; None: nobody waits."""
        turn = self._next_turn(self._slots[conn], bound_to) if self._turns.waiting else None
        return turn.tenant if turn is not None else None

    def _next_turn(self, slot: Slot[C], bound_to: TenantId | None) -> Turn[C] | None:
        """Whose turn it is: a connection may stay with its tenant for a few turns, which spares it being bound anew."""
        return self._turns.prefer(bound_to) if slot.streak < _STREAK else self._turns.peek()

    def resetting(self, conn: C) -> None:
        """The lessee released `conn` and it is being reset; until that is over it counts for its tenant."""
        slot = self._slots[conn]
        assert slot.state is State.USED, slot.state
        slot.state = State.RESETTING
        slot.since = self._clock()
        self._used -= 1
        self._resetting += 1
        turn = slot.turn
        assert turn is not None
        turn.returning += 1
        turn.coming += 1
        if self._turns.waiting:
            self._watch_resets()

    def take_to_reset(self, now: float, *, idle_seconds: float) -> C | None:
        """The longest idle connection that is somebody's; it is resetting now, so that a stranger finds one ready.

        None while anybody waits, while an idle one is nobody's or will be, when it is the only idle one, and while it
        has been idle for less than `idle_seconds`: its tenant may be in the middle of its work.
        """
        idle = self._idle
        if self._resetting or self._turns.waiting or len(idle.all) < 2 or idle.has_of(None):
            return None
        slot = next(iter(idle))
        if now - slot.since < idle_seconds:
            return None
        self._unidle(slot)
        slot.state = State.RESETTING
        slot.since = now
        self._resetting += 1
        return slot.conn

    def _reset_first(self, slot: Slot[C], now: float) -> bool:
        """Begin to reset what another tenant left in `slot`: as long as that takes it counts for the one who left it.

        The caller that wants it waits in its turn meanwhile, for this or another one. False: the lender resets it
        on the lease.
        """
        reset, owner = self._connector.reset, slot.owner
        if reset is None or owner is None:
            return False
        turn = self._turns.get(owner.tenant)
        if turn is None:
            turn = owner
            self._turns.add(turn)
        slot.state = State.RESETTING
        slot.since = now
        slot.turn = turn
        turn.leased += 1
        turn.returning += 1
        turn.coming += 1
        self._resetting += 1
        self._turns.refresh(turn)
        reset(slot.conn)
        self._watch_resets()
        return True

    def _reset_idle(self, now: float) -> None:
        """Begin to reset as many idle connections as callers wait for who cannot have them as they are."""
        while self._idle.all and self._lacking > 0:
            slot = next(iter(self._idle))
            if not self._connector.is_usable(slot.conn):
                self._unidle(slot)
                self._found_dead(slot)
                continue
            self._unidle(slot)
            self._place(slot, now)
            if slot.conn in self._idle:
                return

    def _watch_resets(self) -> None:
        """The sweeper looks too seldom for those who wait."""
        if not self._watches:
            self._watches = True
            self._connector.later(LATE_SECONDS, self._look_at_resets)

    def _look_at_resets(self) -> None:
        self._watches = False
        self._hurry(self._clock())
        self._serve_waiters()
        if self._resetting and self._turns.waiting:
            self._watch_resets()

    def _hurry(self, now: float) -> None:
        """Do not wait for resets that are late, and end those that hang, some only where their places are wanted."""
        slots = [slot for slot in self._slots.values() if slot.state is State.RESETTING]
        hung: list[Slot[C]] = []
        for slot in slots:
            if now - slot.since > RESET_SECONDS:
                self.retire(slot.conn, "reset_failed")
                continue
            if now - slot.since >= LATE_SECONDS and not slot.is_late:
                slot.is_late = True
                self._late += 1
                if slot.turn is not None:
                    slot.turn.coming -= 1
            if now - slot.since >= HUNG_SECONDS:
                hung.append(slot)
        if hung and self._turns.waiting and not self._idle:
            room = self.limit - (len(self._slots) - self._retiring) - self._opening
            for slot in sorted(hung, key=lambda each: each.since)[: max(0, self._lacking - room)]:
                self.retire(slot.conn, "reset_failed")

    @property
    def _lacking(self) -> int:
        """How many who wait, and may be served, have nothing on its way to them."""
        coming = self._opening + self._resetting - self._late
        return self._turns.eligible(self.limit + coming) - coming

    def _leave_resetting(self, slot: Slot[C]) -> None:
        self._resetting -= 1
        if slot.is_late:
            slot.is_late = False
            self._late -= 1
        elif slot.turn is not None:
            slot.turn.coming -= 1

    def _discharge(self, slot: Slot[C]) -> None:
        """`slot` does not count any more for the tenant that used it last."""
        turn = slot.turn
        if turn is None:
            return
        slot.turn = None
        turn.leased -= 1
        if turn.waiting:
            self._turns.refresh(turn)

    def ready(self, conn: C, bound_to: TenantId | None, now: float | None = None) -> None:
        """`conn` may be lent again: its session is clean, and still that of `bound_to`. `now`: the time, if known."""
        slot = self._slots.get(conn)
        if slot is None or slot.state is State.RETIRING:
            return  # it came too late: the pool closed, or the sweeper had lost its patience
        if slot.state is _USED:
            self._used -= 1
        elif slot.state is State.RESETTING:
            self._leave_resetting(slot)
            if slot.turn is not None:
                slot.turn.returning -= 1
        else:
            raise AssertionError(slot.state)
        if bound_to is None:
            slot.owner = None
        elif slot.turn is not None:
            slot.owner = slot.turn
        self._discharge(slot)
        slot.bound_to = bound_to
        self._place(slot, now)
        if self._idle.all and self._turns.waiting:  # a tenant may be below its limit again
            self._lend_idle()

    def _place(self, slot: Slot[C], now: float | None = None) -> None:
        """Hand a connection that nobody has to the next waiter, or lay it down."""
        if now is None:
            now = self._clock()
        budget = self.budget
        if self.is_closed or slot.retire_on_release or self._has_too_many:
            self._replace(slot, self._closed_for if self.is_closed else "evicted")
        elif now >= slot.expires_at:
            self._replace(slot, "lifetime")
        elif budget.wanting and self._must_yield(slot):
            self._replace(slot, "evicted")
        elif not (self._turns.waiting and self._hand_over(slot, now)):
            slot.state = _IDLE
            slot.since = now
            if not self._idle.all:
                budget.is_idle(self, idle=True)
            self._idle.add(slot)
            if budget.wanting:
                budget.reclaim()

    def _replace(self, slot: Slot[C], reason: CloseReason) -> None:
        """End a connection and serve who waits with others: its end may take seconds."""
        self._retire(slot, reason)
        if self._turns.waiting:
            self._serve_waiters()

    def _serve_waiters(self) -> None:
        if self._idle.all and self._turns.waiting:
            self._lend_idle()
        self.refill()

    def _lend_idle(self) -> None:
        """Serve those who were at their tenant's limit until now, while connections lay idle."""
        while self._idle and (turn := self._turns.peek()) is not None:
            is_ready = self._connector.reset is None or self._idle.has_of(turn.tenant) or self._idle.has_of(None)
            if not is_ready and self._lacking <= 0:
                return  # enough are being reset for those who wait
            slot = self._pick(turn.tenant)
            if self._connector.is_usable(slot.conn):
                self._place(slot)
            else:
                self._found_dead(slot)

    def _must_yield(self, slot: Slot[C]) -> bool:
        turn = self._turns.peek()
        return turn is not None and self.budget.should_yield(self, slot.opened_at, next_holds=turn.leased)

    def _hand_over(self, slot: Slot[C], now: float) -> bool:
        while (turn := self._next_turn(slot, slot.bound_to)) is not None:
            if slot.bound_to is not None and slot.bound_to != turn.tenant and self._reset_first(slot, now):
                return True
            ticket = self._turns.next(turn)
            assert ticket is not None
            turn.leased += 1
            slot.streak = slot.streak + 1 if turn.tenant == slot.bound_to else 0
            slot.turn = turn
            slot.state = State.USED
            slot.since = now
            self._used += 1
            if ticket.waiter.offer(slot.conn):
                turn.counts["ok"] += 1
                self.last_used = now
                self._turns.refresh(turn)
                if self.budget.contended and self.need <= 0:
                    self.budget.unwant(self)
                return True
            turn.counts["cancelled"] += 1
            self._used -= 1
            self._discharge(slot)
            self._turns.refresh(turn)
        return False

    def is_retiring(self, conn: C) -> bool:
        """Whether `conn` is being closed, or is closed, although somebody may still hold it."""
        slot = self._slots.get(conn)
        return slot is None or slot.state is State.RETIRING

    # --- the end of a connection -------------------------------------------------------------------------------------
    def retire(self, conn: C, reason: CloseReason) -> None:
        """`conn` must not be used again: close it. Safe in any state; a second call does nothing."""
        slot = self._slots.get(conn)
        if slot is None or slot.state is State.RETIRING:
            return
        if slot.state is State.USED:
            self._used -= 1
            if slot.turn is not None:
                slot.turn.returning += 1  # and counts for its tenant until it is gone
        elif slot.state is State.RESETTING:
            self._leave_resetting(slot)
        else:
            self._unidle(slot)
        self._replace(slot, reason)

    def _retire(self, slot: Slot[C], reason: CloseReason) -> None:
        slot.state = State.RETIRING
        self._retiring += 1
        self.budget.closing += 1
        self._closed_counts[reason] += 1
        self._observer(ConnectionClosed(server=self.key.server, pool=self.label, reason=reason))
        self._connector.retire(self, slot.conn)

    def retired(self, conn: C, *, lingers: ServerProcess | None = None) -> Lingering | None:
        """`conn` is closed and its server side gone; `lingers`: the backend that may live on.

        Then its permit stays taken, and counts for the tenant that used it, until `budget.gone` of what this returns.
        """
        slot = self._slots.pop(conn)
        assert slot.state is State.RETIRING, slot.state
        self._retiring -= 1
        self.budget.closing -= 1
        if lingers is None:
            if slot.turn is not None:
                slot.turn.returning -= 1
            self._discharge(slot)
            self.budget.give_back(self)
            self._serve_waiters()
            return None
        return self._linger(lingers, slot)

    def _linger(self, process: ServerProcess, slot: Slot[C] | None) -> Lingering:
        turn = slot.turn if slot is not None else None
        self._lingering += 1
        if turn is not None:
            turn.linger(+1)
            self._turns.refresh(turn)

        def release() -> None:
            self._lingering -= 1
            if slot is not None and turn is not None:
                turn.linger(-1)
                turn.returning -= 1
                self._discharge(slot)
            self.budget.give_back(self)
            self._serve_waiters()

        one = Lingering(process, key=self.key, since=self._clock(), release=release)
        tenant = turn.tenant if turn is not None else ""
        self._observer(BackendLingers(server=self.key.server, pool=self.label, tenant=tenant, pid=process.pid))
        self.budget.linger(one)
        self.refill()
        return one

    def give_up_idle(self, idle_seconds: float) -> bool:
        """See `budget.Claimant`."""
        slot = next(iter(self._idle), None)
        if slot is None or self._clock() - slot.since < idle_seconds:
            return False
        self._unidle(slot)
        self._retire(slot, "evicted")
        return True

    def expire(self) -> None:
        """Close every connection that exists now: the idle ones at once, the others when they come back."""
        for slot in list(self._slots.values()):
            if slot.state is State.IDLE:
                self._unidle(slot)
                self._retire(slot, "evicted")
            else:
                slot.retire_on_release = True

    def close(self, error: TenantProxyError, reason: CloseReason = "shutdown") -> None:
        """No more leases: waiters fail with `error`, idle connections close, the others when they come back."""
        if self.is_closed:
            return
        self.is_closed = True
        self._closed_for = reason
        self._fail_waiters(error)
        for slot in list(self._idle):
            self._unidle(slot)
            self._retire(slot, reason)
        self.budget.leave(self)

    # --- opening -----------------------------------------------------------------------------------------------------
    @property
    def need(self) -> int:
        """How many more connections it would open now: for those who wait and may be served, within its own limit."""
        if not self._turns.waiting or self.is_closed:
            return 0
        # In a pool of one tenant what lingers is its own; the tenants of a shared one must not pay for another's.
        room = self.limit - len(self._slots) - self._opening - (0 if self.key.shared else self._lingering)
        coming = self._opening + self._resetting - self._late
        return min(room, self._turns.eligible(room + coming) - coming) if room > 0 else 0

    def refill(self, most: int = 1_000_000) -> None:
        """Begin as many connects as are needed and permitted; called whenever either may have changed."""
        need = self.need
        if need <= 0:
            self.budget.unwant(self)
            return
        if self._backoff.is_trying and (self._opening or self._backoff.holds_back(self._clock())):
            self.budget.unwant(self)  # nobody need stand back for it meanwhile
            return  # after a failure one connect at a time tries, when its time has come
        if self._backoff.is_trying:
            need = 1
        for _ in range(min(need, most)):
            if not self.budget.take(self):
                break
            need -= 1
            self._opening += 1
            self._connector.open(self)
        if need:
            self.budget.want(self)
        else:
            self.budget.unwant(self)

    def look_again(self) -> None:
        """See `budget.Claimant`."""
        if not self._asks_again:
            self._asks_again = True
            self._connector.later(CALM_SECONDS, self._ask_again)

    def _ask_again(self) -> None:
        self._asks_again = False
        self.refill()

    def opened(self, conn: C) -> None:
        """A connect succeeded: the connection goes to the next waiter, whoever it was opened for."""
        self._opening -= 1
        self._backoff.succeeded()
        lifetime = self._settings.max_lifetime * (1 - _LIFETIME_JITTER * random.random())
        slot = Slot(conn, now=self._clock(), lifetime=lifetime)
        self._slots[conn] = slot
        self.budget.opened(self)
        self._place(slot)
        self.refill()

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
        self._opening -= 1
        delay = self._backoff.failed(error, failure, self._clock())
        self._observer(ConnectFailure(server=self.key.server, pool=self.label, error=what, retry_in=delay))
        if failure in ("denied", "unfit"):
            self._fail_waiters(error, "connect")
        self._connector.later(delay, self.refill)
        if failure == "full":
            self.budget.refused_as_full(self, self.budget.in_use - 1)
        if lingers is not None:
            self._linger(lingers, None)
        else:
            self.budget.give_back(self)
        if failure == "refused":
            self.budget.refused(what, exhaustion.without_place(error, self.key.server))
        elif failure == "unfit":
            self.budget.unfit(what)
        elif silent:
            self.budget.unanswered(what)
        else:
            self.budget.reached()

    def learn(self, *, role_limit: int = NO_LIMIT, database_limit: int = NO_LIMIT) -> None:
        """What a connect found: limits that concern this pool, and not the whole server."""
        self._allowed, source = lowest(MOST, (("role", role_limit), ("database", database_limit)))
        limit = min(self._configured, self._allowed)
        if limit == self.limit:
            return
        self.limit = limit
        if limit < self._configured:
            event = LimitLowered(
                server=self.key.server, pool=self.label, configured=self._configured, limit=limit, by=source
            )
            self._observer(event)

    def server_down(self) -> None:
        """See `budget.Claimant`. With a connection left, those who wait may still be served by it."""
        if not self._turns.waiting or self._used or self._resetting:
            return
        self._fail_waiters(self._connect_failed(), "connect")

    def server_up(self) -> None:
        """See `budget.Claimant`."""
        self._backoff.server_up()
        self.refill()

    def _fail_waiters(self, error: TenantProxyError, cause: ExhaustCause | None = None) -> None:
        for ticket in self._turns.drain():
            ticket.turn.counts["error"] += 1
            if cause is not None:
                self._note(cause, ticket.turn, 0)
            ticket.waiter.fail(error.again())
        self.budget.unwant(self)

    # --- why there was none ------------------------------------------------------------------------------------------
    def timed_out(self, ticket: Ticket[C], timeout: float) -> PoolError:
        """The error for a waiter whose time is over: which limit, its value, how many wait, what to do."""
        turn = ticket.turn
        waiting = len(turn.waiting)
        if self._backoff.error is not None and not self._used:
            self._note("connect", turn, 0)
            return self._connect_failed()
        if turn.leased >= turn.ceiling:
            self._note("tenant_limit", turn, turn.max_size)
            return exhaustion.tenant_spent(
                timeout,
                max_size=turn.max_size,
                leased=turn.leased - turn.returning,
                closing=turn.returning - turn.lingering,
                lingering=turn.lingering,
                waiting=waiting,
            )
        if self._opening or self._resetting:
            self._note("connect", turn, 0)
            error = exhaustion.not_ready(timeout, opening=self._opening, resetting=self._resetting, waiting=waiting)
            error.is_server_slow = self._opening > 0 and len(self._slots) + self._opening < self.limit
            return error
        if len(self._slots) >= self.limit:
            self._note("tenant_limit", turn, self.limit)
            return exhaustion.pool_spent(timeout, limit=self.limit, waiting=waiting)
        if self._backoff.error is not None:
            self._note("connect", turn, 0)
            return self._connect_failed()
        self._note("server_budget", turn, self.budget.limit)
        return exhaustion.budget_spent(timeout, limit=self.budget.limit, waiting=waiting)

    def _connect_failed(self) -> PoolError:
        error = self._backoff.error
        if not isinstance(error, PoolError):  # this pool did not try: another one of the server did
            error = self.budget.failure or exhaustion.unreachable(f"server {self.key.server!r}")
        return error.again()

    def _note(self, cause: ExhaustCause, turn: Turn[C], limit: int) -> None:
        self._exhausted_counts[cause] += 1
        self._observer(
            Exhausted(cause=cause, tenant=turn.tenant, pool=self.label, limit=limit, waiting=len(turn.waiting))
        )

    # --- time, and what is -------------------------------------------------------------------------------------------
    def sweep(self, now: float) -> None:
        """Close idle connections that are dead, too old or idle for too long; forget tenants that left."""
        idle_limit = now - self._settings.idle_timeout
        for slot in list(self._idle):
            if slot.conn not in self._idle:
                continue  # an older one was found dead, and this one went with it
            if slot.since <= idle_limit:
                self._unidle(slot)
                self._retire(slot, "idle")
            elif now >= slot.expires_at:
                self._unidle(slot)
                self._retire(slot, "lifetime")
            elif not self._connector.is_usable(slot.conn):
                self._unidle(slot)
                self._found_dead(slot)
        self._hurry(now)
        if self._settings.max_hold:
            self._end_long_leases(now, self._settings.max_hold)
        self._turns.purge()
        self._idle.purge()
        self._serve_waiters()

    def _end_long_leases(self, now: float, max_hold: float) -> None:
        """End the oldest leases that last too long, one for each caller that waits for what they hold.

        Never those of the main database: what listens there holds a connection all the time.
        """
        if self.is_main:
            return
        elsewhere = sum(pool is not self for pool in self.budget.wanting) - self.budget.closing
        left = self._turns.waiting + max(0, elsewhere)
        if not left:
            return
        long = [slot for slot in self._slots.values() if slot.state is _USED and now - slot.since > max_hold]
        for slot in sorted(long, key=lambda each: each.since)[:left]:
            turn, seconds = slot.turn, now - slot.since
            assert turn is not None
            # A tenant at its own limit waits for its own leases alone.
            if turn.waiting or elsewhere > 0 or self._turns.peek() is not None:
                self._observer(LeaseEnded(server=self.key.server, pool=self.label, tenant=turn.tenant, seconds=seconds))
                self._connector.expire(slot.conn, exhaustion.held_too_long(seconds, max_hold=max_hold))
                self.retire(slot.conn, "max_hold")

    @property
    def starving(self) -> bool:
        """See `budget.Claimant`."""
        return self._turns.below > self._opening + self._resetting - self._late

    @property
    def used(self) -> int:
        """Connections that are lent."""
        return self._used

    @property
    def is_quiet(self) -> bool:
        """No connection is lent, waited for, being opened or reset, and none lingers: a tenant stays charged for it."""
        return not (self._used or self._turns.waiting or self._opening or self._resetting or self._lingering)

    @property
    def is_empty(self) -> bool:
        """It has no connection at all."""
        return not (self._slots or self._opening)

    @property
    def permits(self) -> int:
        """How many permits of the budget it holds."""
        return len(self._slots) + self._opening

    def connections(self) -> Iterator[C]:
        """All open connections, whatever their state."""
        return iter(self._slots)

    def tenant_stats(self) -> Iterator[TenantPoolStats]:
        """Each tenant that was here since the last sweep; the pool may change between two of them."""
        now = self._clock()
        for turn in list(self._turns):
            since = turn.oldest_since
            yield TenantPoolStats(
                tenant=turn.tenant,
                leased=turn.leased - turn.returning,
                waiting=len(turn.waiting),
                oldest_wait_seconds=now - since if since is not None else 0.0,
                max_size=turn.max_size,
            )

    def stats(self, tenants: Iterable[TenantPoolStats] | None = None) -> PoolStats:
        """A snapshot; `tenants` instead of all of them."""
        return PoolStats(
            key=self.key,
            label=self.label,
            limit=self.limit,
            idle=len(self._idle),
            used=self._used,
            opening=self._opening,
            resetting=self._resetting,
            retiring=self._retiring,
            lingering=self._lingering,
            waiting=self._turns.waiting,
            tenants=tuple(self.tenant_stats() if tenants is None else tenants),
        )
