"""How does one client come to a backend? It waits in its tenant's turn, then its session is reset and entered.

All of it is callbacks, of the pool (which must not be called in turn), of the server and of one timer.
"""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

from tenantproxy.connect.lease_policy import (
    BindCheck,
    BindFailure,
    LeaseOutcomes,
    counts_as_attempt,
    may_try_again,
    reset_failure,
)
from tenantproxy.connect.pooler import PoisonedSession
from tenantproxy.errors import ConnectFailed, TenantProxyError
from tenantproxy.model import Route
from tenantproxy.pools.pool import Pool
from tenantproxy.pools.queue import Ticket
from tenantproxy.raw.backend import RawBackend, Settings
from tenantproxy.raw.bind import BackendEntry, Binder, is_entered
from tenantproxy.raw.exchange import Exchange, reset
from tenantproxy.raw.hello import greet

__all__ = ["Acquire", "Desk", "Lessee"]


_ATTEMPTS: Final = 3  # connections to a pooler that are tried: it may have been started again


class Lessee(Protocol):
    """Who waits for a backend. Each call comes once, from the event loop and never from within `acquire`.

    But `entering`, which comes for each backend that is tried, from anywhere: it may only note it.
    """

    def entering(self) -> None:
        """A backend was found, and is being reset and bound."""
        ...

    def leased(self, backend: RawBackend) -> None:
        """The backend is leased and bound: the client's bytes may be sent. Set its `sink` and `on_lost`."""
        ...

    def refused(self, error: TenantProxyError) -> None:
        """No backend can be leased."""
        ...


class Desk(Binder, Protocol):
    """What an acquire needs of its lender: see `raw_lender.RawLender`."""

    acquire_timeout: float
    outcomes: LeaseOutcomes

    def hand(self, acquire: Acquire) -> None:
        """Call `acquire.go`, as soon as no pool is in the middle of something."""
        ...

    def release_unused(self, backend: RawBackend) -> None:
        """Release `backend`, on which nothing has run."""
        ...

    def destroy(self, backend: RawBackend) -> None:
        """There is a doubt."""
        ...


class Acquire:
    """A client on its way to a backend: it waits in its tenant's turn, then its session is entered."""

    __slots__ = (
        "_attempts",
        "_backend",
        "_entry",
        "_fresh",
        "_lender",
        "_lessee",
        "_loop",
        "_pool",
        "_route",
        "_session",
        "_since",
        "_ticket",
        "_timeout",
        "_timer",
    )  # fmt: skip

    def __init__(
        self,
        lender: Desk,
        pool: Pool[RawBackend],
        route: Route,
        session: Settings,
        lessee: Lessee,
        *,
        fresh: bool = False,
    ) -> None:
        self._lender = lender
        self._pool = pool
        self._route = route
        self._session = session
        self._fresh = fresh  # only a backend that no client has had since its last reset will do
        self._lessee: Lessee | None = lessee  # None: told, or gone
        self._ticket: Ticket[RawBackend] | None = None  # while it waits
        self._since = 0.0  # when it began to
        self._backend: RawBackend | None = None  # what it was lent, until its lessee knows
        self._entry: BackendEntry | None = None
        self._attempts = 0
        self._loop = asyncio.get_running_loop()
        self._timeout = route.limits.acquire_timeout or lender.acquire_timeout
        self._timer = self._loop.call_later(self._timeout, self._expire)
        self._lease()

    def _lease(self) -> None:
        pool, route = self._pool, self._route
        try:
            backend = pool.lease_nowait(route.tenant, route.limits)
            if backend is None:
                self._since = self._lender.clock()
                self._ticket = pool.wait(route.tenant, route.limits, self)
                return
        except TenantProxyError as exc:
            self._loop.call_soon(self._refuse, exc)
            return
        pool.wait_seconds.counts[0] += 1
        self._begin(backend)

    # --- Waiter ------------------------------------------------------------------------------------------------------
    def offer(self, conn: RawBackend, /) -> bool:
        """See `base.Waiter`."""
        self._ticket = None
        self._pool.wait_seconds.observe(self._lender.clock() - self._since)
        self._begin(conn)
        return True

    def fail(self, error: TenantProxyError, /) -> None:
        """See `base.Waiter`."""
        self._ticket = None
        self._pool.wait_seconds.observe(self._lender.clock() - self._since)
        self._loop.call_soon(self._refuse, error)

    # --- entering ----------------------------------------------------------------------------------------------------
    def _begin(self, backend: RawBackend) -> None:
        """Bind the leased backend. May be called from within the pool: so this writes, and calls no one back."""
        self._backend = backend
        if self._lessee is not None:
            self._lessee.entering()
        binding = self._route.session.binding
        is_anothers = binding is not None and not backend.is_fresh and backend.bound != binding.tenant
        self._attempts += counts_as_attempt(backend.bound, self._route.tenant)
        if backend.wire is not None:
            backend.wire.begin(backend.wire.entry_of(self._route.session, self._session), self._began)
        elif is_anothers or (self._fresh and not backend.is_fresh):
            # Between two tenants: a reset in messages of its own, confirmed, before anything is bound.
            messages, answer = reset(self._lender.nonce())
            Exchange(backend, answer, self._was_reset, is_reset=True).begin(messages)
        else:
            self._enter(backend)

    def _began(self, error: TenantProxyError | None) -> None:
        """Behind a connection pooler: the first transaction of the lease is the tenant's, or could not be."""
        backend = self._backend
        if backend is None:
            return  # see `_over`
        if error is None:
            self._lend(backend)
            return
        self._lender.outcomes.bind_failed()
        self._backend = None
        self._lender.destroy(backend)
        if isinstance(error, ConnectFailed | PoisonedSession) and self._attempts < _ATTEMPTS:
            self._lease()
        else:
            self._refuse(error)

    def _was_reset(self, error: Exception | None) -> None:
        if error is None and self._backend is not None:
            greet(self._backend, self._was_greeted)
        else:
            self._was_greeted(error)

    def _was_greeted(self, error: Exception | None) -> None:
        backend, lender = self._backend, self._lender
        if backend is None:
            return  # see `_over`
        if error is not None:
            lender.outcomes.reset_failed(self._pool, error)
            self._fail(backend, reset_failure(error), error, None)
            return
        lender.outcomes.was_reset()
        backend.forget()
        self._enter(backend)

    def _enter(self, backend: RawBackend) -> None:
        lender = self._lender
        if not is_entered(backend, self._route, self._session, until=lender.clock() + lender.renewal):
            self._entry = BackendEntry(lender, backend, self._route, self._session, self._entered)
            if self._entry.begin():
                return
            self._entry = None
        lender.hand(self)

    def _entered(self, error: Exception | None) -> None:
        backend, entry = self._backend, self._entry
        if backend is None or entry is None:
            return  # see `_over`
        if error is None:
            self._lend(backend)
        else:
            self._lender.outcomes.bind_failed()
            self._fail(backend, entry.failure(error), error, "bind" if backend.is_fresh else "rebind")

    def _fail(self, backend: RawBackend, failure: BindFailure, error: Exception, check: BindCheck | None) -> None:
        self._entry = self._backend = None
        self._lender.destroy(backend)
        if may_try_again(self._attempts, failure):
            self._lease()
        else:
            self._refuse(self._lender.outcomes.refusal(self._pool, failure, error, check))

    def go(self) -> None:
        """It has a backend that need not be entered; called by the lender, and by no pool."""
        if self._backend is not None and self._lessee is not None:
            self._lend(self._backend)

    # --- the end -----------------------------------------------------------------------------------------------------
    def _lend(self, backend: RawBackend) -> None:
        lessee = self._lessee
        assert lessee is not None
        if backend.is_closed or backend.is_ending:
            self._fail(backend, BindFailure.LOST, ConnectionResetError("the server closed the connection"), None)
            return
        self._over()
        backend.is_fresh = False
        backend.leased_at = now = self._lender.clock()
        backend.told = (now - self._since if self._since else 0.0, "", "")
        lessee.leased(backend)

    def _refuse(self, error: TenantProxyError) -> None:
        lessee = self._lessee
        if lessee is not None:
            self._over()
            lessee.refused(error)

    def _over(self) -> None:
        """It is told, or gone. That its backend has ended may still be on its way from the pool that ends it."""
        self._lessee = None
        self._backend = self._entry = None
        self._timer.cancel()

    def _expire(self) -> None:
        ticket, backend = self._ticket, self._backend
        if ticket is not None:
            self._ticket = None
            if self._pool.cancel(ticket, "timeout"):
                self._pool.wait_seconds.observe(self._lender.clock() - self._since)
                self._refuse(self._pool.timed_out(ticket, self._timeout))
        elif backend is not None and not backend.is_resting:
            outcomes, late = self._lender.outcomes, TimeoutError()
            if backend.wire is not None:
                outcomes.bind_failed()
            elif self._entry is None:
                outcomes.reset_failed(self._pool, late)
            else:
                outcomes.bind_failed()
            self._lender.destroy(backend)
            self._refuse(outcomes.refusal(self._pool, BindFailure.LATE, late))

    def cancel(self) -> None:
        """The client left: its lessee is not called any more."""
        ticket, backend = self._ticket, self._backend
        if self._lessee is None:
            return
        self._over()
        if ticket is not None:
            self._ticket = None
            self._pool.wait_seconds.observe(self._lender.clock() - self._since)
            self._pool.cancel(ticket, "cancelled")
        elif backend is not None and backend.is_resting:
            self._lender.release_unused(backend)
        elif backend is not None:
            self._lender.destroy(backend)
