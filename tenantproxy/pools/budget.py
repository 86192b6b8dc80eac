"""How many connections may one PostgreSQL server have, and who gets the next one?

A synchronous state machine. Only pools change it: they take a permit before they connect and give it back when the
server side of a connection is gone. Invariant: `idle + used + opening + resetting + retiring + held <= limit`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Final, Protocol

from tenantproxy.events import BudgetOverrun, Histogram, Observer, ServerDown, ServerUp
from tenantproxy.pools.base import Clock, ServerStats
from tenantproxy.pools.snapshot import snapshot

__all__ = ["Claimant", "ServerBudget"]

MAIN_RESERVE: Final = 2  # permits that only the main database's pool may take
TURN_SECONDS: Final = 0.1  # how long a connection may go on serving its own pool while a tenant elsewhere has none
CALM_SECONDS: Final = 0.05  # idle for so long, a connection is closed for a tenant that only wants more
LAST_SECONDS: Final = 2.0  # and so long, if it is all that its own tenant has
HOLD_SECONDS: Final = 30.0  # how long the permit of a peer that fell silent is kept
BREAKER_SECONDS: Final = 0.5  # a server that refuses for so long is down
UNFIT_SECONDS: Final = 2.0  # between two looks at one that is not in its role, where callers can go elsewhere
SILENT_CONNECTS: Final = 3  # one that leaves so many in a row unanswered is, too


class Claimant(Protocol):
    """What the budget needs of a pool."""

    is_main: bool
    last_used: float

    @property
    def permits(self) -> int:
        """How many it holds."""
        ...

    @property
    def starving(self) -> bool:
        """Whether a tenant waits in it that holds fewer than the guaranteed number, and nothing is on its way to it."""
        ...

    def refill(self, most: int = ...) -> None:
        """Take what it needs, at most so many permits."""
        ...

    def look_again(self) -> None:
        """What is idle has not been for long enough: `refill` in a moment."""
        ...

    def give_up_idle(self, idle_seconds: float) -> bool:
        """Close its least recently used idle connection; False when none has been idle for so long."""
        ...

    def expire(self) -> None:
        """Close every connection that exists now: idle ones at once, the others when they come back."""
        ...

    def server_down(self) -> None:
        """Fail whoever waits: the breaker is open."""
        ...

    def server_up(self) -> None:
        """The server answers again: what it failed with before says nothing any more."""
        ...


class ServerBudget:
    """The permits of one server, and its breaker."""

    def __init__(self, server: str, *, limit: int, clock: Clock, observer: Observer, guaranteed: int = 1) -> None:
        self.server = server
        self.limit = limit
        self.guaranteed = guaranteed
        self.max_connections: int | None = None  # as the server reports it
        self.open_seconds = Histogram()
        self.in_use = 0  # permits taken; 0 <= in_use <= limit
        self.tenants_in_use = 0  # of them by pools other than main; <= limit - MAIN_RESERVE
        self.closing = 0  # of them on their way back: connections in retirement
        self._claimants: dict[Claimant, None] = {}  # every open pool of the server
        self._idle: dict[Claimant, None] = {}  # of them those that have idle connections
        self.wanting: dict[
            Claimant, float
        ] = {}  # in the order in which they began to want; not to be changed by others
        self._held: deque[tuple[float, bool]] = deque()  # (until, of main) of silent peers, part of in_use
        self._clock = clock
        self._observer = observer
        self._failing_since: float | None = None  # the first of an unbroken row of failed connects
        self._unanswered = 0  # of them those that nobody answered
        self.is_down = False
        self._unfit_since: float | None = None  # it is not in the role that it is used in
        self._unfit_at = 0.0  # when that was last found

    # --- pools come and go -------------------------------------------------------------------------------------------
    def join(self, pool: Claimant) -> None:
        """A pool on this server opened."""
        self._claimants[pool] = None

    def leave(self, pool: Claimant) -> None:
        """A pool is closed; the permits of its last connections still come back through `give_back`."""
        self._claimants.pop(pool, None)
        self.wanting.pop(pool, None)
        self._idle.pop(pool, None)

    # --- permits -----------------------------------------------------------------------------------------------------
    def take(self, pool: Claimant) -> bool:
        """Take a permit for a connect; False when there is none for this pool now (then `want` one)."""
        if self.in_use >= self.limit or self._must_stand_back(pool):
            return False
        if not pool.is_main:
            if self.tenants_in_use >= self.limit - MAIN_RESERVE:
                return False
            self.tenants_in_use += 1
        self.in_use += 1
        return True

    def _must_stand_back(self, pool: Claimant) -> bool:
        """Whether somebody who has nothing waits while this pool only wants more."""
        if pool.is_main or not self.wanting or pool.starving:
            return False
        return any(other is not pool and other.starving for other in self.wanting)

    def give_back(self, pool: Claimant) -> None:
        """The server side of a connection is gone, or its connect failed."""
        self._return_permit(of_main=pool.is_main)
        self.grant()

    def hold(self, pool: Claimant) -> None:
        """A peer fell silent and was aborted: its server side may live on, so its permit comes back later.

        At most a tenth of the budget is held: beyond that the oldest comes back at once, and an event says so.
        """
        self._held.append((self._clock() + HOLD_SECONDS, pool.is_main))
        overrun = len(self._held) - max(1, self.limit // 10)
        if overrun > 0:
            for _ in range(overrun):
                self._return_permit(of_main=self._held.popleft()[1])
            self._observer(BudgetOverrun(server=self.server, permits=overrun))
        self.grant()  # those who counted on the permit need another one closed

    def _return_permit(self, *, of_main: bool) -> None:
        self.in_use -= 1
        if not of_main:
            self.tenants_in_use -= 1

    def want(self, pool: Claimant) -> None:
        """Remember that `pool` would open more, and close what nobody uses to make room."""
        if pool not in self.wanting:
            self.wanting[pool] = self._clock()
        self.reclaim()

    def unwant(self, pool: Claimant) -> None:
        """`pool` has what it needs."""
        self.wanting.pop(pool, None)

    def grant(self) -> None:
        """Hand out free permits one by one: the starving first, in the order in which they began to want."""
        # Each round takes a permit or a pool that wants none any more (its callers left, its connect failed).
        for _ in range(self.limit - self.in_use + len(self.wanting)):
            pool = self._next()
            if pool is None:
                break
            del self.wanting[pool]
            pool.refill(1)  # wants again, behind the others, when one is not enough
        self.reclaim()

    def _next(self) -> Claimant | None:
        """Who gets the next permit, if there is one."""
        if self.in_use >= self.limit:
            return None
        for_tenants = self.tenants_in_use < self.limit - MAIN_RESERVE
        first = None
        for pool in self.wanting:
            if pool.is_main or (for_tenants and pool.starving):
                return pool
            if first is None and for_tenants:
                first = pool
        return first

    def reclaim(self) -> None:
        """Close idle connections of the least recently used pools: one for each pool that wants.

        For a tenant that has nothing at once, but not the last one of another that is at work while somebody holds
        several: those yield one when they give it back. For one that only wants more, what nobody used for a while: its
        own come back meanwhile, and to close and open one costs more than that.
        """
        while self.closing < len(self.wanting) and self._idle:
            victims = list(self._victims())
            victim = min(victims, key=lambda pool: pool.last_used, default=None)
            if victim is None:
                return
            since = [since for pool, since in self.wanting.items() if pool.starving]
            if self.closing >= len(since):
                calm = CALM_SECONDS if victim.permits > 1 else LAST_SECONDS
            else:
                spare = min(
                    (each for each in victims if each.permits > 1), key=lambda pool: pool.last_used, default=None
                )
                victim, calm = spare or victim, 0.0
                if spare is None and any(each.permits > 1 for each in self._claimants if not each.is_main):
                    calm = max(0.0, CALM_SECONDS - (self._clock() - since[self.closing]))
            if not victim.give_up_idle(calm):
                for pool in self.wanting:
                    pool.look_again()
                return

    def _victims(self) -> Iterator[Claimant]:
        """Pools with idle connections whose permits would be of use to those who want one."""
        main_helps = self.tenants_in_use < self.limit - MAIN_RESERVE or any(pool.is_main for pool in self.wanting)
        return (pool for pool in self._idle if main_helps or not pool.is_main)

    def is_idle(self, pool: Claimant, *, idle: bool) -> None:
        """`pool` has idle connections now, or none any more."""
        if idle:
            self._idle[pool] = None
        else:
            self._idle.pop(pool, None)

    def should_yield(self, pool: Claimant, opened_at: float, *, next_holds: int) -> bool:
        """Whether a connection of `pool`, just released, should be closed for a tenant elsewhere that has none.

        `next_holds`: what the tenant that would get it holds already. A connection serves its own pool for a short turn
        first: to close and open one for every single request would serve nobody.
        """
        if pool.is_main:
            return False
        for other, since in self.wanting.items():
            if other is not pool and other.starving:
                return next_holds >= self.guaranteed or self._clock() - max(since, opened_at) > TURN_SECONDS
        return False

    # --- the breaker -------------------------------------------------------------------------------------------------
    def refused(self, error: str) -> None:
        """A connect did not reach the server. After half a second without a success it counts as down."""
        now = self._clock()
        if self._failing_since is None:
            self._failing_since = now
        self._failed(error, is_down=now - self._failing_since >= BREAKER_SECONDS)

    def unanswered(self, error: str) -> None:
        """A connect was given up, as into a black hole. After a few in a row the server counts as down."""
        if self._failing_since is None:
            self._failing_since = self._clock()
        self._unanswered += 1
        self._failed(error, is_down=self._unanswered >= SILENT_CONNECTS)

    def _failed(self, error: str, *, is_down: bool) -> None:
        if is_down and not self.is_down:
            self.is_down = True
            self._observer(ServerDown(server=self.server, error=error))
        if self.is_down:
            for pool in list(self._claimants):
                pool.server_down()

    def unfit(self, error: str) -> None:
        """The server is a standby where a primary is needed, or the other way round.

        Each pool tries again by its own backoff. What was opened before the change must not be used any more.
        """
        self.reached()
        self._unfit_at = self._clock()
        if self._unfit_since is None:
            self._unfit_since = self._unfit_at
            self._observer(ServerDown(server=self.server, error=error))
        self.expire()

    def expire(self) -> None:
        """Close all its connections: the idle ones at once, the others when they come back."""
        for pool in list(self._claimants):
            pool.expire()

    @property
    def is_unfit(self) -> bool:
        """Whether it was last found to be a standby where a primary is needed, or the other way round."""
        return self._unfit_since is not None

    @property
    def is_avoided(self) -> bool:
        """Whether a caller who can go elsewhere should: one now and then tries a server that was found unfit."""
        return self.is_down or (self.is_unfit and self._clock() - self._unfit_at < UNFIT_SECONDS)

    def forget_failures(self) -> None:
        """Nothing is known of the server: the router opens anew, and what looked for it to come back has ended."""
        self.is_down = False
        self._failing_since = self._unfit_since = None
        self._unanswered = 0

    def reached(self, *, fits: bool = False) -> None:
        """The server answered, whatever it said; `fits`: and a connection of it may serve."""
        if fits and self._unfit_since is not None:
            since, self._unfit_since = self._unfit_since, None
            self._observer(ServerUp(server=self.server, seconds=self._clock() - since))
        failing_since, self._failing_since = self._failing_since, None
        self._unanswered = 0
        if self.is_down:
            self.is_down = False
            self._observer(ServerUp(server=self.server, seconds=self._clock() - (failing_since or self._clock())))
            for pool in list(self._claimants):
                pool.server_up()

    # --- time, and what is ------------------------------------------------------------------------------------------
    def sweep(self, now: float) -> None:
        """Give back the permits of silent peers whose time is over."""
        returned = False
        while self._held and self._held[0][0] <= now:
            self._return_permit(of_main=self._held.popleft()[1])
            returned = True
        if returned:
            self.grant()

    @property
    def held(self) -> int:
        """Permits of peers that fell silent."""
        return len(self._held)

    @property
    def contended(self) -> bool:
        """Whether some pool wants a permit and there is none."""
        return bool(self.wanting)

    def stats(self) -> ServerStats:
        """A snapshot."""
        return ServerStats(
            server=self.server,
            connections=self.in_use,
            limit=self.limit,
            held=len(self._held),
            waiting_pools=len(self.wanting),
            up=not (self.is_down or self.is_unfit),
            max_connections=self.max_connections,
            open_seconds=snapshot(self.open_seconds),
        )
