"""What does a driver with a pool of its own cost through a proxy? asyncpg's pool, one select for each acquire.

asyncpg prepares each statement under a name and sends a reset of several statements whenever a connection goes back.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Final

import asyncpg

from benchmarks.part import Options, Part
from benchmarks.pg_pgbench import CLIENTS, Figures
from benchmarks.pg_process import cpu_seconds
from benchmarks.pg_rounds import AGAIN, Subject, control, cpu_at_most, stored, table, take_turns
from benchmarks.pg_targets import DIRECT, OURS, PGBOUNCER, Target, Targets, open_targets
from benchmarks.pg_world import DATABASE, ROW, PgWorld
from benchmarks.table import trust

__all__ = ["run"]

_DATABASE_TENANT, _ROW_TENANT = f"{OURS}, database", f"{OURS}, row, one tenant"
_LIMIT: Final = 1.1
_WARM: Final = 50  # selects of each task that are not counted: in them it connects and prepares
_SQL: Final = "SELECT abalance FROM pgbench_accounts WHERE aid = $1"


async def run(world: PgWorld, options: Options) -> Part:
    """All in each round."""
    bench = _Driven(seconds=options.seconds, accounts=world.accounts)
    async with open_targets(world) as targets:
        series = await take_turns(list(_subjects(targets, bench)), options.rounds)
    peer_can = PGBOUNCER in series
    found = [
        cpu_at_most("CPU of a select of asyncpg's pool against PgBouncer", _LIMIT, series, _DATABASE_TENANT, PGBOUNCER),
        *control("asyncpg: control", series, PGBOUNCER if peer_can else DIRECT),
    ]
    return Part(
        title=f"asyncpg's pool of {CLIENTS}, {CLIENTS} tasks",
        text=table(series, base=PGBOUNCER, unit="select"),
        data=stored(series),
        verdicts=trust(found),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Driven:
    """See `pg_rounds.Runs`."""

    seconds: float
    accounts: int

    async def run(self, target: Target, database: str) -> Figures:
        """All tasks in a closed loop."""
        async with asyncpg.create_pool(
            host=target.host, port=target.port, user=target.user, password=target.password, database=database,
            ssl=False, min_size=CLIENTS, max_size=CLIENTS,
        ) as pool:  # fmt: skip
            await asyncio.gather(*(self._select(pool, number, count=_WARM) for number in range(CLIENTS)))
            cpu, begin = _cpu(target), time.perf_counter()
            until = begin + self.seconds
            counts = await asyncio.gather(*(self._select(pool, number, until=until) for number in range(CLIENTS)))
            taken, cpu = time.perf_counter() - begin, _cpu(target) - cpu
        done = sum(counts)
        return Figures(per_second=done / taken, cpu_us=cpu / done * 1e6, latency_ms=taken * CLIENTS / done * 1e3)

    async def _select(
        self, pool: asyncpg.Pool, seed: int, *, count: int | None = None, until: float = float("inf")
    ) -> int:
        random, done = Random(seed), 0
        while done != count and time.perf_counter() < until:
            async with pool.acquire() as conn:
                await conn.fetchval(_SQL, random.randint(1, self.accounts))
            done += 1
        return done


def _cpu(target: Target) -> float:
    return 0.0 if target.pid is None else cpu_seconds(target.pid)


def _subjects(targets: Targets, bench: _Driven) -> Iterator[Subject]:
    peer = targets.pgbouncer if targets.pgbouncer is not None and targets.pgbouncer.prepares else None
    yield Subject(name=DIRECT, target=targets.direct, database=DATABASE, bench=bench)
    if peer is not None:
        yield Subject(name=PGBOUNCER, target=peer, database=DATABASE, bench=bench)
    yield Subject(name=_DATABASE_TENANT, target=targets.ours, database=DATABASE, bench=bench)
    yield Subject(name=_ROW_TENANT, target=targets.ours, database=ROW, bench=bench)
    yield Subject(name=AGAIN, target=peer or targets.direct, database=DATABASE, bench=bench)
