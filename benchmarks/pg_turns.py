"""What does the port cost where row tenants share few backends? All clients of one tenant, and each of another one.

The second is the worst case: each transaction finds a backend of another tenant, which is reset and bound first.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from benchmarks.part import Options, Part
from benchmarks.pg_pgbench import Bench, Figures
from benchmarks.pg_rounds import AGAIN, Subject, control, stored, table, take_turns
from benchmarks.pg_targets import OURS, Target, Targets, open_targets
from benchmarks.pg_world import DATABASE, NEIGHBOUR_ACCOUNTS, NEIGHBOURS, ROW, PgWorld, neighbour_rows
from benchmarks.table import trust

__all__ = ["BACKENDS", "run", "together"]

BACKENDS: Final = 10
_DATABASE_TENANT = f"{OURS}, database"
_ONE_TENANT, _TURNS = f"{OURS}, row, one tenant", f"{OURS}, row, {NEIGHBOURS} tenants in turns"
_SCRIPT: Final = rf"""\set aid random(1, {NEIGHBOUR_ACCOUNTS})
SELECT abalance FROM pgbench_accounts WHERE aid = :aid;
"""


async def run(world: PgWorld, options: Options) -> Part:
    """All in each round, by the simple protocol."""
    with tempfile.TemporaryDirectory(prefix="tenantproxy-bench-") as folder:
        script = Path(folder) / "select.sql"
        script.write_text(_SCRIPT)
        bench = Bench(
            program=world.server.bin_dir / "pgbench",
            arguments=[f"--file={script}"],
            seconds=round(options.seconds),
            clients=NEIGHBOURS,
        )
        async with open_targets(replace(world, pool=BACKENDS), shared_size=BACKENDS) as targets:
            series = await take_turns(list(_subjects(targets, bench)), options.rounds)
    return Part(
        title=f"Row tenants ({world.form}), {NEIGHBOURS} clients on {BACKENDS} server connections",
        text=table(series, base=_DATABASE_TENANT, unit="transaction"),
        data=stored(series),
        verdicts=trust(list(control("turns: control", series, _DATABASE_TENANT))),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _OfEach:
    """See `pg_rounds.Runs`: one client for each of `tenants`, at once."""

    bench: Bench
    tenants: tuple[str, ...]

    async def run(self, target: Target, database: str) -> Figures:
        """The figures of all."""
        one = replace(self.bench, clients=1)
        return together(await asyncio.gather(*(one.run(target, tenant) for tenant in self.tenants)))


def together(figures: Sequence[Figures]) -> Figures:
    """Those of programs that ran at the same time, each of which has seen the CPU that the proxy took for all."""
    per_second = sum(one.per_second for one in figures)
    cpu = sum(one.cpu_us * one.per_second for one in figures) / len(figures)
    waited = sum(one.latency_ms * one.per_second for one in figures)
    return Figures(per_second=per_second, cpu_us=cpu / per_second, latency_ms=waited / per_second)


def _subjects(targets: Targets, bench: Bench) -> Iterator[Subject]:
    each = _OfEach(bench=bench, tenants=neighbour_rows())
    yield Subject(name=_DATABASE_TENANT, target=targets.ours, database=DATABASE, bench=bench)
    yield Subject(name=_ONE_TENANT, target=targets.ours, database=ROW, bench=bench)
    yield Subject(name=_TURNS, target=targets.ours, database=ROW, bench=each)
    yield Subject(name=AGAIN, target=targets.ours, database=DATABASE, bench=bench)
