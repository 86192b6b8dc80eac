"""What do others notice of a tenant that floods a proxy with slow queries?

Twenty tenants with five clients each. Rows: all share one pool, at PgBouncer too, which does not know them apart.
Databases: each has its own, and all together as many server connections at both.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from benchmarks.measure import Spread, percentile
from benchmarks.part import Options, Part
from benchmarks.pg_client import Client, connect
from benchmarks.pg_rounds import unmeasured
from benchmarks.pg_targets import NEAR_TOTAL, OURS, PGBOUNCER, SHARED_SIZE, Target, Targets, open_targets
from benchmarks.pg_world import NEIGHBOUR_ACCOUNTS, SHARED, PgWorld, neighbour_databases, neighbour_rows
from benchmarks.table import Verdict, figure, render, spread, trust

__all__ = ["FLOOD", "run", "verdicts"]

CLIENTS_EACH: Final = 5
FLOOD: Final = 100
SLOW: Final = "SELECT pg_sleep(0.05)"
MOST_ROUNDS: Final = 3  # each has thousands of calls of four subjects, twice
THINK_SECONDS: Final = 0.05  # between two queries of a polite client
ALLOWED_FACTOR, ALLOWED_MS = 1.5, 5.0
KINDS: Final = {"rows": SHARED_SIZE, "databases": NEAR_TOTAL}


@dataclass(slots=True)
class Waits:
    """The others' p99 in milliseconds, one for each round."""

    alone: list[float] = field(default_factory=list)
    during: list[float] = field(default_factory=list)


Series = dict[tuple[str, str], Waits]  # by the kind of the tenants and the name of the target


async def run(world: PgWorld, options: Options) -> Part:
    """Alone and during the flood, in turns."""
    series: Series = {}
    async with open_targets(world) as targets:
        subjects = list(_subjects(targets))
        for kind, target, _ in subjects:
            series[kind, target.name] = Waits()
        for number in range(min(options.rounds, MOST_ROUNDS)):
            for kind, target, tenants in subjects if number % 2 == 0 else list(reversed(subjects)):
                await _round(target, tenants, options.seconds, series[kind, target.name])
    head = ("tenants of", "server connections", "others' p99 alone, ms", f"during {FLOOD} slow queries, ms")
    rows = [
        (f"{kind}, {name}", str(KINDS[kind]), spread(Spread.of(one.alone)), spread(Spread.of(one.during)))
        for (kind, name), one in series.items()
    ]
    return Part(
        title="A noisy neighbour",
        text=render(head, rows),
        data={f"{kind}, {name}": {"alone": one.alone, "during": one.during} for (kind, name), one in series.items()},
        verdicts=tuple(one for kind in KINDS for one in _judged(kind, series)),
    )


def _subjects(targets: Targets) -> Iterator[tuple[str, Target, tuple[str, ...]]]:
    for kind in KINDS:
        for target in targets.proxies:
            if kind == "databases":
                tenants = neighbour_databases()
            elif target.name == OURS:
                tenants = neighbour_rows()
            else:
                tenants = (SHARED,) * len(neighbour_rows())
            yield kind, target, tenants


async def _round(target: Target, tenants: tuple[str, ...], seconds: float, waits: Waits) -> None:
    noisy, *others = tenants
    async with _connected(target, [tenant for tenant in others for _ in range(CLIENTS_EACH)]) as polite:
        await asyncio.gather(*(client.run(_select(number)) for number, client in enumerate(polite)))  # pools are warm
        waits.alone.append(await _polite_p99(polite, seconds))
        async with _connected(target, [noisy] * FLOOD) as loud:
            waits.during.append(await _during(loud, polite, seconds))


async def _during(loud: list[Client], polite: list[Client], seconds: float) -> float:
    over, begun = asyncio.Event(), asyncio.Event()

    async def flood(client: Client) -> None:
        while not over.is_set():
            await client.run(SLOW)
            begun.set()

    async with asyncio.TaskGroup() as group:
        for client in loud:
            group.create_task(flood(client))
        await begun.wait()
        p99 = await _polite_p99(polite, seconds)
        over.set()
    return p99


async def _polite_p99(clients: list[Client], seconds: float) -> float:
    """In milliseconds, of all calls of all clients."""
    taken: list[float] = []
    start = time.perf_counter()

    async def polite(number: int, client: Client) -> None:
        await asyncio.sleep(THINK_SECONDS * number / len(clients))  # not all at once
        while (before := time.perf_counter()) < start + seconds:
            await client.run(_select(number + len(taken)))
            taken.append(time.perf_counter() - before)
            await asyncio.sleep(THINK_SECONDS)

    async with asyncio.TaskGroup() as group:
        for number, client in enumerate(clients):
            group.create_task(polite(number, client))
    return percentile(taken, 99) * 1e3


def _select(number: int) -> str:
    return f"SELECT abalance FROM pgbench_accounts WHERE aid = {number * 389 % NEIGHBOUR_ACCOUNTS + 1}"


@asynccontextmanager
async def _connected(target: Target, databases: list[str]) -> AsyncIterator[list[Client]]:
    clients: list[Client] = []
    try:
        for database in databases:
            clients.append(await connect(target, database))  # noqa: PERF401  # those before a failure must be closed
        yield clients
    finally:
        for client in clients:
            client.close()


def _judged(kind: str, series: Series) -> tuple[Verdict, ...]:
    return trust(verdicts(kind, series[kind, OURS], series.get((kind, PGBOUNCER))))


def verdicts(kind: str, ours: Waits, peer: Waits | None) -> Iterator[Verdict]:
    """The limit is made from the p99 alone: so that is judged too, or the slower alone, the fairer."""
    alone = Spread.of(ours.alone)
    yield _limited(f"{kind}: p99 of the others during {FLOOD} slow queries of one tenant", "alone", alone, ours.during)
    target = f"{kind}: p99 of the others alone"
    if peer is None:
        yield unmeasured(target, f"<= {ALLOWED_FACTOR}x PgBouncer's + {ALLOWED_MS:g} ms")
    else:
        yield _limited(target, "PgBouncer's", Spread.of(peer.alone), ours.alone)
    steady = alone.p75 / alone.p25
    yield Verdict(
        target=f"{kind}: control: the p99 alone stays the same",
        wanted="p75 <= 2x p25",
        measured=f"{steady:.1f}x",
        met=steady <= 2.0,
        control=True,
    )


def _limited(target: str, of: str, base: Spread, values: list[float]) -> Verdict:
    allowed, found = ALLOWED_FACTOR * base.median + ALLOWED_MS, Spread.of(values)
    return Verdict(
        target=target,
        wanted=f"<= {ALLOWED_FACTOR}x {of} + {ALLOWED_MS:g} ms = {figure(allowed)} ms",
        measured=f"{spread(found)} ms",
        met=found.median <= allowed,
    )
