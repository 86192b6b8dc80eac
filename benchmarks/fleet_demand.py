"""How much of a demand that moves does a fleet satisfy? Many processes and servers on a virtual clock, on the real SQL.

Each process is the product's own `Member`; main is `fleet.sql`, with a made-up clock. Tenants are numbers: each has its
demand on one server and its callers in one process.
"""

from __future__ import annotations

import math
import random
import time
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

from tenantproxy.embedded import EmbeddedPostgres
from tenantproxy.fleet.link import addressed
from tenantproxy.fleet.member import Member
from tenantproxy.fleet.share import Holding
from tenantproxy.fleet.values import Census, ServerGrant, Terms
from tenantproxy.fleet.want import Want
from tests.support.fleet_sql import SqlFleet

__all__ = ["Demand", "Found", "simulate"]

_TICK: Final = 50  # milliseconds of virtual time
_OPEN_A_TICK: Final = 10  # connects to a server that a process ends in that time


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """Of what size. `load`: the sum of what is wanted of each server, as a part of its `cap`."""

    processes: int = 50
    servers: int = 20
    tenants: int = 100_000
    cap: int = 500
    load: float = 0.8
    seconds: int = 60
    shift_seconds: int = 10
    kill_at: int | None = None
    killed: int = 10


@dataclass(slots=True)
class Found:
    """What was measured."""

    satisfied: list[float] = field(default_factory=list)
    static: list[float] = field(default_factory=list)
    over: int = 0
    samples: int = 0
    calls: int = 0
    call_seconds: list[float] = field(default_factory=list)
    recovered: float | None = None  # seconds after the kill until the living have 0.99 of what they want


class _Process:
    def __init__(self, number: int, demand: Demand, names: list[str]) -> None:
        ids = random.Random(number)
        terms = {name: Terms(cap=demand.cap, floor=1, burst=4, ttl=15.0) for name in names}
        self.member = Member(terms, new_id=lambda: UUID(int=ids.getrandbits(128)))
        self.open = dict.fromkeys(names, 0)
        self.wants = {name: Want() for name in names}
        self.due = ids.randrange(2000)
        self.reported = 0
        self.census: list[Census] = []
        self.is_dead = False

    def soon(self, now: int, rng: random.Random) -> None:
        """Report at once, but for the pause that `fleet.client` makes between two reports."""
        self.due = min(self.due, max(now, self.reported + 50) + rng.randrange(50))


def simulate(server: EmbeddedPostgres, database: str, demand: Demand, *, seed: int = 3) -> Found:
    """Run it; a minute of virtual time takes about one of the real one."""
    rng, found = random.Random(seed), Found()
    names = [f"server{number:02}" for number in range(demand.servers)]
    sql = SqlFleet(server, database, every=100)
    sql.begin("bench")
    processes = [_Process(number, demand, names) for number in range(demand.processes)]
    want = _shift(rng, demand, names)
    heard: list[str] = []
    sql.listen(heard.append)
    for now in range(0, demand.seconds * 1000, _TICK):
        if now and now % (demand.shift_seconds * 1000) == 0:
            want = _shift(rng, demand, names)
            for process in processes:
                process.soon(now, rng)  # what is wanted jumped
        if demand.kill_at is not None and now == demand.kill_at * 1000:
            for process in processes[: demand.killed]:
                process.is_dead = True
            _move(want, demand.killed)
        _tell(processes, heard, now, rng)
        for number, process in enumerate(processes):
            if not process.is_dead:
                _live(process, want[number], now, rng)
                if process.due <= now:
                    _report(sql, process, processes, want[number], now, found, rng)
        _measure(found, processes, want, demand, now, names)
    sql.close()
    return found


def _shift(rng: random.Random, demand: Demand, names: list[str]) -> list[dict[str, float]]:
    """What each process wants of each server: tenants with demands of very different sizes, each in one process."""
    want = [dict.fromkeys(names, 0.0) for _ in range(demand.processes)]
    part = demand.tenants // demand.servers
    for name in names:
        popular = [rng.paretovariate(1.1) for _ in range(demand.processes)]
        for number in rng.choices(range(demand.processes), popular, k=part):
            want[number][name] += demand.cap * demand.load / part
    return want


def _move(want: list[dict[str, float]], dead: int) -> None:
    """The callers of the first processes go to the others, in equal parts."""
    for name in want[0]:
        part = sum(each[name] for each in want[:dead]) / (len(want) - dead)
        for each in want[dead:]:
            each[name] += part
        for each in want[:dead]:
            each[name] = 0.0


def _live(process: _Process, want: dict[str, float], now: int, rng: random.Random) -> None:
    """Open what is wanted and allowed; close what is neither, as leases end."""
    for name, share in process.member.shares.items():
        wanted, opened = math.ceil(want[name]), process.open[name]
        if opened < wanted:
            room = share.allowed(now / 1000) - opened
            process.open[name] += max(0, min(wanted - opened, room, _OPEN_A_TICK))
        excess = process.open[name] - min(share.allowed(now / 1000), share.target)
        if excess > 0:
            idle = min(excess, max(0, process.open[name] - wanted))  # they close at once, leases by and by
            process.open[name] -= idle + (excess - idle + 1) // 2
            share.tighten(process.open[name])
            if share.has_to_tell:
                process.soon(now, rng)


def _report(
    sql: SqlFleet,
    process: _Process,
    processes: list[_Process],
    want: dict[str, float],
    now: int,
    found: Found,
    rng: random.Random,
) -> None:
    holdings = {
        name: Holding(
            total=process.open[name],
            want=process.wants[name].follow(want[name], now / 1000),
            pids=_pids(processes, process, name) if share.is_counted else (),
        )
        for name, share in process.member.shares.items()
    }
    report = process.member.report(now / 1000, holdings, census=tuple(process.census))
    process.census.clear()
    began = time.perf_counter()
    rows = sql.call(report, now)
    found.call_seconds.append(time.perf_counter() - began)
    found.calls += 1
    process.member.hear(report.seq, [_grant(row) for row in rows], now=now / 1000)
    process.due = now + (
        rng.randrange(100, 150) if any(row[8] == "later" for row in rows) else rng.randrange(1600, 2400)
    )
    process.reported = now
    if process.member.has_to_claim:
        process.soon(now, rng)
    elif process.member.is_witness:
        process.due = min(process.due, now + rng.randrange(500, 750))
    for name, share in process.member.shares.items():
        if share.is_witness:
            seen = [pid for each in processes if not each.is_dead for pid in _pids(processes, each, name)]
            process.census.append(Census(server=name, epoch=share.epoch, pids=tuple(seen)))


def _grant(row: tuple[Any, ...]) -> ServerGrant:
    return ServerGrant(server=row[0], granted=row[1], target=row[2], epoch=row[3], counted=row[4], is_witness=row[5])


def _pids(processes: list[_Process], process: _Process, name: str) -> tuple[int, ...]:
    first = processes.index(process) * 10_000
    return tuple(range(first, first + process.open[name]))


def _tell(processes: list[_Process], heard: list[str], now: int, rng: random.Random) -> None:
    for payload in heard:
        for process in processes:
            if addressed(payload, process.member.process):
                process.soon(now, rng)
    heard.clear()


def _measure(
    found: Found,
    processes: list[_Process],
    want: list[dict[str, float]],
    demand: Demand,
    now: int,
    names: list[str],
) -> None:
    living = [number for number, process in enumerate(processes) if not process.is_dead]
    wanted = sum(want[number][name] for number in living for name in names)
    has = sum(min(processes[number].open[name], want[number][name]) for number in living for name in names)
    for name in names:
        found.samples += 1
        found.over += sum(processes[number].open[name] for number in living) > demand.cap
    if now >= 4000:
        found.satisfied.append(has / wanted)
        static = sum(min(demand.cap / len(processes), want[number][name]) for number in living for name in names)
        found.static.append(static / wanted)
    if demand.kill_at is not None and now > demand.kill_at * 1000:
        if has / wanted >= 0.99 and found.recovered is None:
            found.recovered = now / 1000 - demand.kill_at
        elif has / wanted < 0.99:
            found.recovered = None
