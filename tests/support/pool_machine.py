"""Do pools, budgets and their manager hold what they promise, whatever happens and in whatever order?

`PoolWorld` is everything that can happen, with books of its own: what it expects is summed from the fakes' states,
never from the pools' counters. Hypothesis drives it as `PoolMachine`; `benchmarks/statemachine.py` does so for long.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tenantproxy.config import Pools
from tenantproxy.errors import BudgetExhausted, ConnectFailed, PoolClosed, PoolError, PoolFull, PoolTimeout
from tenantproxy.events import Event, PoolEvicted
from tenantproxy.model import Limits, Route, TenantId
from tenantproxy.pools.backoff import Failure
from tenantproxy.pools.budget import MAIN_RESERVE, ServerBudget
from tenantproxy.pools.limits import FULL_SECONDS
from tenantproxy.pools.lingering import STARTUP_SECONDS, Lingering
from tenantproxy.pools.pool import Pool
from tenantproxy.pools.resets import HUNG_SECONDS, LATE_SECONDS, RESET_SECONDS
from tests.support.fakes import Caller, House, Link, ready, reset, reset_ahead, retire, route

__all__ = ["PAUSES", "PoolMachine", "PoolWorld", "steps_done"]

T = TypeVar("T")

MAX_WAITING: Final = 3
LIFETIME: Final = 24.0
PAUSES: Final = (0.0, 0.001, 0.03, 0.06, 0.2, 0.6, 1.0, 2.5, 7.0, 31.0)
SWEPT_WITHIN: Final = 1e9  # the machine sweeps when it likes
SETTLE_SECONDS: Final = 2.0  # after which a server that answers has ended a login that was given up
FAILURES: Final[tuple[Failure, ...]] = ("refused", "busy", "full", "denied")

ROUTES: Final[tuple[Route, ...]] = (
    route("row1", "row"),
    route("row2", "row"),
    route("row3", "row", limits=Limits(max_size=1, max_waiting=1)),
    route("data1"),
    route("data2", limits=Limits(max_size=1)),
    route("scheme1", "schema"),
    route("row4", "row", server="two"),
    route("row5", "row", server="two"),
    route("data3", server="two"),
)

_steps = 0


def steps_done() -> int:
    """How many steps all machines of this process took."""
    return _steps


@dataclass(eq=False, slots=True)
class Left:
    """A backend whose connection is closed, and which may still run."""

    one: Lingering
    pool: Pool[Link]
    tenant: TenantId | None  # who is charged for it
    since: float


@dataclass(eq=False, slots=True)
class Book:
    """What we know of one pool."""

    pool: Pool[Link]
    waiting: dict[TenantId, deque[Caller]] = field(default_factory=dict)  # in the queue, longest wait first
    limits: dict[TenantId, Limits] = field(default_factory=dict)  # as first told: a pool keeps them while it knows him
    failed: bool = False  # the last connect failed
    retry_at: float = 0.0
    full: tuple[float, int] | None = None  # until when it was told that the server has no more than so many

    def queue(self, tenant: TenantId) -> deque[Caller]:
        """Who of `tenant` waits."""
        return self.waiting.setdefault(tenant, deque())


class PoolWorld:
    """Two servers with hardly any connections, tenants of all kinds, and everything that can happen to them."""

    def __init__(
        self,
        *,
        one: int = 6,
        two: int = 4,
        guaranteed: int = 1,
        resets_hang: bool = False,
        resets_first: bool = False,
        max_hold: float = 0.0,
    ) -> None:
        settings = Pools(
            max_pools=3,
            max_size=2,
            shared_size=3,
            guaranteed=guaranteed,
            max_waiting=MAX_WAITING,
            idle_timeout=20.0,
            max_lifetime=LIFETIME,
            max_hold=max_hold,
        )
        self.house = House(servers={"one": one, "two": two}, settings=settings, observer=self.observe)
        self.resets_first = self.house.connector.resets_first = resets_first
        self.books: dict[Pool[Link], Book] = {}
        self.callers: list[Caller] = []  # in a queue, or gone from one without a word
        self.lent: list[Caller] = []
        self.left: list[Left] = []
        self.results: Counter[str] = Counter()
        self.now_removing = False
        self.resets_hang = resets_hang  # at the end: the sweeper has to notice

    # --- what can happen: callers ------------------------------------------------------------------------------------
    def ask(self, which: int) -> None:
        """A tenant's caller wants a connection, as the lender asks; the last number is the main database's."""
        if which % (len(ROUTES) + 1) == len(ROUTES):
            pool, plan = self.house.main(size=3), route("main", limits=Limits(max_size=3))
        else:
            plan = _pick(ROUTES, which)
            pool = self.house.pool(plan)
        book = self.book(pool)
        limits = self._limits(book, plan.tenant, plan.limits)
        caller = Caller(plan.tenant)
        queue = book.queue(plan.tenant)
        try:
            link = pool.lease_nowait(plan.tenant, plan.limits)
            if link is not None:
                assert not queue, "a late comer overtook those of its tenant who wait"
                assert link.state == "idle", f"{link} was lent"
                assert link.bound in (None, plan.tenant) or not self.resets_first, f"{link} is another tenant's"
                assert link.alive, f"{link} is dead and was lent"
                assert self.house.clock.now < link.opened_at + LIFETIME, f"{link} is too old and was lent"
                _lend(link, caller)
                self.results["ok"] += 1
                self.lent.append(caller)
                return
            queue.append(caller)
            caller.ticket = pool.wait(plan.tenant, plan.limits, caller)
        except PoolFull:
            queue.remove(caller)
            assert len(queue) == limits.max_waiting
            self.results["rejected"] += 1
        except PoolError as error:
            queue.remove(caller)
            self._check_refusal(error, book)
            self.results["error"] += 1
        else:
            assert len(queue) <= (limits.max_waiting or MAX_WAITING)
            self.callers.append(caller)

    def _check_refusal(self, error: PoolError, book: Book) -> None:
        assert book.failed or book.pool.budget.is_down, f"{error} without a failed connect"
        assert not isinstance(error, PoolTimeout)

    def leave(self, which: int, result: str = "cancelled") -> None:
        """One who waits leaves: cancelled, or because its time is over."""
        caller = _pick(self.waiting(), which)
        pool, book = self._pool_of(caller)
        assert caller.ticket is not None
        assert pool.cancel(caller.ticket, "timeout" if result == "timeout" else "cancelled")
        assert not pool.cancel(caller.ticket, "cancelled"), "one who left left again"
        book.queue(caller.tenant).remove(caller)
        self.callers.remove(caller)
        self.results[result] += 1
        if result == "timeout":
            error = pool.timed_out(caller.ticket, 5.0)
            assert isinstance(error, PoolTimeout | BudgetExhausted | ConnectFailed)
            assert error.detail

    def vanish(self, which: int) -> None:
        """One who waits is cancelled, and has not yet run to say so."""
        _pick(self.waiting(), which).gone = True

    def hand_back(self, which: int) -> None:
        """One who was handed a connection had left in the same moment, or resets nothing: it gives it back."""
        link = self._give(which)
        ready(link, link.bound)

    def release(self, which: int) -> None:
        """A lessee is done; its session is reset off its path, or stays its tenant's as it is."""
        link = self._give(which)
        if self.resets_first and link.pool.key.shared and link.alive and which % 4:
            ready(link, link.user)
        elif link.alive:
            reset(link, now=self.house.clock.now)
        else:
            retire(link)

    def all_leave(self) -> None:
        """All who wait leave, and all lessees are done."""
        self.check()
        while self.waiting():
            self.leave(0)
            self.check()
        while self.lent:
            self.release(1)
            self.check()

    def poison(self, which: int) -> None:
        """A session could not be entered, or its user left something that cannot be undone."""
        retire(self._give(which))

    def _give(self, which: int) -> Link:
        caller = _pick(self.lent, which)
        self.lent.remove(caller)
        assert caller.link is not None
        assert caller.link.user == caller.tenant
        return caller.link

    def take_own(self, which: int) -> None:
        """A tenant's caller wants a connection that is its tenant's already, or none."""
        plan = _pick(ROUTES, which)
        pool = self.house.pool(plan)
        book = self.book(pool)
        limits = self._limits(book, plan.tenant, plan.limits)
        link = pool.lease_nowait(plan.tenant, plan.limits, bound_only=True)
        if link is None:
            own = [each for each in self.links("idle") if each.pool is pool and each.bound == plan.tenant]
            assert limits.max_size is not None
            may = self._charges(book, plan.tenant) < self._ceiling(book, plan.tenant) and not book.queue(plan.tenant)
            assert not (own and may), f"{own} are the tenant's, and were not lent"
            return
        assert (link.state, link.bound, link.alive) == ("idle", plan.tenant, True)
        caller = Caller(plan.tenant)
        _lend(link, caller)
        self.results["ok"] += 1
        self.lent.append(caller)

    def spare(self, which: int) -> None:
        """A pool has one reset ahead of need."""
        book = _pick(list(self.books.values()), which)
        idle = [link for link in self.links("idle") if link.pool is book.pool]
        link = reset_ahead(book.pool, now=self.house.clock.now)
        if link is not None:
            assert link.bound is not None
            assert len(idle) > 1, "the only idle connection was taken for a reset"
            assert not self._eligible(book)

    def reset_ends(self, which: int, bound: int) -> None:
        """A reset is confirmed; the session is still a tenant's, or bound to none."""
        link = _pick(self.links("resetting"), which)
        tenant = link.charged if self.resets_first else _pick(ROUTES, bound).tenant
        ready(link, tenant if bound % 2 and link.pool.key.shared else None)

    def reset_fails(self, which: int) -> None:
        """A reset fails."""
        retire(_pick(self.links("resetting"), which), "reset_failed")

    # --- what can happen: servers ------------------------------------------------------------------------------------
    def connect(self, which: int) -> None:
        """A connect succeeds."""
        pool = _pick(self.house.connector.opening, which)
        book = self.book(pool)
        book.failed, book.full = False, None
        self.house.connector.succeed(pool)

    def refuse(self, which: int, failure: Failure, *, silent: bool) -> None:
        """A connect fails."""
        pool = _pick(self.house.connector.opening, which)
        book = self.book(pool)
        book.failed = True
        if failure == "full":
            book.full = (self.house.clock.now + FULL_SECONDS, max(1, pool.budget.in_use - 1))
        known = {number for _, number, _ in self.house.connector.timers}
        self.house.connector.fail(pool, failure, silent=silent)
        if silent:
            self._note_left(pool, None)
        book.retry_at = max(due for due, number, _ in self.house.connector.timers if number not in known)

    def end(self, which: int, *, silent: bool) -> None:
        """The server side of a connection in retirement is gone, or silent."""
        link = _pick(self.links("retiring"), which)
        self.house.connector.end(link, silent=silent)
        if silent:
            self._note_left(link.pool, link.charged)

    def _note_left(self, pool: Pool[Link], tenant: TenantId | None) -> None:
        self.left.append(Left(self.house.connector.lingering[-1], pool, tenant, self.house.clock.now))

    def left_one_ends(self, which: int) -> None:
        """A backend that lingered is heard to end."""
        left = _pick(self.left, which)
        self.left.remove(left)
        left.pool.budget.gone(left.one)
        left.pool.budget.gone(left.one)  # a look may say so again

    def look(self, which: int, gone: int) -> None:
        """A server is asked which of those that linger it still has."""
        name, budget = _pick(list(self.house.budgets.items()), which)
        now = self.house.clock.now
        mine = [left for left in self.left if left.pool.key.server == name]
        alive = {left.one.process.pid: None for at, left in enumerate(mine) if (gone >> at) % 2}
        done = [
            left
            for left in mine
            if (left.since + SETTLE_SECONDS <= now if not left.one.process.pid else left.one.process.pid not in alive)
        ]
        self.left = [left for left in self.left if left not in done]
        budget.looked(alive, began=now)

    def die(self, which: int) -> None:
        """A connection dies where it lies."""
        _pick([link for link in self.links() if link.state in ("idle", "used", "resetting")], which).alive = False

    def answer(self, which: int) -> None:
        """A server that was down is heard of again, by a probe."""
        _pick(list(self.house.budgets.values()), which).reached()

    # --- what can happen: time and operators -------------------------------------------------------------------------
    def pass_time(self, which: int) -> None:
        """Time passes. What takes long to reset is noticed without the sweeper where callers wait."""
        self.house.connector.pass_time(_pick(PAUSES, which))
        self._collect()
        now = self.house.clock.now
        for link in self.links("resetting"):
            waiting = [caller for queue in self.book(link.pool).waiting.values() for caller in queue]
            since = min((caller.ticket.since for caller in waiting if caller.ticket is not None), default=now)
            if now >= max(since, link.reset_at + LATE_SECONDS) + LATE_SECONDS:
                assert _is_late(link), f"{link} is waited for after {now - link.reset_at} s"

    def sweep(self) -> None:
        """The sweeper comes."""
        self.left = [
            left for left in self.left if left.one.process.pid or left.since + STARTUP_SECONDS > self.house.clock.now
        ]
        blocked = [
            (book, link, self._waiters_of(book, link)) for book in self.books.values() for link in self._oldest(book)
        ]
        self.house.manager.sweep()
        self._collect()
        for book, link, waiters in blocked:
            is_ended = link.state != "used" or self._waiters_of(book, link) < waiters
            assert is_ended, f"{link} is held for too long while others of its tenant wait"
        for link in self.links("resetting"):
            assert _is_late(link) == (self.house.clock.now - link.reset_at >= LATE_SECONDS)
        assert not [link for link in self.links("resetting") if self.house.clock.now - link.reset_at > RESET_SECONDS]
        for book in self.books.values():
            for tenant in [tenant for tenant in book.limits if not self._counts(book, tenant)]:
                del book.limits[tenant]
        for book in self.books.values():
            self._check_swept(book)
        manager = self.house.manager
        if len(manager) > self.house.settings.max_pools:
            assert not [pool for pool in manager if not pool.is_main and self._is_quiet(self.book(pool))]

    def _oldest(self, book: Book) -> list[Link]:
        """The oldest lease of a pool, where it is to be ended."""
        now, limit = self.house.clock.now, self.house.settings.max_hold
        used = [link for link in self.links("used") if link.pool is book.pool]
        oldest = min(used, key=lambda link: link.used_at, default=None)
        if oldest is None or not limit or book.pool.is_main or not now - oldest.used_at > limit:
            return []
        return [oldest] if self._waiters_of(book, oldest) else []

    def _waiters_of(self, book: Book, link: Link) -> int:
        return len(book.queue(link.user)) if link.user is not None else 0

    def _check_swept(self, book: Book) -> None:
        """Nothing is left that the sweeper has to close."""
        now = self.house.clock.now
        mine = [link for link in self.links() if link.pool is book.pool]
        idle = [link for link in mine if link.state == "idle"]
        assert not [link for link in idle if not link.alive or now >= link.opened_at + LIFETIME]
        assert not [link for link in idle if now - link.idle_at >= self.house.settings.idle_timeout]
        hung = [link for link in mine if link.state == "resetting" and now - link.reset_at >= HUNG_SECONDS]
        if hung and not idle and self._lacking(book) > 0:
            closing = [link for link in mine if link.state == "retiring"]
            room = book.pool.limit - len(mine) - self.house.connector.opening.count(book.pool)
            assert self._lacking(book) <= len(closing) + room, f"{hung} hang while callers wait for their places"

    def remove(self, which: int) -> None:
        """A tenant is removed, or moves."""
        plan = _pick(ROUTES, which)
        self.now_removing = True
        self.house.manager.remove(plan.tenant, [plan.pool])
        self.now_removing = False

    def expire(self, which: int) -> None:
        """Every connection of a pool must go."""
        _pick(list(self.house.manager), which).expire()

    def observe(self, event: Event) -> None:
        """No pool is evicted while it is in use."""
        if not isinstance(event, PoolEvicted):
            return
        evicted = [book for pool, book in self.books.items() if pool.label == event.pool and pool.is_closed]
        book = evicted[-1]
        if event.reason == "removed":
            assert self.now_removing
        else:
            assert self._is_quiet(book), f"{event.pool} was evicted while it was in use"
        self._collect()

    # --- the books ---------------------------------------------------------------------------------------------------
    def book(self, pool: Pool[Link]) -> Book:
        """What we know of `pool`."""
        if pool not in self.books:
            self.books[pool] = Book(pool)
        return self.books[pool]

    def links(self, state: str | None = None) -> list[Link]:
        """All links that exist, or those in one state."""
        return [link for link in self.house.connector.links if state is None or link.state == state]

    def _limits(self, book: Book, tenant: TenantId, limits: Limits) -> Limits:
        if tenant not in book.limits:
            settings = self.house.settings
            book.limits[tenant] = Limits(
                max_size=min(limits.max_size or settings.max_size, book.pool.limit),
                max_waiting=limits.max_waiting or settings.max_waiting,
            )
        return book.limits[tenant]

    def _counts(self, book: Book, tenant: TenantId) -> int:
        """How many connections `tenant` has and wants."""
        return self._charges(book, tenant) + len(book.queue(tenant))

    def _charges(self, book: Book, tenant: TenantId) -> int:
        """How many connections count for `tenant`: lent, released and not clean yet, closed and not gone."""
        mine = [link for link in self.links() if link.pool is book.pool and link.charged == tenant]
        return self._leases(book, tenant) + len(mine) + self._left_of(book, tenant)

    def _left_of(self, book: Book, tenant: TenantId) -> int:
        return sum(left.pool is book.pool and left.tenant == tenant for left in self.left)

    def _ceiling(self, book: Book, tenant: TenantId) -> int:
        size = self._size(book, tenant)
        return size if 2 * self._left_of(book, tenant) < size else 0

    def _leases(self, book: Book, tenant: TenantId) -> int:
        return sum(1 for caller in self.lent if caller.tenant == tenant and _link(caller).pool is book.pool)

    def _is_quiet(self, book: Book) -> bool:
        busy = [link for link in self.links() if link.pool is book.pool and link.state in ("used", "resetting")]
        waiting = any(caller.waits for queue in book.waiting.values() for caller in queue)
        left = any(left.pool is book.pool for left in self.left)
        return not (busy or waiting or left or book.pool in self.house.connector.opening)

    def waiting(self) -> list[Caller]:
        """Who waits, also those who vanished."""
        return [caller for caller in self.callers if caller.waits]

    def _pool_of(self, caller: Caller) -> tuple[Pool[Link], Book]:
        found = next(book for book in self.books.values() if caller in book.queue(caller.tenant))
        return found.pool, found

    def _collect(self) -> None:
        """Enter into the books what the last step brought to those who waited."""
        for book in self.books.values():
            for tenant, queue in book.waiting.items():
                self._collect_from(queue, tenant)
        for link in self.house.connector.expired:
            (caller,) = [caller for caller in self.lent if caller.link is link]
            assert not link.pool.is_main
            assert self.house.settings.max_hold
            self.lent.remove(caller)
        self.house.connector.expired.clear()

    def _collect_from(self, queue: deque[Caller], tenant: TenantId) -> None:
        served = [caller for caller in queue if not caller.waits or caller.refused]
        assert served == list(queue)[: len(served)], f"a waiter of {tenant} was served before one that waited longer"
        for caller in served:
            queue.remove(caller)
            if caller in self.callers:
                self.callers.remove(caller)
            if caller.link is not None:
                self.lent.append(caller)
                self.results["ok"] += 1
            else:
                self.results["error" if caller.error is not None else "cancelled"] += 1

    # --- what must hold ----------------------------------------------------------------------------------------------
    def check(self) -> None:
        """Every invariant, from the fakes' own states."""
        global _steps
        _steps += 1
        self._collect()
        for budget in self.house.budgets.values():
            self._check_budget(budget)
        known = {*self.house.manager, *self.house.manager.closing()}
        for pool, book in list(self.books.items()):
            self._check_pool(book)
            if pool not in known:
                assert pool.is_closed
                assert not book.pool.permits, "a pool with connections was forgotten"
                assert not any(book.waiting.values()), "a pool with waiters was forgotten"
                if pool not in self.house.connector.opening:
                    del self.books[pool]
        self._check_presence()
        self._check_counters()

    def _check_presence(self) -> None:
        """What ends a tenant looks where it holds or waits for something, and in no pool that is forgotten."""
        manager = self.house.manager
        known = {*manager, *manager.closing()}
        there = {(tenant, pool) for tenant in manager.presence.tenants for pool in manager.presence.of(tenant)}
        forgotten = {pool for _, pool in there} - known  # until the next sweep
        assert all(pool.is_closed and pool.is_empty for pool in forgotten)
        for pool in known:
            for tenant in pool.served():
                assert (tenant, pool) in there, f"{tenant} is not found in {pool.label}"

    def _check_budget(self, budget: ServerBudget) -> None:
        here = [link for link in self.links() if link.pool.budget is budget]
        opening = [pool for pool in self.house.connector.opening if pool.budget is budget]
        left = [one for one in self.left if one.pool.budget is budget]
        total = len(here) + len(opening) + len(left)
        of_main = sum(link.pool.is_main for link in here) + sum(pool.is_main for pool in opening)
        of_main += sum(one.pool.is_main for one in left)
        assert total == budget.in_use, f"{budget.in_use} permits for {total} connections"
        beyond = len(left) >= budget.limit  # one of main's, or it could not be asked whether they are gone
        assert total <= budget.limit + beyond, f"{total} connections under a limit of {budget.limit}"
        assert total - of_main <= budget.limit - MAIN_RESERVE, "main's reserve was taken"
        assert list(budget.lingering) == [one.one for one in left]
        retiring = sum(link.state == "retiring" for link in here)
        assert retiring == budget.closing
        self._check_nobody_is_forgotten(budget, free=budget.limit - total, of_tenants=total - of_main)

    def _check_nobody_is_forgotten(self, budget: ServerBudget, *, free: int, of_tenants: int) -> None:
        """A pool in need takes a free permit at once; without one, idle connections are closed for it."""
        needs = {
            book.pool: 0 if self._is_refused(book) else self._need(book)
            for book in self.books.values()
            if book.pool.budget is budget
        }
        tenants_may = free > 0 and of_tenants < budget.limit - MAIN_RESERVE
        for pool, need in needs.items():
            assert not (need and (free if pool.is_main else tenants_may)), (
                f"{pool.label} needs {need}, a permit is free, and nothing is being opened"
            )
        main_helps = of_tenants < budget.limit - MAIN_RESERVE or any(
            need for pool, need in needs.items() if pool.is_main
        )
        idle = [
            link for link in self.links("idle") if link.pool.budget is budget and (main_helps or not link.pool.is_main)
        ]
        if idle:
            wanting = sum(
                need > 0 for need in needs.values()
            )  # each gets one after the other, not all it needs at once
            # Those that were in use a moment ago are left where they are, and each that wants one looks again.
            looks_again = all(pool._openings._asks_again for pool, need in needs.items() if need > 0)
            assert wanting <= budget.closing or looks_again, "connections lie idle while others want their permits"

    def _is_refused(self, book: Book) -> bool:
        if book.full is None:
            return False
        until, most = book.full
        # When its time is over it asks again at the next sweep, not in that moment.
        return book.pool.budget.in_use >= most and self.house.clock.now < until + SWEPT_WITHIN

    def _need(self, book: Book) -> int:
        pool = book.pool
        opening = self.house.connector.opening.count(pool)
        if pool.is_closed or (book.failed and (opening or self.house.clock.now < book.retry_at)):
            return 0
        mine = [link for link in self.links() if link.pool is pool]
        resetting = sum(link.state == "resetting" and not _is_late(link) for link in mine)
        room = pool.limit - len(mine) - opening
        if not pool.key.shared:
            room -= sum(left.pool is pool for left in self.left)
        return max(0, min(self._eligible(book, after_resets=True) - opening - resetting, room))

    def _lacking(self, book: Book) -> int:
        """How many may be served and have nothing on its way to them."""
        resetting = [link for link in self.links("resetting") if link.pool is book.pool and not _is_late(link)]
        opening = self.house.connector.opening.count(book.pool)
        return self._eligible(book, after_resets=True) - opening - len(resetting)

    def _may_have_more(self, book: Book, tenant: TenantId) -> bool:
        return bool(book.queue(tenant)) and self._charges(book, tenant) < self._ceiling(book, tenant)

    def _eligible(self, book: Book, *, after_resets: bool = False) -> int:
        return sum(
            max(0, min(len(queue), self._ceiling(book, tenant) - self._still_charged(book, tenant, after_resets)))
            for tenant, queue in book.waiting.items()
            if queue
        )

    def _still_charged(self, book: Book, tenant: TenantId, after_resets: bool) -> int:
        coming = [
            link
            for link in self.links("resetting")
            if link.pool is book.pool and link.charged == tenant and not _is_late(link)
        ]
        return self._charges(book, tenant) - (len(coming) if after_resets else 0)

    def _size(self, book: Book, tenant: TenantId) -> int:
        size = book.limits[tenant].max_size
        assert size is not None
        return size

    def _check_pool(self, book: Book) -> None:
        pool, _now = book.pool, self.house.clock.now
        stats = pool.stats()
        mine = [link for link in self.links() if link.pool is pool]
        states = Counter(link.state for link in mine)
        assert (stats.idle, stats.used) == (states["idle"], states["used"])
        assert (stats.resetting, stats.retiring) == (states["resetting"], states["retiring"])
        assert stats.opening == self.house.connector.opening.count(pool)
        assert stats.waiting == sum(map(len, book.waiting.values()))
        assert len(mine) + stats.opening <= pool.limit
        assert set(pool.connections()) == set(mine)
        users = Counter(link.user for link in mine if link.state == "used")
        for turn in stats.tenants:
            tenant = TenantId(turn.tenant)
            assert turn.leased == self._leases(book, tenant) == users[tenant]
            known = pool._turns.by_tenant[tenant]
            assert known.leased == self._charges(book, tenant)
            assert known.lingering == self._left_of(book, tenant)
            assert turn.waiting == len(book.queue(tenant))
            assert turn.leased <= turn.max_size
            if turn.leased or turn.waiting:
                assert turn.max_size == self._size(book, tenant)
                assert turn.waiting <= (book.limits[tenant].max_waiting or 0)
        if self._eligible(book):
            self._check_idle(book, mine)

    def _check_idle(self, book: Book, mine: list[Link]) -> None:
        """Nothing lies idle that a caller waits for, unless it is to be reset and enough others are under way."""
        pool, now = book.pool, self.house.clock.now
        young = [link for link in mine if now < link.opened_at + LIFETIME * 0.9]
        good = [link for link in young if link.state == "idle" and link.alive]
        if self.resets_first and self._lacking(book) <= 0:
            who = {tenant for tenant in book.waiting if self._may_have_more(book, tenant)}
            good = [link for link in good if link.bound is None or link.bound in who]
        assert not good, f"{good} lie idle in {pool.label} while a caller who may have one waits"

    def _check_counters(self) -> None:
        counters = self.house.counters
        totals: Counter[str] = Counter()
        for counts in counters.acquires.values():
            totals.update({str(result): number for result, number in counts.items()})
        assert +totals == +self.results
        retired = self.house.connector.ended + len(self.links("retiring"))
        assert sum(counters.closed.values()) == retired

    # --- the end -----------------------------------------------------------------------------------------------------
    def finish(self) -> None:
        """Servers recover, leases are released, time passes: every waiter is served or told, every permit returns."""
        for _ in range(200):
            if not (self.waiting() or self.lent or self.links("resetting") or self.house.connector.opening):
                break
            self._finish_some()
            while self.left:
                self.left_one_ends(0)
            self.sweep()
            self.check()
        else:
            raise AssertionError(f"after all was well again {self.waiting()} still wait")
        self.house.manager.close()
        while self.links("retiring") or self.house.connector.opening:
            self._finish_some()
        self.check()
        while self.left:
            self.left_one_ends(0)
        self.check()
        assert [budget.in_use for budget in self.house.budgets.values()] == [0, 0], "permits were lost"
        assert not self.house.connector.links
        try:
            self.house.pool(ROUTES[0])
        except PoolClosed:
            return
        raise AssertionError("a closed manager opens pools")

    def _finish_some(self) -> None:
        for link in self.links("retiring"):
            self.house.connector.end(link)
        for _ in range(len(self.house.connector.opening)):
            self.connect(0)
            self._collect()
        if not self.resets_hang:
            for link in self.links("resetting"):
                ready(link)
        self._collect()
        for _ in range(len(self.lent)):
            self.release(0)
        self.house.connector.pass_time(2.5)


def _pick(of: Sequence[T], which: int) -> T:
    return of[which % len(of)]


def _is_late(link: Link) -> bool:
    """Whether its pool does not wait for its reset any more: found by the sweeper, or by a timer before that."""
    return link.pool._slots[link].is_late


def _lend(link: Link, caller: Caller) -> None:
    link.state, link.user, caller.link = "used", caller.tenant, link
    link.used_at = link.pool._clock()


def _link(caller: Caller) -> Link:
    assert caller.link is not None
    return caller.link


WHICH: Final = st.integers(min_value=0, max_value=31)
TIMES: Final = st.integers(min_value=1, max_value=4)
MANY: Final = 100
SELDOM: Final = st.sampled_from((False, False, False, True))
ASKS: Final = st.sampled_from((0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 4, 5, 6, 7, 8, 9))  # mostly those who share a pool


class PoolMachine(RuleBasedStateMachine):
    """`PoolWorld` in the hands of hypothesis. What keeps things going has more rules than what breaks them."""

    def __init__(self) -> None:
        super().__init__()
        self.world = PoolWorld()

    @initialize(
        one=st.integers(3, 8),
        two=st.integers(3, 5),
        guaranteed=st.integers(0, 2),
        hang=st.booleans(),
        first=st.booleans(),
        hold=st.sampled_from((0.0, 0.0, 0.5, 3.0)),
    )
    def begin(self, one: int, two: int, guaranteed: int, hang: bool, first: bool, hold: float) -> None:
        self.world = PoolWorld(
            one=one, two=two, guaranteed=guaranteed, resets_hang=hang, resets_first=first, max_hold=hold
        )

    def _several(self, times: int, act: Callable[[], None], while_any: Callable[[], object]) -> None:
        for _ in range(times):
            if while_any():
                act()
                self.world.check()

    @rule(which=ASKS, times=TIMES)
    def a_tenants_callers_ask(self, which: int, times: int) -> None:
        self._several(times, lambda: self.world.ask(which), lambda: True)

    @rule(which=ASKS, other=ASKS)
    def two_tenants_ask(self, which: int, other: int) -> None:
        self.world.ask(which)
        self.world.check()
        self.world.ask(other)

    @precondition(lambda self: self.world.house.connector.opening)
    @rule(which=WHICH, times=TIMES)
    def connects_succeed(self, which: int, times: int) -> None:
        self._several(times, lambda: self.world.connect(which), lambda: self.world.house.connector.opening)

    @precondition(lambda self: self.world.lent)
    @rule(which=WHICH, times=TIMES)
    def lessees_are_done(self, which: int, times: int) -> None:
        self._several(times, lambda: self.world.release(which), lambda: self.world.lent)

    @rule(owners=st.lists(st.integers(0, 2), min_size=3, max_size=4), which=st.integers(0, 2), times=TIMES)
    def a_shared_pool_is_left_to_another_tenant(self, owners: list[int], which: int, times: int) -> None:
        self.world.all_leave()
        for owner in owners:
            self.world.ask(owner)
        self._several(MANY, lambda: self.world.connect(0), lambda: self.world.house.connector.opening)
        self.world.all_leave()
        self._several(times, lambda: self.world.ask(which), lambda: True)

    @rule(which=st.integers(0, 2), other=st.integers(0, 2))
    def a_tenant_waits_at_its_limit_while_a_connection_is_idle(self, which: int, other: int) -> None:
        self.world.all_leave()
        self.world.ask(other)
        for _ in range(3):
            self.world.ask(which)
        self._several(MANY, lambda: self.world.connect(0), lambda: self.world.house.connector.opening)
        if self.world.lent:
            self.world.hand_back(0)

    @precondition(lambda self: self.world.resets_first and self.world.lent)
    @rule(which=ASKS, other=ASKS, times=TIMES)
    def all_leave_and_another_tenant_asks(self, which: int, other: int, times: int) -> None:
        self.world.all_leave()
        self._several(times, lambda: self.world.ask(which), lambda: True)
        self._several(times, lambda: self.world.ask(other), lambda: True)

    @precondition(lambda self: self.world.lent)
    @rule(which=WHICH)
    def a_lessee_hands_back(self, which: int) -> None:
        self.world.hand_back(which)

    @precondition(lambda self: self.world.links("idle"))
    @rule(which=ASKS, ahead=st.booleans())
    def a_lender_takes_what_is_bound(self, which: int, ahead: bool) -> None:
        if ahead:
            self.world.spare(which)
        else:
            self.world.take_own(which)

    @precondition(lambda self: self.world.links("resetting"))
    @rule(which=WHICH, bound=WHICH, times=TIMES)
    def resets_are_confirmed(self, which: int, bound: int, times: int) -> None:
        self._several(times, lambda: self.world.reset_ends(which, bound), lambda: self.world.links("resetting"))

    @precondition(lambda self: self.world.links("retiring"))
    @rule(which=WHICH, silent=SELDOM, times=TIMES)
    def connections_have_ended(self, which: int, silent: bool, times: int) -> None:
        self._several(times, lambda: self.world.end(which, silent=silent), lambda: self.world.links("retiring"))

    @precondition(lambda self: self.world.left)
    @rule(which=WHICH, gone=st.integers(0, 255), how=st.sampled_from(("look", "end")))
    def backends_that_linger_end(self, which: int, gone: int, how: str) -> None:
        if how == "look":
            self.world.look(which, gone)
        else:
            self.world.left_one_ends(which)

    @precondition(lambda self: self.world.waiting())
    @rule(which=WHICH, how=st.sampled_from(("cancelled", "timeout", "vanishes")))
    def a_waiter_leaves(self, which: int, how: str) -> None:
        if how == "vanishes":
            self.world.vanish(which)
        else:
            self.world.leave(which, how)

    @precondition(lambda self: self.world.house.connector.opening)
    @rule(which=WHICH, failure=st.sampled_from(FAILURES), silent=SELDOM)
    def a_connect_fails(self, which: int, failure: Failure, silent: bool) -> None:
        self.world.refuse(which, failure, silent=silent)

    @precondition(lambda self: any(link.state != "retiring" for link in self.world.links()))
    @rule(which=WHICH, how=st.sampled_from(("dies", "is poisoned", "is not reset")))
    def a_connection_breaks(self, which: int, how: str) -> None:
        if how == "is poisoned" and self.world.lent:
            self.world.poison(which)
        elif how == "is not reset" and self.world.links("resetting"):
            self.world.reset_fails(which)
        else:
            self.world.die(which)

    @rule(which=WHICH, what=st.sampled_from(("remove", "expire", "probe")))
    def an_operator_acts(self, which: int, what: str) -> None:
        if what == "remove":
            self.world.remove(which)
        elif what == "expire" and any(self.world.house.manager):
            self.world.expire(which)
        else:
            self.world.answer(which)

    @rule(which=WHICH, sweep=st.booleans())
    def time_passes(self, which: int, sweep: bool) -> None:
        self.world.pass_time(which)
        if sweep:
            self.world.check()
            self.world.sweep()

    @invariant()
    def everything_holds(self) -> None:
        self.world.check()

    def teardown(self) -> None:
        self.world.finish()
