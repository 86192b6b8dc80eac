"""How does a caller get a connection that is its tenant's, and how does it come back? Acquire, enter, guard, reset.

A session is entered before its caller has it and reset after its caller left; any doubt in between ends the connection.
"""

from __future__ import annotations

import asyncio
from contextvars import Context
from functools import partial
from time import monotonic
from typing import Final, Literal

import asyncpg

from tenantproxy.connect.failures import Unconfirmed
from tenantproxy.connect.lease_policy import (
    LeaseOutcomes,
    counts_as_attempt,
    may_try_again,
)
from tenantproxy.driver.behind import ResetBehind
from tenantproxy.driver.bind import DriverBinder, NotBound
from tenantproxy.driver.detached import Detached
from tenantproxy.driver.state import DriverConnection
from tenantproxy.driver.waiting import Waiting, expire
from tenantproxy.events import Observer
from tenantproxy.isolation.base import FULL_RESET, WRITABLE
from tenantproxy.isolation.turn import SOFT, change
from tenantproxy.model import Proof, Route, TenantId
from tenantproxy.pools.counters import Counters
from tenantproxy.pools.pool import Pool
from tenantproxy.watch import LeaseOver, Watch

__all__ = ["Lender"]

RESET_TIMEOUT: Final = 2.0


class Lender:
    """Lends asyncpg connections from pools. Holds no connection itself."""

    def __init__(
        self,
        *,
        counters: Counters,
        observer: Observer,
        reset: Literal["always", "on_tenant_change"],
        acquire_timeout: float,
        proof_window: float,
        watch: Watch | None = None,
    ) -> None:
        self._watch = watch
        self._outcomes = LeaseOutcomes(counters, observer)
        self._always_reset = reset == "always"
        self.acquire_timeout = acquire_timeout
        self._binder = DriverBinder(self._outcomes, proof_window=proof_window)
        self._is_bound = self._binder.is_bound  # called for each lease: a look-up less
        self._renew_in_time = self._binder.renew_in_time

    # --- out ---------------------------------------------------------------------------------------------------------
    def acquire_nowait(self, pool: Pool[DriverConnection], route: Route) -> DriverConnection | None:
        """A connection when one is idle and its session need not be entered; None: `acquire` one."""
        session = route.session
        if (
            session.context
            or session.signed is not None
            or session.standby
            or (pool.key.shared and not pool.has_idle_of(route.tenant))
        ):
            return None
        backend = pool.lease_nowait(route.tenant, route.limits)
        if backend is None:
            return None
        if backend.entry_of is not None:
            backend.set_entry(session)
        elif session.binding is not None:
            if not self._is_bound(backend, session.binding):
                pool.uncount(backend)
                pool.ready(backend, backend.bound)  # as it came: nothing has run on it
                return None
            self._renew_in_time(backend)
        pool.wait_seconds.counts[0] += 1
        backend.is_settled = False
        backend.leased_at = monotonic()
        return backend

    async def acquire(
        self, pool: Pool[DriverConnection], route: Route, timeout: float | None = None
    ) -> DriverConnection:
        """A connection whose session is that of `route`, for no other caller until `release`.

        Waits `timeout` seconds at most (None: the tenant's or the configured acquire timeout), entering included.
        Raises PoolError or IsolationError. Cancellation leaves nothing behind: a connection that was handed over goes
        back, one that was being entered is destroyed.
        """
        if timeout is None:
            timeout = route.limits.acquire_timeout or self.acquire_timeout
        deadline = monotonic() + timeout
        attempts = 0
        while True:
            backend = pool.lease_nowait(route.tenant, route.limits)
            if backend is None:
                backend = await self._wait(pool, route, deadline - monotonic(), timeout)
            else:
                pool.wait_seconds.counts[0] += 1
            backend.is_settled = False
            session = route.session
            attempts += counts_as_attempt(backend.bound, route.tenant)
            try:
                if backend.entry_of is not None:
                    backend.set_entry(session)
                elif self._binder.must_enter(backend, session):
                    await self._binder.enter(backend, route, deadline)
                elif session.binding is not None:
                    self._renew_in_time(backend)
            except NotBound as exc:
                if not may_try_again(attempts, exc.failure):
                    raise self._outcomes.refusal(pool, exc.failure, exc.cause, exc.check) from None
                continue
            backend.leased_at = monotonic()
            return backend

    async def _wait(self, pool: Pool[DriverConnection], route: Route, left: float, timeout: float) -> DriverConnection:
        loop = asyncio.get_running_loop()
        started = monotonic()
        future: asyncio.Future[DriverConnection] = loop.create_future()
        ticket = pool.wait(route.tenant, route.limits, Waiting(future))
        timer = loop.call_later(max(0.0, left), expire, pool, ticket, future, timeout)
        try:
            backend = await future
            backend.waited = monotonic() - started
            return backend
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                backend = future.result()  # handed over in the same step in which its caller left
                if not pool.is_retiring(backend):
                    pool.ready(backend, backend.bound)
            else:
                pool.cancel(ticket, "cancelled")
            raise
        finally:
            timer.cancel()
            pool.wait_seconds.observe(monotonic() - started)

    def ends_with(self, backend: DriverConnection, route: Route) -> None:
        """The next statement on a connection that was lent is its last: a reset that is due may go out with it.

        In a shared pool that is the one after which the session is still its tenant's, and not when others wait.
        """
        con, binding, turns = backend.con, backend.binding, backend.turns
        if con.is_behind_pooler or not (self._always_reset or route.session.is_set_each_time):
            return
        if not backend.pool.key.shared:
            con.is_last = True
        elif (
            turns is not None
            and binding is not None
            and binding.tenant == backend.bound
            and backend.pool.next_tenant(backend, backend.bound) in (None, backend.bound)
        ):
            con.is_last, con.last_reset = True, turns.kept(binding)

    # --- back --------------------------------------------------------------------------------------------------------
    def release(self, backend: DriverConnection, route: Route) -> None:
        """Take a connection back. Returns at once; the server's side is undone off the caller's path."""
        pool, con = backend.pool, backend.con
        held = monotonic() - backend.leased_at
        pool.hold_seconds.observe(held)
        if self._watch is not None:
            waited, backend.waited = backend.waited, 0.0
            self._watch.lease(LeaseOver(pool.key.server, pool.label, route.tenant, waited, held, route.isolation))
        if con.is_closed() or pool.is_retiring(backend):
            pool.retire(backend, "error")
            return
        if backend.entry_of is not None:
            self._release_pooled(backend)
            return
        must_settle = con.must_settle
        con.take_back()
        con.saw_read_only = con.saw_read_only and not route.session.standby  # a replica refuses every write
        if con.has_foreign_codecs or con.is_doubtful or con.under_way:  # what goes on later would do so for another
            pool.retire(backend, "error")
        elif must_settle or con.is_tainted or con.saw_read_only:
            pool.resetting(backend)
            backend.task = asyncio.get_running_loop().create_task(self._settle(backend), context=Context())
        elif con.behind is not None:
            self._await_reset(backend, con.behind)
        elif self._always_reset or route.session.is_set_each_time:
            pool.resetting(backend)
            # A caller waits: at once. Else later: who gives a connection back often uses another one next, and
            # the bytes of that one should go out first.
            later = None if pool.has_waiting else asyncio.get_running_loop()
            backend.task = Detached(self._reset(backend), later=later)
        elif con.is_busy:  # a reset would have found out
            pool.retire(backend, "error")
        else:
            backend.is_settled = True
            pool.ready(backend, backend.bound)

    def _release_pooled(self, backend: DriverConnection) -> None:
        con = backend.con  # its transactions were the tenant's: when they are over, nothing is to be undone
        is_clean = con.is_at_rest and not (con.is_unsynced or con.is_tainted or con.is_doubtful or con.under_way)
        con.take_back()
        if is_clean and not con.has_foreign_codecs:
            backend.is_settled = True
            backend.pool.ready(backend, None)
        else:
            backend.pool.retire(backend, "error")

    def _await_reset(self, backend: DriverConnection, behind: ResetBehind) -> None:
        if behind.is_over:
            self._ended(backend, behind)
            return
        backend.pool.resetting(backend)
        backend.task = behind
        behind.when_over(partial(self._ended, backend, behind))

    def _ended(self, backend: DriverConnection, behind: ResetBehind) -> None:
        """The reset that went out behind the last statement of a lease is over, and the lease too."""
        if behind.is_confirmed:
            backend.con.behind = None
            self._was_reset(backend, backend.bound)
        else:
            self._not_reset(backend, Unconfirmed())

    async def _settle(self, backend: DriverConnection) -> None:
        """End what was left running or open before the reset: in a transaction it would be undone by its end."""
        con = backend.con
        try:
            await con.settle(RESET_TIMEOUT)
            if con.is_tainted:
                await con.simple(FULL_RESET, RESET_TIMEOUT)
                await con.discarded_all(RESET_TIMEOUT)
                if backend.turns is not None:
                    await backend.turns.hello()
                backend.bound = None
        except BaseException as exc:
            self._not_reset(backend, exc)
            if not isinstance(exc, Exception):
                raise
            return
        await self._reset(backend)

    def begin_reset(self, backend: DriverConnection) -> None:
        """Reset what a tenant left, before another tenant is lent it; its pool knows and hears how it ended.

        Begins in the next round of the loop: the pool that calls this is in the middle of something.
        """
        backend.is_settled = False
        backend.task = Detached(self._reset(backend, unbind=True), later=asyncio.get_running_loop())

    async def _reset(self, backend: DriverConnection, *, unbind: bool = False) -> None:
        """Reset and confirm. Has no timer: `Pool.sweep` ends a reset that takes too long."""
        turns = backend.turns
        try:
            if turns is not None:
                bound = await self._binder.pass_on(backend, turns, unbind=unbind)
            else:
                bound = await self._undo(backend, unbind=unbind)
            if backend.con.saw_read_only:
                await self._check_writable(backend)
        except BaseException as exc:
            self._not_reset(backend, exc)
            if not isinstance(exc, Exception):
                raise
            return
        self._was_reset(backend, bound)

    def _was_reset(self, backend: DriverConnection, bound: TenantId | None) -> None:
        self._outcomes.was_reset()
        backend.con.forget_listeners()
        backend.bound = bound
        backend.is_settled = True
        backend.pool.ready(backend, bound)

    async def _check_writable(self, backend: DriverConnection) -> None:
        """A write was refused. Mostly its transaction was to read only; else the primary is none any more."""
        backend.con.saw_read_only = False
        try:
            await backend.con.simple(WRITABLE, None)
        except asyncpg.DivisionByZeroError:
            backend.pool.budget.expire()  # new connections tell what the server is now
            raise

    async def _undo(self, backend: DriverConnection, *, unbind: bool) -> TenantId | None:
        """Reset a session that takes no turns; whose it is then. `unbind`: no tenant's, whichever is served next."""
        pool, con, binding = backend.pool, backend.con, backend.binding
        if not pool.key.shared:
            await con.ask(SOFT)
            return None
        assert binding is not None  # no shared session is left that was not entered
        if not unbind and binding.tenant == backend.bound and binding.proof is not Proof.CARRIED:
            next_tenant = pool.next_tenant(backend, backend.bound)
            if next_tenant is None or next_tenant == binding.tenant:
                if await con.simple(backend.keep, None) != "SET":
                    raise Unconfirmed
                return binding.tenant
        await con.ask(change(con.prepared, binding.proof))
        return None

    def _not_reset(self, backend: DriverConnection, exc: BaseException) -> None:
        pool = backend.pool
        backend.bound = None
        if pool.is_closed:
            pool.retire(backend, "shutdown")  # ended by us, while it was being reset
            return
        if backend.turns is not None and isinstance(exc, asyncpg.InsufficientPrivilegeError):
            self._outcomes.bind_failed()  # it was reset, but its next tenant not let in: who hears why is its caller
            pool.retire(backend, "error")
            return
        self._outcomes.reset_failed(pool, exc)
        pool.retire(backend, "reset_failed")
