"""Do processes and main together keep to the cap of a server, whatever happens and in whatever order?

`FleetWorld` is everything that can happen to a fleet with one server: crashes, forks, SIGSTOP, clock steps, lost, late
and reordered messages, failovers, partitions. It keeps books of its own: what the server has open is in `backends`, and
is never read from the processes' counters. Times are milliseconds.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from tenantproxy.fleet.member import Member
from tenantproxy.fleet.share import Holding, Share
from tenantproxy.fleet.values import Census, FleetReport, ServerGrant, Terms
from tests.support.fleet_main import STALE, ModelMain

__all__ = ["SERVER", "TTL", "FleetWorld", "Overshoot", "Step", "play", "random_steps", "shrink"]

SERVER: Final = "one"
TTL: Final = 15_000
_LOGIN_TIMEOUT: Final = 60_000  # PostgreSQL's authentication_timeout

Step = tuple[str, int, int]
"""What happens, and two numbers that say to which process and how."""

Answer = list[ServerGrant] | str
OnSync = Callable[[ModelMain | None, FleetReport, int, str, Answer], None]
"""Told of each call that reached main: the model afterwards (None: the leader died in it), and its answer."""


class Overshoot(Exception):
    """More connections are open, or granted, than the cap allows."""


@dataclass(eq=False, slots=True)
class Backend:
    """A connection as the server has it. `ends_at`: when it is gone although its process is."""

    owner: Process | None
    since: int
    is_ready: bool = False  # authenticated: only then is it in pg_stat_activity
    ends_at: int | None = None


@dataclass(eq=False, slots=True)
class Process:
    """What one process holds, by process id of the server."""

    member: Member
    terms: Terms
    idle: list[int] = field(default_factory=list)
    used: list[int] = field(default_factory=list)
    closing: list[int] = field(default_factory=list)
    opening: list[int] = field(default_factory=list)
    checked: int = 0  # connects that were allowed, and have not begun
    demand: int = 0
    census: Census | None = None
    is_stopped: bool = False
    is_cut_off: bool = False
    to_bury: list[UUID] = field(default_factory=list)

    @property
    def share(self) -> Share:
        return self.member.shares[SERVER]

    @property
    def total(self) -> int:
        return len(self.idle) + len(self.used) + len(self.closing) + len(self.opening) + self.checked

    def may_open(self, now: int) -> bool:
        opening = self.checked + len(self.opening)
        return self.share.may_open(now / 1000, total=self.total, opening=opening)

    def report(self, now: int) -> FleetReport:
        pids = tuple(sorted(self.idle + self.used + self.closing + self.opening))
        holding = Holding(total=self.total, want=float(self.demand), pids=pids)
        census, self.census = (self.census,) if self.census else (), None
        buried, self.to_bury = tuple(self.to_bury), []
        return self.member.report(now / 1000, {SERVER: holding}, census=census, buried=buried)

    def hear(self, report: FleetReport, answer: Answer, now: int) -> None:
        if report.process != self.member.process:
            return
        if isinstance(answer, str):
            self.member.hear_stale(report.seq)
        else:
            self.member.hear(report.seq, answer, now=now / 1000)

    def maintain(self, now: int) -> None:
        orders = self.share.orders(now / 1000, total=self.total, closing=len(self.closing))
        everything = 10**6
        self._close(self.idle, everything if orders.close_all else orders.close_idle)
        # What the idle ones gave does not count twice.
        orders = self.share.orders(now / 1000, total=self.total, closing=len(self.closing))
        self._close(self.used, everything if orders.close_all else orders.cancel_used)

    def close_one(self) -> None:
        self._close(self.idle, 1)

    def _close(self, group: list[int], count: int) -> None:
        for _ in range(min(count, len(group))):
            self.closing.append(group.pop(0))

    def finish(self, pid: int, now: int) -> None:
        self.opening.remove(pid)
        if self.share.is_over(now / 1000, total=self.total + 1):
            self.closing.append(pid)
        else:
            self.idle.append(pid)


@dataclass(slots=True)
class _Message:
    process: Process
    report: FleetReport
    answer: Answer = STALE


class FleetWorld:
    """A fleet of processes on one server, their main database, and all that can go wrong."""

    def __init__(
        self, *, size: int = 4, cap: int = 20, without: Collection[str] = (), on_sync: OnSync | None = None
    ) -> None:
        """`without`: rules that are left out, see `fleet_mutations`."""
        self.cap, self.size, self.without = cap, size, without
        self.now = 1_000_000
        self.main = ModelMain(TTL, without)
        self.on_sync = on_sync
        self.save: Callable[[], None] = lambda: None
        self.restore: Callable[[], None] = lambda: None
        self.empty: Callable[[], None] = lambda: None
        self.skew, self.is_up, self.line = 0, True, 1
        self._saved: tuple[ModelMain, int] | None = None
        self._born = self._last_pid = 0
        self.backends: dict[int, Backend] = {}
        self.foreign: set[int] = set()  # of the fleet's users, and no process's
        self.inbox: list[_Message] = []  # sent, and not at main yet
        self.outbox: list[_Message] = []  # answered, and not heard yet
        self.processes: list[Process] = []
        self.processes += [self._new() for _ in range(size)]
        self.allowed = self.lent = cap

    # --- what must hold ----------------------------------------------------------------------------------------------
    def check(self, after: str) -> None:
        """Raises Overshoot. A cap that was lowered is reached from above, and never left again."""
        main, cap = self.main, self.main.cap() or self.cap
        charge, opened = main.charge, len(self.backends)
        if self.allowed > cap:
            self.allowed = max(cap, min(self.allowed, max(charge, opened, self._promised())))
        else:
            self.allowed = cap
        self.lent = max(cap, charge if after == "failover" else min(self.lent, charge))
        if opened > self.allowed:
            raise Overshoot(f"{opened} open > {self.allowed} after {after}")
        if main.settles or main.blind:
            self.lent = max(self.lent, charge)
        elif main.granted > self.lent:
            raise Overshoot(f"{main.granted} granted > {self.lent} after {after}")

    def _promised(self) -> int:
        orphans = sum(backend.owner is None for backend in self.backends.values())
        return sum(max(each.share.limit, each.total) for each in self.processes) + orphans

    # --- driving -----------------------------------------------------------------------------------------------------
    def apply(self, step: Step) -> None:
        """One step. Raises Overshoot."""
        name, a, b = step
        getattr(self, f"do_{name}")(a, b)
        self.check(name)

    def pass_time(self, milliseconds: int) -> None:
        """Time goes by; processes that run look after their connections once a second."""
        while milliseconds > 0:
            step = min(milliseconds, 1000)
            milliseconds -= step
            self.now += step
            for process in self.processes:
                if not process.is_stopped:
                    process.maintain(self.now)
            for pid, backend in list(self.backends.items()):
                gone = backend.ends_at is not None and backend.ends_at <= self.now
                if gone or (not backend.is_ready and backend.since + _LOGIN_TIMEOUT < self.now):
                    self.forget(pid)

    def forget(self, pid: int) -> None:
        """The backend `pid` is gone, and its process has seen it."""
        owner = self.backends.pop(pid).owner
        if owner is not None:
            for group in (owner.idle, owner.used, owner.closing, owner.opening):
                if pid in group:
                    group.remove(pid)

    def _new(self, cap: int | None = None) -> Process:
        self._born += 1
        number = self._born
        terms = Terms(
            cap=cap or self.cap,
            floor=(1, 2, 1, 3)[number % 4],
            burst=(2, 3, 1)[number % 3],
            weight=(1.0, 2.0, 0.5)[number % 3],
            ttl=TTL / 1000,
        )
        return Process(Member({SERVER: terms}, new_id=self._new_id), terms)

    def _new_id(self) -> UUID:
        self._born += 1
        return UUID(int=random.Random(self._born * 7919).getrandbits(128))

    def _new_pid(self) -> int:
        """The next process id of the server: few, so that they are used again soon."""
        most = 2 * self.cap + 12
        for _ in range(most + 1):
            self._last_pid = (self._last_pid + 1) % most
            if self._last_pid not in self.backends and self._last_pid not in self.foreign:
                return self._last_pid
        raise AssertionError("no process id is left")

    def _pick(self, a: int) -> Process:
        return self.processes[a % len(self.processes)]

    def _running(self, a: int) -> Process | None:
        process = self._pick(a)
        return None if process.is_stopped else process

    def _call(self, process: Process, report: FleetReport) -> _Message:
        wall, line = self.now + self.skew, str(self.line)
        answer = self.main.sync(report, wall, line)
        if self.on_sync is not None:
            self.on_sync(self.main, report, wall, line, answer)
        return _Message(process, report, answer)

    def _open(self, process: Process, *, is_ready: bool) -> int:
        pid = self._new_pid()
        process.opening.append(pid)
        self.backends[pid] = Backend(process, self.now, is_ready=is_ready)
        return pid

    # --- time --------------------------------------------------------------------------------------------------------
    def do_advance(self, a: int, _b: int) -> None:
        self.pass_time((20, 50, 100, 200, 300, 500, 1000)[a % 7])

    def do_jump(self, a: int, b: int) -> None:
        self._pass_long((2000, 4000, TTL // 3, TTL // 2, TTL, TTL + 2000, TTL + 4000)[a % 7], b)

    def do_long(self, a: int, b: int) -> None:
        self._pass_long((2 * TTL, 8 * TTL, 12 * TTL)[a % 3], b)

    def _pass_long(self, milliseconds: int, b: int) -> None:
        while milliseconds > 0:
            step = min(milliseconds, 900)
            milliseconds -= step
            self.pass_time(step)
            if b % 4:
                self.do_round(0, b)  # the others go on

    def do_step(self, _a: int, b: int) -> None:
        """Main's wall clock is set."""
        self.skew += (-60_000, -3000, 3000, 60_000, 10**7)[b % 5]

    # --- messages ----------------------------------------------------------------------------------------------------
    def do_round(self, _a: int, b: int) -> None:
        """Each process that runs reports and hears the answer."""
        for number, process in enumerate(list(self.processes)):
            if self.is_up and not process.is_stopped and not process.is_cut_off:
                message = self._call(process, process.report(self.now))
                self.check("round")
                process.hear(message.report, message.answer, self.now)
                if process.share.is_witness:
                    self.do_census(number, b)

    def do_report(self, a: int, _b: int) -> None:
        if (process := self._running(a)) is not None:
            if len(self.inbox) > 30:
                self.inbox.pop(0)
            self.inbox.append(_Message(process, process.report(self.now)))

    def do_deliver(self, a: int, b: int) -> None:
        if self.inbox and self.is_up:
            self._deliver(0 if b % 4 else a % len(self.inbox))

    def do_late(self, a: int, _b: int) -> None:
        if self.inbox and self.is_up:
            self._deliver(a % len(self.inbox))

    def _deliver(self, number: int) -> None:
        message = self.inbox.pop(number)
        self.outbox.append(self._call(message.process, message.report))

    def do_abort(self, _a: int, _b: int) -> None:
        """Main's backend dies in a call: nothing of it happened."""
        if self.inbox and self.is_up:
            report = self.inbox.pop(0).report
            if self.on_sync is not None:
                self.on_sync(None, report, self.now + self.skew, str(self.line), [])

    def do_answer(self, a: int, b: int) -> None:
        if self.outbox:
            message = self.outbox[0 if b % 4 else a % len(self.outbox)]
            if not message.process.is_stopped:
                self.outbox.remove(message)
                if message.process in self.processes:
                    message.process.hear(message.report, message.answer, self.now)

    def do_drop(self, a: int, _b: int) -> None:
        if a % 2 and self.inbox:
            self.inbox.pop(a // 2 % len(self.inbox))
        elif self.outbox:
            self.outbox.pop(a // 2 % len(self.outbox))

    def do_census(self, a: int, _b: int) -> None:
        process = self._running(a)
        if process is not None and process.share.is_witness and process.census is None:
            seen = [pid for pid, backend in self.backends.items() if backend.is_ready]
            pids = tuple(sorted([*seen, *self.foreign]))
            process.census = Census(server=SERVER, epoch=process.share.epoch, pids=pids)

    # --- connections -------------------------------------------------------------------------------------------------
    def do_demand(self, a: int, b: int) -> None:
        self._pick(a).demand = (0, 1, self.cap // 4, self.cap // 2, self.cap, self.cap * 2)[b % 6]

    def do_check(self, a: int, _b: int) -> None:
        process = self._running(a)
        if process is not None and self._wants(process) and process.may_open(self.now):
            process.checked += 1

    def do_send(self, a: int, _b: int) -> None:
        """connect(2) of a connect that was allowed before."""
        process = self._running(a)
        if process is not None and process.checked:
            process.checked -= 1
            if process.may_open(self.now) or "recheck" in self.without:
                self._open(process, is_ready=False)

    def do_finish(self, a: int, _b: int) -> None:
        process = self._running(a)
        if process is not None and process.opening:
            pid = process.opening[0]
            self.backends[pid].is_ready = True
            process.finish(pid, self.now)

    def do_authdone(self, a: int, _b: int) -> None:
        process = self._pick(a)
        if process.opening:
            self.backends[process.opening[0]].is_ready = True

    def do_fail(self, a: int, _b: int) -> None:
        process = self._running(a)
        if process is not None and process.opening:
            self.forget(process.opening[0])

    def do_fill(self, a: int, b: int) -> None:
        """One process connects until it must not, and uses it all."""
        process = self._running(a)
        if process is None:
            return
        for _ in range(1 + b % 30):
            if not (self._wants(process) and process.may_open(self.now)):
                break
            pid = self._open(process, is_ready=True)
            self.check("fill")
            process.finish(pid, self.now)
        while b % 2 and process.idle:
            process.used.append(process.idle.pop())

    def do_grab(self, _a: int, b: int) -> None:
        """Each process that runs takes what it can get."""
        for _ in range(4):
            for process in self.processes:
                if not process.is_stopped and (b >> 3) % 3:
                    process.demand = max(process.demand, self.cap)
            self.do_round(0, b)
            self.pass_time(250)
            for number in range(len(self.processes)):
                self.do_gone(number, 3 * b + 1)
                self.do_fill(number, b % 2 + 58)

    def do_lease(self, a: int, _b: int) -> None:
        process = self._running(a)
        if process is not None and process.idle:
            process.used.append(process.idle.pop())

    def do_release(self, a: int, _b: int) -> None:
        process = self._running(a)
        if process is not None and process.used:
            process.idle.append(process.used.pop(0))
            process.maintain(self.now)

    def do_close(self, a: int, _b: int) -> None:
        if (process := self._running(a)) is not None:
            process.close_one()

    def do_gone(self, a: int, b: int) -> None:
        """The server has ended what the process closed. Then its limit may come down, at once."""
        process = self._running(a)
        while process is not None and process.closing:
            self.forget(process.closing[0])
            if b % 5 == 0:
                process.share.tighten(process.total)
            if b % 3 == 0:
                break

    def _wants(self, process: Process) -> bool:
        return process.demand > len(process.idle) + len(process.used)

    def do_foreign(self, _a: int, b: int) -> None:
        if self.foreign and b % 3:
            self.foreign.pop()
        elif len(self.foreign) < 3:
            self.foreign.add(self._new_pid())

    def do_cap(self, a: int, b: int) -> None:
        """Another configuration is loaded."""
        share = self._pick(a).share
        cap = (self.cap, self.cap, self.cap // 2, self.cap * 3 // 4)[b % 4]
        share.terms = Terms(
            cap=cap, floor=share.terms.floor, burst=share.terms.burst, weight=share.terms.weight, ttl=share.terms.ttl
        )

    # --- what goes wrong ---------------------------------------------------------------------------------------------
    def do_crash(self, a: int, b: int) -> None:
        """kill -9; what it had may stay on the server for a while. Another one starts, and may know that it is dead."""
        number = a % len(self.processes)
        dead, lingers = self.processes[number], (0, 0, 200, TTL, 3 * TTL, 30 * TTL)[b % 6]
        for pid, backend in list(self.backends.items()):
            if backend.owner is dead:
                if lingers and backend.is_ready:
                    backend.owner, backend.ends_at = None, self.now + lingers
                else:
                    del self.backends[pid]
        self.processes[number] = successor = self._new(dead.share.terms.cap)
        if a // 7 % 2:
            successor.to_bury.append(dead.member.process)

    def do_fork(self, a: int, _b: int) -> None:
        process = self._running(a)
        if process is None or len(self.processes) > self.size + 2:
            return
        child = Process(copy.copy(process.member), process.terms)
        child.member.shares = {SERVER: copy.copy(process.share)}
        child.member.begin_again()
        self.processes.append(child)

    def do_leave(self, _a: int, _b: int) -> None:
        process = self.processes[-1]
        if len(self.processes) > self.size and not process.is_stopped and self.is_up and process.total == 0:
            self.processes.pop()
            self._call(process, process.member.leave())

    def do_stop(self, a: int, _b: int) -> None:
        """SIGSTOP."""
        if sum(process.is_stopped for process in self.processes) <= self.size // 2:
            self._pick(a).is_stopped = True

    def do_wake(self, _a: int, b: int) -> None:
        for process in self.processes:
            if process.is_stopped:
                process.is_stopped = False
                if b % 2:
                    process.maintain(self.now)  # or something else runs first
                break

    def do_cut(self, a: int, _b: int) -> None:
        """It is alive, but does not reach main."""
        self._pick(a).is_cut_off = True

    def do_heal(self, _a: int, _b: int) -> None:
        for process in self.processes:
            process.is_cut_off = False

    def do_down(self, _a: int, _b: int) -> None:
        self.is_up = False

    def do_up(self, _a: int, _b: int) -> None:
        self.is_up = True

    def do_empty(self, _a: int, _b: int) -> None:
        """Someone empties the table by hand, and all report again.

        A process that is cut off just then may use its floor all the same: main has never heard of it.
        """
        if self.is_up and not any(each.is_stopped or each.is_cut_off for each in self.processes):
            self.main.empty()
            self.empty()
            self.do_round(0, 0)

    def do_lag(self, _a: int, _b: int) -> None:
        """What a standby knows by now."""
        self._saved = self.main.copy(), self.now
        self.save()

    def do_failover(self, _a: int, _b: int) -> None:
        """The standby is promoted. One that lags by more than a ttl must not be."""
        if self._saved is None or self.now - self._saved[1] > TTL:
            return
        self.restore()
        self.main, self._saved = self._saved[0], None
        self.line += 1
        self.is_up = True


# --- random walks ----------------------------------------------------------------------------------------------------
_COMMON: Final[dict[str, float]] = {"advance": 24, "round": 14, "fill": 30, "check": 10, "send": 12, "finish": 12}
_COMMON.update({"lease": 14, "release": 6, "close": 3, "gone": 16, "demand": 6, "grab": 5, "wake": 3, "up": 3})
_COMMON.update({"census": 8, "authdone": 1, "heal": 2})
_TROUBLE: Final[dict[str, float]] = {"report": 12, "deliver": 14, "answer": 14, "late": 3, "drop": 2, "abort": 1}
_TROUBLE.update({"jump": 3, "long": 0.15, "step": 1, "stop": 2, "crash": 1, "fork": 0.4, "leave": 0.3, "fail": 2})
_TROUBLE.update({"down": 1, "cut": 1, "lag": 0.7, "failover": 0.3, "empty": 0.2, "foreign": 1, "cap": 1})


def random_steps(rng: random.Random, count: int, boost: Collection[str] = ()) -> list[Step]:
    """Each run has its own mix of troubles: with all of them at once hardly anything would ever be open."""
    weights = {**_COMMON, **{name: weight * rng.choice((0, 0, 0.3, 1, 2)) for name, weight in _TROUBLE.items()}}
    weights.update({name: 8 * ({**_COMMON, **_TROUBLE}[name]) for name in boost})
    names = rng.choices(list(weights), list(weights.values()), k=count)
    return [(name, rng.randrange(1 << 20), rng.randrange(1 << 20)) for name in names]


def play(world: FleetWorld, steps: Iterable[Step]) -> tuple[int, str] | None:
    """Play `steps`; the number of the one after which the cap was exceeded, and how; None: it never was."""
    for number, step in enumerate(steps):
        try:
            world.apply(step)
        except Overshoot as exc:
            return number, str(exc)
    return None


def shrink(make: Callable[[], FleetWorld], steps: Sequence[Step]) -> list[Step]:
    """A shorter way to the same kind of overshoot."""
    found = play(make(), steps)
    assert found is not None
    steps, parts = list(steps[: found[0] + 1]), 2
    while len(steps) > 1:
        size = max(1, len(steps) // parts)
        for at in range(0, len(steps), size):
            trial = steps[:at] + steps[at + size :]
            found = play(make(), trial)
            if found is not None:
                steps, parts = trial[: found[0] + 1], max(2, parts - 1)
                break
        else:
            if size == 1:
                return steps
            parts = min(len(steps), parts * 2)
    return steps
