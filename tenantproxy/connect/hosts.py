"""Which host of each server serves now, and how far behind are its replicas? Told by watches, asked by connectors.

State: what each host last said of itself, and which one serves. Changed by `report` alone, which a watch calls.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from tenantproxy.config import Server
from tenantproxy.connect.host_look import HostMoved, NoHost
from tenantproxy.connect.look_connections import LookConnections
from tenantproxy.errors import ServerMoved
from tenantproxy.events import HostRefused, Observer, ServerMovedTo
from tenantproxy.pools.base import Clock
from tenantproxy.pools.budget import ServerBudget
from tenantproxy.pools.host_choice import Choice, HostRefusal, HostState, Serves, choose, fits, most_common_system

__all__ = ["ChosenHost", "Cluster", "Hosts"]

TROUBLED_SECONDS: Final = 5.0  # after the last doubt, for so long each host is looked at often
LOOK_SECONDS: Final = 1.0  # between two looks otherwise: so long a former primary may serve that breaks no connection
SOON_SECONDS: Final = 0.1  # and while a server has no host that serves, or there is a doubt
_FIRST_ROUND_SECONDS: Final = 0.5  # that slow hosts have to say of which cluster they are, before it is decided
_SAMPLES: Final = 600


@dataclass(slots=True)
class Cluster:
    """What a server and its replicas have in common. `system`: its identifier, "" while it is not known."""

    system: str = ""
    timeline: int = 0  # the newest one of a primary


@dataclass(frozen=True, slots=True)
class ChosenHost:
    """Where a connect goes: `server` has one host. It is void once `generation` is not the current one."""

    server: Server
    number: int
    generation: int


class Hosts:
    """The hosts of one server. With one `host`, they are looked at for the sake of `max_replica_lag` alone.

    Invariant: every connection of the server's pools goes to the host that `serving` names; when that changes they are
    ended, and a connect under way to another one fails with HostMoved.
    """

    def __init__(
        self, name: str, server: Server, *, serves: Serves, cluster: Cluster, clock: Clock, observer: Observer
    ) -> None:
        self.name = name
        self.each = server.each_host
        self.is_choosing = bool(server.hosts)
        self.serves = serves
        self.budget: ServerBudget | None = None  # set once, with the budgets
        self._connect_timeout = server.connect_timeout
        self.cluster = cluster
        self._is_pinned = bool(server.system_identifier)
        self._clock = clock
        self._observer = observer
        self._states: list[HostState | None] = [None] * len(self.each)
        self._errors: list[BaseException | None] = [None] * len(self.each)
        self._looks = [0] * len(self.each)  # how often each was looked at
        self.looks_by = LookConnections(len(self.each), clock=clock)
        self._began: float | None = None  # when the first host said something
        self._refused: Mapping[int, HostRefusal] = {}
        self.serving: int | None = None
        self._last = -1  # which host served last; -1: none has
        self._incarnation: tuple[str, int] | None = None  # of that one
        self._generation = 0
        self._troubled_until = 0.0
        self._limits: set[asyncio.Timeout] = set()  # of connects under way
        self._heard = asyncio.Event()  # something was reported; made again by each waiter
        self._woken = asyncio.Event()
        self._samples: deque[tuple[float, int]] = deque(maxlen=_SAMPLES)  # of a primary: when its log ended where
        self.probe_database = server.probe_database  # where the watch connects; "": where every server has one
        self.database = ""  # one that the pools use

    def __repr__(self) -> str:
        return f"<Hosts of {self.name!r}, serving={self.serving}>"

    # --- what watches do and say -------------------------------------------------------------------------------------
    @property
    def is_troubled(self) -> bool:
        """Whether hosts are to be looked at often."""
        return self.is_choosing and (self.serving is None or self._clock() < self._troubled_until)

    def doubt(self) -> None:
        """A connection broke, or was refused a write: look at each host now."""
        self._troubled_until = self._clock() + TROUBLED_SECONDS
        woken, self._woken = self._woken, asyncio.Event()
        woken.set()

    async def next_look(self, seconds: float) -> None:
        """Wait until a host is to be looked at again: for `seconds` when all is well."""
        woken = self._woken
        try:
            async with asyncio.timeout(SOON_SECONDS if self.is_troubled else seconds):
                await woken.wait()
        except TimeoutError:
            return
        await asyncio.sleep(SOON_SECONDS / 10)  # many doubts at once are one

    def report(self, number: int, found: HostState | BaseException) -> None:
        """What a look at a host has found: its state, or why it could not be asked."""
        state, error = (found, None) if isinstance(found, HostState) else (None, found)
        self._states[number], self._errors[number] = state, error
        self._looks[number] += 1
        now = self._clock()
        self._began = now if self._began is None else self._began
        is_judged = self.is_choosing and self._learns_cluster(now)
        if is_judged:
            self._judge()
            if state is not None and self.serving is None:
                self.looks_by.serves_not(number)
        elif state is not None and not self.cluster.system and not self.is_choosing:
            self.cluster.system = most_common_system(self._states)
        if state is not None and not state.standby and is_judged is self.is_choosing and number not in self._refused:
            self._samples.append((now, state.lsn))
        heard, self._heard = self._heard, asyncio.Event()
        heard.set()

    def _learns_cluster(self, now: float) -> bool:
        """Whether it is known of which cluster the hosts must be; "" is known too, where none can say."""
        if self.cluster.system:
            return True
        assert self._began is not None
        if not all(self._looks) and now - self._began < _FIRST_ROUND_SECONDS:
            return False
        self.cluster.system = most_common_system(self._states)
        return True

    def _judge(self) -> None:
        cluster = self.cluster
        choice = choose(
            self._states, self.serves, current=self.serving, system=cluster.system, timeline=cluster.timeline
        )
        cluster.timeline = choice.timeline
        for number, why in choice.refused.items():
            if self._refused.get(number) is not why:
                place = self.each[number]
                self._observer(HostRefused(server=self.name, host=f"{place.host}:{place.port}", reason=why))
        self._refused = choice.refused
        self._serve(choice)

    def _serve(self, choice: Choice) -> None:
        former, self.serving = self.serving, choice.host
        state = None if choice.host is None else self._states[choice.host]
        budget = self.budget
        assert budget is not None
        if choice.host is None or state is None:
            if self._incarnation is not None and self._states[self._last] is not None:
                self._incarnation = None  # it answers, and must not serve any more
                self._move()
            return
        if choice.host == self._last and state.incarnation == self._incarnation:
            if former is None:
                budget.found()
            return
        had, old = self._last, self._incarnation
        self._last, self._incarnation = choice.host, state.incarnation
        is_failover = old is not None and (had != choice.host or old[1] != state.timeline)
        if is_failover or old is None:
            place = self.each[choice.host]
            told = self.each[had] if had >= 0 else None
            budget.host = f"{place.host}:{place.port}"
            budget.failovers += is_failover
            self._observer(
                ServerMovedTo(
                    server=self.name, host=budget.host, former="" if told is None else f"{told.host}:{told.port}"
                )
            )
        was = None if had < 0 or had == choice.host else self._states[had]
        if was is not None and had not in choice.refused and self.serves == "prefer-standby":
            budget.expire()  # the former one may go on with what it has begun
            self._generation += 1
        elif old is not None:
            self._move()
        budget.found()

    def _move(self) -> None:
        """No connection that was opened so far may be used any more."""
        self._generation += 1
        for limit in self._limits:
            limit.reschedule(asyncio.get_running_loop().time())
        assert self.budget is not None
        self.budget.moved(
            ServerMoved(
                "terminating connection: its server has failed over to another host",
                hint="what its transaction did is undone, unless its COMMIT was under way: try again",
            )
        )

    # --- what connectors ask -----------------------------------------------------------------------------------------
    async def pick(self, database: str) -> ChosenHost:
        """Where to connect; waits until each host was looked at. Raises NoHost. `database`: one that is used there."""
        if not self.database:
            self.database = database
        if self.serving is None:
            await self._look_around()
        number = self.serving
        if number is None:
            raise self._none()
        return ChosenHost(self.each[number], number, self._generation)

    async def _look_around(self) -> None:
        """Wait until a host serves, or each has been looked at since."""
        before = list(self._looks)
        self.doubt()
        try:
            async with asyncio.timeout(self._connect_timeout):
                while self.serving is None and any(now <= then for now, then in zip(self._looks, before, strict=True)):
                    await self._heard.wait()
        except TimeoutError:
            pass

    def _none(self) -> NoHost:
        errors = [error for error in self._errors if error is not None]
        answers = any(state is not None for state in self._states)
        telling = [error for error in errors if not isinstance(error, OSError | TimeoutError)]
        cause = None if answers else next(iter([*telling, *errors]), None)
        reasons = set(self._refused.values())
        if HostRefusal.SPLIT in reasons:
            reason = "two hosts of the server both say that they are its primary: neither is believed"
        elif HostRefusal.FORMER in reasons:
            reason = "the host of the server that answers was its primary before a failover: it is refused"
        elif HostRefusal.CLUSTER in reasons:
            reason = "the host of the server that answers is of another cluster: it is refused"
        else:
            reason = f"no host of the server is {self.serves} now"
        is_wrong = reasons == {HostRefusal.CLUSTER} and len(self._refused) == sum(map(bool, self._states))
        return NoHost(cause=cause, answers=answers, reason=reason, is_wrong=is_wrong)

    @asynccontextmanager
    async def while_serving(self, chosen: ChosenHost) -> AsyncIterator[None]:
        """Run a connect to `chosen`; ends it with HostMoved as soon as another host serves."""
        try:
            async with asyncio.timeout(None) as limit:
                self._limits.add(limit)
                try:
                    yield
                finally:
                    self._limits.discard(limit)
        except TimeoutError:
            if chosen.generation == self._generation:
                raise
            raise HostMoved("another host serves now") from None

    def check(self, chosen: ChosenHost) -> None:
        """Raises HostMoved when another host serves now than `chosen`."""
        if chosen.generation != self._generation:
            raise HostMoved("another host serves now")

    def confirm(self, chosen: ChosenHost, state: HostState) -> None:
        """A connection to `chosen` says this of its server. Raises HostMoved when that is not the one it was."""
        self.check(chosen)
        is_ours = not self.cluster.system or state.system in ("", self.cluster.system)
        may_serve = is_ours and (fits(state, self.serves) or self.serves == "prefer-standby")
        if state.incarnation != self._incarnation or not may_serve:
            self.looks_by.was_another(chosen.number, at_once=is_ours and state.timeline > self.cluster.timeline)
            self.doubt()
            raise HostMoved("another server answers than the one that was chosen")
        self.looks_by.was_the_same(chosen.number)

    # --- replicas ----------------------------------------------------------------------------------------------------
    def lag_of(self, replica: Hosts) -> float | None:
        """How many seconds `replica` is behind this primary at most; None: it is not known.

        While the primary does not answer, what it had written when it last did counts: it cannot have committed more
        for us.
        """
        number = replica.serving if replica.is_choosing else 0
        state = None if number is None else replica._states[number]
        if state is None or not self._samples or not state.standby:
            return None
        latest, written = self._samples[-1]
        if state.lsn >= written:
            return 0.0
        reached = [at for at, lsn in self._samples if lsn <= state.lsn]
        return latest - (reached[-1] if reached else self._samples[0][0])

    def forget_loop(self) -> None:
        """The event loop has ended, and the watches with it: nothing is known any more."""
        self._limits.clear()
        self._states, self._looks = [None] * len(self.each), [0] * len(self.each)
        self.looks_by.forget()
        self.serving, self._began = None, None
        self._samples.clear()
        self._heard, self._woken = asyncio.Event(), asyncio.Event()
