"""How does a client of the PostgreSQL port lease a backend of its tenant, and how is that released?

All of it is callbacks: nothing here awaits, and no task is made. A session is bound before the client's first byte
is sent, by an internal exchange that is confirmed byte for byte; any doubt ends the backend.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Final

from tenantproxy.connect.failures import Refused
from tenantproxy.connect.lease_policy import RENEW_TIMEOUT, LeaseOutcomes, renewal_margin
from tenantproxy.errors import TenantProxyError
from tenantproxy.events import CloseReason, Observer
from tenantproxy.isolation.base import WRITABLE
from tenantproxy.model import Route
from tenantproxy.pools.base import Clock
from tenantproxy.pools.counters import Counters
from tenantproxy.pools.pool import Pool
from tenantproxy.raw.acquire import Acquire, Lessee
from tenantproxy.raw.again import enter_again
from tenantproxy.raw.backend import RawBackend, Settings, TransactionWire
from tenantproxy.raw.bind import BackendEntry, is_entered
from tenantproxy.raw.cancel import Canceller
from tenantproxy.raw.exchange import (
    READY_IDLE,
    SYNC_NOW,
    Exchange,
    answer_of,
    fresh_nonce,
    reset,
    row,
    statement,
)
from tenantproxy.raw.hello import greet
from tenantproxy.raw.look import Looked, look
from tenantproxy.watch import LeaseOver, Watch
from tenantproxy.wire.settings import NO_SETTINGS

__all__ = ["PROFILE", "Acquire", "Lessee", "RawLender", "raw_route"]

PROFILE: Final = "pg"  # keeps raw pools apart from those of the library
AHEAD_SECONDS: Final = 0.2  # idle for so long, a backend may be reset for the next client

_CHECK_WRITABLE: Final = statement(WRITABLE) + SYNC_NOW
_IS_WRITABLE: Final = answer_of("SELECT 1", row(b"1")) + READY_IDLE

Entered = Callable[[TenantProxyError | None], None]


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
        nonce: Callable[[], bytes] = fresh_nonce,
        watch: Watch | None = None,
    ) -> None:
        self.watch = watch
        self.acquire_timeout = acquire_timeout
        self.window = proof_window
        self.nonce = nonce
        self.clock = clock
        self.outcomes = LeaseOutcomes(counters, observer)
        self._canceller = canceller
        self.renewal = renewal_margin(proof_window)
        self._handed: deque[Acquire] = deque()  # have a backend, and do not know it yet
        self._is_calling = False  # they will be told in this same callback

    # --- out ---------------------------------------------------------------------------------------------------------
    def lease_nowait(self, pool: Pool[RawBackend], route: Route, session: Settings) -> RawBackend | None:
        """A backend that is idle and entered already; None: `acquire` one. Raises PoolClosed."""
        backend = pool.lease_nowait(route.tenant, route.limits, bound_only=pool.key.shared)
        if backend is None:
            return None
        now = pool.last_used
        if not is_entered(backend, route, session, until=now + self.renewal):
            pool.uncount(backend)
            pool.ready(backend, backend.bound, now)  # as it came: nothing has run on it
            return None
        backend.is_fresh = False
        backend.leased_at = now
        pool.wait_seconds.counts[0] += 1
        return backend

    def acquire(
        self, pool: Pool[RawBackend], route: Route, session: Settings, lessee: Lessee, *, fresh: bool = False
    ) -> Acquire:
        """Wait in the tenant's turn, enter, and tell `lessee`, at the latest after the acquire timeout.

        `fresh`: no client has had it since it was opened or reset.
        """
        return Acquire(self, pool, route, session, lessee, fresh=fresh)

    def enter(
        self,
        backend: RawBackend,
        route: Route,
        session: Settings,
        done: Entered,
        *,
        start: Settings = NO_SETTINGS,
    ) -> None:
        """Once more on a lease: its proof is to be renewed, or its client has undone its session.

        Of `start`, the settings that its client began with, those are set that have been reset.
        `backend.session` must say what of it is left. Nothing of the client's may be under way until `done`, which is
        not called any more once the backend was destroyed; with an error it was.
        """
        if backend.cancels:  # one that comes late must not hit this
            backend.on_cancelled = partial(self.enter, backend, route, session, done, start=start)
            return
        listening = backend.sink, backend.on_lost, backend.on_writable

        def entered(error: Exception | None) -> None:
            if error is not None:
                self.outcomes.bind_failed()
                self.destroy(backend, "error")
                done(self.outcomes.refusal(backend.pool, entry.failure(error), error, "rebind"))
                return
            backend.sink, backend.on_lost, backend.on_writable = listening
            if entry.heard:
                backend.sink(b"".join(entry.heard))
            done(None)

        entry = BackendEntry(self, backend, route, session, entered, again=True, start=start)
        backend.resume_reading()  # its client may be slow; the answer is ours
        if not entry.begin(RENEW_TIMEOUT):
            asyncio.get_running_loop().call_soon(lambda: None if backend.is_ending else done(None))

    def look(self, backend: RawBackend, route: Route, done: Looked, *, settings: bool) -> None:
        """See `look.look`."""
        if backend.cancels:
            backend.on_cancelled = partial(self.look, backend, route, done, settings=settings)
        else:
            look(self, backend, route, done, settings=settings)

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
    def release(self, backend: RawBackend, route: Route, *, is_dirty: bool, is_counted: bool = False) -> float:
        """Take a backend back on which nothing runs, no message is begun and the last word was ReadyForQuery `I`.

        `is_dirty`: its session holds more than its tenant and its tracked settings; `is_counted`: the time for which it
        was held is among those already. Returns how long it was held, seconds.
        """
        pool, now = backend.pool, self.clock()
        held = now - backend.leased_at
        if not is_counted:
            pool.hold_seconds.observe(held)
        if self.watch is not None:
            self._tell_lease(self.watch, backend, route, held)
        if backend.is_closed or backend.is_doubtful:
            self.destroy(backend, "error")
            return held
        if backend.wire is not None:
            self._release_pooled(backend, backend.wire)
            return held
        backend.rest()
        backend.saw_read_only = backend.saw_read_only and not route.session.standby  # which refuses every write
        if is_dirty or backend.saw_read_only or backend.cancels:
            self._reset(backend)
        elif backend.lost_tenant:
            enter_again(self, backend, route)
        elif pool.has_waiting:
            self.with_pool(lambda: pool.ready(backend, backend.bound, now))
        else:
            pool.ready(backend, backend.bound, now)
            if pool.key.shared:
                ahead = pool.take_to_reset(now, idle_seconds=AHEAD_SECONDS)
                if ahead is not None:
                    self.begin_reset(ahead)
        return held

    @staticmethod
    def _tell_lease(watch: Watch, backend: RawBackend, route: Route, held: float) -> None:
        pool, (waited, *about) = backend.pool, backend.told
        backend.told = (0.0, "", "")
        watch.lease(LeaseOver(pool.key.server, pool.label, route.tenant, waited, held, route.isolation, *about))

    def _release_pooled(self, backend: RawBackend, wire: TransactionWire) -> None:
        """Nothing is to be undone when its transactions are over. One that was only looked at ends with its own."""

        def rested() -> None:
            wire.rest()
            backend.forget()
            self.with_pool(lambda: backend.pool.ready(backend, None))

        backend.rest()
        if backend.cancels or not (wire.is_over or wire.is_unused):
            self.destroy(backend, "error")
        elif wire.is_unused:
            self.with_pool(lambda: backend.pool.resetting(backend))
            wire.undo(rested)
        else:
            rested()

    def with_pool(self, act: Callable[[], None]) -> None:
        """Do `act`, then tell those who were handed something by it."""
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
        """End a leased backend: its state is in doubt, or its client left with requests outstanding."""
        if not backend.is_ending:
            backend.detach()
            backend.pool.retire(backend, reason)

    def release_unused(self, backend: RawBackend) -> None:
        """Release a backend on which nothing has run."""
        self.with_pool(lambda: backend.pool.ready(backend, backend.bound))

    # --- reset -------------------------------------------------------------------------------------------------------
    def _reset(self, backend: RawBackend) -> None:
        self.with_pool(lambda: backend.pool.resetting(backend))
        self.begin_reset(backend)

    def begin_reset(self, backend: RawBackend) -> None:
        """Reset a backend of which its pool knows that it is being reset; the answer comes later.

        Has no timer: the pool ends a reset that takes too long.
        """
        if backend.cancels:  # one that arrives late must hit no other client, and not this reset either
            backend.on_cancelled = partial(self.begin_reset, backend)
            return
        said, answer = reset(self.nonce())
        Exchange(backend, answer, partial(self._was_reset, backend), is_reset=True).begin(said)

    def _was_reset(self, backend: RawBackend, error: Exception | None) -> None:
        if error is not None:
            self._not_reset(backend, error)
            return
        if backend.saw_read_only:  # mostly its transaction was to read only; else the primary is none any more
            backend.saw_read_only = False
            Exchange(backend, _IS_WRITABLE, partial(self._was_asked, backend)).begin(_CHECK_WRITABLE)
            return
        greet(backend, partial(self._was_greeted, backend))

    def _was_greeted(self, backend: RawBackend, error: Exception | None) -> None:
        if error is not None:
            self._not_reset(backend, error)
            return
        self.outcomes.was_reset()
        backend.forget()
        self.with_pool(lambda: backend.pool.ready(backend, None))

    def _was_asked(self, backend: RawBackend, error: Exception | None) -> None:
        if isinstance(error, Refused):
            backend.pool.budget.expire()  # new connections tell what the server is now
        self._was_reset(backend, error)

    def _not_reset(self, backend: RawBackend, error: Exception) -> None:
        pool = backend.pool
        if pool.is_closed:
            self.destroy(backend, "shutdown")  # ended by us, while it was being reset
            return
        self.outcomes.reset_failed(pool, error)
        self.destroy(backend, "reset_failed")

    # --- cancelling --------------------------------------------------------------------------------------------------
    def cancel_request(self, backend: RawBackend, done: Callable[[], None]) -> None:
        """Ask the server to cancel what runs on `backend`; a request that arrives late does not hit the next client.

        One request at a time: those that come meanwhile are one more, when the first is over. `done` is called when no
        request that stands for this one is under way any more.
        """
        if backend.is_ending or backend.is_closed:
            done()
            return
        backend.cancels += 1
        backend.cancelling.append(done)
        if backend.cancels == 1:
            self._cancel(backend)

    def _cancel(self, backend: RawBackend) -> None:
        asked, backend.cancelling = backend.cancelling, []
        self._canceller.cancel(backend, partial(self._cancelled, backend, asked))

    def _cancelled(self, backend: RawBackend, asked: Sequence[Callable[[], None]]) -> None:
        again = backend.cancels > 1
        backend.cancels = 0
        then, backend.on_cancelled = backend.on_cancelled, None
        if again and then is None and not backend.is_ending and not backend.is_closed:
            backend.cancels = 1
            self._cancel(backend)
        elif again:  # for what runs no more
            asked = [*asked, *backend.cancelling]
            backend.cancelling = []
        if then is not None:
            then()  # it has been released
        for done in asked:
            done()


def raw_route(route: Route) -> Route:
    """`route`, by a raw backend."""
    return replace(route, pool=replace(route.pool, profile=PROFILE))
