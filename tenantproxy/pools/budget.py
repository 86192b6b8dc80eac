"""How many connections may one PostgreSQL server have, and who gets the next one?

A synchronous state machine. Only pools change it: they take a permit before they connect and give it back when the
server side of a connection is gone. Invariant: `idle + used + opening + resetting + retiring + lingering <= limit`;
after `resize` to less it holds once what was lent has been given back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final, Protocol

from tenantproxy.errors import ConnectFailed, ServerMoved
from tenantproxy.events import Histogram, LimitLowered, Observer, ServerDown, ServerUp
from tenantproxy.pools.base import Clock, ServerStats
from tenantproxy.pools.limits import NO_LIMIT, RefusedPools, lowest
from tenantproxy.pools.lingering import Lingering, gone_by_look, gone_by_time
from tenantproxy.pools.quota import Quota
from tenantproxy.pools.snapshot import snapshot

__all__ = ["Claimant", "ServerBudget"]

MAIN_RESERVE: Final = 2  # permits that only the main database's pool may take
TURN_SECONDS: Final = 0.1  # how long a connection may go on serving its own pool while a tenant elsewhere has none
TURN_OPENS: Final = 4.0  # or for as long as so many connects take, where that is longer
MAX_TURN_SECONDS: Final = 2.0
_OPEN_WEIGHT: Final = 0.2  # of the latest connect in the moving average
CALM_SECONDS: Final = 0.05  # idle for so long, a connection is closed for a tenant that only wants more
LAST_SECONDS: Final = 2.0  # and so long, if it is all that its own tenant has
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

    @property
    def wanted(self) -> int:
        """How many connections it could use now; idle ones are not among them."""
        ...

    def end_leases(self, most: int) -> int:
        """End at most so many leases, the longest first; how many were ended."""
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

    def expire(self) -> object:
        """Close every connection that exists now: idle ones at once, the others when they come back."""
        ...

    def moved(self, error: ServerMoved) -> None:
        """Close every connection that exists now, lent ones too: their holders hear `error`."""
        ...

    def server_down(self) -> None:
        """Fail the waiters: the breaker is open."""
        ...

    def server_up(self) -> None:
        """The server answers again: what it failed with before says nothing any more."""
        ...


class ServerBudget:
    """The permits of one server, and its breaker."""

    def __init__(self, server: str, *, limit: int, clock: Clock, observer: Observer, guaranteed: int = 1) -> None:
        self.server = server
        self._configured = limit
        self._part: int | None = None  # of it, where several processes divide it without a fleet; None: all
        self._allowed = limit  # or less, where the server allows no more
        self.limit = limit  # `most`, or what this process may use of it
        self.reserve = MAIN_RESERVE  # of the limit; main's own
        self.displaced = 0  # connections that were closed so that another pool could open one, ever
        self.opening = 0  # permits of connects under way
        self._quota: Quota | None = None  # of a fleet
        self._found: tuple[tuple[str, int], ...] = ()  # what the server and our role allow, once they said so
        self._refusals: RefusedPools[Claimant] = RefusedPools()
        self.guaranteed = guaranteed
        self.max_connections: int | None = None  # as the server reports it
        self.open_seconds = Histogram()
        self._open_cost = 0.0  # seconds that a connect takes, a moving average
        self.in_use = 0  # permits taken; 0 <= in_use <= limit, unless that has become smaller
        self.tenants_in_use = 0  # of them by pools other than main; <= limit - MAIN_RESERVE
        self.closing = 0  # of them on their way back: connections in retirement
        self._claimants: dict[Claimant, None] = {}  # every open pool of the server
        self._idle: dict[Claimant, None] = {}  # of them those that have idle connections
        self.wanting: dict[
            Claimant, float
        ] = {}  # in the order in which they began to want; not to be changed by others
        self.lingering: dict[Lingering, None] = {}  # closed, and not known to be gone; part of in_use
        self._clock = clock
        self._observer = observer
        self._failing_since: float | None = None  # the first of an unbroken row of failed connects
        self._unanswered = 0  # of them those without an answer
        self.is_down = False
        self.failure: ConnectFailed | None = None  # why the last connect did not reach it; names no database
        self._unfit_since: float | None = None  # it is not in the role that it is used in
        self._unfit_at = 0.0  # when that was last found
        # --- of a server that is watched: see `connect.hosts`
        self.on_doubt: Callable[[], None] | None = None  # what serves may be another host by now
        self.watching = 0  # connections that look at its hosts; not part of in_use
        self.host = ""  # which of them serves, for people
        self.failovers = 0
        self.lag: float | None = None  # of a replica: seconds that it is behind, as far as known

    # --- pools come and go -------------------------------------------------------------------------------------------
    def join(self, pool: Claimant) -> None:
        """A pool on this server opened."""
        self._claimants[pool] = None

    def leave(self, pool: Claimant) -> None:
        """A pool is closed; the permits of its last connections still come back through `give_back`."""
        self._claimants.pop(pool, None)
        self.wanting.pop(pool, None)
        self._idle.pop(pool, None)
        self._refusals.forget(pool)

    # --- what the server allows --------------------------------------------------------------------------------------
    def learn(self, *, max_connections: int, reserved: int, role_limit: int = NO_LIMIT) -> None:
        """What a connect found: the server's limit, how many of it are others', and the limit of our own role.

        The budget is never more than that; it never goes below what main's reserve and one tenant need.
        """
        self.max_connections = max_connections
        self._found = (("max_connections", max_connections - reserved), ("role", role_limit))
        self._fit()

    def resize(self, limit: int) -> None:
        """The budget is another one now. What exceeds it is closed: the idle ones at once, the others once they are."""
        self._configured = limit
        self._fit()

    def allot(self, part: int) -> None:
        """This process's part of the budget, where several divide it. A fleet takes the place of that division."""
        if part != self._part:
            self._part = part
            self.regrant()

    def _fit(self) -> None:
        limit, source = lowest(self._configured, self._found)
        limit = max(limit, min(self._configured, MAIN_RESERVE + 1))
        if limit == self._allowed:
            return
        self._allowed = limit
        if limit < self._configured:
            event = LimitLowered(server=self.server, pool="", configured=self._configured, limit=limit, by=source)
            self._observer(event)
        self.regrant()

    @property
    def whole(self) -> int:
        """What the server allows all processes."""
        return self._allowed

    @property
    def most(self) -> int:
        """The most that the pools of this process may ever use: its part, or in a fleet the whole.

        Without the connections that look at hosts, but enough for main and one tenant.
        """
        is_shared = self._quota is not None and self._quota.is_of_whole
        whole = self.whole if is_shared or self._part is None else min(self.whole, self._part)
        return max(whole - self.watching, min(whole, MAIN_RESERVE + 1))

    # --- what a fleet allows -----------------------------------------------------------------------------------------
    def follow(self, quota: Quota | None) -> None:
        """Keep to `quota` from now on; None: to what the server allows."""
        self._quota = quota
        self.regrant()

    def regrant(self) -> None:
        """What may be used has changed, or has grown old: hand out what is free, close what is too many."""
        quota = self._quota
        self.limit = self.most if quota is None else min(self.most, quota.limit)
        self.reserve = MAIN_RESERVE if quota is None else quota.reserve
        self.shed()
        self.grant()

    @property
    def excess(self) -> int:
        """How many connections are to be closed as soon as they are idle; not more than 0: none."""
        if self._quota is None:
            return self.in_use - self.closing - self.limit  # it has become smaller
        return max(self._quota.excess(self.in_use, self.closing), self.in_use - self.closing - self.limit)

    @property
    def is_over(self) -> bool:
        """Whether a connect that has just finished came too late for what this process may use."""
        return self._quota is not None and self._quota.is_over(self.in_use)

    @property
    def is_pressed(self) -> bool:
        """Whether a connection that is released may be needed elsewhere."""
        return bool(self.wanting) or self.excess > 0

    @property
    def wanted(self) -> int:
        """How many connections its pools could use now; idle ones are not among them."""
        return sum(pool.wanted for pool in self._claimants) + len(self.lingering)

    def shed(self) -> None:
        """Close idle connections while there are more than there should be; main's last."""
        while self._idle and self.excess > 0:
            victim = min(self._idle, key=lambda pool: (pool.is_main, pool.last_used))
            if not victim.give_up_idle(0.0):
                return

    def end_leases(self, most: int) -> None:
        """End leases, at most so many: what this process held may be another's soon. Main's last."""
        for pool in sorted(self._claimants, key=lambda pool: (pool.is_main, pool.last_used)):
            if most <= 0:
                return
            most -= pool.end_leases(most)

    def connect_ended(self) -> None:
        """A connect is over, whatever came of it: then another may begin, where only so many may at once."""
        self.opening -= 1

    def go_on(self) -> None:
        """A new connection has found its place: in a fleet, a connect of another pool may have waited for that."""
        if self._quota is not None and self.wanting:
            self.grant()

    def _may_connect(self) -> bool:
        return self._quota is None or self._quota.may_open(self.in_use, self.opening)

    def refused_as_full(self, pool: Claimant, in_use: int) -> None:
        """`pool` was refused a connection, for none was left: for a while what is in use is the most for it."""
        self._refusals.refuse(pool, in_use, self._clock())

    def opened_in(self, seconds: float) -> None:
        """How long a connect took, checks included."""
        self.open_seconds.observe(seconds)
        weight = _OPEN_WEIGHT if self._open_cost else 1.0
        self._open_cost += (seconds - self._open_cost) * weight

    @property
    def turn_seconds(self) -> float:
        """How long a connection may go on serving its own pool while a tenant elsewhere has none.

        It grows with the time that a connect takes: that is what each change of the tenant costs.
        """
        return min(MAX_TURN_SECONDS, max(TURN_SECONDS, TURN_OPENS * self._open_cost))

    def opened(self, pool: Claimant) -> None:
        """A connect of `pool` succeeded."""
        self._refusals.forget(pool)
        self.reached(fits=True)

    # --- permits -----------------------------------------------------------------------------------------------------
    def take(self, pool: Claimant) -> bool:
        """Take a permit for a connect; False when this pool can have none now (then `want` one)."""
        if self._is_spent(pool) or self._must_stand_back(pool) or not self._may_connect():
            return False
        if not pool.is_main:
            if self.tenants_in_use >= self.limit - self.reserve:
                return False
            self.tenants_in_use += 1
        self.in_use += 1
        self.opening += 1
        return True

    def _is_spent(self, pool: Claimant) -> bool:
        """Whether no permit is left for `pool`.

        One connection of main's more may be opened where all that is left are backends that may be gone: without it
        the server could not be asked.
        """
        if not self._may_open(pool):
            return True
        may_look = pool.is_main and self.in_use == self.limit == len(self.lingering)
        return self.in_use >= self.limit and not may_look

    def _must_stand_back(self, pool: Claimant) -> bool:
        """Whether a tenant that has nothing waits while this pool only wants more."""
        if pool.is_main or not self.wanting or pool.starving:
            return False
        # Not for one that was refused as the server is full: it could not use the permit either.
        return any(other is not pool and other.starving and self._may_open(other) for other in self.wanting)

    def _may_open(self, pool: Claimant) -> bool:
        return self._refusals.may_open(pool, self.in_use, self._clock())

    def give_back(self, pool: Claimant) -> None:
        """The server side of a connection is gone, or its connect failed."""
        self._return_permit(of_main=pool.is_main)
        self.grant()

    def linger(self, one: Lingering) -> None:
        """A connection was closed whose backend may live on: its permit stays taken until `gone`."""
        self.lingering[one] = None
        self.grant()  # those who counted on the permit need another one closed

    def gone(self, one: Lingering) -> None:
        """The backend of `one` is gone. A second call does nothing."""
        if one in self.lingering:
            del self.lingering[one]
            if one.on_release is not None:
                one.on_release()
            one.release()

    def looked(self, found: Mapping[int, float | None], *, began: float) -> None:
        """The server was asked which of the lingering processes it has: see `lingering.gone_by_look`."""
        for one in list(gone_by_look(self.lingering, found, began=began)):
            self.gone(one)

    def _return_permit(self, *, of_main: bool) -> None:
        self.in_use -= 1
        if not of_main:
            self.tenants_in_use -= 1
        if self._quota is not None:
            self._quota.closed(self.in_use)
            self.limit = min(self.most, self._quota.limit)

    def want(self, pool: Claimant) -> None:
        """Remember that `pool` would open more, and close idle connections to make room."""
        if pool not in self.wanting:
            self.wanting[pool] = self._clock()
        if self._quota is not None and self.in_use >= self.limit - (0 if pool.is_main else self.reserve):
            self._quota.wants()
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
        if not self._may_connect():
            return None
        if self.in_use >= self.limit:
            return next((pool for pool in self.wanting if not self._is_spent(pool)), None)
        for_tenants = self.tenants_in_use < self.limit - self.reserve
        first = None
        for pool in self.wanting:
            if self._is_spent(pool):
                continue
            if pool.is_main or (for_tenants and pool.starving):
                return pool
            if first is None and for_tenants:
                first = pool
        return first

    def reclaim(self) -> None:
        """Close idle connections of the least recently used pools: one for each pool that wants.

        For a tenant that has nothing at once, but not the last one of another that is at work while others hold
        several: those yield one when they give it back. For one that only wants more, what was idle for a while: its
        own come back meanwhile, and to close and open one costs more than that.
        """
        self.shed()
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
            self.displaced += 1

    def _victims(self) -> Iterator[Claimant]:
        """Pools with idle connections whose permits would be of use to those who want one."""
        main_helps = self.tenants_in_use < self.limit - self.reserve or any(pool.is_main for pool in self.wanting)
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
        first: to close and open one for every single request would help no tenant.
        """
        if pool.is_main:
            return False
        if self.excess > 0:
            return True
        for other, since in self.wanting.items():
            if other is not pool and other.starving:
                is_due = next_holds >= self.guaranteed or self._clock() - max(since, opened_at) > self.turn_seconds
                self.displaced += is_due
                return is_due
        return False

    # --- the breaker -------------------------------------------------------------------------------------------------
    def refused(self, error: str, failure: ConnectFailed) -> None:
        """A connect did not reach the server. After half a second without a success it counts as down."""
        self.failure = failure
        now = self._clock()
        self.doubted()
        if self._failing_since is None:
            self._failing_since = now
        self._failed(error, is_down=now - self._failing_since >= BREAKER_SECONDS)

    def unanswered(self, error: str) -> None:
        """A connect was given up, as into a black hole. After a few in a row the server counts as down."""
        if self._failing_since is None:
            self._failing_since = self._clock()
        self._unanswered += 1
        self.failure = None
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

    def promoted(self, error: ServerMoved) -> None:
        """A replica says that it is none any more: nothing may be written there, so all leases of it end by `error`."""
        self.unfit(error.message)
        for pool in list(self._claimants):
            pool.moved(error)

    def expire(self) -> None:
        """Close all its connections: the idle ones at once, the others when they come back."""
        self.doubted()
        for pool in list(self._claimants):
            pool.expire()

    # --- hosts -------------------------------------------------------------------------------------------------------
    def watch(self, *, begins: bool) -> None:
        """Its hosts are looked at from now on, by one connection to each, or not any more."""
        self.watching += 1 if begins else -1
        self.regrant()

    def doubted(self) -> None:
        """A connection broke, or could not be opened."""
        if self.on_doubt is not None:
            self.on_doubt()

    def moved(self, error: ServerMoved) -> None:
        """Another host serves now: end what was opened to the former one, whose backends do not count any more."""
        for pool in list(self._claimants):
            pool.moved(error)
        for one in list(self.lingering):
            self.gone(one)

    def found(self) -> None:
        """A host serves (again): what connects failed with before says nothing any more."""
        self.reached(fits=True)
        for pool in list(self._claimants):
            pool.server_up()

    @property
    def is_unfit(self) -> bool:
        """Whether it was last found to be a standby where a primary is needed, or the other way round."""
        return self._unfit_since is not None

    @property
    def is_avoided(self) -> bool:
        """Whether a caller who can go elsewhere should: one now and then tries a server that was found unfit."""
        return self.is_down or (self.is_unfit and self._clock() - self._unfit_at < UNFIT_SECONDS)

    def forget_failures(self) -> None:
        """Nothing is known of the server: the router opens again, and what looked for it to come back has ended."""
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
        """Return the permits of logins that were given up so long ago that the server has ended them."""
        for one in gone_by_time(self.lingering, now):
            self.gone(one)
        self.shed()

    @property
    def contended(self) -> bool:
        """Whether some pool wants a permit and none is free."""
        return bool(self.wanting)

    def stats(self) -> ServerStats:
        """A snapshot."""
        return ServerStats(
            server=self.server,
            connections=self.in_use,
            limit=self.limit,
            configured=self._configured,
            lingering=len(self.lingering),
            waiting_pools=len(self.wanting),
            up=not (self.is_down or self.is_unfit),
            max_connections=self.max_connections,
            open_seconds=snapshot(self.open_seconds),
            host=self.host,
            failovers=self.failovers,
            lag=self.lag,
        )
