"""How does a client of the PostgreSQL port get a backend that is its tenant's, and how does it come back?

All of it is callbacks: nothing here awaits, and no task is made. A session is entered before the client's first byte
goes out, by a conversation of ours that is confirmed byte for byte; any doubt ends the backend.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Final, Protocol

from tenantproxy.config import Settings as Configuration
from tenantproxy.errors import ConnectFailed, IsolationError, PoolTimeout, ProtocolError, TenantProxyError
from tenantproxy.events import CloseReason, IsolationViolation, Observer, ResetFailed
from tenantproxy.isolation.row import enter
from tenantproxy.model import Binding, Proof, Route
from tenantproxy.pools.backend import RawBackend, Settings
from tenantproxy.pools.base import Clock
from tenantproxy.pools.budget import ServerBudget
from tenantproxy.pools.exchange import (
    READY_IDLE,
    RESET,
    RESET_ANSWER,
    SYNC_NOW,
    Exchange,
    Refused,
    Unconfirmed,
    answer_of,
    row,
    statement,
)
from tenantproxy.pools.failures import describe
from tenantproxy.pools.manager import Counters, PoolManager
from tenantproxy.pools.pool import Pool
from tenantproxy.pools.raw import RawConnector
from tenantproxy.pools.turns import Ticket
from tenantproxy.wire.frames import DATA_ROW

__all__ = ["PROFILE", "Acquire", "Lessee", "RawLender", "new_raw_side", "raw_route"]

PROFILE: Final = "pg"  # keeps raw pools apart from those of the library
ENTER_TIMEOUT: Final = 2.0  # again on a lease; while acquiring, the acquire timeout is the limit
AHEAD_SECONDS: Final = 0.2  # idle for so long, a backend may be reset for whoever comes next
ENTER_ATTEMPTS: Final = 3  # connections tried before a session that cannot be entered is the client's error

_BEGIN: Final = statement("BEGIN READ WRITE")
_BEGIN_ANSWER: Final = answer_of("BEGIN")
_COMMIT: Final = statement("COMMIT")
_COMMIT_ANSWER: Final = answer_of("COMMIT")

Entered = Callable[[TenantProxyError | None], None]


class Lessee(Protocol):
    """Who waits for a backend. Each call comes once, from the event loop and never from within `acquire`."""

    def leased(self, backend: RawBackend) -> None:
        """It is yours, and entered: your bytes may go out now. Set its `sink` and `on_lost`."""
        ...

    def refused(self, error: TenantProxyError) -> None:
        """There is none."""
        ...


class Canceller(Protocol):
    """Who brings requests to cancel to servers."""

    def cancel(self, backend: RawBackend, done: Callable[[], None]) -> None:
        """Ask the server to cancel what runs on `backend`; `done` when it has done with the request."""
        ...


class RawLender:
    """Lends raw backends from pools. Holds none itself."""

    def __init__(
        self,
        canceller: Canceller,
        *,
        counters: Counters,
        observer: Observer,
        clock: Clock,
        acquire_timeout: float,
        proof_window: float,
    ) -> None:
        self.acquire_timeout = acquire_timeout
        self.window = proof_window
        self.clock = clock
        self.counters = counters
        self._canceller = canceller
        self._observer = observer
        self._renewal = proof_window / 3  # a proof that ends sooner is renewed first
        self._handed: deque[Acquire] = deque()  # have a backend, and do not know it yet
        self._is_calling = False  # they will be told in this same callback

    # --- out ---------------------------------------------------------------------------------------------------------
    def lease_nowait(self, pool: Pool[RawBackend], route: Route, session: Settings) -> RawBackend | None:
        """A backend that is idle and entered already; None: `acquire` one. Raises PoolClosed."""
        backend = pool.lease_nowait(route.tenant, route.limits, bound_only=pool.key.shared)
        if backend is None:
            return None
        now = pool.last_used
        if backend.session != session or backend.bound_until - self._renewal <= now or route.session.context:
            pool.uncount(backend)
            pool.ready(backend, backend.bound, now)  # as it came: nothing has run on it
            return None
        backend.leased_at = now
        pool.wait_seconds.counts[0] += 1
        return backend

    def acquire(self, pool: Pool[RawBackend], route: Route, session: Settings, lessee: Lessee) -> Acquire:
        """Wait in the tenant's turn, enter, and tell `lessee`, at the latest after the acquire timeout."""
        return Acquire(self, pool, route, session, lessee)

    def enter(self, backend: RawBackend, route: Route, session: Settings, done: Entered) -> None:
        """Once more on a lease: its proof is to be renewed, or its client has undone its session.

        `backend.session` must say what of it is left. Nothing of the client's may be under way until `done`, which is
        not called any more once the backend was destroyed; with an error it was.
        """
        listening = backend.sink, backend.on_lost, backend.on_writable

        def entered(error: Exception | None) -> None:
            if error is not None:
                refusal = entry.refusal(error)
                self.destroy(backend, "error")
                done(refusal)
                return
            backend.sink, backend.on_lost, backend.on_writable = listening
            done(None)

        entry = _Entry(self, backend, route, session, entered, again=True)
        backend.resume_reading()  # its client may be slow; the answer is ours
        if not entry.begin(ENTER_TIMEOUT):
            asyncio.get_running_loop().call_soon(lambda: None if backend.is_ending else done(None))

    def hand(self, acquire: Acquire) -> None:
        """Tell `acquire` that it has a backend, as soon as no pool is in the middle of something."""
        self._handed.append(acquire)
        if not self._is_calling and len(self._handed) == 1:
            asyncio.get_running_loop().call_soon(self._call)

    def _call(self) -> None:
        if self._is_calling:
            return  # further up the stack, where those who came meanwhile are told too
        self._is_calling = True
        try:
            while self._handed:
                self._handed.popleft().go()
        finally:
            self._is_calling = False
            if self._handed:  # one of them raised: the others must not wait for its sake
                asyncio.get_running_loop().call_soon(self._call)

    # --- back --------------------------------------------------------------------------------------------------------
    def release(self, backend: RawBackend, route: Route, *, is_dirty: bool) -> float:
        """Take a backend back on which nothing runs, no message is begun and the last word was ReadyForQuery `I`.

        `is_dirty`: its session holds more than its tenant and its tracked settings. Returns how long it was held,
        seconds.
        """
        pool = backend.pool
        now = self.clock()
        held = now - backend.leased_at
        pool.hold_seconds.observe(held)
        if backend.is_closed or backend.is_doubtful:
            self.destroy(backend, "error")
            return held
        backend.rest()
        if is_dirty or backend.cancels:
            self._reset(backend)
        elif pool.has_waiting:
            self._pass_on(backend, now)
        else:
            pool.ready(backend, backend.bound, now)
            if pool.key.shared:
                ahead = pool.take_to_reset(now, idle_seconds=AHEAD_SECONDS)
                if ahead is not None:
                    self._begin_reset(ahead)
        return held

    def _pass_on(self, backend: RawBackend, now: float) -> None:
        pool, bound = backend.pool, backend.bound
        next_tenant = pool.next_tenant(backend, bound) if bound is not None else None
        if next_tenant is not None and next_tenant != bound:
            self._reset(backend)
        else:
            self._with_pool(lambda: pool.ready(backend, bound, now))

    def _with_pool(self, act: Callable[[], None]) -> None:
        """`act`, then tell those who were handed something by it."""
        if self._is_calling:
            act()
            return
        self._is_calling = True
        try:
            act()
        finally:
            self._is_calling = False
            self._call()

    def destroy(self, backend: RawBackend, reason: CloseReason = "error") -> None:
        """End a backend that somebody has: there is a doubt, or its client left in the middle of something."""
        if not backend.is_ending:
            backend.detach()
            backend.pool.retire(backend, reason)

    def give_back(self, backend: RawBackend) -> None:
        """As it was lent: nothing has run on it."""
        self._with_pool(lambda: backend.pool.ready(backend, backend.bound))

    # --- reset -------------------------------------------------------------------------------------------------------
    def _reset(self, backend: RawBackend) -> None:
        self._with_pool(lambda: backend.pool.resetting(backend))
        self._begin_reset(backend)

    def _begin_reset(self, backend: RawBackend) -> None:
        """Has no timer: `Pool.sweep` ends a reset that takes too long."""
        if backend.cancels:  # one that comes late must hit nobody, and not this reset either
            backend.on_cancelled = partial(self._begin_reset, backend)
            return
        Exchange(backend, RESET_ANSWER, partial(self._was_reset, backend), is_reset=True).begin(RESET)

    def _was_reset(self, backend: RawBackend, error: Exception | None) -> None:
        pool = backend.pool
        if error is not None:
            self._not_reset(backend, error)
            return
        self.counters.resets["ok"] += 1
        backend.forget()
        self._with_pool(lambda: pool.ready(backend, None))

    def _not_reset(self, backend: RawBackend, error: Exception) -> None:
        pool = backend.pool
        if pool.is_closed:
            self.destroy(backend, "shutdown")  # ended by us, while it was being reset
            return
        self.note_reset_failed(pool, error)
        self.destroy(backend, "reset_failed")

    def note_reset_failed(self, pool: Pool[RawBackend], error: Exception) -> None:
        """Count and tell."""
        self.counters.resets["failed"] += 1
        self._observer(ResetFailed(server=pool.key.server, pool=pool.label, error=describe(error)))

    def violated(self, pool: Pool[RawBackend]) -> None:
        """Count and tell that a session could not be bound."""
        self.counters.violations["bind"] += 1
        self._observer(IsolationViolation(check="bind", server=pool.key.server, database=pool.key.database))

    # --- cancelling --------------------------------------------------------------------------------------------------
    def cancel_request(self, backend: RawBackend) -> None:
        """Ask the server to cancel what runs on `backend`; whoever has it next is not hit by a request that is late.

        One request at a time: those that come meanwhile are one more, when the first is over.
        """
        if backend.is_ending or backend.is_closed:
            return
        backend.cancels += 1
        if backend.cancels == 1:
            self._canceller.cancel(backend, partial(self._cancelled, backend))

    def _cancelled(self, backend: RawBackend) -> None:
        asked_again = backend.cancels > 1
        backend.cancels = 0
        then, backend.on_cancelled = backend.on_cancelled, None
        if then is not None:
            then()  # it has been given back
        elif asked_again:
            self.cancel_request(backend)


class _Entry:
    """A session is being made what a route says. Nothing of the client's may go out before it is confirmed."""

    __slots__ = ("_again", "_backend", "_bind_size", "_binding", "_lender", "_then", "_until", "_wanted")

    def __init__(
        self,
        lender: RawLender,
        backend: RawBackend,
        route: Route,
        session: Settings,
        then: Callable[[Exception | None], None],
        *,
        again: bool = False,
    ) -> None:
        self._lender = lender
        self._backend = backend
        self._binding = route.session.binding
        self._wanted = session
        if route.session.context:
            self._wanted += tuple((name.encode(), value.encode()) for name, value in route.session.context)
        self._then = then
        self._again = again
        self._until = float("inf")
        self._bind_size = 0  # of the expected answer

    def begin(self, timeout: float | None = None) -> bool:
        """Say what has to be said; False: nothing has to."""
        backend, messages, expected = self._backend, b"", b""
        if self._binding is not None and self._must_bind(self._binding):
            messages, expected = self._bind(self._binding)
            self._bind_size = len(expected)
        changes = _changes(backend.session, self._wanted)
        if changes:
            columns = ", ".join(
                f"pg_catalog.set_config(${2 * n - 1}, ${2 * n}, false) IS NULL" for n in _count(changes)
            )
            # A setting without a value goes back to what it was at start-up.
            messages += statement(f"SELECT {columns}", [part for change in changes for part in change])
            expected += answer_of("SELECT 1", row(*[b"f"] * len(changes)))
        if not messages:
            return False
        if self._again or backend.bound is not None:
            # Its user may have made the session read only, and one that reads only cannot be bound.
            messages, expected = _BEGIN + messages + _COMMIT, _BEGIN_ANSWER + expected + _COMMIT_ANSWER
            self._bind_size += len(_BEGIN_ANSWER)
        backend.bound = None
        Exchange(backend, expected + READY_IDLE, self._answered).begin(messages + SYNC_NOW, timeout=timeout)
        return True

    def _must_bind(self, binding: Binding) -> bool:
        backend, lender = self._backend, self._lender
        if self._again or backend.bound != binding.tenant:
            return True
        return backend.bound_until - lender.window / 3 <= lender.clock()

    def _bind(self, binding: Binding) -> tuple[bytes, bytes]:
        backend, lender = self._backend, self._lender
        if binding.proof is not Proof.PLAIN:
            self._until = lender.clock() + lender.window
        bind = enter(binding, backend.signer, pid=backend.pid, server_now=backend.server_now(), window=lender.window)
        args = [arg.encode() for arg in bind.args]
        # What each function answers: the tenant, or what it was told to set; setseed() answers nothing.
        values = {Proof.BOUND: args[:1], Proof.PLAIN: args[1:], Proof.CARRIED: [*args[1:], b""]}[binding.proof]
        return statement(bind.sql, args), answer_of("SELECT 1", row(*values))

    def _answered(self, error: Exception | None) -> None:
        if error is None:
            backend, binding = self._backend, self._binding
            backend.session = self._wanted
            if binding is not None:
                backend.binding = binding
                backend.bound = binding.tenant
                if self._bind_size:
                    backend.bound_until = self._until
        self._then(error)

    def is_final(self, error: Exception) -> bool:
        """Whether another connection would not do either."""
        return isinstance(error, Refused) and (error.sqlstate == "42501" or self._is_of_settings(error))

    def _is_of_settings(self, error: Refused) -> bool:
        return error.confirmed >= self._bind_size and error.sqlstate[:2] in ("22", "42")

    def refusal(self, error: Exception) -> TenantProxyError:
        """The client's error when its session could not be entered. Texts of the server are not passed on."""
        pool = self._backend.pool
        where = f"server {pool.key.server!r}, database {pool.key.database!r}, {describe(error)}"
        if isinstance(error, Refused) and self._is_of_settings(error):
            return ProtocolError(
                "the server refuses a setting of this session",
                detail=where,
                hint="see the settings that the client sends when it connects, and those it sets",
            )
        if isinstance(error, Refused) and error.sqlstate == "42501":
            self._lender.violated(pool)
            return IsolationError(
                "the database refuses the proof of this tenant",
                detail=where,
                hint="it is fenced (suspended or being moved), or the key in [row] is not the one installed there",
            )
        if isinstance(error, Unconfirmed) and error.kind == DATA_ROW:
            self._lender.violated(pool)
            return IsolationError("the database bound another tenant than the one asked for", detail=where)
        if isinstance(error, TimeoutError):
            return _late(pool)
        if isinstance(error, Unconfirmed) or (isinstance(error, Refused) and error.sqlstate[:2] not in ("57", "08")):
            self._lender.violated(pool)
            return IsolationError(
                "the session could not be made the tenant's", detail=where, hint="see the server's log"
            )
        return ConnectFailed(
            "the connection was lost before it could be lent",
            detail=where,
            hint="see whether the PostgreSQL server runs",
            retry_after=1.0,
        )


class Acquire:
    """A client on its way to a backend: it waits in its tenant's turn, then its session is entered."""

    __slots__ = (
        "_attempt",
        "_backend",
        "_entry",
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
        self, lender: RawLender, pool: Pool[RawBackend], route: Route, session: Settings, lessee: Lessee
    ) -> None:
        self._lender = lender
        self._pool = pool
        self._route = route
        self._session = session
        self._lessee: Lessee | None = lessee  # None: told, or gone
        self._ticket: Ticket[RawBackend] | None = None  # while it waits
        self._since = 0.0  # when it began to
        self._backend: RawBackend | None = None  # what it was lent, until its lessee knows
        self._entry: _Entry | None = None
        self._attempt = 0
        self._loop = asyncio.get_running_loop()
        self._timeout = route.limits.acquire_timeout or lender.acquire_timeout
        self._timer = self._loop.call_later(self._timeout, self._expire)
        self._lease()

    def _lease(self) -> None:
        self._attempt += 1
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
        """Enter what was lent. May come from within the pool: so this writes, and calls nobody."""
        self._backend = backend
        binding = self._route.session.binding
        if binding is not None and backend.bound is not None and backend.bound != binding.tenant:
            # Between two tenants: a reset in messages of its own, confirmed, before anything is bound.
            Exchange(backend, RESET_ANSWER, self._was_reset, is_reset=True).begin(RESET)
        else:
            self._enter(backend)

    def _was_reset(self, error: Exception | None) -> None:
        backend, lender = self._backend, self._lender
        assert backend is not None
        if error is not None:
            lender.note_reset_failed(self._pool, error)
            self._fail(backend, error)
            return
        lender.counters.resets["ok"] += 1
        backend.forget()
        self._enter(backend)

    def _enter(self, backend: RawBackend) -> None:
        self._entry = _Entry(self._lender, backend, self._route, self._session, self._entered)
        if not self._entry.begin():
            self._entry = None
            self._lender.hand(self)

    def _entered(self, error: Exception | None) -> None:
        backend = self._backend
        assert backend is not None
        if error is None:
            self._lend(backend)
        else:
            self._lender.counters.resets["failed"] += 1
            self._fail(backend, error)

    def _fail(self, backend: RawBackend, error: Exception) -> None:
        """Nothing of the client has run: another connection may do, unless the database refuses the tenant."""
        entry, self._entry, self._backend = self._entry, None, None
        self._lender.destroy(backend)
        if self._attempt < ENTER_ATTEMPTS and not (entry is not None and entry.is_final(error)):
            self._lease()
            return
        if entry is None:  # it was the reset that failed
            entry = _Entry(self._lender, backend, self._route, self._session, self._entered)
        self._refuse(entry.refusal(error))

    def go(self) -> None:
        """It has a backend that need not be entered; called by the lender, and by no pool."""
        if self._backend is not None and self._lessee is not None:
            self._lend(self._backend)

    # --- the end -----------------------------------------------------------------------------------------------------
    def _lend(self, backend: RawBackend) -> None:
        lessee = self._lessee
        assert lessee is not None
        if backend.is_closed or backend.is_ending:
            self._fail(backend, ConnectionResetError("the server closed the connection"))
            return
        self._over()
        backend.leased_at = self._lender.clock()
        lessee.leased(backend)

    def _refuse(self, error: TenantProxyError) -> None:
        lessee = self._lessee
        if lessee is not None:
            self._over()
            lessee.refused(error)

    def _over(self) -> None:
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
            self._lender.counters.resets["failed"] += 1
            self._lender.destroy(backend)
            self._refuse(_late(self._pool))

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
            self._lender.give_back(backend)
        elif backend is not None:
            self._lender.destroy(backend)


def _late(pool: Pool[RawBackend]) -> PoolTimeout:
    return PoolTimeout(
        "the connection could not be made the tenant's in time",
        detail=f"server {pool.key.server!r}, database {pool.key.database!r}",
        hint="see whether the PostgreSQL server is slow or silent",
        retry_after=1.0,
    )


def _count(changes: list[tuple[bytes, bytes | None]]) -> range:
    return range(1, len(changes) + 1)


def _changes(now: Settings, wanted: Settings) -> list[tuple[bytes, bytes | None]]:
    """What has to be set, and what has to go back to what it was at start-up."""
    if now == wanted:
        return []
    before, after = dict(now), dict(wanted)
    gone: list[tuple[bytes, bytes | None]] = [(name, None) for name in before if name not in after]
    return gone + [(name, value) for name, value in after.items() if before.get(name) != value]


def raw_route(route: Route) -> Route:
    """`route`, by a raw backend."""
    return replace(route, pool=replace(route.pool, profile=PROFILE))


def new_raw_side(
    settings: Configuration,
    budgets: Mapping[str, ServerBudget],
    counters: Counters,
    clock: Clock,
    observer: Observer,
    *,
    family: list[PoolManager[Any]] | None = None,
) -> tuple[PoolManager[RawBackend], RawLender, RawConnector]:
    """What lends raw backends beside a router's own connections, under the same budgets and counters."""
    connector = RawConnector(settings, observer=observer, violations=counters.violations)
    manager: PoolManager[RawBackend] = PoolManager(
        budgets=budgets,
        settings=settings.pools,
        connector=connector,
        clock=clock,
        observer=observer,
        counters=counters,
        family=family,
    )
    lender = RawLender(
        connector,
        counters=counters,
        observer=observer,
        clock=clock,
        acquire_timeout=settings.pools.acquire_timeout,
        proof_window=settings.row.proof_window,
    )
    return manager, lender, connector
